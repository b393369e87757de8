//! The one place of the geometry between picture and network input.

use bytemuck::{Pod, Zeroable};

use crate::frame::Frame;

/// How a picture is fitted into the network's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fit {
    /// Both sides scaled on their own; the aspect changes.
    Stretch,
    /// Scaled to fit, at the top left; the rest is filled with this level.
    LetterboxTopLeft { pad: u8 },
    /// Scaled to fit, centred; the rest is filled with this level.
    LetterboxCentre { pad: u8 },
}

/// The affine map from picture pixels to model pixels: `model = picture·scale + offset`, per axis. Coordinates are of
/// pixel edges: 0 is the left edge of the first pixel and `width` the right edge of the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Letterbox {
    pub picture_px: [u32; 2],
    pub model_px: [u32; 2],
    /// Size of the scaled picture inside the model's input.
    pub content_px: [u32; 2],
    pub scale: [f32; 2],
    /// Where the content begins; whole pixels.
    pub offset_px: [f32; 2],
}

impl Letterbox {
    /// The map for a picture of `picture_px` (width, height) and a network input of `model_px`.
    pub fn new(fit: Fit, picture_px: [u32; 2], model_px: [u32; 2]) -> Letterbox {
        let ratio = |axis: usize| model_px[axis] as f32 / picture_px[axis] as f32;
        match fit {
            Fit::Stretch => Letterbox {
                picture_px,
                model_px,
                content_px: model_px,
                scale: [ratio(0), ratio(1)],
                offset_px: [0.0; 2],
            },
            Fit::LetterboxTopLeft { .. } | Fit::LetterboxCentre { .. } => {
                let r = ratio(0).min(ratio(1));
                // The axis that limits fills the model exactly; in integers, because a product of floats may fall
                // a hair short of it.
                let [picture, model] = [picture_px, model_px].map(|px| px.map(u64::from));
                let limiting = usize::from(model[1] * picture[0] < model[0] * picture[1]);
                let (numerator, denominator) = (model[limiting], picture[limiting].max(1));
                let content = [0, 1].map(|axis| {
                    let exact = picture[axis] * numerator;
                    let side = match fit {
                        // YOLOX cuts the fraction off, Ultralytics rounds.
                        Fit::LetterboxCentre { .. } => (2 * exact + denominator) / (2 * denominator),
                        _ => exact / denominator,
                    };
                    side.clamp(1, model[axis].max(1)) as u32
                });
                let offset = match fit {
                    Fit::LetterboxCentre { .. } => [0, 1].map(|axis| ((model_px[axis] - content[axis]) / 2) as f32),
                    _ => [0.0; 2],
                };
                Letterbox { picture_px, model_px, content_px: content, scale: [r, r], offset_px: offset }
            }
        }
    }

    /// A point of the picture in the network's input.
    pub fn model_from_pixel(&self, point_px: [f32; 2]) -> [f32; 2] {
        [0, 1].map(|axis| point_px[axis] * self.scale[axis] + self.offset_px[axis])
    }

    /// A point of the network's input in the picture, clipped to it.
    pub fn pixel_from_model(&self, point: [f32; 2]) -> [f32; 2] {
        [0, 1].map(|axis| {
            ((point[axis] - self.offset_px[axis]) / self.scale[axis]).clamp(0.0, self.picture_px[axis] as f32)
        })
    }
}

/// What changes from frame to frame, as the shaders of convert, decode and draw read it from a storage buffer:
/// sixteen 4-byte words. WGSL: `shaders/common/frame_params.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct FrameParams {
    pub picture_px: [u32; 2],
    /// Bytes from one row of the picture to the next.
    pub row_bytes: u32,
    pub max_detections: u32,
    pub scale: [f32; 2],
    pub offset_px: [f32; 2],
    pub content_px: [u32; 2],
    pub score_threshold: f32,
    pub iou_threshold: f32,
    /// Width of box edges in picture pixels.
    pub line_px: f32,
    /// Height of label text in picture pixels.
    pub text_px: f32,
    pub reserved: [u32; 2],
}

impl FrameParams {
    /// What the convert stage reads: size and place of this frame. The fields of decode (`max_detections`, thresholds)
    /// and draw (`line_px`, `text_px`) are 0; fill them in with `FrameParams { score_threshold, ..FrameParams::new(..) }`.
    pub fn new(frame: &Frame, letterbox: &Letterbox) -> FrameParams {
        FrameParams {
            picture_px: [frame.width, frame.height],
            row_bytes: frame.row_bytes() as u32,
            scale: letterbox.scale,
            offset_px: letterbox.offset_px,
            content_px: letterbox.content_px,
            ..FrameParams::zeroed()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corners_map_there_and_back() {
        let fits = [Fit::Stretch, Fit::LetterboxTopLeft { pad: 114 }, Fit::LetterboxCentre { pad: 114 }];
        for fit in fits {
            for picture in [[768, 576], [1, 1], [641, 3], [3, 641]] {
                let l = Letterbox::new(fit, picture, [416, 320]);
                for point in [[0.0, 0.0], [picture[0] as f32, picture[1] as f32]] {
                    let model = l.model_from_pixel(point);
                    assert!(model[0] <= 416.01 && model[1] <= 320.01, "{fit:?} {picture:?} {model:?}");
                    let back = l.pixel_from_model(model);
                    assert!((back[0] - point[0]).abs() < 1e-2 && (back[1] - point[1]).abs() < 1e-2);
                }
            }
        }
    }

    #[test]
    fn content_sizes_are_those_of_the_references() {
        let size = |fit, picture, model| {
            let l = Letterbox::new(fit, picture, model);
            (l.content_px, l.offset_px)
        };
        let (top_left, centre) = (Fit::LetterboxTopLeft { pad: 114 }, Fit::LetterboxCentre { pad: 114 });
        // 416 / 641 · 479 = 310.86: int() in YOLOX, round() in Ultralytics.
        assert_eq!(size(top_left, [641, 479], [416, 416]), ([416, 310], [0.0, 0.0]));
        assert_eq!(size(centre, [641, 479], [416, 416]), ([416, 311], [0.0, 52.0]));
        assert_eq!(size(centre, [3, 16000], [64, 32]), ([1, 32], [31.0, 0.0]));
        assert_eq!(size(centre, [810, 1080], [640, 640]), ([480, 640], [80.0, 0.0]));
        assert_eq!(size(Fit::Stretch, [3, 5], [64, 32]), ([64, 32], [0.0, 0.0]));
        for side in 1..2000 {
            let l = Letterbox::new(top_left, [side, 1], [417, 416]);
            assert_eq!(l.content_px[0], 417.min(416 * side), "the limiting side is filled: {side}");
        }
    }
}
