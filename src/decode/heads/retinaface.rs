//! RetinaFace with the MobileNet 0.25 or ResNet-50 of its PyTorch repository: faces with five landmarks. Decoded by `ssd`.
//!
//! `loc [1, P, 4]`, `conf [1, P, 2]` (softmaxed or not, column 0 is the background), `landms [1, P, 10]`. Priors at strides
//! 8, 16, 32 with sides 16 32, 64 128, 256 512 px around the cells' centres, not clipped, variances 0.1 and 0.2; landmark m
//! at `p + 0.1·k·p_size`. Outputs are found by their shapes. Deng et al., "RetinaFace", arXiv 1905.00641.

use super::faces;
use super::priors::{Priors, UNCLIPPED};
use super::ssd::{Activation, BoxCode, ScoreTable, Ssd, VARIANCES};
use crate::convert::ChannelOrder;
use crate::decode::head::{Fitted, Signature, grids};
use crate::letterbox::Fit;

/// RetinaFace: letterboxed at the top left, BGR, levels minus (104, 117, 123).
pub fn fit(signature: &Signature<'_>) -> Result<Fitted, String> {
    faces::check_count(signature, 3)?;
    let sides: [&[f32]; 3] = [&[16.0, 32.0], &[64.0, 128.0], &[256.0, 512.0]];
    let priors = Priors::grid(grids(signature.width, signature.height, &[8, 16, 32]), &sides, 0.5, UNCLIPPED);
    let anchors = priors.len();
    let scores = faces::table(signature, anchors, 2)?;
    let boxes = faces::table(signature, anchors, 4)?;
    let landmarks = Some((faces::table(signature, anchors, 2 * faces::LANDMARKS)?, 0));
    let head = Ssd {
        tables: vec![ScoreTable { scores, boxes, anchors, landmarks, iou: None }],
        first_class: 1,
        activation: faces::activation(signature, scores, Activation::Softmax),
        code: BoxCode::Exponential { variances: VARIANCES },
        priors,
        landmarks: faces::LANDMARKS,
        ..Ssd::decoded(scores, boxes, anchors, 1)
    };
    let levels = ([104.0, 117.0, 123.0], [1.0; 3]);
    Ok(faces::fitted(head, ChannelOrder::Bgr, levels, Fit::LetterboxTopLeft { pad: 0 }))
}

#[cfg(test)]
mod tests {
    use super::super::faces::tests::assert_faces;
    use super::super::testing::{Expected, Table, graph, noise};
    use crate::decode::head::recognise;

    #[test]
    fn faces_and_landmarks() {
        let (width, height) = (100.0f64, 60.0f64);
        let mut priors: Vec<[f64; 3]> = Vec::new();
        for (stride, sides) in [(8.0, [16.0, 32.0]), (16.0, [64.0, 128.0]), (32.0, [256.0, 512.0])] {
            for j in 0..(height / stride).ceil() as usize {
                for i in 0..(width / stride).ceil() as usize {
                    priors.extend(sides.map(|side| [(i as f64 + 0.5) * stride, (j as f64 + 0.5) * stride, side]));
                }
            }
        }
        let n = priors.len();
        assert_eq!(n, 2 * (104 + 28 + 8));
        for parts in [&["Softmax"][..], &["Conv"][..]] {
            let shapes = [vec![1, n, 4], vec![1, n, 2], vec![1, n, 10]];
            let outputs: Vec<(&str, &[usize], &[&'static str])> =
                ["loc", "586", "585"].into_iter().zip(&shapes).map(|(name, s)| (name, &s[..], parts)).collect();
            let r = recognise(&graph(100, 60, &outputs), None).unwrap();
            assert_eq!((r.name, r.labels.name(0)), ("retinaface", "face".to_string()));
            let raw = parts == ["Conv"];
            let mut next = noise(7);
            let tables: Vec<Table> =
                shapes.iter().map(|s| Table::new(s, |_| if raw { next() * 6.0 - 3.0 } else { next() })).collect();
            let (mut expected, mut marks): (Vec<Expected>, Vec<Vec<[f64; 2]>>) = (Vec::new(), Vec::new());
            for (a, [px, py, side]) in priors.iter().enumerate() {
                let v = |table: usize, k: usize| tables[table].at(&[0, a, k]);
                let (background, face) = (v(1, 0), v(1, 1));
                let score = if raw { face.exp() / (face.exp() + background.exp()) } else { face };
                if score >= 0.8 {
                    let (cx, cy) = (px + v(0, 0) * 0.1 * side, py + v(0, 1) * 0.1 * side);
                    let (w, h) = (side * (0.2 * v(0, 2)).exp(), side * (0.2 * v(0, 3)).exp());
                    expected.push((a, 0, score, [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0]));
                    let mark = |m: usize| [px + v(2, 2 * m) * 0.1 * side, py + v(2, 2 * m + 1) * 0.1 * side];
                    marks.push((0..5).map(mark).collect());
                }
            }
            assert_faces(&*r.head, &tables, 0.8, &expected, &marks);
        }
    }
}
