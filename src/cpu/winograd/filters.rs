//! Filters of Winograd's form, transformed a panel and a group of points at a time.

use super::IN;
use crate::cpu::simd::{Vector, Work};

/// The points are made in three groups of two rows, which have parts in common.
pub const GROUPS: [[usize; 2]; 3] = [[0, 5], [1, 2], [3, 4]];
pub const GROUP_POINTS: usize = 2 * IN;

/// G·g for two of its six rows, with G = [¼ 0 0; −⅙ −⅙ −⅙; −⅙ ⅙ −⅙; 1/24 1/12 ⅙; 1/24 −1/12 ⅙; 0 0 1].
#[inline(always)]
unsafe fn filter_rows<V: Vector, const GROUP: usize>(g: [V; 3]) -> [V; 2] {
    // SAFETY: called with the vectors of an instruction set that is there.
    unsafe {
        match GROUP {
            0 => [g[0].mul(V::splat(0.25)), g[2]],
            1 => {
                let (outer, factor) = (g[0].add(g[2]), V::splat(-1.0 / 6.0));
                [outer.add(g[1]).mul(factor), outer.sub(g[1]).mul(factor)]
            }
            _ => {
                let outer = g[0].mul(V::splat(1.0 / 24.0)).add(g[2].mul(V::splat(1.0 / 6.0)));
                let inner = g[1].mul(V::splat(1.0 / 12.0));
                [outer.add(inner), outer.sub(inner)]
            }
        }
    }
}

/// The transformed filters G·g·Gᵀ of a panel at one group of points.
pub struct TransformPanel<'a> {
    /// `[in][tap][channel]`
    pub taps: &'a [f32],
    pub group: usize,
    /// Vectors of the panel.
    pub vectors: usize,
    pub ins: usize,
    /// The first points of the group's two rows, `[in][channel]`; the others follow, so far apart.
    pub rows: [*mut f32; 2],
    pub plane: usize,
}

impl Work for TransformPanel<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        assert!(self.taps.len() >= self.ins * 9 * self.vectors * V::LANES);
        // SAFETY: the taps are there; by whoever made this, so is room for the points.
        unsafe {
            match self.group {
                0 => self.all::<V, 0>(),
                1 => self.all::<V, 1>(),
                _ => self.all::<V, 2>(),
            }
        }
    }
}

impl TransformPanel<'_> {
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // columns and rows of `columns`
    unsafe fn all<V: Vector, const GROUP: usize>(self) {
        // No closures: they would not be compiled for the instruction set.
        let panel = self.vectors * V::LANES;
        for c in 0..self.ins {
            for v in 0..self.vectors {
                // SAFETY: see `run`.
                unsafe {
                    let taps = self.taps.as_ptr().add(c * 9 * panel + v * V::LANES);
                    let mut columns = [[V::splat(0.0); 3]; 2];
                    for x in 0..3 {
                        let taps = taps.add(x * panel);
                        let column = [V::load(taps), V::load(taps.add(3 * panel)), V::load(taps.add(6 * panel))];
                        let [first, second] = filter_rows::<V, GROUP>(column);
                        (columns[0][x], columns[1][x]) = (first, second);
                    }
                    for y in 0..2 {
                        let to = self.rows[y].add(c * panel + v * V::LANES);
                        let [first, last] = filter_rows::<V, 0>(columns[y]);
                        let [second, third] = filter_rows::<V, 1>(columns[y]);
                        let [fourth, fifth] = filter_rows::<V, 2>(columns[y]);
                        first.store(to);
                        second.store(to.add(self.plane));
                        third.store(to.add(2 * self.plane));
                        fourth.store(to.add(3 * self.plane));
                        fifth.store(to.add(4 * self.plane));
                        last.store(to.add(5 * self.plane));
                    }
                }
            }
        }
    }
}
