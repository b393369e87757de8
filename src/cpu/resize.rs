//! Fast resizing of feature maps: nearest and linear, vectors over channels.

use std::ops::Range;

use super::blocks::Shared;
use super::conv::distance;
use super::simd::{self, Vector, Work};
use super::{Isa, Memory, threads};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::resize::{Interpolation, Resize};
use crate::infer::plan::step::Step;
use crate::infer::plan::view::FeatureMap;

/// The fast form of a resizing step; `None` where the views are no feature maps.
pub fn prepare(kernel: &Resize, step: &Step, isa: Isa) -> Option<Box<dyn FastKernel>> {
    let (src, dst) = maps(step)?;
    if !isa.is_available() {
        return None;
    }
    let [rows, columns] = kernel.neighbours(step);
    let linear = kernel.interpolation == Interpolation::Linear;
    Some(Box::new(ResizeFast { isa, linear, src, dst, rows, columns }))
}

fn maps(step: &Step) -> Option<(FeatureMap, FeatureMap)> {
    let (src, dst) = (step.reads.first()?.feature_map()?, step.writes.first()?.feature_map()?);
    let same = (src.batch, src.channels) == (dst.batch, dst.channels);
    (same && src.height > 0 && src.width > 0).then_some((src, dst))
}

/// A resizing with its coordinates worked out.
#[derive(Debug)]
pub struct ResizeFast {
    isa: Isa,
    linear: bool,
    src: FeatureMap,
    dst: FeatureMap,
    /// Per output row: two source rows and the weight of the second.
    rows: Vec<(usize, usize, f32)>,
    columns: Vec<(usize, usize, f32)>,
}

impl FastKernel for ResizeFast {
    fn label(&self) -> String {
        format!("resize_{}_{}", if self.linear { "linear" } else { "nearest" }, self.isa.name())
    }

    fn run(&self, step: &Step, memory: &Memory) {
        assert_eq!(maps(step), Some((self.src, self.dst)), "not the step that the kernel was prepared for");
        let src = Shared(memory.pointer(&step.reads[0]));
        let dst = Shared(memory.pointer(&step.writes[0]));
        let (src, dst) = (&src, &dst);
        let rows = self.dst.batch * self.dst.height;
        let threads = threads::useful_threads((rows * self.dst.width * self.dst.channels) as u64);
        let parts = if threads == 1 { 1 } else { rows.min(4 * threads) };
        threads::share(threads, parts, |task| {
            let rows = threads::part(rows, parts, task);
            simd::run(self.isa, Rows { resize: self, src: src.0, dst: dst.0, rows });
        });
    }
}

/// Some output rows, counted through the batch.
struct Rows<'a> {
    resize: &'a ResizeFast,
    src: *const f32,
    dst: *mut f32,
    rows: Range<usize>,
}

impl Work for Rows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let r = self.resize;
        let channels = r.dst.channels;
        for row in self.rows.clone() {
            let (n, y) = (row / r.dst.height, row % r.dst.height);
            let (y0, y1, fy) = r.rows[y];
            for (x, &(x0, x1, fx)) in r.columns.iter().enumerate() {
                let dst = self.dst.wrapping_add(distance(&r.dst, n, y, x));
                let corner = |y, x| self.src.wrapping_add(distance(&r.src, n, y, x));
                let corners = [corner(y0, x0), corner(y0, x1), corner(y1, x0), corner(y1, x1)];
                let mut c = 0;
                // SAFETY: the pixels are inside the maps and `c` counts whole or partial vectors of their channels.
                unsafe {
                    while c + V::LANES <= channels {
                        let y = if r.linear {
                            mix(corners.map(|corner| V::load(corner.add(c))), fx, fy)
                        } else {
                            V::load(corners[0].add(c))
                        };
                        y.store(dst.add(c));
                        c += V::LANES;
                    }
                    if c < channels {
                        let rest = channels - c;
                        let y = if r.linear {
                            mix(corners.map(|corner| V::load_first(corner.add(c), rest)), fx, fy)
                        } else {
                            V::load_first(corners[0].add(c), rest)
                        };
                        y.store_first(dst.add(c), rest);
                    }
                }
            }
        }
    }
}

/// Bilinear interpolation between top left, top right, bottom left, bottom right.
#[inline(always)]
unsafe fn mix<V: Vector>([a, b, c, d]: [V; 4], fx: f32, fy: f32) -> V {
    // SAFETY: called with the vectors of an instruction set that is there.
    unsafe {
        let (fx0, fx1) = (V::splat(1.0 - fx), V::splat(fx));
        let top = b.mul_add(fx1, a.mul(fx0));
        let bottom = d.mul_add(fx1, c.mul(fx0));
        bottom.mul_add(V::splat(fy), top.mul(V::splat(1.0 - fy)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::infer::kernels::resize::{Coordinates, Rounding};

    #[test]
    fn nearest_doubles_and_linear_interpolates() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("threads");
        for channels in [1, 5, 16, 37] {
            for (h, w, factor) in [(1, 1, 2), (3, 5, 2), (4, 2, 3)] {
                let (oh, ow) = (h * factor, w * factor);
                let x = values(5, channels * h * w);
                let at = |c: usize, y: usize, x_at: usize| f64::from(x[(c * h + y) * w + x_at]);
                let source = |o: usize, size: usize| -> (usize, usize, f64) {
                    let s = ((o as f64 + 0.5) / factor as f64 - 0.5).max(0.0);
                    (s as usize, (s as usize + 1).min(size - 1), s.fract())
                };
                let (mut nearest, mut linear) = (Vec::new(), Vec::new());
                for c in 0..channels {
                    for (oy, ox) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
                        nearest.push(at(c, oy / factor, ox / factor));
                        let ((y0, y1, fy), (x0, x1, fx)) = (source(oy, h), source(ox, w));
                        let top = at(c, y0, x0) * (1.0 - fx) + at(c, y0, x1) * fx;
                        let bottom = at(c, y1, x0) * (1.0 - fx) + at(c, y1, x1) * fx;
                        linear.push(top * (1.0 - fy) + bottom * fy);
                    }
                }
                let step = step(vec![map(0, [1, channels, h, w], 0, 2)], vec![map(1, [1, channels, oh, ow], 3, 1)]);
                let scale = [factor as f32; 2];
                for isa in Isa::available() {
                    for (interpolation, coordinates, wanted) in [
                        (Interpolation::Nearest(Rounding::Floor), Coordinates::Asymmetric, &nearest),
                        (Interpolation::Linear, Coordinates::HalfPixel, &linear),
                    ] {
                        let kernel = Resize { interpolation, coordinates, scale };
                        let fast = prepare(&kernel, &step, isa).expect("feature maps");
                        let got = pool.install(|| outputs(&*fast, &step, &[&x]));
                        assert_close(&got, wanted, 1e-6, &format!("{} {channels} {h}x{w}", fast.label()));
                    }
                }
            }
        }
    }
}
