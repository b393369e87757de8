//! Dense host tensors: what constant folding computes with.

use super::context::broadcast_shapes;
use crate::infer::op::OpError;
use crate::infer::plan::view::{BufferId, View};
use crate::infer::tensor::{DType, Tensor, TensorElements, element_count};
use std::sync::Arc;

/// The view that a dense tensor is of itself.
pub fn view_of(tensor: &Tensor) -> View {
    View::row_major(BufferId(0), tensor.shape())
}

/// Positions in the buffer of all elements of a view, in row-major order of its axes.
pub fn walk(view: &View) -> impl Iterator<Item = usize> + '_ {
    let mut at = vec![0; view.rank()];
    let mut position = view.offset;
    (0..view.len()).map(move |_| {
        let here = position;
        for axis in (0..view.rank()).rev() {
            at[axis] += 1;
            position += view.strides[axis];
            if at[axis] < view.shape[axis] {
                break;
            }
            position -= at[axis] * view.strides[axis];
            at[axis] = 0;
        }
        here
    })
}

macro_rules! each_type {
    ($tensor:expr, $values:ident => $body:expr) => {
        match $tensor.elements() {
            TensorElements::F32($values) => TensorElements::F32(Arc::new($body)),
            TensorElements::F16($values) => TensorElements::F16(Arc::new($body)),
            TensorElements::F64($values) => TensorElements::F64(Arc::new($body)),
            TensorElements::I64($values) => TensorElements::I64(Arc::new($body)),
            TensorElements::I32($values) => TensorElements::I32(Arc::new($body)),
            TensorElements::U8($values) => TensorElements::U8(Arc::new($body)),
            TensorElements::I8($values) => TensorElements::I8(Arc::new($body)),
            TensorElements::Bool($values) => TensorElements::Bool(Arc::new($body)),
        }
    };
}

fn tensor(shape: &[usize], elements: TensorElements) -> Result<Tensor, OpError> {
    Tensor::new(shape.to_vec(), elements).map_err(OpError::Invalid)
}

/// A tensor of `shape` from the elements at `positions`.
///
/// # Errors
/// When a position is outside, or their number is not that of the shape.
pub fn pick(source: &Tensor, positions: impl Iterator<Item = usize>, shape: &[usize]) -> Result<Tensor, OpError> {
    let positions: Vec<usize> = positions.collect();
    if let Some(bad) = positions.iter().find(|&&p| p >= source.len()) {
        return Err(OpError::Invalid(format!("element {bad} is outside a tensor of {}", source.len())));
    }
    tensor(shape, each_type!(source, v => positions.iter().map(|&p| v[p]).collect()))
}

/// The elements that a view of a dense tensor shows.
///
/// # Errors
/// When the view reaches outside.
pub fn take(source: &Tensor, view: &View) -> Result<Tensor, OpError> {
    pick(source, walk(view), &view.shape)
}

/// All elements of tensors of one type, one after the other, in rank 1.
///
/// # Errors
/// When the types differ, or there are none.
pub fn append(parts: &[&Tensor]) -> Result<Tensor, OpError> {
    let Some(first) = parts.first() else { return Err(OpError::Invalid("has no inputs".into())) };
    if let Some(other) = parts.iter().find(|p| p.dtype() != first.dtype()) {
        return Err(OpError::Invalid(format!("mixes element types {} and {}", first.dtype(), other.dtype())));
    }
    let count = parts.iter().map(|p| p.len()).sum();
    macro_rules! joined {
        ($($kind:ident),*) => {
            match first.elements() {
                $(TensorElements::$kind(_) => {
                    let mut all = Vec::with_capacity(count);
                    for part in parts {
                        if let TensorElements::$kind(values) = part.elements() {
                            all.extend_from_slice(values);
                        }
                    }
                    TensorElements::$kind(Arc::new(all))
                })*
            }
        };
    }
    tensor(&[count], joined!(F32, F16, F64, I64, I32, U8, I8, Bool))
}

/// Values in the widest type of their kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    Float(Vec<f64>),
    /// Booleans are 0 and 1.
    Int(Vec<i64>),
}

