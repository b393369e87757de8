//! Every fast kernel on bytes against its twin, to the last bit, on odd shapes.

use super::super::simd::dots::{DotKernel, Inputs};
use super::super::{Isa, Memory};
use crate::infer::activation::Activation;
use crate::infer::bytes::{ByteScale, FixedPoint, Table};
use crate::infer::kernel::{ByteKernel, FastKernel, OnBytes};
use crate::infer::kernels::bytes::arithmetic::{ByteArithmetic, ByteFunction};
use crate::infer::kernels::bytes::average::ByteAverage;
use crate::infer::kernels::bytes::constant::ByteConstant;
use crate::infer::kernels::bytes::conv::ByteConv;
use crate::infer::kernels::bytes::convert::{Dequantise, Quantise};
use crate::infer::kernels::bytes::copy::ByteCopy;
use crate::infer::kernels::bytes::max_pool::ByteMaxPool;
use crate::infer::kernels::bytes::nearest::ByteNearest;
use crate::infer::kernels::conv::Window;
use crate::infer::kernels::resize::{Coordinates, Interpolation, Resize, Rounding};
use crate::infer::plan::step::Step;
use crate::infer::plan::view::{BufferId, View};
use crate::infer::tensor::DType;
use std::sync::Arc;

const WINDOWS: [Window; 5] = [
    Window { kernel: [1, 1], stride: [1, 1], pads: [0; 4], dilation: [1, 1] },
    Window { kernel: [3, 3], stride: [1, 1], pads: [1; 4], dilation: [1, 1] },
    Window { kernel: [3, 3], stride: [2, 2], pads: [1, 0, 2, 2], dilation: [1, 1] },
    Window { kernel: [2, 5], stride: [1, 3], pads: [1, 2, 1, 3], dilation: [1, 1] },
    Window { kernel: [3, 2], stride: [2, 1], pads: [2, 1, 2, 1], dilation: [2, 2] },
];

fn random(seed: usize, len: usize) -> Vec<u8> {
    let mut state = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as u8
        })
        .collect()
}

fn scale(signed: bool, scale: f32, zero: f32) -> ByteScale {
    ByteScale::new(if signed { DType::I8 } else { DType::U8 }, scale, zero).expect("a scale")
}

/// A feature map of the buffer with gaps around its pixels.
fn map(buffer: usize, [n, c, h, w]: [usize; 4], before: usize, gap: usize) -> View {
    let p = before + c + gap;
    View { buffer: BufferId(buffer), offset: before, shape: vec![n, c, h, w], strides: vec![h * w * p, 1, w * p, p] }
}

/// Memory after a step on random bytes, by the twin or by a fast form.
fn after(step: &Step, fast: Option<&dyn FastKernel>) -> Vec<u32> {
    let views: Vec<&View> = step.reads.iter().chain(&step.writes).collect();
    let mut len = 0;
    let spans = views
        .iter()
        .map(|view| {
            len += view.end() + 5;
            (len - view.end() - 5, view.end() + 5)
        })
        .collect();
    let mut memory = Memory::new(len, spans);
    for (i, view) in views.iter().enumerate() {
        let cells = memory.cells(view.buffer);
        let bytes = random(i, 4 * cells.len());
        for (cell, byte) in cells.iter().zip(bytes.chunks_exact(4)) {
            // As bytes anything, as f32 a number of some size.
            cell.set(f32::from_bits(u32::from_le_bytes([byte[0], byte[1], byte[2], 0x3f + (byte[3] & 0x81)])));
        }
    }
    match fast {
        None => {
            let ids: Vec<BufferId> = views.iter().map(|view| view.buffer).collect();
            let cells = memory.cells_many(&ids);
            let (reads, writes) = cells.split_at(step.reads.len());
            step.kernel.run_twin(step, reads, writes);
        }
        Some(fast) => fast.run(step, &memory),
    }
    views.iter().flat_map(|v| memory.slice_mut(v.buffer).iter().map(|x| x.to_bits()).collect::<Vec<_>>()).collect()
}

fn step_of(kernel: impl ByteKernel + 'static, reads: Vec<View>, write: View) -> Step {
    Step { node: "test".into(), kernel: Arc::new(OnBytes(kernel)), reads, writes: vec![write], macs: 0 }
}

/// The fast form of every instruction set leaves what the twin leaves, in and around the views.
fn check(kernel: impl ByteKernel + 'static, reads: Vec<View>, write: View) {
    let what = format!("{} {:?} {:?}", kernel.label(), reads[0].shape, write.shape);
    let step = step_of(kernel, reads, write);
    let wanted = after(&step, None);
    for isa in Isa::available() {
        let fast = step.kernel.fast(&step, isa).expect("a fast form");
        assert!(after(&step, Some(&*fast)) == wanted, "{what} on {}", isa.name());
    }
}

