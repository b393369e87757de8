//! Resize, letterbox, channel order and standardisation in one pass: the twin of `shaders/convert/resize_normalise.wgsl`
//! and a faster form of it.
//!
//! The resize is bilinear with half-pixel centres and without antialiasing, as OpenCV's `resize` with `INTER_LINEAR`
//! does it on 8-bit pictures, in its 11-bit fixed point: levels equal OpenCV's but for the rounding of a position's
//! weight (OpenCV goes through f32 there), which moves about one level in a hundred by 1. Integers make the twin, the
//! fast form and the shader give equal levels; the two float operations after them are rounded alike everywhere.
//!
//! A long file, half of it tests: twin and fast form share tables of positions and are compared with each other.

use std::cell::Cell;

use super::picture::with_picture_bytes;
use super::{ChannelOrder, ConvertError, Preprocess, check_all};
use crate::cpu::threads;
use crate::frame::{Colour, Frame, PixelFormat};
use crate::infer::plan::view::{FeatureMap, View};
use crate::letterbox::Letterbox;
use crate::shader::{Precision, Variant, VariantBuilder};

const SHADER: &str = include_str!("../../shaders/convert/resize_normalise.wgsl");

/// The two neighbours of a position, clamped to the edge, and the weight of the second in 1/2048.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tap {
    low: u32,
    high: u32,
    weight: u32,
}

/// Where pixel `x` of `content` lies among the `picture` pixels of an axis; both at most 16384.
fn tap(x: u32, picture: u32, content: u32) -> Tap {
    // position + 1 = ((2 x + 1) picture + content) / (2 content); the 1 keeps it positive.
    let numerator = (2 * x + 1) * picture + content;
    let whole = numerator / (2 * content);
    let rest = numerator - whole * (2 * content);
    let last = picture - 1;
    Tap { low: (whole.max(1) - 1).min(last), high: whole.min(last), weight: (rest * 2048 + content) / (2 * content) }
}

/// Two pixels of a row weighted: 0..=32640, in 1/128 of a level.
fn across(left: u32, right: u32, weight: u32) -> u32 {
    (left * (2048 - weight) + right * weight) >> 4
}

/// Two results of [`across`] weighted and rounded: 0..=255.
fn down(above: u32, below: u32, weight: u32) -> u32 {
    (((above * (2048 - weight)) >> 16) + ((below * weight) >> 16) + 2) >> 2
}

/// Rec. 601 luma in 15 bits, as OpenCV's `RGB2GRAY`.
fn luminance([r, g, b]: [u32; 3]) -> u32 {
    (r * 9798 + g * 19235 + b * 3735 + 16384) >> 15
}

/// Colours in the order of the network's channels; gray stays red, green, blue.
fn ordered([r, g, b]: [u32; 3], order: ChannelOrder) -> [u32; 3] {
    match order {
        ChannelOrder::Rgb | ChannelOrder::Gray => [r, g, b],
        ChannelOrder::Bgr => [b, g, r],
    }
}

/// The reference: one pixel after the other, as the shader's threads do it. Writes the part of `memory` that `input`
/// is a view of; padding lanes stay as they are.
///
/// # Errors
/// When frame, letterbox, view and memory don't fit together; nothing is written then.
pub fn run_twin(
    frame: &Frame,
    p: &Preprocess,
    letterbox: &Letterbox,
    input: &View,
    memory: &[Cell<f32>],
) -> Result<(), ConvertError> {
    let map = check_all(frame, p, letterbox, input, memory.len())?;
    let scale = p.factors();
    let corner = letterbox.offset_px.map(|px| px as u32);
    let [content_w, content_h] = letterbox.content_px;
    let pixel = |x, y| frame.rgb(x, y).map(u32::from);
    for id_y in 0..p.height_px {
        for id_x in 0..p.width_px {
            let mut level = [u32::from(p.pad()); 3];
            let (x, y) = (id_x.wrapping_sub(corner[0]), id_y.wrapping_sub(corner[1]));
            if x < content_w && y < content_h {
                let tx = tap(x, frame.width, content_w);
                let ty = tap(y, frame.height, content_h);
                let row = |y| {
                    let (left, right) = (pixel(tx.low, y), pixel(tx.high, y));
                    [0, 1, 2].map(|c| across(left[c], right[c], tx.weight))
                };
                let (above, below) = (row(ty.low), row(ty.high));
                level = [0, 1, 2].map(|c| down(above[c], below[c], ty.weight));
                level = match p.order {
                    ChannelOrder::Gray => [luminance(level); 3],
                    order => ordered(level, order),
                };
            }
            let at = map.pixel(0, id_y as usize, id_x as usize);
            for c in 0..map.channels {
                memory[at + c].set(standardise(level[c], (p.mean[c], scale[c])));
            }
        }
    }
    Ok(())
}

