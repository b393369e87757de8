//! Does this device compute what it should? Every kernel family runs once on tiny inputs and is compared with its CPU
//! twin. Drivers do miscompile shaders, and a detector that is a little wrong is worse than one that stops.
//!
//! Inputs are made hostile on purpose: padding lanes hold NaN, which no kernel may let in, and the output lies in a
//! buffer with a margin that no kernel may touch.

use std::sync::Arc;

use super::buffer::{decode_f32, encode_f32};
use super::session::GpuSession;
use super::{Gpu, GpuError};
use crate::cpu::Memory;
use crate::infer::activation::Activation;
use crate::infer::kernel::Kernel;
use crate::infer::kernels::arg::Arg;
use crate::infer::kernels::conv::{Conv, Residual, Window};
use crate::infer::kernels::conv_nd::ConvNd;
use crate::infer::kernels::copy::Copy;
use crate::infer::kernels::depthwise::Depthwise;
use crate::infer::kernels::elementwise::{Elementwise, Function};
use crate::infer::kernels::fill::Fill;
use crate::infer::kernels::gather_elements::GatherElements;
use crate::infer::kernels::grid_sample::{GridSample, Outside};
use crate::infer::kernels::grouped_conv::GroupedConv;
use crate::infer::kernels::matmul::MatMul;
use crate::infer::kernels::pool::{Pool, PoolKind};
use crate::infer::kernels::reduce::{Reduce, ReduceKind};
use crate::infer::kernels::resample::{Resample, Taps};
use crate::infer::kernels::resize::{Coordinates, Interpolation, Resize, Rounding};
use crate::infer::kernels::select::Select;
use crate::infer::kernels::softmax::Softmax;
use crate::infer::kernels::window_max::{Found, WindowMax};
use crate::infer::plan::step::{Buffer, BufferKind, Element, Plan, Step};
use crate::infer::plan::transfer::{gather, scatter};
use crate::infer::plan::view::{BufferId, View};
use crate::shader::Precision;

/// What the margin around an output holds before and after.
const MARGIN: f32 = 7.0;

/// How one kernel did.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Agrees with the twin; `difference` is the largest one, as a fraction of the largest expected value.
    Right { difference: f32 },
    /// The value that differs most.
    Wrong { difference: f32, expected: f32, actual: f32 },
    /// Wrote where it has nothing to write.
    WroteOutside,
    /// Did not compile or run.
    Failed(String),
}

/// One kernel at one precision.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelProbe {
    /// Label of the kernel, as in a profile.
    pub kernel: String,
    pub precision: Precision,
    pub outcome: Outcome,
}

impl KernelProbe {
    pub fn is_right(&self) -> bool {
        matches!(self.outcome, Outcome::Right { .. })
    }
}

/// All kernels at all precisions of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeReport {
    pub adapter: String,
    pub kernels: Vec<KernelProbe>,
}

impl ProbeReport {
    /// True when every kernel agrees with its twin.
    pub fn is_right(&self) -> bool {
        self.kernels.iter().all(KernelProbe::is_right)
    }
}

/// Largest difference from the twin that is taken for rounding, as a fraction of the largest expected value.
pub fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::F32 => 1e-4,
        Precision::F16 => 4e-3,
    }
}

/// Runs every kernel family once, in f32 and, where the device has it, in f16. Takes a second or so, nearly all of it
/// for compiling shaders.
pub fn probe(gpu: &Arc<Gpu>) -> ProbeReport {
    let precisions: &[Precision] = if gpu.adapter.f16 { &[Precision::F32, Precision::F16] } else { &[Precision::F32] };
    let mut kernels = Vec::new();
    for case in cases() {
        for &precision in precisions {
            let outcome = case.run(gpu, precision).unwrap_or_else(|e| Outcome::Failed(e.to_string()));
            kernels.push(KernelProbe { kernel: case.kernel.label(), precision, outcome });
        }
    }
    ProbeReport { adapter: gpu.adapter.to_string(), kernels }
}

/// A kernel and the views that it reads and writes. Read i is of buffer i; the write is of the last one.
struct Case {
    kernel: Arc<dyn Kernel>,
    reads: Vec<View>,
    write: View,
    /// A read that holds whole numbers, and the largest of them.
    whole: Option<(usize, f32)>,
}

