//! Copies bytes, or looks each up in a table.

use super::each;
use crate::cpu::memory::as_bytes;
use crate::infer::bytes::Table;
use crate::infer::kernel::{ByteKernel, Cells, FastKernel};
use crate::infer::plan::step::Step;

/// dst = table[src], or src without a table. Reads `[src]`, writes `[dst]`; equal shapes, any strides.
#[derive(Clone, Debug, Default)]
pub struct ByteCopy {
    pub table: Option<Table>,
}

impl ByteKernel for ByteCopy {
    fn stem(&self) -> &'static str {
        if self.table.is_some() { "byte_table" } else { "byte_copy" }
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (src, dst) = (as_bytes(reads[0]), as_bytes(writes[0]));
        each(step, |from, to| {
            let byte = src[from].get();
            dst[to].set(self.table.as_ref().map_or(byte, |t| t.bytes[usize::from(byte)]));
        });
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        Some(crate::cpu::bytes::pointwise::prepare_copy(self, step, isa))
    }
}
