//! Motion-JPEG: JPEG pictures one after the other, as cameras and HTTP streams give them. What lies between two pictures
//! (MIME headers of a multipart stream, padding) is skipped.

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::{AcquireError, Picture, Source, pictures};
use crate::frame::Frame;

/// Largest JPEG of a stream: a picture without an end must not fill memory.
const MAX_PICTURE_BYTES: usize = 64 << 20;

/// Where the bytes stand in the structure of a JPEG (ITU-T T.81, annex B).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a start of image.
    Outside,
    OutsideMarker,
    /// In entropy-coded data or between segments.
    Inside,
    /// After an FF.
    Marker,
    /// In the two bytes of a segment's length.
    LengthHigh,
    LengthLow(u8),
    /// That many bytes of a segment are left.
    Segment(u16),
}

/// What one byte did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Skip,
    Keep,
    /// A start of image came.
    Start,
    /// A start of image came before the end of the one before.
    Restart,
    End,
}

impl State {
    fn step(&mut self, byte: u8) -> Step {
        let (next, step) = match (*self, byte) {
            (State::Outside, 0xff) => (State::OutsideMarker, Step::Skip),
            (State::OutsideMarker, 0xff) => (State::OutsideMarker, Step::Skip),
            (State::OutsideMarker, 0xd8) => (State::Inside, Step::Start),
            (State::Outside | State::OutsideMarker, _) => (State::Outside, Step::Skip),
            (State::Inside, 0xff) => (State::Marker, Step::Keep),
            (State::Inside, _) => (State::Inside, Step::Keep),
            (State::Marker, 0xff) => (State::Marker, Step::Keep),
            (State::Marker, 0xd8) => (State::Inside, Step::Restart),
            (State::Marker, 0xd9) => (State::Outside, Step::End),
            // A byte of data, restart markers, and TEM have no length.
            (State::Marker, 0x00 | 0x01 | 0xd0..=0xd7) => (State::Inside, Step::Keep),
            (State::Marker, _) => (State::LengthHigh, Step::Keep),
            (State::LengthHigh, high) => (State::LengthLow(high), Step::Keep),
            (State::LengthLow(high), low) => match u16::from_be_bytes([high, low]).saturating_sub(2) {
                0 => (State::Inside, Step::Keep),
                left => (State::Segment(left), Step::Keep),
            },
            (State::Segment(1), _) => (State::Inside, Step::Keep),
            (State::Segment(left), _) => (State::Segment(left - 1), Step::Keep),
        };
        *self = next;
        step
    }
}

/// Markers of the segments that matter here.
const DEFINE_HUFFMAN_TABLES: u8 = 0xc4;
const START_OF_SCAN: u8 = 0xda;

/// The segments of a JPEG up to and with its start of scan: marker and place.
fn segments(jpeg: &[u8]) -> impl Iterator<Item = (u8, std::ops::Range<usize>)> {
    let mut at = Some(2);
    std::iter::from_fn(move || {
        let begin = at?;
        let &[0xff, marker, high, low] = jpeg.get(begin..begin + 4)? else { return None };
        let end = begin + 2 + usize::from(u16::from_be_bytes([high, low]));
        at = (marker != START_OF_SCAN).then_some(end);
        Some((marker, begin..end))
    })
}

/// The Huffman tables of ITU-T T.81, annex K.3, as segments: those that the encoder writes into every picture.
fn standard_tables() -> &'static [u8] {
    static TABLES: OnceLock<Vec<u8>> = OnceLock::new();
    TABLES.get_or_init(|| {
        let mut jpeg = Vec::new();
        // Into memory it doesn't fail; without tables the decoder reports what is missing.
        let _ = JpegEncoder::new(&mut jpeg).write_image(&[0; 3], 1, 1, ExtendedColorType::Rgb8);
        let tables = segments(&jpeg).filter(|(marker, _)| *marker == DEFINE_HUFFMAN_TABLES);
        tables.flat_map(|(_, place)| jpeg.get(place).unwrap_or_default().to_vec()).collect()
    })
}

