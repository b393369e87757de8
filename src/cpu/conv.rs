//! Fast convolution: implicit GEMM on a register tile of output pixels by output channels.
//!
//! Weights are packed at load into panels of two vectors of output channels, `[panel][tap y][tap x][in][channel]`. The
//! pixels of a tile are consecutive in the flattened output; where their input values lie comes as a table of
//! pointers per tap, with a row of zeros for taps outside the picture (Dukhan, *The Indirect Convolution Algorithm*,
//! 2019). Nothing is copied, and stride, dilation, padding and concat strides cost the inner loop nothing.

use super::simd::tile::{Epilogue, Finish, Kernels, PANEL_VECTORS, ROWS_MAX, TILE_MAX, TileArguments, TileBuffer};
use super::simd::{self, Aligned};
use super::{Isa, threads};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::conv::{Conv, Residual, Window};
use crate::infer::plan::step::Step;
use crate::infer::plan::view::FeatureMap;

/// Weights that one pass over the pixels uses; they should stay in the second-level cache beside the pixels.
const GROUP_BYTES: usize = 384 << 10;
/// Tables of pointers up to this many taps live on the stack.
const TAPS_ON_STACK: usize = 25;

/// The fast form of a convolution step; `None` where the views are no feature maps or do not fit the weights.
pub fn prepare(kernel: &Conv, step: &Step, isa: Isa) -> Option<Box<dyn FastKernel>> {
    Some(Box::new(ConvFast::new(kernel, step, isa)?))
}

/// Some output channels: one or two vectors of them.
#[derive(Clone, Copy, Debug)]
struct Panel {
    /// Where its weights start.
    weights: usize,
    first_channel: usize,
    channels: usize,
    vectors: usize,
}

/// A convolution with packed weights.
#[derive(Debug)]
pub struct ConvFast {
    isa: Isa,
    kernels: Kernels,
    window: Window,
    src: FeatureMap,
    dst: FeatureMap,
    residual: Option<FeatureMap>,
    epilogue: Epilogue,
    weights: Aligned,
    /// Padded with zeros to whole panels.
    bias: Aligned,
    panels: Vec<Panel>,
    /// What taps outside the picture see.
    zeros: Aligned,
    macs: u64,
}

/// The feature maps of a windowed step with an optional residual: src, dst, residual. `None` where they do not fit
/// together.
pub(super) fn windowed_maps(step: &Step, residual: Residual) -> Option<(FeatureMap, FeatureMap, Option<FeatureMap>)> {
    let src = step.reads.first()?.feature_map()?;
    let dst = step.writes.first()?.feature_map()?;
    let residual = match residual {
        Residual::None => None,
        _ => {
            let map = step.reads.get(1)?.feature_map()?;
            let same =
                (map.batch, map.channels, map.height, map.width) == (dst.batch, dst.channels, dst.height, dst.width);
            Some(same.then_some(map)?)
        }
    };
    (src.batch == dst.batch).then_some((src, dst, residual))
}

impl ConvFast {
    fn new(conv: &Conv, step: &Step, isa: Isa) -> Option<ConvFast> {
        let kernels = Kernels::new(isa)?;
        let (src, dst, residual) = windowed_maps(step, conv.residual)?;
        let taps = conv.window.kernel[0] * conv.window.kernel[1];
        let depth = taps * src.channels;
        if depth == 0 || conv.weights.len() != dst.channels * depth || conv.bias.len() != dst.channels {
            return None;
        }
        let lanes = kernels.lanes;
        let mut panels = Vec::new();
        let (mut first_channel, mut at) = (0, 0);
        while first_channel < dst.channels {
            let left = dst.channels - first_channel;
            let vectors = left.div_ceil(lanes).min(PANEL_VECTORS);
            let channels = left.min(vectors * lanes);
            panels.push(Panel { weights: at, first_channel, channels, vectors });
            at += depth * vectors * lanes;
            first_channel += channels;
        }
        let mut weights = Aligned::zeros(at);
        for panel in &panels {
            let width = panel.vectors * lanes;
            for n in 0..panel.channels {
                let filter = &conv.weights[(panel.first_channel + n) * depth..][..depth];
                for tap in 0..taps {
                    for c in 0..src.channels {
                        weights[panel.weights + (tap * src.channels + c) * width + n] = filter[c * taps + tap];
                    }
                }
            }
        }
        let mut bias = Aligned::zeros(dst.channels.next_multiple_of(PANEL_VECTORS * lanes));
        bias[..dst.channels].copy_from_slice(&conv.bias);
        Some(ConvFast {
            isa,
            kernels,
            window: conv.window,
            src,
            dst,
            residual,
            epilogue: Epilogue { activation: conv.activation, residual: conv.residual },
            weights,
            bias,
            panels,
            zeros: Aligned::zeros(src.channels),
            macs: (dst.batch * dst.height * dst.width * dst.channels * depth) as u64,
        })
    }

