//! What the tests of the twins share: views with gaps around them, pseudo-random values, a naive convolution in f64.

use std::cell::Cell;
use std::sync::Arc;

use super::conv::{Residual, Window};
use super::copy::Copy;
use crate::infer::activation::Activation;
use crate::infer::kernel::Kernel;
use crate::infer::plan::step::Step;
use crate::infer::plan::view::{BufferId, View};

/// Shapes `[N, C, H, W]` with odd channels, one pixel, and sides that differ.
pub const SHAPES: [[usize; 4]; 6] =
    [[1, 1, 1, 1], [1, 3, 5, 4], [2, 5, 4, 7], [1, 7, 9, 3], [1, 13, 3, 5], [1, 24, 4, 4]];

/// Windows without padding, with symmetric, asymmetric and wide padding, with strides and dilation.
pub const WINDOWS: [Window; 5] = [
    Window { kernel: [1, 1], stride: [1, 1], pads: [0; 4], dilation: [1, 1] },
    Window { kernel: [3, 3], stride: [1, 1], pads: [1; 4], dilation: [1, 1] },
    Window { kernel: [3, 3], stride: [2, 2], pads: [1, 0, 2, 2], dilation: [1, 1] },
    Window { kernel: [2, 5], stride: [1, 3], pads: [1, 2, 1, 3], dilation: [1, 1] },
    Window { kernel: [3, 2], stride: [2, 1], pads: [2, 1, 2, 1], dilation: [2, 2] },
];

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

/// A feature map with `before` elements in front of each pixel and `gap` behind it.
pub fn map(buffer: usize, [n, c, h, w]: [usize; 4], before: usize, gap: usize) -> View {
    let p = before + c + gap;
    View { buffer: BufferId(buffer), offset: before, shape: vec![n, c, h, w], strides: vec![h * w * p, 1, w * p, p] }
}

/// Height and width of the output of a window in floor mode; 0 where it does not fit.
pub fn out_size(w: &Window, size: [usize; 2]) -> [usize; 2] {
    [0, 1].map(|axis| {
        let reach = (w.kernel[axis] - 1) * w.dilation[axis] + 1;
        (size[axis] + w.pads[axis] + w.pads[axis + 2]).checked_sub(reach).map_or(0, |rest| rest / w.stride[axis] + 1)
    })
}

/// Coordinates of element `flat` in row-major order.
pub fn coordinates(shape: &[usize], flat: usize) -> Vec<usize> {
    let mut rest = flat;
    let mut at = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        at[axis] = rest % shape[axis];
        rest /= shape[axis];
    }
    at
}

/// Runs a twin on row-major values and gives row-major values. Whatever lies outside the view that is written must
/// stay untouched; whatever lies outside those that are read is NaN.
pub fn run(kernel: impl Kernel + Clone + 'static, inputs: &[(View, &[f32])], dst: &View) -> Vec<f32> {
    let reads: Vec<View> = inputs.iter().map(|(view, _)| view.clone()).collect();
    let step =
        Step { node: "test".into(), kernel: Arc::new(Copy), reads: reads.clone(), writes: vec![dst.clone()], macs: 0 };
    let memory = |view: &View| vec![Cell::new(f32::NAN); view.end() + 3];
    let sources: Vec<Vec<Cell<f32>>> = inputs
        .iter()
        .map(|(view, values)| {
            let cells = memory(view);
            for (flat, &x) in values.iter().enumerate() {
                cells[view.index(&coordinates(&view.shape, flat))].set(x);
            }
            cells
        })
        .collect();
    let target = memory(dst);
    let cells: Vec<&[Cell<f32>]> = sources.iter().map(Vec::as_slice).collect();
    kernel.run_twin(&step, &cells, &[&target]);
    let result =
        (0..dst.len()).map(|flat| target[dst.index(&coordinates(&dst.shape, flat))].replace(f32::NAN)).collect();
    assert!(target.iter().all(|cell| cell.get().is_nan()), "{kernel:?} wrote outside its view");
    result
}

/// Asserts that every value is within `tolerance` of the largest.
pub fn assert_close(got: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-30, |m: f64, x| m.max(x.abs()));
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(g) - e).abs() <= tolerance * largest, "{what}: element {i}: {g}, expected {e}");
    }
}

