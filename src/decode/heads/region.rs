//! Darknet's `[region]` (YOLOv2): one map with anchors in grid cells. A form of `yolo_anchors`.
//!
//! `[1, A·(coords+1+C), h, w]`, channel `a·(coords+1+C) + k` with k: x y w h, further coords, objectness, classes. Cell
//! (i, j) of a `w × h` grid, anchor `A_w × A_h` cells, input `W × H`: `cx = (i + σ(x))·W/w`, `bw = e^w·A_w·W/w`, score =
//! σ(objectness)·p, with p the softmax over the anchor's classes or σ(class). y and h alike.
//! Redmon and Farhadi, "YOLO9000: Better, Faster, Stronger", arXiv 1612.08242.

use super::darknet;
use super::yolo_anchors::{AnchorMap, Numbers, Sizes, YoloAnchors};
use crate::decode::head::{Fitted, Signature};
use crate::infer::graph::DarknetLayout;

pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    let head = darknet::only_head(signature, "[region]", |l| matches!(l, DarknetLayout::Region { .. }))?;
    let DarknetLayout::Region { anchors_cells, coords, softmax } = &head.layout else {
        return Err("it needs a [region] section".to_string());
    };
    let channels = anchors_cells.len() * (coords + 1 + head.classes);
    let (output, [rows, cols]) = darknet::map_of(signature, head, channels)?;
    let map = map(signature, output, [rows, cols], anchors_cells, *coords, *softmax);
    let suppression = darknet::suppression(&signature.graph.darknet_heads);
    let input_px = [signature.width, signature.height];
    let head = YoloAnchors { classes: head.classes, maps: vec![map], input_px, suppression };
    Ok(darknet::fitted(signature, Box::new(head)))
}

/// The only map of a network, of `[rows, columns]`.
pub fn map(
    signature: &Signature<'_>,
    output: usize,
    [rows, cols]: [usize; 2],
    anchors_cells: &[[f32; 2]],
    coords: usize,
    softmax: bool,
) -> AnchorMap {
    let cell_px = [signature.width as f32 / cols as f32, signature.height as f32 / rows as f32];
    AnchorMap {
        output,
        cols,
        rows,
        anchors_px: anchors_cells.iter().map(|a| [a[0] * cell_px[0], a[1] * cell_px[1]]).collect(),
        numbers: Numbers::Coords { coords },
        scale_x_y: 1.0,
        activated: false,
        softmax,
        sizes: Sizes::Exponential,
        first: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use crate::decode::head::recognise;
    use crate::infer::graph::{DarknetHead, DarknetLayout, DarknetNms};

    #[test]
    fn boxes_by_definition() {
        let (width, height, classes) = (96, 64, 3);
        for (softmax, coords) in [(true, 4), (false, 4), (true, 6)] {
            let entries = coords + 1 + classes;
            let shape = [1, 2 * entries, 2, 3];
            let mut g = graph(width, height, &[("map", &shape, &["Conv"])]);
            let anchors = [[1.5f32, 0.75], [0.5, 2.0]];
            g.darknet_heads.push(DarknetHead {
                output: g.outputs[0],
                classes,
                nms: DarknetNms::Greedy,
                layout: DarknetLayout::Region { anchors_cells: anchors.to_vec(), coords, softmax },
            });
            let r = recognise(&g, None).unwrap();
            assert_eq!((r.name, r.head.anchors(), r.head.classes()), ("region", 12, 3));
            let mut next = noise(5);
            let table = Table::new(&shape, |_| next() * 8.0 - 3.0);
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            for multi_label in [false, true] {
                let mut expected: Vec<Expected> = Vec::new();
                for anchor in 0..12 {
                    let (a, j, i) = (anchor / 6, anchor / 3 % 2, anchor % 3);
                    let v = |k: usize| table.at(&[0, a * entries + k, j, i]);
                    let cx = (i as f64 + sigmoid(v(0))) * 32.0;
                    let cy = (j as f64 + sigmoid(v(1))) * 32.0;
                    let w = v(2).exp() * f64::from(anchors[a][0]) * 32.0;
                    let h = v(3).exp() * f64::from(anchors[a][1]) * 32.0;
                    let sum: f64 = (0..classes).map(|c| v(coords + 1 + c).exp()).sum();
                    let p = |c: usize| match softmax {
                        true => v(coords + 1 + c).exp() / sum,
                        false => sigmoid(v(coords + 1 + c)),
                    };
                    let mut scores: Vec<(usize, f64)> = (0..classes).map(|c| (c, sigmoid(v(coords)) * p(c))).collect();
                    if !multi_label {
                        scores.sort_by(|x, y| y.1.total_cmp(&x.1));
                        scores.truncate(1);
                    }
                    let b = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
                    expected.extend(scores.iter().filter(|s| s.1 >= 0.3).map(|s| (anchor, s.0, s.1, b)));
                }
                assert_same(&decode(&*r.head, std::slice::from_ref(&table), 0.3, multi_label), &expected, 0.3);
            }
        }
    }
}
