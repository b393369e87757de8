//! From sums to bytes, a vector of channels at a time.

use super::super::simd::activate::{Activate, Clip};
use super::super::simd::dots::CHANNELS;
use super::super::simd::tile::{Epilogue, Finish};
use super::super::simd::{SHIFT, Vector, Work};
use crate::infer::kernels::bytes::conv::{After, Requantise};
use crate::infer::kernels::conv::Residual;

/// Vectors of a panel where they are smallest.
const MOST_VECTORS: usize = 4;

/// A [`Requantise`] with its factors padded to whole panels.
#[derive(Debug)]
pub struct Finisher {
    requantise: Requantise,
}

fn clip([lo, hi]: [f32; 2]) -> Clip {
    Clip { lo, hi }
}

impl Finisher {
    pub fn new(mut requantise: Requantise) -> Finisher {
        let width = requantise.factors.len().next_multiple_of(CHANNELS);
        requantise.factors.resize(width, 0.0);
        requantise.offsets.resize(width, 0.0);
        Finisher { requantise }
    }

    /// Writes the bytes of `count` channels from `first` on, a multiple of [`CHANNELS`]: of sums `[row][CHANNELS]`, to
    /// one pointer per row, which is moved by `first`.
    ///
    /// # Safety
    /// Sums of whole panels can be read, `count ≤ CHANNELS` bytes written for each row.
    #[inline(always)]
    pub unsafe fn rows<V: Vector>(&self, sums: *const i32, first: usize, count: usize, dst: &[*mut u8]) {
        let q = &self.requantise;
        // SAFETY: as this.
        unsafe {
            let shift = V::splat(SHIFT);
            // Rounded, then moved by the zero point: a tie is decided before.
            let placed = |zero: i32| {
                let back = V::splat(SHIFT - zero as f32);
                move |t: V| t.add(shift).sub(back)
            };
            match &q.after {
                After::Nothing => self.bytes(sums, first, count, dst, placed(q.to.zero), None),
                After::Table(table) => self.bytes(sums, first, count, dst, placed(q.to.zero), Some(table)),
                After::Rescale(rescale) => {
                    let (clip, ratio) = (clip(rescale.bounds), V::splat(rescale.ratio));
                    let placed = placed(rescale.zero);
                    let again = |t: V| placed(clip.apply(t.add(shift).sub(shift).mul(ratio)));
                    self.bytes(sums, first, count, dst, again, None);
                }
            }
        }
    }

    /// A whole panel without activation or table: factors stay in registers.
    #[inline(always)]
    unsafe fn whole<V: Vector>(
        &self,
        sums: *const i32,
        (factors, offsets): (*const f32, *const f32),
        first: usize,
        dst: &[*mut u8],
        after: impl Fn(V) -> V,
    ) {
        // SAFETY: as `rows`.
        unsafe {
            let clip = clip(self.requantise.bounds);
            let mut of = [(V::splat(0.0), V::splat(0.0)); MOST_VECTORS];
            let vectors = CHANNELS / V::LANES;
            for (v, of) in of.iter_mut().enumerate().take(vectors) {
                *of = (V::load(factors.add(v * V::LANES)), V::load(offsets.add(v * V::LANES)));
            }
            for (row, dst) in dst.iter().enumerate() {
                let (sums, dst) = (sums.add(row * CHANNELS), dst.add(first));
                let mut steps = [V::splat(0.0); MOST_VECTORS];
                for v in 0..vectors {
                    let (factor, offset) = of[v];
                    steps[v] = after(clip.apply(V::load_i32(sums.add(v * V::LANES)).mul(factor).add(offset)));
                }
                if vectors == 1 {
                    steps[0].store_bytes(dst);
                } else {
                    for v in (0..vectors).step_by(2) {
                        steps[v].store_bytes_with(steps[v + 1], dst.add(v * V::LANES));
                    }
                }
            }
        }
    }

