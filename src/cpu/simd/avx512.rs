//! Sixteen lanes: AVX-512.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::tile::tiles;
use super::{Vector, Work};

#[derive(Clone, Copy)]
pub struct Avx512(__m512);

#[inline(always)]
unsafe fn first(count: usize) -> __mmask16 {
    debug_assert!(count <= 16);
    ((1u32 << count) - 1) as u16
}

impl Vector for Avx512 {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Avx512(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Avx512(_mm512_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        _mm512_storeu_ps(to, self.0);
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        Avx512(_mm512_maskz_loadu_ps(first(count), from))
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        _mm512_mask_storeu_ps(to, first(count), self.0);
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Avx512(_mm512_add_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Avx512(_mm512_sub_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Avx512(_mm512_mul_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Avx512(_mm512_div_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Avx512(_mm512_max_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Avx512(_mm512_min_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Avx512(_mm512_fmadd_ps(self.0, factor.0, addend.0))
    }
    #[inline(always)]
    unsafe fn select_non_negative(self, yes: Self, no: Self) -> Self {
        let mask = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, _mm512_setzero_ps());
        Avx512(_mm512_mask_blend_ps(mask, no.0, yes.0))
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Avx512(_mm512_abs_ps(self.0))
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(self, shifted: Self) -> Self {
        let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted.0));
        Avx512(_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self.0), exponent)))
    }
    #[inline(always)]
    unsafe fn reciprocal(self) -> Self {
        // 14 bits and one step of Newton's method.
        let guess = _mm512_rcp14_ps(self.0);
        let error = _mm512_fnmadd_ps(self.0, guess, _mm512_set1_ps(1.0));
        Avx512(_mm512_fmadd_ps(guess, error, guess))
    }
    #[inline(always)]
    unsafe fn interleave(self, other: Self) -> (Self, Self) {
        let lo = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        let hi = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        let pick = |which| Avx512(_mm512_permutex2var_ps(self.0, which, other.0));
        (pick(lo), pick(hi))
    }
    #[inline(always)]
    unsafe fn evens(self, other: Self) -> Self {
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        Avx512(_mm512_permutex2var_ps(self.0, even, other.0))
    }
    #[inline(always)]
    unsafe fn keep_first(self, count: usize, other: Self) -> Self {
        Avx512(_mm512_mask_blend_ps(first(count), other.0, self.0))
    }
    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Self {
        Avx512(_mm512_cvtepi32_ps(_mm512_loadu_si512(from.cast())))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8) {
        _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(self.0)));
    }
    #[inline(always)]
    unsafe fn store_bytes_with(self, next: Self, to: *mut u8) {
        self.store_bytes(to);
        next.store_bytes(to.add(Self::LANES));
    }
    #[inline(always)]
    unsafe fn widen<const SIGNED: bool>(from: *const u8, to: *mut i16) {
        Avx2::widen::<SIGNED>(from, to);
    }
    #[inline(always)]
    unsafe fn sum_lanes(self) -> f32 {
        _mm512_reduce_add_ps(self.0)
    }
    #[inline(always)]
    unsafe fn max_lanes(self) -> f32 {
        _mm512_reduce_max_ps(self.0)
    }
}

/// # Safety
/// Needs AVX-512 F, VL, DQ and BW.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
pub unsafe fn enter<W: Work>(work: W) -> W::Output {
    work.run::<Avx512>()
}

tiles!([#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]] Avx512, [14, 12, 10, 8, 6, 4, 2, 1]);
