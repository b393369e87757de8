//! YuNet (2023): faces with five landmarks. Twin of `shaders/decode/yunet.wgsl`; the landmarks are `decode::points`.
//!
//! For each stride s of 8, 16, 32: `cls_s`, `obj_s` `[1, n, 1]` (through the sigmoid), `bbox_s` `[1, n, 4]`, `kps_s`
//! `[1, n, 10]`. Cell (i, j): `score = √(cls·obj)`, `cx = (i+b0)·s`, `cy = (j+b1)·s`, `w = e^b2·s`, `h = e^b3·s`, landmark
//! m at `((k_2m+i)·s, (k_2m+1+j)·s)`. Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023.

use crate::convert::ChannelOrder;
use crate::decode::RawDetection;
use crate::decode::head::{Details, Fitted, GridScale, Head, OutputRef, ScoreFilter, Signature, grids, spread};
use crate::decode::labels::Labels;
use crate::decode::points::CellPoints;
use crate::decode::scan::{Matrix, corners, side};
use crate::infer::plan::View;
use crate::letterbox::Fit;
use crate::shader::{Precision, Variant};

const STEM: &str = "yunet";
const SHADER: &str = include_str!("../../../shaders/decode/yunet.wgsl");

/// Points per face: eyes, nose, corners of the mouth.
const LANDMARKS: usize = 5;

/// One scale with the indices of its outputs.
#[derive(Clone, Debug)]
pub struct YuNetScale {
    pub grid: GridScale,
    pub cls: usize,
    pub obj: usize,
    pub bbox: usize,
    pub kps: usize,
}

#[derive(Clone, Debug)]
pub struct YuNet {
    pub scales: Vec<YuNetScale>,
}

/// YuNet: stretched, BGR, levels 0 to 255.
pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    let strides = [8, 16, 32];
    let mut scales = Vec::new();
    for grid in grids(signature.width, signature.height, &strides) {
        let find = |name: &str, columns: usize| {
            let name = format!("{name}_{}", grid.stride_px);
            signature
                .output(&name)
                .filter(|&o| signature.outputs[o].1 == [1, grid.cells(), columns])
                .ok_or_else(|| format!("it needs an output {name} of shape [1, {}, {columns}]", grid.cells()))
        };
        scales.push(YuNetScale {
            grid,
            cls: find("cls", 1)?,
            obj: find("obj", 1)?,
            bbox: find("bbox", 4)?,
            kps: find("kps", 2 * LANDMARKS)?,
        });
    }
    let (mean, std) = super::LEVELS;
    Ok(Fitted {
        head: Box::new(YuNet { scales }),
        fit: Fit::Stretch,
        order: ChannelOrder::Bgr,
        mean,
        std,
        score_threshold: 0.6,
        iou_threshold: 0.45,
        labels: Labels::faces(),
    })
}

