//! Fast pooling: vectors over channels.

use std::ops::Range;

use super::blocks::Shared;
use super::chain::{ByRows, RowMaps, RowShape};
use super::conv::{distance, taps_inside};
use super::simd::{self, Vector, Work, load, store};
use super::{Isa, Memory, threads};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::pool::{Pool, PoolKind};
use crate::infer::plan::step::{Element, Step};
use crate::infer::plan::view::FeatureMap;

/// Vectors of channels that are pooled together.
const VECTORS: usize = 4;

/// The fast form of a pooling step; `None` where the views are no feature maps.
pub fn prepare(kernel: &Pool, step: &Step, isa: Isa) -> Option<Box<dyn FastKernel>> {
    let (src, dst) = maps(step)?;
    let whole = |x: &usize| taps_inside(&kernel.window, 1, *x, src.width).len() == kernel.window.kernel[1];
    let first = (0..dst.width).find(whole).unwrap_or(dst.width);
    let inside = first..(first..dst.width).find(|x| !whole(x)).unwrap_or(dst.width);
    isa.is_available().then(|| Box::new(PoolFast { isa, kernel: *kernel, src, dst, inside }) as Box<dyn FastKernel>)
}

fn maps(step: &Step) -> Option<(FeatureMap, FeatureMap)> {
    let (src, dst) = (step.reads.first()?.feature_map()?, step.writes.first()?.feature_map()?);
    ((src.batch, src.channels) == (dst.batch, dst.channels)).then_some((src, dst))
}

/// A pooling.
#[derive(Debug)]
pub struct PoolFast {
    isa: Isa,
    kernel: Pool,
    src: FeatureMap,
    dst: FeatureMap,
    /// Output columns whose windows are inside the picture.
    inside: Range<usize>,
}

impl FastKernel for PoolFast {
    fn label(&self) -> String {
        let kind = if self.kernel.kind == PoolKind::Max { "max" } else { "average" };
        let [ky, kx] = self.kernel.window.kernel;
        format!("{kind}_pool_{ky}x{kx}_{}", self.isa.name())
    }

    fn run(&self, step: &Step, memory: &Memory) {
        assert_eq!(maps(step), Some((self.src, self.dst)), "not the step that the kernel was prepared for");
        let src = Shared(memory.pointer(&step.reads[0]));
        let dst = Shared(memory.pointer(&step.writes[0]));
        let (src, dst) = (&src, &dst);
        let [ky, kx] = self.kernel.window.kernel;
        let rows = self.dst.batch * self.dst.height;
        let threads = threads::useful_threads((rows * self.dst.width * self.dst.channels * ky * kx) as u64);
        let by_rows = if threads == 1 { 1 } else { rows.min(4 * threads) };
        // A few rows of many channels, as in global pooling, are divided by channels too.
        let block = VECTORS * simd::lanes(self.isa);
        let blocks = self.dst.channels.div_ceil(block);
        let by_channels = if threads == 1 { 1 } else { blocks.min((2 * threads).div_ceil(by_rows.max(1))).max(1) };
        threads::share(threads, by_rows * by_channels, |task| {
            let channels = threads::part(blocks, by_channels, task / by_rows);
            let channels = channels.start * block..(channels.end * block).min(self.dst.channels);
            let rows = threads::part(rows, by_rows, task % by_rows);
            simd::run(self.isa, Rows { pool: self, src: src.0, dst: dst.0, rows, channels });
        });
    }

    fn by_rows(&self) -> Option<&dyn ByRows> {
        Some(self)
    }
}

impl ByRows for PoolFast {
    fn shape(&self) -> RowShape {
        let elements = self.dst.height * self.dst.width * self.dst.channels;
        RowShape {
            src: self.src,
            dst: self.dst,
            window: self.kernel.window,
            grain: 1,
            element: Element::F32,
            macs: (elements * self.kernel.window.taps()) as u64,
        }
    }

    unsafe fn run_rows(&self, maps: RowMaps, rows: Range<usize>) {
        let channels = 0..self.dst.channels;
        simd::run(self.isa, Rows { pool: self, src: maps.src.cast(), dst: maps.dst.cast(), rows, channels });
    }
}

