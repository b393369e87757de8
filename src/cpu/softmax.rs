//! Fast softmax: along contiguous elements, or across rows of contiguous elements.

use super::blocks::Shared;
use super::simd::activate::exp;
use super::simd::{self, Vector, Work, load, store};
use super::{Isa, Memory, threads};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::softmax::Softmax;
use crate::infer::kernels::walk::Walk;
use crate::infer::plan::step::Step;

/// The fast form of a softmax; `None` for logarithms, and where neither the axis nor the rows are contiguous.
pub fn prepare(kernel: &Softmax, step: &Step, isa: Isa) -> Option<Box<dyn FastKernel>> {
    let (rows, along) = rows(kernel, step)?;
    isa.is_available().then(|| Box::new(SoftmaxFast { isa, kernel: *kernel, rows, along }) as Box<dyn FastKernel>)
}

/// The axes across which rows lie, and whether rows themselves are contiguous.
fn rows(kernel: &Softmax, step: &Step) -> Option<(Walk, bool)> {
    let (src, dst) = (step.reads.first()?, step.writes.first()?);
    if kernel.log || src.shape != dst.shape || src.is_empty() {
        return None;
    }
    let rest: Vec<usize> = (0..src.rank()).filter(|&axis| axis != kernel.axis).collect();
    let walk = Walk::over(&[src, dst], &rest);
    if (src.strides[kernel.axis], dst.strides[kernel.axis]) == (1, 1) || src.shape[kernel.axis] == 1 {
        return Some((walk, true));
    }
    (walk.strides[0][0] == 1 && walk.strides[1][0] == 1).then_some((walk, false))
}

/// A softmax with its axes merged.
#[derive(Debug)]
pub struct SoftmaxFast {
    isa: Isa,
    kernel: Softmax,
    rows: Walk,
    /// The elements of a row are contiguous; otherwise the same elements of neighbouring rows are.
    along: bool,
}

impl FastKernel for SoftmaxFast {
    fn label(&self) -> String {
        format!("softmax_{}_{}", if self.along { "along" } else { "across" }, self.isa.name())
    }

    fn run(&self, step: &Step, memory: &Memory) {
        let seen = rows(&self.kernel, step);
        assert!(seen.is_some_and(|(walk, _)| walk == self.rows), "not the step that the kernel was prepared for");
        let src = Shared(memory.pointer(&step.reads[0]));
        let dst = Shared(memory.pointer(&step.writes[0]));
        let (src, dst) = (&src, &dst);
        let axis = self.kernel.axis;
        let extent = step.reads[0].shape[axis];
        let strides = [step.reads[0].strides[axis], step.writes[0].strides[axis]];
        let count = self.rows.count();
        // An exponential is worth a dozen multiply-adds.
        let threads = threads::useful_threads((count * extent * 12) as u64);
        let parts = if threads == 1 { 1 } else { (4 * threads).min(count) };
        threads::share(threads, parts, |part| {
            let rows = threads::part(count, parts, part);
            simd::run(self.isa, Part { softmax: self, src: src.0, dst: dst.0, extent, strides, rows });
        });
    }
}

/// Some rows.
struct Part<'a> {
    softmax: &'a SoftmaxFast,
    src: *const f32,
    dst: *mut f32,
    extent: usize,
    /// Of src and dst along the axis.
    strides: [usize; 2],
    rows: std::ops::Range<usize>,
}

impl Work for Part<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let walk = &self.softmax.rows;
        let mut row = self.rows.start;
        while row < self.rows.end {
            // Positions of the row, and how many follow along the fastest axis.
            let (mut rest, mut at) = (row, [0, 0]);
            for (axis, &n) in walk.extents.iter().enumerate() {
                for (view, at) in at.iter_mut().enumerate() {
                    *at += rest % n * walk.strides[view][axis];
                }
                rest /= n;
            }
            let count = (walk.extents[0] - row % walk.extents[0]).min(self.rows.end - row);
            let (src, dst) = (self.src.wrapping_add(at[0]), self.dst.wrapping_add(at[1]));
            // SAFETY: rows of the views.
            unsafe {
                if self.softmax.along {
                    for i in 0..count {
                        let (src, dst) = (src.add(i * walk.strides[0][0]), dst.add(i * walk.strides[1][0]));
                        along::<V>(src, dst, self.extent);
                    }
                } else {
                    for i in (0..count).step_by(V::LANES) {
                        let partial = (count - i < V::LANES).then_some(count - i);
                        across::<V>(src.add(i), dst.add(i), self.extent, self.strides, partial);
                    }
                }
            }
            row += count;
        }
    }
}

