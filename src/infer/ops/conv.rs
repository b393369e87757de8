//! Convolution.

use super::context::{NodeContext, input, present};
use super::window;
use crate::infer::activation::Activation;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels;
use crate::infer::kernels::conv::{Residual, Window};
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::tensor::DType;
use std::sync::Arc;

/// ONNX Conv with pads resolved, and what passes fused into it.
///
/// Inputs: x `[N, C, H, W]`, weights `[M, C/groups, kH, kW]`, bias `[M]` (optional), residual `[N, M, oH, oW]`
/// (present exactly when `residual` is not `None`; always at index 3).
#[derive(Clone, Debug)]
pub struct Conv {
    pub window: Window,
    pub groups: usize,
    pub activation: Activation,
    pub residual: Residual,
}

impl Conv {
    /// A convolution with nothing fused into it.
    pub fn new(window: Window, groups: usize) -> Conv {
        Conv { window, groups, activation: Activation::None, residual: Residual::None }
    }
}

/// ONNX Conv, opset 1 and 11. What is not 2-D in f32 with constant weights and bias goes to the general form.
///
/// # Errors
/// When shapes do not fit.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    if x.shape.len() != 4 || x.dtype != DType::F32 || x.shape.contains(&0) {
        return super::conv_host::build_conv(context);
    }
    let [_, _, h, w] = window::feature_map_shape(&x.shape)?;
    let weights = context.input(1)?;
    let [_, _, kh, kw] = window::feature_map_shape(&weights.shape)?;
    if [Some(weights), context.optional(2)].into_iter().flatten().any(|f| f.constant.is_none()) {
        return super::conv_host::build_conv(context);
    }
    let groups = context.attributes.int("group")?.unwrap_or(1);
    let groups = usize::try_from(groups).map_err(|_| OpError::Invalid(format!("group = {groups}")))?;
    Ok(Box::new(Conv::new(window::read(context, [h, w], Some([kh, kw]))?, groups)))
}

impl Op for Conv {
    fn name(&self) -> &'static str {
        "Conv"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        let weights = input(inputs, 1)?;
        let [n, c, h, w] = window::feature_map_shape(&x.shape)?;
        let [m, c_group, kh, kw] = window::feature_map_shape(&weights.shape)?;
        let groups = self.groups;
        if groups == 0 || c % groups != 0 || m % groups != 0 || c / groups != c_group {
            return Err(OpError::Invalid(format!(
                "weights of shape {:?} in {groups} group(s) do not fit an input of shape {:?}",
                weights.shape, x.shape
            )));
        }
        if [kh, kw] != self.window.kernel {
            return Err(OpError::Invalid(format!("kernel {:?}, but weights {:?}", self.window.kernel, weights.shape)));
        }
        if let Some(bias) = inputs.get(2).copied().flatten()
            && bias.shape != [m]
        {
            return Err(OpError::Invalid(format!("bias of shape {:?} for {m} output channels", bias.shape)));
        }
        let [oh, ow] = window::output_size(&self.window, [h, w], false)?;
        let shape = [n, m, oh, ow];
        let residual = inputs.get(3).copied().flatten();
        if residual.is_some() != (self.residual != Residual::None) || residual.is_some_and(|r| r.shape != shape) {
            return Err(OpError::Invalid(format!(
                "residual {:?} of shape {:?} for an output of shape {shape:?}",
                self.residual,
                residual.map(|r| &r.shape)
            )));
        }
        Ok(vec![Fact::f32(&shape)])
    }

    fn macs(&self, inputs: &[Option<&Fact>], outputs: &[&Fact]) -> u64 {
        let (Ok(weights), Some(output)) = (input(inputs, 1), outputs.first()) else { return 0 };
        let per_output: usize = weights.shape.iter().skip(1).product();
        output.shape.iter().product::<usize>() as u64 * per_output as u64
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let x = present(inputs, 0)?;
        let weights_id = present(inputs, 1)?;
        let weights = l.shared_constant_f32(weights_id, "weights")?;
        let (out_channels, channels) = (l.shape(weights_id)[0], l.shape(x)[1]);
        let bias = Arc::new(match inputs.get(2).copied().flatten() {
            Some(bias) => l.constant_f32(bias, "bias")?,
            None => vec![0.0; out_channels],
        });
        let mut reads = vec![l.read_feature_map(x)?];
        if self.residual != Residual::None {
            reads.push(l.read_feature_map(present(inputs, 3)?)?);
        }
        let writes = vec![l.write_feature_map(present(&[outputs.first().copied()], 0)?)];
        let (window, groups, activation, residual) = (self.window, self.groups, self.activation, self.residual);
        if groups == 1 {
            l.step(kernels::conv::Conv { window, weights, bias, activation, residual }, reads, writes);
        } else if groups == channels && groups == out_channels {
            l.step(kernels::depthwise::Depthwise { window, weights, bias, activation, residual }, reads, writes);
        } else {
            let kernel = kernels::grouped_conv::GroupedConv { window, groups, weights, bias, activation, residual };
            l.step(kernel, reads, writes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;
    use crate::infer::tensor::Tensor;

    fn weights(shape: &[usize]) -> Fact {
        Fact::of(&Tensor::from_f32(shape, vec![0.5; shape.iter().product()]).expect("tensor"))
    }

    #[test]
    fn shapes_follow_the_window() {
        let (x, w) = (Fact::f32(&[1, 6, 7, 9]), weights(&[4, 3, 3, 3]));
        let attributes = [
            AttributeProto::ints("pads", &[1, 0, 1, 0]),
            AttributeProto::ints("strides", &[2, 1]),
            AttributeProto::int("group", 2),
        ];
        let conv = build_for_test("Conv", 11, &attributes, &[&x, &w]).expect("builds");
        let output = conv.infer(&[Some(&x), Some(&w)]).expect("infers");
        assert_eq!(output, [Fact::f32(&[1, 4, 4, 7])]);
        assert_eq!(conv.macs(&[Some(&x), Some(&w)], &[&output[0]]), 4 * 4 * 7 * 27);
        assert!(conv.infer(&[Some(&Fact::f32(&[1, 7, 7, 9])), Some(&w)]).is_err(), "channels and groups disagree");
        assert!(conv.infer(&[Some(&x), Some(&w), Some(&weights(&[3]))]).is_err(), "bias of another length");
    }

    #[test]
    fn one_dimensional_ones_go_to_the_host_and_strange_ones_are_refused() {
        let op = build_for_test("Conv", 11, &[], &[&Fact::f32(&[1, 3, 8]), &weights(&[4, 3, 3])]).expect("1-D");
        assert_eq!(op.infer(&[]).map(|f| f[0].shape.clone()), Ok(vec![1, 4, 6]));
        let op = build_for_test("Conv", 11, &[], &[&Fact::f32(&[1, 3, 8, 8]), &Fact::f32(&[4, 3, 3, 3])]);
        assert!(op.is_ok_and(|op| op.downcast::<Conv>().is_none()), "weights at run time");
        let strange = [AttributeProto::int("winograd", 1)];
        let e = build_for_test("Conv", 11, &strange, &[&Fact::f32(&[1, 3, 8, 8]), &weights(&[4, 3, 3, 3])]);
        assert!(e.is_err_and(|e| e.to_string().contains("winograd")));
    }
}
