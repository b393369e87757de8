//! Copies a strided view to another of the same shape.
use crate::infer::kernel::{Cells, Kernel};
use crate::infer::plan::step::Step;
use crate::shader::{Precision, Variant};

/// dst = src, element by element. Reads `[src]`, writes `[dst]`; equal shapes, any strides.
#[derive(Clone, Copy, Debug)]
pub struct Copy;

impl Kernel for Copy {
    fn stem(&self) -> &'static str {
        "copy"
    }
    fn run_twin(&self, _step: &Step, _reads: &[Cells<'_>], _writes: &[Cells<'_>]) {
        todo!()
    }
    fn variant(&self, _step: &Step, _precision: Precision) -> Variant {
        todo!()
    }
}
