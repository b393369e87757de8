//! Which pixels belong to an object.

use crate::letterbox::Letterbox;

/// The pixels of an object in the picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    /// The part of the picture that the runs describe: left, top, right, bottom; right and bottom exclusive.
    pub bounds_px: [u32; 4],
    /// The pixels of that part row by row from its left top, as lengths of runs that are outside and inside the object
    /// in turn; the first is outside, and may be 0. They add up to the part's area.
    pub runs: Vec<u32>,
}

/// How values between the cells of a [`MaskGrid`] come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// Bilinear between the centres of the cells; the outermost ones go on to the edge.
    Bilinear,
    /// The cell that the point lies in.
    Nearest,
}

/// What a network says of an object's mask: a grid over a part of its input.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskGrid {
    pub cols: usize,
    pub rows: usize,
    /// The part of the network's input that the grid covers, in its pixels: left, top, right, bottom.
    pub area_px: [f32; 4],
    /// Row by row; above 0 is inside the object.
    pub values: Vec<f32>,
    pub sampling: Sampling,
}

/// Where one coordinate falls in a grid: two neighbours and the weight of the second.
#[derive(Clone, Copy)]
struct Tap {
    low: usize,
    high: usize,
    weight: f32,
}

impl MaskGrid {
    /// The object's pixels: those whose centres lie in the box `bounds` (pixels of the picture) and in the grid's area,
    /// and where the grid is above 0.
    pub fn in_picture(&self, bounds: [f32; 4], letterbox: &Letterbox) -> Mask {
        let first = |v: f32, axis: usize| (v - 0.5).ceil().clamp(0.0, letterbox.picture_px[axis] as f32) as u32;
        let low = [0, 1].map(|axis| first(bounds[axis], axis));
        let high = [0, 1].map(|axis| first(bounds[axis + 2], axis).max(low[axis]));
        let columns: Vec<Option<Tap>> = (low[0]..high[0]).map(|x| self.tap(x, 0, self.cols, letterbox)).collect();
        let mut runs = vec![0];
        let mut is_inside = false;
        for y in low[1]..high[1] {
            let row = self.tap(y, 1, self.rows, letterbox);
            for column in &columns {
                let inside = match (row, column) {
                    (Some(row), Some(column)) => self.at(row, *column) > 0.0,
                    _ => false,
                };
                if inside != is_inside {
                    runs.push(0);
                    is_inside = inside;
                }
                if let Some(run) = runs.last_mut() {
                    *run += 1;
                }
            }
        }
        Mask { bounds_px: [low[0], low[1], high[0], high[1]], runs }
    }

    /// The cells that count for a row or column of the picture; `None` outside the grid.
    fn tap(&self, pixel: u32, axis: usize, cells: usize, letterbox: &Letterbox) -> Option<Tap> {
        let model = (pixel as f32 + 0.5) * letterbox.scale[axis] + letterbox.offset_px[axis];
        let [from, to] = [self.area_px[axis], self.area_px[axis + 2]];
        let at = (model - from) / (to - from) * cells as f32;
        if !(0.0..=cells as f32).contains(&at) || cells == 0 {
            return None;
        }
        let last = cells - 1;
        Some(match self.sampling {
            Sampling::Nearest => {
                let cell = (at as usize).min(last);
                Tap { low: cell, high: cell, weight: 0.0 }
            }
            Sampling::Bilinear => {
                let at = (at - 0.5).clamp(0.0, last as f32);
                let low = (at as usize).min(last);
                Tap { low, high: (low + 1).min(last), weight: at - low as f32 }
            }
        })
    }

    fn at(&self, row: Tap, column: Tap) -> f32 {
        let along = |r: usize| {
            let values = &self.values[r * self.cols..][..self.cols];
            values[column.low] + (values[column.high] - values[column.low]) * column.weight
        };
        if row.weight == 0.0 {
            return along(row.low);
        }
        let (top, bottom) = (along(row.low), along(row.high));
        top + (bottom - top) * row.weight
    }
}

impl Mask {
    /// The stretches of the picture's rows inside the object: row, first column, and the column after the last; from top
    /// to bottom, in each row from left to right.
    pub fn spans(&self) -> impl Iterator<Item = (u32, u32, u32)> {
        let [left, top, right, _] = self.bounds_px;
        let width = u64::from(right.saturating_sub(left));
        let mut end = 0u64;
        let inside = self.runs.iter().enumerate().filter_map(move |(i, &run)| {
            let start = end;
            end += u64::from(run);
            (i % 2 == 1 && run > 0 && width > 0).then_some((start, end))
        });
        inside.flat_map(move |(start, end)| {
            (start / width..end.div_ceil(width)).map(move |row| {
                let (from, to) = (start.max(row * width) - row * width, end.min((row + 1) * width) - row * width);
                (top + row as u32, left + from as u32, left + to as u32)
            })
        })
    }

