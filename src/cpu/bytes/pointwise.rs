//! Bytes one by one: copies, tables, conversions, arithmetic. Plain loops over rows, which the compiler turns into vectors
//! of whatever set they are entered with.

use super::super::blocks::{Block, Blocks};
use super::super::simd::{self, Vector, Work};
use super::super::{Isa, Memory};
use crate::infer::bytes::{ByteScale, Rescale, Table, clamped};
use crate::infer::kernel::{ByteKernel, FastKernel};
use crate::infer::kernels::bytes::arithmetic::{ByteArithmetic, ByteFunction};
use crate::infer::kernels::bytes::constant::ByteConstant;
use crate::infer::kernels::bytes::convert::{Dequantise, Quantise};
use crate::infer::kernels::bytes::copy::ByteCopy;
use crate::infer::plan::step::Step;
use crate::infer::plan::view::View;

/// What is done to each element.
#[derive(Clone, Copy, Debug)]
enum Job<'a> {
    Copy,
    LookUp(&'a Table),
    /// A table that is arithmetic, for which there are vectors.
    Rescale(Rescale, ByteScale),
    Quantise(ByteScale),
    Dequantise(ByteScale),
    /// Numbers within bounds.
    Clamp(ByteScale, [f32; 2]),
    Numbers(&'a [f32; 256]),
    Arithmetic(&'a ByteArithmetic),
    Constant(&'a ByteConstant),
}

/// Elements that become vectors before they are stored apart.
const FEW: usize = 16;

/// The kernel, which the job is taken from.
#[derive(Clone, Debug)]
enum Kind {
    Copy(ByteCopy),
    Quantise(Quantise),
    Dequantise(Dequantise),
    Arithmetic(ByteArithmetic),
    Constant(ByteConstant),
}

#[derive(Debug)]
struct PointwiseFast {
    kind: Kind,
    /// What a table is, if that is arithmetic.
    rescale: Option<Rescale>,
    /// What a function of a number is, if that is a clamp.
    clamp: Option<[f32; 2]>,
    isa: Isa,
    blocks: Blocks<3>,
}

/// The first read, the last read, the write.
fn views(step: &Step) -> [&View; 3] {
    let last = step.reads.len() - 1;
    [&step.reads[0], &step.reads[last], &step.writes[0]]
}

fn prepare(kind: Kind, step: &Step, isa: Isa) -> Box<dyn FastKernel> {
    let rescale = match &kind {
        Kind::Copy(ByteCopy { table: Some(table) }) => table.rescale(),
        _ => None,
    };
    let clamp = if let Kind::Dequantise(kernel) = &kind { kernel.clamp() } else { None };
    Box::new(PointwiseFast { kind, rescale, clamp, isa, blocks: Blocks::new(views(step)) })
}

/// A copy, or a table.
pub fn prepare_copy(kernel: &ByteCopy, step: &Step, isa: Isa) -> Box<dyn FastKernel> {
    prepare(Kind::Copy(kernel.clone()), step, isa)
}

/// f32 to bytes.
pub fn prepare_quantise(kernel: &Quantise, step: &Step, isa: Isa) -> Box<dyn FastKernel> {
    prepare(Kind::Quantise(*kernel), step, isa)
}

/// Bytes to f32.
pub fn prepare_dequantise(kernel: &Dequantise, step: &Step, isa: Isa) -> Box<dyn FastKernel> {
    prepare(Kind::Dequantise(kernel.clone()), step, isa)
}

/// Two bytes to one.
pub fn prepare_arithmetic(kernel: &ByteArithmetic, step: &Step, isa: Isa) -> Box<dyn FastKernel> {
    prepare(Kind::Arithmetic(*kernel), step, isa)
}

/// A byte and a constant to one byte.
pub fn prepare_constant(kernel: &ByteConstant, step: &Step, isa: Isa) -> Box<dyn FastKernel> {
    prepare(Kind::Constant(*kernel), step, isa)
}

/// Pointers to the first elements of the three views; of f32 where the job says so.
#[derive(Clone, Copy)]
struct Places([*mut u8; 3]);

// SAFETY: the threads read what the step only reads, and write different elements.
unsafe impl Sync for Places {}

impl FastKernel for PointwiseFast {
    fn label(&self) -> String {
        let label = match &self.kind {
            Kind::Copy(kernel) => kernel.label(),
            Kind::Quantise(kernel) => kernel.label(),
            Kind::Dequantise(kernel) => kernel.label(),
            Kind::Arithmetic(kernel) => kernel.label(),
            Kind::Constant(kernel) => kernel.label(),
        };
        format!("{label}_{}", self.isa.name())
    }

    fn run(&self, step: &Step, memory: &Memory) {
        let [a, b, dst] = views(step);
        assert_eq!(Blocks::new([a, b, dst]), self.blocks, "not the step that the kernel was prepared for");
        let job = match &self.kind {
            Kind::Copy(ByteCopy { table: None }) => Job::Copy,
            Kind::Copy(ByteCopy { table: Some(table) }) => match self.rescale {
                Some(rescale) => Job::Rescale(rescale, table.from),
                None => Job::LookUp(table),
            },
            Kind::Quantise(kernel) => Job::Quantise(kernel.to),
            Kind::Dequantise(kernel) => match (&kernel.function, self.clamp) {
                (None, _) => Job::Dequantise(kernel.from),
                (_, Some(bounds)) => Job::Clamp(kernel.from, bounds),
                (Some(numbers), None) => Job::Numbers(numbers),
            },
            Kind::Arithmetic(kernel) => Job::Arithmetic(kernel),
            Kind::Constant(kernel) => Job::Constant(kernel),
        };
        let place = |view, is_f32: bool| if is_f32 { memory.pointer(view).cast() } else { memory.byte_pointer(view) };
        let from = matches!(job, Job::Quantise(_));
        let to = matches!(job, Job::Dequantise(_) | Job::Clamp(..) | Job::Numbers(_));
        let second = from || matches!(job, Job::Constant(_));
        let places = Places([place(a, from), place(b, second), place(dst, to)]);
        let places = &places;
        self.blocks.share(|block| simd::run(self.isa, Rows { job, places: *places, block }));
    }
}

struct Rows<'a> {
    job: Job<'a>,
    places: Places,
    block: Block<3>,
}

impl Work for Rows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: positions inside the views; see `each`.
        unsafe {
            match self.job {
                Job::Copy => self.each(|a: u8, _: u8| a),
                Job::Rescale(rescale, from) if from.signed => self.rescaled::<true>(rescale, from),
                Job::Rescale(rescale, from) => self.rescaled::<false>(rescale, from),
                Job::LookUp(table) => {
                    // A copy, which no byte that is written can change.
                    let bytes = *table.bytes;
                    self.each(|a: u8, _: u8| bytes[usize::from(a)]);
                }
                Job::Quantise(scale) => self.each(|x: f32, _: f32| scale.byte(x)),
                Job::Dequantise(ByteScale { signed: true, scale, zero }) => {
                    self.each(|a: u8, _: u8| (i32::from(a as i8) - zero) as f32 * scale);
                }
                Job::Dequantise(ByteScale { scale, zero, .. }) => {
                    self.each(|a: u8, _: u8| (i32::from(a) - zero) as f32 * scale);
                }
                Job::Clamp(from, bounds) if from.signed => self.clamped::<true>(from, bounds),
                Job::Clamp(from, bounds) => self.clamped::<false>(from, bounds),
                Job::Numbers(numbers) => {
                    let numbers = *numbers;
                    self.each(|a: u8, _: u8| numbers[usize::from(a)]);
                }
                // One loop per function and kind of byte: nothing is left to decide inside.
                Job::Arithmetic(kernel) => match (kernel.function, kernel.operands.map(|scale| scale.signed)) {
                    (ByteFunction::Add, [false, false]) => self.arithmetic::<false>(*kernel, ByteFunction::Add),
                    (ByteFunction::Add, [true, true]) => self.arithmetic::<true>(*kernel, ByteFunction::Add),
                    (ByteFunction::Mul, [false, false]) => self.arithmetic::<false>(*kernel, ByteFunction::Mul),
                    (ByteFunction::Mul, [true, true]) => self.arithmetic::<true>(*kernel, ByteFunction::Mul),
                    _ => self.each(|a: u8, b: u8| kernel.apply(a, b)),
                },
                Job::Constant(kernel) => match (kernel.function, kernel.from.signed) {
                    (ByteFunction::Add, false) => self.constant::<false>(*kernel, ByteFunction::Add),
                    (ByteFunction::Add, true) => self.constant::<true>(*kernel, ByteFunction::Add),
                    (ByteFunction::Mul, false) => self.constant::<false>(*kernel, ByteFunction::Mul),
                    (ByteFunction::Mul, true) => self.constant::<true>(*kernel, ByteFunction::Mul),
                    (ByteFunction::Sub, _) => self.each(|a: u8, c: f32| kernel.apply(a, c)),
                },
            }
        }
    }
}

