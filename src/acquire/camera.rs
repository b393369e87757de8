//! Cameras: placeholder until filled in below.
use super::{AcquireError, LiveOptions, Source};

pub(super) fn open(index: u32, _options: &LiveOptions) -> Result<Box<dyn Source>, AcquireError> {
    Err(AcquireError::Camera { index, reason: "x".into() })
}
