//! Where a picture lies in a window, and the CPU's way to show it there.

use crate::decode::{Decoder, Detection, Quad, RawDetection};
use crate::draw::font::Atlas;
use crate::draw::layout::{LABEL_ONLY, LabelTable};
use crate::draw::{Instance, Style, shapes};
use crate::frame::{Colour, Frame, PixelFormat};
use std::sync::Arc;

/// A picture scaled to fit a target, centred, its aspect kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub picture_px: [u32; 2],
    pub target_px: [u32; 2],
    pub content_px: [u32; 2],
    pub offset_px: [u32; 2],
}

impl Placement {
    pub fn new(picture_px: [u32; 2], target_px: [u32; 2]) -> Placement {
        let [picture, target] = [picture_px, target_px].map(|px| px.map(|v| u64::from(v.max(1))));
        let limiting = usize::from(target[1] * picture[0] < target[0] * picture[1]);
        let (numerator, denominator) = (target[limiting], picture[limiting]);
        let content_px = [0, 1].map(|axis| {
            let exact = picture[axis] * numerator;
            ((2 * exact + denominator) / (2 * denominator)).clamp(1, target[axis]) as u32
        });
        let offset_px = [0, 1].map(|axis| (target[axis] as u32 - content_px[axis]) / 2);
        Placement { picture_px, target_px, content_px, offset_px }
    }

    /// Target pixels per picture pixel.
    pub fn scale(&self) -> [f32; 2] {
        [0, 1].map(|axis| self.content_px[axis] as f32 / self.picture_px[axis].max(1) as f32)
    }

    /// Picture pixels per target pixel.
    pub fn picture_per_target(&self) -> [f32; 2] {
        [0, 1].map(|axis| self.picture_px[axis] as f32 / self.content_px[axis].max(1) as f32)
    }

    pub fn offset(&self) -> [f32; 2] {
        self.offset_px.map(|v| v as f32)
    }

    /// Labels of all classes, in the sizes that suit the shown picture, and the glyphs for them.
    pub fn labels(&self, decoder: &Decoder, style: &Style) -> (LabelTable, Arc<Atlas>) {
        let atlas = style.atlas(self.content_px);
        let names = (0..decoder.head().classes() as u32).map(|class| (class, decoder.labels.name(class)));
        let table = LabelTable::new(names, self.content_px, style, &atlas)
            .on_target(self.target_px, self.scale(), self.offset())
            .only(|class| decoder.shows(class));
        (table, atlas)
    }

    /// What lies under boxes and labels, for detections that the host found: masks, and the sides of turned boxes.
    pub fn shapes(&self, found: &[Detection], style: &Style) -> Vec<Instance> {
        let (scale, offset) = (self.scale(), self.offset());
        let on_target = |axis: usize, v: f32| v * scale[axis] + offset[axis];
        let mut list = Vec::new();
        for d in found.iter().rev() {
            let rectangles = d.mask.iter().flat_map(|mask| shapes::mask(mask, d.class, self.picture_px));
            list.extend(rectangles.filter_map(|one| {
                // Neighbours share their edges, so that none overlap and no gap opens.
                let edge = |k: usize| on_target(k % 2, one.rect_px[k] as f32).round() as i32;
                let rect_px = [edge(0), edge(1), edge(2), edge(3)];
                (rect_px[0] < rect_px[2] && rect_px[1] < rect_px[3]).then_some(Instance { rect_px, ..one })
            }));
        }
        let line_px = style.line_px(self.content_px);
        for d in found.iter().rev() {
            list.extend(d.quad.iter().flat_map(|quad| {
                let corners = quad.corners.map(|p| [on_target(0, p[0]), on_target(1, p[1])]);
                shapes::quad(&Quad { corners, ..*quad }, d.class, self.target_px, line_px)
            }));
        }
        list
    }

