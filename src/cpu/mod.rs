//! What makes twins fast: packed weights, register-blocked micro-kernels, threads.

pub mod memory;

pub use memory::Memory;

/// Instruction sets that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, for any processor.
    Portable,
    Avx2,
    Avx512,
    Neon,
}
