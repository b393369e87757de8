//! Winograd's form against a naive loop, with filters of both kinds.

use std::sync::Arc;

use super::*;
use crate::cpu::testing::*;
use crate::infer::activation::Activation;
use crate::infer::kernels::conv::{Residual, Window};

fn check(
    [batch, ins, outs]: [usize; 3],
    [h, w]: [usize; 2],
    pads: [usize; 4],
    activation: Activation,
    residual: Residual,
    gap: usize,
) {
    let window = Window { kernel: [3; 2], stride: [1; 2], pads, dilation: [1; 2] };
    let (Some(oh), Some(ow)) = (output_len(&window, 0, h), output_len(&window, 1, w)) else {
        return;
    };
    let scale = 2.0 / ((ins * 9) as f32).sqrt();
    let weights: Vec<f32> = values(1, outs * ins * 9).iter().map(|x| x * scale).collect();
    let bias = values(2, outs);
    let (src, added) = (values(3, batch * ins * h * w), values(4, batch * outs * oh * ow));
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
        for is_lean in [false, true] {
            let fast = Winograd::plan(&conv, &step, isa).expect("feature maps").with_filters(&conv.weights, is_lean);
            let got = outputs(&fast, &step, &[&src, &added]);
            let what = format!("{} {ins}->{outs} {h}x{w} {pads:?} {residual:?} gap {gap}", fast.label());
            assert_close(&got, &wanted, 1e-5, &what);
        }
    }
}

#[test]
fn odd_channels_and_pictures_agree_with_a_naive_loop() {
    for (ins, outs) in [(1, 1), (3, 5), (7, 13), (16, 16), (33, 40), (64, 80)] {
        for size in [[1, 1], [3, 2], [4, 4], [5, 7], [13, 9]] {
            check([1, ins, outs], size, [1; 4], Activation::None, Residual::None, ins % 3);
        }
    }
    for pads in [[0; 4], [1, 0, 0, 1], [2, 3, 1, 0]] {
        check([2, 5, 19], [7, 10], pads, Activation::Relu, Residual::None, 1);
    }
}

#[test]
fn every_activation_and_residual_agrees_with_its_formula() {
    for activation in activations() {
        for residual in [Residual::None, Residual::BeforeActivation, Residual::AfterActivation] {
            check([1, 6, 37], [5, 6], [1; 4], activation, residual, 1);
        }
    }
}

#[test]
fn threads_and_blocks_divide_the_tiles() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
    pool.install(|| {
        for (size, channels) in [([61, 43], 24), ([6, 6], 200)] {
            check([1, channels, 40], size, [1; 4], Activation::Silu, Residual::None, 0);
        }
    });
}

/// Sessions share packed weights by their order: one that keeps filters as they are must not get those of the direct sum,
/// which are as many.
#[test]
fn forms_of_the_same_weights_do_not_take_each_others_order() {
    let (channels, size) = (128, 12);
    let window = Window { kernel: [3; 2], stride: [1; 2], pads: [1; 4], dilation: [1; 2] };
    let weights: Vec<f32> = values(1, channels * channels * 9).iter().map(|x| x * 0.05).collect();
    let (bias, src) = (values(2, channels), values(3, channels * size * size));
    let shape = [1, channels, size, size];
    let wanted = naive_conv(&window, 1, (&src, shape), &weights, &bias, [size, size]);
    let (activation, residual) = (Activation::None, Residual::None);
    let conv = Conv { window, weights: Arc::new(weights), bias: Arc::new(bias), activation, residual };
    let step = step(vec![map(0, shape, 0, 0)], vec![map(1, shape, 0, 0)]);
    for isa in Isa::available() {
        // All at once, as `--tune` has them.
        let forms = crate::cpu::conv::forms(&conv, &step, isa);
        assert!(forms.len() == 2 && forms.iter().any(|form| form.label().contains("lean")), "{}", isa.name());
        for form in forms {
            assert_close(&outputs(&*form, &step, &[&src]), &wanted, 1e-5, &form.label());
        }
    }
}

#[test]
fn it_is_used_where_it_pays() {
    let used = |ins: usize, outs: usize, size: usize, window: Window| {
        let weights = Arc::new(vec![0.0; ins * outs * window.taps()]);
        let (bias, activation, residual) = (Arc::new(vec![0.0; outs]), Activation::None, Residual::None);
        let conv = Conv { window, weights, bias, activation, residual };
        let maps = step(vec![map(0, [1, ins, size, size], 0, 0)], vec![map(1, [1, outs, size, size], 0, 0)]);
        Winograd::new(&conv, &maps, Isa::Portable, true).is_some()
    };
    let window = |kernel, dilation| Window {
        kernel: [kernel; 2],
        stride: [1; 2],
        pads: [kernel / 2 * dilation; 4],
        dilation: [dilation; 2],
    };
    assert!(used(64, 64, 40, window(3, 1)) && used(32, 32, 13, window(3, 1)));
    assert!(!used(3, 16, 40, window(3, 1)), "few input channels");
    assert!(!used(64, 64, 1, window(3, 1)), "one pixel of a tile");
    assert!(!used(64, 64, 40, window(3, 2)) && !used(64, 64, 40, window(5, 1)));
    assert!(used(600, 600, 13, window(3, 1)), "filters that are transformed for each block");
    assert!(!used(600, 600, 8, window(3, 1)), "filters too large, and too few tiles to transform them for");
}
