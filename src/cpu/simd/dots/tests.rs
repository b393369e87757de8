//! Every kernel that this processor has against sums of i64, with extreme bytes among random ones, and nothing written
//! around its sums.

use super::{CHANNELS, DotArguments, DotKernel, Inputs, TapArguments, TapKernel};
use crate::cpu::Isa;

fn random(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    // A third of them at the ends.
    match (*state >> 20) % 6 {
        0 => [0, 127, 128, 255][(*state >> 32) as usize % 4],
        1 => [127, 128][(*state >> 32) as usize % 2],
        _ => (*state >> 40) as u8,
    }
}

fn check_tile(kernel: &DotKernel, channels: usize, groups: usize) {
    let mut state = 0x9e37_79b9 + (groups * 31 + channels) as u64;
    let (group, gap) = (kernel.inputs.group(), 4 * (groups % 2));
    let (stride, depth) = (4 * groups + gap, group * groups);
    let least = kernel.weights.0.max(-255);
    let mut rows = vec![0u8; kernel.rows * stride - gap];
    let mut weights = vec![0u8; groups * CHANNELS * 4];
    let (mut inputs, mut factors) = (vec![0i64; kernel.rows * depth], vec![0i64; CHANNELS * depth]);
    for (r, row) in inputs.chunks_exact_mut(depth).enumerate() {
        for (k, input) in row.iter_mut().enumerate() {
            let byte = random(&mut state);
            let at = r * stride + k * kernel.inputs.bytes();
            match kernel.inputs {
                Inputs::Pairs => {
                    let x = i16::from(byte as i8) - 100;
                    rows[at..at + 2].copy_from_slice(&x.to_ne_bytes());
                    *input = i64::from(x);
                }
                Inputs::Quads { signed } => {
                    rows[at] = byte;
                    *input = if signed { i64::from(byte as i8) } else { i64::from(byte) };
                }
            }
        }
    }
    for n in 0..CHANNELS {
        for k in 0..depth {
            let w = i16::from(random(&mut state) as i8).max(least);
            let bytes = kernel.inputs.bytes();
            let at = ((k / group * CHANNELS + n) * group + k % group) * bytes;
            weights[at..at + bytes].copy_from_slice(&w.to_le_bytes()[..bytes]);
            factors[n * depth + k] = i64::from(w);
        }
    }
    let start: Vec<i32> = (0..CHANNELS as i32).map(|n| n * 1000 - 7000).collect();
    let mut sums = vec![i32::MAX; (kernel.rows + 1) * CHANNELS];
    let arguments = DotArguments {
        rows: rows.as_ptr(),
        row_stride: stride,
        groups,
        weights: weights.as_ptr(),
        start: start.as_ptr(),
        sums: sums.as_mut_ptr(),
    };
    let run = if channels > 8 { kernel.whole } else { kernel.half };
    // SAFETY: the kernel is one of this processor's; rows, weights and sums are as long as it needs.
    unsafe { run(&arguments) };
    for (at, &sum) in sums.iter().enumerate() {
        let (r, n) = (at / CHANNELS, at % CHANNELS);
        if r == kernel.rows || n >= channels {
            assert_eq!(sum, i32::MAX, "{} wrote beyond its sums", kernel.name);
            continue;
        }
        let products = inputs[r * depth..][..depth].iter().zip(&factors[n * depth..][..depth]).map(|(x, w)| x * w);
        let wanted = products.sum::<i64>() + i64::from(start[n]);
        assert_eq!(i64::from(sum), wanted, "{}, {channels} channels, {groups} groups, row {r}", kernel.name);
    }
}

#[test]
fn tiles_are_sums_of_products() {
    for isa in Isa::available() {
        for kernel in DotKernel::available(isa) {
            for groups in [1, 2, 3, 4, 5, 7, 8, 13, 40] {
                check_tile(&kernel, 8, groups);
                check_tile(&kernel, CHANNELS, groups);
            }
        }
    }
}

