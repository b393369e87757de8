//! Split: views into the input.

use super::context::{NodeContext, input, present, resolve_axis};
use super::dense;
use crate::infer::graph::Fact;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::view::View;
use crate::infer::tensor::Tensor;

/// ONNX Split with its parts resolved.
#[derive(Clone, Debug)]
pub struct Split {
    pub axis: usize,
    pub parts: Vec<usize>,
}

/// ONNX Split: sizes as an attribute (before opset 13), an input, `num_outputs` (18), or equal parts.
///
/// # Errors
/// When the sizes are computed at run time or do not add up.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let shape = &context.input(0)?.shape;
    let axis = resolve_axis(context.attributes.int("axis")?.unwrap_or(0), shape.len())?;
    let outputs = match context.attributes.int("num_outputs")? {
        Some(n) if n != context.output_count as i64 => {
            return Err(OpError::Invalid(format!("num_outputs = {n} with {} outputs", context.output_count)));
        }
        _ => context.output_count.max(1),
    };
    let parts = match context.ints_attribute_or_input("split", 1, 13)? {
        Some(sizes) => sizes
            .iter()
            .map(|&s| usize::try_from(s).map_err(|_| OpError::Invalid(format!("split = {sizes:?}"))))
            .collect::<Result<Vec<_>, _>>()?,
        // All parts are equal but the last, which may be smaller.
        None => {
            let each = shape[axis].div_ceil(outputs);
            (0..outputs).map(|i| each.min(shape[axis].saturating_sub(i * each))).collect()
        }
    };
    if parts.len() != outputs {
        return Err(OpError::Invalid(format!("split = {parts:?} with {outputs} outputs")));
    }
    Ok(Box::new(Split { axis, parts }))
}

impl Op for Split {
    fn name(&self) -> &'static str {
        "Split"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        let total = self.parts.iter().try_fold(0usize, |n, &p| n.checked_add(p));
        if x.shape.get(self.axis).copied() != total {
            return Err(OpError::Invalid(format!(
                "parts {:?} do not add up to axis {} of shape {:?}",
                self.parts, self.axis, x.shape
            )));
        }
        let part = |&count: &usize| {
            let mut shape = x.shape.clone();
            shape[self.axis] = count;
            Fact::new(x.dtype, &shape)
        };
        Ok(self.parts.iter().map(part).collect())
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let x = present(inputs, 0)?;
            let whole = dense::view_of(x);
            (0..self.parts.len())
                .filter_map(|i| self.view_forward(&whole, &[], i))
                .map(|view| dense::take(x, &view))
                .collect()
        };
        Some(evaluate())
    }

    fn view_forward(&self, source: &View, _inputs: &[Option<&Fact>], output: usize) -> Option<View> {
        let count = *self.parts.get(output)?;
        let start = self.parts[..output].iter().sum();
        Some(source.sliced(self.axis, start, count, 1))
    }

    fn is_view(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::attributes::Attributes;
    use crate::infer::import::onnx::proto::AttributeProto;

    fn parts(
        opset: i64,
        attributes: &[AttributeProto],
        outputs: usize,
        inputs: &[&Fact],
    ) -> Result<Vec<usize>, OpError> {
        let inputs = inputs.iter().map(|f| Some(*f)).collect();
        let mut context = NodeContext::new("Split", opset, Attributes::new(attributes), inputs, outputs);
        let op = build(&mut context)?;
        let x = context.input(0)?;
        op.infer(&[Some(x)])?;
        Ok(op.downcast::<Split>().map(|s| s.parts.clone()).unwrap_or_default())
    }

    #[test]
    fn sizes_come_from_attribute_input_or_count() {
        let x = Fact::f32(&[1, 7, 2, 2]);
        let axis = AttributeProto::int("axis", 1);
        assert_eq!(parts(11, &[axis.clone(), AttributeProto::ints("split", &[3, 4])], 2, &[&x]), Ok(vec![3, 4]));
        let sizes = Fact::of(&Tensor::vec_i64(vec![2, 5]));
        assert_eq!(parts(13, std::slice::from_ref(&axis), 2, &[&x, &sizes]), Ok(vec![2, 5]));
        assert_eq!(parts(18, &[axis.clone(), AttributeProto::int("num_outputs", 3)], 3, &[&x]), Ok(vec![3, 3, 1]));
        let wrong = Fact::of(&Tensor::vec_i64(vec![2, 4]));
        assert!(parts(13, &[axis], 2, &[&x, &wrong]).is_err());
    }

    #[test]
    fn parts_are_slices() {
        let x = Tensor::from_i64(&[2, 3], vec![0, 1, 2, 3, 4, 5]).expect("tensor");
        let y = Split { axis: 1, parts: vec![1, 2] }.eval(&[Some(&x)]).expect("folds").expect("evaluates");
        assert_eq!((y[0].to_i64(), y[1].to_i64()), (vec![0, 3], vec![1, 2, 4, 5]));
    }
}
