//! What the tests of the fast kernels share: steps on feature maps with gaps between the pixels, and pseudo-random
//! values.

use std::sync::Arc;

use super::Memory;
use crate::infer::activation::Activation;
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::conv::Residual;
use crate::infer::kernels::copy::Copy;
use crate::infer::plan::step::Step;
use crate::infer::plan::view::{BufferId, View};

/// Stands in every element that no view covers.
pub const SENTINEL: f32 = 12345.0;

/// Values in [−1, 1), the same for the same seed.
pub fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// A feature map `[n, c, h, w]` of the buffer, `before` elements in, `gap` elements between pixels.
pub fn map(buffer: usize, [n, c, h, w]: [usize; 4], before: usize, gap: usize) -> View {
    let p = before + c + gap;
    View { buffer: BufferId(buffer), offset: before, shape: vec![n, c, h, w], strides: vec![h * w * p, 1, w * p, p] }
}

/// All elements of a view, in row-major order of its axes, as positions in the buffer.
pub fn positions(view: &View) -> Vec<usize> {
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

/// A step on these views; buffer `i` belongs to view `i`, reads first. The step's own kernel is not used.
pub fn step(reads: Vec<View>, writes: Vec<View>) -> Step {
    Step { node: "test".into(), kernel: Arc::new(Copy), reads, writes, macs: 0 }
}

/// Runs the kernel on `inputs` (row-major values of each read) and gives the row-major values of the write. Asserts
/// that nothing else was written.
pub fn outputs(kernel: &dyn FastKernel, step: &Step, inputs: &[&[f32]]) -> Vec<f32> {
    let views: Vec<&View> = step.reads.iter().chain(&step.writes).collect();
    let mut len = 0;
    let spans = views
        .iter()
        .map(|view| {
            let span = (len, view.end() + 7);
            len += span.1;
            span
        })
        .collect();
    let mut memory = Memory::new(len, spans);
    for view in &views {
        memory.cells(view.buffer).iter().for_each(|cell| cell.set(SENTINEL));
    }
    for (view, values) in step.reads.iter().zip(inputs) {
        let cells = memory.cells(view.buffer);
        for (at, &x) in positions(view).into_iter().zip(*values) {
            cells[at].set(x);
        }
    }
    kernel.run(step, &memory);
    let view = &step.writes[0];
    let cells = memory.cells(view.buffer);
    let places = positions(view);
    let outputs = places.iter().map(|&at| cells[at].get()).collect();
    places.iter().for_each(|&at| cells[at].set(SENTINEL));
    assert!(cells.iter().all(|cell| cell.get() == SENTINEL), "{}: wrote outside its view", kernel.label());
    outputs
}

/// Asserts that `got` is within `tolerance` of the largest wanted value.
pub fn assert_close(got: &[f32], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    let scale = wanted.iter().fold(1e-3f64, |m, w| m.max(w.abs()));
    for (i, (&g, &w)) in got.iter().zip(wanted).enumerate() {
        assert!((f64::from(g) - w).abs() <= tolerance * scale, "{what}: element {i} is {g}, not {w}");
    }
}

/// What follows a convolution's sums: the activation, and the residual before or after it.
pub fn finish(sums: &mut [f64], added: &[f32], activation: Activation, residual: Residual) {
    for (y, &r) in sums.iter_mut().zip(added) {
        *y = match residual {
            Residual::None => activate_f64(activation, *y),
            Residual::BeforeActivation => activate_f64(activation, *y + f64::from(r)),
            Residual::AfterActivation => activate_f64(activation, *y) + f64::from(r),
        };
    }
}

/// The naive convolution in f64: `src` is `[n, c, h, w]`, weights `[out][in / groups][ky][kx]`.
pub fn naive_conv(
    window: &crate::infer::kernels::conv::Window,
    groups: usize,
    src: (&[f32], [usize; 4]),
    weights: &[f32],
    bias: &[f32],
    [out_h, out_w]: [usize; 2],
) -> Vec<f64> {
    let (x, [batch, channels, h, w]) = src;
    let [kh, kw] = window.kernel;
    let (ins, outs) = (channels / groups, bias.len());
    let mut y = Vec::new();
    for n in 0..batch {
        for o in 0..outs {
            let first = o / (outs / groups) * ins;
            for oy in 0..out_h {
                for ox in 0..out_w {
                    let mut sum = f64::from(bias[o]);
                    for (c, ky, kx) in (0..ins).flat_map(|c| (0..kh * kw).map(move |t| (c, t / kw, t % kw))) {
                        let iy = (oy * window.stride[0] + ky * window.dilation[0]) as isize - window.pads[0] as isize;
                        let ix = (ox * window.stride[1] + kx * window.dilation[1]) as isize - window.pads[1] as isize;
                        if iy >= 0 && ix >= 0 && (iy as usize) < h && (ix as usize) < w {
                            let at = ((n * channels + first + c) * h + iy as usize) * w + ix as usize;
                            sum += f64::from(x[at]) * f64::from(weights[((o * ins + c) * kh + ky) * kw + kx]);
                        }
                    }
                    y.push(sum);
                }
            }
        }
    }
    y
}

/// Size of the output of a window along one axis; `None` if no window fits.
pub fn output_len(window: &crate::infer::kernels::conv::Window, axis: usize, len: usize) -> Option<usize> {
    let padded = len + window.pads[axis] + window.pads[axis + 2];
    Some(padded.checked_sub((window.kernel[axis] - 1) * window.dilation[axis] + 1)? / window.stride[axis] + 1)
}

/// Every activation, for the epilogues.
pub fn activations() -> Vec<crate::infer::activation::Activation> {
    use crate::infer::activation::Activation::*;
    vec![
        None,
        Relu,
        Clip { lo: -0.5, hi: 0.75 },
        LeakyRelu { alpha: 0.1 },
        Sigmoid,
        Silu,
        HardSigmoid { alpha: 0.2, beta: 0.5 },
        HardSwish,
        Mish,
        Tanh,
        Elu { alpha: 1.5 },
        Softplus,
        Gelu,
        GeluTanh,
    ]
}

/// Activation in f64, written from the formulas and not from the f32 code.
pub fn activate_f64(activation: crate::infer::activation::Activation, x: f64) -> f64 {
    use crate::infer::activation::Activation::*;
    match activation {
        None => x,
        Relu => x.max(0.0),
        Clip { lo, hi } => x.max(f64::from(lo)).min(f64::from(hi)),
        LeakyRelu { alpha } if x < 0.0 => f64::from(alpha) * x,
        LeakyRelu { .. } => x,
        Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Silu => x / (1.0 + (-x).exp()),
        HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
        HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Mish => x * x.exp().ln_1p().tanh(),
        Tanh => x.tanh(),
        Elu { alpha } if x < 0.0 => f64::from(alpha) * x.exp_m1(),
        Elu { .. } => x,
        Softplus => x.exp().ln_1p(),
        Gelu => {
            // erf by its Taylor series; the tests' arguments are small.
            let z = x / std::f64::consts::SQRT_2;
            let (mut term, mut sum) = (z, z);
            for n in 1..200 {
                term *= -z * z / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            0.5 * x * (1.0 + sum * std::f64::consts::FRAC_2_SQRT_PI)
        }
        GeluTanh => 0.5 * x * (1.0 + (0.797_884_560_8 * (x + 0.044_715 * x.powi(3))).tanh()),
    }
}
