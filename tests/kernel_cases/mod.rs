//! Small steps of odd shapes for every kernel: what the shader tests validate and run.

use eyas::infer::activation::Activation;
use eyas::infer::kernel::Kernel;
use eyas::infer::kernels::arg::Arg;
use eyas::infer::kernels::conv::{Conv, Residual, Tile, Window};
use eyas::infer::kernels::conv_nd::ConvNd;
use eyas::infer::kernels::copy::Copy;
use eyas::infer::kernels::depthwise::Depthwise;
use eyas::infer::kernels::elementwise::{Elementwise, Function};
use eyas::infer::kernels::fill::Fill;
use eyas::infer::kernels::gather_elements::GatherElements;
use eyas::infer::kernels::grid_sample::{GridSample, Outside};
use eyas::infer::kernels::grouped_conv::GroupedConv;
use eyas::infer::kernels::matmul::MatMul;
use eyas::infer::kernels::pool::{Pool, PoolKind};
use eyas::infer::kernels::reduce::{Reduce, ReduceKind};
use eyas::infer::kernels::resample::{Resample, Taps};
use eyas::infer::kernels::resize::{Coordinates, Interpolation, Resize, Rounding};
use eyas::infer::kernels::select::Select;
use eyas::infer::kernels::softmax::Softmax;
use eyas::infer::kernels::window_max::{Found, WindowMax};
use eyas::infer::plan::{BufferId, Step, View};
use eyas::shader::{Precision, Variant};
use std::sync::Arc;

/// A step, and how its shader is made.
pub struct Case {
    pub name: String,
    pub step: Step,
    /// Inputs must be positive (logarithms and the like).
    pub positive: bool,
    /// A tile other than the one that the kernel would choose.
    pub tile: Option<(Conv, Tile)>,
}

impl Case {
    fn new(kernel: impl Kernel + 'static, reads: Vec<View>, writes: Vec<View>) -> Case {
        let name = format!(
            "{} {:?} -> {:?}",
            kernel.label(),
            reads.iter().map(|v| &v.shape).collect::<Vec<_>>(),
            writes[0].shape
        );
        let step = Step { node: name.clone(), kernel: Arc::new(kernel), reads, writes, macs: 0 };
        Case { name, step, positive: false, tile: None }
    }

    fn positive(mut self) -> Case {
        self.positive = true;
        self
    }

    pub fn variant(&self, precision: Precision) -> Variant {
        match &self.tile {
            Some((conv, tile)) => conv.variant_with(&self.step, precision, *tile),
            None => self.step.kernel.variant(&self.step, precision),
        }
    }
}

/// Values in [−1, 1), the same for the same seed.
pub fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// A feature map aligned to 4 channels: `before` elements in front of every pixel (a multiple of 4), at least `gap`
/// behind it.
fn map(buffer: usize, [n, c, h, w]: [usize; 4], before: usize, gap: usize) -> View {
    let p = (before + c + gap).next_multiple_of(4);
    View { buffer: BufferId(buffer), offset: before, shape: vec![n, c, h, w], strides: vec![h * w * p, 1, w * p, p] }
}

fn window(kernel: [usize; 2], stride: [usize; 2], pads: [usize; 4], dilation: [usize; 2]) -> Window {
    Window { kernel, stride, pads, dilation }
}

fn out_size(w: &Window, [h, x]: [usize; 2]) -> [usize; 2] {
    let one = |axis: usize, size: usize| {
        (size + w.pads[axis] + w.pads[axis + 2] - (w.kernel[axis] - 1) * w.dilation[axis] - 1) / w.stride[axis] + 1
    };
    [one(0, h), one(1, x)]
}

fn windows() -> Vec<Window> {
    vec![
        window([1, 1], [1, 1], [0; 4], [1, 1]),
        window([3, 3], [1, 1], [1; 4], [1, 1]),
        window([3, 3], [2, 2], [0, 0, 1, 1], [1, 1]),
        window([2, 5], [1, 3], [1, 2, 0, 3], [2, 1]),
        window([1, 3], [1, 1], [0, 2, 0, 2], [1, 2]),
    ]
}

