//! Files become graphs here: one folder or file per format.

pub mod darknet;
pub mod error;
pub mod onnx;

pub use error::{ImportError, Unsupported};

use std::collections::BTreeMap;

/// What the caller decides about a model whose file leaves it open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Width and height of the picture input, in pixels. Binds dynamic dims. Where an ONNX file fixes the size, another
    /// one is refused.
    pub size_px: Option<[usize; 2]>,
    /// Values of named dynamic dims.
    pub dims: BTreeMap<String, usize>,
}
