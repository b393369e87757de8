//! Softmax along one axis. Twin of `shaders/infer/softmax.wgsl`.

use super::walk::Walk;
use super::wgsl;
use crate::infer::kernel::{Cells, FastKernel, Kernel};
use crate::infer::plan::step::Step;
use crate::shader::{Precision, Variant, VariantBuilder};

/// Reads `[src]`, writes `[dst]`; equal shapes, any strides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Softmax {
    pub axis: usize,
    /// Logarithm of the softmax.
    pub log: bool,
}

impl Softmax {
    /// The axes across which rows lie.
    fn rows(&self, step: &Step) -> Walk {
        let (src, dst) = (&step.reads[0], &step.writes[0]);
        Walk::over(&[src, dst], &(0..src.rank()).filter(|&axis| axis != self.axis).collect::<Vec<_>>())
    }
}

impl Kernel for Softmax {
    fn stem(&self) -> &'static str {
        "softmax"
    }

    fn label(&self) -> String {
        if self.log { "log_softmax" } else { "softmax" }.to_string()
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (src, dst) = (&step.reads[0], &step.writes[0]);
        let extent = src.shape[self.axis];
        let (from, to) = (src.strides[self.axis], dst.strides[self.axis]);
        let rows = self.rows(step);
        rows.rows(|at| {
            for row in 0..rows.extents[0] {
                let (a, b) = (at[0] + row * rows.strides[0][0], at[1] + row * rows.strides[1][0]);
                let load = |i: usize| reads[0][a + i * from].get();
                let largest = (0..extent).map(load).fold(f32::MIN, f32::max);
                let sum: f32 = (0..extent).map(|i| (load(i) - largest).exp()).sum();
                let (scale, log) = (1.0 / sum, sum.ln());
                for i in 0..extent {
                    let x = load(i) - largest;
                    writes[0][b + i * to].set(if self.log { x - log } else { x.exp() * scale });
                }
            }
        });
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let (src, dst) = (&step.reads[0], &step.writes[0]);
        let rows = self.rows(step);
        let extent = src.shape[self.axis];
        let team = if extent >= 128 { 64 } else { 1 };
        let count = rows.count();
        let mut b = VariantBuilder::new("softmax", include_str!("../../../shaders/infer/softmax.wgsl"));
        b = b
            .precision(precision)
            .u32("COUNT", count)
            .u32("RANK", rows.extents.len())
            .u32("SRC_OFFSET", src.offset)
            .u32("DST_OFFSET", dst.offset)
            .u32("EXTENT", extent)
            .u32("SRC_STRIDE", src.strides[self.axis])
            .u32("DST_STRIDE", dst.strides[self.axis])
            .u32("TEAM", team)
            .bool("LOG", self.log);
        b = wgsl::list(b, "EXTENTS", &rows.extents.iter().map(|&n| n.max(1)).collect::<Vec<_>>());
        b = wgsl::list(wgsl::list(b, "SRC_STRIDES", &rows.strides[0]), "DST_STRIDES", &rows.strides[1]);
        wgsl::build_flat(b, count.div_ceil(64 / team))
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        crate::cpu::softmax::prepare(self, step, isa)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, coordinates, map, run, values};
    use super::*;
    use crate::infer::plan::view::{BufferId, View};

    #[test]
    fn agrees_with_naive_loops() {
        for shape in [[1, 1, 1, 1], [2, 5, 3, 7], [1, 13, 4, 1]] {
            // Large enough that exp would overflow without the maximum.
            let x: Vec<f32> = values(1, shape.iter().product()).iter().map(|x| x * 100.0).collect();
            for axis in 0..4 {
                for log in [false, true] {
                    let expected: Vec<f64> = (0..x.len())
                        .map(|flat| {
                            let row = |i: usize| {
                                let mut at = coordinates(&shape, flat);
                                at[axis] = i;
                                f64::from(x[View::row_major(BufferId(0), &shape).index(&at)])
                            };
                            let largest = (0..shape[axis]).map(row).fold(f64::MIN, f64::max);
                            let sum: f64 = (0..shape[axis]).map(|i| (row(i) - largest).exp()).sum();
                            let own = f64::from(x[flat]) - largest;
                            if log { own - sum.ln() } else { own.exp() / sum }
                        })
                        .collect();
                    let got = run(Softmax { axis, log }, &[(map(0, shape, 1, 1), &x)], &map(1, shape, 0, 2));
                    assert_close(&got, &expected, 1e-6, &format!("{shape:?} axis {axis} log {log}"));
                }
            }
        }
    }
}