#[test]
fn the_best_kernel_takes_the_weights() {
    for isa in Isa::available() {
        for weights in [-127..=127, -128..=127, -255..=10, 0..=255] {
            assert!(DotKernel::best(isa, weights.clone()).takes(&weights));
        }
        assert_eq!(DotKernel::best(isa, 0..=255).inputs, Inputs::Pairs);
    }
}

#[test]
fn taps_are_sums_of_products() {
    for isa in Isa::available() {
        let kernel = TapKernel::best(isa);
        for (count, pixels, signed) in [(2, 1, false), (4, 3, true), (10, 2, false), (26, 5, true)] {
            let mut state = count as u64;
            let (step, channel) = (CHANNELS + 3, 5);
            let bytes: Vec<u8> = (0..count * 100).map(|_| random(&mut state)).collect();
            let taps: Vec<*const u8> = (0..count).map(|t| bytes[t * 7..].as_ptr()).collect();
            let mut weights = vec![0i16; count * CHANNELS];
            let factor = |t: usize, n: usize| ((t * 37 + n * 91) % 511) as i16 - 255;
            for (t, n) in (0..count).flat_map(|t| (0..CHANNELS).map(move |n| (t, n))) {
                weights[kernel.place(t, n)] = factor(t, n);
            }
            let start = [-3i32; CHANNELS];
            let mut sums = vec![i32::MAX; (pixels + 1) * CHANNELS];
            let arguments = TapArguments {
                taps: taps.as_ptr(),
                count,
                pixels,
                step,
                channel,
                signed,
                weights: weights.as_ptr(),
                start: start.as_ptr(),
                sums: sums.as_mut_ptr(),
            };
            // SAFETY: the kernel is this processor's; what it reads and writes is there.
            unsafe { (kernel.run)(&arguments) };
            for (at, &sum) in sums.iter().enumerate() {
                let (p, n) = (at / CHANNELS, at % CHANNELS);
                let product = |t: usize| {
                    let byte = bytes[t * 7 + channel + p * step + n];
                    let x = if signed { i32::from(byte as i8) } else { i32::from(byte) };
                    x * i32::from(factor(t, n))
                };
                let wanted = if p == pixels { i32::MAX } else { (0..count).map(product).sum::<i32>() - 3 };
                assert_eq!(sum, wanted, "{} taps, pixel {p}, channel {n}, {}", count, isa.name());
            }
        }
    }
}

#[test]
fn columns_are_taps_of_windows() {
    for isa in Isa::available() {
        let kernel = TapKernel::best(isa);
        let Some(columns) = kernel.columns else { continue };
        for (pixels, signed) in [(1, true), (2, false), (7, true)] {
            let mut state = pixels as u64;
            let (step, channel, line) = (CHANNELS + 3, 5, (CHANNELS + 3) * (pixels + 3));
            let bytes: Vec<u8> = (0..4 * line).map(|_| random(&mut state)).collect();
            let taps: Vec<*const u8> = (0..12).map(|t| bytes[t % 4 * line + t / 4 * step..].as_ptr()).collect();
            let mut weights = vec![0i16; 12 * CHANNELS];
            for (t, n) in (0..12).filter(|t| t % 4 != 3).flat_map(|t| (0..CHANNELS).map(move |n| (t, n))) {
                weights[kernel.place(t, n)] = ((t * 37 + n * 91) % 511) as i16 - 255;
            }
            let start: Vec<i32> = (0..CHANNELS as i32).map(|n| n * 100 - 700).collect();
            let sums = [kernel.run, columns].map(|run| {
                let mut sums = vec![i32::MAX; (pixels + 1) * CHANNELS];
                let arguments = TapArguments {
                    taps: taps.as_ptr(),
                    count: 12,
                    pixels,
                    step,
                    channel,
                    signed,
                    weights: weights.as_ptr(),
                    start: start.as_ptr(),
                    sums: sums.as_mut_ptr(),
                };
                // SAFETY: the kernel is this processor's; what it reads and writes is there.
                unsafe { run(&arguments) };
                sums
            });
            assert_eq!(sums[0], sums[1], "{pixels} pixels, {}", isa.name());
        }
    }
}
