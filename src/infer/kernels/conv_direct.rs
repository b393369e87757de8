//! Register tiles of a convolution: the loop of one thread of `shaders/infer/conv_direct.wgsl`, and what the twin of
//! [`super::conv::Conv`] is made of.

use std::cell::Cell;

use super::conv::{Conv, Epilogue};
use crate::infer::plan::view::FeatureMap;

/// Pixels that the twin computes at a time, as a thread of the shader does.
pub(super) const TWIN_PIXELS: usize = 4;

/// What one register tile of the twin needs.
pub(super) struct TwinTile<'a> {
    pub conv: &'a Conv,
    pub src: FeatureMap,
    pub dst: FeatureMap,
    pub x: &'a [Cell<f32>],
    pub y: &'a [Cell<f32>],
    pub packed: &'a [f32],
    pub epilogue: Epilogue<'a>,
}

impl TwinTile<'_> {
    /// Pixels `m..m + 4` (of `pixels`), output channels `o..o + W`.
    pub fn run<const W: usize>(&self, m: usize, pixels: usize, o: usize) {
        let (src, dst, window) = (&self.src, &self.dst, &self.conv.window);
        let row = dst.channels.next_multiple_of(4);
        let place = |p: usize| {
            // Past the last pixel the last one is computed again, and not stored.
            let m = (m + p).min(pixels - 1);
            let (image, rest) = (m / (dst.height * dst.width), m % (dst.height * dst.width));
            (image, rest / dst.width, rest % dst.width)
        };
        let places: [_; TWIN_PIXELS] = std::array::from_fn(place);
        let weights = |k: usize| -> &[f32; W] {
            let start = k * row + o;
            // The packed rows are `row` long and `o + W <= row`.
            self.packed[start..start + W].try_into().unwrap_or(&[0.0; W])
        };
        let mut sums = [*weights(0); TWIN_PIXELS];
        let mut k = 1;
        for ky in 0..window.kernel[0] {
            for kx in 0..window.kernel[1] {
                let at = places.map(|(n, y, x)| {
                    window.source([src.height, src.width], [y, x], [ky, kx]).map(|[y, x]| src.pixel(n, y, x))
                });
                for c in 0..src.channels {
                    let w = weights(k + c);
                    for (sums, at) in sums.iter_mut().zip(at) {
                        let x = at.map_or(0.0, |at| self.x[at + c].get());
                        for (sum, w) in sums.iter_mut().zip(w) {
                            *sum += x * w;
                        }
                    }
                }
                k += src.channels.next_multiple_of(4);
            }
        }
        for (p, (sums, (n, y, x))) in sums.iter().zip(places).enumerate() {
            if m + p >= pixels {
                break;
            }
            let at = dst.pixel(n, y, x);
            for (c, &sum) in sums.iter().enumerate().take(dst.channels.saturating_sub(o)) {
                self.y[at + o + c].set(self.epilogue.finish(sum, n, y, x, o + c));
            }
        }
    }
}
