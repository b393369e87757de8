//! Raw maps with anchor boxes: Darknet's `[yolo]` sections (YOLOv3, v4, v7, Yolo-Fastest), and the maps of YOLOv3, v4, v5
//! and v7 in ONNX files (`yolo_maps`). Twin of `shaders/decode/yolo_anchors.wgsl`.
//!
//! Each head is a map `[1, A·(5+C), h, w]`, channel `a·(5+C) + k` with k: x y w h objectness classes, or
//! `[1, A, h, w, 5+C]`. Cell (i, j) of a `w × h` grid, α = `scale_x_y`, β = (α−1)/2, anchor `A_w × A_h` px, input `W × H`,
//! p = σ, or the number itself where the network has activated it: `cx = (i + p(x)·α − β)·W/w`,
//! score = p(objectness)·p(class), and by [`Sizes`] `bw = e^w·A_w` or `bw = (2·p(w))²·A_w`. y and h alike.
//! Redmon and Farhadi, "YOLOv3", arXiv 1804.02767; Wang et al., "Scaled-YOLOv4", arXiv 2011.08036.

use super::darknet;
use crate::decode::RawDetection;
use crate::decode::head::{Fitted, Head, OutputRef, ScoreFilter, Signature, Suppression, spread};
use crate::decode::scan::{Matrix, corners, logistic, scan, side};
use crate::infer::graph::DarknetLayout;
use crate::infer::plan::View;
use crate::shader::{Precision, Variant, f32_literal};

const STEM: &str = "yolo_anchors";
const SHADER: &str = include_str!("../../../shaders/decode/yolo_anchors.wgsl");

/// How sides of a box come from a number of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// `e^w·A_w`.
    Exponential,
    /// `(2·p(w))²·A_w`.
    Square,
}

/// One map.
#[derive(Clone, Debug)]
pub struct AnchorMap {
    /// Index of the output.
    pub output: usize,
    pub cols: usize,
    pub rows: usize,
    pub anchors_px: Vec<[f32; 2]>,
    pub scale_x_y: f32,
    /// Numbers leave the network already activated.
    pub activated: bool,
    pub sizes: Sizes,
    /// Number of the map's first anchor box; they are counted anchor, row, column.
    pub first: usize,
}

#[derive(Clone, Debug)]
pub struct YoloAnchors {
    pub classes: usize,
    pub maps: Vec<AnchorMap>,
    /// Width and height of the network's input.
    pub input_px: [usize; 2],
    pub suppression: Suppression,
}

pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    let mut classes = 0;
    let mut maps = Vec::new();
    let mut first = 0;
    for head in &signature.graph.darknet_heads {
        let DarknetLayout::Yolo { anchors_px, scale_x_y, new_coords } = &head.layout else {
            return Err("its heads are no [yolo] sections".to_string());
        };
        if maps.is_empty() {
            classes = head.classes;
        }
        let (output, [rows, cols]) = darknet::map_of(signature, head, anchors_px.len() * (5 + classes))?;
        if head.classes != classes {
            return Err(format!("its [yolo] sections have {classes} and {} classes", head.classes));
        }
        maps.push(AnchorMap {
            output,
            cols,
            rows,
            anchors_px: anchors_px.clone(),
            scale_x_y: *scale_x_y,
            // Scaled-YOLOv4's `new_coords`.
            activated: *new_coords,
            sizes: if *new_coords { Sizes::Square } else { Sizes::Exponential },
            first,
        });
        first += anchors_px.len() * rows * cols;
    }
    if maps.is_empty() {
        return Err("the file describes no [yolo] section with anchors".to_string());
    }
    let input_px = [signature.width, signature.height];
    let suppression = darknet::suppression(&signature.graph.darknet_heads);
    let head = YoloAnchors { classes, maps, input_px, suppression };
    Ok(darknet::fitted(signature, Box::new(head)))
}

impl AnchorMap {
    /// A probability of the map.
    fn probability(&self, x: f32) -> f32 {
        if self.activated { x } else { logistic(x) }
    }

    fn size(&self, x: f32) -> f32 {
        match self.sizes {
            Sizes::Exponential => side(x),
            Sizes::Square => (self.probability(x) * 2.0) * (self.probability(x) * 2.0),
        }
    }

