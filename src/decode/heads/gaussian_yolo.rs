//! Darknet's `[Gaussian_yolo]`: maps with anchors and an uncertainty of each side. A form of `yolo_anchors`.
//!
//! Each head is a map `[1, A·(9+C), h, w]`, channel `a·(9+C) + k` with k: x σx y σy w σw h σh objectness classes. As
//! `[yolo]` (see `yolo_anchors`), but the score is σ(objectness)·σ(class)·(1 − mean of σ(σx), σ(σy), σ(σw), σ(σh)), and
//! the point may be a corner of the box.
//! Choi et al., "Gaussian YOLOv3", arXiv 1904.04620.

use super::darknet;
use super::yolo_anchors::{AnchorMap, Numbers, Sizes, YoloAnchors};
use crate::decode::head::{Fitted, Signature};
use crate::infer::graph::{BoxPoint, DarknetLayout};

/// Channels of an anchor besides its classes.
const OWN: usize = 9;

pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    let heads = &signature.graph.darknet_heads;
    let Some(classes) = heads.first().map(|h| h.classes) else {
        return Err("the file describes no [Gaussian_yolo] section".to_string());
    };
    let mut maps = Vec::new();
    let mut first = 0;
    for head in heads {
        let DarknetLayout::GaussianYolo { anchors_px, scale_x_y, point } = &head.layout else {
            return Err("its heads are no [Gaussian_yolo] sections".to_string());
        };
        if head.classes != classes {
            return Err(format!("its [Gaussian_yolo] sections have {classes} and {} classes", head.classes));
        }
        let (output, [rows, cols]) = darknet::map_of(signature, head, anchors_px.len() * (OWN + classes))?;
        let shift = match point {
            BoxPoint::Centre => 0.0,
            BoxPoint::LeftTop => 0.5,
            BoxPoint::RightBottom => -0.5,
        };
        maps.push(AnchorMap {
            output,
            cols,
            rows,
            anchors_px: anchors_px.clone(),
            numbers: Numbers::Deviations { shift },
            scale_x_y: *scale_x_y,
            activated: false,
            softmax: false,
            sizes: Sizes::Exponential,
            first,
        });
        first += anchors_px.len() * rows * cols;
    }
    let input_px = [signature.width, signature.height];
    let suppression = darknet::suppression(&signature.graph.darknet_heads);
    Ok(darknet::fitted(signature, Box::new(YoloAnchors { classes, maps, input_px, suppression })))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use crate::decode::head::recognise;
    use crate::infer::graph::{BoxPoint, DarknetHead, DarknetLayout, DarknetNms};

    #[test]
    fn boxes_by_definition() {
        let (classes, anchors, alpha) = (2, [[20.0f32, 30.0]], 1.2f32);
        for (point, shift) in [(BoxPoint::Centre, 0.0), (BoxPoint::LeftTop, 0.5), (BoxPoint::RightBottom, -0.5)] {
            let shapes = [[1, 11, 2, 3], [1, 11, 4, 6]];
            let mut g = graph(96, 64, &[("a", &shapes[0], &["Conv"]), ("b", &shapes[1], &["Conv"])]);
            for n in 0..2 {
                g.darknet_heads.push(DarknetHead {
                    output: g.outputs[n],
                    classes,
                    nms: DarknetNms::Greedy,
                    layout: DarknetLayout::GaussianYolo { anchors_px: anchors.to_vec(), scale_x_y: alpha, point },
                });
            }
            let r = recognise(&g, None).unwrap();
            assert_eq!((r.name, r.head.anchors()), ("gaussian_yolo", 6 + 24));
            let mut next = noise(3);
            let tables: Vec<Table> = shapes
                .iter()
                .map(|s| {
                    Table::new(s, |at| if [1, 3, 5, 7].contains(&at[1]) { next() - 4.0 } else { next() * 7.0 - 2.0 })
                })
                .collect();
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            let mut expected: Vec<Expected> = Vec::new();
            let mut anchor = 0;
            for (table, shape) in tables.iter().zip(&shapes) {
                for j in 0..shape[2] {
                    for i in 0..shape[3] {
                        let v = |k: usize| table.at(&[0, k, j, i]);
                        let (w, h) = (v(4).exp() * 20.0, v(6).exp() * 30.0);
                        let al = f64::from(alpha);
                        let place = |cell: usize, k| cell as f64 + sigmoid(v(k)) * al - (al - 1.0) / 2.0;
                        let cx = place(i, 0) / shape[3] as f64 * 96.0 + shift * w;
                        let cy = place(j, 2) / shape[2] as f64 * 64.0 + shift * h;
                        let doubt = (sigmoid(v(1)) + sigmoid(v(3)) + sigmoid(v(5)) + sigmoid(v(7))) / 4.0;
                        let b = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
                        for c in 0..classes {
                            let score = sigmoid(v(8)) * sigmoid(v(9 + c)) * (1.0 - doubt);
                            if score >= 0.4 {
                                expected.push((anchor, c, score, b));
                            }
                        }
                        anchor += 1;
                    }
                }
            }
            assert_same(&decode(&*r.head, &tables, 0.4, true), &expected, 0.4);
        }
    }
}
