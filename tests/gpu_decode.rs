//! The decode shaders and NMS against their twins, on whatever Vulkan adapter there is.
#![cfg(feature = "gpu")]

mod decode_heads;

use decode_heads::Case;
use eyas::decode::candidates::{NMS_CAPACITY, candidates_bytes, detections_bytes, read_detections};
use eyas::decode::points::PointList;
use eyas::decode::{
    CandidatesHeader, DetectionsHeader, GpuBinding, GpuDecode, OutputRef, RawDetection, ScoreFilter, Suppression, nms,
};
use eyas::gpu::{Gpu, test_gpu};
use eyas::letterbox::{Fit, Letterbox};
use eyas::shader::Precision;

/// Repeatable numbers.
struct Noise(u32);

impl Noise {
    fn below(&mut self, range: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 10) % range
    }
    fn unit(&mut self) -> f32 {
        self.below(1 << 20) as f32 / (1 << 20) as f32
    }
}

fn run_nms(
    gpu: &Gpu,
    header: &CandidatesHeader,
    candidates: &[RawDetection],
    suppression: Suppression,
    room: usize,
) -> (DetectionsHeader, Vec<RawDetection>) {
    let mut bytes = vec![0u8; candidates_bytes(candidates.len())];
    let mut header = *header;
    header.count = candidates.len() as u32;
    bytes[..64].copy_from_slice(bytemuck::bytes_of(&header));
    let items: &[u8] = bytemuck::cast_slice(candidates);
    bytes[64..64 + items.len()].copy_from_slice(items);
    let source = gpu.upload("candidates", &bytes).expect("upload");
    let found = gpu.storage_buffer("detections", detections_bytes(room, 0)).expect("buffer");
    let dispatch = gpu.dispatch(&nms::variant(room, suppression), &[&source, &found]).expect("dispatch");
    gpu.run(&[&dispatch]).expect("run");
    let count = gpu.download(&source, 4).expect("download");
    assert_eq!(count, [0; 4], "the count is ready for the next frame");
    read_detections(&gpu.download(&found, detections_bytes(room, 0)).expect("download")).expect("detections")
}

#[test]
fn nms_equals_its_twin_to_the_bit() {
    let Some(gpu) = test_gpu() else { return };
    let letterbox = Letterbox::new(Fit::LetterboxCentre { pad: 114 }, [500, 333], [320, 320]);
    for (n, levels, classes) in [
        (0, 40, 3),
        (1, 40, 3),
        (2, 1, 1),
        (7, 40, 3),
        (64, 1, 2),
        (300, 40, 3),
        (513, 1000, 1),
        (1023, 7, 80),
        (1024, 40, 2),
        // More than are sorted at a time: many scores, few, and one, so that class and then anchor decide.
        (1025, 40, 3),
        (2500, 100_000, 80),
        (5000, 3, 2),
        (3000, 1, 1),
    ] {
        let iou = Suppression::Iou;
        for (threshold, max, of) in [(0.45, 300, iou), (0.7, 1024, iou), (0.2, 5, iou), (0.2, 300, Suppression::None)] {
            let mut noise = Noise(n + 1);
            let mut candidates: Vec<RawDetection> = (0..n)
                .map(|anchor| {
                    let (x, y) = (noise.unit() * 300.0 - 20.0, noise.unit() * 300.0 - 20.0);
                    let (w, h) = (4.0 + noise.unit() * 120.0, 4.0 + noise.unit() * 120.0);
                    RawDetection {
                        bounds: [x, y, x + w, y + h],
                        score: noise.below(levels) as f32 / levels as f32,
                        class: noise.below(classes),
                        anchor,
                        reserved: 0,
                    }
                })
                .collect();
            let header = CandidatesHeader::new(&letterbox, n as usize, 0.0, threshold, max);
            let expected = nms::twin(&header, &candidates, of);
            let (head, found) = run_nms(&gpu, &header, &candidates, of, max);
            assert_eq!((head.count as usize, head.candidates), (expected.len(), n));
            assert_eq!(found, expected, "n {n} threshold {threshold} max {max} {of:?}");
            // The order in which candidates arrive does not matter.
            candidates.reverse();
            assert_eq!(run_nms(&gpu, &header, &candidates, of, max).1, expected);
        }
    }
}

