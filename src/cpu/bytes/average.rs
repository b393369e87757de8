//! Means over windows of bytes.

use super::super::conv::{distance, taps_inside};
use super::super::simd::{self, Vector, Work};
use super::super::{Isa, Memory, threads};
use super::{Bytes, maps};
use crate::infer::bytes::{ByteScale, Multiple};
use crate::infer::kernel::{ByteKernel, FastKernel};
use crate::infer::kernels::bytes::average::ByteAverage;
use crate::infer::plan::step::Step;
use crate::infer::plan::view::FeatureMap;
use std::ops::Range;

/// Most channels that are added up together: a loop of as many becomes vectors.
const CHANNELS: usize = 256;

#[derive(Debug)]
struct AverageFast {
    average: ByteAverage,
    src: FeatureMap,
    dst: FeatureMap,
    isa: Isa,
}

/// The fast form of a mean.
pub fn prepare(average: &ByteAverage, step: &Step, isa: Isa) -> Option<Box<dyn FastKernel>> {
    let (src, dst) = maps(step)?;
    let fast = AverageFast { average: average.clone(), src, dst, isa };
    (src.channels == dst.channels).then(|| Box::new(fast) as Box<dyn FastKernel>)
}

/// A block of the channels of some rows of the output.
struct Part<'a> {
    fast: &'a AverageFast,
    bytes: Bytes,
    rows: Range<usize>,
    channels: Range<usize>,
}

impl Work for Part<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let average = &self.fast.average;
        match average.numbers.multiple {
            Some(multiple) if average.from.signed => self.multiples::<true>(multiple),
            Some(multiple) => self.multiples::<false>(multiple),
            None => {
                let units = *average.numbers.units;
                self.all(move |byte| units[usize::from(byte)]);
            }
        }
    }
}

impl Part<'_> {
    #[inline(always)]
    fn multiples<const SIGNED: bool>(self, multiple: Multiple) {
        let from = ByteScale { signed: SIGNED, ..self.fast.average.from };
        self.all(move |byte| multiple.apply(from.steps(byte)));
    }

    #[inline(always)]
    fn all(self, units: impl Fn(u8) -> i32) {
        let Part { fast: AverageFast { average, src, dst, .. }, bytes, rows, channels } = self;
        let (window, count, first) = (&average.window, channels.len(), channels.start);
        for row in rows {
            let (n, y) = (row / dst.height, row % dst.height);
            let (down, rows_counted) = (taps_inside(window, 0, y, src.height), average.counted(0, src.height, y));
            for x in 0..dst.width {
                let across = taps_inside(window, 1, x, src.width);
                let factor = average.factor(rows_counted * average.counted(1, src.width, x));
                let mut sums = [0i32; CHANNELS];
                for ky in down.clone() {
                    for kx in across.clone() {
                        let sy = y * window.stride[0] + ky * window.dilation[0] - window.pads[0];
                        let sx = x * window.stride[1] + kx * window.dilation[1] - window.pads[1];
                        let from = bytes.src.wrapping_add(distance(src, n, sy, sx) + first);
                        // SAFETY: `count` channels of a pixel inside src.
                        let seen = unsafe { std::slice::from_raw_parts(from, count) };
                        for (sum, &byte) in sums[..count].iter_mut().zip(seen) {
                            *sum += units(byte);
                        }
                    }
                }
                let out = bytes.dst.wrapping_add(distance(dst, n, y, x) + first);
                for (i, &sum) in sums[..count].iter().enumerate() {
                    // SAFETY: a channel of a pixel inside dst.
                    unsafe { *out.add(i) = average.byte(sum, factor) };
                }
            }
        }
    }
}

impl FastKernel for AverageFast {
    fn label(&self) -> String {
        format!("{}_{}", self.average.label(), self.isa.name())
    }

    fn run(&self, step: &Step, memory: &Memory) {
        assert_eq!(maps(step), Some((self.src, self.dst)), "not the step that the kernel was prepared for");
        let (bytes, rows) = (Bytes::new(step, memory), self.dst.batch * self.dst.height);
        let bytes = &bytes;
        let blocks = self.dst.channels.div_ceil(CHANNELS);
        let work = rows * self.dst.width * self.dst.channels * self.average.window.taps() / 4;
        let threads = threads::useful_threads(work as u64);
        let chunks = if threads == 1 { 1 } else { rows.min(4 * threads) };
        threads::share(threads, chunks * blocks, |chunk| {
            let first = chunk % blocks * CHANNELS;
            let channels = first..self.dst.channels.min(first + CHANNELS);
            let rows = threads::part(rows, chunks, chunk / blocks);
            simd::run(self.isa, Part { fast: self, bytes: *bytes, rows, channels });
        });
    }
}
