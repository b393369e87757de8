//! Anchor-free grids with offsets from the cell (YOLOX). Twin of `shaders/decode/grid_anchor_free.wgsl`.
//!
//! One output `[1, N, 5+C]`: x y w h raw, objectness and class probabilities already through the sigmoid. Cell (i, j)
//! of stride s: `cx = (x+i)·s`, `cy = (y+j)·s`, `w = e^w·s`, `h = e^h·s`, score = objectness · class.
//! Ge et al., "YOLOX: Exceeding YOLO Series in 2021", arXiv 2107.08430.

use crate::convert::ChannelOrder;
use crate::decode::RawDetection;
use crate::decode::head::{
    Fitted, GridScale, Head, OutputRef, ScoreFilter, Signature, cell_count, cell_of_wgsl, grids, spread,
};
use crate::decode::labels::Labels;
use crate::decode::scan::{Matrix, corners, scan, side};
use crate::infer::plan::View;
use crate::letterbox::Fit;
use crate::shader::{Precision, Variant};

const STEM: &str = "grid_anchor_free";
const SHADER: &str = include_str!("../../../shaders/decode/grid_anchor_free.wgsl");

#[derive(Clone, Debug)]
pub struct GridAnchorFree {
    pub classes: usize,
    pub scales: Vec<GridScale>,
}

/// YOLOX: letterbox at the top left, BGR, levels 0 to 255.
pub fn fit_yolox(signature: &Signature<'_>) -> Result<Fitted, String> {
    let shape = signature.single(3)?;
    let scales = [&[8, 16, 32][..], &[8, 16, 32, 64]]
        .iter()
        .map(|strides| grids(signature.width, signature.height, strides))
        .find(|scales| cell_count(scales) == shape[1])
        .ok_or_else(|| format!("{} rows are not the cells of strides 8, 16, 32 (and 64)", shape[1]))?;
    if shape[2] < 6 {
        return Err(format!("{} columns leave no class after x y w h objectness", shape[2]));
    }
    // YOLOv6 has the same shape with decoded boxes: there they do not come straight from a convolution.
    if !signature.named && signature.origins(0).first() != Some(&"Conv") {
        return Err("the boxes are already decoded in the graph".to_string());
    }
    let classes = shape[2] - 5;
    let (mean, std) = super::LEVELS;
    Ok(Fitted {
        head: Box::new(GridAnchorFree { classes, scales }),
        fit: Fit::LetterboxTopLeft { pad: 114 },
        order: ChannelOrder::Bgr,
        mean,
        std,
        score_threshold: 0.35,
        iou_threshold: 0.45,
        labels: Labels::usual(classes),
    })
}

impl Head for GridAnchorFree {
    fn stem(&self) -> &'static str {
        STEM
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn anchors(&self) -> usize {
        cell_count(&self.scales)
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        let values = outputs[0].values;
        let all = Matrix::of(outputs[0].view, 1, 2);
        for scale in &self.scales {
            let rows = all.rows(scale.first, scale.cells());
            let objectness = |r: usize| rows.at(values, r, 4);
            let stride = scale.stride_px as f32;
            scan(
                values,
                &rows.columns(5, self.classes),
                filter.threshold,
                filter.multi_label,
                |r| objectness(r) >= filter.threshold,
                |r, class, value| {
                    let score = objectness(r) * value;
                    if score < filter.threshold {
                        return;
                    }
                    let (i, j) = ((r % scale.cols) as f32, (r / scale.cols) as f32);
                    let cx = (rows.at(values, r, 0) + i) * stride;
                    let cy = (rows.at(values, r, 1) + j) * stride;
                    let w = side(rows.at(values, r, 2)) * stride;
                    let h = side(rows.at(values, r, 3)) * stride;
                    emit.push(RawDetection {
                        bounds: corners(cx, cy, w, h),
                        score,
                        class: class as u32,
                        anchor: (scale.first + r) as u32,
                        reserved: 0,
                    });
                },
            );
        }
    }

    fn variants(&self, views: &[View], precision: Precision) -> Vec<(Variant, Vec<usize>)> {
        let (workgroups, row) = spread(self.anchors());
        let rows = Matrix::of(&views[0], 1, 2);
        let variant = super::builder(STEM, SHADER, row, precision)
            .include(super::BEST_CLASS)
            .u32("ANCHORS", self.anchors())
            .u32("CLASSES", self.classes)
            .u32("OFFSET", rows.offset)
            .u32("ROW_STRIDE", rows.row_stride)
            .u32("COLUMN_STRIDE", rows.column_stride)
            .line("fn cell_of(", &cell_of_wgsl(&self.scales))
            .build(workgroups);
        vec![(variant, vec![0])]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use super::*;
    use crate::decode::head::recognise;

    #[test]
    fn boxes_follow_the_paper() {
        let (width, height, classes) = (64, 32, 7);
        let count = 8 * 4 + 4 * 2 + 2;
        let g = graph(width, height, &[("output", &[1, count, 5 + classes], &["Conv", "Sigmoid", "Sigmoid"])]);
        let r = recognise(&g, None).unwrap();
        assert_eq!((r.name, r.head.anchors(), r.head.classes()), ("yolox", count, classes));
        assert_eq!(r.preprocess.fit, Fit::LetterboxTopLeft { pad: 114 });
        let mut next = noise(1);
        let table = Table::new(&[1, count, 5 + classes], |at| if at[2] < 4 { next() * 4.0 - 2.0 } else { next() });
        for multi_label in [false, true] {
            let mut expected: Vec<Expected> = Vec::new();
            let mut a = 0;
            for stride in [8, 16, 32] {
                for j in 0..height / stride {
                    for i in 0..width / stride {
                        let v = |k: usize| table.at(&[0, a, k]);
                        let s = stride as f64;
                        let (cx, cy) = ((v(0) + i as f64) * s, (v(1) + j as f64) * s);
                        let (w, h) = (v(2).exp() * s, v(3).exp() * s);
                        let b = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
                        let mut scores: Vec<(usize, f64)> = (0..classes).map(|c| (c, v(4) * v(5 + c))).collect();
                        if !multi_label {
                            scores.sort_by(|x, y| y.1.total_cmp(&x.1));
                            scores.truncate(1);
                        }
                        expected.extend(scores.iter().filter(|s| s.1 >= 0.4).map(|s| (a, s.0, s.1, b)));
                        a += 1;
                    }
                }
            }
            let found = decode(&*r.head, std::slice::from_ref(&table), 0.4, multi_label);
            assert_same(&found, &expected, 0.4);
        }
    }

    #[test]
    fn huge_sizes_and_nan_scores_are_tame() {
        let head = GridAnchorFree { classes: 1, scales: grids(16, 8, &[8]) };
        let table = Table::new(&[1, 2, 6], |at| match (at[1], at[2]) {
            (0, 2 | 3) => 500.0,
            (1, 4) => f32::NAN,
            _ => 1.0,
        });
        let found = decode(&head, &[table], 0.5, false);
        assert_eq!(found.len(), 1);
        assert!(found[0].bounds.iter().all(|v| v.is_finite()));
        assert!(((found[0].bounds[2] - found[0].bounds[0]) * (found[0].bounds[3] - found[0].bounds[1])).is_finite());
    }
}
