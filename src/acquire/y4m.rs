//! YUV4MPEG2 (`.y4m`): uncompressed video with a line of text before the stream and before each frame; read and written.
//!
//! `YUV4MPEG2 W640 H480 F30:1 Ip A1:1 C420jpeg XCOLORRANGE=LIMITED\n`, then for every frame `FRAME\n` and its planes, as
//! the man page yuv4mpeg(5) of the MJPEG tools and FFmpeg's muxer define it. The format doesn't name the matrix; both
//! directions here take [`YuvMatrix::of_size`], as players do.

use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::{AcquireError, Picture, Source, pictures};
use crate::frame::{Colour, Frame, MAX_SIDE_PX, PixelFormat, YuvMatrix, YuvRange};

/// How a stream begins.
pub const MAGIC: &[u8] = b"YUV4MPEG2 ";

/// Longest line of a header. Comments (X tags) may be long, a line without an end must not fill memory.
const MAX_LINE_BYTES: u64 = 4096;

/// How much is allocated for the first frame before any of it has come: headers may lie.
const FIRST_FRAME_BYTES: usize = 1 << 20;

/// Planes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chroma {
    /// Chroma for blocks of 2 x 2; where in the block it was sampled makes no difference to the nearest sample.
    C420,
    C422,
    C444,
    Mono,
}

