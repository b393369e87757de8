//! From sums to bytes, a vector of channels at a time.

use super::super::simd::activate::{Activate, Clip};
use super::super::simd::dots::CHANNELS;
use super::super::simd::tile::{Epilogue, Finish};
use super::super::simd::{SHIFT, Vector};
use crate::infer::activation::Activation;
use crate::infer::bytes::{clamped, nearest};
use crate::infer::kernels::bytes::conv::{After, Requantise};
use crate::infer::kernels::conv::Residual;

/// Vectors of a panel where they are smallest.
const MOST_VECTORS: usize = 4;

/// A [`Requantise`] with its factors padded to whole panels.
#[derive(Debug)]
pub struct Finisher {
    requantise: Requantise,
}

/// How steps become bytes: within bounds, plus the zero point.
#[derive(Clone, Copy)]
struct Placed {
    bounds: [i16; 2],
    zero: i16,
}

impl Placed {
    fn new(bounds: [f32; 2], zero: i32) -> Placed {
        Placed { bounds: bounds.map(|bound| bound as i16), zero: zero as i16 }
    }
}

/// Larger steps are none that an i32 holds for sure.
const LARGEST: f64 = (1 << 30) as f64;
/// Larger ones are not rounded by adding [`SHIFT`].
const LARGEST_ROUNDED: f64 = (1 << 21) as f64;

/// Sums of one panel and where their bytes go.
struct Panel<'a> {
    /// `[row][CHANNELS]`
    sums: *const i32,
    first: usize,
    count: usize,
    dst: &'a [*mut u8],
    table: Option<&'a [u8; 256]>,
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
        let table = if let After::Table(table) = &q.after { Some(&**table) } else { None };
        let panel = Panel { sums, first, count, dst, table };
        // SAFETY: as this.
        unsafe {
            let (shift, clip) = (V::splat(SHIFT), Clip { lo: q.bounds[0], hi: q.bounds[1] });
            match (&q.after, q.activation) {
                (After::Rescale(rescale), activation) => {
                    let ratio = V::splat(rescale.ratio);
                    // Monotone, so that to clip after it is enough, at what it makes of the bounds.
                    let bounds = q.bounds.map(|steps| nearest(clamped(steps * rescale.ratio, rescale.bounds)) as f32);
                    let placed = Placed::new(bounds, rescale.zero);
                    let small = q.largest < LARGEST_ROUNDED && q.largest * f64::from(rescale.ratio) < LARGEST;
                    let clip_again = Clip { lo: bounds[0], hi: bounds[1] };
                    let again = |t: V| t.add(shift).sub(shift).mul(ratio);
                    match activation {
                        Some(activation) => {
                            self.activated(&panel, activation, |t: V| clip_again.apply(again(t)), placed);
                        }
                        None if small => self.clamped(&panel, again, placed),
                        None => self.clamped(&panel, |t: V| clip_again.apply(again(clip.apply(t))), placed),
                    }
                }
                (_, activation) => {
                    let placed = Placed::new(q.bounds, q.to.zero);
                    match activation {
                        Some(activation) => self.activated(&panel, activation, |t: V| t, placed),
                        None if q.largest < LARGEST => self.clamped(&panel, |t: V| t, placed),
                        None => self.clamped(&panel, |t: V| clip.apply(t), placed),
                    }
                }
            }
        }
    }

    /// Without an activation: factors stay in registers.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // several arrays
    unsafe fn clamped<V: Vector>(&self, panel: &Panel, after: impl Fn(V) -> V, placed: Placed) {
        let q = &self.requantise;
        // SAFETY: as `rows`; the factors are padded.
        unsafe {
            let (factors, offsets) = (q.factors.as_ptr().add(panel.first), q.offsets.as_ptr().add(panel.first));
            let mut of = [(V::splat(0.0), V::splat(0.0)); MOST_VECTORS];
            let vectors = CHANNELS / V::LANES;
            for (v, of) in of.iter_mut().enumerate().take(vectors) {
                *of = (V::load(factors.add(v * V::LANES)), V::load(offsets.add(v * V::LANES)));
            }
            let dst = panel.dst.iter().map(|dst| dst.wrapping_add(panel.first)).enumerate();
            let Placed { bounds, zero } = placed;
            // A loop for each, so that nothing is asked in it.
            match (panel.table, panel.count) {
                (None, CHANNELS) if vectors > 1 => {
                    for (row, dst) in dst {
                        for v in (0..vectors).step_by(2) {
                            let steps = panel.steps(row, v, of[v], &after);
                            let next = panel.steps(row, v + 1, of[v + 1], &after);
                            steps.store_steps_with(next, bounds, zero, dst.add(v * V::LANES));
                        }
                    }
                }
                (None, count) if count == V::LANES => {
                    for (row, dst) in dst {
                        panel.steps(row, 0, of[0], &after).store_steps(bounds, zero, dst);
                    }
                }
                _ => {
                    for (row, dst) in dst {
                        let mut steps = [V::splat(0.0); MOST_VECTORS];
                        for v in 0..vectors {
                            steps[v] = panel.steps(row, v, of[v], &after);
                        }
                        panel.store(&steps, placed, dst);
                    }
                }
            }
        }
    }

    /// With an activation of numbers.
    #[inline(always)]
    unsafe fn activated<V: Vector>(
        &self,
        panel: &Panel,
        activation: Activation,
        after: impl Fn(V) -> V,
        placed: Placed,
    ) {
        let q = &self.requantise;
        // SAFETY: as `rows`; the factors are padded.
        unsafe {
            let (factors, offsets) = (q.factors.as_ptr().add(panel.first), q.offsets.as_ptr().add(panel.first));
            let (bounds, scale) = (Clip { lo: q.bounds[0], hi: q.bounds[1] }, V::splat(q.to.scale));
            for (row, dst) in panel.dst.iter().enumerate() {
                let sums = panel.sums.add(row * CHANNELS);
                let mut numbers = [0f32; CHANNELS];
                let tile = numbers.as_mut_ptr();
                for at in (0..CHANNELS).step_by(V::LANES) {
                    let number = V::load_i32(sums.add(at)).mul(V::load(factors.add(at)));
                    number.add(V::load(offsets.add(at))).store(tile.add(at));
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
                let mut steps = [V::splat(0.0); MOST_VECTORS];
                for (v, steps) in steps.iter_mut().enumerate().take(CHANNELS / V::LANES) {
                    *steps = after(bounds.apply(V::load(tile.add(v * V::LANES)).div(scale)));
                }
                panel.store(&steps, placed, dst.add(panel.first));
            }
        }
    }
}

