//! Yolo-FastestV2: two scales, three anchors a cell that share their classes. A form of `yolo_anchors`.
//!
//! Columns of a cell: for each anchor x y w h, then an objectness each (all through the sigmoid), then C classes (softmaxed).
//! Cell (i, j) of stride s, anchor `A_w × A_h` px: `cx = (2x − ½ + i)·s`, `w = (2w)²·A_w`, y and h alike; score =
//! objectness · class. Strides 16 and 32; either one table `[n, 15+C]`, rows of the first scale, then of the second, or
//! two maps `[1, h, w, 15+C]`. The file does not hold the anchors: those of COCO are taken, which the network was published
//! with. Repository dog-qiuqiu/Yolo-FastestV2.

use super::yolo_anchors::{AnchorMap, Numbers, Sizes, YoloAnchors};
use crate::convert::ChannelOrder;
use crate::decode::head::{Fitted, Signature, Suppression};
use crate::decode::labels::Labels;
use crate::letterbox::Fit;

/// Of COCO, from 352×352: of stride 16, then of 32.
const ANCHORS_PX: [[[f32; 2]; 3]; 2] =
    [[[12.64, 19.39], [37.88, 51.48], [55.71, 138.31]], [[126.91, 78.23], [131.57, 214.55], [279.92, 258.87]]];

const STRIDES_PX: [usize; 2] = [16, 32];

/// Numbers of a cell before its classes.
const BEFORE_CLASSES: usize = 15;