/// A convolution and what it works on, row-major, NCHW.
pub struct NaiveConv<'a> {
    pub window: Window,
    pub groups: usize,
    pub shape: [usize; 4],
    pub x: &'a [f32],
    pub weights: &'a [f32],
    pub bias: &'a [f32],
    pub activation: Activation,
    pub residual: Residual,
    pub other: &'a [f32],
}

impl NaiveConv<'_> {
    /// Seven loops with products in f64.
    pub fn run(&self) -> Vec<f64> {
        let [batch, c, h, w] = self.shape;
        let [oh, ow] = out_size(&self.window, [h, w]);
        let (outputs, inputs) = (self.bias.len(), c / self.groups);
        let [kh, kw] = self.window.kernel;
        let mut result = Vec::new();
        for flat in 0..batch * outputs * oh * ow {
            let at = coordinates(&[batch, outputs, oh, ow], flat);
            let (n, o) = (at[0], at[1]);
            let mut sum = f64::from(self.bias[o]);
            for i in 0..inputs {
                let channel = o / (outputs / self.groups) * inputs + i;
                for ky in 0..kh {
                    for kx in 0..kw {
                        let y = (at[2] * self.window.stride[0] + ky * self.window.dilation[0]) as isize
                            - self.window.pads[0] as isize;
                        let x = (at[3] * self.window.stride[1] + kx * self.window.dilation[1]) as isize
                            - self.window.pads[1] as isize;
                        if y < 0 || x < 0 || y >= h as isize || x >= w as isize {
                            continue;
                        }
                        let value = self.x[((n * c + channel) * h + y as usize) * w + x as usize];
                        sum += f64::from(value) * f64::from(self.weights[((o * inputs + i) * kh + ky) * kw + kx]);
                    }
                }
            }
            let act = |x: f64| f64::from(self.activation.apply(x as f32));
            result.push(match self.residual {
                Residual::None => act(sum),
                Residual::BeforeActivation => act(sum + f64::from(self.other[flat])),
                Residual::AfterActivation => act(sum) + f64::from(self.other[flat]),
            });
        }
        result
    }
}

/// Every window on every shape, with the residuals in turn: calls `make(window, shape, outputs)` for the kernel, its
/// groups, weights and bias, and compares it with the naive loops. `outputs` gives output channels from input channels.
pub fn check_convolution<K: Kernel + Clone + 'static>(
    outputs: impl Fn(usize) -> usize,
    groups: impl Fn(usize) -> usize,
    make: impl Fn(Window, usize, Arc<Vec<f32>>, Arc<Vec<f32>>, Activation, Residual) -> K,
) {
    let mut compared = 0;
    for (i, window) in WINDOWS.into_iter().enumerate() {
        for (j, shape) in SHAPES.into_iter().enumerate() {
            let [n, c, h, w] = shape;
            let [oh, ow] = out_size(&window, [h, w]);
            if oh * ow == 0 {
                continue;
            }
            let (outputs, groups) = (outputs(c), groups(c));
            let residual = [Residual::None, Residual::BeforeActivation, Residual::AfterActivation][(i + j) % 3];
            let activation = [Activation::None, Activation::Silu][j % 2];
            let weights = Arc::new(values(1, outputs * (c / groups) * window.taps()));
            let bias = Arc::new(values(2, outputs));
            let (x, other) = (values(3, n * c * h * w), values(4, n * outputs * oh * ow));
            let naive = NaiveConv {
                window,
                groups,
                shape,
                x: &x,
                weights: &weights,
                bias: &bias,
                activation,
                residual,
                other: &other,
            };
            let expected = naive.run();
            let mut inputs = vec![(map(0, shape, 2, 1), x.as_slice())];
            if residual != Residual::None {
                inputs.push((map(1, [n, outputs, oh, ow], 0, 3), other.as_slice()));
            }
            let kernel = make(window, groups, weights.clone(), bias.clone(), activation, residual);
            let got = run(kernel.clone(), &inputs, &map(2, [n, outputs, oh, ow], 1, 2));
            assert_close(&got, &expected, 1e-6, &format!("{} {shape:?}", kernel.label()));
            compared += 1;
        }
    }
    assert!(compared >= 25);
}
