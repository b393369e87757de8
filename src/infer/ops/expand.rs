//! Repetition: Expand is a view with stride 0, Tile copies.

use super::context::{ELEMENTS_MAX, NodeContext, broadcast_shapes, input, present, stretched};
use super::dense;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::plan::view::View;
use crate::infer::tensor::{Tensor, element_count};

/// The input broadcast to a shape.
#[derive(Clone, Debug)]
pub struct Expand {
    /// Of the output.
    pub shape: Vec<usize>,
}

/// ONNX Expand.
///
/// # Errors
/// When the shape is computed at run time or does not fit.
pub fn build_expand(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let from = &context.input(0)?.shape;
    let to = context.constant(1, "shape")?.to_i64();
    let wanted = to.iter().map(|&d| usize::try_from(d)).collect::<Result<Vec<_>, _>>();
    let wanted = wanted.map_err(|_| OpError::Invalid(format!("shape = {to:?}")))?;
    Ok(Box::new(Expand { shape: broadcast_shapes(from, &wanted)? }))
}

impl Op for Expand {
    fn name(&self) -> &'static str {
        "Expand"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        if broadcast_shapes(&x.shape, &self.shape)? != self.shape {
            return Err(OpError::Invalid(format!("shape {:?} does not expand to {:?}", x.shape, self.shape)));
        }
        Ok(vec![Fact::new(x.dtype, &self.shape)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let x = present(inputs, 0)?;
            Ok(vec![dense::take(x, &stretched(&dense::view_of(x), &self.shape)?)?])
        };
        Some(evaluate())
    }

    fn view_forward(&self, source: &View, _inputs: &[Option<&Fact>], _output: usize) -> Option<View> {
        source.broadcast_to(&self.shape)
    }

    fn is_view(&self) -> bool {
        true
    }
}

/// The input repeated side by side, `repeats[axis]` times along each axis.
#[derive(Clone, Debug)]
pub struct Tile {
    pub repeats: Vec<usize>,
}

/// ONNX Tile.
///
/// # Errors
/// When the repeats are computed at run time or absurd.
pub fn build_tile(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let rank = context.input(0)?.shape.len();
    let repeats = context.constant(1, "repeats")?.to_i64();
    let resolved: Vec<usize> = repeats.iter().filter_map(|&r| usize::try_from(r).ok()).collect();
    if resolved.len() != rank || repeats.len() != rank {
        return Err(OpError::Invalid(format!("repeats = {repeats:?} for a rank of {rank}")));
    }
    Ok(Box::new(Tile { repeats: resolved }))
}

impl Tile {
    /// The output split into (repeat, original) per repeated axis, and the input stretched to the same shape.
    fn split(&self, source: &View, target: &View) -> Option<(View, View)> {
        let (mut from, mut shape) = (source.clone(), Vec::new());
        let mut strides = Vec::new();
        for axis in 0..source.rank() {
            if self.repeats[axis] != 1 {
                shape.push(self.repeats[axis]);
                strides.push(0);
            }
            shape.push(source.shape[axis]);
            strides.push(source.strides[axis]);
        }
        from.strides = strides;
        from.shape.clone_from(&shape);
        Some((from, target.reshaped(&shape)?))
    }
}

impl Op for Tile {
    fn name(&self) -> &'static str {
        "Tile"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        let shape: Option<Vec<usize>> = x.shape.iter().zip(&self.repeats).map(|(&d, &r)| d.checked_mul(r)).collect();
        match shape {
            Some(shape)
                if x.shape.len() == self.repeats.len() && element_count(&shape).is_some_and(|n| n <= ELEMENTS_MAX) =>
            {
                Ok(vec![Fact::new(x.dtype, &shape)])
            }
            _ => Err(OpError::Invalid(format!("repeats {:?} of shape {:?}", self.repeats, x.shape))),
        }
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let x = present(inputs, 0)?;
            let shape = &self.infer(&[Some(&Fact::new(x.dtype(), x.shape()))])?[0].shape;
            let target = View::row_major(crate::infer::plan::view::BufferId(0), shape);
            let (from, _) = self
                .split(&dense::view_of(x), &target)
                .ok_or_else(|| OpError::Invalid(format!("repeats {:?}", self.repeats)))?;
            Ok(vec![dense::pick(x, dense::walk(&from), shape)?])
        };
        Some(evaluate())
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let source = l.read(present(inputs, 0)?)?;
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        let (from, to) = self
            .split(&source, &target)
            .ok_or_else(|| OpError::Invalid(format!("repeats {:?} of shape {:?}", self.repeats, source.shape)))?;
        l.copy(&from, &to);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::ops::context::build_for_test;

    fn eval(op_type: &str, x: &Tensor, second: &[i64]) -> Result<(Vec<usize>, Vec<i64>), OpError> {
        let fact = Fact::of(x);
        let op = build_for_test(op_type, 13, &[], &[&fact, &Fact::of(&Tensor::vec_i64(second.to_vec()))])?;
        let shape = op.infer(&[Some(&fact)])?[0].shape.clone();
        let y = op.eval(&[Some(x)]).expect("folds")?.remove(0);
        assert_eq!(y.shape(), shape);
        Ok((shape, y.to_i64()))
    }

    #[test]
    fn expand_broadcasts_both_ways() {
        let x = Tensor::from_i64(&[2, 1], vec![1, 2]).expect("tensor");
        assert_eq!(eval("Expand", &x, &[3]), Ok((vec![2, 3], vec![1, 1, 1, 2, 2, 2])));
        assert_eq!(eval("Expand", &x, &[1, 1, 1]), Ok((vec![1, 2, 1], vec![1, 2])));
        assert!(eval("Expand", &x, &[3, 1]).is_err() && eval("Expand", &x, &[-1]).is_err());
    }

    #[test]
    fn tile_repeats_side_by_side() {
        let x = Tensor::from_i64(&[1, 2], vec![1, 2]).expect("tensor");
        assert_eq!(eval("Tile", &x, &[2, 2]), Ok((vec![2, 4], vec![1, 2, 1, 2, 1, 2, 1, 2])));
        let x = Tensor::from_i64(&[2, 2], vec![1, 2, 3, 4]).expect("tensor");
        assert_eq!(eval("Tile", &x, &[1, 2]), Ok((vec![2, 4], vec![1, 2, 1, 2, 3, 4, 3, 4])));
        assert!(eval("Tile", &x, &[1]).is_err() && eval("Tile", &x, &[1 << 40, 1]).is_err());
    }
}
