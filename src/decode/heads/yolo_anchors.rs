//! Raw maps with anchor boxes: Darknet's `[yolo]` sections (YOLOv3, v4, v7, Yolo-Fastest) are read here; those of
//! `gaussian_yolo`, `region`, `detection_grid`, and the maps of `yolo_maps`, `yolo_v2_maps` and `yolo_fastest_v2` are
//! the same but for where their numbers lie and what some of them mean. Twin of `shaders/decode/yolo_anchors.wgsl`.
//!
//! `[yolo]`: each head is a map `[1, A·(5+C), h, w]`, channel `a·(5+C) + k` with k: x y w h objectness classes, or
//! `[1, A, h, w, 5+C]`. Cell (i, j) of a `w × h` grid, α = `scale_x_y`, β = (α−1)/2, anchor `A_w × A_h` px, input `W × H`,
//! p = σ, or the number itself where the network has activated it: `cx = (i + p(x)·α − β)·W/w`,
//! score = p(objectness)·p(class), and by [`Sizes`] `bw = e^w·A_w` or `bw = (2·p(w))²·A_w`. y and h alike.
//! Redmon and Farhadi, "YOLOv3", arXiv 1804.02767; Wang et al., "Scaled-YOLOv4", arXiv 2011.08036.

use super::darknet;
use crate::decode::RawDetection;
use crate::decode::head::{Fitted, Head, OutputRef, ScoreFilter, Signature, Suppression, spread};
use crate::decode::scan::{Matrix, corners, logistic, scan, side, softmax_share};
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
    /// `w·A_w`, 0 if that is less than 0.
    Linear,
}

/// Where the numbers of an anchor box lie, and what they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Numbers {
    /// Each anchor: x y w h objectness classes.
    Plain,
    /// Each anchor: x y w h, further ones up to `coords`, objectness, classes.
    Coords { coords: usize },
    /// Each anchor: x σx y σy w σw h σh objectness classes. The score is multiplied by 1 − mean of p(σ); the centre lies
    /// `shift` sides away from the point.
    Deviations { shift: f32 },
    /// Cells `[1, h, w, 5A+C]` or rows, from `row` on, of a table `[n, 5A+C]` or `[1, n, 5A+C]`: x y w h of each anchor,
    /// objectness of each, classes.
    SharedClasses { row: usize },
    /// A vector `[1, h·w·(C+5A), 1, 1]`: the classes of all cells, the objectness of each cell's anchors, x y w h of these.
    /// A class may be above 1.
    Vector,
}

/// One map.
#[derive(Clone, Debug)]
pub struct AnchorMap {
    /// Index of the output.
    pub output: usize,
    pub cols: usize,
    pub rows: usize,
    pub anchors_px: Vec<[f32; 2]>,
    pub numbers: Numbers,
    pub scale_x_y: f32,
    /// Numbers leave the network already activated.
    pub activated: bool,
    /// The probability of a class is the softmax over the anchor's classes.
    pub softmax: bool,
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

/// Place of some numbers of the first anchor in the first cell, in elements of the output's buffer, and the way to the next
/// anchor, number, row and column.
#[derive(Clone, Copy, Debug)]
struct Block {
    offset: usize,
    anchor: usize,
    number: usize,
    y: usize,
    x: usize,
}

impl Block {
    /// The block that begins so many numbers later.
    fn skip(self, numbers: usize) -> Block {
        Block { offset: self.offset + numbers * self.number, ..self }
    }

