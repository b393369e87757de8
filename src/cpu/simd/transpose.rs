//! Transposition in registers.

use super::{Vector, load, store};

/// The most lanes of any vector.
const LANES_MAX: usize = 16;

/// dst[i][j] = src[j][i] for a rectangle of `rows` × `columns` elements of src, at most `LANES` each; the strides are those
/// between the rows of src and of dst. Each vector passes through `map` on its way to dst.
///
/// # Safety
/// See [`Vector`]; rows of src hold `columns` elements, those of dst `rows`.
#[inline(always)]
pub unsafe fn transpose<V: Vector>(
    src: *const f32,
    src_stride: usize,
    dst: *mut f32,
    dst_stride: usize,
    (rows, columns): (usize, usize),
    map: impl Fn(V) -> V,
) {
    let whole = rows == V::LANES && columns == V::LANES;
    let mut square = [V::splat(0.0); LANES_MAX];
    for (r, line) in square.iter_mut().enumerate().take(V::LANES) {
        if whole {
            *line = V::load(src.add(r * src_stride));
        } else if r < rows {
            *line = load(src.add(r * src_stride), Some(columns));
        }
    }
    // Each round is a perfect shuffle of all elements; after log₂ rounds rows and columns have changed places.
    let mut rounds = V::LANES;
    while rounds > 1 {
        let mut next = square;
        for i in 0..V::LANES / 2 {
            (next[2 * i], next[2 * i + 1]) = square[i].interleave(square[i + V::LANES / 2]);
        }
        square = next;
        rounds /= 2;
    }
    for (c, line) in square.into_iter().enumerate().take(V::LANES) {
        if whole {
            map(line).store(dst.add(c * dst_stride));
        } else if c < columns {
            store(map(line), dst.add(c * dst_stride), Some(rows));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Vector, Work, run};
    use crate::cpu::Isa;

    struct Rectangle<'a>(&'a [f32], &'a mut [f32], (usize, usize));

    impl Work for Rectangle<'_> {
        type Output = ();
        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            let (rows, columns) = (self.2.0.min(V::LANES), self.2.1.min(V::LANES));
            let map = |x: V| x.add(V::splat(1.0));
            super::transpose::<V>(self.0.as_ptr(), 20, self.1.as_mut_ptr(), 23, (rows, columns), map);
        }
    }

    #[test]
    fn rows_become_columns_and_nothing_else_is_written() {
        let src: Vec<f32> = (0..400).map(|i| i as f32).collect();
        for isa in Isa::available() {
            let lanes = super::super::lanes(isa);
            for (rows, columns) in [(16, 16), (1, 1), (3, 16), (16, 2), (7, 5)] {
                let mut dst = vec![-1.0; 400];
                run(isa, Rectangle(&src, &mut dst, (rows, columns)));
                for (i, &x) in dst.iter().enumerate() {
                    let (c, r) = (i / 23, i % 23);
                    let inside = c < columns.min(lanes) && r < rows.min(lanes);
                    let wanted = if inside { (r * 20 + c) as f32 + 1.0 } else { -1.0 };
                    assert_eq!(x, wanted, "{isa:?} {rows}x{columns} at {c}, {r}");
                }
            }
        }
    }
}
