//! A picture as it arrives: bytes, size, pixel format, and what its luma and chroma mean.

/// Longest side of a picture. The resize counts positions in 32 bits, and memory stays bounded.
pub const MAX_SIDE_PX: u32 = 16384;

/// How the bytes of a frame stand for pixels. Rows and planes follow each other without padding.
///
/// In the YUV formats two pixels of a row, or a block of 2 x 2, share one sample of each chroma: Cb (U) and Cr (V).
/// Where a side is odd the last samples serve what there is, so a row or a column has `ceil(side / 2)` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// 3 bytes a pixel.
    Rgb8,
    /// 4 bytes a pixel; alpha is ignored.
    Rgba8,
    /// 4 bytes a pixel, blue first; alpha is ignored.
    Bgra8,
    /// 1 byte a pixel: levels 0 to 255.
    Gray8,
    /// Y0 U Y1 V: 4 bytes for two pixels of a row (YUY2, 4:2:2). A row has `4 ceil(width / 2)` bytes.
    Yuyv,
    /// A plane of Y, then one of U V pairs for blocks of 2 x 2 (4:2:0).
    Nv12,
    /// A plane of Y, one of U, one of V, the last two for blocks of 2 x 2 (YU12, 4:2:0).
    I420,
}

impl PixelFormat {
    pub const ALL: [PixelFormat; 7] = [
        PixelFormat::Rgb8,
        PixelFormat::Rgba8,
        PixelFormat::Bgra8,
        PixelFormat::Gray8,
        PixelFormat::Yuyv,
        PixelFormat::Nv12,
        PixelFormat::I420,
    ];

    /// Bytes from one pixel of a row to the next; of a planar format, in its first plane.
    pub const fn bytes_per_pixel(self) -> usize {
        match self {
            PixelFormat::Rgb8 => 3,
            PixelFormat::Rgba8 | PixelFormat::Bgra8 => 4,
            PixelFormat::Yuyv => 2,
            PixelFormat::Gray8 | PixelFormat::Nv12 | PixelFormat::I420 => 1,
        }
    }

    /// Bytes from one row to the next; of a planar format, in its first plane.
    pub const fn row_bytes(self, width: u32) -> usize {
        match self {
            PixelFormat::Yuyv => 4 * width.div_ceil(2) as usize,
            _ => width as usize * self.bytes_per_pixel(),
        }
    }

    /// Bytes of a whole picture, all planes. Sides of up to [`MAX_SIDE_PX`] never overflow.
    pub const fn picture_bytes(self, width: u32, height: u32) -> u64 {
        let first = self.row_bytes(width) as u64 * height as u64;
        match self {
            PixelFormat::Nv12 | PixelFormat::I420 => first + 2 * width.div_ceil(2) as u64 * height.div_ceil(2) as u64,
            _ => first,
        }
    }

    /// True when the meaning of the bytes depends on a [`Colour`].
    pub const fn is_yuv(self) -> bool {
        matches!(self, PixelFormat::Yuyv | PixelFormat::Nv12 | PixelFormat::I420)
    }
}

/// Which levels of luma and chroma stand for black, white and full saturation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum YuvRange {
    /// Y from 16 to 235, chroma from 16 to 240: nearly all video.
    #[default]
    Limited,
    /// 0 to 255: JPEG, and some cameras.
    Full,
}

/// How luma was made from red, green and blue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum YuvMatrix {
    /// ITU-R BT.601: standard definition, and JPEG.
    #[default]
    Bt601,
    /// ITU-R BT.709: high definition.
    Bt709,
}

impl YuvMatrix {
    /// What players assume of a video that doesn't say it: BT.709 from 1280 columns or 577 rows on.
    pub const fn of_size(width: u32, height: u32) -> YuvMatrix {
        if width >= 1280 || height > 576 { YuvMatrix::Bt709 } else { YuvMatrix::Bt601 }
    }

