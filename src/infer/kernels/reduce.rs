//! Sum, mean, max, min over some axes. Twin of `shaders/infer/reduce.wgsl`.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceKind {
    Sum,
    Mean,
    Max,
    Min,
}

/// Reads `[src]`, writes `[dst]`; equal ranks, dst has size 1 along every reduced axis; any strides.
#[derive(Clone, Copy, Debug)]
pub struct Reduce {
    pub kind: ReduceKind,
}
