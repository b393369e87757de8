//! Fast pooling.

use super::Isa;
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::pool::Pool;
use crate::infer::plan::step::Step;

/// The fast form of a step, or `None` where the twin is all there is.
pub fn prepare(_kernel: &Pool, _step: &Step, _isa: Isa) -> Option<Box<dyn FastKernel>> {
    None
}
