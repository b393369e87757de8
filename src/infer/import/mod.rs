//! Files become graphs here: one folder or file per format.

pub mod error;

pub use error::{ImportError, Unsupported};

use std::collections::BTreeMap;

/// What the caller decides about a model whose file leaves it open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Width and height of the picture input, in pixels. Binds dynamic dims; a fixed size in an ONNX file wins over
    /// nothing but its equal.
    pub size_px: Option<[usize; 2]>,
    /// Values of named dynamic dims.
    pub dims: BTreeMap<String, usize>,
}
