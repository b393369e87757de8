//! Picture files: JPEG, PNG, WebP and BMP, told apart by content, read one by one; and writing them.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use image::codecs::{bmp::BmpEncoder, jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};
use image::{
    DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageError, ImageFormat, ImageReader, Limits,
};

use super::{AcquireError, Picture, Source};
use crate::frame::{Frame, MAX_SIDE_PX, PixelFormat};

/// Largest picture after decoding, in the file's own channels and depth.
pub const MAX_DECODED_BYTES: u64 = 512 << 20;

/// Largest file that is read.
pub const MAX_FILE_BYTES: u64 = 512 << 20;

const JPEG_QUALITY: u8 = 92;

/// Bytes at the beginning of a file that tell its format.
const HEAD_BYTES: u64 = 16;

/// The pictures of a list of files.
#[derive(Debug)]
pub struct Pictures {
    paths: VecDeque<PathBuf>,
    slide: Option<Duration>,
}

impl Pictures {
    pub fn new(paths: VecDeque<PathBuf>) -> Pictures {
        Pictures { paths, slide: None }
    }

    /// A slide show: each picture stands that long.
    #[must_use]
    pub fn with_slide(self, slide: Duration) -> Pictures {
        Pictures { slide: Some(slide), ..self }
    }
}

impl Source for Pictures {
    fn next(&mut self) -> Option<Result<Picture, AcquireError>> {
        let path = self.paths.pop_front()?;
        let origin = path.display().to_string();
        Some(load(&path).map(|frame| Picture { frame, origin, number: None }))
    }

    fn len_hint(&self) -> Option<usize> {
        Some(self.paths.len())
    }

    fn frame_rate(&self) -> Option<[u32; 2]> {
        let ms = self.slide?.as_millis().clamp(1, u128::from(u32::MAX));
        Some([1000, ms as u32])
    }
}

/// The picture files of a directory, sorted by name. What is no picture by its first bytes is skipped with a line in
/// the log; directories inside are not entered.
///
/// # Errors
/// When the directory can't be listed or has no picture.
pub fn in_directory(directory: &Path) -> Result<Vec<PathBuf>, AcquireError> {
    let failed = |source| AcquireError::Read { path: directory.to_path_buf(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // Through links; a device or a pipe would block.
        match fs::metadata(&path) {
            Ok(found) if !found.is_file() => continue,
            Ok(_) => {}
            Err(e) => {
                log::warn!("skipping '{}': {e}", path.display());
                continue;
            }
        }
        match sniff(&path) {
            Ok(Some(_)) => paths.push(path),
            Ok(None) if is_named_as_picture(&path) => {
                log::warn!("skipping '{}': its name is that of a picture, but it is none", path.display());
            }
            Ok(None) => log::info!("skipping '{}': not a JPEG, PNG, WebP or BMP picture", path.display()),
            Err(e) => log::warn!("skipping '{}': {e}", path.display()),
        }
    }
    if paths.is_empty() {
        return Err(AcquireError::EmptyDirectory { path: directory.to_path_buf() });
    }
    paths.sort();
    Ok(paths)
}

fn is_named_as_picture(path: &Path) -> bool {
    path.extension().and_then(ImageFormat::from_extension).is_some()
}

fn sniff(path: &Path) -> io::Result<Option<ImageFormat>> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(readable_format(&head).ok())
}

/// The format by content, or a word about what was found instead.
fn readable_format(head: &[u8]) -> Result<ImageFormat, String> {
    use ImageFormat::{Bmp, Jpeg, Png, WebP};
    match image::guess_format(head) {
        Ok(format @ (Jpeg | Png | WebP | Bmp)) => Ok(format),
        Ok(other) => Err(format!("it is {other:?}")),
        Err(_) if head.is_empty() => Err("it is empty".to_string()),
        Err(_) => Err("its first bytes are of no known format".to_string()),
    }
}

