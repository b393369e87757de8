//! The kernels: one file each, the CPU twin of the shader of the same stem in `shaders/infer/`.

pub mod conv;
pub mod copy;
pub mod depthwise;
pub mod elementwise;
pub mod fill;
pub mod grouped_conv;
pub mod host;
pub mod matmul;
pub mod pool;
pub mod reduce;
pub mod resize;
pub mod softmax;

mod conv_direct;
pub(crate) mod walk;
mod wgsl;

#[cfg(test)]
mod testing;
