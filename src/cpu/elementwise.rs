//! Fast elementwise functions: rows of contiguous elements, with operands that run along or repeat one value.

use super::blocks::{Block, Blocks, Shared};
use super::simd::activate::{self, Activate as _};
use super::simd::tile::{Epilogue, Finish};
use super::simd::transpose::transpose;
use super::simd::{self, Vector, Work};
use super::{Isa, Memory};
use crate::infer::activation::Activation;
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::conv::Residual;
use crate::infer::kernels::elementwise::{Elementwise, Function};
use crate::infer::plan::step::Step;

/// Elements that pass through function and activation before the next ones; they stay in the first-level cache.
const PIECE: usize = 2048;

/// The fast form of an elementwise step; `None` for rare functions and where the fastest axis of dst has gaps.
pub fn prepare(kernel: &Elementwise, step: &Step, isa: Isa) -> Option<Box<dyn FastKernel>> {
    let binary = match kernel.function {
        Function::Identity | Function::Exp => false,
        Function::Add | Function::Sub | Function::Mul | Function::Div => true,
        _ => return None,
    };
    if !isa.is_available() {
        return None;
    }
    let blocks = blocks(step, binary)?;
    Some(Box::new(ElementwiseFast { isa, kernel: *kernel, binary, blocks }))
}

/// The views a, b (or a again), dst. `None` where a row is not contiguous in dst, nor in a and b or (with one input)
/// along the second axis.
fn blocks(step: &Step, binary: bool) -> Option<Blocks<3>> {
    let a = step.reads.first()?;
    let b = if binary { step.reads.get(1)? } else { a };
    let dst = step.writes.first()?;
    if a.shape != dst.shape || b.shape != dst.shape {
        return None;
    }
    let mut blocks = Blocks::new([a, b, dst]);
    match blocks.inner_strides() {
        [1, 1, 1] => Some(blocks),
        [0 | 1, 0 | 1, 1] if binary => Some(blocks),
        [_, _, 1] if !binary => {
            blocks.move_to_rows(blocks.unit_axis(0)?);
            Some(blocks)
        }
        _ => None,
    }
}

/// An elementwise function on rows.
#[derive(Debug)]
pub struct ElementwiseFast {
    isa: Isa,
    kernel: Elementwise,
    binary: bool,
    blocks: Blocks<3>,
}

impl FastKernel for ElementwiseFast {
    fn label(&self) -> String {
        format!("{}_{}_{}", self.kernel.function.label(), self.kernel.activation.label(), self.isa.name())
    }

    fn run(&self, step: &Step, memory: &Memory) {
        let seen = blocks(step, self.binary);
        assert_eq!(seen.as_ref(), Some(&self.blocks), "not the step that the kernel was prepared for");
        let [a, b] = [0, usize::from(self.binary)].map(|i| Shared(memory.pointer(&step.reads[i])));
        let dst = Shared(memory.pointer(&step.writes[0]));
        let (a, b, dst) = (&a, &b, &dst);
        self.blocks.share(|block| {
            let kernel = self.kernel;
            simd::run(self.isa, Rows { kernel, a: a.0, b: b.0, dst: dst.0, block });
        });
    }
}

struct Rows {
    kernel: Elementwise,
    a: *const f32,
    b: *const f32,
    dst: *mut f32,
    block: Block<3>,
}

impl Work for Rows {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        if self.block.inner_strides[0] > 1 {
            // SAFETY: `blocks` lets that pass for one input only, whose second axis is contiguous.
            unsafe { self.turned::<V>() };
            return;
        }
        for row in 0..self.block.rows {
            let [a, b, dst] = self.block.row(row);
            let mut done = 0;
            while done < self.block.inner {
                let count = (self.block.inner - done).min(PIECE);
                let [step_a, step_b, _] = self.block.inner_strides;
                // SAFETY: positions inside the views; inner strides are 0 or 1.
                unsafe {
                    let a = self.a.add(a + done * step_a);
                    let b = self.b.add(b + done * step_b);
                    let dst = self.dst.add(dst + done);
                    let finished_from = match self.kernel.function {
                        Function::Add => binary::<V, Add>(a, step_a, b, step_b, dst, count),
                        Function::Sub => binary::<V, Sub>(a, step_a, b, step_b, dst, count),
                        Function::Mul => binary::<V, Mul>(a, step_a, b, step_b, dst, count),
                        Function::Div => binary::<V, Div>(a, step_a, b, step_b, dst, count),
                        Function::Exp => exponential::<V>(a, dst, count),
                        _ => a,
                    };
                    if self.kernel.activation != Activation::None || finished_from == a {
                        finish::<V>(self.kernel.activation, finished_from, dst, count);
                    }
                }
                done += count;
            }
        }
    }
}

