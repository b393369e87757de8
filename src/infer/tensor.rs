//! Dense host tensors: what files hold, what `run` takes and gives, what constants are.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Element type of a [`Tensor`] or a graph value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F16,
    F64,
    I64,
    I32,
    U8,
    I8,
    Bool,
}

impl DType {
    /// Bytes of one element.
    pub const fn size_bytes(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 => 2,
            DType::U8 | DType::I8 | DType::Bool => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::F64 => "f64",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::U8 => "u8",
            DType::I8 => "i8",
            DType::Bool => "bool",
        })
    }
}

/// Elements of a tensor. Cloning shares the storage.
#[derive(Clone, PartialEq)]
pub enum TensorElements {
    F32(Arc<Vec<f32>>),
    F16(Arc<Vec<half::f16>>),
    F64(Arc<Vec<f64>>),
    I64(Arc<Vec<i64>>),
    I32(Arc<Vec<i32>>),
    U8(Arc<Vec<u8>>),
    I8(Arc<Vec<i8>>),
    Bool(Arc<Vec<bool>>),
}

/// A dense, row-major (last axis fastest) tensor in host memory.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    elements: TensorElements,
}

/// `product(shape)`, or `None` when it does not fit in memory arithmetic.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

impl Tensor {
    /// A tensor from its parts.
    ///
    /// # Errors
    /// The number of elements must be the product of the shape.
    pub fn new(shape: Vec<usize>, elements: TensorElements) -> Result<Tensor, String> {
        let tensor = Tensor { shape, elements };
        match element_count(&tensor.shape) {
            Some(n) if n == tensor.len() => Ok(tensor),
            _ => Err(format!("shape {:?} does not hold {} elements", tensor.shape, tensor.len())),
        }
    }

    /// An f32 tensor; see [`Tensor::new`] for the error.
    pub fn from_f32(shape: &[usize], values: Vec<f32>) -> Result<Tensor, String> {
        Tensor::new(shape.to_vec(), TensorElements::F32(Arc::new(values)))
    }

    /// An i64 tensor; see [`Tensor::new`] for the error.
    pub fn from_i64(shape: &[usize], values: Vec<i64>) -> Result<Tensor, String> {
        Tensor::new(shape.to_vec(), TensorElements::I64(Arc::new(values)))
    }

    /// A rank-1 i64 tensor, the form in which shapes travel.
    pub fn vec_i64(values: Vec<i64>) -> Tensor {
        Tensor { shape: vec![values.len()], elements: TensorElements::I64(Arc::new(values)) }
    }

    /// A rank-0 f32 tensor.
    pub fn scalar_f32(value: f32) -> Tensor {
        Tensor { shape: vec![], elements: TensorElements::F32(Arc::new(vec![value])) }
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match &self.elements {
            TensorElements::F32(v) => v.len(),
            TensorElements::F16(v) => v.len(),
            TensorElements::F64(v) => v.len(),
            TensorElements::I64(v) => v.len(),
            TensorElements::I32(v) => v.len(),
            TensorElements::U8(v) => v.len(),
            TensorElements::I8(v) => v.len(),
            TensorElements::Bool(v) => v.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn dtype(&self) -> DType {
        match &self.elements {
            TensorElements::F32(_) => DType::F32,
            TensorElements::F16(_) => DType::F16,
            TensorElements::F64(_) => DType::F64,
            TensorElements::I64(_) => DType::I64,
            TensorElements::I32(_) => DType::I32,
            TensorElements::U8(_) => DType::U8,
            TensorElements::I8(_) => DType::I8,
            TensorElements::Bool(_) => DType::Bool,
        }
    }

    pub fn elements(&self) -> &TensorElements {
        &self.elements
    }

    /// The values, where the tensor is f32.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.elements {
            TensorElements::F32(v) => Some(v),
            _ => None,
        }
    }

    /// The values, where the tensor is i64.
    pub fn as_i64(&self) -> Option<&[i64]> {
        match &self.elements {
            TensorElements::I64(v) => Some(v),
            _ => None,
        }
    }

    /// All values as f32; f64 and integers round to nearest.
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.elements {
            TensorElements::F32(v) => v.to_vec(),
            TensorElements::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            TensorElements::F64(v) => v.iter().map(|&x| x as f32).collect(),
            TensorElements::I64(v) => v.iter().map(|&x| x as f32).collect(),
            TensorElements::I32(v) => v.iter().map(|&x| x as f32).collect(),
            TensorElements::U8(v) => v.iter().map(|&x| f32::from(x)).collect(),
            TensorElements::I8(v) => v.iter().map(|&x| f32::from(x)).collect(),
            TensorElements::Bool(v) => v.iter().map(|&x| f32::from(u8::from(x))).collect(),
        }
    }

    /// All values as f32, without a copy where the tensor is f32.
    pub fn f32_values(&self) -> Cow<'_, [f32]> {
        self.as_f32().map_or_else(|| Cow::Owned(self.to_f32()), Cow::Borrowed)
    }

    /// All values as i64; fractions are cut off.
    pub fn to_i64(&self) -> Vec<i64> {
        match &self.elements {
            TensorElements::F32(v) => v.iter().map(|&x| x as i64).collect(),
            TensorElements::F16(v) => v.iter().map(|x| x.to_f32() as i64).collect(),
            TensorElements::F64(v) => v.iter().map(|&x| x as i64).collect(),
            TensorElements::I64(v) => v.to_vec(),
            TensorElements::I32(v) => v.iter().map(|&x| i64::from(x)).collect(),
            TensorElements::U8(v) => v.iter().map(|&x| i64::from(x)).collect(),
            TensorElements::I8(v) => v.iter().map(|&x| i64::from(x)).collect(),
            TensorElements::Bool(v) => v.iter().map(|&x| i64::from(x)).collect(),
        }
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// The element counts must agree.
    pub fn reshaped(&self, shape: &[usize]) -> Result<Tensor, String> {
        Tensor::new(shape.to_vec(), self.elements.clone())
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}{:?})", self.dtype(), self.shape)
    }
}
