//! From sums to bytes, sixteen channels at a time. Loops over arrays of sixteen, which the compiler turns into vectors of
//! whatever set this is entered with.

use super::super::simd::pairs::CHANNELS;
use super::super::simd::tile::{Epilogue, Finish};
use super::super::simd::{Vector, Work};
use crate::infer::bytes::{clamped, nearest};
use crate::infer::kernels::bytes::conv::{After, Requantise};
use crate::infer::kernels::conv::Residual;

/// A [`Requantise`] with its factors padded to whole panels.
#[derive(Debug)]
pub struct Finisher {
    requantise: Requantise,
}

impl Finisher {
    pub fn new(mut requantise: Requantise) -> Finisher {
        let width = requantise.factors.len().next_multiple_of(CHANNELS);
        requantise.factors.resize(width, 0.0);
        requantise.offsets.resize(width, 0.0);
        Finisher { requantise }
    }

    /// Writes the bytes of `count` channels from `first` on, a multiple of [`CHANNELS`], at `dst`.
    ///
    /// # Safety
    /// Sums of a whole panel can be read, `count ≤ CHANNELS` bytes written.
    #[inline(always)]
    pub unsafe fn panel<V: Vector>(&self, sums: *const i32, first: usize, count: usize, dst: *mut u8) {
        let q = &self.requantise;
        // SAFETY: the factors are padded; by contract.
        unsafe {
            let (factors, offsets) = (q.factors.as_ptr().add(first), q.offsets.as_ptr().add(first));
            let mut t = [0f32; CHANNELS];
            for (i, t) in t.iter_mut().enumerate() {
                *t = *sums.add(i) as f32 * *factors.add(i) + *offsets.add(i);
            }
            if let Some(activation) = q.activation {
                let at = t.as_mut_ptr();
                let epilogue = Epilogue { activation, residual: Residual::None };
                let dst = [at];
                Finish {
                    epilogue,
                    tile: at,
                    tile_stride: CHANNELS,
                    channels: CHANNELS,
                    dst: &dst,
                    residual: &[],
                    offset: 0,
                }
                .apply::<V>();
                for t in &mut t {
                    *t /= q.to.scale;
                }
            }
            let mut bytes = [0u8; CHANNELS];
            match &q.after {
                After::Nothing => {
                    for (byte, &t) in bytes.iter_mut().zip(&t) {
                        *byte = (nearest(clamped(t, q.bounds)) + q.to.zero) as u8;
                    }
                }
                After::Rescale(rescale) => {
                    for (byte, &t) in bytes.iter_mut().zip(&t) {
                        *byte = rescale.apply(nearest(clamped(t, q.bounds))) as u8;
                    }
                }
                After::Table(table) => {
                    for (byte, &t) in bytes.iter_mut().zip(&t) {
                        *byte = (nearest(clamped(t, q.bounds)) + q.to.zero) as u8;
                    }
                    for byte in &mut bytes {
                        *byte = table[usize::from(*byte)];
                    }
                }
            }
            if count == CHANNELS {
                dst.cast::<[u8; CHANNELS]>().write_unaligned(bytes);
            } else {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), dst, count);
            }
        }
    }
}

/// Rows of sums `[row][CHANNELS]` of one panel.
pub struct FinishRows<'a> {
    pub finisher: &'a Finisher,
    pub sums: *const i32,
    pub first_channel: usize,
    pub channels: usize,
    /// One pointer per row, to channel 0.
    pub dst: &'a [*mut u8],
}

impl Work for FinishRows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for (r, dst) in self.dst.iter().enumerate() {
            let (sums, dst) = (self.sums.wrapping_add(r * CHANNELS), dst.wrapping_add(self.first_channel));
            // SAFETY: by whoever made this.
            unsafe { self.finisher.panel::<V>(sums, self.first_channel, self.channels, dst) };
        }
    }
}