/// The same by every kernel for sums of products that takes the weights.
fn check_conv(kernel: ByteConv, src: &View, dst: View) {
    let what = format!("{} {:?} {:?}", kernel.label(), src.shape, dst.shape);
    let step = step_of(kernel.clone(), vec![src.clone()], dst);
    let wanted = after(&step, None);
    let (low, high) = (kernel.weights.iter().min().expect("weights"), kernel.weights.iter().max().expect("weights"));
    for isa in Isa::available() {
        for dot in DotKernel::available(isa).into_iter().filter(|dot| dot.takes(&(*low..=*high))) {
            let fast = super::prepare_conv_by(dot, &kernel, &step, isa).expect("a fast form");
            assert!(after(&step, Some(&*fast)) == wanted, "{what} by {} on {}", dot.name, isa.name());
        }
    }
}

fn out_size(w: &Window, size: [usize; 2]) -> [usize; 2] {
    [0, 1].map(|axis| {
        let reach = (w.kernel[axis] - 1) * w.dilation[axis] + 1;
        (size[axis] + w.pads[axis] + w.pads[axis + 2]).checked_sub(reach).map_or(0, |rest| rest / w.stride[axis] + 1)
    })
}

fn conv(window: Window, [inputs, outputs, groups]: [usize; 3], signed: bool, kind: usize) -> ByteConv {
    let len = outputs * (inputs / groups) * window.taps();
    // Bytes, bytes that are not the least, or bytes less a zero point.
    let (least, zero) = [(-128, 0), (-127, 0), (-128, 60)][outputs % 3];
    let weights = random(7, len).into_iter().map(|b| i16::from((b as i8).max(least)) - zero).collect();
    let (from, to) = (scale(signed, 0.02, if signed { -3.0 } else { 117.0 }), scale(!signed, 1.3, 9.0));
    let then = scale(signed, 0.9, 20.0);
    let function: fn(f32) -> f32 = if kind == 2 { |x| x.clamp(0.0, 90.0) } else { |x| (x * 0.1).sin() * 50.0 };
    ByteConv {
        window,
        groups,
        weights: Arc::new(weights),
        weight_scales: Arc::new((0..outputs).map(|o| 0.01 + o as f32 * 0.003).collect()),
        bias: Arc::new((0..outputs).map(|o| o as f32 * 0.7 - 3.0).collect()),
        from,
        activation: [Activation::None, Activation::Relu][kind % 2],
        to,
        table: (kind >= 2).then(|| Table::new(&to.numbers().map(function), to, then)),
    }
}

// The last two have lines long enough to be gathered column by column, and to be cut into blocks.
const SHAPES: [[usize; 4]; 8] = [
    [1, 1, 1, 1],
    [1, 3, 5, 4],
    [2, 5, 4, 7],
    [1, 7, 9, 3],
    [1, 13, 3, 5],
    [1, 40, 4, 4],
    [2, 3, 5, 53],
    [1, 9, 3, 31],
];

#[test]
fn convolutions_give_the_twins_bytes() {
    for (i, window) in WINDOWS.into_iter().enumerate() {
        for (j, shape) in SHAPES.into_iter().enumerate() {
            let [n, c, h, w] = shape;
            let [oh, ow] = out_size(&window, [h, w]);
            if oh * ow == 0 {
                continue;
            }
            let src = map(0, shape, 2 * (j % 2), j % 2);
            for outputs in [1, 5, 16, 23] {
                let kernel = conv(window, [c, outputs, 1], (i + j) % 2 == 0, (i + j + outputs) % 4);
                check_conv(kernel, &src, map(1, [n, outputs, oh, ow], 1, 2));
            }
            let kernel = conv(window, [c, c, c], (i + j) % 2 == 1, (i + j) % 4);
            check_conv(kernel, &src, map(1, [n, c, oh, ow], 1, 2));
        }
    }
}

#[test]
fn depthwise_convolutions_of_neighbours_give_the_twins_bytes() {
    for (i, window) in WINDOWS.into_iter().enumerate() {
        for (j, channels) in [4, 8, 12, 16, 24, 40].into_iter().enumerate() {
            for [h, w] in [[1, 2], [4, 3], [5, 7], [3, 70]] {
                let [oh, ow] = out_size(&window, [h, w]);
                if oh * ow > 0 {
                    let kernel = conv(window, [channels; 3], (i + j) % 2 == 1, (i + j) % 4);
                    let src = map(0, [2, channels, h, w], 0, j % 2);
                    check_conv(kernel, &src, map(1, [2, channels, oh, ow], 0, 0));
                }
            }
        }
    }
}

