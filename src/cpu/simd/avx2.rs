//! Eight lanes: AVX2 with FMA.

use std::arch::x86_64::*;

use super::tile::tiles;
use super::{Vector, Work};

#[derive(Clone, Copy)]
pub struct Avx2(__m256);

/// Lane masks: the eight values that start at `8 - count` select the first `count` lanes.
static FIRST: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
unsafe fn first(count: usize) -> __m256i {
    debug_assert!(count <= 8);
    _mm256_loadu_si256(FIRST.as_ptr().add(8 - count).cast())
}

impl Vector for Avx2 {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Avx2(_mm256_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Avx2(_mm256_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        _mm256_storeu_ps(to, self.0);
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        Avx2(_mm256_maskload_ps(from, first(count)))
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        _mm256_maskstore_ps(to, first(count), self.0);
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Avx2(_mm256_add_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Avx2(_mm256_sub_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Avx2(_mm256_mul_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Avx2(_mm256_div_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Avx2(_mm256_max_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Avx2(_mm256_min_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Avx2(_mm256_fmadd_ps(self.0, factor.0, addend.0))
    }
    #[inline(always)]
    unsafe fn select_non_negative(self, yes: Self, no: Self) -> Self {
        let mask = _mm256_cmp_ps::<_CMP_GE_OQ>(self.0, _mm256_setzero_ps());
        Avx2(_mm256_blendv_ps(no.0, yes.0, mask))
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Avx2(_mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0))
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(self, shifted: Self) -> Self {
        let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted.0));
        Avx2(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self.0), exponent)))
    }
    #[inline(always)]
    unsafe fn reciprocal(self) -> Self {
        Self::splat(1.0).div(self)
    }
    #[inline(always)]
    unsafe fn interleave(self, other: Self) -> (Self, Self) {
        let (lo, hi) = (_mm256_unpacklo_ps(self.0, other.0), _mm256_unpackhi_ps(self.0, other.0));
        (Avx2(_mm256_permute2f128_ps::<0x20>(lo, hi)), Avx2(_mm256_permute2f128_ps::<0x31>(lo, hi)))
    }
    #[inline(always)]
    unsafe fn evens(self, other: Self) -> Self {
        let mixed = _mm256_castps_pd(_mm256_shuffle_ps::<0b10_00_10_00>(self.0, other.0));
        Avx2(_mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(mixed)))
    }
    #[inline(always)]
    unsafe fn keep_first(self, count: usize, other: Self) -> Self {
        Avx2(_mm256_blendv_ps(other.0, self.0, _mm256_castsi256_ps(first(count))))
    }
    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Self {
        Avx2(_mm256_cvtepi32_ps(_mm256_loadu_si256(from.cast())))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8) {
        // The low bytes of each half into its first four, then those side by side.
        let low = _mm256_broadcastsi128_si256(_mm_set_epi32(-1, -1, -1, 0x0c_08_04_00));
        let halves = _mm256_shuffle_epi8(_mm256_cvtps_epi32(self.0), low);
        let (first, second) = (_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
        _mm_storel_epi64(to.cast(), _mm_unpacklo_epi32(first, second));
    }
    #[inline(always)]
    unsafe fn store_bytes_with(self, next: Self, to: *mut u8) {
        // Within halves of a register; what is saturated is beyond a byte's bounds anyway.
        store_low_bytes(_mm256_packs_epi32(_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(next.0)), to);
    }
    #[inline(always)]
    unsafe fn store_steps_with(self, next: Self, [least, most]: [i16; 2], zero: i16, to: *mut u8) {
        // What is not a number becomes the least i32.
        let words = _mm256_packs_epi32(_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(next.0));
        let words = _mm256_min_epi16(_mm256_max_epi16(words, _mm256_set1_epi16(least)), _mm256_set1_epi16(most));
        store_low_bytes(_mm256_add_epi16(words, _mm256_set1_epi16(zero)), to);
    }
    #[inline(always)]
    unsafe fn widen_16<const SIGNED: bool>(from: *const u8, to: *mut i16) {
        let bytes = _mm_loadu_si128(from.cast());
        let words = if SIGNED { _mm256_cvtepi8_epi16(bytes) } else { _mm256_cvtepu8_epi16(bytes) };
        _mm256_storeu_si256(to.cast(), words);
    }
    #[inline(always)]
    unsafe fn widen<const SIGNED: bool>(from: *const u8, to: *mut i16) {
        let bytes = _mm_loadl_epi64(from.cast());
        let words = if SIGNED { _mm_cvtepi8_epi16(bytes) } else { _mm_cvtepu8_epi16(bytes) };
        _mm_storeu_si128(to.cast(), words);
    }
    #[inline(always)]
    unsafe fn sum_lanes(self) -> f32 {
        let x = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
    }
    #[inline(always)]
    unsafe fn max_lanes(self) -> f32 {
        let x = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
        let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
    }
}

/// The low bytes of sixteen words as packs_epi32 leaves them: the first and second vector in turns, within halves.
#[inline(always)]
unsafe fn store_low_bytes(words: __m256i, to: *mut u8) {
    let low = _mm256_and_si256(words, _mm256_set1_epi16(0xFF));
    let bytes = _mm256_packus_epi16(low, low);
    let ordered = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
    _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(ordered));
}

/// # Safety
/// Needs AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn enter<W: Work>(work: W) -> W::Output {
    work.run::<Avx2>()
}

tiles!([#[target_feature(enable = "avx2,fma")]] Avx2, [6, 4, 2, 1]);
