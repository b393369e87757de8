//! Average precision of detections against labelled boxes, as the COCO challenge defines it (Lin et al., "Microsoft
//! COCO: Common Objects in Context", 2014, and its evaluation server's rules): 101-point interpolated precision, IoU
//! thresholds 0.50, 0.55, ..., 0.95, at most 100 detections per picture and class, all areas.

/// A labelled box.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truth {
    pub class: u32,
    /// Left, top, right, bottom in pixels of the picture.
    pub bounds: [f32; 4],
    /// A crowd region: detections in it count neither for nor against.
    pub is_crowd: bool,
}

/// A detection to be judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    pub class: u32,
    pub score: f32,
    pub bounds: [f32; 4],
}

/// Average precision of one class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassPrecision {
    pub class: u32,
    /// Labelled boxes, crowds left out.
    pub truths: usize,
    pub ap50: f64,
    pub ap50_95: f64,
}

/// Means over the classes that have labelled boxes.
#[derive(Clone, Debug, PartialEq)]
pub struct Precision {
    pub ap50: f64,
    pub ap50_95: f64,
    pub classes: Vec<ClassPrecision>,
}

const MAX_PER_PICTURE: usize = 100;

/// Intersection over union; over the area of `a` alone where `b` is a crowd.
fn overlap(a: &[f32; 4], b: &[f32; 4], b_is_crowd: bool) -> f64 {
    let width = |r: &[f32; 4]| f64::from(r[2]) - f64::from(r[0]);
    let height = |r: &[f32; 4]| f64::from(r[3]) - f64::from(r[1]);
    let w = f64::from(a[2].min(b[2])) - f64::from(a[0].max(b[0]));
    let h = f64::from(a[3].min(b[3])) - f64::from(a[1].max(b[1]));
    if w <= 0.0 || h <= 0.0 {
        return 0.0;
    }
    let area_a = width(a) * height(a);
    let all = if b_is_crowd { area_a } else { area_a + width(b) * height(b) - w * h };
    if all > 0.0 { w * h / all } else { 0.0 }
}

/// What became of a detection at one threshold.
#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    True,
    False,
    Ignored,
}

/// Detections of one picture and class, best first, against its boxes: each takes the free box that it overlaps most.
fn judge(detections: &[Judged], truths: &[Truth], threshold: f64) -> Vec<Verdict> {
    let mut taken = vec![false; truths.len()];
    detections
        .iter()
        .map(|d| {
            let mut best = threshold.min(1.0 - 1e-10);
            let mut found: Option<usize> = None;
            for (i, truth) in truths.iter().enumerate() {
                if taken[i] && !truth.is_crowd {
                    continue;
                }
                // Boxes stand before crowds: once a box is found, crowds cannot win.
                if truth.is_crowd && found.is_some_and(|f| !truths[f].is_crowd) {
                    break;
                }
                let iou = overlap(&d.bounds, &truth.bounds, truth.is_crowd);
                if iou >= best {
                    best = iou;
                    found = Some(i);
                }
            }
            match found {
                None => Verdict::False,
                Some(i) => {
                    taken[i] = true;
                    if truths[i].is_crowd { Verdict::Ignored } else { Verdict::True }
                }
            }
        })
        .collect()
}

/// Area under the interpolated precision-recall curve at 101 recalls.
fn average_precision(verdicts: &mut [(f32, Verdict)], truths: usize) -> f64 {
    verdicts.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut hits, mut misses) = (0usize, 0usize);
    let mut curve: Vec<(f64, f64)> = Vec::new();
    for (_, verdict) in verdicts.iter() {
        match verdict {
            Verdict::True => hits += 1,
            Verdict::False => misses += 1,
            Verdict::Ignored => continue,
        }
        curve.push((hits as f64 / truths as f64, hits as f64 / (hits + misses) as f64));
    }
    for i in (1..curve.len()).rev() {
        curve[i - 1].1 = curve[i - 1].1.max(curve[i].1);
    }
    let at = |recall: f64| {
        let i = curve.partition_point(|point| point.0 < recall);
        curve.get(i).map_or(0.0, |point| point.1)
    };
    (0..=100).map(|k| at(f64::from(k) / 100.0)).sum::<f64>() / 101.0
}

