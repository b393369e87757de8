//! Convolution of any dimensionality with weights in memory, and its transpose. Twin of `shaders/infer/conv_nd.wgsl`.
//! The slow way, for what `conv` and its siblings do not cover: weights computed at run time, one or three spatial axes.

use super::walk::coordinates;
use super::wgsl;
use crate::infer::kernel::{Cells, Kernel};
use crate::infer::plan::step::Step;
use crate::infer::plan::view::View;
use crate::shader::{Precision, Variant, VariantBuilder};

/// Reads `[src, weights]` or `[src, weights, bias]`, writes `[dst]`; any strides. src `[N, C, spatial...]`, weights
/// `[M, C/groups, kernel...]` (transposed: `[C, M/groups, kernel...]`), bias `[M]`, dst `[N, M, spatial...]`.
#[derive(Clone, Debug)]
pub struct ConvNd {
    pub groups: usize,
    pub stride: Vec<usize>,
    pub dilation: Vec<usize>,
    /// Zeros before the picture; transposed: what is cut off before the result.
    pub before: Vec<usize>,
    pub transposed: bool,
}

/// What a step's views come to: filters and channels of a group, strides of the weights by group, filter and channel.
struct Sizes {
    filters: usize,
    channels: usize,
    strides: [usize; 3],
}

impl ConvNd {
    fn sizes(&self, step: &Step) -> Sizes {
        let (src, weights, dst) = (&step.reads[0], &step.reads[1], &step.writes[0]);
        let (filters, channels) = (dst.shape[1] / self.groups, src.shape[1] / self.groups);
        let [first, second] = [weights.strides[0], weights.strides[1]];
        let strides = match self.transposed {
            false => [first * filters, first, second],
            true => [first * channels, second, first],
        };
        Sizes { filters, channels, strides }
    }

    /// The input that tap `tap` of output `out` sees along an axis of `size`.
    fn source(&self, axis: usize, size: usize, out: usize, tap: usize) -> Option<usize> {
        let reach = tap * self.dilation[axis];
        let place = match self.transposed {
            false => (out * self.stride[axis] + reach).checked_sub(self.before[axis])?,
            true => {
                let back = (out + self.before[axis]).checked_sub(reach)?;
                (back % self.stride[axis] == 0).then_some(back / self.stride[axis])?
            }
        };
        (place < size).then_some(place)
    }
}

