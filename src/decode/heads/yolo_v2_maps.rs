//! YOLOv2 and Tiny YOLOv2 whose ONNX file ends in the raw map: what `region` decodes, with the anchors that the networks
//! were published with, and only by name: the map shows neither the anchors nor what the picture should be.
//!
//! `[1, 5·(5+C), h, w]`, anchors in cells: `yolo_v2_maps` with 20 classes those of Pascal VOC, otherwise of COCO (there
//! Tiny YOLOv2 has the same); `tiny_yolo_v2_maps` those of Tiny YOLOv2 for Pascal VOC. Redmon and Farhadi, "YOLO9000: Better,
//! Faster, Stronger", arXiv 1612.08242.

use super::region;
use super::yolo_anchors::YoloAnchors;
use crate::convert::ChannelOrder;
use crate::decode::head::{Fitted, Signature, Suppression};
use crate::decode::labels::Labels;
use crate::letterbox::Fit;

const VOC_CLASSES: usize = 20;

const VOC_ANCHORS: [[f32; 2]; 5] =
    [[1.3221, 1.73145], [3.19275, 4.00944], [5.05587, 8.09892], [9.47112, 4.84053], [11.2364, 10.0071]];
const COCO_ANCHORS: [[f32; 2]; 5] =
    [[0.57273, 0.677385], [1.87446, 2.06253], [3.33843, 5.47434], [7.88282, 3.52778], [9.77052, 9.16828]];
const TINY_VOC_ANCHORS: [[f32; 2]; 5] = [[1.08, 1.19], [3.42, 4.41], [6.63, 11.38], [9.42, 5.11], [16.62, 10.52]];

/// YOLOv2: stretched, RGB, levels divided by 255.
pub fn fit_v2(signature: &Signature<'_>) -> Result<Fitted, String> {
    fit(signature, super::UNIT, |classes| if classes == VOC_CLASSES { VOC_ANCHORS } else { COCO_ANCHORS })
}

/// Tiny YOLOv2: stretched, RGB, levels 0 to 255, which the published file divides itself.
pub fn fit_tiny(signature: &Signature<'_>) -> Result<Fitted, String> {
    fit(signature, super::LEVELS, |_| TINY_VOC_ANCHORS)
}

fn fit(
    signature: &Signature<'_>,
    (mean, std): ([f32; 3], [f32; 3]),
    anchors_of: fn(usize) -> [[f32; 2]; 5],
) -> Result<Fitted, String> {
    if !signature.named {
        return Err("its map does not show the anchors: it is decoded by name only".to_string());
    }
    if !signature.graph.darknet_heads.is_empty() {
        return Err("the file describes its heads itself".to_string());
    }
    let [1, channels, rows, cols] = *signature.single(4)? else {
        return Err(format!("it needs one map [1, 5·(5+C), h, w], but there are {}", signature.describe()));
    };
    if channels % 5 != 0 || channels <= 25 || rows == 0 || cols == 0 {
        return Err(format!("it needs one map [1, 5·(5+C), h, w], but there are {}", signature.describe()));
    }
    if signature.origins(0).iter().any(|o| ["Sigmoid", "Softmax", "Exp"].contains(o)) {
        return Err("its map is already activated".to_string());
    }
    let classes = channels / 5 - 5;
    signature.check_classes(classes)?;
    let map = region::map(signature, 0, [rows, cols], &anchors_of(classes), 4, true);
    let input_px = [signature.width, signature.height];
    Ok(Fitted {
        head: Box::new(YoloAnchors { classes, maps: vec![map], input_px, suppression: Suppression::Iou }),
        fit: Fit::Stretch,
        order: ChannelOrder::Rgb,
        mean,
        std,
        score_threshold: 0.3,
        iou_threshold: 0.45,
        labels: Labels::usual(classes),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use crate::decode::head::recognise;

    #[test]
    fn boxes_by_definition_and_only_by_name() {
        for (name, classes, anchors) in [
            (
                "yolo_v2_maps",
                20,
                [1.3221, 1.73145, 3.19275, 4.00944, 5.05587, 8.09892, 9.47112, 4.84053, 11.2364, 10.0071],
            ),
            (
                "yolo_v2_maps",
                3,
                [0.57273, 0.677385, 1.87446, 2.06253, 3.33843, 5.47434, 7.88282, 3.52778, 9.77052, 9.16828],
            ),
            ("tiny_yolo_v2_maps", 20, [1.08, 1.19, 3.42, 4.41, 6.63, 11.38, 9.42, 5.11, 16.62, 10.52]),
        ] {
            let shape = [1, 5 * (5 + classes), 2, 3];
            let g = graph(96, 64, &[("grid", &shape, &["Conv"])]);
            assert!(recognise(&g, None).unwrap_err().to_string().contains(name));
            let r = recognise(&g, Some(name)).unwrap();
            let mut next = noise(5);
            let table = Table::new(&shape, |_| next() * 6.0 - 2.0);
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            let mut expected: Vec<Expected> = Vec::new();
            for number in 0..30 {
                let (a, j, i) = (number / 6, number / 3 % 2, number % 3);
                let v = |k: usize| table.at(&[0, a * (5 + classes) + k, j, i]);
                let (cx, cy) = ((i as f64 + sigmoid(v(0))) * 32.0, (j as f64 + sigmoid(v(1))) * 32.0);
                let (w, h) = (v(2).exp() * anchors[2 * a] * 32.0, v(3).exp() * anchors[2 * a + 1] * 32.0);
                let sum: f64 = (0..classes).map(|c| v(5 + c).exp()).sum();
                let best = (0..classes).max_by(|&x, &y| v(5 + x).total_cmp(&v(5 + y))).unwrap();
                let score = sigmoid(v(4)) * v(5 + best).exp() / sum;
                if score >= 0.1 {
                    expected.push((number, best, score, [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0]));
                }
            }
            assert_same(&decode(&*r.head, std::slice::from_ref(&table), 0.1, false), &expected, 0.1);
        }
    }
}
