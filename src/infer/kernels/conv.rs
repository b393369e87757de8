//! Convolution with one group: implicit GEMM. Twin of `shaders/infer/conv.wgsl` (tiles in workgroup memory) and
//! `shaders/infer/conv_direct.wgsl` (registers only).

use std::sync::Arc;

use super::conv_direct::{TWIN_PIXELS, TwinTile};
use super::wgsl;
use crate::infer::activation::Activation;
use crate::infer::kernel::{Cells, FastKernel, Kernel};
use crate::infer::plan::step::Step;
use crate::infer::plan::view::FeatureMap;
use crate::shader::{Precision, Variant, VariantBuilder};

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

impl Window {
    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// True when every output pixel sees exactly the input pixel at its own place.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.pads == [0; 4]
    }

    /// Row and column of the input that tap `[ky, kx]` of output `[y, x]` sees; `None` in the padding.
    pub fn source(&self, size: [usize; 2], out: [usize; 2], tap: [usize; 2]) -> Option<[usize; 2]> {
        let at = |axis: usize| {
            (out[axis] * self.stride[axis] + tap[axis] * self.dilation[axis])
                .checked_sub(self.pads[axis])
                .filter(|&i| i < size[axis])
        };
        Some([at(0)?, at(1)?])
    }

    /// `3x3`, `3x3s2`, `3x3d2`, `5x1` for labels.
    pub fn label(&self) -> String {
        let [h, w] = self.kernel;
        let mut text = format!("{h}x{w}");
        if self.stride != [1, 1] {
            text += &format!("s{}", self.stride[0].max(self.stride[1]));
        }
        if self.dilation != [1, 1] {
            text += &format!("d{}", self.dilation[0].max(self.dilation[1]));
        }
        text
    }

    /// Declares the window in a shader.
    pub(super) fn declare(&self, builder: VariantBuilder) -> VariantBuilder {
        builder
            .u32("KERNEL_Y", self.kernel[0])
            .u32("KERNEL_X", self.kernel[1])
            .u32("STRIDE_Y", self.stride[0])
            .u32("STRIDE_X", self.stride[1])
            .u32("PAD_Y", self.pads[0])
            .u32("PAD_X", self.pads[1])
            .u32("DILATION_Y", self.dilation[0])
            .u32("DILATION_X", self.dilation[1])
    }
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

/// What a convolution does with its sums before it stores them.
#[derive(Clone, Copy)]
pub(super) struct Epilogue<'a> {
    pub activation: Activation,
    pub residual: Residual,
    /// Memory and place of the residual, where there is one.
    pub source: Option<(Cells<'a>, FeatureMap)>,
}

