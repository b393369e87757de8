//! Classifiers: `[1, C]`, a number a class. The five best classes come out as detections over the whole picture. On the CPU.
//!
//! Numbers are probabilities where the graph ends in Softmax or Sigmoid, else logits of which the softmax is taken. The
//! picture is stretched to the input, without the cropping that is usual in training: what is at its edges counts too.

use super::lists::IMAGENET;
use crate::convert::ChannelOrder;
use crate::decode::RawDetection;
use crate::decode::head::{Fitted, Head, OutputRef, ScoreFilter, Signature, Suppression};
use crate::decode::labels::Labels;
use crate::decode::scan::softmax_share;
use crate::letterbox::Fit;

/// Classes that come out.
const BEST: usize = 5;

#[derive(Clone, Debug)]
struct Classifier {
    classes: usize,
    /// Values leave the network as probabilities.
    activated: bool,
    /// Width and height of the network's input.
    input_px: [usize; 2],
}

/// RGB; levels divided by 255 where metadata of the ultralytics exporter name the task or the input is gray, else mean and
/// deviation of ImageNet.
pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    signature.check_task(&["classify"])?;
    let classes = signature.single(2)?[1];
    if classes < 2 {
        return Err(format!("{classes} numbers are no choice of classes"));
    }
    signature.check_classes(classes)?;
    let origins = signature.origins(0);
    let is_unit = signature.metadata("task").is_some() || signature.channels == 1;
    let (mean, std) = if is_unit { super::UNIT } else { IMAGENET };
    Ok(Fitted {
        head: Box::new(Classifier {
            classes,
            activated: !origins.is_empty() && origins.iter().all(|o| matches!(*o, "Softmax" | "Sigmoid")),
            input_px: [signature.width, signature.height],
        }),
        fit: Fit::Stretch,
        order: ChannelOrder::Rgb,
        mean,
        std,
        score_threshold: 0.01,
        iou_threshold: 0.7,
        labels: Labels::default(),
    })
}

impl Head for Classifier {
    fn stem(&self) -> &'static str {
        "classifier"
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn anchors(&self) -> usize {
        BEST
    }

    fn decode_twin(&self, outputs: &[OutputRef<'_>], filter: ScoreFilter, emit: &mut Vec<RawDetection>) {
        let OutputRef { values, view } = outputs[0];
        let value = |class: usize| values[view.offset + class * view.strides[1]];
        let mut order: Vec<usize> = (0..self.classes).filter(|&c| !value(c).is_nan()).collect();
        // Equal values in the order of their numbers.
        order.sort_by(|&a, &b| value(b).total_cmp(&value(a)));
        for (anchor, &class) in order.iter().take(BEST).enumerate() {
            let score = match self.activated {
                true => value(class),
                false => softmax_share((0..self.classes).map(value), value(class)),
            };
            if score >= filter.threshold {
                emit.push(RawDetection {
                    bounds: [0.0, 0.0, self.input_px[0] as f32, self.input_px[1] as f32],
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
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use crate::decode::head::recognise;

    #[test]
    fn the_five_best_classes() {
        for (last, classes) in [("Gemm", 13), ("Softmax", 13), ("Gemm", 3)] {
            let r = recognise(&graph(96, 64, &[("output", &[1, classes], &[last])]), None).unwrap();
            assert_eq!((r.name, r.head.classes()), ("classifier", classes));
            let mut next = noise(classes as u32);
            let table = Table::new(&[1, classes], |_| next());
            let v = |c: usize| table.at(&[0, c]);
            let sum: f64 = (0..classes).map(|c| v(c).exp()).sum();
            let mut order: Vec<usize> = (0..classes).collect();
            order.sort_by(|&a, &b| v(b).total_cmp(&v(a)));
            let expected: Vec<Expected> = order
                .iter()
                .take(5)
                .enumerate()
                .map(|(n, &c)| (n, c, if last == "Softmax" { v(c) } else { v(c).exp() / sum }, [0.0, 0.0, 96.0, 64.0]))
                .collect();
            assert_same(&decode(&*r.head, std::slice::from_ref(&table), 0.0, false), &expected, 0.0);
        }
    }

    #[test]
    fn another_task_is_refused() {
        let mut g = graph(96, 64, &[("output", &[1, 10], &["Gemm"])]);
        g.metadata.insert("task".into(), "depth".into());
        assert!(recognise(&g, None).is_err());
    }
}
