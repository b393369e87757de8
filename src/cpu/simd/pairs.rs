//! The micro-kernels of convolutions of bytes: sums of products of pairs of i16 in i32, which are exact.
//!
//! Bytes are widened to i16 before. x86's vpmaddwd multiplies sixteen i16 and adds neighbouring products, so weights
//! come as `[pair][channel][2]`. (vpmaddubsw takes bytes as they are, but its sums of two saturate at i16.)

use super::Isa;

/// Pixels of a tile.
pub const ROWS: usize = 6;
/// Output channels of a panel of packed weights.
pub const CHANNELS: usize = 16;

/// What a tile kernel works on.
#[derive(Clone, Copy, Debug)]
pub struct PairArguments {
    /// Inputs of the first of [`ROWS`] pixels: `2·pairs` of them.
    pub rows: *const i16,
    /// Elements from pixel to pixel.
    pub row_stride: usize,
    pub pairs: usize,
    /// `[pairs][CHANNELS][2]`
    pub weights: *const i16,
    /// `[CHANNELS]`: what sums start with.
    pub start: *const i32,
    /// `[ROWS][CHANNELS]`
    pub sums: *mut i32,
}

/// sums[r][n] = start[n] + Σk rows[r][k]·weights[k][n] for the first 8 or all 16 channels. Unsafe: needs its instruction
/// set, and the pointers of [`PairArguments`] valid.
pub type PairKernel = unsafe fn(&PairArguments);

/// The kernels for half a panel and for a whole one. `isa` must be available.
pub fn kernels(isa: Isa) -> [PairKernel; 2] {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => [x86::tile::<1>, x86::tile::<2>],
        _ => [portable::<8>, portable::<CHANNELS>],
    }
}

/// Any processor.
unsafe fn portable<const N: usize>(a: &PairArguments) {
    for r in 0..ROWS {
        let row = a.rows.add(r * a.row_stride);
        let mut sums = [0i32; N];
        sums.copy_from_slice(std::slice::from_raw_parts(a.start, N));
        for k in 0..a.pairs {
            let (x0, x1) = (i32::from(*row.add(2 * k)), i32::from(*row.add(2 * k + 1)));
            let weights = std::slice::from_raw_parts(a.weights.add(k * 2 * CHANNELS), 2 * N);
            for (sum, w) in sums.iter_mut().zip(weights.chunks_exact(2)) {
                *sum += x0 * i32::from(w[0]) + x1 * i32::from(w[1]);
            }
        }
        std::ptr::copy_nonoverlapping(sums.as_ptr(), a.sums.add(r * CHANNELS), N);
    }
}

/// What a depthwise kernel works on: some pixels of a row, 16 channels.
#[derive(Clone, Copy, Debug)]
pub struct TapArguments {
    /// One pointer per tap of the first pixel, an even number of them, to bytes of channel 0.
    pub taps: *const *const u8,
    pub pairs: usize,
    pub pixels: usize,
    /// What a tap moves from pixel to pixel, in bytes.
    pub step: usize,
    /// Added to each pointer.
    pub channel: usize,
    /// The bytes are i8.
    pub signed: bool,
    /// `[pairs][CHANNELS][2]`, channels in the order of [`slot`].
    pub weights: *const i16,
    /// `[CHANNELS]`
    pub start: *const i32,
    /// `[pixels][CHANNELS]`
    pub sums: *mut i32,
}

/// Where the weights of a channel stand in a depthwise kernel's panel: x86 interleaves the bytes of two taps within
/// halves of a register.
pub const fn slot(channel: usize) -> usize {
    [0, 2, 1, 3][channel / 4] * 4 + channel % 4
}

/// sums[p][n] = start[n] + Σt taps[t][p·step + n]·weights[t][n] for 16 channels. Unsafe as [`PairKernel`]; 16 bytes are
/// read of each tap.
pub type TapKernel = unsafe fn(&TapArguments);

/// The depthwise kernel. `isa` must be available.
pub fn tap_kernel(isa: Isa) -> TapKernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => x86::taps,
        _ => portable_taps,
    }
}

/// Any processor.
unsafe fn portable_taps(a: &TapArguments) {
    let widened = |byte: u8| if a.signed { i32::from(byte as i8) } else { i32::from(byte) };
    for pixel in 0..a.pixels {
        let mut sums = [0i32; CHANNELS];
        sums.copy_from_slice(std::slice::from_raw_parts(a.start, CHANNELS));
        let place = a.channel + pixel * a.step;
        for k in 0..a.pairs {
            let [x, y] = [0, 1].map(|i| std::slice::from_raw_parts((*a.taps.add(2 * k + i)).add(place), CHANNELS));
            let weights = std::slice::from_raw_parts(a.weights.add(k * 2 * CHANNELS), 2 * CHANNELS);
            for (n, sum) in sums.iter_mut().enumerate() {
                let w = [0, 1].map(|i| i32::from(weights[2 * slot(n) + i]));
                *sum += widened(x[n]) * w[0] + widened(y[n]) * w[1];
            }
        }
        std::ptr::copy_nonoverlapping(sums.as_ptr(), a.sums.add(pixel * CHANNELS), CHANNELS);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHANNELS, PairArguments, ROWS, TapArguments};
    use std::arch::x86_64::*;

    /// `8·VECTORS` channels.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn tile<const VECTORS: usize>(a: &PairArguments) {
        let mut sums = [[_mm256_setzero_si256(); VECTORS]; ROWS];
        for v in 0..VECTORS {
            let start = _mm256_loadu_si256(a.start.add(v * 8).cast());
            for row in &mut sums {
                row[v] = start;
            }
        }
        let mut weights = a.weights;
        // A register for each row, which the compiler would else save and pay with additions in the loop.
        let rows: [*const i16; ROWS] =
            std::array::from_fn(|r| std::hint::black_box(a.rows.wrapping_add(r * a.row_stride)));
        for k in 0..a.pairs {
            let mut w = [_mm256_setzero_si256(); VECTORS];
            for (v, w) in w.iter_mut().enumerate() {
                *w = _mm256_loadu_si256(weights.add(v * 16).cast());
            }
            for (sums, row) in sums.iter_mut().zip(&rows) {
                let x = _mm256_set1_epi32(row.add(2 * k).cast::<i32>().read_unaligned());
                for (sum, w) in sums.iter_mut().zip(&w) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(x, *w));
                }
            }
            weights = weights.add(2 * CHANNELS);
        }
        for (r, row) in sums.iter().enumerate() {
            for (v, sum) in row.iter().enumerate() {
                _mm256_storeu_si256(a.sums.add(r * CHANNELS + v * 8).cast(), *sum);
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn taps(a: &TapArguments) {
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
        while pixel + 2 <= a.pixels {
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
        for k in 0..a.pairs {
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
}
