//! Convolution in groups that are neither one nor as many as channels. Twin of `shaders/infer/grouped_conv.wgsl`.
use super::conv::{Residual, Window};
use crate::infer::activation::Activation;
use std::sync::Arc;

/// Reads `[src]` or `[src, residual]`, writes `[dst]`; feature maps.
#[derive(Clone, Debug)]
pub struct GroupedConv {
    pub window: Window,
    pub groups: usize,
    /// `[out][in / groups][kernel y][kernel x]`
    pub weights: Arc<Vec<f32>>,
    pub bias: Arc<Vec<f32>>,
    pub activation: Activation,
    pub residual: Residual,
}
