//! Maximum pools and nearest resizing of bytes.

use super::super::chain::{ByRows, RowMaps, RowShape};
use super::super::conv::{distance, taps_inside};
use super::super::simd::{self, Vector, Work};
use super::super::{Isa, Memory, threads};
use super::{Bytes, maps};
use crate::infer::kernel::{ByteKernel, FastKernel};
use crate::infer::kernels::bytes::max_pool::ByteMaxPool;
use crate::infer::kernels::bytes::nearest::ByteNearest;
use crate::infer::plan::step::{Element, Step};
use crate::infer::plan::view::FeatureMap;
use std::ops::Range;

/// Most channels that are looked at together. A loop of as many, unrolled, would not become vectors.
const CHANNELS: usize = 256;

#[derive(Debug)]
struct MaxPoolFast {
    pool: ByteMaxPool,
    src: FeatureMap,
    dst: FeatureMap,
    isa: Isa,
}

/// The fast form of a maximum pool.
pub fn prepare_max_pool(pool: &ByteMaxPool, step: &Step, isa: Isa) -> Option<Box<dyn FastKernel>> {
    let (src, dst) = maps(step)?;
    (src.channels == dst.channels).then(|| Box::new(MaxPoolFast { pool: *pool, src, dst, isa }) as Box<dyn FastKernel>)
}

struct Rows<'a> {
    pool: &'a MaxPoolFast,
    bytes: Bytes,
    rows: Range<usize>,
}

impl Work for Rows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        if self.pool.pool.signed {
            self.all::<true>();
        } else {
            self.all::<false>();
        }
    }
}

impl Rows<'_> {
    #[inline(always)]
    fn all<const SIGNED: bool>(self) {
        let Rows { pool: MaxPoolFast { pool, src, dst, .. }, bytes, rows } = self;
        // The question of the sign is settled: a plain maximum is left inside.
        let pool = ByteMaxPool { signed: SIGNED, ..*pool };
        let window = &pool.window;
        let ordered = |byte: u8| pool.ordered(byte);
        for row in rows {
            let (n, y) = (row / dst.height, row % dst.height);
            let down = taps_inside(window, 0, y, src.height);
            for x in 0..dst.width {
                let across = taps_inside(window, 1, x, src.width);
                let out = bytes.dst.wrapping_add(distance(dst, n, y, x));
                for first in (0..dst.channels).step_by(CHANNELS) {
                    let count = CHANNELS.min(dst.channels - first);
                    let mut most = [0u8; CHANNELS];
                    for ky in down.clone() {
                        for kx in across.clone() {
                            let sy = y * window.stride[0] + ky * window.dilation[0] - window.pads[0];
                            let sx = x * window.stride[1] + kx * window.dilation[1] - window.pads[1];
                            let from = bytes.src.wrapping_add(distance(src, n, sy, sx) + first);
                            // SAFETY: `count` channels of a pixel inside src.
                            let seen = unsafe { std::slice::from_raw_parts(from, count) };
                            for (most, &byte) in most[..count].iter_mut().zip(seen) {
                                *most = (*most).max(ordered(byte));
                            }
                        }
                    }
                    for (i, &byte) in most[..count].iter().enumerate() {
                        // SAFETY: a channel of a pixel inside dst.
                        unsafe { *out.add(first + i) = ordered(byte) };
                    }
                }
            }
        }
    }
}

impl FastKernel for MaxPoolFast {
    fn label(&self) -> String {
        format!("{}_{}", self.pool.label(), self.isa.name())
    }

    fn run(&self, step: &Step, memory: &Memory) {
        assert_eq!(maps(step), Some((self.src, self.dst)), "not the step that the kernel was prepared for");
        let (bytes, rows) = (Bytes::new(step, memory), self.dst.batch * self.dst.height);
        let work = rows * self.dst.width * self.dst.channels * self.pool.window.taps() / 8;
        let threads = threads::useful_threads(work as u64);
        let chunks = if threads == 1 { 1 } else { rows.min(4 * threads) };
        threads::share(threads, chunks, |chunk| {
            simd::run(self.isa, Rows { pool: self, bytes, rows: threads::part(rows, chunks, chunk) });
        });
    }

    fn by_rows(&self) -> Option<&dyn ByRows> {
        Some(self)
    }
}

impl ByRows for MaxPoolFast {
    fn shape(&self) -> RowShape {
        let (src, dst, window) = (self.src, self.dst, self.pool.window);
        let macs = (dst.height * dst.width * dst.channels * window.taps() / 8) as u64;
        RowShape { src, dst, window, grain: 1, element: Element::Byte, macs }
    }

    unsafe fn run_rows(&self, maps: RowMaps, rows: Range<usize>) {
        simd::run(self.isa, Rows { pool: self, bytes: maps.into(), rows });
    }
}

#[derive(Debug)]
struct NearestFast {
    src: FeatureMap,
    dst: FeatureMap,
    rows: Vec<usize>,
    columns: Vec<usize>,
}

/// The fast form of a resize to the nearest pixel.
pub fn prepare_nearest(kernel: &ByteNearest, step: &Step) -> Option<Box<dyn FastKernel>> {
    let (src, dst) = maps(step)?;
    let [rows, columns] = kernel.resize.neighbours(step).map(|axis| axis.into_iter().map(|(at, ..)| at).collect());
    (src.channels == dst.channels).then(|| Box::new(NearestFast { src, dst, rows, columns }) as Box<dyn FastKernel>)
}

impl FastKernel for NearestFast {
    fn label(&self) -> String {
        "byte_nearest".to_string()
    }

    fn run(&self, step: &Step, memory: &Memory) {
        assert_eq!(maps(step), Some((self.src, self.dst)), "not the step that the kernel was prepared for");
        let (bytes, rows) = (Bytes::new(step, memory), self.dst.batch * self.dst.height);
        let threads = threads::useful_threads((rows * self.dst.width * self.dst.channels / 8) as u64);
        threads::share(threads, rows, |row| {
            let bytes = &bytes;
            let (n, y) = (row / self.dst.height, row % self.dst.height);
            for (x, &column) in self.columns.iter().enumerate() {
                let from = bytes.src.wrapping_add(distance(&self.src, n, self.rows[y], column));
                let to = bytes.dst.wrapping_add(distance(&self.dst, n, y, x));
                // SAFETY: pixels inside src and dst, which do not overlap.
                unsafe { std::ptr::copy_nonoverlapping(from, to, self.dst.channels) };
            }
        });
    }
}
