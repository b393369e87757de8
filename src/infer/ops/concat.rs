//! Concat: the planner lays the inputs into the output's memory, see [`crate::infer::plan::lower`].

use super::context::{NodeContext, input, present, resolve_axis};
use super::dense;
use crate::infer::graph::Fact;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::view::row_major_strides;
use crate::infer::tensor::Tensor;

/// ONNX Concat.
#[derive(Clone, Debug)]
pub struct Concat {
    /// Resolved: 0 ≤ axis < rank.
    pub axis: usize,
}

/// ONNX Concat.
///
/// # Errors
/// When axis or an input is missing.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let rank = context.input(0)?.shape.len();
    let axis = context.attributes.int("axis")?.ok_or_else(|| OpError::Invalid("axis is missing".into()))?;
    Ok(Box::new(Concat { axis: resolve_axis(axis, rank)? }))
}

impl Op for Concat {
    fn name(&self) -> &'static str {
        "Concat"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let first = input(inputs, 0)?;
        let mut shape = first.shape.clone();
        if self.axis >= shape.len() {
            return Err(OpError::Invalid(format!("axis {} of shape {shape:?}", self.axis)));
        }
        for i in 1..inputs.len() {
            let other = input(inputs, i)?;
            let fits = other.shape.len() == shape.len()
                && (0..shape.len()).all(|a| a == self.axis || other.shape[a] == shape[a]);
            if !fits || other.dtype != first.dtype {
                return Err(OpError::Invalid(format!(
                    "input {i} ({} {:?}) does not continue input 0 ({} {:?}) along axis {}",
                    other.dtype, other.shape, first.dtype, first.shape, self.axis
                )));
            }
            shape[self.axis] = shape[self.axis].saturating_add(other.shape[self.axis]);
        }
        Ok(vec![Fact::new(first.dtype, &shape)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let mut parts = Vec::with_capacity(inputs.len());
            for i in 0..inputs.len() {
                parts.push(present(inputs, i)?);
            }
            let all = dense::append(&parts)?;
            let mut shape = present(inputs, 0)?.shape().to_vec();
            shape[self.axis] = parts.iter().map(|p| p.shape()[self.axis]).sum();
            // Per step of the outer axes, each part gives one contiguous run.
            let runs: Vec<usize> =
                parts.iter().map(|p| p.shape()[self.axis] * row_major_strides(p.shape())[self.axis]).collect();
            let outer: usize = shape[..self.axis].iter().product();
            let mut positions = Vec::with_capacity(all.len());
            for step in 0..outer {
                let mut start = 0;
                for (part, run) in parts.iter().zip(&runs) {
                    positions.extend(start + step * run..start + (step + 1) * run);
                    start += part.len();
                }
            }
            Ok(vec![dense::pick(&all, positions.into_iter(), &shape)?])
        };
        Some(evaluate())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    #[test]
    fn joins_along_any_axis() {
        let a = Tensor::from_i64(&[2, 1], vec![1, 2]).expect("tensor");
        let b = Tensor::from_i64(&[2, 2], vec![3, 4, 5, 6]).expect("tensor");
        let y = Concat { axis: 1 }.eval(&[Some(&a), Some(&b)]).expect("folds").expect("evaluates");
        assert_eq!((y[0].shape(), y[0].to_i64()), (&[2, 3][..], vec![1, 3, 4, 2, 5, 6]));
        let y = Concat { axis: 0 }.eval(&[Some(&b), Some(&b)]).expect("folds").expect("evaluates");
        assert_eq!((y[0].shape(), y[0].to_i64()), (&[4, 2][..], vec![3, 4, 5, 6, 3, 4, 5, 6]));
    }

    #[test]
    fn shapes_must_agree_elsewhere() {
        let (a, b) = (Fact::f32(&[1, 3, 4, 4]), Fact::f32(&[1, 5, 4, 4]));
        let op = build_for_test("Concat", 11, &[AttributeProto::int("axis", -3)], &[&a, &b]).expect("builds");
        assert_eq!(op.infer(&[Some(&a), Some(&b)]), Ok(vec![Fact::f32(&[1, 8, 4, 4])]));
        assert!(op.infer(&[Some(&a), Some(&Fact::f32(&[1, 5, 4, 3]))]).is_err());
        assert!(build_for_test("Concat", 11, &[AttributeProto::int("axis", 4)], &[&a, &b]).is_err());
    }
}
