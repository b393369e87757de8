//! `eyas check`: where a network's results part from plain arithmetic, node by node.

use std::fmt::Write as _;
use std::path::PathBuf;

use eyas::check::{Backend, Check, Compared, Difference, Finding, MOVED_FACTOR, Odd, Report, random_inputs};
use eyas::infer::graph::Graph;
use eyas::infer::import::import_file;
use eyas::infer::tensor::TensorElements;
use eyas::{DecodeOptions, Model, Session, SessionOptions, Tensor};
use serde_json::{Value, json};

use super::options::{BackendArg, Common};
use super::report::{print_line, progress_bar};
use super::run::parse_tensor;
use super::{CliError, npy};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model; as --model
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    file: Option<PathBuf>,
    /// --backend auto checks the CPU and any GPU adapter that there is, a software one too
    #[command(flatten)]
    pub common: Common,
    /// An input tensor, once per input, in the file's axis order; inputs without one are random
    #[arg(long = "input", value_name = "NAME=X.npy", value_parser = parse_tensor)]
    inputs: Vec<(String, PathBuf)>,
    /// What a value of the file should be for these inputs, by its name: an output or anything in between
    #[arg(long = "expect", value_name = "NAME=X.npy", value_parser = parse_tensor, requires = "inputs")]
    expected: Vec<(String, PathBuf)>,
    /// Another number gives other random inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write everything that was found, without weights, to attach to a bug report: Markdown, or JSON if FILE ends
    /// in .json
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// One JSON object on one line
    #[arg(long)]
    json: bool,
}

/// Divergences that are printed; the report has all.
const PRINTED_MAX: usize = 10;

/// What the page and the JSON say of the network and the run.
struct Facts {
    model: String,
    graph: Graph,
    nodes_left: usize,
    parameters: usize,
    /// Name, type, shape, and where the values are from.
    inputs: Vec<(String, String, Vec<usize>, String)>,
    notes: Vec<String>,
}

