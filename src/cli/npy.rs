//! Tensors as NumPy files.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;

use eyas::Tensor;
use eyas::infer::tensor::TensorElements;
use npyz::WriterBuilder as _;

use super::CliError;

/// Tensors with more elements are refused before memory is asked for.
const MAX_ELEMENTS: u64 = 1 << 28;

/// Reads a C-order array of f4, f8, i8, i4, u1, i1 or b1.
pub fn read(path: &Path) -> Result<Tensor, CliError> {
    let fail = |why: String| CliError::Runtime(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|e| fail(e.to_string()))?;
    let npy = npyz::NpyFile::new(BufReader::new(file)).map_err(|e| fail(format!("not a .npy file: {e}")))?;
    if npy.order() != npyz::Order::C {
        return Err(fail("is in Fortran order; save numpy.ascontiguousarray(x) instead".into()));
    }
    if npy.len() > MAX_ELEMENTS {
        return Err(fail(format!("has {} elements, the limit is {MAX_ELEMENTS}", npy.len())));
    }
    let shape: Vec<usize> = npy.shape().iter().map(|&d| d as usize).collect();
    let dtype = npy.dtype().descr();
    let elements: std::io::Result<TensorElements> = match dtype.trim_matches('\'') {
        "<f4" => npy.into_vec().map(|v| TensorElements::F32(Arc::new(v))),
        "<f8" => npy.into_vec().map(|v| TensorElements::F64(Arc::new(v))),
        "<i8" => npy.into_vec().map(|v| TensorElements::I64(Arc::new(v))),
        "<i4" => npy.into_vec().map(|v| TensorElements::I32(Arc::new(v))),
        "|u1" => npy.into_vec().map(|v| TensorElements::U8(Arc::new(v))),
        "|i1" => npy.into_vec().map(|v| TensorElements::I8(Arc::new(v))),
        "|b1" => npy.into_vec().map(|v| TensorElements::Bool(Arc::new(v))),
        other => return Err(fail(format!("has element type {other}; save numpy float32"))),
    };
    let elements = elements.map_err(|e| fail(e.to_string()))?;
    Tensor::new(shape, elements).map_err(fail)
}

/// Writes a tensor in its own element type; f16 as float32.
pub fn write(path: &Path, tensor: &Tensor) -> Result<(), CliError> {
    let fail = |e: std::io::Error| CliError::Runtime(format!("cannot write {}: {e}", path.display()));
    let shape: Vec<u64> = tensor.shape().iter().map(|&d| d as u64).collect();
    let mut out = BufWriter::new(File::create(path).map_err(fail)?);
    macro_rules! write_all {
        ($values:expr) => {{
            let options = npyz::WriteOptions::new().default_dtype().shape(&shape);
            let mut writer = options.writer(&mut out).begin_nd().map_err(fail)?;
            writer.extend($values).map_err(fail)?;
            writer.finish().map_err(fail)?;
        }};
    }
    match tensor.elements() {
        TensorElements::F64(v) => write_all!(v.iter()),
        TensorElements::I64(v) => write_all!(v.iter()),
        TensorElements::I32(v) => write_all!(v.iter()),
        TensorElements::U8(v) => write_all!(v.iter()),
        TensorElements::I8(v) => write_all!(v.iter()),
        TensorElements::Bool(v) => write_all!(v.iter()),
        TensorElements::F32(_) | TensorElements::F16(_) => write_all!(tensor.to_f32()),
    }
    out.flush().map_err(fail)
}
