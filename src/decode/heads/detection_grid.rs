//! Darknet's `[detection]` (YOLOv1): a flat vector, no anchors. On the CPU.
//!
//! With S = side²: `[S][classes]` class probabilities, `[S][boxes]` confidences, `[S][boxes][4]` boxes x y w h. Cell
//! (col, row): `cx = (col + x)/side·W`, `bw = w·W`, or `w²·W` with `sqrt`; score = confidence·probability, the
//! probabilities as they are, or their softmax. y and h alike.
//! Redmon et al., "You Only Look Once", arXiv 1506.02640.

use super::darknet;
use crate::decode::RawDetection;
use crate::decode::head::{Fitted, Head, OutputRef, ScoreFilter, Signature};
use crate::decode::scan::{Matrix, corners, scan};
use crate::infer::graph::DarknetLayout;

/// See the module.
#[derive(Clone, Debug)]
pub struct DetectionGrid {
    output: usize,
    side: usize,
    boxes: usize,
    classes: usize,
    square_root: bool,
    softmax: bool,
    /// Width and height of the network's input.
    input_px: [usize; 2],
}

pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    let head = darknet::only_head(signature, "[detection]", |l| matches!(l, DarknetLayout::Detection { .. }))?;
    let DarknetLayout::Detection { side, boxes, square_root, softmax } = head.layout else {
        return Err("it needs a [detection] section".to_string());
    };
    let classes = head.classes;
    let (output, size) = darknet::map_of(signature, head, side * side * (classes + 5 * boxes))?;
    if size != [1, 1] {
        return Err(format!("a [detection] section needs a vector, not a map of {size:?}"));
    }
    let input_px = [signature.width, signature.height];
    let grid = DetectionGrid { output, side, boxes, classes, square_root, softmax, input_px };
    Ok(darknet::fitted(signature, Box::new(grid)))
}

impl Head for DetectionGrid {
    fn stem(&self) -> &'static str {
        "detection_grid"
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn anchors(&self) -> usize {
        self.side * self.side * self.boxes
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        let OutputRef { values, view } = outputs[self.output];
        let cells = self.side * self.side;
        let at = |k: usize| values[view.offset + k * view.strides[1]];
        let classes = Matrix {
            offset: view.offset,
            rows: cells,
            columns: self.classes,
            row_stride: self.classes * view.strides[1],
            column_stride: view.strides[1],
        };
        let (confidences, boxes) = (cells * self.classes, cells * (self.classes + self.boxes));
        let size = |x: f32| if self.square_root { x * x } else { x.max(0.0) };
        let [width, height] = self.input_px.map(|px| px as f32);
        let grid = self.side as f32;
        for b in 0..self.boxes {
            scan(
                values,
                &classes,
                f32::NEG_INFINITY,
                filter.multi_label,
                |_| true,
                |cell, class, value| {
                    let probability = match self.softmax {
                        true => {
                            let all = (0..self.classes).map(|c| classes.at(values, cell, c));
                            darknet::softmax_share(all, value)
                        }
                        false => value,
                    };
                    let score = at(confidences + cell * self.boxes + b) * probability;
                    if score.is_nan() || score < filter.threshold {
                        return;
                    }
                    let k = boxes + (cell * self.boxes + b) * 4;
                    let cx = ((cell % self.side) as f32 + at(k)) / grid * width;
                    let cy = ((cell / self.side) as f32 + at(k + 1)) / grid * height;
                    let (w, h) = (size(at(k + 2)) * width, size(at(k + 3)) * height);
                    emit.push(RawDetection {
                        bounds: corners(cx, cy, w, h),
                        score,
                        class: class as u32,
                        anchor: (cell * self.boxes + b) as u32,
                        reserved: 0,
                    });
                },
            );
        }
    }

    fn has_shader(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use crate::decode::head::recognise;
    use crate::infer::graph::{DarknetHead, DarknetLayout, DarknetNms};

    #[test]
    fn boxes_by_definition() {
        let (side, boxes, classes) = (3, 2, 4);
        let shape = [1, 9 * (4 + 10), 1, 1];
        for (square_root, softmax) in [(true, false), (false, true)] {
            let mut g = graph(96, 64, &[("vector", &shape, &["Conv"])]);
            g.darknet_heads.push(DarknetHead {
                output: g.outputs[0],
                classes,
                nms: DarknetNms::Greedy,
                layout: DarknetLayout::Detection { side, boxes, square_root, softmax },
            });
            let r = recognise(&g, None).unwrap();
            assert_eq!((r.name, r.head.anchors()), ("detection_grid", 18));
            let mut next = noise(8);
            let table = Table::new(&shape, |_| next());
            let v = |k: usize| table.at(&[0, k, 0, 0]);
            for multi_label in [false, true] {
                let mut expected: Vec<Expected> = Vec::new();
                for anchor in 0..18 {
                    let (cell, b) = (anchor / 2, anchor % 2);
                    let k = 9 * 4 + 9 * 2 + (cell * 2 + b) * 4;
                    let size = |x: f64| if square_root { x * x } else { x };
                    let cx = ((cell % 3) as f64 + v(k)) / 3.0 * 96.0;
                    let cy = ((cell / 3) as f64 + v(k + 1)) / 3.0 * 64.0;
                    let (w, h) = (size(v(k + 2)) * 96.0, size(v(k + 3)) * 64.0);
                    let sum: f64 = (0..4).map(|c| v(cell * 4 + c).exp()).sum();
                    let p = |c: usize| if softmax { v(cell * 4 + c).exp() / sum } else { v(cell * 4 + c) };
                    let mut scores: Vec<(usize, f64)> = (0..4).map(|c| (c, v(36 + cell * 2 + b) * p(c))).collect();
                    if !multi_label {
                        scores.sort_by(|x, y| y.1.total_cmp(&x.1));
                        scores.truncate(1);
                    }
                    let bounds = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
                    expected.extend(scores.iter().filter(|s| s.1 >= 0.2).map(|s| (anchor, s.0, s.1, bounds)));
                }
                assert_same(&decode(&*r.head, std::slice::from_ref(&table), 0.2, multi_label), &expected, 0.2);
            }
        }
    }
}
