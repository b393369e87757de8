//! `eyas detect`: pictures or videos in; annotated pictures or a video, a table or JSON out.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use eyas::acquire::{self, Picture, Source, pattern::Still, pictures::save, scenes::Site};
use eyas::decode::Labels;
use eyas::draw::Style;
use eyas::live::Sink;
use eyas::live::sink::is_another_file;
use eyas::{DecodeOptions, Detection, Detector, StageTimes};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::CliError;
use super::options::Common;
use super::report::{print_line, print_table, stderr_is_terminal};

#[derive(clap::Args, Clone, Debug)]
pub struct HeadArgs {
    /// Name of the detection head, where it is not recognised (a wrong name lists all)
    #[arg(long, value_name = "NAME")]
    pub head: Option<String>,
    /// Drop detections with a lower score [default: the head's]
    #[arg(long, value_name = "SCORE", value_parser = parse_fraction)]
    pub conf: Option<f32>,
    /// Of two boxes of a class that overlap by more than this, keep the better [default: the head's]
    #[arg(long, value_name = "IOU", value_parser = parse_fraction)]
    pub iou: Option<f32>,
    /// File with one class name a line
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Only these classes, by name or number, e.g. person,dog
    #[arg(long, value_name = "CLASSES", value_delimiter = ',')]
    pub classes: Vec<String>,
    /// At most so many detections a picture [default: 300]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub max: Option<u16>,
}

fn parse_fraction(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(v) if (0.0..=1.0).contains(&v) => Ok(v),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

impl HeadArgs {
    pub fn options(&self) -> Result<DecodeOptions, CliError> {
        let labels = match &self.labels {
            Some(path) => Some(Labels::read(path).map_err(eyas::Error::from)?),
            None => None,
        };
        Ok(DecodeOptions {
            head: self.head.clone(),
            score_threshold: self.conf,
            iou_threshold: self.iou,
            max_detections: self.max.map(usize::from),
            labels,
            classes: (!self.classes.is_empty()).then(|| self.classes.clone()),
            multi_label: false,
        })
    }
}

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Pictures (JPEG, PNG, WebP, BMP), directories of pictures, .y4m or .mjpeg videos, '-' for a video on stdin
    /// [default: a rendered sample scene, drawn to eyas_sample.png]
    #[arg(value_name = "INPUT")]
    inputs: Vec<String>,
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    head: HeadArgs,
    /// Write the annotated picture here; a directory for several pictures; a .y4m file or a directory for a video
    #[arg(short, long, value_name = "FILE or DIR")]
    output: Option<PathBuf>,
    /// One JSON object per picture on one line
    #[arg(long)]
    json: bool,
}

/// The frame of `pattern:` that is the sample: one in which all seven people stand clear of each other.
const SAMPLE_FRAME: u64 = 12;

/// Where the sample is drawn to, unless -o names another place.
const SAMPLE_OUTPUT: &str = "eyas_sample.png";

/// Where annotated pictures go.
struct Annotated {
    output: PathBuf,
    many: bool,
    video: Option<Sink>,
    written: HashSet<PathBuf>,
}

impl Annotated {
    fn open(output: &Path, many: bool, rate: Option<[u32; 2]>) -> Result<Annotated, CliError> {
        let is_video = output == Path::new("-") || output.extension().is_some_and(|e| e.eq_ignore_ascii_case("y4m"));
        let mut video = None;
        if is_video {
            video = Some(Sink::open(output, rate.unwrap_or([30, 1])).map_err(eyas::Error::from)?);
        } else if many {
            if is_another_file(output) {
                return Err(CliError::Runtime(format!(
                    "there are several pictures to write, and '{}' is not a directory: name one, or for a video a .y4m file",
                    output.display()
                )));
            }
            std::fs::create_dir_all(output).map_err(|e| {
                CliError::Runtime(format!("cannot create the directory {} for several pictures: {e}", output.display()))
            })?;
        }
        Ok(Annotated { output: output.to_path_buf(), many, video, written: HashSet::new() })
    }