impl Rows<'_> {
    #[inline(always)]
    unsafe fn rescaled<const SIGNED: bool>(&self, rescale: Rescale, from: ByteScale) {
        let from = ByteScale { signed: SIGNED, ..from };
        // SAFETY: by contract.
        unsafe { self.each(move |a: u8, _: u8| rescale.apply(from.steps(a)) as u8) };
    }

    #[inline(always)]
    unsafe fn clamped<const SIGNED: bool>(&self, from: ByteScale, bounds: [f32; 2]) {
        let from = ByteScale { signed: SIGNED, ..from };
        // SAFETY: by contract.
        unsafe { self.each(move |a: u8, _: u8| clamped(from.number(a), bounds)) };
    }

    #[inline(always)]
    unsafe fn arithmetic<const SIGNED: bool>(&self, kernel: ByteArithmetic, function: ByteFunction) {
        let operands = kernel.operands.map(|scale| ByteScale { signed: SIGNED, ..scale });
        let kernel = ByteArithmetic { function, operands, ..kernel };
        // SAFETY: by contract.
        unsafe { self.each(move |a: u8, b: u8| kernel.apply(a, b)) };
    }

    #[inline(always)]
    unsafe fn constant<const SIGNED: bool>(&self, kernel: ByteConstant, function: ByteFunction) {
        let from = ByteScale { signed: SIGNED, ..kernel.from };
        let kernel = ByteConstant { function, from, ..kernel };
        // SAFETY: by contract.
        unsafe { self.each(move |a: u8, c: f32| kernel.apply(a, c)) };
    }

    /// # Safety
    /// The views hold elements of these types.
    #[inline(always)]
    unsafe fn each<A: Copy, C: Copy, B: Copy + Default>(&self, one: impl Fn(A, C) -> B) {
        let [a, b, dst] = self.places.0;
        let inner = self.block.inner;
        for row in 0..self.block.rows {
            let at = self.block.row(row);
            // SAFETY: by contract.
            unsafe {
                let (a, b) = (a.cast::<A>().add(at[0]), b.cast::<C>().add(at[1]));
                let dst = dst.cast::<B>().add(at[2]);
                match self.block.inner_strides {
                    [1, 1, 1] => {
                        for i in 0..inner {
                            *dst.add(i) = one(*a.add(i), *b.add(i));
                        }
                    }
                    [of_a, of_b, to] => {
                        let mut first = 0;
                        // Planes to channels side by side: vectors of a few, stored one by one.
                        while (of_a, of_b) == (1, 1) && first + FEW <= inner {
                            let mut few = [B::default(); FEW];
                            for (i, few) in few.iter_mut().enumerate() {
                                *few = one(*a.add(first + i), *b.add(first + i));
                            }
                            for (i, few) in few.iter().enumerate() {
                                *dst.add((first + i) * to) = *few;
                            }
                            first += FEW;
                        }
                        for i in first..inner {
                            *dst.add(i * to) = one(*a.add(i * of_a), *b.add(i * of_b));
                        }
                    }
                }
            }
        }
    }
}
