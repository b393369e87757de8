//! Inputs of the graph: types, and dynamic dims bound to numbers.

use super::proto::{DimensionProto, DimensionValue, TensorTypeProto, ValueInfoProto};
use super::tensors;
use crate::infer::graph::Declared;
use crate::infer::import::{ImportError, ImportOptions};
use crate::infer::ops::context::ELEMENTS_MAX;
use crate::infer::tensor::{DType, element_count};

/// A dim as the file gives it: a number, or a name ("" for none).
enum Dim<'a> {
    Fixed(usize),
    Dynamic(&'a str),
}

/// Element type (`None`: not supported) and shape of an input. Dims that the file leaves open come from
/// `options.shapes`, else from `options.dims` by their name, else height and width from `options.size_px`; the batch
/// is 1 where nothing says otherwise.
///
/// # Errors
/// When a dim stays open, or the size that was asked for is not that of the file.
pub fn bind(input: &ValueInfoProto, options: &ImportOptions) -> Result<(Option<DType>, Vec<usize>), ImportError> {
    let name = &input.name;
    let tensor: &TensorTypeProto = input
        .r#type
        .as_ref()
        .and_then(|t| t.tensor_type.as_ref())
        .ok_or_else(|| ImportError::malformed(format!("input '{name}' has no tensor type")))?;
    let declared = tensor.shape.as_ref().ok_or_else(|| {
        ImportError::malformed(format!("input '{name}' has no shape; export the network with a shape for its inputs"))
    })?;
    // Some exporters write 0 for "any" in pictures; elsewhere it is an empty tensor.
    let rank = declared.dim.len();
    let dims: Vec<Dim<'_>> = declared
        .dim
        .iter()
        .map(|d| match &d.value {
            Some(DimensionValue::Value(v)) => match usize::try_from(*v) {
                Ok(v) if v > 0 || rank != 4 => Dim::Fixed(v),
                _ => Dim::Dynamic(""),
            },
            Some(DimensionValue::Param(p)) => Dim::Dynamic(p),
            None => Dim::Dynamic(""),
        })
        .collect();
    let picture = picture_axes(&dims);
    let whole = options.shapes.get(name);
    if let Some(whole) = whole.filter(|s| s.len() != dims.len()) {
        return Err(ImportError::MissingOption {
            what: format!("input '{name}' has {} axes, shape {whole:?} was given for it", dims.len()),
        });
    }
    let mut shape = Vec::with_capacity(dims.len());
    for (axis, dim) in dims.iter().enumerate() {
        let from_size = picture.and_then(|axes| axes.iter().position(|&a| a == axis));
        // Width comes first in the option, height first in the axes.
        let asked = from_size.and_then(|i| options.size_px.map(|size| size[1 - i]));
        shape.push(match *dim {
            Dim::Fixed(extent) => {
                if let Some(asked) = asked.filter(|&a| a != extent) {
                    return Err(ImportError::MissingOption {
                        what: format!(
                            "input '{name}' has a fixed {} of {extent} pixels, {asked} was asked for; leave --size out, or export the network with dynamic height and width",
                            if from_size == Some(0) { "height" } else { "width" }
                        ),
                    });
                }
                extent
            }
            Dim::Dynamic(param) => match (options.dims.get(param), asked) {
                _ if whole.is_some() => whole.map_or(0, |s| s[axis]),
                (Some(&given), _) if !param.is_empty() => given,
                (_, Some(asked)) => asked,
                _ if axis == 0 && from_size.is_none() => 1,
                _ if from_size.is_some() => {
                    return Err(ImportError::MissingOption {
                        what: format!("input '{name}' has a dynamic height or width; pass --size WIDTHxHEIGHT"),
                    });
                }
                _ => {
                    return Err(ImportError::MissingOption {
                        what: format!(
                            "dim {axis} ('{param}') of input '{name}' is dynamic and nothing says its size; give the input's shape (ImportOptions::shapes), or export the network with a fixed one"
                        ),
                    });
                }
            },
        });
    }
    if element_count(&shape).is_none_or(|n| n > ELEMENTS_MAX) {
        return Err(ImportError::malformed(format!(
            "input '{name}' has shape {shape:?}; up to {ELEMENTS_MAX} elements are supported"
        )));
    }
    Ok((tensors::dtype_of(tensor.elem_type), shape))
}

