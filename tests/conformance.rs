//! The node cases of the ONNX standard's own suite, through the public API, in one process.
//!
//! `EYAS_ONNX_CASES` names folders of cases, separated by ':' (`NAME/model.onnx`,
//! `NAME/test_data_set_0/{input,output}_N.pb`); `scripts/onnx_cases.py` writes them. Without it nothing runs.
//! `EYAS_ONNX_GPU=1` runs on the GPU as well, `EYAS_ONNX_GPU=f16` with activations and weights stored in 16 bits (what
//! differs by more is printed, and nothing is compared with the list). `EYAS_ONNX_WRITE=1` rewrites `tests/conformance_expected.txt` and
//! `docs/conformance.md` instead of comparing with the former. `EYAS_ONNX_REPORT=FILE` writes one line a run: backend,
//! mode, tier, `gpu` or `any`, outcome, name, and why or which operators fell back to the CPU, separated by tabs.
//! `EYAS_ONNX_ONLY=TEXT` runs the cases with that in their name, and compares with no list.
//!
//! Each case runs twice. *dyn*: every input of the graph is given at run time. *const*: all but the first floating input
//! are constants of the file, which is how exporters write them. A case passes, is refused with a message, or is wrong;
//! wrong fails always. The expectation file is a ratchet: what it lists must pass, what passes must be listed; a GPU line
//! that ends in `alone` passes with no operator left to the CPU.

