//! Resizing of feature maps of bytes to the nearest pixel.

use crate::cpu::memory::as_bytes;
use crate::infer::kernel::{ByteKernel, Cells, FastKernel};
use crate::infer::kernels::resize::Resize;
use crate::infer::kernels::wgsl::feature_map;
use crate::infer::plan::step::Step;

/// Reads `[src]`, writes `[dst]`; feature maps of bytes with equal channels. `resize` picks the nearest pixel.
#[derive(Clone, Copy, Debug)]
pub struct ByteNearest {
    pub resize: Resize,
}

impl ByteKernel for ByteNearest {
    fn stem(&self) -> &'static str {
        "byte_nearest"
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (src, dst) = (feature_map(&step.reads[0]), feature_map(&step.writes[0]));
        let (from, to) = (as_bytes(reads[0]), as_bytes(writes[0]));
        let [rows, columns] = self.resize.neighbours(step);
        for n in 0..dst.batch {
            for (y, row) in rows.iter().enumerate() {
                for (x, column) in columns.iter().enumerate() {
                    let (seen, out) = (src.pixel(n, row.0, column.0), dst.pixel(n, y, x));
                    (0..dst.channels).for_each(|c| to[out + c].set(from[seen + c].get()));
                }
            }
        }
    }

    fn fast(&self, step: &Step, _isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        crate::cpu::bytes::window::prepare_nearest(self, step)
    }
}
