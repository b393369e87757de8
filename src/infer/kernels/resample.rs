//! Weighted sums, or maxima, of elements along one axis: interpolation, pooling, and selection by known indices. Twin of
//! `shaders/infer/resample.wgsl`.

use super::walk::Walk;
use super::wgsl;
use crate::infer::kernel::{Cells, Kernel};
use crate::infer::plan::step::Step;
use crate::shader::{Precision, Variant, VariantBuilder};
use std::sync::Arc;

/// Places along the axis are stored as multiples of this and a rest, each exact in f16.
const PLACE_BASE: usize = 1024;
/// Places from here on cannot be stored.
pub const PLACES_MAX: usize = 2048 * PLACE_BASE;

/// What an output index is made of.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Taps {
    pub bias: f32,
    /// Place along the axis of src, below [`PLACES_MAX`], and weight.
    pub taps: Vec<(usize, f32)>,
}

impl Taps {
    /// One element as it is.
    pub fn one(place: usize) -> Taps {
        Taps { bias: 0.0, taps: vec![(place, 1.0)] }
    }
}

/// Reads `[src]`, writes `[dst]`: equal shapes but for `axis`, where dst has one index for each of `table`; any strides.
#[derive(Clone, Debug)]
pub struct Resample {
    pub axis: usize,
    pub table: Arc<Vec<Taps>>,
    /// The largest element whose weight is not 0, instead of the sum.
    pub max: bool,
}

impl Resample {
    /// The axes that stay.
    fn rows(&self, step: &Step) -> Walk {
        let (src, dst) = (&step.reads[0], &step.writes[0]);
        Walk::over(&[src, dst], &(0..src.rank()).filter(|&axis| axis != self.axis).collect::<Vec<_>>())
    }

    fn taps(&self) -> usize {
        self.table.iter().map(|t| t.taps.len()).max().unwrap_or(0)
    }
}

impl Kernel for Resample {
    fn stem(&self) -> &'static str {
        "resample"
    }

    fn label(&self) -> String {
        format!("resample_{}{}taps", if self.max { "max_" } else { "" }, self.taps())
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (from, to) = (step.reads[0].strides[self.axis], step.writes[0].strides[self.axis]);
        let rows = self.rows(step);
        rows.rows(|at| {
            for row in 0..rows.extents[0] {
                let (src, dst) = (at[0] + row * rows.strides[0][0], at[1] + row * rows.strides[1][0]);
                for (i, taps) in self.table.iter().enumerate() {
                    let mut sum = if self.max { f32::MIN } else { taps.bias };
                    let mut empty = true;
                    for &(place, weight) in taps.taps.iter().filter(|t| t.1 != 0.0) {
                        let value = reads[0][src + place * from].get();
                        sum = match self.max {
                            true if empty => value,
                            true => sum.max(value),
                            false => sum + weight * value,
                        };
                        empty = false;
                    }
                    writes[0][dst + i * to].set(sum);
                }
            }
        });
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let rows = self.rows(step);
        let count = rows.count() * self.table.len();
        let b = VariantBuilder::new("resample", include_str!("../../../shaders/infer/resample.wgsl"))
            .precision(precision)
            .u32("COUNT", count)
            .u32("TAPS", self.taps())
            .bool("MAX", self.max)
            .u32("SRC_STRIDE", step.reads[0].strides[self.axis])
            .u32("DST_STRIDE", step.writes[0].strides[self.axis]);
        wgsl::build_flat(wgsl::walk(b, &rows, &["SRC", "DST"]), count.div_ceil(64))
    }

    fn gpu_weights(&self, _step: &Step) -> Vec<f32> {
        let count = self.taps();
        let mut table = Vec::with_capacity(self.table.len() * (1 + 3 * count));
        for entry in self.table.iter() {
            table.push(entry.bias);
            for t in 0..count {
                let (place, weight) = entry.taps.get(t).copied().unwrap_or_default();
                table.extend([(place / PLACE_BASE) as f32, (place % PLACE_BASE) as f32, weight]);
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, coordinates, map, run, values};
    use super::*;
    use crate::infer::plan::view::{BufferId, View};

    #[test]
    fn sums_over_any_axis() {
        let shape = [2, 5, 3, 7];
        let x = values(1, 210);
        for axis in 0..4 {
            let n = shape[axis];
            let table = vec![
                Taps::one(n - 1),
                Taps { bias: 0.5, taps: vec![(0, 0.25), (1, -2.0)] },
                Taps { bias: -3.0, taps: vec![] },
                Taps { bias: 0.0, taps: vec![(1, 1.5), (1, 0.5), (0, 1.0)] },
            ];
            let mut to = shape;
            to[axis] = table.len();
            let expected: Vec<f64> = (0..to.iter().product())
                .map(|flat| {
                    let mut at = coordinates(&to, flat);
                    let entry = &table[at[axis]];
                    let mut term = |&(place, weight): &(usize, f32)| {
                        at[axis] = place;
                        f64::from(x[View::row_major(BufferId(0), &shape).index(&at)]) * f64::from(weight)
                    };
                    f64::from(entry.bias) + entry.taps.iter().map(&mut term).sum::<f64>()
                })
                .collect();
            let kernel = Resample { axis, table: Arc::new(table), max: false };
            for src in [map(0, shape, 1, 2), View::row_major(BufferId(0), &shape)] {
                let got = run(kernel.clone(), &[(src, &x)], &map(1, to, 0, 1));
                assert_close(&got, &expected, 1e-6, &format!("axis {axis}"));
            }
        }
    }

    #[test]
    fn finds_maxima() {
        let x = [3.0, -1.0, -2.0, 5.0, -7.0, -6.0];
        let table = vec![Taps { bias: 9.0, taps: vec![(0, 1.0), (1, 1.0)] }, Taps { bias: 0.0, taps: vec![(1, 1.0)] }];
        let view = |buffer, shape: &[usize]| View::row_major(BufferId(buffer), shape);
        let kernel = Resample { axis: 1, table: Arc::new(table), max: true };
        assert_eq!(run(kernel, &[(view(0, &[2, 3]), &x)], &view(1, &[2, 2])), [3.0, -1.0, 5.0, -7.0]);
    }

    #[test]
    fn places_survive_16_bits() {
        let kernel = Resample { axis: 0, table: Arc::new(vec![Taps::one(5), Taps::one(1_234_567)]), max: false };
        let table = kernel.gpu_weights(&Step {
            node: String::new(),
            kernel: Arc::new(super::super::copy::Copy),
            reads: Vec::new(),
            writes: Vec::new(),
            macs: 0,
        });
        let exact = |x: &f32| half::f16::from_f32(*x).to_f32() == *x;
        assert!(table.iter().all(exact), "{table:?}");
        assert_eq!(table[5] as usize * PLACE_BASE + table[6] as usize, 1_234_567);
    }
}