/// Some channels of some output rows, counted through the batch.
struct Rows<'a> {
    pool: &'a PoolFast,
    src: *const f32,
    dst: *mut f32,
    rows: Range<usize>,
    channels: Range<usize>,
}

impl Work for Rows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let p = self.pool;
        for row in self.rows.clone() {
            let (n, y) = (row / p.dst.height, row % p.dst.height);
            let down = taps_inside(&p.kernel.window, 0, y, p.src.height);
            // The largest of a small window, where all of its columns are inside, is written out.
            let written_out = if p.kernel.kind == PoolKind::Max && !down.is_empty() { p.inside.clone() } else { 0..0 };
            // SAFETY: the windows of these columns are inside from left to right.
            unsafe {
                match p.kernel.window.kernel {
                    [2, 2] => self.largest::<V, 2>((n, y), &down, &written_out),
                    [3, 3] => self.largest::<V, 3>((n, y), &down, &written_out),
                    _ => {}
                }
            }
            let done = if matches!(p.kernel.window.kernel, [2, 2] | [3, 3]) { written_out } else { 0..0 };
            for x in (0..p.dst.width).filter(|x| !done.contains(x)) {
                let across = taps_inside(&p.kernel.window, 1, x, p.src.width);
                let scale = match p.kernel.kind {
                    PoolKind::Max => 1.0,
                    PoolKind::Average { count_include_pad: pad } => {
                        let rows = p.kernel.counted(0, p.src.height, y, pad);
                        1.0 / (rows * p.kernel.counted(1, p.src.width, x, pad)).max(1) as f32
                    }
                };
                let dst = self.dst.wrapping_add(distance(&p.dst, n, y, x));
                let mut c = self.channels.start;
                // SAFETY: taps are inside src, and `c` counts whole or partial vectors of the channels.
                unsafe {
                    while c + VECTORS * V::LANES <= self.channels.end {
                        self.block::<V, VECTORS>((n, y, x), (&down, &across), c, None, scale, dst);
                        c += VECTORS * V::LANES;
                    }
                    while c < self.channels.end {
                        let left = self.channels.end - c;
                        let partial = (left < V::LANES).then_some(left);
                        self.block::<V, 1>((n, y, x), (&down, &across), c, partial, scale, dst);
                        c += V::LANES;
                    }
                }
            }
        }
    }
}

