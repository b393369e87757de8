//! Bad input, through the program: a clear message on stderr, exit code 1, no panic, bounded memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SHAPES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/shapes.onnx");
const SCENE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/shapes_scene.png");

/// A fresh folder for one test.
fn folder(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("bad_input_{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("temporary folder");
    path
}

/// Runs the program with 2 GiB of address space, where the system can limit it.
fn eyas(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_eyas");
    let mut command = if cfg!(target_os = "linux") {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -v 2097152; exec \"$0\" \"$@\"", program]);
        shell
    } else {
        Command::new(program)
    };
    command.args(arguments).output().expect("the program starts")
}

/// Exit 1, no panic, and a message that contains all of `words`.
fn refused(arguments: &[&str], words: &[&str]) {
    let output = eyas(arguments);
    let message = String::from_utf8_lossy(&output.stderr).to_string();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
    assert!(!message.contains("panicked"), "{arguments:?}: {message}");
    assert!(message.len() < 8000, "{arguments:?}: a message of {} bytes", message.len());
    for word in words {
        assert!(message.to_lowercase().contains(&word.to_lowercase()), "{arguments:?}: no '{word}' in: {message}");
    }
}

fn model_refused(bytes: &[u8], path: &Path, words: &[&str]) {
    fs::write(path, bytes).expect("write");
    refused(&["detect", SCENE, "-m", path.to_str().expect("utf-8"), "--backend", "cpu"], words);
}

/// Just enough protobuf to write small models.
mod wire {
    pub fn varint(mut value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while value >= 0x80 {
            out.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    }

    pub fn number(field: u64, value: u64) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }

    pub fn message(field: u64, body: &[u8]) -> Vec<u8> {
        [varint(field << 3 | 2), varint(body.len() as u64), body.to_vec()].concat()
    }

    pub fn text(field: u64, value: &str) -> Vec<u8> {
        message(field, value.as_bytes())
    }

    pub fn value_info(name: &str, dims: &[u64]) -> Vec<u8> {
        let dims: Vec<u8> = dims.iter().flat_map(|&d| message(1, &number(1, d))).collect();
        let tensor = [number(1, 1), message(2, &dims)].concat();
        [text(1, name), message(2, &message(1, &tensor))].concat()
    }