    /// Number of pixels inside the object.
    pub fn area_px(&self) -> u64 {
        self.runs.iter().skip(1).step_by(2).map(|&run| u64::from(run)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::letterbox::Fit;

    #[test]
    fn spans_of_runs() {
        let mask = Mask { bounds_px: [10, 5, 14, 8], runs: vec![2, 7, 1, 1, 1] };
        let spans: Vec<_> = mask.spans().collect();
        // Row 5: columns 2, 3; row 6 whole; row 7: column 0, then column 2.
        assert_eq!(spans, [(5, 12, 14), (6, 10, 14), (7, 10, 11), (7, 12, 13)]);
        assert_eq!(mask.area_px(), 8);
        assert_eq!(Mask::default().spans().count(), 0);
        assert_eq!(Mask { bounds_px: [3, 3, 3, 9], runs: vec![0] }.spans().count(), 0);
    }

    /// Every pixel against the definition in f64, on letterboxes that shrink, enlarge and stretch.
    #[test]
    fn pixels_by_definition() {
        let (cols, rows) = (9usize, 7usize);
        let mut state = 5u32;
        let values: Vec<f32> = (0..cols * rows)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 16_777_216.0 - 0.5
            })
            .collect();
        let area = [8.0f32, 4.0, 44.0, 32.0];
        for (fit, picture) in [
            (Fit::Stretch, [31, 57]),
            (Fit::LetterboxCentre { pad: 114 }, [200, 90]),
            (Fit::LetterboxTopLeft { pad: 114 }, [11, 33]),
        ] {
            let letterbox = Letterbox::new(fit, picture, [64, 48]);
            for sampling in [Sampling::Bilinear, Sampling::Nearest] {
                let grid = MaskGrid { cols, rows, area_px: area, values: values.clone(), sampling };
                let bounds = [picture[0] as f32 * 0.1, 0.0, picture[0] as f32 * 0.83, picture[1] as f32 * 0.9];
                let mask = grid.in_picture(bounds, &letterbox);
                let mut inside = vec![false; (picture[0] * picture[1]) as usize];
                for (y, from, to) in mask.spans() {
                    (from..to).for_each(|x| inside[(y * picture[0] + x) as usize] = true);
                }
                let [l, t, r, b] = mask.bounds_px;
                assert_eq!(mask.runs.iter().sum::<u32>(), (r - l) * (b - t));
                let mut count = 0;
                for y in 0..picture[1] {
                    for x in 0..picture[0] {
                        let c = [f64::from(x) + 0.5, f64::from(y) + 0.5];
                        let in_box = (0..2).all(|k| c[k] >= f64::from(bounds[k]) && c[k] < f64::from(bounds[k + 2]));
                        let g = [0, 1].map(|k| {
                            let m = c[k] * f64::from(letterbox.scale[k]) + f64::from(letterbox.offset_px[k]);
                            let cells = [cols, rows][k] as f64;
                            (m - f64::from(area[k])) / f64::from(area[k + 2] - area[k]) * cells
                        });
                        let in_grid = g[0] >= 0.0 && g[1] >= 0.0 && g[0] <= cols as f64 && g[1] <= rows as f64;
                        let value = |i: i64, j: i64| {
                            let (i, j) = (i.clamp(0, cols as i64 - 1), j.clamp(0, rows as i64 - 1));
                            f64::from(values[j as usize * cols + i as usize])
                        };
                        let v = match sampling {
                            Sampling::Nearest => value(g[0].floor() as i64, g[1].floor() as i64),
                            Sampling::Bilinear => {
                                let (i, j) = ((g[0] - 0.5).floor(), (g[1] - 0.5).floor());
                                let (fx, fy) = (g[0] - 0.5 - i, g[1] - 0.5 - j);
                                let (i, j) = (i as i64, j as i64);
                                value(i, j) * (1.0 - fx) * (1.0 - fy)
                                    + value(i + 1, j) * fx * (1.0 - fy)
                                    + value(i, j + 1) * (1.0 - fx) * fy
                                    + value(i + 1, j + 1) * fx * fy
                            }
                        };
                        // On the border of two cells, rounding decides.
                        let border = g.iter().any(|v| (v - v.round()).abs() < 1e-4);
                        if v.abs() < 1e-5 || (border && sampling == Sampling::Nearest) {
                            continue;
                        }
                        let expected = in_box && in_grid && v > 0.0;
                        count += u32::from(expected);
                        assert_eq!(inside[(y * picture[0] + x) as usize], expected, "{fit:?} {sampling:?} {x} {y}");
                    }
                }
                assert!(count > 20, "{fit:?} {count}");
            }
        }
    }

    #[test]
    fn what_is_no_number_is_outside() {
        let grid = |values: Vec<f32>, area_px: [f32; 4]| MaskGrid {
            cols: 2,
            rows: 1,
            area_px,
            values,
            sampling: Sampling::Bilinear,
        };
        let letterbox = Letterbox::new(Fit::Stretch, [4, 4], [4, 4]);
        let whole = [0.0, 0.0, 4.0, 4.0];
        assert_eq!(grid(vec![f32::NAN; 2], whole).in_picture(whole, &letterbox).area_px(), 0);
        assert_eq!(grid(vec![1.0; 2], [2.0; 4]).in_picture(whole, &letterbox).area_px(), 0);
        assert_eq!(grid(vec![1.0; 2], [f32::NAN; 4]).in_picture(whole, &letterbox).area_px(), 0);
        assert_eq!(grid(vec![1.0; 2], whole).in_picture([f32::NAN; 4], &letterbox).runs, [0]);
        assert_eq!(grid(vec![1.0; 2], whole).in_picture([3.0, 3.0, 1.0, 1.0], &letterbox).runs, [0]);
        assert_eq!(grid(vec![1.0; 2], whole).in_picture(whole, &letterbox).runs, [0, 16]);
    }
}