pub fn activations() -> Vec<Activation> {
    vec![
        Activation::None,
        Activation::Relu,
        Activation::Clip { lo: -0.25, hi: 0.5 },
        Activation::Clip { lo: 0.0, hi: f32::INFINITY },
        Activation::LeakyRelu { alpha: 0.1 },
        Activation::Sigmoid,
        Activation::Silu,
        Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Activation::HardSwish,
        Activation::Mish,
        Activation::Tanh,
        Activation::Elu { alpha: 1.5 },
        Activation::Softplus,
        Activation::Gelu,
        Activation::GeluTanh,
    ]
}

const SHAPES: [[usize; 4]; 6] = [[1, 1, 5, 7], [1, 3, 6, 5], [2, 5, 4, 6], [1, 7, 9, 5], [1, 13, 5, 5], [2, 8, 5, 4]];
const RESIDUALS: [Residual; 3] = [Residual::None, Residual::BeforeActivation, Residual::AfterActivation];

fn conv_of(
    window: Window,
    inputs: usize,
    outputs: usize,
    activation: Activation,
    residual: Residual,
    seed: u64,
) -> Conv {
    Conv {
        window,
        weights: Arc::new(values(seed, outputs * inputs * window.taps())),
        bias: Arc::new(values(seed + 1, outputs)),
        activation,
        residual,
    }
}

fn conv_views(w: &Window, [n, c, h, x]: [usize; 4], outputs: usize, residual: Residual) -> (Vec<View>, Vec<View>) {
    let [oh, ow] = out_size(w, [h, x]);
    let mut reads = vec![map(0, [n, c, h, x], 4, 2)];
    if residual != Residual::None {
        reads.push(map(1, [n, outputs, oh, ow], 8, 0));
    }
    (reads, vec![map(2, [n, outputs, oh, ow], 4, 5)])
}

fn convolutions(cases: &mut Vec<Case>) {
    let tiles = [
        Tile::Direct { threads: [1, 64], pixels: 2, vectors: 1 },
        Tile::Direct { threads: [4, 16], pixels: 4, vectors: 2 },
        Tile::Tiled { threads: [8, 8], pixels: 2, vectors: 1, depth: 4 },
        Tile::Tiled { threads: [8, 16], pixels: 8, vectors: 2, depth: 4 },
        Tile::Tiled { threads: [4, 32], pixels: 4, vectors: 2, depth: 4 },
    ];
    let mut seed = 100;
    for (i, window) in windows().into_iter().enumerate() {
        for (j, (&shape, outputs)) in SHAPES.iter().zip([3, 5, 8, 1, 13, 7]).enumerate() {
            if (i + j) % 2 == 1 && i > 1 {
                continue;
            }
            seed += 10;
            let residual = RESIDUALS[(i + j) % 3];
            let activation = [Activation::Silu, Activation::None, Activation::LeakyRelu { alpha: 0.1 }][j % 3];
            let conv = conv_of(window, shape[1], outputs, activation, residual, seed);
            let (reads, writes) = conv_views(&window, shape, outputs, residual);
            for tile in [tiles[(i + j) % 2], tiles[2 + (i + j) % 3]] {
                let mut case = Case::new(conv.clone(), reads.clone(), writes.clone());
                case.name += &format!(" {tile:?}");
                case.tile = Some((conv.clone(), tile));
                cases.push(case);
            }
            cases.push(Case::new(conv, reads, writes));
        }
    }
    // More channels than one tile.
    let w = window([3, 3], [1, 1], [1; 4], [1, 1]);
    let conv = conv_of(w, 18, 70, Activation::Relu, Residual::None, 7);
    let (reads, writes) = conv_views(&w, [1, 18, 9, 7], 70, Residual::None);
    for tile in tiles {
        let mut case = Case::new(conv.clone(), reads.clone(), writes.clone());
        case.name += &format!(" {tile:?}");
        case.tile = Some((conv.clone(), tile));
        cases.push(case);
    }
    // Large enough for the tiles that the kernel chooses itself.
    for (shape, outputs) in [([1, 32, 24, 24], 64), ([1, 64, 12, 12], 96), ([1, 3, 33, 31], 16)] {
        let conv = conv_of(w, shape[1], outputs, Activation::Silu, Residual::None, 8);
        let (reads, writes) = conv_views(&w, shape, outputs, Residual::None);
        cases.push(Case::new(conv, reads, writes));
    }
    // One pixel, and all three feature maps in one buffer.
    let w = window([1, 1], [1, 1], [0; 4], [1, 1]);
    let conv = conv_of(w, 13, 10, Activation::Sigmoid, Residual::AfterActivation, 9);
    let part = |c: usize, at: usize| View {
        buffer: BufferId(0),
        offset: at,
        shape: vec![1, c, 3, 2],
        strides: vec![6 * 48, 1, 2 * 48, 48],
    };
    cases.push(Case::new(conv.clone(), vec![part(13, 4), part(10, 20)], vec![part(10, 32)]));
    cases.push(Case::new(
        conv,
        vec![map(0, [1, 13, 1, 1], 0, 0), map(1, [1, 10, 1, 1], 0, 0)],
        vec![map(2, [1, 10, 1, 1], 4, 0)],
    ));
}

