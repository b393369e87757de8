//! Boxes, scores and classes that the graph itself has decoded: YOLOv8 family, YOLOv6, YOLOv5. Twin of
//! `shaders/decode/yolo_v8.wgsl`.
//!
//! Each anchor has centre and size in pixels of the input, then (YOLOv5, v6) an objectness, then class probabilities, then
//! what `row_details` describes. Layouts as written by the ultralytics exporter and by that of YOLOv5-face; C classes, N
//! anchors, M prototypes of masks `[1, M, h, w]` in a second output, K keypoints of d numbers:
//!
//! | head | table | score |
//! |---|---|---|
//! | `yolo_v8`: v8, v9, 11, 12, v5u | `[1, 4+C, N]` | class |
//! | `yolo_v8_seg` | `[1, 4+C+M, N]` | class |
//! | `yolo_v8_pose` | `[1, 4+C+K·d, N]` | class |
//! | `yolo_v8_obb` | `[1, 4+C+1, N]`, the last an angle; suppressed by probabilistic IoU | class |
//! | `yolo_v6` before 1.0 | `[1, N, 5+C]`, one anchor a cell | objectness · class |
//! | `yolo_v5`: v5, v7 | `[1, N, 5+C]`, three anchors a cell; raw maps `[1, 3, h, w, 5+C]` beside it are passed over | objectness · class |
//! | `yolo_v5_seg` | `[1, N, 5+C+M]` | objectness · class |
//! | `yolo_v5_face` | `[1, N, 16]`: box, objectness, 5 · (x, y), one class | objectness · class |

use super::row_details::{KeypointColumns, MaskColumns, RowDetails, keypoint_shape, tables};
use crate::convert::ChannelOrder;
use crate::decode::RawDetection;
use crate::decode::head::{
    Details, Fitted, Head, OutputRef, ScoreFilter, Signature, Suppression, cell_count, grids, spread,
};
use crate::decode::labels::Labels;
use crate::decode::rotated::RotatedBox;
use crate::decode::scan::{Matrix, corners, scan};
use crate::infer::plan::View;
use crate::letterbox::Fit;
use crate::shader::{Precision, Variant};

const STEM: &str = "yolo_v8";
const SHADER: &str = include_str!("../../../shaders/decode/yolo_v8.wgsl");

#[derive(Clone, Debug)]
pub struct YoloV8 {
    /// Index of the output.
    pub output: usize,
    pub classes: usize,
    /// Column of the first class.
    pub first_class: usize,
    pub anchors: usize,
    /// Column 4 is an objectness that multiplies the class probabilities.
    pub objectness: bool,
    /// Anchors run along the last axis, `[1, 4+C, N]`; otherwise along the middle one.
    pub anchors_last: bool,
    pub details: RowDetails,
}

/// Sets of strides that networks of the family are built with.
const STRIDES: [&[usize]; 5] = [&[8, 16, 32], &[8, 16, 32, 64], &[4, 8, 16, 32], &[8, 16], &[16, 32]];

/// Keypoints of COCO, each x y visibility: what a pose network without metadata has.
const COCO_KEYPOINTS: (usize, usize) = (17, 3);

/// Keypoints of YOLOv5-face: eyes, nose, corners of the mouth.
const FACE_KEYPOINTS: usize = 5;

fn is_grid(signature: &Signature<'_>, anchors: usize, per_cell: usize) -> bool {
    STRIDES.iter().any(|s| per_cell * cell_count(&grids(signature.width, signature.height, s)) == anchors)
}

fn check_grid(signature: &Signature<'_>, anchors: usize, per_cell: usize) -> Result<(), String> {
    if !signature.named && !is_grid(signature, anchors, per_cell) {
        return Err(format!("{anchors} anchors are not {per_cell} x the cells of the usual strides"));
    }
    Ok(())
}

