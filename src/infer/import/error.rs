//! Why a file did not become a graph.

use std::fmt;
use std::path::PathBuf;

/// At most this many refused nodes are printed one by one.
const LISTED_MAX: usize = 50;

/// One thing in a file that is not supported, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Name of the node (ONNX) or of the section with its number (Darknet).
    pub node: String,
    /// Operator or section type.
    pub op: String,
    /// Which value was found, what is supported, what to do.
    pub why: String,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}': {}", self.op, self.node, self.why)
    }
}

/// What can go wrong between a file and its graph.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// The file is of another kind, or of none that is known.
    #[error("'{name}' is not a model that can be read: {why}")]
    NotAModel { name: String, why: String },
    /// The file is damaged or contradicts itself.
    #[error("malformed model: {what}")]
    Malformed { what: String },
    /// The caller must say more, e.g. the size of a dynamic input.
    #[error("{what}")]
    MissingOption { what: String },
    /// Everything that was found unsupported, at once.
    #[error("{}", list(.0))]
    Unsupported(Vec<Unsupported>),
}

impl ImportError {
    /// A [`ImportError::Malformed`].
    pub fn malformed(what: impl Into<String>) -> ImportError {
        ImportError::Malformed { what: what.into() }
    }
}

fn list(found: &[Unsupported]) -> String {
    let mut text = format!("the model uses {} thing(s) that are not supported:", found.len());
    for one in found.iter().take(LISTED_MAX) {
        text.push_str(&format!("\n  {one}"));
    }
    if found.len() > LISTED_MAX {
        text.push_str(&format!("\n  ... and {} more", found.len() - LISTED_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut_with_a_count() {
        let one = Unsupported { node: "n".into(), op: "Op".into(), why: "unknown".into() };
        let text = ImportError::Unsupported(vec![one; 53]).to_string();
        assert_eq!(text.lines().count(), 52);
        assert!(text.starts_with("the model uses 53") && text.ends_with("and 3 more"), "{text}");
    }
}
