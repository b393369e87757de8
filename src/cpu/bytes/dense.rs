//! Convolution of bytes with one group: implicit GEMM.
//!
//! A block of output pixels is gathered once, widened to i16: one row per pixel with all that its window sees. Panels of
//! sixteen output channels then pass over the block. Taps in the padding are the zero point; what the zero point adds to
//! each sum is what sums start with.

use super::super::conv::distance;
use super::super::simd::pairs::{self, CHANNELS, PairArguments, PairKernel, ROWS};
use super::super::simd::{self, Vector, Work};
use super::super::{Isa, Memory, threads};
use super::finish::{FinishRows, Finisher};
use super::{Bytes, label_of, maps, start_of};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::bytes::conv::ByteConv;
use crate::infer::kernels::conv::Window;
use crate::infer::plan::step::Step;
use crate::infer::plan::view::FeatureMap;
use std::ops::Range;

/// Gathered rows of a block; they should stay in the second-level cache beside the weights of a panel.
const BLOCK_BYTES: usize = 40 << 10;
/// Most pixels of a block.
const BLOCK_ROWS: usize = 8 * ROWS;

/// A dense convolution with packed weights.
#[derive(Debug)]
pub struct DenseFast {
    label: String,
    isa: Isa,
    kernels: [PairKernel; 2],
    window: Window,
    src: FeatureMap,
    dst: FeatureMap,
    signed: bool,
    /// What taps in the padding see, less the zero point of i16.
    zero: i16,
    /// Elements of a gathered row: an even number.
    depth: usize,
    /// The pixels of src side by side are the rows of all blocks.
    in_a_piece: bool,
    /// Pixels of a block, a multiple of [`ROWS`].
    block: usize,
    /// `[panel][pair][CHANNELS][2]`
    weights: Vec<i16>,
    /// What sums start with, padded to whole panels.
    start: Vec<i32>,
    finisher: Finisher,
    macs: u64,
}

impl DenseFast {
    pub fn new(conv: &ByteConv, step: &Step, isa: Isa) -> Option<DenseFast> {
        let (src, dst) = maps(step)?;
        let taps = conv.window.taps();
        let inputs = taps * src.channels;
        if inputs == 0 || conv.weights.len() != dst.channels * inputs || conv.bias.len() != dst.channels {
            return None;
        }
        let depth = inputs.next_multiple_of(2);
        let panels = dst.channels.div_ceil(CHANNELS);
        let mut weights = vec![0i16; panels * depth * CHANNELS];
        for (o, filter) in conv.weights.chunks_exact(inputs).enumerate() {
            let panel = &mut weights[o / CHANNELS * depth * CHANNELS..];
            for tap in 0..taps {
                for c in 0..src.channels {
                    let k = tap * src.channels + c;
                    panel[(k / 2 * CHANNELS + o % CHANNELS) * 2 + k % 2] = filter[c * taps + tap];
                }
            }
        }
        Some(DenseFast {
            label: label_of(conv, isa),
            isa,
            kernels: pairs::kernels(isa),
            window: conv.window,
            src,
            dst,
            signed: conv.from.signed,
            zero: conv.from.zero as i16,
            depth,
            in_a_piece: conv.window.is_pointwise() && src.is_dense() && depth == src.channels,
            block: (BLOCK_BYTES / (2 * depth * ROWS) * ROWS).clamp(ROWS, BLOCK_ROWS),
            weights,
            start: start_of(conv),
            finisher: Finisher::new(conv.requantise()),
            macs: (dst.batch * dst.height * dst.width * dst.channels * inputs) as u64,
        })
    }
}

/// Some output pixels, counted through the batch, gathered into rows.
struct Gather<'a> {
    conv: &'a DenseFast,
    bytes: Bytes,
    pixels: Range<usize>,
    rows: &'a mut [i16],
    dst: &'a mut [*mut u8],
}

impl Work for Gather<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the maps are those that `new` saw.
        unsafe {
            if self.conv.signed {
                self.all::<V, true>();
            } else {
                self.all::<V, false>();
            }
        }
    }
}

