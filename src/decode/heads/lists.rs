//! Detections that the graph has chosen already, as lists: suppression or a choice of the best is inside, the number of rows
//! may depend on the picture, and box, score and class stand in outputs of their own or in columns of one. On the CPU.
//!
//! | head | outputs, K rows | boxes |
//! |---|---|---|
//! | `detr_lists` | labels `[K]`, boxes `[K, 4]`, scores `[K]`; RT-DETR, D-FINE, DEIM | x0 y0 x1 y1 in pixels of `orig_target_sizes` |
//! | `torchvision` | boxes `[K, 4]`, labels `[K]`, scores `[K]`; input without a batch | x0 y0 x1 y1 in pixels |
//! | `tf_detection` | `detection_boxes` `[K, 4]`, `detection_scores`, `detection_classes`, `num_detections` | y0 x0 y1 x1, 0 to 1 |
//! | `pp_yoloe_nms` | `[K, 6]` class score x0 y0 x1 y1, and the count | pixels over `scale_factor` |
//! | `yolo_v7_nms` | `[K, 7]` picture x0 y0 x1 y1 class score | pixels |
//!
//! Every output may have a batch of one in front. Classes of torchvision and TensorFlow count from 1, their background being
//! 0; here they count from 0. Lv et al., "DETRs Beat YOLOs on Real-time Object Detection", arXiv 2304.08069.

use crate::convert::ChannelOrder;
use crate::decode::RawDetection;
use crate::decode::head::{Fitted, Head, OutputRef, ScoreFilter, Signature, Suppression};
use crate::decode::labels::Labels;
use crate::decode::scan::Matrix;
use crate::infer::plan::View;
use crate::infer::tensor::{DType, Tensor};
use crate::letterbox::Fit;

/// Rows that are read at most.
const MAX_ROWS: usize = 65_536;

/// Mean and deviation of ImageNet, levels 0 to 255.
pub(super) const IMAGENET: ([f32; 3], [f32; 3]) = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]);

/// A number of every detection: a column of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Column {
    output: usize,
    column: usize,
    /// Numbers in a row of that output.
    width: usize,
}

impl Column {
    /// An output that has one number a row.
    fn whole(output: usize) -> Column {
        Column { output, column: 0, width: 1 }
    }
}

#[derive(Clone, Debug)]
struct Lists {
    /// Left, top, right, bottom.
    bounds: [Column; 4],
    score: Column,
    class: Column,
    /// The number of the first class.
    first_class: f32,
    /// Output that holds the number of rows that count.
    count: Option<usize>,
    /// Pixels of the network's input per unit of x and of y.
    scale: [f32; 2],
    classes: usize,
    inputs: Vec<(String, Tensor)>,
}

/// Rows of `width` numbers, with or without a batch of one.
fn rows_of(view: &View, width: usize) -> Option<Matrix> {
    let last = view.rank().checked_sub(1)?;
    let rows_axis = if width > 1 { last.checked_sub(1)? } else { last };
    let is_batch = view.shape[..rows_axis].iter().all(|&n| n == 1);
    if !is_batch || (width > 1 && view.shape[last] != width) {
        return None;
    }
    let column_stride = if width > 1 { view.strides[last] } else { 0 };
    Some(Matrix {
        offset: view.offset,
        rows: view.shape[rows_axis],
        columns: width,
        row_stride: view.strides[rows_axis],
        column_stride,
    })
}

/// Whether an output can hold rows of `width` numbers of such a type, by what the file says of it.
fn holds_rows(signature: &Signature<'_>, output: usize, width: usize, is_type: fn(DType) -> bool) -> bool {
    let Some(declared) = signature.declared(output) else { return false };
    let mut dims = declared.dims.iter().rev();
    let has_columns = width == 1 || dims.next().is_some_and(|&n| n.is_none_or(|n| n == width));
    is_type(declared.dtype) && has_columns && dims.next().is_some() && dims.all(|&n| n.is_none_or(|n| n == 1))
}

fn is_float(dtype: DType) -> bool {
    dtype == DType::F32
}