/// Other suppressions use exp, log, sqrt or pow, which every device rounds its own way: lists are compared in which no pair
/// lies at the threshold.
#[test]
fn suppression_by_distance_and_of_turned_boxes_equals_its_twin() {
    let Some(gpu) = test_gpu() else { return };
    let letterbox = Letterbox::new(Fit::LetterboxCentre { pad: 114 }, [500, 333], [320, 320]);
    for of in [Suppression::Distance { beta: 0.6 }, Suppression::Rotated] {
        let mut compared = 0;
        for (n, classes, threshold) in [(1, 1, 0.5), (7, 1, 0.2), (64, 2, 0.3), (300, 3, 0.45), (1100, 3, 0.6)] {
            let mut noise = Noise(n + 5);
            let candidates: Vec<RawDetection> = (0..n)
                .map(|anchor| {
                    let side = (20 + n).min(300) as f32;
                    let (x, y) = (noise.unit() * side, noise.unit() * side);
                    let (w, h) = (4.0 + noise.unit() * 90.0, 4.0 + noise.unit() * 40.0);
                    let (bounds, angle) = match of {
                        Suppression::Rotated => ([x, y, w, h], noise.unit() * 4.0 - 1.0),
                        _ => ([x, y, x + w, y + h], 0.0),
                    };
                    let (score, class) = (noise.unit(), noise.below(classes));
                    RawDetection { bounds, score, class, anchor, reserved: angle.to_bits() }
                })
                .collect();
            let header = CandidatesHeader::new(&letterbox, n as usize, 0.0, threshold, 1024);
            let at = |by: f32| {
                let header = CandidatesHeader { iou_threshold: threshold + by, ..header };
                nms::twin(&header, &candidates, of)
            };
            let expected = at(0.0);
            if at(1e-5) != expected || at(-1e-5) != expected {
                continue;
            }
            compared += 1;
            assert!(n == 1 || expected.len() < n as usize, "nothing is suppressed");
            let (_, found) = run_nms(&gpu, &header, &candidates, of, 1024);
            assert_same_boxes(&found, &expected, &format!("{of:?} {n}"));
        }
        assert!(compared > 3, "{of:?}: too many lists lie at the threshold");
    }
}

/// The same detections, with boxes within rounding.
fn assert_same_boxes(found: &[RawDetection], expected: &[RawDetection], what: &str) {
    let key = |d: &RawDetection| (d.anchor, d.class, d.score.to_bits(), d.reserved);
    let keys = |list: &[RawDetection]| list.iter().map(key).collect::<Vec<_>>();
    assert_eq!(keys(found), keys(expected), "{what}");
    for (a, b) in found.iter().zip(expected) {
        assert!((0..4).all(|k| (a.bounds[k] - b.bounds[k]).abs() < 1e-3), "{what}: {a:?} {b:?}");
    }
}

fn precisions(gpu: &Gpu) -> Vec<Precision> {
    match gpu.precision {
        Precision::F32 => vec![Precision::F32],
        Precision::F16 => vec![Precision::F32, Precision::F16],
    }
}

