//! Operators that keep the elements and their order and change the shape only: Reshape, Flatten, Squeeze, Unsqueeze,
//! Identity, Dropout. All become [`Reshape`].

use super::context::{NodeContext, input, present, resolve_axes};
use crate::infer::graph::Fact;
use crate::infer::op::{Op, OpError};
use crate::infer::plan::view::View;
use crate::infer::tensor::{Tensor, TensorElements, element_count};
use std::sync::Arc;

/// The elements of the input, in row-major order of the axes, under another shape.
#[derive(Clone, Debug)]
pub struct Reshape {
    pub shape: Vec<usize>,
}

/// The target of ONNX Reshape: 0 copies the input's dim (unless `allow_zero`), one −1 takes what is left.
fn resolve(from: &[usize], to: &[i64], allow_zero: bool) -> Result<Vec<usize>, OpError> {
    let bad = || OpError::Invalid(format!("shape {from:?} does not reshape to {to:?}"));
    let mut shape = Vec::with_capacity(to.len());
    let mut open = None;
    for (i, &dim) in to.iter().enumerate() {
        shape.push(match dim {
            0 if !allow_zero => *from.get(i).ok_or_else(bad)?,
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            _ => usize::try_from(dim).map_err(|_| bad())?,
        });
    }
    let (have, known) = (element_count(from).ok_or_else(bad)?, element_count(&shape).ok_or_else(bad)?);
    if let Some(open) = open {
        if known == 0 || have % known != 0 {
            return Err(bad());
        }
        shape[open] = have / known;
    } else if have != known {
        return Err(bad());
    }
    Ok(shape)
}

/// ONNX Reshape.
///
/// # Errors
/// When the target is computed at run time or does not hold the elements.
pub fn build_reshape(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let from = &context.input(0)?.shape;
    let allow_zero = context.attributes.flag("allowzero", false)?;
    let to = context.constant(1, "shape")?.to_i64();
    Ok(Box::new(Reshape { shape: resolve(from, &to, allow_zero)? }))
}

/// ONNX Flatten: to rank 2.
///
/// # Errors
/// When the axis is outside.
pub fn build_flatten(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let from = &context.input(0)?.shape;
    let axis = context.attributes.int("axis")?.unwrap_or(1);
    let rank = from.len() as i64;
    let resolved = if axis < 0 { axis + rank } else { axis };
    if !(0..=rank).contains(&resolved) {
        return Err(OpError::Invalid(format!("axis {axis} is outside a rank of {rank}")));
    }
    let (rows, columns) = from.split_at(resolved as usize);
    Ok(Box::new(Reshape { shape: vec![rows.iter().product(), columns.iter().product()] }))
}

/// ONNX Squeeze.
///
/// # Errors
/// When an axis is computed at run time, outside, or longer than 1.
pub fn build_squeeze(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let from = context.input(0)?.shape.clone();
    let axes = match context.ints_attribute_or_input("axes", 1, 13)? {
        Some(axes) => resolve_axes(&axes, from.len())?,
        None => (0..from.len()).filter(|&a| from[a] == 1).collect(),
    };
    if let Some(axis) = axes.iter().find(|&&a| from[a] != 1) {
        return Err(OpError::Invalid(format!("axis {axis} of shape {from:?} is longer than 1")));
    }
    let shape = (0..from.len()).filter(|a| !axes.contains(a)).map(|a| from[a]).collect();
    Ok(Box::new(Reshape { shape }))
}

/// ONNX Unsqueeze.
///
/// # Errors
/// When an axis is missing, computed at run time or outside.
pub fn build_unsqueeze(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let from = context.input(0)?.shape.clone();
    let axes =
        context.ints_attribute_or_input("axes", 1, 13)?.ok_or_else(|| OpError::Invalid("axes is missing".into()))?;
    let axes = resolve_axes(&axes, from.len() + axes.len())?;
    let mut rest = from.iter().copied();
    let rank = from.len() + axes.len();
    let shape = (0..rank).map(|a| if axes.contains(&a) { 1 } else { rest.next().unwrap_or(1) }).collect();
    Ok(Box::new(Reshape { shape }))
}

/// ONNX Identity.
///
/// # Errors
/// When the input is missing.
pub fn build_identity(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    Ok(Box::new(Reshape { shape: context.input(0)?.shape.clone() }))
}

/// ONNX Dropout, which does nothing at inference.
///
/// # Errors
/// In training mode.
pub fn build_dropout(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    context.attributes.without_effect(&["ratio", "seed"]);
    if let Some(training) = context.optional_constant(2, "training_mode")?
        && training.to_i64().iter().any(|&t| t != 0)
    {
        return context.refuse("training_mode = true; export the network for inference".into());
    }
    context.drop_input(1);
    if context.output_count < 2 {
        return build_identity(context);
    }
    let x = context.input(0)?;
    Ok(Box::new(DropoutWithMask { shape: x.shape.clone() }))
}