/// Classes that `columns` leave after `taken` others.
fn classes_left(signature: &Signature<'_>, columns: usize, taken: usize, of: &str) -> Result<usize, String> {
    let classes = columns.saturating_sub(taken);
    if classes == 0 {
        return Err(format!("{columns} numbers an anchor leave no class after {of}"));
    }
    signature.check_classes(classes)?;
    Ok(classes)
}

fn fitted(head: YoloV8, iou_threshold: f32) -> Fitted {
    let (mean, std) = super::UNIT;
    Fitted {
        labels: Labels::usual(head.classes),
        head: Box::new(head),
        fit: Fit::LetterboxCentre { pad: 114 },
        order: ChannelOrder::Rgb,
        mean,
        std,
        score_threshold: 0.25,
        iou_threshold,
    }
}

/// A table `[1, 4+C+…, N]` with these details.
fn v8(
    signature: &Signature<'_>,
    of: &str,
    further: usize,
    details: impl FnOnce(usize) -> RowDetails,
) -> Result<Fitted, String> {
    let found = tables(signature)?;
    let (columns, anchors) = (found.shape[1], found.shape[2]);
    let classes = classes_left(signature, columns, 4 + further, of)?;
    check_grid(signature, anchors, 1)?;
    let details = details(4 + classes);
    if details.mask.is_none() && found.prototypes.is_some() {
        return Err(format!("it needs one output, but there are {}", signature.describe()));
    }
    let output = found.table;
    let head = YoloV8 { output, classes, first_class: 4, anchors, objectness: false, anchors_last: true, details };
    Ok(fitted(head, 0.7))
}

/// `[1, 4+C, N]`.
pub fn fit_v8(signature: &Signature<'_>) -> Result<Fitted, String> {
    signature.check_task(&["detect"])?;
    v8(signature, "the box", 0, |_| RowDetails::default())
}

/// `[1, 4+C+M, N]` and `[1, M, h, w]`.
pub fn fit_v8_seg(signature: &Signature<'_>) -> Result<Fitted, String> {
    signature.check_task(&["segment"])?;
    let Some((prototypes, count)) = tables(signature)?.prototypes else {
        return Err("it needs a second output [1, M, h, w] with the prototypes of masks".to_string());
    };
    let input_px = [signature.width, signature.height];
    v8(signature, "box and mask coefficients", count, |first| RowDetails {
        mask: Some(MaskColumns { first, count, prototypes, input_px }),
        ..RowDetails::default()
    })
}

/// `[1, 4+C+K·d, N]`.
pub fn fit_v8_pose(signature: &Signature<'_>) -> Result<Fitted, String> {
    signature.check_task(&["pose"])?;
    let known = keypoint_shape(signature)?;
    let is_said = signature.named || signature.metadata("task").is_some() || known.is_some();
    let (count, numbers) = known.unwrap_or(COCO_KEYPOINTS);
    // Of itself a table is only taken for persons of COCO.
    if !is_said && tables(signature)?.shape[1] != 5 + count * numbers {
        return Err("neither metadata nor the number of rows say that it has keypoints".to_string());
    }
    v8(signature, "box and keypoints", count * numbers, |first| RowDetails {
        keypoints: Some(KeypointColumns { first, count, numbers }),
        ..RowDetails::default()
    })
}

/// `[1, 4+C+1, N]`.
pub fn fit_v8_obb(signature: &Signature<'_>) -> Result<Fitted, String> {
    signature.check_task(&["obb"])?;
    if !signature.named && signature.metadata("task").is_none() {
        return Err("its metadata do not say that boxes are turned".to_string());
    }
    v8(signature, "box and angle", 1, |first| RowDetails { angle: Some(first), ..RowDetails::default() })
}

