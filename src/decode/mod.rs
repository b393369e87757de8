//! Stage 5: from the network's outputs to boxes.
//!
//! [`head::recognise`] finds out which kind of detection head a graph ends in. A [`head::Head`] turns outputs into
//! candidates, on the CPU (the twin) or as shaders that append to a buffer. [`nms`] thins them out and maps them to
//! pixels of the picture. [`Decoder`] puts the three together.

pub mod candidates;
pub mod decoder;
pub mod head;
pub mod heads;
pub mod labels;
pub mod mask;
pub mod nms;
pub mod points;
pub mod rotated;
pub mod scan;

pub use candidates::{CandidatesHeader, DetectionsHeader, GpuBinding, GpuDecode};
pub use decoder::{DecodeOptions, Decoder};
pub use head::{DecodeError, Details, Head, OutputRef, Recognised, ScoreFilter, Suppression, recognise};
pub use labels::Labels;
pub use mask::Mask;
pub use rotated::Quad;

use bytemuck::{Pod, Zeroable};

/// A box before or after NMS, as it lies in GPU buffers too: 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct RawDetection {
    /// Left, top, right, bottom: pixels of the network's input before NMS, of the picture after it. Before
    /// [`Suppression::Rotated`] centre and size of the turned box.
    pub bounds: [f32; 4],
    pub score: f32,
    pub class: u32,
    /// Which anchor of the head it came from; breaks ties between equal scores.
    pub anchor: u32,
    /// Before [`Suppression::Rotated`] the bits of the angle in radians; otherwise 0.
    pub reserved: u32,
}

/// A found object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detection {
    pub class: u32,
    pub label: String,
    /// 0 to 1.
    pub score: f32,
    /// Left, top, right, bottom in pixels of the original picture, clipped to it.
    pub bounds: [f32; 4],
    /// Points of the object in pixels of the original picture, in the order of the network (YuNet: right eye, left eye,
    /// nose tip, right and left corner of the mouth, as the person sees them). Empty where the network gives none.
    pub landmarks: Vec<[f32; 2]>,
    /// How visible each landmark is, 0 to 1. Empty where the network does not say.
    pub visibility: Vec<f32>,
    /// The object's box where the network gives a turned one; `bounds` is then the upright box around it.
    pub quad: Option<Quad>,
    /// The object's pixels.
    pub mask: Option<Mask>,
}