    /// The map's strides in its buffer: from anchor to anchor, from number to number, from row to row, from column to
    /// column. `numbers` is how many an anchor box has.
    fn strides(view: &View, numbers: usize) -> [usize; 4] {
        match view.strides[..] {
            [_, anchor, y, x, number] => [anchor, number, y, x],
            _ => [numbers * view.strides[1], view.strides[1], view.strides[2], view.strides[3]],
        }
    }
}

impl Head for YoloAnchors {
    fn stem(&self) -> &'static str {
        STEM
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn anchors(&self) -> usize {
        self.maps.iter().map(|m| m.anchors_px.len() * m.cols * m.rows).sum()
    }

    fn suppression(&self) -> Suppression {
        self.suppression
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        for map in &self.maps {
            let OutputRef { values, view } = outputs[map.output];
            let [anchor_stride, number_stride, y_stride, x_stride] = AnchorMap::strides(view, 5 + self.classes);
            let cell_w = self.input_px[0] as f32 / map.cols as f32;
            let cell_h = self.input_px[1] as f32 / map.rows as f32;
            let beta = (map.scale_x_y - 1.0) * 0.5;
            for (a, anchor_px) in map.anchors_px.iter().enumerate() {
                for j in 0..map.rows {
                    let row = Matrix {
                        offset: view.offset + a * anchor_stride + j * y_stride,
                        rows: map.cols,
                        columns: 5 + self.classes,
                        row_stride: x_stride,
                        column_stride: number_stride,
                    };
                    let objectness = |i: usize| map.probability(row.at(values, i, 4));
                    scan(
                        values,
                        &row.columns(5, self.classes),
                        f32::NEG_INFINITY,
                        filter.multi_label,
                        |i| objectness(i) >= filter.threshold,
                        |i, class, value| {
                            let score = objectness(i) * map.probability(value);
                            if score < filter.threshold {
                                return;
                            }
                            let at = |k: usize| row.at(values, i, k);
                            let cx = (i as f32 + map.probability(at(0)) * map.scale_x_y - beta) * cell_w;
                            let cy = (j as f32 + map.probability(at(1)) * map.scale_x_y - beta) * cell_h;
                            let w = map.size(at(2)) * anchor_px[0];
                            let h = map.size(at(3)) * anchor_px[1];
                            emit.push(RawDetection {
                                bounds: corners(cx, cy, w, h),
                                score,
                                class: class as u32,
                                anchor: (map.first + (a * map.rows + j) * map.cols + i) as u32,
                                reserved: 0,
                            });
                        },
                    );
                }
            }
        }
    }

