//! YOLOv3 of the ONNX model zoo, with its suppression in the graph: boxes `[1, N, 4]` as y0 x0 y1 x1 in pixels of
//! `image_shape`, scores `[1, C, N]`, and what was selected, `[K, 3]` or `[1, K, 3]`: picture, class, box. K depends on the
//! picture. On the CPU. Redmon and Farhadi, "YOLOv3", arXiv 1804.02767.

use crate::convert::ChannelOrder;
use crate::decode::RawDetection;
use crate::decode::head::{Fitted, Head, OutputRef, ScoreFilter, Signature, Suppression};
use crate::decode::labels::Labels;
use crate::decode::scan::Matrix;
use crate::infer::plan::View;
use crate::infer::tensor::Tensor;
use crate::letterbox::Fit;

#[derive(Clone, Debug)]
struct Selected {
    boxes: usize,
    scores: usize,
    selected: usize,
    classes: usize,
    anchors: usize,
    image_shape: (String, Tensor),
}

/// Letterboxed in the middle of grey, RGB, levels divided by 255.
pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    let image_shape = signature.input_of("image_shape", &[signature.height as f32, signature.width as f32])?;
    let wrong =
        || format!("it needs boxes [1, N, 4], scores [1, C, N] and [K, 3], but there are {}", signature.describe());
    if signature.outputs.len() != 3 {
        return Err(wrong());
    }
    let find = |is_it: &dyn Fn(&[Option<usize>]) -> bool| {
        (0..3).find(|&i| signature.declared(i).is_some_and(|d| is_it(&d.dims))).ok_or_else(wrong)
    };
    let boxes = find(&|dims| matches!(dims, [Some(1), Some(_), Some(4)]))?;
    let Some(&[_, anchors, _]) = signature.outputs.get(boxes).map(|o| o.1) else { return Err(wrong()) };
    let scores = find(&|dims| matches!(*dims, [Some(1), Some(_), Some(n)] if n == anchors))?;
    let &[_, classes, _] = signature.outputs[scores].1 else { return Err(wrong()) };
    let selected = (0..3).find(|&i| i != boxes && i != scores).ok_or_else(wrong)?;
    if !signature.declared(selected).is_some_and(|d| d.dims.last().is_some_and(|n| n.is_none_or(|n| n == 3))) {
        return Err(wrong());
    }
    let (mean, std) = super::UNIT;
    Ok(Fitted {
        head: Box::new(Selected { boxes, scores, selected, classes, anchors, image_shape }),
        fit: Fit::LetterboxCentre { pad: 128 },
        order: ChannelOrder::Rgb,
        mean,
        std,
        score_threshold: 0.25,
        iou_threshold: 0.5,
        labels: Labels::usual(classes),
    })
}

impl Selected {
    /// The rows of three numbers; `None` for another shape.
    fn rows(view: &View) -> Option<Matrix> {
        match view.shape[..] {
            [_, 3] => Some(Matrix::of(view, 0, 1)),
            [1, _, 3] => Some(Matrix::of(view, 1, 2)),
            _ => None,
        }
    }
}

impl Head for Selected {
    fn stem(&self) -> &'static str {
        "yolo_v3_selected"
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn anchors(&self) -> usize {
        self.anchors
    }

    fn inputs(&self) -> Vec<(String, Tensor)> {
        vec![self.image_shape.clone()]
    }

    fn check(&self, outputs: &[OutputRef<'_>]) -> Result<(), String> {
        match Selected::rows(outputs[self.selected].view) {
            Some(_) => Ok(()),
            None => Err(format!(
                "output {} should be rows of picture, class and box, but has shape {:?}",
                self.selected, outputs[self.selected].view.shape
            )),
        }
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        let Some(rows) = Selected::rows(outputs[self.selected].view) else { return };
        let boxes = Matrix::of(outputs[self.boxes].view, 1, 2);
        let scores = Matrix::of(outputs[self.scores].view, 2, 1);
        for row in 0..rows.rows {
            let [picture, class, anchor] = [0, 1, 2].map(|k| rows.at(outputs[self.selected].values, row, k));
            let is_inside = |v: f32, end: usize| (0.0..end as f32).contains(&v);
            // Rows of -1 pad what was not found.
            if picture != 0.0 || !is_inside(class, self.classes) || !is_inside(anchor, self.anchors) {
                continue;
            }
            let (class, anchor) = (class as usize, anchor as usize);
            let score = scores.at(outputs[self.scores].values, anchor, class);
            if score >= filter.threshold {
                let [y0, x0, y1, x1] = [0, 1, 2, 3].map(|k| boxes.at(outputs[self.boxes].values, anchor, k));
                emit.push(RawDetection {
                    bounds: [x0, y0, x1, y1],
                    score,
                    class: class as u32,
                    anchor: anchor as u32,
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
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise, references};
    use crate::decode::head::recognise;
    use crate::infer::graph::{Declared, Fact};
    use crate::infer::tensor::DType;

    #[test]
    fn what_was_selected() {
        for batch in [false, true] {
            let outputs: [(&str, &[usize], &[&'static str]); 3] = [
                ("boxes", &[1, 40, 4], &["Mul"]),
                ("scores", &[1, 7, 40], &["Mul"]),
                ("indices", &[1, 3], &["Gather"]),
            ];
            let mut g = graph(96, 64, &outputs);
            let selected = g.outputs[2];
            g.values[selected.0].fact = Fact::late();
            let dims = if batch { vec![Some(1), None, Some(3)] } else { vec![None, Some(3)] };
            g.declared_outputs = vec![None, None, Some(Declared { dtype: DType::I64, dims })];
            assert!(recognise(&g, None).is_err(), "without image_shape");
            let size = g.add_value("image_shape", Fact::f32(&[1, 2]));
            g.inputs.push(size);
            let r = recognise(&g, None).unwrap();
            assert_eq!((r.name, r.head.inputs()[0].1.as_f32()), ("yolo_v3_selected", Some(&[64.0, 96.0][..])));
            let mut next = noise(4);
            // Row r: class r mod 7 of box 39 - r; the last row is padding.
            let index = |at: &[usize]| match at[at.len() - 2..] {
                [11, _] => -1.0,
                [row, 1] => (row % 7) as f32,
                [row, 2] => (39 - row) as f32,
                _ => 0.0,
            };
            let shape: &[usize] = if batch { &[1, 12, 3] } else { &[12, 3] };
            let tables = [
                Table::new(&[1, 40, 4], |_| next() * 60.0),
                Table::new(&[1, 7, 40], |_| 0.3 + 0.6 * next()),
                Table::new(shape, index),
            ];
            references(&tables, |outputs| r.head.check(outputs).unwrap());
            let mut expected: Vec<Expected> = (0..11)
                .map(|row| {
                    let (class, anchor) = (row % 7, 39 - row);
                    let b = |k: usize| tables[0].at(&[0, anchor, k]);
                    (anchor, class, tables[1].at(&[0, class, anchor]), [b(1), b(0), b(3), b(2)])
                })
                .collect();
            expected.sort_by_key(|e| e.0);
            assert_same(&decode(&*r.head, &tables, 0.25, false), &expected, 0.25);
        }
    }
}
