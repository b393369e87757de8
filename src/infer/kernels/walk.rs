//! Several strided views of equal shape walked together, with as few axes as possible.

use crate::infer::plan::view::View;

/// Axes common to some views: those of extent 1 dropped, neighbours merged where all views allow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Extents, fastest axis of the leading view first; never empty.
    pub extents: Vec<usize>,
    /// `strides[view][axis]` in elements, axes as in `extents`.
    pub strides: Vec<Vec<usize>>,
    /// Position of the first element of each view.
    pub offsets: Vec<usize>,
}

impl Walk {
    /// Walks all axes. The last view leads: it is passed through in memory order.
    pub fn new(views: &[&View]) -> Walk {
        let rank = views.last().map_or(0, |v| v.rank());
        Walk::over(views, &(0..rank).collect::<Vec<_>>())
    }

    /// Walks some axes only; the extents are those of the last view, which leads.
    pub fn over(views: &[&View], axes: &[usize]) -> Walk {
        let offsets = views.iter().map(|v| v.offset).collect();
        let mut walk = Walk { extents: Vec::new(), strides: vec![Vec::new(); views.len()], offsets };
        let Some(lead) = views.last() else {
            walk.extents.push(1);
            return walk;
        };
        let mut order: Vec<usize> = axes.iter().copied().filter(|&axis| lead.shape[axis] != 1).collect();
        // Stable: among equal strides the later axis of the shape is the faster one.
        order.reverse();
        order.sort_by_key(|&axis| lead.strides[axis]);
        for axis in order {
            let extent = lead.shape[axis];
            let merges = walk.extents.last().is_some_and(|&inner| {
                views.iter().zip(&walk.strides).all(|(v, s)| s.last().is_some_and(|&s| v.strides[axis] == s * inner))
            });
            if merges {
                if let Some(last) = walk.extents.last_mut() {
                    *last *= extent;
                }
            } else {
                walk.extents.push(extent);
                for (view, strides) in views.iter().zip(&mut walk.strides) {
                    strides.push(view.strides[axis]);
                }
            }
        }
        if walk.extents.is_empty() {
            walk.extents.push(1);
            walk.strides.iter_mut().for_each(|s| s.push(1));
        }
        walk
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.extents.iter().product()
    }

    /// Calls `row` with the positions of the first element of each run along the fastest axis.
    pub fn rows(&self, mut row: impl FnMut(&[usize])) {
        if self.count() == 0 {
            return;
        }
        let mut at = self.offsets.clone();
        let mut index = vec![0; self.extents.len()];
        loop {
            row(&at);
            let mut axis = 1;
            loop {
                if axis == self.extents.len() {
                    return;
                }
                index[axis] += 1;
                let wraps = index[axis] == self.extents[axis];
                for (at, strides) in at.iter_mut().zip(&self.strides) {
                    *at += strides[axis];
                    if wraps {
                        *at -= strides[axis] * self.extents[axis];
                    }
                }
                if !wraps {
                    break;
                }
                index[axis] = 0;
                axis += 1;
            }
        }
    }
}

/// Coordinates of a flat position below a shape.
pub fn coordinates(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut at = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        (at[axis], flat) = (flat % shape[axis], flat / shape[axis]);
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::plan::view::BufferId;

    #[test]
    fn merges_what_all_views_allow() {
        let dense = View::row_major(BufferId(0), &[2, 3, 4, 5]);
        assert_eq!(Walk::new(&[&dense, &dense]).extents, [120]);
        let nhwc = View::channels_last(BufferId(1), &[2, 3, 4, 5], 4);
        let walk = Walk::new(&[&dense, &nhwc]);
        assert_eq!(walk.extents, [3, 20, 2]);
        assert_eq!(walk.strides, [vec![20, 1, 60], vec![1, 4, 80]]);
        let scalar = View::row_major(BufferId(0), &[]);
        assert_eq!(Walk::new(&[&scalar]).count(), 1);
    }

    #[test]
    fn visits_every_element_once() {
        let a = View::channels_last(BufferId(0), &[2, 3, 2, 5], 4);
        let b = View::row_major(BufferId(1), &[2, 3, 2, 5]);
        let walk = Walk::new(&[&a, &b]);
        let mut seen = [false; 60];
        walk.rows(|at| {
            for i in 0..walk.extents[0] {
                let (pa, pb) = (at[0] + i * walk.strides[0][0], at[1] + i * walk.strides[1][0]);
                let coordinates = [pb / 30, pb / 10 % 3, pb / 5 % 2, pb % 5];
                assert_eq!(pa, a.index(&coordinates));
                assert!(!std::mem::replace(&mut seen[pb], true));
            }
        });
        assert!(seen.iter().all(|&s| s));
    }
}
