//! Sources of the live loop through the library's front door: what a command line can name, good and bad.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use eyas::acquire::capture::{Capture, CaptureOptions, Event, Pace};
use eyas::acquire::scenes::shapes::CLASSES;
use eyas::acquire::scenes::{Scene, Shapes};
use eyas::acquire::{AcquireError, LiveOptions, Source, open_live, pictures, y4m};
use eyas::frame::{Colour, Frame, PixelFormat, YuvMatrix, YuvRange};

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("eyas-sources-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("temporary directory");
        Scratch(path)
    }

    /// Writes a file and gives its path.
    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("write");
        path.to_string_lossy().into_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(uri: &str) -> Result<Box<dyn Source>, AcquireError> {
    open_live(uri, &LiveOptions::default())
}

fn refusal(uri: &str) -> String {
    match open(uri) {
        Ok(_) => panic!("'{uri}' was opened"),
        Err(e) => e.to_string(),
    }
}

/// Frames, and the messages of what failed.
fn read_all(source: &mut dyn Source) -> (Vec<Frame>, Vec<String>) {
    let (mut frames, mut failures) = (Vec::new(), Vec::new());
    while let Some(next) = source.next() {
        match next {
            Ok(picture) => frames.push(picture.frame),
            Err(e) => failures.push(e.to_string()),
        }
    }
    (frames, failures)
}

fn jpeg(width: u32, height: u32, level: u8) -> Vec<u8> {
    let scratch = Scratch::new(&format!("jpeg-{width}-{height}-{level}"));
    let path = scratch.0.join("a.jpg");
    let frame = Frame::new(width, height, PixelFormat::Gray8, vec![level; (width * height) as usize]).expect("frame");
    pictures::save(&path, &frame).expect("saved");
    fs::read(&path).expect("read")
}

#[test]
fn y4m_files_by_content() {
    let scratch = Scratch::new("y4m");
    let planes: Vec<u8> = (0..15 + 12).collect();
    let clip = [b"YUV4MPEG2 W3 H5 F30000:1001 C420jpeg XCOLORRANGE=FULL\nFRAME\n", &planes[..]].concat();
    for name in ["clip.y4m", "clip.bin", "clip"] {
        let mut source = open(&scratch.file(name, &clip)).expect(name);
        assert_eq!(source.frame_rate(), Some([30000, 1001]));
        let (frames, failures) = read_all(source.as_mut());
        assert!(failures.is_empty() && frames.len() == 1, "{failures:?}");
        assert_eq!((frames[0].width, frames[0].height, frames[0].format), (3, 5, PixelFormat::I420));
        assert_eq!(frames[0].colour, Colour { range: YuvRange::Full, matrix: YuvMatrix::Bt601 });
        assert_eq!(frames[0].bytes, planes);
    }
    // Who knows better has the last word.
    let colour = Colour { range: YuvRange::Limited, matrix: YuvMatrix::Bt709 };
    let options = LiveOptions { colour: Some(colour), ..LiveOptions::default() };
    let mut source = open_live(&scratch.file("clip.y4m", &clip), &options).expect("opened");
    assert_eq!(read_all(source.as_mut()).0[0].colour, colour);
}

#[test]
fn every_complete_frame_of_a_killed_pipe_comes() {
    let scratch = Scratch::new("cut");
    let header = b"YUV4MPEG2 W8 H8 F25:1\n".to_vec();
    let frame = [&b"FRAME\n"[..], &[77; 96]].concat();
    let whole = [header.clone(), frame.repeat(3)].concat();
    for (keep, complete, clean) in [
        (header.len(), 0, true),
        (header.len() + 3, 0, false),
        (header.len() + frame.len() - 1, 0, false),
        (header.len() + frame.len(), 1, true),
        (header.len() + frame.len() + 1, 1, false),
        (header.len() + 2 * frame.len() + 50, 2, false),
        (whole.len(), 3, true),
    ] {
        let mut source = open(&scratch.file("cut.y4m", &whole[..keep])).expect("header");
        let (frames, failures) = read_all(source.as_mut());
        assert_eq!((frames.len(), failures.len()), (complete, usize::from(!clean)), "{keep}: {failures:?}");
        if !clean {
            assert!(failures[0].contains(&format!("after {complete} complete frames")), "{failures:?}");
        }
    }
}

#[test]
fn bad_streams_are_refused_with_a_reason() {
    let scratch = Scratch::new("bad");
    for (name, bytes, word) in [
        ("zero.y4m", &b"YUV4MPEG2 W0 H480\n"[..], "width of '0'"),
        ("huge.y4m", b"YUV4MPEG2 W99999 H480\n", "16384"),
        ("deep.y4m", b"YUV4MPEG2 W64 H48 C420p10\n", "yuv420p"),
        ("none.y4m", b"YUV4MPEG2 F25:1\n", "no width"),
        ("short.y4m", b"YUV4MPEG2 W64 H4", "inside its header"),
        ("text.y4m", b"hello\n", "YUV4MPEG2"),
        ("empty.y4m", b"", "empty"),
        ("empty.mjpeg", b"", "empty"),
        ("text.mjpeg", b"hello", "JPEG"),
    ] {
        let said = refusal(&scratch.file(name, bytes));
        assert!(said.contains(word) && said.contains(name), "{name}: {said}");
    }
    // A header that lies about the size within the limits: an end with a word, and no memory for what never comes.
    let mut source = open(&scratch.file("lie.y4m", b"YUV4MPEG2 W16000 H16000\nFRAME\nxx")).expect("header");
    let (frames, failures) = read_all(source.as_mut());
    assert!(frames.is_empty() && failures.len() == 1 && failures[0].contains("middle of a frame"), "{failures:?}");
}

