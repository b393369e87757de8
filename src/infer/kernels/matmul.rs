//! Batched matrix product of two run-time values. Twin of `shaders/infer/matmul.wgsl`.

use super::walk::Walk;
use super::wgsl;
use crate::infer::kernel::{Cells, FastKernel, Kernel};
use crate::infer::plan::step::Step;
use crate::infer::plan::view::View;
use crate::shader::{Precision, Variant, VariantBuilder};

/// dst[.., m, n] = Σk a[.., m, k]·b[.., k, n]. Reads `[a, b]`, writes `[dst]`; equal leading axes (already broadcast,
/// stride 0 where they repeat); any strides.
#[derive(Clone, Copy, Debug)]
pub struct MatMul;

/// Sizes of one product, and the axes along which products repeat.
struct Products {
    m: usize,
    n: usize,
    k: usize,
    batch: Walk,
    /// Strides of a along m and k, of b along k and n, of dst along m and n.
    a: [usize; 2],
    b: [usize; 2],
    dst: [usize; 2],
}

impl Products {
    fn new(step: &Step) -> Products {
        let (a, b, dst) = (&step.reads[0], &step.reads[1], &step.writes[0]);
        let lead = dst.rank() - 2;
        let last = |v: &View| [v.strides[v.rank() - 2], v.strides[v.rank() - 1]];
        Products {
            m: dst.shape[lead],
            n: dst.shape[lead + 1],
            k: a.shape[a.rank() - 1],
            batch: Walk::over(&[a, b, dst], &(0..lead).collect::<Vec<_>>()),
            a: last(a),
            b: last(b),
            dst: last(dst),
        }
    }
}

impl Kernel for MatMul {
    fn stem(&self) -> &'static str {
        "matmul"
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let p = Products::new(step);
        let mut sums = vec![0.0; p.n];
        p.batch.rows(|at| {
            for i in 0..p.batch.extents[0] {
                let [a, b, dst] = [0, 1, 2].map(|view| at[view] + i * p.batch.strides[view][0]);
                for m in 0..p.m {
                    sums.fill(0.0);
                    for k in 0..p.k {
                        let x = reads[0][a + m * p.a[0] + k * p.a[1]].get();
                        for (n, sum) in sums.iter_mut().enumerate() {
                            *sum += x * reads[1][b + k * p.b[0] + n * p.b[1]].get();
                        }
                    }
                    for (n, &sum) in sums.iter().enumerate() {
                        writes[0][dst + m * p.dst[0] + n * p.dst[1]].set(sum);
                    }
                }
            }
        });
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let p = Products::new(step);
        let tiles = [p.m.div_ceil(4), p.n.div_ceil(4)];
        let count = p.batch.count() * tiles[0] * tiles[1];
        let mut b = VariantBuilder::new("matmul", include_str!("../../../shaders/infer/matmul.wgsl"));
        b = b.precision(precision);
        for (view, name) in ["A", "B", "DST"].into_iter().enumerate() {
            b = b.u32(&format!("{name}_OFFSET"), p.batch.offsets[view]);
            b = wgsl::list(b, &format!("{name}_STRIDES"), &p.batch.strides[view]);
        }
        b = wgsl::list(b, "EXTENTS", &p.batch.extents.iter().map(|&n| n.max(1)).collect::<Vec<_>>());
        b = b
            .u32("RANK", p.batch.extents.len())
            .u32("M", p.m)
            .u32("N", p.n)
            .u32("K", p.k)
            .u32("A_M", p.a[0])
            .u32("A_K", p.a[1])
            .u32("B_K", p.b[0])
            .u32("B_N", p.b[1])
            .u32("DST_M", p.dst[0])
            .u32("DST_N", p.dst[1])
            .u32("TILES_M", tiles[0].max(1))
            .u32("TILES_N", tiles[1].max(1))
            .u32("COUNT", count);
        wgsl::build_flat(b, count.div_ceil(64))
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        crate::cpu::matmul::prepare(self, step, isa)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, run, values};
    use super::*;
    use crate::infer::plan::view::BufferId;

    #[test]
    fn agrees_with_naive_loops() {
        for [batch, m, k, n] in [[1, 1, 1, 1], [3, 5, 7, 2], [2, 1, 13, 3], [2, 6, 1, 5]] {
            let (a, b) = (values(1, batch * m * k), values(2, batch * k * n));
            let mut expected = Vec::new();
            for i in 0..batch * m * n {
                let (image, row, column) = (i / (m * n), i / n % m, i % n);
                let product =
                    |j: usize| f64::from(a[(image * m + row) * k + j]) * f64::from(b[(image * k + j) * n + column]);
                expected.push((0..k).map(product).sum());
            }
            let view = |buffer: usize, shape: [usize; 3]| View::row_major(BufferId(buffer), &shape);
            let turned = View::row_major(BufferId(1), &[n, batch, k + 1]).sliced(2, 1, k, 1).transposed(&[1, 2, 0]);
            for b_view in [view(1, [batch, k, n]), turned] {
                let inputs = [(view(0, [batch, m, k]), a.as_slice()), (b_view, b.as_slice())];
                let dst = View::row_major(BufferId(2), &[batch, m, n + 2]).sliced(2, 1, n, 1);
                assert_close(&run(MatMul, &inputs, &dst), &expected, 1e-6, "matmul");
            }
        }
    }
}