    fn write(&mut self, picture: &Picture, annotated: eyas::Frame) -> Result<(), CliError> {
        if let Some(video) = &mut self.video {
            return Ok(video.write(annotated).map_err(eyas::Error::from)?);
        }
        let path = self.path(picture);
        save(&path, &annotated).map_err(eyas::Error::from)?;
        self.written.insert(path);
        Ok(())
    }

    /// In a directory: the picture's own name, or that of the video and the frame's number.
    fn path(&self, picture: &Picture) -> PathBuf {
        if !self.many && !self.output.is_dir() {
            return self.output.clone();
        }
        let origin = Path::new(&picture.origin);
        // Pictures are read by content; only extensions that can be written are kept.
        let extension = origin.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        let is_writable = ["jpg", "jpeg", "png", "webp", "bmp"].contains(&extension.as_str());
        let extension = if is_writable { extension } else { "png".to_string() };
        let stem = origin.file_stem().unwrap_or_default().to_string_lossy().replace(' ', "_");
        let stem = picture.number.map_or(stem.clone(), |number| format!("{stem}-{number:06}"));
        // Files of one name from different directories.
        let mut path = self.output.join(format!("{stem}.{extension}"));
        let mut copy = 2;
        while self.written.contains(&path) {
            path = self.output.join(format!("{stem}-{copy}.{extension}"));
            copy += 1;
        }
        path
    }

    fn finish(self) -> Result<(), CliError> {
        match self.video {
            Some(video) => Ok(video.finish().map_err(eyas::Error::from)?),
            None => Ok(()),
        }
    }
}

/// Rounded for output: a thousandth of a pixel, a hundred-thousandth of a score.
fn rounded(value: f32, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (f64::from(value) * scale).round() / scale
}

/// Detections as the commands print them.
pub fn json_detections(found: &[Detection]) -> serde_json::Value {
    found
        .iter()
        .map(|d| {
            let mut one = json!({
                "class": d.class,
                "label": d.label,
                "score": rounded(d.score, 5),
                "box": d.bounds.map(|v| rounded(v, 3)),
            });
            if !d.landmarks.is_empty() {
                one["landmarks"] = d.landmarks.iter().map(|p| p.map(|v| rounded(v, 3))).collect();
            }
            if !d.visibility.is_empty() {
                one["visibility"] = d.visibility.iter().map(|&v| rounded(v, 5)).collect();
            }
            if let Some(quad) = &d.quad {
                one["corners"] = quad.corners.iter().map(|p| p.map(|v| rounded(v, 3))).collect();
                one["angle"] = rounded(quad.angle, 5).into();
            }
            if let Some(mask) = &d.mask {
                one["mask"] = json!({ "box": mask.bounds_px, "runs": mask.runs });
            }
            one
        })
        .collect()
}

fn json_line(picture: &Picture, model: &str, detector: &Detector, found: &[Detection], ms: &StageTimes) -> String {
    let mut line = json!({
        "image": picture.origin,
        "width": picture.frame.width,
        "height": picture.frame.height,
        "model": model,
        "backend": detector.backend(),
        "adapter": detector.adapter(),
        "detections": json_detections(found),
        "ms": ms,
    });
    if let Some(number) = picture.number {
        line["frame"] = number.into();
    }
    line.to_string()
}