fn other_feature_maps(cases: &mut Vec<Case>) {
    let mut seed = 1000;
    for (i, window) in windows().into_iter().enumerate() {
        for (j, &[n, c, h, w]) in SHAPES.iter().enumerate() {
            seed += 10;
            let [oh, ow] = out_size(&window, [h, w]);
            let residual = RESIDUALS[(i + j) % 3];
            let (reads, writes) = conv_views(&window, [n, c, h, w], c, residual);
            let activation = [Activation::HardSwish, Activation::None][j % 2];
            let weights = |len: usize| Arc::new(values(seed, len));
            let bias = |len: usize| Arc::new(values(seed + 1, len));
            let depthwise =
                Depthwise { window, weights: weights(c * window.taps()), bias: bias(c), activation, residual };
            cases.push(Case::new(depthwise, reads, writes));
            // Two filters per channel, and two groups where the channels are even.
            for (groups, outputs) in [(c, 2 * c), (if c % 2 == 0 { 2 } else { 1 }, 6)] {
                if (i + j + groups) % 3 != 0 {
                    continue;
                }
                let (reads, writes) = conv_views(&window, [n, c, h, w], outputs, residual);
                let len = outputs * (c / groups) * window.taps();
                let kernel =
                    GroupedConv { window, groups, weights: weights(len), bias: bias(outputs), activation, residual };
                cases.push(Case::new(kernel, reads, writes));
            }
            let kinds = [
                PoolKind::Max,
                PoolKind::Average { count_include_pad: true },
                PoolKind::Average { count_include_pad: false },
            ];
            // One row more than floor mode gives, as in ceil mode, where the window still starts in the picture.
            let extra = usize::from(oh * window.stride[0] < h + window.pads[0]);
            let (src, dst) = (map(0, [n, c, h, w], 4, 1), map(1, [n, c, oh + extra, ow], 0, 6));
            cases.push(Case::new(Pool { kind: kinds[(i + j) % 3], window }, vec![src], vec![dst]));
        }
    }
    // Wide enough for several pixels per thread.
    let window = window([3, 3], [2, 2], [1; 4], [1, 1]);
    let (reads, writes) = conv_views(&window, [1, 30, 95, 93], 30, Residual::None);
    let (weights, bias) = (Arc::new(values(1, 270)), Arc::new(values(2, 30)));
    let activation = Activation::None;
    cases.push(Case::new(Depthwise { window, weights, bias, activation, residual: Residual::None }, reads, writes));

    let coordinates =
        [Coordinates::Asymmetric, Coordinates::HalfPixel, Coordinates::PytorchHalfPixel, Coordinates::AlignCorners];
    let interpolations = [
        Interpolation::Nearest(Rounding::Floor),
        Interpolation::Nearest(Rounding::Ceil),
        Interpolation::Nearest(Rounding::PreferFloor),
        Interpolation::Nearest(Rounding::PreferCeil),
        Interpolation::Linear,
    ];
    for coordinates in coordinates {
        for (i, interpolation) in interpolations.into_iter().enumerate() {
            for (from, to) in [([4, 3], [8, 6]), ([5, 4], [3, 7]), ([3, 1], [1, 5])] {
                let c = [3, 8, 13][i % 3];
                if to == [8, 6] && i % 2 == 1 {
                    continue;
                }
                let scale = [to[0] as f32 / from[0] as f32, to[1] as f32 / from[1] as f32];
                let (src, dst) = (map(0, [1, c, from[0], from[1]], 0, 3), map(1, [1, c, to[0], to[1]], 4, 3));
                cases.push(Case::new(Resize { interpolation, coordinates, scale }, vec![src], vec![dst]));
            }
        }
    }
}

