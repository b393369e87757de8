//! Sum, mean, maximum, minimum, product, and sums of squares or magnitudes over some axes. Twin of `shaders/infer/reduce.wgsl`.

use super::walk::Walk;
use super::wgsl::{self, Lanes};
use crate::infer::kernel::{Cells, FastKernel, Kernel};
use crate::infer::plan::step::Step;
use crate::shader::{Precision, Variant, VariantBuilder};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceKind {
    Sum,
    Mean,
    Max,
    Min,
    Product,
    SumSquares,
    MeanSquares,
    /// Of magnitudes.
    SumAbs,
}

impl ReduceKind {
    fn start(self) -> f32 {
        match self {
            ReduceKind::Product => 1.0,
            ReduceKind::Max => f32::MIN,
            ReduceKind::Min => f32::MAX,
            _ => 0.0,
        }
    }

    fn combine(self, a: f32, b: f32) -> f32 {
        match self {
            ReduceKind::Product => a * b,
            ReduceKind::Max => a.max(b),
            ReduceKind::Min => a.min(b),
            _ => a + b,
        }
    }

    /// What the combination of so many elements is multiplied by.
    fn scale(self, count: usize) -> f32 {
        match self {
            ReduceKind::Mean | ReduceKind::MeanSquares => 1.0 / count.max(1) as f32,
            _ => 1.0,
        }
    }

    /// What of an element is combined.
    fn term(self, x: f32) -> f32 {
        match self {
            ReduceKind::SumSquares | ReduceKind::MeanSquares => x * x,
            ReduceKind::SumAbs => x.abs(),
            _ => x,
        }
    }

    fn wgsl(self) -> &'static str {
        match self {
            ReduceKind::Product => "a * b",
            ReduceKind::Max => "max(a, b)",
            ReduceKind::Min => "min(a, b)",
            _ => "a + b",
        }
    }

    fn wgsl_term(self) -> &'static str {
        match self {
            ReduceKind::SumSquares | ReduceKind::MeanSquares => "x * x",
            ReduceKind::SumAbs => "abs(x)",
            _ => "x",
        }
    }
}

/// Reads `[src]`, writes `[dst]`; equal ranks, dst has size 1 along every reduced axis; any strides.
#[derive(Clone, Copy, Debug)]
pub struct Reduce {
    pub kind: ReduceKind,
}

/// Threads that share an output, so that sums over large pictures are spread out (and lose fewer digits).
fn team(reduced: usize) -> usize {
    if reduced >= 64 { 16 } else { 1 }
}

/// The axes that stay (walked in src and dst) and those that are reduced (walked in src).
pub(crate) fn walks(step: &Step) -> (Walk, Walk) {
    let (src, dst) = (&step.reads[0], &step.writes[0]);
    let (gone, kept): (Vec<usize>, Vec<usize>) =
        (0..src.rank()).partition(|&axis| dst.shape[axis] == 1 && src.shape[axis] != 1);
    (Walk::over(&[src, dst], &kept), Walk::over(&[src], &gone))
}

