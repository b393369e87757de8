//! Maximum over a window, on bytes.

use crate::cpu::memory::as_bytes;
use crate::infer::kernel::{ByteKernel, Cells, FastKernel};
use crate::infer::kernels::conv::Window;
use crate::infer::kernels::wgsl::feature_map;
use crate::infer::plan::step::Step;

/// Reads `[src]`, writes `[dst]`; feature maps of bytes with equal channels. Positions outside the picture are ignored.
#[derive(Clone, Copy, Debug)]
pub struct ByteMaxPool {
    pub window: Window,
    /// The bytes are i8.
    pub signed: bool,
}

impl ByteMaxPool {
    /// Turned into a number that is ordered as a u8, and back.
    #[inline(always)]
    pub fn ordered(&self, byte: u8) -> u8 {
        if self.signed { byte ^ 0x80 } else { byte }
    }
}

impl ByteKernel for ByteMaxPool {
    fn stem(&self) -> &'static str {
        "byte_max_pool"
    }

    fn label(&self) -> String {
        format!("byte_max_pool_{}", self.window.label())
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (src, dst) = (feature_map(&step.reads[0]), feature_map(&step.writes[0]));
        let (x, y_bytes) = (as_bytes(reads[0]), as_bytes(writes[0]));
        for n in 0..dst.batch {
            for y in 0..dst.height {
                for x_px in 0..dst.width {
                    for c in 0..dst.channels {
                        let mut most = 0;
                        for ky in 0..self.window.kernel[0] {
                            for kx in 0..self.window.kernel[1] {
                                let place = self.window.source([src.height, src.width], [y, x_px], [ky, kx]);
                                let Some([sy, sx]) = place else { continue };
                                most = most.max(self.ordered(x[src.pixel(n, sy, sx) + c].get()));
                            }
                        }
                        y_bytes[dst.pixel(n, y, x_px) + c].set(self.ordered(most));
                    }
                }
            }
        }
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        crate::cpu::bytes::window::prepare_max_pool(self, step, isa)
    }
}
