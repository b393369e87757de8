//! Max and average pooling.

use super::context::{NodeContext, input, present};
use super::window;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels;
use crate::infer::kernels::conv::Window;
use crate::infer::kernels::pool::PoolKind;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::tensor::DType;

/// ONNX MaxPool and AveragePool with pads resolved.
#[derive(Clone, Debug)]
pub struct Pool {
    pub kind: PoolKind,
    pub window: Window,
    /// Windows may reach beyond the padding behind the picture.
    pub ceil_mode: bool,
}

impl Pool {
    /// Max pooling without ceil mode.
    pub fn max(window: Window) -> Pool {
        Pool { kind: PoolKind::Max, window, ceil_mode: false }
    }
}

/// ONNX MaxPool and AveragePool. What is not 2-D in f32, or gives indices, is computed on host tensors.
///
/// # Errors
/// When an attribute has a value outside the standard.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    if x.shape.len() != 4 || x.dtype != DType::F32 || x.shape.contains(&0) || context.output_count > 1 {
        return super::pool_host::build_pool(context);
    }
    let [_, _, h, w] = window::feature_map_shape(&x.shape)?;
    let kind = if context.op_type == "MaxPool" {
        // The order of Indices, which are not supported as an output.
        context.attributes.without_effect(&["storage_order"]);
        PoolKind::Max
    } else {
        PoolKind::Average { count_include_pad: context.attributes.flag("count_include_pad", false)? }
    };
    let ceil_mode = context.attributes.flag("ceil_mode", false)?;
    Ok(Box::new(Pool { kind, window: window::read(context, [h, w], None)?, ceil_mode }))
}

impl Op for Pool {
    fn name(&self) -> &'static str {
        match self.kind {
            PoolKind::Max => "MaxPool",
            PoolKind::Average { .. } => "AveragePool",
        }
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        let [n, c, h, w] = window::feature_map_shape(&x.shape)?;
        let [oh, ow] = window::output_size(&self.window, [h, w], self.ceil_mode)?;
        Ok(vec![Fact::new(x.dtype, &[n, c, oh, ow])])
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let source = l.read_feature_map(present(inputs, 0)?)?;
        let target = l.write_feature_map(present(&[outputs.first().copied()], 0)?);
        l.step(kernels::pool::Pool { kind: self.kind, window: self.window }, vec![source], vec![target]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    #[test]
    fn ceil_mode_changes_the_size() {
        let x = Fact::f32(&[1, 5, 6, 7]);
        for (ceil, shape) in [(0, [1, 5, 2, 3]), (1, [1, 5, 3, 3])] {
            let attributes = [
                AttributeProto::ints("kernel_shape", &[3, 3]),
                AttributeProto::ints("strides", &[2, 2]),
                AttributeProto::int("ceil_mode", ceil),
            ];
            for op_type in ["MaxPool", "AveragePool"] {
                let op = build_for_test(op_type, 12, &attributes, &[&x]).expect("builds");
                assert_eq!(op.name(), op_type);
                assert_eq!(op.infer(&[Some(&x)]).expect("infers")[0].shape, shape);
            }
        }
    }

    #[test]
    fn count_include_pad_belongs_to_averages_only() {
        let attributes = [AttributeProto::ints("kernel_shape", &[2, 2]), AttributeProto::int("count_include_pad", 1)];
        let x = Fact::f32(&[1, 1, 4, 4]);
        let op = build_for_test("AveragePool", 7, &attributes, &[&x]).expect("builds");
        assert_eq!(op.downcast::<Pool>().map(|p| p.kind), Some(PoolKind::Average { count_include_pad: true }));
        assert!(build_for_test("MaxPool", 7, &attributes, &[&x]).is_err());
        assert!(build_for_test("MaxPool", 7, &[], &[&x]).is_err(), "kernel_shape is required");
    }
}
