//! A picture as it arrives: bytes, size, stride, pixel format.

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
    /// Neither side may be 0 and the bytes must be exactly those of the picture.
    pub fn new(width: u32, height: u32, format: PixelFormat, bytes: Vec<u8>) -> Result<Frame, String> {
        let expected =
            (width as usize).checked_mul(height as usize).and_then(|n| n.checked_mul(format.bytes_per_pixel()));
        match expected {
            Some(n) if n > 0 && n == bytes.len() => Ok(Frame { width, height, format, bytes }),
            _ => Err(format!("a {width}x{height} {format:?} picture does not have {} bytes", bytes.len())),
        }
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
