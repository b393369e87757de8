//! The embedded font and its glyph atlas.
//!
//! The font is a subset of DejaVu Sans Condensed Bold: printable ASCII, Latin-1 and the ellipsis. Its licence lies
//! beside it in `font/`. Labels need no shaping: one glyph a character, pen advances in whole pixels.

use ab_glyph::{Font, FontRef, GlyphId, OutlinedGlyph, PxScale, PxScaleFactor, point};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// The font file.
pub const FONT_BYTES: &[u8] = include_bytes!("font/DejaVuSansCondensed-Bold.ttf");

/// Text sizes that an atlas can be made for: pixels per em.
pub const TEXT_PX: std::ops::RangeInclusive<u32> = 6..=96;

/// Columns of an atlas; its rows are as many as the glyphs need, at most 2048.
const ATLAS_WIDTH_PX: u32 = 1024;

/// Index of the glyph that stands for every character that the font lacks: a box.
pub const FALLBACK: u32 = 0;

/// One glyph of an [`Atlas`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Glyph {
    /// Top left of its bitmap in the atlas.
    pub atlas_px: [u32; 2],
    /// Size of its bitmap; 0 for a space.
    pub size_px: [u32; 2],
    /// From the pen on the baseline to the bitmap's top left; y points down.
    pub offset_px: [i32; 2],
    /// From this pen to the next.
    pub advance_px: u32,
}

/// All glyphs of the font at one size, rasterised once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Atlas {
    /// Pixels per em.
    pub text_px: u32,
    /// Height of capitals and digits.
    pub capital_px: u32,
    /// How far letters reach below the baseline.
    pub descent_px: u32,
    pub width_px: u32,
    pub height_px: u32,
    /// Coverage of each pixel, 0 to 255, rows of `width_px` without padding.
    pub coverage: Vec<u8>,
    /// By [`glyph_index`].
    pub glyphs: Vec<Glyph>,
}

/// The characters of the atlas, in its order, after the fallback.
fn characters() -> impl Iterator<Item = char> {
    (' '..='~').chain('\u{a0}'..='\u{ff}').chain(['…'])
}

/// Where a character's glyph lies in [`Atlas::glyphs`].
pub const fn glyph_index(character: char) -> u32 {
    match character {
        ' '..='~' => 1 + character as u32 - 0x20,
        '\u{a0}'..='\u{ff}' => 1 + 95 + character as u32 - 0xa0,
        '…' => 1 + 95 + 96,
        _ => FALLBACK,
    }
}

static FONT: LazyLock<FontRef<'static>> = LazyLock::new(|| {
    // The bytes are a constant of the program and a test reads them.
    FontRef::try_from_slice(FONT_BYTES).expect("the embedded font is a valid TrueType file")
});

static ATLASES: Mutex<BTreeMap<u32, Arc<Atlas>>> = Mutex::new(BTreeMap::new());

impl Atlas {
    /// The atlas for a text size, which is clamped to [`TEXT_PX`]; made once, then shared.
    pub fn of_size(text_px: u32) -> Arc<Atlas> {
        let text_px = text_px.clamp(*TEXT_PX.start(), *TEXT_PX.end());
        let mut atlases = ATLASES.lock().unwrap_or_else(PoisonError::into_inner);
        atlases.entry(text_px).or_insert_with(|| Arc::new(Atlas::rasterised(text_px))).clone()
    }

    /// The glyph of an index; that of the fallback for an index outside.
    pub fn glyph(&self, index: u32) -> &Glyph {
        self.glyphs.get(index as usize).unwrap_or(&self.glyphs[FALLBACK as usize])
    }

    fn rasterised(text_px: u32) -> Atlas {
        let font = &*FONT;
        let units_per_em = font.units_per_em().unwrap_or(2048.0);
        let height_of = |c: char| font.outline(font.glyph_id(c)).map_or(units_per_em, |o| o.bounds.height().abs());
        let em = text_px as f32;
        // The height of x is a whole number of pixels: the flat tops of most letters are then crisp.
        let x_height_px = (em * height_of('x') / units_per_em).round().max(1.0);
        let px_per_unit = [em / units_per_em, x_height_px / height_of('x')];

        let mut atlas = Atlas {
            text_px,
            capital_px: (height_of('H') * px_per_unit[1]).round() as u32,
            descent_px: 0,
            width_px: ATLAS_WIDTH_PX,
            height_px: 0,
            coverage: Vec::new(),
            glyphs: Vec::new(),
        };
        // Shelves: a row of glyphs is as high as its highest glyph.
        let (mut x, mut y, mut shelf_px) = (0, 0, 0);
        let ids = std::iter::once(GlyphId(0)).chain(characters().map(|c| font.glyph_id(c)));
        for id in ids {
            let advance = font.h_advance_unscaled(id) * px_per_unit[0];
            let mut glyph = Glyph { advance_px: advance.round().max(1.0) as u32, ..Glyph::default() };
            if let Some(bitmap) = bitmap(id, px_per_unit) {
                let [width, height] = bitmap.size_px;
                if x + width > ATLAS_WIDTH_PX {
                    (x, y, shelf_px) = (0, y + shelf_px, 0);
                }
                shelf_px = shelf_px.max(height);
                atlas.coverage.resize((ATLAS_WIDTH_PX * (y + shelf_px)) as usize, 0);
                for (row, texels) in (y..).zip(bitmap.coverage.chunks_exact(width as usize)) {
                    let at = (row * ATLAS_WIDTH_PX + x) as usize;
                    atlas.coverage[at..at + texels.len()].copy_from_slice(texels);
                }
                glyph.atlas_px = [x, y];
                glyph.size_px = bitmap.size_px;
                glyph.offset_px = bitmap.offset_px;
                x += width;
            }
            atlas.glyphs.push(glyph);
        }
        atlas.height_px = y + shelf_px;
        let p = atlas.glyph(glyph_index('p'));
        atlas.descent_px = (p.offset_px[1] + p.size_px[1] as i32).max(0) as u32;
        atlas
    }
}

