//! Writes rendered pictures of the building site with labels, to train with: images/ and labels/ (YOLO's text files).
//!
//!     cargo run --release --example render_scenes -- DIR COUNT [FIRST_SEED]
//!
//! Every seed is another crowd, camera and light. The sample that `pattern:site` shows is none of them.

use std::fmt::Write as _;
use std::path::PathBuf;

use eyas::acquire::pictures::save;
use eyas::acquire::scenes::Scene;
use eyas::acquire::scenes::site::{Layout, Site};

/// Sizes that take turns.
const SIZES_PX: [[u32; 2]; 4] = [[448, 336], [384, 288], [320, 320], [416, 320]];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (directory, count, first) = match words.as_slice() {
        [directory, count] => (PathBuf::from(directory), count.parse::<u64>()?, 1000),
        [directory, count, first] => (PathBuf::from(directory), count.parse()?, first.parse()?),
        _ => return Err("usage: render_scenes DIR COUNT [FIRST_SEED]".into()),
    };
    let (images, labels) = (directory.join("images"), directory.join("labels"));
    std::fs::create_dir_all(&images)?;
    std::fs::create_dir_all(&labels)?;
    for seed in first..first + count {
        let [width, height] = SIZES_PX[(seed % SIZES_PX.len() as u64) as usize];
        let scene = Site::new(width, height, seed, Layout::Varied)?;
        let frame = seed * 37 % 1000;
        let mut text = String::new();
        for (class, [x0, y0, x1, y1]) in scene.truth(frame) {
            let (w, h) = (width as f32, height as f32);
            let (cx, cy) = ((x0 + x1) / (2.0 * w), (y0 + y1) / (2.0 * h));
            writeln!(text, "{class} {cx:.6} {cy:.6} {:.6} {:.6}", (x1 - x0) / w, (y1 - y0) / h)?;
        }
        std::fs::write(labels.join(format!("{seed:05}.txt")), text)?;
        save(&images.join(format!("{seed:05}.png")), &scene.render(frame))?;
    }
    println!("{count} pictures in {}", directory.display());
    Ok(())
}
