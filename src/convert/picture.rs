//! A picture of any pixel format as RGBA at its own size: the twin of `shaders/convert/picture.wgsl`, and how shaders
//! read the pixels of a frame's bytes.

use crate::frame::{Colour, Frame, PixelFormat};
use crate::shader::{Variant, VariantBuilder};

const SHADER: &str = include_str!("../../shaders/convert/picture.wgsl");
const PICTURE_BYTES: &str = include_str!("../../shaders/common/picture_bytes.wgsl");
const FRAME_PARAMS: &str = include_str!("../../shaders/common/frame_params.wgsl");

/// Words to which rows are padded: copies from buffers to textures want rows of whole 256 bytes.
const ROW_WORDS: u32 = 64;

/// Words from one row to the next in the buffer that [`picture_variant`] writes.
pub const fn picture_row_words(width: u32) -> u32 {
    width.next_multiple_of(ROW_WORDS)
}

/// Includes `shaders/common/picture_bytes.wgsl` and what it needs, for that format and colour.
pub(super) fn with_picture_bytes(builder: VariantBuilder, format: PixelFormat, colour: Colour) -> VariantBuilder {
    let (kind, [red, green, blue]) = match format {
        PixelFormat::Rgb8 | PixelFormat::Rgba8 => (0, [0, 8, 16]),
        PixelFormat::Bgra8 => (0, [16, 8, 0]),
        PixelFormat::Gray8 => (0, [0; 3]),
        PixelFormat::Yuyv => (1, [0; 3]),
        PixelFormat::Nv12 => (2, [0; 3]),
        PixelFormat::I420 => (3, [0; 3]),
    };
    let v = builder
        .include(PICTURE_BYTES)
        .include(FRAME_PARAMS)
        .u32("FORMAT", kind)
        .u32("BYTES_PER_PIXEL", format.bytes_per_pixel())
        .u32("RED", red)
        .u32("GREEN", green)
        .u32("BLUE", blue);
    if !format.is_yuv() {
        // One source text whatever the colour says: it is of no matter.
        return v;
    }
    let k = colour.rgb_from_yuv();
    v.i32("BLACK", k.black.into())
        .i32("LUMA", k.luma.into())
        .i32("RED_FROM_V", k.red_from_v.into())
        .i32("GREEN_FROM_U", k.green_from_u.into())
        .i32("GREEN_FROM_V", k.green_from_v.into())
        .i32("BLUE_FROM_U", k.blue_from_u.into())
}

/// The shader for pictures of that format, colour and size (width, height). Bindings: the frame's
/// [`crate::letterbox::FrameParams`], the bytes of the frame padded to a multiple of 4, and the picture:
/// `height * picture_row_words(width)` words, red in the lowest byte, alpha 255; words beyond a row's pixels stay as they
/// are. The size decides only how many workgroups run: the shader's text is the same for all. The frame must satisfy
/// [`Frame::check`]; the shader trusts it.
pub fn picture_variant(format: PixelFormat, colour: Colour, picture_px: [u32; 2]) -> Variant {
    let [columns, rows] = picture_px.map(|px| px.div_ceil(16));
    with_picture_bytes(VariantBuilder::new("picture", SHADER), format, colour).build([columns, rows, 1])
}

/// What the shader writes, without the padding of rows: the frame as RGBA8, alpha 255.
///
/// # Errors
/// As [`Frame::check`].
pub fn picture_twin(frame: &Frame) -> Result<Frame, String> {
    frame.check()?;
    let mut bytes = Vec::with_capacity(4 * frame.width as usize * frame.height as usize);
    for y in 0..frame.height {
        for x in 0..frame.width {
            let [r, g, b] = frame.rgb(x, y);
            bytes.extend_from_slice(&[r, g, b, 255]);
        }
    }
    Frame::new(frame.width, frame.height, PixelFormat::Rgba8, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{YuvMatrix, YuvRange};

    #[test]
    fn one_text_serves_every_size_and_colour_changes_only_yuv() {
        let full = Colour { range: YuvRange::Full, matrix: YuvMatrix::Bt709 };
        let small = picture_variant(PixelFormat::Nv12, full, [3, 5]);
        let large = picture_variant(PixelFormat::Nv12, full, [641, 479]);
        assert_eq!((small.workgroups, large.workgroups), ([1, 1, 1], [41, 30, 1]));
        assert_eq!(small.source, large.source);
        assert_ne!(small.source, picture_variant(PixelFormat::Nv12, Colour::default(), [3, 5]).source);
        let rgb = |colour| picture_variant(PixelFormat::Rgb8, colour, [3, 5]).source;
        assert_eq!(rgb(full), rgb(Colour::default()));
    }

    #[test]
    fn rows_are_padded_to_256_bytes() {
        assert_eq!([1, 64, 65, 641].map(picture_row_words), [64, 64, 128, 704]);
    }

    #[test]
    fn twin_is_the_picture() {
        let frame = Frame::new(2, 1, PixelFormat::Bgra8, vec![3, 2, 1, 0, 6, 5, 4, 9]).expect("frame");
        assert_eq!(picture_twin(&frame).expect("fits").bytes, [1, 2, 3, 255, 4, 5, 6, 255]);
        assert!(picture_twin(&Frame { height: 2, ..frame }).is_err());
    }
}