pub fn run(args: &Args) -> Result<(), CliError> {
    let mut common = args.common.clone();
    common.model = args.file.clone().or(common.model);
    let mut options = common.import_options();
    let mut inputs: Vec<(String, Tensor)> = Vec::new();
    for (name, file) in &args.inputs {
        let tensor = npy::read(file)?;
        if common.size.is_none() {
            options.shapes.insert(name.clone(), tensor.shape().to_vec());
        }
        inputs.push((name.clone(), tensor));
    }
    let model = common.load_model_with(&options)?;
    let plain = match &common.model {
        Some(path) => import_file(path, common.weights.as_deref(), &options).map_err(eyas::Error::from)?,
        None => common.embedded().import(&options)?,
    };
    let known = |id: &eyas::infer::graph::ValueId, name: &str| plain.value(*id).name == name;
    if let Some((name, _)) = inputs.iter().find(|(name, _)| !plain.inputs.iter().any(|id| known(id, name))) {
        let names: Vec<&str> = plain.inputs.iter().map(|id| plain.value(*id).name.as_str()).collect();
        return Err(CliError::Usage(format!("--input {name}: the network's inputs are {}", names.join(", "))));
    }
    let mut expected = Vec::new();
    for (name, file) in &args.expected {
        if !plain.values.iter().any(|value| value.name == *name) {
            let names: Vec<&str> = plain.outputs.iter().map(|id| plain.value(*id).name.as_str()).collect();
            return Err(CliError::Usage(format!(
                "--expect {name}: the file has no value of that name; its outputs are {}",
                names.join(", ")
            )));
        }
        expected.push((name.clone(), npy::read(file)?));
    }
    let head = model.decoder(&DecodeOptions::default()).ok();
    let random = random_inputs(&plain, head.as_ref().map(|h| &h.preprocess), &inputs, args.seed)?;
    let mut facts = facts(&model, &plain, &common, args, &inputs, &random);
    inputs.extend(random);
    let backends = backends(&common, &model, &mut facts.notes)?;
    let bar = progress_bar(0);
    let report = Check::new(plain, model.graph).run(&inputs, &backends, &expected, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let report = report?;
    if let Some(file) = &args.output {
        let is_json = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        let text = if is_json { format!("{:#}\n", as_json(&facts, &report)) } else { page(&facts, &report) };
        std::fs::write(file, text).map_err(|e| CliError::Runtime(format!("cannot write {}: {e}", file.display())))?;
    }
    if args.json {
        print_line(&as_json(&facts, &report).to_string())?;
    } else {
        print_line(summary(&facts, &report, PRINTED_MAX).trim_end())?;
    }
    if report.agrees() { Ok(()) } else { Err(CliError::Parted(verdict(&report))) }
}

/// CPU, GPU, or both: whatever `--backend` asks for and is there.
fn backends(common: &Common, model: &Model, notes: &mut Vec<String>) -> Result<Vec<SessionOptions>, CliError> {
    let options = common.session_options();
    let on = |backend| SessionOptions { backend, ..options.clone() };
    let (cpu, gpu) = (on(eyas::Backend::Cpu), on(eyas::Backend::Gpu));
    Ok(match common.backend {
        BackendArg::Cpu => vec![cpu],
        BackendArg::Gpu => vec![gpu],
        BackendArg::Auto => match Session::new(model, &gpu) {
            Ok(_) => vec![SessionOptions { precision: None, ..cpu }, gpu],
            Err(why) => {
                notes.push(format!("the GPU was not checked: {why}"));
                vec![cpu]
            }
        },
    })
}

fn facts(
    model: &Model,
    plain: &Graph,
    common: &Common,
    args: &Args,
    given: &[(String, Tensor)],
    random: &[(String, Tensor)],
) -> Facts {
    let file_of = |name: &str| args.inputs.iter().find(|(n, _)| n == name).map(|(_, file)| file.display().to_string());
    let all = given.iter().chain(random);
    let source = |name: &str| file_of(name).unwrap_or_else(|| format!("random, seed {}", args.seed));
    let constants = plain.values.iter().filter_map(|value| value.fact.constant.as_ref());
    Facts {
        // Without its folder, which is nobody's business in a bug report.
        model: match &common.model {
            Some(path) => path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            None => common.model_name(),
        },
        graph: Graph { values: Vec::new(), nodes: plain.nodes.clone(), ..plain.clone() },
        nodes_left: model.graph.nodes.len(),
        parameters: constants.filter(|t| matches!(t.elements(), TensorElements::F32(_))).map(Tensor::len).sum(),
        inputs: all.map(|(n, t)| (n.clone(), t.dtype().to_string(), t.shape().to_vec(), source(n))).collect(),
        notes: Vec::new(),
    }
}

/// "3.4e-2 of its largest value", or why there is no number.
fn how_far(difference: &Difference) -> String {
    match &difference.mismatch {
        Some(why) => why.clone(),
        None if difference.absolute.is_infinite() => "no number (NaN or infinity on one side only)".into(),
        None => format!("{:.1e} of the largest value", difference.relative()),
    }
}

fn where_worst(difference: &Difference) -> String {
    difference
        .worst
        .as_ref()
        .map_or_else(String::new, |p| format!("element {:?} is {:e}, plain {:e}", p.index, p.got, p.wanted))
}

fn odd(counts: Odd) -> String {
    format!("{} NaN, {} infinite", counts.nan, counts.infinite)
}

fn moved(moved: Option<f64>) -> String {
    moved.map_or_else(String::new, |m| {
        format!("; the network itself moves {m:.1e}, up to {MOVED_FACTOR} times that passes")
    })
}

fn place(backend: &Backend) -> String {
    match backend.threads {
        0 => format!("{} {:?}: {}", backend.name, backend.precision, backend.adapter),
        n => format!("{}: {}, {n} thread(s)", backend.name, backend.adapter),
    }
}

fn covers(finding: &Finding) -> String {
    let nodes: Vec<String> = finding.covers.iter().map(|(op, node)| format!("{op} '{node}'")).collect();
    nodes.join(", ")
}

/// One line for each backend: where it first parts, or that it does not.
fn verdict(report: &Report) -> String {
    let mut lines = Vec::new();
    for backend in &report.backends {
        let name = backend.name;
        if let Some(first) = backend.first_divergence() {
            lines.push(format!("the {name} parts first at {} '{}'", first.op, first.node));
        } else if let Some(output) = backend.outputs.iter().find(|o| !o.agrees()) {
            lines.push(format!("on the {name} every node agrees, but not the output '{}'", output.name));
        } else if let Some(one) = backend.expected.iter().find(|o| !o.agrees()) {
            lines.push(format!(
                "the {name} agrees with plain arithmetic, but not with the tensor given for '{}'",
                one.name
            ));
        } else {
            lines.push(format!("the {name} agrees"));
        }
    }
    if let Some(one) = report.expected.iter().find(|o| !o.agrees()) {
        lines.push(format!("plain arithmetic differs from the tensor given for '{}'", one.name));
    }
    lines.join("; ")
}

/// What is printed: divergences first.
fn summary(facts: &Facts, report: &Report, at_most: usize) -> String {
    let mut text = String::new();
    for backend in &report.backends {
        let Some(first) = backend.first_divergence() else { continue };
        let _ = writeln!(
            text,
            "FIRST DIVERGENCE on the {}: {} '{}', value '{}': {}, allowed {:.0e}{}",
            backend.name,
            first.op,
            first.node,
            first.value,
            how_far(&first.own),
            first.allowed,
            moved(first.moved)
        );
        let _ = writeln!(text, "    {}", where_worst(&first.own));
        let _ = writeln!(text, "    stands for {}; runs as {}\n", covers(first), first.kernels);
    }
    let _ = writeln!(
        text,
        "{}: {} nodes in the file, {} after the passes; {} value(s) of the file exist no more",
        facts.model,
        facts.graph.nodes.len(),
        facts.nodes_left,
        report.gone.len()
    );
    for (name, dtype, shape, from) in &facts.inputs {
        let _ = writeln!(text, "  input {name} {dtype} {shape:?}: {from}");
    }
    for note in &facts.notes {
        let _ = writeln!(text, "  {note}");
    }
    for backend in &report.backends {
        let _ = writeln!(text, "{}", place(backend));
        let bad: Vec<&Finding> = backend.findings.iter().filter(|f| !f.agrees()).collect();
        let all = backend.findings.len();
        let worst = backend
            .findings
            .iter()
            .max_by(|a, b| (a.own.relative() / a.allowed).total_cmp(&(b.own.relative() / b.allowed)));
        if let Some(worst) = worst {
            let _ = writeln!(
                text,
                "  {} of {all} values agree; the worst is {} '{}': {}, allowed {:.0e}{}",
                all - bad.len(),
                worst.op,
                worst.node,
                how_far(&worst.own),
                worst.allowed,
                moved(worst.moved)
            );
        }
        for finding in bad.iter().take(at_most) {
            let _ = writeln!(text, "  parts: {} '{}': {}", finding.op, finding.node, how_far(&finding.own));
        }
        if bad.len() > at_most {
            let _ = writeln!(text, "  and {} more; -o FILE writes all", bad.len() - at_most);
        }
        if let Some(first) = backend.first_odd() {
            let [ours, plain] = first.own.odd;
            let _ = writeln!(
                text,
                "  first value that is no number: '{}' of {} '{}': {}; plain: {}",
                first.value,
                first.op,
                first.node,
                odd(ours),
                odd(plain)
            );
        }
        compared(&mut text, "output", &backend.outputs);
        compared(&mut text, "expected", &backend.expected);
    }
    if !report.expected.is_empty() {
        let _ = writeln!(text, "plain arithmetic");
        compared(&mut text, "expected", &report.expected);
    }
    let _ = writeln!(text, "verdict: {}", verdict(report));
    text
}

fn compared(text: &mut String, kind: &str, all: &[Compared]) {
    for one in all {
        let word = if one.agrees() { "agrees" } else { "PARTS" };
        let _ = writeln!(
            text,
            "  {kind} {}: {word}, {}, allowed {:.0e}{}",
            one.name,
            how_far(&one.difference),
            one.allowed,
            moved(one.moved)
        );
    }
}

/// The report as Markdown. Names of the file may hold anything; `|` would end a cell.
fn page(facts: &Facts, report: &Report) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace(['\n', '\r'], " ");
    let mut text = format!(
        "# eyas check: {}\n\n```text\n{}```\n\n- eyas {} on {} {}\n- {:?}, {} parameters\n",
        facts.model,
        summary(facts, report, usize::MAX),
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        facts.graph.format,
        facts.parameters,
    );
    text.push_str(
        "\n*own*: the largest difference of a value from plain arithmetic on the inputs that the backend had, over its \
         largest value. *moved*: what plain arithmetic changes by when these inputs move by a few roundings. *drift*: the \
         difference from the plain path as a whole; it grows along the network.\n",
    );
    for backend in &report.backends {
        let _ = writeln!(text, "\n## {}\n", place(backend));
        text.push_str("| | value | node | stands for | kernels | shape | own | allowed | moved | drift | NaN, inf |\n");
        text.push_str("|---|---|---|---|---|---|---|---|---|---|---|\n");
        for f in &backend.findings {
            let [ours, _] = f.own.odd;
            let _ = writeln!(
                text,
                "| {} | {} | {} {} | {} | {} | {:?} | {:.1e} | {:.0e} | {} | {:.1e} | {} |",
                if f.agrees() { "" } else { "**parts**" },
                cell(&f.value),
                f.op,
                cell(&f.node),
                cell(&covers(f)),
                cell(&f.kernels),
                f.shape,
                f.own.relative(),
                f.allowed,
                f.moved.map_or_else(String::new, |m| format!("{m:.1e}")),
                f.drift.relative(),
                if ours.any() { odd(ours) } else { String::new() },
            );
        }
    }
    text.push_str(
        "\n## Values of the file that exist no more\n\n| value | computed by | now part of |\n|---|---|---|\n",
    );
    for gone in &report.gone {
        let into = gone.into.as_deref().unwrap_or("computed at load, or read by nobody");
        let _ = writeln!(text, "| {} | {} {} | {} |", cell(&gone.value), gone.op, cell(&gone.node), cell(into));
    }
    text
}