/// Views of one shape that differ in memory: channels last, row-major, transposed, a misaligned slice.
fn layouts(buffer: usize, shape: [usize; 4]) -> Vec<View> {
    let mut shifted = View::row_major(BufferId(buffer), &shape);
    shifted.offset = 3;
    let [n, c, h, w] = shape;
    vec![
        View::channels_last(BufferId(buffer), &shape, 4),
        View::row_major(BufferId(buffer), &shape),
        View::row_major(BufferId(buffer), &[w, c, n, h]).transposed(&[2, 1, 3, 0]),
        shifted,
        View::row_major(BufferId(buffer), &[n, c + 3, h, 2 * w]).sliced(1, 2, c, 1).sliced(3, 1, w, 2),
    ]
}

fn elementwise(cases: &mut Vec<Case>) {
    use Function::{
        Above, Abs, Add, Ceil, Cos, Div, Equal, Erf, Exp, Floor, Greater, GreaterOrEqual, Identity, Less, LessOrEqual,
        Log, Max, Min, Modulo, Mul, Neg, Pow, Reciprocal, Remainder, Round, Sign, Sin, Softsign, Sqrt, Sub,
    };
    let shape = [2, 6, 3, 5];
    let flat = |buffer: usize| View::row_major(BufferId(buffer), &[3, 11]);
    let none = Activation::None;
    for function in [Identity, Exp, Neg, Abs, Floor, Ceil, Round, Erf, Sin, Cos, Sign, Softsign] {
        cases.push(Case::new(Elementwise { function, activation: none }, vec![flat(0)], vec![flat(1)]));
    }
    for function in [Log, Sqrt, Reciprocal] {
        cases.push(Case::new(Elementwise { function, activation: none }, vec![flat(0)], vec![flat(1)]).positive());
    }
    for function in [Div, Pow] {
        let reads = vec![flat(0), flat(1)];
        cases.push(Case::new(Elementwise { function, activation: none }, reads, vec![flat(2)]).positive());
    }
    for function in
        [Add, Sub, Mul, Min, Max, Remainder, Modulo, Greater, GreaterOrEqual, Less, LessOrEqual, Equal, Above]
    {
        cases.push(Case::new(Elementwise { function, activation: none }, vec![flat(0), flat(1)], vec![flat(2)]));
    }
    for activation in activations() {
        cases.push(Case::new(Elementwise { function: Identity, activation }, vec![flat(0)], vec![flat(1)]));
    }
    for (a, b) in layouts(0, shape).into_iter().zip(layouts(1, shape).into_iter().rev()) {
        for dst in layouts(2, shape) {
            let kernel = Elementwise { function: Sub, activation: Activation::Relu };
            cases.push(Case::new(kernel, vec![a.clone(), b.clone()], vec![dst]));
        }
    }
    // Broadcasts: a scalar, one value per channel, one per pixel.
    for dst in layouts(2, shape) {
        for small in [vec![], vec![6, 1, 1], vec![3, 5], vec![2, 1, 3, 1]] {
            let b = View::row_major(BufferId(1), &small).broadcast_to(&shape).expect("broadcast");
            let a = View::channels_last(BufferId(0), &shape, 4);
            cases.push(Case::new(Elementwise { function: Mul, activation: none }, vec![a, b], vec![dst.clone()]));
        }
    }
    for src in layouts(0, shape) {
        for dst in layouts(1, shape) {
            cases.push(Case::new(Copy, vec![src.clone()], vec![dst]));
        }
    }
    // Choices: as they lie, and by one condition for each column.
    for (i, dst) in layouts(3, shape).into_iter().enumerate() {
        let [condition, a, b] = [0, 1, 2].map(|buffer| layouts(buffer, shape)[(i + buffer) % 5].clone());
        let column = View::row_major(BufferId(0), &[5]).broadcast_to(&shape).expect("broadcast");
        cases.push(Case::new(Select, vec![condition, a.clone(), b.clone()], vec![dst.clone()]));
        cases.push(Case::new(Select, vec![column, a, b], vec![dst]));
    }
    for dst in layouts(0, shape) {
        cases.push(Case::new(Fill { value: -1.5 }, vec![], vec![dst]));
    }
    let scalar = |buffer: usize| View::row_major(BufferId(buffer), &[]);
    cases.push(Case::new(Copy, vec![scalar(0)], vec![scalar(1)]));
}