#[test]
fn names_that_are_no_source() {
    for (uri, word) in [
        ("rtsp://camera/1", "standard input"),
        ("pattern:big", "shapes"),
        ("pattern:640", "640x480"),
        ("pattern:0x1", "16384"),
        ("camera:x", "camera:0"),
        ("camera:4000000", "eyas live -"),
        ("missing.y4m", "cannot read"),
        ("", "cannot read"),
    ] {
        assert!(refusal(uri).contains(word), "'{uri}': {}", refusal(uri));
    }
}

#[test]
fn motion_jpeg_files() {
    let scratch = Scratch::new("mjpeg");
    let (a, b) = (jpeg(33, 17, 40), jpeg(16, 16, 200));
    let cut = [&a[..], &b, &a[..a.len() - 5]].concat();
    let mut source = open(&scratch.file("clip.MJPEG", &cut)).expect("opened");
    let (frames, failures) = read_all(source.as_mut());
    // Sizes may change in mid-stream.
    assert_eq!(frames.iter().map(|f| [f.width, f.height]).collect::<Vec<_>>(), [[33, 17], [16, 16]]);
    assert!(frames[0].rgb(5, 5)[0].abs_diff(40) <= 2 && frames[1].rgb(5, 5)[1].abs_diff(200) <= 2);
    assert!(failures.len() == 1 && failures[0].contains("after 2 complete"), "{failures:?}");
}

#[test]
fn slide_shows() {
    let scratch = Scratch::new("slides");
    scratch.file("a.jpg", &jpeg(33, 17, 40));
    scratch.file("b.jpg", &jpeg(16, 24, 200));
    scratch.file("c.jpg", &[0xff, 0xd8, 0xff, 0xe0, 0, 2]);
    let options = LiveOptions { slide: Duration::from_millis(2500), ..LiveOptions::default() };
    let mut source = open_live(&scratch.0.to_string_lossy(), &options).expect("directory");
    assert_eq!(source.frame_rate(), Some([1000, 2500]));
    let (frames, failures) = read_all(source.as_mut());
    assert_eq!(frames.iter().map(|f| [f.width, f.height]).collect::<Vec<_>>(), [[33, 17], [16, 24]]);
    assert!(failures.len() == 1 && failures[0].contains("c.jpg"), "{failures:?}");
    let mut one = open(&scratch.0.join("a.jpg").to_string_lossy()).expect("a picture");
    assert_eq!(read_all(one.as_mut()).0.len(), 1);
    let empty = Scratch::new("empty");
    assert!(refusal(&empty.0.to_string_lossy()).contains("holds no"));
}

#[cfg(unix)]
#[test]
fn a_named_pipe_that_is_closed_in_mid_frame() {
    use std::io::Write;

    let scratch = Scratch::new("fifo");
    let path = scratch.0.join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no mkfifo here");
        return;
    }
    let writer = {
        let path = path.clone();
        std::thread::spawn(move || {
            let mut pipe = fs::OpenOptions::new().write(true).open(path).expect("pipe");
            pipe.write_all(b"YUV4MPEG2 W4 H4 F1000:1\n").expect("header");
            for part in [&b"FRA"[..], b"ME\n0123456789", b"0123456789abcd", b"FRAME\n01234"] {
                pipe.write_all(part).expect("part");
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    };
    let source = open(&path.to_string_lossy()).expect("header");
    let capture = Capture::start(source, CaptureOptions::new(Pace::Lossless)).expect("thread");
    let Event::Frame(first) = capture.wait(Duration::from_secs(20)) else { panic!("one whole frame came") };
    assert_eq!(first.picture.frame.bytes, b"01234567890123456789abcd");
    match capture.wait(Duration::from_secs(20)) {
        Event::Failed(AcquireError::CutOff { complete_frames: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(matches!(capture.wait(Duration::from_secs(20)), Event::Ended));
    writer.join().expect("writer");
}

#[test]
fn a_video_that_is_written_plays() {
    let scratch = Scratch::new("written");
    let path = scratch.0.join("out.y4m");
    let scene = Shapes::new(97, 63).expect("scene");
    let mut writer = y4m::Writer::create(&path, [97, 63], [30, 1]).expect("created");
    for n in 0..3 {
        writer.write(scene.render(n)).expect("written");
    }
    writer.finish().expect("finished");
    let mut source = open(&path.to_string_lossy()).expect("opened");
    let (frames, failures) = read_all(source.as_mut());
    assert!(failures.is_empty() && frames.len() == 3, "{failures:?}");
    // Where a block has one colour, it survives: luma exactly, colours to the rounding of YUV.
    let (written, read) = (scene.render(2), &frames[2]);
    let mut far = 0;
    for y in 0..62 {
        for x in 0..96 {
            let (a, b) = (written.rgb(x, y), read.rgb(x, y));
            far += u32::from(a.iter().zip(b).any(|(a, b)| a.abs_diff(b) > 24));
        }
    }
    assert!(far < 62 * 96 / 20, "{far} pixels are far off");
    assert!(y4m::Writer::create(Path::new("/nowhere/out.y4m"), [2, 2], [1, 1]).is_err());
}

#[test]
fn the_pattern_needs_nothing() {
    let mut source = open("pattern:shapes").expect("opened");
    let first = source.next().expect("endless").expect("frame").frame;
    assert_eq!((first.width, first.height, first.format), (640, 480, PixelFormat::Rgb8));
    let scene = Shapes::new(640, 480).expect("scene");
    assert_eq!(scene.render(0), first);
    assert!(scene.truth(0).iter().all(|(class, [left, top, right, bottom])| {
        *class < CLASSES.len() && 0.0 <= *left && left < right && *right <= 640.0 && top < bottom && *bottom <= 480.0
    }));
}
