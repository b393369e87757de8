//! Moving dense tensors into and out of strided views: how inputs enter the buffers of a plan and outputs leave them.
//!
//! A dense tensor here is row-major in the order of the view's axes (NCHW for feature maps); its memory may be channels
//! last. The walk merges axes that lie evenly in memory, runs contiguous rows as block copies, and transposes the rest
//! in small tiles, so that both sides stay in cache.

use super::view::View;
use crate::infer::ops::dense;
use crate::infer::tensor::{DType, Tensor};

/// Side of a transposition tile: 16 floats are one cache line.
const TILE: usize = 16;

/// One axis of the walk: how many elements, and how far apart they lie in the dense tensor and in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Axis {
    len: usize,
    dense_stride: usize,
    stride: usize,
}

const ONE: Axis = Axis { len: 1, dense_stride: 0, stride: 0 };

/// The loops over a view: `outer`, slowest first, around planes of `rows` by `columns`. `columns` is the dense
/// tensor's fastest axis; `rows` the one whose elements lie closest in memory.
struct Walk {
    outer: Vec<Axis>,
    rows: Axis,
    columns: Axis,
}

impl Walk {
    fn of(view: &View) -> Walk {
        let mut axes: Vec<Axis> = Vec::new();
        let mut dense_stride = 1;
        // From the fastest dense axis to the slowest; neighbours merge where memory is as even as the dense tensor.
        for (&len, &stride) in view.shape.iter().zip(&view.strides).rev() {
            if len != 1 {
                match axes.last_mut() {
                    Some(inner) if stride == inner.stride * inner.len => inner.len *= len,
                    _ => axes.push(Axis { len, dense_stride, stride }),
                }
            }
            dense_stride *= len;
        }
        axes.reverse();
        let columns = axes.pop().unwrap_or(Axis { dense_stride: 1, ..ONE });
        let rows = if columns.stride == 1 {
            axes.pop().unwrap_or(ONE)
        } else {
            match (0..axes.len()).min_by_key(|&i| axes[i].stride) {
                Some(closest) => axes.remove(closest),
                None => ONE,
            }
        };
        Walk { outer: axes, rows, columns }
    }

    /// Calls `plane` with the dense and the memory index of the first element of every plane.
    fn for_each_plane(&self, offset: usize, mut plane: impl FnMut(usize, usize)) {
        let planes: usize = self.outer.iter().map(|a| a.len).product();
        for flat in 0..planes {
            let (mut rest, mut dense, mut at) = (flat, 0, offset);
            for axis in self.outer.iter().rev() {
                dense += rest % axis.len * axis.dense_stride;
                at += rest % axis.len * axis.stride;
                rest /= axis.len;
            }
            plane(dense, at);
        }
    }

    /// Calls `run` for pieces of one plane: (row, first column, columns in the piece).
    fn for_each_run(&self, mut run: impl FnMut(usize, usize, usize)) {
        if self.columns.stride == 1 || self.rows.len == 1 {
            for row in 0..self.rows.len {
                run(row, 0, self.columns.len);
            }
            return;
        }
        for row_tile in (0..self.rows.len).step_by(TILE) {
            for column in (0..self.columns.len).step_by(TILE) {
                for row in row_tile..(row_tile + TILE).min(self.rows.len) {
                    run(row, column, TILE.min(self.columns.len - column));
                }
            }
        }
    }
}

/// Writes a dense row-major tensor into the places of a view; all other elements of `memory` stay as they are.
/// `memory` is the whole buffer that the view is of.
///
/// # Panics
/// When `dense` does not have exactly the elements of the view, or the view reaches outside `memory`.
pub fn scatter(dense: &[f32], view: &View, memory: &mut [f32]) {
    assert_eq!(dense.len(), view.len(), "a dense tensor for {view:?}");
    assert!(view.end() <= memory.len(), "view outside its buffer: {view:?}");
    if view.is_empty() {
        return;
    }
    let walk = Walk::of(view);
    let (rows, columns) = (walk.rows, walk.columns);
    walk.for_each_plane(view.offset, |dense_base, base| {
        walk.for_each_run(|row, first, len| {
            let from = dense_base + row * rows.dense_stride + first;
            let to = base + row * rows.stride + first * columns.stride;
            let source = &dense[from..from + len];
            if columns.stride == 1 {
                memory[to..to + len].copy_from_slice(source);
            } else if columns.stride > 1 {
                for (to, &value) in memory[to..].iter_mut().step_by(columns.stride).zip(source) {
                    *to = value;
                }
            } else if let Some(&last) = source.last() {
                memory[to] = last;
            }
        });
    });
}

