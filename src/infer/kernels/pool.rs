//! Max and average pooling over a window. Twin of `shaders/infer/pool.wgsl`.

use super::conv::Window;
use super::wgsl;
use crate::infer::kernel::{Cells, FastKernel, Kernel};
use crate::infer::plan::step::Step;
use crate::shader::{Precision, Variant, VariantBuilder};

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

impl Pool {
    /// Taps of output `out` along an axis that count in a mean: those in the picture, or in the padded picture.
    pub(crate) fn counted(&self, axis: usize, size: usize, out: usize, include_pad: bool) -> usize {
        let (before, after) = (self.window.pads[axis], self.window.pads[axis + 2]);
        let counts = |tap: &usize| {
            let padded = out * self.window.stride[axis] + tap * self.window.dilation[axis];
            if include_pad { padded < before + size + after } else { padded >= before && padded < before + size }
        };
        (0..self.window.kernel[axis]).filter(counts).count()
    }
}

impl Kernel for Pool {
    fn stem(&self) -> &'static str {
        "pool"
    }

    fn label(&self) -> String {
        let kind = match self.kind {
            PoolKind::Max => "max",
            PoolKind::Average { .. } => "average",
        };
        format!("{kind}_pool_{}", self.window.label())
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (src, dst) = (wgsl::feature_map(&step.reads[0]), wgsl::feature_map(&step.writes[0]));
        let size = [src.height, src.width];
        let mut values = vec![0.0; dst.channels];
        for n in 0..dst.batch {
            for y in 0..dst.height {
                for x in 0..dst.width {
                    values.fill(if self.kind == PoolKind::Max { f32::MIN } else { 0.0 });
                    for ky in 0..self.window.kernel[0] {
                        for kx in 0..self.window.kernel[1] {
                            let Some([sy, sx]) = self.window.source(size, [y, x], [ky, kx]) else { continue };
                            let pixel = &reads[0][src.pixel(n, sy, sx)..];
                            for (value, seen) in values.iter_mut().zip(pixel) {
                                match self.kind {
                                    PoolKind::Max => *value = value.max(seen.get()),
                                    PoolKind::Average { .. } => *value += seen.get(),
                                }
                            }
                        }
                    }
                    let scale = match self.kind {
                        PoolKind::Max => 1.0,
                        PoolKind::Average { count_include_pad: pad } => {
                            1.0 / (self.counted(0, size[0], y, pad) * self.counted(1, size[1], x, pad)).max(1) as f32
                        }
                    };
                    let at = dst.pixel(n, y, x);
                    for (c, value) in values.iter().enumerate() {
                        writes[0][at + c].set(value * scale);
                    }
                }
            }
        }
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let (src, dst) = (wgsl::feature_map(&step.reads[0]), wgsl::feature_map(&step.writes[0]));
        let vectors = dst.channels.div_ceil(4);
        let count = dst.batch * dst.height * dst.width * vectors;
        let mut b = VariantBuilder::new("pool", include_str!("../../../shaders/infer/pool.wgsl")).precision(precision);
        b = wgsl::place(wgsl::place(b, "SRC", &src), "DST", &dst);
        b = wgsl::store(b, "@group(0) @binding(1) var<storage, read_write> dst", 1, dst.channels);
        b = self
            .window
            .declare(b)
            .bool("MAX", self.kind == PoolKind::Max)
            .bool("COUNT_PADS", self.kind == PoolKind::Average { count_include_pad: true })
            .u32("PADDED_HEIGHT", self.window.pads[0] + src.height + self.window.pads[2])
            .u32("PADDED_WIDTH", self.window.pads[1] + src.width + self.window.pads[3])
            .u32("SRC_HEIGHT", src.height)
            .u32("SRC_WIDTH", src.width)
            .u32("DST_HEIGHT", dst.height)
            .u32("DST_WIDTH", dst.width)
            .u32("VECTORS", vectors)
            .u32("COUNT", count);
        wgsl::build_flat(b, count.div_ceil(64))
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        crate::cpu::pool::prepare(self, step, isa)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{SHAPES, WINDOWS, assert_close, coordinates, map, out_size, run, values};
    use super::*;

    #[test]
    fn agrees_with_naive_loops() {
        for window in WINDOWS {
            for shape in SHAPES {
                let [n, c, h, w] = shape;
                let [oh, ow] = out_size(&window, [h, w]);
                // One column more, as in ceil mode, where its window still starts in the padded picture.
                let ow = ow + usize::from(ow * window.stride[1] < w + window.pads[1]);
                if oh * ow == 0 {
                    continue;
                }
                let x = values(5, n * c * h * w);
                for kind in [
                    PoolKind::Max,
                    PoolKind::Average { count_include_pad: true },
                    PoolKind::Average { count_include_pad: false },
                ] {
                    let got = run(Pool { kind, window }, &[(map(0, shape, 1, 2), &x)], &map(1, [n, c, oh, ow], 2, 3));
                    let expected: Vec<f64> = (0..got.len())
                        .map(|flat| {
                            let at = coordinates(&[n, c, oh, ow], flat);
                            let (mut seen, mut padded) = (Vec::new(), 0);
                            for ky in 0..window.kernel[0] {
                                for kx in 0..window.kernel[1] {
                                    let y = (at[2] * window.stride[0] + ky * window.dilation[0]) as isize;
                                    let x_px = (at[3] * window.stride[1] + kx * window.dilation[1]) as isize;
                                    let [top, left, bottom, right] = window.pads.map(|p| p as isize);
                                    let (h, w) = (h as isize, w as isize);
                                    padded += usize::from(y < top + h + bottom && x_px < left + w + right);
                                    if y >= top && y < top + h && x_px >= left && x_px < left + w {
                                        let plane = ((at[0] * c + at[1]) as isize * h + y - top) * w + x_px - left;
                                        seen.push(f64::from(x[plane as usize]));
                                    }
                                }
                            }
                            match kind {
                                PoolKind::Max => seen.iter().copied().fold(f64::from(f32::MIN), f64::max),
                                PoolKind::Average { count_include_pad } => {
                                    let count = if count_include_pad { padded } else { seen.len() };
                                    seen.iter().sum::<f64>() / count.max(1) as f64
                                }
                            }
                        })
                        .collect();
                    assert_close(&got, &expected, 1e-6, &format!("{kind:?} {window:?} {shape:?}"));
                }
            }
        }
    }
}
