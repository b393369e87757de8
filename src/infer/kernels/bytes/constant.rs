//! Sums, differences and products of bytes and constants.

use super::arithmetic::ByteFunction;
use crate::cpu::memory::as_bytes;
use crate::infer::bytes::{ByteScale, clamped, nearest};
use crate::infer::kernel::{ByteKernel, Cells, FastKernel};
use crate::infer::kernels::walk::Walk;
use crate::infer::plan::step::Step;

/// dst = byte(clamp(function(number(x), constant))). Reads `[x, constant]`, the second of f32, writes `[dst]` of bytes;
/// equal shapes (stride 0 where an operand repeats), any strides.
#[derive(Clone, Copy, Debug)]
pub struct ByteConstant {
    pub function: ByteFunction,
    /// function(constant, number(x)) instead.
    pub constant_first: bool,
    pub from: ByteScale,
    pub to: ByteScale,
    /// Of a clamp, in steps of `to`; see [`ByteScale::clamp`].
    pub bounds: [f32; 2],
}

impl ByteConstant {
    /// The byte for a byte and a constant.
    #[inline(always)]
    pub fn apply(&self, x: u8, constant: f32) -> u8 {
        let (x, c) = (self.from.number(x), constant);
        let x = match (self.function, self.constant_first) {
            (ByteFunction::Add, _) => x + c,
            (ByteFunction::Sub, false) => x - c,
            (ByteFunction::Sub, true) => c - x,
            (ByteFunction::Mul, _) => x * c,
        };
        (nearest(clamped(x / self.to.scale, self.bounds)) + self.to.zero) as u8
    }
}

impl ByteKernel for ByteConstant {
    fn stem(&self) -> &'static str {
        "byte_constant"
    }

    fn label(&self) -> String {
        let function = match (self.function, self.constant_first) {
            (ByteFunction::Add, _) => "add",
            (ByteFunction::Sub, false) => "sub",
            (ByteFunction::Sub, true) => "sub_from",
            (ByteFunction::Mul, _) => "mul",
        };
        format!("byte_constant_{function}")
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let [x, dst] = [reads[0], writes[0]].map(as_bytes);
        let walk = Walk::new(&[&step.reads[0], &step.reads[1], &step.writes[0]]);
        let [of_x, of_c, to] = [0, 1, 2].map(|view| walk.strides[view][0]);
        walk.rows(|at| {
            for i in 0..walk.extents[0] {
                let byte = self.apply(x[at[0] + i * of_x].get(), reads[1][at[1] + i * of_c].get());
                dst[at[2] + i * to].set(byte);
            }
        });
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        Some(crate::cpu::bytes::pointwise::prepare_constant(self, step, isa))
    }
}