    /// Panels that are used together, as ranges of `self.panels`.
    fn groups(&self, at_least: usize) -> usize {
        (self.weights.len() * 4).div_ceil(GROUP_BYTES).max(at_least).clamp(1, self.panels.len().max(1))
    }
}

/// Pointers to the feature maps of a step, handed to threads that write different pixels or channels.
#[derive(Clone, Copy)]
pub(super) struct Maps {
    pub src: *const f32,
    pub dst: *mut f32,
    /// Null when there is none.
    pub residual: *const f32,
}

// SAFETY: the threads read what the step only reads, and write different elements.
unsafe impl Sync for Maps {}

impl Maps {
    /// The maps of a windowed step.
    pub fn new(step: &Step, memory: &super::Memory, residual: bool) -> Maps {
        Maps {
            src: memory.pointer(&step.reads[0]),
            dst: memory.pointer(&step.writes[0]),
            residual: if residual { memory.pointer(&step.reads[1]) } else { std::ptr::null() },
        }
    }
}

/// Output pixels in order, with the top left corner of their windows.
#[derive(Clone, Copy)]
struct Pixel {
    n: usize,
    y: usize,
    x: usize,
}

impl ConvFast {
    /// Computes some panels for some output pixels.
    ///
    /// # Safety
    /// The maps must be as `prepare` saw them.
    unsafe fn run_part(&self, maps: Maps, pixels: std::ops::Range<usize>, panels: &[Panel]) {
        let taps = self.window.kernel[0] * self.window.kernel[1];
        let mut on_stack = [std::ptr::null::<f32>(); TAPS_ON_STACK * ROWS_MAX];
        let mut on_heap = Vec::new();
        let table: &mut [*const f32] = if taps <= TAPS_ON_STACK {
            &mut on_stack
        } else {
            on_heap.resize(taps * ROWS_MAX, std::ptr::null());
            &mut on_heap
        };
        let mut tile = TileBuffer([0.0; TILE_MAX]);
        let lanes = self.kernels.lanes;
        let area = self.dst.height * self.dst.width;
        let mut at = pixels.start;
        let mut pixel = Pixel { n: at / area, y: at % area / self.dst.width, x: at % self.dst.width };
        while at < pixels.end {
            let count = (pixels.end - at).min(self.kernels.tallest());
            let (rows, kernels) = self.kernels.for_rows(count);
            let mut of_rows = [pixel; ROWS_MAX];
            for row in &mut of_rows[..count] {
                *row = pixel;
                pixel.x += 1;
                if pixel.x == self.dst.width {
                    pixel.x = 0;
                    pixel.y += 1;
                    if pixel.y == self.dst.height {
                        pixel.y = 0;
                        pixel.n += 1;
                    }
                }
            }
            // Rows of the tile that no pixel is left for compute the last one again; nobody writes them.
            let last = of_rows[count - 1];
            of_rows[count..rows].fill(last);
            // SAFETY: the pixels are inside dst, and taps inside src or in the zeros.
            let (runs, run_len) = unsafe { self.fill_table(maps.src, &of_rows[..rows], table) };
            let mut dst = [std::ptr::null_mut::<f32>(); ROWS_MAX];
            let mut residual = [std::ptr::null::<f32>(); ROWS_MAX];
            for r in 0..count {
                let Pixel { n, y, x } = of_rows[r];
                dst[r] = maps.dst.wrapping_add(distance(&self.dst, n, y, x));
                if let Some(map) = &self.residual {
                    residual[r] = maps.residual.wrapping_add(distance(map, n, y, x));
                }
            }
            for panel in panels {
                let arguments = TileArguments {
                    rows: table.as_ptr(),
                    runs,
                    run_len,
                    weights: self.weights[panel.weights..].as_ptr(),
                    bias: self.bias[panel.first_channel..].as_ptr(),
                    tile: tile.0.as_mut_ptr(),
                };
                // SAFETY: `Kernels::new` found the instruction set; the table holds `runs` times `rows` pointers to
                // `run_len` values, the weights are packed for that depth.
                unsafe { kernels[panel.vectors - 1](&arguments) };
                for r in 0..count {
                    dst[r] = dst[r].wrapping_add(panel.first_channel);
                    residual[r] = residual[r].wrapping_add(panel.first_channel);
                }
                let finish = Finish {
                    epilogue: self.epilogue,
                    tile: tile.0.as_ptr(),
                    tile_stride: panel.vectors * lanes,
                    channels: panel.channels,
                    dst: &dst[..count],
                    residual: &residual[..count],
                };
                simd::run(self.isa, finish);
                for r in 0..count {
                    dst[r] = dst[r].wrapping_sub(panel.first_channel);
                    residual[r] = residual[r].wrapping_sub(panel.first_channel);
                }
            }
            at += count;
        }
    }

