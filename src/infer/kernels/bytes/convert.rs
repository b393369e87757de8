//! From f32 to bytes and back: QuantizeLinear and DequantizeLinear with one scale.

use super::each;
use crate::cpu::memory::as_bytes;
use crate::infer::bytes::ByteScale;
use crate::infer::kernel::{ByteKernel, Cells, FastKernel};
use crate::infer::plan::step::Step;

/// dst = round(src / scale) + zero, saturated. Reads `[src]` of f32, writes `[dst]` of bytes; equal shapes, any strides.
#[derive(Clone, Copy, Debug)]
pub struct Quantise {
    pub to: ByteScale,
}

/// dst = (src − zero)·scale. Reads `[src]` of bytes, writes `[dst]` of f32; equal shapes, any strides.
#[derive(Clone, Copy, Debug)]
pub struct Dequantise {
    pub from: ByteScale,
}

impl ByteKernel for Quantise {
    fn stem(&self) -> &'static str {
        "byte_quantise"
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let dst = as_bytes(writes[0]);
        each(step, |from, to| dst[to].set(self.to.byte(reads[0][from].get())));
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        Some(crate::cpu::bytes::pointwise::prepare_quantise(self, step, isa))
    }
}

impl ByteKernel for Dequantise {
    fn stem(&self) -> &'static str {
        "byte_dequantise"
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let src = as_bytes(reads[0]);
        each(step, |from, to| writes[0][to].set(self.from.number(src[from].get())));
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        Some(crate::cpu::bytes::pointwise::prepare_dequantise(self, step, isa))
    }
}
