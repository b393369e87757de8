//! Tables of scores and of boxes in fractions of the input: Ultra-Light-Fast face detectors, with a background class, and
//! YOLOv4 as exported from PyTorch. Twin of `shaders/decode/ssd.wgsl`.
//!
//! `scores [1, P, C+1]` (softmaxed, column 0 is the background) and `boxes [1, P, 4]`: either corners x0 y0 x1 y1 as
//! fractions of the input, or raw offsets from priors with variances 0.1 and 0.2: `c = p_c + d·0.1·p_size`,
//! `size = p_size·e^(0.2·d)`. Priors: strides 8, 16, 32, 64 with sides 10 16 24, 32 48, 64 96, 128 192 256 px around the
//! cells' centres, clipped to the input. Liu et al., "SSD", arXiv 1512.02325; the Ultra-Light-Fast repository of Linzaer.
//!
//! YOLOv4: `boxes [1, N, 1, 4]`, corners as fractions of the input, and `confs [1, N, C]`, objectness · class, without a
//! background.

use crate::convert::ChannelOrder;
use crate::decode::RawDetection;
use crate::decode::head::{Fitted, GridScale, Head, OutputRef, ScoreFilter, Signature, grids, spread};
use crate::decode::labels::Labels;
use crate::decode::scan::{Matrix, corners, scan, side};
use crate::infer::plan::View;
use crate::letterbox::Fit;
use crate::shader::{Precision, Variant};

const STEM: &str = "ssd";
const SHADER: &str = include_str!("../../../shaders/decode/ssd.wgsl");

/// Priors of one scale: every cell has one of each side.
#[derive(Clone, Debug)]
pub struct PriorScale {
    pub grid: GridScale,
    /// Index of the first prior.
    pub first: usize,
    pub sides_px: Vec<f32>,
}

#[derive(Clone, Debug)]
pub struct Ssd {
    /// Indices of the outputs.
    pub scores: usize,
    pub boxes: usize,
    /// Without the background.
    pub classes: usize,
    /// Column of the first class; 1 after a background.
    pub first_class: usize,
    pub anchors: usize,
    /// Boxes leave the network as corners in fractions of the input.
    pub decoded: bool,
    pub priors: Vec<PriorScale>,
    /// Width and height of the network's input.
    pub input_px: [usize; 2],
}

/// Ultra-Light-Fast: stretched, RGB, (level − 127) / 128.
pub fn fit_ultraface(signature: &Signature<'_>) -> Result<Fitted, String> {
    let sides: [&[f32]; 4] = [&[10.0, 16.0, 24.0], &[32.0, 48.0], &[64.0, 96.0], &[128.0, 192.0, 256.0]];
    let mut anchors = 0;
    let priors: Vec<PriorScale> = grids(signature.width, signature.height, &[8, 16, 32, 64])
        .into_iter()
        .zip(sides)
        .map(|(grid, sides)| {
            let first = anchors;
            anchors += grid.cells() * sides.len();
            PriorScale { grid, first, sides_px: sides.to_vec() }
        })
        .collect();
    let find = |name: &str| signature.output(name).ok_or_else(|| format!("it has no output called '{name}'"));
    let (scores, boxes) = (find("scores")?, find("boxes")?);
    if signature.outputs.len() != 2 {
        return Err(format!("it needs two outputs, but there are {}", signature.describe()));
    }
    let columns = match (signature.outputs[scores].1, signature.outputs[boxes].1) {
        (&[1, n, columns], &[1, m, 4]) if n == anchors && m == n && columns >= 2 => columns,
        (s, b) => {
            return Err(format!("it needs scores [1, {anchors}, 2] and boxes [1, {anchors}, 4], not {s:?}, {b:?}"));
        }
    };
    let decoded = !signature.origins(boxes).contains(&"Conv");
    Ok(Fitted {
        head: Box::new(Ssd {
            scores,
            boxes,
            classes: columns - 1,
            first_class: 1,
            anchors,
            decoded,
            priors,
            input_px: [signature.width, signature.height],
        }),
        fit: Fit::Stretch,
        order: ChannelOrder::Rgb,
        mean: [127.0; 3],
        std: [128.0; 3],
        score_threshold: 0.7,
        iou_threshold: 0.45,
        labels: if columns == 2 { Labels::faces() } else { Labels::default() },
    })
}

