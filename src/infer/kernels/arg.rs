//! Index of the largest or smallest element along one axis. Twin of `shaders/infer/arg.wgsl`.

use super::walk::Walk;
use super::wgsl;
use crate::infer::kernel::{Cells, Kernel};
use crate::infer::plan::step::Step;
use crate::shader::{Precision, Variant, VariantBuilder};

/// Reads `[src]`, writes `[dst]`; equal ranks, dst has size 1 along the axis; any strides. Indices are numbers: f16
/// holds those up to 2048.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arg {
    pub axis: usize,
    /// The largest; else the smallest.
    pub max: bool,
    /// Of equal elements the last; else the first.
    pub last: bool,
}

impl Arg {
    /// The axes across which rows lie; dst leads.
    fn rows(&self, step: &Step) -> Walk {
        let (src, dst) = (&step.reads[0], &step.writes[0]);
        Walk::over(&[src, dst], &(0..src.rank()).filter(|&axis| axis != self.axis).collect::<Vec<_>>())
    }

    fn sign(&self) -> f32 {
        if self.max { 1.0 } else { -1.0 }
    }
}

impl Kernel for Arg {
    fn stem(&self) -> &'static str {
        "arg"
    }

    fn label(&self) -> String {
        if self.max { "arg_max" } else { "arg_min" }.to_string()
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (extent, stride) = (step.reads[0].shape[self.axis], step.reads[0].strides[self.axis]);
        let rows = self.rows(step);
        rows.rows(|at| {
            for row in 0..rows.extents[0] {
                let from = at[0] + row * rows.strides[0][0];
                let load = |i: usize| self.sign() * reads[0][from + i * stride].get();
                let (mut best, mut found) = (load(0), 0);
                for i in 1..extent {
                    let value = load(i);
                    if value > best || (self.last && value == best) || (value.is_nan() && !best.is_nan()) {
                        (best, found) = (value, i);
                    }
                }
                writes[0][at[1] + row * rows.strides[1][0]].set(found as f32);
            }
        });
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let src = &step.reads[0];
        let rows = self.rows(step);
        let count = rows.count();
        let b = VariantBuilder::new("arg", include_str!("../../../shaders/infer/arg.wgsl"))
            .precision(precision)
            .f32("SIGN", self.sign())
            .bool("LAST", self.last)
            .u32("COUNT", count)
            .u32("EXTENT", src.shape[self.axis])
            .u32("SRC_STRIDE", src.strides[self.axis]);
        wgsl::build_flat(wgsl::walk(b, &rows, &["SRC", "DST"]), count.div_ceil(64))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{coordinates, map, run, values};
    use super::*;
    use crate::infer::plan::view::{BufferId, View};

    #[test]
    fn finds_first_and_last() {
        let shape = [2, 5, 3, 7];
        // Few distinct values, so that there are ties.
        let x: Vec<f32> = values(1, 210).iter().map(|x| (x * 2.0).round()).collect();
        for axis in 0..4 {
            let mut kept = shape;
            kept[axis] = 1;
            for (max, last) in [(true, false), (true, true), (false, false), (false, true)] {
                let got = run(Arg { axis, max, last }, &[(map(0, shape, 1, 2), &x)], &map(1, kept, 0, 3));
                for (flat, found) in got.iter().enumerate() {
                    let mut at = coordinates(&kept, flat);
                    let row: Vec<f32> = (0..shape[axis])
                        .map(|i| {
                            at[axis] = i;
                            x[View::row_major(BufferId(0), &shape).index(&at)] * if max { 1.0 } else { -1.0 }
                        })
                        .collect();
                    let best = row.iter().copied().fold(f32::MIN, f32::max);
                    let expected = match last {
                        true => row.iter().rposition(|&v| v == best),
                        false => row.iter().position(|&v| v == best),
                    };
                    assert_eq!(Some(*found as usize), expected, "axis {axis} max {max} last {last}");
                }
            }
        }
    }
}
