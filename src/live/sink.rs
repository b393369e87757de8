//! Where drawn frames go: a directory of PNG files.

use std::path::{Path, PathBuf};

use crate::acquire::{AcquireError, pictures};
use crate::frame::Frame;

/// Takes drawn frames in their order.
#[derive(Debug)]
pub enum Sink {
    /// `000000.png`, `000001.png`, ...
    Directory { path: PathBuf, written: u64 },
}

impl Sink {
    /// A directory, made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(path: &Path) -> Result<Sink, AcquireError> {
        std::fs::create_dir_all(path).map_err(|source| AcquireError::Write { path: path.to_path_buf(), source })?;
        Ok(Sink::Directory { path: path.to_path_buf(), written: 0 })
    }

    /// Writes the next frame.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, frame: &Frame) -> Result<(), AcquireError> {
        match self {
            Sink::Directory { path, written } => {
                pictures::save(&path.join(format!("{written:06}.png")), frame)?;
                *written += 1;
                Ok(())
            }
        }
    }

    /// Frames so far.
    pub fn written(&self) -> u64 {
        match self {
            Sink::Directory { written, .. } => *written,
        }
    }

    /// Completes the output.
    ///
    /// # Errors
    /// When the last bytes cannot be written.
    pub fn finish(self) -> Result<(), AcquireError> {
        Ok(())
    }
}