    /// The share of red and blue in luma.
    const fn red_blue(self) -> [f64; 2] {
        match self {
            YuvMatrix::Bt601 => [0.299, 0.114],
            YuvMatrix::Bt709 => [0.2126, 0.0722],
        }
    }
}

/// What the luma and chroma of a YUV frame mean; of no matter to the other formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Colour {
    pub range: YuvRange,
    pub matrix: YuvMatrix,
}

/// One over the unit of the factors in [`YuvToRgb`] and [`RgbToYuv`], in bits.
const FACTOR_BITS: u32 = 16;

/// Integer factors from YUV to RGB, in 1/65536. Integers give the same levels on every device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct YuvToRgb {
    /// Luma of black.
    pub black: i32,
    pub luma: i32,
    pub red_from_v: i32,
    pub green_from_u: i32,
    pub green_from_v: i32,
    pub blue_from_u: i32,
}

impl YuvToRgb {
    /// What a chroma sample adds to red, green and blue, with the rounding of the result.
    fn chroma(&self, u: u8, v: u8) -> [i32; 3] {
        let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
        let half = 1 << (FACTOR_BITS - 1);
        [self.red_from_v * v + half, self.green_from_u * u + self.green_from_v * v + half, self.blue_from_u * u + half]
    }

    /// The colour of a luma sample with what [`YuvToRgb::chroma`] gave. At most 255 * 65536 * 2.3: no overflow.
    fn with_luma(&self, y: u8, chroma: [i32; 3]) -> [u8; 3] {
        let luma = self.luma * (i32::from(y) - self.black);
        chroma.map(|c| ((luma + c) >> FACTOR_BITS).clamp(0, 255) as u8)
    }

    /// Red, green and blue of one pixel: within half a level and 1/100 of the exact product.
    pub fn rgb(&self, y: u8, u: u8, v: u8) -> [u8; 3] {
        self.with_luma(y, self.chroma(u, v))
    }

    /// A row from pairs of luma and their chroma; `out` has 3 bytes a pixel and may end within a pair.
    fn row(&self, pairs: impl Iterator<Item = ([u8; 2], u8, u8)>, out: &mut [u8]) {
        let mut pairs = pairs;
        let (whole, rest) = out.as_chunks_mut::<6>();
        for (out, (luma, u, v)) in whole.iter_mut().zip(&mut pairs) {
            let chroma = self.chroma(u, v);
            let ([r0, g0, b0], [r1, g1, b1]) = (self.with_luma(luma[0], chroma), self.with_luma(luma[1], chroma));
            *out = [r0, g0, b0, r1, g1, b1];
        }
        if let ([r, g, b], Some((luma, u, v))) = (rest, pairs.next()) {
            [*r, *g, *b] = self.rgb(luma[0], u, v);
        }
    }
}

/// Integer factors from RGB to YUV, in 1/65536.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RgbToYuv {
    black: i32,
    luma: [i32; 3],
    u: [i32; 3],
    v: [i32; 3],
}

impl RgbToYuv {
    /// `factors . rgb / unit + offset`, rounded, for sums of `1 << shift` pixels.
    fn product(factors: [i32; 3], rgb: [i32; 3], offset: i32, shift: u32) -> u8 {
        let sum: i64 = factors.iter().zip(rgb).map(|(&f, c)| i64::from(f) * i64::from(c)).sum();
        let bits = FACTOR_BITS + shift;
        (((sum + (1 << (bits - 1))) >> bits) as i32 + offset).clamp(0, 255) as u8
    }

    /// Luma of a pixel.
    pub fn luma(&self, rgb: [u8; 3]) -> u8 {
        Self::product(self.luma, rgb.map(i32::from), self.black, 0)
    }

    /// U and V of a block of four pixels, from their sums of red, green and blue.
    pub fn chroma_of_four(&self, sums: [i32; 3]) -> [u8; 2] {
        [Self::product(self.u, sums, 128, 2), Self::product(self.v, sums, 128, 2)]
    }
}

