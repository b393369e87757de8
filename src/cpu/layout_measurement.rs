//! Channels last (NHWC) against channel blocks (NCHW16c, NCHW8c): the measurement behind `docs/layout-measurements.md`.
//!
//! `cargo test --release --lib layout_measurement -- --ignored --nocapture`. The blocked kernels are given every
//! advantage: the source is already padded, rows are a multiple of the tile, addresses are constants.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::simd::{self, Aligned, Vector, Work};
use super::testing::{map, step, values};
use super::{Isa, Memory, conv, depthwise};
use crate::infer::activation::Activation;
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::conv::{Conv, Residual, Window};
use crate::infer::kernels::depthwise::Depthwise;
use crate::infer::plan::step::Step;
use crate::infer::plan::view::BufferId;

/// A stride-1 layer on a square map.
#[derive(Clone, Copy, Debug)]
struct Layer {
    ins: usize,
    outs: usize,
    size: usize,
    kernel: usize,
    depthwise: bool,
}

impl Layer {
    fn macs(&self) -> f64 {
        let ins = if self.depthwise { 1 } else { self.ins };
        (self.size * self.size * self.outs * ins * self.kernel * self.kernel) as f64
    }

    /// Side of the padded source.
    fn padded(&self) -> usize {
        self.size + self.kernel - 1
    }
}

/// Operands in blocks of `lanes` channels.
struct Blocked {
    layer: Layer,
    /// `[block][padded y][padded x][lane]`
    src: Aligned,
    /// `[pair of blocks of outs][block of ins][tap][lane of ins][2·lanes of outs]`, or `[block][tap][lane]` depthwise
    weights: Aligned,
    /// `[block][y][x][lane]`
    dst: Aligned,
}

/// One pass over a blocked layer.
struct Pass<'a>(&'a mut Blocked);

impl Work for Pass<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the operands have the sizes that `blocked` gave them.
        unsafe {
            match (self.0.layer.depthwise, self.0.layer.kernel, V::LANES) {
                (true, _, _) => depthwise_pass::<V>(self.0),
                (_, 1, 16) => conv_pass::<V, 14, 1>(self.0),
                (_, _, 16) => conv_pass::<V, 14, 3>(self.0),
                (_, 1, _) => conv_pass::<V, 6, 1>(self.0),
                _ => conv_pass::<V, 6, 3>(self.0),
            }
        }
    }
}

