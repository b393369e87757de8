//! Reading outputs through their strides, and finding the best class of each anchor.

use crate::infer::plan::View;
use crate::letterbox::Letterbox;

/// Two axes of a view: `rows` anchors by `columns` numbers, in elements of the view's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    pub offset: usize,
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl Matrix {
    /// The matrix of two axes of a view, at index 0 of all others.
    pub fn of(view: &View, row_axis: usize, column_axis: usize) -> Matrix {
        Matrix {
            offset: view.offset,
            rows: view.shape[row_axis],
            columns: view.shape[column_axis],
            row_stride: view.strides[row_axis],
            column_stride: view.strides[column_axis],
        }
    }

    /// Row `y` of a map `[1, C, H, W]`: one matrix row per column x, one matrix column per channel.
    pub fn map_row(view: &View, y: usize) -> Matrix {
        let row = Matrix::of(view, 3, 1);
        Matrix { offset: view.offset + y * view.strides[2], ..row }
    }

    /// `count` columns from `first` on.
    pub fn columns(&self, first: usize, count: usize) -> Matrix {
        Matrix { offset: self.offset + first * self.column_stride, columns: count, ..*self }
    }

    /// `count` rows from `first` on.
    pub fn rows(&self, first: usize, count: usize) -> Matrix {
        Matrix { offset: self.offset + first * self.row_stride, rows: count, ..*self }
    }

    pub fn at(&self, values: &[f32], row: usize, column: usize) -> f32 {
        values[self.offset + row * self.row_stride + column * self.column_stride]
    }
}

/// How many anchors are scanned at once when the classes of an anchor are not neighbours.
const BLOCK: usize = 16;

/// Calls `found(row, class, value)` for the largest value of each row that `gate` lets through and that is not below
/// `floor`; of equal values the first class counts. With `multi_label`, for every value that is not below `floor`.
/// NaN is never found.
pub fn scan(
    values: &[f32],
    scores: &Matrix,
    floor: f32,
    multi_label: bool,
    gate: impl Fn(usize) -> bool,
    mut found: impl FnMut(usize, usize, f32),
) {
    if multi_label {
        for row in (0..scores.rows).filter(|&r| gate(r)) {
            for class in 0..scores.columns {
                let value = scores.at(values, row, class);
                if value >= floor {
                    found(row, class, value);
                }
            }
        }
    } else if scores.column_stride == 1 {
        for row in (0..scores.rows).filter(|&r| gate(r)) {
            let start = scores.offset + row * scores.row_stride;
            let classes = &values[start..start + scores.columns];
            let best = largest(classes);
            if best >= floor
                && let Some(class) = classes.iter().position(|&v| v == best)
            {
                found(row, class, best);
            }
        }
    } else {
        for first in (0..scores.rows).step_by(BLOCK) {
            let count = BLOCK.min(scores.rows - first);
            if !(first..first + count).any(&gate) {
                continue;
            }
            let mut best = [f32::NEG_INFINITY; BLOCK];
            let mut class_of = [0u32; BLOCK];
            for class in 0..scores.columns {
                let start = scores.offset + first * scores.row_stride + class * scores.column_stride;
                if scores.row_stride == 1 && count == BLOCK {
                    let row: &[f32] = &values[start..start + BLOCK];
                    for k in 0..BLOCK {
                        let better = row[k] > best[k];
                        best[k] = if better { row[k] } else { best[k] };
                        class_of[k] = if better { class as u32 } else { class_of[k] };
                    }
                } else {
                    for k in 0..count {
                        let value = values[start + k * scores.row_stride];
                        if value > best[k] {
                            best[k] = value;
                            class_of[k] = class as u32;
                        }
                    }
                }
            }
            for k in 0..count {
                if best[k] >= floor && gate(first + k) {
                    found(first + k, class_of[k] as usize, best[k]);
                }
            }
        }
    }
}

/// The largest value; NaN is passed over. In eight lanes, so that it becomes vector code.
fn largest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    let better = |a: f32, &b: &f32| if b > a { b } else { a };
    rest.iter().fold(lanes.iter().fold(f32::NEG_INFINITY, better), better)
}

