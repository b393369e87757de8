//! AVX2's products of pairs, and VNNI's of fours, in both its encodings.

use super::{CHANNELS, DotArguments, DotKernel, Inputs, TapArguments, TapKernel};
use crate::cpu::Isa;
use std::arch::x86_64::*;

/// Pixels of a tile of pairs: 12 sums of 16 registers.
const ROWS: usize = 6;
/// Pixels of a tile of 16 channels in one register: enough sums to wait for none of them.
const WIDE_ROWS: usize = 8;

const PAIRS: DotKernel = DotKernel {
    name: "avx2",
    inputs: Inputs::Pairs,
    rows: ROWS,
    weights: (i16::MIN, i16::MAX),
    half: pairs::<1>,
    whole: pairs::<2>,
};

/// AVX-VNNI: the encoding of processors without AVX-512.
const AVX_VNNI: DotKernel = DotKernel {
    name: "avxvnni",
    inputs: Inputs::Quads { signed: false },
    rows: ROWS,
    weights: (-128, 127),
    half: avx_vnni::<1>,
    whole: avx_vnni::<2>,
};

const AVX512_VNNI: DotKernel = DotKernel {
    name: "avx512vnni",
    inputs: Inputs::Quads { signed: false },
    rows: WIDE_ROWS,
    weights: (-128, 127),
    half: avx512_vnni_half,
    whole: avx512_vnni,
};

pub const TAPS: TapKernel = TapKernel { group: 2, run: taps, columns: Some(columns) };

pub fn kernels(isa: Isa) -> Vec<DotKernel> {
    let mut kernels = vec![PAIRS];
    if isa == Isa::Avx512 && is_x86_feature_detected!("avx512vnni") {
        kernels.insert(0, AVX512_VNNI);
    } else if is_x86_feature_detected!("avxvnni") {
        kernels.insert(0, AVX_VNNI);
    }
    kernels
}

/// A row's group, in every lane.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn group(row: *const u8, k: usize) -> __m256i {
    _mm256_set1_epi32(row.add(4 * k).cast::<i32>().read_unaligned())
}

/// A kernel for `8·VECTORS` channels out of what adds the products of a group to sums.
macro_rules! tile {
    ($features:literal, $name:ident, $add:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const VECTORS: usize>(a: &DotArguments) {
            let start: [__m256i; VECTORS] = std::array::from_fn(|v| _mm256_loadu_si256(a.start.add(v * 8).cast()));
            let mut sums = [start; ROWS];
            // A register for each row, which the compiler would else save and pay with additions in the loop.
            let rows: [*const u8; ROWS] =
                std::array::from_fn(|r| std::hint::black_box(a.rows.wrapping_add(r * a.row_stride)));
            let mut weights = a.weights;
            for k in 0..a.groups {
                let mut w = [_mm256_setzero_si256(); VECTORS];
                for (v, w) in w.iter_mut().enumerate() {
                    *w = _mm256_loadu_si256(weights.add(v * 32).cast());
                }
                for (sums, row) in sums.iter_mut().zip(&rows) {
                    let x = group(*row, k);
                    for (sum, w) in sums.iter_mut().zip(&w) {
                        *sum = $add(*sum, x, *w);
                    }
                }
                weights = weights.add(4 * CHANNELS);
            }
            for (r, row) in sums.iter().enumerate() {
                for (v, sum) in row.iter().enumerate() {
                    _mm256_storeu_si256(a.sums.add(r * CHANNELS + v * 8).cast(), *sum);
                }
            }
        }
    };
}

tile!("avx2,fma", pairs, |sum, x, w| _mm256_add_epi32(sum, _mm256_madd_epi16(x, w)));
tile!("avx2,fma,avxvnni", avx_vnni, |sum, x, w| _mm256_dpbusd_avx_epi32(sum, x, w));

