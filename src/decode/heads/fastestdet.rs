//! FastestDet's single map. Twin of `shaders/decode/fastestdet.wgsl`.
//!
//! One output `[1, 5+C, h, w]`: objectness (through the sigmoid), four raw box numbers, softmaxed classes. Cell (i, j):
//! `score = obj^0.6 · class^0.4`, `cx = (i + tanh r0)/w`, `cy = (j + tanh r1)/h`, `bw = σ(r2)`, `bh = σ(r3)` as fractions
//! of the input. Source: the FastestDet repository of dog-qiuqiu (BSD-3-Clause).

use crate::convert::ChannelOrder;
use crate::decode::RawDetection;
use crate::decode::head::{Fitted, Head, OutputRef, ScoreFilter, Signature, spread};
use crate::decode::labels::Labels;
use crate::decode::scan::{Matrix, corners, logistic, scan};
use crate::infer::plan::View;
use crate::letterbox::Fit;
use crate::shader::{Precision, Variant};

const STEM: &str = "fastestdet";
const SHADER: &str = include_str!("../../../shaders/decode/fastestdet.wgsl");

#[derive(Clone, Debug)]
pub struct FastestDet {
    pub classes: usize,
    pub cols: usize,
    pub rows: usize,
    /// Width and height of the network's input.
    pub input_px: [usize; 2],
}

/// FastestDet: stretched, BGR, levels divided by 255.
pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    let shape = signature.single(4)?;
    let (channels, rows, cols) = (shape[1], shape[2], shape[3]);
    if channels < 6 || rows == 0 || cols == 0 {
        return Err(format!("a map of shape {shape:?} leaves no class after objectness and box"));
    }
    if !signature.named {
        // Raw maps of other networks have such shapes too; only here a softmax stands before the end.
        if !signature.origins(0).contains(&"Softmax") {
            return Err("its classes do not come from a softmax".to_string());
        }
        if (rows, cols) != (signature.height.div_ceil(16), signature.width.div_ceil(16)) {
            return Err(format!("a {cols}x{rows} map is not 1/16 of the input"));
        }
    }
    let classes = channels - 5;
    let (mean, std) = super::UNIT;
    Ok(Fitted {
        head: Box::new(FastestDet { classes, cols, rows, input_px: [signature.width, signature.height] }),
        fit: Fit::Stretch,
        order: ChannelOrder::Bgr,
        mean,
        std,
        score_threshold: 0.5,
        iou_threshold: 0.45,
        labels: Labels::usual(classes),
    })
}

fn score_of(objectness: f32, class: f32) -> f32 {
    objectness.max(0.0).powf(0.6) * class.max(0.0).powf(0.4)
}

impl Head for FastestDet {
    fn stem(&self) -> &'static str {
        STEM
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn anchors(&self) -> usize {
        self.cols * self.rows
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        let values = outputs[0].values;
        let cell_w = self.input_px[0] as f32 / self.cols as f32;
        let cell_h = self.input_px[1] as f32 / self.rows as f32;
        for j in 0..self.rows {
            let row = Matrix::map_row(outputs[0].view, j);
            scan(
                values,
                &row.columns(5, self.classes),
                f32::NEG_INFINITY,
                filter.multi_label,
                // The class factor is at most 1.
                |i| score_of(row.at(values, i, 0), 1.0) >= filter.threshold,
                |i, class, value| {
                    let score = score_of(row.at(values, i, 0), value);
                    if score < filter.threshold {
                        return;
                    }
                    let offset = |k: usize| row.at(values, i, k).clamp(-15.0, 15.0).tanh();
                    let cx = (i as f32 + offset(1)) * cell_w;
                    let cy = (j as f32 + offset(2)) * cell_h;
                    let w = logistic(row.at(values, i, 3)) * self.input_px[0] as f32;
                    let h = logistic(row.at(values, i, 4)) * self.input_px[1] as f32;
                    emit.push(RawDetection {
                        bounds: corners(cx, cy, w, h),
                        score,
                        class: class as u32,
                        anchor: (j * self.cols + i) as u32,
                        reserved: 0,
                    });
                },
            );
        }
    }

    fn variants(&self, views: &[View], precision: Precision) -> Vec<(Variant, Vec<usize>)> {
        let (workgroups, row) = spread(self.anchors());
        let view = &views[0];
        let variant = super::builder(STEM, SHADER, row, precision)
            .include(super::BEST_CLASS)
            .u32("COLS", self.cols)
            .u32("ROWS", self.rows)
            .u32("CLASSES", self.classes)
            .f32("INPUT_W", self.input_px[0] as f32)
            .f32("INPUT_H", self.input_px[1] as f32)
            .f32("CELL_W", self.input_px[0] as f32 / self.cols as f32)
            .f32("CELL_H", self.input_px[1] as f32 / self.rows as f32)
            .u32("OFFSET", view.offset)
            .u32("CHANNEL_STRIDE", view.strides[1])
            .u32("Y_STRIDE", view.strides[2])
            .u32("X_STRIDE", view.strides[3])
            .build(workgroups);
        vec![(variant, vec![0])]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use super::*;
    use crate::decode::head::{DecodeError, recognise};

    #[test]
    fn boxes_by_definition() {
        let (width, height, classes) = (112, 48, 13);
        let shape = [1, 5 + classes, 3, 7];
        let r = recognise(&graph(width, height, &[("758", &shape, &["Sigmoid", "Conv", "Softmax"])]), None).unwrap();
        assert_eq!((r.name, r.preprocess.order), ("fastestdet", ChannelOrder::Bgr));
        let mut next = noise(9);
        let t = Table::new(&shape, |at| if (1..5).contains(&at[1]) { next() * 8.0 - 4.0 } else { next() });
        for multi_label in [false, true] {
            let mut expected: Vec<Expected> = Vec::new();
            for j in 0..3 {
                for i in 0..7 {
                    let v = |c: usize| t.at(&[0, c, j, i]);
                    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
                    let (cx, cy) = ((i as f64 + v(1).tanh()) * 16.0, (j as f64 + v(2).tanh()) * 16.0);
                    let (w, h) = (sigmoid(v(3)) * 112.0, sigmoid(v(4)) * 48.0);
                    let b = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
                    let mut scores: Vec<(usize, f64)> =
                        (0..classes).map(|c| (c, v(0).powf(0.6) * v(5 + c).powf(0.4))).collect();
                    if !multi_label {
                        scores.sort_by(|x, y| y.1.total_cmp(&x.1));
                        scores.truncate(1);
                    }
                    expected.extend(scores.iter().filter(|s| s.1 >= 0.6).map(|s| (j * 7 + i, s.0, s.1, b)));
                }
            }
            let found = decode(&*r.head, std::slice::from_ref(&t), 0.6, multi_label);
            assert_same(&found, &expected, 0.6);
        }
    }

    #[test]
    fn raw_maps_of_other_networks_are_not_taken() {
        let g = graph(112, 48, &[("out", &[1, 18, 3, 7], &["Conv"])]);
        assert!(matches!(recognise(&g, None), Err(DecodeError::NoHead { .. })));
    }
}
