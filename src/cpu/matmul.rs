//! Fast batched matrix product: b is packed at run time, then the register tile of the convolutions does the rest.

use std::sync::Mutex;

use super::blocks::Shared;
use super::simd::Aligned;
use super::simd::tile::{Kernels, PANEL_VECTORS, ROWS_MAX, TILE_MAX, TileArguments, TileBuffer};
use super::{Isa, Memory, threads};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::matmul::MatMul;
use crate::infer::kernels::walk::Walk;
use crate::infer::plan::step::Step;

/// Products smaller than this are left to the twin: packing would cost more than it gains.
const WORTH_PACKING: usize = 4096;

/// The fast form of a matrix product; `None` for tiny ones.
pub fn prepare(_kernel: &MatMul, step: &Step, isa: Isa) -> Option<Box<dyn FastKernel>> {
    let products = Products::new(step)?;
    if products.m * products.n * products.k < WORTH_PACKING {
        return None;
    }
    let kernels = Kernels::new(isa)?;
    let zeros = Aligned::zeros(PANEL_VECTORS * kernels.lanes);
    let mut fast = MatMulFast { isa, kernels, products, zeros, scratch: Mutex::default() };
    fast.scratch = Mutex::new(fast.new_scratch());
    Some(Box::new(fast))
}

/// Sizes of one product, and the axes along which products repeat. Strides of a along m and k, of b along k and n, of
/// dst along m and n; positions count from the first element of each view.
#[derive(Debug, PartialEq, Eq)]
struct Products {
    m: usize,
    n: usize,
    k: usize,
    a: [usize; 2],
    b: [usize; 2],
    dst: [usize; 2],
    /// Extents and strides of a, b, dst.
    batch: Vec<(usize, [usize; 3])>,
    /// a and b are exchanged: the transposed product is computed.
    transposed: bool,
}

impl Products {
    fn new(step: &Step) -> Option<Products> {
        let (a, b, dst) = (step.reads.first()?, step.reads.get(1)?, step.writes.first()?);
        let lead = dst.rank().checked_sub(2)?;
        if a.rank() != dst.rank() || b.rank() != dst.rank() {
            return None;
        }
        let [m, n, k] = [dst.shape[lead], dst.shape[lead + 1], a.shape[lead + 1]];
        let batches = &dst.shape[..lead];
        if a.shape[lead] != m || b.shape[lead..] != [k, n] || a.shape[..lead] != *batches || b.shape[..lead] != *batches
        {
            return None;
        }
        let walk = Walk::over(&[a, b, dst], &(0..lead).collect::<Vec<_>>());
        let strides = |axis: usize| std::array::from_fn(|view| walk.strides[view][axis]);
        let batch = walk.extents.iter().enumerate().map(|(axis, &n)| (n, strides(axis))).collect();
        let [a, b, dst] = [a, b, dst].map(|v| [v.strides[lead], v.strides[lead + 1]]);
        let products = Products { m, n, k, a, b, dst, batch, transposed: false };
        // Rows of sums are written along n; where dst runs along m, the transposed product has them that way.
        let turn = dst[1] != 1 && dst[0] == 1;
        Some(if turn { products.turned() } else { products })
    }

    /// dstᵀ = bᵀ·aᵀ
    fn turned(self) -> Products {
        let flip = |[x, y]: [usize; 2]| [y, x];
        let batch = self.batch.into_iter().map(|(n, [a, b, dst])| (n, [b, a, dst])).collect();
        let (a, b, dst) = (flip(self.b), flip(self.a), flip(self.dst));
        Products { m: self.n, n: self.m, k: self.k, a, b, dst, batch, transposed: true }
    }

    /// Positions of a, b, dst for a product.
    fn at(&self, product: usize) -> [usize; 3] {
        let (mut at, mut rest) = ([0; 3], product);
        for (n, strides) in &self.batch {
            for (at, stride) in at.iter_mut().zip(strides) {
                *at += rest % n * stride;
            }
            rest /= n;
        }
        at
    }
}

/// Packed operands of one product.
#[derive(Debug, Default)]
struct Scratch {
    /// `[row][k]`, only where a is not so already.
    a: Aligned,
    /// Panels of `[k][channel]`.
    b: Aligned,
}

/// A matrix product with memory for packing.
#[derive(Debug)]
pub struct MatMulFast {
    isa: Isa,
    kernels: Kernels,
    products: Products,
    zeros: Aligned,
    scratch: Mutex<Scratch>,
}

