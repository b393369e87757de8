//! Operators whose result is known at load: Constant, ConstantOfShape, Range, Shape, Size.

use super::context::{ELEMENTS_MAX, NodeContext, input, present};
use super::dense::{self, Numbers};
use crate::infer::graph::Fact;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::view::View;
use crate::infer::tensor::{Tensor, element_count};

/// A value that is known when the operator is built. Takes no inputs.
#[derive(Clone, Debug)]
pub struct Constant {
    pub value: Tensor,
}

impl Op for Constant {
    fn name(&self) -> &'static str {
        "Constant"
    }

    fn infer(&self, _inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Fact::of(&self.value)])
    }

    fn eval(&self, _inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        Some(Ok(vec![self.value.clone()]))
    }
}

/// ONNX Constant.
///
/// # Errors
/// When the value is sparse or of strings, or missing.
pub fn build_constant(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let attributes = &context.attributes;
    let value = if let Some(tensor) = attributes.tensor("value")? {
        tensor
    } else if let Some(value) = attributes.float("value_float")? {
        Tensor::scalar_f32(value)
    } else if let Some(values) = attributes.floats("value_floats")? {
        Tensor::from_f32(&[values.len()], values.to_vec()).map_err(OpError::Invalid)?
    } else if let Some(value) = attributes.int("value_int")? {
        Tensor::from_i64(&[], vec![value]).map_err(OpError::Invalid)?
    } else if let Some(values) = attributes.ints("value_ints")? {
        Tensor::vec_i64(values.to_vec())
    } else {
        return context.refuse("has no dense value of numbers".into());
    };
    Ok(Box::new(Constant { value }))
}

/// ONNX Shape of a static value, from `start` to `end` (opset 15).
///
/// # Errors
/// When the input is missing.
pub fn build_shape(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let shape: Vec<i64> = context.input(0)?.shape.iter().map(|&d| d as i64).collect();
    let rank = shape.len() as i64;
    let clamp = |i: i64| (if i < 0 { i.saturating_add(rank) } else { i }).clamp(0, rank) as usize;
    let start = clamp(context.attributes.int("start")?.unwrap_or(0));
    let end = clamp(context.attributes.int("end")?.unwrap_or(rank)).max(start);
    context.drop_input(0);
    Ok(Box::new(Constant { value: Tensor::vec_i64(shape[start..end].to_vec()) }))
}

/// ONNX Size: the number of elements of a static value.
///
/// # Errors
/// When the input is missing.
pub fn build_size(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let shape = &context.input(0)?.shape;
    let count = element_count(shape).ok_or_else(|| OpError::Invalid(format!("shape {shape:?}")))?;
    context.drop_input(0);
    let value = Tensor::from_i64(&[], vec![count as i64]).map_err(OpError::Invalid)?;
    Ok(Box::new(Constant { value }))
}

/// One value everywhere. Takes no inputs.
#[derive(Clone, Debug)]
pub struct ConstantOfShape {
    pub shape: Vec<usize>,
    /// One element.
    pub value: Tensor,
}

/// ONNX ConstantOfShape.
///
/// # Errors
/// When the shape is computed at run time or absurd.
pub fn build_constant_of_shape(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let value = context.attributes.tensor("value")?.unwrap_or(Tensor::scalar_f32(0.0));
    let dims = context.constant(0, "shape")?.to_i64();
    let shape: Vec<usize> = dims.iter().filter_map(|&d| usize::try_from(d).ok()).collect();
    if value.len() != 1 || shape.len() != dims.len() || element_count(&shape).is_none_or(|n| n > ELEMENTS_MAX) {
        return Err(OpError::Invalid(format!("shape {dims:?} of a value with {} elements", value.len())));
    }
    Ok(Box::new(ConstantOfShape { shape, value }))
}

impl Op for ConstantOfShape {
    fn name(&self) -> &'static str {
        "ConstantOfShape"
    }

    fn infer(&self, _inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        Ok(vec![Fact::new(self.value.dtype(), &self.shape)])
    }

    fn eval(&self, _inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let mut view = View::row_major(crate::infer::plan::view::BufferId(0), &self.shape);
        view.strides.fill(0);
        Some(dense::take(&self.value, &view).map(|t| vec![t]))
    }
}

/// start, start + delta, ... below limit. Inputs start, limit, delta: constants with one element each.
#[derive(Clone, Debug)]
pub struct Range;

/// ONNX Range.
///
/// # Errors
/// When an input is missing.
pub fn build_range(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    for i in 0..3 {
        context.input(i)?;
    }
    Ok(Box::new(Range))
}

