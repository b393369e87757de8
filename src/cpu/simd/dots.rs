//! The micro-kernels of convolutions of bytes: exact sums of products in i32.
//!
//! Where the processor multiplies bytes, inputs stay bytes and come in fours with weights of i8: vpdpbusd (VNNI), sdot
//! (NEON's dotprod), or NEON's widening products. Otherwise inputs are widened to i16 before and come in pairs: x86's
//! vpmaddwd multiplies sixteen i16 and adds neighbouring products. (vpmaddubsw takes bytes as they are, but its sums of
//! two saturate at i16.)

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::Isa;
use std::ops::RangeInclusive;

/// Output channels of a panel of packed weights.
pub const CHANNELS: usize = 16;

/// How a row of inputs is stored for a kernel, and the weights with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// i16 by twos; weights `[group][CHANNELS][2]` of i16.
    Pairs,
    /// i8 or u8 by fours; weights `[group][CHANNELS][4]` of i8.
    Quads { signed: bool },
}

impl Inputs {
    /// Inputs of a group.
    pub fn group(self) -> usize {
        match self {
            Inputs::Pairs => 2,
            Inputs::Quads { .. } => 4,
        }
    }

    /// Of one input, or one weight.
    pub fn bytes(self) -> usize {
        4 / self.group()
    }
}

/// What a tile kernel works on.
#[derive(Clone, Copy, Debug)]
pub struct DotArguments {
    /// Inputs of the first pixel: `groups` groups of four bytes, for each of the kernel's `rows`.
    pub rows: *const u8,
    /// Bytes from pixel to pixel.
    pub row_stride: usize,
    pub groups: usize,
    /// Packed as [`Inputs`] says.
    pub weights: *const u8,
    /// `[CHANNELS]`: what sums start with.
    pub start: *const i32,
    /// `[rows][CHANNELS]`
    pub sums: *mut i32,
}

/// sums[r][n] = start[n] + Σk rows[r][k]·weights[k][n]. Unsafe: needs its instruction set, and the pointers of
/// [`DotArguments`] valid.
pub type TileKernel = unsafe fn(&DotArguments);

/// The kernels for tiles of one instruction set.
#[derive(Clone, Copy, Debug)]
pub struct DotKernel {
    /// Of the instructions, as labels show it.
    pub name: &'static str,
    pub inputs: Inputs,
    /// Pixels of a tile.
    pub rows: usize,
    /// Weights with which no sum in between overflows.
    pub weights: (i16, i16),
    /// For the first 8 channels of a panel, and for all 16.
    pub half: TileKernel,
    pub whole: TileKernel,
}

impl DotKernel {
    /// The best one of this processor for `isa`, which must be available, and weights within some bounds.
    pub fn best(isa: Isa, weights: RangeInclusive<i16>) -> DotKernel {
        DotKernel::available(isa).into_iter().find(|kernel| kernel.takes(&weights)).unwrap_or(portable::PAIRS)
    }

    /// True for weights within its bounds.
    pub fn takes(&self, weights: &RangeInclusive<i16>) -> bool {
        self.weights.0 <= *weights.start() && *weights.end() <= self.weights.1
    }

    /// All that this processor can run as part of `isa`, the best first.
    pub fn available(isa: Isa) -> Vec<DotKernel> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512 => x86::kernels(isa),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::kernels(),
            _ => vec![portable::QUADS, portable::PAIRS],
        }
    }
}

/// What a depthwise kernel works on: some pixels of a row, 16 channels.
#[derive(Clone, Copy, Debug)]
pub struct TapArguments {
    /// One pointer per tap of the first pixel to bytes of channel 0: a multiple of the kernel's group.
    pub taps: *const *const u8,
    pub count: usize,
    pub pixels: usize,
    /// What a tap moves from pixel to pixel, in bytes.
    pub step: usize,
    /// Added to each pointer.
    pub channel: usize,
    /// The bytes are i8.
    pub signed: bool,
    /// Of `count` taps for 16 channels, each at its [`TapKernel::place`].
    pub weights: *const i16,
    /// `[CHANNELS]`
    pub start: *const i32,
    /// `[pixels][CHANNELS]`
    pub sums: *mut i32,
}

/// sums[p][n] = start[n] + Σt taps[t][p·step + n]·weights[t][n] for 16 channels. `run` and `columns` are unsafe as
/// [`TileKernel`]; 16 bytes are read of each tap.
#[derive(Clone, Copy, Debug)]
pub struct TapKernel {
    /// Taps that it takes at once.
    pub group: usize,
    pub run: unsafe fn(&TapArguments),
    /// The same for windows of 3×3 at stride 1, whose taps are column by column of three and one without weights: what two
    /// columns saw is a column further what the first two of the next pixel see. Only the first column's taps are read.
    pub columns: Option<unsafe fn(&TapArguments)>,
}

impl TapKernel {
    /// The depthwise kernel. `isa` must be available.
    pub fn best(isa: Isa) -> TapKernel {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512 => x86::TAPS,
            _ => portable::TAPS,
        }
    }

    /// Where the weight of a tap for a channel stands: `[tap][CHANNELS]`, or for a group of two `[tap / 2][CHANNELS][2]`
    /// with channels 4–7 and 8–11 exchanged, as x86 interleaves the bytes of two taps within halves of a register.
    pub const fn place(&self, tap: usize, channel: usize) -> usize {
        match self.group {
            1 => tap * CHANNELS + channel,
            _ => {
                let slot = [0, 2, 1, 3][channel / 4] * 4 + channel % 4;
                (tap / 2 * CHANNELS + slot) * 2 + tap % 2
            }
        }
    }
}