    /// `after` makes the byte, which the table is then asked for, of steps of the result within their bounds.
    #[inline(always)]
    unsafe fn bytes<V: Vector>(
        &self,
        sums: *const i32,
        first: usize,
        count: usize,
        dst: &[*mut u8],
        after: impl Fn(V) -> V,
        table: Option<&[u8; 256]>,
    ) {
        let q = &self.requantise;
        // SAFETY: the factors are padded; by contract.
        unsafe {
            let clip = clip(q.bounds);
            let (factors, offsets) = (q.factors.as_ptr().add(first), q.offsets.as_ptr().add(first));
            if count == CHANNELS && table.is_none() && q.activation.is_none() {
                self.whole::<V>(sums, (factors, offsets), first, dst, after);
                return;
            }
            for (row, dst) in dst.iter().enumerate() {
                let (sums, dst) = (sums.add(row * CHANNELS), dst.add(first));
                // Two roundings, as the twin has them.
                let number =
                    |at: usize| V::load_i32(sums.add(at)).mul(V::load(factors.add(at))).add(V::load(offsets.add(at)));
                let mut bytes = [0u8; CHANNELS];
                let whole = count == CHANNELS;
                let to = if whole && table.is_none() { dst } else { bytes.as_mut_ptr() };
                match q.activation {
                    None => {
                        for at in (0..count).step_by(V::LANES) {
                            after(clip.apply(number(at))).store_bytes(to.add(at));
                        }
                    }
                    Some(activation) => {
                        let mut numbers = [0f32; CHANNELS];
                        let tile = numbers.as_mut_ptr();
                        for at in (0..count).step_by(V::LANES) {
                            number(at).store(tile.add(at));
                        }
                        let epilogue = Epilogue { activation, residual: Residual::None };
                        let finish = Finish {
                            epilogue,
                            tile,
                            tile_stride: CHANNELS,
                            channels: CHANNELS,
                            dst: &[tile],
                            residual: &[],
                            offset: 0,
                        };
                        finish.apply::<V>();
                        let scale = V::splat(q.to.scale);
                        for at in (0..count).step_by(V::LANES) {
                            after(clip.apply(V::load(tile.add(at)).div(scale))).store_bytes(to.add(at));
                        }
                    }
                }
                match table {
                    // One store each: read again as a whole, bytes just written would have to wait.
                    Some(table) => {
                        let bytes = &bytes[..count];
                        for (at, &byte) in bytes.iter().enumerate() {
                            *dst.add(at) = table[usize::from(byte)];
                        }
                    }
                    None if whole => {}
                    None => store_first(&bytes, count, dst),
                }
            }
        }
    }
}

/// The first `count` bytes, in a few stores that may overlap.
///
/// # Safety
/// `count` bytes can be written.
#[inline(always)]
unsafe fn store_first(bytes: &[u8; CHANNELS], count: usize, to: *mut u8) {
    let from = bytes.as_ptr();
    // SAFETY: both parts lie within the first `count` bytes.
    unsafe {
        if count >= 8 {
            for at in [0, count - 8] {
                to.add(at).cast::<[u8; 8]>().write_unaligned(from.add(at).cast::<[u8; 8]>().read_unaligned());
            }
        } else if count >= 4 {
            for at in [0, count - 4] {
                to.add(at).cast::<[u8; 4]>().write_unaligned(from.add(at).cast::<[u8; 4]>().read_unaligned());
            }
        } else {
            for (at, &byte) in bytes.iter().enumerate().take(count) {
                *to.add(at) = byte;
            }
        }
    }
}

/// Rows of sums `[row][CHANNELS]` of one panel.
pub struct FinishRows<'a> {
    pub finisher: &'a Finisher,
    pub sums: &'a [i32],
    pub first_channel: usize,
    pub channels: usize,
    /// One pointer per row, to channel 0.
    pub dst: &'a [*mut u8],
}

impl Work for FinishRows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        assert!(self.dst.len() * CHANNELS <= self.sums.len());
        // SAFETY: by whoever made this.
        unsafe { self.finisher.rows::<V>(self.sums.as_ptr(), self.first_channel, self.channels, self.dst) };
    }
}
