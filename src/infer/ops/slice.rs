//! Slice: views with offsets and steps; a kernel where it goes backwards.

use super::context::{NodeContext, input, present, resolve_axis};
use super::dense;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels::resample::{PLACES_MAX, Resample, Taps};
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::plan::view::View;
use crate::infer::tensor::Tensor;
use std::sync::Arc;

/// What a Slice keeps of one axis: `count` elements from `start`, `step` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub axis: usize,
    pub start: usize,
    pub count: usize,
    /// Never 0. Negative steps are only for constants.
    pub step: isize,
}

/// ONNX Slice with its ranges resolved; each axis at most once.
#[derive(Clone, Debug)]
pub struct Slice {
    pub ranges: Vec<Range>,
}

impl Slice {
    /// `count` neighbours along one axis.
    pub fn along(axis: usize, start: usize, count: usize) -> Slice {
        Slice { ranges: vec![Range { axis, start, count, step: 1 }] }
    }
}

/// Start, end and step as the standard clamps them.
fn resolve(start: i64, end: i64, step: i64, extent: usize) -> Option<(usize, usize)> {
    let n = extent as i64;
    let from_end = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
    let (start, end) = (from_end(start), from_end(end));
    let (start, distance) = if step > 0 {
        let start = start.clamp(0, n);
        (start, end.clamp(0, n) - start)
    } else {
        let start = start.clamp(0, (n - 1).max(0));
        (start, start - end.clamp(-1, n - 1))
    };
    let count = if distance <= 0 { 0 } else { (distance - 1) / step.checked_abs()? + 1 };
    Some((usize::try_from(start).ok()?, usize::try_from(count).ok()?))
}

/// ONNX Slice: attributes before opset 10, inputs since.
///
/// # Errors
/// When ranges are computed at run time, or a step is negative and the input not constant.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let x = context.input(0)?;
    let rank = x.shape.len();
    let missing = |what: &str| OpError::Invalid(format!("{what} is missing"));
    let starts = context.ints_attribute_or_input("starts", 1, 10)?.ok_or_else(|| missing("starts"))?;
    let ends = context.ints_attribute_or_input("ends", 2, 10)?.ok_or_else(|| missing("ends"))?;
    let axes = context.ints_attribute_or_input("axes", 3, 10)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = match context.opset {
        ..10 => None,
        _ => context.optional_constant(4, "steps")?.map(Tensor::to_i64),
    }
    .unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return Err(OpError::Invalid(format!(
            "starts {starts:?}, ends {ends:?}, axes {axes:?} and steps {steps:?} differ in length"
        )));
    }
    let mut ranges: Vec<Range> = Vec::with_capacity(starts.len());
    for i in 0..starts.len() {
        let axis = resolve_axis(axes[i], rank)?;
        if ranges.iter().any(|r| r.axis == axis) {
            return Err(OpError::Invalid(format!("axes {axes:?} name an axis twice")));
        }
        let bad_step = || OpError::Invalid(format!("steps = {steps:?}"));
        let step = isize::try_from(steps[i]).ok().filter(|&s| s != 0).ok_or_else(bad_step)?;
        let (start, count) = resolve(starts[i], ends[i], steps[i], x.shape[axis]).ok_or_else(bad_step)?;
        // One element is one element, whatever the step.
        ranges.push(Range { axis, start, count, step: if count > 1 { step } else { 1 } });
    }
    Ok(Box::new(Slice { ranges }))
}

impl Op for Slice {
    fn name(&self) -> &'static str {
        "Slice"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        let mut shape = x.shape.clone();
        for r in &self.ranges {
            let extent = *x.shape.get(r.axis).ok_or_else(|| OpError::Invalid(format!("axis {}", r.axis)))?;
            let reach = r.step.checked_mul(r.count.saturating_sub(1) as isize);
            let last = reach.and_then(|reach| r.start.checked_add_signed(reach));
            if r.count > 0 && (r.start >= extent || last.is_none_or(|last| last >= extent)) {
                return Err(OpError::Invalid(format!("{r:?} reaches outside shape {:?}", x.shape)));
            }
            shape[r.axis] = r.count;
        }
        Ok(vec![Fact::new(x.dtype, &shape)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let mut y = present(inputs, 0)?.clone();
            for r in &self.ranges {
                let whole = dense::view_of(&y);
                let forwards = whole.sliced(r.axis, r.start, r.count, 1);
                if r.step > 0 {
                    y = dense::take(&y, &whole.sliced(r.axis, r.start, r.count, r.step.unsigned_abs()))?;
                    continue;
                }
                // Backwards: from the last element kept, then each run of neighbours in reverse.
                let step = r.step.unsigned_abs();
                let first = r.start - (r.count.max(1) - 1) * step;
                let ascending = dense::take(&y, &whole.sliced(r.axis, first, r.count, step))?;
                let seen = dense::view_of(&ascending);
                let stride = seen.strides[r.axis];
                let extent = r.count * stride;
                let positions = dense::walk(&seen).map(|p| {
                    let at = p % extent / stride;
                    p - at * stride + (r.count - 1 - at) * stride
                });
                y = dense::pick(&ascending, positions, &forwards.shape)?;
            }
            Ok(vec![y])
        };
        Some(evaluate())
    }

