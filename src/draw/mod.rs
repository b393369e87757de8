//! Stage 6: boxes and labels, from detections to pixels.
//!
//! One description of what is drawn serves both backends: a list of [`instances::Instance`]s, each a rectangle of whole
//! pixels that is either one colour or one glyph of the [`font::Atlas`]. [`overlay`] draws it on the CPU; its shader
//! draws the same list with one instanced draw call. Masks, turned boxes and landmarks become such rectangles in [`shapes`]. [`layout`] makes the list, on the CPU or, with its shader, on the
//! GPU straight from the buffer that NMS wrote, so that a live loop never reads back.

pub mod font;
pub mod instances;
pub mod layout;
pub mod overlay;
pub mod palette;
pub mod panel;
pub mod shapes;

pub use instances::{Instance, Instances, Style, instances};
pub use overlay::{annotate, rasterise};

/// What can go wrong when drawing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrawError {
    /// The rasteriser draws into pictures with three or four bytes a pixel.
    #[error("cannot draw into a {0:?} picture; convert it to Rgb8 first")]
    Format(crate::frame::PixelFormat),
}
