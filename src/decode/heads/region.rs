//! Darknet's `[region]` (YOLOv2): one map with anchors in grid cells. On the CPU.
//!
//! `[1, A·(coords+1+C), h, w]`, channel `a·(coords+1+C) + k` with k: x y w h, further coords, objectness, classes. Cell
//! (i, j) of a `w × h` grid, anchor `A_w × A_h` cells, input `W × H`: `cx = (i + σ(x))·W/w`, `bw = e^w·A_w·W/w`, score =
//! σ(objectness)·p, with p the softmax over the anchor's classes or σ(class). y and h alike.
//! Redmon and Farhadi, "YOLO9000: Better, Faster, Stronger", arXiv 1612.08242.

use super::darknet;
use crate::decode::RawDetection;
use crate::decode::head::{Fitted, Head, OutputRef, ScoreFilter, Signature};
use crate::decode::scan::{Matrix, corners, logistic, scan, side};
use crate::infer::graph::DarknetLayout;

/// See the module.
#[derive(Clone, Debug)]
pub struct Region {
    pub output: usize,
    pub rows: usize,
    pub cols: usize,
    pub anchors_cells: Vec<[f32; 2]>,
    pub coords: usize,
    pub classes: usize,
    pub softmax: bool,
    /// Width and height of the network's input.
    pub input_px: [usize; 2],
}

pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    let head = darknet::only_head(signature, "[region]", |l| matches!(l, DarknetLayout::Region { .. }))?;
    let DarknetLayout::Region { anchors_cells, coords, softmax } = &head.layout else {
        return Err("it needs a [region] section".to_string());
    };
    let channels = anchors_cells.len() * (coords + 1 + head.classes);
    let (output, [rows, cols]) = darknet::map_of(signature, head, channels)?;
    let region = Region {
        output,
        rows,
        cols,
        anchors_cells: anchors_cells.clone(),
        coords: *coords,
        classes: head.classes,
        softmax: *softmax,
        input_px: [signature.width, signature.height],
    };
    Ok(darknet::fitted(signature, Box::new(region)))
}

impl Head for Region {
    fn stem(&self) -> &'static str {
        "region"
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn anchors(&self) -> usize {
        self.anchors_cells.len() * self.rows * self.cols
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        let OutputRef { values, view } = outputs[self.output];
        let cell_w = self.input_px[0] as f32 / self.cols as f32;
        let cell_h = self.input_px[1] as f32 / self.rows as f32;
        let entries = self.coords + 1 + self.classes;
        for (a, anchor_cells) in self.anchors_cells.iter().enumerate() {
            for j in 0..self.rows {
                let row = Matrix::map_row(view, j).columns(a * entries, entries);
                let classes = row.columns(self.coords + 1, self.classes);
                let objectness = |i: usize| logistic(row.at(values, i, self.coords));
                scan(
                    values,
                    &classes,
                    f32::NEG_INFINITY,
                    filter.multi_label,
                    |i| objectness(i) >= filter.threshold,
                    |i, class, value| {
                        let probability = match self.softmax {
                            true => {
                                let all = (0..self.classes).map(|c| classes.at(values, i, c));
                                darknet::softmax_share(all, value)
                            }
                            false => logistic(value),
                        };
                        let score = objectness(i) * probability;
                        if score.is_nan() || score < filter.threshold {
                            return;
                        }
                        let at = |k: usize| row.at(values, i, k);
                        let cx = (i as f32 + logistic(at(0))) * cell_w;
                        let cy = (j as f32 + logistic(at(1))) * cell_h;
                        let w = side(at(2)) * anchor_cells[0] * cell_w;
                        let h = side(at(3)) * anchor_cells[1] * cell_h;
                        emit.push(RawDetection {
                            bounds: corners(cx, cy, w, h),
                            score,
                            class: class as u32,
                            anchor: ((a * self.rows + j) * self.cols + i) as u32,
                            reserved: 0,
                        });
                    },
                );
            }
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
        let (width, height, classes) = (96, 64, 3);
        for (softmax, coords) in [(true, 4), (false, 4), (true, 6)] {
            let entries = coords + 1 + classes;
            let shape = [1, 2 * entries, 2, 3];
            let mut g = graph(width, height, &[("map", &shape, &["Conv"])]);
            let anchors = [[1.5f32, 0.75], [0.5, 2.0]];
            g.darknet_heads.push(DarknetHead {
                output: g.outputs[0],
                classes,
                nms: DarknetNms::Greedy,
                layout: DarknetLayout::Region { anchors_cells: anchors.to_vec(), coords, softmax },
            });
            let r = recognise(&g, None).unwrap();
            assert_eq!((r.name, r.head.anchors(), r.head.classes()), ("region", 12, 3));
            let mut next = noise(5);
            let table = Table::new(&shape, |_| next() * 8.0 - 3.0);
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            for multi_label in [false, true] {
                let mut expected: Vec<Expected> = Vec::new();
                for anchor in 0..12 {
                    let (a, j, i) = (anchor / 6, anchor / 3 % 2, anchor % 3);
                    let v = |k: usize| table.at(&[0, a * entries + k, j, i]);
                    let cx = (i as f64 + sigmoid(v(0))) * 32.0;
                    let cy = (j as f64 + sigmoid(v(1))) * 32.0;
                    let w = v(2).exp() * f64::from(anchors[a][0]) * 32.0;
                    let h = v(3).exp() * f64::from(anchors[a][1]) * 32.0;
                    let sum: f64 = (0..classes).map(|c| v(coords + 1 + c).exp()).sum();
                    let p = |c: usize| match softmax {
                        true => v(coords + 1 + c).exp() / sum,
                        false => sigmoid(v(coords + 1 + c)),
                    };
                    let mut scores: Vec<(usize, f64)> = (0..classes).map(|c| (c, sigmoid(v(coords)) * p(c))).collect();
                    if !multi_label {
                        scores.sort_by(|x, y| y.1.total_cmp(&x.1));
                        scores.truncate(1);
                    }
                    let b = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
                    expected.extend(scores.iter().filter(|s| s.1 >= 0.3).map(|s| (anchor, s.0, s.1, b)));
                }
                assert_same(&decode(&*r.head, std::slice::from_ref(&table), 0.3, multi_label), &expected, 0.3);
            }
        }
    }
}