impl FastKernel for MatMulFast {
    fn label(&self) -> String {
        format!("matmul_{}x{}_{}", self.kernels.tallest(), self.kernels.lanes * PANEL_VECTORS, self.isa.name())
    }

    fn run(&self, step: &Step, memory: &Memory) {
        let p = &self.products;
        assert_eq!(Products::new(step).as_ref(), Some(p), "not the step that the kernel was prepared for");
        let (of_a, of_b) = if p.transposed { (1, 0) } else { (0, 1) };
        let a: *const f32 = memory.pointer(&step.reads[of_a]);
        let b: *const f32 = memory.pointer(&step.reads[of_b]);
        let dst = memory.pointer(&step.writes[0]);
        // Waiting for another run of this kernel could deadlock: a thread of the pool may take up that run while it
        // waits for its share of this one. A second run at the same time allocates.
        let mut held = self.scratch.try_lock();
        let mut fresh;
        let scratch = match &mut held {
            Ok(scratch) => &mut **scratch,
            Err(_) => {
                fresh = self.new_scratch();
                &mut fresh
            }
        };
        for product in 0..p.batch.iter().map(|&(n, _)| n).product() {
            let [at_a, at_b, at_dst] = p.at(product);
            let (a, b, dst) = (a.wrapping_add(at_a), b.wrapping_add(at_b), dst.wrapping_add(at_dst));
            // SAFETY: the views are those of `prepare`, and `at` is inside them.
            unsafe { self.product(a, b, dst, scratch) };
        }
    }
}

impl MatMulFast {
    fn new_scratch(&self) -> Scratch {
        let p = &self.products;
        let packed_a = if p.a[1] == 1 { 0 } else { p.k * p.m };
        Scratch { a: Aligned::zeros(packed_a), b: Aligned::zeros(p.k * p.n.next_multiple_of(self.kernels.lanes)) }
    }

    /// Panels of n: first column, columns, vectors.
    fn panel(&self, index: usize) -> (usize, usize, usize) {
        let first = index * PANEL_VECTORS * self.kernels.lanes;
        let columns = (self.products.n - first).min(PANEL_VECTORS * self.kernels.lanes);
        (first, columns, columns.div_ceil(self.kernels.lanes))
    }

