//! `eyas bench`: times a network, GPU beside CPU.

use std::time::Instant;

use eyas::{Backend, Model, Session, SessionOptions, Tensor};
use serde_json::json;

use super::CliError;
use super::options::{BackendArg, Common};
use super::report::{milliseconds, peak_rss_bytes, print_line, print_table};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Timed inferences [default: as many as fit in two seconds, 10 to 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    runs: Option<u32>,
    /// Print milliseconds, GFLOP/s and the answer of Amdahl's law for each kernel
    #[arg(long)]
    profile: bool,
    /// One JSON object per backend on one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    worker: super::worker::WorkerArgs,
}

/// One backend's figures.
struct Timing {
    backend: &'static str,
    adapter: String,
    threads: usize,
    load_ms: f64,
    first_ms: f64,
    /// Sorted.
    times_ms: Vec<f64>,
    macs: u64,
}

impl Timing {
    fn quantile_ms(&self, q: f64) -> f64 {
        let last = self.times_ms.len() - 1;
        self.times_ms[((last as f64 * q).round() as usize).min(last)]
    }

    fn gflops(&self) -> f64 {
        2.0 * self.macs as f64 / (self.times_ms[0] * 1e6)
    }
}

/// Numbers in [0, 1) that are the same in every run (splitmix64), so that timings can be compared.
fn test_input(shape: &[usize]) -> Result<Tensor, CliError> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let values = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
        })
        .collect();
    Tensor::from_f32(shape, values).map_err(CliError::Runtime)
}

fn time(args: &Args, options: &SessionOptions) -> Result<(Timing, Session), CliError> {
    let start = Instant::now();
    let model: Model = args.common.load_model()?;
    let macs = model.graph.macs();
    let mut session = Session::of(model, options)?;
    let load_ms = milliseconds(start);
    let inputs: Vec<(String, Vec<usize>)> =
        session.plan().inputs.iter().map(|(name, view)| (name.clone(), view.shape.clone())).collect();
    for (name, shape) in &inputs {
        session.set_input(name, &test_input(shape)?)?;
    }
    let start = Instant::now();
    session.infer()?;
    let first_ms = milliseconds(start);
    // Warm caches and clocks; and learn how many runs fit in two seconds.
    let start = Instant::now();
    session.infer()?;
    let guess_ms = milliseconds(start).max(1e-3);
    let runs = args.runs.unwrap_or(((2000.0 / guess_ms) as u32).clamp(10, 1000));
    let mut times_ms = Vec::with_capacity(runs as usize);
    for _ in 0..runs {
        let start = Instant::now();
        session.infer()?;
        times_ms.push(milliseconds(start));
    }
    times_ms.sort_by(f64::total_cmp);
    let timing = Timing {
        backend: session.backend(),
        adapter: session.adapter().to_string(),
        threads: session.threads(),
        load_ms,
        first_ms,
        times_ms,
        macs,
    };
    Ok((timing, session))
}

pub fn run(args: &Args) -> Result<(), CliError> {
    if args.worker.worker {
        return super::worker::run(&args.common, &args.worker);
    }
    let name = args.common.model_name();
    let options = args.common.session_options();
    let wanted: &[Backend] = match args.common.backend {
        BackendArg::Cpu => &[Backend::Cpu],
        BackendArg::Gpu => &[Backend::Gpu],
        // A real GPU beside the CPU; where there is none, `Auto` says so and the CPU stands alone.
        BackendArg::Auto => &[Backend::Auto, Backend::Cpu],
    };
    let mut rows = Vec::new();
    let mut seen = Vec::new();
    for &backend in wanted {
        if backend == Backend::Cpu && seen.contains(&"cpu") {
            continue;
        }
        let (timing, mut session) = time(args, &SessionOptions { backend, ..options.clone() })?;
        seen.push(timing.backend);
        if args.json {
            let value = json!({
                "model": name,
                "backend": timing.backend,
                "adapter": timing.adapter,
                "threads": timing.threads,
                "load_ms": timing.load_ms,
                "first_ms": timing.first_ms,
                "min_ms": timing.times_ms[0],
                "median_ms": timing.quantile_ms(0.5),
                "p95_ms": timing.quantile_ms(0.95),
                "runs": timing.times_ms.len(),
                "peak_rss_bytes": peak_rss_bytes(),
                "macs": timing.macs,
                "gflops": timing.gflops(),
            });
            print_line(&value.to_string())?;
        } else {
            rows.push(vec![
                timing.backend.to_string(),
                if timing.threads == 0 { String::new() } else { timing.threads.to_string() },
                format!("{:.1}", timing.load_ms),
                format!("{:.2}", timing.first_ms),
                format!("{:.3}", timing.times_ms[0]),
                format!("{:.3}", timing.quantile_ms(0.5)),
                format!("{:.3}", timing.quantile_ms(0.95)),
                timing.times_ms.len().to_string(),
                format!("{:.1}", timing.gflops()),
                peak_rss_bytes().map_or(String::new(), |b| format!("{:.1}", b as f64 / 1_048_576.0)),
                timing.adapter.clone(),
            ]);
        }
        if args.profile {
            profile(&mut session, timing.macs)?;
        }
    }
    if !args.json {
        let headings = [
            "backend",
            "threads",
            "load ms",
            "first ms",
            "min ms",
            "median ms",
            "p95 ms",
            "runs",
            "GFLOP/s",
            "peak MiB",
            "device",
        ];
        print_table(&headings, &rows)?;
    }
    Ok(())
}

/// Per step the median of several runs, then one row per step, slowest first. The last columns are Amdahl's law: what
/// the whole would gain if this step were twice as fast, or free.
fn profile(session: &mut Session, macs: u64) -> Result<(), CliError> {
    const RUNS: usize = 9;
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); session.plan().steps.len()];
    let mut labels = Vec::new();
    for _ in 0..RUNS {
        let run = session.profile()?;
        labels = run.iter().map(|(label, _)| label.clone()).collect();
        for (sample, (_, ms)) in samples.iter_mut().zip(&run) {
            sample.push(*ms);
        }
    }
    let medians: Vec<f64> = samples
        .iter_mut()
        .map(|s| {
            s.sort_by(f64::total_cmp);
            s.get(s.len() / 2).copied().unwrap_or(0.0)
        })
        .collect();
    let total_ms: f64 = medians.iter().sum();
    let mut order: Vec<usize> = (0..medians.len()).collect();
    order.sort_by(|&a, &b| medians[b].total_cmp(&medians[a]));
    let plan = session.plan();
    let rows: Vec<Vec<String>> = order
        .into_iter()
        .map(|i| {
            let (step, ms) = (&plan.steps[i], medians[i]);
            let faster = |rest_ms: f64| format!("{:.2}x", total_ms / (total_ms - ms + rest_ms));
            vec![
                format!("{ms:.4}"),
                format!("{:.1}", 100.0 * ms / total_ms),
                if step.macs == 0 { String::new() } else { format!("{:.1}", 2.0 * step.macs as f64 / (ms * 1e6)) },
                faster(ms / 2.0),
                faster(0.0),
                labels.get(i).cloned().unwrap_or_default(),
                step.writes.first().map_or(String::new(), |v| format!("{:?}", v.shape)),
                step.node.clone(),
            ]
        })
        .collect();
    print_table(&["ms", "%", "GFLOP/s", "if 2x", "if free", "kernel", "output", "node"], &rows)?;
    print_line(&format!("{total_ms:.3} ms in all, {:.1} GFLOP/s\n", 2.0 * macs as f64 / (total_ms * 1e6)))
}
