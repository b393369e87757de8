//! Boxes that the graph itself has decoded: YOLOv8 and its family, YOLOv6, YOLOv5. Twin of
//! `shaders/decode/yolo_v8.wgsl`.
//!
//! Each anchor has centre and size in pixels of the input, then (YOLOv5, v6) an objectness, then class probabilities.
//! YOLOv8, v9, 11, 12 and v5u: `[1, 4+C, N]`, score = class. YOLOv6 before 1.0 and v5, v7: `[1, N, 5+C]`,
//! score = objectness · class. Layouts as written by the ultralytics exporter.

use crate::convert::ChannelOrder;
use crate::decode::RawDetection;
use crate::decode::head::{Fitted, Head, OutputRef, ScoreFilter, Signature, cell_count, grids, spread};
use crate::decode::labels::Labels;
use crate::decode::scan::{Matrix, corners, scan};
use crate::infer::plan::View;
use crate::letterbox::Fit;
use crate::shader::{Precision, Variant};

const STEM: &str = "yolo_v8";
const SHADER: &str = include_str!("../../../shaders/decode/yolo_v8.wgsl");

#[derive(Clone, Debug)]
pub struct YoloV8 {
    pub classes: usize,
    pub anchors: usize,
    /// Column 4 is an objectness that multiplies the class probabilities.
    pub objectness: bool,
    /// Anchors run along the last axis, `[1, 4+C, N]`; otherwise along the middle one.
    pub anchors_last: bool,
}

/// Sets of strides that networks of the family are built with.
const STRIDES: [&[usize]; 5] = [&[8, 16, 32], &[8, 16, 32, 64], &[4, 8, 16, 32], &[8, 16], &[16, 32]];

fn is_grid(signature: &Signature<'_>, anchors: usize, per_cell: usize) -> bool {
    STRIDES.iter().any(|s| per_cell * cell_count(&grids(signature.width, signature.height, s)) == anchors)
}

/// Other tasks (segmentation, poses) have further columns that must not be read as classes.
fn check_task(signature: &Signature<'_>) -> Result<(), String> {
    match signature.metadata("task") {
        None | Some("detect") => Ok(()),
        Some(task) => Err(format!("its metadata says that its task is '{task}', not 'detect'")),
    }
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

/// `[1, 4+C, N]`.
pub fn fit_v8(signature: &Signature<'_>) -> Result<Fitted, String> {
    check_task(signature)?;
    let shape = signature.single(3)?;
    let (columns, anchors) = (shape[1], shape[2]);
    if columns < 5 {
        return Err(format!("{columns} rows leave no class after the box"));
    }
    if !signature.named && !is_grid(signature, anchors, 1) {
        return Err(format!("{anchors} anchors are not the cells of the usual strides"));
    }
    Ok(fitted(YoloV8 { classes: columns - 4, anchors, objectness: false, anchors_last: true }, 0.7))
}

fn fit_rows(signature: &Signature<'_>, per_cell: usize) -> Result<Fitted, String> {
    check_task(signature)?;
    let shape = signature.single(3)?;
    let (anchors, columns) = (shape[1], shape[2]);
    if columns < 6 {
        return Err(format!("{columns} columns leave no class after box and objectness"));
    }
    if !signature.named && !is_grid(signature, anchors, per_cell) {
        return Err(format!("{anchors} rows are not {per_cell} x the cells of the usual strides"));
    }
    Ok(fitted(YoloV8 { classes: columns - 5, anchors, objectness: true, anchors_last: false }, 0.45))
}

/// `[1, N, 5+C]`, three anchors per cell, decoded.
pub fn fit_v5(signature: &Signature<'_>) -> Result<Fitted, String> {
    fit_rows(signature, 3)
}

/// `[1, N, 5+C]`, one anchor per cell, decoded.
pub fn fit_v6(signature: &Signature<'_>) -> Result<Fitted, String> {
    let fitted = fit_rows(signature, 1)?;
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

    fn first_class(&self) -> usize {
        4 + usize::from(self.objectness)
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
        let values = outputs[0].values;
        let rows = self.matrix(outputs[0].view);
        let objectness = |r: usize| if self.objectness { rows.at(values, r, 4) } else { 1.0 };
        scan(
            values,
            &rows.columns(self.first_class(), self.classes),
            filter.threshold,
            filter.multi_label,
            |r| objectness(r) >= filter.threshold,
            |r, class, value| {
                let score = objectness(r) * value;
                if score < filter.threshold {
                    return;
                }
                let [cx, cy, w, h] = [0, 1, 2, 3].map(|k| rows.at(values, r, k));
                emit.push(RawDetection {
                    bounds: corners(cx, cy, w, h),
                    score,
                    class: class as u32,
                    anchor: r as u32,
                    reserved: 0,
                });
            },
        );
    }

    fn variants(&self, views: &[View], precision: Precision) -> Vec<(Variant, Vec<usize>)> {
        let (workgroups, row) = spread(self.anchors);
        let rows = self.matrix(&views[0]);
        let variant = super::builder(STEM, SHADER, row, precision)
            .u32("ANCHORS", self.anchors)
            .u32("CLASSES", self.classes)
            .bool("OBJECTNESS", self.objectness)
            .u32("FIRST_CLASS", self.first_class())
            .u32("OFFSET", rows.offset)
            .u32("ROW_STRIDE", rows.row_stride)
            .u32("COLUMN_STRIDE", rows.column_stride)
            .build(workgroups);
        vec![(variant, vec![0])]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use crate::decode::head::{DecodeError, recognise};

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

    #[test]
    fn metadata_gives_names_and_refuses_other_tasks() {
        let mut g = graph(64, 64, &[("output0", &[1, 6, 84], &["Mul", "Sigmoid"])]);
        g.metadata.insert("names".into(), "{0: 'cat', 1: 'dog'}".into());
        assert_eq!(recognise(&g, None).unwrap().labels.name(1), "dog");
        g.metadata.insert("task".into(), "pose".into());
        assert!(matches!(recognise(&g, None), Err(DecodeError::NoHead { .. })));
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