/// Decodes a picture of a stream. Cameras leave out the Huffman tables where they are the standard's.
pub(super) fn decode(origin: &Path, jpeg: &[u8]) -> Result<Frame, AcquireError> {
    let mut scan = None;
    for (marker, place) in segments(jpeg) {
        match marker {
            DEFINE_HUFFMAN_TABLES => return pictures::decode_jpeg(origin, jpeg),
            START_OF_SCAN => scan = Some(place.start),
            _ => {}
        }
    }
    let Some(scan) = scan else { return pictures::decode_jpeg(origin, jpeg) };
    let (head, rest) = jpeg.split_at(scan);
    pictures::decode_jpeg(origin, &[head, standard_tables(), rest].concat())
}

/// Reads a stream picture by picture.
#[derive(Debug)]
pub struct Reader<R> {
    reader: R,
    origin: String,
    state: State,
    /// The picture so far.
    bytes: Vec<u8>,
    /// Pictures that began before the one at hand, and how many of them were whole.
    begun: u64,
    complete: u64,
    ended: bool,
}

/// What the next picture came to.
enum Found {
    Whole,
    /// Another picture began before the end of this one.
    Broken,
    TooLong,
    /// The stream ended, inside a picture or not.
    End {
        inside: bool,
    },
}

impl<R: BufRead> Reader<R> {
    /// `origin` names the stream in messages.
    pub fn new(reader: R, origin: String) -> Reader<R> {
        Reader { reader, origin, state: State::Outside, bytes: Vec::new(), begun: 0, complete: 0, ended: false }
    }

    /// Collects bytes up to the end of a picture.
    fn read_picture(&mut self) -> io::Result<Found> {
        // After a broken picture the next one's start has been read already.
        if self.state == State::Outside || self.state == State::OutsideMarker {
            self.bytes.clear();
        } else {
            self.bytes = vec![0xff, 0xd8];
        }
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if chunk.is_empty() {
                return Ok(Found::End { inside: !self.bytes.is_empty() });
            }
            let mut used = 0;
            let mut found = None;
            for &byte in chunk {
                used += 1;
                match self.state.step(byte) {
                    Step::Skip => {}
                    Step::Keep => self.bytes.push(byte),
                    Step::Start => self.bytes.extend_from_slice(&[0xff, 0xd8]),
                    Step::Restart => found = Some(Found::Broken),
                    Step::End => {
                        self.bytes.push(byte);
                        found = Some(Found::Whole);
                    }
                }
                if self.bytes.len() > MAX_PICTURE_BYTES {
                    found = Some(Found::TooLong);
                }
                if found.is_some() {
                    break;
                }
            }
            self.reader.consume(used);
            if let Some(found) = found {
                return Ok(found);
            }
        }
    }
}

impl<R: BufRead + Send> Source for Reader<R> {
    fn next(&mut self) -> Option<Result<Picture, AcquireError>> {
        if self.ended {
            return None;
        }
        let found = match self.read_picture() {
            Ok(found) => found,
            Err(source) => {
                self.ended = true;
                return Some(Err(AcquireError::Read { path: PathBuf::from(&self.origin), source }));
            }
        };
        let place = self.begun;
        match found {
            Found::Whole => {
                self.begun += 1;
                self.complete += 1;
                let decoded = decode(Path::new(&self.origin), &self.bytes);
                Some(decoded.map(|frame| Picture { frame, origin: self.origin.clone(), number: Some(place) }))
            }
            Found::Broken => {
                self.begun += 1;
                let reason = format!("picture {place} ends before its end marker");
                Some(Err(AcquireError::Decode { path: PathBuf::from(&self.origin), reason }))
            }
            Found::TooLong => {
                self.ended = true;
                let reason = format!("picture {place} has more than {} MiB", MAX_PICTURE_BYTES >> 20);
                Some(Err(AcquireError::Stream { origin: self.origin.clone(), reason }))
            }
            Found::End { inside } => {
                self.ended = true;
                let cut_off = AcquireError::CutOff { origin: self.origin.clone(), complete_frames: self.complete };
                inside.then_some(Err(cut_off))
            }
        }
    }

