//! YuNet as published in 2021 (libfacedetection, OpenCV zoo): faces with five landmarks. Decoded by `ssd`. The YuNet of
//! 2023 is another network, see `yunet`.
//!
//! `loc [P, 14]`, box and five landmarks; `conf [P, 2]` (softmaxed or not, column 0 is the background); `iou [P, 1]`; also
//! with a batch. Score `√(conf₁·clamp(iou, 0, 1))`. Priors at strides 8, 16, 32, 64 with sides 10 16 24, 32 48, 64 96,
//! 128 192 256 px around the cells' centres, not clipped, variances 0.1 and 0.2; landmark m at `p + 0.1·k·p_size`. The
//! first map is half of half of half of the input, rounded up, down and down; each further one half of it, rounded down.
//! Feng et al., "Detect Faces Efficiently: A Survey and Evaluations", IEEE T-BIOM 2021.

use super::faces;
use super::priors::{Priors, UNCLIPPED};
use super::ssd::{Activation, BoxCode, ScoreTable, Ssd, VARIANCES};
use crate::convert::ChannelOrder;
use crate::decode::head::{Fitted, GridScale, Signature};
use crate::letterbox::Fit;

fn scales(width: usize, height: usize) -> Vec<GridScale> {
    let mut cells = [width.div_ceil(2) / 2, height.div_ceil(2) / 2];
    let mut first = 0;
    [8, 16, 32, 64]
        .into_iter()
        .map(|stride_px| {
            cells = cells.map(|n| n / 2);
            let scale = GridScale { stride_px, cols: cells[0], rows: cells[1], first };
            first += scale.cells();
            scale
        })
        .collect()
}

/// YuNet 2021: stretched, BGR, levels 0 to 255.
pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    faces::check_count(signature, 3)?;
    let sides: [&[f32]; 4] = [&[10.0, 16.0, 24.0], &[32.0, 48.0], &[64.0, 96.0], &[128.0, 192.0, 256.0]];
    let priors = Priors::grid(scales(signature.width, signature.height), &sides, 0.5, UNCLIPPED);
    let anchors = priors.len();
    if priors.counts().contains(&0) {
        return Err("its input is too small for four scales".to_string());
    }
    let boxes = faces::table(signature, anchors, 4 + 2 * faces::LANDMARKS)?;
    let scores = faces::table(signature, anchors, 2)?;
    let iou = Some(faces::table(signature, anchors, 1)?);
    let head = Ssd {
        tables: vec![ScoreTable { scores, boxes, anchors, landmarks: Some((boxes, 4)), iou }],
        first_class: 1,
        activation: faces::activation(signature, scores, Activation::Softmax),
        code: BoxCode::Exponential { variances: VARIANCES },
        priors,
        landmarks: faces::LANDMARKS,
        ..Ssd::decoded(scores, boxes, anchors, 1)
    };
    Ok(faces::fitted(head, ChannelOrder::Bgr, super::LEVELS, Fit::Stretch))
}

#[cfg(test)]
mod tests {
    use super::super::faces::tests::assert_faces;
    use super::super::testing::{Expected, Table, graph, noise};
    use crate::decode::head::recognise;

    #[test]
    fn faces_and_landmarks() {
        // 160 × 120: maps of 20 × 15, 10 × 7, 5 × 3 and 2 × 1.
        let mut priors: Vec<[f64; 3]> = Vec::new();
        for (stride, cols, rows, sides) in [
            (8.0, 20, 15, &[10.0, 16.0, 24.0][..]),
            (16.0, 10, 7, &[32.0, 48.0]),
            (32.0, 5, 3, &[64.0, 96.0]),
            (64.0, 2, 1, &[128.0, 192.0, 256.0]),
        ] {
            for j in 0..rows {
                for i in 0..cols {
                    let point = [f64::from(i) + 0.5, f64::from(j) + 0.5].map(|v| v * stride);
                    priors.extend(sides.iter().map(|&side| [point[0], point[1], side]));
                }
            }
        }
        let n = priors.len();
        let shapes = [vec![n, 14], vec![n, 2], vec![n, 1]];
        let outputs: Vec<(&str, &[usize], &[&'static str])> =
            ["loc", "conf", "iou"].into_iter().zip(&shapes).map(|(name, s)| (name, &s[..], &["Softmax"][..])).collect();
        let r = recognise(&graph(160, 120, &outputs), None).unwrap();
        assert_eq!((r.name, r.head.anchors()), ("yunet_2021", n));
        let mut next = noise(7);
        let tables: Vec<Table> = shapes.iter().map(|s| Table::new(s, |_| next() * 1.4 - 0.2)).collect();
        let (mut expected, mut marks): (Vec<Expected>, Vec<Vec<[f64; 2]>>) = (Vec::new(), Vec::new());
        for (a, [px, py, side]) in priors.iter().enumerate() {
            let v = |table: usize, k: usize| tables[table].at(&[a, k]);
            let score = (v(1, 1) * v(2, 0).clamp(0.0, 1.0)).sqrt();
            if score >= 0.7 {
                let (cx, cy) = (px + v(0, 0) * 0.1 * side, py + v(0, 1) * 0.1 * side);
                let (w, h) = (side * (0.2 * v(0, 2)).exp(), side * (0.2 * v(0, 3)).exp());
                expected.push((a, 0, score, [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0]));
                let mark = |m: usize| [px + v(0, 4 + 2 * m) * 0.1 * side, py + v(0, 5 + 2 * m) * 0.1 * side];
                marks.push((0..5).map(mark).collect());
            }
        }
        assert_faces(&*r.head, &tables, 0.7, &expected, &marks);
    }
}
