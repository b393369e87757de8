//! Every shader of the inference kernels against its twin, on whatever adapter this machine has; a software one counts.
//! Without any, the tests say so and pass, unless EYAS_REQUIRE_GPU=1.
#![cfg(feature = "gpu")]

mod kernel_cases;

use eyas::gpu::{Gpu, GpuApi, GpuOptions, test_gpu};
use eyas::infer::activation::Activation;
use eyas::infer::kernels::elementwise::{Elementwise, Function};
use eyas::infer::plan::{BufferId, Step, View};
use eyas::shader::Precision;
use kernel_cases::{Case, cases, values};
use std::cell::Cell;
use std::sync::Arc;

/// All elements of a view, as positions in its buffer.
fn positions(view: &View) -> Vec<usize> {
    let mut at = vec![0; view.rank()];
    (0..view.len())
        .map(|flat| {
            let mut rest = flat;
            for axis in (0..view.rank()).rev() {
                at[axis] = rest % view.shape[axis];
                rest /= view.shape[axis];
            }
            view.index(&at)
        })
        .collect()
}

/// What the buffers of a case hold before the step: values where something is read, NaN everywhere else, so that
/// neither padding lanes nor neighbours can slip into a result unseen.
fn buffers_before(case: &Case, precision: Precision) -> Vec<Vec<f32>> {
    let views = || case.step.reads.iter().chain(&case.step.writes);
    let count = views().map(|v| v.buffer.0 + 1).max().unwrap_or(0);
    let mut buffers = vec![Vec::new(); count];
    for view in views() {
        let buffer: &mut Vec<f32> = &mut buffers[view.buffer.0];
        buffer.resize(buffer.len().max(view.end().next_multiple_of(4) + 8), f32::NAN);
    }
    for (i, view) in case.step.reads.iter().enumerate() {
        for (at, mut x) in positions(view).into_iter().zip(values(i as u64, view.len())) {
            if case.positive {
                x = x.abs() + 0.25;
            }
            if precision == Precision::F16 {
                x = half::f16::from_f32(x).to_f32();
            }
            buffers[view.buffer.0][at] = x;
        }
    }
    buffers
}

fn twin(case: &Case, before: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let cells: Vec<Vec<Cell<f32>>> = before.iter().map(|b| b.iter().map(|&x| Cell::new(x)).collect()).collect();
    let of = |views: &[View]| views.iter().map(|v| cells[v.buffer.0].as_slice()).collect::<Vec<_>>();
    case.step.kernel.run_twin(&case.step, &of(&case.step.reads), &of(&case.step.writes));
    cells.iter().map(|b| b.iter().map(Cell::get).collect()).collect()
}

/// Runs the shader of each case and compares whole buffers with the twin's. Gives what disagrees.
fn disagreements(gpu: &Gpu, precision: Precision, cases: &[Case]) -> Vec<String> {
    let mut wrong = Vec::new();
    for chunk in cases.chunks(64) {
        let before: Vec<_> = chunk.iter().map(|c| buffers_before(c, precision)).collect();
        let mut resident = Vec::new();
        for (case, before) in chunk.iter().zip(&before) {
            let buffers: Vec<_> =
                before.iter().map(|b| gpu.upload_f32("values", b, precision).expect("upload")).collect();
            let weights = case.step.kernel.gpu_weights(&case.step);
            let weights =
                (!weights.is_empty()).then(|| gpu.upload_f32("weights", &weights, precision).expect("upload"));
            resident.push((buffers, weights));
        }
        let jobs: Vec<_> = chunk
            .iter()
            .zip(&resident)
            .map(|(case, (buffers, weights))| {
                let views = case.step.reads.iter().chain(&case.step.writes);
                let bound = weights.iter().chain(views.map(|v| &buffers[v.buffer.0])).collect();
                (case.variant(precision), bound)
            })
            .collect();
        let dispatches = gpu.dispatch_all(&jobs).expect("dispatches");
        gpu.run(&dispatches.iter().collect::<Vec<_>>()).expect("run");
        for ((case, before), (buffers, _)) in chunk.iter().zip(&before).zip(&resident) {
            let expected = twin(case, before);
            let touched = positions(&case.step.writes[0]);
            let dst = case.step.writes[0].buffer.0;
            let largest = touched.iter().map(|&at| expected[dst][at].abs()).fold(0.0, f32::max);
            // A product of many small numbers is less than the least that f16 holds, 2^-24.
            let tolerance = match precision {
                Precision::F16 => largest * 2e-3 + 2f32.powi(-24),
                Precision::F32 => largest * 1e-5,
            };
            for (i, (buffer, expected)) in buffers.iter().zip(&expected).enumerate() {
                let got = gpu.download_f32(buffer, expected.len(), precision).expect("download");
                let bad = |(got, want): (&f32, &f32)| got.is_nan() != want.is_nan() || (got - want).abs() > tolerance;
                if let Some(at) = got.iter().zip(expected).position(bad) {
                    wrong.push(format!(
                        "{}: buffer {i} at {at}: {} but the twin has {} (largest {largest})",
                        case.name, got[at], expected[at]
                    ));
                }
            }
        }
    }
    wrong
}

