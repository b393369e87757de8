//! What pictures are read from. The first byte says as what the rest is taken: a picture file, Y4M, or a stream of JPEGs.

#![no_main]

use std::io::BufReader;

use eyas::acquire::{Source, mjpeg, pictures, y4m};
use libfuzzer_sys::fuzz_target;

/// Frames that are read of one stream.
const FRAMES_MAX: usize = 4;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 3 {
        0 => {
            let path = std::env::temp_dir().join(format!("eyas-fuzz-{}", std::process::id()));
            if std::fs::write(&path, rest).is_ok() {
                let _ = pictures::load(&path);
            }
        }
        1 => {
            if let Ok(mut reader) = y4m::Reader::new(BufReader::new(rest), "fuzz".to_string(), None) {
                read(&mut reader);
            }
        }
        _ => read(&mut mjpeg::Reader::new(BufReader::new(rest), "fuzz".to_string())),
    }
});

fn read(source: &mut dyn Source) {
    for _ in 0..FRAMES_MAX {
        if source.next().is_none() {
            return;
        }
    }
}