/// The shader for pictures of that format and colour into that input, on a device with that storage precision. Bindings: the
/// frame's [`crate::letterbox::FrameParams`], the bytes of the frame padded to a multiple of 4, the input's buffer.
/// Size, stride and letterbox of the picture come from the parameters: one variant serves pictures of every size.
/// The frame must satisfy [`Frame::check`]; the shader trusts it.
///
/// # Errors
/// When the preprocessing or the input's view isn't what [`Preprocess::check`] asks for.
pub fn variant(
    p: &Preprocess,
    format: PixelFormat,
    colour: Colour,
    input: &View,
    precision: Precision,
) -> Result<Variant, ConvertError> {
    let map = p.check(input)?;
    let scale = p.factors();
    let mut v = with_picture_bytes(VariantBuilder::new("resize_normalise", SHADER), format, colour)
        .bool("LUMINANCE", p.order == ChannelOrder::Gray)
        .u32("MODEL_W", map.width)
        .u32("MODEL_H", map.height)
        .u32("PAD", usize::from(p.pad()))
        .u32("OFFSET", map.offset)
        .u32("ROW_STRIDE", map.row_stride)
        .u32("PIXEL_STRIDE", map.pixel_stride)
        .precision(precision);
    for (c, (&mean, &factor)) in p.mean.iter().zip(&scale).enumerate() {
        v = v.f32(&format!("MEAN_{c}"), mean).f32(&format!("SCALE_{c}"), factor);
    }
    if p.order == ChannelOrder::Bgr {
        v = v.line("fn ordered(", "fn ordered(rgb: vec3<u32>) -> vec3<u32> { return rgb.zyx; }");
    }
    if map.channels == 1 {
        v = v.line("fn store(", "fn store(at: u32, v: vec3<f32>) { dst[at] = S(v.x); }");
    } else if map.is_aligned(4) {
        // The fourth lane is this pixel's own padding.
        v = v
            .line("@group(0) @binding(2)", "@group(0) @binding(2) var<storage, read_write> dst: array<S4>;")
            .line("fn store(", "fn store(at: u32, v: vec3<f32>) { dst[at / 4u] = S4(vec4<f32>(v, 0.0f)); }");
    }
    let groups = |extent: usize| extent.div_ceil(16) as u32;
    Ok(v.build([groups(map.width), groups(map.height), 1]))
}

/// What [`run_twin`] computes, bit for bit, by rows: each row of the picture is resized across once and bands of rows
/// run on the threads of the team that this is called in.
///
/// # Errors
/// As [`run_twin`].
pub fn into_slice(
    frame: &Frame,
    p: &Preprocess,
    letterbox: &Letterbox,
    input: &View,
    memory: &mut [f32],
) -> Result<(), ConvertError> {
    let map = check_all(frame, p, letterbox, input, memory.len())?;
    if map.row_stride < map.width * map.pixel_stride {
        // Rows interleave: no view of the planner's, but a valid one.
        return run_twin(frame, p, letterbox, input, Cell::from_mut(memory).as_slice_of_cells());
    }
    let bands = Bands::new(frame, p, letterbox, map);
    match (frame.format, p.order) {
        (PixelFormat::Rgb8, ChannelOrder::Bgr) => bands.run::<3, 2, 1, 0>(memory),
        (PixelFormat::Rgb8, _) => bands.run::<3, 0, 1, 2>(memory),
        (PixelFormat::Rgba8, ChannelOrder::Bgr) | (PixelFormat::Bgra8, ChannelOrder::Rgb | ChannelOrder::Gray) => {
            bands.run::<4, 2, 1, 0>(memory);
        }
        (PixelFormat::Rgba8, _) | (PixelFormat::Bgra8, ChannelOrder::Bgr) => bands.run::<4, 0, 1, 2>(memory),
        (PixelFormat::Gray8, _) => bands.run::<1, 0, 0, 0>(memory),
        // Rows of these are brought to RGB first.
        (PixelFormat::Yuyv | PixelFormat::Nv12 | PixelFormat::I420, ChannelOrder::Bgr) => {
            bands.run::<3, 2, 1, 0>(memory);
        }
        (PixelFormat::Yuyv | PixelFormat::Nv12 | PixelFormat::I420, _) => bands.run::<3, 0, 1, 2>(memory),
    }
    Ok(())
}

