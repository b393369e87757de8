//! Transformers whose queries are the detections: nothing is suppressed. On the CPU.
//!
//! - `rt_detr`: RT-DETR as the ultralytics exporter writes it. `[1, Q, 4+C]`, a row cx cy w h in 0 to 1, then class
//!   probabilities; newer versions write `[1, Q, 6]`, the best pairs of query and class: cx cy w h as before, score,
//!   class. Lv et al., "DETRs Beat YOLOs on Real-time Object Detection", arXiv 2304.08069.
//! - `detr`: `pred_logits` `[1, Q, C+1]` and `pred_boxes` `[1, Q, 4]`, boxes as above; the score is the softmax over the
//!   classes and, last, "no object". Carion et al., "End-to-End Object Detection with Transformers", arXiv 2005.12872.

use super::lists::IMAGENET;
use super::row_details::{LateTable, late_table};
use crate::convert::ChannelOrder;
use crate::decode::RawDetection;
use crate::decode::head::{Fitted, Head, OutputRef, ScoreFilter, Signature, Suppression, cell_count, grids};
use crate::decode::labels::Labels;
use crate::decode::scan::{Matrix, corners, scan, softmax_share};
use crate::infer::tensor::Tensor;
use crate::letterbox::Fit;

/// Queries that are read at most where the file leaves their number open.
const LATE_QUERIES: usize = 65_536;

/// Numbers of queries that published networks have.
const QUERIES: [usize; 3] = [100, 300, 900];

/// Columns of rows that `end_to_end` reads: boxes alone, with an angle, with COCO's keypoints.
const FINAL_COLUMNS: [usize; 3] = [6, 7, 57];

/// What stands beside a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scores {
    /// A probability of each class.
    Probabilities,
    /// A logit of each class, and a last one for "no object".
    Logits,
    /// One score and the number of its class.
    Chosen,
}

#[derive(Clone, Debug)]
struct Transformer {
    queries: usize,
    classes: usize,
    /// Output, and its first column.
    boxes: (usize, usize),
    scores: (usize, usize),
    kind: Scores,
    input_px: [usize; 2],
    inputs: Vec<(String, Tensor)>,
}

fn fitted(head: Transformer, (mean, std): ([f32; 3], [f32; 3])) -> Fitted {
    Fitted {
        labels: Labels::usual(head.classes),
        head: Box::new(head),
        fit: Fit::Stretch,
        order: ChannelOrder::Rgb,
        mean,
        std,
        score_threshold: 0.25,
        iou_threshold: 0.7,
    }
}

/// Stretched, RGB, levels divided by 255.
pub fn fit_rt_detr(signature: &Signature<'_>) -> Result<Fitted, String> {
    signature.check_task(&["detect"])?;
    let is_said = signature.named || signature.is_rt_detr();
    // The number of a class is an integer that was cast.
    let has_numbers = |columns: Option<usize>| columns.is_none_or(|n| n == 6) && signature.origins(0).contains(&"Cast");
    let (queries, columns) = match (signature.single(3), late_table(signature)) {
        (Ok(shape), _) => (shape[1], shape[2]),
        // A shape that depends on the picture: the choice of the queries is computed at run time.
        (_, Some(LateTable { rows, columns, prototypes: None, .. })) if is_said => {
            let named = signature.named_classes().map(|classes| 4 + classes);
            let columns = columns
                .or_else(|| has_numbers(None).then_some(6))
                .or(named)
                .ok_or("neither its output nor metadata tell the number of classes")?;
            (rows.unwrap_or(LATE_QUERIES), columns)
        }
        (Err(why), _) => return Err(why),
    };
    if columns < 5 || queries == 0 {
        return Err(format!("{columns} columns leave no class after the box"));
    }
    let is_grid = cell_count(&grids(signature.width, signature.height, &[8, 16, 32])) == queries;
    if !is_said && (!QUERIES.contains(&queries) || is_grid) {
        return Err(format!("{queries} rows are not the usual numbers of queries"));
    }
    let is_chosen = has_numbers(Some(columns));
    let classes = if is_chosen { signature.numbered_classes() } else { columns - 4 };
    if !is_said && FINAL_COLUMNS.contains(&columns) && signature.named_classes() != Some(classes) {
        return Err(format!("rows of {columns} numbers may be final ones: box, score, class and more"));
    }
    signature.check_classes(classes)?;
    let head = Transformer {
        queries,
        classes,
        boxes: (0, 0),
        scores: (0, 4),
        kind: if is_chosen { Scores::Chosen } else { Scores::Probabilities },
        input_px: [signature.width, signature.height],
        inputs: Vec::new(),
    };
    Ok(fitted(head, super::UNIT))
}