#[test]
fn winograds_form_gives_the_twins_bytes() {
    for (j, shape) in SHAPES.into_iter().chain([[2, 16, 6, 5], [1, 33, 13, 17]]).enumerate() {
        let [n, c, h, w] = shape;
        for (outputs, pads) in [(1, [1; 4]), (5, [0, 2, 2, 1]), (16, [1; 4]), (23, [2, 0, 1, 1])] {
            let window = Window { kernel: [3, 3], stride: [1, 1], pads, dilation: [1, 1] };
            let [oh, ow] = out_size(&window, [h, w]);
            if oh * ow == 0 {
                continue;
            }
            let kernel = conv(window, [c, outputs, 1], j % 2 == 0, (j + outputs) % 4);
            let step = step_of(kernel.clone(), vec![map(0, shape, 2, j % 2)], map(1, [n, outputs, oh, ow], 1, 2));
            let (src, dst) = super::maps(&step).expect("feature maps");
            let wanted = after(&step, None);
            for isa in Isa::available() {
                for dot in DotKernel::available(isa).into_iter().filter(|dot| dot.inputs == Inputs::Pairs) {
                    let fast = super::winograd::WinogradFast::new(&kernel, src, dst, isa, dot).expect("a fast form");
                    let label = fast.label();
                    assert!(after(&step, Some(&fast)) == wanted, "{label} {shape:?} {outputs} on {}", isa.name());
                }
            }
        }
    }
}

#[test]
fn forms_of_a_convolution_give_the_same_and_have_names() {
    let [_, window, strided, ..] = WINDOWS;
    for (window, size, wanted) in [(window, [9, 12], 2), (window, [1, 2], 2), (strided, [9, 12], 1)] {
        let [oh, ow] = out_size(&window, size);
        let src = map(0, [1, 12, size[0], size[1]], 0, 0);
        let step = step_of(conv(window, [12, 16, 1], true, 1), vec![src], map(1, [1, 16, oh, ow], 0, 0));
        for isa in Isa::available() {
            let forms = step.kernel.fast_forms(&step, isa);
            let fast = step.kernel.fast(&step, isa).expect("a fast form").label();
            // Kernels that multiply bytes have one.
            let by_pairs = forms[0].label().ends_with("avx2");
            assert_eq!((forms.len(), forms[0].label()), (if by_pairs { wanted } else { 1 }, fast));
            assert!(forms.len() == 1 || forms[0].label() != forms[1].label());
            let bytes = forms.iter().map(|form| after(&step, Some(&**form))).collect::<Vec<_>>();
            assert!(bytes.iter().all(|bytes| *bytes == after(&step, None)));
        }
    }
}

#[test]
fn steep_tables_saturate() {
    let [_, window, ..] = WINDOWS;
    for (i, steep) in [1.3e-3, 1.3e-6, 1.3e-8].into_iter().enumerate() {
        for activation in [Activation::None, Activation::Relu, Activation::LeakyRelu { alpha: 0.5 }] {
            let mut kernel = conv(window, [13, 16, 1], i % 2 == 0, 0);
            kernel.activation = activation;
            let then = ByteScale { scale: steep, ..kernel.from };
            kernel.table = Some(Table::new(&kernel.to.numbers(), kernel.to, then));
            assert!(kernel.table.as_ref().is_some_and(|table| table.rescale().is_some()));
            check_conv(kernel, &map(0, [1, 13, 6, 7], 0, 0), map(1, [1, 16, 6, 7], 0, 0));
        }
    }
}

#[test]
fn convolutions_of_groups_give_the_twins_bytes() {
    for (i, window) in WINDOWS.into_iter().enumerate() {
        for [inputs, outputs, groups] in [[6, 4, 2], [5, 10, 5], [40, 34, 2], [12, 21, 3]] {
            let [oh, ow] = out_size(&window, [6, 5]);
            let kernel = conv(window, [inputs, outputs, groups], i % 2 == 0, i % 4);
            check_conv(kernel, &map(0, [2, inputs, 6, 5], 1, 3), map(1, [2, outputs, oh, ow], 2, 0));
        }
    }
}

/// Pixels that need not be gathered, more of them than a block, and depths of every remainder of a group.
#[test]
fn pointwise_convolutions_of_neighbours_give_the_twins_bytes() {
    for (i, channels) in [4, 8, 20, 7, 64].into_iter().enumerate() {
        for signed in [false, true] {
            for outputs in [3, 16, 37] {
                let kernel = conv(WINDOWS[0], [channels, outputs, 1], signed, i % 4);
                let shape = [1, channels, 9, 13];
                check_conv(kernel, &map(0, shape, 4 * i, 0), map(1, [1, outputs, 9, 13], 3, 5));
            }
        }
    }
}