fn reductions(cases: &mut Vec<Case>) {
    let mut reduce = |kind: ReduceKind, src: View, axes: &[usize], channels_last: bool| {
        let mut shape = src.shape.clone();
        axes.iter().for_each(|&axis| shape[axis] = 1);
        let dst = if channels_last {
            View::channels_last(BufferId(1), &shape, 4)
        } else {
            View::row_major(BufferId(1), &shape)
        };
        cases.push(Case::new(Reduce { kind }, vec![src], vec![dst]));
    };
    let kinds = [
        ReduceKind::Sum,
        ReduceKind::Mean,
        ReduceKind::Max,
        ReduceKind::Min,
        ReduceKind::Product,
        ReduceKind::SumSquares,
        ReduceKind::MeanSquares,
        ReduceKind::SumAbs,
    ];
    for (i, src) in layouts(0, [2, 6, 3, 5]).into_iter().enumerate() {
        for (j, axes) in [&[1][..], &[2, 3], &[0, 3], &[0, 1, 2, 3]].into_iter().enumerate() {
            reduce(kinds[(3 * i + j) % kinds.len()], src.clone(), axes, (i + j / 2) % 2 == 0);
        }
    }
    for kind in kinds {
        // Enough values for a team of threads.
        reduce(kind, View::channels_last(BufferId(0), &[1, 13, 9, 11], 4), &[2, 3], true);
        reduce(kind, View::row_major(BufferId(0), &[3, 5, 70]), &[2], false);
    }
    let mut log = false;
    for (shape, axis) in [([2, 6, 3, 5], 1), ([2, 6, 3, 5], 3), ([1, 3, 2, 150], 3), ([1, 200, 1, 1], 1)] {
        for (src, dst) in layouts(0, shape).into_iter().zip(layouts(1, shape).into_iter().rev()) {
            log = !log;
            cases.push(Case::new(Softmax { axis, log }, vec![src], vec![dst]));
        }
    }
    for [batch, m, k, n] in [[1, 1, 1, 1], [2, 5, 7, 3], [3, 4, 8, 9], [1, 17, 3, 6]] {
        let a = View::row_major(BufferId(0), &[batch, m, k]);
        let b = View::row_major(BufferId(1), &[batch, k, n]);
        let dst = View::row_major(BufferId(2), &[batch, m, n]);
        let turned = View::row_major(BufferId(1), &[n, batch, k]).transposed(&[1, 2, 0]);
        let shared = View::row_major(BufferId(1), &[k, n]).broadcast_to(&[batch, k, n]);
        cases.push(Case::new(MatMul, vec![a.clone(), b], vec![dst.clone()]));
        cases.push(Case::new(MatMul, vec![a.clone(), turned], vec![dst.clone()]));
        if let Some(shared) = shared {
            cases.push(Case::new(MatMul, vec![a, shared], vec![dst]));
        }
    }
}

