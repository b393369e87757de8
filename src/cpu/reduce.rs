//! Fast sum, mean, maximum and minimum: vectors over contiguous kept elements, as in global pooling, or along
//! contiguous reduced ones.

use super::blocks::Shared;
use super::simd::{self, Vector, Work, load, store};
use super::{Isa, Memory, threads};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::reduce::{Reduce, ReduceKind, walks};
use crate::infer::kernels::walk::Walk;
use crate::infer::plan::step::Step;

/// Vectors of kept elements that are reduced together.
const VECTORS: usize = 4;

/// The fast form of a reduction; `None` where neither kept nor reduced elements are contiguous, and for the kinds that
/// real networks reduce little with.
pub fn prepare(kernel: &Reduce, step: &Step, isa: Isa) -> Option<Box<dyn FastKernel>> {
    if !matches!(kernel.kind, ReduceKind::Sum | ReduceKind::Mean | ReduceKind::Max | ReduceKind::Min) {
        return None;
    }
    let (kept, gone) = checked_walks(step)?;
    isa.is_available().then(|| Box::new(ReduceFast { isa, kind: kernel.kind, kept, gone }) as Box<dyn FastKernel>)
}

fn checked_walks(step: &Step) -> Option<(Walk, Walk)> {
    let (kept, gone) = walks(step);
    let across = kept.strides[0][0] == 1 && kept.strides[1][0] == 1;
    (kept.count() > 0 && gone.count() > 0 && (across || gone.strides[0][0] == 1)).then_some((kept, gone))
}

/// A reduction with its axes merged.
#[derive(Debug)]
pub struct ReduceFast {
    isa: Isa,
    kind: ReduceKind,
    /// src and dst.
    kept: Walk,
    gone: Walk,
}

impl FastKernel for ReduceFast {
    fn label(&self) -> String {
        format!("reduce_{:?}_{}", self.kind, self.isa.name()).to_lowercase()
    }

    fn run(&self, step: &Step, memory: &Memory) {
        let seen = checked_walks(step);
        assert!(
            seen.is_some_and(|(kept, gone)| kept == self.kept && gone == self.gone),
            "not the step that the kernel was prepared for"
        );
        let src = Shared(memory.pointer(&step.reads[0]));
        let dst = Shared(memory.pointer(&step.writes[0]));
        let (src, dst) = (&src, &dst);
        let inner = self.kept.extents[0];
        // Blocks of neighbours along the fastest kept axis.
        let block = if self.across() { VECTORS * simd::lanes(self.isa) } else { 1 };
        let per_row = inner.div_ceil(block);
        let blocks = per_row * (self.kept.count() / inner);
        let threads = threads::useful_threads((self.kept.count() * self.gone.count()) as u64);
        let parts = if threads == 1 { 1 } else { (4 * threads).min(blocks) };
        threads::share(threads, parts, |part| {
            for index in threads::part(blocks, parts, part) {
                let (mut rest, mut at) = (index / per_row, [0, 0]);
                for (axis, &n) in self.kept.extents.iter().enumerate().skip(1) {
                    for (view, at) in at.iter_mut().enumerate() {
                        *at += rest % n * self.kept.strides[view][axis];
                    }
                    rest /= n;
                }
                let first = index % per_row * block;
                for (view, at) in at.iter_mut().enumerate() {
                    *at += first * self.kept.strides[view][0];
                }
                let (src, dst) = (src.0.wrapping_add(at[0]), dst.0.wrapping_add(at[1]));
                simd::run(self.isa, Part { reduce: self, src, dst, count: block.min(inner - first) });
            }
        });
    }
}

impl ReduceFast {
    fn across(&self) -> bool {
        self.kept.strides[0][0] == 1 && self.kept.strides[1][0] == 1
    }

    #[inline(always)]
    unsafe fn combine<V: Vector>(&self, a: V, b: V) -> V {
        // SAFETY: called with the vectors of an instruction set that is there.
        unsafe {
            match self.kind {
                ReduceKind::Max => a.max(b),
                ReduceKind::Min => a.min(b),
                _ => a.add(b),
            }
        }
    }
}

/// Some neighbouring outputs, or one.
struct Part<'a> {
    reduce: &'a ReduceFast,
    src: *const f32,
    dst: *mut f32,
    count: usize,
}

impl Work for Part<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the parts lie inside the views.
        unsafe {
            if !self.reduce.across() {
                self.along::<V>();
                return;
            }
            let mut c = 0;
            while c + VECTORS * V::LANES <= self.count {
                self.across::<V, VECTORS>(c, None);
                c += VECTORS * V::LANES;
            }
            while c < self.count {
                let left = self.count - c;
                self.across::<V, 1>(c, (left < V::LANES).then_some(left));
                c += V::LANES;
            }
        }
    }
}