impl Case {
    fn new(kernel: impl Kernel + 'static, reads: &[&[usize]], write: &[usize]) -> Case {
        let view = |id: usize, shape: &[usize]| match shape.len() {
            4 => View::channels_last(BufferId(id), shape, 4),
            _ => View::row_major(BufferId(id), shape),
        };
        let mut write = view(reads.len(), write);
        if let [_, c, h, w] = write.shape[..] {
            // Room for 4 more channels beside each pixel and for 4 elements before the first.
            let pixel = c.next_multiple_of(4) + 4;
            write = View { offset: 4, strides: vec![h * w * pixel, 1, w * pixel, pixel], ..write };
        }
        let reads = reads.iter().enumerate().map(|(i, s)| view(i, s)).collect();
        Case { kernel: Arc::new(kernel), reads, write, whole: None }
    }

    /// Gives read `index` whole numbers from -`largest` to `largest`.
    fn whole(self, index: usize, largest: f32) -> Case {
        Case { whole: Some((index, largest)), ..self }
    }

    /// Stretches read `index` to `shape`.
    fn broadcast(mut self, index: usize, shape: &[usize]) -> Case {
        if let Some(view) = self.reads[index].broadcast_to(shape) {
            self.reads[index] = view;
        }
        self
    }

    /// Reorders the axes of read `index`.
    fn transposed(mut self, index: usize, order: &[usize]) -> Case {
        self.reads[index] = self.reads[index].transposed(order);
        self
    }

    /// Contents of all buffers before the run.
    fn images(&self, precision: Precision) -> Vec<Vec<f32>> {
        let mut images = Vec::new();
        for (i, view) in self.reads.iter().enumerate() {
            let mut image = vec![f32::NAN; view.end().next_multiple_of(4)];
            let mut values = noise(view.len(), i as u32 + 1);
            if let Some((_, largest)) = self.whole.filter(|whole| whole.0 == i) {
                values.iter_mut().for_each(|v| *v = (*v * largest).round());
            }
            scatter(&values, view, &mut image);
            // What f16 makes of it, so that both sides see the same values.
            images.push(decode_f32(&encode_f32(&image, precision), precision));
        }
        images.push(vec![MARGIN; self.write.end().next_multiple_of(4) + 4]);
        images
    }

    fn step(&self) -> Step {
        Step {
            node: "probe".into(),
            kernel: Arc::clone(&self.kernel),
            reads: self.reads.clone(),
            writes: vec![self.write.clone()],
            macs: 0,
        }
    }

    fn run(&self, gpu: &Arc<Gpu>, precision: Precision) -> Result<Outcome, GpuError> {
        let images = self.images(precision);
        let step = self.step();
        let expected = gather(&run_twin(&step, &images), &self.write);

        let buffers = images.iter().map(|image| Buffer {
            name: "probe".into(),
            len_elements: image.len(),
            element: Element::F32,
            kind: BufferKind::Activation { first: 0, last: 0 },
        });
        let plan = Plan { buffers: buffers.collect(), steps: vec![step], ..Plan::default() };
        let session = GpuSession::new(Arc::clone(gpu), Arc::new(plan), precision)?;
        for (i, image) in images.iter().enumerate() {
            gpu.write(session.buffer(BufferId(i)), 0, &encode_f32(image, precision))?;
        }
        session.run()?;
        let written = self.write.buffer;
        let memory = gpu.download_f32(session.buffer(written), images[written.0].len(), precision)?;
        if !self.margin_is_whole(&memory) {
            return Ok(Outcome::WroteOutside);
        }
        Ok(compare(&expected, &gather(&memory, &self.write), tolerance(precision)))
    }

    /// True when nothing outside the view changed. Padding lanes count as outside: they may be a neighbour's.
    fn margin_is_whole(&self, memory: &[f32]) -> bool {
        let mut marks = vec![0.0; memory.len()];
        scatter(&vec![1.0; self.write.len()], &self.write, &mut marks);
        memory.iter().zip(&marks).all(|(&value, &mark)| mark == 1.0 || value == MARGIN)
    }
}

/// The written buffer after the twin has run on copies of these buffers.
fn run_twin(step: &Step, images: &[Vec<f32>]) -> Vec<f32> {
    let mut len = 0;
    let spans: Vec<(usize, usize)> = images
        .iter()
        .map(|image| {
            len += image.len();
            (len - image.len(), image.len())
        })
        .collect();
    let mut memory = Memory::new(len, spans);
    let ids: Vec<BufferId> = (0..images.len()).map(BufferId).collect();
    let cells = memory.cells_many(&ids);
    for (cells, image) in cells.iter().zip(images) {
        for (cell, &value) in cells.iter().zip(image) {
            cell.set(value);
        }
    }
    let (reads, writes) = cells.split_at(cells.len() - 1);
    step.kernel.run_twin(step, reads, writes);
    writes[0].iter().map(std::cell::Cell::get).collect()
}

