//! Four lanes in plain Rust: LLVM turns them into SSE, VFP or scalar code.

use super::tile::tiles;
use super::{SHIFT, Vector, Work};

#[derive(Clone, Copy)]
pub struct Portable([f32; 4]);

macro_rules! lanewise {
    ($a:expr, $b:expr, $f:expr) => {{
        let (a, b, f) = ($a.0, $b.0, $f);
        Portable([f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])])
    }};
}

impl Vector for Portable {
    const LANES: usize = 4;
    // Of the smallest processor with floating point, the ARM1176: 32 single numbers.
    const REGISTERS: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Portable(from.cast::<[f32; 4]>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        to.cast::<[f32; 4]>().write_unaligned(self.0);
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; 4];
        for (i, lane) in lanes.iter_mut().enumerate().take(count) {
            *lane = *from.add(i);
        }
        Portable(lanes)
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        for (i, &lane) in self.0.iter().enumerate().take(count) {
            *to.add(i) = lane;
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        lanewise!(self, other, |a: f32, b: f32| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        lanewise!(self, other, |a: f32, b: f32| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        lanewise!(self, other, |a: f32, b: f32| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        lanewise!(self, other, |a: f32, b: f32| a / b)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        lanewise!(self, other, |a: f32, b: f32| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        lanewise!(self, other, |a: f32, b: f32| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // Not `f32::mul_add`: without the instruction that is a call into libm.
        self.mul(factor).add(addend)
    }
    #[inline(always)]
    unsafe fn select_non_negative(self, yes: Self, no: Self) -> Self {
        let mut lanes = no.0;
        for (lane, (&x, &y)) in lanes.iter_mut().zip(self.0.iter().zip(&yes.0)) {
            *lane = if x >= 0.0 { y } else { *lane };
        }
        Portable(lanes)
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Portable(self.0.map(f32::abs))
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(self, shifted: Self) -> Self {
        let mut lanes = self.0;
        for (lane, shifted) in lanes.iter_mut().zip(shifted.0) {
            *lane = f32::from_bits(lane.to_bits().wrapping_add(shifted.to_bits() << 23));
        }
        Portable(lanes)
    }
    #[inline(always)]
    unsafe fn reciprocal(self) -> Self {
        Self::splat(1.0).div(self)
    }
    #[inline(always)]
    unsafe fn interleave(self, other: Self) -> (Self, Self) {
        let (a, b) = (self.0, other.0);
        (Portable([a[0], b[0], a[1], b[1]]), Portable([a[2], b[2], a[3], b[3]]))
    }
    #[inline(always)]
    unsafe fn evens(self, other: Self) -> Self {
        Portable([self.0[0], self.0[2], other.0[0], other.0[2]])
    }
    #[inline(always)]
    unsafe fn keep_first(self, count: usize, other: Self) -> Self {
        let mut lanes = other.0;
        lanes[..count].copy_from_slice(&self.0[..count]);
        Portable(lanes)
    }
    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Self {
        Portable(from.cast::<[i32; 4]>().read_unaligned().map(|x| x as f32))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8) {
        let bytes = self.0.map(|x| (x + SHIFT).to_bits().wrapping_sub(SHIFT.to_bits()) as u8);
        to.cast::<[u8; 4]>().write_unaligned(bytes);
    }
    #[inline(always)]
    unsafe fn store_bytes_with(self, next: Self, to: *mut u8) {
        self.store_bytes(to);
        next.store_bytes(to.add(Self::LANES));
    }
    #[inline(always)]
    unsafe fn widen<const SIGNED: bool>(from: *const u8, to: *mut i16) {
        for i in 0..8 {
            let byte = *from.add(i);
            *to.add(i) = if SIGNED { i16::from(byte as i8) } else { i16::from(byte) };
        }
    }
    #[inline(always)]
    unsafe fn sum_lanes(self) -> f32 {
        self.0.iter().sum()
    }
    #[inline(always)]
    unsafe fn max_lanes(self) -> f32 {
        self.0.into_iter().fold(f32::MIN, f32::max)
    }
}

/// # Safety
/// None: plain Rust.
pub unsafe fn enter<W: Work>(work: W) -> W::Output {
    work.run::<Portable>()
}

tiles!([] Portable, [4, 2, 1]);