fn is_integer(dtype: DType) -> bool {
    matches!(dtype, DType::I64 | DType::I32)
}

impl Lists {
    fn new(signature: &Signature<'_>, bounds: [Column; 4], score: Column, class: Column) -> Lists {
        Lists {
            bounds,
            score,
            class,
            first_class: 0.0,
            count: None,
            scale: [1.0; 2],
            classes: signature.numbered_classes(),
            inputs: Vec::new(),
        }
    }

    /// For boxes in an output of their own.
    fn columns_of_boxes(output: usize) -> [Column; 4] {
        [0, 1, 2, 3].map(|column| Column { output, column, width: 4 })
    }

    fn fitted(self, (mean, std): ([f32; 3], [f32; 3]), fit: Fit, labels: Labels) -> Fitted {
        Fitted {
            head: Box::new(self),
            fit,
            order: ChannelOrder::Rgb,
            mean,
            std,
            score_threshold: 0.25,
            iou_threshold: 0.7,
            labels,
        }
    }
}

/// RT-DETR, D-FINE and DEIM as their authors export them: stretched, RGB, levels divided by 255.
pub fn fit_detr_lists(signature: &Signature<'_>) -> Result<Fitted, String> {
    const SIZES: &str = "orig_target_sizes";
    let size = [signature.width as f32, signature.height as f32];
    let sizes = signature.input_of(SIZES, &size)?;
    let found = ["boxes", "scores", "labels"].map(|name| signature.output(name));
    let [Some(boxes), Some(scores), Some(labels)] = found else {
        return Err(format!("it needs the outputs labels, boxes and scores, but there are {}", signature.describe()));
    };
    if !(holds_rows(signature, boxes, 4, is_float) && holds_rows(signature, scores, 1, is_float)) {
        return Err(format!("its outputs are no lists of boxes and scores, but {}", signature.describe()));
    }
    let head = Lists::new(signature, Lists::columns_of_boxes(boxes), Column::whole(scores), Column::whole(labels));
    // The published networks were trained on COCO; what else they know is not said in the file.
    Ok(Lists { inputs: vec![sizes], ..head }.fitted(super::UNIT, Fit::Stretch, Labels::coco()))
}

/// torchvision's detectors, which resize and standardise inside: RGB, levels divided by 255.
pub fn fit_torchvision(signature: &Signature<'_>) -> Result<Fitted, String> {
    let wrong = || format!("it needs boxes [K, 4], labels [K] and scores [K], but there are {}", signature.describe());
    if signature.outputs.len() != 3 || !signature.further_inputs().is_empty() {
        return Err(wrong());
    }
    let only = |width, is_type| {
        let mut fitting = (0..3).filter(|&i| holds_rows(signature, i, width, is_type));
        fitting.next().filter(|_| fitting.next().is_none())
    };
    let boxes = only(4, is_float).ok_or_else(wrong)?;
    let labels = only(1, is_integer).ok_or_else(wrong)?;
    let scores = (0..3).find(|&i| i != boxes && i != labels).ok_or_else(wrong)?;
    if !holds_rows(signature, scores, 1, is_float) {
        return Err(wrong());
    }
    let head = Lists::new(signature, Lists::columns_of_boxes(boxes), Column::whole(scores), Column::whole(labels));
    Ok(Lists { first_class: 1.0, ..head }.fitted(super::UNIT, Fit::LetterboxTopLeft { pad: 0 }, Labels::default()))
}

/// TensorFlow's object detection API: levels 0 to 255, stretched.
pub fn fit_tf_detection(signature: &Signature<'_>) -> Result<Fitted, String> {
    let output = |name: &str| {
        let is_called = |(found, _): &(&str, &[usize])| found.split(':').next() == Some(name);
        signature.outputs.iter().position(is_called).ok_or_else(|| format!("it has no output {name}"))
    };
    let boxes = output("detection_boxes")?;
    let (score, class) = (output("detection_scores")?, output("detection_classes")?);
    let [y0, x0, y1, x1] = Lists::columns_of_boxes(boxes);
    let head = Lists {
        first_class: 1.0,
        count: Some(output("num_detections")?),
        scale: [signature.width as f32, signature.height as f32],
        ..Lists::new(signature, [x0, y0, x1, y1], Column::whole(score), Column::whole(class))
    };
    Ok(head.fitted(super::LEVELS, Fit::Stretch, Labels::default()))
}