    /// Fills the table for the pixels of a tile; gives the number of runs and their length.
    ///
    /// # Safety
    /// `src` must be the map that `prepare` saw.
    unsafe fn fill_table(&self, src: *const f32, rows: &[Pixel], table: &mut [*const f32]) -> (usize, usize) {
        let [kernel_y, kernel_x] = self.window.kernel;
        let [step_y, step_x] = self.window.dilation;
        let [stride_y, stride_x] = self.window.stride;
        let [top, left, ..] = self.window.pads;
        let map = &self.src;
        // Corners in the padded picture, and the range of corners whose windows lie inside.
        let last_y = (map.height + top).checked_sub((kernel_y - 1) * step_y);
        let last_x = (map.width + left).checked_sub((kernel_x - 1) * step_x);
        let inside = match (last_y, last_x) {
            (Some(end_y), Some(end_x)) => rows
                .iter()
                .all(|p| (top..end_y).contains(&(p.y * stride_y)) && (left..end_x).contains(&(p.x * stride_x))),
            _ => false,
        };
        let height = rows.len();
        if inside {
            let mut corners = [src; ROWS_MAX];
            for (corner, p) in corners.iter_mut().zip(rows) {
                *corner = src.wrapping_add(distance(map, p.n, p.y * stride_y - top, p.x * stride_x - left));
            }
            // Taps that are neighbours in memory make one run.
            let merged = step_x == 1 && map.pixel_stride == map.channels;
            let across = if merged { 1 } else { kernel_x };
            for ky in 0..kernel_y {
                for kx in 0..across {
                    let offset = ky * step_y * map.row_stride + kx * step_x * map.pixel_stride;
                    let run = &mut table[(ky * across + kx) * height..][..height];
                    for (entry, corner) in run.iter_mut().zip(&corners) {
                        *entry = corner.wrapping_add(offset);
                    }
                }
            }
            return (kernel_y * across, map.channels * kernel_x / across);
        }
        for ky in 0..kernel_y {
            for kx in 0..kernel_x {
                let run = &mut table[(ky * kernel_x + kx) * height..][..height];
                for (entry, p) in run.iter_mut().zip(rows) {
                    let y = (p.y * stride_y + ky * step_y).wrapping_sub(top);
                    let x = (p.x * stride_x + kx * step_x).wrapping_sub(left);
                    *entry = if y < map.height && x < map.width {
                        src.wrapping_add(distance(map, p.n, y, x))
                    } else {
                        self.zeros.as_ptr()
                    };
                }
            }
        }
        (kernel_y * kernel_x, map.channels)
    }
}

