//! Batched matrix product of two run-time values. Twin of `shaders/infer/matmul.wgsl`.

/// dst[.., m, n] = Σk a[.., m, k]·b[.., k, n]. Reads `[a, b]`, writes `[dst]`; equal leading axes (already broadcast,
/// stride 0 where they repeat); any strides.
#[derive(Clone, Copy, Debug)]
pub struct MatMul;