    /// The picture in its place on black, as Rgb8: twin of `picture_fragment` in `shaders/draw/overlay.wgsl`.
    pub fn show(&self, frame: &Frame) -> Frame {
        let rgb = frame.to_rgb8();
        if self.target_px == self.picture_px {
            return rgb;
        }
        let [width, height] = self.target_px.map(|v| v as usize);
        let mut bytes = vec![0; width * height * 3];
        let per_target = self.picture_per_target();
        // The two neighbours of a target pixel's centre and the weight of the second.
        let taps = |axis: usize| -> Vec<(u32, u32, f32)> {
            let last = self.picture_px[axis] - 1;
            (0..self.content_px[axis])
                .map(|at| {
                    let point = (at as f32 + 0.5) * per_target[axis] - 0.5;
                    let low = point.floor();
                    ((low.max(0.0) as u32).min(last), ((low + 1.0).max(0.0) as u32).min(last), point - low)
                })
                .collect()
        };
        let (columns, rows) = (taps(0), taps(1));
        for (y, &(above, below, down)) in rows.iter().enumerate() {
            let start = ((y + self.offset_px[1] as usize) * width + self.offset_px[0] as usize) * 3;
            let row = &mut bytes[start..start + columns.len() * 3];
            for (pixel, &(left, right, across)) in row.chunks_exact_mut(3).zip(&columns) {
                let corners =
                    [rgb.rgb(left, above), rgb.rgb(right, above), rgb.rgb(left, below), rgb.rgb(right, below)];
                for (c, level) in pixel.iter_mut().enumerate() {
                    let [a, b, d, e] = corners.map(|p| f32::from(p[c]));
                    let (top, bottom) = (a + (b - a) * across, d + (e - d) * across);
                    *level = (top + (bottom - top) * down + 0.5) as u8;
                }
            }
        }
        let [width, height] = self.target_px;
        Frame { width, height, format: PixelFormat::Rgb8, bytes, colour: Colour::default() }
    }
}

/// What the layout reads of a detection that the host found.
pub fn raw_detection(d: &Detection) -> RawDetection {
    let (bounds, reserved) = match &d.quad {
        Some(quad) => (shapes::label_bounds(quad, d.bounds), LABEL_ONLY),
        None => (d.bounds, 0),
    };
    RawDetection { bounds, score: d.score, class: d.class, anchor: 0, reserved }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_and_is_centred() {
        for picture in [[640, 480], [1, 1], [3, 1000], [1920, 1080], [16384, 1]] {
            for target in [[640, 480], [200, 150], [1900, 1000], [1, 1], [3, 5000]] {
                let p = Placement::new(picture, target);
                for axis in [0, 1] {
                    assert!(p.content_px[axis] >= 1 && p.content_px[axis] <= target[axis], "{p:?}");
                    let rest = target[axis] - p.content_px[axis];
                    assert!(p.offset_px[axis] == rest / 2, "{p:?}");
                }
                assert!((0..2).any(|axis| p.content_px[axis] == target[axis]), "{p:?} fills one side");
            }
        }
        assert_eq!(Placement::new([640, 480], [1900, 1000]).content_px, [1333, 1000]);
        assert_eq!(Placement::new([7, 5], [7, 5]).scale(), [1.0; 2]);
    }

    #[test]
    fn shows_the_picture_on_black() {
        let frame = Frame::new(2, 1, PixelFormat::Rgb8, vec![0, 100, 200, 40, 100, 200]).expect("frame");
        let shown = Placement::new([2, 1], [4, 4]).show(&frame);
        assert_eq!([shown.rgb(0, 0), shown.rgb(3, 3)], [[0; 3]; 2]);
        assert_eq!([0, 1, 2, 3].map(|x| shown.rgb(x, 1)[0]), [0, 10, 30, 40]);
        assert!((0..4).all(|x| shown.rgb(x, 2)[1..] == [100, 200]));
        assert_eq!(Placement::new([2, 1], [2, 1]).show(&frame), frame);
    }
}