impl Colour {
    /// What nearly all video of that size is: limited range and [`YuvMatrix::of_size`].
    pub const fn of_video(width: u32, height: u32) -> Colour {
        Colour { range: YuvRange::Limited, matrix: YuvMatrix::of_size(width, height) }
    }

    /// Luma of black, and the spans of luma and chroma in levels.
    const fn spans(self) -> (i32, f64, f64) {
        match self.range {
            YuvRange::Limited => (16, 219.0, 224.0),
            YuvRange::Full => (0, 255.0, 255.0),
        }
    }

    /// ITU-R BT.601-7 and BT.709-6, section 3: `R = Y + 2 (1 - Kr) Cr`, `B = Y + 2 (1 - Kb) Cb`, and green from
    /// `Y = Kr R + Kg G + Kb B`; Y in 0..1, chroma in -1/2..1/2.
    pub fn rgb_from_yuv(self) -> YuvToRgb {
        let (black, luma_span, chroma_span) = self.spans();
        let [kr, kb] = self.matrix.red_blue();
        let kg = 1.0 - kr - kb;
        let fixed = |factor: f64| (factor * 255.0 * f64::from(1 << FACTOR_BITS)).round() as i32;
        YuvToRgb {
            black,
            luma: fixed(1.0 / luma_span),
            red_from_v: fixed(2.0 * (1.0 - kr) / chroma_span),
            green_from_u: fixed(-2.0 * kb * (1.0 - kb) / kg / chroma_span),
            green_from_v: fixed(-2.0 * kr * (1.0 - kr) / kg / chroma_span),
            blue_from_u: fixed(2.0 * (1.0 - kb) / chroma_span),
        }
    }

    /// The inverse of [`Colour::rgb_from_yuv`].
    pub fn yuv_from_rgb(self) -> RgbToYuv {
        let (black, luma_span, chroma_span) = self.spans();
        let [kr, kb] = self.matrix.red_blue();
        let luma = [kr, 1.0 - kr - kb, kb];
        let fixed = |factor: f64| (factor / 255.0 * f64::from(1 << FACTOR_BITS)).round() as i32;
        let chroma = |of: usize| {
            [0, 1, 2].map(|c| {
                let difference = if c == of { 1.0 - luma[c] } else { -luma[c] };
                fixed(difference / (2.0 * (1.0 - luma[of])) * chroma_span)
            })
        };
        RgbToYuv { black, luma: luma.map(|k| fixed(k * luma_span)), u: chroma(2), v: chroma(0) }
    }
}

/// An owned picture, rows without padding.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub width: u32,
    pub height: u32,
    pub format: PixelFormat,
    /// [`PixelFormat::picture_bytes`] bytes, top row first.
    pub bytes: Vec<u8>,
    /// What Y, U and V mean; the default where the format has none.
    pub colour: Colour,
}

impl Frame {
    /// A frame from its parts. YUV is taken as BT.601 in limited range; see [`Frame::with_colour`].
    ///
    /// # Errors
    /// A side is 1 to [`MAX_SIDE_PX`] and the bytes must be exactly those of the picture.
    pub fn new(width: u32, height: u32, format: PixelFormat, bytes: Vec<u8>) -> Result<Frame, String> {
        let frame = Frame { width, height, format, bytes, colour: Colour::default() };
        frame.check()?;
        Ok(frame)
    }

    /// The same bytes with another meaning of their luma and chroma.
    #[must_use]
    pub fn with_colour(self, colour: Colour) -> Frame {
        Frame { colour, ..self }
    }

    /// What [`Frame::new`] asks for, for frames that were made from their fields.
    ///
    /// # Errors
    /// Says which part is wrong.
    pub fn check(&self) -> Result<(), String> {
        let Frame { width, height, format, bytes, .. } = self;
        if [*width, *height].iter().any(|side| !(1..=MAX_SIDE_PX).contains(side)) {
            return Err(format!("a picture of {width}x{height} pixels: a side must be 1 to {MAX_SIDE_PX}"));
        }
        let expected = format.picture_bytes(*width, *height);
        if expected != bytes.len() as u64 {
            return Err(format!("a {width}x{height} {format:?} picture has {expected} bytes, not {}", bytes.len()));
        }
        Ok(())
    }

