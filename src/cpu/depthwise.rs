//! Fast depthwise convolution.

use super::Isa;
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::depthwise::Depthwise;
use crate::infer::plan::step::Step;

/// The fast form of a step, or `None` where the twin is all there is.
pub fn prepare(_kernel: &Depthwise, _step: &Step, _isa: Isa) -> Option<Box<dyn FastKernel>> {
    None
}