    /// Row `y` of an anchor: one matrix row a column of the map.
    fn row(&self, anchor: usize, y: usize, cols: usize, numbers: usize) -> Matrix {
        Matrix {
            offset: self.offset + anchor * self.anchor + y * self.y,
            rows: cols,
            columns: numbers,
            row_stride: self.x,
            column_stride: self.number,
        }
    }
}

/// The numbers of a map.
#[derive(Clone, Copy, Debug)]
struct Blocks {
    /// x y w h.
    boxes: Block,
    /// From a number of the box to its deviation.
    deviation: usize,
    objectness: Block,
    classes: Block,
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
            numbers: Numbers::Plain,
            scale_x_y: *scale_x_y,
            // Scaled-YOLOv4's `new_coords`.
            activated: *new_coords,
            softmax: false,
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
            Sizes::Linear => x.max(0.0),
        }
    }

    fn boxes(&self) -> usize {
        self.anchors_px.len() * self.cols * self.rows
    }

    /// False where a class may be above 1, so that a low objectness does not rule a box out.
    fn is_gated(&self) -> bool {
        self.numbers != Numbers::Vector
    }

    fn shift(&self) -> f32 {
        match self.numbers {
            Numbers::Deviations { shift } => shift,
            _ => 0.0,
        }
    }

    fn blocks(&self, view: &View, classes: usize) -> Blocks {
        let (offset, strides, anchors) = (view.offset, &view.strides[..], self.anchors_px.len());
        // `own` numbers of each anchor stand before its classes, the objectness last.
        let of_each_anchor = |own: usize, step: usize| {
            let all = match *strides {
                [_, anchor, y, x, number] => Block { offset, anchor, number, y, x },
                _ => Block {
                    offset,
                    anchor: (own + classes) * strides[1],
                    number: strides[1],
                    y: strides[2],
                    x: strides[3],
                },
            };
            Blocks {
                boxes: Block { number: step * all.number, ..all },
                deviation: all.number,
                objectness: all.skip(own - 1),
                classes: all.skip(own),
            }
        };
        match self.numbers {
            Numbers::Plain => of_each_anchor(5, 1),
            Numbers::Coords { coords } => of_each_anchor(coords + 1, 1),
            Numbers::Deviations { .. } => of_each_anchor(9, 2),
            Numbers::SharedClasses { row } => {
                let last = strides.len() - 1;
                let (x, number) = (strides[last - 1], strides[last]);
                let y = if strides.len() == 4 { strides[1] } else { self.cols * x };
                let all = Block { offset: offset + row * x, anchor: 0, number, y, x };
                Blocks {
                    boxes: Block { anchor: 4 * number, ..all },
                    deviation: 0,
                    objectness: Block { anchor: number, ..all.skip(4 * anchors) },
                    classes: all.skip(5 * anchors),
                }
            }
            Numbers::Vector => {
                let (number, cells) = (strides[1], self.cols * self.rows);
                let block = |before: usize, of_cell: usize, of_anchor: usize| {
                    let x = of_cell * number;
                    let offset = offset + before * cells * number;
                    Block { offset, anchor: of_anchor * number, number, y: self.cols * x, x }
                };
                Blocks {
                    boxes: block(classes + anchors, 4 * anchors, 4),
                    deviation: 0,
                    objectness: block(classes, anchors, 1),
                    classes: block(0, classes, 0),
                }
            }
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
        self.maps.iter().map(AnchorMap::boxes).sum()
    }

    fn suppression(&self) -> Suppression {
        self.suppression
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        for map in &self.maps {
            let OutputRef { values, view } = outputs[map.output];
            let blocks = map.blocks(view, self.classes);
            let cell_w = self.input_px[0] as f32 / map.cols as f32;
            let cell_h = self.input_px[1] as f32 / map.rows as f32;
            let beta = (map.scale_x_y - 1.0) * 0.5;
            for (a, anchor_px) in map.anchors_px.iter().enumerate() {
                for j in 0..map.rows {
                    let boxes = blocks.boxes.row(a, j, map.cols, 4);
                    let deviations = Matrix { offset: boxes.offset + blocks.deviation, ..boxes };
                    let objectnesses = blocks.objectness.row(a, j, map.cols, 1);
                    let classes = blocks.classes.row(a, j, map.cols, self.classes);
                    let objectness = |i: usize| map.probability(objectnesses.at(values, i, 0));
                    scan(
                        values,
                        &classes,
                        f32::NEG_INFINITY,
                        filter.multi_label,
                        |i| !map.is_gated() || objectness(i) >= filter.threshold,
                        |i, class, value| {
                            let mut score = objectness(i);
                            score *= match map.softmax {
                                true => softmax_share((0..self.classes).map(|c| classes.at(values, i, c)), value),
                                false => map.probability(value),
                            };
                            if let Numbers::Deviations { .. } = map.numbers {
                                let doubt = (0..4).map(|k| map.probability(deviations.at(values, i, k))).sum::<f32>();
                                score *= 1.0 - doubt * 0.25;
                            }
                            if score.is_nan() || score < filter.threshold {
                                return;
                            }
                            let at = |k: usize| boxes.at(values, i, k);
                            let w = map.size(at(2)) * anchor_px[0];
                            let h = map.size(at(3)) * anchor_px[1];
                            let x = (i as f32 + map.probability(at(0)) * map.scale_x_y - beta) * cell_w;
                            let y = (j as f32 + map.probability(at(1)) * map.scale_x_y - beta) * cell_h;
                            emit.push(RawDetection {
                                bounds: corners(x + map.shift() * w, y + map.shift() * h, w, h),
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
        self.maps.iter().map(|map| (self.variant(map, &views[map.output], precision), vec![map.output])).collect()
    }
}

impl YoloAnchors {
    fn variant(&self, map: &AnchorMap, view: &View, precision: Precision) -> Variant {
        let (workgroups, row) = spread(map.boxes());
        let Blocks { boxes, deviation, objectness, classes } = map.blocks(view, self.classes);
        let mut anchor_of = String::from("fn anchor_px(a: u32) -> vec2<f32> {");
        for (a, [w, h]) in map.anchors_px.iter().enumerate() {
            let value = format!("return vec2<f32>({}, {});", f32_literal(*w), f32_literal(*h));
            if a + 1 < map.anchors_px.len() {
                anchor_of.push_str(&format!(" if (a == {a}u) {{ {value} }}"));
            } else {
                anchor_of.push_str(&format!(" {value} }}"));
            }
        }
        super::builder(STEM, SHADER, row, precision)
            .include(super::BEST_CLASS)
            .u32("BOXES", map.boxes())
            .u32("COLS", map.cols)
            .u32("ROWS", map.rows)
            .u32("CLASSES", self.classes)
            .u32("FIRST", map.first)
            .f32("CELL_W", self.input_px[0] as f32 / map.cols as f32)
            .f32("CELL_H", self.input_px[1] as f32 / map.rows as f32)
            .f32("SCALE_X_Y", map.scale_x_y)
            .f32("BETA", (map.scale_x_y - 1.0) * 0.5)
            .f32("SHIFT", map.shift())
            .bool("GATED", map.is_gated())
            .bool("ACTIVATED", map.activated)
            .bool("SOFTMAX", map.softmax)
            .bool("DEVIATIONS", matches!(map.numbers, Numbers::Deviations { .. }))
            .u32("SIZES", map.sizes as usize)
            .u32("BOX_OFFSET", boxes.offset)
            .u32("BOX_ANCHOR", boxes.anchor)
            .u32("BOX_NUMBER", boxes.number)
            .u32("BOX_Y", boxes.y)
            .u32("BOX_X", boxes.x)
            .u32("DEVIATION", deviation)
            .u32("OBJECTNESS_OFFSET", objectness.offset)
            .u32("OBJECTNESS_ANCHOR", objectness.anchor)
            .u32("OBJECTNESS_Y", objectness.y)
            .u32("OBJECTNESS_X", objectness.x)
            .u32("CLASS_OFFSET", classes.offset)
            .u32("CLASS_ANCHOR", classes.anchor)
            .u32("CLASS_NUMBER", classes.number)
            .u32("CLASS_Y", classes.y)
            .u32("CLASS_X", classes.x)
            .line("fn anchor_px(", &anchor_of)
            .build(workgroups)
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
