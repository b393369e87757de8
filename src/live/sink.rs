//! Where drawn frames go: a YUV4MPEG2 file, or a directory of PNG files.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::acquire::{AcquireError, pictures, y4m};
use crate::frame::Frame;

/// Names that somebody gives who wants a file, not a directory.
const OTHER_FILES: [&str; 12] =
    ["avi", "bmp", "gif", "jpeg", "jpg", "m4v", "mjpeg", "mkv", "mov", "mp4", "png", "webm"];

/// Whether a path is a file, or not there and named like one, so that no directory should be made of it.
pub fn is_another_file(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    match std::fs::metadata(path) {
        Ok(found) => !found.is_dir(),
        Err(_) => OTHER_FILES.contains(&extension.as_str()),
    }
}

/// Takes drawn frames of one size in their order.
pub enum Sink {
    /// Made with the first frame, whose size it takes.
    Video { path: PathBuf, rate: [u32; 2], writer: Option<y4m::Writer<Box<dyn Write + Send>>> },
    /// `000000.png`, `000001.png`, ...
    Directory { path: PathBuf, written: u64 },
}

impl Sink {
    /// A video for a name that ends in `.y4m` and on standard output for `-`, with `rate` frames a second (numerator,
    /// denominator); else a directory, made if it is not there.
    ///
    /// # Errors
    /// When the name is that of another kind of file, or the directory cannot be made.
    pub fn open(path: &Path, rate: [u32; 2]) -> Result<Sink, AcquireError> {
        if path == Path::new("-") || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("y4m")) {
            return Ok(Sink::Video { path: path.to_path_buf(), rate, writer: None });
        }
        if is_another_file(path) {
            return Err(AcquireError::Encode {
                path: path.to_path_buf(),
                reason:
                    "frames go to a .y4m file, to '-', or to a directory of PNG files; other formats by FFmpeg, as \
                         in `ffmpeg -i OUT.y4m OUT.mp4`"
                        .to_string(),
            });
        }
        std::fs::create_dir_all(path).map_err(|source| AcquireError::Write { path: path.to_path_buf(), source })?;
        Ok(Sink::Directory { path: path.to_path_buf(), written: 0 })
    }

    /// Writes the next frame.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, frame: Frame) -> Result<(), AcquireError> {
        match self {
            Sink::Video { path, rate, writer } => {
                let writer = match writer {
                    Some(writer) => writer,
                    None => writer.insert(y4m::Writer::create(path, [frame.width, frame.height], *rate)?),
                };
                writer.write(frame)
            }
            Sink::Directory { path, written } => {
                pictures::save(&path.join(format!("{written:06}.png")), &frame)?;
                *written += 1;
                Ok(())
            }
        }
    }

    /// Completes the output.
    ///
    /// # Errors
    /// When the last bytes cannot be written.
    pub fn finish(self) -> Result<(), AcquireError> {
        match self {
            Sink::Video { writer: Some(writer), .. } => writer.finish(),
            _ => Ok(()),
        }
    }
}
