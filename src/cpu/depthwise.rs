//! Fast depthwise convolution: vectors over channels, a register tile of neighbouring output pixels.
//!
//! A tile of `T` pixels in a row loads every input vector once per row of the window and uses it for all the taps that
//! it meets. Kernels 3×3 and 5×5 at strides 1 and 2 are written out, also at the border, where taps outside see zeros;
//! other windows go tap by tap.

mod square;

use std::ops::Range;

use super::chain::{ByRows, RowMaps, RowShape};
use super::conv::{Maps, distance, taps_inside, windowed_maps};
use super::simd::tile::{Epilogue, Finish, Kernels};
use super::simd::{self, Aligned, Vector, Work, load, store};
use super::{Isa, threads};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::conv::Window;
use crate::infer::kernels::depthwise::Depthwise;
use crate::infer::plan::step::{Element, Step};
use crate::infer::plan::view::FeatureMap;

/// Pixels of the widest register tile in one row.
const TILE: usize = 8;
/// Pixels per row of the tiles of several rows.
const SQUARE: usize = 4;
/// The fast form of a depthwise step; `None` where the views are no feature maps or do not fit the weights.
pub fn prepare(kernel: &Depthwise, step: &Step, isa: Isa) -> Option<Box<dyn FastKernel>> {
    Some(Box::new(DepthwiseFast::new(kernel, step, isa)?))
}

/// A depthwise convolution with its weights in the order of the taps.
#[derive(Debug)]
pub struct DepthwiseFast {
    isa: Isa,
    kernels: Kernels,
    /// The range of a clamp, and whether that is all of the epilogue.
    clamp: (f32, f32),
    only_clamp: bool,
    window: Window,
    src: FeatureMap,
    dst: FeatureMap,
    residual: Option<FeatureMap>,
    epilogue: Epilogue,
    /// `[tap y][tap x][channel]`, channels padded to whole vectors.
    weights: Aligned,
    bias: Aligned,
    /// What taps outside the picture see.
    zeros: Aligned,
    /// Channels with their padding.
    width: usize,
    macs: u64,
}

impl DepthwiseFast {
    fn new(depthwise: &Depthwise, step: &Step, isa: Isa) -> Option<DepthwiseFast> {
        let kernels = Kernels::new(isa)?;
        let (src, dst, residual) = windowed_maps(step, depthwise.residual)?;
        let channels = dst.channels;
        let taps = depthwise.window.kernel[0] * depthwise.window.kernel[1];
        if src.channels != channels
            || taps == 0
            || depthwise.weights.len() != channels * taps
            || depthwise.bias.len() != channels
        {
            return None;
        }
        let width = channels.next_multiple_of(kernels.lanes);
        let mut weights = Aligned::zeros(taps * width);
        for c in 0..channels {
            for tap in 0..taps {
                weights[tap * width + c] = depthwise.weights[c * taps + tap];
            }
        }
        let mut bias = Aligned::zeros(width);
        bias[..channels].copy_from_slice(&depthwise.bias);
        let epilogue = Epilogue { activation: depthwise.activation, residual: depthwise.residual };
        let clamp = epilogue.as_clamp();
        Some(DepthwiseFast {
            isa,
            kernels,
            clamp: clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY)),
            only_clamp: clamp.is_some(),
            window: depthwise.window,
            src,
            dst,
            residual,
            epilogue,
            weights,
            bias,
            zeros: Aligned::zeros(width),
            width,
            macs: (dst.batch * dst.height * dst.width * channels * taps) as u64,
        })
    }
}

impl FastKernel for DepthwiseFast {
    fn label(&self) -> String {
        let [ky, kx] = self.window.kernel;
        format!("depthwise_{ky}x{kx}_{}_{}", self.epilogue.activation.label(), self.isa.name())
    }

