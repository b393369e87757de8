//! Tiles of several rows: every input vector is loaded once for all the windows that it is in.

use super::super::conv::distance;
use super::super::simd::{Vector, load, store};
use super::{Rows, SQUARE};

/// Columns and rows that the windows of a square are written out for: 5×5 at stride 2.
const WINDOWS_ACROSS: usize = (SQUARE - 1) * 2 + 5;
const WINDOWS_DOWN: usize = 9;

/// A block once for each value of a constant.
macro_rules! unrolled {
    ($name:ident, $($value:literal)*, $block:block) => {$(
        {
            #[allow(non_upper_case_globals)]
            const $name: usize = $value;
            $block
        }
    )*};
}

impl Rows<'_> {
    /// `R` output rows.
    #[inline(always)]
    pub(super) unsafe fn band<V: Vector, const K: usize, const S: usize, const R: usize>(&self, n: usize, y: usize) {
        let d = self.depthwise;
        let [top, left, ..] = d.window.pads;
        let inside =
            |at: usize, pad: usize, count: usize, len: usize| at * S >= pad && (at + count - 1) * S + K <= len + pad;
        let rows_inside = inside(y, top, R, d.src.height);
        let mut x = 0;
        loop {
            // SAFETY: a square of dst; without a border its windows are inside.
            unsafe {
                if rows_inside && inside(x, left, SQUARE, d.src.width) {
                    self.square::<V, K, S, R>(n, y, x);
                } else {
                    self.border_square::<V, K, S, R>(n, y, x);
                }
            }
            if x + SQUARE == d.dst.width {
                return;
            }
            // The last square computes some pixels again.
            x = (x + SQUARE).min(d.dst.width - SQUARE);
        }
    }

    /// A square some of whose windows leave the picture: there they see zeros.
    #[inline(always)]
    #[allow(clippy::absurd_extreme_comparisons)] // the constants of `unrolled` include 0
    unsafe fn border_square<V: Vector, const K: usize, const S: usize, const R: usize>(
        &self,
        n: usize,
        y: usize,
        x: usize,
    ) {
        let d = self.depthwise;
        let [top, left, ..] = d.window.pads;
        let mut from = [[d.zeros.as_ptr(); WINDOWS_ACROSS]; WINDOWS_DOWN];
        for (i, line) in from.iter_mut().enumerate().take((R - 1) * S + K) {
            let sy = (y * S + i).wrapping_sub(top);
            for (j, from) in line.iter_mut().enumerate().take((SQUARE - 1) * S + K) {
                let sx = (x * S + j).wrapping_sub(left);
                if sy < d.src.height && sx < d.src.width {
                    *from = self.maps.src.wrapping_add(distance(&d.src, n, sy, sx));
                }
            }
        }
        let channels = d.dst.channels;
        let dst = self.maps.dst.wrapping_add(distance(&d.dst, n, y, x));
        let mut c = 0;
        while c < channels {
            let partial = (channels - c < V::LANES).then_some(channels - c);
            // SAFETY: pixels of src, or zeros; `c` is inside the channels.
            unsafe {
                let mut sums = [[V::load(d.bias.as_ptr().add(c)); SQUARE]; R];
                let weights = d.weights.as_ptr().add(c);
                unrolled!(i, 0 1 2 3 4 5 6 7 8, {
                    if i < (R - 1) * S + K {
                        unrolled!(j, 0 1 2 3 4 5 6 7 8 9 10, {
                            if j < (SQUARE - 1) * S + K {
                                let value = load::<V>(from[i][j].add(c), partial);
                                self.use_value::<V, K, S, R>((i, j), value, weights, &mut sums);
                            }
                        });
                    }
                });
                self.store_square(sums, dst.add(c), partial);
            }
            c += V::LANES;
        }
        for y in y..y + R {
            self.finish(n, y, x, SQUARE);
        }
    }

    /// Adds input value (i, j) of a square's window to all the sums that it is in.
    #[inline(always)]
    unsafe fn use_value<V: Vector, const K: usize, const S: usize, const R: usize>(
        &self,
        (i, j): (usize, usize),
        value: V,
        weights: *const f32,
        sums: &mut [[V; SQUARE]; R],
    ) {
        for (r, sums) in sums.iter_mut().enumerate() {
            for kx in 0..K {
                let used = i >= r * S && i - r * S < K && j >= kx;
                if used && (j - kx).is_multiple_of(S) && (j - kx) / S < SQUARE {
                    // SAFETY: weights of the window, for the channels of the value.
                    unsafe {
                        let weight = V::load(weights.add(((i - r * S) * K + kx) * self.depthwise.width));
                        let sum = &mut sums[(j - kx) / S];
                        *sum = value.mul_add(weight, *sum);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn store_square<V: Vector, const R: usize>(
        &self,
        sums: [[V; SQUARE]; R],
        dst: *mut f32,
        partial: Option<usize>,
    ) {
        let d = self.depthwise;
        // SAFETY: pixels of dst.
        unsafe {
            let (lo, hi) = (V::splat(d.clamp.0), V::splat(d.clamp.1));
            for (r, sums) in sums.into_iter().enumerate() {
                for (t, sum) in sums.into_iter().enumerate() {
                    let to = dst.add(r * d.dst.row_stride + t * d.dst.pixel_stride);
                    store(hi.min(lo.max(sum)), to, partial);
                }
            }
        }
    }

    /// `R` rows of `SQUARE` pixels: every input vector is loaded once for all the windows that it is in.
    #[inline(always)]
    unsafe fn square<V: Vector, const K: usize, const S: usize, const R: usize>(&self, n: usize, y: usize, x: usize) {
        let d = self.depthwise;
        let [top, left, ..] = d.window.pads;
        let src = self.maps.src.wrapping_add(distance(&d.src, n, y * S - top, x * S - left));
        let dst = self.maps.dst.wrapping_add(distance(&d.dst, n, y, x));
        let channels = d.dst.channels;
        // SAFETY: by contract; `c` is inside the channels.
        unsafe {
            let mut c = 0;
            while c + V::LANES <= channels {
                self.square_block::<V, K, S, R>(src.add(c), dst.add(c), c, None);
                c += V::LANES;
            }
            if c < channels {
                self.square_block::<V, K, S, R>(src.add(c), dst.add(c), c, Some(channels - c));
            }
        }
        for y in y..y + R {
            self.finish(n, y, x, SQUARE);
        }
    }

    #[inline(always)]
    #[allow(clippy::absurd_extreme_comparisons)] // the constants of `unrolled` include 0
    unsafe fn square_block<V: Vector, const K: usize, const S: usize, const R: usize>(
        &self,
        src: *const f32,
        dst: *mut f32,
        c: usize,
        partial: Option<usize>,
    ) {
        let d = self.depthwise;
        let pixel = d.src.pixel_stride;
        // SAFETY: see `square`.
        unsafe {
            let mut sums = [[V::load(d.bias.as_ptr().add(c)); SQUARE]; R];
            let weights = d.weights.as_ptr().add(c);
            // Written out, because LLVM leaves loops of this size rolled and then keeps the sums in memory.
            unrolled!(i, 0 1 2 3 4 5 6 7 8, {
                if i < (R - 1) * S + K {
                    let row = src.add(i * d.src.row_stride);
                    unrolled!(j, 0 1 2 3 4 5 6 7 8 9 10, {
                        if j < (SQUARE - 1) * S + K {
                            let value = load::<V>(row.add(j * pixel), partial);
                            self.use_value::<V, K, S, R>((i, j), value, weights, &mut sums);
                        }
                    });
                }
            });
            self.store_square(sums, dst, partial);
        }
    }
}
