//! GFLOP/s of the CPU kernels on layers of real networks, beside the peak of the processor's multiply-add units.
//!
//! `cargo bench --bench kernels -- [--isa NAME] [--threads N] [FILTER]`. Each figure is the best of many repetitions,
//! so that a busy machine does little harm.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eyas::cpu::{Isa, Memory, conv, depthwise};
use eyas::infer::activation::Activation;
use eyas::infer::kernel::FastKernel;
use eyas::infer::kernels::conv::{Conv, Residual, Window};
use eyas::infer::kernels::copy::Copy;
use eyas::infer::kernels::depthwise::Depthwise;
use eyas::infer::plan::step::Step;
use eyas::infer::plan::view::{BufferId, View};

/// Seconds that one figure may take.
const BUDGET: Duration = Duration::from_millis(300);

/// A layer: channels in and out, size of the source, kernel, stride. Padding is half the kernel.
struct Layer {
    name: &'static str,
    depthwise: bool,
    ins: usize,
    outs: usize,
    size: [usize; 2],
    kernel: usize,
    stride: usize,
    activation: Activation,
}

fn conv_layer(name: &'static str, io: [usize; 2], size: usize, kernel: usize, stride: usize) -> Layer {
    Layer {
        name,
        depthwise: false,
        ins: io[0],
        outs: io[1],
        size: [size; 2],
        kernel,
        stride,
        activation: if std::env::var_os("EYAS_X").is_some() { Activation::None } else { Activation::Silu },
    }
}

fn depthwise_layer(name: &'static str, channels: usize, size: usize, kernel: usize, stride: usize) -> Layer {
    Layer {
        name,
        depthwise: true,
        ins: channels,
        outs: channels,
        size: [size; 2],
        kernel,
        stride,
        activation: Activation::HardSwish,
    }
}

fn layers() -> Vec<Layer> {
    vec![
        conv_layer("yolov8n stem", [3, 16], 640, 3, 2),
        conv_layer("yolov8n conv1", [16, 32], 320, 3, 2),
        conv_layer("yolov8n c2f 160 1x1", [32, 32], 160, 1, 1),
        conv_layer("yolov8n c2f 160 3x3", [16, 16], 160, 3, 1),
        conv_layer("yolov8n conv2", [32, 64], 160, 3, 2),
        conv_layer("yolov8n c2f 80 3x3", [32, 32], 80, 3, 1),
        conv_layer("yolov8n head 80 3x3", [64, 64], 80, 3, 1),
        conv_layer("yolov8n head 80 3x3 cls", [80, 80], 80, 3, 1),
        conv_layer("yolov8n c2f 40 1x1", [256, 128], 40, 1, 1),
        conv_layer("yolov8n c2f 40 3x3", [64, 64], 40, 3, 1),
        conv_layer("yolov8n conv4", [128, 256], 40, 3, 2),
        conv_layer("yolov8n c2f 20 1x1", [384, 256], 20, 1, 1),
        conv_layer("yolov8n c2f 20 3x3", [128, 128], 20, 3, 1),
        conv_layer("yolov8n sppf 1x1", [512, 256], 20, 1, 1),
        conv_layer("yolov4 20 3x3", [512, 1024], 13, 3, 1),
        conv_layer("yolov4 20 1x1", [1024, 512], 13, 1, 1),
        conv_layer("resnet 56 3x3", [64, 64], 56, 3, 1),
        conv_layer("resnet 14 3x3", [256, 256], 14, 3, 1),
        conv_layer("mobilenet 1x1 7", [960, 160], 7, 1, 1),
        conv_layer("mobilenet 1x1 14", [96, 576], 14, 1, 1),
        conv_layer("yolox-nano 1x1 52", [32, 64], 52, 1, 1),
        depthwise_layer("mobilenet dw 112", 32, 112, 3, 1),
        depthwise_layer("mobilenet dw 112 s2", 96, 112, 3, 2),
        depthwise_layer("mobilenet dw 28", 192, 28, 3, 1),
        depthwise_layer("mobilenet dw 14 5x5", 576, 14, 5, 1),
        depthwise_layer("mobilenet dw 7", 960, 7, 3, 1),
        depthwise_layer("yolox-nano dw 52 5x5", 64, 52, 5, 1),
    ]
}

impl Layer {
    fn out_size(&self) -> [usize; 2] {
        self.size.map(|n| (n - 1) / self.stride + 1)
    }

    fn macs(&self) -> f64 {
        let ins = if self.depthwise { 1 } else { self.ins };
        let [h, w] = self.out_size();
        (h * w * self.outs * ins * self.kernel * self.kernel) as f64
    }