/// A table `[1, N, 5+C]` with an objectness, as the only output or beside the raw maps it was decoded from.
fn rows(signature: &Signature<'_>, per_cell: usize) -> Result<Fitted, String> {
    signature.check_task(&["detect"])?;
    if !signature.named && signature.is_final() {
        return Err("its metadata say that its rows are final".to_string());
    }
    let mut tables = signature.outputs.iter().enumerate().filter(|(_, (_, shape))| matches!(shape, [1, _, _]));
    let (Some((output, (_, shape))), None) = (tables.next(), tables.next()) else {
        return Err(format!("it needs one output of rank 3, but there are {}", signature.describe()));
    };
    let (anchors, columns) = (shape[1], shape[2]);
    let is_raw = |s: &[usize]| matches!(*s, [1, 3, _, _, last] if per_cell == 3 && last == columns);
    if signature.outputs.iter().enumerate().any(|(i, (_, s))| i != output && !is_raw(s)) {
        return Err(format!("beside its table it can have raw maps only, but there are {}", signature.describe()));
    }
    let classes = classes_left(signature, columns, 5, "box and objectness")?;
    check_grid(signature, anchors, per_cell)?;
    let details = RowDetails::default();
    let head = YoloV8 { output, classes, first_class: 5, anchors, objectness: true, anchors_last: false, details };
    Ok(fitted(head, 0.45))
}

/// `[1, N, 5+C]`, three anchors per cell, decoded.
pub fn fit_v5(signature: &Signature<'_>) -> Result<Fitted, String> {
    rows(signature, 3)
}

/// `[1, N, 5+C+M]` and `[1, M, h, w]`, three anchors per cell, decoded.
pub fn fit_v5_seg(signature: &Signature<'_>) -> Result<Fitted, String> {
    signature.check_task(&["segment"])?;
    let found = tables(signature)?;
    let Some((prototypes, count)) = found.prototypes else {
        return Err("it needs a second output [1, M, h, w] with the prototypes of masks".to_string());
    };
    let (anchors, columns) = (found.shape[1], found.shape[2]);
    let classes = classes_left(signature, columns, 5 + count, "box, objectness and mask coefficients")?;
    check_grid(signature, anchors, 3)?;
    let input_px = [signature.width, signature.height];
    let mask = MaskColumns { first: 5 + classes, count, prototypes, input_px };
    let details = RowDetails { mask: Some(mask), ..RowDetails::default() };
    let output = found.table;
    let head = YoloV8 { output, classes, first_class: 5, anchors, objectness: true, anchors_last: false, details };
    Ok(fitted(head, 0.45))
}

/// `[1, N, 16]`, three anchors per cell, decoded.
pub fn fit_v5_face(signature: &Signature<'_>) -> Result<Fitted, String> {
    signature.check_task(&["detect", "pose"])?;
    let first_class = 5 + 2 * FACE_KEYPOINTS;
    let shape = signature.single(3)?;
    if shape[2] != first_class + 1 {
        return Err(format!("it needs rows of {} numbers, but there are {}", first_class + 1, signature.describe()));
    }
    signature.check_classes(1)?;
    check_grid(signature, shape[1], 3)?;
    let keypoints = Some(KeypointColumns { first: 5, count: FACE_KEYPOINTS, numbers: 2 });
    let head = YoloV8 {
        output: 0,
        classes: 1,
        first_class,
        anchors: shape[1],
        objectness: true,
        anchors_last: false,
        details: RowDetails { keypoints, ..RowDetails::default() },
    };
    Ok(Fitted { labels: Labels::faces(), ..fitted(head, 0.45) })
}

/// `[1, N, 5+C]`, one anchor per cell, decoded.
pub fn fit_v6(signature: &Signature<'_>) -> Result<Fitted, String> {
    let fitted = rows(signature, 1)?;
    // YOLOX and NanoDet-Plus have such shapes too, with boxes straight from a convolution.
    if !signature.named && signature.origins(0).contains(&"Conv") {
        return Err("the boxes are not decoded in the graph".to_string());
    }
    Ok(fitted)
}

impl YoloV8 {
    fn matrix(&self, view: &View) -> Matrix {
        if self.anchors_last { Matrix::of(view, 2, 1) } else { Matrix::of(view, 1, 2) }
    }