/// Elements chosen by place: indices, tables of places, grids.
fn places(cases: &mut Vec<Case>) {
    let shape = [2, 6, 3, 5];
    for (i, src) in layouts(0, shape).into_iter().enumerate() {
        for axis in 0..4 {
            let (max, last) = ((i + axis) % 2 == 0, i % 2 == 0);
            let mut kept = shape;
            kept[axis] = 1;
            let arg = Arg { axis, max, last };
            cases.push(Case::new(arg, vec![src.clone()], vec![layouts(1, kept)[(i + axis) % 5].clone()]));
            // Three indices for each place of the other axes; values below 1 are the index 0.
            let mut to = shape;
            to[axis] = 3;
            let reads = vec![src.clone(), layouts(1, to)[(i + 2) % 5].clone()];
            cases.push(Case::new(GatherElements { axis }, reads, vec![layouts(2, to)[axis].clone()]));
            let n = shape[axis];
            let table = vec![
                Taps::one(n - 1),
                Taps { bias: 0.5, taps: vec![(0, 0.25), (1, -2.0), (n / 2, 0.5), (n - 1, 0.125)] },
                Taps { bias: -3.0, taps: Vec::new() },
                Taps { bias: 0.0, taps: vec![(1, 1.0), (0, 1.0)] },
            ];
            to[axis] = table.len();
            let max = (i + axis) % 3 == 0;
            // A maximum of nothing is the smallest number, which f16 does not hold.
            let table = if max { table.into_iter().filter(|t| !t.taps.is_empty()).collect() } else { table };
            to[axis] = table.len();
            let kernel = Resample { axis, table: Arc::new(table), max };
            cases.push(Case::new(kernel, vec![src.clone()], vec![layouts(1, to)[(i + axis + 1) % 5].clone()]));
        }
    }
    for (i, outside) in [Outside::Zeros, Outside::Border, Outside::Reflection].into_iter().enumerate() {
        for (j, reach) in [1, 2, 4].into_iter().enumerate() {
            for align_corners in [false, true] {
                let kernel = GridSample { reach, outside, align_corners };
                let x = layouts(0, [2, 6, 3, 5])[i + usize::from(align_corners)].clone();
                let grid = View::row_major(BufferId(1), &[2, 4, 7, 2]);
                cases.push(Case::new(kernel, vec![x, grid], vec![layouts(2, [2, 6, 4, 7])[i + j].clone()]));
                let x = View::row_major(BufferId(0), &[1, 3, 4, 5, 3]);
                let grid = View::row_major(BufferId(1), &[1, 2, 3, 4, 3]);
                let dst = View::row_major(BufferId(2), &[1, 3, 2, 3, 4]);
                cases.push(Case::new(kernel, vec![x, grid], vec![dst]));
            }
        }
    }
}

/// The largest elements of windows and their places, of one to three spatial axes.
fn window_maxima(cases: &mut Vec<Case>) {
    let found = [Found::Value, Found::Index { column_major: false }, Found::Index { column_major: true }];
    for (i, window) in windows().into_iter().enumerate() {
        let (stride, dilation, before) = (window.stride.to_vec(), window.dilation.to_vec(), window.pads[..2].to_vec());
        let [oh, ow] = out_size(&window, [7, 9]);
        for (j, found) in found.into_iter().enumerate() {
            let (kernel, stride, dilation, before) =
                (window.kernel.to_vec(), stride.clone(), dilation.clone(), before.clone());
            let kernel = WindowMax { found, kernel, stride, dilation, before };
            let (src, dst) = (layouts(0, [2, 6, 7, 9])[i].clone(), layouts(1, [2, 6, oh, ow])[(i + j) % 5].clone());
            cases.push(Case::new(kernel, vec![src], vec![dst]));
        }
    }
    let view = |buffer: usize, shape: &[usize]| View::row_major(BufferId(buffer), shape);
    for found in found {
        let kernel = WindowMax { found, kernel: vec![3], stride: vec![2], dilation: vec![1], before: vec![1] };
        cases.push(Case::new(kernel, vec![view(0, &[2, 3, 8])], vec![view(1, &[2, 3, 4])]));
        let (kernel, stride, before) = (vec![2, 3, 2], vec![1, 2, 1], vec![0, 1, 0]);
        let kernel = WindowMax { found, kernel, stride, dilation: vec![1; 3], before };
        cases.push(Case::new(kernel, vec![view(0, &[2, 3, 4, 6, 5])], vec![view(1, &[2, 3, 3, 3, 4])]));
    }
}

