//! Batch normalisation at inference: one scale and one offset per channel.

use super::context::{NodeContext, input, present, stretched};
use crate::infer::activation::Activation;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels::conv::{Residual, Window};
use crate::infer::kernels::depthwise::Depthwise;
use crate::infer::kernels::elementwise::{Elementwise, Function};
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::tensor::Tensor;
use std::sync::Arc;

/// ONNX BatchNormalization: y = scale·(x − mean)/√(variance + epsilon) + bias, per channel (axis 1).
///
/// Inputs: x `[N, C, ...]`, scale, bias, mean, variance, each `[C]` and constant.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    pub epsilon: f32,
}

impl BatchNorm {
    /// What the normalisation comes to: y = x·factor + offset, one pair per channel. Computed in f64.
    pub fn factor_and_offset(
        &self,
        scale: &[f32],
        bias: &[f32],
        mean: &[f32],
        variance: &[f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let pairs = scale.iter().zip(bias).zip(mean.iter().zip(variance));
        pairs
            .map(|((&scale, &bias), (&mean, &variance))| {
                let factor = f64::from(scale) / (f64::from(variance) + f64::from(self.epsilon)).sqrt();
                (factor as f32, (f64::from(bias) - f64::from(mean) * factor) as f32)
            })
            .unzip()
    }
}

/// ONNX BatchNormalization, opset 7 and later.
///
/// # Errors
/// In training mode, or with statistics computed at run time.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    // The running average matters to training only.
    context.attributes.without_effect(&["momentum"]);
    if context.attributes.flag("training_mode", false)? {
        return context.refuse("training_mode = 1; export the network for inference".into());
    }
    if !context.attributes.flag("spatial", true)? {
        return context.refuse("spatial = 0; only statistics per channel are supported".into());
    }
    for i in 1..5 {
        if context.input(i)?.constant.is_none() {
            return Err(OpError::RunTime(format!("input {i} is computed at run time")));
        }
    }
    Ok(Box::new(BatchNorm { epsilon: context.attributes.float("epsilon")?.unwrap_or(1e-5) }))
}

impl Op for BatchNorm {
    fn name(&self) -> &'static str {
        "BatchNormalization"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        let channels = *x.shape.get(1).ok_or_else(|| OpError::Invalid("input has no channels".into()))?;
        for i in 1..5 {
            let shape = &input(inputs, i)?.shape;
            if *shape != [channels] {
                return Err(OpError::Invalid(format!("input {i} has shape {shape:?}, not [{channels}]")));
            }
        }
        Ok(vec![Fact::new(x.dtype, &x.shape)])
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let x = present(inputs, 0)?;
        let mut statistics = Vec::with_capacity(4);
        for (i, what) in [(1, "scale"), (2, "bias"), (3, "mean"), (4, "variance")] {
            statistics.push(l.constant_f32(present(inputs, i)?, what)?);
        }
        let (factor, offset) = self.factor_and_offset(&statistics[0], &statistics[1], &statistics[2], &statistics[3]);
        let output = present(&[outputs.first().copied()], 0)?;
        if l.shape(x).len() == 4 {
            let source = l.read_feature_map(x)?;
            let target = l.write_feature_map(output);
            let window = Window { kernel: [1, 1], stride: [1, 1], pads: [0; 4], dilation: [1, 1] };
            let kernel = Depthwise {
                window,
                weights: Arc::new(factor),
                bias: Arc::new(offset),
                activation: Activation::None,
                residual: Residual::None,
            };
            l.step(kernel, vec![source], vec![target]);
            return Ok(());
        }
        let source = l.read(x)?;
        let target = l.write(output);
        let mut per_channel = vec![1; source.rank()];
        per_channel[1] = factor.len();
        let scaled = l.temporary("scaled", &source.shape);
        let mut apply = |name: &str, values: Vec<f32>, function, from, to| -> Result<(), OpError> {
            let tensor = Tensor::from_f32(&per_channel, values).map_err(OpError::Invalid)?;
            let constant = stretched(&l.constant_buffer(name, &tensor), &source.shape)?;
            l.step(Elementwise { function, activation: Activation::None }, vec![from, constant], vec![to]);
            Ok(())
        };
        apply("factor", factor, Function::Mul, source.clone(), scaled.clone())?;
        apply("offset", offset, Function::Add, scaled, target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    fn constant(value: f32) -> Fact {
        Fact::of(&Tensor::from_f32(&[3], vec![value; 3]).expect("tensor"))
    }

    #[test]
    fn statistics_become_factor_and_offset() {
        let (factor, offset) = BatchNorm { epsilon: 0.0 }.factor_and_offset(&[2.0], &[1.0], &[3.0], &[16.0]);
        assert_eq!((factor, offset), (vec![0.5], vec![-0.5]));
    }

    #[test]
    fn momentum_is_harmless_and_training_is_not() {
        let (x, one) = (Fact::f32(&[1, 3, 4, 5]), constant(1.0));
        let inputs = [&x, &one, &one, &one, &one];
        let op = build_for_test("BatchNormalization", 9, &[AttributeProto::float("momentum", 0.9)], &inputs);
        let shapes = op.expect("builds").infer(&inputs.map(Some)).expect("infers");
        assert_eq!(shapes, [Fact::f32(&[1, 3, 4, 5])]);
        let training = [AttributeProto::int("training_mode", 1)];
        assert!(build_for_test("BatchNormalization", 15, &training, &inputs).is_err());
    }
}
