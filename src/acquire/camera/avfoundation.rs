//! Cameras of macOS.

use std::sync::mpsc;
use std::time::Duration;

use nokhwa::utils::{CameraFormat, CameraIndex, FrameFormat, RequestedFormat, RequestedFormatType, Resolution};
use nokhwa::{Camera as Device, NokhwaError, nokhwa_check, nokhwa_initialize};

use super::planes::{Layout, unpad};
use crate::acquire::{AcquireError, LiveOptions, Picture, Source};
use crate::frame::{Colour, PixelFormat};

/// How long the person at the machine has to answer whether this program may use the camera.
const PERMISSION_WAIT: Duration = Duration::from_secs(60);

struct Camera {
    index: u32,
    origin: String,
    device: Device,
    colour: Option<Colour>,
    ended: bool,
}

pub(super) fn open(index: u32, options: &LiveOptions) -> Result<Box<dyn Source>, AcquireError> {
    let failed = |reason: String| AcquireError::Camera { index, reason };
    if !nokhwa_check() {
        let (answer, answered) = mpsc::sync_channel(1);
        nokhwa_initialize(move |granted| {
            // Nobody listens after the wait.
            let _ = answer.try_send(granted);
        });
        if answered.recv_timeout(PERMISSION_WAIT) != Ok(true) {
            return Err(failed("the system does not let this program use cameras (Settings, Privacy, Camera)".into()));
        }
    }
    let [width, height] = options.camera_px;
    let wanted = CameraFormat::new(Resolution::new(width, height), FrameFormat::YUYV, 30);
    // Packed pixels: the buffers of planar ones don't come as they lie in memory.
    let request = RequestedFormat::with_formats(RequestedFormatType::Closest(wanted), &[FrameFormat::YUYV]);
    let opened = |e: NokhwaError| failed(format!("cannot open it: {e}"));
    let mut device = Device::new(CameraIndex::Index(index), request).map_err(opened)?;
    device.open_stream().map_err(opened)?;
    Ok(Box::new(Camera { index, origin: format!("camera:{index}"), device, colour: options.colour, ended: false }))
}

impl Source for Camera {
    fn next(&mut self) -> Option<Result<Picture, AcquireError>> {
        if self.ended {
            return None;
        }
        let failed = |reason: String| AcquireError::Camera { index: self.index, reason };
        let buffer = match self.device.frame() {
            Ok(buffer) => buffer,
            Err(e) => {
                self.ended = true;
                return Some(Err(failed(format!("it gives no more pictures: {e}"))));
            }
        };
        let size = buffer.resolution();
        let (width, height) = (size.width(), size.height());
        let bytes = buffer.buffer();
        // The padding of rows isn't told: it is what the length leaves, in the 16 bytes that rows are aligned to.
        let share = bytes.len() / (height as usize).max(1);
        let tight = PixelFormat::Yuyv.row_bytes(width);
        let row_bytes = if share < tight + 16 { tight } else { share / 16 * 16 };
        let colour = self.colour.unwrap_or(Colour::of_video(width, height));
        let frame = unpad(bytes, [width, height], row_bytes, Layout::As(PixelFormat::Yuyv), colour);
        Some(frame.map(|frame| Picture { frame, origin: self.origin.clone(), number: None }).map_err(failed))
    }

    fn len_hint(&self) -> Option<usize> {
        None
    }

    fn is_live(&self) -> bool {
        true
    }
}
