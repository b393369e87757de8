//! Fast strided copies: contiguous runs, transpositions in small squares, and plain loops for the rest.

use super::blocks::{Block, Blocks, Shared};
use super::{Isa, Memory};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::copy::Copy;
use crate::infer::plan::step::Step;

/// Side of the squares in which transpositions go: lines of both sides stay in the first-level cache.
const SQUARE: usize = 16;

/// The fast form of a copy.
pub fn prepare(_kernel: &Copy, step: &Step, _isa: Isa) -> Option<Box<dyn FastKernel>> {
    let (blocks, way) = blocks(step)?;
    Some(Box::new(CopyFast { blocks, way }))
}

/// How a block is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Rows are contiguous on both sides.
    Runs,
    /// Rows are contiguous in dst, columns in src.
    Transpose,
    Loops,
}

fn blocks(step: &Step) -> Option<(Blocks<2>, Way)> {
    let (src, dst) = (step.reads.first()?, step.writes.first()?);
    if src.shape != dst.shape {
        return None;
    }
    let mut blocks = Blocks::new([src, dst]);
    let way = match (blocks.inner_strides(), blocks.unit_axis(0)) {
        ([1, 1], _) => Way::Runs,
        ([_, 1], Some(axis)) => {
            blocks.move_to_rows(axis);
            Way::Transpose
        }
        _ => Way::Loops,
    };
    Some((blocks, way))
}

/// A copy with its axes merged.
#[derive(Debug)]
pub struct CopyFast {
    blocks: Blocks<2>,
    way: Way,
}

impl FastKernel for CopyFast {
    fn label(&self) -> String {
        let way = match self.way {
            Way::Runs => "runs",
            Way::Transpose => "transpose",
            Way::Loops => "loops",
        };
        format!("copy_{way}")
    }

    fn run(&self, step: &Step, memory: &Memory) {
        let seen = blocks(step);
        assert!(seen.is_some_and(|(blocks, _)| blocks == self.blocks), "not the step that the kernel was prepared for");
        let src = Shared(memory.pointer(&step.reads[0]));
        let dst = Shared(memory.pointer(&step.writes[0]));
        let (src, dst) = (&src, &dst);
        self.blocks.share(|block| {
            // SAFETY: blocks are inside the views and do not overlap in dst; src and dst do not overlap.
            unsafe {
                match self.way {
                    Way::Runs => runs(src.0, dst.0, &block),
                    Way::Transpose => transpose(src.0, dst.0, &block),
                    Way::Loops => loops(src.0, dst.0, &block),
                }
            }
        });
    }
}

/// # Safety
/// The block lies inside the views; inner strides are 1.
unsafe fn runs(src: *const f32, dst: *mut f32, block: &Block<2>) {
    for row in 0..block.rows {
        let [from, to] = block.row(row);
        // SAFETY: by contract.
        unsafe { std::ptr::copy_nonoverlapping(src.add(from), dst.add(to), block.inner) };
    }
}

/// # Safety
/// The block lies inside the views.
unsafe fn transpose(src: *const f32, dst: *mut f32, block: &Block<2>) {
    for top in (0..block.rows).step_by(SQUARE) {
        let rows = SQUARE.min(block.rows - top);
        for left in (0..block.inner).step_by(SQUARE) {
            let [from, to] = block.row(top);
            let at = [from + left * block.inner_strides[0], to + left * block.inner_strides[1]];
            let square = Block { at, rows, inner: SQUARE.min(block.inner - left), ..*block };
            // SAFETY: a part of the block.
            unsafe { loops(src, dst, &square) };
        }
    }
}

/// # Safety
/// The block lies inside the views.
#[inline(always)]
unsafe fn loops(src: *const f32, dst: *mut f32, block: &Block<2>) {
    let [step_src, step_dst] = block.inner_strides;
    for row in 0..block.rows {
        let [from, to] = block.row(row);
        for i in 0..block.inner {
            // SAFETY: by contract.
            unsafe { *dst.add(to + i * step_dst) = *src.add(from + i * step_src) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::infer::plan::view::{BufferId, View};

    fn check(src: View, dst: View, way: Way) {
        let x = values(1, src.len());
        let step = step(vec![src], vec![dst]);
        assert_eq!(blocks(&step).map(|(_, way)| way), Some(way), "{step:?}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("threads");
        let fast = prepare(&Copy, &step, Isa::Portable).expect("a copy");
        assert_eq!(pool.install(|| outputs(&*fast, &step, &[&x])), x);
    }

    #[test]
    fn runs_transpositions_and_loops() {
        for shape in [[1, 3, 5, 7], [2, 19, 6, 33], [1, 130, 17, 12], [1, 3, 200, 150]] {
            let planar = |buffer| View::row_major(BufferId(buffer), &shape);
            check(map(0, shape, 0, 0), map(1, shape, 0, 0), Way::Runs);
            check(map(0, shape, 2, 1), map(1, shape, 1, 5), Way::Runs);
            check(planar(0), map(1, shape, 0, 2), Way::Transpose);
            check(map(0, shape, 1, 0), planar(1), Way::Transpose);
            let mut wide = shape;
            wide[1] *= 2;
            check(map(0, wide, 0, 0).sliced(1, 1, shape[1], 2), map(1, shape, 0, 0), Way::Loops);
        }
        let one = [1, 1, 1, 1];
        check(map(0, one, 0, 0), map(1, one, 3, 0), Way::Runs);
    }

    #[test]
    fn a_repeated_source_fills() {
        let shape = [1, 6, 4, 3];
        let scalar = View::row_major(BufferId(0), &[]).broadcast_to(&shape).expect("scalar");
        let step = step(vec![scalar], vec![map(1, shape, 0, 1)]);
        let fast = prepare(&Copy, &step, Isa::Portable).expect("a copy");
        assert_eq!(outputs(&*fast, &step, &[&[2.5; 72]]), [2.5; 72]);
    }
}
