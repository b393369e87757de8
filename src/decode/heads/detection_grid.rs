//! Darknet's `[detection]` (YOLOv1): a flat vector, no anchors. A form of `yolo_anchors`.
//!
//! With S = side²: `[S][classes]` class probabilities, `[S][boxes]` confidences, `[S][boxes][4]` boxes x y w h. Cell
//! (col, row): `cx = (col + x)/side·W`, `bw = w·W`, or `w²·W` with `sqrt`; score = confidence·probability, the
//! probabilities as they are, or their softmax. y and h alike.
//! Redmon et al., "You Only Look Once", arXiv 1506.02640.

use super::darknet;
use super::yolo_anchors::{AnchorMap, Numbers, Sizes, YoloAnchors};
use crate::decode::head::{Fitted, Signature};
use crate::infer::graph::DarknetLayout;

pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    let head = darknet::only_head(signature, "[detection]", |l| matches!(l, DarknetLayout::Detection { .. }))?;
    let DarknetLayout::Detection { side, boxes, square_root, softmax } = head.layout else {
        return Err("it needs a [detection] section".to_string());
    };
    let classes = head.classes;
    let (output, size) = darknet::map_of(signature, head, side * side * (classes + 5 * boxes))?;
    if size != [1, 1] {
        return Err(format!("a [detection] section needs a vector, not a map of {size:?}"));
    }
    let input_px = [signature.width, signature.height];
    // w²·W is (2w)²·W/4.
    let (sizes, share) = if square_root { (Sizes::Square, 0.25) } else { (Sizes::Linear, 1.0) };
    let map = AnchorMap {
        output,
        cols: side,
        rows: side,
        anchors_px: vec![input_px.map(|px| px as f32 * share); boxes],
        numbers: Numbers::Vector,
        scale_x_y: 1.0,
        activated: true,
        softmax,
        sizes,
        first: 0,
    };
    let suppression = darknet::suppression(&signature.graph.darknet_heads);
    Ok(darknet::fitted(signature, Box::new(YoloAnchors { classes, maps: vec![map], input_px, suppression })))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use crate::decode::head::recognise;
    use crate::infer::graph::{DarknetHead, DarknetLayout, DarknetNms};

    #[test]
    fn boxes_by_definition() {
        let (side, boxes, classes) = (3, 2, 4);
        let shape = [1, 9 * (4 + 10), 1, 1];
        for (square_root, softmax) in [(true, false), (false, true)] {
            let mut g = graph(96, 64, &[("vector", &shape, &["Conv"])]);
            g.darknet_heads.push(DarknetHead {
                output: g.outputs[0],
                classes,
                nms: DarknetNms::Greedy,
                layout: DarknetLayout::Detection { side, boxes, square_root, softmax },
            });
            let r = recognise(&g, None).unwrap();
            assert_eq!((r.name, r.head.anchors()), ("detection_grid", 18));
            let mut next = noise(8);
            let table = Table::new(&shape, |_| next());
            let v = |k: usize| table.at(&[0, k, 0, 0]);
            for multi_label in [false, true] {
                let mut expected: Vec<Expected> = Vec::new();
                for anchor in 0..18 {
                    let (b, cell) = (anchor / 9, anchor % 9);
                    let k = 9 * 4 + 9 * 2 + (cell * 2 + b) * 4;
                    let size = |x: f64| if square_root { x * x } else { x };
                    let cx = ((cell % 3) as f64 + v(k)) / 3.0 * 96.0;
                    let cy = ((cell / 3) as f64 + v(k + 1)) / 3.0 * 64.0;
                    let (w, h) = (size(v(k + 2)) * 96.0, size(v(k + 3)) * 64.0);
                    let sum: f64 = (0..4).map(|c| v(cell * 4 + c).exp()).sum();
                    let p = |c: usize| if softmax { v(cell * 4 + c).exp() / sum } else { v(cell * 4 + c) };
                    let mut scores: Vec<(usize, f64)> = (0..4).map(|c| (c, v(36 + cell * 2 + b) * p(c))).collect();
                    if !multi_label {
                        scores.sort_by(|x, y| y.1.total_cmp(&x.1));
                        scores.truncate(1);
                    }
                    let bounds = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
                    expected.extend(scores.iter().filter(|s| s.1 >= 0.2).map(|s| (anchor, s.0, s.1, bounds)));
                }
                assert_same(&decode(&*r.head, std::slice::from_ref(&table), 0.2, multi_label), &expected, 0.2);
            }
        }
    }
}