/// Convolutions with weights in memory, of one to three spatial axes, and transposed ones.
fn convolutions_in_memory(cases: &mut Vec<Case>) {
    let view = |buffer: usize, shape: &[usize]| View::row_major(BufferId(buffer), shape);
    for (i, window) in windows().into_iter().enumerate() {
        let (shape, outputs) = ([2, 6, 7, 9], [6, 12, 4, 2, 8][i]);
        let groups = if i % 2 == 0 { 2 } else { 1 };
        let [oh, ow] = out_size(&window, [7, 9]);
        let [kh, kw] = window.kernel;
        let (stride, dilation) = (window.stride.to_vec(), window.dilation.to_vec());
        let kernel = ConvNd { groups, stride, dilation, before: window.pads[..2].to_vec(), transposed: false };
        let mut reads = vec![layouts(0, shape)[i].clone(), view(1, &[outputs, 6 / groups, kh, kw])];
        if i % 2 == 0 {
            reads.push(view(2, &[outputs]));
        }
        cases.push(Case::new(kernel.clone(), reads.clone(), vec![layouts(3, [2, outputs, oh, ow])[4 - i].clone()]));
        // The transpose: as many outputs as the taps of all inputs reach.
        let size = |a: usize, n: usize| {
            (n - 1) * window.stride[a] + (window.kernel[a] - 1) * window.dilation[a] + 1 - window.pads[a].min(1)
        };
        let before = window.pads[..2].iter().map(|&p| p.min(1)).collect();
        reads[1] = view(1, &[6, outputs / groups, kh, kw]);
        let to = [2, outputs, size(0, 7), size(1, 9)];
        let kernel = ConvNd { before, transposed: true, ..kernel };
        cases.push(Case::new(kernel, reads, vec![layouts(3, to)[i].clone()]));
    }
    for transposed in [false, true] {
        let kernel = ConvNd { groups: 1, stride: vec![1], dilation: vec![2], before: vec![1], transposed };
        cases.push(Case::new(kernel, vec![view(0, &[1, 3, 8]), view(1, &[3, 3, 3])], vec![view(2, &[1, 3, 6])]));
        let kernel =
            ConvNd { groups: 3, stride: vec![1, 2, 1], dilation: vec![1; 3], before: vec![0, 1, 0], transposed };
        let reads = vec![view(0, &[2, 3, 4, 6, 5]), view(1, &[3, 1, 2, 3, 2]), view(2, &[3])];
        cases.push(Case::new(kernel, reads, vec![view(3, &[2, 3, 3, 3, 4])]));
    }
}

/// Every case.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    convolutions(&mut cases);
    other_feature_maps(&mut cases);
    elementwise(&mut cases);
    reductions(&mut cases);
    places(&mut cases);
    window_maxima(&mut cases);
    convolutions_in_memory(&mut cases);
    cases
}

/// A square convolution of a common shape, for measurements.
#[allow(dead_code, reason = "used by one of the tests that include this file")]
pub fn conv_layer(k: usize, stride: usize, inputs: usize, outputs: usize, side: usize) -> (Conv, Step) {
    let pad = k / 2;
    let w = window([k, k], [stride, stride], [pad; 4], [1, 1]);
    let conv = conv_of(w, inputs, outputs, Activation::Silu, Residual::None, 1);
    let (src, dst) = (map(0, [1, inputs, side * stride, side * stride], 0, 0), map(1, [1, outputs, side, side], 0, 0));
    let step =
        Step { node: "layer".into(), kernel: Arc::new(conv.clone()), reads: vec![src], writes: vec![dst], macs: 0 };
    (conv, step)
}
