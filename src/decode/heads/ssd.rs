//! Tables of scores and of boxes: Ultra-Light-Fast face detectors, with a background class, and YOLOv4 as exported from
//! PyTorch; with other parameters `scrfd`, `retinaface`, `yunet_2021`, `blazeface`, `ssd_raw` and `decoded_tables`. Twin of
//! `shaders/decode/ssd.wgsl`.
//!
//! Scores `[1, P, C+1]` (column 0 is the background) or `[1, P, C]`, boxes `[1, P, 4]`; both also without the batch. Boxes
//! are corners x0 y0 x1 y1, or relative to priors, see [`BoxCode`].
//!
//! Ultra-Light-Fast: `scores` (softmaxed) and `boxes`, either corners as fractions of the input, or raw offsets from priors
//! with variances 0.1 and 0.2: strides 8, 16, 32, 64 with sides 10 16 24, 32 48, 64 96, 128 192 256 px around the
//! cells' centres, clipped to the input. Liu et al., "SSD", arXiv 1512.02325; the Ultra-Light-Fast repository of Linzaer.
//!
//! YOLOv4: `boxes [1, N, 1, 4]`, corners as fractions of the input, and `confs [1, N, C]`, objectness · class, without a
//! background.

use super::priors::{Priors, UNCLIPPED};
use crate::convert::ChannelOrder;
use crate::decode::RawDetection;
use crate::decode::head::{Details, Fitted, Head, OutputRef, ScoreFilter, Signature, grids, spread};
use crate::decode::labels::Labels;
use crate::decode::scan::{Matrix, corners, logistic, scan, side};
use crate::infer::plan::View;
use crate::infer::tensor::Tensor;
use crate::letterbox::Fit;
use crate::shader::{Precision, Variant, f32_literal};

const STEM: &str = "ssd";
const SHADER: &str = include_str!("../../../shaders/decode/ssd.wgsl");

/// What the four numbers of a box are: d, with a prior of centre p and size q.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BoxCode {
    /// Corners x0 y0 x1 y1, in units of so many pixels along x and y.
    Corners { unit_px: [f32; 2] },
    /// Centre `p + v₀·d·q`, size `q·e^(v₁·d)`.
    Exponential { variances: [f32; 2] },
    /// Centre `p + d·q`, size `d·q`.
    Linear,
    /// Corners `p − d·q` and `p + d·q`.
    Distances,
}

/// The variances that SSD was published with.
pub const VARIANCES: [f32; 2] = [0.1, 0.2];

/// What makes a probability of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// It is one.
    None,
    Logistic,
    /// Over all columns of the row, that of the background too.
    Softmax,
}

/// Indices of the outputs that hold some anchors.
#[derive(Clone, Copy, Debug)]
pub struct ScoreTable {
    pub scores: usize,
    pub boxes: usize,
    pub anchors: usize,
    /// Output and first column of the landmarks, [`Ssd::landmarks`] · (x, y): `p + v·d·q` with the factor v of the centre.
    pub landmarks: Option<(usize, usize)>,
    /// Output with an estimate of the IoU: the score is then `√(score·IoU)`.
    pub iou: Option<usize>,
}

#[derive(Clone, Debug)]
pub struct Ssd {
    /// The anchors of one come after those of the other.
    pub tables: Vec<ScoreTable>,
    /// Without the background.
    pub classes: usize,
    /// Column of the first class; 1 after a background.
    pub first_class: usize,
    /// Scores are `[1, C, P]`.
    pub classes_first: bool,
    pub activation: Activation,
    pub code: BoxCode,
    pub priors: Priors,
    /// How many an object.
    pub landmarks: usize,
    /// See [`Head::inputs`].
    pub inputs: Vec<(String, Tensor)>,
}

