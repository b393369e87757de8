//! BlazeFace: faces with six landmarks (eyes, nose, mouth, ears). Decoded by `ssd`.
//!
//! `[1, 896, 16]` and scores `[1, 896, 1]` (logits or probabilities). Anchors: a grid of 16 × 16 cells with two each, then
//! one of 8 × 8 with six each, at the cells' centres. Columns: centre of the box and, from 4 on, landmarks as offsets from
//! the anchor, and the box's width and height, all in pixels of the input, which is 128 × 128 (front camera) or 256 × 256
//! (back camera). Bazarevsky et al., "BlazeFace", arXiv 1907.05047.

use super::faces;
use super::priors::{Priors, UNCLIPPED};
use super::ssd::{Activation, BoxCode, ScoreTable, Ssd};
use crate::convert::ChannelOrder;
use crate::decode::head::{Fitted, Signature, grids};
use crate::letterbox::Fit;

/// Eyes, nose, mouth, ears.
const LANDMARKS: usize = 6;

/// BlazeFace: letterboxed in the middle of black, RGB, level / 127.5 − 1.
pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    faces::check_count(signature, 2)?;
    let strides = match [signature.width, signature.height] {
        [128, 128] => [8, 16],
        [256, 256] => [16, 32],
        [w, h] => return Err(format!("its input should be 128x128 or 256x256, but is {w}x{h}")),
    };
    // Offsets are in pixels: priors of one pixel.
    let priors =
        Priors::grid(grids(signature.width, signature.height, &strides), &[&[1.0; 2], &[1.0; 6]], 0.5, UNCLIPPED);
    let anchors = priors.len();
    let boxes = faces::table(signature, anchors, 4 + 2 * LANDMARKS)?;
    let scores = faces::table(signature, anchors, 1)?;
    let is_done = signature.origins(scores).contains(&"Sigmoid");
    let head = Ssd {
        tables: vec![ScoreTable { scores, boxes, anchors, landmarks: Some((boxes, 4)), iou: None }],
        activation: if is_done { Activation::None } else { Activation::Logistic },
        code: BoxCode::Linear,
        priors,
        landmarks: LANDMARKS,
        ..Ssd::decoded(scores, boxes, anchors, 1)
    };
    let levels = ([127.5; 3], [127.5; 3]);
    Ok(faces::fitted(head, ChannelOrder::Rgb, levels, Fit::LetterboxCentre { pad: 0 }))
}

#[cfg(test)]
mod tests {
    use super::super::faces::tests::assert_faces;
    use super::super::testing::{Expected, Table, graph, noise};
    use crate::decode::head::recognise;

    #[test]
    fn faces_and_landmarks() {
        let shapes = [vec![1, 896, 16], vec![1, 896, 1]];
        for (side, parts) in [(128, &["Conv", "Conv"][..]), (256, &["Sigmoid"][..])] {
            let outputs: Vec<(&str, &[usize], &[&'static str])> =
                ["r", "c"].into_iter().zip(&shapes).map(|(name, s)| (name, &s[..], parts)).collect();
            let r = recognise(&graph(side, side, &outputs), None).unwrap();
            assert_eq!((r.name, r.head.anchors()), ("blazeface", 896));
            let raw = side == 128;
            let mut next = noise(7);
            let tables = [
                Table::new(&shapes[0], |_| next() * 90.0 - 30.0),
                Table::new(&shapes[1], |_| if raw { next() * 400.0 - 200.0 } else { next() }),
            ];
            let mut anchors: Vec<[f64; 2]> = Vec::new();
            for (cells, count) in [(16, 2), (8, 6)] {
                for cell in 0..cells * cells {
                    let at = |n: usize| (n as f64 + 0.5) / cells as f64 * side as f64;
                    anchors.extend(vec![[at(cell % cells), at(cell / cells)]; count]);
                }
            }
            let (mut expected, mut marks): (Vec<Expected>, Vec<Vec<[f64; 2]>>) = (Vec::new(), Vec::new());
            for (a, [px, py]) in anchors.iter().enumerate() {
                let v = |k: usize| tables[0].at(&[0, a, k]);
                let x = tables[1].at(&[0, a, 0]);
                let score = if raw { 1.0 / (1.0 + (-x.clamp(-100.0, 100.0)).exp()) } else { x };
                if score >= 0.75 {
                    let (cx, cy) = (v(0) + px, v(1) + py);
                    let b = [cx - v(2) / 2.0, cy - v(3) / 2.0, cx + v(2) / 2.0, cy + v(3) / 2.0];
                    expected.push((a, 0, score, b));
                    marks.push((0..6).map(|m| [px + v(4 + 2 * m), py + v(5 + 2 * m)]).collect());
                }
            }
            assert_faces(&*r.head, &tables, 0.75, &expected, &marks);
        }
    }
}
