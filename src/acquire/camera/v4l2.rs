//! Cameras of Linux.

use std::io;
use std::path::Path;

use linuxvideo::format::{PixFormat, PixelFormat as FourCc};
use linuxvideo::stream::ReadStream;
use linuxvideo::{BufType, Device};

use super::planes::{Layout, unpad};
use crate::acquire::{AcquireError, LiveOptions, Picture, Source, mjpeg};
use crate::frame::{Colour, PixelFormat, YuvMatrix, YuvRange};

/// What a camera's buffers hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Pixels(Layout),
    Jpeg,
}

/// Formats by their code, best first: few bytes without decoding, then JPEG, then what is large.
const FORMATS: [([u8; 4], Content); 11] = [
    (*b"NV12", Content::Pixels(Layout::As(PixelFormat::Nv12))),
    (*b"YU12", Content::Pixels(Layout::As(PixelFormat::I420))),
    (*b"YUYV", Content::Pixels(Layout::As(PixelFormat::Yuyv))),
    (*b"UYVY", Content::Pixels(Layout::Uyvy)),
    (*b"MJPG", Content::Jpeg),
    (*b"JPEG", Content::Jpeg),
    (*b"RGB3", Content::Pixels(Layout::As(PixelFormat::Rgb8))),
    (*b"BGR3", Content::Pixels(Layout::Bgr)),
    (*b"XR24", Content::Pixels(Layout::As(PixelFormat::Bgra8))),
    (*b"AR24", Content::Pixels(Layout::As(PixelFormat::Bgra8))),
    (*b"GREY", Content::Pixels(Layout::As(PixelFormat::Gray8))),
];

/// Uncompressed pictures larger than this don't pass a USB 2 bus at a useful rate: then JPEG comes first.
const MAX_UNCOMPRESSED_PX: u32 = 640 * 480;

struct Camera {
    index: u32,
    origin: String,
    stream: ReadStream,
    content: Content,
    size_px: [u32; 2],
    row_bytes: usize,
    colour: Colour,
    ended: bool,
}

pub(super) fn open(index: u32, options: &LiveOptions) -> Result<Box<dyn Source>, AcquireError> {
    let path = format!("/dev/video{index}");
    let failed = |what: &str, e: io::Error| {
        let hint = match e.kind() {
            io::ErrorKind::PermissionDenied => " (is this user in the group 'video'?)",
            io::ErrorKind::ResourceBusy => " (another program uses it)",
            _ => "",
        };
        AcquireError::Camera { index, reason: format!("{what} '{path}': {e}{hint}") }
    };
    let device = Device::open(Path::new(&path)).map_err(|e| failed("cannot open", e))?;
    let mut offered = Vec::new();
    for format in device.formats(BufType::VIDEO_CAPTURE) {
        offered.push(format.map_err(|e| failed("cannot list the formats of", e))?.pixel_format().as_fourcc());
    }
    let [width, height] = options.camera_px;
    let large = u64::from(width) * u64::from(height) > u64::from(MAX_UNCOMPRESSED_PX);
    let mut candidates = FORMATS;
    if large {
        // Stable: the order among the others stays.
        candidates.sort_by_key(|(_, content)| *content != Content::Jpeg);
    }
    let Some((code, _)) = candidates.into_iter().find(|(code, _)| offered.contains(code)) else {
        let names: Vec<String> = offered.iter().map(|code| String::from_utf8_lossy(code).into_owned()).collect();
        let reason = if names.is_empty() {
            format!(
                "'{path}' gives no pictures; cameras often have a second device for other matters, so try the next number"
            )
        } else {
            format!("'{path}' gives {}, of which none is read", names.join(", "))
        };
        return Err(AcquireError::Camera { index, reason });
    };
    let wanted = PixFormat::new(width, height, FourCc::from_fourcc(code));
    let capture = device.video_capture(wanted).map_err(|e| failed("cannot set the format of", e))?;
    // The driver may have chosen another format and size.
    let chosen = capture.format();
    let code = chosen.pixel_format().as_fourcc();
    let Some((_, content)) = FORMATS.into_iter().find(|(known, _)| *known == code) else {
        let name = String::from_utf8_lossy(&code).into_owned();
        return Err(AcquireError::Camera { index, reason: format!("'{path}' insists on {name}, which is not read") });
    };
    let (size_px, row_bytes) = ([chosen.width(), chosen.height()], chosen.bytes_per_line() as usize);
    let stream = capture.into_stream().map_err(|e| failed("cannot start", e))?;
    log::info!("{path}: {}x{} {}", size_px[0], size_px[1], String::from_utf8_lossy(&code));
    Ok(Box::new(Camera {
        index,
        origin: format!("camera:{index}"),
        stream,
        content,
        size_px,
        row_bytes,
        // V4L2's default for cameras: the matrix of BT.601, limited range.
        colour: options.colour.unwrap_or(Colour { range: YuvRange::Limited, matrix: YuvMatrix::Bt601 }),
        ended: false,
    }))
}

impl Source for Camera {
    fn next(&mut self) -> Option<Result<Picture, AcquireError>> {
        if self.ended {
            return None;
        }
        let Camera { content, size_px, row_bytes, colour, .. } = *self;
        let origin = &self.origin;
        let frame = self.stream.dequeue(|buffer| {
            if buffer.is_error() {
                return Ok(Err("the camera marks a buffer as damaged".to_string()));
            }
            Ok(match content {
                Content::Jpeg => mjpeg::decode(Path::new(origin), &buffer).map_err(|e| e.to_string()),
                Content::Pixels(layout) => unpad(&buffer, size_px, row_bytes, layout, colour),
            })
        });
        Some(match frame {
            Ok(Ok(frame)) => Ok(Picture { frame, origin: self.origin.clone(), number: None }),
            Ok(Err(reason)) => Err(AcquireError::Camera { index: self.index, reason }),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return self.next(),
            Err(e) => {
                // Unplugged: ENODEV. Whatever it is, the stream doesn't recover by itself.
                self.ended = true;
                Err(AcquireError::Camera { index: self.index, reason: format!("it gives no more pictures: {e}") })
            }
        })
    }

    fn len_hint(&self) -> Option<usize> {
        None
    }

    fn is_live(&self) -> bool {
        true
    }
}
