//! Stage 2: bytes to float: resize, letterbox, channel order, standardisation.
//!
//! [`into_slice`] is the CPU's way, [`variant`] the GPU's, and [`run_twin`] the reference for both. All three write
//! straight into the network's input where its channels are neighbours in memory; for other layouts see
//! [`crate::marshal`]. [`picture_variant`] brings a picture of any format to RGBA at its own size, to be looked at.

mod picture;
mod resize_normalise;

pub use picture::{picture_row_words, picture_twin, picture_variant};
pub use resize_normalise::{into_slice, run_twin, variant};

use crate::frame::{Frame, MAX_SIDE_PX};
use crate::infer::plan::view::{FeatureMap, View};
use crate::letterbox::{Fit, Letterbox};

/// Which colour comes first in the network's input channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelOrder {
    Rgb,
    Bgr,
    /// One channel of luminance.
    Gray,
}

impl ChannelOrder {
    /// Channels of the network's input.
    pub const fn channels(self) -> usize {
        match self {
            ChannelOrder::Rgb | ChannelOrder::Bgr => 3,
            ChannelOrder::Gray => 1,
        }
    }
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

impl Preprocess {
    /// Where a picture of that size (width, height) lies in the network's input.
    pub fn letterbox(&self, picture_px: [u32; 2]) -> Letterbox {
        Letterbox::new(self.fit, picture_px, [self.width_px, self.height_px])
    }

    /// The level around a letterboxed picture.
    pub const fn pad(&self) -> u8 {
        match self.fit {
            Fit::Stretch => 0,
            Fit::LetterboxTopLeft { pad } | Fit::LetterboxCentre { pad } => pad,
        }
    }

    /// Factors that stand for the division by `std`: a product is rounded alike on every device, a quotient is not.
    fn factors(&self) -> [f32; 3] {
        self.std.map(|s| 1.0 / s)
    }

    /// Checks the numbers, and that `input` is the channels-last place of one picture of this size.
    ///
    /// # Errors
    /// Says which number or axis is wrong.
    pub fn check(&self, input: &View) -> Result<FeatureMap, ConvertError> {
        let (width, height) = (self.width_px, self.height_px);
        if [width, height].iter().any(|side| !(1..=MAX_SIDE_PX).contains(side)) {
            return Err(ConvertError::Size { width, height });
        }
        let factors = self.factors();
        if self.mean.iter().chain(&factors).any(|v| !v.is_finite()) || factors.contains(&0.0) {
            return Err(ConvertError::Standardisation { mean: self.mean, std: self.std });
        }
        let expected = [1, self.order.channels(), height as usize, width as usize];
        if input.shape != expected {
            return Err(ConvertError::Shape { found: input.shape.clone(), expected });
        }
        input.feature_map().ok_or_else(|| ConvertError::Layout { strides: input.strides.clone() })
    }
}

/// Why a picture can't be brought into the network's input.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConvertError {
    #[error("the network's input is {width}x{height} pixels; a side must be 1 to {MAX_SIDE_PX}: choose another size")]
    Size { width: u32, height: u32 },
    #[error(
        "the input's mean {mean:?} and standard deviation {std:?} must be finite, and the deviation not 0: correct the \
         model's preprocessing"
    )]
    Standardisation { mean: [f32; 3], std: [f32; 3] },
    #[error(
        "the network's input has shape {found:?}, but its preprocessing makes {expected:?} (batch, channels, height, \
         width): correct the size or the channel order"
    )]
    Shape { found: Vec<usize>, expected: [usize; 4] },
    #[error("the network's input has strides {strides:?}, not channels last: convert into a staging view and pack it")]
    Layout { strides: Vec<usize> },
    #[error("the network's input needs {needed} elements, its buffer has {found}")]
    Memory { needed: usize, found: usize },
    #[error("{0}")]
    Frame(String),
    #[error(
        "a letterbox of a {letterbox:?} picture in a {model:?} input was given for a {frame:?} picture in {expected:?}"
    )]
    Letterbox { letterbox: [u32; 2], model: [u32; 2], frame: [u32; 2], expected: [u32; 2] },
}

/// All that must hold before pixels are read and written: `frame` complete, `letterbox` its own, `input` inside memory
/// of `len` elements.
fn check_all(
    frame: &Frame,
    p: &Preprocess,
    letterbox: &Letterbox,
    input: &View,
    len: usize,
) -> Result<FeatureMap, ConvertError> {
    let map = p.check(input)?;
    frame.check().map_err(ConvertError::Frame)?;
    let (size, model) = ([frame.width, frame.height], [p.width_px, p.height_px]);
    let inside = |axis: usize| {
        let (offset, content) = (letterbox.offset_px[axis], letterbox.content_px[axis]);
        content > 0
            && (0.0..=MAX_SIDE_PX as f32).contains(&offset)
            && content <= model[axis].saturating_sub(offset as u32)
    };
    if letterbox.picture_px != size || letterbox.model_px != model || !inside(0) || !inside(1) {
        return Err(ConvertError::Letterbox {
            letterbox: letterbox.picture_px,
            model: letterbox.model_px,
            frame: size,
            expected: model,
        });
    }
    if input.end() > len {
        return Err(ConvertError::Memory { needed: input.end(), found: len });
    }
    Ok(map)
}
