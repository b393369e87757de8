//! Depthwise convolution: one filter per channel. Twin of `shaders/infer/depthwise.wgsl`.
use super::conv::{Residual, Window};
use crate::infer::activation::Activation;
use std::sync::Arc;

/// Reads `[src]` or `[src, residual]`, writes `[dst]`; feature maps with equal channels.
#[derive(Clone, Debug)]
pub struct Depthwise {
    pub window: Window,
    /// `[channel][kernel y][kernel x]`
    pub weights: Arc<Vec<f32>>,
    pub bias: Arc<Vec<f32>>,
    pub activation: Activation,
    pub residual: Residual,
}
