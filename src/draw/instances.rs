//! What is drawn: a list of rectangles of whole pixels.

use super::font::Atlas;
use super::layout::{self, LabelTable};
use super::palette::Rgba;
use super::shapes;
use crate::decode::{Detection, RawDetection};
use bytemuck::{Pod, Zeroable};
use std::collections::HashMap;
use std::sync::Arc;

/// One rectangle, as it lies in GPU buffers too: 32 bytes. Later ones cover earlier ones.
///
/// WGSL: `Instance` in `shaders/draw/layout.wgsl`; as vertex attributes of step mode instance in
/// `shaders/draw/overlay.wgsl`: Sint32x4, Sint32x2, Unorm8x4, Uint32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Instance {
    /// Left, top, right, bottom: pixels of the target, right and bottom exclusive. Never empty, never outside.
    pub rect_px: [i32; 4],
    /// For a glyph: the texel of the atlas that covers the rectangle's top left pixel. One texel a pixel.
    pub texel_px: [i32; 2],
    /// Red, green, blue, alpha.
    pub colour: Rgba,
    /// [`SOLID`] or [`GLYPH`].
    pub source: u32,
}

/// The whole rectangle has the instance's colour.
pub const SOLID: u32 = 0;
/// The atlas' coverage multiplies the instance's alpha.
pub const GLYPH: u32 = 1;

/// What to draw, and the atlas that its glyphs lie in.
#[derive(Clone, Debug)]
pub struct Instances {
    pub list: Vec<Instance>,
    pub atlas: Arc<Atlas>,
}

/// How boxes and labels look. The default suits every picture: sizes follow the picture's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Write the class beside the box.
    pub labels: bool,
    /// Write the score, as 0.87.
    pub scores: bool,
    /// Width of the edges in pixels; `None`: by the picture, 2 at 640×480 and 4 at 1920×1080.
    pub line_px: Option<u32>,
    /// Size of the text in pixels per em; `None`: by the picture, 17 at 640×480 and 28 at 1920×1080.
    pub text_px: Option<u32>,
}

impl Default for Style {
    fn default() -> Style {
        Style { labels: true, scores: true, line_px: None, text_px: None }
    }
}

impl Style {
    /// Width of the edges on a picture of this size.
    pub fn line_px(&self, picture_px: [u32; 2]) -> u32 {
        self.line_px.unwrap_or_else(|| ((perimeter_half_px(picture_px) + 350) / 700).clamp(1, 12)).clamp(1, 1000)
    }

    /// Pixels per em of the text on a picture of this size.
    pub fn text_px(&self, picture_px: [u32; 2]) -> u32 {
        self.text_px.unwrap_or_else(|| 10 + perimeter_half_px(picture_px) / 160)
    }

    /// The glyphs for a picture of this size.
    pub fn atlas(&self, picture_px: [u32; 2]) -> Arc<Atlas> {
        Atlas::of_size(self.text_px(picture_px))
    }

    /// Whether labels are drawn at all. On a thumbnail a label of automatic size would hide what it names.
    pub fn has_text(&self, picture_px: [u32; 2]) -> bool {
        (self.labels || self.scores) && (self.text_px.is_some() || picture_px[0].min(picture_px[1]) >= 64)
    }
}

/// Width plus height, at most 2²⁴.
fn perimeter_half_px(picture_px: [u32; 2]) -> u32 {
    picture_px[0].saturating_add(picture_px[1]).min(1 << 24)
}

