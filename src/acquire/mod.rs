//! Stage 1: where pictures come from.
//!
//! A [`Source`] gives one [`Picture`] after the other. [`open`] turns the words of a command line into a source of
//! pictures, [`open_live`] one word into a source of any kind; kinds of sources are listed there and live in a file each.
//! [`capture::Capture`] runs a source on a thread of its own.

mod camera;
pub mod capture;
mod inputs;
pub mod mjpeg;
pub mod pattern;
pub mod pictures;
pub mod scenes;
pub mod y4m;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::frame::{Colour, Frame, MAX_SIDE_PX};

/// A frame and where it came from.
#[derive(Clone, Debug)]
pub struct Picture {
    pub frame: Frame,
    /// The path, or another name of the source.
    pub origin: String,
    /// Which frame of a video or scene it is, from 0; `None` for a picture file and a camera.
    pub number: Option<u64>,
}

/// Gives frames in their order.
pub trait Source: Send {
    /// The next picture, `None` at the end. After an error of one picture the next call goes on with the one after it.
    fn next(&mut self) -> Option<Result<Picture, AcquireError>>;

    /// How many pictures are still to come, errors included, where that is known.
    fn len_hint(&self) -> Option<usize>;

    /// Pictures per second as numerator and denominator, both positive, where the source says how fast it wants to be
    /// shown.
    fn frame_rate(&self) -> Option<[u32; 2]> {
        None
    }

    /// True when frames come whether anybody takes them or not: a camera.
    fn is_live(&self) -> bool {
        false
    }
}

/// What [`open_live`] is to know besides the source's name.
#[derive(Clone, Debug)]
pub struct LiveOptions {
    /// How long a picture of a slide show stands.
    pub slide: Duration,
    /// What Y, U and V mean, for sources that don't say it or say it wrongly. Without it: what the stream says, else
    /// limited range and the matrix by size ([`Colour::of_video`]).
    pub colour: Option<Colour>,
    /// The size to ask a camera for; it gives the nearest it has.
    pub camera_px: [u32; 2],
    /// The GPU that renders scenes that have a shader. Without it, and where there is none: the CPU.
    #[cfg(feature = "gpu")]
    pub scene_gpu: Option<crate::gpu::GpuOptions>,
}

impl Default for LiveOptions {
    fn default() -> Self {
        LiveOptions {
            slide: Duration::from_secs(2),
            colour: None,
            camera_px: [640, 480],
            #[cfg(feature = "gpu")]
            scene_gpu: None,
        }
    }
}

/// What goes wrong on the way of a picture in, or out to a file.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    #[error(
        "no input was given: name a picture (JPEG, PNG, WebP, BMP), a directory of pictures, a .y4m or .mjpeg file, or '-'"
    )]
    NoInput,
    #[error(
        "'{input}' is no file, and no kind of source that this command reads: name a picture (JPEG, PNG, WebP, BMP), a directory of pictures, a .y4m or .mjpeg file, or '-'; for cameras and pattern: there is `eyas live`"
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
    #[error(
        "'{origin}' ends in the middle of a frame, after {complete_frames} complete frames: what wrote it was stopped, or the file is cut off"
    )]
    CutOff { origin: String, complete_frames: u64 },
    #[error("'{origin}' cannot be read as video: {reason}")]
    Stream { origin: String, reason: String },
    #[error("'{input}' is no source: {reason}")]
    Options { input: String, reason: String },
    #[error("camera {index}: {reason}")]
    Camera { index: u32, reason: String },
    #[error("cannot write '{}': {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot write '{}': {reason}", path.display())]
    Encode { path: PathBuf, reason: String },
}

/// Opens pictures, directories of pictures, video files (YUV4MPEG2 by content, Motion-JPEG by name), pipes and `-`
/// (standard input), in this order. Everything named must exist; whether it can be read is found when its turn comes.
///
/// # Errors
/// When nothing is named, a name doesn't exist, or a directory has no picture.
pub fn open(inputs: &[String]) -> Result<Box<dyn Source>, AcquireError> {
    Ok(Box::new(inputs::Inputs::open(inputs)?))
}

