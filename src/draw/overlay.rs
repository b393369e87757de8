//! Draws rectangles and glyphs into a picture: twin of `shaders/draw/overlay.wgsl`.
//!
//! A pixel belongs to a rectangle when its centre lies inside; rectangles are of whole pixels, so that is left ≤ x <
//! right and top ≤ y < bottom. Blending is that of an 8-bit render target: `dst + (src − dst)·α` on the coded levels, no
//! gamma, rounded to nearest after every rectangle.

use super::DrawError;
use super::font::Atlas;
use super::instances::{GLYPH, Instance, Style, instances};
use crate::decode::Detection;
use crate::frame::{Frame, PixelFormat};

/// The shader's text: a pass for the picture and one for the rectangles.
pub const OVERLAY_WGSL: &str = include_str!("../../shaders/draw/overlay.wgsl");

/// A copy of the picture as Rgb8 with boxes and labels on it. Detections are in its pixels, best first.
pub fn annotate(frame: &Frame, detections: &[Detection], style: &Style) -> Frame {
    let mut out = frame.to_rgb8();
    let drawn = instances(detections, [out.width, out.height], style);
    blend_all(&mut out.bytes, [out.width, out.height], &RGB, &drawn.list, &drawn.atlas);
    out
}

/// Draws the rectangles, in their order, into a picture with three or four bytes a pixel; its alpha stays as it is.
///
/// # Errors
/// Other pixel formats.
pub fn rasterise(frame: &mut Frame, list: &[Instance], atlas: &Atlas) -> Result<(), DrawError> {
    let order = match frame.format {
        PixelFormat::Rgb8 => &RGB,
        PixelFormat::Rgba8 => &Channels { bytes_per_pixel: 4, red_green_blue: [0, 1, 2] },
        PixelFormat::Bgra8 => &Channels { bytes_per_pixel: 4, red_green_blue: [2, 1, 0] },
        other => return Err(DrawError::Format(other)),
    };
    blend_all(&mut frame.bytes, [frame.width, frame.height], order, list, atlas);
    Ok(())
}

/// Where the colours of a pixel lie.
struct Channels {
    bytes_per_pixel: usize,
    red_green_blue: [usize; 3],
}

const RGB: Channels = Channels { bytes_per_pixel: 3, red_green_blue: [0, 1, 2] };

fn blend_all(bytes: &mut [u8], size_px: [u32; 2], channels: &Channels, list: &[Instance], atlas: &Atlas) {
    let [width, height] = size_px.map(|v| v as usize);
    for instance in list {
        let [left, top, right, bottom] = instance.rect_px;
        let columns = (left.max(0) as usize)..(right.max(0) as usize).min(width);
        if columns.is_empty() {
            continue;
        }
        for y in (top.max(0) as usize)..(bottom.max(0) as usize).min(height) {
            let row_bytes = width * channels.bytes_per_pixel;
            let row = &mut bytes[y * row_bytes..][..row_bytes];
            let pixels = row[columns.start * channels.bytes_per_pixel..columns.end * channels.bytes_per_pixel]
                .chunks_exact_mut(channels.bytes_per_pixel);
            for (x, pixel) in columns.clone().zip(pixels) {
                let coverage = if instance.source == GLYPH {
                    let texel_x = instance.texel_px[0] + (x as i32 - left);
                    let texel_y = instance.texel_px[1] + (y as i32 - top);
                    texel(atlas, texel_x, texel_y)
                } else {
                    255
                };
                let alpha = u32::from(coverage) * u32::from(instance.colour[3]);
                if alpha == 0 {
                    continue;
                }
                for (colour, &at) in instance.colour.iter().zip(&channels.red_green_blue) {
                    pixel[at] = if alpha == OPAQUE { *colour } else { blend(pixel[at], *colour, alpha) };
                }
            }
        }
    }
}

/// Coverage of a texel; 0 outside the atlas.
fn texel(atlas: &Atlas, x: i32, y: i32) -> u8 {
    if x < 0 || y < 0 || x as u32 >= atlas.width_px || y as u32 >= atlas.height_px {
        return 0;
    }
    atlas.coverage.get(y as usize * atlas.width_px as usize + x as usize).copied().unwrap_or(0)
}

/// Coverage times alpha of a pixel that is all the rectangle's.
const OPAQUE: u32 = 255 * 255;

