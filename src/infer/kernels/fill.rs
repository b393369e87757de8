//! Fills a view with one value. Twin of `shaders/infer/fill.wgsl`.

/// dst = value. Reads nothing, writes `[dst]`.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    pub value: f32,
}