/// Output rows that one task computes: enough to reuse resized rows, few enough to share the work.
const BAND_ROWS: usize = 32;

struct Bands<'a> {
    frame: &'a Frame,
    order: ChannelOrder,
    map: FeatureMap,
    columns: Vec<Tap>,
    rows: Vec<Tap>,
    /// First column and row of the content.
    corner: [usize; 2],
    /// What stands around the content.
    pad: [f32; 3],
    /// Mean and factor of every element of a row of the content.
    standards: Vec<(f32, f32)>,
}

impl<'a> Bands<'a> {
    fn new(frame: &'a Frame, p: &Preprocess, letterbox: &Letterbox, map: FeatureMap) -> Self {
        let taps = |picture: u32, content: u32| (0..content).map(|x| tap(x, picture, content)).collect();
        let scale = p.factors();
        let standards = [0, 1, 2].map(|c| (p.mean[c], scale[c]));
        Bands {
            frame,
            order: p.order,
            map,
            columns: taps(frame.width, letterbox.content_px[0]),
            rows: taps(frame.height, letterbox.content_px[1]),
            corner: letterbox.offset_px.map(|px| px as usize),
            pad: standards.map(|s| standardise(u32::from(p.pad()), s)),
            standards: standards.repeat(letterbox.content_px[0] as usize),
        }
    }

    /// Pixels are `BPP` bytes with the colours of the network's first, second and third channel at `A`, `B` and `C`;
    /// for gray, red, green and blue.
    fn run<const BPP: usize, const A: usize, const B: usize, const C: usize>(&self, memory: &mut [f32]) {
        let m = self.map;
        let end = m.pixel(0, m.height - 1, m.width - 1) + m.channels;
        threads::share_chunks(&mut memory[m.offset..end], BAND_ROWS * m.row_stride, |band, part| {
            let mut above = Resized::new(self.columns.len());
            let mut below = Resized::new(self.columns.len());
            for (i, out) in part.chunks_mut(m.row_stride).enumerate() {
                let y = (band * BAND_ROWS + i).wrapping_sub(self.corner[1]);
                let Some(t) = self.rows.get(y) else {
                    self.store_pad(out, 0, m.width);
                    continue;
                };
                if above.of != Some(t.low) && below.of == Some(t.low) {
                    std::mem::swap(&mut above, &mut below);
                }
                above.fill::<BPP, A, B, C>(t.low, self);
                if t.low != t.high {
                    below.fill::<BPP, A, B, C>(t.high, self);
                }
                let second = if t.low == t.high { &above } else { &below };
                let (left, right) = (self.corner[0], self.corner[0] + self.columns.len());
                self.store_pad(out, 0, left);
                self.store(&above.values, &second.values, t.weight, &mut out[left * m.pixel_stride..]);
                self.store_pad(out, right, m.width);
            }
        });
    }

    /// Writes the pixels `from..to` of a row outside the content.
    fn store_pad(&self, out: &mut [f32], from: usize, to: usize) {
        for x in from..to {
            for c in 0..self.map.channels {
                out[x * self.map.pixel_stride + c] = self.pad[c];
            }
        }
    }

    /// Weights two rows and writes the content's pixels.
    fn store(&self, above: &[u16], below: &[u16], weight: u32, out: &mut [f32]) {
        let level = |a: u16, b: u16| down(u32::from(a), u32::from(b), weight);
        let stride = self.map.pixel_stride;
        if self.map.channels == 3 && stride == 3 {
            // No gaps: one flat loop, which becomes vectors.
            for (((out, &a), &b), &s) in out.iter_mut().zip(above).zip(below).zip(&self.standards) {
                *out = standardise(level(a, b), s);
            }
            return;
        }
        let rows = above.chunks_exact(3).zip(below.chunks_exact(3)).zip(self.standards.chunks_exact(3));
        for (out, ((a, b), s)) in out.chunks_mut(stride).zip(rows) {
            let levels = [0, 1, 2].map(|c| level(a[c], b[c]));
            if self.order == ChannelOrder::Gray {
                out[0] = standardise(luminance(levels), s[0]);
            } else {
                for c in 0..3 {
                    out[c] = standardise(levels[c], s[c]);
                }
            }
        }
    }
}

