//! Gather with constant indices: a view where the indices are evenly spaced, copies where they are in few runs, else a
//! kernel.

use super::context::{NodeContext, input, present, resolve_axis};
use super::dense;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels::resample::{PLACES_MAX, Resample, Taps};
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::plan::view::View;
use crate::infer::tensor::Tensor;
use std::sync::Arc;

/// With more runs of evenly spaced indices than this they are a table of the kernel: each run is a copy of its own.
const RUNS_MAX: usize = 64;

/// ONNX Gather with its indices resolved: the output's shape is the input's with `axis` replaced by `index_shape`.
#[derive(Clone, Debug)]
pub struct Gather {
    pub axis: usize,
    /// Row-major; each below the extent of the axis.
    pub indices: Vec<usize>,
    pub index_shape: Vec<usize>,
}

/// Evenly spaced indices: `count` from `start`, `step` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: usize,
    count: usize,
    step: usize,
}

/// Cuts indices into the longest ascending (or repeating) runs, greedily.
fn runs(indices: &[usize]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for &index in indices {
        if let Some(run) = runs.last_mut() {
            if run.count == 1 && index >= run.start {
                run.step = index - run.start;
                run.count = 2;
                continue;
            }
            if run.count > 1 && index == run.start + run.count * run.step {
                run.count += 1;
                continue;
            }
        }
        runs.push(Run { start: index, count: 1, step: 1 });
    }
    runs
}

/// ONNX Gather.
///
/// # Errors
/// When indices are computed at run time or outside.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let axis = resolve_axis(context.attributes.int("axis")?.unwrap_or(0), x.shape.len())?;
    let tensor = context.constant(1, "indices")?;
    let extent = x.shape[axis];
    let indices = tensor.to_i64().iter().map(|&i| resolve_axis(i, extent)).collect::<Result<Vec<_>, _>>();
    let indices = indices.map_err(|_| OpError::Invalid(format!("an index is outside axis {axis} of {:?}", x.shape)))?;
    Ok(Box::new(Gather { axis, indices, index_shape: tensor.shape().to_vec() }))
}

impl Gather {
    /// The output with the indices as one axis, in the place of the input's.
    fn seen_flat(&self, output: &View) -> Option<View> {
        let rest = self.axis + self.index_shape.len();
        let mut shape = output.shape.get(..self.axis)?.to_vec();
        shape.push(self.indices.len());
        shape.extend_from_slice(output.shape.get(rest..)?);
        output.reshaped(&shape)
    }
}

impl Op for Gather {
    fn name(&self) -> &'static str {
        "Gather"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        let Some(&extent) = x.shape.get(self.axis) else {
            return Err(OpError::Invalid(format!("axis {} of shape {:?}", self.axis, x.shape)));
        };
        if self.indices.iter().any(|&i| i >= extent) {
            return Err(OpError::Invalid(format!("an index is outside axis {} of {:?}", self.axis, x.shape)));
        }
        let mut shape = x.shape[..self.axis].to_vec();
        shape.extend_from_slice(&self.index_shape);
        shape.extend_from_slice(&x.shape[self.axis + 1..]);
        Ok(vec![Fact::new(x.dtype, &shape)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let x = present(inputs, 0)?;
            let shape = &self.infer(&[Some(&Fact::new(x.dtype(), x.shape()))])?[0].shape;
            let (extent, inner) = (x.shape()[self.axis], x.shape()[self.axis + 1..].iter().product::<usize>());
            let outer: usize = x.shape()[..self.axis].iter().product();
            let positions = (0..outer).flat_map(|o| {
                self.indices.iter().flat_map(move |&i| {
                    let start = (o * extent + i) * inner;
                    start..start + inner
                })
            });
            Ok(vec![dense::pick(x, positions, shape)?])
        };
        Some(evaluate())
    }

