//! Fast strided copies: contiguous runs, transpositions in registers, and plain loops for the rest.

use super::blocks::{Block, Blocks, Shared};
use super::simd::transpose::transpose;
use super::simd::{self, Vector, Work};
use super::{Isa, Memory};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::copy::Copy;
use crate::infer::plan::step::Step;

/// The fast form of a copy.
pub fn prepare(_kernel: &Copy, step: &Step, isa: Isa) -> Option<Box<dyn FastKernel>> {
    let (blocks, way) = blocks(step)?;
    isa.is_available().then(|| Box::new(CopyFast { isa, blocks, way }) as Box<dyn FastKernel>)
}

/// How a block is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Rows are contiguous on both sides.
    Runs,
    /// Rows are contiguous in dst, columns in src.
    Transpose,
    /// Two contiguous rows of src become the even and the odd elements of dst: a channel shuffle of two groups.
    Interleave,
    /// Every other element of contiguous rows of src: one half of a channel shuffle.
    EveryOther,
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
            if blocks.is_pairs(1) { Way::Interleave } else { Way::Transpose }
        }
        ([2, 1], None) => Way::EveryOther,
        _ => Way::Loops,
    };
    Some((blocks, way))
}

/// A copy with its axes merged.
#[derive(Debug)]
pub struct CopyFast {
    isa: Isa,
    blocks: Blocks<2>,
    way: Way,
}

impl FastKernel for CopyFast {
    fn label(&self) -> String {
        let way = match self.way {
            Way::Runs => "runs",
            Way::Transpose => "transpose",
            Way::Interleave => "interleave",
            Way::EveryOther => "every_other",
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
        // Pairs are not to be cut.
        let cut_inner = self.way != Way::Interleave;
        self.blocks.share_along(cut_inner, |block| {
            simd::run(self.isa, Part { way: self.way, src: src.0, dst: dst.0, block });
        });
    }
}

/// One block of a copy.
struct Part {
    way: Way,
    src: *const f32,
    dst: *mut f32,
    block: Block<2>,
}

impl Work for Part {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (src, dst, block) = (self.src, self.dst, &self.block);
        // SAFETY: blocks are inside the views and do not overlap in dst; src and dst do not overlap.
        unsafe {
            match self.way {
                Way::Runs if block.inner <= V::LANES => short_runs::<V>(src, dst, block),
                Way::Runs => runs(src, dst, block),
                Way::Transpose => squares::<V>(src, dst, block),
                Way::Interleave => pairs::<V>(src, dst, block),
                Way::EveryOther => every_other::<V>(src, dst, block),
                Way::Loops => loops(src, dst, block),
            }
        }
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
/// As [`runs`], with rows of one vector at most.
#[inline(always)]
unsafe fn short_runs<V: Vector>(src: *const f32, dst: *mut f32, block: &Block<2>) {
    for row in 0..block.rows {
        let [from, to] = block.row(row);
        // SAFETY: by contract.
        unsafe { V::load_first(src.add(from), block.inner).store_first(dst.add(to), block.inner) };
    }
}

/// # Safety
/// The block lies inside the views; rows are contiguous in dst, columns in src.
#[inline(always)]
unsafe fn squares<V: Vector>(src: *const f32, dst: *mut f32, block: &Block<2>) {
    let (step_src, step_dst) = (block.inner_strides[0], block.row_strides[1]);
    for top in (0..block.rows).step_by(V::LANES) {
        let rows = V::LANES.min(block.rows - top);
        let [from, to] = block.row(top);
        for left in (0..block.inner).step_by(V::LANES) {
            let size = (V::LANES.min(block.inner - left), rows);
            // SAFETY: by contract.
            unsafe {
                transpose::<V>(src.add(from + left * step_src), step_src, dst.add(to + left), step_dst, size, |x| x)
            };
        }
    }
}

/// # Safety
/// The block lies inside the views; it is two elements wide, contiguous in dst with its columns contiguous in src.
#[inline(always)]
unsafe fn pairs<V: Vector>(src: *const f32, dst: *mut f32, block: &Block<2>) {
    let (even, dst) = (src.wrapping_add(block.at[0]), dst.wrapping_add(block.at[1]));
    let odd = even.wrapping_add(block.inner_strides[0]);
    let mut row = 0;
    // SAFETY: by contract.
    unsafe {
        while row + V::LANES <= block.rows {
            let (first, second) = V::load(even.add(row)).interleave(V::load(odd.add(row)));
            first.store(dst.add(2 * row));
            second.store(dst.add(2 * row + V::LANES));
            row += V::LANES;
        }
        while row < block.rows {
            *dst.add(2 * row) = *even.add(row);
            *dst.add(2 * row + 1) = *odd.add(row);
            row += 1;
        }
    }
}

/// # Safety
/// The block lies inside the views; inner strides are 2 and 1.
#[inline(always)]
unsafe fn every_other<V: Vector>(src: *const f32, dst: *mut f32, block: &Block<2>) {
    // Half of the shuffles that interleave, the other way round.
    let count = block.inner;
    for row in 0..block.rows {
        let [from, to] = block.row(row);
        let (from, to) = (src.wrapping_add(from), dst.wrapping_add(to));
        let mut i = 0;
        // SAFETY: by contract; the last element of a row may be the last of src, so nothing behind it is read.
        unsafe {
            while i + V::LANES < count {
                V::load(from.add(2 * i)).evens(V::load(from.add(2 * i + V::LANES))).store(to.add(i));
                i += V::LANES;
            }
            while i < count {
                *to.add(i) = *from.add(2 * i);
                i += 1;
            }
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
        for isa in Isa::available() {
            let fast = prepare(&Copy, &step, isa).expect("a copy");
            assert_eq!(pool.install(|| outputs(&*fast, &step, &[&x])), x);
        }
    }

    #[test]
    fn runs_transpositions_and_loops() {
        for shape in [[1, 3, 5, 7], [2, 19, 6, 33], [1, 130, 17, 12], [1, 3, 200, 150]] {
            let planar = |buffer| View::row_major(BufferId(buffer), &shape);
            check(map(0, shape, 0, 0), map(1, shape, 0, 0), Way::Runs);
            check(map(0, shape, 2, 1), map(1, shape, 1, 5), Way::Runs);
            check(planar(0), map(1, shape, 0, 2), Way::Transpose);
            check(map(0, shape, 1, 0), planar(1), Way::Transpose);
            // A channel shuffle of two groups.
            let [n, c, h, w] = shape;
            let grouped = View { buffer: BufferId(0), offset: 0, shape: vec![n, c, 2, h, w], strides: vec![] };
            let view = |buffer, strides: [usize; 5]| View {
                buffer: BufferId(buffer),
                strides: strides.to_vec(),
                ..grouped.clone()
            };
            let (area, pixel) = (h * w, 2 * c + 3);
            check(
                view(0, [area * pixel, 1, c, w * pixel, pixel]),
                view(1, [area * 2 * c, 2, 1, w * 2 * c, 2 * c]),
                Way::Interleave,
            );
            let mut wide = shape;
            wide[1] *= 2;
            check(map(0, wide, 0, 0).sliced(1, 1, shape[1], 2), map(1, shape, 0, 0), Way::EveryOther);
            let mut wider = shape;
            wider[1] *= 3;
            check(map(0, wider, 0, 0).sliced(1, 1, shape[1], 3), map(1, shape, 0, 0), Way::Loops);
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