    /// # Safety
    /// The pointers must be to operands as `prepare` saw them.
    unsafe fn product(&self, a: *const f32, b: *const f32, dst: *mut f32, scratch: &mut Scratch) {
        let p = &self.products;
        let threads = threads::useful_threads((p.m * p.n * p.k) as u64);
        let panels = p.n.div_ceil(PANEL_VECTORS * self.kernels.lanes);
        let (a, b, dst) = (Shared(a.cast_mut()), Shared(b.cast_mut()), Shared(dst));
        let (a, b, dst) = (&a, &b, &dst);
        let packed_b = Shared(scratch.b.as_mut_ptr());
        let packed_b = &packed_b;
        threads::share(threads, panels, |index| {
            let (first, columns, vectors) = self.panel(index);
            let width = vectors * self.kernels.lanes;
            // SAFETY: the panel lies inside b, and its place inside the scratch memory is its own.
            unsafe {
                let to = packed_b.0.add(first * p.k);
                for k in 0..p.k {
                    for n in 0..columns {
                        *to.add(k * width + n) = *b.0.add(k * p.b[0] + (first + n) * p.b[1]);
                    }
                }
            }
        });
        let direct = p.a[1] == 1;
        if !direct {
            for k in 0..p.k {
                for m in 0..p.m {
                    // SAFETY: inside a.
                    scratch.a[m * p.k + k] = unsafe { *a.0.add(m * p.a[0] + k * p.a[1]) };
                }
            }
        }
        let packed_a = &scratch.a;
        let row = |m: usize| {
            let m = m.min(p.m - 1);
            if direct { a.0.cast_const().wrapping_add(m * p.a[0]) } else { packed_a[m * p.k..].as_ptr() }
        };
        let tall = self.kernels.tallest();
        let tiles = p.m.div_ceil(tall);
        let chunks = if threads == 1 { 1 } else { tiles.min(4 * threads) };
        // Few rows: divide the columns too.
        let groups = if threads == 1 { 1 } else { (2 * threads).div_ceil(chunks).min(panels) };
        threads::share(threads, chunks * groups, |task| {
            let mut buffer = TileBuffer([0.0; TILE_MAX]);
            for tile in threads::part(tiles, chunks, task % chunks) {
                let top = tile * tall;
                let count = tall.min(p.m - top);
                let (height, kernels) = self.kernels.for_rows(count);
                let mut rows = [std::ptr::null::<f32>(); ROWS_MAX];
                for (r, pointer) in rows[..height].iter_mut().enumerate() {
                    *pointer = row(top + r);
                }
                for panel in threads::part(panels, groups, task / chunks) {
                    let (first, columns, vectors) = self.panel(panel);
                    let width = vectors * self.kernels.lanes;
                    let to = |r: usize| dst.0.wrapping_add((top + r) * p.dst[0] + first * p.dst[1]);
                    let direct = p.dst[1] == 1 && columns == width;
                    let mut out = [std::ptr::null_mut(); ROWS_MAX];
                    for (r, pointer) in out[..height].iter_mut().enumerate() {
                        *pointer = if direct && r < count { to(r) } else { buffer.0[r * width..].as_mut_ptr() };
                    }
                    let arguments = TileArguments {
                        rows: rows.as_ptr(),
                        runs: 1,
                        run_len: p.k,
                        weights: packed_b.0.wrapping_add(first * p.k),
                        bias: self.zeros.as_ptr(),
                        out: out.as_ptr(),
                        out_offset: 0,
                        lo: f32::NEG_INFINITY,
                        hi: f32::INFINITY,
                    };
                    // SAFETY: `Kernels::new` found the instruction set; rows have k values, the panel is packed, and
                    // whole rows of it fit where `out` points.
                    unsafe { kernels[vectors - 1](&arguments) };
                    if direct {
                        continue;
                    }
                    for (r, sums) in buffer.0.chunks(width).enumerate().take(count) {
                        for (n, &sum) in sums[..columns].iter().enumerate() {
                            // SAFETY: inside dst, and this task's own.
                            unsafe { *to(r).wrapping_add(n * p.dst[1]) = sum };
                        }
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::infer::plan::view::{BufferId, View};

    fn check(a: View, b: View, dst: View) {
        let rank = dst.rank();
        let [m, n, k] = [dst.shape[rank - 2], dst.shape[rank - 1], a.shape[rank - 1]];
        let batch: usize = dst.shape[..rank - 2].iter().product();
        let (x, y) = (values(1, a.len()), values(2, b.len()));
        let mut wanted = Vec::new();
        for (p, i, j) in (0..batch * m * n).map(|f| (f / (m * n), f / n % m, f % n)) {
            let product = |l: usize| f64::from(x[(p * m + i) * k + l]) * f64::from(y[(p * k + l) * n + j]);
            wanted.push((0..k).map(product).sum());
        }
        let step = step(vec![a, b], vec![dst]);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("threads");
        for isa in Isa::available() {
            let Some(fast) = prepare(&MatMul, &step, isa) else {
                assert!(m * n * k < WORTH_PACKING);
                continue;
            };
            let what = format!("{} {step:?}", fast.label());
            assert_close(&outputs(&*fast, &step, &[&x, &y]), &wanted, 1e-5, &what);
            assert_close(&pool.install(|| outputs(&*fast, &step, &[&x, &y])), &wanted, 1e-5, &what);
        }
    }

    #[test]
    fn plain_transposed_and_strided_operands() {
        for (batch, m, n, k) in [(1, 20, 33, 17), (3, 49, 49, 32), (2, 1, 300, 64), (2, 70, 1, 64), (1, 5, 5, 5)] {
            let plain = |buffer, h, w| View::row_major(BufferId(buffer), &[batch, h, w]);
            let turned = |buffer, h, w| plain(buffer, w, h).transposed(&[0, 2, 1]);
            let gaps = |buffer: usize, h: usize, w: usize| View {
                buffer: BufferId(buffer),
                offset: 3,
                shape: vec![batch, h, w],
                strides: vec![h * w * 5, w * 5, 2],
            };
            for a in [plain(0, m, k), turned(0, m, k), gaps(0, m, k)] {
                for b in [plain(1, k, n), turned(1, k, n), gaps(1, k, n)] {
                    for dst in [plain(2, m, n), turned(2, m, n), gaps(2, m, n)] {
                        check(a.clone(), b.clone(), dst);
                    }
                }
            }
        }
    }
}