#[test]
fn a_twin_is_a_sum_in_f64() {
    let window = WINDOWS[1];
    let kernel = conv(window, [3, 5, 1], false, 1);
    let (src, dst) = (map(0, [1, 3, 4, 5], 0, 0), map(1, [1, 5, 4, 5], 0, 0));
    let memory = after(&step_of(kernel.clone(), vec![src.clone()], dst.clone()), None);
    let bytes: Vec<u8> = memory.iter().flat_map(|word| word.to_le_bytes()).collect();
    let second = 4 * (src.end() + 5);
    let mut off = 0;
    for (o, y, x) in (0..5).flat_map(|o| (0..20).map(move |p| (o, p / 5, p % 5))) {
        let mut sum = f64::from(kernel.bias[o]);
        for (i, ky, kx) in (0..3).flat_map(|i| (0..9).map(move |t| (i, t / 3, t % 3))) {
            if let Some([sy, sx]) = window.source([4, 5], [y, x], [ky, kx]) {
                let number = f64::from(kernel.from.scale) * f64::from(i32::from(bytes[(sy * 5 + sx) * 3 + i]) - 117);
                let w = f64::from(kernel.weights[(o * 3 + i) * 9 + ky * 3 + kx]) * f64::from(kernel.weight_scales[o]);
                sum += number * w;
            }
        }
        let wanted = ((sum.max(0.0) / f64::from(kernel.to.scale)).round_ties_even() + 9.0).clamp(-128.0, 127.0);
        let got = f64::from(bytes[second + (y * 5 + x) * 5 + o] as i8);
        assert!((got - wanted).abs() <= 1.0, "{got}, not {wanted}");
        off += usize::from(got != wanted);
    }
    assert!(off <= 1, "{off} of 100 bytes are the other one of a tie");
}

#[test]
fn the_others_give_the_twins_bytes() {
    let (a, b) = (scale(false, 0.03, 100.0), scale(true, 0.05, -7.0));
    for shape in SHAPES {
        let [n, c, h, w] = shape;
        let (src, dst) = (map(0, shape, 1, 2), map(1, shape, 0, 3));
        let turned = View::row_major(BufferId(0), &[w, n, c, h]).transposed(&[1, 2, 3, 0]);
        for src in [src.clone(), turned] {
            for table in
                [None, Some(Table::new(&a.numbers().map(|x| x * x), a, b)), Some(Table::new(&b.numbers(), b, a))]
            {
                check(ByteCopy { table }, vec![src.clone()], dst.clone());
            }
            for scale in [a, b] {
                check(Quantise { to: scale }, vec![src.clone()], dst.clone());
                let functions: [fn(f32) -> f32; 2] = [|x| x.clamp(-0.7, 1.3), |x| x * x];
                let numbers = functions.map(|function| Some(Arc::new(scale.numbers().map(function))));
                for (function, is_clamp) in [None].into_iter().chain(numbers).zip([false, true, false]) {
                    let kernel = Dequantise { from: scale, function };
                    assert_eq!(kernel.clamp().is_some(), is_clamp);
                    check(kernel, vec![src.clone()], dst.clone());
                }
            }
        }
        for (i, function) in [ByteFunction::Add, ByteFunction::Sub, ByteFunction::Mul].into_iter().enumerate() {
            for operands in [[a, a], [b, b], [a, b]] {
                let to = [a, b][i % 2];
                let kernel = ByteArithmetic { function, operands, to, bounds: to.bounds() };
                check(kernel, vec![map(0, shape, 1, 2), map(1, shape, 0, 0)], map(2, shape, 3, 0));
            }
        }
        for window in WINDOWS {
            let [oh, ow] = out_size(&window, [h, w]);
            if oh * ow > 0 {
                let pool = ByteMaxPool { window, signed: c % 2 == 0 };
                check(pool, vec![src.clone()], map(1, [n, c, oh, ow], 0, 1));
            }
        }
        let resize = Resize {
            interpolation: Interpolation::Nearest(Rounding::Floor),
            coordinates: Coordinates::Asymmetric,
            scale: [2.0, 3.0],
        };
        check(ByteNearest { resize }, vec![src], map(1, [n, c, 2 * h, 3 * w], 2, 0));
    }
}

