//! YOLOv3, v4, v5 and v7 whose ONNX file ends in the raw maps: what `yolo_anchors` decodes, with the anchors that the
//! networks were published with.
//!
//! Three maps `[1, 3·(5+C), h, w]` or (v5, v7) `[1, 3, h, w, 5+C]` at strides 8, 16 and 32, in any order. Shapes do not say
//! which network it is, nor do they show other anchors: a file without a name for its head is refused, and the error
//! lists these. Redmon and Farhadi, arXiv 1804.02767; Bochkovskiy et al., arXiv 2004.10934; Wang et al., "YOLOv7",
//! arXiv 2207.02696; YOLOv5 as published by ultralytics.

use super::yolo_anchors::{AnchorMap, Numbers, Sizes, YoloAnchors};
use crate::convert::ChannelOrder;
use crate::decode::head::{Fitted, Signature, Suppression};
use crate::decode::labels::Labels;
use crate::letterbox::Fit;

/// One published network: by stride 8, 16, 32.
struct Published {
    anchors_px: [[[f32; 2]; 3]; 3],
    scale_x_y: [f32; 3],
    sizes: Sizes,
    fit: Fit,
    iou_threshold: f32,
}

/// Of COCO, from 416×416: YOLOv3 and v5.
const ANCHORS_PX: [[[f32; 2]; 3]; 3] = [
    [[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]],
    [[30.0, 61.0], [62.0, 45.0], [59.0, 119.0]],
    [[116.0, 90.0], [156.0, 198.0], [373.0, 326.0]],
];

/// Of COCO, from 512×512: YOLOv4 and v7.
const LARGER_ANCHORS_PX: [[[f32; 2]; 3]; 3] = [
    [[12.0, 16.0], [19.0, 36.0], [40.0, 28.0]],
    [[36.0, 75.0], [76.0, 55.0], [72.0, 146.0]],
    [[142.0, 110.0], [192.0, 243.0], [459.0, 401.0]],
];

const LETTERBOX: Fit = Fit::LetterboxCentre { pad: 114 };

pub fn fit_v3(signature: &Signature<'_>) -> Result<Fitted, String> {
    let sizes = Sizes::Exponential;
    let anchors_px = ANCHORS_PX;
    fit(signature, &Published { anchors_px, scale_x_y: [1.0; 3], sizes, fit: Fit::Stretch, iou_threshold: 0.45 })
}

pub fn fit_v4(signature: &Signature<'_>) -> Result<Fitted, String> {
    let (anchors_px, scale_x_y) = (LARGER_ANCHORS_PX, [1.2, 1.1, 1.05]);
    let sizes = Sizes::Exponential;
    fit(signature, &Published { anchors_px, scale_x_y, sizes, fit: Fit::Stretch, iou_threshold: 0.45 })
}

pub fn fit_v5(signature: &Signature<'_>) -> Result<Fitted, String> {
    let (anchors_px, sizes) = (ANCHORS_PX, Sizes::Square);
    fit(signature, &Published { anchors_px, scale_x_y: [2.0; 3], sizes, fit: LETTERBOX, iou_threshold: 0.45 })
}

pub fn fit_v7(signature: &Signature<'_>) -> Result<Fitted, String> {
    let (anchors_px, sizes) = (LARGER_ANCHORS_PX, Sizes::Square);
    fit(signature, &Published { anchors_px, scale_x_y: [2.0; 3], sizes, fit: LETTERBOX, iou_threshold: 0.65 })
}