impl Rows<'_> {
    /// The largest values of K×K windows in the columns `inside` of a row.
    ///
    /// # Safety
    /// The windows must be inside the picture from left to right; the taps `down` are so from top to bottom.
    #[inline(always)]
    unsafe fn largest<V: Vector, const K: usize>(
        &self,
        (n, y): (usize, usize),
        down: &Range<usize>,
        inside: &Range<usize>,
    ) {
        let p = self.pool;
        let window = &p.kernel.window;
        // Rows outside are replaced by one inside, which changes no maximum.
        let mut rows = [self.src; K];
        for (ky, row) in rows.iter_mut().enumerate() {
            let ky = ky.clamp(down.start, down.end - 1);
            let sy = y * window.stride[0] + ky * window.dilation[0] - window.pads[0];
            *row = self.src.wrapping_add(distance(&p.src, n, sy, 0));
        }
        let tap = window.dilation[1] * p.src.pixel_stride;
        for x in inside.clone() {
            let from = (x * window.stride[1] - window.pads[1]) * p.src.pixel_stride;
            let dst = self.dst.wrapping_add(distance(&p.dst, n, y, x));
            let mut c = self.channels.start;
            while c < self.channels.end {
                let left = self.channels.end - c;
                let partial = (left < V::LANES).then_some(left);
                // SAFETY: by contract; `c` counts whole or partial vectors of the channels.
                unsafe {
                    let mut value = V::splat(f32::MIN);
                    for row in rows {
                        for kx in 0..K {
                            value = value.max(load(row.add(from + kx * tap + c), partial));
                        }
                    }
                    store(value, dst.add(c), partial);
                }
                c += V::LANES;
            }
        }
    }

    #[inline(always)]
    unsafe fn block<V: Vector, const N: usize>(
        &self,
        (n, y, x): (usize, usize, usize),
        (down, across): (&Range<usize>, &Range<usize>),
        c: usize,
        partial: Option<usize>,
        scale: f32,
        dst: *mut f32,
    ) {
        let p = self.pool;
        let window = &p.kernel.window;
        let max = p.kernel.kind == PoolKind::Max;
        // SAFETY: see `run`.
        unsafe {
            let mut values = [V::splat(if max { f32::MIN } else { 0.0 }); N];
            for ky in down.clone() {
                for kx in across.clone() {
                    let sy = y * window.stride[0] + ky * window.dilation[0] - window.pads[0];
                    let sx = x * window.stride[1] + kx * window.dilation[1] - window.pads[1];
                    let from = self.src.wrapping_add(distance(&p.src, n, sy, sx) + c);
                    for (v, value) in values.iter_mut().enumerate() {
                        let seen = load::<V>(from.add(v * V::LANES), partial);
                        *value = if max { value.max(seen) } else { value.add(seen) };
                    }
                }
            }
            for (v, value) in values.into_iter().enumerate() {
                store(value.mul(V::splat(scale)), dst.add(c + v * V::LANES), partial);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::infer::kernels::conv::Window;

    /// Sizes of the output may be larger than the window's own, as ceil mode makes them.
    fn check(kind: PoolKind, window: Window, [n, c, h, w]: [usize; 4], [oh, ow]: [usize; 2]) {
        let x = values(7, n * c * h * w);
        let mut wanted = Vec::new();
        for plane in 0..n * c {
            for (oy, ox) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
                let (mut max, mut sum, mut seen, mut padded) = (f64::from(f32::MIN), 0.0, 0, 0);
                for (ky, kx) in (0..window.kernel[0]).flat_map(|y| (0..window.kernel[1]).map(move |x| (y, x))) {
                    let y = (oy * window.stride[0] + ky * window.dilation[0]) as isize - window.pads[0] as isize;
                    let x_at = (ox * window.stride[1] + kx * window.dilation[1]) as isize - window.pads[1] as isize;
                    padded += usize::from(y < (h + window.pads[2]) as isize && x_at < (w + window.pads[3]) as isize);
                    if y >= 0 && x_at >= 0 && (y as usize) < h && (x_at as usize) < w {
                        let v = f64::from(x[plane * h * w + y as usize * w + x_at as usize]);
                        (max, sum, seen) = (max.max(v), sum + v, seen + 1);
                    }
                }
                wanted.push(match kind {
                    PoolKind::Max => max,
                    PoolKind::Average { count_include_pad: true } => sum / padded.max(1) as f64,
                    PoolKind::Average { count_include_pad: false } => sum / seen.max(1) as f64,
                });
            }
        }
        for gap in [0, 3] {
            let step = step(vec![map(0, [n, c, h, w], gap, 0)], vec![map(1, [n, c, oh, ow], 0, gap)]);
            for isa in Isa::available() {
                let fast = prepare(&Pool { kind, window }, &step, isa).expect("feature maps");
                let what = format!("{} {c} {h}x{w} {window:?}", fast.label());
                assert_close(&outputs(&*fast, &step, &[&x]), &wanted, 1e-6, &what);
            }
        }
    }

    #[test]
    fn windows_agree_with_a_naive_loop() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("threads");
        let kinds = [true, false].map(|count_include_pad| PoolKind::Average { count_include_pad });
        for kind in [PoolKind::Max, kinds[0], kinds[1]] {
            for channels in [1, 7, 16, 33, 130] {
                let window = |kernel, stride, pads, dilation| Window {
                    kernel: [kernel; 2],
                    stride: [stride; 2],
                    pads,
                    dilation: [dilation; 2],
                };
                pool.install(|| {
                    check(kind, window(5, 1, [2; 4], 1), [1, channels, 6, 9], [6, 9]);
                    check(kind, window(2, 2, [0; 4], 1), [2, channels, 5, 7], [3, 4]);
                    check(kind, window(3, 2, [1, 0, 0, 1], 1), [1, channels, 8, 3], [3, 1]);
                    check(kind, window(3, 1, [2; 4], 2), [1, channels, 1, 5], [1, 5]);
                });
                let whole = Window { kernel: [7, 9], stride: [1; 2], pads: [0; 4], dilation: [1; 2] };
                pool.install(|| check(kind, whole, [1, channels * 3, 7, 9], [1, 1]));
            }
        }
    }
}
