//! Strided views of equal shape cut into two-dimensional blocks, for threads to share.

use super::threads;
use crate::infer::kernels::walk::Walk;
use crate::infer::plan::view::View;

/// Views walked together: a fastest axis, a second axis, and whatever is left. Positions count from the first element
/// of each view. The last view leads: its memory order is the order of the axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks<const N: usize> {
    /// Extents and strides, fastest first; at least two.
    axes: Vec<(usize, [usize; N])>,
}

/// `rows` rows of `inner` elements.
#[derive(Clone, Copy, Debug)]
pub struct Block<const N: usize> {
    /// Position of the first element in each view.
    pub at: [usize; N],
    pub rows: usize,
    pub inner: usize,
    pub row_strides: [usize; N],
    pub inner_strides: [usize; N],
}

impl<const N: usize> Block<N> {
    /// Positions of the first element of a row.
    pub fn row(&self, row: usize) -> [usize; N] {
        std::array::from_fn(|view| self.at[view] + row * self.row_strides[view])
    }
}

impl<const N: usize> Blocks<N> {
    /// The common axes of the views, as few as possible.
    pub fn new(views: [&View; N]) -> Blocks<N> {
        let walk = Walk::new(&views);
        let axes = walk.extents.iter().enumerate();
        let mut axes: Vec<_> =
            axes.map(|(axis, &n)| (n, std::array::from_fn(|view| walk.strides[view][axis]))).collect();
        if axes.len() < 2 {
            axes.push((1, [0; N]));
        }
        Blocks { axes }
    }

    /// Strides of the views along the fastest axis.
    pub fn inner_strides(&self) -> [usize; N] {
        self.axes[0].1
    }

    /// Makes `axis` the second one.
    pub fn move_to_rows(&mut self, axis: usize) {
        self.axes.swap(1, axis);
    }

    /// First axis, not the fastest, along which the view has stride 1.
    pub fn unit_axis(&self, view: usize) -> Option<usize> {
        (1..self.axes.len()).find(|&axis| self.axes[axis].1[view] == 1 && self.axes[axis].0 > 1)
    }

    /// True when rows are two elements wide and follow one another in the view.
    pub fn is_pairs(&self, view: usize) -> bool {
        self.axes[0].0 == 2 && self.axes[1].1[view] == 2
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.axes.iter().map(|&(n, _)| n).product()
    }

    /// Calls `work` with blocks that cover the views, from as many threads as pay.
    pub fn share(&self, work: impl Fn(Block<N>) + Sync) {
        self.share_along(true, work);
    }

    /// As [`Blocks::share`]; without `cut_inner` all rows stay whole.
    pub fn share_along(&self, cut_inner: bool, work: impl Fn(Block<N>) + Sync) {
        let (inner, inner_strides) = self.axes[0];
        let (rows, row_strides) = self.axes[1];
        let outer: usize = self.axes[2..].iter().map(|&(n, _)| n).product();
        if self.count() == 0 {
            return;
        }
        let threads = threads::useful_threads(self.count() as u64);
        // Cuts along the longer axis, as many as give every thread a few blocks.
        let wanted = if threads == 1 { 1 } else { (4 * threads).div_ceil(outer) };
        let by_rows = !cut_inner || rows >= wanted || rows * 64 >= inner;
        let parts = if by_rows { wanted.min(rows) } else { wanted.min(inner.div_ceil(64)) };
        threads::share(threads, outer * parts, |task| {
            let mut at = [0; N];
            let mut rest = task / parts;
            for (n, strides) in &self.axes[2..] {
                for view in 0..N {
                    at[view] += rest % n * strides[view];
                }
                rest /= n;
            }
            let part = threads::part(if by_rows { rows } else { inner }, parts, task % parts);
            let strides = if by_rows { &row_strides } else { &inner_strides };
            for view in 0..N {
                at[view] += part.start * strides[view];
            }
            let (rows, inner) = if by_rows { (part.len(), inner) } else { (rows, part.len()) };
            work(Block { at, rows, inner, row_strides, inner_strides });
        });
    }
}

/// A pointer that threads share to write different elements.
#[derive(Clone, Copy)]
pub struct Shared(pub *mut f32);

// SAFETY: whoever makes one hands out disjoint parts only.
unsafe impl Sync for Shared {}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::infer::plan::view::BufferId;

    #[test]
    fn blocks_cover_every_element_once() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
        for shape in [vec![2, 3, 50, 90], vec![1, 1, 1, 1], vec![30_000], vec![1, 70, 2, 300], vec![2, 0, 3]] {
            let lead = View::channels_last(BufferId(0), &shape, 4);
            let other = View::row_major(BufferId(1), &shape);
            let blocks = Blocks::new([&other, &lead]);
            let seen = Mutex::new(vec![0u8; lead.end()]);
            pool.install(|| {
                blocks.share(|block| {
                    let mut seen = seen.lock().expect("no panic");
                    for row in 0..block.rows {
                        for i in 0..block.inner {
                            seen[block.row(row)[1] + i * block.inner_strides[1]] += 1;
                        }
                    }
                });
            });
            let seen = seen.into_inner().expect("no panic");
            assert_eq!(seen.iter().map(|&n| usize::from(n)).sum::<usize>(), lead.len());
            assert!(seen.iter().all(|&n| n <= 1));
        }
    }
}
