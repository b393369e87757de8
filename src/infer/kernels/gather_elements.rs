//! Elements by index along one axis. Twin of `shaders/infer/gather_elements.wgsl`.

use super::walk::Walk;
use super::wgsl;
use crate::infer::kernel::{Cells, Kernel};
use crate::infer::plan::step::Step;
use crate::shader::{Precision, Variant, VariantBuilder};

/// Reads `[src, indices]`, writes `[dst]`; equal ranks, dst has the shape of the indices; any strides. Indices are whole
/// numbers within the axis of src, or from its end below 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GatherElements {
    pub axis: usize,
}

impl GatherElements {
    fn walk(&self, step: &Step) -> Walk {
        // Along the axis only the index says where in src.
        let mut still = step.reads[0].clone();
        still.shape.clone_from(&step.writes[0].shape);
        still.strides[self.axis] = 0;
        Walk::new(&[&still, &step.reads[1], &step.writes[0]])
    }
}

impl Kernel for GatherElements {
    fn stem(&self) -> &'static str {
        "gather_elements"
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (extent, stride) = (step.reads[0].shape[self.axis] as i64, step.reads[0].strides[self.axis]);
        let walk = self.walk(step);
        let strides: Vec<usize> = walk.strides.iter().map(|s| s[0]).collect();
        walk.rows(|at| {
            for i in 0..walk.extents[0] {
                let given = reads[1][at[1] + i * strides[1]].get() as i64;
                let index = (if given < 0 { given + extent } else { given }).clamp(0, extent - 1) as usize;
                let value = reads[0][at[0] + i * strides[0] + index * stride].get();
                writes[0][at[2] + i * strides[2]].set(value);
            }
        });
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let src = &step.reads[0];
        let walk = self.walk(step);
        let count = walk.count();
        let text = include_str!("../../../shaders/infer/gather_elements.wgsl");
        let b = VariantBuilder::new("gather_elements", text)
            .precision(precision)
            .u32("COUNT", count)
            .i32("EXTENT", src.shape[self.axis] as i64)
            .u32("SRC_STRIDE", src.strides[self.axis]);
        wgsl::build_flat(wgsl::walk(b, &walk, &["SRC", "INDICES", "DST"]), count.div_ceil(64))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{coordinates, map, run, values};
    use super::*;
    use crate::infer::plan::view::{BufferId, View};

    #[test]
    fn follows_the_index() {
        let (from, to) = ([2, 5, 3, 7], [2, 4, 2, 6]);
        let x = values(1, 210);
        for axis in 0..4 {
            let extent = from[axis] as i64;
            let indices: Vec<f32> = (0..96).map(|i| ((i * 5) % (2 * extent) - extent) as f32).collect();
            let expected: Vec<f32> = (0..96)
                .map(|flat| {
                    let mut at = coordinates(&to, flat);
                    at[axis] = (indices[flat] as i64).rem_euclid(extent) as usize;
                    x[View::row_major(BufferId(0), &from).index(&at)]
                })
                .collect();
            let inputs = [(map(0, from, 1, 2), &x[..]), (View::row_major(BufferId(1), &to), &indices[..])];
            assert_eq!(run(GatherElements { axis }, &inputs, &map(2, to, 0, 1)), expected, "axis {axis}");
        }
    }
}
