//! Copies a strided view to another of the same shape. Twin of `shaders/infer/copy.wgsl`.

use super::walk::Walk;
use super::wgsl::{self, Lanes};
use crate::infer::kernel::{Cells, FastKernel, Kernel};
use crate::infer::plan::step::Step;
use crate::shader::{Precision, Variant, VariantBuilder};

/// dst = src, element by element. Reads `[src]`, writes `[dst]`; equal shapes, any strides.
#[derive(Clone, Copy, Debug)]
pub struct Copy;

impl Kernel for Copy {
    fn stem(&self) -> &'static str {
        "copy"
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let walk = Walk::new(&[&step.reads[0], &step.writes[0]]);
        let (from, to) = (walk.strides[0][0], walk.strides[1][0]);
        walk.rows(|at| {
            for i in 0..walk.extents[0] {
                writes[0][at[1] + i * to].set(reads[0][at[0] + i * from].get());
            }
        });
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let lanes = Lanes::new(Walk::new(&[&step.reads[0], &step.writes[0]]));
        let mut b = VariantBuilder::new("copy", include_str!("../../../shaders/infer/copy.wgsl")).precision(precision);
        b = lanes.write(lanes.read(lanes.extents(b), "src", 0, 0), 1, 1);
        wgsl::build_flat(b, lanes.count().div_ceil(64))
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        crate::cpu::copy::prepare(self, step, isa)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{map, run, values};
    use super::*;
    use crate::infer::plan::view::{BufferId, View};

    #[test]
    fn keeps_every_element_in_place() {
        for shape in [[1, 1, 1, 1], [2, 3, 4, 5], [1, 13, 2, 3]] {
            let [n, c, h, w] = shape;
            let x = values(1, n * c * h * w);
            let views = |buffer: usize| {
                vec![
                    map(buffer, shape, 2, 1),
                    View::row_major(BufferId(buffer), &shape),
                    View::row_major(BufferId(buffer), &[w, n, c, h]).transposed(&[1, 2, 3, 0]),
                ]
            };
            for src in views(0) {
                for dst in views(1) {
                    assert_eq!(run(Copy, &[(src.clone(), &x)], &dst), x);
                }
            }
        }
    }
}
