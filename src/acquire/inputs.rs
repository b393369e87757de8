//! Several files, directories and streams, one after the other: what `eyas detect` takes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::pictures::{self, Pictures};
use super::{AcquireError, LiveOptions, Picture, Source, names_a_scheme, open_live, y4m};

/// What is still to come.
enum Part {
    Pictures(VecDeque<PathBuf>),
    /// A video file, a named pipe, or `-`; opened when its turn comes.
    Video(String),
}

/// Gives the pictures of all its parts in their order.
pub struct Inputs {
    parts: VecDeque<Part>,
    current: Option<Box<dyn Source>>,
}

impl Inputs {
    /// See [`super::open`].
    pub(super) fn open(inputs: &[String]) -> Result<Inputs, AcquireError> {
        if inputs.is_empty() {
            return Err(AcquireError::NoInput);
        }
        let mut all = Inputs { parts: VecDeque::new(), current: None };
        for input in inputs {
            let path = PathBuf::from(input);
            match std::fs::metadata(&path) {
                _ if input == "-" => all.parts.push_back(Part::Video(input.clone())),
                Ok(found) if found.is_dir() => all.push_pictures(pictures::in_directory(&path)?),
                Ok(found) if !found.is_file() || is_video(&path) => all.parts.push_back(Part::Video(input.clone())),
                Ok(_) => all.push_pictures(vec![path]),
                Err(e) if e.kind() == io::ErrorKind::NotFound && names_a_scheme(input) => {
                    return Err(AcquireError::Kind { input: input.clone() });
                }
                Err(source) => return Err(AcquireError::Read { path, source }),
            }
        }
        Ok(all)
    }

    fn push_pictures(&mut self, paths: Vec<PathBuf>) {
        match self.parts.back_mut() {
            Some(Part::Pictures(earlier)) => earlier.extend(paths),
            _ => self.parts.push_back(Part::Pictures(paths.into())),
        }
    }
}

/// Whether a file is YUV4MPEG2 by its first bytes or Motion-JPEG by its name. One that cannot be read is taken for a
/// picture, and says so when its turn comes.
fn is_video(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(y4m::MAGIC.len() as u64).read_to_end(&mut head));
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    (read.is_ok() && head == y4m::MAGIC) || ["mjpeg", "mjpg", "y4m"].contains(&extension.as_str())
}

impl Source for Inputs {
    fn next(&mut self) -> Option<Result<Picture, AcquireError>> {
        loop {
            if let Some(next) = self.current.as_mut().and_then(|source| source.next()) {
                return Some(next);
            }
            self.current = match self.parts.pop_front()? {
                Part::Pictures(paths) => Some(Box::new(Pictures::new(paths))),
                Part::Video(name) => match open_live(&name, &LiveOptions::default()) {
                    Ok(source) => Some(source),
                    Err(e) => return Some(Err(e)),
                },
            };
        }
    }

    /// Known for pictures only.
    fn len_hint(&self) -> Option<usize> {
        let current = self.current.as_ref().map_or(Some(0), |source| source.len_hint())?;
        self.parts.iter().try_fold(current, |sum, part| match part {
            Part::Pictures(paths) => Some(sum + paths.len()),
            Part::Video(_) => None,
        })
    }

    /// Of the part at hand.
    fn frame_rate(&self) -> Option<[u32; 2]> {
        self.current.as_ref()?.frame_rate()
    }
}