impl Kernel for Reduce {
    fn stem(&self) -> &'static str {
        "reduce"
    }

    fn label(&self) -> String {
        format!("reduce_{:?}", self.kind).to_lowercase()
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (kept, mut gone) = walks(step);
        let count = gone.count();
        let scale = self.kind.scale(count);
        let mut partial = vec![0.0; team(count)];
        kept.rows(|at| {
            for i in 0..kept.extents[0] {
                gone.offsets[0] = at[0] + i * kept.strides[0][0];
                partial.fill(match self.kind {
                    ReduceKind::Max => f32::NEG_INFINITY,
                    ReduceKind::Min => f32::INFINITY,
                    kind => kind.start(),
                });
                let mut member = 0;
                gone.rows(|at| {
                    for r in 0..gone.extents[0] {
                        let value = self.kind.term(reads[0][at[0] + r * gone.strides[0][0]].get());
                        partial[member] = self.kind.combine(partial[member], value);
                        member = (member + 1) % partial.len();
                    }
                });
                let mut half = partial.len() / 2;
                while half > 0 {
                    for member in 0..half {
                        partial[member] = self.kind.combine(partial[member], partial[member + half]);
                    }
                    half /= 2;
                }
                writes[0][at[1] + i * kept.strides[1][0]].set(partial[0] * scale);
            }
        });
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let (kept, gone) = walks(step);
        let lanes = Lanes::around(kept, &gone.strides[0]);
        let count = gone.count();
        let team = team(count);
        let mut b = VariantBuilder::new("reduce", include_str!("../../../shaders/infer/reduce.wgsl"));
        b = lanes.write(lanes.read(lanes.extents(b.precision(precision)), "src", 0, 0), 1, 1);
        // Strides along reduced axes are in the units in which src is indexed, as those of kept axes are.
        let unit = lanes.unit(0);
        let strides: Vec<usize> = gone.strides[0].iter().map(|s| s / unit).collect();
        b = wgsl::list(b, "REDUCED_STRIDES", &strides);
        b = wgsl::list(b, "REDUCED_EXTENTS", &gone.extents.iter().map(|&n| n.max(1)).collect::<Vec<_>>());
        b = b
            .u32("REDUCED_RANK", gone.extents.len())
            .u32("REDUCED", count)
            .u32("TEAM", team)
            .f32("START", self.kind.start())
            .bool("FIRST", matches!(self.kind, ReduceKind::Max | ReduceKind::Min) && count > 0)
            .f32("SCALE", self.kind.scale(count))
            .line(
                "fn combine(",
                &format!("fn combine(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {{ return {}; }}", self.kind.wgsl()),
            )
            .line("fn term(", &format!("fn term(x: vec4<f32>) -> vec4<f32> {{ return {}; }}", self.kind.wgsl_term()));
        wgsl::build_flat(b, lanes.count().div_ceil(64 / team))
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        crate::cpu::reduce::prepare(self, step, isa)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, coordinates, map, run, values};
    use super::*;
    use crate::infer::plan::view::{BufferId, View};

    #[test]
    fn agrees_with_naive_loops() {
        for shape in [[1, 1, 1, 1], [2, 5, 3, 7], [1, 3, 11, 9]] {
            let x = values(1, shape.iter().product());
            for axes in [&[1][..], &[2, 3], &[0, 3], &[0, 1, 2, 3], &[]] {
                let mut kept = shape;
                axes.iter().for_each(|&axis| kept[axis] = 1);
                for kind in [
                    ReduceKind::Sum,
                    ReduceKind::Mean,
                    ReduceKind::Max,
                    ReduceKind::Min,
                    ReduceKind::Product,
                    ReduceKind::SumSquares,
                    ReduceKind::MeanSquares,
                    ReduceKind::SumAbs,
                ] {
                    let mut expected = vec![Vec::new(); kept.iter().product()];
                    for (i, &x) in x.iter().enumerate() {
                        let at = coordinates(&shape, i);
                        let into: Vec<usize> = at.iter().zip(kept).map(|(&i, n)| i.min(n - 1)).collect();
                        expected[View::row_major(BufferId(0), &kept).index(&into)].push(f64::from(x));
                    }
                    let expected: Vec<f64> = expected
                        .into_iter()
                        .map(|v| match kind {
                            ReduceKind::Sum => v.iter().sum(),
                            ReduceKind::Mean => v.iter().sum::<f64>() / v.len() as f64,
                            ReduceKind::Max => v.iter().copied().fold(f64::MIN, f64::max),
                            ReduceKind::Min => v.iter().copied().fold(f64::MAX, f64::min),
                            ReduceKind::Product => v.iter().product(),
                            ReduceKind::SumSquares => v.iter().map(|x| x * x).sum(),
                            ReduceKind::MeanSquares => v.iter().map(|x| x * x).sum::<f64>() / v.len() as f64,
                            ReduceKind::SumAbs => v.iter().map(|x| x.abs()).sum(),
                        })
                        .collect();
                    for src in [map(0, shape, 1, 1), View::row_major(BufferId(0), &shape)] {
                        let got = run(Reduce { kind }, &[(src, &x)], &map(1, kept, 0, 1));
                        assert_close(&got, &expected, 1e-6, &format!("{kind:?} {shape:?} {axes:?}"));
                    }
                }
            }
        }
    }
}
