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
    /// Bands of `R` output rows from `y` on, of `left` rows in all; the number of rows done, 0 when they are too few for a
    /// band or too short for a square.
    #[inline(always)]
    pub(super) unsafe fn bands<V: Vector, const K: usize, const S: usize, const R: usize>(
        &self,
        n: usize,
        y: usize,
        left: usize,
    ) -> usize {
        if left < R || self.depthwise.dst.width < SQUARE {
            return 0;
        }
        let mut done = 0;
        while done < left {
            // The last band computes some rows again rather than few of its own.
            let first = done.min(left - R);
            // SAFETY: rows and columns of dst.
            unsafe { self.band::<V, K, S, R>(n, y + first) };
            done = first + R;
        }
        done
    }

    /// `R` output rows.
    #[inline(always)]
    unsafe fn band<V: Vector, const K: usize, const S: usize, const R: usize>(&self, n: usize, y: usize) {
        let d = self.depthwise;
        let [top, left, ..] = d.window.pads;
        let inside =
            |at: usize, pad: usize, count: usize, len: usize| at * S >= pad && (at + count - 1) * S + K <= len + pad;
        let rows_inside = inside(y, top, R, d.src.height);
        let mut x = 0;
        loop {
            let is_inside = rows_inside && inside(x, left, SQUARE, d.src.width);
            let whole = d.dst.channels - d.dst.channels % V::LANES;
            // SAFETY: a square of dst; without a border its windows are inside.
            unsafe {
                if is_inside {
                    self.square::<V, K, S, R>(n, y, x, whole);
                }
                if !is_inside || whole < d.dst.channels {
                    self.square_by_table::<V, K, S, R>(n, y, x, if is_inside { whole } else { 0 });
                }
            }
            for y in y..y + R {
                self.finish(n, y, x, SQUARE);
            }
            if x + SQUARE == d.dst.width {
                return;
            }
            // The last square computes some pixels again.
            x = (x + SQUARE).min(d.dst.width - SQUARE);
        }
    }

    /// Channels from `first` on of a square whose windows may leave the picture: there they see zeros.
    #[inline(always)]
    unsafe fn square_by_table<V: Vector, const K: usize, const S: usize, const R: usize>(
        &self,
        n: usize,
        y: usize,
        x: usize,
        first: usize,
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
        // SAFETY: pixels of src, or zeros; `c` is inside the channels.
        unsafe {
            let mut c = first;
            while c + V::LANES <= channels {
                self.table_block::<V, K, S, R>(&from, dst.add(c), c, None);
                c += V::LANES;
            }
            if c < channels {
                self.table_block::<V, K, S, R>(&from, dst.add(c), c, Some(channels - c));
            }
        }
    }

    #[inline(always)]
    #[allow(clippy::absurd_extreme_comparisons)] // the constants of `unrolled` include 0
    unsafe fn table_block<V: Vector, const K: usize, const S: usize, const R: usize>(
        &self,
        from: &[[*const f32; WINDOWS_ACROSS]; WINDOWS_DOWN],
        dst: *mut f32,
        c: usize,
        partial: Option<usize>,
    ) {
        let d = self.depthwise;
        // SAFETY: see `square_by_table`.
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
            self.store_square(sums, dst, partial);
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

    /// The first `whole` channels, whole vectors of them, of `R` rows of `SQUARE` pixels whose windows are inside the
    /// picture: every input vector is loaded once for all the windows that it is in.
    #[inline(always)]
    #[allow(clippy::absurd_extreme_comparisons)] // the constants of `unrolled` include 0
    unsafe fn square<V: Vector, const K: usize, const S: usize, const R: usize>(
        &self,
        n: usize,
        y: usize,
        x: usize,
        whole: usize,
    ) {
        let d = self.depthwise;
        let [top, left, ..] = d.window.pads;
        let src = self.maps.src.wrapping_add(distance(&d.src, n, y * S - top, x * S - left));
        let dst = self.maps.dst.wrapping_add(distance(&d.dst, n, y, x));
        let pixel = d.src.pixel_stride;
        let mut c = 0;
        while c < whole {
            // SAFETY: by contract; `c` is inside the channels.
            unsafe {
                let mut sums = [[V::load(d.bias.as_ptr().add(c)); SQUARE]; R];
                let weights = d.weights.as_ptr().add(c);
                // Written out, because LLVM leaves loops of this size rolled and then keeps the sums in memory.
                unrolled!(i, 0 1 2 3 4 5 6 7 8, {
                    if i < (R - 1) * S + K {
                        let row = src.add(i * d.src.row_stride + c);
                        unrolled!(j, 0 1 2 3 4 5 6 7 8 9 10, {
                            if j < (SQUARE - 1) * S + K {
                                let value = V::load(row.add(j * pixel));
                                self.use_value::<V, K, S, R>((i, j), value, weights, &mut sums);
                            }
                        });
                    }
                });
                self.store_square(sums, dst.add(c), None);
            }
            c += V::LANES;
        }
    }
}