/// The value of a level, with the mean and factor of its channel.
fn standardise(level: u32, (mean, factor): (f32, f32)) -> f32 {
    // Through i32: vector units convert signed integers, not all of them unsigned ones.
    (level as i32 as f32 - mean) * factor
}

/// A row of the picture, resized across: three colours a pixel in 1/128 of a level.
struct Resized {
    of: Option<u32>,
    values: Vec<u16>,
    /// The row as RGB where the picture's format is another.
    rgb: Vec<u8>,
}

impl Resized {
    fn new(columns: usize) -> Resized {
        Resized { of: None, values: vec![0; 3 * columns], rgb: Vec::new() }
    }

    fn fill<const BPP: usize, const A: usize, const B: usize, const C: usize>(&mut self, y: u32, bands: &Bands<'_>) {
        if self.of == Some(y) {
            return;
        }
        self.of = Some(y);
        let frame = bands.frame;
        let row = if frame.format.is_yuv() {
            self.rgb.resize(3 * frame.width as usize, 0);
            frame.rgb_row(y, &mut self.rgb);
            &self.rgb
        } else {
            let row_bytes = frame.row_bytes();
            &frame.bytes[y as usize * row_bytes..][..row_bytes]
        };
        let (row, _) = row.as_chunks::<BPP>();
        for (t, out) in bands.columns.iter().zip(self.values.chunks_exact_mut(3)) {
            let (left, right) = (&row[t.low as usize], &row[t.high as usize]);
            for (out, at) in out.iter_mut().zip([A, B, C]) {
                *out = across(u32::from(left[at]), u32::from(right[at]), t.weight) as u16;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{YuvMatrix, YuvRange};
    use crate::infer::plan::view::BufferId;
    use crate::letterbox::Fit;

    const FORMATS: [PixelFormat; 7] = PixelFormat::ALL;

    /// Sizes of picture and content, and evenly picked levels of the result.
    const OPENCV: [([u32; 2], [u32; 2], &[u8]); 8] = [
        (
            [641, 479],
            [416, 311],
            &[
                73, 182, 131, 132, 96, 85, 204, 173, 125, 89, 53, 238, 195, 160, 113, 63, 33, 209, 153, 148, 106, 55,
                155, 167,
            ],
        ),
        (
            [641, 479],
            [64, 48],
            &[
                126, 157, 160, 132, 112, 84, 168, 118, 117, 138, 42, 179, 79, 222, 123, 147, 145, 90, 179, 108, 131,
                103, 102, 137,
            ],
        ),
        (
            [3, 5],
            [7, 11],
            &[
                0, 218, 181, 124, 166, 99, 131, 133, 119, 82, 140, 153, 62, 234, 96, 199, 162, 154, 116, 129, 121, 83,
                46, 219,
            ],
        ),
        ([1, 1], [2, 2], &[0, 158, 60, 0, 158, 60, 0, 158, 60, 0, 158, 60]),
        (
            [96, 72],
            [48, 36],
            &[
                172, 232, 227, 223, 217, 213, 208, 204, 198, 194, 188, 184, 179, 175, 169, 165, 160, 156, 150, 146,
                141, 137, 131, 127,
            ],
        ),
        (
            [20, 14],
            [66, 43],
            &[
                0, 192, 108, 24, 196, 126, 47, 208, 130, 47, 194, 149, 65, 218, 154, 84, 198, 172, 88, 20, 190, 107,
                75, 195,
            ],
        ),
        (
            [5, 3],
            [3, 5],
            &[
                73, 145, 48, 181, 83, 241, 118, 21, 179, 66, 173, 75, 208, 111, 166, 146, 48, 173, 56, 215, 117, 250,
                152, 54,
            ],
        ),
        (
            [4, 3],
            [4, 3],
            &[
                0, 158, 60, 218, 120, 23, 181, 83, 241, 143, 46, 204, 106, 8, 167, 69, 227, 129, 31, 190, 92, 250, 152,
                54,
            ],
        ),
    ];

    fn preprocess(size: [u32; 2], fit: Fit, order: ChannelOrder) -> Preprocess {
        let (mean, std) = ([103.53, 116.28, 123.675], [57.375, 57.12, 58.395]);
        Preprocess { width_px: size[0], height_px: size[1], fit, order, mean, std }
    }

    /// Level of byte i: a pattern that Python can repeat.
    fn frame(width: u32, height: u32, format: PixelFormat) -> Frame {
        let bytes = (0..format.picture_bytes(width, height))
            .map(|i| ((i * 2_654_435_761 % 4_294_967_296) >> 24) as u8)
            .collect();
        Frame::new(width, height, format, bytes).expect("frame")
    }

    /// A pixel in f64: of YUV by the standards' matrices, clamped and not rounded, from places written on their own.
    fn rgb_f64(frame: &Frame, x: u32, y: u32) -> [f64; 3] {
        let (x, y, w, h) = (x as usize, y as usize, frame.width as usize, frame.height as usize);
        let (chroma_w, chroma_h) = (w.div_ceil(2), h.div_ceil(2));
        let places = match frame.format {
            PixelFormat::Yuyv => {
                let pair = 4 * (y * chroma_w + x / 2);
                [pair + x % 2 * 2, pair + 1, pair + 3]
            }
            PixelFormat::Nv12 => {
                let uv = w * h + 2 * (y / 2 * chroma_w + x / 2);
                [y * w + x, uv, uv + 1]
            }
            PixelFormat::I420 => {
                let u = w * h + y / 2 * chroma_w + x / 2;
                [y * w + x, u, u + chroma_w * chroma_h]
            }
            _ => return frame.rgb(x as u32, y as u32).map(f64::from),
        };
        let [luma, u, v] = places.map(|at| f64::from(frame.bytes[at]));
        let (luma, u, v) = match frame.colour.range {
            YuvRange::Limited => ((luma - 16.0) / 219.0, (u - 128.0) / 224.0, (v - 128.0) / 224.0),
            YuvRange::Full => (luma / 255.0, (u - 128.0) / 255.0, (v - 128.0) / 255.0),
        };
        let rgb = match frame.colour.matrix {
            YuvMatrix::Bt601 => [luma + 1.402 * v, luma - 0.344136286 * u - 0.714136286 * v, luma + 1.772 * u],
            YuvMatrix::Bt709 => [luma + 1.5748 * v, luma - 0.187324273 * u - 0.468124273 * v, luma + 1.8556 * u],
        };
        rgb.map(|c| (c * 255.0).clamp(0.0, 255.0))
    }

    /// Bilinear interpolation in f64, written on its own.
    fn level_f64(frame: &Frame, content: [u32; 2], x: u32, y: u32) -> [f64; 3] {
        let position = |i: u32, src: u32, dst: u32| (f64::from(i) + 0.5) * f64::from(src) / f64::from(dst) - 0.5;
        let (px, py) = (position(x, frame.width, content[0]), position(y, frame.height, content[1]));
        let at = |dx: f64, dy: f64| {
            let clamp = |v: f64, n: u32| v.clamp(0.0, f64::from(n - 1)) as u32;
            rgb_f64(frame, clamp(px.floor() + dx, frame.width), clamp(py.floor() + dy, frame.height))
        };
        let (fx, fy) = (px - px.floor(), py - py.floor());
        let (a, b, c, d) = (at(0.0, 0.0), at(1.0, 0.0), at(0.0, 1.0), at(1.0, 1.0));
        [0, 1, 2].map(|k| (a[k] * (1.0 - fx) + b[k] * fx) * (1.0 - fy) + (c[k] * (1.0 - fx) + d[k] * fx) * fy)
    }

    fn twin(frame: &Frame, p: &Preprocess, view: &View) -> Vec<f32> {
        let mut memory = vec![-1e9f32; view.end() + 3];
        let letterbox = p.letterbox([frame.width, frame.height]);
        run_twin(frame, p, &letterbox, view, Cell::from_mut(memory.as_mut_slice()).as_slice_of_cells()).expect("twin");
        memory
    }

    #[test]
    fn twin_agrees_with_f64_within_a_level() {
        let fits = [Fit::Stretch, Fit::LetterboxTopLeft { pad: 114 }, Fit::LetterboxCentre { pad: 7 }];
        let orders = [ChannelOrder::Rgb, ChannelOrder::Bgr, ChannelOrder::Gray];
        let mut cases = Vec::new();
        for (i, size) in [[3, 5], [1, 1], [64, 47], [13, 1], [40, 90]].into_iter().enumerate() {
            for (j, fit) in fits.into_iter().enumerate() {
                for (k, order) in orders.into_iter().enumerate() {
                    cases.push((size, fit, order, FORMATS[(3 * i + j + 2 * k) % 7]));
                }
            }
        }
        for (size, fit, order, format) in cases {
            let (frame, p) = (frame(size[0], size[1], format), preprocess([17, 12], fit, order));
            let channels = order.channels();
            let view = View::channels_last(BufferId(0), &[1, channels, 12, 17], 1);
            let memory = twin(&frame, &p, &view);
            let letterbox = p.letterbox(size);
            let corner = letterbox.offset_px.map(|v| v as u32);
            for y in 0..12u32 {
                for x in 0..17u32 {
                    let (cx, cy) = (x.wrapping_sub(corner[0]), y.wrapping_sub(corner[1]));
                    let inside = cx < letterbox.content_px[0] && cy < letterbox.content_px[1];
                    let rgb =
                        if inside { level_f64(&frame, letterbox.content_px, cx, cy) } else { [p.pad().into(); 3] };
                    let want = match order {
                        ChannelOrder::Rgb => rgb.to_vec(),
                        ChannelOrder::Bgr => vec![rgb[2], rgb[1], rgb[0]],
                        ChannelOrder::Gray => vec![0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]],
                    };
                    for c in 0..channels {
                        let value = memory[view.index(&[0, c, y as usize, x as usize])];
                        let level = f64::from(value) * f64::from(p.std[c]) + f64::from(p.mean[c]);
                        // Luminance is rounded once more, and so are the colours of YUV.
                        let limit = match order {
                            _ if !inside => 1e-4,
                            ChannelOrder::Gray => 1.5,
                            _ => 1.0,
                        } + if format.is_yuv() { 0.5 } else { 0.0 };
                        assert!(
                            (level - want[c]).abs() <= limit,
                            "{size:?} {fit:?} {order:?} {format:?}: {level} {want:?}"
                        );
                        assert!((level - level.round()).abs() < 1e-4, "whole levels");
                    }
                }
            }
        }
    }

    #[test]
    fn every_format_matrix_and_range_is_within_a_level_of_f64() {
        for format in FORMATS {
            for (range, matrix) in [YuvRange::Limited, YuvRange::Full]
                .into_iter()
                .flat_map(|range| [YuvMatrix::Bt601, YuvMatrix::Bt709].map(|matrix| (range, matrix)))
            {
                // At their own size and scaled.
                for (size, model) in
                    [([641, 479], [641, 479]), ([3, 5], [3, 5]), ([641, 479], [75, 61]), ([3, 5], [16, 9])]
                {
                    let frame = frame(size[0], size[1], format).with_colour(Colour { range, matrix });
                    let mut p = preprocess(model, Fit::Stretch, ChannelOrder::Rgb);
                    (p.mean, p.std) = ([0.0; 3], [1.0; 3]);
                    let view = View::channels_last(BufferId(0), &[1, 3, model[1] as usize, model[0] as usize], 1);
                    let memory = twin(&frame, &p, &view);
                    for (i, found) in memory[..view.end()].chunks_exact(3).enumerate() {
                        let expected = level_f64(&frame, model, i as u32 % model[0], i as u32 / model[0]);
                        for c in 0..3 {
                            // Rounded once by the colours; a resize rounds once more, and is held against the nearest level.
                            let (expected, limit) =
                                if size == model { (expected[c], 0.51) } else { (expected[c].round(), 1.0) };
                            let error = (f64::from(found[c]) - expected).abs();
                            assert!(error <= limit, "{frame:?} {range:?} {matrix:?} {model:?} pixel {i}: {error}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn levels_are_those_of_opencv() {
        // cv2.resize (5.0) of the pattern in `frame`, RGB, INTER_LINEAR.
        for (size, content, expected) in OPENCV {
            let mut p = preprocess(content, Fit::Stretch, ChannelOrder::Rgb);
            (p.mean, p.std) = ([0.0; 3], [1.0; 3]);
            let view = View::channels_last(BufferId(0), &[1, 3, content[1] as usize, content[0] as usize], 1);
            let levels = twin(&frame(size[0], size[1], PixelFormat::Rgb8), &p, &view);
            let count = (content[0] * content[1] * 3) as usize;
            let found: Vec<u8> =
                levels[..count].iter().step_by((count / expected.len()).max(1)).map(|&v| v as u8).collect();
            assert_eq!(found[..expected.len()], *expected, "{size:?} -> {content:?}");
        }
    }

    #[test]
    fn fast_form_equals_the_twin() {
        let fits = [Fit::Stretch, Fit::LetterboxTopLeft { pad: 114 }, Fit::LetterboxCentre { pad: 7 }];
        for size in [[641, 479], [3, 5], [1, 1], [70, 200]] {
            for (fit, format) in fits.into_iter().flat_map(|fit| FORMATS.map(|format| (fit, format))) {
                for (order, block) in [(ChannelOrder::Rgb, 1), (ChannelOrder::Bgr, 4), (ChannelOrder::Gray, 4)] {
                    let (frame, p) = (frame(size[0], size[1], format), preprocess([75, 101], fit, order));
                    let mut view = View::channels_last(BufferId(0), &[1, order.channels(), 101, 75], block);
                    view.offset = 2;
                    let expected = twin(&frame, &p, &view);
                    let mut memory = vec![-1e9f32; expected.len()];
                    into_slice(&frame, &p, &p.letterbox(size), &view, &mut memory).expect("fits");
                    assert_eq!(memory, expected, "{size:?} {fit:?} {format:?} {order:?}");
                }
            }
        }
        // Columns before rows in memory: a feature map all the same.
        let (frame, p) = (frame(9, 8, PixelFormat::Rgb8), preprocess([6, 5], Fit::Stretch, ChannelOrder::Rgb));
        let view = View { buffer: BufferId(0), offset: 0, shape: vec![1, 3, 5, 6], strides: vec![90, 1, 3, 15] };
        let expected = twin(&frame, &p, &view);
        let mut memory = vec![-1e9f32; expected.len()];
        into_slice(&frame, &p, &p.letterbox([9, 8]), &view, &mut memory).expect("fits");
        assert_eq!(memory, expected);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let frame = frame(9, 8, PixelFormat::Rgb8);
        let p = preprocess([6, 5], Fit::Stretch, ChannelOrder::Rgb);
        let letterbox = p.letterbox([9, 8]);
        let view = View::channels_last(BufferId(0), &[1, 3, 5, 6], 1);
        let mut memory = vec![0.0; 90];
        let mut fails = |frame: &Frame, p: &Preprocess, l: &Letterbox, view: &View| {
            into_slice(frame, p, l, view, &mut memory).expect_err("does not fit").to_string()
        };
        let planes = View::row_major(BufferId(0), &[1, 3, 5, 6]);
        assert!(fails(&frame, &p, &letterbox, &planes).contains("channels last"));
        assert!(fails(&frame, &p, &letterbox, &View { offset: 1, ..view.clone() }).contains("90"));
        assert!(fails(&frame, &p, &p.letterbox([8, 8]), &view).contains("letterbox"));
        assert!(fails(&frame, &p, &Letterbox { offset_px: [1.0, 0.0], ..letterbox }, &view).contains("letterbox"));
        let short = Frame { bytes: vec![0; 5], ..frame.clone() };
        assert!(fails(&short, &p, &letterbox, &view).contains("216 bytes"));
        let flat = Preprocess { std: [1.0, 0.0, 1.0], ..p };
        assert!(fails(&frame, &flat, &letterbox, &view).contains("deviation"));
        let gray = Preprocess { order: ChannelOrder::Gray, ..p };
        assert!(fails(&frame, &gray, &letterbox, &view).contains("[1, 1, 5, 6]"));
        assert!(variant(&p, PixelFormat::Rgb8, Colour::default(), &planes, Precision::F32).is_err());
        assert!(Preprocess { width_px: 0, ..p }.check(&view).is_err());
    }
}