/// A number for JSON, which has no infinity.
fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}

fn finding_json(f: &Finding) -> Value {
    json!({
        "value": f.value, "node": f.node, "op": f.op, "kernels": f.kernels, "shape": f.shape, "agrees": f.agrees(),
        "stands_for": f.covers.iter().map(|(op, node)| json!({"op": op, "node": node})).collect::<Vec<_>>(),
        "own": number(f.own.relative()), "allowed": f.allowed, "moved": f.moved.map(number),
        "drift": number(f.drift.relative()), "mismatch": f.own.mismatch,
        "nan": f.own.odd[0].nan, "infinite": f.own.odd[0].infinite,
        "worst": f.own.worst.as_ref().map(|p| json!({"index": p.index, "got": number(p.got), "plain": number(p.wanted)})),
    })
}

fn compared_json(all: &[Compared]) -> Vec<Value> {
    all.iter()
        .map(|one| {
            json!({
                "value": one.name, "agrees": one.agrees(), "difference": number(one.difference.relative()),
                "allowed": one.allowed, "moved": one.moved.map(number), "mismatch": one.difference.mismatch,
            })
        })
        .collect()
}

/// The stable form: keys are added, never changed.
fn as_json(facts: &Facts, report: &Report) -> Value {
    json!({
        "model": facts.model,
        "version": env!("CARGO_PKG_VERSION"),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "format": format!("{:?}", facts.graph.format).to_lowercase(),
        "nodes": facts.graph.nodes.len(),
        "nodes_after_passes": facts.nodes_left,
        "parameters": facts.parameters,
        "inputs": facts.inputs.iter().map(|(name, dtype, shape, from)| {
            json!({"name": name, "dtype": dtype, "shape": shape, "from": from})
        }).collect::<Vec<_>>(),
        "notes": facts.notes,
        "agrees": report.agrees(),
        "verdict": verdict(report),
        "backends": report.backends.iter().map(|b| json!({
            "backend": b.name, "adapter": b.adapter, "threads": b.threads,
            "precision": format!("{:?}", b.precision).to_lowercase(), "agrees": b.agrees(),
            "first_divergence": b.first_divergence().map(finding_json),
            "values": b.findings.iter().map(finding_json).collect::<Vec<_>>(),
            "outputs": compared_json(&b.outputs), "expected": compared_json(&b.expected),
        })).collect::<Vec<_>>(),
        "expected_plain": compared_json(&report.expected),
        "gone": report.gone.iter().map(|g| {
            json!({"value": g.value, "op": g.op, "node": g.node, "into": g.into})
        }).collect::<Vec<_>>(),
    })
}
