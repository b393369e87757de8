//! How far one tensor lies from another.

use crate::infer::ops::dense::{Numbers, numbers};
use crate::infer::tensor::{DType, Tensor};

/// What separates a tensor from the one that was expected.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// Largest absolute difference; infinite where a NaN or an infinity stands on one side only, and where shapes or kinds
    /// of elements differ.
    pub absolute: f64,
    /// Largest finite absolute value that was expected.
    pub magnitude: f64,
    /// Where the largest difference is, what stands there, and what was expected there. `None` without any difference.
    pub worst: Option<Place>,
    /// NaNs and infinities of the tensor, and of the one that was expected.
    pub odd: [Odd; 2],
    /// Why the two cannot be compared at all.
    pub mismatch: Option<String>,
}

/// An element of both tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub index: Vec<usize>,
    pub got: f64,
    pub wanted: f64,
}

/// How many elements are no finite number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Odd {
    pub nan: usize,
    pub infinite: usize,
}

impl Odd {
    fn of(values: &[f64]) -> Odd {
        Odd {
            nan: values.iter().filter(|v| v.is_nan()).count(),
            infinite: values.iter().filter(|v| v.is_infinite()).count(),
        }
    }

    pub fn any(self) -> bool {
        self != Odd::default()
    }
}

impl Difference {
    /// Compares all elements. f32, f16 and f64 are one kind, and so are the integers; NaN equals NaN.
    pub fn between(got: &Tensor, wanted: &Tensor) -> Difference {
        let mismatch = if is_float(got) != is_float(wanted) {
            Some(format!("is {}, expected {}", got.dtype(), wanted.dtype()))
        } else if got.shape() != wanted.shape() {
            Some(format!("has shape {:?}, expected {:?}", got.shape(), wanted.shape()))
        } else {
            None
        };
        if mismatch.is_some() {
            return Difference { absolute: f64::INFINITY, mismatch, ..Difference::default() };
        }
        let (got_values, wanted_values) = (wide(got), wide(wanted));
        let mut difference =
            Difference { odd: [Odd::of(&got_values), Odd::of(&wanted_values)], ..Difference::default() };
        let mut worst = None;
        for (i, (&g, &w)) in got_values.iter().zip(&wanted_values).enumerate() {
            if w.is_finite() {
                difference.magnitude = difference.magnitude.max(w.abs());
            }
            let same = g == w || (g.is_nan() && w.is_nan());
            let apart = if same { 0.0 } else { (g - w).abs() };
            // A difference that is no number is as large as can be.
            let apart = if apart.is_nan() { f64::INFINITY } else { apart };
            if apart > difference.absolute {
                difference.absolute = apart;
                worst = Some(i);
            }
        }
        difference.worst =
            worst.map(|i| Place { index: index_of(i, wanted.shape()), got: got_values[i], wanted: wanted_values[i] });
        difference
    }

    /// The largest difference over the largest value that was expected.
    pub fn relative(&self) -> f64 {
        if self.absolute == 0.0 { 0.0 } else { self.absolute / self.magnitude.max(f64::from(f32::MIN_POSITIVE)) }
    }
}

fn is_float(tensor: &Tensor) -> bool {
    matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::F64)
}

fn wide(tensor: &Tensor) -> Vec<f64> {
    match numbers(tensor) {
        Numbers::Float(values) => values,
        Numbers::Int(values) => values.into_iter().map(|v| v as f64).collect(),
    }
}

fn index_of(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (at, &extent) in index.iter_mut().zip(shape).rev() {
        *at = flat % extent.max(1);
        flat /= extent.max(1);
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_f32(&[values.len() / 2, 2], values.to_vec()).expect("shape")
    }

    #[test]
    fn the_largest_difference_is_found_and_named() {
        let d = Difference::between(&tensor(&[1.0, -8.0, 3.0, 4.5]), &tensor(&[1.0, -8.0, 3.0, 4.0]));
        assert_eq!((d.absolute, d.relative()), (0.5, 0.0625));
        assert_eq!(d.worst, Some(Place { index: vec![1, 1], got: 4.5, wanted: 4.0 }));
        assert_eq!(Difference::between(&tensor(&[0.0, 0.0]), &tensor(&[0.0, 0.0])).relative(), 0.0);
    }

    #[test]
    fn nan_and_infinity_count_unless_both_have_them() {
        let odd = tensor(&[f32::NAN, f32::INFINITY]);
        let d = Difference::between(&odd, &odd);
        assert_eq!((d.absolute, d.odd), (0.0, [Odd { nan: 1, infinite: 1 }; 2]));
        for bad in [f32::NAN, f32::INFINITY] {
            let d = Difference::between(&tensor(&[bad, 1.0]), &tensor(&[2.0, 1.0]));
            assert!(d.relative().is_infinite(), "{bad}");
            assert_eq!(d.worst.map(|p| p.index), Some(vec![0, 0]));
        }
    }

    #[test]
    fn shapes_and_kinds_must_agree() {
        let d = Difference::between(&tensor(&[1.0, 2.0]), &tensor(&[1.0, 2.0, 3.0, 4.0]));
        assert!(d.mismatch.is_some_and(|why| why.contains("[1, 2]")) && d.absolute.is_infinite());
        let integers = Tensor::from_i64(&[1, 2], vec![1, 2]).expect("shape");
        assert!(Difference::between(&tensor(&[1.0, 2.0]), &integers).mismatch.is_some());
    }
}
