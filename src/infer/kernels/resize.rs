//! Resizing of feature maps. Twin of `shaders/infer/resize.wgsl`.

/// Which source coordinate an output coordinate stands for (ONNX Resize, `coordinate_transformation_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coordinates {
    /// x / scale
    Asymmetric,
    /// (x + 1/2) / scale − 1/2
    HalfPixel,
    /// As HalfPixel, but 0 where the output has one pixel.
    PytorchHalfPixel,
    /// x·(in − 1)/(out − 1)
    AlignCorners,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interpolation {
    Nearest(Rounding),
    Linear,
}

/// ONNX Resize, `nearest_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    Floor,
    Ceil,
    /// 2.5 → 2
    PreferFloor,
    /// 2.5 → 3
    PreferCeil,
}

/// Reads `[src]`, writes `[dst]`; feature maps with equal channels. Only height and width change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resize {
    pub interpolation: Interpolation,
    pub coordinates: Coordinates,
    /// Output size over input size, for height and width, as the file gives it.
    pub scale: [f32; 2],
}
