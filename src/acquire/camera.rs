//! `camera:N`: V4L2 on Linux through `linuxvideo`, AVFoundation on macOS through `nokhwa`, both behind the feature
//! `camera`. On iOS `nokhwa` 0.10 does not compile (its `core-video-sys` wants CoreGraphics' displays). Elsewhere, and without the feature, opening a camera says how to pipe one in.

use super::{AcquireError, LiveOptions, Source};

#[cfg(all(feature = "camera", any(target_os = "linux", target_os = "macos")))]
mod planes;

#[cfg(all(feature = "camera", target_os = "linux"))]
mod v4l2;
#[cfg(all(feature = "camera", target_os = "linux"))]
use v4l2 as system;

#[cfg(all(feature = "camera", target_os = "macos"))]
mod avfoundation;
#[cfg(all(feature = "camera", target_os = "macos"))]
use avfoundation as system;

#[cfg(not(all(feature = "camera", any(target_os = "linux", target_os = "macos"))))]
mod system {
    use super::{AcquireError, LiveOptions, Source};

    pub(super) fn open(index: u32, _: &LiveOptions) -> Result<Box<dyn Source>, AcquireError> {
        let why = if cfg!(feature = "camera") {
            "this system's cameras are not supported"
        } else {
            "this build has no cameras (the feature 'camera' is off)"
        };
        Err(AcquireError::Camera { index, reason: why.to_string() })
    }
}

/// Opens a camera by its number.
///
/// # Errors
/// When there is none of that number, it is busy, or it gives no format that is read; the message names the way around.
pub(super) fn open(index: u32, options: &LiveOptions) -> Result<Box<dyn Source>, AcquireError> {
    system::open(index, options).map_err(|e| match e {
        AcquireError::Camera { index, reason } => {
            let input = match std::env::consts::OS {
                "macos" => format!("-f avfoundation -i {index}"),
                "windows" => "-f dshow -i video=NAME".to_string(),
                _ => format!("-f v4l2 -i /dev/video{index}"),
            };
            let reason = format!("{reason}; a camera can also come through a pipe: ffmpeg {input} -pix_fmt yuv420p -f yuv4mpegpipe - | eyas live -");
            AcquireError::Camera { index, reason }
        }
        other => other,
    })
}