/// Dropout whose mask is asked for: at inference it is true everywhere.
#[derive(Clone, Debug)]
struct DropoutWithMask {
    shape: Vec<usize>,
}

impl Op for DropoutWithMask {
    fn name(&self) -> &'static str {
        "Dropout"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        super::context::check_shape(&self.shape)?;
        let count = element_count(&self.shape).unwrap_or(0);
        let mask = Tensor::new(self.shape.clone(), TensorElements::Bool(Arc::new(vec![true; count])));
        Ok(vec![Fact::new(x.dtype, &x.shape), Fact::of(&mask.map_err(OpError::Invalid)?)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let x = present(inputs, 0)?;
            let facts = self.infer(&[Some(&Fact::of(x))])?;
            Ok(std::iter::once(x.clone()).chain(facts.into_iter().filter_map(|f| f.constant)).collect())
        };
        Some(evaluate())
    }

    fn view_forward(&self, source: &View, _inputs: &[Option<&Fact>], output: usize) -> Option<View> {
        (output == 0).then(|| source.clone())
    }

    fn is_view(&self) -> bool {
        true
    }
}

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "Reshape"
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        if element_count(&x.shape).is_none() || element_count(&x.shape) != element_count(&self.shape) {
            return Err(OpError::Invalid(format!("shape {:?} does not reshape to {:?}", x.shape, self.shape)));
        }
        Ok(vec![Fact::new(x.dtype, &self.shape)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || Ok(vec![present(inputs, 0)?.reshaped(&self.shape).map_err(OpError::Invalid)?]);
        Some(evaluate())
    }

    fn view_forward(&self, source: &View, _inputs: &[Option<&Fact>], _output: usize) -> Option<View> {
        source.reshaped(&self.shape)
    }

    fn view_backward(&self, target: &View, inputs: &[Option<&Fact>]) -> Option<View> {
        target.reshaped(&inputs.first().copied().flatten()?.shape)
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

    fn shape(
        op_type: &str,
        opset: i64,
        attributes: &[AttributeProto],
        inputs: &[&Fact],
    ) -> Result<Vec<usize>, OpError> {
        let op = build_for_test(op_type, opset, attributes, inputs)?;
        op.infer(&[Some(inputs[0])]).map(|f| f[0].shape.clone())
    }

    #[test]
    fn reshape_resolves_zero_and_minus_one() {
        let x = Fact::f32(&[2, 3, 4]);
        let to = |v: &[i64]| Fact::of(&Tensor::vec_i64(v.to_vec()));
        assert_eq!(shape("Reshape", 13, &[], &[&x, &to(&[0, -1])]), Ok(vec![2, 12]));
        assert_eq!(shape("Reshape", 13, &[], &[&x, &to(&[-1])]), Ok(vec![24]));
        for bad in [&[5, -1][..], &[-1, -1], &[2, 3, 5], &[1, 1, 1, 0], &[-2, 12], &[1 << 40, 1 << 40]] {
            assert!(shape("Reshape", 13, &[], &[&x, &to(bad)]).is_err(), "{bad:?}");
        }
        let allow = [AttributeProto::int("allowzero", 1)];
        assert!(shape("Reshape", 14, &allow, &[&x, &to(&[0, 12])]).is_err());
        let e = shape("Reshape", 13, &[], &[&x, &Fact::f32(&[2])]).expect_err("computed");
        assert!(e.to_string().contains("static shapes"), "{e}");
    }

    #[test]
    fn flatten_squeeze_and_unsqueeze() {
        let x = Fact::f32(&[2, 1, 4, 1]);
        let axes = |v: &[i64]| AttributeProto::ints("axes", v);
        assert_eq!(shape("Flatten", 13, &[], &[&x]), Ok(vec![2, 4]));
        assert_eq!(shape("Flatten", 13, &[AttributeProto::int("axis", 0)], &[&x]), Ok(vec![1, 8]));
        assert_eq!(shape("Squeeze", 11, &[axes(&[-1])], &[&x]), Ok(vec![2, 1, 4]));
        assert_eq!(shape("Squeeze", 11, &[], &[&x]), Ok(vec![2, 4]));
        assert!(shape("Squeeze", 11, &[axes(&[0])], &[&x]).is_err());
        assert_eq!(shape("Unsqueeze", 11, &[axes(&[0, -1])], &[&Fact::f32(&[5])]), Ok(vec![1, 5, 1]));
        let new = Fact::of(&Tensor::vec_i64(vec![1]));
        assert_eq!(shape("Unsqueeze", 13, &[], &[&Fact::f32(&[5]), &new]), Ok(vec![5, 1]));
    }

    #[test]
    fn dropout_forgets_its_ratio() {
        let (x, ratio) = (Fact::f32(&[2, 2]), Fact::of(&Tensor::scalar_f32(0.5)));
        assert_eq!(shape("Dropout", 13, &[AttributeProto::int("seed", 1)], &[&x, &ratio]), Ok(vec![2, 2]));
    }
}