impl Part<'_> {
    fn start(&self) -> f32 {
        match self.reduce.kind {
            ReduceKind::Max => f32::NEG_INFINITY,
            ReduceKind::Min => f32::INFINITY,
            _ => 0.0,
        }
    }

    fn scale(&self) -> f32 {
        if self.reduce.kind == ReduceKind::Mean { 1.0 / self.reduce.gone.count() as f32 } else { 1.0 }
    }

    /// Outputs `c..` as vectors. Each run along the fastest reduced axis has a sum of its own, so that large pictures
    /// lose few digits.
    #[inline(always)]
    unsafe fn across<V: Vector, const N: usize>(&self, c: usize, partial: Option<usize>) {
        let gone = &self.reduce.gone;
        let (inner, stride) = (gone.extents[0], gone.strides[0][0]);
        // SAFETY: see `run`.
        unsafe {
            let mut totals = [V::splat(self.start()); N];
            for row in 0..gone.count() / inner {
                let (mut rest, mut at) = (row, c);
                for (axis, &n) in gone.extents.iter().enumerate().skip(1) {
                    at += rest % n * gone.strides[0][axis];
                    rest /= n;
                }
                // Long rows in pieces, for the same reason.
                for piece in (0..inner).step_by(128) {
                    let mut sums = [V::splat(self.start()); N];
                    for r in piece..(piece + 128).min(inner) {
                        let from = self.src.add(at + r * stride);
                        for (v, sum) in sums.iter_mut().enumerate() {
                            *sum = self.reduce.combine(*sum, load(from.add(v * V::LANES), partial));
                        }
                    }
                    for (total, sum) in totals.iter_mut().zip(sums) {
                        *total = self.reduce.combine(*total, sum);
                    }
                }
            }
            let scale = V::splat(self.scale());
            for (v, total) in totals.into_iter().enumerate() {
                let total = if self.reduce.kind == ReduceKind::Mean { total.mul(scale) } else { total };
                store(total, self.dst.add(c + v * V::LANES), partial);
            }
        }
    }

    /// One output over contiguous elements.
    #[inline(always)]
    unsafe fn along<V: Vector>(&self) {
        let gone = &self.reduce.gone;
        let inner = gone.extents[0];
        // SAFETY: see `run`.
        unsafe {
            let start = V::splat(self.start());
            let mut total = start;
            for row in 0..gone.count() / inner {
                let (mut rest, mut at) = (row, 0);
                for (axis, &n) in gone.extents.iter().enumerate().skip(1) {
                    at += rest % n * gone.strides[0][axis];
                    rest /= n;
                }
                let from = self.src.add(at);
                let mut sum = start;
                for i in (0..inner).step_by(V::LANES) {
                    let left = inner - i;
                    let value = if left >= V::LANES {
                        V::load(from.add(i))
                    } else {
                        V::load_first(from.add(i), left).keep_first(left, start)
                    };
                    sum = self.reduce.combine(sum, value);
                }
                total = self.reduce.combine(total, sum);
            }
            let mut lanes = [0.0f32; 16];
            total.store(lanes.as_mut_ptr());
            let lanes = lanes[..V::LANES].iter().copied();
            let result = match self.reduce.kind {
                ReduceKind::Max => lanes.fold(self.start(), f32::max),
                ReduceKind::Min => lanes.fold(self.start(), f32::min),
                _ => lanes.sum::<f32>() * self.scale(),
            };
            *self.dst = result;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::infer::plan::view::{BufferId, View};

    #[test]
    fn any_axes_in_any_layout_agree_with_naive_loops() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("threads");
        for shape in [[1, 1, 1, 1], [2, 5, 3, 7], [1, 3, 11, 9], [1, 96, 20, 20], [2, 67, 3, 5], [1, 7, 1, 300]] {
            let x = values(1, shape.iter().product());
            for axes in [&[1][..], &[2, 3], &[0, 3], &[0, 1, 2, 3], &[]] {
                let mut kept = shape;
                axes.iter().for_each(|&axis| kept[axis] = 1);
                let dense = View::row_major(BufferId(0), &kept);
                for kind in [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max, ReduceKind::Min] {
                    let mut members = vec![Vec::new(); kept.iter().product()];
                    for (i, &x) in x.iter().enumerate() {
                        let mut rest = i;
                        let mut at = [0; 4];
                        for axis in (0..4).rev() {
                            at[axis] = (rest % shape[axis]).min(kept[axis] - 1);
                            rest /= shape[axis];
                        }
                        members[dense.index(&at)].push(f64::from(x));
                    }
                    let wanted: Vec<f64> = members
                        .into_iter()
                        .map(|v| match kind {
                            ReduceKind::Sum => v.iter().sum(),
                            ReduceKind::Mean => v.iter().sum::<f64>() / v.len() as f64,
                            ReduceKind::Max => v.iter().copied().fold(f64::MIN, f64::max),
                            _ => v.iter().copied().fold(f64::MAX, f64::min),
                        })
                        .collect();
                    for src in [map(0, shape, 1, 1), View::row_major(BufferId(0), &shape)] {
                        let step = step(vec![src], vec![map(1, kept, 0, 1)]);
                        for isa in Isa::available() {
                            let Some(fast) = prepare(&Reduce { kind }, &step, isa) else { continue };
                            let what = format!("{} {shape:?} {axes:?}", fast.label());
                            assert_close(&pool.install(|| outputs(&*fast, &step, &[&x])), &wanted, 1e-6, &what);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn global_pooling_is_fast() {
        let step = step(vec![map(0, [1, 9, 4, 4], 0, 0)], vec![map(1, [1, 9, 1, 1], 0, 0)]);
        assert!(prepare(&Reduce { kind: ReduceKind::Mean }, &step, Isa::Portable).is_some());
    }
}
