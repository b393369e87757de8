//! Rows that are final: networks that choose their detections themselves. Twin of `shaders/decode/end_to_end.wgsl`.
//!
//! YOLOv10 and 26 with their one-to-one head, and whatever the ultralytics exporter writes with `nms=True`:
//! `[1, K, 6]`, a row x0 y0 x1 y1 (pixels of the input), score, class as a number. Further columns as `row_details`
//! describes them: M coefficients with prototypes in a second output, K · d numbers of keypoints, or one angle; with an
//! angle the box is centre and size. Rows of padding are zero. Nothing is suppressed. Decoded on the CPU: turned boxes, and
//! tables whose shape depends on the picture, as suppression inside the graph leaves them.
//! Wang et al., "YOLOv10", arXiv 2405.14458.

use super::row_details::{KeypointColumns, LateTable, MaskColumns, RowDetails, keypoint_shape, late_table, tables};
use crate::convert::ChannelOrder;
use crate::decode::RawDetection;
use crate::decode::head::{Details, Fitted, Head, OutputRef, ScoreFilter, Signature, Suppression, spread};
use crate::decode::labels::Labels;
use crate::decode::scan::Matrix;
use crate::infer::plan::View;
use crate::letterbox::Fit;
use crate::shader::{Precision, Variant};

const STEM: &str = "end_to_end";
const SHADER: &str = include_str!("../../../shaders/decode/end_to_end.wgsl");

/// Most rows that are taken for final detections unless the user says so.
const MAX_ROWS: usize = 1000;

/// Rows that are read at most where the file leaves their number open.
const LATE_ROWS: usize = 65_536;

/// Box, score and class.
const PLAIN_COLUMNS: usize = 6;

#[derive(Clone, Debug)]
pub struct EndToEnd {
    /// Index of the output.
    pub output: usize,
    pub classes: usize,
    /// At most, where their number depends on the picture.
    pub rows: usize,
    pub columns: usize,
    /// The shape depends on the picture.
    pub is_late: bool,
    pub details: RowDetails,
}

/// The number of columns that the metadata tell, for a table that does not.
///
/// # Errors
/// When they do not.
fn columns_of_task(signature: &Signature<'_>, prototypes: Option<(usize, usize)>) -> Result<usize, String> {
    let further = match (signature.metadata("task"), prototypes) {
        (Some("detect"), None) => Some(0),
        (Some("segment"), Some((_, count))) => Some(count),
        (Some("obb"), None) => Some(1),
        (Some("pose"), None) => keypoint_shape(signature)?.map(|(count, numbers)| count * numbers),
        _ => None,
    };
    further
        .map(|n| PLAIN_COLUMNS + n)
        .ok_or_else(|| format!("neither {} nor metadata tell the number of columns", signature.describe()))
}

pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    signature.check_task(&["detect", "segment", "pose", "obb"])?;
    if signature.is_rt_detr() {
        return Err("its metadata say that its rows have one score a class".to_string());
    }
    let (table, rows, columns, prototypes, is_late) = match (tables(signature), late_table(signature)) {
        (Ok(found), _) => (found.table, found.shape[1], found.shape[2], found.prototypes, false),
        (_, Some(LateTable { table, rows, columns, prototypes })) => {
            if rows.is_none() && !signature.named && !signature.is_final() {
                return Err("nothing says that its rows are final detections".to_string());
            }
            let columns = columns.map_or_else(|| columns_of_task(signature, prototypes), Ok)?;
            (table, rows.unwrap_or(LATE_ROWS), columns, prototypes, true)
        }
        (Err(why), None) => return Err(why),
    };
    let task = signature.metadata("task");
    if !signature.named && !signature.is_final() && rows > MAX_ROWS {
        return Err(format!("{rows} rows are more than final detections"));
    }
    let further = columns.checked_sub(PLAIN_COLUMNS).ok_or_else(|| format!("{columns} columns are too few"))?;
    let misfit = |what: &str| format!("{columns} columns are not box, score, class{what}");
    let mut details = RowDetails::default();
    let first = PLAIN_COLUMNS;
    match (prototypes, further) {
        (Some((prototypes, count)), _) => {
            if further != count || matches!(task, Some("detect" | "pose" | "obb")) {
                return Err(misfit(&format!(" and {count} mask coefficients")));
            }
            let input_px = [signature.width, signature.height];
            details.mask = Some(MaskColumns { first, count, prototypes, input_px });
        }
        (None, 0) if matches!(task, None | Some("detect")) => {}
        (None, 1) if matches!(task, Some("obb")) || (signature.named && task.is_none()) => {
            details.angle = Some(first);
        }
        (None, _) => {
            let known = keypoint_shape(signature)?.or((signature.named && further == 51).then_some((17, 3)));
            match known {
                Some((count, numbers)) if count * numbers == further && matches!(task, None | Some("pose")) => {
                    details.keypoints = Some(KeypointColumns { first, count, numbers });
                }
                _ => return Err(misfit(" and what its metadata name")),
            }
        }
    }
    let (mean, std) = super::UNIT;
    Ok(Fitted {
        head: Box::new(EndToEnd {
            output: table,
            classes: signature.numbered_classes(),
            rows,
            columns,
            is_late,
            details,
        }),
        fit: Fit::LetterboxCentre { pad: 114 },
        order: ChannelOrder::Rgb,
        mean,
        std,
        score_threshold: 0.25,
        iou_threshold: 0.7,
        labels: Labels::default(),
    })
}

impl EndToEnd {
    fn matrix(&self, view: &View) -> Matrix {
        Matrix::of(view, 1, 2)
    }

    /// The upright box of a row, in pixels of the input.
    fn bounds(&self, values: &[f32], rows: &Matrix, row: usize) -> [f32; 4] {
        match self.details.rotated(values, rows, row) {
            Some(rotated) => rotated.bounds(),
            None => [0, 1, 2, 3].map(|k| rows.at(values, row, k)),
        }
    }
}

impl Head for EndToEnd {
    fn stem(&self) -> &'static str {
        STEM
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn anchors(&self) -> usize {
        self.rows
    }

