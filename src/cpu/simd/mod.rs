//! Vectors of f32 of every width, and code that is written once for all of them.
//!
//! [`Vector`] is implemented per instruction set. Generic code over it is `#[inline(always)]` and is entered through
//! [`run`], whose per-set entry functions carry `#[target_feature]`; everything inlines into them, so that the
//! intrinsics become single instructions. The micro-kernel of the matrix products is in [`tile`], the activation
//! functions in [`activate`].

// In this folder one contract covers every unsafe call: a function of a `Vector` is only entered after its instruction
// set was found on this processor, and pointers are valid for the lanes that the name says.
#![allow(unsafe_op_in_unsafe_fn)]

pub mod activate;
#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
pub mod dots;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod portable;
pub mod tile;
pub mod transpose;

use super::Isa;

/// A register of f32 lanes.
///
/// # Safety
/// Every method needs the implementation's instruction set; loads and stores need `LANES` (or `count`) valid elements,
/// at any alignment.
pub trait Vector: Copy {
    const LANES: usize;
    /// How many of them the processor has.
    const REGISTERS: usize;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// The first `count` lanes, `0 < count <= LANES`; the others are 0.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    /// The first `count` lanes, `0 < count <= LANES`; memory behind them is not touched.
    unsafe fn store_first(self, to: *mut f32, count: usize);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    /// self·factor + addend, in one rounding where the instruction set has it.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// self ≥ 0 ? yes : no
    unsafe fn select_non_negative(self, yes: Self, no: Self) -> Self;
    /// |self|
    unsafe fn abs(self) -> Self;
    /// self·2^n, where `shifted` is n + [`SHIFT`]; self and the result are normal numbers.
    unsafe fn scale_by_power_of_two(self, shifted: Self) -> Self;
    /// 1/self within 2 ulp, for arguments in [1, 2¹²⁶].
    unsafe fn reciprocal(self) -> Self;
    /// The lanes in turns, as two vectors: a₀ b₀ a₁ b₁ … . Done to the vectors of a square (i with i + half, the pairs
    /// side by side) as often as log₂ of their number, it transposes it.
    unsafe fn interleave(self, other: Self) -> (Self, Self);
    /// The lanes of even number of both: a₀ a₂ … b₀ b₂ … .
    unsafe fn evens(self, other: Self) -> Self;
    /// The first `count` lanes, the others from `other`.
    unsafe fn keep_first(self, count: usize, other: Self) -> Self;
    /// `LANES` integers as numbers.
    unsafe fn load_i32(from: *const i32) -> Self;
    /// The low byte of each lane's nearest integer, halves to even; lanes are within ±2²².
    unsafe fn store_bytes(self, to: *mut u8);
    /// The same of two vectors, one behind the other; lanes are within ±2¹⁵.
    unsafe fn store_bytes_with(self, next: Self, to: *mut u8);
    /// The low byte of each lane's nearest integer, halves to even, within bounds, plus `zero`. An i32 holds all lanes;
    /// what is not a number is the least.
    #[inline(always)]
    unsafe fn store_steps(self, bounds: [i16; 2], zero: i16, to: *mut u8) {
        placed(self, bounds, zero).store_bytes(to);
    }
    /// The same of two vectors, one behind the other.
    #[inline(always)]
    unsafe fn store_steps_with(self, next: Self, bounds: [i16; 2], zero: i16, to: *mut u8) {
        placed(self, bounds, zero).store_bytes_with(placed(next, bounds, zero), to);
    }
    /// Eight bytes, u8 or i8, as i16.
    unsafe fn widen<const SIGNED: bool>(from: *const u8, to: *mut i16);
    /// Sixteen of them.
    #[inline(always)]
    unsafe fn widen_16<const SIGNED: bool>(from: *const u8, to: *mut i16) {
        Self::widen::<SIGNED>(from, to);
        Self::widen::<SIGNED>(from.add(8), to.add(8));
    }
    unsafe fn sum_lanes(self) -> f32;
    unsafe fn max_lanes(self) -> f32;
}

/// 1.5·2²³: added to a number within ±2²², it leaves the nearest integer in the low bits of the mantissa.
pub const SHIFT: f32 = 12_582_912.0;

/// The nearest integers within bounds, plus `zero`: ties are decided before.
#[inline(always)]
unsafe fn placed<V: Vector>(steps: V, [least, most]: [i16; 2], zero: i16) -> V {
    let steps = steps.max(V::splat(f32::from(least))).min(V::splat(f32::from(most)));
    steps.add(V::splat(SHIFT)).sub(V::splat(SHIFT - f32::from(zero)))
}

/// A whole vector, or its first `partial` lanes.
///
/// # Safety
/// See [`Vector`].
#[inline(always)]
pub unsafe fn load<V: Vector>(from: *const f32, partial: Option<usize>) -> V {
    match partial {
        Some(count) => V::load_first(from, count),
        None => V::load(from),
    }
}

/// Stores a whole vector, or its first `partial` lanes.
///
/// # Safety
/// See [`Vector`].
#[inline(always)]
pub unsafe fn store<V: Vector>(vector: V, to: *mut f32, partial: Option<usize>) {
    match partial {
        Some(count) => vector.store_first(to, count),
        None => vector.store(to),
    }
}

/// Code to be run with the vectors of an instruction set.
pub trait Work {
    type Output;
    /// The work. Implementations are `#[inline(always)]`.
    ///
    /// # Safety
    /// Called by [`run`] only, which has looked for the instruction set.
    unsafe fn run<V: Vector>(self) -> Self::Output;
}

/// Runs `work` compiled for `isa`.
///
/// # Panics
/// When this processor lacks the instruction set; kernels are not prepared then.
pub fn run<W: Work>(isa: Isa, work: W) -> W::Output {
    assert!(isa.is_available(), "no {} here", isa.name());
    // SAFETY: the instruction set is there.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::enter(work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::enter(work),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::enter(work),
            _ => portable::enter(work),
        }
    }
}

/// Lanes of a vector of `isa`.
pub fn lanes(isa: Isa) -> usize {
    struct Lanes;
    impl Work for Lanes {
        type Output = usize;
        unsafe fn run<V: Vector>(self) -> usize {
            V::LANES
        }
    }
    run(isa, Lanes)
}

/// Asks for the cache line at an address, which need not be valid.
#[inline(always)]
pub fn prefetch(at: *const f32) {
    // SAFETY: a prefetch never faults.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// f32 that start on a cache line.
#[derive(Clone, Debug, Default)]
pub struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Aligned {
    /// Zeros.
    pub fn zeros(len: usize) -> Aligned {
        Aligned { lines: vec![Line([0.0; 16]); len.div_ceil(16)], len }
    }
}

impl std::ops::Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: lines are arrays of f32 without padding, and hold at least `len` of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}