/// YOLOv4 as PyTorch exports it: stretched, RGB, divided by 255.
pub fn fit_yolo_v4(signature: &Signature<'_>) -> Result<Fitted, String> {
    let find = |rank: usize| {
        let mut all = signature.outputs.iter().enumerate().filter(|(_, (_, shape))| shape.len() == rank);
        all.next().map(|(i, (_, shape))| (i, *shape))
    };
    let (Some((scores, &[1, n, classes])), Some((boxes, &[1, m, 1, 4])), 2) =
        (find(3), find(4), signature.outputs.len())
    else {
        return Err(format!("it needs boxes [1, N, 1, 4] and confs [1, N, C], but there are {}", signature.describe()));
    };
    if n != m || classes == 0 {
        return Err(format!("it needs as many boxes as rows of classes, but there are {}", signature.describe()));
    }
    signature.check_classes(classes)?;
    let (mean, std) = super::UNIT;
    Ok(Fitted {
        head: Box::new(Ssd {
            scores,
            boxes,
            classes,
            first_class: 0,
            anchors: n,
            decoded: true,
            priors: Vec::new(),
            input_px: [signature.width, signature.height],
        }),
        fit: Fit::Stretch,
        order: ChannelOrder::Rgb,
        mean,
        std,
        score_threshold: 0.4,
        iou_threshold: 0.6,
        labels: Labels::usual(classes),
    })
}

/// Boxes `[1, P, 4]` or `[1, P, 1, 4]`.
fn box_table(view: &View) -> Matrix {
    Matrix::of(view, 1, view.shape.len() - 1)
}

impl Ssd {
    /// Centre and size in pixels of the input.
    fn prior(&self, anchor: usize) -> [f32; 4] {
        let [w, h] = self.input_px.map(|n| n as f32);
        let Some(scale) = self.priors.iter().rev().find(|p| p.first <= anchor) else { return [0.0; 4] };
        let (cell, size) =
            ((anchor - scale.first) / scale.sides_px.len(), (anchor - scale.first) % scale.sides_px.len());
        let (i, j) = ((cell % scale.grid.cols) as f32, (cell / scale.grid.cols) as f32);
        let stride = scale.grid.stride_px as f32;
        let side_px = scale.sides_px[size];
        [((i + 0.5) * stride).min(w), ((j + 0.5) * stride).min(h), side_px.min(w), side_px.min(h)]
    }

    /// WGSL of [`Ssd::prior`], on one line.
    fn prior_wgsl(&self) -> String {
        if self.priors.is_empty() {
            return "fn prior_of(anchor: u32) -> vec4<f32> { return vec4<f32>(0.0); }".to_string();
        }
        let mut text = String::from("fn prior_of(anchor: u32) -> vec4<f32> {");
        for (k, p) in self.priors.iter().enumerate() {
            let n = p.sides_px.len();
            let mut side_of = format!("{:?}", p.sides_px[n - 1]);
            for (m, side_px) in p.sides_px.iter().enumerate().rev().skip(1) {
                side_of = format!("select({side_of}, {side_px:?}, a{k} % {n}u == {m}u)");
            }
            let body = format!(
                "let a{k} = anchor - {}u; let c{k} = a{k} / {n}u; return prior(c{k} % {cols}u, c{k} / {cols}u, {:?}, {side_of});",
                p.first,
                p.grid.stride_px as f32,
                cols = p.grid.cols
            );
            if k + 1 < self.priors.len() {
                text.push_str(&format!(" if (anchor < {}u) {{ {body} }}", p.first + n * p.grid.cells()));
            } else {
                text.push_str(&format!(" {body}"));
            }
        }
        text.push_str(" }");
        text
    }
}

impl Head for Ssd {
    fn stem(&self) -> &'static str {
        STEM
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn anchors(&self) -> usize {
        self.anchors
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        let scores = Matrix::of(outputs[self.scores].view, 1, 2);
        let boxes = box_table(outputs[self.boxes].view);
        let [w, h] = self.input_px.map(|n| n as f32);
        scan(
            outputs[self.scores].values,
            &scores.columns(self.first_class, self.classes),
            filter.threshold,
            filter.multi_label,
            |_| true,
            |r, class, score| {
                let b = [0, 1, 2, 3].map(|k| boxes.at(outputs[self.boxes].values, r, k));
                let bounds = if self.decoded {
                    [b[0] * w, b[1] * h, b[2] * w, b[3] * h]
                } else {
                    let [pcx, pcy, pw, ph] = self.prior(r);
                    corners(pcx + b[0] * 0.1 * pw, pcy + b[1] * 0.1 * ph, pw * side(b[2] * 0.2), ph * side(b[3] * 0.2))
                };
                emit.push(RawDetection { bounds, score, class: class as u32, anchor: r as u32, reserved: 0 });
            },
        );
    }