impl<'a> Epilogue<'a> {
    pub fn new(activation: Activation, residual: Residual, step: &Step, reads: &[Cells<'a>]) -> Epilogue<'a> {
        let source = (residual != Residual::None).then(|| (reads[1], wgsl::feature_map(&step.reads[1])));
        Epilogue { activation, residual, source }
    }

    /// Final value of channel `c` of a pixel.
    pub fn finish(&self, sum: f32, n: usize, y: usize, x: usize, c: usize) -> f32 {
        let other = self.source.map_or(0.0, |(cells, map)| cells[map.pixel(n, y, x) + c].get());
        match self.residual {
            Residual::None => self.activation.apply(sum),
            Residual::BeforeActivation => self.activation.apply(sum + other),
            Residual::AfterActivation => self.activation.apply(sum) + other,
        }
    }
}

/// `_silu`, `_silu_add`, `_add_relu`, or nothing.
pub(super) fn epilogue_label(activation: Activation, residual: Residual) -> String {
    let name = if activation == Activation::None { String::new() } else { format!("_{}", activation.label()) };
    match residual {
        Residual::None => name,
        Residual::BeforeActivation => format!("_add{name}"),
        Residual::AfterActivation => format!("{name}_add"),
    }
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

/// Which shader computes a convolution, and how it cuts the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// `conv_direct.wgsl`: a thread computes `pixels` x `vectors` (of four channels) from global memory;
    /// `threads` = [along channels, along pixels] in a workgroup.
    Direct { threads: [usize; 2], pixels: usize, vectors: usize },
    /// `conv.wgsl`: the same per thread, with `depth` vectors of input channels at a time in workgroup memory.
    Tiled { threads: [usize; 2], pixels: usize, vectors: usize, depth: usize },
}

/// Chooses a tile for `pixels` output pixels, `vectors` of four output channels, and `depth` (taps x vectors of input
/// channels). Small problems have too few workgroups to hide the barriers of the tiled kernel.
pub fn choose_tile(pixels: usize, vectors: usize, depth: usize) -> Tile {
    let per_thread = if vectors == 1 { 1 } else { 2 };
    let along_channels = vectors.div_ceil(per_thread).next_power_of_two().min(8);
    let macs = pixels * vectors * depth * 16;
    if depth < 8 || macs < 8_000_000 || along_channels < 4 {
        // Few pixels: less per thread, more threads.
        let per_pixel = if pixels * vectors < 16 * 1024 { 2 } else { 4 };
        return Tile::Direct { threads: [along_channels, 64 / along_channels], pixels: per_pixel, vectors: per_thread };
    }
    let groups = |pixel_tile: usize, channel_tile: usize| pixels.div_ceil(pixel_tile) * vectors.div_ceil(channel_tile);
    // Large tiles read least from memory; but there must be enough workgroups for every core of a large GPU.
    const GROUPS_ENOUGH: usize = 256;
    let (narrow, wide) = (64 / along_channels, 128 / along_channels);
    let tile = |along_pixels: usize, pixels: usize, vectors: usize| {
        let enough = groups(along_pixels * pixels, along_channels * vectors) >= GROUPS_ENOUGH;
        (enough, Tile::Tiled { threads: [along_channels, along_pixels], pixels, vectors, depth: 4 })
    };
    let smallest = tile(narrow, 2, 1).1;
    [tile(16, 8, 2), tile(wide, 4, 2), tile(narrow, 4, 2), tile(narrow, 4, 1)]
        .into_iter()
        .find(|(enough, _)| *enough)
        .map_or(smallest, |(_, tile)| tile)
}

impl Conv {
    /// Weights as the shaders read them: rows of `ceil4(out)` values. Row 0 is the bias; then one row per ky, kx, ci,
    /// with ci padded to a multiple of 4. Padding is 0.
    pub fn packed_weights(&self) -> Vec<f32> {
        let out = self.bias.len();
        let taps = self.window.taps();
        if out == 0 || taps == 0 {
            return Vec::new();
        }
        let inputs = self.weights.len() / (out * taps);
        let (row, depth) = (out.next_multiple_of(4), inputs.next_multiple_of(4));
        let mut packed = vec![0.0; row * (1 + taps * depth)];
        packed[..out].copy_from_slice(&self.bias);
        for (o, filter) in self.weights.chunks_exact(inputs * taps).enumerate() {
            for (i, plane) in filter.chunks_exact(taps).enumerate() {
                for (tap, &w) in plane.iter().enumerate() {
                    packed[(1 + tap * depth + i) * row + o] = w;
                }
            }
        }
        packed
    }

    /// The tile that [`Kernel::variant`] uses.
    pub fn tile(&self, step: &Step) -> Tile {
        let (src, dst) = (wgsl::feature_map(&step.reads[0]), wgsl::feature_map(&step.writes[0]));
        let depth = self.window.taps() * src.channels.div_ceil(4);
        choose_tile(dst.batch * dst.height * dst.width, dst.channels.div_ceil(4), depth)
    }

    /// The variant for a given tile; [`Kernel::variant`] uses [`choose_tile`].
    pub fn variant_with(&self, step: &Step, precision: Precision, tile: Tile) -> Variant {
        let (src, dst) = (wgsl::feature_map(&step.reads[0]), wgsl::feature_map(&step.writes[0]));
        let (stem, text, threads, pixels, vectors) = match tile {
            Tile::Direct { threads, pixels, vectors } => {
                ("conv_direct", include_str!("../../../shaders/infer/conv_direct.wgsl"), threads, pixels, vectors)
            }
            Tile::Tiled { threads, pixels, vectors, .. } => {
                ("conv", include_str!("../../../shaders/infer/conv.wgsl"), threads, pixels, vectors)
            }
        };
        let mut b = VariantBuilder::new(stem, text).precision(precision);
        b = wgsl::epilogue(b, self.activation, self.residual, 3, dst.channels);
        b = wgsl::load_masked(b, src.channels);
        b = wgsl::place(wgsl::place(b, "SRC", &src), "DST", &dst);
        if self.residual != Residual::None {
            b = wgsl::place(b, "RESIDUAL", &wgsl::feature_map(&step.reads[1]));
        }
        b = self.window.declare(b);
        if self.window.is_pointwise() {
            b = b.line("fn inside(", "fn inside(y: u32, x: u32) -> bool { return true; }");
        }
        let out_pixels = dst.batch * dst.height * dst.width;
        let out_vectors = dst.channels.div_ceil(4);
        let tiles_n = out_vectors.div_ceil(threads[0] * vectors);
        let tiles_m = out_pixels.div_ceil(threads[1] * pixels);
        b = b
            .u32("SRC_HEIGHT", src.height)
            .u32("SRC_WIDTH", src.width)
            .u32("SRC_VECTORS", src.channels.div_ceil(4))
            .u32("DST_HEIGHT", dst.height)
            .u32("DST_WIDTH", dst.width)
            .u32("DST_VECTORS", out_vectors)
            .u32("DST_PIXELS", out_pixels)
            .u32("THREADS_N", threads[0])
            .u32("THREADS_M", threads[1])
            .u32("PIXELS", pixels)
            .u32("VECTORS", vectors)
            .u32("TILES_N", tiles_n)
            .u32("TILES_M", tiles_m);
        if let Tile::Tiled { depth, .. } = tile {
            let all = threads[0] * threads[1];
            b = b
                .u32("DEPTH", depth)
                .u32("SRC_SLOTS", (threads[1] * pixels * depth).div_ceil(all))
                .u32("WEIGHT_SLOTS", (threads[0] * vectors * depth * 4).div_ceil(all));
        }
        wgsl::build_flat(b, tiles_m * tiles_n)
    }
}

impl Kernel for Conv {
    fn stem(&self) -> &'static str {
        "conv"
    }

    fn label(&self) -> String {
        format!("conv_{}{}", self.window.label(), epilogue_label(self.activation, self.residual))
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (src, dst) = (wgsl::feature_map(&step.reads[0]), wgsl::feature_map(&step.writes[0]));
        let epilogue = Epilogue::new(self.activation, self.residual, step, reads);
        let packed = self.packed_weights();
        let tile = TwinTile { conv: self, src, dst, x: reads[0], y: writes[0], packed: &packed, epilogue };
        let row = dst.channels.next_multiple_of(4);
        let pixels = dst.batch * dst.height * dst.width;
        for m in (0..pixels).step_by(TWIN_PIXELS) {
            let mut o = 0;
            while o + 16 <= row {
                tile.run::<16>(m, pixels, o);
                o += 16;
            }
            while o < row {
                tile.run::<4>(m, pixels, o);
                o += 4;
            }
        }
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        self.variant_with(step, precision, self.tile(step))
    }

    fn gpu_weights(&self, _step: &Step) -> Vec<f32> {
        self.packed_weights()
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        crate::cpu::conv::prepare(self, step, isa)
    }

    fn fast_forms(&self, step: &Step, isa: crate::cpu::Isa) -> Vec<Box<dyn FastKernel>> {
        crate::cpu::conv::forms(self, step, isa)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_convolution;
    use super::*;

    #[test]
    fn agrees_with_naive_loops() {
        for outputs in [1, 5, 21, 40] {
            check_convolution(
                |_| outputs,
                |_| 1,
                |window, _, weights, bias, activation, residual| Conv { window, weights, bias, activation, residual },
            );
        }
    }

    #[test]
    fn packs_bias_then_rows_of_four() {
        let window = Window { kernel: [1, 2], stride: [1, 1], pads: [0; 4], dilation: [1, 1] };
        let conv = Conv {
            window,
            // [out 2][in 1][1][2]
            weights: Arc::new(vec![1.0, 2.0, 3.0, 4.0]),
            bias: Arc::new(vec![5.0, 6.0]),
            activation: Activation::None,
            residual: Residual::None,
        };
        let packed = conv.packed_weights();
        assert_eq!(packed.len(), 4 * (1 + 2 * 4));
        assert_eq!(packed[..8], [5.0, 6.0, 0.0, 0.0, 1.0, 3.0, 0.0, 0.0]);
        assert_eq!(packed[4 * 5..4 * 6], [2.0, 4.0, 0.0, 0.0]);
    }

    #[test]
    fn tiles_fit_every_device() {
        for pixels in [1, 49, 400, 1600, 6400, 25600, 102_400] {
            for vectors in [1, 2, 4, 5, 16, 21, 64, 255] {
                for depth in [1, 9, 36, 144, 1152] {
                    let (threads, bytes) = match choose_tile(pixels, vectors, depth) {
                        Tile::Direct { threads, .. } => (threads, 0),
                        Tile::Tiled { threads, pixels, vectors, depth } => {
                            (threads, 16 * depth * (threads[1] * pixels + 2 + 4 * threads[0] * vectors))
                        }
                    };
                    assert!(threads[0] * threads[1] <= 256 && bytes <= 16352);
                }
            }
        }
    }
}
