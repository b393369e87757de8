//! Stage 1: where pictures come from.
//!
//! A [`Source`] gives one [`Picture`] after the other. [`open`] turns the words of a command line into a source; kinds of
//! sources are listed there and live in a file each.

pub mod pictures;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use crate::frame::{Frame, MAX_SIDE_PX};

/// A frame and where it came from.
#[derive(Clone, Debug)]
pub struct Picture {
    pub frame: Frame,
    /// The path, or another name of the source.
    pub origin: String,
}

/// Gives frames in their order.
pub trait Source: Send {
    /// The next picture, `None` at the end. After an error of one picture the next call goes on with the one after it.
    fn next(&mut self) -> Option<Result<Picture, AcquireError>>;

    /// How many pictures are still to come, errors included, where that is known.
    fn len_hint(&self) -> Option<usize>;
}

/// What goes wrong on the way of a picture in, or out to a file.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    #[error("no input was given: name a picture (JPEG, PNG, WebP, BMP) or a directory of pictures")]
    NoInput,
    #[error(
        "'{input}' is no file, and no kind of source that this command reads: name a picture (JPEG, PNG, WebP, BMP) or a directory of pictures"
    )]
    Kind { input: String },
    #[error("cannot read '{}': {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("'{}' is not a picture that can be read ({found}): give JPEG, PNG, WebP or BMP", path.display())]
    Format { path: PathBuf, found: String },
    #[error("the directory '{}' holds no JPEG, PNG, WebP or BMP picture (directories inside it are not searched)", path.display())]
    EmptyDirectory { path: PathBuf },
    #[error(
        "'{}' is {width}x{height} pixels; at most {MAX_SIDE_PX} a side and {} MiB decoded are read: scale it down",
        path.display(), pictures::MAX_DECODED_BYTES >> 20
    )]
    TooLarge { path: PathBuf, width: u32, height: u32 },
    #[error("'{}' has {bytes} bytes or more; picture files of up to {} MiB are read", path.display(), pictures::MAX_FILE_BYTES >> 20)]
    FileTooLarge { path: PathBuf, bytes: u64 },
    #[error("'{}' is damaged or cut off: {reason}; get it again or leave it out", path.display())]
    Decode { path: PathBuf, reason: String },
    #[error("'{}' has no picture extension: end the name in .jpg, .png, .webp or .bmp", path.display())]
    Extension { path: PathBuf },
    #[error("cannot write '{}': {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot write '{}': {reason}", path.display())]
    Encode { path: PathBuf, reason: String },
}

/// Opens files and directories, in this order. Everything named must exist; whether each file holds a picture is found
/// when its turn comes.
///
/// # Errors
/// When nothing is named, a name doesn't exist, or a directory has no picture.
pub fn open(inputs: &[String]) -> Result<Box<dyn Source>, AcquireError> {
    if inputs.is_empty() {
        return Err(AcquireError::NoInput);
    }
    let mut paths = VecDeque::new();
    for input in inputs {
        let path = PathBuf::from(input);
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => paths.extend(pictures::in_directory(&path)?),
            Ok(_) => paths.push_back(path),
            Err(e) if e.kind() == io::ErrorKind::NotFound && names_a_scheme(input) => {
                return Err(AcquireError::Kind { input: input.clone() });
            }
            Err(source) => return Err(AcquireError::Read { path, source }),
        }
    }
    Ok(Box::new(pictures::Pictures::new(paths)))
}

/// `-`, `camera:0`, `pattern:`, `https://...`; a single letter is a Windows drive.
fn names_a_scheme(input: &str) -> bool {
    input == "-"
        || input.split_once(':').is_some_and(|(scheme, _)| {
            scheme.len() > 1
                && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        })
}
