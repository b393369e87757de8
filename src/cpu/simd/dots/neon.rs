//! Advanced SIMD: sdot where the processor has it, else products widened to i16 and added in pairs.

use super::{CHANNELS, DotArguments, DotKernel, Inputs, portable};
use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

/// One accumulator for each four channels: 16, and 4 registers each for weights and inputs.
const SDOT: DotKernel = DotKernel {
    name: "neon_sdot",
    inputs: Inputs::Quads { signed: true },
    rows: 4,
    weights: (-128, 127),
    half: sdot_tile::<2>,
    whole: sdot_tile::<4>,
};

/// Two accumulators for each four channels: 16. Two products of i8 fit i16 if the weight is not -128.
const WIDENING: DotKernel = DotKernel {
    name: "neon",
    inputs: Inputs::Quads { signed: true },
    rows: 2,
    weights: (-127, 127),
    half: widening_tile::<2>,
    whole: widening_tile::<4>,
};

pub fn kernels() -> Vec<DotKernel> {
    let mut kernels = vec![WIDENING, portable::QUADS, portable::PAIRS];
    if is_aarch64_feature_detected!("dotprod") {
        kernels.insert(0, SDOT);
    }
    kernels
}

/// acc[n] + Σi w[4n + i]·x[4·LANE + i]. In assembly, as the intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn sdot<const LANE: i32>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    asm!(
        "sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
        acc = inout(vreg) acc,
        w = in(vreg) w,
        x = in(vreg) x,
        lane = const LANE,
        options(pure, nomem, nostack, preserves_flags),
    );
    acc
}

/// Products with a group of weights for `4·VECTORS` channels.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn sdot_group<const VECTORS: usize, const LANE: i32>(
    sums: &mut [[int32x4_t; VECTORS]; 4],
    weights: *const u8,
    x: &[int8x16_t; 4],
) {
    for v in 0..VECTORS {
        let w = vld1q_s8(weights.add(16 * v).cast());
        for (row, x) in sums.iter_mut().zip(x) {
            row[v] = sdot::<LANE>(row[v], w, *x);
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn sdot_tile<const VECTORS: usize>(a: &DotArguments) {
    let mut sums = [std::array::from_fn::<_, VECTORS, _>(|v| vld1q_s32(a.start.add(4 * v))); 4];
    let (mut weights, mut k) = (a.weights, 0);
    while k + 4 <= a.groups {
        let x = std::array::from_fn(|r| vld1q_s8(a.rows.add(r * a.row_stride + 4 * k).cast()));
        sdot_group::<VECTORS, 0>(&mut sums, weights, &x);
        sdot_group::<VECTORS, 1>(&mut sums, weights.add(4 * CHANNELS), &x);
        sdot_group::<VECTORS, 2>(&mut sums, weights.add(8 * CHANNELS), &x);
        sdot_group::<VECTORS, 3>(&mut sums, weights.add(12 * CHANNELS), &x);
        weights = weights.add(16 * CHANNELS);
        k += 4;
    }
    while k < a.groups {
        let x = std::array::from_fn(|r| group(a, r, k));
        sdot_group::<VECTORS, 0>(&mut sums, weights, &x);
        weights = weights.add(4 * CHANNELS);
        k += 1;
    }
    for (r, row) in sums.iter().enumerate() {
        for (v, sum) in row.iter().enumerate() {
            vst1q_s32(a.sums.add(r * CHANNELS + 4 * v), *sum);
        }
    }
}

/// A group of a row, four times.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn group(a: &DotArguments, row: usize, k: usize) -> int8x16_t {
    let four = a.rows.add(row * a.row_stride + 4 * k).cast::<i32>().read_unaligned();
    vreinterpretq_s8_s32(vdupq_n_s32(four))
}

/// Sums of the first and second half of each group stay apart until the end.
#[target_feature(enable = "neon")]
unsafe fn widening_tile<const VECTORS: usize>(a: &DotArguments) {
    let mut sums = [[[vdupq_n_s32(0); 2]; VECTORS]; 2];
    let mut k = 0;
    while k < a.groups {
        // The last group of an odd number stands alone.
        let two = k + 1 < a.groups;
        let x = std::array::from_fn::<_, 2, _>(|r| group(a, r, k));
        let y = if two { std::array::from_fn(|r| group(a, r, k + 1)) } else { [vdupq_n_s8(0); 2] };
        for v in 0..VECTORS {
            let weights = a.weights.add(4 * CHANNELS * k + 16 * v).cast();
            let w = vld1q_s8(weights);
            let next = if two { vld1q_s8(weights.add(4 * CHANNELS)) } else { w };
            for r in 0..2 {
                let low = vmull_s8(vget_low_s8(w), vget_low_s8(x[r]));
                let high = vmull_high_s8(w, x[r]);
                let low = vmlal_s8(low, vget_low_s8(next), vget_low_s8(y[r]));
                let high = vmlal_high_s8(high, next, y[r]);
                let [low_sum, high_sum] = &mut sums[r][v];
                *low_sum = vpadalq_s16(*low_sum, low);
                *high_sum = vpadalq_s16(*high_sum, high);
            }
        }
        k += 2;
    }
    for (r, row) in sums.iter().enumerate() {
        for (v, [low, high]) in row.iter().enumerate() {
            let sum = vaddq_s32(vpaddq_s32(*low, *high), vld1q_s32(a.start.add(4 * v)));
            vst1q_s32(a.sums.add(r * CHANNELS + 4 * v), sum);
        }
    }
}
