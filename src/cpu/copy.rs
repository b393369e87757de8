//! Fast strided copies.

use super::Isa;
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::copy::Copy;
use crate::infer::plan::step::Step;

/// The fast form of a step, or `None` where the twin is all there is.
pub fn prepare(_kernel: &Copy, _step: &Step, _isa: Isa) -> Option<Box<dyn FastKernel>> {
    None
}