/// Reads the elements of a view into a dense row-major tensor. `memory` is the whole buffer that the view is of.
///
/// # Panics
/// When the view reaches outside `memory`.
pub fn gather(memory: &[f32], view: &View) -> Vec<f32> {
    assert!(view.end() <= memory.len(), "view outside its buffer: {view:?}");
    let mut dense = vec![0.0; view.len()];
    if dense.is_empty() {
        return dense;
    }
    let walk = Walk::of(view);
    let (rows, columns) = (walk.rows, walk.columns);
    walk.for_each_plane(view.offset, |dense_base, base| {
        walk.for_each_run(|row, first, len| {
            let to = dense_base + row * rows.dense_stride + first;
            let from = base + row * rows.stride + first * columns.stride;
            let target = &mut dense[to..to + len];
            if columns.stride == 1 {
                target.copy_from_slice(&memory[from..from + len]);
            } else if columns.stride > 1 {
                for (to, &value) in target.iter_mut().zip(memory[from..].iter().step_by(columns.stride)) {
                    *to = value;
                }
            } else {
                target.fill(memory[from]);
            }
        });
    });
    dense
}

/// Numbers from memory as the type that they stand for.
///
/// # Errors
/// When the type cannot be made of numbers.
pub fn as_held(tensor: Tensor, dtype: DType) -> Result<Tensor, String> {
    if tensor.dtype() == dtype {
        return Ok(tensor);
    }
    let values = dense::numbers(&tensor);
    dense::from_numbers(tensor.shape(), dtype, &values).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::plan::view::BufferId;

    /// Every element by its coordinates, one at a time.
    fn naive_indices(view: &View) -> Vec<usize> {
        (0..view.len())
            .map(|flat| {
                let mut rest = flat;
                let mut at = vec![0; view.rank()];
                for axis in (0..view.rank()).rev() {
                    at[axis] = rest % view.shape[axis];
                    rest /= view.shape[axis];
                }
                view.index(&at)
            })
            .collect()
    }

    fn check(view: &View) {
        let len = view.end() + 5;
        let memory: Vec<f32> = (0..len).map(|i| i as f32 + 0.5).collect();
        let indices = naive_indices(view);
        let expected: Vec<f32> = indices.iter().map(|&i| memory[i]).collect();
        assert_eq!(gather(&memory, view), expected, "{view:?}");

        let dense: Vec<f32> = (0..view.len()).map(|i| -(i as f32) - 1.0).collect();
        let mut expected = memory.clone();
        for (&i, &value) in indices.iter().zip(&dense) {
            expected[i] = value;
        }
        let mut written = memory;
        scatter(&dense, view, &mut written);
        assert_eq!(written, expected, "{view:?}");
    }

    #[test]
    fn agrees_with_a_walk_element_by_element() {
        let id = BufferId(0);
        for shape in [[1, 3, 7, 5], [2, 13, 3, 1], [1, 1, 1, 1], [1, 40, 9, 21], [3, 17, 1, 19]] {
            for block in [1, 4] {
                let v = View::channels_last(id, &shape, block);
                check(&v);
                check(&View::row_major(id, &shape));
                check(&v.transposed(&[0, 2, 3, 1]));
                check(&v.sliced(2, 0, shape[2].div_ceil(2), 2));
                check(&v.sliced(1, shape[1] / 2, shape[1] - shape[1] / 2, 1));
            }
        }
        check(&View::row_major(id, &[]));
        check(&View::row_major(id, &[4, 0, 3]));
        check(&View { buffer: id, offset: 3, shape: vec![6, 4], strides: vec![8, 1] });
    }

    #[test]
    fn gathers_broadcast_views() {
        let v = View::row_major(BufferId(0), &[3, 1, 1]);
        let b = v.broadcast_to(&[2, 3, 2, 4]).expect("broadcast");
        let memory = [1.0, 2.0, 3.0];
        let expected: Vec<f32> = naive_indices(&b).iter().map(|&i| memory[i]).collect();
        assert_eq!(gather(&memory, &b), expected);
    }

    #[test]
    #[should_panic(expected = "outside its buffer")]
    fn refuses_a_view_outside_its_buffer() {
        let _ = gather(&[0.0; 5], &View::row_major(BufferId(0), &[2, 3]));
    }
}
