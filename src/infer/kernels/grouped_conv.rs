//! Convolution in groups that are neither one nor as many as channels. Twin of `shaders/infer/grouped_conv.wgsl`.

use std::sync::Arc;

use super::conv::{Epilogue, Residual, Window, epilogue_label};
use super::wgsl;
use crate::infer::activation::Activation;
use crate::infer::kernel::{Cells, Kernel};
use crate::infer::plan::step::Step;
use crate::shader::{Precision, Variant, VariantBuilder};

/// Reads `[src]` or `[src, residual]`, writes `[dst]`; feature maps. Any number of groups that divides both channel
/// counts; with as many groups as input channels, several filters per channel.
#[derive(Clone, Debug)]
pub struct GroupedConv {
    pub window: Window,
    pub groups: usize,
    /// `[out][in / groups][kernel y][kernel x]`
    pub weights: Arc<Vec<f32>>,
    pub bias: Arc<Vec<f32>>,
    pub activation: Activation,
    pub residual: Residual,
}

impl Kernel for GroupedConv {
    fn stem(&self) -> &'static str {
        "grouped_conv"
    }

    fn label(&self) -> String {
        let epilogue = epilogue_label(self.activation, self.residual);
        format!("grouped_conv_{}g{}{epilogue}", self.window.label(), self.groups)
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (src, dst) = (wgsl::feature_map(&step.reads[0]), wgsl::feature_map(&step.writes[0]));
        let epilogue = Epilogue::new(self.activation, self.residual, step, reads);
        let (inputs, outputs) = (src.channels / self.groups, dst.channels / self.groups);
        let taps = self.window.taps();
        for n in 0..dst.batch {
            for y in 0..dst.height {
                for x in 0..dst.width {
                    for o in 0..dst.channels {
                        let first = o / outputs * inputs;
                        let mut sum = self.bias[o];
                        for ky in 0..self.window.kernel[0] {
                            for kx in 0..self.window.kernel[1] {
                                let Some([sy, sx]) = self.window.source([src.height, src.width], [y, x], [ky, kx])
                                else {
                                    continue;
                                };
                                let at = src.pixel(n, sy, sx) + first;
                                let tap = ky * self.window.kernel[1] + kx;
                                for i in 0..inputs {
                                    sum += reads[0][at + i].get() * self.weights[(o * inputs + i) * taps + tap];
                                }
                            }
                        }
                        writes[0][dst.pixel(n, y, x) + o].set(epilogue.finish(sum, n, y, x, o));
                    }
                }
            }
        }
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let (src, dst) = (wgsl::feature_map(&step.reads[0]), wgsl::feature_map(&step.writes[0]));
        let mut b = VariantBuilder::new("grouped_conv", include_str!("../../../shaders/infer/grouped_conv.wgsl"));
        b = wgsl::activation(b.precision(precision), self.activation);
        b = wgsl::place_scalar(wgsl::place_scalar(b, "SRC", &src), "DST", &dst);
        let finish = |body: &str| format!("fn finish(x: vec4<f32>, at: u32) -> vec4<f32> {{ return {body}; }}");
        b = match self.residual {
            Residual::None => b
                .line("@group(0) @binding(2) var<storage, read> residual", "")
                .line(
                    "@group(0) @binding(3) var<storage, read_write> dst",
                    "@group(0) @binding(2) var<storage, read_write> dst: array<S>;",
                )
                .line("fn finish(", &finish("activate(x)")),
            Residual::BeforeActivation => b.line("fn finish(", &finish("activate(x + f32(residual[at]))")),
            Residual::AfterActivation => b.line("fn finish(", &finish("activate(x) + f32(residual[at])")),
        };
        if self.residual != Residual::None {
            b = wgsl::place_scalar(b, "RESIDUAL", &wgsl::feature_map(&step.reads[1]));
        }
        let count = dst.batch * dst.height * dst.width * dst.channels;
        b = self
            .window
            .declare(b)
            .u32("SRC_HEIGHT", src.height)
            .u32("SRC_WIDTH", src.width)
            .u32("DST_HEIGHT", dst.height)
            .u32("DST_WIDTH", dst.width)
            .u32("CHANNELS", dst.channels)
            .u32("GROUP_INPUTS", src.channels / self.groups)
            .u32("GROUP_OUTPUTS", dst.channels / self.groups)
            .u32("COUNT", count);
        wgsl::build_flat(b, count.div_ceil(64))
    }

    /// The bias, then the weights as they are.
    fn gpu_weights(&self, _step: &Step) -> Vec<f32> {
        self.bias.iter().chain(self.weights.iter()).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_convolution;
    use super::*;

    #[test]
    fn agrees_with_naive_loops() {
        // Two filters per channel; four groups where that divides; one group.
        let cases = [(2, 0, 0), (0, 12, 4), (0, 3, 1)];
        for (per_channel, fixed, wanted) in cases {
            let groups = |c: usize| {
                if wanted == 0 {
                    c
                } else if c.is_multiple_of(wanted) {
                    wanted
                } else {
                    1
                }
            };
            let outputs = |c: usize| per_channel * c + fixed;
            check_convolution(outputs, groups, |window, groups, weights, bias, activation, residual| GroupedConv {
                window,
                groups,
                weights,
                bias,
                activation,
                residual,
            });
        }
    }
}
