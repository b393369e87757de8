//! `TensorProto` to [`Tensor`], with every declared size checked against the bytes that are there.

use super::proto::{DataType, TensorProto};
use crate::infer::tensor::{DType, Tensor, TensorElements, element_count};
use bytes::Bytes;
use std::sync::Arc;

/// The element type that stands for an ONNX type here; `None` where there is none. f16 becomes f32: the graph is f32
/// throughout and the planner chooses what is stored as f16.
pub fn dtype_of(onnx: i32) -> Option<DType> {
    match DataType::try_from(onnx).ok()? {
        DataType::Float | DataType::Float16 => Some(DType::F32),
        DataType::Double => Some(DType::F64),
        DataType::Int64 => Some(DType::I64),
        DataType::Int32 => Some(DType::I32),
        DataType::Uint8 => Some(DType::U8),
        DataType::Int8 => Some(DType::I8),
        DataType::Bool => Some(DType::Bool),
        _ => None,
    }
}

/// The standard's name of an element type, for messages.
pub fn type_name(onnx: i32) -> String {
    match DataType::try_from(onnx) {
        Ok(t) => format!("{t:?}").to_lowercase(),
        Err(_) => format!("number {onnx}"),
    }
}

fn scalars<const N: usize, T>(raw: &[u8], from_le: impl Fn([u8; N]) -> T) -> Vec<T> {
    let value = |chunk: &[u8]| {
        let mut bytes = [0; N];
        bytes.copy_from_slice(chunk);
        from_le(bytes)
    };
    raw.chunks_exact(N).map(value).collect()
}

/// Decodes a tensor. `external` gives the bytes of a tensor that lies in another file.
///
/// # Errors
/// What is wrong with it, in words: an element type that is not supported, a shape that does not agree with the number
/// of elements present.
pub fn decode(
    proto: &TensorProto,
    external: &mut dyn FnMut(&TensorProto) -> Result<Bytes, String>,
) -> Result<Tensor, String> {
    let shape: Vec<usize> =
        proto.dims.iter().map(|&d| usize::try_from(d).map_err(|_| format!("has dim {d}"))).collect::<Result<_, _>>()?;
    let onnx_type = DataType::try_from(proto.data_type).unwrap_or(DataType::Undefined);
    let width = match onnx_type {
        DataType::Double | DataType::Int64 => 8,
        DataType::Float | DataType::Int32 => 4,
        DataType::Float16 => 2,
        DataType::Uint8 | DataType::Int8 | DataType::Bool => 1,
        _ => {
            return Err(format!(
                "element type {} is not supported; convert it to f32, f16, i64, i32, u8, i8 or bool",
                type_name(proto.data_type)
            ));
        }
    };
    let count = element_count(&shape).ok_or_else(|| format!("shape {shape:?} is absurd"))?;
    let bytes = count.checked_mul(width).ok_or_else(|| format!("shape {shape:?} is absurd"))?;
    let outside;
    let raw: &[u8] = if proto.data_location == 1 {
        outside = external(proto)?;
        &outside
    } else {
        &proto.raw_data
    };
    let elements = if !raw.is_empty() || proto.data_location == 1 {
        if raw.len() != bytes {
            return Err(format!("shape {shape:?} needs {bytes} bytes, the file holds {}", raw.len()));
        }
        match onnx_type {
            DataType::Double => TensorElements::F64(Arc::new(scalars(raw, f64::from_le_bytes))),
            DataType::Int64 => TensorElements::I64(Arc::new(scalars(raw, i64::from_le_bytes))),
            DataType::Int32 => TensorElements::I32(Arc::new(scalars(raw, i32::from_le_bytes))),
            DataType::Float16 => TensorElements::F32(Arc::new(scalars(raw, |b| half::f16::from_le_bytes(b).to_f32()))),
            DataType::Uint8 => TensorElements::U8(Arc::new(raw.to_vec())),
            DataType::Int8 => TensorElements::I8(Arc::new(scalars(raw, i8::from_le_bytes))),
            DataType::Bool => TensorElements::Bool(Arc::new(raw.iter().map(|&b| b != 0).collect())),
            _ => TensorElements::F32(Arc::new(scalars(raw, f32::from_le_bytes))),
        }
    } else {
        let ints = &proto.int32_data;
        match onnx_type {
            DataType::Double => TensorElements::F64(Arc::new(proto.double_data.clone())),
            DataType::Int64 => TensorElements::I64(Arc::new(proto.int64_data.clone())),
            DataType::Int32 => TensorElements::I32(Arc::new(ints.clone())),
            // Bit patterns, one per int32.
            DataType::Float16 => {
                TensorElements::F32(Arc::new(ints.iter().map(|&x| half::f16::from_bits(x as u16).to_f32()).collect()))
            }
            DataType::Uint8 => TensorElements::U8(Arc::new(ints.iter().map(|&x| x as u8).collect())),
            DataType::Int8 => TensorElements::I8(Arc::new(ints.iter().map(|&x| x as i8).collect())),
            DataType::Bool => TensorElements::Bool(Arc::new(ints.iter().map(|&x| x != 0).collect())),
            _ => TensorElements::F32(Arc::new(proto.float_data.clone())),
        }
    };
    Tensor::new(shape, elements)
}

/// As [`decode`] for tensors that must be inside the file, such as attributes.
///
/// # Errors
/// As [`decode`].
pub fn decode_inline(proto: &TensorProto) -> Result<Tensor, String> {
    decode(proto, &mut |_| Err("lies in another file, which is only supported for initializers".to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proto(data_type: DataType, dims: &[i64], raw: &[u8]) -> TensorProto {
        TensorProto {
            dims: dims.to_vec(),
            data_type: data_type as i32,
            raw_data: Bytes::copy_from_slice(raw),
            ..Default::default()
        }
    }

    #[test]
    fn raw_and_typed_fields_give_the_same_values() {
        let raw = decode_inline(&proto(DataType::Float16, &[2], &[0x00, 0x3c, 0x00, 0xc0])).expect("f16");
        assert_eq!(raw.as_f32(), Some(&[1.0, -2.0][..]));
        let mut typed = proto(DataType::Float16, &[2], &[]);
        typed.int32_data = vec![0x3c00, 0xc000];
        assert_eq!(decode_inline(&typed).expect("f16"), raw);
        let longs = decode_inline(&proto(DataType::Int64, &[1], &(-3i64).to_le_bytes())).expect("i64");
        assert_eq!(longs.as_i64(), Some(&[-3][..]));
    }

    #[test]
    fn sizes_that_are_not_there_are_refused_before_allocating() {
        for dims in [vec![1i64 << 60], vec![1 << 40, 1 << 40], vec![3], vec![-1], vec![]] {
            assert!(decode_inline(&proto(DataType::Float, &dims, &[0; 8])).is_err(), "{dims:?}");
        }
        assert!(decode_inline(&proto(DataType::Float, &[1 << 60], &[])).is_err());
        assert!(decode_inline(&proto(DataType::String, &[1], &[0])).is_err_and(|e| e.contains("string")));
    }

    #[test]
    fn an_empty_tensor_is_allowed() {
        assert!(decode_inline(&proto(DataType::Float, &[0], &[])).is_ok_and(|t| t.is_empty()));
    }
}