impl Kernel for ConvNd {
    fn stem(&self) -> &'static str {
        "conv_nd"
    }

    fn label(&self) -> String {
        if self.transposed { "conv_nd_transposed" } else { "conv_nd" }.to_string()
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (src, weights, dst) = (&step.reads[0], &step.reads[1], &step.writes[0]);
        let (sizes, kernel) = (self.sizes(step), &weights.shape[2..]);
        let [by_group, by_filter, by_channel] = sizes.strides;
        let outputs: usize = dst.shape[2..].iter().product();
        for flat in 0..outputs {
            let out = coordinates(flat, &dst.shape[2..]);
            // Offsets of the input and of the weight, for each tap that sees the picture.
            let mut taps = Vec::new();
            for tap in 0..kernel.iter().product() {
                let tap = coordinates(tap, kernel);
                let places = (0..tap.len()).map(|a| self.source(a, src.shape[a + 2], out[a], tap[a]));
                if let Some(places) = places.collect::<Option<Vec<usize>>>() {
                    let offset =
                        |at: &[usize], view: &View| at.iter().zip(&view.strides[2..]).map(|(i, s)| i * s).sum();
                    let pair: (usize, usize) = (offset(&places, src), offset(&tap, weights));
                    taps.push(pair);
                }
            }
            let dst_at = dst.offset + out.iter().zip(&dst.strides[2..]).map(|(i, s)| i * s).sum::<usize>();
            for n in 0..dst.shape[0] {
                for m in 0..dst.shape[1] {
                    let (group, filter) = (m / sizes.filters, m % sizes.filters);
                    let src_at = src.offset + n * src.strides[0] + group * sizes.channels * src.strides[1];
                    let weights_at = weights.offset + group * by_group + filter * by_filter;
                    let mut sum =
                        step.reads.get(2).map_or(0.0, |bias| reads[2][bias.offset + m * bias.strides[0]].get());
                    for &(from, weight) in &taps {
                        for k in 0..sizes.channels {
                            sum += reads[0][src_at + from + k * src.strides[1]].get()
                                * reads[1][weights_at + weight + k * by_channel].get();
                        }
                    }
                    writes[0][dst_at + n * dst.strides[0] + m * dst.strides[1]].set(sum);
                }
            }
        }
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let (src, weights, dst) = (&step.reads[0], &step.reads[1], &step.writes[0]);
        let (sizes, kernel) = (self.sizes(step), &weights.shape[2..]);
        let mut b = VariantBuilder::new("conv_nd", include_str!("../../../shaders/infer/conv_nd.wgsl"))
            .precision(precision)
            .bool("TRANSPOSED", self.transposed)
            .u32("RANK", kernel.len())
            .u32("TAPS", kernel.iter().product())
            .u32("FILTERS", dst.shape[1])
            .u32("GROUP_FILTERS", sizes.filters)
            .u32("GROUP_CHANNELS", sizes.channels)
            .u32("WEIGHTS_OFFSET", weights.offset)
            .u32("WEIGHTS_GROUP", sizes.strides[0])
            .u32("WEIGHTS_FILTER", sizes.strides[1])
            .u32("WEIGHTS_CHANNEL", sizes.strides[2])
            .u32("COUNT", dst.len());
        b = wgsl::spatial_view(wgsl::spatial_view(b, "SRC", src), "DST", dst);
        b = wgsl::spatial_lists(
            b,
            &[
                ("KERNEL", kernel),
                ("STRIDE", &self.stride),
                ("DILATION", &self.dilation),
                ("BEFORE", &self.before),
                ("SIZES", &src.shape[2..]),
                ("OUTPUTS", &dst.shape[2..]),
                ("WEIGHTS_STRIDES", &weights.strides[2..]),
            ],
        );
        b = match step.reads.get(2) {
            Some(bias) => b.u32("BIAS_OFFSET", bias.offset).u32("BIAS_STRIDE", bias.strides[0]),
            None => b
                .line("@group(0) @binding(2) var<storage, read> bias", "")
                .line("fn load_bias(", "fn load_bias(filter_index: u32) -> f32 { return 0.0; }")
                .line(
                    "@group(0) @binding(3) var<storage, read_write> dst",
                    "@group(0) @binding(2) var<storage, read_write> dst: array<S>;",
                ),
        };
        wgsl::build_flat(b, dst.len().div_ceil(64))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NaiveConv, SHAPES, WINDOWS, assert_close, map, out_size, run, values};
    use super::*;
    use crate::infer::activation::Activation;
    use crate::infer::kernels::conv::Residual;
    use crate::infer::plan::view::BufferId;

    fn row_major(buffer: usize, shape: &[usize]) -> View {
        View::row_major(BufferId(buffer), shape)
    }

    #[test]
    fn agrees_with_naive_loops() {
        for window in WINDOWS {
            for shape in SHAPES {
                let [n, c, h, w] = shape;
                let [oh, ow] = out_size(&window, [h, w]);
                if oh * ow == 0 {
                    continue;
                }
                let groups = if c % 2 == 0 { 2 } else { c };
                let outputs = 2 * groups;
                let weights = values(1, outputs * (c / groups) * window.taps());
                let (bias, x) = (values(2, outputs), values(3, n * c * h * w));
                let (activation, residual) = (Activation::None, Residual::None);
                let other = &[];
                let naive = NaiveConv {
                    window,
                    groups,
                    shape,
                    x: &x,
                    weights: &weights,
                    bias: &bias,
                    activation,
                    residual,
                    other,
                };
                let kernel = ConvNd {
                    groups,
                    stride: window.stride.to_vec(),
                    dilation: window.dilation.to_vec(),
                    before: window.pads[..2].to_vec(),
                    transposed: false,
                };
                let [kh, kw] = window.kernel;
                let inputs = [
                    (map(0, shape, 2, 1), &x[..]),
                    (row_major(1, &[outputs, c / groups, kh, kw]), &weights[..]),
                    (row_major(2, &[outputs]), &bias[..]),
                ];
                let got = run(kernel, &inputs, &map(3, [n, outputs, oh, ow], 1, 2));
                assert_close(&got, &naive.run(), 1e-6, &format!("{window:?} {shape:?}"));
            }
        }
    }

    #[test]
    fn the_transpose_spreads_what_it_sees() {
        // One axis, stride 2, dilation 3: input i adds x·w to outputs 2i − 1 and 2i + 2.
        let kernel = ConvNd { groups: 1, stride: vec![2], dilation: vec![3], before: vec![1], transposed: true };
        let (x, weights) = ([1.0, 10.0, 100.0], [1.0, 2.0]);
        let inputs = [(row_major(0, &[1, 1, 3]), &x[..]), (row_major(1, &[1, 1, 2]), &weights[..])];
        let got = run(kernel, &inputs, &row_major(2, &[1, 1, 7]));
        assert_eq!(got, [0.0, 10.0, 2.0, 100.0, 20.0, 0.0, 200.0]);
        // Two groups: channel 0 gives filters 0 and 1, channel 1 filters 2 and 3.
        let kernel = ConvNd { groups: 2, stride: vec![1], dilation: vec![1], before: vec![0], transposed: true };
        let (x, weights) = ([1.0, 10.0], [1.0, 2.0, 3.0, 4.0]);
        let inputs = [(row_major(0, &[1, 2, 1]), &x[..]), (row_major(1, &[2, 2, 1]), &weights[..])];
        assert_eq!(run(kernel, &inputs, &row_major(2, &[1, 4, 1])), [1.0, 2.0, 30.0, 40.0]);
    }
}
