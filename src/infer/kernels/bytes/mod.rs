//! Kernels on bytes, for plans on the CPU: one file each. There are no shaders; the twins are what the fast forms in
//! [`crate::cpu::bytes`] are tested against, to the last bit.

use super::walk::Walk;
use crate::infer::plan::step::Step;

pub mod arithmetic;
pub mod average;
pub mod constant;
pub mod conv;
pub mod convert;
pub mod copy;
pub mod max_pool;
pub mod nearest;

/// Calls `one` with the positions of each element in what the step reads and in what it writes.
fn each(step: &Step, one: impl Fn(usize, usize)) {
    let walk = Walk::new(&[&step.reads[0], &step.writes[0]]);
    let (from, to) = (walk.strides[0][0], walk.strides[1][0]);
    walk.rows(|at| (0..walk.extents[0]).for_each(|i| one(at[0] + i * from, at[1] + i * to)));
}