    /// The box of a row, in pixels of the input.
    fn bounds(values: &[f32], rows: &Matrix, row: usize) -> [f32; 4] {
        let [cx, cy, w, h] = [0, 1, 2, 3].map(|k| rows.at(values, row, k));
        corners(cx, cy, w, h)
    }
}

impl Head for YoloV8 {
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
        let OutputRef { values, view } = outputs[self.output];
        let rows = self.matrix(view);
        let objectness = |r: usize| if self.objectness { rows.at(values, r, 4) } else { 1.0 };
        scan(
            values,
            &rows.columns(self.first_class, self.classes),
            filter.threshold,
            filter.multi_label,
            |r| objectness(r) >= filter.threshold,
            |r, class, value| {
                let score = objectness(r) * value;
                if score < filter.threshold {
                    return;
                }
                let (bounds, reserved) = match self.details.rotated(values, &rows, r) {
                    Some(RotatedBox { centre: [cx, cy], size: [w, h], angle }) => ([cx, cy, w, h], angle.to_bits()),
                    None => (YoloV8::bounds(values, &rows, r), 0),
                };
                emit.push(RawDetection { bounds, score, class: class as u32, anchor: r as u32, reserved });
            },
        );
    }

    fn suppression(&self) -> Suppression {
        if self.details.angle.is_some() { Suppression::Rotated } else { Suppression::Iou }
    }

    fn variants(&self, views: &[View], precision: Precision) -> Vec<(Variant, Vec<usize>)> {
        let (workgroups, row) = spread(self.anchors);
        let rows = self.matrix(&views[self.output]);
        let variant = super::builder(STEM, SHADER, row, precision)
            .include(super::BEST_CLASS)
            .u32("ANCHORS", self.anchors)
            .u32("CLASSES", self.classes)
            .bool("OBJECTNESS", self.objectness)
            .u32("FIRST_CLASS", self.first_class)
            .bool("TURNED", self.details.angle.is_some())
            .u32("ANGLE", self.details.angle.unwrap_or(0))
            .u32("OFFSET", rows.offset)
            .u32("ROW_STRIDE", rows.row_stride)
            .u32("COLUMN_STRIDE", rows.column_stride)
            .build(workgroups);
        vec![(variant, vec![self.output])]
    }

    fn has_details(&self) -> bool {
        !self.details.is_empty()
    }

    fn details(&self, outputs: &[OutputRef<'_>], anchor: u32) -> Details {
        let OutputRef { values, view } = outputs[self.output];
        let (rows, row) = (self.matrix(view), anchor as usize);
        if row >= rows.rows {
            return Details::default();
        }
        self.details.of_row(outputs, values, &rows, row, YoloV8::bounds(values, &rows, row))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise, references};
    use super::*;
    use crate::decode::head::{DecodeError, Recognised, recognise};
    use crate::decode::nms;
    use crate::infer::graph::Graph;

    /// Tables of the three layouts, their heads, and what they hold.
    fn check(name: &str, columns: usize, anchors: usize, anchors_last: bool, objectness: bool) {
        let shape = if anchors_last { [1, columns, anchors] } else { [1, anchors, columns] };
        let g = graph(64, 64, &[("output0", &shape, &["Mul", "Sigmoid"])]);
        let r = recognise(&g, None).unwrap();
        assert_eq!((r.name, r.head.anchors()), (name, anchors));
        let first = 4 + usize::from(objectness);
        assert_eq!(r.head.classes(), columns - first);
        let mut next = noise(3);
        let table = Table::new(&shape, |at| {
            let column = if anchors_last { at[1] } else { at[2] };
            if column < 4 { next() * 64.0 } else { next() }
        });
        let mut expected: Vec<Expected> = Vec::new();
        for a in 0..anchors {
            let v = |k: usize| table.at(&if anchors_last { [0, k, a] } else { [0, a, k] });
            let mut best = (0, f64::MIN);
            for c in first..columns {
                let score = v(c) * if objectness { v(4) } else { 1.0 };
                if score > best.1 {
                    best = (c - first, score);
                }
            }
            if best.1 >= 0.8 {
                let b = [v(0) - v(2) / 2.0, v(1) - v(3) / 2.0, v(0) + v(2) / 2.0, v(1) + v(3) / 2.0];
                expected.push((a, best.0, best.1, b));
            }
        }
        assert_same(&decode(&*r.head, &[table], 0.8, false), &expected, 0.8);
    }

    #[test]
    fn three_layouts() {
        check("yolo_v8", 4 + 13, 84, true, false);
        check("yolo_v6", 5 + 3, 84, false, true);
        check("yolo_v5", 5 + 20, 252, false, true);
        // One class.
        check("yolo_v8", 5, 84, true, false);
    }

    fn with_metadata(outputs: &[(&str, &[usize])], metadata: &[(&str, &str)]) -> Graph {
        let parts: &[&'static str] = &["Mul", "Sigmoid"];
        let outputs: Vec<_> = outputs.iter().map(|&(name, shape)| (name, shape, parts)).collect();
        let mut g = graph(64, 64, &outputs);
        g.metadata = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        g
    }

    fn recognised(outputs: &[(&str, &[usize])], metadata: &[(&str, &str)]) -> Result<Recognised, String> {
        recognise(&with_metadata(outputs, metadata), None).map_err(|e| e.to_string())
    }

    /// Further columns do not count as classes, whichever way the table lies; they come out as details.
    #[test]
    fn segmentation() {
        for (v8, anchors) in [(true, 84), (false, 252)] {
            let (first, name) = if v8 { (4, "yolo_v8_seg") } else { (5, "yolo_v5_seg") };
            let columns = first + 3 + 6;
            let shape = if v8 { [1, columns, anchors] } else { [1, anchors, columns] };
            let r = recognised(&[("output0", &shape), ("output1", &[1, 6, 16, 16])], &[]).unwrap();
            assert_eq!((r.name, r.head.classes(), r.head.anchors()), (name, 3, anchors));
            let mut next = noise(5);
            let table = Table::new(&shape, |at| {
                let column = if v8 { at[1] } else { at[2] };
                match column {
                    0..4 => next() * 60.0,
                    _ if column >= first + 3 => next() * 4.0 - 2.0,
                    _ => next(),
                }
            });
            let tables = [table, Table::new(&[1, 6, 16, 16], |_| next() - 0.5)];
            let v = |a: usize, k: usize| tables[0].at(&if v8 { [0, k, a] } else { [0, a, k] });
            let mut expected: Vec<Expected> = Vec::new();
            for a in 0..anchors {
                let objectness = if v8 { 1.0 } else { v(a, 4) };
                let score = |c: usize| objectness * v(a, first + c);
                let best = (0..3).max_by(|&x, &y| score(x).total_cmp(&score(y))).unwrap();
                if score(best) >= 0.7 {
                    let [cx, cy, w, h] = [0, 1, 2, 3].map(|k| v(a, k));
                    expected.push((a, best, score(best), [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0]));
                }
            }
            assert_same(&decode(&*r.head, &tables, 0.7, false), &expected, 0.7);
            references(&tables, |outputs| {
                for e in &expected {
                    let grid = r.head.details(outputs, e.0 as u32).mask.unwrap();
                    let (x0, y0) = ((grid.area_px[0] / 4.0) as usize, (grid.area_px[1] / 4.0) as usize);
                    for (i, value) in grid.values.iter().enumerate() {
                        let (x, y) = (x0 + i % grid.cols, y0 + i / grid.cols);
                        let sum: f64 = (0..6).map(|k| v(e.0, first + 3 + k) * tables[1].at(&[0, k, y, x])).sum();
                        assert!((f64::from(*value) - sum).abs() < 1e-4);
                    }
                }
            });
        }
        // Prototypes of another number, and no class left.
        assert!(recognised(&[("output0", &[1, 10, 84]), ("output1", &[1, 6, 16, 16])], &[]).is_err());
        let task = [("task", "segment")];
        assert!(recognised(&[("output0", &[1, 10, 84])], &task).is_err());
    }

    #[test]
    fn poses() {
        let metadata = [("task", "pose"), ("kpt_shape", "[4, 2]"), ("names", "{0: 'cat', 1: 'dog'}")];
        let r = recognised(&[("output0", &[1, 4 + 2 + 8, 84])], &metadata).unwrap();
        assert_eq!((r.name, r.head.classes(), r.labels.name(1)), ("yolo_v8_pose", 2, "dog".to_string()));
        let mut next = noise(7);
        let table = Table::new(&[1, 14, 84], |at| if at[1] == 4 || at[1] == 5 { next() } else { next() * 64.0 });
        references(std::slice::from_ref(&table), |outputs| {
            for a in [0, 41, 83] {
                let details = r.head.details(outputs, a as u32);
                assert!(details.visibility.is_empty() && details.rotated.is_none() && details.mask.is_none());
                let at = |k: usize| table.at(&[0, k, a]) as f32;
                assert_eq!(details.landmarks, [0, 1, 2, 3].map(|k| [at(6 + 2 * k), at(7 + 2 * k)]));
            }
            assert_eq!(r.head.details(outputs, 84), Details::default());
        });
        assert!(decode(&*r.head, &[table], 0.5, false).iter().all(|d| d.class < 2));
        // Without metadata 56 rows are one person with keypoints or 52 classes.
        let both = recognised(&[("output0", &[1, 56, 84])], &[]).unwrap_err();
        assert!(both.contains("yolo_v8|yolo_v8_pose"), "{both}");
        let person = recognised(&[("output0", &[1, 56, 84])], &[("names", "{0: 'person'}")]).unwrap();
        assert_eq!((person.name, person.head.classes()), ("yolo_v8_pose", 1));
        assert_eq!(recognised(&[("output0", &[1, 57, 84])], &[]).unwrap().name, "yolo_v8");
    }

    #[test]
    fn turned_boxes() {
        let r = recognised(&[("output0", &[1, 4 + 3 + 1, 84])], &[("task", "obb")]).unwrap();
        assert_eq!((r.name, r.head.classes(), r.head.suppression()), ("yolo_v8_obb", 3, Suppression::Rotated));
        let mut next = noise(9);
        let table = Table::new(&[1, 8, 84], |at| match at[1] {
            0..4 => next() * 40.0 + 2.0,
            7 => next() * 3.0 - 0.8,
            _ => next(),
        });
        let v = |a: usize, k: usize| table.at(&[0, k, a]);
        let mut expected: Vec<Expected> = Vec::new();
        for a in 0..84 {
            let best = (4..7).max_by(|&x, &y| v(a, x).total_cmp(&v(a, y))).unwrap();
            let (sin, cos) = v(a, 7).sin_cos();
            let corners = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)].map(|(p, q)| {
                let (x, y) = (p * v(a, 2), q * v(a, 3));
                [v(a, 0) + x * cos - y * sin, v(a, 1) + x * sin + y * cos]
            });
            let low = |k: usize| corners.iter().map(|c| c[k]).fold(f64::MAX, f64::min);
            let high = |k: usize| corners.iter().map(|c| c[k]).fold(f64::MIN, f64::max);
            if v(a, best) >= 0.6 {
                expected.push((a, best - 4, v(a, best), [low(0), low(1), high(0), high(1)]));
            }
        }
        let candidates = decode(&*r.head, &[table], 0.6, false);
        // A threshold that nothing exceeds: all are kept, upright.
        let mut kept = nms::run(candidates, r.head.suppression(), 1.0, 84);
        kept.sort_by_key(|d| d.anchor);
        assert_same(&kept, &expected, 0.6);
    }

    #[test]
    fn faces_with_landmarks() {
        let metadata = [("names", "['face']")];
        let r = recognised(&[("output", &[1, 252, 16])], &metadata).unwrap();
        assert_eq!((r.name, r.head.classes()), ("yolo_v5_face", 1));
        let mut next = noise(12);
        let table = Table::new(&[1, 252, 16], |at| if at[2] == 4 || at[2] == 15 { next() } else { next() * 64.0 });
        let mut expected: Vec<Expected> = Vec::new();
        for a in 0..252 {
            let v = |k: usize| table.at(&[0, a, k]);
            if v(4) * v(15) >= 0.6 {
                let [cx, cy, w, h] = [v(0), v(1), v(2), v(3)];
                expected.push((a, 0, v(4) * v(15), [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0]));
            }
        }
        let tables = [table];
        assert_same(&decode(&*r.head, &tables, 0.6, false), &expected, 0.6);
        references(&tables, |outputs| {
            let points = r.head.details(outputs, 100).landmarks;
            assert_eq!(points, [0, 1, 2, 3, 4].map(|k| [5, 6].map(|c| tables[0].at(&[0, 100, c + 2 * k]) as f32)));
        });
        // Eleven classes without landmarks have the same shape.
        let both = recognised(&[("output", &[1, 252, 16])], &[]).unwrap_err();
        assert!(both.contains("yolo_v5|yolo_v5_face"), "{both}");
    }

    #[test]
    fn raw_maps_beside_the_table_are_passed_over() {
        let maps: [(&str, &[usize]); 4] =
            [("345", &[1, 3, 8, 8, 7]), ("output", &[1, 252, 7]), ("403", &[1, 3, 4, 4, 7]), ("461", &[1, 3, 2, 2, 7])];
        let r = recognised(&maps, &[]).unwrap();
        assert_eq!((r.name, r.head.classes(), r.head.anchors()), ("yolo_v5", 2, 252));
        let table = |shape: &[usize], value: f32| Table::new(shape, |_| value);
        let tables: Vec<Table> = maps.iter().map(|(n, s)| table(s, if *n == "output" { 0.9 } else { 0.0 })).collect();
        assert_eq!(decode(&*r.head, &tables, 0.5, false).len(), 252);
        assert!(recognised(&[("output", &[1, 252, 7]), ("x", &[1, 3, 8, 8, 9])], &[]).is_err());
    }

    #[test]
    fn metadata_gives_names_and_refuses_other_tasks() {
        let mut g = graph(64, 64, &[("output0", &[1, 6, 84], &["Mul", "Sigmoid"])]);
        g.metadata.insert("names".into(), "{0: 'cat', 1: 'dog'}".into());
        assert_eq!(recognise(&g, None).unwrap().labels.name(1), "dog");
        g.metadata.insert("task".into(), "pose".into());
        assert!(matches!(recognise(&g, None), Err(DecodeError::NoHead { .. })));
        g.metadata.insert("names".into(), "{0: 'cat'}".into());
        g.metadata.insert("task".into(), "detect".into());
        assert!(matches!(recognise(&g, None), Err(DecodeError::NoHead { .. })), "two classes, one name");
        assert_eq!(recognise(&g, Some("yolo_v8")).unwrap().head.classes(), 2);
        g.metadata.insert("task".into(), "pose".into());
        let error = recognise(&g, Some("yolo_v8")).unwrap_err();
        assert!(error.to_string().contains("pose"), "{error}");
    }

    #[test]
    fn odd_anchor_counts_need_the_name() {
        let g = graph(64, 64, &[("output0", &[1, 6, 99], &["Mul", "Sigmoid"])]);
        let error = recognise(&g, None).unwrap_err().to_string();
        assert!(error.contains("--head") && error.contains("output0 [1, 6, 99]"), "{error}");
        assert_eq!(recognise(&g, Some("yolo_v8")).unwrap().head.anchors(), 99);
        assert!(matches!(recognise(&g, Some("x")), Err(DecodeError::UnknownHead { .. })));
    }
}