    fn view_forward(&self, source: &View, _inputs: &[Option<&Fact>], _output: usize) -> Option<View> {
        let mut view = source.clone();
        for r in &self.ranges {
            view = view.sliced(r.axis, r.start, r.count, usize::try_from(r.step).ok()?);
        }
        Some(view)
    }

    fn is_view(&self) -> bool {
        self.ranges.iter().all(|r| r.step > 0)
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let mut view = l.read(present(inputs, 0)?)?;
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        let (forwards, backwards): (Vec<Range>, Vec<Range>) = self.ranges.iter().partition(|r| r.step > 0);
        for r in forwards {
            view = view.sliced(r.axis, r.start, r.count, r.step.unsigned_abs());
        }
        for (i, r) in backwards.iter().enumerate() {
            if r.start >= PLACES_MAX {
                return Err(OpError::Unsupported(format!("{r:?} goes backwards; computed on the CPU only")));
            }
            let mut shape = view.shape.clone();
            shape[r.axis] = r.count;
            let to = if i + 1 == backwards.len() { target.clone() } else { l.temporary("backwards", &shape) };
            let table = (0..r.count).map(|k| Taps::one(r.start - k * r.step.unsigned_abs())).collect();
            l.step(Resample { axis: r.axis, table: Arc::new(table), max: false }, vec![view], vec![to.clone()]);
            view = to;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    fn slice(x: &Tensor, starts: i64, ends: i64, axis: i64, step: i64) -> Result<(Vec<usize>, Vec<i64>), OpError> {
        let fact = Fact::of(x);
        let ints = [starts, ends, axis, step].map(|v| Fact::of(&Tensor::vec_i64(vec![v])));
        let op = build_for_test("Slice", 13, &[], &[&fact, &ints[0], &ints[1], &ints[2], &ints[3]])?;
        let shape = op.infer(&[Some(&fact)])?[0].shape.clone();
        let y = op.eval(&[Some(x)]).expect("folds")?.remove(0);
        assert_eq!(y.shape(), shape);
        Ok((shape, y.to_i64()))
    }

    #[test]
    fn clamps_and_steps_as_the_standard_says() {
        let x = Tensor::from_i64(&[2, 4], (0..8).collect()).expect("tensor");
        assert_eq!(slice(&x, 1, i64::MAX, 1, 2), Ok((vec![2, 2], vec![1, 3, 5, 7])));
        assert_eq!(slice(&x, -3, -1, 1, 1), Ok((vec![2, 2], vec![1, 2, 5, 6])));
        assert_eq!(slice(&x, 3, 1, -1, 1), Ok((vec![2, 0], vec![])));
        assert_eq!(slice(&x, -1, i64::MIN, 1, -1), Ok((vec![2, 4], vec![3, 2, 1, 0, 7, 6, 5, 4])));
        assert_eq!(slice(&x, 3, 0, 1, -2), Ok((vec![2, 2], vec![3, 1, 7, 5])));
        assert_eq!(slice(&x, 1, i64::MIN, 0, -1), Ok((vec![2, 4], vec![4, 5, 6, 7, 0, 1, 2, 3])));
        assert!(slice(&x, 0, 1, 2, 1).is_err() && slice(&x, 0, 1, 0, 0).is_err());
    }

    #[test]
    fn opset_9_has_attributes_and_run_time_steps_are_positive() {
        let x = Fact::f32(&[1, 4, 6, 6]);
        let old = [AttributeProto::ints("starts", &[1, 2]), AttributeProto::ints("ends", &[3, 100])];
        let op = build_for_test("Slice", 9, &old, &[&x]).expect("builds");
        assert_eq!(op.infer(&[Some(&x)]).map(|f| f[0].shape.clone()), Ok(vec![0, 2, 6, 6]));
        let ints = |v: i64| Fact::of(&Tensor::vec_i64(vec![v]));
        let e = build_for_test("Slice", 13, &[], &[&x, &ints(-1), &ints(-9), &ints(2), &ints(-1)]);
        assert!(e.is_ok_and(|op| !op.is_view()));
        assert!(build_for_test("Slice", 13, &[], &[&x, &Fact::f32(&[1]), &ints(2)]).is_err());
    }
}