/// The rectangles for these detections, best first, on a picture of `picture_px` (width, height).
///
/// All masks come first, then all boxes, all labels, all landmarks; among each, the best comes last and so lies on top. A
/// turned box is drawn instead of the upright one around it. A box with a coordinate that is not finite, one that is
/// inside out, and one outside the picture draw nothing, and so do landmarks that are more hidden than visible.
pub fn instances(detections: &[Detection], picture_px: [u32; 2], style: &Style) -> Instances {
    let mut labels: Vec<(u32, &str)> = Vec::new();
    let mut index_of: HashMap<(u32, &str), u32> = HashMap::new();
    let raw: Vec<RawDetection> = detections
        .iter()
        .map(|d| {
            let key = (d.class, d.label.as_str());
            let class = *index_of.entry(key).or_insert_with(|| {
                labels.push(key);
                labels.len() as u32 - 1
            });
            RawDetection { bounds: d.bounds, score: d.score, class, anchor: 0, reserved: 0 }
        })
        .collect();
    let atlas = style.atlas(picture_px);
    let table = LabelTable::new(labels, picture_px, style, &atlas);
    let mut list = Vec::new();
    for d in detections.iter().rev() {
        list.extend(d.mask.iter().flat_map(|mask| shapes::mask(mask, d.class, picture_px)));
    }
    let upright = |(d, r): (&Detection, &RawDetection)| d.quad.is_none().then_some(*r);
    let upright: Vec<RawDetection> = detections.iter().zip(&raw).filter_map(upright).collect();
    list.extend(layout::lay_out_boxes(&upright, &table));
    for d in detections.iter().rev() {
        list.extend(d.quad.iter().flat_map(|quad| shapes::quad(quad, d.class, picture_px, style.line_px(picture_px))));
    }
    let labelled = |(d, r): (&Detection, &RawDetection)| match &d.quad {
        Some(quad) => RawDetection { bounds: shapes::label_bounds(quad, r.bounds), ..*r },
        None => *r,
    };
    let labelled: Vec<RawDetection> = detections.iter().zip(&raw).map(labelled).collect();
    list.extend(layout::lay_out_labels(&labelled, &table));
    for d in detections.iter().rev() {
        let shown = |k: usize| d.visibility.get(k).is_none_or(|&v| v >= 0.5);
        let points = d.landmarks.iter().enumerate().filter(|(k, _)| shown(*k));
        list.extend(
            points.flat_map(|(_, &point)| shapes::landmark(point, d.class, picture_px, style.line_px(picture_px))),
        );
    }
    Instances { list, atlas }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Mask, Quad};
    use crate::draw::palette::{class_colour, ink_colour, outline_colour};

    fn found(bounds: [f32; 4]) -> Detection {
        Detection { class: 2, label: "car".into(), score: 0.876, bounds, ..Detection::default() }
    }

    /// The smallest rectangle around all those of a colour.
    fn extent(list: &[Instance], colour: Rgba) -> [i32; 4] {
        list.iter().filter(|i| i.colour == colour).fold([i32::MAX, i32::MAX, i32::MIN, i32::MIN], |e, i| {
            let r = i.rect_px;
            [e[0].min(r[0]), e[1].min(r[1]), e[2].max(r[2]), e[3].max(r[3])]
        })
    }

    #[test]
    fn edges_lie_on_the_box() {
        let style = Style { labels: false, scores: false, line_px: Some(3), text_px: None };
        let drawn = instances(&[found([100.4, 49.6, 200.0, 150.0])], [640, 480], &style);
        let fill = class_colour(2);
        let edges: Vec<[i32; 4]> = drawn.list.iter().filter(|i| i.colour == fill).map(|i| i.rect_px).collect();
        assert_eq!(edges, [[99, 49, 201, 52], [99, 148, 201, 151], [99, 52, 102, 148], [198, 52, 201, 148]]);
        assert_eq!(extent(&drawn.list, outline_colour(fill)), [98, 48, 202, 152]);
        assert_eq!(drawn.list.len(), 8);
        assert!(drawn.list.iter().all(|i| i.source == SOLID));
    }

    #[test]
    fn labels_read_and_stay_inside() {
        let glyphs_of = |list: &[Instance]| list.iter().filter(|i| i.source == GLYPH).count();
        let whole = instances(&[found([100.0, 100.0, 300.0, 300.0])], [640, 480], &Style::default());
        // "car0.88": the spaces leave no rectangle.
        assert_eq!(glyphs_of(&whole.list), 7);
        let bar = whole.list.iter().rfind(|i| i.source == SOLID).map(|i| i.rect_px);
        let bar = bar.unwrap_or_default();
        assert_eq!((bar[0], bar[3]), (99, 101), "the bar stands on the box");
        for bounds in [
            [0.0, 0.0, 30.0, 30.0],
            [620.0, 0.0, 640.0, 480.0],
            [600.0, 460.0, 640.0, 480.0],
            [-50.0, -50.0, 700.0, 500.0],
            [639.5, 479.5, 640.0, 480.0],
        ] {
            let drawn = instances(&[found(bounds)], [640, 480], &Style::default());
            assert_eq!(glyphs_of(&drawn.list), 7, "{bounds:?}");
            let ink = extent(&drawn.list, ink_colour(class_colour(2)));
            let fill = extent(&drawn.list, class_colour(2));
            assert!(ink[0] > 0 && ink[1] > 0 && ink[2] < 640 && ink[3] < 480, "{bounds:?} {ink:?}");
            assert!(fill[0] >= 0 && fill[1] >= 0 && fill[2] <= 640 && fill[3] <= 480, "{bounds:?} {fill:?}");
            // Centred in the bar: as much above the digits as below.
            let bar = drawn.list.iter().rfind(|i| i.source == SOLID).map(|i| i.rect_px).unwrap_or_default();
            let (above, below) = (ink[1] - bar[1], bar[3] - ink[3]);
            assert!((above - below).abs() <= 2, "{bar:?} {ink:?}");
        }
    }

    #[test]
    fn scores_are_rounded() {
        let texels = |score: f32| -> Vec<[i32; 2]> {
            let style = Style { labels: false, ..Style::default() };
            let d = Detection { score, ..found([100.0, 100.0, 300.0, 300.0]) };
            let drawn = instances(&[d], [640, 480], &style);
            drawn.list.iter().filter(|i| i.source == GLYPH).map(|i| i.texel_px).collect()
        };
        let atlas = Style::default().atlas([640, 480]);
        let text = |t: &str| -> Vec<[i32; 2]> {
            t.chars().map(|c| atlas.glyph(crate::draw::font::glyph_index(c)).atlas_px.map(|v| v as i32)).collect()
        };
        for (score, expected) in [
            (0.0, "0.00"),
            (0.004_9, "0.00"),
            (0.25, "0.25"),
            (0.876, "0.88"),
            (0.996, "1.00"),
            (7.0, "1.00"),
            (-1.0, "0.00"),
            (f32::NAN, "0.00"),
        ] {
            assert_eq!(texels(score), text(expected), "{score}");
        }
    }

    #[test]
    fn strange_boxes_draw_nothing_and_strange_pictures_do_not_panic() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        for bounds in [
            [nan, 1.0, 2.0, 3.0],
            [0.0, 0.0, inf, 10.0],
            [-inf, 0.0, 5.0, nan],
            [10.0, 10.0, 5.0, 20.0],
            [10.0, 10.0, 10.0, 10.0],
            [-20.0, -20.0, -10.0, -10.0],
            [1e30, 0.0, 2e30, 5.0],
        ] {
            assert!(instances(&[found(bounds)], [64, 64], &Style::default()).list.is_empty(), "{bounds:?}");
        }
        let text = Style { text_px: Some(40), line_px: Some(u32::MAX), ..Style::default() };
        for picture in [[1, 1], [3, 3], [1, 4000], [4000, 1], [0, 0], [u32::MAX, u32::MAX]] {
            for style in [Style::default(), text] {
                let d = found([-1e9, -3.0, 1e9, 3e38]);
                for i in instances(&[d], picture, &style).list {
                    let r = i.rect_px;
                    assert!(r[0] >= 0 && r[1] >= 0 && r[2] > r[0] && r[3] > r[1], "{r:?}");
                    assert!(r[2] as u32 <= picture[0] && r[3] as u32 <= picture[1], "{r:?} {picture:?}");
                }
            }
        }
    }

    #[test]
    fn long_and_foreign_labels_are_cut_and_replaced() {
        let mut d = found([100.0, 100.0, 300.0, 300.0]);
        d.label = "猫".repeat(500);
        let drawn = instances(&[d], [10_000, 4_000], &Style::default());
        let glyphs: Vec<_> = drawn.list.iter().filter(|i| i.source == GLYPH).collect();
        assert_eq!(glyphs.len(), 48 + 4, "47 boxes, an ellipsis, a score");
        assert!(glyphs[..47].iter().all(|g| g.texel_px == glyphs[0].texel_px));
    }

    #[test]
    fn landmarks_are_squares_inside_the_picture() {
        let mut d = found([10.0, 10.0, 60.0, 60.0]);
        let without = instances(&[d.clone()], [100, 80], &Style::default()).list;
        d.landmarks = vec![[20.9, 30.0], [0.0, 79.5], [f32::NAN, 3.0], [100.0, 3.0], [-0.5, 3.0], [3.0, f32::INFINITY]];
        let list = instances(&[d], [100, 80], &Style::default()).list;
        assert_eq!(list[..without.len()], without);
        let squares: Vec<[i32; 4]> = list[without.len()..].iter().map(|i| i.rect_px).collect();
        assert_eq!(squares, [[18, 28, 23, 33], [19, 29, 22, 32], [0, 77, 3, 80], [0, 78, 2, 80]]);
    }

    #[test]
    fn hidden_landmarks_are_not_drawn() {
        let mut d = found([10.0, 10.0, 60.0, 60.0]);
        let without = instances(&[d.clone()], [100, 80], &Style::default()).list.len();
        d.landmarks = vec![[20.0, 30.0], [30.0, 30.0], [40.0, 30.0]];
        d.visibility = vec![0.9, 0.4, 0.5];
        assert_eq!(instances(&[d], [100, 80], &Style::default()).list.len(), without + 4);
    }

    #[test]
    fn masks_lie_below_and_turned_boxes_replace_upright_ones() {
        let style = Style { labels: false, scores: false, line_px: Some(1), text_px: None };
        let mut d = found([10.0, 10.0, 20.0, 20.0]);
        let upright = instances(&[d.clone()], [100, 80], &style).list;
        d.mask = Some(Mask { bounds_px: [10, 10, 20, 20], runs: vec![3, 4, 93] });
        let with_mask = instances(&[d.clone()], [100, 80], &style).list;
        assert_eq!(with_mask[0].rect_px, [13, 10, 17, 11]);
        assert!(with_mask[0].colour[3] < 255);
        assert_eq!(with_mask[1..], upright);
        d.mask = None;
        d.quad = Some(Quad { corners: [[15.0, 10.0], [20.0, 15.0], [15.0, 20.0], [10.0, 15.0]], angle: 0.785 });
        let turned = instances(&[d], [100, 80], &style).list;
        assert!(turned.iter().all(|i| !upright.contains(i)) && turned.len() > 8);
    }

    #[test]
    fn best_is_on_top() {
        let mut worse = found([100.0, 100.0, 300.0, 300.0]);
        worse.class = 5;
        let drawn = instances(&[found([90.0, 90.0, 310.0, 310.0]), worse], [640, 480], &Style::default());
        let at = |class| drawn.list.iter().position(|i| i.colour == class_colour(class));
        assert!(at(5) < at(2));
    }
}
