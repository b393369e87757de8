//! Files become graphs here: one folder or file per format.

pub mod darknet;
pub mod error;
mod mapped;
pub mod onnx;

pub use error::{ImportError, Unsupported};

use super::graph::Graph;
use mapped::MappedFile;
use std::collections::BTreeMap;
use std::path::Path;

/// What the caller decides about a model whose file leaves it open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Width and height of the picture input, in pixels. Binds dynamic dims. Where an ONNX file fixes the size, another
    /// one is refused.
    pub size_px: Option<[usize; 2]>,
    /// Values of named dynamic dims.
    pub dims: BTreeMap<String, usize>,
    /// Shapes of inputs by name, in the file's axis order. They bind all dims of an input that the file leaves open,
    /// the batch too. What the file fixes stays as it is.
    pub shapes: BTreeMap<String, Vec<usize>>,
}

/// Reads a model from a file: ONNX, or a Darknet `.cfg` with its weights in `weights` or, by default, in the file of
/// the same stem beside it that ends in `.weights`. The extension decides; without a known one, the content.
///
/// # Errors
/// [`ImportError::Io`] when a file cannot be read; otherwise what the importer of the format says.
pub fn import_file(path: &Path, weights: Option<&Path>, options: &ImportOptions) -> Result<Graph, ImportError> {
    let name = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    let file = MappedFile::open(path)?;
    let bytes = file.bytes();
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let is_darknet = match extension.as_deref() {
        Some("onnx") => false,
        Some("cfg") => true,
        Some("weights") => {
            let why = "these are the weights of a Darknet network; give the .cfg beside them".to_string();
            return Err(ImportError::NotAModel { name, why });
        }
        _ => looks_like_darknet(&bytes),
    };
    if !is_darknet {
        let directory = path.parent().unwrap_or(Path::new("."));
        return onnx::import_onnx_from(bytes, &name, options, Some(directory), Some(&file));
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| ImportError::NotAModel { name: name.clone(), why: "a .cfg must be text".to_string() })?;
    let beside = path.with_extension("weights");
    let weights = MappedFile::open(weights.unwrap_or(&beside))?.bytes();
    darknet::import_darknet(text, &weights, &name, options)
}

/// True for text that has Darknet's first section within its first kilobytes.
fn looks_like_darknet(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(4096)];
    !head.contains(&0) && [&b"[net]"[..], b"[network]"].iter().any(|s| head.windows(s.len()).any(|w| w == *s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_tells_darknet_from_onnx() {
        assert!(looks_like_darknet(b"# a comment\n[net]\nwidth=416\n"));
        assert!(!looks_like_darknet(b"\x08\x07\x12\x04tool") && !looks_like_darknet(b"[conv]"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let e = import_file(Path::new("/no/such/model.onnx"), None, &ImportOptions::default()).expect_err("missing");
        assert!(e.to_string().contains("/no/such/model.onnx"), "{e}");
    }
}
