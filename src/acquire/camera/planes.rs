//! Frames from a camera's buffers: rows may be padded, and buffers may be longer than the picture.

use crate::frame::{Colour, Frame, PixelFormat};

/// How a camera's bytes stand for pixels.
#[cfg_attr(all(target_os = "macos", not(test)), expect(dead_code, reason = "its cameras give YUYV"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// As the frame's format, apart from padding.
    As(PixelFormat),
    /// 3 bytes a pixel, blue first.
    Bgr,
    /// U Y0 V Y1.
    Uyvy,
}

/// Copies a picture out of a buffer whose first plane has `row_bytes` from row to row (0: no padding). Chroma planes
/// have the same padding, of I420 half of it.
///
/// # Errors
/// When the buffer is too short: the camera gave a part of a picture.
pub(super) fn unpad(
    buffer: &[u8],
    size_px: [u32; 2],
    row_bytes: usize,
    layout: Layout,
    colour: Colour,
) -> Result<Frame, String> {
    let [width, height] = size_px;
    let (format, tight) = match layout {
        Layout::As(format) => (format, format.row_bytes(width)),
        Layout::Bgr => (PixelFormat::Rgb8, PixelFormat::Rgb8.row_bytes(width)),
        Layout::Uyvy => (PixelFormat::Yuyv, PixelFormat::Yuyv.row_bytes(width)),
    };
    let row_bytes = row_bytes.max(tight);
    let half = [width.div_ceil(2) as usize, height.div_ceil(2) as usize];
    // Rows, bytes of a row, bytes from row to row.
    let rows = height as usize;
    let planes = match format {
        PixelFormat::Nv12 => vec![(rows, tight, row_bytes), (half[1], 2 * half[0], row_bytes.max(2 * half[0]))],
        PixelFormat::I420 => {
            let chroma = (half[1], half[0], row_bytes.div_ceil(2));
            vec![(rows, tight, row_bytes), chroma, chroma]
        }
        _ => vec![(rows, tight, row_bytes)],
    };
    let mut bytes = Vec::with_capacity(planes.iter().map(|(rows, tight, _)| rows * tight).sum());
    let mut begin = 0;
    for (rows, tight, stride) in planes {
        for y in 0..rows {
            let at = begin + y * stride;
            let row = buffer.get(at..at + tight).ok_or_else(|| {
                format!("a buffer of {} bytes holds no {width}x{height} {layout:?} picture", buffer.len())
            })?;
            bytes.extend_from_slice(row);
        }
        begin += rows * stride;
    }
    match layout {
        Layout::As(_) => {}
        Layout::Bgr => bytes.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| pixel.reverse()),
        Layout::Uyvy => bytes.as_chunks_mut::<2>().0.iter_mut().for_each(|pair| pair.reverse()),
    }
    Ok(Frame::new(width, height, format, bytes)?.with_colour(colour))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_goes_and_order_is_put_right() {
        let unpad = |buffer: &[u8], size, row_bytes, layout| unpad(buffer, size, row_bytes, layout, Colour::default());
        let nv12 = [1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0, 10, 11, 12, 13, 14, 15, 16, 17, 99, 99];
        let frame = unpad(&nv12, [3, 3], 4, Layout::As(PixelFormat::Nv12)).expect("fits");
        assert_eq!(frame.bytes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]);
        let i420 = [1, 2, 0, 0, 3, 4, 0, 0, 5, 0, 6, 0];
        let frame = unpad(&i420, [2, 2], 4, Layout::As(PixelFormat::I420)).expect("fits");
        assert_eq!(frame.bytes, [1, 2, 3, 4, 5, 6]);
        assert_eq!(unpad(&[1, 2, 3, 4, 5, 6], [2, 1], 0, Layout::Bgr).expect("fits").bytes, [3, 2, 1, 6, 5, 4]);
        assert_eq!(unpad(&[1, 2, 3, 4], [2, 1], 0, Layout::Uyvy).expect("fits").bytes, [2, 1, 4, 3]);
        for layout in [Layout::As(PixelFormat::Yuyv), Layout::As(PixelFormat::I420), Layout::Bgr] {
            assert!(unpad(&[0; 20], [4, 4], 0, layout).expect_err("short").contains("20 bytes"));
        }
    }
}