use eyas::Model;
use eyas::infer::import::ImportOptions;
use eyas::infer::import::onnx::proto::{
    DataType, DimensionProto, DimensionValue, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use eyas::infer::import::onnx::{import_onnx, tensors};
use eyas::infer::tensor::{DType, Tensor};
use eyas::session::{Backend, Session, SessionOptions};
use eyas::shader::Precision;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Cases that matter to vision: `tier gpu|any name`, tier A, B or old.
const CASES: &str = include_str!("conformance_cases.txt");
const EXPECTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance_expected.txt");
const REPORT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/conformance.md");

enum Outcome {
    /// With the operators that a backend other than the CPU left to the CPU.
    Passed(Vec<&'static str>),
    Refused(String),
    Wrong(String),
}

/// Why the two differ, if they do: floats 1e-3 relative and 1e-5 absolute, f16 2e-3, nothing for the rest. `coarse` is for
/// results that were stored in 16 bits on the way.
fn difference(got: &Tensor, want: &Tensor, half: bool, coarse: bool) -> Option<String> {
    let dtype = if half { DType::F16 } else { want.dtype() };
    if got.shape() != want.shape() || got.dtype() != dtype {
        return Some(format!("{got:?} where {dtype} {:?} was expected", want.shape()));
    }
    if !matches!(dtype, DType::F16 | DType::F32 | DType::F64) {
        let (got, want) = (got.to_i64(), want.to_i64());
        let at = (0..want.len()).find(|&i| got[i] != want[i])?;
        return Some(format!("element {at} is {}, not {}", got[at], want[at]));
    }
    let (relative, absolute) = match (half, coarse) {
        (_, true) => (1e-2, 1e-2),
        (true, _) => (2e-3, 1e-3),
        (false, _) => (1e-3, 1e-5),
    };
    let (got, want) = (got.to_f32(), want.to_f32());
    let close = |g: f32, w: f32| (g.is_nan() && w.is_nan()) || g == w || (g - w).abs() <= relative * w.abs() + absolute;
    let far: Vec<usize> = (0..want.len()).filter(|&i| !close(got[i], want[i])).collect();
    let &first = far.first()?;
    Some(format!("{} of {} differ; element {first} is {}, not {}", far.len(), want.len(), got[first], want[first]))
}

/// Outputs by name, and, of a GPU, the operators that it left to the CPU.
type Answer = (Vec<(String, Tensor)>, Option<Vec<&'static str>>);

fn read_tensors(folder: &Path, kind: &str) -> Vec<TensorProto> {
    (0..)
        .map(|i| folder.join(format!("test_data_set_0/{kind}_{i}.pb")))
        .take_while(|path| path.exists())
        .map(|path| TensorProto::decode(std::fs::read(path).expect("readable").as_slice()).unwrap_or_default())
        .collect()
}

/// The shapes of the suite may be symbolic; the tensors say what they are.
fn fix_shape(info: &mut ValueInfoProto, tensor: &TensorProto) {
    if let Some(shape) = info.r#type.as_mut().and_then(|t| t.tensor_type.as_mut()).and_then(|t| t.shape.as_mut()) {
        let fixed = |&d: &i64| DimensionProto { value: Some(DimensionValue::Value(d)) };
        shape.dim = tensor.dims.iter().map(fixed).collect();
    }
}

/// Inputs of a node that the model leaves out are not among the data.
fn run_case(folder: &Path, constants: bool, session: &dyn Fn(&Model) -> Result<Session, String>) -> Outcome {
    let bytes = std::fs::read(folder.join("model.onnx")).expect("model.onnx");
    let mut model = ModelProto::decode(bytes.as_slice()).expect("the suite's models decode");
    let graph = model.graph.as_mut().expect("the suite's models have graphs");
    let mut kept_one = !constants;
    let mut inputs: Vec<(String, Tensor)> = Vec::new();
    let mut rest = Vec::new();
    for (mut info, mut tensor) in std::mem::take(&mut graph.input).into_iter().zip(read_tensors(folder, "input")) {
        let float = [DataType::Float, DataType::Float16].iter().any(|&t| tensor.data_type == t as i32);
        if constants && (kept_one || !float) {
            tensor.name.clone_from(&info.name);
            graph.initializer.push(tensor);
            continue;
        }
        kept_one = true;
        fix_shape(&mut info, &tensor);
        match tensors::decode_inline(&tensor) {
            Ok(value) => inputs.push((info.name.clone(), value)),
            Err(e) => return Outcome::Refused(e),
        }
        rest.push(info);
    }
    graph.input = rest;
    let nodes: Vec<NodeProto> = graph.node.clone();
    let run = || -> Result<Answer, String> {
        let graph = import_onnx(model.encode_to_vec().into(), "case", &ImportOptions::default());
        let mut session = session(&Model::from_graph(graph.map_err(|e| e.to_string())?))?;
        let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
        let outputs = session.run(&inputs).map_err(|e| e.to_string())?;
        let on_gpu = session.backend() == "gpu";
        let fallbacks = on_gpu.then(|| session.plan().fallbacks().map(|(op, _)| op).collect());
        Ok((outputs, fallbacks))
    };
    let (got, fallbacks) = match run() {
        Ok(got) => got,
        Err(e) => return Outcome::Refused(format!("{} [{}]", e.replace('\n', " "), nodes.len())),
    };
    let coarse = fallbacks.is_some() && gpu_precision() == Some(Precision::F16);
    let fallbacks = fallbacks.unwrap_or_default();
    let wanted = read_tensors(folder, "output");
    if wanted.is_empty() || wanted.len() != got.len() {
        return Outcome::Wrong(format!("{} outputs, {} expected", got.len(), wanted.len()));
    }
    for (i, ((_, got), want)) in got.iter().zip(wanted).enumerate() {
        let half = want.data_type == DataType::Float16 as i32;
        match tensors::decode_inline(&want) {
            Ok(want) => {
                if let Some(why) = difference(got, &want, half, coarse) {
                    return Outcome::Wrong(format!("output {i}: {why}"));
                }
            }
            Err(e) => return Outcome::Refused(e),
        }
    }
    Outcome::Passed(fallbacks)
}

/// Runs of one backend, mode and tier.
#[derive(Default)]
struct Count {
    total: usize,
    passed: usize,
    wrong: usize,
    refused: usize,
    /// Passed without the CPU.
    alone: usize,
    /// Of the cases that must do so: how many there are, and how many do.
    marked: usize,
    marked_alone: usize,
}

fn on_cpu(model: &Model) -> Result<Session, String> {
    let options = SessionOptions { backend: Backend::Cpu, threads: Some(1), ..SessionOptions::default() };
    Session::new(model, &options).map_err(|e| e.to_string())
}

type Open = Box<dyn Fn(&Model) -> Result<Session, String>>;

/// What the GPU stores activations in, if it is to run.
fn gpu_precision() -> Option<Precision> {
    match std::env::var("EYAS_ONNX_GPU").ok()?.as_str() {
        "f16" => Some(Precision::F16),
        _ => Some(Precision::F32),
    }
}

fn backends() -> Vec<(&'static str, Open)> {
    #[allow(unused_mut)]
    let mut backends: Vec<(&'static str, Open)> = vec![("cpu", Box::new(on_cpu))];
    #[cfg(feature = "gpu")]
    if let Some(precision) = gpu_precision() {
        let gpu = eyas::gpu::test_gpu().expect("EYAS_ONNX_GPU is set and there is no GPU");
        let precision = Some(precision);
        let open = move |model: &Model| Session::on_device(model, gpu.clone(), precision).map_err(|e| e.to_string());
        backends.push(("gpu", Box::new(open)));
    }
    backends
}

#[test]
fn cases_of_the_standard() {
    let Ok(folders) = std::env::var("EYAS_ONNX_CASES") else {
        eprintln!("SKIPPED: set EYAS_ONNX_CASES to folders of ONNX node cases, separated by ':'");
        return;
    };
    let folders: Vec<PathBuf> = folders.split(':').map(PathBuf::from).collect();
    let mut counts: BTreeMap<(&str, &str, &str), Count> = BTreeMap::new();
    let mut passing = BTreeSet::new();
    let (mut wrong, mut missing) = (Vec::new(), 0);
    let backends = backends();
    let only = std::env::var("EYAS_ONNX_ONLY").unwrap_or_default();
    let mut report = String::new();
    std::panic::set_hook(Box::new(|_| {}));
    for line in CASES.lines().filter(|l| !l.starts_with('#')) {
        let mut words = line.split(' ');
        let (Some(tier), Some(place), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
        if !name.contains(&only) {
            continue;
        }
        let Some(folder) = folders.iter().map(|f| f.join(name)).find(|f| f.join("model.onnx").exists()) else {
            missing += 1;
            continue;
        };
        for (backend, open) in &backends {
            for mode in ["const", "dyn"] {
                let run = std::panic::AssertUnwindSafe(|| run_case(&folder, mode == "const", open));
                let outcome = std::panic::catch_unwind(run).unwrap_or_else(|_| Outcome::Wrong("PANIC".into()));
                let count = counts.entry((tier, backend, mode)).or_default();
                let must_be_alone = *backend == "gpu" && place == "gpu";
                count.total += 1;
                count.marked += usize::from(must_be_alone);
                let (word, why) = match outcome {
                    Outcome::Passed(fallbacks) => {
                        count.passed += 1;
                        if fallbacks.is_empty() {
                            count.alone += 1;
                            count.marked_alone += usize::from(must_be_alone);
                        }
                        let alone = if *backend == "gpu" && fallbacks.is_empty() { " alone" } else { "" };
                        passing.insert(format!("{backend} {mode} {name}{alone}"));
                        (if fallbacks.is_empty() { "passed" } else { "fallback" }, fallbacks.join(","))
                    }
                    Outcome::Refused(why) => {
                        count.refused += 1;
                        println!("refused {backend} {mode} {name}: {why}");
                        ("refused", why)
                    }
                    Outcome::Wrong(why) => {
                        count.wrong += 1;
                        println!("WRONG {backend} {mode} {name}: {why}");
                        wrong.push(format!("{backend} {mode} {name}: {why}"));
                        ("wrong", why)
                    }
                };
                report += &format!("{backend}\t{mode}\t{tier}\t{place}\t{word}\t{name}\t{why}\n");
            }
        }
    }
    let _ = std::panic::take_hook();
    let mut table = String::from(
        "| backend | mode | tier | cases | passed | wrong | refused | passed without the CPU | of those that must |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (backend, _) in &backends {
        for mode in ["const", "dyn"] {
            for tier in ["A", "B", "old"] {
                let Some(c) = counts.get(&(tier, *backend, mode)) else { continue };
                let alone = match *backend {
                    "gpu" => format!("{} | {} of {}", c.alone, c.marked_alone, c.marked),
                    _ => "- | -".into(),
                };
                let Count { total, passed, wrong, refused, .. } = c;
                table +=
                    &format!("| {backend} | {mode} | {tier} | {total} | {passed} | {wrong} | {refused} | {alone} |\n");
            }
        }
    }
    println!("{table}");
    if let Some(path) = std::env::var_os("EYAS_ONNX_REPORT") {
        std::fs::write(path, report).expect("writable");
    }
    assert!(missing == 0, "{missing} cases are not in EYAS_ONNX_CASES");
    if !only.is_empty() || gpu_precision() == Some(Precision::F16) {
        println!("compared with no list");
    } else if std::env::var_os("EYAS_ONNX_WRITE").is_some() {
        assert!(backends.len() == 2, "the lists hold both backends: set EYAS_ONNX_GPU=1");
        write(&passing, &table);
    } else {
        compare(&passing, &backends.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }
    assert!(wrong.is_empty(), "wrong answers:\n{}", wrong.join("\n"));
}

fn compare(passing: &BTreeSet<String>, backends: &[&str]) {
    let text = std::fs::read_to_string(EXPECTED).unwrap_or_default();
    let ran = |line: &&str| backends.iter().any(|b| line.starts_with(&format!("{b} ")));
    let expected: BTreeSet<String> = text.lines().filter(ran).map(str::to_string).collect();
    // One that now passes without the CPU is new, and not lost.
    let lost: Vec<&String> =
        expected.difference(passing).filter(|l| !passing.contains(&format!("{l} alone"))).collect();
    let new: Vec<&String> = passing.difference(&expected).collect();
    assert!(lost.is_empty(), "{} cases passed before and do not now: {lost:#?}", lost.len());
    assert!(new.is_empty(), "{} cases pass that are not listed; run with EYAS_ONNX_WRITE=1: {new:#?}", new.len());
}

fn write(passing: &BTreeSet<String>, table: &str) {
    let lines: Vec<&str> = passing.iter().map(String::as_str).collect();
    std::fs::write(EXPECTED, lines.join("\n") + "\n").expect("writable");
    let report = std::fs::read_to_string(REPORT).expect("docs/conformance.md");
    let begin = report.find("| backend |").expect("the table is there");
    let end = begin + report[begin..].find("\n\n").map_or(report.len() - begin, |at| at + 1);
    std::fs::write(REPORT, format!("{}{table}{}", &report[..begin], &report[end..])).expect("writable");
}
