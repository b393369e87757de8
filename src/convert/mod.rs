//! Stage 2: bytes to float: resize, letterbox, channel order, standardisation.

use crate::letterbox::Fit;

/// Which colour comes first in the network's input channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelOrder {
    Rgb,
    Bgr,
    /// One channel of luminance.
    Gray,
}

/// What the network expects of its input: `value = (level − mean[c]) / std[c]` with level in 0..=255 after the resize,
/// c in the order of the network's channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preprocess {
    pub width_px: u32,
    pub height_px: u32,
    pub fit: Fit,
    pub order: ChannelOrder,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}
