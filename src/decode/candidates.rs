//! The GPU buffers between a head's shaders, NMS and drawing: plain structs without any GPU types.
//!
//! Candidates buffer: [`CandidatesHeader`], then as many [`RawDetection`] as the head has anchors: the shaders find at most
//! one candidate an anchor, so that none is lost. The host writes the header before each frame. Detections buffer:
//! [`DetectionsHeader`], then `max_detections` × [`RawDetection`], then as many times the points of a detection (x and y as
//! f32 each, in pixels of the picture) where the head gives some. The host writes the header once; NMS overwrites its first
//! two words.

use bytemuck::{Pod, Zeroable};

use super::RawDetection;
use super::head::Head;
use super::nms;
use super::points::points_at;
use crate::infer::plan::View;
use crate::letterbox::Letterbox;
use crate::shader::{Precision, Variant};

/// Most detections that the NMS shader keeps, and most candidates that it sorts at a time.
pub const NMS_CAPACITY: usize = 1024;

/// Head of the candidates buffer. WGSL: `Candidates` in `shaders/common/candidates.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct CandidatesHeader {
    /// The shaders count up from 0.
    pub count: u32,
    pub capacity: u32,
    pub score_threshold: f32,
    pub iou_threshold: f32,
    pub max_detections: u32,
    pub reserved_0: u32,
    pub picture_px: [u32; 2],
    pub scale: [f32; 2],
    pub offset_px: [f32; 2],
    pub reserved_1: [u32; 4],
}

impl CandidatesHeader {
    /// The header of a frame with that geometry, for a buffer with room for `capacity` candidates; `max_detections` is
    /// capped at what the shader keeps.
    pub fn new(
        letterbox: &Letterbox,
        capacity: usize,
        score_threshold: f32,
        iou_threshold: f32,
        max_detections: usize,
    ) -> CandidatesHeader {
        CandidatesHeader {
            count: 0,
            capacity: capacity as u32,
            score_threshold,
            iou_threshold,
            max_detections: max_detections.min(NMS_CAPACITY) as u32,
            reserved_0: 0,
            picture_px: letterbox.picture_px,
            scale: letterbox.scale,
            offset_px: letterbox.offset_px,
            reserved_1: [0; 4],
        }
    }
}

/// Head of the detections buffer. WGSL: `Detections` in `shaders/decode/nms.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct DetectionsHeader {
    /// How many detections follow.
    pub count: u32,
    /// How many candidates passed the score threshold.
    pub candidates: u32,
    /// Points of each detection.
    pub points: u32,
    /// The word of the buffer where they begin.
    pub points_at: u32,
    pub reserved: [u32; 12],
}

/// Words of the detections buffer's head, and of a detection.
pub const HEADER_WORDS: usize = size_of::<DetectionsHeader>() / 4;
pub const DETECTION_WORDS: usize = size_of::<RawDetection>() / 4;

impl DetectionsHeader {
    /// For a buffer with room for `room` detections of `points` points each.
    pub fn new(count: usize, room: usize, points: usize) -> DetectionsHeader {
        let (count, points, points_at) = (count as u32, points as u32, points_at(room) as u32);
        DetectionsHeader { count, candidates: 0, points, points_at, reserved: [0; 12] }
    }
}

/// Bytes of a candidates buffer with that room, at least for one.
pub fn candidates_bytes(capacity: usize) -> usize {
    size_of::<CandidatesHeader>() + capacity.max(1) * size_of::<RawDetection>()
}

/// Bytes of the detections buffer for detections of `points` points each.
pub const fn detections_bytes(max_detections: usize, points: usize) -> usize {
    4 * points_at(max_detections) + max_detections * points * size_of::<[f32; 2]>()
}

/// Splits the bytes of a detections buffer; `None` when they are too few for what the header says.
pub fn read_detections(bytes: &[u8]) -> Option<(DetectionsHeader, Vec<RawDetection>)> {
    let (head, rest) = bytes.split_at_checked(size_of::<DetectionsHeader>())?;
    let header: DetectionsHeader = bytemuck::try_pod_read_unaligned(head).ok()?;
    let items = rest.get(..(header.count as usize).checked_mul(size_of::<RawDetection>())?)?;
    let items = items.chunks_exact(size_of::<RawDetection>()).map(bytemuck::pod_read_unaligned).collect();
    Some((header, items))
}

/// A buffer that a decode dispatch binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GpuBinding {
    /// The whole buffer of the network's output with that index.
    Output(usize),
    /// The head's priors.
    Priors,
    Candidates,
    Detections,
}

/// All dispatches of decode and NMS on a GPU, in the order in which they run; binding i of a dispatch is element i.
#[derive(Clone, Debug)]
pub struct GpuDecode {
    pub dispatches: Vec<(Variant, Vec<GpuBinding>)>,
    /// What lies in the buffer of [`GpuBinding::Priors`].
    pub priors: Vec<[f32; 4]>,
    pub candidates_bytes: usize,
    pub detections_bytes: usize,
    /// What the detections buffer starts with before the first frame.
    pub detections_header: DetectionsHeader,
}

impl GpuDecode {
    /// The dispatches for outputs that lie at `views` in buffers of that precision.
    pub fn new(head: &dyn Head, views: &[View], precision: Precision, max_detections: usize) -> GpuDecode {
        let max_detections = max_detections.clamp(1, NMS_CAPACITY);
        let mut dispatches: Vec<(Variant, Vec<GpuBinding>)> = head
            .variants(views, precision)
            .into_iter()
            .map(|(variant, outputs)| {
                let mut bindings = vec![GpuBinding::Candidates];
                bindings.extend(outputs.into_iter().map(GpuBinding::Output));
                bindings.extend((!head.priors().is_empty()).then_some(GpuBinding::Priors));
                (variant, bindings)
            })
            .collect();
        let nms = nms::variant(max_detections, head.suppression());
        dispatches.push((nms, vec![GpuBinding::Candidates, GpuBinding::Detections]));
        let cell_points = head.cell_points();
        for scale in &cell_points {
            let variant = scale.variant(&views[scale.output], precision, max_detections);
            let bindings = vec![GpuBinding::Candidates, GpuBinding::Detections, GpuBinding::Output(scale.output)];
            dispatches.push((variant, bindings));
        }
        let points = cell_points.first().map_or(0, |scale| scale.points);
        GpuDecode {
            dispatches,
            priors: head.priors().to_vec(),
            candidates_bytes: candidates_bytes(head.anchors()),
            detections_bytes: detections_bytes(max_detections, points),
            detections_header: DetectionsHeader::new(0, max_detections, points),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detections_are_read_back() {
        let mut header = DetectionsHeader::zeroed();
        header.count = 2;
        let mut one = RawDetection::zeroed();
        one.score = 0.5;
        let mut bytes = bytemuck::bytes_of(&header).to_vec();
        bytes.extend_from_slice(bytemuck::bytes_of(&one));
        assert!(read_detections(&bytes).is_none());
        bytes.extend_from_slice(bytemuck::bytes_of(&one));
        bytes.extend_from_slice(&[0; 32]);
        assert_eq!(read_detections(&bytes), Some((header, vec![one, one])));
        assert!(read_detections(&bytes[..10]).is_none());
    }
}
