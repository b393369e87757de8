//! The embedded font and its glyph atlas.
//!
//! The font is a subset of DejaVu Sans Condensed Bold: printable ASCII, Latin-1 and the ellipsis. Its licence lies
//! beside it in `font/`. Labels need no shaping: one glyph a character, pen advances in whole pixels.

use ab_glyph::{Font, FontRef, PxScale, point};
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
        let scale = PxScale { x: px_per_unit[0] * font.height_unscaled(), y: px_per_unit[1] * font.height_unscaled() };

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
        let ids = std::iter::once(ab_glyph::GlyphId(0)).chain(characters().map(|c| font.glyph_id(c)));
        for id in ids {
            let advance = font.h_advance_unscaled(id) * px_per_unit[0];
            let mut glyph = Glyph { advance_px: advance.round().max(1.0) as u32, ..Glyph::default() };
            // The left edge of a letter falls on a pixel's edge: pens are whole, so its stem is crisp everywhere.
            let bearing = font.outline(id).map_or(0.0, |o| o.bounds.min.x * px_per_unit[0]);
            let at = point(bearing.round() - bearing, 0.0);
            if let Some(outlined) = font.outline_glyph(id.with_scale_and_position(scale, at)) {
                let bounds = outlined.px_bounds();
                let size = [bounds.width().ceil() as u32, bounds.height().ceil() as u32];
                if x + size[0] > ATLAS_WIDTH_PX {
                    (x, y, shelf_px) = (0, y + shelf_px, 0);
                }
                shelf_px = shelf_px.max(size[1]);
                atlas.coverage.resize((ATLAS_WIDTH_PX * (y + shelf_px)) as usize, 0);
                outlined.draw(|column, row, coverage| {
                    let index = ((y + row) * ATLAS_WIDTH_PX + x + column) as usize;
                    if let Some(texel) = atlas.coverage.get_mut(index) {
                        *texel = (coverage.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
                    }
                });
                glyph.atlas_px = [x, y];
                glyph.size_px = size;
                glyph.offset_px = [bounds.min.x.round() as i32, bounds.min.y.round() as i32];
                x += size[0];
            }
            atlas.glyphs.push(glyph);
        }
        atlas.height_px = y + shelf_px;
        let p = atlas.glyph(glyph_index('p'));
        atlas.descent_px = (p.offset_px[1] + p.size_px[1] as i32).max(0) as u32;
        atlas
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