    fn len_hint(&self) -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, PixelFormat};

    fn jpeg(width: u32, height: u32, level: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        let pixels: Vec<u8> = (0..width * height * 3).map(|i| (i % 7) as u8 + level).collect();
        JpegEncoder::new_with_quality(&mut bytes, 90)
            .write_image(&pixels, width, height, ExtendedColorType::Rgb8)
            .expect("encoded");
        bytes
    }

    /// Mean levels of the pictures, or the message in their place.
    fn read(stream: &[u8]) -> Vec<Result<u8, String>> {
        // A small buffer: pictures lie across its edges.
        let mut reader = Reader::new(io::BufReader::with_capacity(7, stream), "clip.mjpeg".to_string());
        let mut out = Vec::new();
        while let Some(next) = reader.next() {
            out.push(match next {
                Ok(Picture { frame: Frame { bytes, format, .. }, .. }) => {
                    assert_eq!(format, PixelFormat::Rgb8);
                    Ok((bytes.iter().map(|&b| u64::from(b)).sum::<u64>() / bytes.len() as u64) as u8)
                }
                Err(e) => Err(e.to_string()),
            });
        }
        out
    }

    fn near(found: &Result<u8, String>, level: u8) -> bool {
        matches!(found, Ok(mean) if mean.abs_diff(level + 3) <= 3)
    }

    #[test]
    fn pictures_follow_each_other_with_anything_between() {
        let (a, b) = (jpeg(33, 17, 40), jpeg(16, 16, 180));
        let boundary = b"\r\n--frame\r\nContent-Type: image/jpeg\r\n\r\n\xff\xff";
        // A comment that holds both markers.
        let mut commented = a.clone();
        commented.splice(2..2, [0xff, 0xfe, 0, 6, 0xff, 0xd9, 0xff, 0xd8]);
        for stream in
            [[&a[..], &b].concat(), [boundary, &a[..], boundary, &b, boundary].concat(), [&commented[..], &b].concat()]
        {
            let found = read(&stream);
            assert!(found.len() == 2 && near(&found[0], 40) && near(&found[1], 180), "{found:?}");
        }
        assert!(read(b"").is_empty());
        assert!(read(b"no picture at all").is_empty());
    }

    #[test]
    fn a_broken_picture_costs_only_itself() {
        let (a, b) = (jpeg(64, 64, 40), jpeg(16, 16, 180));
        // In the entropy-coded data: a length that lies beyond the cut would swallow what follows.
        let stream = [&a[..], &a[..a.len() - 9], &b].concat();
        let found = read(&stream);
        assert!(found.len() == 3 && near(&found[0], 40) && near(&found[2], 180), "{found:?}");
        assert!(found[1].as_ref().is_err_and(|e| e.contains("picture 1 ends")), "{found:?}");
    }

    #[test]
    fn a_cut_stream_gives_its_whole_pictures_and_says_so() {
        let a = jpeg(24, 24, 90);
        let stream = [&a[..], &a].concat();
        for cut in a.len() + 2..stream.len() {
            let found = read(&stream[..cut]);
            assert!(found.len() == 2 && near(&found[0], 90), "{cut}: {found:?}");
            assert!(found[1].as_ref().is_err_and(|e| e.contains("after 1 complete")), "{cut}: {found:?}");
        }
    }

    #[test]
    fn cameras_leave_out_the_huffman_tables() {
        // Table K.5: how many codes of each length the AC coefficients of luminance have.
        let luminance_ac = [0x10, 0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7d, 1, 2, 3, 0, 4];
        assert!(standard_tables().windows(22).any(|w| w == luminance_ac), "{:?}", standard_tables());
        let whole = jpeg(24, 24, 90);
        let mut bare = whole[..2].to_vec();
        let mut at = 2;
        while whole[at + 1] != 0xda {
            let length = 2 + usize::from(u16::from_be_bytes([whole[at + 2], whole[at + 3]]));
            if whole[at + 1] != 0xc4 {
                bare.extend_from_slice(&whole[at..at + length]);
            }
            at += length;
        }
        bare.extend_from_slice(&whole[at..]);
        assert!(bare.len() + 400 < whole.len(), "tables were there");
        let found = read(&bare);
        assert!(found.len() == 1 && near(&found[0], 90), "{found:?}");
    }
}
