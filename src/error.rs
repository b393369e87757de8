//! One error for the library's callers; one enum per stage below it.

use std::path::PathBuf;

use crate::acquire::AcquireError;
use crate::cpu::CpuError;
use crate::decode::DecodeError;
use crate::infer::import::ImportError;
use crate::infer::plan::lower::LowerError;

/// Whatever can go wrong, with the stage that it went wrong in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Import(#[from] ImportError),
    /// What is wrong with a model file.
    #[error("{}: {why}", path.display())]
    ModelFile { path: PathBuf, why: ImportError },
    #[error("the network cannot be planned:{}", list(.0))]
    Plan(Vec<LowerError>),
    #[error(transparent)]
    Cpu(#[from] CpuError),
    #[cfg(feature = "gpu")]
    #[error(transparent)]
    Gpu(#[from] crate::gpu::GpuError),
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The caller gave something that does not fit the network.
    #[error("{0}")]
    Input(String),
}

fn list(errors: &[LowerError]) -> String {
    let mut text = String::new();
    for error in errors.iter().take(50) {
        text.push_str(&format!("\n  {error}"));
    }
    if errors.len() > 50 {
        text.push_str(&format!("\n  ... and {} more", errors.len() - 50));
    }
    text
}