/// Stretched, RGB, mean and deviation of ImageNet; a `pixel_mask` is all ones.
pub fn fit_detr(signature: &Signature<'_>) -> Result<Fitted, String> {
    let wrong = || format!("it needs pred_logits and pred_boxes, but there are {}", signature.describe());
    let boxes = signature.output("pred_boxes").ok_or_else(wrong)?;
    // Other transformers call theirs logits too, and have no "no object" among them.
    let logits = signature.output("pred_logits").or(signature.output("logits").filter(|_| signature.named));
    let logits = logits.ok_or_else(wrong)?;
    let (&[1, queries, 4], &[1, rows, columns]) = (signature.outputs[boxes].1, signature.outputs[logits].1) else {
        return Err(wrong());
    };
    if rows != queries || columns < 2 {
        return Err(wrong());
    }
    signature.check_classes(columns - 1)?;
    let mask = |(name, shape): (&str, &[usize])| match name {
        "pixel_mask" => signature.input_of(name, &vec![1.0; shape.iter().product()]),
        other => Err(format!("nothing is known of its input '{other}'")),
    };
    let head = Transformer {
        queries,
        classes: columns - 1,
        boxes: (boxes, 0),
        scores: (logits, 0),
        kind: Scores::Logits,
        input_px: [signature.width, signature.height],
        inputs: signature.further_inputs().into_iter().map(mask).collect::<Result<_, _>>()?,
    };
    Ok(fitted(head, IMAGENET))
}

impl Head for Transformer {
    fn stem(&self) -> &'static str {
        "transformer"
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn anchors(&self) -> usize {
        self.queries
    }

    fn inputs(&self) -> Vec<(String, Tensor)> {
        self.inputs.clone()
    }