    fn run(&self, step: &Step, memory: &super::Memory) {
        let maps = windowed_maps(step, self.epilogue.residual);
        assert_eq!(maps, Some((self.src, self.dst, self.residual)), "not the step that the kernel was prepared for");
        let maps = Maps::new(step, memory, self.residual.is_some());
        let rows = self.dst.batch * self.dst.height;
        let threads = threads::useful_threads(self.macs);
        let chunks = if threads == 1 { 1 } else { rows.min(4 * threads) };
        threads::share(threads, chunks, |chunk| {
            self.compute(Rows { depthwise: self, maps, rows: threads::part(rows, chunks, chunk) });
        });
    }

    fn by_rows(&self) -> Option<&dyn ByRows> {
        Some(self)
    }
}

impl DepthwiseFast {
    fn compute(&self, rows: Rows<'_>) {
        match (self.window.kernel, self.window.stride, self.window.dilation) {
            ([3, 3], [1, 1], [1, 1]) => simd::run(self.isa, Unrolled::<3, 1>(rows)),
            ([3, 3], [2, 2], [1, 1]) => simd::run(self.isa, Unrolled::<3, 2>(rows)),
            ([5, 5], [1, 1], [1, 1]) => simd::run(self.isa, Unrolled::<5, 1>(rows)),
            ([5, 5], [2, 2], [1, 1]) => simd::run(self.isa, Unrolled::<5, 2>(rows)),
            _ => rows.tap_by_tap(),
        }
    }
}

impl ByRows for DepthwiseFast {
    fn shape(&self) -> RowShape {
        RowShape { src: self.src, dst: self.dst, window: self.window, grain: 1, element: Element::F32, macs: self.macs }
    }

    unsafe fn run_rows(&self, maps: RowMaps, rows: Range<usize>) {
        self.compute(Rows { depthwise: self, maps: maps.into(), rows });
    }
}

/// Some output rows, counted through the batch.
struct Rows<'a> {
    depthwise: &'a DepthwiseFast,
    maps: Maps,
    rows: Range<usize>,
}

/// Rows with a window of K×K at stride S, not dilated.
struct Unrolled<'a, const K: usize, const S: usize>(Rows<'a>);

impl<const K: usize, const S: usize> Work for Unrolled<'_, K, S> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the maps are those that `prepare` saw.
        unsafe { self.0.unrolled::<V, K, S>() };
    }
}

/// One output pixel, tap by tap.
struct Pixel<'a> {
    rows: &'a Rows<'a>,
    at: (usize, usize, usize),
}

impl Work for Pixel<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (n, y, x) = self.at;
        // SAFETY: a pixel of dst.
        unsafe { self.rows.pixel::<V>(n, y, x) };
    }
}

