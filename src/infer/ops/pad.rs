//! Padding with a constant; negative pads crop.

use super::context::{NodeContext, WINDOW_MAX, input, present, resolve_axes};
use super::dense;
use super::reshape::Reshape;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::kernels::fill::Fill;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::plan::view::View;
use crate::infer::tensor::Tensor;

/// ONNX Pad in constant mode.
#[derive(Clone, Debug)]
pub struct Pad {
    /// Elements added before and after each axis; negative: removed.
    pub pads: Vec<[isize; 2]>,
    pub value: f32,
}

/// ONNX Pad, opset 2 and later. Modes other than constant are computed on host tensors.
///
/// # Errors
/// In a mode that is not of the standard, or when pads or value are computed at run time.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let shape = &context.input(0)?.shape;
    let rank = shape.len();
    let mode = context.attributes.string("mode")?.unwrap_or("constant");
    let given =
        context.ints_attribute_or_input("pads", 1, 11)?.ok_or_else(|| OpError::Invalid("pads is missing".into()))?;
    let value = if context.opset < 11 {
        context.attributes.float("value")?.unwrap_or(0.0)
    } else {
        context.optional_constant(2, "constant_value")?.and_then(|t| t.to_f32().first().copied()).unwrap_or(0.0)
    };
    let axes = match context.optional_constant(3, "axes")?.map(Tensor::to_i64) {
        Some(axes) => {
            resolve_axes(&axes, rank)?;
            axes.iter().map(|&a| (if a < 0 { a + rank as i64 } else { a }) as usize).collect()
        }
        None => (0..rank).collect::<Vec<_>>(),
    };
    if given.len() != 2 * axes.len() || given.iter().any(|p| !(-WINDOW_MAX..=WINDOW_MAX).contains(p)) {
        return Err(OpError::Invalid(format!("pads = {given:?} for {} axes", axes.len())));
    }
    if given.iter().all(|&p| p == 0) {
        return Ok(Box::new(Reshape { shape: shape.clone() }));
    }
    let mut pads = vec![[0; 2]; rank];
    for (i, &axis) in axes.iter().enumerate() {
        pads[axis] = [given[i] as isize, given[i + axes.len()] as isize];
    }
    match mode {
        "constant" => Ok(Box::new(Pad { pads, value })),
        "reflect" => super::sample::pad_by_repeating(context.input(0)?, &pads, "reflect"),
        "edge" => super::sample::pad_by_repeating(context.input(0)?, &pads, "edge"),
        "wrap" => super::sample::pad_by_repeating(context.input(0)?, &pads, "wrap"),
        other => context.refuse(format!("mode = {other} is not known")),
    }
}

impl Pad {
    /// The parts of input and output that hold the same elements; `None` where nothing is left.
    fn overlap(&self, source: &View, target: &View) -> Option<(View, View)> {
        let (mut from, mut to) = (source.clone(), target.clone());
        for (axis, [before, after]) in self.pads.iter().enumerate() {
            let cut = |pad: &isize| pad.min(&0).unsigned_abs();
            let count = source.shape[axis].checked_sub(cut(before) + cut(after)).filter(|&n| n > 0)?;
            from = from.sliced(axis, cut(before), count, 1);
            to = to.sliced(axis, (*before).max(0).unsigned_abs(), count, 1);
        }
        Some((from, to))
    }
}

impl Op for Pad {
    fn name(&self) -> &'static str {
        "Pad"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        let padded = |(&extent, [before, after]): (&usize, &[isize; 2])| {
            extent.checked_add_signed(*before)?.checked_add_signed(*after)
        };
        let shape: Option<Vec<usize>> = x.shape.iter().zip(&self.pads).map(padded).collect();
        match shape {
            Some(shape) if self.pads.len() == x.shape.len() => Ok(vec![Fact::new(x.dtype, &shape)]),
            _ => Err(OpError::Invalid(format!("pads {:?} of shape {:?}", self.pads, x.shape))),
        }
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let x = present(inputs, 0)?;
            let shape = &self.infer(&[Some(&Fact::new(x.dtype(), x.shape()))])?[0].shape;
            let value = dense::from_numbers(&[1], x.dtype(), &dense::Numbers::Float(vec![f64::from(self.value)]))?;
            let both = dense::append(&[x, &value])?;
            let target = View::row_major(crate::infer::plan::view::BufferId(0), shape);
            let mut positions = vec![x.len(); target.len()];
            if let Some((from, to)) = self.overlap(&dense::view_of(x), &target) {
                for (source, at) in dense::walk(&from).zip(dense::walk(&to)) {
                    positions[at] = source;
                }
            }
            Ok(vec![dense::pick(&both, positions.into_iter(), shape)?])
        };
        Some(evaluate())
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let source = l.read(present(inputs, 0)?)?;
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        if self.pads.iter().flatten().any(|&p| p > 0) {
            l.step(Fill { value: self.value }, vec![], vec![target.clone()]);
        }
        if let Some((from, to)) = self.overlap(&source, &target) {
            l.copy(&from, &to);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    #[test]
    fn pads_and_crops() {
        let x = Tensor::from_i64(&[2, 2], vec![1, 2, 3, 4]).expect("tensor");
        let fact = Fact::of(&x);
        let old = [AttributeProto::ints("pads", &[1, -1, 0, 2]), AttributeProto::float("value", 9.0)];
        let op = build_for_test("Pad", 2, &old, &[&fact]).expect("builds");
        assert_eq!(op.infer(&[Some(&fact)]).map(|f| f[0].shape.clone()), Ok(vec![3, 3]));
        let y = op.eval(&[Some(&x)]).expect("folds").expect("evaluates");
        assert_eq!(y[0].to_i64(), [9, 9, 9, 2, 9, 9, 4, 9, 9]);
    }

    #[test]
    fn axes_select_and_zero_pads_vanish() {
        let x = Fact::f32(&[1, 2, 3, 3]);
        let ints = |v: &[i64]| Fact::of(&Tensor::vec_i64(v.to_vec()));
        let value = Fact::of(&Tensor::scalar_f32(0.5));
        let op = build_for_test("Pad", 18, &[], &[&x, &ints(&[1, 2]), &value, &ints(&[-1])]).expect("builds");
        assert_eq!(op.infer(&[Some(&x)]).map(|f| f[0].shape.clone()), Ok(vec![1, 2, 3, 6]));
        let reflect = [AttributeProto::string("mode", "reflect")];
        assert!(build_for_test("Pad", 13, &reflect, &[&x, &ints(&[0; 8])]).is_ok_and(|op| op.is_view()));
        assert!(
            build_for_test("Pad", 13, &reflect, &[&x, &ints(&[0, 0, 1, 1, 0, 0, 1, 1])]).is_ok_and(|op| !op.is_view())
        );
        assert!(build_for_test("Pad", 13, &[], &[&x, &ints(&[0; 6])]).is_err());
    }
}
