//! `eyas live --headless` and `eyas detect` on videos, through the program: every complete frame is processed, and what
//! ends early ends with a word and the right exit code.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use eyas::acquire::scenes::{Scene, Shapes};
use eyas::acquire::{pictures, y4m};

const SHAPES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/shapes.onnx");

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("eyas-video-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("temporary directory");
        Scratch(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    /// A clip of the pattern, 96x64.
    fn clip(&self, frames: u64) -> Vec<u8> {
        let path = self.0.join("pattern.y4m");
        let scene = Shapes::new(96, 64).expect("scene");
        let mut writer = y4m::Writer::create(&path, [96, 64], [30, 1]).expect("created");
        (0..frames).for_each(|n| writer.write(scene.render(n)).expect("written"));
        writer.finish().expect("finished");
        fs::read(&path).expect("read")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn eyas(arguments: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_eyas"))
        .args(arguments)
        .args(["-m", SHAPES, "--backend", "cpu", "--threads", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // It may end before it has read all.
    let _ = child.stdin.take().expect("a pipe").write_all(stdin);
    child.wait_with_output().expect("the program ends")
}

/// Exit code, lines on stdout, stderr.
fn said(output: &Output) -> (Option<i32>, usize, String) {
    let lines = String::from_utf8_lossy(&output.stdout).lines().count();
    (output.status.code(), lines, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn live(source: &str, more: &[&str], stdin: &[u8]) -> (Option<i32>, usize, String) {
    said(&eyas(&[&["live", source, "--headless"], more].concat(), stdin))
}

#[test]
fn live_processes_every_complete_frame() {
    let scratch = Scratch::new("live");
    let clip = scratch.clip(4);
    assert_eq!(live(&scratch.path("pattern.y4m"), &["--json"], b""), (Some(0), 4, String::new()));
    assert_eq!(live("-", &["--json"], &clip), (Some(0), 4, String::new()));
    assert_eq!(live("-", &["--json", "--frames", "2"], &clip), (Some(0), 2, String::new()));

    let header = clip.iter().position(|&b| b == b'\n').expect("a header") + 1;
    let wrong_size = String::from_utf8_lossy(&clip[..header]).replace("W96", "W32");
    let frame = (clip.len() - header) / 4;
    let lying = [wrong_size.as_bytes(), &clip[header..]].concat();
    for (stream, frames, word) in [
        (&clip[..header + 3 * frame + 100], 3, "middle of a frame"),
        (&clip[..header + 100], 0, "middle of a frame"),
        (&lying, 1, "its header has the wrong size"),
        (&clip[..header], 0, "before its first frame"),
        (b"", 0, "not a single byte"),
    ] {
        let (code, lines, message) = live("-", &["--json"], stream);
        assert_eq!((code, lines), (Some(1), frames), "{message}");
        assert!(message.contains(word), "{message}");
        // What was drawn before the end is in the file.
        let out = scratch.path("out.y4m");
        let _ = fs::remove_file(&out);
        assert_eq!(live("-", &["-o", &out], stream).0, Some(1));
        let written = fs::read(&out).map_or(0, |bytes| bytes.windows(6).filter(|w| w == b"FRAME\n").count());
        assert_eq!(written, frames, "{word}");
    }
}

#[test]
fn sizes_may_change_within_a_directory() {
    let scratch = Scratch::new("sizes");
    let directory = scratch.0.join("in");
    fs::create_dir(&directory).expect("directory");
    for (name, width, height) in [("a.png", 96, 64), ("b.png", 31, 77), ("d.png", 200, 50)] {
        pictures::save(&directory.join(name), &Shapes::new(width, height).expect("scene").render(0)).expect(name);
    }
    fs::write(directory.join("c.png"), b"no picture").expect("written");
    let source = directory.to_string_lossy();
    let out = scratch.path("out");
    let (code, _, message) = live(&source, &["-o", &out], b"");
    assert_eq!(code, Some(0), "{message}");
    assert!(message.contains("c.png"), "what looks like a picture is not skipped in silence: {message}");
    // A window keeps its size.
    for name in ["000000.png", "000001.png", "000002.png"] {
        let frame = pictures::load(&Path::new(&out).join(name)).expect(name);
        assert_eq!([frame.width, frame.height], [96, 64]);
    }
    let video = scratch.path("out.y4m");
    assert_eq!(live(&source, &["-o", &video], b"").0, Some(0));
    assert!(fs::read(&video).expect("video").starts_with(b"YUV4MPEG2 W96 H64 "));
}

#[test]
fn outputs_that_cannot_be_written() {
    let scratch = Scratch::new("full");
    scratch.clip(2);
    let clip = scratch.path("pattern.y4m");
    for command in ["live", "detect"] {
        let run = |out: &str| {
            let more: &[&str] = if command == "live" { &["--headless"] } else { &[] };
            said(&eyas(&[&[command, &clip, "-o", out], more].concat(), b""))
        };
        for name in ["film.mp4", "film.png"] {
            let out = scratch.path(name);
            let (code, _, message) = run(&out);
            assert!(code == Some(1) && message.contains(".y4m"), "{code:?} {message}");
            assert!(!Path::new(&out).exists(), "no directory of that name");
        }
        #[cfg(target_os = "linux")]
        {
            let full = scratch.path("full.y4m");
            let _ = std::os::unix::fs::symlink("/dev/full", &full);
            let (code, _, message) = run(&full);
            assert!(code == Some(1) && message.contains("No space left"), "{code:?} {message}");
        }
    }
}

#[test]
fn detect_takes_videos_too() {
    let scratch = Scratch::new("detect");
    let clip = scratch.clip(3);
    pictures::save(&scratch.0.join("a.png"), &Shapes::new(96, 64).expect("scene").render(7)).expect("saved");
    let (file, picture) = (scratch.path("pattern.y4m"), scratch.path("a.png"));
    let detect = |arguments: &[&str], stdin: &[u8]| eyas(&[&["detect"], arguments].concat(), stdin);

    let output = detect(&[&file, &picture, "-", "--json"], &clip);
    let lines: Vec<serde_json::Value> =
        String::from_utf8_lossy(&output.stdout).lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let found: Vec<(String, Option<u64>)> = lines
        .iter()
        .map(|l| (l["image"].as_str().unwrap_or_default().to_string(), l["frame"].as_u64()))
        .map(|(image, frame)| (Path::new(&image).file_name().unwrap_or_default().to_string_lossy().into_owned(), frame))
        .collect();
    let expected = [("pattern.y4m", Some(0)), ("pattern.y4m", Some(1)), ("pattern.y4m", Some(2)), ("a.png", None)]
        .into_iter()
        .chain([0, 1, 2].map(|n| ("standard input", Some(n))));
    assert_eq!(found, expected.map(|(n, f)| (n.to_string(), f)).collect::<Vec<_>>());
    assert_eq!(lines[0]["detections"], lines[4]["detections"], "a file and a pipe of the same bytes");

    let video = scratch.path("found.y4m");
    assert_eq!(detect(&[&file, "-o", &video], b"").status.code(), Some(0));
    let written = fs::read(&video).expect("a video");
    assert_eq!(written.len(), clip.len());
    let directory = scratch.0.join("found");
    assert_eq!(detect(&[&file, &picture, &picture, "-o", &directory.to_string_lossy()], b"").status.code(), Some(0));
    let mut names: Vec<_> =
        fs::read_dir(&directory).expect("directory").map(|e| e.expect("entry").file_name()).collect();
    names.sort();
    assert_eq!(
        names,
        ["a-2.png", "a.png", "pattern-000000.png", "pattern-000001.png", "pattern-000002.png"],
        "pictures of one name do not overwrite each other"
    );

    let (code, lines, message) = said(&detect(&["-", "--json"], &clip[..clip.len() - 5]));
    assert_eq!((code, lines), (Some(1), 2), "{message}");
    assert!(message.contains("middle of a frame"), "{message}");
    let (code, _, message) = said(&detect(&["camera:0"], b""));
    assert!(code == Some(1) && message.contains("eyas live"), "{message}");
}
