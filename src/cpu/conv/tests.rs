use std::sync::Arc;

use super::*;
use crate::cpu::testing::*;
use crate::infer::activation::Activation;

struct Case {
    batch: usize,
    ins: usize,
    outs: usize,
    size: [usize; 2],
    window: Window,
    activation: Activation,
    residual: Residual,
    gap: usize,
}

fn window(kernel: usize, stride: usize, pads: [usize; 4], dilation: usize) -> Window {
    Window { kernel: [kernel; 2], stride: [stride; 2], pads, dilation: [dilation; 2] }
}

fn check(case: &Case) {
    let &Case { batch, ins, outs, size: [h, w], window, activation, residual, gap } = case;
    let (Some(oh), Some(ow)) = (output_len(&window, 0, h), output_len(&window, 1, w)) else {
        return;
    };
    let taps = window.kernel[0] * window.kernel[1];
    let scale = 2.0 / ((ins * taps) as f32).sqrt();
    let weights: Vec<f32> = values(1, outs * ins * taps).iter().map(|x| x * scale).collect();
    let bias = values(2, outs);
    let src = values(3, batch * ins * h * w);
    let added = values(4, batch * outs * oh * ow);
    let mut wanted = naive_conv(&window, 1, (&src, [batch, ins, h, w]), &weights, &bias, [oh, ow]);
    finish(&mut wanted, &added, activation, residual);
    let conv = Conv { window, weights: Arc::new(weights), bias: Arc::new(bias), activation, residual };
    let mut reads = vec![map(0, [batch, ins, h, w], gap, gap)];
    if residual != Residual::None {
        reads.push(map(1, [batch, outs, oh, ow], 1, gap));
    }
    let write = map(reads.len(), [batch, outs, oh, ow], 2 * gap, gap);
    let step = step(reads, vec![write]);
    for isa in Isa::available() {
        let fast = ConvFast::new(&conv, &step, isa).expect("feature maps");
        let got = outputs(&fast, &step, &[&src, &added]);
        let what = format!("{} {ins}->{outs} {h}x{w} {window:?} {residual:?} gap {gap}", fast.label());
        assert_close(&got, &wanted, 1e-5, &what);
    }
}

#[test]
fn odd_channels_and_windows_agree_with_a_naive_loop() {
    let plain = Activation::None;
    for ins in [1, 3, 5, 7, 13, 16, 33, 64] {
        for outs in [1, 3, 5, 7, 13, 16, 33, 64] {
            for (kernel, stride) in [(1, 1), (1, 2), (3, 1), (3, 2), (5, 1)] {
                let size = if kernel == 5 { [6, 9] } else { [5, 8] };
                let pads = [kernel / 2, kernel / 2, kernel / 2, 0];
                let window = window(kernel, stride, pads, 1);
                let (activation, residual) = (plain, Residual::None);
                check(&Case { batch: 1, ins, outs, size, window, activation, residual, gap: ins % 3 });
            }
        }
    }
}

#[test]
fn odd_pictures_pads_and_dilations_agree_with_a_naive_loop() {
    let windows = [
        window(3, 1, [1, 1, 1, 1], 1),
        window(3, 2, [0, 0, 1, 1], 1),
        window(3, 1, [2, 0, 1, 3], 1),
        window(3, 1, [2, 2, 2, 2], 2),
        window(5, 2, [2, 1, 2, 1], 1),
        window(7, 1, [3, 3, 3, 3], 1),
        Window { kernel: [1, 3], stride: [1, 2], pads: [0, 1, 0, 1], dilation: [1, 1] },
        Window { kernel: [3, 1], stride: [2, 1], pads: [4, 0, 4, 0], dilation: [3, 1] },
    ];
    for window in windows {
        for size in [[1, 1], [1, 7], [9, 1], [4, 31], [13, 5]] {
            for gap in [0, 3] {
                let (activation, residual) = (Activation::Relu, Residual::None);
                check(&Case { batch: 2, ins: 5, outs: 19, size, window, activation, residual, gap });
            }
        }
    }
}

#[test]
fn spans_and_their_borders_agree_with_a_naive_loop() {
    for (ins, outs) in [(3, 16), (3, 5), (8, 24), (5, 33), (16, 70)] {
        for (kernel, stride) in [(3, 2), (3, 1), (5, 2), (1, 1), (1, 2)] {
            for (pads, gap) in [([1, 1, 1, 1], 0), ([0, 0, 1, 1], 2), ([2, 1, 0, 2], 0)] {
                let pads = if kernel == 1 { [0; 4] } else { pads };
                let size = if stride == 1 { [5, 40] } else { [9, 75] };
                for (activation, residual) in [
                    (Activation::Relu, Residual::None),
                    (Activation::Silu, Residual::None),
                    (Activation::None, Residual::AfterActivation),
                ] {
                    let window = window(kernel, stride, pads, 1);
                    check(&Case { batch: 2, ins, outs, size, window, activation, residual, gap });
                }
            }
        }
    }
}

#[test]
fn every_activation_and_residual_agrees_with_its_formula() {
    for activation in activations() {
        for residual in [Residual::None, Residual::BeforeActivation, Residual::AfterActivation] {
            let window = window(3, 1, [1; 4], 1);
            check(&Case { batch: 1, ins: 6, outs: 37, size: [5, 6], window, activation, residual, gap: 1 });
        }
    }
}

#[test]
fn threads_divide_pixels_and_channels() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
    pool.install(|| {
        for (size, outs) in [([17, 23], 40), ([1, 1], 200), ([2, 2], 100)] {
            let window = window(3, 1, [1; 4], 1);
            let (activation, residual) = (Activation::Silu, Residual::None);
            check(&Case { batch: 1, ins: 64, outs, size, window, activation, residual, gap: 0 });
        }
    });
}

#[test]
fn what_is_no_feature_map_is_left_to_the_twin() {
    let window = window(1, 1, [0; 4], 1);
    let conv = Conv {
        window,
        weights: Arc::new(vec![0.0; 6]),
        bias: Arc::new(vec![0.0; 2]),
        activation: Activation::None,
        residual: Residual::None,
    };
    let good = map(0, [1, 3, 4, 4], 0, 0);
    let mut planar = good.clone();
    planar.strides = vec![48, 16, 4, 1];
    let dst = map(1, [1, 2, 4, 4], 0, 0);
    assert!(prepare(&conv, &step(vec![good], vec![dst.clone()]), Isa::Portable).is_some());
    assert!(prepare(&conv, &step(vec![planar], vec![dst]), Isa::Portable).is_none());
}
