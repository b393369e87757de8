//! `eyas doctor`: what this machine offers, and what eyas would choose.

use eyas::cpu::{Isa, byte_products, peak, processor_name};
use eyas::{Backend, Model, Session, SessionOptions};
use serde_json::json;

use super::CliError;
use super::options::Common;
use super::report::print_line;
#[cfg(feature = "gpu")]
use super::report::print_table;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Do not run each GPU kernel against its CPU twin
    #[arg(long)]
    no_probe: bool,
    /// One JSON object on one line
    #[arg(long)]
    json: bool,
}

/// Bytes of physical memory, where the system tells.
fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 = text.lines().find(|l| l.starts_with("MemTotal:"))?.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

pub fn run(args: &Args) -> Result<(), CliError> {
    let isa = Isa::detect();
    let threads = args.common.session_options().threads_or_cores();
    let gflops = [1, threads].map(|n| peak::multiply_add_gflops(isa, n));
    let gb_per_s = [1, threads].map(peak::read_gb_per_s);
    let available: Vec<&str> = Isa::available().iter().map(|isa| isa.name()).collect();
    // What the roofline promises at best: all arithmetic at peak, every weight and activation moved once.
    let has_model = args.common.model.is_some() || eyas::embedded::IS_EMBEDDED;
    let model = has_model.then(|| args.common.load_model()).transpose()?;
    let floor = match &model {
        None => None,
        Some(model) => {
            let (plan, _) = model.plan(eyas::infer::plan::lower::Target::CPU)?;
            let compute_ms = 2.0 * model.graph.macs() as f64 / (gflops[1] * 1e6);
            let elements: usize =
                plan.steps.iter().flat_map(|s| s.reads.iter().chain(&s.writes)).map(eyas::infer::plan::View::len).sum();
            let memory_ms = elements as f64 * 4.0 / (gb_per_s[1] * 1e6);
            Some((compute_ms, memory_ms))
        }
    };
    #[cfg(feature = "gpu")]
    let adapters = eyas::gpu::Gpu::adapters(&eyas::gpu::GpuOptions::default());
    let choice = choice(args, model.as_ref())?;
    if args.json {
        #[allow(unused_mut, reason = "mutated only with the feature gpu")]
        let mut value = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
            "processor": processor_name(isa),
            "instructions": available,
            "byte_products": byte_products(isa),
            "threads": threads,
            "memory_bytes": memory_bytes(),
            "gflops_1_thread": gflops[0],
            "gflops": gflops[1],
            "read_gb_per_s_1_thread": gb_per_s[0],
            "read_gb_per_s": gb_per_s[1],
            "choice": choice,
            "floor_ms": floor.map(|(c, m)| json!({"compute": c, "memory": m})),
        });
        #[cfg(feature = "gpu")]
        {
            value["adapters"] = adapters
                .iter()
                .map(|a| {
                    json!({"name": a.name, "backend": a.backend, "driver": a.driver, "driver_info": a.driver_info,
                           "software": a.is_software, "f16": a.f16, "timestamps": a.timestamps})
                })
                .collect();
        }
        return print_line(&value.to_string());
    }
    print_line(&format!("eyas {} on {} {}", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH))?;
    print_line(&format!("  processor     {}", processor_name(isa)))?;
    print_line(&format!("  instructions  {}", available.join(", ")))?;
    print_line(&format!("  bytes         multiplied by {}", byte_products(isa)))?;
    print_line(&format!("  threads       {threads}"))?;
    if let Some(bytes) = memory_bytes() {
        print_line(&format!("  memory        {:.1} GiB", bytes as f64 / f64::from(1 << 30)))?;
    }
    print_line(&format!(
        "  multiply-add  {:.1} GFLOP/s on 1 thread, {:.1} on {threads}; memory reads {:.1} GB/s, {:.1}",
        gflops[0], gflops[1], gb_per_s[0], gb_per_s[1]
    ))?;
    if let Some((compute_ms, memory_ms)) = floor {
        print_line(&format!(
            "  floor         {:.2} ms for this model on the CPU ({compute_ms:.2} ms of arithmetic, {memory_ms:.2} ms of memory)",
            compute_ms.max(memory_ms)
        ))?;
    }
    #[cfg(feature = "gpu")]
    print_adapters(args, &adapters)?;
    #[cfg(not(feature = "gpu"))]
    print_line("\nThis eyas was built without the feature 'gpu'.")?;
    print_line(&format!("\n--backend auto: {choice}"))
}

#[cfg(feature = "gpu")]
fn print_adapters(args: &Args, adapters: &[eyas::gpu::AdapterReport]) -> Result<(), CliError> {
    if adapters.is_empty() {
        return print_line("\nNo GPU adapters (install a Vulkan or GLES driver to get some).");
    }
    print_line("")?;
    let yes = |b: bool| if b { "yes".to_string() } else { "no".to_string() };
    let rows: Vec<Vec<String>> = adapters
        .iter()
        .map(|a| {
            vec![
                a.name.clone(),
                a.backend.to_string(),
                format!("{} {}", a.driver, a.driver_info).trim().to_string(),
                yes(a.is_software),
                yes(a.f16),
                yes(a.timestamps),
                format!("{} KiB", a.max_workgroup_memory_bytes / 1024),
                a.max_workgroup_threads.to_string(),
                a.max_storage_buffers.to_string(),
                format!("{} MiB", a.max_storage_binding_bytes >> 20),
            ]
        })
        .collect();
    let headings =
        ["adapter", "api", "driver", "software", "f16", "timestamps", "shared", "threads", "bindings", "largest"];
    print_table(&headings, &rows)?;
    if args.no_probe {
        return Ok(());
    }
    let options = args.common.session_options();
    let opened = eyas::gpu::Gpu::open(&eyas::gpu::GpuOptions {
        api: None,
        adapter: options.adapter,
        allow_software: true,
        checked_shaders: false,
    });
    match opened {
        Err(e) => print_line(&format!("\ncannot open a GPU: {e}")),
        Ok(gpu) => {
            let report = eyas::gpu::probe::probe(&gpu);
            let wrong: Vec<Vec<String>> = report
                .kernels
                .iter()
                .filter(|k| !k.is_right())
                .map(|k| vec![k.kernel.clone(), format!("{:?}", k.precision), format!("{:?}", k.outcome)])
                .collect();
            print_line(&format!(
                "\nkernels on {}: {} of {} agree with their CPU twins",
                gpu.adapter,
                report.kernels.len() - wrong.len(),
                report.kernels.len()
            ))?;
            if wrong.is_empty() { Ok(()) } else { print_table(&["kernel", "precision", "outcome"], &wrong) }
        }
    }
}

/// What `--backend auto` would take here.
fn choice(args: &Args, model: Option<&Model>) -> Result<String, CliError> {
    if let Some(model) = model {
        let options = SessionOptions { backend: Backend::Auto, ..args.common.session_options() };
        let session = Session::new(model, &options)?;
        return Ok(format!("{} on {}", session.backend(), session.adapter()));
    }
    #[cfg(feature = "gpu")]
    {
        match eyas::gpu::Gpu::open(&eyas::gpu::GpuOptions::default()) {
            Ok(gpu) => return Ok(format!("gpu on {}", gpu.adapter)),
            Err(e) => log::info!("no GPU: {e}"),
        }
    }
    Ok(format!("cpu on {}", processor_name(Isa::detect())))
}
