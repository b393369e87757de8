//! Depthwise convolution of bytes: sixteen channels of some pixels of a row at a time.

use super::super::conv::distance;
use super::super::simd::dots::{CHANNELS, TapArguments, TapKernel};
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

/// Most pixels that a panel is passed over at once.
const PIXELS: usize = 32;

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
    /// Taps of a channel, whole groups of the kernel's.
    taps: usize,
    /// `[panel]` and then as [`TapKernel::place`] says.
    weights: Vec<i16>,
    /// What sums start with, padded to whole panels.
    start: Vec<i32>,
    /// What taps in the padding see: the zero point, for a line of pixels and whole panels behind it.
    zeros: Vec<u8>,
    /// The columns of the output whose taps are all inside.
    inside: Range<usize>,
    /// The step writes another buffer than it reads.
    apart: bool,
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
        let kernel = TapKernel::best(isa);
        let (padded, panels) = (taps.next_multiple_of(kernel.group), channels.div_ceil(CHANNELS));
        let mut weights = vec![0i16; panels * padded * CHANNELS];
        for (c, filter) in conv.weights.chunks_exact(taps).enumerate() {
            for (tap, &w) in filter.iter().enumerate() {
                weights[c / CHANNELS * padded * CHANNELS + kernel.place(tap, c % CHANNELS)] = w;
            }
        }
        Some(DepthwiseFast {
            label: label_of(conv, isa.name()),
            isa,
            kernel,
            window: conv.window,
            src,
            dst,
            signed: conv.from.signed,
            taps: padded,
            weights,
            start: start_of(conv, conv.from.zero),
            zeros: vec![conv.from.zero as u8; src.width * src.pixel_stride + panels * CHANNELS],
            inside: inside(&conv.window, src.width, dst.width),
            apart: step.reads[0].buffer != step.writes[0].buffer,
            finisher: Finisher::new(conv.requantise()),
            macs: (dst.batch * dst.height * dst.width * channels * taps) as u64,
        })
    }
}

/// The columns of the output whose taps are all inside a source of some width.
fn inside(window: &Window, src_width: usize, dst_width: usize) -> Range<usize> {
    let (stride, pad) = (window.stride[1], window.pads[1]);
    let reach = (window.kernel[1] - 1) * window.dilation[1] + 1;
    let end = (src_width + pad).checked_sub(reach).map_or(0, |rest| rest / stride + 1).min(dst_width);
    pad.div_ceil(stride).min(end)..end
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
        let mut lines = vec![conv.zeros.as_ptr(); kernel_y];
        let mut taps = vec![conv.zeros.as_ptr(); conv.taps];
        // The last channels of all taps, where a vector of them would reach beyond the map.
        let mut ends = vec![[0u8; CHANNELS]; conv.taps];
        let ends_at: Vec<*mut u8> = ends.iter_mut().map(|end| end.as_mut_ptr()).collect();
        let mut sums = [0i32; PIXELS * CHANNELS];
        let mut places = [std::ptr::null_mut(); PIXELS];
        for row in rows {
            let (n, y) = (row / conv.dst.height, row % conv.dst.height);
            for (ky, line) in lines.iter_mut().enumerate() {
                let sy = (y * window.stride[0] + ky * window.dilation[0]).wrapping_sub(window.pads[0]);
                let seen = sy < map.height;
                *line = if seen { bytes.src.wrapping_add(distance(map, n, sy, 0)) } else { conv.zeros.as_ptr() };
            }
            let mut x = 0;
            while x < conv.dst.width {
                let inside = conv.inside.contains(&x);
                let pixels = if inside { PIXELS.min(conv.inside.end - x) } else { 1 };
                for (ky, &line) in lines.iter().enumerate() {
                    for kx in 0..kernel_x {
                        let sx = (x * window.stride[1] + kx * window.dilation[1]).wrapping_sub(window.pads[1]);
                        let seen = sx < map.width;
                        taps[ky * kernel_x + kx] =
                            if seen { line.wrapping_add(sx * map.pixel_stride) } else { conv.zeros.as_ptr() };
                    }
                }
                for (p, place) in places[..pixels].iter_mut().enumerate() {
                    *place = bytes.dst.wrapping_add(distance(&conv.dst, n, y, x + p));
                }
                for panel in 0..conv.start.len() / CHANNELS {
                    let channel = panel * CHANNELS;
                    let count = CHANNELS.min(channels - channel);
                    let arguments = TapArguments {
                        taps: taps.as_ptr(),
                        count: conv.taps,
                        pixels,
                        step: window.stride[1] * map.pixel_stride,
                        channel,
                        signed: conv.signed,
                        weights: conv.weights[panel * conv.taps * CHANNELS..].as_ptr(),
                        start: conv.start[channel..].as_ptr(),
                        sums: sums.as_mut_ptr(),
                    };
                    // SAFETY: the instruction set is the one that this was entered with; the taps of all pixels are
                    // inside src or the line of zeros, and so is what is read behind the last channels.
                    unsafe {
                        if count == CHANNELS || conv.readable(bytes, &arguments, &taps) {
                            (conv.kernel.run)(&arguments);
                        } else {
                            for p in 0..pixels {
                                for (&end, tap) in ends_at.iter().zip(&taps) {
                                    std::ptr::copy_nonoverlapping(tap.add(channel + p * arguments.step), end, count);
                                }
                                (conv.kernel.run)(&TapArguments {
                                    taps: ends_at.as_ptr().cast(),
                                    pixels: 1,
                                    channel: 0,
                                    sums: sums[p * CHANNELS..].as_mut_ptr(),
                                    ..arguments
                                });
                            }
                        }
                        conv.finisher.rows::<V>(sums.as_ptr(), channel, count, &places[..pixels]);
                    }
                }
                x += pixels;
            }
        }
    }
}

impl DepthwiseFast {
    /// True where whole vectors can be read of all taps of all pixels.
    #[inline(always)]
    fn readable(&self, bytes: Bytes, arguments: &TapArguments, taps: &[*const u8]) -> bool {
        let map = &self.src;
        let last =
            distance(map, map.batch.saturating_sub(1), map.height.saturating_sub(1), map.width.saturating_sub(1));
        let end = bytes.src.wrapping_add(last + map.channels);
        let reach = arguments.channel + (arguments.pixels - 1) * arguments.step + CHANNELS;
        let zeros = self.zeros.as_ptr_range();
        // What lies between the channels of one pixel and of the next may be written by another thread, if it is a
        // part of what this step writes.
        self.apart && taps.iter().all(|tap| zeros.contains(tap) || tap.wrapping_add(reach) <= end)
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
