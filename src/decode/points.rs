//! Points of detections (landmarks), looked up after NMS for what it kept: twin of `shaders/decode/points.wgsl`.
//!
//! For heads of which each cell predicts its points relative to its own corner, in strides: point m of cell (i, j) of
//! stride s is `((v_2m + i)·s, (v_2m+1 + j)·s)` in pixels of the network's input. On a GPU they follow the detections in
//! their buffer, see [`super::candidates`], so that drawing needs nothing from the host.

use super::candidates::{DETECTION_WORDS, HEADER_WORDS};
use super::head::{GridScale, OutputRef};
use super::scan::Matrix;
use super::{Detection, DetectionsHeader};
use crate::infer::plan::View;
use crate::shader::{Precision, Variant, VariantBuilder};

const STEM: &str = "points";
const SHADER: &str = include_str!("../../shaders/decode/points.wgsl");

/// Threads of a workgroup.
const WORKGROUP: usize = 64;

/// The points of one scale's cells: output `[1, cells, 2·points]`, x and y of each in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellPoints {
    pub grid: GridScale,
    /// Index of the network's output.
    pub output: usize,
    pub points: usize,
}

impl CellPoints {
    /// The points at an anchor, in pixels of the network's input; `None` for an anchor of another scale.
    pub fn of_anchor(&self, outputs: &[OutputRef<'_>], anchor: u32) -> Option<Vec<[f32; 2]>> {
        let cell = (anchor as usize).checked_sub(self.grid.first).filter(|&cell| cell < self.grid.cells())?;
        let output = outputs.get(self.output)?;
        let matrix = Matrix::of(output.view, 1, 2);
        let corner = [cell % self.grid.cols, cell / self.grid.cols];
        let coordinate = |m: usize, axis: usize| {
            let v = matrix.at(output.values, cell, 2 * m + axis);
            (v + corner[axis] as f32) * self.grid.stride_px as f32
        };
        Some((0..self.points).map(|m| [coordinate(m, 0), coordinate(m, 1)]).collect())
    }

    /// The shader for an output that lies at `view`, for a detections buffer with that room. It binds candidates,
    /// detections and the output's buffer.
    pub fn variant(&self, view: &View, precision: Precision, room: usize) -> Variant {
        let m = Matrix::of(view, 1, 2);
        VariantBuilder::new(STEM, SHADER)
            .u32("ROOM", room)
            .u32("POINTS", self.points)
            .u32("POINTS_AT", points_at(room))
            .u32("CELLS", self.grid.cells())
            .u32("COLS", self.grid.cols)
            .u32("FIRST", self.grid.first)
            .f32("STRIDE_PX", self.grid.stride_px as f32)
            .u32("OFFSET", m.offset)
            .u32("ROW_STRIDE", m.row_stride)
            .u32("COLUMN_STRIDE", m.column_stride)
            .include(include_str!("../../shaders/common/candidates.wgsl"))
            .precision(precision)
            .build([room.div_ceil(WORKGROUP) as u32, 1, 1])
    }
}

/// The word of a detections buffer with that room where points begin.
pub const fn points_at(room: usize) -> usize {
    HEADER_WORDS + DETECTION_WORDS * room
}

/// Points of a list of detections, the same number for each, in pixels of the picture. One that is not finite is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PointList {
    pub per_detection: usize,
    pub points: Vec<[f32; 2]>,
}

impl PointList {
    /// The landmarks of all; shorter lists are filled up with NaN, and NaN stands for what is more hidden than visible.
    pub fn of(found: &[Detection]) -> PointList {
        let per_detection = found.iter().map(|d| d.landmarks.len()).max().unwrap_or(0);
        let points = found
            .iter()
            .flat_map(|d| {
                let shown = |k: usize| d.visibility.get(k).is_none_or(|&v| v >= 0.5);
                let point = move |k: usize| d.landmarks.get(k).copied().filter(|_| shown(k)).unwrap_or([f32::NAN; 2]);
                (0..per_detection).map(point)
            })
            .collect();
        PointList { per_detection, points }
    }

    /// What follows the detections in their buffer; empty when it holds none or less than its header says.
    pub fn read(bytes: &[u8], header: &DetectionsHeader) -> PointList {
        let per_detection = header.points as usize;
        let read = || {
            let start = (header.points_at as usize).checked_mul(4)?;
            let len = (header.count as usize).checked_mul(per_detection)?.checked_mul(size_of::<[f32; 2]>())?;
            let bytes = bytes.get(start..start.checked_add(len)?)?;
            Some(bytes.chunks_exact(size_of::<[f32; 2]>()).map(bytemuck::pod_read_unaligned).collect())
        };
        match read() {
            Some(points) => PointList { per_detection, points },
            None => PointList::default(),
        }
    }

    /// Those of one detection.
    pub fn of_detection(&self, index: usize) -> &[[f32; 2]] {
        let start = index.saturating_mul(self.per_detection);
        self.points.get(start..start.saturating_add(self.per_detection)).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;

    fn found(landmarks: &[[f32; 2]]) -> Detection {
        Detection { landmarks: landmarks.to_vec(), ..Detection::default() }
    }

    #[test]
    fn lists_of_different_lengths_are_filled_up() {
        let list = PointList::of(&[found(&[]), found(&[[1.0, 2.0], [3.0, 4.0]]), found(&[[5.0, 6.0]])]);
        assert_eq!(list.per_detection, 2);
        assert!(list.of_detection(0).iter().flatten().all(|v| v.is_nan()));
        assert_eq!(list.of_detection(1), [[1.0, 2.0], [3.0, 4.0]]);
        assert_eq!(list.of_detection(2)[0], [5.0, 6.0]);
        assert!(list.of_detection(2)[1][0].is_nan());
        assert!(list.of_detection(3).is_empty());
        assert_eq!(PointList::of(&[]), PointList::default());
    }

    #[test]
    fn damaged_buffers_hold_no_points() {
        let mut header = DetectionsHeader::zeroed();
        (header.count, header.points, header.points_at) = (2, 1, 1);
        let bytes: Vec<u8> = bytemuck::cast_slice(&[9.0f32, 1.0, 2.0, 3.0, 4.0]).to_vec();
        assert_eq!(PointList::read(&bytes, &header).points, [[1.0, 2.0], [3.0, 4.0]]);
        assert_eq!(PointList::read(&bytes[..16], &header), PointList::default());
        (header.count, header.points) = (u32::MAX, u32::MAX);
        assert_eq!(PointList::read(&bytes, &header), PointList::default());
    }

    #[test]
    fn anchors_of_other_scales_have_none() {
        let grid = GridScale { stride_px: 8, cols: 3, rows: 2, first: 10 };
        let of = CellPoints { grid, output: 0, points: 1 };
        let values: Vec<f32> = (0..12).map(|v| v as f32 / 4.0).collect();
        let view = View::row_major(crate::infer::plan::BufferId(0), &[1, 6, 2]);
        let outputs = [OutputRef { values: &values, view: &view }];
        assert_eq!(of.of_anchor(&outputs, 9), None);
        assert_eq!(of.of_anchor(&outputs, 16), None);
        // Cell (1, 1): ((2 + 1)·8, (2.25 + 1)·8).
        assert_eq!(of.of_anchor(&outputs, 14), Some(vec![[24.0, 26.0]]));
    }
}
