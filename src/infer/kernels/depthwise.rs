//! Depthwise convolution: one filter per channel. Twin of `shaders/infer/depthwise.wgsl`.

use std::sync::Arc;

use super::conv::{Epilogue, Residual, Window, epilogue_label};
use super::wgsl;
use crate::infer::activation::Activation;
use crate::infer::kernel::{Cells, FastKernel, Kernel};
use crate::infer::plan::step::Step;
use crate::shader::{Precision, Variant, VariantBuilder};

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

impl Depthwise {
    /// Weights as the shader reads them: rows of `ceil4(channels)`: the bias, then one row per tap. Padding is 0.
    pub fn packed_weights(&self) -> Vec<f32> {
        let (channels, taps) = (self.bias.len(), self.window.taps());
        let row = channels.next_multiple_of(4);
        let mut packed = vec![0.0; row * (1 + taps)];
        packed[..channels].copy_from_slice(&self.bias);
        for (c, filter) in self.weights.chunks_exact(taps.max(1)).enumerate() {
            for (tap, &w) in filter.iter().enumerate() {
                packed[(1 + tap) * row + c] = w;
            }
        }
        packed
    }
}

impl Kernel for Depthwise {
    fn stem(&self) -> &'static str {
        "depthwise"
    }

    fn label(&self) -> String {
        format!("depthwise_{}{}", self.window.label(), epilogue_label(self.activation, self.residual))
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (src, dst) = (wgsl::feature_map(&step.reads[0]), wgsl::feature_map(&step.writes[0]));
        let epilogue = Epilogue::new(self.activation, self.residual, step, reads);
        let packed = self.packed_weights();
        let row = dst.channels.next_multiple_of(4);
        let mut sums = vec![0.0; dst.channels];
        for n in 0..dst.batch {
            for y in 0..dst.height {
                for x in 0..dst.width {
                    sums.copy_from_slice(&packed[..dst.channels]);
                    for ky in 0..self.window.kernel[0] {
                        for kx in 0..self.window.kernel[1] {
                            let Some([sy, sx]) = self.window.source([src.height, src.width], [y, x], [ky, kx]) else {
                                continue;
                            };
                            let at = src.pixel(n, sy, sx);
                            let weights = &packed[(1 + ky * self.window.kernel[1] + kx) * row..];
                            for ((sum, value), w) in sums.iter_mut().zip(&reads[0][at..]).zip(weights) {
                                *sum += value.get() * w;
                            }
                        }
                    }
                    let at = dst.pixel(n, y, x);
                    for (c, &sum) in sums.iter().enumerate() {
                        writes[0][at + c].set(epilogue.finish(sum, n, y, x, c));
                    }
                }
            }
        }
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let (src, dst) = (wgsl::feature_map(&step.reads[0]), wgsl::feature_map(&step.writes[0]));
        let mut b = VariantBuilder::new("depthwise", include_str!("../../../shaders/infer/depthwise.wgsl"));
        b = wgsl::epilogue(b.precision(precision), self.activation, self.residual, 3, dst.channels);
        b = wgsl::place(wgsl::place(b, "SRC", &src), "DST", &dst);
        if self.residual != Residual::None {
            b = wgsl::place(b, "RESIDUAL", &wgsl::feature_map(&step.reads[1]));
        }
        // Neighbouring pixels of a row share what they read; large kernels would need too many registers.
        let reach = |pixels: usize| {
            (pixels - 1) * self.window.stride[1] + (self.window.kernel[1] - 1) * self.window.dilation[1] + 1
        };
        let vectors = dst.channels.div_ceil(4);
        let threads = |pixels: usize| dst.batch * dst.height * dst.width.div_ceil(pixels) * vectors;
        let pixels =
            [4, 2].into_iter().find(|&p| p <= dst.width && reach(p) <= 12 && threads(p) >= 16 * 1024).unwrap_or(1);
        b = self
            .window
            .declare(b)
            .u32("SRC_HEIGHT", src.height)
            .u32("SRC_WIDTH", src.width)
            .u32("DST_HEIGHT", dst.height)
            .u32("DST_WIDTH", dst.width)
            .u32("VECTORS", vectors)
            .u32("PIXELS", pixels)
            .u32("REACH", reach(pixels))
            .u32("BLOCKS_X", dst.width.div_ceil(pixels))
            .u32("COUNT", threads(pixels));
        wgsl::build_flat(b, threads(pixels).div_ceil(64))
    }

    fn gpu_weights(&self, _step: &Step) -> Vec<f32> {
        self.packed_weights()
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        crate::cpu::depthwise::prepare(self, step, isa)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_convolution;
    use super::*;

    #[test]
    fn agrees_with_naive_loops() {
        check_convolution(
            |c| c,
            |c| c,
            |window, _, weights, bias, activation, residual| Depthwise { window, weights, bias, activation, residual },
        );
    }
}
