//! Class-aware greedy non-maximum suppression, and the way back to the picture. Twin of `shaders/decode/nms.wgsl`.
//!
//! Candidates are sorted by score (largest first; ties: smaller class, then smaller anchor). From the best on, each
//! one that is still alive is kept and kills the later ones of its class whose overlap with it is larger than the
//! threshold. Overlap is intersection over union, written without a division: `inter > threshold · union`; or what else a
//! head asks for, see [`Suppression`].
//!
//! With IoU the same f32 operations run in the same order here and in the shader. A GPU compiler may still contract
//! `area + area − w·h` into a fused multiply-add, or divide with 2.5 ulp error; a pair that lies within rounding of
//! the threshold can then fall on the other side, and mapped boxes can differ in the last bit.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::RawDetection;
use super::candidates::CandidatesHeader;
use super::head::Suppression;
use super::rotated::RotatedBox;
use crate::shader::{Variant, VariantBuilder};

const STEM: &str = "nms";
const SHADER: &str = include_str!("../../shaders/decode/nms.wgsl");

/// The shader; `max_detections` is what the detections buffer has room for. Bindings: candidates, detections.
pub fn variant(max_detections: usize, suppression: Suppression) -> Variant {
    let (number, beta) = match suppression {
        Suppression::None => (0, 1.0),
        Suppression::Iou => (1, 1.0),
        Suppression::Distance { beta } => (2, beta),
        Suppression::Rotated => (3, 1.0),
    };
    VariantBuilder::new(STEM, SHADER)
        .u32("ROOM", max_detections)
        .u32("SUPPRESSION", number)
        .f32("BETA", beta)
        .include(include_str!("../../shaders/common/candidates.wgsl"))
        .include(include_str!("../../shaders/common/rotated.wgsl"))
        .build([1, 1, 1])
}

/// The order in which candidates are looked at: score descending, then class, then anchor ascending.
pub fn order(a: &RawDetection, b: &RawDetection) -> Ordering {
    // Scores are not negative, and for those the bits order as the numbers do.
    b.score.to_bits().cmp(&a.score.to_bits()).then(a.class.cmp(&b.class)).then(a.anchor.cmp(&b.anchor))
}

fn area(b: &[f32; 4]) -> f32 {
    (b[2] - b[0]) * (b[3] - b[1])
}

/// True when `b` overlaps `a` by more than the threshold.
fn suppresses(a: &[f32; 4], b: &[f32; 4], iou_threshold: f32) -> bool {
    let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let inter = w * h;
    let union = area(a) + area(b) - inter;
    inter > iou_threshold * union
}

/// True when the overlap of the two, less for centres that lie apart, is above the threshold: IoU − (d²/c²)^beta, with d
/// between the centres and c the diagonal of the box around both. Zheng et al., "Distance-IoU Loss", arXiv 1911.08287.
fn suppresses_by_distance(a: &[f32; 4], b: &[f32; 4], threshold: f32, beta: f32) -> bool {
    let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let inter = w * h;
    let union = area(a) + area(b) - inter;
    let (around_w, around_h) = (a[2].max(b[2]) - a[0].min(b[0]), a[3].max(b[3]) - a[1].min(b[1]));
    let diagonal = around_w * around_w + around_h * around_h;
    let (x, y) = ((a[0] + a[2] - b[0] - b[2]) * 0.5, (a[1] + a[3] - b[1] - b[3]) * 0.5);
    let apart = if diagonal > 0.0 { ((x * x + y * y) / diagonal).powf(beta) } else { 0.0 };
    inter > (threshold + apart) * union
}

/// A coordinate of the network's input in the picture, clipped to it.
fn pixel_from_model(x: f32, offset: f32, scale: f32, limit: u32) -> f32 {
    ((x - offset) / scale).max(0.0).min(limit as f32)
}

/// True when the second candidate overlaps the first by more than the threshold.
fn is_rival(a: &RawDetection, b: &RawDetection, suppression: Suppression, threshold: f32) -> bool {
    match suppression {
        Suppression::None => false,
        Suppression::Iou => suppresses(&a.bounds, &b.bounds, threshold),
        Suppression::Distance { beta } => suppresses_by_distance(&a.bounds, &b.bounds, threshold, beta),
        Suppression::Rotated => {
            let [a, b] = [a, b].map(|c| RotatedBox::of_candidate(c).gaussian());
            a.overlap(&b) > threshold
        }
    }
}