    fn variants(&self, views: &[View], precision: Precision) -> Vec<(Variant, Vec<usize>)> {
        self.maps
            .iter()
            .map(|map| {
                let boxes = map.anchors_px.len() * map.cols * map.rows;
                let (workgroups, row) = spread(boxes);
                let view = &views[map.output];
                let [anchor_stride, number_stride, y_stride, x_stride] = AnchorMap::strides(view, 5 + self.classes);
                let mut anchor_of = String::from("fn anchor_px(a: u32) -> vec2<f32> {");
                for (a, [w, h]) in map.anchors_px.iter().enumerate() {
                    let value = format!("return vec2<f32>({}, {});", f32_literal(*w), f32_literal(*h));
                    if a + 1 < map.anchors_px.len() {
                        anchor_of.push_str(&format!(" if (a == {a}u) {{ {value} }}"));
                    } else {
                        anchor_of.push_str(&format!(" {value} }}"));
                    }
                }
                let variant = super::builder(STEM, SHADER, row, precision)
                    .u32("BOXES", boxes)
                    .u32("COLS", map.cols)
                    .u32("ROWS", map.rows)
                    .u32("CLASSES", self.classes)
                    .u32("FIRST", map.first)
                    .f32("CELL_W", self.input_px[0] as f32 / map.cols as f32)
                    .f32("CELL_H", self.input_px[1] as f32 / map.rows as f32)
                    .f32("SCALE_X_Y", map.scale_x_y)
                    .f32("BETA", (map.scale_x_y - 1.0) * 0.5)
                    .bool("ACTIVATED", map.activated)
                    .bool("SQUARE", map.sizes == Sizes::Square)
                    .u32("OFFSET", view.offset)
                    .u32("ANCHOR_STRIDE", anchor_stride)
                    .u32("NUMBER_STRIDE", number_stride)
                    .u32("Y_STRIDE", y_stride)
                    .u32("X_STRIDE", x_stride)
                    .line("fn anchor_px(", &anchor_of)
                    .build(workgroups);
                (variant, vec![map.output])
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use crate::decode::head::recognise;
    use crate::infer::graph::{DarknetHead, DarknetLayout, DarknetNms};

    #[test]
    fn maps_by_definition() {
        let (width, height, classes) = (96, 64, 4);
        let channels = 2 * (5 + classes);
        for new_coords in [false, true] {
            let shapes = [[1, channels, 2, 3], [1, channels, 4, 6]];
            let mut g = graph(width, height, &[("a", &shapes[0], &["Conv"]), ("b", &shapes[1], &["Conv"])]);
            let anchors = [[[40.0, 30.0], [90.0, 60.0]], [[5.0, 7.5], [12.0, 18.0]]];
            let alpha = [1.1f32, 2.0];
            for n in 0..2 {
                g.darknet_heads.push(DarknetHead {
                    output: g.outputs[n],
                    classes,
                    nms: DarknetNms::Greedy,
                    layout: DarknetLayout::Yolo { anchors_px: anchors[n].to_vec(), scale_x_y: alpha[n], new_coords },
                });
            }
            let r = recognise(&g, None).unwrap();
            assert_eq!((r.name, r.head.anchors()), ("darknet", 2 * (6 + 24)));
            let mut next = noise(11);
            let tables: Vec<Table> = shapes
                .iter()
                .map(|s| Table::new(s, |_| if new_coords { next() } else { next() * 8.0 - 3.0 }))
                .collect();
            let sigmoid = |x: f64| if new_coords { x } else { 1.0 / (1.0 + (-x).exp()) };
            for multi_label in [false, true] {
                let mut expected: Vec<Expected> = Vec::new();
                let mut number = 0;
                for n in 0..2 {
                    let (rows, cols) = (shapes[n][2], shapes[n][3]);
                    let al = f64::from(alpha[n]);
                    for (a, anchor_px) in anchors[n].iter().enumerate() {
                        for j in 0..rows {
                            for i in 0..cols {
                                let v = |k: usize| tables[n].at(&[0, a * (5 + classes) + k, j, i]);
                                let cx = (i as f64 + sigmoid(v(0)) * al - (al - 1.0) / 2.0) / cols as f64 * 96.0;
                                let cy = (j as f64 + sigmoid(v(1)) * al - (al - 1.0) / 2.0) / rows as f64 * 64.0;
                                let size = |k: usize| if new_coords { (2.0 * v(k)).powi(2) } else { v(k).exp() };
                                let w = size(2) * f64::from(anchor_px[0]);
                                let h = size(3) * f64::from(anchor_px[1]);
                                let b = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
                                let mut scores: Vec<(usize, f64)> =
                                    (0..classes).map(|c| (c, sigmoid(v(4)) * sigmoid(v(5 + c)))).collect();
                                if !multi_label {
                                    scores.sort_by(|x, y| y.1.total_cmp(&x.1));
                                    scores.truncate(1);
                                }
                                expected.extend(scores.iter().filter(|s| s.1 >= 0.5).map(|s| (number, s.0, s.1, b)));
                                number += 1;
                            }
                        }
                    }
                }
                assert_same(&decode(&*r.head, &tables, 0.5, multi_label), &expected, 0.5);
            }
        }
    }

    #[test]
    fn maps_that_do_not_fit_are_refused() {
        let mut g = graph(96, 64, &[("a", &[1, 17, 2, 3], &["Conv"])]);
        g.darknet_heads.push(DarknetHead {
            output: g.outputs[0],
            classes: 4,
            nms: DarknetNms::Greedy,
            layout: DarknetLayout::Yolo { anchors_px: vec![[1.0; 2]; 2], scale_x_y: 1.0, new_coords: false },
        });
        let error = recognise(&g, Some("darknet")).unwrap_err().to_string();
        assert!(error.contains("[1, 18, h, w]"), "{error}");
    }
}
