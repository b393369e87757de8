//! A picture as it arrives: bytes, size, stride, pixel format.

/// Longest side of a picture. The resize counts positions in 32 bits, and memory stays bounded.
pub const MAX_SIDE_PX: u32 = 16384;

/// How the bytes of a frame stand for pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// 3 bytes a pixel.
    Rgb8,
    /// 4 bytes a pixel; alpha is ignored.
    Rgba8,
    /// 4 bytes a pixel, blue first; alpha is ignored.
    Bgra8,
    /// 1 byte a pixel.
    Gray8,
}

impl PixelFormat {
    pub const fn bytes_per_pixel(self) -> usize {
        match self {
            PixelFormat::Rgb8 => 3,
            PixelFormat::Rgba8 | PixelFormat::Bgra8 => 4,
            PixelFormat::Gray8 => 1,
        }
    }
}

/// An owned picture, rows without padding.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub width: u32,
    pub height: u32,
    pub format: PixelFormat,
    /// `width · height · bytes_per_pixel` bytes, top row first.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// A frame from its parts.
    ///
    /// # Errors
    /// A side is 1 to [`MAX_SIDE_PX`] and the bytes must be exactly those of the picture.
    pub fn new(width: u32, height: u32, format: PixelFormat, bytes: Vec<u8>) -> Result<Frame, String> {
        let frame = Frame { width, height, format, bytes };
        frame.check()?;
        Ok(frame)
    }

    /// What [`Frame::new`] asks for, for frames that were made from their fields.
    ///
    /// # Errors
    /// Says which part is wrong.
    pub fn check(&self) -> Result<(), String> {
        let Frame { width, height, format, bytes } = self;
        if [*width, *height].iter().any(|side| !(1..=MAX_SIDE_PX).contains(side)) {
            return Err(format!("a picture of {width}x{height} pixels: a side must be 1 to {MAX_SIDE_PX}"));
        }
        // At most 2^14 · 2^14 · 4: no overflow in 64 bits.
        let expected = u64::from(*width) * u64::from(*height) * format.bytes_per_pixel() as u64;
        if expected != bytes.len() as u64 {
            return Err(format!("a {width}x{height} {format:?} picture has {expected} bytes, not {}", bytes.len()));
        }
        Ok(())
    }

    /// Bytes from one row to the next.
    pub fn row_bytes(&self) -> usize {
        self.width as usize * self.format.bytes_per_pixel()
    }

    /// The same picture as RGB8; no copy where it is that already.
    #[must_use]
    pub fn into_rgb8(self) -> Frame {
        let step = self.format.bytes_per_pixel();
        let bytes = match self.format {
            PixelFormat::Rgb8 => return self,
            PixelFormat::Rgba8 => self.bytes.chunks_exact(step).flat_map(|p| [p[0], p[1], p[2]]).collect(),
            PixelFormat::Bgra8 => self.bytes.chunks_exact(step).flat_map(|p| [p[2], p[1], p[0]]).collect(),
            PixelFormat::Gray8 => self.bytes.iter().flat_map(|&level| [level; 3]).collect(),
        };
        Frame { format: PixelFormat::Rgb8, bytes, ..self }
    }

    /// Red, green and blue of the pixel in column `x` of row `y`.
    ///
    /// # Panics
    /// When the pixel lies outside.
    pub fn rgb(&self, x: u32, y: u32) -> [u8; 3] {
        let at = (y as usize * self.width as usize + x as usize) * self.format.bytes_per_pixel();
        match self.format {
            PixelFormat::Rgb8 | PixelFormat::Rgba8 => [self.bytes[at], self.bytes[at + 1], self.bytes[at + 2]],
            PixelFormat::Bgra8 => [self.bytes[at + 2], self.bytes[at + 1], self.bytes[at]],
            PixelFormat::Gray8 => [self.bytes[at]; 3],
        }
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

    #[test]
    fn checks_size_and_bytes() {
        assert!(Frame::new(2, 1, PixelFormat::Rgb8, vec![0; 6]).is_ok());
        for (width, height, len) in [(0, 1, 0), (1, 0, 0), (2, 1, 5), (2, 1, 7), (MAX_SIDE_PX + 1, 1, 49155)] {
            assert!(Frame::new(width, height, PixelFormat::Rgb8, vec![0; len]).is_err(), "{width}x{height} {len}");
        }
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
}
