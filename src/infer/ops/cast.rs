//! Cast between element types.

use super::compare::is_zero;
use super::context::{NodeContext, input, present};
use super::dense;
use super::reshape::Reshape;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::import::onnx::tensors;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::tensor::{DType, Tensor};

/// A conversion. Kernels do it from booleans and integers that memory holds as numbers, and to booleans.
#[derive(Clone, Debug)]
pub struct Cast {
    pub to: DType,
}

/// ONNX Cast. f16 counts as f32: the planner chooses what is stored as f16.
///
/// # Errors
/// When the type is not known, or values computed at run time would change theirs.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    // Rounding of float 8, which is not a type that is known.
    context.attributes.without_effect(&["saturate", "round_mode"]);
    let onnx = context.attributes.int("to")?.ok_or_else(|| OpError::Invalid("to is missing".into()))?;
    let onnx = i32::try_from(onnx).unwrap_or(0);
    let Some(to) = tensors::dtype_of(onnx) else {
        return context.refuse(format!("to = {}; f32, f16, f64, i64, i32, u8, i8 and bool", tensors::type_name(onnx)));
    };
    convert(context, to)
}

/// ONNX CastLike: to the type of the second input.
///
/// # Errors
/// When values computed at run time would change their type.
pub fn build_like(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    context.attributes.without_effect(&["saturate", "round_mode"]);
    let to = context.input(1)?.dtype;
    context.drop_input(1);
    convert(context, to)
}

fn convert(context: &NodeContext<'_>, to: DType) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    if x.constant.is_some() {
        return Ok(Box::new(Cast { to }));
    }
    if x.dtype != to {
        return Ok(Box::new(Cast { to }));
    }
    Ok(Box::new(Reshape { shape: x.shape.clone() }))
}

impl Op for Cast {
    fn name(&self) -> &'static str {
        "Cast"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Fact::new(self.to, &input(inputs, 0)?.shape)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let x = present(inputs, 0)?;
            Ok(vec![dense::from_numbers(x.shape(), self.to, &dense::numbers(x))?])
        };
        Some(evaluate())
    }

    fn keeps_layout(&self) -> bool {
        true
    }

    fn holds(&self, inputs: &[Option<&Fact>], _outputs: &[&Fact]) -> bool {
        // What floats give as integers may be too large to be held.
        input(inputs, 0).is_ok_and(|x| x.dtype != DType::F32 || self.to == DType::Bool)
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let source = l.read(present(inputs, 0)?)?;
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        if self.to != DType::Bool {
            l.copy(&source, &target);
            return Ok(());
        }
        let zero = l.temporary("zero", &source.shape);
        is_zero(l, source, zero.clone())?;
        is_zero(l, zero, target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    #[test]
    fn constants_convert_and_run_time_floats_stay() {
        let x = Tensor::from_f32(&[3], vec![-1.5, 0.0, 7.9]).expect("tensor");
        let to = |t: i64| [AttributeProto::int("to", t)];
        let op = build_for_test("Cast", 13, &to(7), &[&Fact::of(&x)]).expect("builds");
        let y = op.eval(&[Some(&x)]).expect("folds").expect("evaluates");
        assert_eq!(y[0].as_i64(), Some(&[-1, 0, 7][..]));
        let run_time = Fact::f32(&[3]);
        assert!(build_for_test("Cast", 13, &to(10), &[&run_time]).is_ok_and(|op| op.is_view()));
        assert!(build_for_test("Cast", 13, &to(7), &[&run_time]).is_ok_and(|op| !op.is_view()));
        assert!(build_for_test("Cast", 13, &to(8), &[&run_time]).is_err_and(|e| e.to_string().contains("string")));
    }
}
