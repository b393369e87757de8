//! Choice between two tensors, element by element. Twin of `shaders/infer/select.wgsl`.

use super::walk::Walk;
use super::wgsl::{self, Lanes};
use crate::infer::kernel::{Cells, Kernel};
use crate::infer::plan::step::Step;
use crate::infer::plan::view::View;
use crate::shader::{Precision, Variant, VariantBuilder};

/// dst = condition ≠ 0 ? a : b. Reads `[condition, a, b]`, writes `[dst]`; the reads are already broadcast to the shape
/// of dst; any strides.
#[derive(Clone, Copy, Debug)]
pub struct Select;

fn walk(step: &Step) -> Walk {
    let views: Vec<&View> = step.reads.iter().take(3).chain(&step.writes).collect();
    Walk::new(&views)
}

impl Kernel for Select {
    fn stem(&self) -> &'static str {
        "select"
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let walk = walk(step);
        let strides: Vec<usize> = walk.strides.iter().map(|s| s[0]).collect();
        walk.rows(|at| {
            for i in 0..walk.extents[0] {
                let chosen = if reads[0][at[0] + i * strides[0]].get() != 0.0 { 1 } else { 2 };
                let value = reads[chosen][at[chosen] + i * strides[chosen]].get();
                writes[0][at[3] + i * strides[3]].set(value);
            }
        });
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let lanes = Lanes::new(walk(step));
        let mut b = VariantBuilder::new("select", include_str!("../../../shaders/infer/select.wgsl"));
        b = lanes.extents(b.precision(precision));
        for (i, name) in ["condition", "a", "b"].into_iter().enumerate() {
            b = lanes.read(b, name, i, i);
        }
        wgsl::build_flat(lanes.write(b, 3, 3), lanes.count().div_ceil(64))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{map, run, values};
    use super::*;
    use crate::infer::plan::view::BufferId;

    #[test]
    fn chooses_over_any_strides() {
        let shape = [2, 5, 3, 7];
        let (a, b) = (values(1, 210), values(2, 210));
        // One truth per column, repeated.
        let truths: Vec<f32> = (0..7).map(|i| f32::from(u8::from(i % 3 == 1))).collect();
        let condition = View::row_major(BufferId(0), &[7]).broadcast_to(&shape).expect("broadcast");
        let repeated: Vec<f32> = (0..210).map(|i| truths[i % 7]).collect();
        let expected: Vec<f32> = (0..210).map(|i| if i % 7 % 3 == 1 { a[i] } else { b[i] }).collect();
        let row_major = View::row_major(BufferId(2), &shape);
        for dst in [map(3, shape, 1, 2), View::row_major(BufferId(3), &shape)] {
            let inputs =
                [(condition.clone(), &repeated[..]), (map(1, shape, 2, 1), &a[..]), (row_major.clone(), &b[..])];
            assert_eq!(run(Select, &inputs, &dst), expected);
        }
    }
}
