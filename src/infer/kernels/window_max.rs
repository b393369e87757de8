//! The largest element of each window of any dimensionality, or its place. Twin of `shaders/infer/window_max.wgsl`.
//! For pools that also give indices; the others are `pool` and `resample`.

use super::walk::coordinates;
use super::wgsl;
use crate::infer::kernel::{Cells, Kernel};
use crate::infer::plan::step::Step;
use crate::shader::{Precision, Variant, VariantBuilder};

/// What is written for each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// The largest element. Of equal ones it is the first that counts; NaN counts as larger than every number.
    Value,
    /// Its place in src, counted row-major over all axes, or with the first spatial axis as the fastest if
    /// `column_major`. Places are numbers: f16 holds those up to 2048.
    Index { column_major: bool },
}

/// Reads `[src]`: `[N, C, spatial...]`, writes `[dst]`: `[N, C, spatial...]`; any strides. Every window sees the picture.
#[derive(Clone, Debug)]
pub struct WindowMax {
    pub found: Found,
    pub kernel: Vec<usize>,
    pub stride: Vec<usize>,
    pub dilation: Vec<usize>,
    /// Padding before the picture.
    pub before: Vec<usize>,
}

impl WindowMax {
    /// What a step along each spatial axis of a picture of this size adds to a place.
    fn places(&self, size: &[usize]) -> Vec<usize> {
        (0..size.len())
            .map(|axis| match self.found {
                Found::Index { column_major: true } => size[..axis].iter().product(),
                _ => size[axis + 1..].iter().product(),
            })
            .collect()
    }
}

impl Kernel for WindowMax {
    fn stem(&self) -> &'static str {
        "window_max"
    }

    fn label(&self) -> String {
        if self.found == Found::Value { "window_max" } else { "window_max_index" }.to_string()
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (src, dst) = (&step.reads[0], &step.writes[0]);
        let size = &src.shape[2..];
        let (places, pixels) = (self.places(size), size.iter().product::<usize>());
        for flat in 0..dst.len() {
            let out = coordinates(flat, &dst.shape);
            let plane = out[0] * src.shape[1] + out[1];
            let mut best: Option<(f32, usize)> = None;
            for tap in 0..self.kernel.iter().product() {
                let tap = coordinates(tap, &self.kernel);
                let seen = (0..size.len()).map(|a| {
                    let s = (out[a + 2] * self.stride[a] + tap[a] * self.dilation[a]).checked_sub(self.before[a])?;
                    (s < size[a]).then_some(s)
                });
                let Some(seen) = seen.collect::<Option<Vec<usize>>>() else { continue };
                let value = reads[0][src.index(&[&out[..2], &seen].concat())].get();
                if best.is_none_or(|(best, _)| value > best || (value.is_nan() && !best.is_nan())) {
                    best = Some((value, seen.iter().zip(&places).map(|(s, p)| s * p).sum()));
                }
            }
            let (value, place) = best.unwrap_or_default();
            let result = if self.found == Found::Value { value } else { (plane * pixels + place) as f32 };
            writes[0][dst.index(&out)].set(result);
        }
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let (src, dst) = (&step.reads[0], &step.writes[0]);
        let size = &src.shape[2..];
        let mut b = VariantBuilder::new("window_max", include_str!("../../../shaders/infer/window_max.wgsl"))
            .precision(precision)
            .bool("INDEX", self.found != Found::Value)
            .u32("RANK", size.len())
            .u32("TAPS", self.kernel.iter().product())
            .u32("CHANNELS", dst.shape[1])
            .u32("PIXELS", size.iter().product())
            .u32("COUNT", dst.len());
        b = wgsl::spatial_view(wgsl::spatial_view(b, "SRC", src), "DST", dst);
        b = wgsl::spatial_lists(
            b,
            &[
                ("KERNEL", &self.kernel),
                ("STRIDE", &self.stride),
                ("DILATION", &self.dilation),
                ("BEFORE", &self.before),
                ("SIZES", size),
                ("OUTPUTS", &dst.shape[2..]),
                ("PLACES", &self.places(size)),
            ],
        );
        wgsl::build_flat(b, dst.len().div_ceil(64))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{SHAPES, WINDOWS, map, out_size, run, values};
    use super::*;
    use crate::infer::plan::view::{BufferId, View};

    #[test]
    fn places_name_the_first_maximum() {
        for window in WINDOWS {
            for shape in SHAPES {
                let [n, c, h, w] = shape;
                let [oh, ow] = out_size(&window, [h, w]);
                if oh * ow == 0 {
                    continue;
                }
                // Few distinct values, so that there are ties.
                let x: Vec<f32> = values(1, n * c * h * w).iter().map(|x| (x * 2.0).round()).collect();
                let [stride, dilation] = [window.stride, window.dilation];
                let to = [n, c, oh, ow];
                let run = |found| {
                    let (stride, dilation) = (stride.to_vec(), dilation.to_vec());
                    let before = window.pads[..2].to_vec();
                    let kernel = WindowMax { found, kernel: window.kernel.to_vec(), stride, dilation, before };
                    run(kernel, &[(map(0, shape, 1, 2), &x)], &map(1, to, 2, 0))
                };
                let largest = run(Found::Value);
                let rows = run(Found::Index { column_major: false });
                let columns = run(Found::Index { column_major: true });
                for flat in 0..largest.len() {
                    let at = coordinates(flat, &to);
                    let plane = at[0] * c + at[1];
                    let mut seen = Vec::new();
                    for ky in 0..window.kernel[0] {
                        for kx in 0..window.kernel[1] {
                            let y = (at[2] * stride[0] + ky * dilation[0]) as isize - window.pads[0] as isize;
                            let x_px = (at[3] * stride[1] + kx * dilation[1]) as isize - window.pads[1] as isize;
                            if (0..h as isize).contains(&y) && (0..w as isize).contains(&x_px) {
                                seen.push((y as usize, x_px as usize));
                            }
                        }
                    }
                    let value = |&(y, x_px): &(usize, usize)| x[(plane * h + y) * w + x_px];
                    let best = seen.iter().map(value).fold(f32::MIN, f32::max);
                    let Some((y, x_px)) = seen.iter().find(|&at| value(at) == best) else { continue };
                    assert_eq!(largest[flat], best, "{window:?} {shape:?}");
                    assert_eq!(rows[flat] as usize, (plane * h + y) * w + x_px, "{window:?} {shape:?}");
                    assert_eq!(columns[flat] as usize, plane * h * w + x_px * h + y, "{window:?} {shape:?}");
                }
            }
        }
    }

    #[test]
    fn nan_counts_as_largest() {
        let x = [1.0, f32::NAN, f32::NAN, f32::NEG_INFINITY, f32::NEG_INFINITY];
        let view = |buffer, n| View::row_major(BufferId(buffer), &[1, 1, n]);
        let kernel = |found| WindowMax { found, kernel: vec![2], stride: vec![1], dilation: vec![1], before: vec![0] };
        let got = run(kernel(Found::Index { column_major: false }), &[(view(0, 5), &x)], &view(1, 4));
        assert_eq!(got, [1.0, 1.0, 2.0, 3.0]);
        assert!(run(kernel(Found::Value), &[(view(0, 5), &x)], &view(1, 4))[..3].iter().all(|v| v.is_nan()));
    }
}
