//! From sums to bytes, a vector of channels at a time.

use super::super::simd::activate::{Activate, Clip};
use super::super::simd::dots::CHANNELS;
use super::super::simd::tile::{Epilogue, Finish};
use super::super::simd::{SHIFT, Vector, Work};
use crate::infer::activation::Activation;
use crate::infer::kernels::bytes::conv::{After, Requantise};
use crate::infer::kernels::conv::Residual;

/// Vectors of a panel where they are smallest.
const MOST_VECTORS: usize = 4;

/// A [`Requantise`] with its factors padded to whole panels.
#[derive(Debug)]
pub struct Finisher {
    requantise: Requantise,
}

/// How steps become bytes: at most `hi` of them, at least `least`, plus `zero`. All three are whole numbers.
#[derive(Clone, Copy)]
struct Placed {
    hi: f32,
    least: i16,
    zero: i16,
}

impl Placed {
    fn new([lo, hi]: [f32; 2], zero: i32) -> Placed {
        Placed { hi, least: lo as i16, zero: zero as i16 }
    }
}

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
            match (&q.after, q.activation) {
                (After::Rescale(rescale), None) => {
                    let (bounds, shift) = (Clip { lo: q.bounds[0], hi: q.bounds[1] }, V::splat(SHIFT));
                    let ratio = V::splat(rescale.ratio);
                    let again = |t: V| bounds.apply(t).add(shift).sub(shift).mul(ratio);
                    self.clamped(&panel, again, Placed::new(rescale.bounds, rescale.zero));
                }
                (After::Rescale(rescale), Some(activation)) => {
                    let (shift, ratio) = (V::splat(SHIFT), V::splat(rescale.ratio));
                    let again = |t: V| t.add(shift).sub(shift).mul(ratio);
                    self.activated(&panel, activation, again, Placed::new(rescale.bounds, rescale.zero));
                }
                (_, None) => self.clamped(&panel, |t: V| t, Placed::new(q.bounds, q.to.zero)),
                (_, Some(activation)) => {
                    self.activated(&panel, activation, |t: V| t, Placed::new(q.bounds, q.to.zero));
                }
            }
        }
    }

    /// Without an activation: factors stay in registers.
    #[inline(always)]
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
            for (row, dst) in panel.dst.iter().enumerate() {
                let sums = panel.sums.add(row * CHANNELS);
                let mut steps = [V::splat(0.0); MOST_VECTORS];
                for v in 0..vectors {
                    let (factor, offset) = of[v];
                    // Two roundings, as the twin has them.
                    steps[v] = after(V::load_i32(sums.add(v * V::LANES)).mul(factor).add(offset));
                }
                panel.store(&steps, placed, dst.add(panel.first));
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
    /// One row's steps as bytes, or as what a table has for them.
    ///
    /// # Safety
    /// As [`Finisher::rows`].
    #[inline(always)]
    unsafe fn store<V: Vector>(&self, steps: &[V; MOST_VECTORS], placed: Placed, dst: *mut u8) {
        let mut bytes = [0u8; CHANNELS];
        let is_whole = self.count == CHANNELS && self.table.is_none();
        let to = if is_whole { dst } else { bytes.as_mut_ptr() };
        // SAFETY: `to` has room for a panel; by contract.
        unsafe {
            let (hi, vectors) = (V::splat(placed.hi), CHANNELS / V::LANES);
            // In this order what is not a number stays that, and becomes the least value.
            if self.count == V::LANES && self.table.is_none() {
                hi.min(steps[0]).store_steps(placed.least, placed.zero, dst);
                return;
            }
            if vectors == 1 {
                hi.min(steps[0]).store_steps(placed.least, placed.zero, to);
            } else {
                for v in (0..vectors).step_by(2) {
                    let next = hi.min(steps[v + 1]);
                    hi.min(steps[v]).store_steps_with(next, placed.least, placed.zero, to.add(v * V::LANES));
                }
            }
            match self.table {
                // One store each: read again as a whole, bytes just written would have to wait.
                Some(table) => {
                    for (at, &byte) in bytes[..self.count].iter().enumerate() {
                        *dst.add(at) = table[usize::from(byte)];
                    }
                }
                None if is_whole => {}
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
