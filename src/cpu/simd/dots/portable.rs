//! Any processor.

use super::{CHANNELS, DotArguments, DotKernel, Inputs, TapArguments, TapKernel};

/// Pixels of a tile.
const ROWS: usize = 6;

pub const PAIRS: DotKernel = DotKernel {
    name: "portable",
    inputs: Inputs::Pairs,
    rows: ROWS,
    weights: (i16::MIN, i16::MAX),
    half: pairs::<8>,
    whole: pairs::<CHANNELS>,
};

pub const QUADS: DotKernel = DotKernel {
    name: "portable",
    inputs: Inputs::Quads { signed: false },
    rows: ROWS,
    weights: (-128, 127),
    half: quads::<8>,
    whole: quads::<CHANNELS>,
};

pub const TAPS: TapKernel = TapKernel { group: 1, run: taps, columns: None };

unsafe fn pairs<const N: usize>(a: &DotArguments) {
    for r in 0..ROWS {
        let row = a.rows.add(r * a.row_stride).cast::<[i16; 2]>();
        let mut sums = *a.start.cast::<[i32; N]>();
        for k in 0..a.groups {
            let [x, y] = row.add(k).read_unaligned().map(i32::from);
            let weights = a.weights.cast::<[i16; 2]>().add(k * CHANNELS);
            for (n, sum) in sums.iter_mut().enumerate() {
                let [v, w] = weights.add(n).read_unaligned().map(i32::from);
                *sum += x * v + y * w;
            }
        }
        *a.sums.add(r * CHANNELS).cast() = sums;
    }
}

unsafe fn quads<const N: usize>(a: &DotArguments) {
    for r in 0..ROWS {
        let row = a.rows.add(r * a.row_stride).cast::<[u8; 4]>();
        let mut sums = *a.start.cast::<[i32; N]>();
        for k in 0..a.groups {
            let x = (*row.add(k)).map(i32::from);
            let weights = &*a.weights.cast::<[[i8; 4]; N]>().byte_add(k * CHANNELS * 4);
            for (sum, w) in sums.iter_mut().zip(weights) {
                let w = w.map(i32::from);
                *sum += (x[0] * w[0] + x[1] * w[1]) + (x[2] * w[2] + x[3] * w[3]);
            }
        }
        *a.sums.add(r * CHANNELS).cast() = sums;
    }
}

unsafe fn taps(a: &TapArguments) {
    if a.signed {
        taps_of::<true>(a);
    } else {
        taps_of::<false>(a);
    }
}

#[inline(always)]
unsafe fn taps_of<const SIGNED: bool>(a: &TapArguments) {
    for pixel in 0..a.pixels {
        let mut sums = *a.start.cast::<[i32; CHANNELS]>();
        for t in 0..a.count {
            let x = &*(*a.taps.add(t)).add(a.channel + pixel * a.step).cast::<[u8; CHANNELS]>();
            let weights = &*a.weights.add(t * CHANNELS).cast::<[i16; CHANNELS]>();
            for ((sum, &x), &w) in sums.iter_mut().zip(x).zip(weights) {
                let x = if SIGNED { i16::from(x as i8) } else { i16::from(x) };
                *sum += i32::from(x) * i32::from(w);
            }
        }
        *a.sums.add(pixel * CHANNELS).cast() = sums;
    }
}
