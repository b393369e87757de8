//! From f32 to bytes and back: QuantizeLinear and DequantizeLinear with one scale.

use super::each;
use crate::cpu::memory::as_bytes;
use crate::infer::bytes::{ByteScale, clamped};
use crate::infer::kernel::{ByteKernel, Cells, FastKernel};
use crate::infer::plan::step::Step;
use std::sync::Arc;

/// dst = round(src / scale) + zero, saturated. Reads `[src]` of f32, writes `[dst]` of bytes; equal shapes, any strides.
#[derive(Clone, Copy, Debug)]
pub struct Quantise {
    pub to: ByteScale,
}

/// dst = (src − zero)·scale, or the number that a function gives for the byte. Reads `[src]` of bytes, writes `[dst]` of
/// f32; equal shapes, any strides.
#[derive(Clone, Debug)]
pub struct Dequantise {
    pub from: ByteScale,
    /// The function's number of each byte.
    pub function: Option<Arc<[f32; 256]>>,
}

impl Dequantise {
    /// Bounds of the clamp that the function is, if it is one.
    pub fn clamp(&self) -> Option<[f32; 2]> {
        let numbers = self.function.as_ref()?;
        let bounds = numbers.iter().fold([f32::MAX, f32::MIN], |[lo, hi], &x| [x.min(lo), x.max(hi)]);
        let same = |i: usize| clamped(self.from.number(i as u8), bounds).to_bits() == numbers[i].to_bits();
        (0..256).all(same).then_some(bounds)
    }
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

    fn label(&self) -> String {
        let function = match (&self.function, self.clamp()) {
            (None, _) => "",
            (_, Some(_)) => "_clip",
            (_, None) => "_table",
        };
        format!("byte_dequantise{function}")
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let src = as_bytes(reads[0]);
        let numbers = self.function.as_deref().copied().unwrap_or_else(|| self.from.numbers());
        each(step, |from, to| writes[0][to].set(numbers[usize::from(src[from].get())]));
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        Some(crate::cpu::bytes::pointwise::prepare_dequantise(self, step, isa))
    }
}