/// Yolo-FastestV2: stretched, BGR, levels divided by 255.
pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    let (width, height) = (signature.width, signature.height);
    if width % STRIDES_PX[1] != 0 || height % STRIDES_PX[1] != 0 || width == 0 || height == 0 {
        return Err(format!("its input should be a multiple of 32, but is {width}x{height}"));
    }
    let [small, large] = STRIDES_PX.map(|s| [height / s, width / s]);
    let counts = [small, large].map(|[rows, cols]| rows * cols);
    let wrong = || {
        let total = counts[0] + counts[1];
        format!(
            "it needs one output [{total}, 15+C] or maps at strides 16 and 32, but there are {}",
            signature.describe()
        )
    };
    let map = |[rows, cols]: [usize; 2]| {
        let is_map = |shape: &[usize]| matches!(*shape, [1, h, w, _] if [h, w] == [rows, cols]);
        signature.outputs.iter().position(|(_, shape)| is_map(shape))
    };
    let (places, columns) = match signature.outputs[..] {
        [(_, &[rows, columns] | &[1, rows, columns])] if rows == counts[0] + counts[1] => {
            ([(0, 0), (0, counts[0])], columns)
        }
        [_, _] => {
            let (Some(a), Some(b)) = (map(small), map(large)) else { return Err(wrong()) };
            let columns = [a, b].map(|o| signature.outputs[o].1[3]);
            if columns[0] != columns[1] {
                return Err(wrong());
            }
            ([(a, 0), (b, 0)], columns[0])
        }
        _ => return Err(wrong()),
    };
    if columns <= BEFORE_CLASSES {
        return Err(format!("{columns} numbers a cell leave no class after three boxes and objectnesses"));
    }
    for (output, _) in places {
        let origins = signature.origins(output);
        if origins.contains(&"Conv")
            || (!signature.named && !["Sigmoid", "Softmax"].iter().all(|o| origins.contains(o)))
        {
            return Err("its numbers are not activated by sigmoid and softmax".to_string());
        }
    }
    let classes = columns - BEFORE_CLASSES;
    signature.check_classes(classes)?;
    let map = |n: usize, [rows, cols]: [usize; 2]| AnchorMap {
        output: places[n].0,
        cols,
        rows,
        anchors_px: ANCHORS_PX[n].to_vec(),
        numbers: Numbers::SharedClasses { row: places[n].1 },
        scale_x_y: 2.0,
        activated: true,
        softmax: false,
        sizes: Sizes::Square,
        first: 3 * counts[0] * n,
    };
    let (maps, input_px) = (vec![map(0, small), map(1, large)], [width, height]);
    let (mean, std) = super::UNIT;
    Ok(Fitted {
        head: Box::new(YoloAnchors { classes, maps, input_px, suppression: Suppression::Iou }),
        fit: Fit::Stretch,
        order: ChannelOrder::Bgr,
        mean,
        std,
        score_threshold: 0.3,
        iou_threshold: 0.4,
        labels: Labels::usual(classes),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use crate::decode::head::recognise;

    const PARTS: &[&str] = &["Sigmoid", "Sigmoid", "Softmax"];

    #[test]
    fn boxes_by_definition() {
        let anchors = [12.64, 19.39, 37.88, 51.48, 55.71, 138.31, 126.91, 78.23, 131.57, 214.55, 279.92, 258.87];
        let columns = 15 + 6;
        for (maps, shapes) in [
            (false, vec![vec![6 * 4 + 3 * 2, columns]]),
            (false, vec![vec![1, 6 * 4 + 3 * 2, columns]]),
            (true, vec![vec![1, 2, 3, columns], vec![1, 4, 6, columns]]),
        ] {
            let outputs: Vec<(&str, &[usize], &[&'static str])> =
                ["a", "b"].into_iter().zip(&shapes).map(|(n, s)| (n, &s[..], PARTS)).collect();
            // With a batch the table could be a YOLOv6 of two strides.
            let name = (shapes[0].len() == 3).then_some("yolo_fastest_v2");
            let r = recognise(&graph(96, 64, &outputs), name).unwrap();
            assert_eq!((r.name, r.head.classes(), r.head.anchors()), ("yolo_fastest_v2", 6, 90));
            let mut next = noise(3);
            let tables: Vec<Table> = shapes.iter().map(|s| Table::new(s, |_| next())).collect();
            for multi_label in [false, true] {
                let mut expected: Vec<Expected> = Vec::new();
                for (n, stride, rows, cols) in [(0, 16.0, 4, 6), (1, 32.0, 2, 3)] {
                    for cell in 0..rows * cols {
                        let v = |k: usize| match (maps, shapes[0].len()) {
                            (true, _) => tables[1 - n].at(&[0, cell / cols, cell % cols, k]),
                            (_, 2) => tables[0].at(&[24 * n + cell, k]),
                            _ => tables[0].at(&[0, 24 * n + cell, k]),
                        };
                        for a in 0..3 {
                            let cx = (2.0 * v(4 * a) - 0.5 + (cell % cols) as f64) * stride;
                            let cy = (2.0 * v(4 * a + 1) - 0.5 + (cell / cols) as f64) * stride;
                            let w = (2.0 * v(4 * a + 2)).powi(2) * anchors[6 * n + 2 * a];
                            let h = (2.0 * v(4 * a + 3)).powi(2) * anchors[6 * n + 2 * a + 1];
                            let b = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
                            let mut scores: Vec<(usize, f64)> = (0..6).map(|c| (c, v(12 + a) * v(15 + c))).collect();
                            if !multi_label {
                                scores.sort_by(|x, y| y.1.total_cmp(&x.1));
                                scores.truncate(1);
                            }
                            let number = 72 * n + a * rows * cols + cell;
                            expected.extend(scores.iter().filter(|s| s.1 >= 0.5).map(|s| (number, s.0, s.1, b)));
                        }
                    }
                }
                expected.sort_by_key(|e| (e.0, e.1));
                assert_same(&decode(&*r.head, &tables, 0.5, multi_label), &expected, 0.5);
            }
        }
    }

    #[test]
    fn raw_maps_and_other_sizes_are_refused() {
        let refusal = |shape: &[usize], parts: &[&'static str], name| {
            recognise(&graph(96, 64, &[("o", shape, parts)]), name).unwrap_err().to_string()
        };
        assert!(refusal(&[30, 21], &["Conv"], Some("yolo_fastest_v2")).contains("not activated"));
        assert!(refusal(&[30, 21], &["Mul"], None).contains("no detection head fits"));
        assert!(refusal(&[31, 21], PARTS, Some("yolo_fastest_v2")).contains("[30, 15+C]"));
        assert!(refusal(&[30, 15], PARTS, Some("yolo_fastest_v2")).contains("leave no class"));
    }
}
