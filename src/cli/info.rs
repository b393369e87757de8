//! `eyas info`: what a model file holds, and what the passes made of it.

use std::collections::{BTreeMap, BTreeSet};

use eyas::Plan;
use eyas::cpu::{CpuSession, Isa};
use eyas::infer::graph::{Declared, Graph, ValueId};
use eyas::infer::plan::lower::Target;
use eyas::infer::plan::memory::plan_arena;
use eyas::infer::plan::passes::PassReport;
use eyas::infer::plan::step::BufferKind;
use serde_json::json;

use super::CliError;
use super::detect::HeadArgs;
use super::options::{BackendArg, Common};
use super::report::{print_line, print_table, si};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    head: HeadArgs,
    /// Print what every pass did, and why it did not, and the kernel of every step
    #[arg(long)]
    explain: bool,
    /// One JSON object on one line
    #[arg(long)]
    json: bool,
}

/// Elements in the GPU's memory; half as many with the precision f16.
const F32_BYTES: usize = 4;

fn op_counts(graph: &Graph) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for node in &graph.nodes {
        *counts.entry(node.op.name()).or_insert(0) += 1;
    }
    counts
}

fn kernel_counts(plan: &Plan) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for step in &plan.steps {
        *counts.entry(step.kernel.stem()).or_insert(0) += 1;
    }
    counts
}

fn list(counts: &BTreeMap<&'static str, usize>) -> String {
    counts.iter().map(|(op, n)| format!("{n} {op}")).collect::<Vec<_>>().join(", ")
}

fn parameters(graph: &Graph) -> u64 {
    let read: BTreeSet<ValueId> = graph.nodes.iter().flat_map(|n| n.inputs.iter().flatten().copied()).collect();
    read.iter().filter_map(|&id| graph.fact(id).constant.as_ref()).map(|t| t.len() as u64).sum()
}

pub fn run(args: &Args) -> Result<(), CliError> {
    let common = &args.common;
    let model = common.load_model()?;
    let file_ops = op_counts(&model.imported);
    let target = if common.backend == BackendArg::Gpu { Target::GPU } else { Target::CPU };
    let (plan, notes) = model.plan(target)?;
    let (graph, passes) = model.optimised(target);
    let head = model.decoder(&args.head.options()?);
    let activation_bytes: usize =
        plan.buffers.iter().filter(|b| !matches!(b.kind, BufferKind::Constant(_))).map(|b| b.len_words() * 4).sum();
    let arena_bytes = plan_arena(&plan).len_words * 4;
    let name = |id: ValueId| graph.value(id).name.as_str();
    let inputs: Vec<(&str, Declared)> = graph.inputs.iter().map(|&id| (name(id), graph.fact(id).into())).collect();
    let declared = |(i, &id)| (name(id), graph.output_declared(i).unwrap_or_else(|| graph.fact(id).into()));
    let outputs: Vec<(&str, Declared)> = graph.outputs.iter().enumerate().map(declared).collect();
    let kernels = kernel_counts(&plan);
    if args.json {
        let as_json = |ports: &[(&str, Declared)]| -> Vec<serde_json::Value> {
            let one =
                |(name, d): &(&str, Declared)| json!({"name": name, "dtype": d.dtype.to_string(), "shape": d.dims});
            ports.iter().map(one).collect()
        };
        let value = json!({
            "model": graph.name,
            "format": format!("{:?}", graph.format).to_lowercase(),
            "inputs": as_json(&inputs),
            "outputs": as_json(&outputs),
            "ops": file_ops,
            "kernels": kernels,
            "steps": plan.steps.len(),
            "parameters": parameters(graph),
            "macs": graph.macs(),
            "activation_bytes": activation_bytes,
            "arena_bytes": arena_bytes,
            "hops": plan.hops.iter().map(|hop| json!({
                "nodes": hop.nodes(&plan).map(|(op, node)| json!({"op": op, "node": node})).collect::<Vec<_>>(),
                "down_bytes": hop.down_elements * F32_BYTES,
                "up_bytes": hop.up_elements * F32_BYTES,
            })).collect::<Vec<_>>(),
            "head": head.as_ref().ok().map(|h| h.name.to_string()),
        });
        return print_line(&value.to_string());
    }
    print_line(&format!("{} ({:?})", graph.name, graph.format))?;
    for (kind, ports) in [("input", &inputs), ("output", &outputs)] {
        for (name, declared) in ports {
            print_line(&format!("  {kind:<7} {name} {declared}"))?;
        }
    }
    match &head {
        Ok(h) => print_line(&format!(
            "  head    {}: {} classes, {} anchors; score {}, IoU {}; input {:?} {:?}, mean {:?}, std {:?}",
            h.name,
            h.head().classes(),
            h.head().anchors(),
            h.score_threshold,
            h.iou_threshold,
            h.preprocess.fit,
            h.preprocess.order,
            h.preprocess.mean,
            h.preprocess.std
        ))?,
        Err(why) => print_line(&format!("  head    none: {why}"))?,
    }
    print_line(&format!(
        "  {} parameters, {} MACs, {:.1} MiB of activations ({:.1} MiB with constants after sharing memory)",
        si(parameters(graph) as f64),
        si(graph.macs() as f64),
        activation_bytes as f64 / 1_048_576.0,
        arena_bytes as f64 / 1_048_576.0,
    ))?;
    print_line(&format!("  read    {}", list(&file_ops)))?;
    print_line(&format!("  passes  {}", list(&op_counts(graph))))?;
    print_line(&format!("  steps   {}: {}", plan.steps.len(), list(&kernels)))?;
    if let Some(short) = plan.hops_in_short(F32_BYTES) {
        print_line(&format!("  hops    {short}"))?;
    }
    if args.explain {
        explain(passes, &plan, &notes, (target == Target::CPU).then_some(common))?;
    }
    Ok(())
}

