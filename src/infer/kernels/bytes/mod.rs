//! Kernels on bytes, for plans on the CPU: one file each. There are no shaders; the twins are what the fast forms in
//! [`crate::cpu::bytes`] are tested against, to the last bit.

pub mod arithmetic;
pub mod conv;
pub mod convert;
pub mod copy;
pub mod max_pool;
pub mod nearest;