    /// Bytes from one row to the next; of a planar format, in its first plane.
    pub fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.width)
    }

    /// The same picture as RGB8; no copy where it is that already.
    #[must_use]
    pub fn into_rgb8(self) -> Frame {
        if self.format == PixelFormat::Rgb8 { self } else { self.to_rgb8() }
    }

    /// A copy of the picture as RGB8.
    #[must_use]
    pub fn to_rgb8(&self) -> Frame {
        let row_bytes = 3 * self.width as usize;
        let mut bytes = vec![0; row_bytes * self.height as usize];
        for (y, row) in bytes.chunks_exact_mut(row_bytes.max(1)).enumerate() {
            self.rgb_row(y as u32, row);
        }
        Frame { format: PixelFormat::Rgb8, bytes, colour: Colour::default(), ..*self }
    }

    /// Writes row `y` as RGB8 to `out`, which has `3 * width` bytes. Chroma is taken from the sample of a pixel's
    /// block, as in [`Frame::rgb`].
    ///
    /// # Panics
    /// When the row lies outside.
    pub fn rgb_row(&self, y: u32, out: &mut [u8]) {
        let (y, row_bytes) = (y as usize, self.row_bytes());
        let row = &self.bytes[y * row_bytes..][..row_bytes];
        let (out, _) = out.as_chunks_mut::<3>();
        match self.format {
            PixelFormat::Rgb8 => out.as_flattened_mut().copy_from_slice(row),
            PixelFormat::Rgba8 => {
                for (out, &[r, g, b, _]) in out.iter_mut().zip(row.as_chunks::<4>().0) {
                    *out = [r, g, b];
                }
            }
            PixelFormat::Bgra8 => {
                for (out, &[b, g, r, _]) in out.iter_mut().zip(row.as_chunks::<4>().0) {
                    *out = [r, g, b];
                }
            }
            PixelFormat::Gray8 => {
                for (out, &level) in out.iter_mut().zip(row) {
                    *out = [level; 3];
                }
            }
            PixelFormat::Yuyv => {
                let pairs = row.as_chunks::<4>().0.iter().map(|&[y0, u, y1, v]| ([y0, y1], u, v));
                self.colour.rgb_from_yuv().row(pairs, out.as_flattened_mut());
            }
            PixelFormat::Nv12 | PixelFormat::I420 => {
                let chroma = &self.bytes[row_bytes * self.height as usize..];
                let half = self.width.div_ceil(2) as usize;
                let luma = row.chunks(2).map(|pair| [pair[0], pair.get(1).copied().unwrap_or(0)]);
                if self.format == PixelFormat::Nv12 {
                    let uv = chroma[y / 2 * 2 * half..][..2 * half].as_chunks::<2>().0;
                    let pairs = luma.zip(uv).map(|(luma, &[u, v])| (luma, u, v));
                    self.colour.rgb_from_yuv().row(pairs, out.as_flattened_mut());
                } else {
                    let (u, v) = chroma.split_at(half * self.height.div_ceil(2) as usize);
                    let (u, v) = (&u[y / 2 * half..][..half], &v[y / 2 * half..][..half]);
                    let pairs = luma.zip(u).zip(v).map(|((luma, &u), &v)| (luma, u, v));
                    self.colour.rgb_from_yuv().row(pairs, out.as_flattened_mut());
                }
            }
        }
    }

    /// Red, green and blue of the pixel in column `x` of row `y`. Of YUV, with the chroma sample of the pixel's pair or
    /// block (nearest; chroma isn't interpolated).
    ///
    /// # Panics
    /// When the pixel lies outside.
    pub fn rgb(&self, x: u32, y: u32) -> [u8; 3] {
        let (x, y, row_bytes) = (x as usize, y as usize, self.row_bytes());
        let at = y * row_bytes + x * self.format.bytes_per_pixel();
        let half = self.width.div_ceil(2) as usize;
        let planes = row_bytes * self.height as usize;
        let bytes = &self.bytes;
        let yuv = |luma: usize, u: usize, v: usize| self.colour.rgb_from_yuv().rgb(bytes[luma], bytes[u], bytes[v]);
        match self.format {
            PixelFormat::Rgb8 | PixelFormat::Rgba8 => [bytes[at], bytes[at + 1], bytes[at + 2]],
            PixelFormat::Bgra8 => [bytes[at + 2], bytes[at + 1], bytes[at]],
            PixelFormat::Gray8 => [bytes[at]; 3],
            PixelFormat::Yuyv => {
                let pair = y * row_bytes + x / 2 * 4;
                yuv(at, pair + 1, pair + 3)
            }
            PixelFormat::Nv12 => {
                let uv = planes + (y / 2 * half + x / 2) * 2;
                yuv(at, uv, uv + 1)
            }
            PixelFormat::I420 => {
                let u = planes + y / 2 * half + x / 2;
                yuv(at, u, u + half * self.height.div_ceil(2) as usize)
            }
        }
    }

    /// The picture as I420 with that meaning: chroma is that of the mean colour of a block; at an odd edge the last
    /// pixel counts twice.
    #[must_use]
    pub fn into_i420(self, colour: Colour) -> Frame {
        if self.format == PixelFormat::I420 && self.colour == colour {
            return self;
        }
        let factors = colour.yuv_from_rgb();
        let (width, height) = (self.width as usize, self.height as usize);
        let half = width.div_ceil(2);
        let mut bytes = vec![0; PixelFormat::I420.picture_bytes(self.width, self.height) as usize];
        let (luma, chroma) = bytes.split_at_mut(width * height);
        let (u, v) = chroma.split_at_mut(half * height.div_ceil(2));
        let mut rgb = vec![0; 2 * 3 * width];
        let (above, below) = rgb.split_at_mut(3 * width);
        let lines = luma.chunks_mut(2 * width).zip(u.chunks_mut(half).zip(v.chunks_mut(half)));
        for (block, (luma, (u, v))) in lines.enumerate() {
            self.rgb_row(2 * block as u32, above);
            if luma.len() > width {
                self.rgb_row(2 * block as u32 + 1, below);
            } else {
                below.copy_from_slice(above);
            }
            let (above, below) = (above.as_chunks::<3>().0, below.as_chunks::<3>().0);
            for (luma, &rgb) in luma.iter_mut().zip(above.iter().chain(below)) {
                *luma = factors.luma(rgb);
            }
            for (x, (u, v)) in u.iter_mut().zip(v).enumerate() {
                let (left, right) = (2 * x, (2 * x + 1).min(width - 1));
                let four = [above[left], above[right], below[left], below[right]];
                [*u, *v] = factors.chroma_of_four([0, 1, 2].map(|c| four.iter().map(|p| i32::from(p[c])).sum()));
            }
        }
        Frame { format: PixelFormat::I420, bytes, colour, ..self }
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({}x{} {:?})", self.width, self.height, self.format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLOURS: [Colour; 4] = [
        Colour { range: YuvRange::Limited, matrix: YuvMatrix::Bt601 },
        Colour { range: YuvRange::Limited, matrix: YuvMatrix::Bt709 },
        Colour { range: YuvRange::Full, matrix: YuvMatrix::Bt601 },
        Colour { range: YuvRange::Full, matrix: YuvMatrix::Bt709 },
    ];

    /// RGB of a YUV triple by the published 3 x 3 matrices, clamped, not rounded.
    fn rgb_f64(colour: Colour, [y, u, v]: [f64; 3]) -> [f64; 3] {
        let (y, u, v) = match colour.range {
            YuvRange::Limited => ((y - 16.0) / 219.0, (u - 128.0) / 224.0, (v - 128.0) / 224.0),
            YuvRange::Full => (y / 255.0, (u - 128.0) / 255.0, (v - 128.0) / 255.0),
        };
        let rgb = match colour.matrix {
            YuvMatrix::Bt601 => [y + 1.402 * v, y - 0.344136286 * u - 0.714136286 * v, y + 1.772 * u],
            YuvMatrix::Bt709 => [y + 1.5748 * v, y - 0.187324273 * u - 0.468124273 * v, y + 1.8556 * u],
        };
        rgb.map(|c| (c * 255.0).clamp(0.0, 255.0))
    }

    #[test]
    fn checks_size_and_bytes() {
        assert!(Frame::new(2, 1, PixelFormat::Rgb8, vec![0; 6]).is_ok());
        for (width, height, len) in [(0, 1, 0), (1, 0, 0), (2, 1, 5), (2, 1, 7), (MAX_SIDE_PX + 1, 1, 49155)] {
            assert!(Frame::new(width, height, PixelFormat::Rgb8, vec![0; len]).is_err(), "{width}x{height} {len}");
        }
    }

    #[test]
    fn odd_sizes_round_chroma_up() {
        let cases = [
            (PixelFormat::Yuyv, 3, 5, 40),
            (PixelFormat::Nv12, 3, 5, 15 + 2 * 6),
            (PixelFormat::I420, 3, 5, 15 + 2 * 6),
            (PixelFormat::Yuyv, 1, 1, 4),
            (PixelFormat::I420, 1, 1, 3),
            (PixelFormat::Nv12, 641, 479, 641 * 479 + 2 * 321 * 240),
            (PixelFormat::Yuyv, 641, 479, 321 * 4 * 479),
            (PixelFormat::I420, 640, 480, 640 * 480 * 3 / 2),
        ];
        for (format, width, height, len) in cases {
            assert!(Frame::new(width, height, format, vec![0; len]).is_ok(), "{format:?} {width}x{height}");
            assert!(Frame::new(width, height, format, vec![0; len - 1]).is_err());
            assert!(Frame::new(width, height, format, vec![0; len + 1]).is_err());
        }
        assert_eq!(PixelFormat::Rgba8.picture_bytes(MAX_SIDE_PX, MAX_SIDE_PX), 1 << 30);
    }

    #[test]
    fn formats_agree_on_colours() {
        let rgb = Frame::new(2, 1, PixelFormat::Rgb8, vec![1, 2, 3, 4, 5, 6]).expect("frame");
        let rgba = Frame::new(2, 1, PixelFormat::Rgba8, vec![1, 2, 3, 9, 4, 5, 6, 9]).expect("frame");
        let bgra = Frame::new(2, 1, PixelFormat::Bgra8, vec![3, 2, 1, 9, 6, 5, 4, 9]).expect("frame");
        let gray = Frame::new(2, 1, PixelFormat::Gray8, vec![7, 8]).expect("frame");
        assert_eq!((rgba.rgb(1, 0), bgra.rgb(1, 0), gray.rgb(1, 0)), ([4, 5, 6], [4, 5, 6], [8; 3]));
        assert_eq!(rgba.into_rgb8(), rgb);
        assert_eq!(bgra.into_rgb8(), rgb);
        assert_eq!(gray.into_rgb8().bytes, [7, 7, 7, 8, 8, 8]);
    }

    #[test]
    fn every_yuv_triple_is_within_a_level_of_f64() {
        let mut worst = 0.0f64;
        for colour in COLOURS {
            let factors = colour.rgb_from_yuv();
            for i in 0..(64u32 * 64 * 64) {
                let triple = [i & 63, i >> 6 & 63, i >> 12].map(|v| (v * 255 / 63) as u8);
                let found = factors.rgb(triple[0], triple[1], triple[2]);
                let expected = rgb_f64(colour, triple.map(f64::from));
                for c in 0..3 {
                    worst = worst.max((f64::from(found[c]) - expected[c]).abs());
                }
            }
        }
        assert!(worst <= 0.51, "{worst}");
    }

    #[test]
    fn black_white_and_primaries() {
        for colour in COLOURS {
            for rgb in [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 120, 30]] {
                let picture = Frame::new(1, 1, PixelFormat::Rgb8, rgb.to_vec()).expect("frame");
                let yuv = picture.into_i420(colour);
                let back = yuv.rgb(0, 0);
                assert!(back.iter().zip(rgb).all(|(a, b)| a.abs_diff(b) <= 2), "{colour:?} {rgb:?} {back:?}");
                let white = if colour.range == YuvRange::Limited { 235 } else { 255 };
                if rgb == [255; 3] {
                    assert_eq!(yuv.bytes, [white, 128, 128]);
                }
            }
        }
    }

    #[test]
    fn pixels_take_the_chroma_of_their_block() {
        // 3x3: four blocks, each with chroma of its own.
        let luma = [50u8, 60, 70, 80, 90, 100, 110, 120, 130];
        let (u, v) = ([100u8, 110, 120, 130], [140u8, 150, 160, 170]);
        let i420 = Frame::new(3, 3, PixelFormat::I420, [&luma[..], &u, &v].concat()).expect("frame");
        let uv: Vec<u8> = u.iter().zip(v).flat_map(|(&u, v)| [u, v]).collect();
        let nv12 = Frame::new(3, 3, PixelFormat::Nv12, [&luma[..], &uv].concat()).expect("frame");
        let rows = [0usize, 1, 2].map(|y| {
            let (l, c) = (&luma[3 * y..], y / 2 * 2);
            vec![l[0], u[c], l[1], v[c], l[2], u[c + 1], 255, v[c + 1]]
        });
        let yuyv = Frame::new(3, 3, PixelFormat::Yuyv, rows.concat()).expect("frame");
        for colour in COLOURS {
            for frame in [&i420, &nv12, &yuyv] {
                let frame = frame.clone().with_colour(colour);
                for y in 0..3usize {
                    for x in 0..3usize {
                        let block = y / 2 * 2 + x / 2;
                        let expected = rgb_f64(colour, [luma[3 * y + x], u[block], v[block]].map(f64::from));
                        let found = frame.rgb(x as u32, y as u32);
                        for c in 0..3 {
                            assert!((f64::from(found[c]) - expected[c]).abs() <= 0.51, "{frame:?} {x} {y}");
                        }
                        let whole = frame.clone().into_rgb8();
                        assert_eq!(whole.rgb(x as u32, y as u32), found, "{frame:?} {x} {y}");
                    }
                }
            }
        }
    }

    #[test]
    fn i420_averages_blocks() {
        let rgb: Vec<u8> = (0..5 * 3 * 3u32).map(|i| (i * 37 % 256) as u8).collect();
        let frame = Frame::new(5, 3, PixelFormat::Rgb8, rgb).expect("frame");
        let colour = Colour { range: YuvRange::Full, matrix: YuvMatrix::Bt709 };
        let yuv = frame.clone().into_i420(colour);
        assert!(yuv.check().is_ok());
        for by in 0..2u32 {
            for bx in 0..3u32 {
                let mut mean = [0.0f64; 3];
                for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    let p = frame.rgb((2 * bx + dx).min(4), (2 * by + dy).min(2));
                    for c in 0..3 {
                        mean[c] += f64::from(p[c]) / 4.0;
                    }
                }
                let luma = 0.2126 * mean[0] + 0.7152 * mean[1] + 0.0722 * mean[2];
                let expected = [(mean[2] - luma) / 1.8556 + 128.0, (mean[0] - luma) / 1.5748 + 128.0];
                let at = 15 + (by * 3 + bx) as usize;
                for (found, expected) in [yuv.bytes[at], yuv.bytes[at + 6]].into_iter().zip(expected) {
                    assert!((f64::from(found) - expected).abs() <= 0.51, "{bx} {by}: {found} {expected}");
                }
            }
        }
    }
}