#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma")]
unsafe fn avx512_vnni_half(a: &DotArguments) {
    let mut sums = [_mm256_loadu_si256(a.start.cast()); WIDE_ROWS];
    for k in 0..a.groups {
        let w = _mm256_loadu_si256(a.weights.add(k * 4 * CHANNELS).cast());
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = _mm256_dpbusd_epi32(*sum, group(a.rows.add(r * a.row_stride), k), w);
        }
    }
    for (r, sum) in sums.iter().enumerate() {
        _mm256_storeu_si256(a.sums.add(r * CHANNELS).cast(), *sum);
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma")]
unsafe fn avx512_vnni(a: &DotArguments) {
    let mut sums = [_mm512_loadu_si512(a.start.cast()); WIDE_ROWS];
    for k in 0..a.groups {
        let w = _mm512_loadu_si512(a.weights.add(k * 4 * CHANNELS).cast());
        for (r, sum) in sums.iter_mut().enumerate() {
            let four = a.rows.add(r * a.row_stride + 4 * k).cast::<i32>().read_unaligned();
            *sum = _mm512_dpbusd_epi32(*sum, _mm512_set1_epi32(four), w);
        }
    }
    for (r, sum) in sums.iter().enumerate() {
        _mm512_storeu_si512(a.sums.add(r * CHANNELS).cast(), *sum);
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn taps(a: &TapArguments) {
    if a.signed {
        taps_of::<true>(a);
    } else {
        taps_of::<false>(a);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn widened<const SIGNED: bool>(from: *const u8) -> __m256i {
    let bytes = _mm_loadu_si128(from.cast());
    if SIGNED { _mm256_cvtepi8_epi16(bytes) } else { _mm256_cvtepu8_epi16(bytes) }
}

/// Sums hold channels 0–3 and 8–11, and 4–7 and 12–15, as the weights do.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn taps_of<const SIGNED: bool>(a: &TapArguments) {
    let mut pixel = 0;
    while pixel + 4 <= a.pixels {
        some::<SIGNED, 4>(a, pixel);
        pixel += 4;
    }
    if pixel + 2 <= a.pixels {
        some::<SIGNED, 2>(a, pixel);
        pixel += 2;
    }
    if pixel < a.pixels {
        some::<SIGNED, 1>(a, pixel);
    }
}

/// PIXELS pixels from one on.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn some<const SIGNED: bool, const PIXELS: usize>(a: &TapArguments, first: usize) {
    let place = a.channel + first * a.step;
    let (mut low, mut high) = ([_mm256_setzero_si256(); PIXELS], [_mm256_setzero_si256(); PIXELS]);
    for k in 0..a.count / 2 {
        let (x, y) = ((*a.taps.add(2 * k)).add(place), (*a.taps.add(2 * k + 1)).add(place));
        let weights = a.weights.add(k * 2 * CHANNELS);
        let (w_low, w_high) = (_mm256_loadu_si256(weights.cast()), _mm256_loadu_si256(weights.add(16).cast()));
        for (p, (low, high)) in low.iter_mut().zip(&mut high).enumerate() {
            let (x, y) = (widened::<SIGNED>(x.add(p * a.step)), widened::<SIGNED>(y.add(p * a.step)));
            *low = _mm256_add_epi32(*low, _mm256_madd_epi16(_mm256_unpacklo_epi16(x, y), w_low));
            *high = _mm256_add_epi32(*high, _mm256_madd_epi16(_mm256_unpackhi_epi16(x, y), w_high));
        }
    }
    for (p, (&low, &high)) in low.iter().zip(&high).enumerate() {
        let halves = [_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high)];
        for (i, half) in halves.into_iter().enumerate() {
            let sum = _mm256_add_epi32(half, _mm256_loadu_si256(a.start.add(8 * i).cast()));
            _mm256_storeu_si256(a.sums.add((first + p) * CHANNELS + 8 * i).cast(), sum);
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn columns(a: &TapArguments) {
    if a.signed {
        columns_of::<true>(a);
    } else {
        columns_of::<false>(a);
    }
}

/// Each column of three inputs goes to the three pixels that see it. Sums as in [`taps_of`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn columns_of<const SIGNED: bool>(a: &TapArguments) {
    let [first, second, third] = [0, 1, 2].map(|t| (*a.taps.add(t)).wrapping_add(a.channel));
    let (low, high) = (_mm256_loadu_si256(a.start.cast()), _mm256_loadu_si256(a.start.add(8).cast()));
    let start = [_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high)];
    // Sums of the pixel that has seen two columns, and of the one that has seen one.
    let (mut two, mut one) = (start, start);
    for column in 0..a.pixels + 2 {
        let [x, y, z] = [first, second, third].map(|line| line.wrapping_add(column * a.step));
        let (x, y, z) = (widened::<SIGNED>(x), widened::<SIGNED>(y), widened::<SIGNED>(z));
        let none = _mm256_setzero_si256();
        let seen = [
            [_mm256_unpacklo_epi16(x, y), _mm256_unpacklo_epi16(z, none)],
            [_mm256_unpackhi_epi16(x, y), _mm256_unpackhi_epi16(z, none)],
        ];
        let mut next = [start; 3];
        for half in 0..2 {
            for (kx, sums) in [start, one, two].into_iter().enumerate() {
                let mut sum = sums[half];
                for (pair, seen) in seen[half].iter().enumerate() {
                    let weights = a.weights.add((kx * 2 + pair) * 2 * CHANNELS + half * CHANNELS);
                    let product = _mm256_madd_epi16(*seen, _mm256_loadu_si256(weights.cast()));
                    sum = _mm256_add_epi32(sum, product);
                }
                next[kx][half] = sum;
            }
        }
        if column >= 2 {
            let to = a.sums.add((column - 2) * CHANNELS);
            let [low, high] = next[2];
            _mm256_storeu_si256(to.cast(), _mm256_permute2x128_si256::<0x20>(low, high));
            _mm256_storeu_si256(to.add(8).cast(), _mm256_permute2x128_si256::<0x31>(low, high));
        }
        (one, two) = (next[0], next[1]);
    }
}