/// Type and shape of an output as the file has them; `None` where it does not say.
pub fn declared(tensor: &TensorTypeProto) -> Option<Declared> {
    let extent = |d: &DimensionProto| match d.value {
        Some(DimensionValue::Value(v)) => usize::try_from(v).ok(),
        _ => None,
    };
    let dims = tensor.shape.as_ref()?.dim.iter().map(extent).collect();
    Some(Declared { dtype: tensors::dtype_of(tensor.elem_type)?, dims })
}

/// Axes of height and width of a picture: 2 and 3, or 1 and 2 where the channels stand last.
fn picture_axes(dims: &[Dim<'_>]) -> Option<[usize; 2]> {
    let channels = |d: &Dim<'_>| matches!(d, Dim::Fixed(1 | 3 | 4));
    match dims {
        [_, c, _, last] if !channels(c) && channels(last) => Some([1, 2]),
        [_, _, _, _] => Some([2, 3]),
        // One picture without a batch, as torchvision's detectors take it.
        [c, _, _] if channels(c) => Some([1, 2]),
        [_, _, last] if channels(last) => Some([0, 1]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::{DataType, TensorShapeProto, TypeProto};
    use super::*;
    use std::collections::BTreeMap;

    fn input(dims: &[&str]) -> ValueInfoProto {
        let value = |d: &&str| match d.parse::<i64>() {
            Ok(v) => DimensionValue::Value(v),
            Err(_) => DimensionValue::Param(d.to_string()),
        };
        let dim = dims.iter().map(|d| DimensionProto { value: Some(value(d)) }).collect();
        let tensor = TensorTypeProto { elem_type: DataType::Float as i32, shape: Some(TensorShapeProto { dim }) };
        ValueInfoProto { name: "x".into(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
    }

    fn shape(dims: &[&str], size_px: Option<[usize; 2]>, named: &[(&str, usize)]) -> Result<Vec<usize>, String> {
        let dims_by_name: BTreeMap<String, usize> = named.iter().map(|(k, v)| (k.to_string(), *v)).collect();
        let options = ImportOptions { size_px, dims: dims_by_name, ..ImportOptions::default() };
        bind(&input(dims), &options).map(|(_, shape)| shape).map_err(|e| e.to_string())
    }

    #[test]
    fn dynamic_dims_are_bound() {
        assert_eq!(shape(&["batch", "3", "h", "w"], Some([640, 480]), &[]), Ok(vec![1, 3, 480, 640]));
        assert_eq!(shape(&["-1", "h", "w", "3"], Some([640, 480]), &[]), Ok(vec![1, 480, 640, 3]));
        assert_eq!(shape(&["n", "3", "h", "8"], None, &[("h", 16), ("n", 2)]), Ok(vec![2, 3, 16, 8]));
        assert_eq!(shape(&["n", "10"], None, &[]), Ok(vec![1, 10]));
        assert!(shape(&["n", "3", "h", "w"], None, &[]).is_err_and(|e| e.contains("--size")));
        assert!(shape(&["n", "length"], None, &[]).is_err_and(|e| e.contains("length")));
    }

    #[test]
    fn a_given_shape_binds_the_batch_and_pictures_without_one() {
        let options = |shape: &[usize]| ImportOptions {
            shapes: BTreeMap::from([("x".to_string(), shape.to_vec())]),
            ..ImportOptions::default()
        };
        let bound = |dims: &[&str], shape: &[usize]| bind(&input(dims), &options(shape)).map(|(_, shape)| shape);
        assert_eq!(bound(&["n", "3", "h", "w"], &[4, 3, 10, 20]).ok(), Some(vec![4, 3, 10, 20]));
        assert_eq!(bound(&["n", "3", "h", "w"], &[4, 1, 10, 20]).ok(), Some(vec![4, 3, 10, 20]), "fixed stays");
        assert!(bound(&["n", "3"], &[4, 3, 1]).is_err());
        assert_eq!(shape(&["3", "h", "w"], Some([64, 48]), &[]), Ok(vec![3, 48, 64]));
        assert_eq!(shape(&["h", "w", "3"], Some([64, 48]), &[]), Ok(vec![48, 64, 3]));
    }

    #[test]
    fn fixed_sizes_stay_and_absurd_ones_are_refused() {
        assert_eq!(shape(&["1", "3", "320", "416"], Some([416, 320]), &[]), Ok(vec![1, 3, 320, 416]));
        assert!(shape(&["1", "3", "320", "320"], Some([416, 320]), &[]).is_err_and(|e| e.contains("width of 320")));
        assert!(shape(&["1", "1152921504606846976", "3", "3"], None, &[]).is_err());
    }
}