/// Takes every `stride`-th case.
fn check(gpu: &Gpu, precision: Precision, stride: usize) {
    let cases: Vec<Case> = cases().into_iter().step_by(stride).collect();
    let wrong = disagreements(gpu, precision, &cases);
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn shaders_agree_with_twins_in_f32() {
    let Some(gpu) = test_gpu() else { return };
    check(&gpu, Precision::F32, 1);
}

#[test]
fn shaders_agree_with_twins_in_f16() {
    let Some(gpu) = test_gpu() else { return };
    if gpu.precision != Precision::F16 {
        eprintln!("{:?} stores no f16; test skipped", gpu.adapter);
        return;
    }
    check(&gpu, Precision::F16, 1);
}

/// Remainders against f64, whose `%` is exact for all f32: quotients of up to 76 digits, multiples and their neighbours,
/// infinities, zeros, NaN. No numbers below 2^-126: devices may take them for 0.
#[test]
fn remainders_are_exact() {
    let Some(gpu) = test_gpu() else { return };
    let mut numbers = vec![0.0, f32::MIN_POSITIVE, 0.1, 0.3, 1.0, 3.0, 5.5, 1e7, 16_777_215.0, 1e20, 3e38, f32::MAX];
    numbers.extend([f32::INFINITY, f32::NAN]);
    numbers.extend(
        [0.3, 5.5]
            .iter()
            .flat_map(|b: &f32| [-1, 0, 1].map(|i| f32::from_bits((b * 4097.0).to_bits().wrapping_add_signed(i)))),
    );
    numbers.extend(values(9, 20).iter().enumerate().map(|(i, v)| v * 2f32.powi(i as i32 * 10 - 90)));
    let signed: Vec<f32> = numbers.iter().flat_map(|&v| [v, -v]).collect();
    let pairs: Vec<(f32, f32)> = signed.iter().flat_map(|&a| signed.iter().map(move |&b| (a, b))).collect();
    let pairs: Vec<(f32, f32)> =
        pairs.into_iter().filter(|(a, b)| !((f64::from(*a) % f64::from(*b)) as f32).is_subnormal()).collect();
    let view = |buffer: usize| View::row_major(BufferId(buffer), &[pairs.len()]);
    let kernel = Elementwise { function: Function::Remainder, activation: Activation::None };
    let (reads, writes) = (vec![view(0), view(1)], vec![view(2)]);
    let step = Step { node: String::new(), kernel: Arc::new(kernel), reads, writes, macs: 0 };
    let upload = |values: Vec<f32>| gpu.upload_f32("numbers", &values, Precision::F32).expect("upload");
    let padded = pairs.len().next_multiple_of(4);
    let a = upload(pairs.iter().map(|p| p.0).chain(vec![0.0; padded - pairs.len()]).collect());
    let b = upload(pairs.iter().map(|p| p.1).chain(vec![0.0; padded - pairs.len()]).collect());
    let dst = upload(vec![0.0; padded]);
    let variant = step.kernel.variant(&step, Precision::F32);
    let dispatch = gpu.dispatch(&variant, &[&a, &b, &dst]).expect("dispatch");
    gpu.run(&[&dispatch]).expect("run");
    let got = gpu.download_f32(&dst, padded, Precision::F32).expect("download");
    for (&(a, b), got) in pairs.iter().zip(got) {
        let exact = f64::from(a) % f64::from(b);
        let same = if exact.is_nan() { got.is_nan() } else { f64::from(got).to_bits() == exact.to_bits() };
        assert!(same, "{a:e} % {b:e} is {exact:e}, not {got:e}");
    }
}

#[test]
fn shaders_agree_with_twins_on_gles() {
    let options = GpuOptions { api: Some(GpuApi::Gles), allow_software: true, ..GpuOptions::default() };
    let gpu: Arc<Gpu> = match Gpu::open(&options) {
        Ok(gpu) => gpu,
        Err(error) => {
            eprintln!("NO GPU ADAPTER for GLES: {error}; test skipped");
            return;
        }
    };
    // The same text through another compiler: some of it is enough.
    check(&gpu, Precision::F32, 3);
}

/// Times the tiles of a convolution on this device, on layers of common detectors. To choose tiles by:
/// `cargo test --release --test gpu_kernels tiles -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn time_of_convolution_tiles() {
    use eyas::infer::kernel::Kernel;
    use eyas::infer::kernels::conv::Tile;
    let Some(gpu) = test_gpu() else { return };
    eprintln!("{:?} {:?}", gpu.adapter, gpu.precision);
    let quick = std::env::var("EYAS_QUICK").is_ok();
    let tiles = [
        Tile::Direct { threads: [8, 8], pixels: 2, vectors: 1 },
        Tile::Direct { threads: [8, 8], pixels: 2, vectors: 2 },
        Tile::Direct { threads: [8, 8], pixels: 4, vectors: 1 },
        Tile::Direct { threads: [8, 8], pixels: 4, vectors: 2 },
        Tile::Direct { threads: [4, 16], pixels: 4, vectors: 4 },
        Tile::Tiled { threads: [8, 8], pixels: 2, vectors: 1, depth: 4 },
        Tile::Tiled { threads: [8, 8], pixels: 4, vectors: 1, depth: 4 },
        Tile::Tiled { threads: [8, 8], pixels: 4, vectors: 2, depth: 4 },
        Tile::Tiled { threads: [8, 8], pixels: 4, vectors: 2, depth: 8 },
        Tile::Tiled { threads: [8, 16], pixels: 4, vectors: 2, depth: 4 },
        Tile::Tiled { threads: [8, 16], pixels: 8, vectors: 2, depth: 4 },
        Tile::Tiled { threads: [16, 16], pixels: 4, vectors: 2, depth: 4 },
    ];
    // Kernel side, stride, input channels, output channels, side of the output.
    let layers: &[(usize, usize, usize, usize, usize)] = if quick {
        &[(3, 1, 32, 32, 20), (1, 1, 128, 64, 20)]
    } else {
        &[
            (3, 2, 3, 16, 320),
            (3, 2, 16, 32, 160),
            (3, 1, 32, 32, 80),
            (3, 1, 64, 64, 40),
            (3, 1, 128, 128, 20),
            (3, 2, 128, 256, 20),
            (3, 1, 64, 80, 80),
            (1, 1, 64, 64, 80),
            (1, 1, 192, 128, 40),
            (1, 1, 384, 256, 20),
            (3, 1, 256, 512, 13),
        ]
    };
    for &(k, stride, inputs, outputs, side) in layers {
        let (kernel, step) = kernel_cases::conv_layer(k, stride, inputs, outputs, side);
        let flops = 2.0 * (k * k * inputs * outputs * side * side) as f64;
        let upload = |seed, len| gpu.upload_f32("values", &values(seed, len), gpu.precision).expect("upload");
        let weights = gpu.upload_f32("weights", &kernel.gpu_weights(&step), gpu.precision).expect("upload");
        let (src, dst) = (upload(1, step.reads[0].end() + 8), upload(2, step.writes[0].end() + 8));
        eprintln!("conv {k}x{k}s{stride} {inputs} -> {outputs}, {side}x{side}, {:.1} MFLOP", flops / 1e6);
        for tile in tiles {
            let variant = kernel.variant_with(&step, gpu.precision, tile);
            let dispatch = gpu.dispatch(&variant, &[&weights, &src, &dst]).expect("dispatch");
            let repeats = if quick { 3 } else { 50 };
            let all: Vec<_> = std::iter::repeat_n(&dispatch, repeats).collect();
            gpu.run(&all[..1]).expect("run");
            let best = (0..3)
                .map(|_| {
                    let start = std::time::Instant::now();
                    gpu.run(&all).expect("run");
                    start.elapsed().as_secs_f64() / repeats as f64
                })
                .fold(f64::INFINITY, f64::min);
            eprintln!("  {:9.1} us {:9.2} GFLOP/s  {tile:?}", best * 1e6, flops / best / 1e9);
        }
        eprintln!("  chosen: {:?}", kernel.tile(&step));
    }
}
