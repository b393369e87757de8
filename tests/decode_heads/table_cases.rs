//! Tables of scores and boxes, the parameters of `ssd`.

use eyas::decode::head::grids;
use eyas::decode::heads::priors::{Priors, UNCLIPPED};
use eyas::decode::heads::ssd::{Activation, BoxCode, ScoreTable, Ssd, VARIANCES};

/// Name, head and shapes of the outputs.
pub fn cases() -> Vec<(&'static str, Ssd, Vec<Vec<usize>>)> {
    let sides: [&[f32]; 3] = [&[10.0, 16.0, 24.0], &[32.0, 48.0], &[64.0]];
    let grid = |sides: &[&[f32]], point, clip_px| Priors::grid(grids(96, 64, &[8, 16, 32]), sides, point, clip_px);
    let clipped = grid(&sides, 0.5, [60.0, 50.0]);
    let n = clipped.len();
    let exponential = BoxCode::Exponential { variances: VARIANCES };
    let mut cases = Vec::new();

    let with_background = Ssd { first_class: 1, ..Ssd::decoded(0, 1, n, 2) };
    let tables = vec![vec![1, n, 3], vec![1, n, 4]];
    let fractions = BoxCode::Corners { unit_px: [96.0, 64.0] };
    cases.push(("ssd decoded", Ssd { code: fractions, ..with_background.clone() }, tables.clone()));
    cases.push(("ssd", Ssd { code: exponential, priors: clipped, ..with_background.clone() }, tables.clone()));

    let listed = (0..n).map(|k| [k as f32 * 0.25, 64.0 - k as f32 * 0.125, 8.0 + (k % 7) as f32, 9.5]).collect();
    let priors = Priors::Listed(listed);
    let activation = Activation::Softmax;
    cases.push(("ssd listed", Ssd { code: exponential, priors, activation, ..with_background }, tables));

    let v4 = Ssd { code: fractions, ..Ssd::decoded(1, 0, 90, 7) };
    cases.push(("yolo_v4", v4, vec![vec![1, 90, 1, 4], vec![1, 90, 7]]));
    let transposed = Ssd { classes_first: true, ..Ssd::decoded(1, 0, 90, 7) };
    cases.push(("classes first", transposed, vec![vec![1, 90, 4], vec![1, 7, 90]]));

    // One table a scale, with and without a batch; landmarks are not the shader's.
    let two: [&[f32]; 3] = [&[8.0, 8.0], &[16.0, 16.0], &[32.0, 32.0]];
    for (name, code, activation, batch) in [
        ("distances", BoxCode::Distances, Activation::None, false),
        ("linear", BoxCode::Linear, Activation::Logistic, true),
    ] {
        let priors = grid(&two, 0.0, UNCLIPPED);
        let counts = priors.counts();
        let tables = counts.iter().enumerate().map(|(k, &anchors)| ScoreTable {
            scores: k,
            boxes: 3 + k,
            anchors,
            landmarks: None,
            iou: None,
        });
        let head = Ssd { tables: tables.collect(), code, activation, priors, ..Ssd::decoded(0, 0, 0, 1) };
        let shape = |n: usize, columns: usize| if batch { vec![1, n, columns] } else { vec![n, columns] };
        let shapes = [1, 4].iter().flat_map(|&c| counts.iter().map(move |&n| (n, c))).map(|(n, c)| shape(n, c));
        cases.push((name, head, shapes.collect()));
    }

    let mut iou = Ssd { code: exponential, priors: grid(&sides, 0.5, UNCLIPPED), ..Ssd::decoded(1, 0, n, 1) };
    iou.first_class = 1;
    iou.tables[0].iou = Some(2);
    cases.push(("iou", iou, vec![vec![n, 14], vec![n, 2], vec![n, 1]]));
    cases
}