impl Rows {
    /// Rows of dst that are columns of src: transposed to dst, then finished there in place.
    ///
    /// # Safety
    /// The block lies inside the views; the second axis is contiguous in src.
    #[inline(always)]
    unsafe fn turned<V: Vector>(&self) {
        const LENGTH: usize = 256;
        let block = &self.block;
        let (step_src, step_dst) = (block.inner_strides[0], block.row_strides[2]);
        for top in (0..block.rows).step_by(V::LANES) {
            let rows = V::LANES.min(block.rows - top);
            let [from, _, to] = block.row(top);
            for start in (0..block.inner).step_by(LENGTH) {
                let end = (start + LENGTH).min(block.inner);
                for left in (start..end).step_by(V::LANES) {
                    let size = (V::LANES.min(end - left), rows);
                    // SAFETY: by contract.
                    unsafe {
                        let src = self.a.add(from + left * step_src);
                        transpose::<V>(src, step_src, self.dst.add(to + left), step_dst, size, |x| x);
                    }
                }
                for r in 0..rows {
                    // SAFETY: by contract; vectors are read before they are written.
                    unsafe {
                        let dst = self.dst.add(to + r * step_dst + start);
                        if self.kernel.function == Function::Exp {
                            exponential::<V>(dst, dst, end - start);
                        }
                        if self.kernel.activation != Activation::None {
                            finish::<V>(self.kernel.activation, dst, dst, end - start);
                        }
                    }
                }
            }
        }
    }
}

/// dst[i] = activation(src[i])
///
/// # Safety
/// `count` elements behind each pointer.
#[inline(always)]
unsafe fn finish<V: Vector>(activation: Activation, src: *const f32, dst: *mut f32, count: usize) {
    let epilogue = Epilogue { activation, residual: Residual::None };
    // SAFETY: by contract.
    unsafe {
        Finish { epilogue, tile: src, tile_stride: 0, channels: count, dst: &[dst], residual: &[], offset: 0 }
            .run::<V>();
    }
}

/// dst[i] = e^src[i]; gives dst.
///
/// # Safety
/// `count` elements behind each pointer.
#[inline(always)]
unsafe fn exponential<V: Vector>(src: *const f32, dst: *mut f32, count: usize) -> *const f32 {
    // SAFETY: by contract.
    unsafe {
        let whole = count - count % V::LANES;
        for i in (0..whole).step_by(V::LANES) {
            activate::Exp.apply(V::load(src.add(i))).store(dst.add(i));
        }
        if count > whole {
            let rest = count - whole;
            activate::Exp.apply(V::load_first(src.add(whole), rest)).store_first(dst.add(whole), rest);
        }
    }
    dst
}

/// A function of two vectors.
trait Binary {
    unsafe fn apply<V: Vector>(a: V, b: V) -> V;
}

macro_rules! binary_functions {
    ($($name:ident $method:ident),*) => {$(
        struct $name;
        impl Binary for $name {
            #[inline(always)]
            unsafe fn apply<V: Vector>(a: V, b: V) -> V {
                // SAFETY: called with the vectors of an instruction set that is there.
                unsafe { a.$method(b) }
            }
        }
    )*};
}
binary_functions!(Add add, Sub sub, Mul mul, Div div);

