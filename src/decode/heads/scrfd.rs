//! SCRFD: faces, with or without five landmarks. Decoded by `ssd`.
//!
//! For each stride s of 8, 16, 32, two anchors a cell: scores `[n, 1]` (through the sigmoid), boxes `[n, 4]`, landmarks
//! `[n, 10]`, also with a batch. Cell (i, j) stands for the point `(i·s, j·s)`; the box reaches from it d0, d1 to the left
//! and top, d2, d3 to the right and bottom, in units of s; landmark m lies k_2m, k_2m+1 from it, in units of s.
//! Outputs are found by their shapes. Guo et al., "Sample and Computation Redistribution for Efficient Face Detection",
//! arXiv 2105.04714.

use super::faces;
use super::priors::{Priors, UNCLIPPED};
use super::ssd::{Activation, BoxCode, ScoreTable, Ssd};
use crate::convert::ChannelOrder;
use crate::decode::head::{Fitted, Signature, grids};
use crate::letterbox::Fit;

/// SCRFD: letterboxed at the top left, RGB, (level − 127.5) / 128.
pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    let has_landmarks = signature.outputs.len() == 9;
    faces::check_count(signature, if has_landmarks { 9 } else { 6 })?;
    let sides: [&[f32]; 3] = [&[8.0; 2], &[16.0; 2], &[32.0; 2]];
    let priors = Priors::grid(grids(signature.width, signature.height, &[8, 16, 32]), &sides, 0.0, UNCLIPPED);
    let mut tables = Vec::new();
    let mut raw = Vec::new();
    for anchors in priors.counts() {
        let scores = faces::table(signature, anchors, 1)?;
        let boxes = faces::table(signature, anchors, 4)?;
        let landmarks = has_landmarks.then(|| faces::table(signature, anchors, 2 * faces::LANDMARKS)).transpose()?;
        raw.push(faces::activation(signature, scores, Activation::Logistic));
        tables.push(ScoreTable { scores, boxes, anchors, landmarks: landmarks.map(|o| (o, 0)), iou: None });
    }
    if raw.iter().any(|&a| a != raw[0]) {
        return Err("some of its scores are activated and some are not".to_string());
    }
    let head = Ssd {
        tables,
        activation: raw[0],
        code: BoxCode::Distances,
        priors,
        landmarks: if has_landmarks { faces::LANDMARKS } else { 0 },
        ..Ssd::decoded(0, 0, 0, 1)
    };
    let levels = ([127.5; 3], [128.0; 3]);
    Ok(faces::fitted(head, ChannelOrder::Rgb, levels, Fit::LetterboxTopLeft { pad: 0 }))
}

#[cfg(test)]
mod tests {
    use super::super::faces::tests::assert_faces;
    use super::super::testing::{Expected, Table, graph, noise};
    use crate::decode::head::recognise;

    #[test]
    fn faces_and_landmarks() {
        // 100 × 60: strides do not divide the sides.
        let cells = [13 * 8, 7 * 4, 4 * 2];
        for (batch, columns, raw) in [(false, &[1, 4, 10][..], false), (true, &[1, 4], true)] {
            let mut shapes: Vec<Vec<usize>> = Vec::new();
            for &c in columns {
                shapes.extend(cells.iter().map(|n| if batch { vec![1, 2 * n, c] } else { vec![2 * n, c] }));
            }
            let names: Vec<String> = (0..shapes.len()).map(|n| format!("{}", 443 + n)).collect();
            let parts: &[&'static str] = if raw { &["Conv"] } else { &["Sigmoid"] };
            let outputs: Vec<(&str, &[usize], &[&'static str])> =
                names.iter().zip(&shapes).map(|(n, s)| (&n[..], &s[..], parts)).collect();
            let r = recognise(&graph(100, 60, &outputs), None).unwrap();
            assert_eq!((r.name, r.labels.name(0), r.head.has_details()), ("scrfd", "face".into(), columns.len() == 3));
            assert_eq!(r.head.anchors(), 2 * (104 + 28 + 8));
            let mut next = noise(3);
            let tables: Vec<Table> = shapes
                .iter()
                .map(|s| Table::new(s, |_| next() * if s[s.len() - 1] == 10 { -3.0 } else { 1.5 }))
                .collect();
            let (mut expected, mut marks): (Vec<Expected>, Vec<Vec<[f64; 2]>>) = (Vec::new(), Vec::new());
            let mut anchor = 0;
            for (n, stride) in [8.0f64, 16.0, 32.0].into_iter().enumerate() {
                let cols = (100.0 / stride).ceil() as usize;
                for row in 0..2 * cells[n] {
                    let v = |kind: usize, k: usize| match batch {
                        true => tables[3 * kind + n].at(&[0, row, k]),
                        false => tables[3 * kind + n].at(&[row, k]),
                    };
                    let score = if raw { 1.0 / (1.0 + (-v(0, 0)).exp()) } else { v(0, 0) };
                    if score >= 0.75 {
                        let (x, y) = ((row / 2 % cols) as f64 * stride, (row / 2 / cols) as f64 * stride);
                        let d = |k: usize| v(1, k) * stride;
                        expected.push((anchor, 0, score, [x - d(0), y - d(1), x + d(2), y + d(3)]));
                        let points = if columns.len() == 3 { 5 } else { 0 };
                        let mark = |m: usize| [x + v(2, 2 * m) * stride, y + v(2, 2 * m + 1) * stride];
                        marks.push((0..points).map(mark).collect());
                    }
                    anchor += 1;
                }
            }
            assert_faces(&*r.head, &tables, 0.75, &expected, &marks);
        }
    }

    #[test]
    fn outputs_of_another_size_are_refused() {
        let shapes: Vec<[usize; 2]> = [1, 4].iter().flat_map(|&c| [64, 32, 8].map(|n| [n, c])).collect();
        let outputs: Vec<(&str, &[usize], &[&'static str])> =
            shapes.iter().map(|s| ("o", &s[..], &["Sigmoid"][..])).collect();
        let error = recognise(&graph(64, 64, &outputs), Some("scrfd")).unwrap_err().to_string();
        assert!(error.contains("[1, 128, 1]"), "{error}");
    }
}
