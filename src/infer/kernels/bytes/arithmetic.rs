//! Sums, differences and products of bytes of two scales.

use crate::cpu::memory::as_bytes;
use crate::infer::bytes::{ByteScale, clamped, nearest};
use crate::infer::kernel::{ByteKernel, Cells, FastKernel};
use crate::infer::kernels::walk::Walk;
use crate::infer::plan::step::Step;

/// What is done to the two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteFunction {
    Add,
    Sub,
    Mul,
}

/// dst = byte(clamp(function(number(a), number(b)))). Reads `[a, b]`, writes `[dst]`, all of bytes; equal shapes (stride
/// 0 where an operand repeats), any strides.
#[derive(Clone, Copy, Debug)]
pub struct ByteArithmetic {
    pub function: ByteFunction,
    pub operands: [ByteScale; 2],
    pub to: ByteScale,
    /// Of a clamp, in steps of `to`; see [`ByteScale::clamp`].
    pub bounds: [f32; 2],
}

impl ByteArithmetic {
    /// The byte for two bytes.
    #[inline(always)]
    pub fn apply(&self, a: u8, b: u8) -> u8 {
        let (a, b) = (self.operands[0].number(a), self.operands[1].number(b));
        let x = match self.function {
            ByteFunction::Add => a + b,
            ByteFunction::Sub => a - b,
            ByteFunction::Mul => a * b,
        };
        (nearest(clamped(x / self.to.scale, self.bounds)) + self.to.zero) as u8
    }
}

impl ByteKernel for ByteArithmetic {
    fn stem(&self) -> &'static str {
        match self.function {
            ByteFunction::Add => "byte_add",
            ByteFunction::Sub => "byte_sub",
            ByteFunction::Mul => "byte_mul",
        }
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let [a, b, dst] = [reads[0], reads[1], writes[0]].map(as_bytes);
        let walk = Walk::new(&[&step.reads[0], &step.reads[1], &step.writes[0]]);
        let [of_a, of_b, to] = [0, 1, 2].map(|view| walk.strides[view][0]);
        walk.rows(|at| {
            for i in 0..walk.extents[0] {
                let byte = self.apply(a[at[0] + i * of_a].get(), b[at[1] + i * of_b].get());
                dst[at[2] + i * to].set(byte);
            }
        });
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        Some(crate::cpu::bytes::pointwise::prepare_arithmetic(self, step, isa))
    }
}
