//! Detections on their way back from the live view: a ring of asynchronous readbacks, in the order of the frames.

use std::collections::VecDeque;

use super::buffer::Readback;
use super::live::FRAMES_IN_FLIGHT;
use super::{Gpu, GpuError};
use crate::decode::candidates::read_detections;
use crate::decode::points::PointList;
use crate::decode::{Decoder, Detection, DetectionsHeader, RawDetection};
use crate::letterbox::Letterbox;
use crate::live::FrameResult;

/// Results of one frame.
#[derive(Debug)]
pub(super) struct Pending {
    pub frame: u64,
    pub letterbox: Letterbox,
    /// Mapped already.
    pub readback: Readback,
    /// The buffer that it copies.
    pub source: wgpu::Buffer,
    pub submission: wgpu::SubmissionIndex,
}

#[derive(Debug, Default)]
pub(super) struct ResultRing {
    /// Whether anybody wants results.
    pub collects: bool,
    pending: VecDeque<Pending>,
    spare: Vec<(wgpu::Buffer, Readback)>,
    arrived: VecDeque<FrameResult>,
}

impl ResultRing {
    /// A readback of `source`, if results are wanted.
    ///
    /// # Errors
    /// When memory is out.
    pub fn readback(&mut self, gpu: &Gpu, source: &wgpu::Buffer) -> Result<Option<Readback>, GpuError> {
        if !self.collects {
            return Ok(None);
        }
        Ok(Some(match self.spare.iter().position(|(of, _)| of == source) {
            Some(i) => self.spare.swap_remove(i).1,
            None => Readback::new(gpu, &[(source, 0, source.size() as usize)])?,
        }))
    }

    /// Results that will come.
    pub fn push(&mut self, pending: Pending) {
        self.pending.push_back(pending);
    }

    /// Results that the host found, if results are wanted.
    pub fn push_found(&mut self, result: FrameResult) {
        if self.collects {
            self.arrived.push_back(result);
        }
    }

    /// Gives what [`ResultRing::take`] has taken.
    pub fn arrived(&mut self) -> Vec<FrameResult> {
        self.arrived.drain(..).collect()
    }

    /// Takes what has arrived; with `wait`, all.
    ///
    /// # Errors
    /// When the device fails.
    pub fn take(&mut self, gpu: &Gpu, decoder: &Decoder, wait: bool) -> Result<(), GpuError> {
        while let Some(first) = self.pending.front() {
            let bytes = if wait {
                Some(first.readback.take_after(gpu, first.submission.clone())?)
            } else {
                first.readback.take(gpu)?
            };
            let Some(bytes) = bytes else { break };
            let read: Option<(DetectionsHeader, Vec<RawDetection>)> = bytes.first().and_then(|b| read_detections(b));
            let Some((header, raw)) = read else {
                return Err(GpuError::Device("the detections buffer is damaged".into()));
            };
            let points = bytes.first().map(|bytes| PointList::read(bytes, &header)).unwrap_or_default();
            if let Some(p) = self.pending.pop_front() {
                // One by one, as classes that were not asked for are left out.
                let detections = raw.iter().enumerate().flat_map(|(i, one)| {
                    let named = decoder.detections(std::slice::from_ref(one), &p.letterbox, None);
                    let landmarks = points.of_detection(i).to_vec();
                    named.into_iter().map(move |d| Detection { landmarks: landmarks.clone(), ..d })
                });
                self.arrived.push_back(FrameResult {
                    frame: p.frame,
                    picture_px: p.letterbox.picture_px,
                    detections: detections.collect(),
                });
                self.spare.push((p.source, p.readback));
                self.spare.truncate(FRAMES_IN_FLIGHT);
            }
        }
        Ok(())
    }
}
