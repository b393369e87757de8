//! Lines of text on a translucent box in a corner of the target: the panel of the live view and its help.

use super::font::{Atlas, glyph_index};
use super::instances::{GLYPH, Instance, SOLID};
use super::palette::Rgba;

/// Where a box of text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corner {
    TopLeft,
    BottomLeft,
}

const BACKGROUND: Rgba = [0, 0, 0, 176];
const INK: Rgba = [255, 255, 255, 255];

/// The rectangles of some lines of text on a target of that size. What does not fit is left out: lines beyond the upper
/// half of the target ([`Corner::TopLeft`], but the first) or beyond its height, and characters beyond its width.
pub fn text_box(lines: &[String], target_px: [u32; 2], corner: Corner, atlas: &Atlas) -> Vec<Instance> {
    let [width, height] = target_px.map(|v| v.min(1 << 24) as i32);
    let (capital_px, descent_px) = (atlas.capital_px as i32, atlas.descent_px as i32);
    let pad_px = capital_px.div_euclid(2).max(2);
    let step_px = capital_px + 2 * descent_px + 1;
    let rows_in = |height: i32| ((height - 2 * pad_px - capital_px).div_euclid(step_px.max(1)) + 1).max(0) as usize;
    let room = match corner {
        Corner::TopLeft => rows_in(height / 2).max(1).min(rows_in(height)),
        Corner::BottomLeft => rows_in(height),
    };
    let lines = &lines[..lines.len().min(room)];
    if lines.is_empty() || width <= 2 * pad_px {
        return Vec::new();
    }
    let advance_px = |line: &str| -> i32 { line.chars().map(|c| atlas.glyph(glyph_index(c)).advance_px as i32).sum() };
    let text_px = lines.iter().map(|line| advance_px(line)).max().unwrap_or(0);
    let box_px =
        [(text_px + 2 * pad_px).min(width), (step_px * (lines.len() as i32 - 1) + capital_px + 2 * pad_px).min(height)];
    let top = match corner {
        Corner::TopLeft => 0,
        Corner::BottomLeft => height - box_px[1],
    };
    let rect = [0, top, box_px[0], top + box_px[1]];
    let mut list = vec![Instance { rect_px: rect, texel_px: [0, 0], colour: BACKGROUND, source: SOLID }];
    for (line, row) in lines.iter().zip(0..) {
        let baseline = top + pad_px + capital_px + row * step_px;
        let mut pen = pad_px;
        for c in line.chars() {
            let glyph = atlas.glyph(glyph_index(c));
            let low = [pen + glyph.offset_px[0], baseline + glyph.offset_px[1]];
            let high = [low[0] + glyph.size_px[0] as i32, low[1] + glyph.size_px[1] as i32];
            pen += glyph.advance_px as i32;
            if pen > width - pad_px {
                break;
            }
            let clipped = [low[0].max(0), low[1].max(0), high[0].min(width), high[1].min(height)];
            if clipped[2] > clipped[0] && clipped[3] > clipped[1] {
                let texel = [0, 1].map(|k| glyph.atlas_px[k] as i32 + clipped[k] - low[k]);
                list.push(Instance { rect_px: clipped, texel_px: texel, colour: INK, source: GLYPH });
            }
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_inside_whatever_the_size() {
        let lines: Vec<String> = (0..12).map(|i| format!("line {i}: jÀpg… 0123456789")).collect();
        for corner in [Corner::TopLeft, Corner::BottomLeft] {
            for target in [[0, 0], [1, 1], [7, 300], [300, 7], [200, 150], [641, 479], [1900, 1000]] {
                for text_px in [6, 13, 40] {
                    for i in text_box(&lines, target, corner, &Atlas::of_size(text_px)) {
                        let r = i.rect_px;
                        assert!(r[0] >= 0 && r[1] >= 0 && r[2] > r[0] && r[3] > r[1], "{r:?}");
                        assert!(r[2] <= target[0] as i32 && r[3] <= target[1] as i32, "{r:?} on {target:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn shows_one_glyph_a_character() {
        let atlas = Atlas::of_size(16);
        let list = text_box(&["ab c".into(), "d".into()], [640, 480], Corner::TopLeft, &atlas);
        assert_eq!(list.iter().filter(|i| i.source == GLYPH).count(), 4);
        assert_eq!(list.iter().filter(|i| i.source == SOLID).count(), 1);
        assert!(list[4].rect_px[1] > list[1].rect_px[1] + atlas.capital_px as i32, "the second line is below");
        assert!(text_box(&[], [640, 480], Corner::TopLeft, &atlas).is_empty());
    }
}