    fn view_forward(&self, source: &View, _inputs: &[Option<&Fact>], _output: usize) -> Option<View> {
        let [run] = runs(&self.indices)[..] else { return None };
        let mut view = source.sliced(self.axis, run.start, run.count, run.step);
        // One axis becomes none or several; evenly spaced, so strides always express it.
        let stride = view.strides.remove(self.axis);
        view.shape.remove(self.axis);
        let mut inner = stride;
        for &extent in self.index_shape.iter().rev() {
            view.shape.insert(self.axis, extent);
            view.strides.insert(self.axis, inner);
            inner *= extent;
        }
        Some(view)
    }

    fn is_view(&self) -> bool {
        runs(&self.indices).len() == 1
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let source = l.read(present(inputs, 0)?)?;
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        let flat = self.seen_flat(&target).ok_or_else(|| {
            OpError::Unsupported(format!("irregular indices of shape {:?} into strided memory", self.index_shape))
        })?;
        if runs(&self.indices).len() > RUNS_MAX {
            if source.shape[self.axis] >= PLACES_MAX {
                return Err(OpError::Unsupported(format!("{} irregular indices of many", self.indices.len())));
            }
            let table = self.indices.iter().map(|&i| Taps::one(i)).collect();
            let kernel = Resample { axis: self.axis, table: Arc::new(table), max: false };
            l.step(kernel, vec![source], vec![flat]);
            return Ok(());
        }
        let mut at = 0;
        for run in runs(&self.indices) {
            let from = source.sliced(self.axis, run.start, run.count, run.step);
            l.copy(&from, &flat.sliced(self.axis, at, run.count, 1));
            at += run.count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    fn gather(axis: i64, indices: &Tensor) -> (Box<dyn Op>, Tensor) {
        let x = Tensor::from_i64(&[3, 4], (0..12).collect()).expect("tensor");
        let fact = Fact::of(&x);
        let op = build_for_test("Gather", 13, &[AttributeProto::int("axis", axis)], &[&fact, &Fact::of(indices)]);
        let op = op.expect("builds");
        let y = op.eval(&[Some(&x)]).expect("folds").expect("evaluates").remove(0);
        if op.is_view() {
            let view = op.view_forward(&dense::view_of(&x), &[], 0).expect("view");
            assert_eq!(dense::take(&x, &view).as_ref(), Ok(&y), "view and fold agree");
        }
        (op, y)
    }

    #[test]
    fn scalars_ranges_and_irregular_indices() {
        let (op, y) = gather(1, &Tensor::vec_i64(vec![-1]).reshaped(&[]).expect("scalar"));
        assert_eq!((y.shape(), y.to_i64(), op.is_view()), (&[3][..], vec![3, 7, 11], true));
        let (op, y) = gather(0, &Tensor::vec_i64(vec![0, 2]));
        assert_eq!((y.shape(), y.to_i64(), op.is_view()), (&[2, 4][..], vec![0, 1, 2, 3, 8, 9, 10, 11], true));
        let (op, y) = gather(1, &Tensor::from_i64(&[2, 2], vec![0, 1, 2, 3]).expect("tensor"));
        assert_eq!((y.shape(), op.is_view()), (&[3, 2, 2][..], true));
        let (op, y) = gather(1, &Tensor::vec_i64(vec![2, 0, 1]));
        assert_eq!((y.to_i64(), op.is_view()), (vec![2, 0, 1, 6, 4, 5, 10, 8, 9], false));
    }

    #[test]
    fn runs_are_cut_greedily() {
        let run = |start, count, step| Run { start, count, step };
        assert_eq!(runs(&[1, 3, 5, 6, 7, 0]), [run(1, 3, 2), run(6, 2, 1), run(0, 1, 1)]);
        assert_eq!(runs(&[2, 2, 2]), [run(2, 3, 0)]);
    }

    #[test]
    fn indices_outside_or_computed_are_refused() {
        let (x, indices) = (Fact::f32(&[3]), Fact::of(&Tensor::vec_i64(vec![3])));
        assert!(build_for_test("Gather", 13, &[], &[&x, &indices]).is_err());
        assert!(build_for_test("Gather", 13, &[], &[&x, &Fact::f32(&[1])]).is_err());
    }
}