    fn check(&self, outputs: &[OutputRef<'_>]) -> Result<(), String> {
        let (boxes, columns) = match self.kind {
            Scores::Probabilities => (4 + self.classes, 4 + self.classes),
            Scores::Logits => (4, 1 + self.classes),
            Scores::Chosen => (6, 6),
        };
        for (output, width) in [(self.boxes.0, boxes), (self.scores.0, columns)] {
            match outputs[output].view.shape[..] {
                [1, queries, found] if queries <= self.queries && found == width => {}
                ref other => return Err(format!("output {output} should be rows of {width}, but has shape {other:?}")),
            }
        }
        Ok(())
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        let columns = |(output, first): (usize, usize), count| {
            let OutputRef { values, view } = outputs[output];
            (values, Matrix::of(view, 1, 2).columns(first, count))
        };
        let (box_values, boxes) = columns(self.boxes, 4);
        let (values, scores) = columns(self.scores, if self.kind == Scores::Chosen { 2 } else { self.classes });
        let mut found = |query: usize, class: usize, score: f32| {
            let size = self.input_px.map(|side| side as f32);
            let [cx, cy, w, h] = [0, 1, 2, 3].map(|k| boxes.at(box_values, query, k) * size[k % 2]);
            emit.push(RawDetection {
                bounds: corners(cx, cy, w, h),
                score,
                class: class as u32,
                anchor: query as u32,
                reserved: 0,
            });
        };
        match self.kind {
            Scores::Probabilities => scan(values, &scores, filter.threshold, filter.multi_label, |_| true, found),
            Scores::Chosen => {
                for query in 0..scores.rows {
                    let (score, class) = (scores.at(values, query, 0), scores.at(values, query, 1));
                    if score >= filter.threshold && (0.0..self.classes as f32).contains(&class) {
                        found(query, class as usize, score);
                    }
                }
            }
            // The threshold is one of shares: every query's best logits are looked at first.
            Scores::Logits => scan(
                values,
                &scores,
                f32::NEG_INFINITY,
                filter.multi_label,
                |_| true,
                |query, class, logit| {
                    let all = (0..=self.classes).map(|c| scores.at(values, query, c));
                    let share = softmax_share(all, logit);
                    if share >= filter.threshold {
                        found(query, class, share);
                    }
                },
            ),
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
    use crate::decode::head::recognise;
    use crate::infer::tensor::DType;

    /// Box of a row in pixels of a 96×64 input.
    fn bounds(v: impl Fn(usize) -> f64) -> [f64; 4] {
        let (cx, cy, w, h) = (v(0) * 96.0, v(1) * 64.0, v(2) * 96.0, v(3) * 64.0);
        [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0]
    }

    #[test]
    fn queries_with_probabilities() {
        for classes in [1, 5, 13] {
            let shape = [1, 100, 4 + classes];
            let r = recognise(&graph(96, 64, &[("output0", &shape, &["Concat"])]), None).unwrap();
            assert_eq!((r.name, r.head.classes(), r.head.suppression()), ("rt_detr", classes, Suppression::None));
            let mut next = noise(classes as u32);
            let table = Table::new(&shape, |_| next());
            let v = |q: usize, k: usize| table.at(&[0, q, k]);
            let expected: Vec<Expected> = (0..100)
                .map(|q| (q, (0..classes).max_by(|&a, &b| v(q, 4 + a).total_cmp(&v(q, 4 + b))).unwrap()))
                .map(|(q, c)| (q, c, v(q, 4 + c), bounds(|k| v(q, k))))
                .filter(|e| e.2 >= 0.7)
                .collect();
            assert_same(&decode(&*r.head, std::slice::from_ref(&table), 0.7, false), &expected, 0.7);
        }
    }

    #[test]
    fn queries_whose_number_depends_on_the_picture() {
        let mut g = graph(96, 64, &[("output0", &[1, 1, 1], &["Concat"])]);
        late(&mut g, 0, DType::F32, &[None; 3]);
        assert!(recognise(&g, None).is_err());
        g.metadata.insert("description".into(), "Ultralytics rtdetr-l model".into());
        assert!(recognise(&g, None).is_err(), "nothing tells the number of classes");
        g.metadata.insert("names".into(), "{0: 'a', 1: 'b', 2: 'c'}".into());
        let r = recognise(&g, None).expect("recognised");
        assert_eq!((r.name, r.head.classes()), ("rt_detr", 3));
        let mut next = noise(2);
        let table = Table::new(&[1, 11, 7], |_| next());
        references(std::slice::from_ref(&table), |outputs| r.head.check(outputs).expect("fits"));
        assert_eq!(decode(&*r.head, &[table], 0.0, false).len(), 11);
        references(&[Table::new(&[1, 11, 8], |_| 0.0)], |outputs| assert!(r.head.check(outputs).is_err()));
    }

    #[test]
    fn queries_with_logits_and_no_object() {
        let outputs: [(&str, &[usize], &[&'static str]); 2] =
            [("pred_logits", &[1, 20, 8], &["MatMul"]), ("pred_boxes", &[1, 20, 4], &["Sigmoid"])];
        let r = recognise(&graph(96, 64, &outputs), None).unwrap();
        assert_eq!((r.name, r.head.classes()), ("detr", 7));
        let mut next = noise(9);
        let logits = Table::new(&[1, 20, 8], |at| 6.0 * next() + if at[1] % 3 == 0 && at[2] == 7 { 9.0 } else { 0.0 });
        let tables = [logits, Table::new(&[1, 20, 4], |_| next())];
        let share = |q: usize, c: usize| {
            let l = |c: usize| tables[0].at(&[0, q, c]);
            l(c).exp() / (0..8).map(|c| l(c).exp()).sum::<f64>()
        };
        let expected: Vec<Expected> = (0..20)
            .map(|q| (q, (0..7).max_by(|&a, &b| share(q, a).total_cmp(&share(q, b))).unwrap()))
            .map(|(q, c)| (q, c, share(q, c), bounds(|k| tables[1].at(&[0, q, k]))))
            .filter(|e| e.2 >= 0.3)
            .collect();
        assert!(expected.iter().all(|e| e.0 % 3 != 0));
        assert_same(&decode(&*r.head, &tables, 0.3, false), &expected, 0.3);
    }

    #[test]
    fn queries_with_their_score_and_class() {
        let mut g = graph(96, 64, &[("output0", &[1, 300, 6], &["GatherElements", "TopK", "Cast"])]);
        g.metadata.insert("head".into(), "RTDETRDecoder".into());
        g.metadata.insert("names".into(), "{0: 'a', 1: 'b', 2: 'c'}".into());
        let r = recognise(&g, None).expect("recognised");
        assert_eq!((r.name, r.head.classes()), ("rt_detr", 3));
        late(&mut g, 0, DType::F32, &[None; 3]);
        let r = recognise(&g, None).expect("recognised");
        let mut next = noise(4);
        // Every fifth class is one too many.
        let table = Table::new(&[1, 300, 6], |at| if at[2] == 5 { (at[1] % 5).min(3) as f32 } else { next() });
        let v = |q: usize, k: usize| table.at(&[0, q, k]);
        let expected: Vec<Expected> = (0..300)
            .filter(|&q| v(q, 5) < 3.0 && v(q, 4) >= 0.4)
            .map(|q| (q, v(q, 5) as usize, v(q, 4), bounds(|k| v(q, k))))
            .collect();
        references(std::slice::from_ref(&table), |outputs| r.head.check(outputs).expect("fits"));
        assert_same(&decode(&*r.head, std::slice::from_ref(&table), 0.4, false), &expected, 0.4);
    }

    #[test]
    fn two_classes_look_like_final_rows() {
        let mut g = graph(96, 64, &[("output0", &[1, 300, 6], &["Concat"])]);
        assert_eq!(recognise(&g, None).unwrap().name, "end_to_end");
        assert_eq!(recognise(&g, Some("rt_detr")).unwrap().head.classes(), 2);
        g.metadata.insert("head".into(), "RTDETRDecoder".into());
        assert_eq!(recognise(&g, None).unwrap().name, "rt_detr");
    }
}
