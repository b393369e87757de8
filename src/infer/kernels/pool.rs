//! Max and average pooling over a window. Twin of `shaders/infer/pool.wgsl`.
use super::conv::Window;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// Positions outside the picture are ignored.
    Max,
    /// Mean; positions outside count as zeros (within the pads) or not at all.
    Average { count_include_pad: bool },
}

/// Reads `[src]`, writes `[dst]`; feature maps with equal channels. The output's size may come from ceil mode: windows
/// that reach beyond the padded picture see what is there.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    pub kind: PoolKind,
    pub window: Window,
}