/// Reads one picture as RGB8: turned upright as its EXIF orientation says, alpha dropped, gray and 16-bit converted.
///
/// # Errors
/// When the file can't be read, is no picture, is larger than the limits, or is damaged or cut off.
pub fn load(path: &Path) -> Result<Frame, AcquireError> {
    let failed = |source| AcquireError::Read { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    (&file).take(HEAD_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    let format = readable_format(&bytes).map_err(|found| AcquireError::Format { path: path.to_path_buf(), found })?;
    let too_large = |bytes| AcquireError::FileTooLarge { path: path.to_path_buf(), bytes };
    let len = file.metadata().map_err(failed)?.len();
    if len > MAX_FILE_BYTES {
        return Err(too_large(len));
    }
    (&file).take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(too_large(bytes.len() as u64));
    }
    decode(path, format, &bytes)
}

/// Decodes a picture of a stream that is known to be a whole JPEG; `path` is for messages.
pub(super) fn decode_jpeg(path: &Path, bytes: &[u8]) -> Result<Frame, AcquireError> {
    decode(path, ImageFormat::Jpeg, bytes)
}

fn decode(path: &Path, format: ImageFormat, bytes: &[u8]) -> Result<Frame, AcquireError> {
    let damaged = |reason: String| AcquireError::Decode { path: path.to_path_buf(), reason };
    let damaged_by = |e: ImageError| damaged(e.to_string());
    // Decoders fill what is missing of a JPEG with gray, and say nothing.
    if format == ImageFormat::Jpeg && !jpeg_is_complete(bytes) {
        return Err(damaged("the file ends before the end of its picture".to_string()));
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(damaged_by)?;
    let (width, height) = decoder.dimensions();
    if width.max(height) > MAX_SIDE_PX || decoder.total_bytes() > MAX_DECODED_BYTES {
        return Err(AcquireError::TooLarge { path: path.to_path_buf(), width, height });
    }
    let orientation = decoder.orientation().map_err(damaged_by)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(damaged_by)?;
    picture.apply_orientation(orientation);
    let rgb = picture.into_rgb8();
    let (width, height) = rgb.dimensions();
    Frame::new(width, height, PixelFormat::Rgb8, rgb.into_raw()).map_err(damaged)
}

/// True when the segments of a JPEG lead to its end marker. Bytes after that are no matter.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // To the next marker: a segment's end, or somewhere in entropy-coded data, where FF 00 is a byte of data and
        // D0 to D7 are restarts.
        let Some(skip) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xff)) else { return false };
        at += skip + 1;
        match bytes.get(at) {
            None => return false,
            Some(0xff) => {}
            Some(0xd9) => return true,
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            Some(_) => {
                let Some(&[high, low]) = bytes.get(at + 1..at + 3) else { return false };
                at += 1 + usize::from(u16::from_be_bytes([high, low])).max(2);
            }
        }
    }
}