/// dst[i] = f(a[i·step_a], b[i·step_b]) with steps of 0 or 1; gives dst.
///
/// # Safety
/// `count` elements behind each pointer, or one where the step is 0.
#[inline(always)]
unsafe fn binary<V: Vector, F: Binary>(
    a: *const f32,
    step_a: usize,
    b: *const f32,
    step_b: usize,
    dst: *mut f32,
    count: usize,
) -> *const f32 {
    // SAFETY: by contract.
    unsafe {
        let whole = count - count % V::LANES;
        let rest = count - whole;
        match (step_a, step_b) {
            (1, 1) => {
                for i in (0..whole).step_by(V::LANES) {
                    F::apply(V::load(a.add(i)), V::load(b.add(i))).store(dst.add(i));
                }
                if rest > 0 {
                    let y = F::apply(V::load_first(a.add(whole), rest), V::load_first(b.add(whole), rest));
                    y.store_first(dst.add(whole), rest);
                }
            }
            (1, _) => {
                let y = V::splat(*b);
                for i in (0..whole).step_by(V::LANES) {
                    F::apply(V::load(a.add(i)), y).store(dst.add(i));
                }
                if rest > 0 {
                    F::apply(V::load_first(a.add(whole), rest), y).store_first(dst.add(whole), rest);
                }
            }
            (_, 1) => {
                let x = V::splat(*a);
                for i in (0..whole).step_by(V::LANES) {
                    F::apply(x, V::load(b.add(i))).store(dst.add(i));
                }
                if rest > 0 {
                    F::apply(x, V::load_first(b.add(whole), rest)).store_first(dst.add(whole), rest);
                }
            }
            _ => {
                let y = F::apply(V::splat(*a), V::splat(*b));
                for i in (0..whole).step_by(V::LANES) {
                    y.store(dst.add(i));
                }
                if rest > 0 {
                    y.store_first(dst.add(whole), rest);
                }
            }
        }
    }
    dst
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::infer::plan::view::{BufferId, View};

    fn check(function: Function, activation: Activation, a: View, b: Option<View>, dst: View) {
        let (x, y) = (values(1, a.len()), values(2, a.len()).iter().map(|v| v + 2.0).collect::<Vec<_>>());
        // Values of repeated elements: what the last writer leaves.
        let seen = |view: &View, values: &[f32]| -> Vec<f32> {
            let places = positions(view);
            let mut buffer = vec![0.0; view.end()];
            places.iter().zip(values).for_each(|(&at, &v)| buffer[at] = v);
            places.iter().map(|&at| buffer[at]).collect()
        };
        let (x, y) = (seen(&a, &x), b.as_ref().map_or(y.clone(), |b| seen(b, &y)));
        let wanted: Vec<f64> = x
            .iter()
            .zip(&y)
            .map(|(&x, &y)| {
                let (x, y) = (f64::from(x), f64::from(y));
                let z = match function {
                    Function::Add => x + y,
                    Function::Sub => x - y,
                    Function::Mul => x * y,
                    Function::Div => x / y,
                    Function::Exp => x.exp(),
                    _ => x,
                };
                activate_f64(activation, z)
            })
            .collect();
        let kernel = Elementwise { function, activation };
        let step = step(std::iter::once(a).chain(b).collect(), vec![dst]);
        for isa in Isa::available() {
            let fast = prepare(&kernel, &step, isa).expect("rows");
            let got = outputs(&*fast, &step, &[&x, &y]);
            assert_close(&got, &wanted, 1e-5, &format!("{} {step:?}", fast.label()));
        }
    }

    #[test]
    fn rows_of_dst_that_are_columns_of_src() {
        for shape in [[1, 13, 5, 7], [2, 16, 3, 3], [1, 80, 20, 20], [1, 33, 1, 9], [1, 5, 40, 30]] {
            for (function, activation) in [
                (Function::Identity, Activation::Sigmoid),
                (Function::Identity, Activation::None),
                (Function::Exp, Activation::None),
                (Function::Exp, Activation::Relu),
            ] {
                let planar = View::row_major(BufferId(1), &shape);
                check(function, activation, map(0, shape, 2, 1), None, planar);
                let planar = View::row_major(BufferId(0), &shape);
                check(function, activation, planar, None, map(1, shape, 0, 3));
            }
        }
    }

    #[test]
    fn flat_rows_channels_scalars_and_concat_parts() {
        for shape in [[1, 13, 5, 7], [2, 16, 3, 3], [1, 1, 1, 1], [1, 33, 1, 9], [1, 5, 40, 30]] {
            let channels = View::row_major(BufferId(1), &[shape[1], 1, 1]).broadcast_to(&shape).expect("per channel");
            let scalar = View::row_major(BufferId(1), &[]).broadcast_to(&shape).expect("scalar");
            let planes = map(1, [shape[0], 1, shape[2], shape[3]], 0, 0).broadcast_to(&shape).expect("per pixel");
            let same = map(1, shape, 2, 1);
            for b in [channels, scalar, planes, same] {
                for function in [Function::Add, Function::Sub, Function::Mul, Function::Div] {
                    check(function, Activation::Relu, map(0, shape, 0, 3), Some(b.clone()), map(2, shape, 1, 0));
                }
            }
            for activation in activations() {
                check(Function::Identity, activation, map(0, shape, 0, 0), None, map(1, shape, 0, 0));
                check(Function::Identity, activation, map(0, shape, 1, 0), None, map(1, shape, 0, 2));
            }
        }
    }

    #[test]
    fn a_repeated_first_operand() {
        let shape = [1, 9, 4, 4];
        let scalar = View::row_major(BufferId(0), &[]).broadcast_to(&shape).expect("scalar");
        check(Function::Sub, Activation::None, scalar, Some(map(1, shape, 0, 0)), map(2, shape, 0, 0));
    }
}
