//! The same clip on the GPU and on the CPU: milliseconds of every stage in a table, the whole frame as a bar chart, and
//! how well the boxes of both agree.
//!
//!     cargo run --release --example gpu_vs_cpu -- models/shapes.onnx pattern:shapes 100 chart.png
//!
//! The clip is whatever `eyas live` takes: a .y4m file, a directory of pictures, `pattern:`; at most so many frames.

use eyas::acquire::pictures::save;
use eyas::draw::font::Atlas;
use eyas::draw::instances::{Instance, SOLID};
use eyas::draw::panel::{Corner, text_box};
use eyas::draw::rasterise;
use eyas::{Backend, DecodeOptions, Detection, Detector, Frame, Model, PixelFormat, SessionOptions, StageTimes};

/// Frames that warm caches and pipelines up and are not counted.
const WARM_UP: usize = 3;

/// One backend's way through the clip.
struct Run {
    name: String,
    /// Of each frame.
    times: Vec<StageTimes>,
    found: Vec<Vec<Detection>>,
}

impl Run {
    fn median(&self, stage: impl Fn(&StageTimes) -> f64) -> f64 {
        let mut values: Vec<f64> = self.times.iter().skip(WARM_UP.min(self.times.len() - 1)).map(stage).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }
}

fn run(model: &Model, backend: Backend, frames: &[Frame]) -> Result<Run, eyas::Error> {
    let session = SessionOptions { backend, ..SessionOptions::default() };
    let mut detector = Detector::new(model, &DecodeOptions::default(), &session)?;
    let name = format!("{} {}", detector.backend().to_uppercase(), detector.adapter());
    let (mut times, mut found) = (Vec::new(), Vec::new());
    for frame in frames {
        let (detections, ms) = detector.process(frame)?;
        times.push(ms);
        found.push(detections);
    }
    Ok(Run { name, times, found })
}

/// Intersection over union.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |r: &[f32; 4]| (r[2] - r[0]).max(0.0) * (r[3] - r[1]).max(0.0);
    let both = [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])];
    area(&both) / (area(a) + area(b) - area(&both)).max(f32::MIN_POSITIVE)
}

/// Boxes of `a` that have a partner of the same class in `b` with an overlap of 0.95 or more, all boxes of both, and
/// the largest distance in pixels between the edges of partners.
fn agreement(a: &Run, b: &Run) -> (usize, usize, f32) {
    let (mut partners, mut boxes, mut distance_px) = (0, 0, 0f32);
    for (a, b) in a.found.iter().zip(&b.found) {
        boxes += a.len() + b.len();
        for one in a {
            let best = b
                .iter()
                .filter(|other| other.class == one.class)
                .max_by(|x, y| overlap(&x.bounds, &one.bounds).total_cmp(&overlap(&y.bounds, &one.bounds)));
            if let Some(best) = best.filter(|best| overlap(&best.bounds, &one.bounds) >= 0.95) {
                partners += 1;
                let edges = one.bounds.iter().zip(&best.bounds);
                distance_px = edges.fold(distance_px, |most, (x, y)| most.max((x - y).abs()));
            }
        }
    }
    (partners, boxes, distance_px)
}

/// A bar a backend, as long as its frame takes.
fn chart(runs: &[Run]) -> Result<Frame, Box<dyn std::error::Error>> {
    const SIZE: [u32; 2] = [900, 220];
    let mut picture = Frame::new(SIZE[0], SIZE[1], PixelFormat::Rgb8, vec![24; (SIZE[0] * SIZE[1] * 3) as usize])?;
    let atlas = Atlas::of_size(18);
    let longest = runs.iter().map(|r| r.median(|ms| ms.total)).fold(f64::MIN_POSITIVE, f64::max);
    for (run, row) in runs.iter().zip(0..) {
        let ms = run.median(|ms| ms.total);
        let top = 20 + row * 100;
        let right = 20 + (860.0 * ms / longest) as i32;
        let colour = [[90, 200, 120, 255], [90, 140, 220, 255]][row as usize % 2];
        let bar =
            Instance { rect_px: [20, top + 30, right.max(21), top + 70], texel_px: [0, 0], colour, source: SOLID };
        let mut list = vec![bar];
        let mut label = format!("{ms:.2} ms a frame, {:.1} fps: {}", 1e3 / ms, run.name);
        // Adapters have long names; so much fits.
        if let Some((end, _)) = label.char_indices().nth(78) {
            label.replace_range(end.., "…");
        }
        // The text box stands in a corner; here it stands above its bar.
        list.extend(text_box(&[label], [SIZE[0] - 20, SIZE[1]], Corner::TopLeft, &atlas).into_iter().skip(1).map(
            |mut i| {
                for (k, by) in [(0, 14), (1, top), (2, 14), (3, top)] {
                    i.rect_px[k] += by;
                }
                i
            },
        ));
        rasterise(&mut picture, &list, &atlas)?;
    }
    Ok(picture)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, clip, count, chart_path] = args.as_slice() else {
        return Err("usage: gpu_vs_cpu MODEL CLIP FRAMES CHART.png".into());
    };
    let model = Model::load(model.as_ref(), None, &eyas::infer::import::ImportOptions::default())?;
    let mut source = eyas::acquire::open_live(clip, &Default::default())?;
    let mut frames = Vec::new();
    while frames.len() < count.parse()? {
        match source.next() {
            Some(picture) => frames.push(picture?.frame),
            None => break,
        }
    }
    if frames.is_empty() {
        return Err("the clip has no frames".into());
    }

    let runs = [run(&model, Backend::Gpu, &frames)?, run(&model, Backend::Cpu, &frames)?];
    println!("{} frames; medians in milliseconds", frames.len());
    println!("{:>10} {:>10} {:>10} {:>10} {:>10}  ", "convert", "infer", "decode", "total", "fps");
    for run in &runs {
        let total = run.median(|ms| ms.total);
        println!(
            "{:>10.3} {:>10.3} {:>10.3} {total:>10.3} {:>10.1}  {}",
            run.median(|ms| ms.convert + ms.marshal),
            run.median(|ms| ms.infer),
            run.median(|ms| ms.decode),
            1e3 / total,
            run.name
        );
    }
    let (partners, boxes, distance_px) = agreement(&runs[0], &runs[1]);
    println!("boxes that agree: {} of {boxes}, edges at most {distance_px:.3} px apart", 2 * partners);
    save(chart_path.as_ref(), &chart(&runs)?)?;
    println!("chart written to {chart_path}");
    Ok(())
}