impl Chroma {
    fn frame_bytes(self, width: u32, height: u32) -> u64 {
        let (w, h) = (u64::from(width), u64::from(height));
        w * h
            + 2 * match self {
                Chroma::C420 => w.div_ceil(2) * h.div_ceil(2),
                Chroma::C422 => w.div_ceil(2) * h,
                Chroma::C444 => w * h,
                Chroma::Mono => 0,
            }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Header {
    width: u32,
    height: u32,
    /// Frames a second as a ratio.
    rate: Option<[u32; 2]>,
    chroma: Chroma,
    range: Option<YuvRange>,
}

/// The numbers around a colon; `None` for an unknown ratio (a zero) or none at all.
fn ratio(text: &str) -> Option<[u32; 2]> {
    let (a, b) = text.split_once(':')?;
    let ratio = [a.parse().ok()?, b.parse().ok()?];
    if ratio.contains(&0) { None } else { Some(ratio) }
}

impl Header {
    /// Parses a line without its end.
    fn parse(line: &str) -> Result<Header, String> {
        let Some(tags) = line.strip_prefix("YUV4MPEG2") else { return Err("it does not begin with YUV4MPEG2".into()) };
        let (mut sides, mut rate, mut chroma, mut range) = ([None; 2], None, Chroma::C420, None);
        for tag in tags.split(' ').filter(|tag| !tag.is_empty()) {
            let (kind, value) = tag.split_at(tag.chars().next().map_or(0, char::len_utf8));
            match kind {
                "W" | "H" => {
                    let side = value.parse().ok().filter(|side| (1..=MAX_SIDE_PX).contains(side));
                    let name = if kind == "W" { "width" } else { "height" };
                    let side = side.ok_or_else(|| {
                        format!("its header says a {name} of '{value}'; a side must be 1 to {MAX_SIDE_PX}")
                    })?;
                    sides[usize::from(kind == "H")] = Some(side);
                }
                "F" => {
                    rate = ratio(value);
                    if rate.is_none() {
                        log::warn!("the frame rate '{value}' of the video is not known");
                    }
                }
                "C" => {
                    chroma = match value {
                        "420" | "420jpeg" | "420mpeg2" | "420paldv" => Chroma::C420,
                        "422" => Chroma::C422,
                        "444" => Chroma::C444,
                        "mono" => Chroma::Mono,
                        _ => {
                            return Err(format!(
                                "its pixels are 'C{value}'; C420, C420jpeg, C420mpeg2, C420paldv, C422, C444 and Cmono \
                                 are read (with FFmpeg: -pix_fmt yuv420p)"
                            ));
                        }
                    }
                }
                "I" if value.starts_with(['t', 'b', 'm']) => {
                    log::warn!("the video is interlaced; both fields are shown as one picture");
                }
                "X" => match value {
                    "COLORRANGE=FULL" => range = Some(YuvRange::Full),
                    "COLORRANGE=LIMITED" => range = Some(YuvRange::Limited),
                    _ => {}
                },
                // I (progressive), A (pixel aspect): of no matter here. Others may come with later versions.
                _ => {}
            }
        }
        let [Some(width), Some(height)] = sides else {
            return Err("its header has no width (W) or no height (H)".into());
        };
        let bytes = chroma.frame_bytes(width, height);
        if bytes > pictures::MAX_DECODED_BYTES {
            let most = pictures::MAX_DECODED_BYTES >> 20;
            return Err(format!(
                "its header says {width}x{height} pixels, {bytes} bytes a frame; at most {most} MiB are read"
            ));
        }
        Ok(Header { width, height, rate, chroma, range })
    }

    /// What the luma and chroma mean, unless the user knows better.
    fn colour(&self) -> Colour {
        // Gray video is full range by FFmpeg's convention, all else limited.
        let usual = if self.chroma == Chroma::Mono { YuvRange::Full } else { YuvRange::Limited };
        Colour { range: self.range.unwrap_or(usual), matrix: YuvMatrix::of_size(self.width, self.height) }
    }
}

/// What reading a line came to.
enum Line {
    Whole(String),
    /// Nothing at all: the stream ended before.
    End,
    /// The stream ended inside.
    Partial,
    TooLong,
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Line> {
    let mut line = Vec::new();
    reader.take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
    Ok(match line.pop() {
        None => Line::End,
        Some(b'\n') => Line::Whole(String::from_utf8_lossy(&line).into_owned()),
        Some(_) if line.len() as u64 + 1 == MAX_LINE_BYTES => Line::TooLong,
        Some(_) => Line::Partial,
    })
}

/// Reads a stream frame by frame.
#[derive(Debug)]
pub struct Reader<R> {
    reader: R,
    origin: String,
    header: Header,
    colour: Colour,
    /// Complete frames so far.
    frames: u64,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header. `origin` names the stream in messages; `colour` overrides what the stream says.
    ///
    /// # Errors
    /// When the stream can't be read, or its header is none or asks for what is not supported.
    pub fn new(mut reader: R, origin: String, colour: Option<Colour>) -> Result<Reader<R>, AcquireError> {
        let line = match read_line(&mut reader) {
            Ok(Line::Whole(line)) => Header::parse(&line),
            Ok(Line::End) => Err("it is empty: not a single byte came".into()),
            Ok(Line::Partial) => Err("it ends inside its header".into()),
            Ok(Line::TooLong) => Err(format!("its header has more than {MAX_LINE_BYTES} bytes")),
            Err(source) => return Err(AcquireError::Read { path: PathBuf::from(origin), source }),
        };
        match line {
            Ok(header) => {
                let colour = colour.unwrap_or_else(|| header.colour());
                Ok(Reader { reader, origin, header, colour, frames: 0, ended: false })
            }
            Err(reason) => Err(AcquireError::Stream { origin, reason }),
        }
    }

    /// Width and height of every frame.
    pub fn size_px(&self) -> [u32; 2] {
        [self.header.width, self.header.height]
    }

    fn read_frame(&mut self) -> Result<Option<Frame>, AcquireError> {
        let failed = |source| AcquireError::Read { path: PathBuf::from(&self.origin), source };
        let cut_off = || AcquireError::CutOff { origin: self.origin.clone(), complete_frames: self.frames };
        let unreadable = |reason| AcquireError::Stream { origin: self.origin.clone(), reason };
        match read_line(&mut self.reader).map_err(failed)? {
            Line::End => return Ok(None),
            Line::Whole(line) if line == "FRAME" || line.starts_with("FRAME ") => {}
            Line::Partial => return Err(cut_off()),
            Line::Whole(_) | Line::TooLong => {
                let reason = format!(
                    "after {} frames there is no 'FRAME' where the next begins: its header has the wrong size, or it is \
                     damaged",
                    self.frames
                );
                return Err(unreadable(reason));
            }
        }
        let Header { width, height, chroma, .. } = self.header;
        let size = chroma.frame_bytes(width, height);
        // The first frame grows as it comes; once one was complete, the size is true.
        let reserve = if self.frames == 0 { FIRST_FRAME_BYTES.min(size as usize) } else { size as usize };
        let mut bytes = Vec::with_capacity(reserve);
        (&mut self.reader).take(size).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 != size {
            return Err(cut_off());
        }
        let (format, bytes) = match chroma {
            Chroma::C420 => (PixelFormat::I420, bytes),
            Chroma::C422 => (PixelFormat::Yuyv, yuyv_from_422(&bytes, width as usize, height as usize)),
            Chroma::C444 => (PixelFormat::Rgb8, rgb_from_444(&bytes, self.colour)),
            Chroma::Mono => (PixelFormat::Gray8, full_range(bytes, self.colour)),
        };
        let frame = Frame::new(width, height, format, bytes).map_err(unreadable)?;
        let colour = if format.is_yuv() { self.colour } else { Colour::default() };
        Ok(Some(frame.with_colour(colour)))
    }
}

impl<R: BufRead + Send> Source for Reader<R> {
    fn next(&mut self) -> Option<Result<Picture, AcquireError>> {
        if self.ended {
            return None;
        }
        match self.read_frame().transpose() {
            Some(Ok(frame)) => {
                let number = Some(self.frames);
                self.frames += 1;
                Some(Ok(Picture { frame, origin: self.origin.clone(), number }))
            }
            Some(Err(e)) => {
                self.ended = true;
                Some(Err(e))
            }
            None => {
                self.ended = true;
                None
            }
        }
    }

    fn len_hint(&self) -> Option<usize> {
        None
    }

    fn frame_rate(&self) -> Option<[u32; 2]> {
        self.header.rate
    }
}

/// Three planes of 4:2:2 as YUYV; the last luma of an odd row stands twice.
fn yuyv_from_422(planes: &[u8], width: usize, height: usize) -> Vec<u8> {
    let half = width.div_ceil(2);
    let (luma, chroma) = planes.split_at(width * height);
    let (u, v) = chroma.split_at(half * height);
    let mut out = Vec::with_capacity(4 * half * height);
    for ((luma, u), v) in luma.chunks_exact(width).zip(u.chunks_exact(half)).zip(v.chunks_exact(half)) {
        for ((pair, &u), &v) in luma.chunks(2).zip(u).zip(v) {
            out.extend_from_slice(&[pair[0], u, pair[pair.len() - 1], v]);
        }
    }
    out
}

/// Three planes of 4:4:4 as RGB8.
fn rgb_from_444(planes: &[u8], colour: Colour) -> Vec<u8> {
    let factors = colour.rgb_from_yuv();
    let (luma, chroma) = planes.split_at(planes.len() / 3);
    let (u, v) = chroma.split_at(chroma.len() / 2);
    let mut out = Vec::with_capacity(planes.len());
    for ((&y, &u), &v) in luma.iter().zip(u).zip(v) {
        out.extend_from_slice(&factors.rgb(y, u, v));
    }
    out
}

/// Luma as levels from 0 to 255.
fn full_range(mut luma: Vec<u8>, colour: Colour) -> Vec<u8> {
    if colour.range == YuvRange::Limited {
        let factors = colour.rgb_from_yuv();
        let levels: Vec<u8> = (0..=255).map(|y| factors.rgb(y, 128, 128)[0]).collect();
        for y in &mut luma {
            *y = levels[usize::from(*y)];
        }
    }
    luma
}

/// Writes frames as YUV4MPEG2 with 4:2:0 pixels, which every player reads: `C420jpeg`, limited range, chroma of the mean
/// colour of a block.
pub struct Writer<W: Write> {
    out: W,
    path: PathBuf,
    size_px: [u32; 2],
    colour: Colour,
}

impl Writer<Box<dyn Write + Send>> {
    /// Writes to a file, or to standard output where the path is `-`.
    ///
    /// # Errors
    /// When the file can't be made or written.
    pub fn create(path: &Path, size_px: [u32; 2], rate: [u32; 2]) -> Result<Self, AcquireError> {
        let out: Box<dyn Write + Send> = if path == Path::new("-") {
            Box::new(BufWriter::new(io::stdout()))
        } else {
            let file = File::create(path).map_err(|source| AcquireError::Write { path: path.to_path_buf(), source })?;
            Box::new(BufWriter::new(file))
        };
        Writer::new(out, path.to_path_buf(), size_px, rate)
    }
}

impl<W: Write> Writer<W> {
    /// Writes the header for frames of that size at that rate (frames a second as a ratio). `path` names the file in
    /// messages.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn new(mut out: W, path: PathBuf, size_px: [u32; 2], rate: [u32; 2]) -> Result<Self, AcquireError> {
        let ([width, height], [num, den]) = (size_px, rate);
        writeln!(out, "YUV4MPEG2 W{width} H{height} F{num}:{den} Ip A1:1 C420jpeg XYSCSS=420JPEG XCOLORRANGE=LIMITED")
            .map_err(|source| AcquireError::Write { path: path.clone(), source })?;
        Ok(Writer { out, path, size_px, colour: Colour::of_video(width, height) })
    }

    /// Appends a frame; all have the size that the header says.
    ///
    /// # Errors
    /// When the size is another, or it can't be written.
    pub fn write(&mut self, frame: Frame) -> Result<(), AcquireError> {
        let [width, height] = self.size_px;
        if [frame.width, frame.height] != self.size_px {
            let found = format!("{}x{}", frame.width, frame.height);
            let reason = format!("a frame of {found} pixels in a video of {width}x{height}: a video has one size");
            return Err(AcquireError::Encode { path: self.path.clone(), reason });
        }
        frame.check().map_err(|reason| AcquireError::Encode { path: self.path.clone(), reason })?;
        let yuv = frame.into_i420(self.colour);
        self.out
            .write_all(b"FRAME\n")
            .and_then(|()| self.out.write_all(&yuv.bytes))
            .map_err(|source| AcquireError::Write { path: self.path.clone(), source })
    }

    /// Writes what is still buffered. Without it a full disk may go unnoticed.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn finish(mut self) -> Result<(), AcquireError> {
        self.out.flush().map_err(|source| AcquireError::Write { path: self.path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &[u8]) -> Result<Reader<&[u8]>, AcquireError> {
        Reader::new(bytes, "clip.y4m".to_string(), None)
    }

    fn refusal(header: &str) -> String {
        reader(header.as_bytes()).expect_err(header).to_string()
    }

    #[test]
    fn headers() {
        let parsed =
            Header::parse("YUV4MPEG2 W3 H5 F30000:1001 Ip A0:0 C422 XCOLORRANGE=FULL XANYTHING Z9").expect("ok");
        let expected = Header {
            width: 3,
            height: 5,
            rate: Some([30000, 1001]),
            chroma: Chroma::C422,
            range: Some(YuvRange::Full),
        };
        assert_eq!(parsed, expected);
        let plain = Header::parse("YUV4MPEG2 H720 W1280").expect("ok");
        assert_eq!((plain.chroma, plain.rate), (Chroma::C420, None));
        assert_eq!(plain.colour(), Colour { range: YuvRange::Limited, matrix: YuvMatrix::Bt709 });
        for rate in ["F0:0", "F25:0", "F", "Fx", "F-1:1"] {
            assert_eq!(Header::parse(&format!("YUV4MPEG2 W2 H2 {rate}")).expect(rate).rate, None);
        }
    }

    #[test]
    fn lying_headers_are_refused() {
        for (header, word) in [
            ("YUV4MPEG2 W0 H5\n", "width of '0'"),
            ("YUV4MPEG2 W5 H0\n", "height of '0'"),
            ("YUV4MPEG2 W-5 H4\n", "width of '-5'"),
            ("YUV4MPEG2 W16385 H4\n", "16384"),
            ("YUV4MPEG2 W99999999999999999999 H4\n", "16384"),
            ("YUV4MPEG2 W16384 H16384 C444\n", "512 MiB"),
            ("YUV4MPEG2 H4\n", "no width"),
            ("YUV4MPEG2 W4 F25:1\n", "no height"),
            ("YUV4MPEG2 W4 H4 C420p10\n", "C420p10"),
            ("YUV4MPEG2 W4 H4 C\n", "yuv420p"),
            ("YUV4MPEG2 W4 H4", "inside its header"),
            ("RIFF1234\n", "YUV4MPEG2"),
            ("", "empty"),
        ] {
            assert!(refusal(header).contains(word), "{header:?}: {}", refusal(header));
        }
        let endless = format!("YUV4MPEG2 W4 H4 X{}", "x".repeat(10_000));
        assert!(refusal(&endless).contains("4096"));
        // Not ASCII: no panic on char boundaries.
        assert!(reader("YUV4MPEG2 W4 H4 äö\n".as_bytes()).is_ok());
    }

    #[test]
    fn a_huge_frame_that_never_comes_allocates_little() {
        let mut r = reader(b"YUV4MPEG2 W16384 H16384\nFRAME\nabc").expect("header");
        match r.next() {
            Some(Err(AcquireError::CutOff { complete_frames: 0, .. })) => {}
            other => panic!("{other:?}"),
        }
        assert!(r.next().is_none());
    }

    fn frames(bytes: &[u8]) -> (u64, Option<AcquireError>) {
        let mut r = reader(bytes).expect("header");
        let mut count = 0;
        while let Some(next) = r.next() {
            match next {
                Ok(_) => count += 1,
                Err(e) => {
                    assert!(r.next().is_none(), "an error ends the stream");
                    return (count, Some(e));
                }
            }
        }
        (count, None)
    }

    #[test]
    fn every_complete_frame_comes_and_the_end_is_clear() {
        let header = b"YUV4MPEG2 W3 H5 F25:1\n".to_vec();
        let frame = [b"FRAME Ip Xwhatever\n".to_vec(), vec![128; 15 + 12]].concat();
        let whole = [header.clone(), frame.clone(), frame.clone()].concat();
        assert!(matches!(frames(&whole), (2, None)));
        assert!(matches!(frames(&header), (0, None)));
        // Wherever it is cut inside the second frame.
        for cut in header.len() + frame.len() + 1..whole.len() {
            match frames(&whole[..cut]) {
                (1, Some(AcquireError::CutOff { complete_frames: 1, .. })) => {}
                other => panic!("cut at {cut}: {other:?}"),
            }
        }
        // A wrong size in the header: the next frame isn't where it should be.
        let lying = [b"YUV4MPEG2 W4 H5\n".to_vec(), frame.clone(), frame.clone(), frame].concat();
        match frames(&lying) {
            (1, Some(AcquireError::Stream { reason, .. })) => assert!(reason.contains("after 1 frames"), "{reason}"),
            other => panic!("{other:?}"),
        }
    }

    /// The only frame of a stream with that chroma tag.
    fn only(tags: &str, planes: &[u8]) -> Frame {
        let stream = [format!("YUV4MPEG2 W3 H2 {tags}\nFRAME\n").as_bytes(), planes].concat();
        reader(&stream).expect("header").next().expect("a frame").expect("whole").frame
    }

    #[test]
    fn chroma_tags_give_the_same_colours() {
        let full = Colour { range: YuvRange::Full, matrix: YuvMatrix::Bt601 };
        let luma = [10u8, 60, 110, 160, 210, 250];
        let expected =
            |x: usize, y: usize, u: [u8; 2], v: [u8; 2]| full.rgb_from_yuv().rgb(luma[3 * y + x], u[x / 2], v[x / 2]);
        let (u, v) = ([90u8, 140], [200u8, 70]);
        let c420 = only("C420mpeg2 XCOLORRANGE=FULL", &[&luma[..], &u, &v].concat());
        let c422 = only("C422 XCOLORRANGE=FULL", &[&luma[..], &u, &u, &v, &v].concat());
        let wide = |c: [u8; 2]| [c[0], c[0], c[1], c[0], c[0], c[1]];
        let c444 = only("C444 XCOLORRANGE=FULL", &[luma, wide(u), wide(v)].concat());
        assert_eq!([c420.format, c422.format, c444.format], [PixelFormat::I420, PixelFormat::Yuyv, PixelFormat::Rgb8]);
        for y in 0..2 {
            for x in 0..3 {
                let expected = expected(x, y, u, v);
                for frame in [&c420, &c422, &c444] {
                    assert_eq!(frame.rgb(x as u32, y as u32), expected, "{frame:?} {x} {y}");
                }
            }
        }
        let mono = only("Cmono", &luma);
        assert_eq!((mono.format, mono.bytes), (PixelFormat::Gray8, luma.to_vec()));
        let limited = only("Cmono XCOLORRANGE=LIMITED", &[16, 235, 0, 255, 126, 16]);
        assert_eq!(limited.bytes, [0, 255, 0, 255, 128, 0]);
    }

    #[test]
    fn what_is_written_reads_back() {
        for (width, height) in [(641u32, 7u32), (4, 4), (1, 1)] {
            let frame = |seed: u32| {
                let bytes = (0..width * height * 3).map(|i| (i / 24 * 5 + seed) as u8).collect();
                Frame::new(width, height, PixelFormat::Rgb8, bytes).expect("frame")
            };
            let mut stream = Vec::new();
            let mut writer = Writer::new(&mut stream, "x.y4m".into(), [width, height], [30, 1]).expect("header");
            for seed in [0, 90] {
                writer.write(frame(seed)).expect("written");
            }
            let size = writer.write(Frame::new(9, 9, PixelFormat::Gray8, vec![0; 81]).expect("frame"));
            assert!(size.expect_err("another size").to_string().contains("9x9"));
            writer.finish().expect("flushed");
            let mut r = reader(&stream).expect("header");
            assert_eq!(r.frame_rate(), Some([30, 1]));
            for seed in [0, 90] {
                let back = r.next().expect("frame").expect("whole").frame;
                let expected = frame(seed).into_i420(Colour::of_video(width, height));
                assert_eq!(back, expected);
            }
            assert!(r.next().is_none());
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_reported() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return;
        }
        let mut writer = Writer::create(full, [2, 2], [25, 1]).expect("the header is still in the buffer");
        writer.write(Frame::new(2, 2, PixelFormat::Gray8, vec![0; 4]).expect("frame")).expect("in the buffer");
        assert!(writer.finish().expect_err("full").to_string().contains("/dev/full"));
    }
}