/// Ultra-Light-Fast: stretched, RGB, (level − 127) / 128.
pub fn fit_ultraface(signature: &Signature<'_>) -> Result<Fitted, String> {
    let sides: [&[f32]; 4] = [&[10.0, 16.0, 24.0], &[32.0, 48.0], &[64.0, 96.0], &[128.0, 192.0, 256.0]];
    let input_px = [signature.width as f32, signature.height as f32];
    let grids = grids(signature.width, signature.height, &[8, 16, 32, 64]);
    let priors = Priors::grid(grids, &sides, 0.5, input_px);
    let anchors = priors.len();
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
    let head = match signature.origins(boxes).contains(&"Conv") {
        true => Ssd {
            code: BoxCode::Exponential { variances: VARIANCES },
            priors,
            ..Ssd::decoded(scores, boxes, anchors, columns - 1)
        },
        false => {
            Ssd { code: BoxCode::Corners { unit_px: input_px }, ..Ssd::decoded(scores, boxes, anchors, columns - 1) }
        }
    };
    Ok(Fitted {
        head: Box::new(Ssd { first_class: 1, ..head }),
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
            code: BoxCode::Corners { unit_px: [signature.width as f32, signature.height as f32] },
            ..Ssd::decoded(scores, boxes, n, classes)
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

/// Anchors by columns: `[1, P, n]`, `[1, P, 1, n]` or `[P, n]`.
fn matrix(view: &View) -> Matrix {
    let last = view.shape.len() - 1;
    Matrix::of(view, usize::from(last > 1), last)
}

impl Ssd {
    /// One table of finished scores without a background, and of corners in pixels.
    pub fn decoded(scores: usize, boxes: usize, anchors: usize, classes: usize) -> Ssd {
        Ssd {
            tables: vec![ScoreTable { scores, boxes, anchors, landmarks: None, iou: None }],
            classes,
            first_class: 0,
            classes_first: false,
            activation: Activation::None,
            code: BoxCode::Corners { unit_px: [1.0; 2] },
            priors: Priors::None,
            landmarks: 0,
            inputs: Vec::new(),
        }
    }

    /// All columns of the scores.
    fn scores(&self, view: &View) -> Matrix {
        if self.classes_first { Matrix::of(view, 2, 1) } else { matrix(view) }
    }

    /// Factors of the offsets of centre and size.
    fn variances(&self) -> [f32; 2] {
        match self.code {
            BoxCode::Exponential { variances } => variances,
            _ => [1.0; 2],
        }
    }

    /// In pixels of the input.
    fn bounds(&self, d: [f32; 4], anchor: usize) -> [f32; 4] {
        let [pcx, pcy, pw, ph] = self.priors.at(anchor);
        match self.code {
            BoxCode::Corners { unit_px: [w, h] } => [d[0] * w, d[1] * h, d[2] * w, d[3] * h],
            BoxCode::Exponential { variances: [c, s] } => {
                corners(pcx + d[0] * c * pw, pcy + d[1] * c * ph, pw * side(d[2] * s), ph * side(d[3] * s))
            }
            BoxCode::Linear => corners(pcx + d[0] * pw, pcy + d[1] * ph, d[2] * pw, d[3] * ph),
            BoxCode::Distances => [pcx - d[0] * pw, pcy - d[1] * ph, pcx + d[2] * pw, pcy + d[3] * ph],
        }
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
        self.tables.iter().map(|t| t.anchors).sum()
    }

    fn inputs(&self) -> Vec<(String, Tensor)> {
        self.inputs.clone()
    }

    fn priors(&self) -> &[[f32; 4]] {
        match &self.priors {
            Priors::Listed(all) => all,
            _ => &[],
        }
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        let mut first = 0;
        for table in &self.tables {
            let OutputRef { values, view } = outputs[table.scores];
            let scores = self.scores(view);
            let boxes = matrix(outputs[table.boxes].view);
            let is_plain = self.activation == Activation::None && table.iou.is_none();
            scan(
                values,
                &scores.columns(self.first_class, self.classes),
                if is_plain { filter.threshold } else { f32::NEG_INFINITY },
                filter.multi_label,
                |_| true,
                |r, class, value| {
                    let mut score = match self.activation {
                        Activation::None => value,
                        Activation::Logistic => logistic(value),
                        Activation::Softmax => {
                            let all = 0..self.first_class + self.classes;
                            1.0 / all.map(|c| (scores.at(values, r, c) - value).min(60.0).exp()).sum::<f32>()
                        }
                    };
                    if let Some(iou) = table.iou {
                        let iou = matrix(outputs[iou].view).at(outputs[iou].values, r, 0);
                        score = (score * iou.clamp(0.0, 1.0)).sqrt();
                    }
                    if score.is_nan() || score < filter.threshold {
                        return;
                    }
                    let d = [0, 1, 2, 3].map(|k| boxes.at(outputs[table.boxes].values, r, k));
                    let bounds = self.bounds(d, first + r);
                    let anchor = (first + r) as u32;
                    emit.push(RawDetection { bounds, score, class: class as u32, anchor, reserved: 0 });
                },
            );
            first += table.anchors;
        }
    }

    fn variants(&self, views: &[View], precision: Precision) -> Vec<(Variant, Vec<usize>)> {
        let (code, unit_px) = match self.code {
            BoxCode::Corners { unit_px } => (0, unit_px),
            BoxCode::Exponential { .. } => (1, [1.0; 2]),
            BoxCode::Linear => (2, [1.0; 2]),
            BoxCode::Distances => (3, [1.0; 2]),
        };
        let (point, clip_px) = match self.priors {
            Priors::Grid { point, clip_px, .. } => (point, clip_px),
            _ => (0.5, UNCLIPPED),
        };
        let [centre, size] = self.variances();
        let mut first = 0;
        let variant_of = |table: &ScoreTable| {
            let (workgroups, row) = spread(table.anchors);
            let scores = self.scores(&views[table.scores]);
            let boxes = matrix(&views[table.boxes]);
            // At most one further buffer: GLES promises four in all.
            let (further, iou_of) = match (&self.priors, table.iou) {
                (Priors::Listed(_), _) => ("var<storage, read> priors: array<vec4<f32>>;", "1.0".to_string()),
                (_, Some(iou)) => {
                    let m = matrix(&views[iou]);
                    let at = format!("f32(iou[{}u + row * {}u])", m.offset, m.row_stride);
                    ("var<storage, read> iou: array<S>;", at)
                }
                _ => ("", "1.0".to_string()),
            };
            let further = if further.is_empty() { String::new() } else { format!("@group(0) @binding(3) {further}") };
            let variant = super::builder(STEM, SHADER, row, precision)
                .include(super::BEST_CLASS)
                .line("@group(0) @binding(3)", &further)
                .u32("ANCHORS", table.anchors)
                .u32("FIRST", first)
                .u32("CLASSES", self.classes)
                .u32("FIRST_CLASS", self.first_class)
                .u32("ACTIVATION", self.activation as usize)
                .bool("WITH_IOU", table.iou.is_some())
                .u32("CODE", code)
                .f32("UNIT_W", unit_px[0])
                .f32("UNIT_H", unit_px[1])
                .f32("CENTRE_VARIANCE", centre)
                .f32("SIZE_VARIANCE", size)
                .f32("POINT", point)
                .line(
                    "const CLIP_PX",
                    &format!("const CLIP_PX = vec2<f32>({}, {});", f32_literal(clip_px[0]), f32_literal(clip_px[1])),
                )
                .u32("SCORE_OFFSET", scores.offset)
                .u32("SCORE_ROW_STRIDE", scores.row_stride)
                .u32("SCORE_COLUMN_STRIDE", scores.column_stride)
                .u32("BOX_OFFSET", boxes.offset)
                .u32("BOX_ROW_STRIDE", boxes.row_stride)
                .u32("BOX_COLUMN_STRIDE", boxes.column_stride)
                .line("fn prior_of(", &self.priors.wgsl())
                .line("fn iou_of(", &format!("fn iou_of(row: u32) -> f32 {{ return {iou_of}; }}"))
                .build(workgroups);
            first += table.anchors;
            let mut bound = vec![table.scores, table.boxes];
            bound.extend(table.iou);
            (variant, bound)
        };
        self.tables.iter().map(variant_of).collect()
    }

    fn has_details(&self) -> bool {
        self.landmarks > 0
    }

    fn details(&self, outputs: &[OutputRef<'_>], anchor: u32) -> Details {
        let mut row = anchor as usize;
        for table in &self.tables {
            if row >= table.anchors {
                row -= table.anchors;
                continue;
            }
            let Some((output, first)) = table.landmarks else { break };
            let rows = matrix(outputs[output].view);
            let [pcx, pcy, pw, ph] = self.priors.at(anchor as usize);
            let factor = self.variances()[0];
            let at = |k: usize| rows.at(outputs[output].values, row, first + k);
            let landmarks = (0..self.landmarks)
                .map(|m| [pcx + at(2 * m) * factor * pw, pcy + at(2 * m + 1) * factor * ph])
                .collect();
            return Details { landmarks, ..Details::default() };
        }
        Details::default()
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
                let b = |k: usize| tables[0].at(&[0, a, 0, k]) * if k.is_multiple_of(2) { 96.0 } else { 64.0 };
                expected.push((a, best, score(best), [b(0), b(1), b(2), b(3)]));
            }
        }
        assert_same(&decode(&*r.head, &tables, 0.8, false), &expected, 0.8);
        let outputs: [(&str, &[usize], &[&'static str]); 2] =
            [("boxes", &[1, 61, 1, 4], &["Concat"]), ("confs", &[1, 60, 7], &["Mul"])];
        assert!(recognise(&graph(96, 64, &outputs), Some("yolo_v4")).is_err());
    }
}
