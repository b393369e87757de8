//! A picture read at places that another tensor names. Twin of `shaders/infer/grid_sample.wgsl`.

use super::walk::coordinates;
use super::wgsl;
use crate::infer::kernel::{Cells, Kernel};
use crate::infer::plan::step::Step;
use crate::shader::{Precision, Variant, VariantBuilder};

/// What stands outside the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outside {
    Zeros,
    Border,
    Reflection,
}

/// ONNX GridSample. Reads `[x, grid]`: `[N, C, spatial...]` and `[N, output..., rank]`; writes `[dst]`:
/// `[N, C, output...]`; any strides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GridSample {
    /// Neighbours along an axis: 1 (nearest), 2 (linear) or 4 (cubic).
    pub reach: usize,
    pub outside: Outside,
    pub align_corners: bool,
}

fn mirrored(x: f32, least: f32, largest: f32) -> f32 {
    let range = largest - least;
    if range <= 0.0 {
        return least;
    }
    let below = x < least;
    if !below && x <= largest {
        return x;
    }
    let distance = if below { least - x } else { x - largest };
    let turns = (distance / range).floor();
    let rest = distance - turns * range;
    let even = turns - 2.0 * (turns * 0.5).floor() == 0.0;
    if below == even { least + rest } else { largest - rest }
}

impl GridSample {
    fn bounds(&self, n: f32) -> (f32, f32) {
        let least = if self.align_corners { 0.0 } else { -0.5 };
        (least, n - 1.0 - least)
    }

    fn placed(&self, given: f32, n: f32) -> f32 {
        let mut place = match self.align_corners {
            true => (given + 1.0) * 0.5 * (n - 1.0),
            false => ((given + 1.0) * n - 1.0) * 0.5,
        };
        let (least, largest) = self.bounds(n);
        if self.reach == 1 {
            place = place.round_ties_even();
        }
        if place < least || place > largest {
            match self.outside {
                Outside::Zeros => {}
                Outside::Border => place = place.clamp(0.0, n - 1.0),
                Outside::Reflection => place = mirrored(place, least, largest),
            }
        }
        place
    }

    fn pixel(&self, i: f32, n: f32) -> Option<usize> {
        match self.outside {
            Outside::Zeros => (i >= 0.0 && i < n).then_some(i as usize),
            Outside::Border => Some(i.max(0.0).min(n - 1.0) as usize),
            Outside::Reflection => {
                let (least, largest) = self.bounds(n);
                Some(mirrored(i, least, largest).max(0.0).floor().min(n - 1.0) as usize)
            }
        }
    }

    fn weight(&self, k: usize, part: f32) -> f32 {
        match (self.reach, k) {
            (1, _) => 1.0,
            (2, 0) => 1.0 - part,
            (2, _) => part,
            _ => {
                let x = (k as f32 - 1.0 - part).abs();
                match x <= 1.0 {
                    true => (1.25 * x - 2.25) * x * x + 1.0,
                    false => ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0,
                }
            }
        }
    }
}

