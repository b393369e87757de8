//! eyas: object detection for devices you can hold.

pub mod acquire;
pub mod convert;
pub mod cpu;
pub mod decode;
pub mod draw;
pub mod frame;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod infer;
pub mod letterbox;
pub mod marshal;
pub mod shader;
