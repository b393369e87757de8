//! A section while it is read: where it stands, for messages, and what several kinds of sections read alike.

use super::activation::Nonlinearity;
use super::cfg::Section;
use crate::infer::import::{ImportError, Unsupported};

/// `Unsupported` entries are gathered, `Stop` ends the import.
#[derive(Debug)]
pub enum Refusal {
    Unsupported(Unsupported),
    Stop(ImportError),
}

impl From<ImportError> for Refusal {
    fn from(error: ImportError) -> Refusal {
        Refusal::Stop(error)
    }
}

/// Where a section stands.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub section: &'a Section,
    /// Number of its layer.
    pub index: usize,
}

impl Place<'_> {
    pub fn unsupported(self, why: impl Into<String>) -> Refusal {
        Refusal::Unsupported(Unsupported {
            node: format!("section {} at line {}", self.index, self.section.line),
            op: format!("[{}]", self.section.kind),
            why: why.into(),
        })
    }

    pub fn malformed(self, why: impl AsRef<str>) -> ImportError {
        ImportError::malformed(format!(
            "section {} [{}] at line {}: {}",
            self.index,
            self.section.kind,
            self.section.line,
            why.as_ref()
        ))
    }

    /// Resolves a reference to an earlier layer.
    pub fn layer(self, key: &str, value: i64) -> Result<usize, ImportError> {
        let index = self.index as i64;
        let absolute = if value < 0 { index.saturating_add(value) } else { value };
        if (0..index).contains(&absolute) {
            return Ok(absolute as usize);
        }
        Err(self.malformed(format!("{key}={value} does not name one of the {index} layers before it")))
    }

    /// The layers that a list names.
    pub fn layers(self, key: &str) -> Result<Vec<usize>, ImportError> {
        let listed = self.section.integers(key)?.ok_or_else(|| self.malformed(format!("{key}= is missing")))?;
        listed.iter().map(|&value| self.layer(key, value)).collect()
    }

    /// The one layer that `from=` names.
    pub fn from(self) -> Result<usize, ImportError> {
        if !self.section.has("from") {
            return Err(self.malformed("from= is missing"));
        }
        self.layer("from", self.section.integer("from", 0)?)
    }

    pub fn activation(self, default: &str) -> Result<Nonlinearity, Refusal> {
        let name = self.section.text("activation", default);
        Nonlinearity::named(name).ok_or_else(|| {
            self.unsupported(format!("activation '{name}' is none of {}", Nonlinearity::NAMES.join(", ")))
        })
    }

    /// Refuses keys whose value changes what is computed in a way that is not implemented.
    pub fn refuse_flags(self, keys: &[(&str, &str)]) -> Result<(), Refusal> {
        for (key, what) in keys {
            if self.section.flag(key)? {
                return Err(self.unsupported(format!("{key}={} ({what})", self.section.text(key, "1"))));
            }
        }
        Ok(())
    }

    /// Refuses a layer whose weights are not in the file.
    pub fn refuse_unloaded(self) -> Result<(), Refusal> {
        self.refuse_flags(&[
            ("dontload", "its weights are not in the weights file"),
            ("dontloadscales", "its batch-norm arrays are not in the weights file"),
        ])
    }

    /// Vertical and horizontal stride.
    pub fn strides(self, default: usize) -> Result<[usize; 2], ImportError> {
        let stride = self.section.positive("stride", default)?;
        Ok([self.section.positive("stride_y", stride)?, self.section.positive("stride_x", stride)?])
    }
}