impl Rows<'_> {
    fn tap_by_tap(self) {
        for row in self.rows.clone() {
            let (n, y) = (row / self.depthwise.dst.height, row % self.depthwise.dst.height);
            for x in 0..self.depthwise.dst.width {
                self.one(n, y, x);
            }
        }
    }

    /// Calls the code for any pixel of any window, which is too large to be inlined everywhere.
    fn one(&self, n: usize, y: usize, x: usize) {
        simd::run(self.depthwise.isa, Pixel { rows: self, at: (n, y, x) });
        self.finish(n, y, x, 1);
    }

    /// Any pixel of any window.
    #[inline(always)]
    unsafe fn pixel<V: Vector>(&self, n: usize, y: usize, x: usize) {
        let d = self.depthwise;
        let across = taps_inside(&d.window, 1, x, d.src.width);
        let down = taps_inside(&d.window, 0, y, d.src.height);
        let channels = d.dst.channels;
        let dst = self.maps.dst.wrapping_add(distance(&d.dst, n, y, x));
        let mut c = 0;
        // SAFETY: taps are inside src, and `c` counts whole or partial vectors of its channels.
        unsafe {
            while c + 4 * V::LANES <= channels {
                self.pixel_block::<V, 4>((n, y, x), &down, &across, c, None, dst);
                c += 4 * V::LANES;
            }
            while c + V::LANES <= channels {
                self.pixel_block::<V, 1>((n, y, x), &down, &across, c, None, dst);
                c += V::LANES;
            }
            if c < channels {
                self.pixel_block::<V, 1>((n, y, x), &down, &across, c, Some(channels - c), dst);
            }
        }
    }

    #[inline(always)]
    unsafe fn pixel_block<V: Vector, const VECTORS: usize>(
        &self,
        (n, y, x): (usize, usize, usize),
        down: &Range<usize>,
        across: &Range<usize>,
        c: usize,
        partial: Option<usize>,
        dst: *mut f32,
    ) {
        let d = self.depthwise;
        let [stride_y, stride_x] = d.window.stride;
        let [step_y, step_x] = d.window.dilation;
        let [top, left, ..] = d.window.pads;
        // SAFETY: see `pixel`.
        unsafe {
            let mut sums = [V::splat(0.0); VECTORS];
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = V::load(d.bias.as_ptr().add(c + v * V::LANES));
            }
            for ky in down.clone() {
                for kx in across.clone() {
                    let (sy, sx) = (y * stride_y + ky * step_y - top, x * stride_x + kx * step_x - left);
                    let from = self.maps.src.wrapping_add(distance(&d.src, n, sy, sx) + c);
                    let weights = d.weights.as_ptr().add((ky * d.window.kernel[1] + kx) * d.width + c);
                    for (v, sum) in sums.iter_mut().enumerate() {
                        let at = v * V::LANES;
                        let value = load::<V>(from.add(at), partial);
                        *sum = value.mul_add(V::load(weights.add(at)), *sum);
                    }
                }
            }
            let (lo, hi) = (V::splat(d.clamp.0), V::splat(d.clamp.1));
            for (v, sum) in sums.into_iter().enumerate() {
                store(hi.min(lo.max(sum)), dst.add(c + v * V::LANES), partial);
            }
        }
    }

    #[inline(always)]
    unsafe fn unrolled<V: Vector, const K: usize, const S: usize>(self) {
        let d = self.depthwise;
        let left = d.window.pads[1];
        // Output columns whose windows are inside the picture from left to right.
        let first = left.div_ceil(S).min(d.dst.width);
        let end = (d.src.width + left).checked_sub(K).map_or(0, |last| last / S + 1).clamp(first, d.dst.width);
        let inside = first..end;
        let mut row = self.rows.start;
        while row < self.rows.end {
            let (n, y) = (row / d.dst.height, row % d.dst.height);
            let left = (d.dst.height - y).min(self.rows.end - row);
            // Several rows at a time, in squares whose border is looked at only where there is one. The weights of a 5×5 at
            // stride 1 would have to be loaded as often as the picture: one row at a time.
            // SAFETY: rows and columns of dst.
            let done = unsafe {
                if const { V::REGISTERS < 16 || (K == 5 && S == 1) } {
                    0
                } else if const { V::REGISTERS == 32 && K == 3 && S == 1 } {
                    self.bands::<V, K, S, 4>(n, y, left)
                } else {
                    self.bands::<V, K, S, 2>(n, y, left)
                }
            };
            if done > 0 {
                row += done;
                continue;
            }
            // SAFETY: pixels of dst; those of tiles have their windows inside src from left to right.
            unsafe { self.tiles::<V, K, S>(n, y, &inside) };
            row += 1;
        }
    }

    /// One output row.
    #[inline(always)]
    unsafe fn tiles<V: Vector, const K: usize, const S: usize>(&self, n: usize, y: usize, inside: &Range<usize>) {
        let d = self.depthwise;
        let down = taps_inside(&d.window, 0, y, d.src.height);
        for x in (0..inside.start).chain(inside.end..d.dst.width) {
            self.one(n, y, x);
        }
        let (mut x, end) = (inside.start, inside.end);
        // SAFETY: by contract.
        unsafe {
            while x + TILE <= end {
                self.tile::<V, K, S, TILE>(n, y, x, &down);
                x += TILE;
            }
            while x + TILE / 4 <= end {
                self.tile::<V, K, S, { TILE / 4 }>(n, y, x, &down);
                x += TILE / 4;
            }
            if x < end {
                self.tile::<V, K, S, 1>(n, y, x, &down);
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<V: Vector, const K: usize, const S: usize, const T: usize>(
        &self,
        n: usize,
        y: usize,
        x: usize,
        down: &Range<usize>,
    ) {
        let d = self.depthwise;
        let [top, left, ..] = d.window.pads;
        let start = y * S + down.start - top;
        let src = self.maps.src.wrapping_add(distance(&d.src, n, start, x * S - left));
        let dst = self.maps.dst.wrapping_add(distance(&d.dst, n, y, x));
        let channels = d.dst.channels;
        // SAFETY: rows `down` and all columns of the tile are inside src, `c` inside the channels.
        unsafe {
            let mut c = 0;
            while c + V::LANES <= channels {
                self.tile_block::<V, K, S, T>(src.add(c), dst.add(c), down, c, None);
                c += V::LANES;
            }
            if c < channels {
                self.tile_block::<V, K, S, T>(src.add(c), dst.add(c), down, c, Some(channels - c));
            }
            self.finish(n, y, x, T);
        }
    }

    #[inline(always)]
    unsafe fn tile_block<V: Vector, const K: usize, const S: usize, const T: usize>(
        &self,
        src: *const f32,
        dst: *mut f32,
        down: &Range<usize>,
        c: usize,
        partial: Option<usize>,
    ) {
        let d = self.depthwise;
        let pixel = d.src.pixel_stride;
        // SAFETY: see `tile`.
        unsafe {
            let mut sums = [V::load(d.bias.as_ptr().add(c)); T];
            let mut row = src;
            for ky in down.clone() {
                let weights = d.weights.as_ptr().add(ky * K * d.width + c);
                let mut taps = [V::splat(0.0); K];
                for (kx, tap) in taps.iter_mut().enumerate() {
                    *tap = V::load(weights.add(kx * d.width));
                }
                for j in 0..(T - 1) * S + K {
                    let from = row.add(j * pixel);
                    let value = load::<V>(from, partial);
                    for kx in 0..K {
                        if j >= kx && (j - kx) % S == 0 && (j - kx) / S < T {
                            let sum = &mut sums[(j - kx) / S];
                            *sum = value.mul_add(taps[kx], *sum);
                        }
                    }
                }
                row = row.wrapping_add(d.src.row_stride);
            }
            let (lo, hi) = (V::splat(d.clamp.0), V::splat(d.clamp.1));
            for (t, sum) in sums.into_iter().enumerate() {
                store(hi.min(lo.max(sum)), dst.add(t * d.dst.pixel_stride), partial);
            }
        }
    }

    /// Activation and residual of `count` neighbouring pixels whose sums are in dst.
    fn finish(&self, n: usize, y: usize, x: usize, count: usize) {
        let d = self.depthwise;
        if d.only_clamp {
            return;
        }
        let mut dst = [std::ptr::null_mut::<f32>(); TILE];
        let mut residual = [std::ptr::null::<f32>(); TILE];
        for t in 0..count {
            dst[t] = self.maps.dst.wrapping_add(distance(&d.dst, n, y, x + t));
            if let Some(map) = &d.residual {
                residual[t] = self.maps.residual.wrapping_add(distance(map, n, y, x + t));
            }
        }
        let finish = Finish {
            epilogue: d.epilogue,
            tile: dst[0],
            tile_stride: d.dst.pixel_stride,
            channels: d.dst.channels,
            dst: &dst[..count],
            residual: &residual[..count],
            offset: 0,
        };
        // SAFETY: pixels of dst and of the residual; each vector is read before it is written. `Kernels::new` found the
        // instruction set.
        unsafe { (d.kernels.finish)(&finish) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::*;
    use super::*;
    use crate::infer::activation::Activation;
    use crate::infer::kernels::conv::Residual;

    fn check(
        [batch, channels, h, w]: [usize; 4],
        window: Window,
        activation: Activation,
        residual: Residual,
        gap: usize,
    ) {
        let (Some(oh), Some(ow)) = (output_len(&window, 0, h), output_len(&window, 1, w)) else {
            return;
        };
        let taps = window.kernel[0] * window.kernel[1];
        let (weights, bias) = (values(1, channels * taps), values(2, channels));
        let (src, added) = (values(3, batch * channels * h * w), values(4, batch * channels * oh * ow));
        let mut wanted = naive_conv(&window, channels, (&src, [batch, channels, h, w]), &weights, &bias, [oh, ow]);
        finish(&mut wanted, &added, activation, residual);
        let kernel = Depthwise { window, weights: Arc::new(weights), bias: Arc::new(bias), activation, residual };
        let mut reads = vec![map(0, [batch, channels, h, w], gap, gap)];
        if residual != Residual::None {
            reads.push(map(1, [batch, channels, oh, ow], 1, gap));
        }
        let write = map(reads.len(), [batch, channels, oh, ow], gap, 2 * gap);
        let step = step(reads, vec![write]);
        for isa in Isa::available() {
            let fast = prepare(&kernel, &step, isa).expect("feature maps");
            let got = outputs(&*fast, &step, &[&src, &added]);
            let what = format!("{} {channels} {h}x{w} {window:?} {residual:?} gap {gap}", fast.label());
            assert_close(&got, &wanted, 1e-5, &what);
        }
    }

    fn window(kernel: usize, stride: usize, pads: [usize; 4], dilation: usize) -> Window {
        Window { kernel: [kernel; 2], stride: [stride; 2], pads, dilation: [dilation; 2] }
    }

    #[test]
    fn odd_channels_windows_and_pictures_agree_with_a_naive_loop() {
        for channels in [1, 3, 5, 7, 13, 16, 33, 70] {
            for (kernel, stride, dilation) in
                [(1, 1, 1), (3, 1, 1), (3, 2, 1), (5, 1, 1), (5, 2, 1), (7, 1, 1), (3, 1, 2)]
            {
                for size in [[1, 1], [3, 1], [4, 6], [6, 23]] {
                    let half = dilation * (kernel - 1) / 2;
                    for pads in [[half; 4], [half, 0, 0, half + 1]] {
                        let shape = [2, channels, size[0], size[1]];
                        let window = window(kernel, stride, pads, dilation);
                        check(shape, window, Activation::None, Residual::None, channels % 3);
                    }
                }
            }
        }
    }

    #[test]
    fn uneven_strides_and_pads_wider_than_the_kernel_agree_with_a_naive_loop() {
        let uneven = Window { kernel: [3, 5], stride: [2, 1], pads: [1, 2, 0, 2], dilation: [1, 2] };
        check([1, 9, 7, 12], uneven, Activation::Relu, Residual::None, 1);
        check([1, 20, 3, 2], window(3, 1, [4, 5, 3, 6], 1), Activation::Relu, Residual::None, 0);
    }

    #[test]
    fn every_activation_and_residual_agrees_with_its_formula() {
        for activation in activations() {
            for residual in [Residual::None, Residual::BeforeActivation, Residual::AfterActivation] {
                check([1, 21, 5, 11], window(3, 1, [1; 4], 1), activation, residual, 1);
            }
        }
    }

    #[test]
    fn threads_divide_rows() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
        pool.install(|| check([1, 40, 31, 29], window(5, 2, [2; 4], 1), Activation::HardSwish, Residual::None, 0));
    }
}
