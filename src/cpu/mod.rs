//! What makes twins fast: packed weights, register-blocked micro-kernels, threads.

pub(crate) mod blocks;
pub mod conv;
pub mod copy;
pub mod depthwise;
pub mod elementwise;
pub mod isa;
pub mod matmul;
pub mod memory;
pub mod pool;
pub mod resize;
pub(crate) mod simd;
#[cfg(test)]
mod testing;
pub mod threads;

pub use isa::Isa;
pub use memory::Memory;
