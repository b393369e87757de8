//! Four lanes: Advanced SIMD of aarch64.

use std::arch::aarch64::*;

use super::tile::tiles;
use super::{Vector, Work};

#[derive(Clone, Copy)]
pub struct Neon(float32x4_t);

impl Vector for Neon {
    const LANES: usize = 4;
    const REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Neon(vdupq_n_f32(x))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Neon(vld1q_f32(from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        vst1q_f32(to, self.0);
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0f32; 4];
        for (i, lane) in lanes.iter_mut().enumerate().take(count) {
            *lane = *from.add(i);
        }
        Neon(vld1q_f32(lanes.as_ptr()))
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        let mut lanes = [0.0f32; 4];
        vst1q_f32(lanes.as_mut_ptr(), self.0);
        for (i, &lane) in lanes.iter().enumerate().take(count) {
            *to.add(i) = lane;
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Neon(vaddq_f32(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Neon(vsubq_f32(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Neon(vmulq_f32(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Neon(vdivq_f32(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Neon(vmaxq_f32(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Neon(vminq_f32(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Neon(vfmaq_f32(addend.0, self.0, factor.0))
    }
    #[inline(always)]
    unsafe fn select_non_negative(self, yes: Self, no: Self) -> Self {
        Neon(vbslq_f32(vcgezq_f32(self.0), yes.0, no.0))
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Neon(vabsq_f32(self.0))
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(self, shifted: Self) -> Self {
        let exponent = vshlq_n_s32::<23>(vreinterpretq_s32_f32(shifted.0));
        Neon(vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(self.0), exponent)))
    }
    #[inline(always)]
    unsafe fn reciprocal(self) -> Self {
        Self::splat(1.0).div(self)
    }
    #[inline(always)]
    unsafe fn interleave(self, other: Self) -> (Self, Self) {
        (Neon(vzip1q_f32(self.0, other.0)), Neon(vzip2q_f32(self.0, other.0)))
    }
    #[inline(always)]
    unsafe fn evens(self, other: Self) -> Self {
        Neon(vuzp1q_f32(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn keep_first(self, count: usize, other: Self) -> Self {
        static FIRST: [u32; 8] = [u32::MAX, u32::MAX, u32::MAX, u32::MAX, 0, 0, 0, 0];
        Neon(vbslq_f32(vld1q_u32(FIRST.as_ptr().add(4 - count)), self.0, other.0))
    }
    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Self {
        Neon(vcvtq_f32_s32(vld1q_s32(from)))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8) {
        let words = vmovn_s32(vcvtnq_s32_f32(self.0));
        let bytes = vmovn_s16(vcombine_s16(words, words));
        to.cast::<i32>().write_unaligned(vget_lane_s32::<0>(vreinterpret_s32_s8(bytes)));
    }
    #[inline(always)]
    unsafe fn store_bytes_with(self, next: Self, to: *mut u8) {
        let [low, high] = [self, next].map(|v| vmovn_s32(vcvtnq_s32_f32(v.0)));
        vst1_u8(to, vreinterpret_u8_s8(vmovn_s16(vcombine_s16(low, high))));
    }
    #[inline(always)]
    unsafe fn widen<const SIGNED: bool>(from: *const u8, to: *mut i16) {
        let bytes = vld1_u8(from);
        let words = if SIGNED { vmovl_s8(vreinterpret_s8_u8(bytes)) } else { vreinterpretq_s16_u16(vmovl_u8(bytes)) };
        vst1q_s16(to, words);
    }
    #[inline(always)]
    unsafe fn sum_lanes(self) -> f32 {
        vaddvq_f32(self.0)
    }
    #[inline(always)]
    unsafe fn max_lanes(self) -> f32 {
        vmaxvq_f32(self.0)
    }
}

/// # Safety
/// Needs Advanced SIMD.
#[target_feature(enable = "neon")]
pub unsafe fn enter<W: Work>(work: W) -> W::Output {
    work.run::<Neon>()
}

tiles!([#[target_feature(enable = "neon")]] Neon, [8, 4, 2, 1]);