impl Gather<'_> {
    #[inline(always)]
    unsafe fn all<V: Vector, const SIGNED: bool>(self) {
        let Gather { conv, bytes, pixels, rows, dst } = self;
        let (window, map) = (&conv.window, &conv.src);
        let [kernel_y, kernel_x] = window.kernel;
        let (area, channels) = (conv.dst.height * conv.dst.width, map.channels);
        let first = pixels.start;
        if conv.in_a_piece {
            // Pixels side by side, each with a window of its own.
            let from = bytes.src.wrapping_add(first * channels);
            // SAFETY: the pixels are inside src.
            unsafe { widen::<V, SIGNED>(from, &mut rows[..pixels.len() * channels]) };
        }
        let (mut n, mut y, mut x) = (first / area, first % area / conv.dst.width, first % conv.dst.width);
        for (row, place) in rows.chunks_exact_mut(conv.depth).zip(dst).take(pixels.len()) {
            if x == conv.dst.width {
                (x, y) = (0, y + 1);
            }
            if y == conv.dst.height {
                (y, n) = (0, n + 1);
            }
            *place = bytes.dst.wrapping_add(distance(&conv.dst, n, y, x));
            let top = (y * window.stride[0]).wrapping_sub(window.pads[0]);
            let left = (x * window.stride[1]).wrapping_sub(window.pads[1]);
            x += 1;
            if conv.in_a_piece {
                continue;
            }
            // Neighbouring taps are neighbours in memory.
            let whole = window.dilation[1] == 1
                && map.pixel_stride == channels
                && left < map.width
                && left + kernel_x <= map.width;
            let (across, run) = if whole { (1, kernel_x * channels) } else { (kernel_x, channels) };
            for ky in 0..kernel_y {
                let sy = top.wrapping_add(ky * window.dilation[0]);
                for kx in 0..across {
                    let sx = left.wrapping_add(kx * window.dilation[1]);
                    let out = &mut row[(ky * across + kx) * run..][..run];
                    if sy < map.height && sx < map.width {
                        let from = bytes.src.wrapping_add(distance(map, n, sy, sx));
                        // SAFETY: the pixel, and those beside it, are inside src.
                        unsafe { widen::<V, SIGNED>(from, out) };
                    } else {
                        out.fill(conv.zero);
                    }
                }
            }
        }
    }
}

/// Widens as many bytes as `to` holds.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn widen<V: Vector, const SIGNED: bool>(from: *const u8, to: &mut [i16]) {
    let (count, to) = (to.len(), to.as_mut_ptr());
    // SAFETY: eights inside; the last one may begin inside the one before.
    unsafe {
        if count < 8 {
            for at in 0..count {
                let byte = *from.add(at);
                *to.add(at) = if SIGNED { i16::from(byte as i8) } else { i16::from(byte) };
            }
            return;
        }
        let mut at = 0;
        while at + 8 <= count {
            V::widen::<SIGNED>(from.add(at), to.add(at));
            at += 8;
        }
        if at < count {
            V::widen::<SIGNED>(from.add(count - 8), to.add(count - 8));
        }
    }
}

impl DenseFast {
    /// Some panels for some pixels.
    fn pixels(&self, bytes: Bytes, pixels: Range<usize>, panels: Range<usize>) {
        let block = self.block.min(pixels.len().next_multiple_of(ROWS));
        let mut rows = vec![0i16; block * self.depth];
        let mut dst = [std::ptr::null_mut(); BLOCK_ROWS];
        let mut sums = [0i32; BLOCK_ROWS * CHANNELS];
        let mut first = pixels.start;
        while first < pixels.end {
            let count = block.min(pixels.end - first);
            let (these, dst) = (first..first + count, &mut dst[..count]);
            simd::run(self.isa, Gather { conv: self, bytes, pixels: these, rows: &mut rows, dst });
            for panel in panels.clone() {
                let first_channel = panel * CHANNELS;
                let channels = CHANNELS.min(self.dst.channels - first_channel);
                let kernel = self.kernels[usize::from(channels > CHANNELS / 2)];
                for row in (0..count).step_by(ROWS) {
                    let arguments = PairArguments {
                        rows: rows[row * self.depth..].as_ptr(),
                        row_stride: self.depth,
                        pairs: self.depth / 2,
                        weights: self.weights[panel * self.depth * CHANNELS..].as_ptr(),
                        start: self.start[first_channel..].as_ptr(),
                        sums: sums[row * CHANNELS..].as_mut_ptr(),
                    };
                    // SAFETY: `simd::run` has found the instruction set; the block has whole tiles, rows that no pixel
                    // is left for hold what was there before.
                    unsafe { kernel(&arguments) };
                }
                let finisher = &self.finisher;
                simd::run(self.isa, FinishRows { finisher, sums: &sums, first_channel, channels, dst });
            }
            first += count;
        }
    }
}

impl FastKernel for DenseFast {
    fn label(&self) -> String {
        self.label.clone()
    }

    fn run(&self, step: &Step, memory: &Memory) {
        assert_eq!(maps(step), Some((self.src, self.dst)), "not the step that the kernel was prepared for");
        let bytes = Bytes::new(step, memory);
        let pixels = self.dst.batch * self.dst.height * self.dst.width;
        let panels = self.start.len() / CHANNELS;
        let threads = threads::useful_threads(self.macs);
        let chunks = if threads == 1 { 1 } else { pixels.div_ceil(self.block).min(4 * threads) };
        // Few pixels: threads gather the same ones for different channels.
        let groups = if chunks >= 2 * threads { 1 } else { threads.div_ceil(chunks).min(panels) };
        threads::share(threads, chunks * groups, |task| {
            let pixels = threads::part(pixels, chunks, task / groups);
            let panels = threads::part(panels, groups, task % groups);
            self.pixels(bytes, pixels, panels);
        });
    }
}