#[inline(always)]
unsafe fn conv_pass<V: Vector, const ROWS: usize, const K: usize>(b: &mut Blocked) {
    let Layer { ins, outs, size, .. } = b.layer;
    let (lanes, padded) = (V::LANES, b.layer.padded());
    let plane = padded * padded * lanes;
    for y in 0..size {
        for x in (0..size).step_by(ROWS) {
            for pair in 0..outs / (2 * lanes) {
                // SAFETY: inside the operands, as sized by `blocked`.
                unsafe {
                    let mut weights = b.weights.as_ptr().add(pair * ins * K * K * 2 * lanes);
                    let mut sums = [[V::splat(0.0); 2]; ROWS];
                    for block in 0..ins / lanes {
                        for tap in 0..K * K {
                            let corner = ((y + tap / K) * padded + x + tap % K) * lanes;
                            let from = b.src.as_ptr().add(block * plane + corner);
                            for lane in 0..lanes {
                                let w = [V::load(weights), V::load(weights.add(lanes))];
                                for (r, sums) in sums.iter_mut().enumerate() {
                                    let value = V::splat(*from.add(r * lanes + lane));
                                    for v in 0..2 {
                                        sums[v] = w[v].mul_add(value, sums[v]);
                                    }
                                }
                                weights = weights.add(2 * lanes);
                            }
                        }
                    }
                    for (r, sums) in sums.iter().enumerate() {
                        for (v, sum) in sums.iter().enumerate() {
                            let to = (((2 * pair + v) * size + y) * size + x + r) * lanes;
                            sum.store(b.dst.as_mut_ptr().add(to));
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn depthwise_pass<V: Vector>(b: &mut Blocked) {
    const TILE: usize = 6;
    let Layer { outs, size, .. } = b.layer;
    let (lanes, padded) = (V::LANES, b.layer.padded());
    for block in 0..outs / lanes {
        // SAFETY: inside the operands, as sized by `blocked`.
        unsafe {
            let mut taps = [V::splat(0.0); 9];
            for (tap, weight) in taps.iter_mut().enumerate() {
                *weight = V::load(b.weights.as_ptr().add((block * 9 + tap) * lanes));
            }
            for y in 0..size {
                for x in (0..size).step_by(TILE) {
                    let mut sums = [V::splat(0.0); TILE];
                    for ky in 0..3 {
                        let from = b.src.as_ptr().add(((block * padded + y + ky) * padded + x) * lanes);
                        for j in 0..TILE + 2 {
                            let value = V::load(from.add(j * lanes));
                            for kx in 0..3 {
                                if j >= kx && j - kx < TILE {
                                    sums[j - kx] = value.mul_add(taps[ky * 3 + kx], sums[j - kx]);
                                }
                            }
                        }
                    }
                    for (t, sum) in sums.iter().enumerate() {
                        sum.store(b.dst.as_mut_ptr().add(((block * size + y) * size + x + t) * lanes));
                    }
                }
            }
        }
    }
}

/// The layer in both layouts with the same numbers.
fn prepare(layer: Layer, isa: Isa) -> (Blocked, Box<dyn FastKernel>, Step, Memory) {
    let Layer { ins, outs, size, kernel, .. } = layer;
    let (taps, lanes, padded, pad) = (kernel * kernel, simd::lanes(isa), layer.padded(), kernel / 2);
    let x = values(1, size * size * ins);
    let w = values(2, outs * taps * if layer.depthwise { 1 } else { ins });
    let (src, dst) = (map(0, [1, ins, size, size], 0, 0), map(1, [1, outs, size, size], 0, 0));
    let mut memory = Memory::new(src.len() + dst.len(), vec![(0, src.len()), (src.len(), dst.len())]);
    for (cell, &x) in memory.cells(BufferId(0)).iter().zip(&x) {
        cell.set(x);
    }
    let step = step(vec![src], vec![dst]);
    let window = Window { kernel: [kernel; 2], stride: [1; 2], pads: [pad; 4], dilation: [1; 2] };
    let (activation, residual) = (Activation::None, Residual::None);
    let (weights, bias) = (Arc::new(w.clone()), Arc::new(vec![0.0; outs]));
    let fast = if layer.depthwise {
        depthwise::prepare(&Depthwise { window, weights, bias, activation, residual }, &step, isa)
    } else {
        conv::prepare(&Conv { window, weights, bias, activation, residual }, &step, isa)
    };
    let mut blocked = Blocked {
        layer,
        src: Aligned::zeros(ins * padded * padded),
        weights: Aligned::zeros(w.len()),
        dst: Aligned::zeros(outs * size * size),
    };
    for (i, &x) in x.iter().enumerate() {
        let (c, at) = (i % ins, i / ins);
        let (y, column) = (at / size + pad, at % size + pad);
        blocked.src[((c / lanes * padded + y) * padded + column) * lanes + c % lanes] = x;
    }
    for (i, &w) in w.iter().enumerate() {
        let tap = i % taps;
        let at = if layer.depthwise {
            let c = i / taps;
            (c / lanes * taps + tap) * lanes + c % lanes
        } else {
            let (c, o) = (i / taps % ins, i / taps / ins);
            let (wide, blocks) = (2 * lanes, ins / lanes);
            (((o / wide * blocks + c / lanes) * taps + tap) * lanes + c % lanes) * wide + o % wide
        };
        blocked.weights[at] = w;
    }
    (blocked, fast.expect("feature maps"), step, memory)
}

/// Shortest of many calls, in seconds.
fn best_time(mut call: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < Duration::from_millis(400) {
        let one = Instant::now();
        call();
        best = best.min(one.elapsed().as_secs_f64());
    }
    best
}

#[test]
#[ignore = "a measurement"]
fn channels_last_against_channel_blocks() {
    let layer = |ins, outs, size, kernel| Layer { ins, outs, size, kernel, depthwise: false };
    let depthwise = |ins, size| Layer { ins, outs: ins, size, kernel: 3, depthwise: true };
    for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Portable) {
        for layer in [
            layer(64, 64, 84, 3),
            layer(256, 256, 42, 3),
            layer(32, 64, 84, 1),
            layer(256, 128, 42, 1),
            depthwise(32, 84),
            depthwise(192, 42),
        ] {
            let (mut blocked, fast, step, mut memory) = prepare(layer, isa);
            let last = best_time(|| fast.run(&step, &memory));
            let blocks = best_time(|| simd::run(isa, Pass(&mut blocked)));
            let lanes = simd::lanes(isa);
            let area = layer.size * layer.size;
            for (i, cell) in memory.cells(BufferId(1)).iter().enumerate() {
                let (c, at) = (i % layer.outs, i / layer.outs);
                let other = blocked.dst[(c / lanes * area + at) * lanes + c % lanes];
                assert!((cell.get() - other).abs() < 1e-2, "{layer:?}: {} is not {other}", cell.get());
            }
            let gflops = |seconds: f64| 2.0 * layer.macs() / seconds / 1e9;
            println!(
                "{:8} {layer:?}: NHWC {:.3} ms {:.1} GFLOP/s, NCHW{lanes}c {:.3} ms {:.1} GFLOP/s",
                isa.name(),
                last * 1e3,
                gflops(last),
                blocks * 1e3,
                gflops(blocks)
            );
        }
    }
}