fn compare(expected: &[f32], actual: &[f32], tolerance: f32) -> Outcome {
    let scale = expected.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
    // A NaN where none belongs counts as infinitely far off.
    let distance = |e: f32, a: f32| if (e - a).is_nan() { f32::INFINITY } else { (e - a).abs() / scale };
    let pairs = expected.iter().zip(actual).map(|(&e, &a)| (distance(e, a), e, a));
    match pairs.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((difference, expected, actual)) if difference > tolerance => {
            Outcome::Wrong { difference, expected, actual }
        }
        Some((difference, ..)) => Outcome::Right { difference },
        None => Outcome::Right { difference: 0.0 },
    }
}

/// Values in [−1, 1), the same on every machine.
fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

fn window(kernel: usize, stride: usize, pad: usize) -> Window {
    Window { kernel: [kernel; 2], stride: [stride; 2], pads: [pad; 4], dilation: [1; 2] }
}

fn conv(channels: [usize; 2], window: Window, activation: Activation, residual: Residual) -> Conv {
    let [inputs, outputs] = channels;
    let taps = window.kernel[0] * window.kernel[1];
    Conv {
        window,
        weights: Arc::new(noise(outputs * inputs * taps, 77)),
        bias: Arc::new(noise(outputs, 78)),
        activation,
        residual,
    }
}