impl Head for YuNet {
    fn stem(&self) -> &'static str {
        STEM
    }

    fn classes(&self) -> usize {
        1
    }

    fn anchors(&self) -> usize {
        self.scales.iter().map(|s| s.grid.cells()).sum()
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        for scale in &self.scales {
            let matrix = |output: usize| Matrix::of(outputs[output].view, 1, 2);
            let (cls, obj, bbox) = (matrix(scale.cls), matrix(scale.obj), matrix(scale.bbox));
            let stride = scale.grid.stride_px as f32;
            for cell in 0..scale.grid.cells() {
                let c = cls.at(outputs[scale.cls].values, cell, 0).clamp(0.0, 1.0);
                let o = obj.at(outputs[scale.obj].values, cell, 0).clamp(0.0, 1.0);
                let score = (c * o).sqrt();
                if score.is_nan() || score < filter.threshold {
                    continue;
                }
                let b = [0, 1, 2, 3].map(|k| bbox.at(outputs[scale.bbox].values, cell, k));
                let cx = ((cell % scale.grid.cols) as f32 + b[0]) * stride;
                let cy = ((cell / scale.grid.cols) as f32 + b[1]) * stride;
                emit.push(RawDetection {
                    bounds: corners(cx, cy, side(b[2]) * stride, side(b[3]) * stride),
                    score,
                    class: 0,
                    anchor: (scale.grid.first + cell) as u32,
                    reserved: 0,
                });
            }
        }
    }

    fn variants(&self, views: &[View], precision: Precision) -> Vec<(Variant, Vec<usize>)> {
        self.scales
            .iter()
            .map(|scale| {
                let (workgroups, row) = spread(scale.grid.cells());
                let mut builder = super::builder(STEM, SHADER, row, precision)
                    .u32("CELLS", scale.grid.cells())
                    .u32("COLS", scale.grid.cols)
                    .u32("FIRST", scale.grid.first)
                    .f32("STRIDE_PX", scale.grid.stride_px as f32);
                for (name, output) in [("CLS", scale.cls), ("OBJ", scale.obj), ("BBOX", scale.bbox)] {
                    let m = Matrix::of(&views[output], 1, 2);
                    builder = builder
                        .u32(&format!("{name}_OFFSET"), m.offset)
                        .u32(&format!("{name}_ROW_STRIDE"), m.row_stride);
                }
                let bbox = Matrix::of(&views[scale.bbox], 1, 2);
                let variant = builder.u32("BBOX_COLUMN_STRIDE", bbox.column_stride).build(workgroups);
                (variant, vec![scale.cls, scale.obj, scale.bbox])
            })
            .collect()
    }

    fn cell_points(&self) -> Vec<CellPoints> {
        self.scales.iter().map(|s| CellPoints { grid: s.grid, output: s.kps, points: LANDMARKS }).collect()
    }

    fn has_details(&self) -> bool {
        true
    }

    fn details(&self, outputs: &[OutputRef<'_>], anchor: u32) -> Details {
        let landmarks = self.cell_points().iter().find_map(|scale| scale.of_anchor(outputs, anchor));
        Details { landmarks: landmarks.unwrap_or_default(), ..Details::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use super::*;
    use crate::decode::head::recognise;
    use crate::infer::plan::BufferId;

    #[test]
    fn faces_and_landmarks() {
        let (width, height) = (96, 64);
        let cells = [12 * 8, 6 * 4, 3 * 2];
        let mut outputs: Vec<(String, Vec<usize>)> = Vec::new();
        for (kind, columns) in [("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)] {
            for (s, n) in [8, 16, 32].iter().zip(cells) {
                outputs.push((format!("{kind}_{s}"), vec![1, n, columns]));
            }
        }
        let parts: &[&str] = &["Conv"];
        let list: Vec<(&str, &[usize], &[&str])> = outputs.iter().map(|(n, s)| (&n[..], &s[..], parts)).collect();
        let r = recognise(&graph(width, height, &list), None).unwrap();
        assert_eq!((r.name, r.labels.name(0)), ("yunet", "face".to_string()));
        let mut next = noise(2);
        let tables: Vec<Table> = outputs
            .iter()
            .enumerate()
            .map(|(n, (_, s))| Table::new(s, |_| if n < 6 { next() * 1.2 } else { next() * 3.0 - 1.0 }))
            .collect();
        let mut expected: Vec<Expected> = Vec::new();
        let mut marks = Vec::new();
        let mut anchor = 0;
        for (n, stride) in [8usize, 16, 32].into_iter().enumerate() {
            let (cols, s) = (width / stride, stride as f64);
            for cell in 0..cells[n] {
                let v = |table: usize, k: usize| tables[3 * table + n].at(&[0, cell, k]);
                let score = (v(0, 0).clamp(0.0, 1.0) * v(1, 0).clamp(0.0, 1.0)).sqrt();
                let (i, j) = ((cell % cols) as f64, (cell / cols) as f64);
                if score >= 0.8 {
                    let (cx, cy) = ((i + v(2, 0)) * s, (j + v(2, 1)) * s);
                    let (w, h) = (v(2, 2).exp() * s, v(2, 3).exp() * s);
                    expected.push((anchor, 0, score, [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0]));
                    marks.push((0..5).map(|m| [(v(3, 2 * m) + i) * s, (v(3, 2 * m + 1) + j) * s]).collect::<Vec<_>>());
                }
                anchor += 1;
            }
        }
        let found = decode(&*r.head, &tables, 0.8, false);
        assert_same(&found, &expected, 0.8);
        let views: Vec<View> = tables.iter().map(|t| View::row_major(BufferId(0), &t.shape)).collect();
        let refs: Vec<OutputRef<'_>> =
            tables.iter().zip(&views).map(|(t, view)| OutputRef { values: &t.values, view }).collect();
        for (e, want) in expected.iter().zip(&marks) {
            let points = r.head.details(&refs, e.0 as u32).landmarks;
            assert_eq!(points.len(), 5);
            for (p, q) in points.iter().zip(want) {
                assert!((f64::from(p[0]) - q[0]).abs() < 1e-3 && (f64::from(p[1]) - q[1]).abs() < 1e-3);
            }
        }
        assert_eq!(r.head.details(&refs, 100_000), Details::default());
        assert!(r.head.has_details());
    }
}