/// Judges all pictures: `pictures[i]` holds the detections and the labelled boxes of one picture.
pub fn evaluate(pictures: &[(Vec<Judged>, Vec<Truth>)]) -> Precision {
    let mut classes: Vec<u32> = pictures.iter().flat_map(|(_, t)| t).filter(|t| !t.is_crowd).map(|t| t.class).collect();
    classes.sort_unstable();
    classes.dedup();
    let per_class: Vec<ClassPrecision> = classes
        .into_iter()
        .map(|class| {
            let of_class: Vec<(Vec<Judged>, Vec<Truth>)> = pictures
                .iter()
                .map(|(detections, truths)| {
                    let mut d: Vec<Judged> = detections.iter().copied().filter(|d| d.class == class).collect();
                    d.sort_by(|a, b| b.score.total_cmp(&a.score));
                    d.truncate(MAX_PER_PICTURE);
                    let mut t: Vec<Truth> = truths.iter().copied().filter(|t| t.class == class).collect();
                    t.sort_by_key(|t| t.is_crowd);
                    (d, t)
                })
                .collect();
            let truths = of_class.iter().flat_map(|(_, t)| t).filter(|t| !t.is_crowd).count();
            let ap: Vec<f64> = (0..10)
                .map(|k| {
                    let threshold = 0.5 + 0.05 * f64::from(k);
                    let mut verdicts: Vec<(f32, Verdict)> = of_class
                        .iter()
                        .flat_map(|(d, t)| d.iter().map(|d| d.score).zip(judge(d, t, threshold)))
                        .collect();
                    average_precision(&mut verdicts, truths)
                })
                .collect();
            ClassPrecision { class, truths, ap50: ap[0], ap50_95: ap.iter().sum::<f64>() / 10.0 }
        })
        .collect();
    let mean = |f: fn(&ClassPrecision) -> f64| {
        if per_class.is_empty() { 0.0 } else { per_class.iter().map(f).sum::<f64>() / per_class.len() as f64 }
    };
    Precision { ap50: mean(|c| c.ap50), ap50_95: mean(|c| c.ap50_95), classes: per_class }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(class: u32, bounds: [f32; 4]) -> Truth {
        Truth { class, bounds, is_crowd: false }
    }

    fn judged(class: u32, score: f32, bounds: [f32; 4]) -> Judged {
        Judged { class, score, bounds }
    }

    #[test]
    fn perfect_detections_score_one_and_none_score_zero() {
        let boxes = [[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 50.0, 40.0]];
        let truths: Vec<Truth> = boxes.iter().map(|&b| truth(3, b)).collect();
        let found = boxes.iter().map(|&b| judged(3, 0.9, b)).collect();
        let p = evaluate(&[(found, truths.clone())]);
        assert!((p.ap50 - 1.0).abs() < 1e-12 && (p.ap50_95 - 1.0).abs() < 1e-12);
        assert_eq!(evaluate(&[(vec![], truths)]).ap50, 0.0);
    }

    #[test]
    fn a_better_scored_miss_halves_the_precision() {
        let truths = vec![truth(0, [0.0, 0.0, 10.0, 10.0])];
        let found = vec![judged(0, 0.9, [50.0, 50.0, 60.0, 60.0]), judged(0, 0.8, [0.0, 0.0, 10.0, 10.0])];
        assert!((evaluate(&[(found, truths)]).ap50 - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_box_is_found_once_and_crowds_do_not_count() {
        let bounds = [0.0, 0.0, 10.0, 10.0];
        let crowd = Truth { class: 0, bounds: [20.0, 20.0, 90.0, 90.0], is_crowd: true };
        let found = vec![
            judged(0, 0.95, [30.0, 30.0, 40.0, 40.0]),
            judged(0, 0.9, bounds),
            judged(0, 0.8, [0.0, 0.0, 10.0, 9.9]),
        ];
        let p = evaluate(&[(found, vec![truth(0, bounds), crowd])]);
        assert!((p.ap50 - 1.0).abs() < 1e-12, "{p:?}");
        assert_eq!(p.classes[0].truths, 1);
    }

    #[test]
    fn iou_of_0_8_counts_at_seven_of_ten_thresholds() {
        let found = vec![judged(0, 0.9, [0.0, 0.0, 10.0, 8.0])];
        let p = evaluate(&[(found, vec![truth(0, [0.0, 0.0, 10.0, 10.0])])]);
        assert!((p.ap50_95 - 0.7).abs() < 1e-6, "{p:?}");
    }
}
