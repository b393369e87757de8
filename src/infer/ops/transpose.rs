//! Transpose: views with permuted axes.

use super::context::{NodeContext, input, present, resolve_axes};
use super::dense;
use crate::infer::graph::Fact;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::view::View;
use crate::infer::tensor::Tensor;

/// Axis `i` of the output is axis `permutation[i]` of the input.
#[derive(Clone, Debug)]
pub struct Transpose {
    pub permutation: Vec<usize>,
}

/// ONNX Transpose; without `perm` the axes are reversed.
///
/// # Errors
/// When `perm` is not a permutation of the axes.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let rank = context.input(0)?.shape.len();
    let permutation = match context.attributes.ints("perm")? {
        Some(perm) => {
            if perm.len() != rank || resolve_axes(perm, rank)?.len() != rank || perm.iter().any(|&p| p < 0) {
                return Err(OpError::Invalid(format!("perm = {perm:?} for a rank of {rank}")));
            }
            perm.iter().map(|&p| p as usize).collect()
        }
        None => (0..rank).rev().collect(),
    };
    Ok(Box::new(Transpose { permutation }))
}

/// The permutation that undoes another.
pub fn inverse(permutation: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; permutation.len()];
    for (i, &p) in permutation.iter().enumerate() {
        inverse[p] = i;
    }
    inverse
}

impl Op for Transpose {
    fn name(&self) -> &'static str {
        "Transpose"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        let mut sorted = self.permutation.clone();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..x.shape.len()) {
            return Err(OpError::Invalid(format!("permutation {:?} of shape {:?}", self.permutation, x.shape)));
        }
        let shape: Vec<usize> = self.permutation.iter().map(|&p| x.shape[p]).collect();
        Ok(vec![Fact::new(x.dtype, &shape)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let x = present(inputs, 0)?;
            Ok(vec![dense::take(x, &dense::view_of(x).transposed(&self.permutation))?])
        };
        Some(evaluate())
    }

    fn view_forward(&self, source: &View, _inputs: &[Option<&Fact>], _output: usize) -> Option<View> {
        Some(source.transposed(&self.permutation))
    }

    fn view_backward(&self, target: &View, _inputs: &[Option<&Fact>]) -> Option<View> {
        Some(target.transposed(&inverse(&self.permutation)))
    }

    fn is_view(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;
    use crate::infer::plan::view::BufferId;

    #[test]
    fn permutes_and_undoes() {
        let x = Tensor::from_i64(&[2, 3, 1], (0..6).collect()).expect("tensor");
        let fact = Fact::of(&x);
        let perm = [AttributeProto::ints("perm", &[2, 0, 1])];
        let op = build_for_test("Transpose", 13, &perm, &[&fact]).expect("builds");
        assert_eq!(op.infer(&[Some(&fact)]).map(|f| f[0].shape.clone()), Ok(vec![1, 2, 3]));
        let reversed = build_for_test("Transpose", 13, &[], &[&fact]).expect("builds");
        let y = reversed.eval(&[Some(&x)]).expect("folds").expect("evaluates");
        assert_eq!((y[0].shape(), y[0].to_i64()), (&[1, 3, 2][..], vec![0, 3, 1, 4, 2, 5]));
        let view = View::channels_last(BufferId(0), &[2, 3, 1], 1);
        let there = op.view_forward(&view, &[], 0).expect("forward");
        assert_eq!(op.view_backward(&there, &[]), Some(view));
        for bad in [&[0, 1][..], &[0, 0, 1], &[0, 1, 3], &[0, 1, -1]] {
            assert!(build_for_test("Transpose", 13, &[AttributeProto::ints("perm", bad)], &[&fact]).is_err());
        }
    }
}