/// PP-YOLOE with its suppression: stretched, RGB, mean and deviation of ImageNet.
pub fn fit_pp_yoloe_nms(signature: &Signature<'_>) -> Result<Fitted, String> {
    let wrong = || format!("it needs rows [K, 6] and a count, but there are {}", signature.describe());
    if signature.outputs.len() != 2 {
        return Err(wrong());
    }
    let rows = (0..2).find(|&i| holds_rows(signature, i, 6, is_float)).ok_or_else(wrong)?;
    let count = 1 - rows;
    if !holds_rows(signature, count, 1, is_integer) {
        return Err(wrong());
    }
    let column = |column| Column { output: rows, column, width: 6 };
    let mut head = Lists::new(signature, [2, 3, 4, 5].map(column), column(1), column(0));
    head.count = Some(count);
    head.inputs = super::decoded_tables::paddle_inputs(signature)?;
    if head.inputs.is_empty() && !signature.named {
        return Err("it has no input scale_factor".to_string());
    }
    Ok(head.fitted(IMAGENET, Fit::Stretch, Labels::default()))
}

/// YOLOv7 with its suppression: letterboxed in the middle, RGB, levels divided by 255.
pub fn fit_yolo_v7_nms(signature: &Signature<'_>) -> Result<Fitted, String> {
    if signature.outputs.len() != 1 || !holds_rows(signature, 0, 7, is_float) {
        return Err(format!("it needs rows [K, 7], but there are {}", signature.describe()));
    }
    let is_rank_2 = signature.declared(0).is_some_and(|d| d.dims.len() == 2);
    if !is_rank_2 && !signature.named {
        return Err("its rows have a batch".to_string());
    }
    let column = |column| Column { output: 0, column, width: 7 };
    let head = Lists::new(signature, [1, 2, 3, 4].map(column), column(6), column(5));
    Ok(head.fitted(super::UNIT, Fit::LetterboxCentre { pad: 114 }, Labels::coco()))
}

impl Head for Lists {
    fn stem(&self) -> &'static str {
        "lists"
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn anchors(&self) -> usize {
        MAX_ROWS
    }

    fn inputs(&self) -> Vec<(String, Tensor)> {
        self.inputs.clone()
    }

