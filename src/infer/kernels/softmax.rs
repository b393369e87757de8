//! Softmax along one axis. Twin of `shaders/infer/softmax.wgsl`.

/// Reads `[src]`, writes `[dst]`; equal shapes, any strides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Softmax {
    pub axis: usize,
    /// Logarithm of the softmax.
    pub log: bool,
}
