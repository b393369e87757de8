//! Resizing of feature maps. Twin of `shaders/infer/resize.wgsl`.
//!
//! Source coordinates are ratios of integers, (a·x + b) / d, so that twin and shader agree to the last bit about which
//! pixel is nearest: division of floats is inexact on GPUs.

use super::wgsl;
use crate::infer::kernel::{Cells, FastKernel, Kernel};
use crate::infer::plan::step::Step;
use crate::shader::{Precision, Variant, VariantBuilder};

/// Which source coordinate an output coordinate stands for (ONNX Resize, `coordinate_transformation_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coordinates {
    /// x / scale
    Asymmetric,
    /// (x + 1/2) / scale − 1/2
    HalfPixel,
    /// As HalfPixel, but 0 where the output has one pixel.
    PytorchHalfPixel,
    /// x·(in − 1)/(out − 1)
    AlignCorners,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interpolation {
    Nearest(Rounding),
    Linear,
}

/// ONNX Resize, `nearest_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    Floor,
    Ceil,
    /// 2.5 → 2
    PreferFloor,
    /// 2.5 → 3
    PreferCeil,
}

/// Reads `[src]`, writes `[dst]`; feature maps with equal channels. Only height and width change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resize {
    pub interpolation: Interpolation,
    pub coordinates: Coordinates,
    /// Output size over input size, for height and width, as the file gives it.
    pub scale: [f32; 2],
}

/// Source coordinate of output `x`: max(a·x + b, 0) / d.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Axis {
    size: usize,
    a: i64,
    b: i64,
    d: i64,
    /// Nearest: index = (step·n + shift) / (step·d) with n the numerator.
    step: i64,
    shift: i64,
}

impl Axis {
    fn new(size: usize, out: usize, scale: f32, coordinates: Coordinates, interpolation: Interpolation) -> Axis {
        // scale = p / q
        let (p, q) = fraction(scale, out, size);
        let (a, b, d) = match coordinates {
            Coordinates::PytorchHalfPixel if out == 1 => (0, 0, 1),
            Coordinates::AlignCorners if out == 1 => (0, 0, 1),
            Coordinates::Asymmetric => (q, 0, p),
            Coordinates::HalfPixel | Coordinates::PytorchHalfPixel => (2 * q, q - p, 2 * p),
            Coordinates::AlignCorners => (size as i64 - 1, 0, out as i64 - 1),
        };
        let (step, shift) = match interpolation {
            Interpolation::Nearest(Rounding::Floor) | Interpolation::Linear => (1, 0),
            Interpolation::Nearest(Rounding::Ceil) => (1, d - 1),
            Interpolation::Nearest(Rounding::PreferFloor) => (2, d - 1),
            Interpolation::Nearest(Rounding::PreferCeil) => (2, d),
        };
        Axis { size, a, b, d, step, shift }
    }

    fn numerator(&self, x: usize) -> i64 {
        (self.a * x as i64 + self.b).max(0)
    }

    fn nearest(&self, x: usize) -> usize {
        let index = (self.step * self.numerator(x) + self.shift) / (self.step * self.d);
        (index as usize).min(self.size - 1)
    }

    /// Two neighbours and the weight of the second.
    fn linear(&self, x: usize) -> (usize, usize, f32) {
        let n = self.numerator(x);
        let low = ((n / self.d) as usize).min(self.size - 1);
        ((low), (low + 1).min(self.size - 1), (n % self.d) as f32 / self.d as f32)
    }

    fn declare(&self, builder: VariantBuilder, name: &str) -> VariantBuilder {
        builder
            .u32(&format!("SIZE_{name}"), self.size)
            .i32(&format!("A_{name}"), self.a)
            .i32(&format!("B_{name}"), self.b)
            .i32(&format!("D_{name}"), self.d)
            .i32(&format!("STEP_{name}"), self.step)
            .i32(&format!("SHIFT_{name}"), self.shift)
    }
}

