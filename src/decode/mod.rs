//! Stage 5: from the network's outputs to boxes.

use bytemuck::{Pod, Zeroable};

/// A box before or after NMS, as it lies in GPU buffers too: 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct RawDetection {
    /// Left, top, right, bottom: pixels of the network's input before NMS, of the picture after it.
    pub bounds: [f32; 4],
    pub score: f32,
    pub class: u32,
    /// Which anchor of the head it came from; breaks ties between equal scores.
    pub anchor: u32,
    pub reserved: u32,
}

/// A found object.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    pub class: u32,
    pub label: String,
    /// 0 to 1.
    pub score: f32,
    /// Left, top, right, bottom in pixels of the original picture.
    pub bounds: [f32; 4],
}