impl Panel<'_> {
    /// A vector of a row's sums by their factors and offsets.
    ///
    /// # Safety
    /// As [`Finisher::rows`].
    #[inline(always)]
    unsafe fn steps<V: Vector>(&self, row: usize, v: usize, (factor, offset): (V, V), after: &impl Fn(V) -> V) -> V {
        // SAFETY: by contract. Two roundings, as the twin has them.
        unsafe { after(V::load_i32(self.sums.add(row * CHANNELS + v * V::LANES)).mul(factor).add(offset)) }
    }

    /// One row's steps as bytes, or as what a table has for them.
    ///
    /// # Safety
    /// As [`Finisher::rows`].
    #[inline(always)]
    unsafe fn store<V: Vector>(&self, steps: &[V; MOST_VECTORS], placed: Placed, dst: *mut u8) {
        let mut bytes = [0u8; CHANNELS];
        let to = bytes.as_mut_ptr();
        // SAFETY: `to` has room for a panel; by contract.
        unsafe {
            let (Placed { bounds, zero }, vectors) = (placed, CHANNELS / V::LANES);
            if vectors == 1 {
                steps[0].store_steps(bounds, zero, to);
            } else {
                for v in (0..vectors).step_by(2) {
                    steps[v].store_steps_with(steps[v + 1], bounds, zero, to.add(v * V::LANES));
                }
            }
            match self.table {
                // One store each: read again as a whole, bytes just written would have to wait.
                Some(table) => {
                    for (at, &byte) in bytes[..self.count].iter().enumerate() {
                        *dst.add(at) = table[usize::from(byte)];
                    }
                }
                None => store_first(&bytes, self.count, dst),
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
