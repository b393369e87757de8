//! Tensors as NumPy files.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::Path;

use eyas::Tensor;
use npyz::WriterBuilder as _;

use super::CliError;

/// Tensors with more elements are refused before memory is asked for.
const MAX_ELEMENTS: u64 = 1 << 28;

/// Reads a C-order array of f4, f8, i8, i4 or u1 as f32.
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
    let values: std::io::Result<Vec<f32>> = match dtype.trim_matches('\'') {
        "<f4" => npy.into_vec::<f32>(),
        "<f8" => npy.into_vec::<f64>().map(|v| v.iter().map(|&x| x as f32).collect()),
        "<i8" => npy.into_vec::<i64>().map(|v| v.iter().map(|&x| x as f32).collect()),
        "<i4" => npy.into_vec::<i32>().map(|v| v.iter().map(|&x| x as f32).collect()),
        "|u1" => npy.into_vec::<u8>().map(|v| v.iter().map(|&x| f32::from(x)).collect()),
        other => return Err(fail(format!("has element type {other}; save numpy float32"))),
    };
    let values = values.map_err(|e| fail(e.to_string()))?;
    Tensor::from_f32(&shape, values).map_err(fail)
}

/// Writes a tensor as float32.
pub fn write(path: &Path, tensor: &Tensor) -> Result<(), CliError> {
    let fail = |e: std::io::Error| CliError::Runtime(format!("cannot write {}: {e}", path.display()));
    let shape: Vec<u64> = tensor.shape().iter().map(|&d| d as u64).collect();
    let mut out = BufWriter::new(File::create(path).map_err(fail)?);
    let mut writer =
        npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut out).begin_nd().map_err(fail)?;
    writer.extend(tensor.to_f32()).map_err(fail)?;
    writer.finish().map_err(fail)?;
    out.flush().map_err(fail)
}
