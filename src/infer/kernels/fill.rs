//! Fills a view with one value. Twin of `shaders/infer/fill.wgsl`.

use super::walk::Walk;
use super::wgsl::{self, Lanes};
use crate::infer::kernel::{Cells, FastKernel, Kernel};
use crate::infer::plan::step::Step;
use crate::shader::{Precision, Variant, VariantBuilder};

/// dst = value. Reads nothing, writes `[dst]`.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    pub value: f32,
}

impl Kernel for Fill {
    fn stem(&self) -> &'static str {
        "fill"
    }

    fn run_twin(&self, step: &Step, _reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let walk = Walk::new(&[&step.writes[0]]);
        walk.rows(|at| {
            for i in 0..walk.extents[0] {
                writes[0][at[0] + i * walk.strides[0][0]].set(self.value);
            }
        });
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let lanes = Lanes::new(Walk::new(&[&step.writes[0]]));
        let mut b = VariantBuilder::new("fill", include_str!("../../../shaders/infer/fill.wgsl")).precision(precision);
        b = lanes.write(lanes.extents(b), 0, 0).f32("VALUE", self.value);
        wgsl::build_flat(b, lanes.count().div_ceil(64))
    }

    fn fast(&self, step: &Step, _isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        crate::cpu::fill::prepare(self, step)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{map, run};
    use super::*;

    #[test]
    fn fills_the_view_and_nothing_else() {
        assert_eq!(run(Fill { value: 2.5 }, &[], &map(0, [2, 3, 4, 5], 1, 2)), vec![2.5; 120]);
    }
}
