//! The one place of the geometry between picture and network input.

use bytemuck::{Pod, Zeroable};

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
                let content = [0, 1].map(|axis| ((picture_px[axis] as f32 * r) as u32).clamp(1, model_px[axis].max(1)));
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
}