/// Writes a picture in the format of the path's extension: JPEG of quality 92, PNG, lossless WebP, BMP. The file appears
/// complete or not at all: it is written beside its place and renamed.
///
/// # Errors
/// When the extension is none of these, or the file can't be written.
pub fn save(path: &Path, frame: &Frame) -> Result<(), AcquireError> {
    let format = match path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase).as_deref() {
        Some("jpg" | "jpeg") => ImageFormat::Jpeg,
        Some("png") => ImageFormat::Png,
        Some("webp") => ImageFormat::WebP,
        Some("bmp") => ImageFormat::Bmp,
        _ => return Err(AcquireError::Extension { path: path.to_path_buf() }),
    };
    let encode_failed = |reason: String| AcquireError::Encode { path: path.to_path_buf(), reason };
    frame.check().map_err(encode_failed)?;
    let failed = |source| AcquireError::Write { path: path.to_path_buf(), source };
    if path.is_dir() {
        return Err(failed(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory")));
    }
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let partial = path.with_file_name(format!(".{name}.{}-{count}.partial", std::process::id()));
    let written = File::create_new(&partial).map_err(failed).and_then(|file| {
        let mut out = BufWriter::new(file);
        encode(format, frame, &mut out).map_err(|e| match e {
            ImageError::IoError(source) => failed(source),
            other => encode_failed(other.to_string()),
        })?;
        out.flush().map_err(failed)?;
        fs::rename(&partial, path).map_err(failed)
    });
    if written.is_err() {
        // It may not have been made at all; the first error is the one to report.
        let _ = fs::remove_file(&partial);
    }
    written
}

fn encode(format: ImageFormat, frame: &Frame, mut out: impl Write) -> Result<(), ImageError> {
    let rgb;
    let (bytes, colour) = match frame.format {
        PixelFormat::Rgb8 => (&frame.bytes, ExtendedColorType::Rgb8),
        PixelFormat::Gray8 => (&frame.bytes, ExtendedColorType::L8),
        _ => {
            rgb = frame.to_rgb8();
            (&rgb.bytes, ExtendedColorType::Rgb8)
        }
    };
    let (width, height) = (frame.width, frame.height);
    match format {
        ImageFormat::Jpeg => JpegEncoder::new_with_quality(out, JPEG_QUALITY).write_image(bytes, width, height, colour),
        ImageFormat::WebP => WebPEncoder::new_lossless(out).write_image(bytes, width, height, colour),
        ImageFormat::Bmp => BmpEncoder::new(&mut out).write_image(bytes, width, height, colour),
        _ => PngEncoder::new(out).write_image(bytes, width, height, colour),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acquire::open;

    /// A directory that goes away with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("eyas-pictures-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).expect("temporary directory");
            Scratch(path)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn gradient(width: u32, height: u32, format: PixelFormat) -> Frame {
        let step = format.bytes_per_pixel();
        let bytes =
            (0..format.picture_bytes(width, height) as usize).map(|i| (i / step * 3 + i % step * 40) as u8).collect();
        Frame::new(width, height, format, bytes).expect("frame")
    }

    fn message(result: Result<Frame, AcquireError>) -> String {
        result.expect_err("must fail").to_string()
    }

    #[test]
    fn writes_and_reads_every_format_and_extension() {
        let dir = Scratch::new("formats");
        for format in PixelFormat::ALL {
            let frame = gradient(7, 5, format);
            for (name, exact) in
                [("a.png", true), ("b.WebP", true), ("c.bmp", true), ("d.jpg", false), ("e.JPEG", false)]
            {
                save(&dir.path(name), &frame).expect(name);
                let back = load(&dir.path(name)).expect(name);
                assert_eq!((back.width, back.height, back.format), (7, 5, PixelFormat::Rgb8));
                let expected = frame.clone().into_rgb8();
                if exact {
                    assert_eq!(back, expected, "{name} {format:?}");
                } else if !format.is_yuv() {
                    let far = back.bytes.iter().zip(&expected.bytes).filter(|(a, b)| a.abs_diff(**b) > 60);
                    assert!(far.count() < 20, "{name} {format:?}");
                }
            }
        }
        assert_eq!(fs::read_dir(&dir.0).expect("list").count(), 5, "no partial file stays");
    }

    #[test]
    fn content_counts_and_not_the_extension() {
        let dir = Scratch::new("content");
        let frame = gradient(4, 3, PixelFormat::Rgb8);
        save(&dir.path("a.png"), &frame).expect("write");
        fs::rename(dir.path("a.png"), dir.path("a.jpg")).expect("rename");
        assert_eq!(load(&dir.path("a.jpg")).expect("a PNG called .jpg"), frame);
        fs::write(dir.path("b.png"), "hello").expect("write");
        assert!(message(load(&dir.path("b.png"))).contains("b.png"));
        fs::write(dir.path("c.png"), b"GIF89a\x01\0\x01\0").expect("write");
        assert!(message(load(&dir.path("c.png"))).contains("Gif"));
        fs::write(dir.path("d.png"), "").expect("write");
        assert!(message(load(&dir.path("d.png"))).contains("empty"));
        assert!(message(load(&dir.path("none.png"))).contains("none.png"));
    }

    #[test]
    fn deep_and_transparent_pictures_become_rgb8() {
        let dir = Scratch::new("depth");
        let deep: image::ImageBuffer<image::Rgba<u16>, Vec<u16>> =
            image::ImageBuffer::from_fn(2, 1, |x, _| image::Rgba([0xffff, 0x8080, 0x0100 * x as u16, 0]));
        deep.save(dir.path("deep.png")).expect("write");
        assert_eq!(load(&dir.path("deep.png")).expect("read").bytes, [255, 128, 0, 255, 128, 1]);
        let gray: image::ImageBuffer<image::Luma<u16>, Vec<u16>> =
            image::ImageBuffer::from_pixel(1, 1, image::Luma([0x4040]));
        gray.save(dir.path("gray.png")).expect("write");
        assert_eq!(load(&dir.path("gray.png")).expect("read").bytes, [64; 3]);
    }

    #[test]
    fn exif_orientation_turns_the_picture() {
        let dir = Scratch::new("exif");
        let frame = gradient(6, 4, PixelFormat::Gray8);
        save(&dir.path("a.jpg"), &frame).expect("write");
        let upright = load(&dir.path("a.jpg")).expect("read");
        // An APP1 segment with one tag: orientation 6, to be turned by 90 degrees clockwise.
        let mut bytes = fs::read(dir.path("a.jpg")).expect("read");
        let exif: &[u8] = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let mut segment = vec![0xff, 0xe1, 0, exif.len() as u8 + 2];
        segment.extend_from_slice(exif);
        bytes.splice(2..2, segment);
        fs::write(dir.path("b.jpg"), bytes).expect("write");
        let turned = load(&dir.path("b.jpg")).expect("read");
        assert_eq!((turned.width, turned.height), (4, 6));
        for (x, y) in [(0, 0), (5, 0), (0, 3), (5, 3), (2, 1)] {
            assert_eq!(turned.rgb(3 - y, x), upright.rgb(x, y));
        }
    }

    #[test]
    fn cut_off_pictures_are_errors() {
        let dir = Scratch::new("cut");
        let frame = gradient(64, 48, PixelFormat::Rgb8);
        for name in ["a.jpg", "a.png", "a.webp", "a.bmp"] {
            let path = dir.path(name);
            save(&path, &frame).expect(name);
            let whole = fs::read(&path).expect(name);
            for keep in [20, whole.len() / 3, whole.len() * 9 / 10] {
                fs::write(&path, &whole[..keep]).expect(name);
                let said = message(load(&path));
                assert!(said.contains(name) && said.contains("damaged"), "{keep} bytes: {said}");
            }
        }
    }

    #[test]
    fn trailers_and_thumbnails_do_not_confuse_the_end_of_a_jpeg() {
        let dir = Scratch::new("trailer");
        save(&dir.path("a.jpg"), &gradient(16, 16, PixelFormat::Rgb8)).expect("write");
        let whole = fs::read(dir.path("a.jpg")).expect("read");
        assert!(jpeg_is_complete(&whole));
        assert!(!jpeg_is_complete(&whole[..whole.len() - 1]));
        assert!(jpeg_is_complete(&[&whole[..], b"trailer"].concat()));
        // A comment that holds an end marker.
        let mut inside = whole[..whole.len() - 2].to_vec();
        inside.splice(2..2, [0xff, 0xfe, 0, 4, 0xff, 0xd9]);
        assert!(!jpeg_is_complete(&inside));
    }

    #[test]
    fn huge_pictures_are_refused_by_their_header() {
        let dir = Scratch::new("huge");
        // Signature and header of a 20000x20000 RGB PNG with nothing behind it.
        let header = |width: u32, height: u32| {
            let mut body = b"IHDR".to_vec();
            body.extend(width.to_be_bytes());
            body.extend(height.to_be_bytes());
            body.extend([8, 2, 0, 0, 0]);
            let crc = body.iter().fold(u32::MAX, |crc, &byte| {
                (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
            });
            let idat = [0, 0, 0, 0, b'I', b'D', b'A', b'T', 0x35, 0xaf, 0x06, 0x1e];
            [b"\x89PNG\r\n\x1a\n\0\0\0\x0d", &body[..], &(!crc).to_be_bytes(), &idat].concat()
        };
        for (width, height) in [(20000, 20000), (16384, 16384), (16385, 1)] {
            fs::write(dir.path("huge.png"), header(width, height)).expect("write");
            let said = message(load(&dir.path("huge.png")));
            assert!(said.contains(&format!("{width}x{height}")) && said.contains("16384"), "{said}");
        }
    }

    #[test]
    fn directories_are_sorted_and_skip_other_files() {
        let dir = Scratch::new("directory");
        let frame = gradient(4, 3, PixelFormat::Rgb8);
        for name in ["b.png", "a.bmp", "c"] {
            save(&dir.path("x.png"), &frame).expect("write");
            fs::rename(dir.path("x.png"), dir.path(name)).expect("rename");
        }
        fs::write(dir.path("notes.txt"), "no picture").expect("write");
        fs::create_dir(dir.path("inner")).expect("directory");
        save(&dir.path("inner").join("d.png"), &frame).expect("write");
        let name = |path: &Path| path.to_string_lossy().into_owned();
        let inputs = [name(&dir.path("c")), name(&dir.0)];
        let mut source = open(&inputs).expect("open");
        assert_eq!(source.len_hint(), Some(4));
        let mut origins = Vec::new();
        while let Some(picture) = source.next() {
            origins.push(picture.expect("picture").origin);
        }
        assert_eq!(origins, ["c", "a.bmp", "b.png", "c"].map(|n| name(&dir.path(n))));
        fs::remove_file(dir.path("c")).expect("remove");

        let empty = Scratch::new("empty");
        assert!(open(&[name(&empty.0)]).err().expect("empty").to_string().contains("holds no"));
        for (input, word) in [("camera:0", "camera:0"), ("pattern:", "no kind"), ("missing.png", "cannot read")] {
            assert!(open(&[input.to_string()]).err().expect(input).to_string().contains(word), "{input}");
        }
        assert!(open(&[]).is_err());
    }

    #[test]
    fn a_bad_picture_does_not_end_the_source() {
        let dir = Scratch::new("bad");
        save(&dir.path("b.png"), &gradient(4, 3, PixelFormat::Rgb8)).expect("write");
        fs::write(dir.path("a.jpg"), [0xff, 0xd8, 0xff, 0xe0, 0, 2]).expect("write");
        let mut source = open(&[dir.0.to_string_lossy().into_owned()]).expect("open");
        assert!(source.next().is_some_and(|p| p.is_err()));
        assert!(source.next().is_some_and(|p| p.is_ok()));
        assert!(source.next().is_none());
    }

    #[test]
    fn writing_says_why_it_fails() {
        let dir = Scratch::new("write");
        let frame = gradient(4, 3, PixelFormat::Rgb8);
        let said = |path: &Path| save(path, &frame).expect_err("must fail").to_string();
        assert!(said(&dir.path("a.tiff")).contains(".webp"));
        assert!(said(&dir.path("noextension")).contains("noextension"));
        assert!(said(&dir.path("none").join("a.png")).contains("a.png"));
        fs::create_dir(dir.path("d.png")).expect("directory");
        assert!(said(&dir.path("d.png")).contains("directory"));
        assert_eq!(fs::read_dir(&dir.0).expect("list").count(), 1, "no partial file stays");
    }
}
