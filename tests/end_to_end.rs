//! The whole frame, from a picture file to boxes and back to a picture, on both backends, with the sample network.

use std::path::Path;
use std::process::Command;

#[cfg(feature = "gpu")]
use eyas::draw::Style;
use eyas::{Backend, DecodeOptions, Detection, Detector, Frame, Model, SessionOptions};

const SHAPES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/shapes.onnx");
const SCENE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/shapes_scene.png");

/// What is drawn in the scene, counted by eye: four circles, three squares, one triangle.
const DRAWN: [(&str, usize); 3] = [("circle", 4), ("square", 3), ("triangle", 1)];

fn scene() -> Frame {
    eyas::acquire::pictures::load(Path::new(SCENE)).expect("the sample picture")
}

fn cpu_detector(decode: &DecodeOptions, threads: usize) -> Detector {
    let model = Model::load(Path::new(SHAPES), None, &Default::default()).expect("the sample network");
    let session = SessionOptions { backend: Backend::Cpu, threads: Some(threads), ..SessionOptions::default() };
    Detector::new(&model, decode, &session).expect("detector")
}

fn assert_the_shapes_of_the_scene(found: &[Detection]) {
    for (label, count) in DRAWN {
        assert_eq!(found.iter().filter(|d| d.label == label).count(), count, "{label}: {found:#?}");
    }
    assert!(found.windows(2).all(|w| w[0].score >= w[1].score), "best first");
    for d in found {
        let [x0, y0, x1, y1] = d.bounds;
        assert!(0.0 <= x0 && x0 < x1 && x1 <= 640.0 && 0.0 <= y0 && y0 < y1 && y1 <= 480.0, "{d:?}");
    }
}

#[test]
fn the_cpu_finds_the_shapes_with_any_number_of_threads() {
    let one = cpu_detector(&DecodeOptions::default(), 1).detect(&scene()).expect("detect");
    assert_the_shapes_of_the_scene(&one);
    let three = cpu_detector(&DecodeOptions::default(), 3).detect(&scene()).expect("detect");
    assert_eq!(one, three, "threads do not change a result");
}

#[test]
fn options_narrow_what_is_found() {
    let detect = |options| cpu_detector(&options, 1).detect(&scene()).expect("detect");
    let squares = detect(DecodeOptions { classes: Some(vec!["square".into()]), ..DecodeOptions::default() });
    assert!(squares.len() == 3 && squares.iter().all(|d| d.label == "square"), "{squares:?}");
    let best = detect(DecodeOptions { max_detections: Some(2), ..DecodeOptions::default() });
    assert_eq!(best.len(), 2);
    let sure = detect(DecodeOptions { score_threshold: Some(0.9), ..DecodeOptions::default() });
    assert!(!sure.is_empty() && sure.len() < 8 && sure.iter().all(|d| d.score >= 0.9));
}

/// Levels that differ by more than 2, as a share of all.
#[cfg(feature = "gpu")]
fn share_beyond_two_levels(a: &Frame, b: &Frame) -> f64 {
    assert_eq!((a.width, a.height, a.format), (b.width, b.height, b.format));
    let beyond = a.bytes.iter().zip(&b.bytes).filter(|(a, b)| a.abs_diff(**b) > 2).count();
    beyond as f64 / a.bytes.len() as f64
}

#[cfg(feature = "gpu")]
#[test]
fn the_gpu_finds_and_draws_the_same() {
    use eyas::{Precision, Session};
    let Some(gpu) = eyas::gpu::test_gpu() else { return };
    let picture = scene();
    let mut cpu = cpu_detector(&DecodeOptions::default(), 1);
    let expected = cpu.detect(&picture).expect("detect");
    let drawn = cpu.annotate(&picture, &expected, &Style::default()).expect("annotate");
    let precisions: &[(Precision, f32, f32)] = if gpu.adapter.f16 {
        &[(Precision::F32, 0.2, 1e-3), (Precision::F16, 4.0, 0.02)]
    } else {
        &[(Precision::F32, 0.2, 1e-3)]
    };
    for &(precision, box_px, score) in precisions {
        let model = Model::load(Path::new(SHAPES), None, &Default::default()).expect("the sample network");
        let session = Session::on_device(&model, gpu.clone(), Some(precision)).expect("session");
        let decoder = model.decoder(&DecodeOptions::default()).expect("head");
        let mut detector = Detector::with_session(session, decoder).expect("detector");
        // Twice: the second frame finds all buffers in use already; then a picture of another size and format.
        for _ in 0..2 {
            let found = detector.detect(&picture).expect("detect");
            assert_eq!(found.len(), expected.len(), "{precision:?}");
            for d in &found {
                let same = expected.iter().any(|e| {
                    e.class == d.class
                        && (e.score - d.score).abs() <= score
                        && e.bounds.iter().zip(&d.bounds).all(|(a, b)| (a - b).abs() <= box_px)
                });
                assert!(same, "{precision:?}: {d:?} is not among {expected:#?}");
            }
        }
        let on_gpu = detector.annotate(&picture, &expected, &Style::default()).expect("annotate");
        assert!(share_beyond_two_levels(&drawn, &on_gpu) < 1e-3);
        let gray = Frame::new(3, 5, eyas::PixelFormat::Gray8, vec![128; 15]).expect("frame");
        detector.detect(&gray).expect("a small gray picture");
    }
}

#[test]
fn the_program_prints_the_documented_json() {
    let output = Command::new(env!("CARGO_BIN_EXE_eyas"))
        .args(["detect", SCENE, "-m", SHAPES, "--backend", "cpu", "--json"])
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("utf-8");
    assert_eq!(text.lines().count(), 1);
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((value["width"].as_u64(), value["height"].as_u64()), (Some(640), Some(480)));
    assert_eq!(value["backend"], "cpu");
    let found = value["detections"].as_array().expect("array");
    assert_eq!(found.len(), 8);
    for d in found {
        assert!(d["class"].is_u64() && d["label"].is_string() && d["score"].is_f64());
        assert_eq!(d["box"].as_array().map(Vec::len), Some(4));
    }
    for stage in ["acquire", "convert", "marshal", "infer", "decode", "draw", "total"] {
        assert!(value["ms"][stage].is_f64(), "{stage}");
    }
}

#[test]
fn the_program_writes_pictures_into_a_directory() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("end_to_end_pictures");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(dir.join("in")).expect("folder");
    for name in ["a.png", "b.png"] {
        std::fs::copy(SCENE, dir.join("in").join(name)).expect("copy");
    }
    std::fs::write(dir.join("in/c.png"), "damaged").expect("write");
    let output = Command::new(env!("CARGO_BIN_EXE_eyas"))
        .args(["detect", "-m", SHAPES, "--backend", "cpu", "-o"])
        .arg(dir.join("out"))
        .args([dir.join("in/a.png"), dir.join("in/c.png"), dir.join("in/b.png")])
        .output()
        .expect("the program starts");
    // One damaged picture is reported and does not lose the others.
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("c.png"));
    for name in ["a.png", "b.png"] {
        let annotated = eyas::acquire::pictures::load(&dir.join("out").join(name)).expect("annotated");
        assert_ne!(annotated.bytes, scene().bytes, "boxes are drawn");
    }
}