    fn check(&self, outputs: &[OutputRef<'_>]) -> Result<(), String> {
        match outputs[self.output].view.shape[..] {
            [1, _, columns] if columns == self.columns => Ok(()),
            ref other => {
                Err(format!("output {} should be rows of {}, but has shape {other:?}", self.output, self.columns))
            }
        }
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        let OutputRef { values, view } = outputs[self.output];
        let rows = self.matrix(view);
        for row in 0..self.rows.min(rows.rows) {
            let score = rows.at(values, row, 4);
            let class = (rows.at(values, row, 5) + 0.5).floor();
            if score >= filter.threshold && score > 0.0 && (0.0..self.classes as f32).contains(&class) {
                emit.push(RawDetection {
                    bounds: self.bounds(values, &rows, row),
                    score,
                    class: class as u32,
                    anchor: row as u32,
                    reserved: 0,
                });
            }
        }
    }

    fn suppression(&self) -> Suppression {
        Suppression::None
    }

    fn has_shader(&self) -> bool {
        !self.is_late
    }

    fn variants(&self, views: &[View], precision: Precision) -> Vec<(Variant, Vec<usize>)> {
        let (workgroups, row) = spread(self.rows);
        let rows = self.matrix(&views[self.output]);
        let variant = super::builder(STEM, SHADER, row, precision)
            .u32("ROWS", self.rows)
            .f32("CLASSES", self.classes as f32)
            .u32("OFFSET", rows.offset)
            .u32("ROW_STRIDE", rows.row_stride)
            .u32("COLUMN_STRIDE", rows.column_stride)
            .bool("TURNED", self.details.angle.is_some())
            .u32("ANGLE", self.details.angle.unwrap_or(0))
            .include(super::ROTATED)
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
        self.details.of_row(outputs, values, &rows, row, self.bounds(values, &rows, row))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, late, noise, references};
    use super::*;
    use crate::decode::head::{Recognised, recognise};
    use crate::infer::tensor::DType;

    #[test]
    fn rows_by_definition() {
        let g = graph(96, 64, &[("output0", &[1, 40, 6], &["TopK"])]);
        let r = recognise(&g, None).unwrap();
        assert_eq!((r.name, r.head.anchors(), r.head.suppression()), ("end_to_end", 40, Suppression::None));
        let mut next = noise(6);
        let table = Table::new(&[1, 40, 6], |at| match (at[1], at[2]) {
            // Padding, a class that is none, and no number.
            (30.., _) => 0.0,
            (7, 5) => -1.0,
            (8, 4) => f32::NAN,
            (_, 5) => (next() * 20.0).floor(),
            (_, 4) => next(),
            _ => next() * 90.0,
        });
        let v = |row: usize, k: usize| table.at(&[0, row, k]);
        let expected: Vec<Expected> = (0..30)
            .filter(|&row| row != 7 && v(row, 4) >= 0.3)
            .map(|row| (row, v(row, 5) as usize, v(row, 4), [0, 1, 2, 3].map(|k| v(row, k))))
            .collect();
        assert!(expected.len() > 10);
        assert_same(&decode(&*r.head, std::slice::from_ref(&table), 0.3, false), &expected, 0.3);
        // Padding is no detection, however low the threshold.
        assert_eq!(decode(&*r.head, std::slice::from_ref(&table), 0.0, false).len(), 28);
    }

    #[test]
    fn keypoints_masks_and_angles_beside_the_box() {
        let of = |columns: usize, task: &str, more: &[(&str, &str)], prototypes: bool| {
            let table: (&str, &[usize], &[&'static str]) = ("output0", &[1, 3, columns], &["TopK"]);
            let masks: (&str, &[usize], &[&'static str]) = ("output1", &[1, 4, 8, 12], &["Conv"]);
            let outputs = if prototypes { vec![table, masks] } else { vec![table] };
            let mut g = graph(96, 64, &outputs);
            g.metadata.insert("task".into(), task.into());
            for (key, value) in more {
                g.metadata.insert((*key).into(), (*value).into());
            }
            recognise(&g, None).map(|r| {
                assert_eq!(r.name, "end_to_end");
                r.head
            })
        };
        let mut next = noise(2);
        let table = |columns: usize, next: &mut dyn FnMut() -> f32| {
            Table::new(&[1, 3, columns], |at| if at[2] == 5 { 0.0 } else { next() * 40.0 + 1.0 })
        };
        let names = ("names", "{0: 'ship', 1: 'plane'}");

        let head = of(6 + 5 * 3, "pose", &[("kpt_shape", "[5, 3]"), names], false).unwrap();
        assert_eq!((head.classes(), head.has_shader()), (2, true));
        let t = table(21, &mut next);
        references(std::slice::from_ref(&t), |outputs| {
            let details = head.details(outputs, 2);
            for k in 0..5 {
                let at = |n: usize| t.at(&[0, 2, 6 + 3 * k + n]) as f32;
                assert_eq!((details.landmarks[k], details.visibility[k]), ([at(0), at(1)], at(2)));
            }
            assert_eq!(head.details(outputs, 3), Details::default());
        });

        let head = of(7, "obb", &[("end2end", "True")], false).unwrap();
        assert!(head.has_shader());
        let t = table(7, &mut next);
        references(std::slice::from_ref(&t), |outputs| {
            let rotated = head.details(outputs, 1).rotated.unwrap();
            assert_eq!((rotated.centre[0], rotated.size[1]), (t.at(&[0, 1, 0]) as f32, t.at(&[0, 1, 3]) as f32));
            assert_eq!(rotated.angle, t.at(&[0, 1, 6]) as f32);
        });
        assert_eq!(decode(&*head, &[t], 0.0, false).len(), 3);

        let head = of(10, "segment", &[("args", "{'nms': True, 'half': False}")], true).unwrap();
        let tables = [table(10, &mut next), Table::new(&[1, 4, 8, 12], |_| next() - 0.5)];
        references(&tables, |outputs| assert!(head.details(outputs, 0).mask.is_some()));

        // Columns that the metadata do not explain.
        for (columns, task, prototypes) in
            [(7, "detect", false), (9, "pose", false), (6, "obb", false), (11, "segment", true)]
        {
            assert!(of(columns, task, &[("kpt_shape", "[2, 2]")], prototypes).is_err(), "{columns} {task}");
        }
    }

    #[test]
    fn rows_whose_number_depends_on_the_picture() {
        const NMS: (&str, &str) = ("args", "{'batch': 1, 'nms': True}");
        let of = |dims: [Option<usize>; 3], masks: bool, metadata: &[(&str, &str)]| -> Result<Recognised, String> {
            let table: (&str, &[usize], &[&'static str]) = ("output0", &[1, 1, 1], &["NonMaxSuppression"]);
            let prototypes: (&str, &[usize], &[&'static str]) = ("output1", &[1, 4, 8, 12], &["Conv"]);
            let mut g = graph(96, 64, &if masks { vec![table, prototypes] } else { vec![table] });
            late(&mut g, 0, DType::F32, &dims);
            for (key, value) in metadata {
                g.metadata.insert((*key).into(), (*value).into());
            }
            recognise(&g, None).map_err(|e| e.to_string())
        };
        let (one, open) = (Some(1), [None; 3]);
        for (dims, columns, masks, metadata) in [
            ([one, Some(300), Some(6)], 6, false, &[("task", "detect"), NMS][..]),
            ([one, Some(300), Some(6)], 6, false, &[]),
            (open, 6, false, &[("task", "detect"), NMS]),
            (open, 7, false, &[("task", "obb"), NMS]),
            (open, 12, false, &[("task", "pose"), ("kpt_shape", "[3, 2]"), NMS]),
            (open, 10, true, &[("task", "segment"), NMS]),
        ] {
            let r = of(dims, masks, metadata).expect("recognised");
            assert_eq!((r.name, r.head.has_shader()), ("end_to_end", false));
            let mut next = noise(3);
            // Fewer rows than the file promises.
            let mut tables = vec![Table::new(&[1, 5, columns], |at| if at[2] == 5 { 2.0 } else { next() * 9.0 + 1.0 })];
            if masks {
                tables.push(Table::new(&[1, 4, 8, 12], |_| next() - 0.5));
            }
            references(&tables, |outputs| r.head.check(outputs).expect("fits"));
            assert_eq!(decode(&*r.head, &tables, 0.5, false).len(), 5);
            tables[0] = Table::new(&[1, 5, columns + 1], |_| 0.0);
            references(&tables, |outputs| assert!(r.head.check(outputs).is_err()));
        }
        // Nothing says what the rows are.
        assert!(of(open, false, &[]).is_err());
        assert!(of(open, false, &[("task", "pose"), NMS]).is_err());
        assert!(of([one, None, Some(6)], false, &[("task", "detect")]).is_err());
    }

    #[test]
    fn shapes_that_others_share_are_not_taken() {
        let name = |shape: &[usize], metadata: &[(&str, &str)]| {
            let mut g = graph(96, 64, &[("output0", shape, &["Sigmoid"])]);
            for (key, value) in metadata {
                g.metadata.insert((*key).into(), (*value).into());
            }
            recognise(&g, None).map(|r| r.name).map_err(|e| e.to_string())
        };
        // 126 cells: YOLOv6 with one class has that shape too.
        let both = name(&[1, 126, 6], &[]).unwrap_err();
        assert!(both.contains("end_to_end") && both.contains("yolo_v6"), "{both}");
        assert_eq!(name(&[1, 126, 6], &[("end2end", "True")]), Ok("end_to_end"));
        assert_eq!(name(&[1, 300, 6], &[]), Ok("end_to_end"));
        assert_eq!(name(&[1, 300, 6], &[("head", "RTDETRDecoder")]), Ok("rt_detr"));
        assert!(name(&[1, 2000, 6], &[]).is_err());
        assert_eq!(name(&[1, 2000, 6], &[("end2end", "True")]), Ok("end_to_end"));
        assert!(name(&[1, 300, 57], &[]).is_err());
        // Rows and columns the other way round.
        assert_eq!(name(&[1, 6, 126], &[]), Ok("yolo_v8"));
    }
}
