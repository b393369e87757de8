//! Finds objects in a picture, prints them, and writes the picture with boxes and labels on it: the whole library in
//! twenty lines.
//!
//!     cargo run --release --example detect_picture -- models/shapes.onnx models/shapes_scene.png annotated.png

use eyas::acquire::pictures::{load, save};
use eyas::draw::Style;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, picture, annotated] = args.as_slice() else {
        return Err("usage: detect_picture MODEL PICTURE ANNOTATED.png".into());
    };
    let mut detector = eyas::Detector::builder().model(model).build()?;
    println!("running on {}", detector.adapter());

    let frame = load(picture.as_ref())?;
    let found = detector.detect(&frame)?;
    for d in &found {
        let [left, top, right, bottom] = d.bounds;
        println!("{:<16} {:.2}  {left:.0},{top:.0} to {right:.0},{bottom:.0}", d.label, d.score);
    }
    save(annotated.as_ref(), &detector.annotate(&frame, &found, &Style::default())?)?;
    println!("written to {annotated}");
    Ok(())
}