/// One row of contiguous elements.
///
/// # Safety
/// `extent` elements behind each pointer.
#[inline(always)]
unsafe fn along<V: Vector>(src: *const f32, dst: *mut f32, extent: usize) {
    // SAFETY: by contract.
    unsafe {
        let whole = extent - extent % V::LANES;
        let rest = extent - whole;
        let low = V::splat(f32::MIN);
        let mut largest = low;
        for i in (0..whole).step_by(V::LANES) {
            largest = largest.max(V::load(src.add(i)));
        }
        if rest > 0 {
            largest = largest.max(V::load_first(src.add(whole), rest).keep_first(rest, low));
        }
        let largest = V::splat(largest.max_lanes());
        let mut sum = V::splat(0.0);
        let mut last = V::splat(0.0);
        for i in (0..whole).step_by(V::LANES) {
            last = exp(V::load(src.add(i)).sub(largest));
            sum = sum.add(last);
            if extent > V::LANES {
                last.store(dst.add(i));
            }
        }
        if rest > 0 {
            let zero = V::splat(0.0);
            last = exp(V::load_first(src.add(whole), rest).sub(largest)).keep_first(rest, zero);
            sum = sum.add(last);
        }
        let scale = V::splat(1.0 / sum.sum_lanes());
        // What is still in a register was not stored yet.
        let stored =
            if rest > 0 || extent == V::LANES { extent.saturating_sub(1) / V::LANES * V::LANES } else { whole };
        for i in (0..stored).step_by(V::LANES) {
            V::load(dst.add(i)).mul(scale).store(dst.add(i));
        }
        if stored < extent {
            store(last.mul(scale), dst.add(stored), (extent - stored < V::LANES).then_some(extent - stored));
        }
    }
}

/// As many rows as a vector has lanes, side by side.
///
/// # Safety
/// `extent` vectors at the strides behind each pointer, or the first `partial` lanes of them.
#[inline(always)]
unsafe fn across<V: Vector>(
    src: *const f32,
    dst: *mut f32,
    extent: usize,
    [from, to]: [usize; 2],
    partial: Option<usize>,
) {
    // SAFETY: by contract.
    unsafe {
        let mut largest = V::splat(f32::MIN);
        for i in 0..extent {
            largest = largest.max(load(src.add(i * from), partial));
        }
        let mut sum = V::splat(0.0);
        for i in 0..extent {
            let e = exp(load::<V>(src.add(i * from), partial).sub(largest));
            sum = sum.add(e);
            store(e, dst.add(i * to), partial);
        }
        let scale = V::splat(1.0).div(sum);
        for i in 0..extent {
            store(load::<V>(dst.add(i * to), partial).mul(scale), dst.add(i * to), partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::infer::plan::view::{BufferId, View};

    #[test]
    fn along_and_across_agree_with_naive_loops() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("threads");
        for shape in [[1, 1, 1, 1], [2, 5, 3, 7], [1, 16, 4, 33], [1, 80, 9, 5], [1, 37, 40, 30], [1, 32, 1, 2]] {
            // Large enough that exp would overflow without the maximum.
            let x: Vec<f32> = values(1, shape.iter().product()).iter().map(|x| x * 100.0).collect();
            for axis in 0..4 {
                let dense = View::row_major(BufferId(0), &shape);
                let places = positions(&dense);
                let wanted: Vec<f64> = places
                    .iter()
                    .map(|&at| {
                        let stride = dense.strides[axis];
                        let first = at - at / stride % shape[axis] * stride;
                        let row = || (0..shape[axis]).map(|i| f64::from(x[first + i * stride]));
                        let largest = row().fold(f64::MIN, f64::max);
                        (f64::from(x[at]) - largest).exp() / row().map(|v| (v - largest).exp()).sum::<f64>()
                    })
                    .collect();
                for (src, dst) in [
                    (map(0, shape, 1, 2), map(1, shape, 0, 3)),
                    (View::row_major(BufferId(0), &shape), View::row_major(BufferId(1), &shape)),
                ] {
                    let step = step(vec![src], vec![dst]);
                    for isa in Isa::available() {
                        let Some(fast) = prepare(&Softmax { axis, log: false }, &step, isa) else { continue };
                        let what = format!("{} {shape:?} axis {axis}", fast.label());
                        assert_close(&pool.install(|| outputs(&*fast, &step, &[&x])), &wanted, 1e-6, &what);
                    }
                }
            }
        }
    }

    #[test]
    fn the_layouts_of_detectors_are_fast() {
        let map = |buffer| map(buffer, [1, 80, 22, 22], 0, 0);
        for axis in [1, 3] {
            let step = step(vec![map(0)], vec![map(1)]);
            assert!(prepare(&Softmax { axis, log: false }, &step, Isa::Portable).is_some(), "axis {axis}");
        }
    }
}