/// Elements between the first element of a map and a pixel of it.
pub(super) fn distance(map: &FeatureMap, n: usize, y: usize, x: usize) -> usize {
    n * map.image_stride + y * map.row_stride + x * map.pixel_stride
}

/// The taps of a window that meet the picture along one axis, for output position `at`.
#[inline(always)]
pub(super) fn taps_inside(window: &Window, axis: usize, at: usize, len: usize) -> std::ops::Range<usize> {
    let corner = at * window.stride[axis];
    let (pad, step) = (window.pads[axis], window.dilation[axis]);
    let first = pad.saturating_sub(corner).div_ceil(step);
    let end = (len + pad).saturating_sub(corner).div_ceil(step).min(window.kernel[axis]);
    first.min(end)..end
}

impl FastKernel for ConvFast {
    fn label(&self) -> String {
        let [ky, kx] = self.window.kernel;
        let (rows, lanes) = (self.kernels.tallest(), self.kernels.lanes * PANEL_VECTORS);
        format!("conv_{ky}x{kx}_{}_{rows}x{lanes}_{}", self.epilogue.activation.label(), self.isa.name())
    }

    fn run(&self, step: &Step, memory: &super::Memory) {
        let maps = windowed_maps(step, self.epilogue.residual);
        assert_eq!(maps, Some((self.src, self.dst, self.residual)), "not the step that the kernel was prepared for");
        let maps = Maps::new(step, memory, self.residual.is_some());
        let pixels = self.dst.batch * self.dst.height * self.dst.width;
        let threads = threads::useful_threads(self.macs);
        let tiles = pixels.div_ceil(self.kernels.tallest());
        let chunks = if threads == 1 { 1 } else { tiles.min(4 * threads) };
        let groups = self.groups(if threads == 1 { 1 } else { (2 * threads).div_ceil(chunks) });
        threads::share(threads, groups * chunks, |task| {
            let panels = threads::part(self.panels.len(), groups, task / chunks);
            let tiles = threads::part(tiles, chunks, task % chunks);
            let tall = self.kernels.tallest();
            let part = tiles.start * tall..(tiles.end * tall).min(pixels);
            // SAFETY: the maps are those of `prepare`; tasks write different pixels or channels.
            unsafe { self.run_part(maps, part, &self.panels[panels]) };
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::*;
    use super::*;
    use crate::infer::activation::Activation;

    struct Case {
        batch: usize,
        ins: usize,
        outs: usize,
        size: [usize; 2],
        window: Window,
        activation: Activation,
        residual: Residual,
        gap: usize,
    }

    fn window(kernel: usize, stride: usize, pads: [usize; 4], dilation: usize) -> Window {
        Window { kernel: [kernel; 2], stride: [stride; 2], pads, dilation: [dilation; 2] }
    }

    fn check(case: &Case) {
        let &Case { batch, ins, outs, size: [h, w], window, activation, residual, gap } = case;
        let (Some(oh), Some(ow)) = (output_len(&window, 0, h), output_len(&window, 1, w)) else {
            return;
        };
        let taps = window.kernel[0] * window.kernel[1];
        let scale = 2.0 / ((ins * taps) as f32).sqrt();
        let weights: Vec<f32> = values(1, outs * ins * taps).iter().map(|x| x * scale).collect();
        let bias = values(2, outs);
        let src = values(3, batch * ins * h * w);
        let added = values(4, batch * outs * oh * ow);
        let mut wanted = naive_conv(&window, 1, (&src, [batch, ins, h, w]), &weights, &bias, [oh, ow]);
        for (y, &r) in wanted.iter_mut().zip(&added) {
            *y = match residual {
                Residual::None => activate_f64(activation, *y),
                Residual::BeforeActivation => activate_f64(activation, *y + f64::from(r)),
                Residual::AfterActivation => activate_f64(activation, *y) + f64::from(r),
            };
        }
        let conv = Conv { window, weights: Arc::new(weights), bias: Arc::new(bias), activation, residual };
        let mut reads = vec![map(0, [batch, ins, h, w], gap, gap)];
        if residual != Residual::None {
            reads.push(map(1, [batch, outs, oh, ow], 1, gap));
        }
        let write = map(reads.len(), [batch, outs, oh, ow], 2 * gap, gap);
        let step = step(reads, vec![write]);
        for isa in Isa::available() {
            let fast = prepare(&conv, &step, isa).expect("feature maps");
            let got = outputs(&*fast, &step, &[&src, &added]);
            let what = format!("{} {ins}->{outs} {h}x{w} {window:?} {residual:?} gap {gap}", fast.label());
            assert_close(&got, &wanted, 1e-5, &what);
        }
    }

    #[test]
    fn odd_channels_and_windows_agree_with_a_naive_loop() {
        let plain = Activation::None;
        for ins in [1, 3, 5, 7, 13, 16, 33, 64] {
            for outs in [1, 3, 5, 7, 13, 16, 33, 64] {
                for (kernel, stride) in [(1, 1), (1, 2), (3, 1), (3, 2), (5, 1)] {
                    let size = if kernel == 5 { [6, 9] } else { [5, 8] };
                    let pads = [kernel / 2, kernel / 2, kernel / 2, 0];
                    let window = window(kernel, stride, pads, 1);
                    let (activation, residual) = (plain, Residual::None);
                    check(&Case { batch: 1, ins, outs, size, window, activation, residual, gap: ins % 3 });
                }
            }
        }
    }

    #[test]
    fn odd_pictures_pads_and_dilations_agree_with_a_naive_loop() {
        let windows = [
            window(3, 1, [1, 1, 1, 1], 1),
            window(3, 2, [0, 0, 1, 1], 1),
            window(3, 1, [2, 0, 1, 3], 1),
            window(3, 1, [2, 2, 2, 2], 2),
            window(5, 2, [2, 1, 2, 1], 1),
            window(7, 1, [3, 3, 3, 3], 1),
            Window { kernel: [1, 3], stride: [1, 2], pads: [0, 1, 0, 1], dilation: [1, 1] },
            Window { kernel: [3, 1], stride: [2, 1], pads: [4, 0, 4, 0], dilation: [3, 1] },
        ];
        for window in windows {
            for size in [[1, 1], [1, 7], [9, 1], [4, 31], [13, 5]] {
                for gap in [0, 3] {
                    let (activation, residual) = (Activation::Relu, Residual::None);
                    check(&Case { batch: 2, ins: 5, outs: 19, size, window, activation, residual, gap });
                }
            }
        }
    }

    #[test]
    fn every_activation_and_residual_agrees_with_its_formula() {
        for activation in activations() {
            for residual in [Residual::None, Residual::BeforeActivation, Residual::AfterActivation] {
                let window = window(3, 1, [1; 4], 1);
                check(&Case { batch: 1, ins: 6, outs: 37, size: [5, 6], window, activation, residual, gap: 1 });
            }
        }
    }

    #[test]
    fn threads_divide_pixels_and_channels() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
        pool.install(|| {
            for (size, outs) in [([17, 23], 40), ([1, 1], 200), ([2, 2], 100)] {
                let window = window(3, 1, [1; 4], 1);
                let (activation, residual) = (Activation::Silu, Residual::None);
                check(&Case { batch: 1, ins: 64, outs, size, window, activation, residual, gap: 0 });
            }
        });
    }

    #[test]
    fn what_is_no_feature_map_is_left_to_the_twin() {
        let window = window(1, 1, [0; 4], 1);
        let conv = Conv {
            window,
            weights: Arc::new(vec![0.0; 6]),
            bias: Arc::new(vec![0.0; 2]),
            activation: Activation::None,
            residual: Residual::None,
        };
        let good = map(0, [1, 3, 4, 4], 0, 0);
        let mut planar = good.clone();
        planar.strides = vec![48, 16, 4, 1];
        let dst = map(1, [1, 2, 4, 4], 0, 0);
        assert!(prepare(&conv, &step(vec![good], vec![dst.clone()]), Isa::Portable).is_some());
        assert!(prepare(&conv, &step(vec![planar], vec![dst]), Isa::Portable).is_none());
    }
}
