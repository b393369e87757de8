//! Convolution with one group: implicit GEMM. Twin of `shaders/infer/conv.wgsl`.
use crate::infer::activation::Activation;
use std::sync::Arc;

/// Geometry of a sliding window over a feature map, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// Padding at top, left, bottom, right.
    pub pads: [usize; 4],
    pub dilation: [usize; 2],
}

/// When a residual input is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Residual {
    #[default]
    None,
    /// activation(conv + bias + residual)
    BeforeActivation,
    /// activation(conv + bias) + residual
    AfterActivation,
}

/// y = activation(conv(x, weights) + bias). Reads `[src]` or `[src, residual]`, writes `[dst]`; all feature maps.
#[derive(Clone, Debug)]
pub struct Conv {
    pub window: Window,
    /// `[out][in][kernel y][kernel x]`
    pub weights: Arc<Vec<f32>>,
    /// One value per output channel.
    pub bias: Arc<Vec<f32>>,
    pub activation: Activation,
    pub residual: Residual,
}
