//! The detector that the program carries, through the program as a newcomer starts it: no model, no picture named. What
//! is in the rendered scene is known from the scene.
#![cfg(feature = "embedded")]

use std::process::Command;

use eyas::acquire::scenes::{Scene, Site};
use eyas::embedded::Embedded;
use serde_json::Value;

/// Bounds that overlap by so much of their union are the same thing.
const SAME_IOU: f32 = 0.5;
/// What must be found, and what share of what is found must be there.
const RECALL: f64 = 0.95;
const PRECISION: f64 = 0.95;

type Boxes = Vec<(usize, [f32; 4])>;

fn iou(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |r: &[f32; 4]| (r[2] - r[0]).max(0.0) * (r[3] - r[1]).max(0.0);
    let common = area(&[a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    common / (area(a) + area(b) - common)
}

/// How many of `found` (best first) are in the scene; none counts twice.
fn hits(found: &Boxes, scene: &Boxes) -> usize {
    let mut left: Vec<_> = scene.iter().collect();
    let hit = |(class, bounds): &&(usize, [f32; 4])| {
        let fits = |(c, b): &&(usize, [f32; 4])| c == class && iou(b, bounds) >= SAME_IOU;
        left.iter().position(fits).map(|at| left.swap_remove(at)).is_some()
    };
    found.iter().filter(hit).count()
}

fn eyas(arguments: &[&str]) -> Vec<Value> {
    let done = Command::new(env!("CARGO_BIN_EXE_eyas")).args(arguments).output().expect("the program starts");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect()
}

fn boxes(line: &Value) -> Boxes {
    let detections = line["detections"].as_array().expect("detections");
    detections
        .iter()
        .map(|d| {
            let label = ["head", "helmet"][d["class"].as_u64().expect("a class") as usize];
            assert_eq!(d["label"], label);
            let at = |i: usize| d["box"][i].as_f64().expect("a number") as f32;
            (d["class"].as_u64().expect("a class") as usize, [at(0), at(1), at(2), at(3)])
        })
        .collect()
}

/// Frames of the sample scene and what was found in them, against what is there.
fn assert_found(frames: &[(u64, Boxes)]) {
    let scene = Site::sample(640, 480).expect("the sample");
    let (mut hit, mut found, mut there) = (0, 0, 0);
    for (n, boxes) in frames {
        let truth = scene.truth(*n);
        let (here, right) = (truth.len(), hits(boxes, &truth));
        eprintln!("frame {n}: {right} right of {} found, {here} there", boxes.len());
        (hit, found, there) = (hit + right, found + boxes.len(), there + here);
    }
    let (recall, precision) = (hit as f64 / there as f64, hit as f64 / found as f64);
    assert!(there >= frames.len() && recall >= RECALL, "{hit} of {there} are found: recall {recall:.3}");
    assert!(precision >= PRECISION, "{hit} of {found} are right: precision {precision:.3}");
}

#[test]
fn without_arguments_the_sample_is_found_and_drawn() {
    let picture = std::env::temp_dir().join(format!("eyas-sample-{}.png", std::process::id()));
    let path = picture.to_string_lossy().into_owned();
    let lines = eyas(&["detect", "--json", "--backend", "cpu", "-o", &path]);
    let drawn = eyas::acquire::pictures::load(&picture).expect("a picture");
    let _ = std::fs::remove_file(&picture);
    assert_eq!((lines.len(), drawn.width, drawn.height), (1, 640, 480));
    assert_ne!(drawn, Site::sample(640, 480).expect("the sample").render(12), "boxes are drawn");
    assert_found(&[(12, boxes(&lines[0]))]);
}

#[test]
fn what_moves_is_found() {
    assert_moving_found(&["--frames", "25"], 25);
    assert_moving_found(&["--frames", "10", "--large"], 10);
}

fn assert_moving_found(arguments: &[&str], count: usize) {
    let lines = eyas(&[&["live", "--headless", "--json", "--backend", "cpu"], arguments].concat());
    assert_eq!(lines.len(), count);
    let frames: Vec<(u64, Boxes)> = lines.iter().map(boxes).enumerate().map(|(n, b)| (n as u64, b)).collect();
    assert_found(&frames);
}

#[test]
fn weights_that_are_let_go_of_change_nothing() {
    use eyas::infer::import::ImportOptions;
    use eyas::infer::tensor::Tensor;
    use eyas::{Backend, Model, Session, SessionOptions};

    for threads in [1, 2] {
        let options = SessionOptions { backend: Backend::Cpu, threads: Some(threads), ..SessionOptions::default() };
        let model = || Model::embedded(Embedded::Small, &ImportOptions::default()).expect("the model");
        let run = |mut session: Session| {
            let (name, shape) =
                session.plan().inputs.first().map(|(n, v)| (n.clone(), v.shape.clone())).expect("an input");
            let values = (0..shape.iter().product::<usize>()).map(|i| (i % 251) as f32 / 251.0).collect();
            let input = Tensor::from_f32(&shape, values).expect("shape");
            let outputs = session.run(&[(name.as_str(), input)]).expect("runs");
            outputs.into_iter().map(|(name, tensor)| (name, tensor.to_f32())).collect::<Vec<_>>()
        };
        let kept = run(Session::new(&model(), &options).expect("plans"));
        assert!(kept == run(Session::of(model(), &options).expect("plans")), "{threads} threads");
    }
}