    pub fn node(op: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> Vec<u8> {
        let inputs = inputs.iter().flat_map(|i| text(1, i));
        let outputs = outputs.iter().flat_map(|o| text(2, o));
        inputs.chain(outputs).chain(text(3, name)).chain(text(4, op)).collect()
    }

    /// A model of opset 13 with input `x` and output `y`.
    pub fn model(nodes: &[Vec<u8>], initializers: &[Vec<u8>], input_dims: &[u64]) -> Vec<u8> {
        let graph: Vec<u8> = nodes
            .iter()
            .flat_map(|n| message(1, n))
            .chain(text(2, "g"))
            .chain(initializers.iter().flat_map(|t| message(5, t)))
            .chain(message(11, &value_info("x", input_dims)))
            .chain(message(12, &value_info("y", input_dims)))
            .collect();
        [number(1, 8), message(7, &graph), message(8, &number(2, 13))].concat()
    }
}

const PICTURE: &[u64] = &[1, 3, 8, 8];

#[test]
fn files_that_are_no_models() {
    let dir = folder("no_models");
    model_refused(b"", &dir.join("empty.onnx"), &["empty.onnx"]);
    model_refused(b"To whom it may concern: this is a letter.\n", &dir.join("letter.onnx"), &["letter.onnx"]);
    refused(&["detect", SCENE, "-m", dir.join("missing.onnx").to_str().expect("utf-8")], &["missing.onnx"]);
}

#[test]
fn a_model_truncated_anywhere() {
    let dir = folder("truncated");
    let whole = fs::read(SHAPES).expect("the sample network");
    for k in 0..20 {
        let cut = whole.len() * k / 20;
        model_refused(&whole[..cut], &dir.join(format!("cut_{k}.onnx")), &[&format!("cut_{k}")]);
    }
}

#[test]
fn graphs_that_cannot_be() {
    let dir = folder("graphs");
    let relu = wire::node("Relu", "r", &["x"], &["y"]);
    let huge_dims = [1, 3, 1 << 60, 8];
    model_refused(
        &wire::model(std::slice::from_ref(&relu), &[], &huge_dims),
        &dir.join("huge.onnx"),
        &["1152921504606846976"],
    );
    // An initializer that claims 2^60 elements and has none.
    let claims = [wire::number(1, 1 << 60), wire::number(2, 1), wire::text(8, "w")].concat();
    let add = wire::node("Add", "a", &["x", "w"], &["y"]);
    model_refused(&wire::model(std::slice::from_ref(&add), &[claims], PICTURE), &dir.join("claims.onnx"), &["w"]);
    let cycle = [wire::node("Add", "first", &["x", "b"], &["a"]), wire::node("Relu", "second", &["a"], &["b"])];
    let nodes = [cycle[0].clone(), cycle[1].clone(), wire::node("Relu", "r", &["a"], &["y"])];
    model_refused(&wire::model(&nodes, &[], PICTURE), &dir.join("cycle.onnx"), &["cycle", "first"]);
    model_refused(&wire::model(&[add], &[], PICTURE), &dir.join("missing.onnx"), &["'w'"]);
    let unknown = [
        wire::node("Frobnicate", "f1", &["x"], &["a"]),
        wire::node("Relu", "r", &["a"], &["b"]),
        wire::node("Defenestrate", "f2", &["x"], &["c"]),
        wire::node("Add", "s", &["b", "c"], &["y"]),
    ];
    // Both at once.
    model_refused(
        &wire::model(&unknown, &[], PICTURE),
        &dir.join("op.onnx"),
        &["Frobnicate", "f1", "Defenestrate", "f2"],
    );
}

const CFG: &str = "[net]\nwidth=32\nheight=32\nchannels=3\n\n[convolutional]\nfilters=18\nsize=1\nstride=1\nactivation=linear\n\n\
    [yolo]\nmask=0,1,2\nanchors=1,2, 3,4, 5,6\nclasses=1\nnum=3\n";

#[test]
fn darknet_files_that_do_not_fit() {
    let dir = folder("darknet");
    // Header of 20 bytes, 18 biases, 18·3 weights.
    let weights: Vec<u8> = [0i32, 2, 0, 0, 0].iter().flat_map(|v| v.to_le_bytes()).chain([0; 72 * 4]).collect();
    let (cfg, file) = (dir.join("net.cfg"), dir.join("net.weights"));
    fs::write(&cfg, CFG).expect("write");
    let arguments = ["detect", SCENE, "-m", cfg.to_str().expect("utf-8"), "--backend", "cpu"];
    fs::write(&file, &weights).expect("write");
    let output = eyas(&arguments);
    assert!(output.status.success(), "the right length: {}", String::from_utf8_lossy(&output.stderr));
    fs::write(&file, &weights[..weights.len() - 12]).expect("write");
    refused(&arguments, &["3 ", "missing"]);
    fs::write(&file, [weights.clone(), vec![0; 8]].concat()).expect("write");
    refused(&arguments, &["2 ", "left over"]);
    fs::write(&cfg, CFG.replace("[yolo]", "[telepathy]\n[yolo]")).expect("write");
    fs::write(&file, &weights).expect("write");
    refused(&arguments, &["telepathy"]);
    fs::remove_file(&file).expect("remove");
    refused(&arguments, &["net.weights"]);
}

/// The first chunk of a PNG that claims to be of that size, and nothing more.
fn png_header(side_px: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(side_px.to_be_bytes());
    chunk.extend(side_px.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let mut crc = !0u32;
    for &byte in &chunk {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    [b"\x89PNG\r\n\x1a\n".to_vec(), 13u32.to_be_bytes().to_vec(), chunk, (!crc).to_be_bytes().to_vec()].concat()
}

#[test]
fn pictures() {
    let dir = folder("pictures");
    let detect = |input: &Path, words: &[&str]| {
        refused(&["detect", input.to_str().expect("utf-8"), "-m", SHAPES, "--backend", "cpu"], words);
    };
    let header = dir.join("header.png");
    fs::write(&header, png_header(20_000)).expect("write");
    detect(&header, &["header.png"]);
    // With the first bytes of pixels the size is believed, and refused.
    let huge = dir.join("huge.png");
    fs::write(&huge, [png_header(20_000), 4096u32.to_be_bytes().to_vec(), b"IDAT".to_vec(), vec![0; 64]].concat())
        .expect("write");
    detect(&huge, &["huge.png", "20000"]);
    let letter = dir.join("letter.png");
    fs::write(&letter, "no picture").expect("write");
    detect(&letter, &["letter.png"]);
    let cut = dir.join("cut.png");
    let scene = fs::read(SCENE).expect("the sample picture");
    fs::write(&cut, &scene[..scene.len() / 2]).expect("write");
    detect(&cut, &["cut.png"]);
    let empty = dir.join("empty");
    fs::create_dir(&empty).expect("folder");
    detect(&empty, &["empty", "picture"]);
    detect(&dir.join("missing.jpg"), &["missing.jpg"]);
}

#[test]
fn a_picture_of_one_pixel_is_a_picture() {
    let dir = folder("one_pixel");
    let one = dir.join("one.bmp");
    let header: Vec<u8> = [
        b"BM".to_vec(),
        [58u32, 0, 54, 40, 1, 1].iter().flat_map(|v| v.to_le_bytes()).collect(),
        vec![1, 0, 24, 0],
        [0u32, 4, 0, 0, 0, 0].iter().flat_map(|v| v.to_le_bytes()).collect(),
        vec![10, 20, 30, 0],
    ]
    .concat();
    fs::write(&one, header).expect("write");
    let out = dir.join("out.png");
    let output = eyas(&[
        "detect",
        one.to_str().expect("utf-8"),
        "-m",
        SHAPES,
        "--backend",
        "cpu",
        "-o",
        out.to_str().expect("utf-8"),
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(out.exists());
}

#[test]
fn outputs_that_cannot_be_written() {
    let nowhere = "/proc/no/such/place/found.png";
    refused(&["detect", SCENE, "-m", SHAPES, "--backend", "cpu", "-o", nowhere], &[nowhere]);
    let dir = folder("output");
    let odd = dir.join("found.xyz");
    refused(&["detect", SCENE, "-m", SHAPES, "--backend", "cpu", "-o", odd.to_str().expect("utf-8")], &["found.xyz"]);
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &["detect", SCENE, "--conf", "7"][..],
        &["detect", SCENE, "--weights", "yolo.weights"],
        &["detect", SCENE, "-o", "-"],
        &["bench", "--size", "big"],
        &["detect", SCENE, "--large", "-m", "models/shapes.onnx"],
        &["check", "models/shapes.onnx", "--large"],
        &["frobnicate"],
    ] {
        assert_eq!(eyas(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
#[cfg(not(feature = "embedded"))]
fn without_a_detector_inside_a_model_must_be_named() {
    for arguments in [&["detect", SCENE][..], &["detect"], &["live", "--headless", "--frames", "1"], &["check"]] {
        let output = eyas(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("-m FILE"), "{arguments:?}");
    }
}
