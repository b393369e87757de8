//! `eyas eval`: average precision on labelled pictures.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use eyas::evaluation::{Judged, Truth, evaluate};
use eyas::{Detector, acquire};
use serde::Deserialize;
use serde_json::json;

use super::CliError;
use super::detect::HeadArgs;
use super::options::Common;
use super::report::{print_line, print_table, progress_bar};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    head: HeadArgs,
    /// Folder with images/ and either labels/ (YOLO text files) or annotations.json (COCO)
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Print the precision of each class
    #[arg(long)]
    per_class: bool,
    /// One JSON object on one line
    #[arg(long)]
    json: bool,
}

/// Detections below this score are not asked for unless --conf says otherwise: the curve needs the weak ones too.
const EVALUATION_CONF: f32 = 0.001;

#[derive(Deserialize)]
struct Coco {
    images: Vec<CocoImage>,
    annotations: Vec<CocoAnnotation>,
    categories: Vec<CocoCategory>,
}

#[derive(Deserialize)]
struct CocoImage {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct CocoAnnotation {
    image_id: u64,
    category_id: u64,
    /// Left, top, width, height.
    bbox: [f32; 4],
    #[serde(default)]
    iscrowd: u8,
}

#[derive(Deserialize)]
struct CocoCategory {
    id: u64,
    name: String,
}

/// Boxes of a picture: pixels, or fractions of its size.
enum Labels {
    Pixels(Vec<Truth>),
    Fractions(Vec<(u32, [f32; 4])>),
}

fn read_text(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|e| CliError::Runtime(format!("cannot read {}: {e}", path.display())))
}

fn coco(data: &Path, file: &Path, labels: &[String]) -> Result<Vec<(PathBuf, Labels)>, CliError> {
    let coco: Coco = serde_json::from_str(&read_text(file)?)
        .map_err(|e| CliError::Runtime(format!("{}: not COCO annotations: {e}", file.display())))?;
    // Categories by name where the network knows the names; else in the order of their ids.
    let mut ids: Vec<u64> = coco.categories.iter().map(|c| c.id).collect();
    ids.sort_unstable();
    let by_name = coco.categories.iter().all(|c| labels.contains(&c.name));
    let class_of: HashMap<u64, u32> = coco
        .categories
        .iter()
        .filter_map(|c| {
            let class =
                if by_name { labels.iter().position(|l| *l == c.name) } else { ids.iter().position(|id| *id == c.id) };
            Some((c.id, u32::try_from(class?).ok()?))
        })
        .collect();
    let mut truths: HashMap<u64, Vec<Truth>> = HashMap::new();
    for a in &coco.annotations {
        let Some(&class) = class_of.get(&a.category_id) else {
            return Err(CliError::Runtime(format!("{}: unknown category {}", file.display(), a.category_id)));
        };
        let [x, y, w, h] = a.bbox;
        let truth = Truth { class, bounds: [x, y, x + w, y + h], is_crowd: a.iscrowd != 0 };
        truths.entry(a.image_id).or_default().push(truth);
    }
    Ok(coco
        .images
        .iter()
        .map(|i| (data.join("images").join(&i.file_name), Labels::Pixels(truths.remove(&i.id).unwrap_or_default())))
        .collect())
}

fn yolo(data: &Path) -> Result<Vec<(PathBuf, Labels)>, CliError> {
    let images = data.join("images");
    let entries =
        std::fs::read_dir(&images).map_err(|e| CliError::Runtime(format!("cannot read {}: {e}", images.display())))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.is_file()).collect();
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        let stem = path.file_stem().unwrap_or_default();
        let file = data.join("labels").join(stem).with_extension("txt");
        // No file: a picture without objects.
        let text = if file.exists() { read_text(&file)? } else { String::new() };
        let mut boxes = Vec::new();
        for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let numbers: Vec<f32> = line.split_whitespace().filter_map(|w| w.parse().ok()).collect();
            let [class, cx, cy, w, h] = numbers[..] else {
                return Err(CliError::Runtime(format!(
                    "{}:{}: expected 'class cx cy width height', got '{line}'",
                    file.display(),
                    i + 1
                )));
            };
            boxes.push((class as u32, [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0]));
        }
        all.push((path, Labels::Fractions(boxes)));
    }
    Ok(all)
}

pub fn run(args: &Args) -> Result<(), CliError> {
    let model = args.common.load_model()?;
    let mut head = args.head.options()?;
    head.score_threshold.get_or_insert(EVALUATION_CONF);
    let mut detector = Detector::new(&model, &head, &args.common.session_options())?;
    let annotations = args.data.join("annotations.json");
    let set = if annotations.exists() {
        coco(&args.data, &annotations, detector.decoder().labels.names())?
    } else {
        yolo(&args.data)?
    };
    if set.is_empty() {
        return Err(CliError::Runtime(format!("{}: no pictures in images/", args.data.display())));
    }
    let bar = progress_bar(set.len());
    let mut pictures = Vec::with_capacity(set.len());
    for (path, labels) in set {
        let picture = acquire::pictures::load(&path).map_err(eyas::Error::from)?;
        let found = detector.detect(&picture)?;
        let truths = match labels {
            Labels::Pixels(truths) => truths,
            Labels::Fractions(boxes) => {
                let (w, h) = (picture.width as f32, picture.height as f32);
                let scaled = |b: [f32; 4]| [b[0] * w, b[1] * h, b[2] * w, b[3] * h];
                boxes.into_iter().map(|(class, b)| Truth { class, bounds: scaled(b), is_crowd: false }).collect()
            }
        };
        let judged = found.iter().map(|d| Judged { class: d.class, score: d.score, bounds: d.bounds }).collect();
        pictures.push((judged, truths));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let precision = evaluate(&pictures);
    let label = |class: u32| detector.decoder().labels.name(class);
    if args.json {
        let classes: Vec<_> = precision
            .classes
            .iter()
            .map(|c| json!({"class": c.class, "label": label(c.class), "truths": c.truths, "ap50": c.ap50, "ap50_95": c.ap50_95}))
            .collect();
        let value = json!({
            "model": model.graph.name,
            "backend": detector.backend(),
            "adapter": detector.adapter(),
            "pictures": pictures.len(),
            "ap50": precision.ap50,
            "ap50_95": precision.ap50_95,
            "classes": classes,
        });
        return print_line(&value.to_string());
    }
    if args.per_class {
        let rows: Vec<Vec<String>> = precision
            .classes
            .iter()
            .map(|c| vec![label(c.class), c.truths.to_string(), format!("{:.4}", c.ap50), format!("{:.4}", c.ap50_95)])
            .collect();
        print_table(&["class", "boxes", "AP50", "AP50:95"], &rows)?;
    }
    print_line(&format!(
        "{} pictures, {} classes: AP50 {:.4}, AP50:95 {:.4} ({} on {})",
        pictures.len(),
        precision.classes.len(),
        precision.ap50,
        precision.ap50_95,
        detector.backend(),
        detector.adapter()
    ))
}