/// Upright boxes around the turned ones, if they are turned.
fn turn_upright(kept: &mut [RawDetection], suppression: Suppression) {
    if suppression == Suppression::Rotated {
        for d in kept {
            (d.bounds, d.reserved) = (RotatedBox::of_candidate(d).bounds(), 0);
        }
    }
}

/// The shader's algorithm in safe Rust: candidates in model pixels in, detections in picture pixels out, best first.
/// Quadratic. The shader takes more candidates than it can sort at a time in rounds; what it keeps is the same.
pub fn twin(header: &CandidatesHeader, candidates: &[RawDetection], suppression: Suppression) -> Vec<RawDetection> {
    let mut sorted = candidates.to_vec();
    sorted.sort_by(order);
    let mut alive = vec![true; sorted.len()];
    let mut kept = Vec::new();
    for i in 0..sorted.len() {
        if kept.len() >= header.max_detections as usize {
            break;
        }
        if !alive[i] {
            continue;
        }
        kept.push(sorted[i]);
        for p in i + 1..sorted.len() {
            if alive[p]
                && sorted[p].class == sorted[i].class
                && is_rival(&sorted[i], &sorted[p], suppression, header.iou_threshold)
            {
                alive[p] = false;
            }
        }
    }
    turn_upright(&mut kept, suppression);
    for d in &mut kept {
        d.bounds = [0, 1, 2, 3].map(|k| {
            let axis = k % 2;
            pixel_from_model(d.bounds[k], header.offset_px[axis], header.scale[axis], header.picture_px[axis])
        });
    }
    kept
}

/// Keeps at most `max` of the candidates, best first, in model pixels: the same as [`twin`] before its mapping, for
/// any number of candidates. Each candidate is only compared with those kept of its own class.
pub fn run(candidates: Vec<RawDetection>, suppression: Suppression, threshold: f32, max: usize) -> Vec<RawDetection> {
    match suppression {
        Suppression::None => keep_best(candidates, max),
        Suppression::Iou => run_by(candidates, max, |c| c.bounds, |kept, other| suppresses(kept, other, threshold)),
        Suppression::Distance { beta } => {
            let suppresses = |kept: &_, other: &_| suppresses_by_distance(kept, other, threshold, beta);
            run_by(candidates, max, |c| c.bounds, suppresses)
        }
        Suppression::Rotated => {
            let shape_of = |c: &RawDetection| RotatedBox::of_candidate(c).gaussian();
            let mut kept = run_by(candidates, max, shape_of, |kept, other| kept.overlap(other) > threshold);
            turn_upright(&mut kept, suppression);
            kept
        }
    }
}

/// Keeps at most `max`, best first: for networks that suppress overlaps themselves.
fn keep_best(mut candidates: Vec<RawDetection>, max: usize) -> Vec<RawDetection> {
    candidates.sort_unstable_by(order);
    candidates.truncate(max);
    candidates
}