fn fit(signature: &Signature<'_>, network: &Published) -> Result<Fitted, String> {
    signature.check_task(&["detect"])?;
    if !signature.graph.darknet_heads.is_empty() {
        return Err("the file describes its heads itself".to_string());
    }
    let wrong =
        || format!("it needs maps of three anchors at strides 8, 16 and 32, but there are {}", signature.describe());
    if signature.outputs.len() != 3 {
        return Err(wrong());
    }
    let mut classes = None;
    let mut maps: Vec<AnchorMap> = Vec::new();
    for (n, stride) in [8, 16, 32].into_iter().enumerate() {
        let (cols, rows) = (signature.width / stride, signature.height / stride);
        let found = signature.outputs.iter().enumerate().find_map(|(output, (_, shape))| match **shape {
            [1, channels, h, w] if [h, w] == [rows, cols] && channels % 3 == 0 => Some((output, channels / 3)),
            [1, 3, h, w, numbers] if [h, w] == [rows, cols] && network.sizes == Sizes::Square => {
                Some((output, numbers))
            }
            _ => None,
        });
        let (output, numbers) = found.filter(|(_, numbers)| *numbers > 5).ok_or_else(wrong)?;
        if cols * stride != signature.width || rows * stride != signature.height {
            return Err(wrong());
        }
        if *classes.get_or_insert(numbers - 5) != numbers - 5 {
            return Err(wrong());
        }
        let activated = signature.origins(output).contains(&"Sigmoid");
        if activated && network.sizes == Sizes::Exponential {
            return Err("its maps are activated, so that sides cannot be powers of e".to_string());
        }
        maps.push(AnchorMap {
            output,
            cols,
            rows,
            anchors_px: network.anchors_px[n].to_vec(),
            numbers: Numbers::Plain,
            scale_x_y: network.scale_x_y[n],
            activated,
            softmax: false,
            sizes: network.sizes,
            first: maps.last().map_or(0, |m| m.first + 3 * m.cols * m.rows),
        });
    }
    let classes = classes.unwrap_or(0);
    signature.check_classes(classes)?;
    let input_px = [signature.width, signature.height];
    let (mean, std) = super::UNIT;
    Ok(Fitted {
        head: Box::new(YoloAnchors { classes, maps, input_px, suppression: Suppression::Iou }),
        fit: network.fit,
        order: ChannelOrder::Rgb,
        mean,
        std,
        score_threshold: 0.25,
        iou_threshold: network.iou_threshold,
        labels: Labels::usual(classes),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use crate::decode::head::recognise;

    fn shapes(by_anchor: bool, classes: usize) -> Vec<Vec<usize>> {
        // Not in the order of the strides.
        [(2, 3), (8, 12), (4, 6)]
            .iter()
            .map(|&(h, w)| if by_anchor { vec![1, 3, h, w, 5 + classes] } else { vec![1, 3 * (5 + classes), h, w] })
            .collect()
    }

    fn outputs<'a>(
        shapes: &'a [Vec<usize>],
        parts: &'a [&'static str],
    ) -> Vec<(&'static str, &'a [usize], &'a [&'static str])> {
        ["c", "a", "b"].into_iter().zip(shapes).map(|(n, s)| (n, &s[..], parts)).collect()
    }

    #[test]
    fn only_by_name() {
        let flat = shapes(false, 4);
        let g = graph(96, 64, &outputs(&flat, &["Conv"]));
        let error = recognise(&g, None).unwrap_err().to_string();
        assert!(error.contains("yolo_v3_maps|yolo_v4_maps|yolo_v5_maps|yolo_v7_maps"), "{error}");
        let by_anchor = shapes(true, 4);
        let g = graph(96, 64, &outputs(&by_anchor, &["Conv"]));
        let error = recognise(&g, None).unwrap_err().to_string();
        assert!(error.contains("--head yolo_v5_maps|yolo_v7_maps"), "{error}");
        assert!(recognise(&g, Some("yolo_v3_maps")).is_err());
        let g = graph(96, 64, &outputs(&flat, &["Sigmoid"]));
        let error = recognise(&g, Some("yolo_v4_maps")).unwrap_err().to_string();
        assert!(error.contains("activated"), "{error}");
    }

    #[test]
    fn boxes_by_definition() {
        let classes = 4;
        let anchors_px = |name: &str, n: usize, a: usize| -> [f64; 2] {
            let v3 = [10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326];
            let v4 = [12, 16, 19, 36, 40, 28, 36, 75, 76, 55, 72, 146, 142, 110, 192, 243, 459, 401];
            let list = if matches!(name, "yolo_v3_maps" | "yolo_v5_maps") { v3 } else { v4 };
            [0, 1].map(|k| f64::from(list[(n * 3 + a) * 2 + k]))
        };
        for (name, by_anchor, activated) in [
            ("yolo_v3_maps", false, false),
            ("yolo_v4_maps", false, false),
            ("yolo_v5_maps", false, false),
            ("yolo_v5_maps", true, true),
            ("yolo_v7_maps", true, false),
        ] {
            let shapes = shapes(by_anchor, classes);
            let parts: &[&'static str] = if activated { &["Sigmoid"] } else { &["Conv"] };
            let r = recognise(&graph(96, 64, &outputs(&shapes, parts)), Some(name)).unwrap();
            assert_eq!(r.head.anchors(), 3 * (96 + 24 + 6));
            let mut next = noise(3);
            let tables: Vec<Table> =
                shapes.iter().map(|s| Table::new(s, |_| if activated { next() } else { next() * 6.0 - 2.0 })).collect();
            let p = |x: f64| if activated { x } else { 1.0 / (1.0 + (-x).exp()) };
            let mut expected: Vec<Expected> = Vec::new();
            let mut number = 0;
            for (n, (table, stride)) in
                [(&tables[1], 8.0), (&tables[2], 16.0), (&tables[0], 32.0)].into_iter().enumerate()
            {
                let (rows, cols) = ((64.0 / stride) as usize, (96.0 / stride) as usize);
                for a in 0..3 {
                    for j in 0..rows {
                        for i in 0..cols {
                            let v = |k: usize| match by_anchor {
                                true => table.at(&[0, a, j, i, k]),
                                false => table.at(&[0, a * (5 + classes) + k, j, i]),
                            };
                            let [aw, ah] = anchors_px(name, n, a);
                            let (alpha, square) = match name {
                                "yolo_v3_maps" => (1.0, false),
                                "yolo_v4_maps" => ([1.2, 1.1, 1.05][n], false),
                                _ => (2.0, true),
                            };
                            let centre =
                                |k: usize, cell: usize| (cell as f64 + p(v(k)) * alpha - (alpha - 1.0) / 2.0) * stride;
                            let size = |k: usize| if square { (2.0 * p(v(k))).powi(2) } else { v(k).exp() };
                            let (cx, cy, w, h) = (centre(0, i), centre(1, j), size(2) * aw, size(3) * ah);
                            let best = (5..5 + classes).max_by(|&x, &y| v(x).total_cmp(&v(y))).unwrap();
                            let score = p(v(4)) * p(v(best));
                            if score >= 0.6 {
                                let bounds = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
                                expected.push((number, best - 5, score, bounds));
                            }
                            number += 1;
                        }
                    }
                }
            }
            assert_same(&decode(&*r.head, &tables, 0.6, false), &expected, 0.6);
        }
    }
}