#[test]
fn means_give_the_twins_bytes() {
    let (a, b) = (scale(false, 0.03, 100.0), scale(true, 0.02, -7.0));
    for (i, shape) in SHAPES.into_iter().chain([[1, 300, 3, 2]]).enumerate() {
        let [n, c, h, w] = shape;
        let whole = Window { kernel: [h, w], ..WINDOWS[0] };
        for (j, window) in WINDOWS.into_iter().chain([whole]).enumerate() {
            let [oh, ow] = out_size(&window, [h, w]);
            // One column more, as in ceil mode, where its window still starts in the padded picture.
            let ow = ow + usize::from(ow * window.stride[1] < w + window.pads[1]);
            if oh * ow == 0 {
                continue;
            }
            let from = [a, b][(i + j) % 2];
            let functions: [fn(f32) -> f32; 3] = [|x| x, |x| x.clamp(-0.4, 1.1), |x| (x * 3.0).sin()];
            for (k, function) in functions.into_iter().enumerate() {
                let numbers = FixedPoint::new(&from.numbers().map(function), from, window.taps()).expect("fits");
                assert_eq!(numbers.multiple.is_some(), k < 2);
                let to = [a, b][k % 2];
                let bounds = to.clamp([Activation::None, Activation::Relu][(j + k) % 2]).expect("a clamp");
                let kernel = ByteAverage { window, count_include_pad: (j + k) % 2 == 0, from, numbers, to, bounds };
                check(kernel, vec![map(0, shape, 1, 2)], map(1, [n, c, oh, ow], 2, 1));
            }
        }
    }
}

#[test]
fn a_mean_is_a_mean_in_f64() {
    let (window, size) = (WINDOWS[3], [4, 7]);
    let [oh, ow] = out_size(&window, size);
    for count_include_pad in [true, false] {
        let (from, to) = (scale(false, 0.03, 100.0), scale(true, 0.013, -7.0));
        let numbers = FixedPoint::new(&from.numbers().map(|x| x.min(2.0)), from, window.taps()).expect("fits");
        let kernel = ByteAverage { window, count_include_pad, from, numbers, to, bounds: to.bounds() };
        let (src, dst) = (map(0, [1, 3, 4, 7], 0, 0), map(1, [1, 3, oh, ow], 0, 0));
        let second = 4 * (src.end() + 5);
        let step = Step {
            node: "test".into(),
            kernel: Arc::new(OnBytes(kernel)),
            reads: vec![src],
            writes: vec![dst],
            macs: 0,
        };
        let bytes: Vec<u8> = after(&step, None).iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut off = 0;
        for (y, x, c) in (0..oh * ow * 3).map(|i| (i / 3 / ow, i / 3 % ow, i % 3)) {
            let (mut sum, mut seen, mut padded) = (0.0, 0, 0);
            for (ky, kx) in (0..10).map(|tap| (tap / 5, tap % 5)) {
                padded += usize::from(y + ky < 4 + 2 && 3 * x + kx < 7 + 2 + 3);
                if let Some([sy, sx]) = window.source(size, [y, x], [ky, kx]) {
                    sum += f64::from(from.number(bytes[(sy * 7 + sx) * 3 + c]).min(2.0));
                    seen += 1;
                }
            }
            let mean = sum / f64::from(if count_include_pad { padded as u32 } else { seen });
            let wanted = ((mean / f64::from(to.scale)).round_ties_even() - 7.0).clamp(-128.0, 127.0);
            let got = f64::from(bytes[second + (y * ow + x) * 3 + c] as i8);
            assert!((got - wanted).abs() <= 1.0, "{got}, not {wanted}");
            off += usize::from(got != wanted);
        }
        assert!(off <= 1, "{off} of {} bytes are the other one of a tie", oh * ow * 3);
    }
}

#[test]
fn arithmetic_with_constants_gives_the_twins_bytes() {
    let (a, b) = (scale(false, 0.03, 100.0), scale(true, 0.05, -7.0));
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let per_channel = View::row_major(BufferId(1), &[shape[1], 1, 1]).broadcast_to(&shape).expect("broadcasts");
        let whole = View::row_major(BufferId(1), &shape);
        for constant in [per_channel, whole] {
            for (j, function) in [ByteFunction::Add, ByteFunction::Sub, ByteFunction::Mul].into_iter().enumerate() {
                for (from, constant_first) in [(a, true), (b, false), (a, false), (b, true)] {
                    let to = [a, b][(i + j) % 2];
                    let kernel = ByteConstant { function, constant_first, from, to, bounds: to.bounds() };
                    check(kernel, vec![map(0, shape, 1, 2), constant.clone()], map(2, shape, 3, 0));
                }
            }
        }
    }
}
