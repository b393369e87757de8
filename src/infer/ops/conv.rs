//! Convolution.
use crate::infer::activation::Activation;
use crate::infer::graph::Fact;
use crate::infer::kernels::conv::{Residual, Window};
use crate::infer::op::{Op, OpError};

/// ONNX Conv with pads resolved, and what passes fused into it.
///
/// Inputs: x `[N, C, H, W]`, weights `[M, C/groups, kH, kW]`, bias `[M]` (optional), residual `[N, M, oH, oW]`
/// (present exactly when `residual` is not `None`; always at index 3).
#[derive(Clone, Debug)]
pub struct Conv {
    pub window: Window,
    pub groups: usize,
    pub activation: Activation,
    pub residual: Residual,
}

impl Op for Conv {
    fn name(&self) -> &'static str {
        "Conv"
    }
    fn infer(&self, _inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        todo!()
    }
}