/// Start, step and count of a Range.
fn bounds(inputs: [&Tensor; 3]) -> Result<(Numbers, Numbers, usize), OpError> {
    let [start, limit, delta] = inputs.map(dense::numbers);
    let bad = || OpError::Invalid("start, limit and delta must be one number each, delta not 0".into());
    let count = match (&start, &limit, &delta) {
        (Numbers::Int(s), Numbers::Int(l), Numbers::Int(d)) => match (&s[..], &l[..], &d[..]) {
            (&[s], &[l], &[d]) if d != 0 => {
                let (span, step) = (i128::from(l) - i128::from(s), i128::from(d));
                if span.signum() != step.signum() { 0.0 } else { ((span.abs() + step.abs() - 1) / step.abs()) as f64 }
            }
            _ => return Err(bad()),
        },
        (Numbers::Float(s), Numbers::Float(l), Numbers::Float(d)) => match (&s[..], &l[..], &d[..]) {
            (&[s], &[l], &[d]) if d != 0.0 => ((l - s) / d).ceil().max(0.0),
            _ => return Err(bad()),
        },
        _ => return Err(bad()),
    };
    if count.is_nan() || count > ELEMENTS_MAX as f64 {
        return Err(OpError::Invalid(format!("has {count} elements")));
    }
    Ok((start, delta, count as usize))
}

impl Op for Range {
    fn name(&self) -> &'static str {
        "Range"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let value = |i: usize| {
            input(inputs, i)?.constant.as_ref().ok_or_else(|| {
                OpError::RunTime("its bounds are computed at run time; export with static shapes".into())
            })
        };
        let (_, _, count) = bounds([value(0)?, value(1)?, value(2)?])?;
        Ok(vec![Fact::new(input(inputs, 0)?.dtype, &[count])])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let first = present(inputs, 0)?;
            let (start, delta, count) = bounds([first, present(inputs, 1)?, present(inputs, 2)?])?;
            let values = match (start, delta) {
                (Numbers::Int(s), Numbers::Int(d)) => {
                    Numbers::Int((0..count as i64).map(|i| s[0].wrapping_add(i.wrapping_mul(d[0]))).collect())
                }
                (Numbers::Float(s), Numbers::Float(d)) => {
                    Numbers::Float((0..count).map(|i| s[0] + i as f64 * d[0]).collect())
                }
                _ => return Err(OpError::Invalid("mixes integers and floats".into())),
            };
            Ok(vec![dense::from_numbers(&[count], first.dtype(), &values)?])
        };
        Some(evaluate())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    fn constant(op: &dyn Op) -> Tensor {
        op.eval(&[]).expect("folds").expect("evaluates").remove(0)
    }

    #[test]
    fn shapes_and_sizes_are_constants() {
        let x = Fact::f32(&[2, 3, 5]);
        let from =
            |attributes: &[AttributeProto]| constant(&*build_for_test("Shape", 15, attributes, &[&x]).expect("builds"));
        assert_eq!(from(&[]).to_i64(), [2, 3, 5]);
        assert_eq!(from(&[AttributeProto::int("start", -2)]).to_i64(), [3, 5]);
        assert_eq!(from(&[AttributeProto::int("start", 1), AttributeProto::int("end", -1)]).to_i64(), [3]);
        assert_eq!(constant(&*build_for_test("Size", 13, &[], &[&x]).expect("builds")).to_i64(), [30]);
    }

    #[test]
    fn constants_in_all_their_forms() {
        let value = |a: AttributeProto| build_for_test("Constant", 13, &[a], &[]).map(|op| constant(&*op));
        assert_eq!(value(AttributeProto::int("value_int", 7)).map(|t| t.to_i64()), Ok(vec![7]));
        assert_eq!(value(AttributeProto::floats("value_floats", &[1.5, 2.0])).map(|t| t.to_f32()), Ok(vec![1.5, 2.0]));
        assert!(value(AttributeProto::string("value_string", "x")).is_err());
        let shape = Fact::of(&Tensor::vec_i64(vec![2, 2]));
        let op = build_for_test("ConstantOfShape", 9, &[], &[&shape]).expect("builds");
        assert_eq!(constant(&*op).as_f32(), Some(&[0.0; 4][..]));
        let huge = Fact::of(&Tensor::vec_i64(vec![1 << 40, 1 << 40]));
        assert!(build_for_test("ConstantOfShape", 9, &[], &[&huge]).is_err());
    }

    #[test]
    fn ranges_count_up_and_down() {
        let eval = |v: [i64; 3]| {
            let t = v.map(|x| Tensor::from_i64(&[], vec![x]).expect("scalar"));
            Range.eval(&[Some(&t[0]), Some(&t[1]), Some(&t[2])]).expect("folds").map(|r| r[0].to_i64())
        };
        assert_eq!(eval([1, 8, 3]), Ok(vec![1, 4, 7]));
        assert_eq!(eval([5, 0, -2]), Ok(vec![5, 3, 1]));
        assert_eq!(eval([5, 0, 2]), Ok(vec![]));
        assert!(eval([0, 1, 0]).is_err() && eval([0, i64::MAX, 1]).is_err());
    }
}
