//! Mean over a window, or over the whole picture, of a function of bytes: sums in i32, the result as bytes again.

use crate::cpu::memory::as_bytes;
use crate::infer::bytes::{ByteScale, FixedPoint, clamped, nearest};
use crate::infer::kernel::{ByteKernel, Cells, FastKernel};
use crate::infer::kernels::conv::Window;
use crate::infer::kernels::pool::{Pool, PoolKind};
use crate::infer::kernels::wgsl::feature_map;
use crate::infer::plan::step::Step;

/// dst = byte(clamp(Σ number(x) / count)). Reads `[src]`, writes `[dst]`; feature maps of bytes with equal channels.
/// Positions outside the picture add nothing; `count` has those within the pads, or not, as [`PoolKind::Average`] says.
///
/// In numbers: t = Σ units(x) as f32 · f32(unit / (count·scale of the result)), then nearest(clamp(t)) + zero.
#[derive(Clone, Debug)]
pub struct ByteAverage {
    pub window: Window,
    pub count_include_pad: bool,
    pub from: ByteScale,
    /// The function; as many of its numbers as the window has taps can be added.
    pub numbers: FixedPoint,
    pub to: ByteScale,
    /// Of a clamp, in steps of `to`; see [`ByteScale::clamp`].
    pub bounds: [f32; 2],
}

impl ByteAverage {
    /// What a sum is multiplied by that is divided by `count`.
    pub fn factor(&self, count: usize) -> f32 {
        (self.numbers.unit / (count.max(1) as f64 * f64::from(self.to.scale))) as f32
    }

    /// Positions that count along an axis of `size` pixels for output `out`.
    pub fn counted(&self, axis: usize, size: usize, out: usize) -> usize {
        let kind = PoolKind::Average { count_include_pad: self.count_include_pad };
        Pool { kind, window: self.window }.counted(axis, size, out, self.count_include_pad)
    }

    /// The byte for a sum.
    #[inline(always)]
    pub fn byte(&self, sum: i32, factor: f32) -> u8 {
        (nearest(clamped(sum as f32 * factor, self.bounds)) + self.to.zero) as u8
    }
}

impl ByteKernel for ByteAverage {
    fn stem(&self) -> &'static str {
        "byte_average"
    }

    fn label(&self) -> String {
        format!("byte_average_{}", self.window.label())
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (src, dst) = (feature_map(&step.reads[0]), feature_map(&step.writes[0]));
        let (from, to) = (as_bytes(reads[0]), as_bytes(writes[0]));
        let size = [src.height, src.width];
        for n in 0..dst.batch {
            for y in 0..dst.height {
                for x in 0..dst.width {
                    let factor = self.factor(self.counted(0, size[0], y) * self.counted(1, size[1], x));
                    for c in 0..dst.channels {
                        let mut sum = 0;
                        for ky in 0..self.window.kernel[0] {
                            for kx in 0..self.window.kernel[1] {
                                let Some([sy, sx]) = self.window.source(size, [y, x], [ky, kx]) else { continue };
                                sum += self.numbers.units[usize::from(from[src.pixel(n, sy, sx) + c].get())];
                            }
                        }
                        to[dst.pixel(n, y, x) + c].set(self.byte(sum, factor));
                    }
                }
            }
        }
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        crate::cpu::bytes::average::prepare(self, step, isa)
    }
}