    fn variants(&self, views: &[View], precision: Precision) -> Vec<(Variant, Vec<usize>)> {
        let (workgroups, row) = spread(self.anchors);
        let scores = Matrix::of(&views[self.scores], 1, 2).columns(self.first_class, self.classes);
        let boxes = box_table(&views[self.boxes]);
        let variant = super::builder(STEM, SHADER, row, precision)
            .u32("ANCHORS", self.anchors)
            .u32("CLASSES", self.classes)
            .bool("DECODED", self.decoded)
            .f32("INPUT_W", self.input_px[0] as f32)
            .f32("INPUT_H", self.input_px[1] as f32)
            .u32("CLASS_OFFSET", scores.offset)
            .u32("CLASS_ROW_STRIDE", scores.row_stride)
            .u32("CLASS_COLUMN_STRIDE", scores.column_stride)
            .u32("BOX_OFFSET", boxes.offset)
            .u32("BOX_ROW_STRIDE", boxes.row_stride)
            .u32("BOX_COLUMN_STRIDE", boxes.column_stride)
            .line("fn prior_of(", &self.prior_wgsl())
            .build(workgroups);
        vec![(variant, vec![self.scores, self.boxes])]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use crate::decode::head::recognise;

    #[test]
    fn decoded_and_raw_boxes() {
        let (width, height) = (320, 240);
        for raw in [false, true] {
            let parts: &[&str] = if raw { &["Conv"] } else { &["Sub", "Add"] };
            let g = graph(width, height, &[("scores", &[1, 4420, 2], &["Softmax"]), ("boxes", &[1, 4420, 4], parts)]);
            let r = recognise(&g, None).unwrap();
            assert_eq!((r.name, r.head.classes(), r.labels.name(0)), ("ultraface", 1, "face".to_string()));
            let mut next = noise(6);
            let scores = Table::new(&[1, 4420, 2], |_| next());
            let boxes = Table::new(&[1, 4420, 4], |_| next() * if raw { 4.0 } else { 1.0 });
            // The priors as nested loops, in fractions of the input.
            let mut priors: Vec<[f64; 4]> = Vec::new();
            let sides = [vec![10.0, 16.0, 24.0], vec![32.0, 48.0], vec![64.0, 96.0], vec![128.0, 192.0, 256.0]];
            for (stride, sides) in [8.0, 16.0, 32.0, 64.0].into_iter().zip(&sides) {
                for j in 0..(240.0_f64 / stride).ceil() as usize {
                    for i in 0..(320.0_f64 / stride).ceil() as usize {
                        for side_px in sides {
                            let p = [
                                (i as f64 + 0.5) * stride / 320.0,
                                (j as f64 + 0.5) * stride / 240.0,
                                side_px / 320.0,
                                side_px / 240.0,
                            ];
                            priors.push(p.map(|v| v.clamp(0.0, 1.0)));
                        }
                    }
                }
            }
            assert_eq!(priors.len(), 4420);
            let mut expected: Vec<Expected> = Vec::new();
            for (a, p) in priors.iter().enumerate() {
                let score = scores.at(&[0, a, 1]);
                if score >= 0.9 {
                    let v = |k: usize| boxes.at(&[0, a, k]);
                    let fractions = if raw {
                        let (cx, cy) = (p[0] + v(0) * 0.1 * p[2], p[1] + v(1) * 0.1 * p[3]);
                        let (w, h) = (p[2] * (0.2 * v(2)).exp(), p[3] * (0.2 * v(3)).exp());
                        [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0]
                    } else {
                        [v(0), v(1), v(2), v(3)]
                    };
                    let [x0, y0, x1, y1] = fractions;
                    expected.push((a, 0, score, [x0 * 320.0, y0 * 240.0, x1 * 320.0, y1 * 240.0]));
                }
            }
            assert_same(&decode(&*r.head, &[scores, boxes], 0.9, false), &expected, 0.9);
        }
    }

    #[test]
    fn yolo_v4_tables() {
        let outputs: [(&str, &[usize], &[&'static str]); 2] =
            [("boxes", &[1, 60, 1, 4], &["Concat"]), ("confs", &[1, 60, 7], &["Mul"])];
        let r = recognise(&graph(96, 64, &outputs), None).unwrap();
        assert_eq!((r.name, r.head.classes(), r.head.anchors()), ("yolo_v4", 7, 60));
        let mut next = noise(8);
        let tables = [Table::new(&[1, 60, 1, 4], |_| next()), Table::new(&[1, 60, 7], |_| next())];
        let mut expected: Vec<Expected> = Vec::new();
        for a in 0..60 {
            let score = |c: usize| tables[1].at(&[0, a, c]);
            let best = (0..7).max_by(|&x, &y| score(x).total_cmp(&score(y))).unwrap();
            if score(best) >= 0.8 {
                let b = |k: usize| tables[0].at(&[0, a, 0, k]) * if k % 2 == 0 { 96.0 } else { 64.0 };
                expected.push((a, best, score(best), [b(0), b(1), b(2), b(3)]));
            }
        }
        assert_same(&decode(&*r.head, &tables, 0.8, false), &expected, 0.8);
        let outputs: [(&str, &[usize], &[&'static str]); 2] =
            [("boxes", &[1, 61, 1, 4], &["Concat"]), ("confs", &[1, 60, 7], &["Mul"])];
        assert!(recognise(&graph(96, 64, &outputs), Some("yolo_v4")).is_err());
    }
}
