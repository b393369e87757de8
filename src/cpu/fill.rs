//! Fast filling of a view: row by row.

use super::Memory;
use super::blocks::{Blocks, Shared};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::fill::Fill;
use crate::infer::plan::step::Step;

/// The fast form of a fill; `None` where the fastest axis has gaps.
pub fn prepare(kernel: &Fill, step: &Step) -> Option<Box<dyn FastKernel>> {
    let blocks = blocks(step)?;
    Some(Box::new(FillFast { value: kernel.value, blocks }))
}

fn blocks(step: &Step) -> Option<Blocks<1>> {
    let blocks = Blocks::new([step.writes.first()?]);
    (blocks.inner_strides() == [1]).then_some(blocks)
}

/// A fill with its axes merged.
#[derive(Debug)]
pub struct FillFast {
    value: f32,
    blocks: Blocks<1>,
}

impl FastKernel for FillFast {
    fn label(&self) -> String {
        "fill_runs".into()
    }

    fn run(&self, step: &Step, memory: &Memory) {
        assert_eq!(blocks(step).as_ref(), Some(&self.blocks), "not the step that the kernel was prepared for");
        let dst = Shared(memory.pointer(&step.writes[0]));
        let dst = &dst;
        self.blocks.share(|block| {
            for row in 0..block.rows {
                // SAFETY: blocks are inside the view and do not overlap; nobody else sees its elements.
                unsafe { std::slice::from_raw_parts_mut(dst.0.add(block.row(row)[0]), block.inner).fill(self.value) };
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn fills_the_view_and_nothing_else() {
        for (shape, gap) in [([2, 3, 4, 5], 1), ([1, 48, 46, 46], 0), ([1, 1, 1, 1], 2)] {
            let step = step(vec![], vec![map(0, shape, 1, gap)]);
            let fast = prepare(&Fill { value: 2.5 }, &step).expect("contiguous channels");
            assert_eq!(outputs(&*fast, &step, &[]), vec![2.5; shape.iter().product()]);
        }
    }
}