/// One of each family, with odd sizes; convolutions in the shapes that networks are made of.
fn cases() -> Vec<Case> {
    let relu = Activation::Relu;
    let silu = Activation::Silu;
    let elementwise = |function, activation| Elementwise { function, activation };
    let taps = vec![
        Taps { bias: 0.5, taps: vec![(0, 0.25), (1, -2.0), (3, 0.5)] },
        Taps::one(2),
        Taps { bias: 0.0, taps: vec![(1, 0.5), (2, 0.5)] },
    ];
    let window_max = WindowMax {
        found: Found::Index { column_major: false },
        kernel: vec![3; 2],
        stride: vec![2; 2],
        dilation: vec![1; 2],
        before: vec![1; 2],
    };
    let conv_nd = ConvNd { groups: 2, stride: vec![2], dilation: vec![1], before: vec![1], transposed: false };
    vec![
        Case::new(conv([3, 8], window(3, 2, 1), relu, Residual::None), &[&[1, 3, 9, 11]], &[1, 8, 5, 6]),
        Case::new(conv([16, 12], window(1, 1, 0), silu, Residual::None), &[&[1, 16, 5, 7]], &[1, 12, 5, 7]),
        Case::new(
            conv([5, 7], window(3, 1, 1), silu, Residual::AfterActivation),
            &[&[1, 5, 6, 5], &[1, 7, 6, 5]],
            &[1, 7, 6, 5],
        ),
        // Large enough for the tiled shader.
        Case::new(conv([32, 64], window(3, 1, 1), silu, Residual::None), &[&[1, 32, 21, 21]], &[1, 64, 21, 21]),
        Case::new(
            Depthwise {
                window: window(3, 2, 1),
                weights: Arc::new(noise(6 * 9, 5)),
                bias: Arc::new(noise(6, 6)),
                activation: Activation::HardSwish,
                residual: Residual::None,
            },
            &[&[1, 6, 7, 9]],
            &[1, 6, 4, 5],
        ),
        Case::new(
            GroupedConv {
                window: window(3, 1, 1),
                groups: 2,
                weights: Arc::new(noise(8 * 3 * 9, 7)),
                bias: Arc::new(noise(8, 8)),
                activation: Activation::LeakyRelu { alpha: 0.1 },
                residual: Residual::None,
            },
            &[&[1, 6, 5, 4]],
            &[1, 8, 5, 4],
        ),
        Case::new(Pool { kind: PoolKind::Max, window: window(5, 1, 2) }, &[&[1, 6, 7, 6]], &[1, 6, 7, 6]),
        Case::new(
            Pool { kind: PoolKind::Average { count_include_pad: false }, window: window(3, 2, 1) },
            &[&[1, 5, 7, 6]],
            &[1, 5, 4, 3],
        ),
        Case::new(
            Resize {
                interpolation: Interpolation::Nearest(Rounding::Floor),
                coordinates: Coordinates::Asymmetric,
                scale: [2.0; 2],
            },
            &[&[1, 6, 3, 4]],
            &[1, 6, 6, 8],
        ),
        Case::new(
            Resize { interpolation: Interpolation::Linear, coordinates: Coordinates::HalfPixel, scale: [2.0; 2] },
            &[&[1, 6, 3, 4]],
            &[1, 6, 6, 8],
        ),
        Case::new(elementwise(Function::Add, silu), &[&[1, 6, 4, 5], &[1, 6, 4, 5]], &[1, 6, 4, 5]),
        Case::new(elementwise(Function::Mul, Activation::None), &[&[1, 6, 4, 5], &[6, 1, 1]], &[1, 6, 4, 5])
            .broadcast(1, &[1, 6, 4, 5]),
        Case::new(elementwise(Function::Exp, Activation::None), &[&[3, 11]], &[3, 11]),
        Case::new(elementwise(Function::Identity, Activation::Gelu), &[&[3, 11]], &[3, 11]),
        Case::new(Softmax { axis: 1, log: false }, &[&[2, 16, 9]], &[2, 16, 9]),
        Case::new(Reduce { kind: ReduceKind::Mean }, &[&[1, 6, 5, 4]], &[1, 6, 1, 1]),
        Case::new(Reduce { kind: ReduceKind::Max }, &[&[2, 7, 9]], &[2, 7, 1]),
        Case::new(MatMul, &[&[2, 5, 7], &[2, 7, 6]], &[2, 5, 6]),
        Case::new(Copy, &[&[2, 7, 3]], &[2, 3, 7]).transposed(0, &[0, 2, 1]),
        Case::new(Fill { value: 2.5 }, &[], &[1, 6, 4, 3]),
        Case::new(elementwise(Function::Remainder, Activation::None), &[&[3, 11], &[3, 11]], &[3, 11]),
        Case::new(Select, &[&[1, 6, 4, 5], &[1, 6, 4, 5], &[1, 6, 4, 5]], &[1, 6, 4, 5]).whole(0, 1.0),
        Case::new(Arg { axis: 1, max: true, last: false }, &[&[1, 6, 4, 5]], &[1, 1, 4, 5]),
        Case::new(GatherElements { axis: 1 }, &[&[2, 6, 5], &[2, 4, 5]], &[2, 4, 5]).whole(1, 5.0),
        Case::new(
            GridSample { reach: 2, outside: Outside::Zeros, align_corners: false },
            &[&[1, 6, 4, 5], &[1, 3, 7, 2]],
            &[1, 6, 3, 7],
        ),
        Case::new(Resample { axis: 2, table: Arc::new(taps), max: false }, &[&[1, 6, 4, 5]], &[1, 6, 3, 5]),
        Case::new(window_max, &[&[1, 6, 5, 7]], &[1, 6, 3, 4]),
        Case::new(conv_nd, &[&[2, 6, 9], &[4, 3, 3], &[4]], &[2, 4, 5]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::test_gpu;
    use std::collections::BTreeSet;

    #[test]
    fn every_kernel_agrees_with_its_twin() {
        let Some(gpu) = test_gpu() else { return };
        let report = probe(&gpu);
        for kernel in &report.kernels {
            eprintln!("{} {:?}: {:?}", kernel.kernel, kernel.precision, kernel.outcome);
        }
        assert!(report.is_right());
    }

    #[test]
    fn every_shader_of_a_kernel_is_run() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/infer");
        let files = std::fs::read_dir(folder).expect("the shaders").map(|f| f.expect("a file").path());
        let files: BTreeSet<String> =
            files.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect();
        let stem = |case: &Case| case.kernel.variant(&case.step(), Precision::F32).stem.to_string();
        let run: BTreeSet<String> = cases().iter().map(stem).collect();
        assert_eq!(run, files);
    }

    #[test]
    fn a_wrong_value_and_a_wrong_place_are_found() {
        assert_eq!(compare(&[1.0, -2.0], &[1.0, -2.0], 0.0), Outcome::Right { difference: 0.0 });
        assert!(matches!(compare(&[1.0, -2.0], &[1.1, -2.0], 0.01), Outcome::Wrong { actual: 1.1, .. }));
        assert!(matches!(compare(&[1.0], &[f32::NAN], 0.1), Outcome::Wrong { .. }));
        let case = Case::new(Fill { value: 1.0 }, &[], &[1, 3, 2, 2]);
        let mut memory = vec![MARGIN; 36];
        assert!(case.margin_is_whole(&memory));
        memory[6] = 0.0; // the last channel of the first pixel
        assert!(case.margin_is_whole(&memory));
        memory[7] = 0.0; // the lane beside it
        assert!(!case.margin_is_whole(&memory));
    }
}