    fn check(&self, outputs: &[OutputRef<'_>]) -> Result<(), String> {
        let mut rows = None;
        for column in self.bounds.iter().chain([&self.score, &self.class]) {
            let shape = &outputs[column.output].view.shape;
            let Some(found) = rows_of(outputs[column.output].view, column.width) else {
                return Err(format!(
                    "output {} should be a list of rows of {}, but has shape {shape:?}",
                    column.output, column.width
                ));
            };
            if *rows.get_or_insert(found.rows) != found.rows || found.rows > MAX_ROWS {
                return Err(format!(
                    "output {} has {} rows where others have another number",
                    column.output, found.rows
                ));
            }
        }
        match self.count {
            Some(count) if outputs[count].view.is_empty() => {
                Err(format!("output {count} should hold the count, but is empty"))
            }
            _ => Ok(()),
        }
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        let column =
            |c: Column| rows_of(outputs[c.output].view, c.width).map(|m| (outputs[c.output].values, m, c.column));
        let (Some(score), Some(class)) = (column(self.score), column(self.class)) else { return };
        let [Some(left), Some(top), Some(right), Some(bottom)] = self.bounds.map(column) else { return };
        let at = |(values, rows, column): &(&[f32], Matrix, usize), row| rows.at(values, row, *column);
        let count = self.count.map_or(usize::MAX, |c| outputs[c].values[outputs[c].view.offset] as usize);
        for row in 0..score.1.rows.min(count) {
            let found = at(&score, row);
            let class = (at(&class, row) - self.first_class + 0.5).floor();
            if found >= filter.threshold && found > 0.0 && (0.0..self.classes as f32).contains(&class) {
                let [x, y] = self.scale;
                emit.push(RawDetection {
                    bounds: [at(&left, row) * x, at(&top, row) * y, at(&right, row) * x, at(&bottom, row) * y],
                    score: found,
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
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, late, noise, references};
    use super::*;
    use crate::decode::head::{Recognised, recognise};
    use crate::infer::graph::{Fact, Graph};

    fn further_input(g: &mut Graph, name: &str, dtype: DType, shape: &[usize]) {
        let fact = Fact { dtype, ..Fact::f32(shape) };
        let id = g.add_value(name, fact);
        g.inputs.push(id);
    }

    /// Compares with rows read by hand: `row(r)` gives class, score and box of row r.
    fn check(r: &Recognised, tables: &[Table], rows: usize, row: impl Fn(usize) -> (f64, f64, [f64; 4])) {
        let expected: Vec<Expected> = (0..rows)
            .map(|r| (r, row(r)))
            .filter(|(_, (class, score, _))| *class >= 0.0 && *score >= 0.3)
            .map(|(r, (class, score, bounds))| (r, class as usize, score, bounds))
            .collect();
        references(tables, |outputs| r.head.check(outputs).unwrap());
        assert_same(&decode(&*r.head, tables, 0.3, false), &expected, 0.3);
        assert_eq!(r.head.suppression(), Suppression::None);
    }

    #[test]
    fn lists_of_transformers() {
        for batch in [false, true] {
            let shape = |columns: &[usize]| [if batch { &[1][..] } else { &[] }, columns].concat();
            let (one, four) = (shape(&[9]), shape(&[9, 4]));
            let mut g =
                graph(96, 64, &[("labels", &one, &["Mod"]), ("boxes", &four, &["Mul"]), ("scores", &one, &["TopK"])]);
            assert!(recognise(&g, None).is_err(), "without the sizes");
            further_input(&mut g, "orig_target_sizes", DType::I64, &[1, 2]);
            let r = recognise(&g, None).unwrap();
            assert_eq!((r.name, r.head.inputs()[0].1.as_i64()), ("detr_lists", Some(&[96, 64][..])));
            let mut next = noise(3);
            let tables = [
                Table::new(&one, |_| (next() * 80.0).floor()),
                Table::new(&four, |_| next() * 90.0),
                Table::new(&one, |_| next()),
            ];
            let at = |t: usize, index: &[usize]| tables[t].at(&[if batch { &[0][..] } else { &[] }, index].concat());
            check(&r, &tables, 9, |n| (at(0, &[n]), at(2, &[n]), [0, 1, 2, 3].map(|k| at(1, &[n, k]))));
        }
    }

    #[test]
    fn torchvision_counts_from_one_and_its_rows_depend_on_the_picture() {
        let mut g = graph(96, 64, &[("1", &[1, 4], &["Gather"]), ("2", &[1], &["Gather"]), ("3", &[1], &["Gather"])]);
        late(&mut g, 0, DType::F32, &[None, Some(4)]);
        late(&mut g, 1, DType::F32, &[None]);
        late(&mut g, 2, DType::I64, &[None]);
        let r = recognise(&g, None).unwrap();
        assert_eq!(r.name, "torchvision");
        for rows in [0, 1, 7] {
            let mut next = noise(rows as u32);
            let tables = [
                Table::new(&[rows, 4], |_| next() * 90.0),
                Table::new(&[rows], |_| 0.4 + 0.5 * next()),
                Table::new(&[rows], |at| (at[0] % 3) as f32),
            ];
            if rows == 0 {
                references(&tables, |outputs| r.head.check(outputs).unwrap());
                assert!(decode(&*r.head, &tables, 0.0, false).is_empty());
            } else if rows > 1 {
                // Class 0 is the background.
                let row = |n: usize| {
                    (tables[2].at(&[n]) - 1.0, tables[1].at(&[n]), [0, 1, 2, 3].map(|k| tables[0].at(&[n, k])))
                };
                check(&r, &tables, rows, row);
            }
        }
        // Lists of different lengths.
        let wrong = [Table::new(&[3, 4], |_| 0.5), Table::new(&[2], |_| 0.5), Table::new(&[3], |_| 1.0)];
        references(&wrong, |outputs| assert!(r.head.check(outputs).unwrap_err().contains("rows")));
        let wrong = [Table::new(&[3, 5], |_| 0.5), Table::new(&[3], |_| 0.5), Table::new(&[3], |_| 1.0)];
        references(&wrong, |outputs| assert!(r.head.check(outputs).unwrap_err().contains("[3, 5]")));
    }

    #[test]
    fn tensorflow_counts_its_rows() {
        let outputs: [(&str, &[usize], &[&'static str]); 4] = [
            ("detection_boxes:0", &[1, 8, 4], &["Mul"]),
            ("detection_classes:0", &[1, 8], &["Add"]),
            ("detection_scores:0", &[1, 8], &["TopK"]),
            ("num_detections:0", &[1], &["Cast"]),
        ];
        let r = recognise(&graph(96, 64, &outputs), None).unwrap();
        assert_eq!(r.name, "tf_detection");
        let mut next = noise(8);
        let tables = [
            Table::new(&[1, 8, 4], |_| next()),
            Table::new(&[1, 8], |at| (at[1] % 5) as f32 + 1.0),
            Table::new(&[1, 8], |_| 0.2 + 0.8 * next()),
            Table::new(&[1], |_| 6.0),
        ];
        check(&r, &tables, 6, |n| {
            let b = |k: usize| tables[0].at(&[0, n, k]);
            let bounds = [b(1) * 96.0, b(0) * 64.0, b(3) * 96.0, b(2) * 64.0];
            (tables[1].at(&[0, n]) - 1.0, tables[2].at(&[0, n]), bounds)
        });
    }

    #[test]
    fn rows_with_the_class_in_front_or_behind() {
        let mut g = graph(96, 64, &[("rows", &[1, 6], &["Gather"]), ("count", &[1], &["Cast"])]);
        late(&mut g, 0, DType::F32, &[None, Some(6)]);
        let count = g.outputs[1];
        g.values[count.0].fact = Fact { dtype: DType::I32, ..Fact::f32(&[1]) };
        g.declared_outputs[1] = None;
        further_input(&mut g, "scale_factor", DType::F32, &[1, 2]);
        let r = recognise(&g, None).unwrap();
        assert_eq!((r.name, r.head.inputs()[0].1.as_f32()), ("pp_yoloe_nms", Some(&[1.0, 1.0][..])));
        let mut next = noise(6);
        let rows = Table::new(&[5, 6], |at| match at[1] {
            // No class where nothing was found.
            0 => at[0] as f32 - 1.0,
            1 => next(),
            _ => next() * 90.0,
        });
        let tables = [rows, Table::new(&[1], |_| 5.0)];
        let v = |n: usize, k: usize| tables[0].at(&[n, k]);
        check(&r, &tables, 5, |n| (v(n, 0), v(n, 1), [2, 3, 4, 5].map(|k| v(n, k))));

        let mut g = graph(96, 64, &[("output", &[1, 7], &["Concat"])]);
        late(&mut g, 0, DType::F32, &[None, Some(7)]);
        let r = recognise(&g, None).unwrap();
        assert_eq!(r.name, "yolo_v7_nms");
        let table = Table::new(&[6, 7], |at| match at[1] {
            0 => 0.0,
            5 => (next() * 80.0).floor(),
            6 => next(),
            _ => next() * 90.0,
        });
        let tables = [table];
        let v = |n: usize, k: usize| tables[0].at(&[n, k]);
        check(&r, &tables, 6, |n| (v(n, 5), v(n, 6), [1, 2, 3, 4].map(|k| v(n, k))));
    }
}