    fn prepare(&self, isa: Isa) -> Option<(Step, Memory, Box<dyn FastKernel>)> {
        let [h, w] = self.size;
        let [out_h, out_w] = self.out_size();
        let src = View::channels_last(BufferId(0), &[1, self.ins, h, w], 1);
        let dst = View::channels_last(BufferId(1), &[1, self.outs, out_h, out_w], 1);
        let first = src.len().next_multiple_of(16);
        let mut memory = Memory::new(first + dst.len(), vec![(0, src.len()), (first, dst.len())]);
        for (i, cell) in memory.cells(BufferId(0)).iter().enumerate() {
            cell.set((i % 17) as f32 / 17.0 - 0.5);
        }
        let step =
            Step { node: self.name.into(), kernel: Arc::new(Copy), reads: vec![src], writes: vec![dst], macs: 0 };
        let pad = self.kernel / 2;
        let window = Window { kernel: [self.kernel; 2], stride: [self.stride; 2], pads: [pad; 4], dilation: [1; 2] };
        let taps = self.kernel * self.kernel;
        let (bias, activation, residual) = (Arc::new(vec![0.1; self.outs]), self.activation, Residual::None);
        let fast = if self.depthwise {
            let weights = Arc::new(vec![0.01; self.outs * taps]);
            depthwise::prepare(&Depthwise { window, weights, bias, activation, residual }, &step, isa)
        } else {
            let weights = Arc::new(vec![0.01; self.outs * self.ins * taps]);
            conv::prepare(&Conv { window, weights, bias, activation, residual }, &step, isa)
        };
        Some((step, memory, fast?))
    }
}

/// Shortest time of a call, in seconds.
fn best_time(mut call: impl FnMut()) -> f64 {
    call();
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while start.elapsed() < BUDGET {
        let one = Instant::now();
        call();
        best = best.min(one.elapsed().as_secs_f64());
    }
    best
}

/// Multiply-adds of independent chains, in registers: GFLOP/s of one core. `None` where no loop is written.
fn peak_gflops(isa: Isa) -> Option<f64> {
    const ROUNDS: usize = 200_000;
    let flops: f64 = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => (ROUNDS * peak_x86::CHAINS_AVX2 * 8 * 2) as f64,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => (ROUNDS * peak_x86::CHAINS_AVX512 * 16 * 2) as f64,
        _ => return None,
    };
    let seconds = best_time(|| {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: only instruction sets that `Isa::available` lists are asked for.
        unsafe {
            match isa {
                Isa::Avx2 => peak_x86::avx2(ROUNDS),
                _ => peak_x86::avx512(ROUNDS),
            }
        }
    });
    Some(flops / seconds / 1e9)
}

#[cfg(target_arch = "x86_64")]
mod peak_x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    pub const CHAINS_AVX2: usize = 12;
    pub const CHAINS_AVX512: usize = 24;

    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2(rounds: usize) {
        let factor = _mm256_set1_ps(black_box(0.999));
        let mut sums = [_mm256_set1_ps(black_box(1.0)); CHAINS_AVX2];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, factor);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512(rounds: usize) {
        let factor = _mm512_set1_ps(black_box(0.999));
        let mut sums = [_mm512_set1_ps(black_box(1.0)); CHAINS_AVX512];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, factor);
            }
        }
        black_box(sums);
    }
}

fn main() {
    let mut isas = Isa::available();
    let mut threads = 1;
    let mut filter = String::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {}
            "--isa" => {
                let wanted = arguments.next().as_deref().and_then(Isa::from_name);
                isas.retain(|isa| Some(*isa) == wanted);
            }
            "--threads" => threads = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(1),
            other => filter = other.to_string(),
        }
    }
    let Ok(team) = eyas::cpu::team::Team::new(threads) else {
        eprintln!("cannot start {threads} threads");
        return;
    };
    for isa in isas {
        let peak = peak_gflops(isa);
        match peak {
            Some(peak) => println!("{}, {threads} thread(s); peak {peak:.1} GFLOP/s per thread", isa.name()),
            None => println!("{}, {threads} thread(s); peak not measured", isa.name()),
        }
        for layer in layers().iter().filter(|layer| layer.name.contains(&filter)) {
            let Some((step, memory, kernel)) = layer.prepare(isa) else {
                println!("  {:26} no fast form", layer.name);
                continue;
            };
            let seconds = team.install(|| best_time(|| kernel.run(black_box(&step), &memory)));
            let gflops = 2.0 * layer.macs() / seconds / 1e9;
            let share = peak.map_or(String::new(), |peak| format!("{:5.1} %", 100.0 * gflops / peak / threads as f64));
            println!(
                "  {:26} {:4}->{:4} {:3}x{:<3} k{} s{}  {:8.3} ms {:7.1} GFLOP/s {share}",
                layer.name,
                layer.ins,
                layer.outs,
                layer.size[0],
                layer.size[1],
                layer.kernel,
                layer.stride,
                seconds * 1e3,
                gflops
            );
        }
    }
}