/// Head and NMS on both sides. Values are exact in f16, and scores that lie at the threshold are avoided by leaving
/// out candidates within rounding of it.
fn check(gpu: &Gpu, case: &Case, precision: Precision, threshold: f32) -> usize {
    let mut noise = Noise(case.name.len() as u32);
    let stored: Vec<Vec<f32>> = case
        .views
        .iter()
        .map(|v| (0..v.end().next_multiple_of(4) + 4).map(|_| noise.below(257) as f32 / 256.0).collect())
        .collect();
    let outputs: Vec<OutputRef<'_>> =
        stored.iter().zip(&case.views).map(|(values, view)| OutputRef { values, view }).collect();
    let mut expected = Vec::new();
    case.head.decode_twin(&outputs, ScoreFilter { threshold, multi_label: false }, &mut expected);
    expected.sort_by_key(|d| d.anchor);

    let letterbox = Letterbox::new(Fit::LetterboxCentre { pad: 114 }, [131, 77], [96, 64]);
    // Keeps everything that NMS gets, up to the capacity.
    let header = CandidatesHeader::new(&letterbox, case.head.anchors(), threshold, 1.0, NMS_CAPACITY);
    let plan = GpuDecode::new(&*case.head, &case.views, precision, NMS_CAPACITY);
    let buffers: Vec<wgpu::Buffer> =
        stored.iter().map(|v| gpu.upload_f32("output", v, precision).expect("upload")).collect();
    let priors = (!plan.priors.is_empty())
        .then(|| gpu.upload_f32("priors", plan.priors.as_flattened(), Precision::F32).expect("upload"));
    let candidates = gpu.storage_buffer("candidates", plan.candidates_bytes).expect("buffer");
    gpu.write(&candidates, 0, bytemuck::bytes_of(&header)).expect("write");
    let detections = gpu.storage_buffer("detections", plan.detections_bytes).expect("buffer");
    gpu.write(&detections, 0, bytemuck::bytes_of(&plan.detections_header)).expect("write");
    let dispatches: Vec<_> = plan
        .dispatches
        .iter()
        .map(|(variant, bindings)| {
            let bound: Vec<&wgpu::Buffer> = bindings
                .iter()
                .map(|b| match b {
                    GpuBinding::Output(o) => &buffers[*o],
                    GpuBinding::Priors => priors.as_ref().expect("priors"),
                    GpuBinding::Candidates => &candidates,
                    GpuBinding::Detections => &detections,
                })
                .collect();
            gpu.dispatch(variant, &bound).expect("dispatch")
        })
        .collect();
    let at = plan.dispatches.iter().position(|(variant, _)| variant.stem == "nms").expect("NMS");
    let (heads, after) = dispatches.split_at(at);
    gpu.run(&heads.iter().collect::<Vec<_>>()).expect("run");
    let bytes = gpu.download(&candidates, plan.candidates_bytes).expect("download");
    let count = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    let mut found: Vec<RawDetection> = bytemuck::pod_collect_to_vec(&bytes[64..64 + 32 * count]);
    found.sort_by_key(|d| d.anchor);

    let clear = |list: &[RawDetection]| -> Vec<RawDetection> {
        list.iter().filter(|d| d.score > threshold + 1e-5).copied().collect()
    };
    let (a, b) = (clear(&found), clear(&expected));
    let name = &case.name;
    assert_eq!(a.len(), b.len(), "{name} {precision:?}");
    for (a, b) in a.iter().zip(&b) {
        assert_eq!((a.anchor, a.class), (b.anchor, b.class), "{name} {precision:?}");
        assert!((a.score - b.score).abs() < 2e-6, "{name}: {a:?} {b:?}");
        for k in 0..4 {
            assert!((a.bounds[k] - b.bounds[k]).abs() < 1e-4 * b.bounds[k].abs().max(1.0), "{name}: {a:?} {b:?}");
        }
    }

    // The whole chain in one submission, from an empty buffer: NMS of what the shaders found equals the twin's.
    gpu.write(&candidates, 0, bytemuck::bytes_of(&header)).expect("write");
    gpu.run(&heads.iter().chain(after).collect::<Vec<_>>()).expect("run");
    let bytes = gpu.download(&detections, plan.detections_bytes).expect("download");
    let (head, kept) = read_detections(&bytes).expect("detections");
    assert_eq!(head.candidates as usize, count);
    let expected = nms::twin(&header, &found, case.head.suppression());
    match case.head.suppression() {
        Suppression::Rotated => assert_same_boxes(&kept, &expected, name),
        _ => assert_eq!(kept, expected, "{name}"),
    }
    // Other heads' landmarks are read from the outputs on the host.
    let shown = if case.head.cell_points().is_empty() { &[][..] } else { &kept[..] };
    let points = PointList::read(&bytes, &head);
    for (i, d) in shown.iter().enumerate() {
        let (found, expected) = (points.of_detection(i), case.head.details(&outputs, d.anchor).landmarks);
        assert_eq!(found.len(), expected.len(), "{name} {precision:?}: points of {d:?}");
        for (p, q) in found.iter().zip(expected.into_iter().map(|q| letterbox.pixel_from_model(q))) {
            assert!((0..2).all(|k| (p[k] - q[k]).abs() < 1e-3), "{name} {precision:?}: {p:?} for {q:?}");
        }
    }
    b.len()
}

#[test]
fn heads_equal_their_twins() {
    let Some(gpu) = test_gpu() else { return };
    for precision in precisions(&gpu) {
        for case in decode_heads::cases() {
            let found = check(&gpu, &case, precision, 0.3);
            assert!(found > 0, "{} finds nothing", case.name);
            // Nothing passes a threshold that no score reaches.
            assert_eq!(check(&gpu, &case, precision, 2.0), 0);
        }
    }
}
