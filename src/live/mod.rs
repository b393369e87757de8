//! The live view: pictures from a source, objects found in each, both shown in a window or drawn offscreen.
//!
//! [`headless::Headless`] draws every frame of a source, as fast as it can; `window` (with the feature of that name)
//! shows the newest frame on a surface. Both draw through [`crate::gpu::LiveOverlay`], or on the CPU where there is no
//! GPU, and show the same pixels.

pub mod headless;
pub mod meter;
mod placement;
pub mod sink;
#[cfg(feature = "window")]
mod surface;
#[cfg(feature = "window")]
pub mod window;

pub use headless::Headless;
pub use meter::Meter;
pub use placement::{Placement, raw_detection};
pub use sink::Sink;

/// Detections of a frame; on a GPU they come some frames after it was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameResult {
    /// Counts the frames from 0.
    pub frame: u64,
    pub picture_px: [u32; 2],
    /// Best first, in pixels of the picture.
    pub detections: Vec<crate::decode::Detection>,
}

/// Map operations, each with one copy from the device to the host, by what asked for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapOperations {
    /// For detections: 0 unless results are wanted or only the host can decode.
    pub in_loop: u64,
    /// For pictures that are written.
    pub for_pictures: u64,
    /// For the timestamps of `--profile`.
    pub for_statistics: u64,
}

impl std::fmt::Display for MapOperations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let MapOperations { in_loop, for_pictures, for_statistics } = self;
        write!(
            f,
            "map operations and copies to the host: {in_loop} in the loop, {for_pictures} for pictures, {for_statistics} \
             for statistics"
        )
    }
}

/// Scores that the keys + and - reach, and their step.
pub const CONFIDENCE: std::ops::RangeInclusive<f32> = 0.05..=0.95;
pub const CONFIDENCE_STEP: f32 = 0.05;

/// The keys of the window, as its help shows them.
pub const KEYS: [(&str, &str); 7] = [
    ("space", "pause"),
    ("s", "save the frame"),
    ("b", "GPU or CPU inference"),
    ("+ -", "confidence threshold"),
    ("f", "fullscreen"),
    ("h", "this help"),
    ("q, Esc", "quit"),
];
