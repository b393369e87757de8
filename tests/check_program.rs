//! `eyas check` through the program: verdicts, exit codes, the report.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const SHAPES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/shapes.onnx");
const OUTPUT: &str = "output0";
/// A convolution's result, which its Relu takes into the convolution.
const FUSED: &str = "/stem/stem.0/stem.0.0/Conv_output_0";

/// A fresh folder for one test.
fn folder(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("check_program_{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("temporary folder");
    path
}

fn eyas(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_eyas")).args(arguments).output().expect("the program starts")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

fn report(output: &Output) -> Value {
    let stdout = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&stdout)
        .unwrap_or_else(|e| panic!("{e}: {stdout} {}", String::from_utf8_lossy(&output.stderr)))
}

/// A picture for the network, and what it makes of it, as .npy files: input, output.
fn input_and_output(folder: &Path) -> (PathBuf, PathBuf) {
    let input = folder.join("in.npy");
    let mut header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 192, 192), }".to_string();
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    for i in 0..3 * 192 * 192_u32 {
        bytes.extend(((i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32).to_le_bytes());
    }
    fs::write(&input, bytes).expect("write");
    let given = format!("images={}", input.display());
    let run = eyas(&["run", "-m", SHAPES, "--backend", "cpu", "--input", &given, "--output-dir", text(folder)]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    (input, folder.join(format!("{OUTPUT}.npy")))
}

#[test]
fn a_right_network_agrees_and_its_report_is_complete() {
    let folder = folder("agrees");
    let page = folder.join("report.md");
    let output = eyas(&["check", SHAPES, "--json", "-o", text(&page)]);
    let found = report(&output);
    assert_eq!(output.status.code(), Some(0), "{found:#}");
    assert_eq!(found["agrees"], true);
    let backends = found["backends"].as_array().expect("backends");
    assert_eq!(backends[0]["backend"], "cpu");
    for backend in backends {
        assert!(backend["values"].as_array().is_some_and(|values| values.len() > 20));
        assert!(backend["first_divergence"].is_null());
        assert_eq!(backend["outputs"][0]["value"], OUTPUT);
    }
    let gone = found["gone"].as_array().expect("values that exist no more");
    assert!(gone.iter().any(|g| g["value"] == FUSED && g["into"].is_string()));
    let page = fs::read_to_string(page).expect("the report");
    for word in ["verdict: the cpu agrees", "/stem/stem.1/stem.1.0/Conv", FUSED, "random, seed 0"] {
        assert!(page.contains(word), "no '{word}' in the report");
    }
}

#[test]
fn given_tensors_decide_the_verdict() {
    let folder = folder("expected");
    let (input, right) = input_and_output(&folder);
    let given = format!("images={}", input.display());
    let mut bytes = fs::read(&right).expect("the output");
    // The last element becomes another number.
    let end = bytes.len() - 4;
    bytes[end..].copy_from_slice(&500.0_f32.to_le_bytes());
    let wrong = folder.join("wrong.npy");
    fs::write(&wrong, bytes).expect("write");
    for (file, code) in [(&right, 0), (&wrong, 1)] {
        let expected = format!("{OUTPUT}={}", file.display());
        let output = eyas(&["check", SHAPES, "--json", "--input", &given, "--expect", &expected]);
        let found = report(&output);
        assert_eq!(output.status.code(), Some(code), "{}", found["verdict"]);
        for backend in found["backends"].as_array().expect("backends") {
            assert_eq!(backend["expected"][0]["agrees"], code == 0);
            // Every node is right all the same.
            assert!(backend["first_divergence"].is_null());
        }
        assert_eq!(found["expected_plain"][0]["agrees"], code == 0);
    }
}

#[test]
fn wrong_usage_is_2_and_a_broken_file_is_1() {
    let folder = folder("wrong");
    let (input, _) = input_and_output(&folder);
    let (given, other) = (format!("images={}", input.display()), format!("nobody={}", input.display()));
    let broken = folder.join("broken.onnx");
    let whole = fs::read(SHAPES).expect("the model");
    fs::write(&broken, &whole[..whole.len() / 2]).expect("write");
    for (arguments, code, word) in [
        (vec!["check", SHAPES, "--input", &other], 2, "images"),
        (vec!["check", SHAPES, "--input", &given, "--expect", &other], 2, OUTPUT),
        (vec!["check", SHAPES, "--expect", &other], 2, "--input"),
        (vec!["check", text(&broken)], 1, "truncated"),
        (vec!["check", "/no/such/model.onnx"], 1, "/no/such/model.onnx"),
    ] {
        let output = eyas(&arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(word) && !message.contains("panicked"), "{arguments:?}: {message}");
    }
}