/// Opens one source of any kind:
///
/// - `pattern:`, `pattern:640x480` or `pattern:site,640x480`: [`pattern::Pattern`];
/// - `camera:0`: a camera by its number (feature `camera`);
/// - `-`: standard input, YUV4MPEG2 or Motion-JPEG by its first bytes;
/// - a directory of pictures, or a picture: a slide show;
/// - a file or a named pipe of YUV4MPEG2 (by content), or of Motion-JPEG (`.mjpeg`, `.mjpg`, or a pipe).
///
/// Waits for the first bytes of a pipe.
///
/// # Errors
/// When there is no such source, or what it begins with can't be read.
pub fn open_live(uri: &str, options: &LiveOptions) -> Result<Box<dyn Source>, AcquireError> {
    if let Some(words) = uri.strip_prefix("pattern:") {
        let scene = pattern::Pattern::parse(words)
            .map_err(|reason| AcquireError::Options { input: uri.to_string(), reason })?;
        #[cfg(feature = "gpu")]
        let scene = scene.on_gpu(options.scene_gpu.clone());
        return Ok(Box::new(scene));
    }
    if let Some(number) = uri.strip_prefix("camera:") {
        let index = if number.is_empty() { Ok(0) } else { number.parse() };
        let index = index.map_err(|_| AcquireError::Options {
            input: uri.to_string(),
            reason: "a camera is named by its number, as in 'camera:0'".to_string(),
        })?;
        return camera::open(index, options);
    }
    if uri == "-" {
        return open_stream(Box::new(io::stdin()), "standard input", options);
    }
    let path = Path::new(uri);
    let failed = |source| AcquireError::Read { path: path.to_path_buf(), source };
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound && names_a_scheme(uri) => {
            let reason = "kinds of sources are pattern:, camera:N, '-' for standard input, and paths of pictures, \
                          directories, .y4m and .mjpeg files";
            return Err(AcquireError::Options { input: uri.to_string(), reason: reason.to_string() });
        }
        Err(e) => return Err(failed(e)),
    };
    let slide_show = |paths| -> Result<Box<dyn Source>, AcquireError> {
        Ok(Box::new(pictures::Pictures::new(paths).with_slide(options.slide)))
    };
    if found.is_dir() {
        return slide_show(pictures::in_directory(path)?.into());
    }
    let file = File::open(path).map_err(failed)?;
    if !found.is_file() {
        return open_stream(Box::new(file), uri, options);
    }
    let mut head = Vec::new();
    (&file).take(y4m::MAGIC.len() as u64).read_to_end(&mut head).map_err(failed)?;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    if head == y4m::MAGIC || ["mjpeg", "mjpg", "y4m"].contains(&extension.as_str()) {
        return open_stream(Box::new(Cursor::new(head).chain(file)), uri, options);
    }
    slide_show(VecDeque::from([path.to_path_buf()]))
}

/// A stream by its first bytes.
fn open_stream(
    mut stream: Box<dyn Read + Send>,
    origin: &str,
    options: &LiveOptions,
) -> Result<Box<dyn Source>, AcquireError> {
    let mut head = Vec::new();
    (&mut stream)
        .take(y4m::MAGIC.len() as u64)
        .read_to_end(&mut head)
        .map_err(|source| AcquireError::Read { path: PathBuf::from(origin), source })?;
    let origin = origin.to_string();
    if head.starts_with(&[0xff, 0xd8]) {
        return Ok(Box::new(mjpeg::Reader::new(BufReader::new(Cursor::new(head).chain(stream)), origin)));
    }
    if head == y4m::MAGIC {
        let reader = BufReader::with_capacity(1 << 16, Cursor::new(head).chain(stream));
        return Ok(Box::new(y4m::Reader::new(reader, origin, options.colour)?));
    }
    let reason = if head.is_empty() {
        "it is empty: not a single byte came"
    } else {
        "it begins neither as YUV4MPEG2 nor as JPEG; with FFmpeg: ffmpeg -i INPUT -pix_fmt yuv420p -f yuv4mpegpipe -"
    };
    Err(AcquireError::Stream { origin, reason: reason.to_string() })
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