/// A glyph's coverage, without empty rows and columns around it.
struct Bitmap {
    size_px: [u32; 2],
    offset_px: [i32; 2],
    coverage: Vec<u8>,
}

/// Rasterises a glyph; `None` for one without ink.
fn bitmap(id: GlyphId, px_per_unit: [f32; 2]) -> Option<Bitmap> {
    let mut outline = FONT.outline(id)?;
    // The left edge of a letter falls on a pixel's edge: pens are whole, so its stem is crisp everywhere.
    let bearing = outline.bounds.min.x * px_per_unit[0];
    let position = point(bearing.round() - bearing, 0.0);
    // The rasteriser goes wrong when rounding puts a point outside the bounds, and snapped points lie on them.
    let margin = [0.5 / px_per_unit[0], 0.5 / px_per_unit[1]];
    let up = if outline.bounds.min.y <= outline.bounds.max.y { margin[1] } else { -margin[1] };
    outline.bounds.min -= point(margin[0], up);
    outline.bounds.max += point(margin[0], up);
    let scale = PxScale { x: px_per_unit[0] * FONT.height_unscaled(), y: px_per_unit[1] * FONT.height_unscaled() };
    let factor = PxScaleFactor { horizontal: px_per_unit[0], vertical: px_per_unit[1] };
    let outlined = OutlinedGlyph::new(id.with_scale_and_position(scale, position), outline, factor);

    let bounds = outlined.px_bounds();
    let width = bounds.width() as usize;
    let mut whole = vec![0u8; width * bounds.height() as usize];
    // First and one past the last column and row with ink.
    let (mut low, mut high) = ([u32::MAX; 2], [0; 2]);
    outlined.draw(|column, row, coverage| {
        let level = (coverage.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
        if let Some(texel) = whole.get_mut(row as usize * width + column as usize)
            && level > 0
        {
            *texel = level;
            low = [low[0].min(column), low[1].min(row)];
            high = [high[0].max(column + 1), high[1].max(row + 1)];
        }
    });
    if high[0] == 0 {
        return None;
    }
    let coverage = (low[1]..high[1])
        .flat_map(|row| &whole[row as usize * width..][low[0] as usize..high[0] as usize])
        .copied()
        .collect();
    Some(Bitmap {
        size_px: [high[0] - low[0], high[1] - low[1]],
        offset_px: [bounds.min.x as i32 + low[0] as i32, bounds.min.y as i32 + low[1] as i32],
        coverage,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ab_glyph::OutlineCurve;

    /// Coverage by 16×16 samples a pixel and winding numbers, in f64.
    fn sampled(c: char, atlas: &Atlas) -> Vec<f64> {
        let outline = FONT.outline(FONT.glyph_id(c)).expect("a glyph with ink");
        let height_of = |c: char| f64::from(FONT.outline(FONT.glyph_id(c)).expect("ink").bounds.height().abs());
        let per_em = f64::from(FONT.units_per_em().expect("a size"));
        let em = f64::from(atlas.text_px);
        let scale = [em / per_em, (em * height_of('x') / per_em).round() / height_of('x')];
        let bearing = f64::from(outline.bounds.min.x) * scale[0];
        let at =
            |p: &ab_glyph::Point| [f64::from(p.x) * scale[0] + bearing.round() - bearing, -f64::from(p.y) * scale[1]];
        let mut lines = Vec::new();
        for curve in &outline.curves {
            match curve {
                OutlineCurve::Line(a, b) => lines.push((at(a), at(b))),
                OutlineCurve::Quad(a, b, c) => {
                    let (a, b, c) = (at(a), at(b), at(c));
                    let on =
                        |t: f64| [0, 1].map(|k| (1.0 - t).powi(2) * a[k] + 2.0 * t * (1.0 - t) * b[k] + t * t * c[k]);
                    lines.extend((0..16).map(|i| (on(f64::from(i) / 16.0), on(f64::from(i + 1) / 16.0))));
                }
                OutlineCurve::Cubic(..) => panic!("TrueType has no cubics"),
            }
        }
        let winding = |x: f64, y: f64| -> i32 {
            lines
                .iter()
                .filter(|(a, b)| (a[1] <= y) != (b[1] <= y))
                .filter(|(a, b)| a[0] + (y - a[1]) / (b[1] - a[1]) * (b[0] - a[0]) > x)
                .map(|(a, b)| if a[1] < b[1] { 1 } else { -1 })
                .sum()
        };
        let g = atlas.glyph(glyph_index(c));
        let mut coverage = Vec::new();
        for y in 0..g.size_px[1] as i32 {
            for x in 0..g.size_px[0] as i32 {
                let corner = [g.offset_px[0] + x, g.offset_px[1] + y].map(f64::from);
                let step = |k: i32| (f64::from(k) + 0.5) / 16.0;
                let inside = (0..256).filter(|k| winding(corner[0] + step(k % 16), corner[1] + step(k / 16)) != 0);
                coverage.push(inside.count() as f64 / 256.0);
            }
        }
        coverage
    }

    #[test]
    fn coverage_is_that_of_the_outline() {
        for text_px in [7, 11, 18, 29] {
            let atlas = Atlas::of_size(text_px);
            for c in ('0'..='9').chain('A'..='Z').chain('a'..='z').chain(['É', '%', '…', '.']) {
                let g = atlas.glyph(glyph_index(c));
                for (i, expected) in sampled(c, &atlas).into_iter().enumerate() {
                    let (x, y) = (i as u32 % g.size_px[0], i as u32 / g.size_px[0]);
                    let at = (g.atlas_px[1] + y) * atlas.width_px + g.atlas_px[0] + x;
                    let actual = f64::from(atlas.coverage[at as usize]) / 255.0;
                    // The rasteriser draws flat curves as lines, up to a sixth of a pixel off.
                    assert!(
                        (actual - expected).abs() < 0.2,
                        "{c} at {text_px} px: {actual}, not {expected} at {x} {y}"
                    );
                }
            }
        }
    }

    #[test]
    fn indices_match_the_order_of_the_atlas() {
        let atlas = Atlas::of_size(20);
        for (i, c) in characters().enumerate() {
            assert_eq!(glyph_index(c) as usize, i + 1, "{c:?}");
            assert_ne!(FONT.glyph_id(c).0, 0, "the font has no {c:?}");
        }
        assert_eq!(atlas.glyphs.len(), characters().count() + 1);
        assert_eq!(glyph_index('\n'), FALLBACK);
        assert_eq!(glyph_index('猫'), FALLBACK);
        assert!(atlas.glyph(FALLBACK).size_px[0] > 3);
        assert_eq!(atlas.glyph(9999), atlas.glyph(FALLBACK));
    }

    #[test]
    fn every_size_fits_a_small_texture_and_no_glyphs_overlap() {
        for text_px in [0, 6, 7, 10, 13, 18, 33, 64, 96, 1000] {
            let atlas = Atlas::of_size(text_px);
            assert!(atlas.height_px <= 2048 && atlas.height_px > 0);
            assert_eq!(atlas.coverage.len(), (atlas.width_px * atlas.height_px) as usize);
            let mut taken = vec![false; atlas.coverage.len()];
            for glyph in &atlas.glyphs {
                for y in glyph.atlas_px[1]..glyph.atlas_px[1] + glyph.size_px[1] {
                    for x in glyph.atlas_px[0]..glyph.atlas_px[0] + glyph.size_px[0] {
                        let texel = &mut taken[(y * atlas.width_px + x) as usize];
                        assert!(!*texel);
                        *texel = true;
                    }
                }
            }
        }
    }

    #[test]
    fn a_stem_is_crisp_and_a_space_is_empty() {
        let atlas = Atlas::of_size(18);
        let l = atlas.glyph(glyph_index('l'));
        assert!(l.size_px[1] >= atlas.capital_px && l.offset_px[1] < 0);
        let row = (l.atlas_px[1] + l.size_px[1] / 2) * atlas.width_px + l.atlas_px[0];
        assert_eq!(atlas.coverage[row as usize], 255, "the stem's left column");
        assert_eq!(atlas.glyph(glyph_index(' ')).size_px, [0, 0]);
        assert!(atlas.descent_px > 0 && atlas.descent_px < atlas.capital_px);
        // The bottom row of x lies on the baseline.
        let x = atlas.glyph(glyph_index('x'));
        assert_eq!(x.offset_px[1] + x.size_px[1] as i32, 0);
    }
}
