//! YOLO-NAS, DAMO-YOLO and PP-YOLOE without suppression in the graph: boxes `[1, N, 4]`, corners x0 y0 x1 y1 in pixels of
//! the input, and scores `[1, N, C]`, probabilities without a background; one anchor a cell at strides 8, 16, 32. Decoded
//! by `ssd`.
//!
//! The three have the same outputs and want the picture prepared differently, so that a file without a name for its head
//! is refused, and the error lists them. PP-YOLOE gives itself away by its input `scale_factor`; it may have its scores as
//! `[1, C, N]`. Aharon et al., "Super-Gradients"; Xu et al., "DAMO-YOLO", arXiv 2211.15444; Xu et al., "PP-YOLOE",
//! arXiv 2203.16250.

use super::ssd::Ssd;
use crate::convert::ChannelOrder;
use crate::decode::head::{Fitted, Signature, cell_count, grids};
use crate::decode::labels::Labels;
use crate::infer::tensor::Tensor;
use crate::letterbox::Fit;

/// Input of PP-YOLOE that its boxes are divided by: height, then width.
const SCALE_FACTOR: &str = "scale_factor";
/// Input of some PP-YOLOE: height and width of the picture.
const IM_SHAPE: &str = "im_shape";

/// YOLO-NAS: letterboxed in the middle, RGB, levels divided by 255.
pub fn fit_yolo_nas(signature: &Signature<'_>) -> Result<Fitted, String> {
    Ok(fitted(tables(signature, false)?, super::UNIT, Fit::LetterboxCentre { pad: 114 }))
}

/// DAMO-YOLO: letterboxed at the top left of black, RGB, levels 0 to 255.
pub fn fit_damo_yolo(signature: &Signature<'_>) -> Result<Fitted, String> {
    Ok(fitted(tables(signature, false)?, super::LEVELS, Fit::LetterboxTopLeft { pad: 0 }))
}

/// PP-YOLOE: stretched, RGB, mean and deviation of ImageNet.
pub fn fit_pp_yoloe(signature: &Signature<'_>) -> Result<Fitted, String> {
    let mut head = tables(signature, true)?;
    head.inputs = paddle_inputs(signature)?;
    Ok(fitted(head, super::lists::IMAGENET, Fit::Stretch))
}

/// Values of the inputs beside the picture that Paddle's detectors have: boxes in pixels of the network's input.
///
/// # Errors
/// When there is another input.
pub(super) fn paddle_inputs(signature: &Signature<'_>) -> Result<Vec<(String, Tensor)>, String> {
    let size = [signature.height as f32, signature.width as f32];
    let value = |name| match name {
        SCALE_FACTOR => signature.input_of(name, &[1.0; 2]),
        IM_SHAPE => signature.input_of(name, &size),
        other => Err(format!("nothing is known of its input '{other}'")),
    };
    signature.further_inputs().into_iter().map(|(name, _)| value(name)).collect()
}

fn fitted(head: Ssd, (mean, std): ([f32; 3], [f32; 3]), fit: Fit) -> Fitted {
    Fitted {
        labels: Labels::usual(head.classes),
        head: Box::new(head),
        fit,
        order: ChannelOrder::Rgb,
        mean,
        std,
        score_threshold: 0.25,
        iou_threshold: 0.7,
    }
}

fn tables(signature: &Signature<'_>, may_transpose: bool) -> Result<Ssd, String> {
    signature.check_task(&["detect"])?;
    let anchors = cell_count(&grids(signature.width, signature.height, &[8, 16, 32]));
    let wrong = || {
        format!("it needs boxes [1, {anchors}, 4] and scores [1, {anchors}, C], but there are {}", signature.describe())
    };
    let [(_, a), (_, b)] = signature.outputs[..] else { return Err(wrong()) };
    let is_boxes = |shape: &[usize]| *shape == [1, anchors, 4];
    let (boxes, scores) = match (is_boxes(a), is_boxes(b)) {
        (true, false) => (0, 1),
        (false, true) => (1, 0),
        (true, true) => return Err("of its two outputs either could be the boxes".to_string()),
        (false, false) => return Err(wrong()),
    };
    let (classes, classes_first) = match *signature.outputs[scores].1 {
        [1, n, classes] if n == anchors && classes > 0 => (classes, false),
        [1, classes, n] if n == anchors && classes > 0 && may_transpose => (classes, true),
        _ => return Err(wrong()),
    };
    if signature.origins(boxes).contains(&"Conv") || signature.origins(scores).contains(&"Conv") {
        return Err("its boxes or scores are not decoded in the graph".to_string());
    }
    if !signature.named && signature.origins(scores).contains(&"Softmax") {
        return Err("its scores come from a softmax, as if there were a background".to_string());
    }
    signature.check_classes(classes)?;
    Ok(Ssd { classes_first, ..Ssd::decoded(scores, boxes, anchors, classes) })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use crate::decode::head::{DecodeError, recognise};
    use crate::infer::graph::Fact;

    const ANCHORS: usize = 13 * 8 + 7 * 4 + 4 * 2;

    #[test]
    fn boxes_by_definition() {
        for (name, classes_first) in
            [("yolo_nas", false), ("damo_yolo", false), ("pp_yoloe", false), ("pp_yoloe", true)]
        {
            let scores_shape = if classes_first { [1, 7, ANCHORS] } else { [1, ANCHORS, 7] };
            let outputs: [(&str, &[usize], &[&'static str]); 2] =
                [("boxes", &[1, ANCHORS, 4], &["Mul"]), ("scores", &scores_shape, &["Sigmoid"])];
            let r = recognise(&graph(100, 60, &outputs), Some(name)).unwrap();
            let mut next = noise(5);
            let tables = [Table::new(&[1, ANCHORS, 4], |_| next() * 90.0), Table::new(&scores_shape, |_| next())];
            let mut expected: Vec<Expected> = Vec::new();
            for a in 0..ANCHORS {
                let p = |c: usize| tables[1].at(&if classes_first { [0, c, a] } else { [0, a, c] });
                let best = (0..7).max_by(|&x, &y| p(x).total_cmp(&p(y))).unwrap();
                if p(best) >= 0.9 {
                    expected.push((a, best, p(best), [0, 1, 2, 3].map(|k| tables[0].at(&[0, a, k]))));
                }
            }
            assert_same(&decode(&*r.head, &tables, 0.9, false), &expected, 0.9);
        }
    }

    #[test]
    fn only_a_further_input_tells_them_apart() {
        let outputs: [(&str, &[usize], &[&'static str]); 2] =
            [("boxes", &[1, ANCHORS, 4], &["Mul"]), ("scores", &[1, ANCHORS, 7], &["Sigmoid"])];
        let mut g = graph(100, 60, &outputs);
        let error = recognise(&g, None).unwrap_err();
        let listed = "yolo_nas|damo_yolo|pp_yoloe";
        assert!(matches!(&error, DecodeError::Ambiguous { candidates, .. } if candidates == listed), "{error}");
        let scale = g.add_value("scale_factor", Fact::f32(&[1, 2]));
        g.inputs.push(scale);
        let r = recognise(&g, None).unwrap();
        let inputs = r.head.inputs();
        assert_eq!((r.name, inputs.len(), &inputs[0].0[..]), ("pp_yoloe", 1, "scale_factor"));
        assert_eq!(inputs[0].1.as_f32(), Some(&[1.0, 1.0][..]));
        let other = g.add_value("threshold", Fact::f32(&[1]));
        g.inputs.push(other);
        let error = recognise(&g, Some("pp_yoloe")).unwrap_err().to_string();
        assert!(error.contains("'threshold'"), "{error}");
    }
}