/// `dst + (src − dst)·α`, rounded to nearest; `alpha` of [`OPAQUE`].
fn blend(dst: u8, src: u8, alpha: u32) -> u8 {
    ((u32::from(dst) * (OPAQUE - alpha) + u32::from(src) * alpha + OPAQUE / 2) / OPAQUE) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::instances::SOLID;

    fn grey(width: u32, height: u32, format: PixelFormat) -> Frame {
        let bytes = vec![100; (width * height) as usize * format.bytes_per_pixel()];
        Frame::new(width, height, format, bytes).expect("frame")
    }

    fn solid(rect_px: [i32; 4], colour: [u8; 4]) -> Instance {
        Instance { rect_px, texel_px: [0, 0], colour, source: SOLID }
    }

    #[test]
    fn rectangles_cover_exactly_their_pixels() {
        let atlas = Atlas::of_size(12);
        for format in [PixelFormat::Rgb8, PixelFormat::Rgba8, PixelFormat::Bgra8] {
            for rect in [[2, 1, 5, 4], [-3, -3, 2, 2], [5, 3, 99, 99], [-9, -9, 99, 99], [3, 3, 3, 9], [7, 0, 9, 9]] {
                let mut frame = grey(7, 5, format);
                assert_eq!(rasterise(&mut frame, &[solid(rect, [10, 20, 30, 255])], &atlas), Ok(()));
                for y in 0..5 {
                    for x in 0..7 {
                        let (cx, cy) = (x as f64 + 0.5, y as f64 + 0.5);
                        let [l, t, r, b] = rect.map(f64::from);
                        let inside = cx > l && cx < r && cy > t && cy < b;
                        assert_eq!(frame.rgb(x, y), if inside { [10, 20, 30] } else { [100; 3] }, "{rect:?} {x} {y}");
                    }
                }
                if format != PixelFormat::Rgb8 {
                    assert!(frame.bytes.iter().skip(3).step_by(4).all(|a| *a == 100), "alpha stays");
                }
            }
        }
        assert_eq!(
            rasterise(&mut grey(2, 2, PixelFormat::Gray8), &[], &atlas),
            Err(DrawError::Format(PixelFormat::Gray8))
        );
    }

    #[test]
    fn blending_rounds_to_nearest() {
        for dst in [0u8, 1, 99, 100, 254, 255] {
            for src in [0u8, 7, 128, 255] {
                for alpha in [0u32, 1, 255, 32_512, 32_513, 65_024, 65_025] {
                    let exact = f64::from(dst) + (f64::from(src) - f64::from(dst)) * f64::from(alpha) / 65_025.0;
                    assert!((f64::from(blend(dst, src, alpha)) - exact).abs() <= 0.500_01, "{dst} {src} {alpha}");
                }
            }
        }
        assert_eq!(blend(3, 200, 65_025), 200);
        assert_eq!(blend(3, 200, 0), 3);
    }

    #[test]
    fn glyphs_follow_the_atlas_where_they_are_cut() {
        let atlas = Atlas::of_size(30);
        let g = *atlas.glyph(crate::draw::font::glyph_index('W'));
        let [w, h] = g.size_px.map(|v| v as i32);
        let glyph = |x: i32, y: i32| Instance {
            rect_px: [x, y, x + w, y + h],
            texel_px: g.atlas_px.map(|v| v as i32),
            colour: [255, 255, 255, 255],
            source: GLYPH,
        };
        for [x, y] in [[0, 0], [-5, -7], [12, 9]] {
            let mut frame = grey(20, 20, PixelFormat::Rgb8);
            frame.bytes.fill(0);
            assert_eq!(rasterise(&mut frame, &[glyph(x, y)], &atlas), Ok(()));
            for py in 0..20i32 {
                for px in 0..20i32 {
                    let (u, v) = (px - x, py - y);
                    let inside = u >= 0 && v >= 0 && u < w && v < h;
                    let at = (g.atlas_px[1] as i32 + v) * atlas.width_px as i32 + g.atlas_px[0] as i32 + u;
                    let expected = if inside { atlas.coverage[at as usize] } else { 0 };
                    assert_eq!(frame.rgb(px as u32, py as u32), [expected; 3]);
                }
            }
        }
    }

    #[test]
    fn annotates_every_format_and_the_smallest_pictures() {
        for format in [PixelFormat::Rgb8, PixelFormat::Rgba8, PixelFormat::Bgra8, PixelFormat::Gray8] {
            for [width, height] in [[1, 1], [3, 3], [1, 90], [200, 2], [64, 64]] {
                let d = Detection {
                    class: 1,
                    label: "cat".into(),
                    score: 0.5,
                    bounds: [0.0, 0.0, 200.0, 200.0],
                    ..Detection::default()
                };
                let out = annotate(&grey(width, height, format), &[d], &Style::default());
                assert_eq!((out.width, out.height, out.format), (width, height, PixelFormat::Rgb8));
                assert_eq!(out.bytes.len(), (width * height * 3) as usize);
                assert_ne!(out.rgb(0, 0), [100; 3]);
            }
        }
        let untouched = grey(5, 4, PixelFormat::Rgb8);
        assert_eq!(annotate(&untouched, &[], &Style::default()), untouched);
    }

    #[test]
    fn ten_thousand_detections_are_drawn() {
        let detections: Vec<Detection> = (0..10_000u32)
            .map(|i| {
                let (x, y) = ((i * 37 % 300) as f32 - 20.0, (i * 91 % 220) as f32 - 20.0);
                let bounds = [x, y, x + (i % 50) as f32, y + (i % 31) as f32];
                Detection {
                    class: i % 80,
                    label: format!("c{}", i % 80),
                    score: i as f32 / 1e4,
                    bounds,
                    ..Detection::default()
                }
            })
            .collect();
        let out = annotate(&grey(320, 240, PixelFormat::Rgb8), &detections, &Style::default());
        assert!(out.bytes.iter().any(|b| *b != 100));
    }
}