impl Kernel for GridSample {
    fn stem(&self) -> &'static str {
        "grid_sample"
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let ([x, grid], dst) = ([&step.reads[0], &step.reads[1]], &step.writes[0]);
        let rank = x.rank() - 2;
        let outputs: usize = dst.shape[2..].iter().product();
        for n in 0..dst.shape[0] {
            for flat in 0..outputs {
                let at = coordinates(flat, &dst.shape[2..]);
                let grid_at = grid.offset
                    + n * grid.strides[0]
                    + at.iter().zip(&grid.strides[1..]).map(|(i, s)| i * s).sum::<usize>();
                let dst_at = dst.offset
                    + n * dst.strides[0]
                    + at.iter().zip(&dst.strides[2..]).map(|(i, s)| i * s).sum::<usize>();
                // Per axis, the last one first: the place, and the first neighbour.
                let places: Vec<(f32, f32)> = (0..rank)
                    .map(|k| {
                        let given = reads[1][grid_at + k * grid.strides[rank + 1]].get();
                        let place = self.placed(given, x.shape[x.rank() - 1 - k] as f32);
                        (place, if self.reach == 1 { place } else { place.floor() })
                    })
                    .collect();
                for c in 0..dst.shape[1] {
                    let src_at = x.offset + n * x.strides[0] + c * x.strides[1];
                    let mut sum = 0.0;
                    'neighbours: for k in 0..self.reach.pow(rank as u32) {
                        let (mut left, mut from, mut factor) = (k, src_at, 1.0);
                        for (a, &(place, low)) in places.iter().enumerate() {
                            let axis = x.rank() - 1 - a;
                            let first = if self.reach == 4 { low - 1.0 } else { low };
                            let tap = left % self.reach;
                            left /= self.reach;
                            let Some(pixel) = self.pixel(first + tap as f32, x.shape[axis] as f32) else {
                                continue 'neighbours;
                            };
                            factor *= self.weight(tap, place - low);
                            from += pixel * x.strides[axis];
                        }
                        sum += factor * reads[0][from].get();
                    }
                    writes[0][dst_at + c * dst.strides[1]].set(sum);
                }
            }
        }
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let ([x, grid], dst) = ([&step.reads[0], &step.reads[1]], &step.writes[0]);
        let rank = x.rank() - 2;
        let mut b = VariantBuilder::new("grid_sample", include_str!("../../../shaders/infer/grid_sample.wgsl"))
            .precision(precision)
            .u32("RANK", rank)
            .u32("REACH", self.reach)
            .u32("NEIGHBOURS", self.reach.pow(rank as u32))
            .u32("PADDING", self.outside as usize)
            .bool("ALIGN", self.align_corners)
            .u32("CHANNELS", dst.shape[1])
            .u32("GRID_OFFSET", grid.offset)
            .u32("GRID_IMAGE", grid.strides[0])
            .u32("GRID_STRIDE", grid.strides[rank + 1])
            .u32("COUNT", dst.len());
        b = wgsl::spatial_view(wgsl::spatial_view(b, "SRC", x), "DST", dst);
        b = wgsl::spatial_lists(
            b,
            &[("SIZES", &x.shape[2..]), ("OUTPUTS", &dst.shape[2..]), ("GRID_STRIDES", &grid.strides[1..=rank])],
        );
        wgsl::build_flat(b, dst.len().div_ceil(64))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, map, run, values};
    use super::*;
    use crate::infer::plan::view::{BufferId, View};

    /// The grid that names each pixel's own place gives the picture back.
    #[test]
    fn places_of_pixels_give_the_picture() {
        let shape = [2, 3, 5, 4];
        let x = values(1, 120);
        for align in [true, false] {
            let place = |i: usize, n: usize| match align {
                true => 2.0 * i as f32 / (n - 1) as f32 - 1.0,
                false => (2 * i + 1) as f32 / n as f32 - 1.0,
            };
            let mut grid = Vec::new();
            for i in 0..2 * 5 * 4 {
                grid.extend([place(i % 4, 4), place(i / 4 % 5, 5)]);
            }
            for reach in [1, 2, 4] {
                for outside in [Outside::Zeros, Outside::Border, Outside::Reflection] {
                    let kernel = GridSample { reach, outside, align_corners: align };
                    let inputs =
                        [(map(0, shape, 1, 2), &x[..]), (View::row_major(BufferId(1), &[2, 5, 4, 2]), &grid[..])];
                    let expected: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
                    assert_close(&run(kernel, &inputs, &map(2, shape, 0, 1)), &expected, 1e-5, "its own places");
                }
            }
        }
    }

    #[test]
    fn outside_is_zero_the_border_or_mirrored() {
        let x = [1.0, 2.0, 4.0];
        // Behind the right end by one pixel and a half of three.
        let at = |outside, align_corners, place: f32| {
            let view = |buffer, shape: &[usize]| View::row_major(BufferId(buffer), shape);
            let kernel = GridSample { reach: 2, outside, align_corners };
            run(kernel, &[(view(0, &[1, 1, 3]), &x), (view(1, &[1, 1, 1]), &[place])], &view(2, &[1, 1, 1]))[0]
        };
        assert_eq!(at(Outside::Zeros, true, 1.5), 2.0, "half of the last pixel");
        assert_eq!(at(Outside::Border, true, 1.5), 4.0);
        assert_eq!(at(Outside::Reflection, true, 1.5), 3.0);
        assert_eq!(at(Outside::Zeros, false, 5.0), 0.0);
        assert_eq!(mirrored(-1.5, 0.0, 2.0), 1.5);
        assert_eq!(mirrored(5.0, 0.0, 2.0), 1.0);
    }
}