/// The values of a tensor, widened.
pub fn numbers(tensor: &Tensor) -> Numbers {
    match tensor.elements() {
        TensorElements::F64(v) => Numbers::Float(v.to_vec()),
        TensorElements::F32(_) | TensorElements::F16(_) => {
            Numbers::Float(tensor.to_f32().into_iter().map(f64::from).collect())
        }
        _ => Numbers::Int(tensor.to_i64()),
    }
}

/// The values as a tensor of `dtype`: integers wrap, floats become integers by cutting off the fraction (and saturate),
/// everything but zero is true.
///
/// # Errors
/// When the count is not that of the shape.
pub fn from_numbers(shape: &[usize], dtype: DType, values: &Numbers) -> Result<Tensor, OpError> {
    macro_rules! cast {
        ($kind:ident, $t:ty) => {
            TensorElements::$kind(Arc::new(match values {
                Numbers::Float(v) => v.iter().map(|&x| x as $t).collect(),
                Numbers::Int(v) => v.iter().map(|&x| x as $t).collect(),
            }))
        };
    }
    let elements = match dtype {
        DType::F32 => cast!(F32, f32),
        DType::F64 => cast!(F64, f64),
        DType::I64 => cast!(I64, i64),
        DType::I32 => cast!(I32, i32),
        DType::U8 => cast!(U8, u8),
        DType::I8 => cast!(I8, i8),
        DType::F16 => TensorElements::F16(Arc::new(match values {
            Numbers::Float(v) => v.iter().map(|&x| half::f16::from_f64(x)).collect(),
            Numbers::Int(v) => v.iter().map(|&x| half::f16::from_f64(x as f64)).collect(),
        })),
        DType::Bool => TensorElements::Bool(Arc::new(match values {
            Numbers::Float(v) => v.iter().map(|&x| x != 0.0).collect(),
            Numbers::Int(v) => v.iter().map(|&x| x != 0).collect(),
        })),
    };
    tensor(shape, elements)
}

/// The two operands of each output element, broadcast: `(shape, a, b)`. Both kinds must be equal.
///
/// # Errors
/// When shapes do not broadcast.
pub fn broadcast_pair(a: &Tensor, b: &Tensor) -> Result<(Vec<usize>, Tensor, Tensor), OpError> {
    let shape = broadcast_shapes(a.shape(), b.shape())?;
    if element_count(&shape).is_none_or(|n| n > super::context::ELEMENTS_MAX) {
        return Err(OpError::Unsupported(format!("shape {shape:?} is too large")));
    }
    let stretch = |t: &Tensor| {
        if t.shape() == shape {
            return Ok(t.clone());
        }
        take(t, &super::context::stretched(&view_of(t), &shape)?)
    };
    Ok((shape.clone(), stretch(a)?, stretch(b)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walk_follows_strides() {
        let v = View::row_major(BufferId(0), &[2, 3]).transposed(&[1, 0]);
        assert_eq!(walk(&v).collect::<Vec<_>>(), [0, 3, 1, 4, 2, 5]);
        let v = View::row_major(BufferId(0), &[1, 2]).broadcast_to(&[2, 2, 2]).expect("broadcast");
        assert_eq!(walk(&v).collect::<Vec<_>>(), [0, 1, 0, 1, 0, 1, 0, 1]);
        assert_eq!(walk(&View::row_major(BufferId(0), &[])).collect::<Vec<_>>(), [0]);
        assert_eq!(walk(&View::row_major(BufferId(0), &[2, 0])).count(), 0);
    }

    #[test]
    fn taking_outside_is_an_error() {
        let t = Tensor::vec_i64(vec![1, 2, 3]);
        assert!(take(&t, &View::row_major(BufferId(0), &[4])).is_err());
        assert_eq!(pick(&t, [2, 0].into_iter(), &[2]), Ok(Tensor::vec_i64(vec![3, 1])));
    }

    #[test]
    fn numbers_convert_by_the_rules() {
        let f = Numbers::Float(vec![-1.7, 2.5, 0.0]);
        assert_eq!(from_numbers(&[3], DType::I64, &f).map(|t| t.to_i64()), Ok(vec![-1, 2, 0]));
        assert_eq!(from_numbers(&[3], DType::Bool, &f).map(|t| t.to_i64()), Ok(vec![1, 1, 0]));
        let i = Numbers::Int(vec![257]);
        assert_eq!(from_numbers(&[1], DType::U8, &i).map(|t| t.to_i64()), Ok(vec![1]));
    }
}
