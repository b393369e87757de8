//! The kernels: one file each, the CPU twin of the shader of the same stem in `shaders/infer/`.

pub mod arg;
pub mod bytes;
pub mod conv;
pub mod conv_nd;
pub mod copy;
pub mod depthwise;
pub mod elementwise;
pub mod fill;
pub mod gather_elements;
pub mod grid_sample;
pub mod grouped_conv;
pub mod host;
pub mod matmul;
pub mod pool;
pub mod reduce;
pub mod resample;
pub mod resize;
pub mod select;
pub mod softmax;
pub mod window_max;

mod conv_direct;
pub(crate) mod walk;
mod wgsl;

#[cfg(test)]
mod testing;