/// Logistic function; the argument is clamped so that exp stays finite.
pub fn logistic(x: f32) -> f32 {
    1.0 / (1.0 + (-x.clamp(-80.0, 80.0)).exp())
}

/// exp for box sides: capped at e^20, far beyond any picture, so that areas stay finite.
pub fn side(x: f32) -> f32 {
    x.min(20.0).exp()
}

/// The softmax of one of `values`: e^value over the sum of all.
pub fn softmax_share(values: impl Iterator<Item = f32> + Clone, value: f32) -> f32 {
    let largest = values.clone().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    let sum: f32 = values.map(|v| (v - largest).exp()).sum();
    (value - largest).exp() / sum
}

/// Corners from centre and size.
pub fn corners(cx: f32, cy: f32, w: f32, h: f32) -> [f32; 4] {
    let (half_w, half_h) = (w * 0.5, h * 0.5);
    [cx - half_w, cy - half_h, cx + half_w, cy + half_h]
}

/// A box in pixels of the picture, clipped to it.
pub fn box_in_picture(bounds: [f32; 4], letterbox: &Letterbox) -> [f32; 4] {
    let [x0, y0] = letterbox.pixel_from_model([bounds[0], bounds[1]]);
    let [x1, y1] = letterbox.pixel_from_model([bounds[2], bounds[3]]);
    [x0, y0, x1, y1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::plan::BufferId;

    fn noise(seed: u32) -> impl FnMut() -> f32 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0
        }
    }

    #[test]
    fn every_layout_finds_what_a_plain_loop_finds() {
        for (rows, columns) in [(1, 1), (5, 3), (37, 80), (64, 13)] {
            let mut next = noise(rows as u32);
            // Coarse values, so that ties happen.
            let dense: Vec<f32> =
                (0..rows * columns).map(|i| if i % 11 == 3 { f32::NAN } else { (next() * 20.0).floor() }).collect();
            let mut expected = Vec::new();
            let mut expected_all = Vec::new();
            for r in (0..rows).filter(|r| r % 5 != 4) {
                let mut best: Option<(usize, f32)> = None;
                for c in 0..columns {
                    let v = dense[r * columns + c];
                    if v >= 7.0 {
                        expected_all.push((r, c, v));
                        if best.is_none_or(|b| v > b.1) {
                            best = Some((c, v));
                        }
                    }
                }
                expected.extend(best.map(|b| (r, b.0, b.1)));
            }
            // class last; class first; class first with gaps; both axes strided
            for (row_stride, column_stride) in [(columns, 1), (1, rows), (1, rows + 3), (2, 2 * rows + 1)] {
                let m = Matrix { offset: 2, rows, columns, row_stride, column_stride };
                let mut values = vec![99.0; 2 + rows * row_stride + columns * column_stride];
                for r in 0..rows {
                    for c in 0..columns {
                        values[2 + r * row_stride + c * column_stride] = dense[r * columns + c];
                    }
                }
                let mut found = Vec::new();
                scan(&values, &m, 7.0, false, |r| r % 5 != 4, |r, c, v| found.push((r, c, v)));
                assert_eq!(found, expected);
                found.clear();
                scan(&values, &m, 7.0, true, |r| r % 5 != 4, |r, c, v| found.push((r, c, v)));
                assert_eq!(found, expected_all);
            }
        }
    }

    #[test]
    fn matrices_of_views() {
        let view = View::channels_last(BufferId(0), &[1, 7, 3, 5], 4);
        let row = Matrix::map_row(&view, 2);
        let values: Vec<f32> = (0..view.end()).map(|i| i as f32).collect();
        assert_eq!(row.columns(3, 2).at(&values, 4, 1) as usize, view.index(&[0, 4, 2, 4]));
        assert_eq!((row.rows, row.columns), (5, 7));
        let m = Matrix::of(&View::row_major(BufferId(0), &[1, 4, 9]), 2, 1);
        assert_eq!(m.rows(2, 3).offset, 2);
    }
}