/// Names of the kernels that run the steps on the CPU; prints what `--tune` measured.
fn cpu_kernels(plan: &Plan, common: &Common) -> Result<Vec<String>, CliError> {
    let (isa, threads) = (Isa::detect(), common.session_options().threads_or_cores());
    let session = if common.tune {
        let (session, measured) = CpuSession::tuned(plan.clone(), isa, threads).map_err(eyas::Error::from)?;
        print_line(&format!("\nmeasure kernels: {} anew", measured.len()))?;
        for note in &measured {
            print_line(&format!("    {note}"))?;
        }
        session
    } else {
        CpuSession::new(plan.clone(), isa, threads).map_err(eyas::Error::from)?
    };
    Ok((0..plan.steps.len()).map(|step| session.step_label(step)).collect())
}

fn explain(passes: &[PassReport], plan: &Plan, notes: &[String], on_cpu: Option<&Common>) -> Result<(), CliError> {
    for pass in passes {
        print_line(&format!("\n{}: {} time(s)", pass.pass, pass.applied))?;
        for note in &pass.notes {
            print_line(&format!("    {note}"))?;
        }
    }
    print_line(&format!("\nlay values out in memory: {} note(s)", notes.len()))?;
    for note in notes {
        print_line(&format!("    {note}"))?;
    }
    if !plan.hops.is_empty() {
        print_line(&format!("\nhops to the CPU, with f32 on the GPU: {}", plan.hops.len()))?;
        for hop in &plan.hops {
            print_line(&format!("    before step {}: {}", hop.steps.end, hop.describe(plan, F32_BYTES)))?;
        }
    }
    let kernels = match on_cpu {
        Some(common) => cpu_kernels(plan, common)?,
        None => plan.steps.iter().map(|s| s.kernel.label()).collect(),
    };
    print_line("")?;
    let place = |v: &eyas::infer::plan::View| format!("b{}+{} {:?}", v.buffer.0, v.offset, v.shape);
    let places = |views: &[eyas::infer::plan::View]| views.iter().map(place).collect::<Vec<_>>().join(" | ");
    let rows: Vec<Vec<String>> = plan
        .steps
        .iter()
        .zip(kernels)
        .enumerate()
        .map(|(i, (s, kernel))| vec![i.to_string(), kernel, places(&s.reads), places(&s.writes), s.node.clone()])
        .collect();
    print_table(&["step", "kernel", "reads", "writes", "node"], &rows)
}