/// A scale as a ratio p / q of small integers: `out / size` where that is what the file means, else the simplest ratio
/// that equals the scale in f32 (by continued fractions).
fn fraction(scale: f32, out: usize, size: usize) -> (i64, i64) {
    const LIMIT: i64 = 1 << 13;
    if out as f32 / size as f32 == scale || !scale.is_finite() || scale <= 0.0 {
        let divisor = greatest_common_divisor(out.max(1), size.max(1));
        return ((out / divisor).max(1) as i64, (size / divisor).max(1) as i64);
    }
    let (mut p, mut q) = ((1, 0), (0, 1));
    let mut rest = f64::from(scale);
    loop {
        let whole = rest.floor();
        let next = (whole as i64 * p.0 + p.1, whole as i64 * q.0 + q.1);
        if next.0 > LIMIT || next.1 > LIMIT {
            break;
        }
        (p, q) = ((next.0, p.0), (next.1, q.0));
        if p.0 as f32 / q.0 as f32 == scale || rest - whole < 1e-12 {
            break;
        }
        rest = 1.0 / (rest - whole);
    }
    (p.0.max(1), q.0.max(1))
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

impl Resize {
    fn axes(&self, step: &Step) -> [Axis; 2] {
        let (src, dst) = (&step.reads[0].shape, &step.writes[0].shape);
        std::array::from_fn(|i| Axis::new(src[2 + i], dst[2 + i], self.scale[i], self.coordinates, self.interpolation))
    }
}

impl Resize {
    /// Per output row and per output column: two source neighbours and the weight of the second (0 for nearest).
    pub(crate) fn neighbours(&self, step: &Step) -> [Vec<(usize, usize, f32)>; 2] {
        let shape = &step.writes[0].shape;
        let axes = self.axes(step);
        std::array::from_fn(|i| {
            let of = |x| match self.interpolation {
                Interpolation::Linear => axes[i].linear(x),
                Interpolation::Nearest(_) => (axes[i].nearest(x), axes[i].nearest(x), 0.0),
            };
            (0..shape[2 + i]).map(of).collect()
        })
    }
}

impl Kernel for Resize {
    fn stem(&self) -> &'static str {
        "resize"
    }

    fn label(&self) -> String {
        let kind = if self.interpolation == Interpolation::Linear { "linear" } else { "nearest" };
        format!("resize_{kind}")
    }

    fn run_twin(&self, step: &Step, reads: &[Cells<'_>], writes: &[Cells<'_>]) {
        let (src, dst) = (wgsl::feature_map(&step.reads[0]), wgsl::feature_map(&step.writes[0]));
        let [rows, columns] = self.axes(step);
        for n in 0..dst.batch {
            for y in 0..dst.height {
                for x in 0..dst.width {
                    let out = &writes[0][dst.pixel(n, y, x)..][..dst.channels];
                    if self.interpolation == Interpolation::Linear {
                        let ((y0, y1, fy), (x0, x1, fx)) = (rows.linear(y), columns.linear(x));
                        let corners = [(y0, x0), (y0, x1), (y1, x0), (y1, x1)].map(|(y, x)| src.pixel(n, y, x));
                        for (c, out) in out.iter().enumerate() {
                            let [a, b, d, e] = corners.map(|at| reads[0][at + c].get());
                            let (top, bottom) = (a * (1.0 - fx) + b * fx, d * (1.0 - fx) + e * fx);
                            out.set(top * (1.0 - fy) + bottom * fy);
                        }
                    } else {
                        let seen = &reads[0][src.pixel(n, rows.nearest(y), columns.nearest(x))..];
                        for (out, seen) in out.iter().zip(seen) {
                            out.set(seen.get());
                        }
                    }
                }
            }
        }
    }

    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let (src, dst) = (wgsl::feature_map(&step.reads[0]), wgsl::feature_map(&step.writes[0]));
        let [rows, columns] = self.axes(step);
        let vectors = dst.channels.div_ceil(4);
        let count = dst.batch * dst.height * dst.width * vectors;
        let mut b =
            VariantBuilder::new("resize", include_str!("../../../shaders/infer/resize.wgsl")).precision(precision);
        b = wgsl::place(wgsl::place(b, "SRC", &src), "DST", &dst);
        b = wgsl::store(b, "@group(0) @binding(1) var<storage, read_write> dst", 1, dst.channels);
        b = columns
            .declare(rows.declare(b, "Y"), "X")
            .bool("LINEAR", self.interpolation == Interpolation::Linear)
            .u32("DST_HEIGHT", dst.height)
            .u32("DST_WIDTH", dst.width)
            .u32("VECTORS", vectors)
            .u32("COUNT", count);
        wgsl::build_flat(b, count.div_ceil(64))
    }

    fn fast(&self, step: &Step, isa: crate::cpu::Isa) -> Option<Box<dyn FastKernel>> {
        crate::cpu::resize::prepare(self, step, isa)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, coordinates, map, run, values};
    use super::*;

    /// The formulas of the ONNX standard, in f64 from the exact ratio.
    fn source(x: usize, size: usize, out: usize, coordinates: Coordinates) -> f64 {
        let (x, scale) = (x as f64, out as f64 / size as f64);
        match coordinates {
            Coordinates::Asymmetric => x * size as f64 / out as f64,
            Coordinates::PytorchHalfPixel if out == 1 => 0.0,
            Coordinates::HalfPixel | Coordinates::PytorchHalfPixel => (x + 0.5) / scale - 0.5,
            Coordinates::AlignCorners if out == 1 => 0.0,
            Coordinates::AlignCorners => x * (size as f64 - 1.0) / (out as f64 - 1.0),
        }
    }

    fn nearest(x: f64, size: usize, rounding: Rounding) -> usize {
        // Distances below 1e-9 are noise of this formula, not of the kernel.
        let x = (x * 1e9).round() / 1e9;
        let index = match rounding {
            Rounding::Floor => x.floor(),
            Rounding::Ceil => x.ceil(),
            Rounding::PreferFloor => (x - 0.5).ceil(),
            Rounding::PreferCeil => (x + 0.5).floor(),
        };
        index.clamp(0.0, size as f64 - 1.0) as usize
    }

    #[test]
    fn agrees_with_the_formulas() {
        let roundings = [Rounding::Floor, Rounding::Ceil, Rounding::PreferFloor, Rounding::PreferCeil];
        let all =
            [Coordinates::Asymmetric, Coordinates::HalfPixel, Coordinates::PytorchHalfPixel, Coordinates::AlignCorners];
        for mode in all {
            for ([h, w], [oh, ow]) in [([4, 3], [8, 9]), ([5, 7], [3, 2]), ([3, 1], [1, 5]), ([10, 6], [7, 6])] {
                let shape = [2, 3, h, w];
                let x = values(1, 6 * h * w);
                let scale = [oh as f32 / h as f32, ow as f32 / w as f32];
                let interpolations = roundings.map(Interpolation::Nearest).into_iter().chain([Interpolation::Linear]);
                for interpolation in interpolations {
                    let kernel = Resize { interpolation, coordinates: mode, scale };
                    let got = run(kernel, &[(map(0, shape, 1, 0), &x)], &map(1, [2, 3, oh, ow], 0, 2));
                    let expected: Vec<f64> = (0..got.len())
                        .map(|flat| {
                            let at = coordinates(&[2, 3, oh, ow], flat);
                            let (sy, sx) = (source(at[2], h, oh, mode), source(at[3], w, ow, mode));
                            let load = |y: usize, x_px: usize| f64::from(x[((at[0] * 3 + at[1]) * h + y) * w + x_px]);
                            match interpolation {
                                Interpolation::Nearest(r) => load(nearest(sy, h, r), nearest(sx, w, r)),
                                Interpolation::Linear => {
                                    let (sy, sx) = (sy.clamp(0.0, h as f64 - 1.0), sx.clamp(0.0, w as f64 - 1.0));
                                    let (y0, x0) = (sy as usize, sx as usize);
                                    let (y1, x1) = ((y0 + 1).min(h - 1), (x0 + 1).min(w - 1));
                                    let (fy, fx) = (sy - y0 as f64, sx - x0 as f64);
                                    let top = load(y0, x0) * (1.0 - fx) + load(y0, x1) * fx;
                                    let bottom = load(y1, x0) * (1.0 - fx) + load(y1, x1) * fx;
                                    top * (1.0 - fy) + bottom * fy
                                }
                            }
                        })
                        .collect();
                    assert_close(&got, &expected, 1e-6, &format!("{kernel:?} {h}x{w} to {oh}x{ow}"));
                }
            }
        }
    }

    #[test]
    fn scales_become_small_ratios() {
        assert_eq!(fraction(2.0, 26, 13), (2, 1));
        assert_eq!(fraction(7.0 / 3.0, 7, 3), (7, 3));
        // The size was rounded down: 7 · 1.5 = 10.5.
        assert_eq!(fraction(1.5, 10, 7), (3, 2));
        assert_eq!(fraction(0.6, 4, 7), (3, 5));
        let (p, q) = fraction(std::f32::consts::PI, 31, 10);
        assert!((p as f64 / q as f64 - f64::from(std::f32::consts::PI)).abs() < 1e-6);
        assert_eq!(fraction(f32::NAN, 4, 2), (2, 1));
    }
}