fn run_by<B>(
    mut candidates: Vec<RawDetection>,
    max: usize,
    box_of: impl Fn(&RawDetection) -> B,
    suppresses: impl Fn(&B, &B) -> bool,
) -> Vec<RawDetection> {
    candidates.sort_unstable_by(order);
    let mut kept: Vec<RawDetection> = Vec::new();
    let mut of_class: BTreeMap<u32, Vec<B>> = BTreeMap::new();
    for candidate in candidates {
        if kept.len() >= max {
            break;
        }
        let rivals = of_class.entry(candidate.class).or_default();
        let own = box_of(&candidate);
        if !rivals.iter().any(|kept| suppresses(kept, &own)) {
            rivals.push(own);
            kept.push(candidate);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::scan::box_in_picture;
    use crate::letterbox::{Fit, Letterbox};

    /// Boxes on a coarse raster with coarse scores: many overlaps, many ties.
    pub(crate) fn crowd(n: usize, seed: u32) -> Vec<RawDetection> {
        let mut state = seed;
        let mut next = |range: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 10) % range
        };
        (0..n)
            .map(|anchor| {
                let (x, y) = (next(300) as f32 - 20.0, next(200) as f32 - 20.0);
                let (w, h) = (4.0 + next(90) as f32 * 1.37, 4.0 + next(90) as f32 * 0.77);
                RawDetection {
                    bounds: [x, y, x + w, y + h],
                    score: next(40) as f32 / 40.0,
                    class: next(3),
                    anchor: anchor as u32,
                    reserved: 0,
                }
            })
            .collect()
    }

    /// Textbook form in f64: repeatedly take the best of what is left and throw out its rivals.
    fn naive(candidates: &[RawDetection], threshold: f64, max: usize) -> Vec<u32> {
        let mut left: Vec<&RawDetection> = candidates.iter().collect();
        let mut kept = Vec::new();
        while !left.is_empty() && kept.len() < max {
            let best = *left
                .iter()
                .min_by(|a, b| {
                    b.score.partial_cmp(&a.score).unwrap().then(a.class.cmp(&b.class)).then(a.anchor.cmp(&b.anchor))
                })
                .unwrap();
            kept.push(best.anchor);
            let iou = |a: &[f32; 4], b: &[f32; 4]| {
                let f = |v: f32| f64::from(v);
                let w = (f(a[2]).min(f(b[2])) - f(a[0]).max(f(b[0]))).max(0.0);
                let h = (f(a[3]).min(f(b[3])) - f(a[1]).max(f(b[1]))).max(0.0);
                let area = |b: &[f32; 4]| (f(b[2]) - f(b[0])) * (f(b[3]) - f(b[1]));
                w * h / (area(a) + area(b) - w * h)
            };
            left.retain(|c| {
                c.anchor != best.anchor && (c.class != best.class || iou(&best.bounds, &c.bounds) <= threshold)
            });
        }
        kept
    }

    #[test]
    fn all_forms_agree_with_the_textbook() {
        let letterbox = Letterbox::new(Fit::LetterboxCentre { pad: 114 }, [500, 300], [320, 320]);
        for (n, max, threshold) in [(0, 10, 0.45), (1, 10, 0.45), (7, 3, 0.5), (300, 300, 0.451), (1024, 100, 0.7)] {
            let candidates = crowd(n, 5 + n as u32);
            let expected = naive(&candidates, f64::from(threshold), max);
            let header = CandidatesHeader::new(&letterbox, n, 0.0, threshold, max);
            let fast = run(candidates.clone(), Suppression::Iou, threshold, max);
            assert_eq!(fast.iter().map(|d| d.anchor).collect::<Vec<_>>(), expected, "{n}");
            let slow = twin(&header, &candidates, Suppression::Iou);
            assert_eq!(slow.len(), fast.len());
            for (s, f) in slow.iter().zip(&fast) {
                assert_eq!((s.anchor, s.score, s.class), (f.anchor, f.score, f.class));
                assert_eq!(s.bounds, box_in_picture(f.bounds, &letterbox));
                assert!(s.bounds[0] >= 0.0 && s.bounds[2] <= 500.0 && s.bounds[3] <= 300.0);
            }
        }
    }

    #[test]
    fn touching_and_empty_boxes_survive() {
        let one = |bounds, score, anchor| RawDetection { bounds, score, class: 0, anchor, reserved: 0 };
        let candidates = vec![
            one([0.0, 0.0, 10.0, 10.0], 0.9, 0),
            one([10.0, 0.0, 20.0, 10.0], 0.8, 1),
            one([5.0, 5.0, 5.0, 5.0], 0.7, 2),
            one([0.0, 0.0, 10.0, 10.0], 0.9, 3),
        ];
        let kept: Vec<u32> = run(candidates, Suppression::Iou, 0.45, 10).iter().map(|d| d.anchor).collect();
        assert_eq!(kept, [0, 1, 2]);
    }

    #[test]
    fn distance_spares_what_lies_apart() {
        let one = |x: f32, w: f32, score, anchor| {
            let bounds = [x, 0.0, x + w, 10.0];
            RawDetection { bounds, score, class: 0, anchor, reserved: 0 }
        };
        // IoU 6/14 with d² = 16 and c² = 14² + 10²; IoU 0.5 with the same centre.
        let candidates = vec![one(0.0, 10.0, 0.9, 0), one(4.0, 10.0, 0.8, 1), one(2.5, 5.0, 0.7, 2)];
        let kept = |threshold, beta| {
            let kept = run(candidates.clone(), Suppression::Distance { beta }, threshold, 10);
            kept.iter().map(|d| d.anchor).collect::<Vec<_>>()
        };
        let term = (16.0f64 / 296.0).powf(0.6) as f32;
        let overlap = 6.0 / 14.0 - term;
        assert_eq!(kept(overlap - 1e-3, 0.6), [0]);
        assert_eq!(kept(overlap + 1e-3, 0.6), [0, 1]);
        assert_eq!(kept(0.42, 9.0), [0]);
        assert_eq!(kept(0.51, 0.6), [0, 1, 2]);
        // Nothing around empty boxes in one place.
        let empty = vec![one(5.0, 0.0, 0.9, 0); 2];
        assert_eq!(run(empty, Suppression::Distance { beta: 0.6 }, 0.45, 10).len(), 2);
    }

    #[test]
    fn turned_boxes_overlap_as_they_lie() {
        let one = |x: f32, angle: f32, score, anchor| RawDetection {
            bounds: [x, 0.0, 40.0, 4.0],
            score,
            class: 0,
            anchor,
            reserved: angle.to_bits(),
        };
        // The second crosses the first, the third lies on it, the fourth is far away.
        let candidates =
            vec![one(0.0, 0.8, 0.9, 0), one(0.0, -0.8, 0.8, 1), one(1.0, 0.8, 0.7, 2), one(90.0, 0.8, 0.6, 3)];
        let kept = |max| -> Vec<u32> {
            let kept = run(candidates.clone(), Suppression::Rotated, 0.5, max);
            kept.iter().map(|d| d.anchor).collect()
        };
        assert_eq!((kept(10), kept(2)), (vec![0, 1, 3], vec![0, 1]));
        // Their upright boxes are all but the same.
        let upright: Vec<RawDetection> = candidates
            .iter()
            .map(|c| RawDetection { bounds: RotatedBox::of_candidate(c).bounds(), reserved: 0, ..*c })
            .collect();
        let kept_of = |candidates, suppression| run(candidates, suppression, 0.5, 10);
        assert_eq!(kept_of(upright.clone(), Suppression::Iou).iter().map(|d| d.anchor).collect::<Vec<_>>(), [0, 3]);
        // What is kept is written upright.
        let expected = [upright[0], upright[1], upright[3]];
        assert_eq!(kept_of(candidates.clone(), Suppression::Rotated), expected);
        let letterbox = Letterbox::new(Fit::Stretch, [320, 320], [320, 320]);
        let header = CandidatesHeader::new(&letterbox, 4, 0.0, 0.5, 10);
        let twin = twin(&header, &candidates, Suppression::Rotated);
        assert_eq!(twin.iter().map(|d| (d.anchor, d.reserved)).collect::<Vec<_>>(), [(0, 0), (1, 0), (3, 0)]);
        assert_eq!(twin[1].bounds, box_in_picture(expected[1].bounds, &letterbox));
    }

    #[test]
    fn what_is_final_is_only_sorted() {
        let letterbox = Letterbox::new(Fit::Stretch, [320, 320], [320, 320]);
        let mut candidates = crowd(300, 4);
        // Inside out, so that its area is negative.
        candidates[7].bounds = [20.0, 10.0, 10.0, 30.0];
        let kept = run(candidates.clone(), Suppression::None, 0.1, 200);
        assert_eq!(kept.len(), 200);
        assert!(kept.is_sorted_by(|a, b| order(a, b).is_lt()));
        let header = CandidatesHeader::new(&letterbox, 300, 0.0, 0.1, 200);
        let twin = twin(&header, &candidates, Suppression::None);
        assert_eq!(
            twin.iter().map(|d| d.anchor).collect::<Vec<_>>(),
            kept.iter().map(|d| d.anchor).collect::<Vec<_>>()
        );
    }

    #[test]
    fn threshold_of_one_keeps_all() {
        let candidates = crowd(200, 1);
        assert_eq!(run(candidates, Suppression::Iou, 1.0, 1000).len(), 200);
    }
}
