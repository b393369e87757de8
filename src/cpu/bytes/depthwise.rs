//! Depthwise convolution of bytes: sixteen channels of a pixel at a time, taps in pairs.

use super::super::conv::distance;
use super::super::simd::pairs::{self, CHANNELS, TapArguments, TapKernel, slot};
use super::super::simd::{self, Vector, Work};
use super::super::{Isa, Memory, threads};
use super::finish::Finisher;
use super::{Bytes, label_of, maps, start_of};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::bytes::conv::ByteConv;
use crate::infer::kernels::conv::Window;
use crate::infer::plan::step::Step;
use crate::infer::plan::view::FeatureMap;
use std::ops::Range;

/// A depthwise convolution with packed weights.
#[derive(Debug)]
pub struct DepthwiseFast {
    label: String,
    isa: Isa,
    kernel: TapKernel,
    window: Window,
    src: FeatureMap,
    dst: FeatureMap,
    signed: bool,
    pairs: usize,
    /// `[panel][pair][CHANNELS][2]`, channels in the order of [`slot`].
    weights: Vec<i16>,
    /// What sums start with, padded to whole panels.
    start: Vec<i32>,
    /// What taps in the padding see: the zero point, for whole panels.
    zeros: Vec<u8>,
    finisher: Finisher,
    macs: u64,
}

impl DepthwiseFast {
    pub fn new(conv: &ByteConv, step: &Step, isa: Isa) -> Option<DepthwiseFast> {
        let (src, dst) = maps(step)?;
        let (channels, taps) = (dst.channels, conv.window.taps());
        let fits = conv.groups == channels && src.channels == channels && conv.bias.len() == channels;
        if !fits || taps == 0 || conv.weights.len() != channels * taps {
            return None;
        }
        let (pairs, panels) = (taps.div_ceil(2), channels.div_ceil(CHANNELS));
        let mut weights = vec![0i16; panels * pairs * 2 * CHANNELS];
        for (c, filter) in conv.weights.chunks_exact(taps).enumerate() {
            for (tap, &w) in filter.iter().enumerate() {
                let pair = c / CHANNELS * pairs + tap / 2;
                weights[(pair * CHANNELS + slot(c % CHANNELS)) * 2 + tap % 2] = w;
            }
        }
        Some(DepthwiseFast {
            label: label_of(conv, isa),
            isa,
            kernel: pairs::tap_kernel(isa),
            window: conv.window,
            src,
            dst,
            signed: conv.from.signed,
            pairs,
            weights,
            start: start_of(conv),
            zeros: vec![conv.from.zero as u8; panels * CHANNELS],
            finisher: Finisher::new(conv.requantise()),
            macs: (dst.batch * dst.height * dst.width * channels * taps) as u64,
        })
    }
}

/// Some output rows, counted through the batch.
struct Rows<'a> {
    conv: &'a DepthwiseFast,
    bytes: Bytes,
    rows: Range<usize>,
}

impl Work for Rows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Rows { conv, bytes, rows } = self;
        let (window, map, channels) = (&conv.window, &conv.src, conv.dst.channels);
        let [kernel_y, kernel_x] = window.kernel;
        let mut taps = vec![conv.zeros.as_ptr(); 2 * conv.pairs];
        // The last channels of all taps, where a vector of them would reach beyond the map.
        let mut ends = vec![[0u8; CHANNELS]; 2 * conv.pairs];
        let ends_at: Vec<*mut u8> = ends.iter_mut().map(|end| end.as_mut_ptr()).collect();
        let mut sums = [0i32; CHANNELS];
        for row in rows {
            let (n, y) = (row / conv.dst.height, row % conv.dst.height);
            for x in 0..conv.dst.width {
                for ky in 0..kernel_y {
                    let sy = (y * window.stride[0] + ky * window.dilation[0]).wrapping_sub(window.pads[0]);
                    for kx in 0..kernel_x {
                        let sx = (x * window.stride[1] + kx * window.dilation[1]).wrapping_sub(window.pads[1]);
                        let seen = sy < map.height && sx < map.width;
                        taps[ky * kernel_x + kx] =
                            if seen { bytes.src.wrapping_add(distance(map, n, sy, sx)) } else { conv.zeros.as_ptr() };
                    }
                }
                let dst = bytes.dst.wrapping_add(distance(&conv.dst, n, y, x));
                for panel in 0..conv.start.len() / CHANNELS {
                    let channel = panel * CHANNELS;
                    let count = CHANNELS.min(channels - channel);
                    let mut arguments = TapArguments {
                        taps: taps.as_ptr(),
                        pairs: conv.pairs,
                        channel,
                        signed: conv.signed,
                        weights: conv.weights[panel * conv.pairs * 2 * CHANNELS..].as_ptr(),
                        start: conv.start[channel..].as_ptr(),
                        sums: sums.as_mut_ptr(),
                    };
                    if count < CHANNELS {
                        for (&end, tap) in ends_at.iter().zip(&taps) {
                            // SAFETY: the last `count` channels of a pixel.
                            unsafe { std::ptr::copy_nonoverlapping(tap.add(channel), end, count) };
                        }
                        arguments.taps = ends_at.as_ptr().cast();
                        arguments.channel = 0;
                    }
                    // SAFETY: the instruction set is the one that this was entered with; the taps are inside src.
                    unsafe {
                        (conv.kernel)(&arguments);
                        conv.finisher.panel::<V>(sums.as_ptr(), channel, count, dst.add(channel));
                    }
                }
            }
        }
    }
}

impl FastKernel for DepthwiseFast {
    fn label(&self) -> String {
        self.label.clone()
    }

    fn run(&self, step: &Step, memory: &Memory) {
        assert_eq!(maps(step), Some((self.src, self.dst)), "not the step that the kernel was prepared for");
        let bytes = Bytes::new(step, memory);
        let rows = self.dst.batch * self.dst.height;
        let threads = threads::useful_threads(self.macs);
        let chunks = if threads == 1 { 1 } else { rows.min(4 * threads) };
        threads::share(threads, chunks, |chunk| {
            let rows = threads::part(rows, chunks, chunk);
            simd::run(self.isa, Rows { conv: self, bytes, rows });
        });
    }
}