pub fn run(args: &Args) -> Result<(), CliError> {
    let model_name = args.common.model_name();
    let is_sample = args.inputs.is_empty();
    let mut source: Box<dyn Source> = if is_sample {
        let sample = Site::sample(640, 480).map_err(CliError::Runtime)?;
        Box::new(Still::new(&sample, SAMPLE_FRAME, "sample scene"))
    } else {
        acquire::open(&args.inputs).map_err(eyas::Error::from)?
    };
    let output = args.output.clone().or_else(|| is_sample.then(|| PathBuf::from(SAMPLE_OUTPUT)));
    let many = source.len_hint().is_none_or(|n| n > 1);
    if args.output.as_deref() == Some(Path::new("-")) {
        return Err(CliError::Usage("-o - is for `eyas live --headless`; name a .y4m file or a directory".into()));
    }
    // A video's rate is known with its first frame.
    let mut annotated: Option<Annotated> = None;
    let model = args.common.load_model()?;
    let mut detector = Detector::of(model, &args.head.options()?, &args.common.session_options())?;
    log::info!("{} on {}", detector.backend(), detector.adapter());
    let element_bytes = detector.session().precision().size_bytes();
    if let Some(short) = detector.session().plan().hops_in_short(element_bytes) {
        log::info!("{short}");
    }
    let bar = match source.len_hint() {
        Some(n) if many && stderr_is_terminal() => ProgressBar::new(n as u64),
        None if stderr_is_terminal() => ProgressBar::new_spinner(),
        _ => ProgressBar::hidden(),
    };
    let template = match bar.length() {
        Some(_) => "{wide_bar} {pos}/{len} {eta}",
        None => "{spinner} {pos} pictures, {per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let (mut rows, mut has_table) = (Vec::new(), false);
    let (mut objects, mut pictures, mut failed) = (0usize, 0usize, 0usize);
    let mut total_ms = 0.0;
    loop {
        let start = Instant::now();
        let Some(next) = source.next() else { break };
        let acquire_ms = start.elapsed().as_secs_f64() * 1e3;
        let picture = match next {
            Ok(picture) => picture,
            // One bad picture of many does not lose the others.
            Err(e) if many => {
                bar.suspend(|| log::error!("{e}"));
                failed += 1;
                bar.inc(1);
                continue;
            }
            Err(e) => return Err(eyas::Error::from(e).into()),
        };
        let (found, mut ms) = detector.process(&picture.frame)?;
        ms.acquire = acquire_ms;
        if let Some(output) = &output {
            let start = Instant::now();
            let drawn = detector.annotate(&picture.frame, &found, &Style::default())?;
            ms.draw = start.elapsed().as_secs_f64() * 1e3;
            let annotated = match &mut annotated {
                Some(annotated) => annotated,
                None => annotated.insert(Annotated::open(output, many, source.frame_rate())?),
            };
            annotated.write(&picture, drawn)?;
        }
        ms.total += ms.acquire + ms.draw;
        total_ms += ms.total;
        pictures += 1;
        if args.json {
            print_line(&json_line(&picture, &model_name, &detector, &found, &ms))?;
        } else if let Some(number) = picture.number {
            // A video has no end that a table could wait for.
            let list: Vec<String> = found.iter().map(|d| format!("{} {:.2}", d.label, d.score)).collect();
            let list = if list.is_empty() { "nothing".to_string() } else { list.join(", ") };
            bar.suspend(|| print_line(&format!("{} frame {number}: {list}", picture.origin)))?;
            objects += found.len();
        } else {
            objects += found.len();
            has_table = true;
            for d in &found {
                let [x0, y0, x1, y1] = d.bounds;
                let mut row = vec![d.label.clone(), format!("{:.3}", d.score)];
                row.extend([x0, y0, x1, y1].map(|v| format!("{v:.1}")));
                if many {
                    row.insert(0, picture.origin.clone());
                }
                rows.push(row);
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let is_written = annotated.is_some();
    if let Some(annotated) = annotated {
        annotated.finish()?;
    }
    if pictures + failed == 0 {
        return Err(CliError::Runtime("the input ended before its first picture".into()));
    }
    if !args.json {
        let mut headings = vec!["label", "score", "left", "top", "right", "bottom"];
        if many {
            headings.insert(0, "picture");
        }
        if has_table {
            print_table(&headings, &rows)?;
        }
        print_line(&format!(
            "{objects} object(s) in {pictures} picture(s), {:.1} ms a picture, {} on {}",
            total_ms / pictures.max(1) as f64,
            detector.backend(),
            detector.adapter(),
        ))?;
        if is_sample {
            print_line("no INPUT was named, so this is the sample: a rendered scene, not a photo")?;
        }
        if let (Some(output), true) = (&output, is_written) {
            print_line(&format!("written to {}", output.display()))?;
        }
    }
    match failed {
        0 => Ok(()),
        n => Err(CliError::Runtime(format!("{n} of {} picture(s) could not be read", n + pictures))),
    }
}
