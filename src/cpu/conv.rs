//! Fast convolution: implicit GEMM on a register tile of output pixels by output channels.
//!
//! Weights are packed at load into panels of two vectors of output channels, `[panel][tap y][tap x][in][channel]`. The
//! pixels of a tile are consecutive in the flattened output; where their input values lie comes as a table of
//! pointers per tap, with a row of zeros for taps outside the picture (Dukhan, *The Indirect Convolution Algorithm*,
//! 2019). Nothing is copied, and stride, dilation, padding and concat strides cost the inner loop nothing.

mod span;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use super::chain::{ByRows, RowMaps, RowShape};
use super::packed::{self, Packed};
use super::simd::tile::{Epilogue, Finish, Kernels, PANEL_VECTORS, ROWS_MAX, TILE_MAX, TileArguments, TileBuffer};
use super::simd::{self, Aligned};
use super::winograd::Winograd;
use super::{Isa, threads};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::conv::{Conv, Residual, Window};
use crate::infer::plan::step::{Element, Step};
use crate::infer::plan::view::FeatureMap;
pub(super) use span::SPAN_BYTES;
use span::{Span, Spans};

/// Weights that one pass over the pixels uses; they should stay in the second-level cache beside the pixels.
pub(super) const GROUP_BYTES: usize = 384 << 10;
/// Tables of pointers up to this many taps live on the stack.
const TAPS_ON_STACK: usize = 25;

/// The fast form of a convolution step; `None` where the views are no feature maps or do not fit the weights.
pub fn prepare(kernel: &Conv, step: &Step, isa: Isa) -> Option<Box<dyn FastKernel>> {
    if let Some(fast) = Winograd::new(kernel, step, isa, true) {
        return Some(Box::new(fast));
    }
    Some(Box::new(ConvFast::new(kernel, step, isa)?))
}

/// Every fast form of a convolution step, first the one that [`prepare`] takes.
pub fn forms(kernel: &Conv, step: &Step, isa: Isa) -> Vec<Box<dyn FastKernel>> {
    let winograd = Winograd::new(kernel, step, isa, false);
    let pays = winograd.as_ref().is_some_and(Winograd::pays);
    let mut forms: Vec<Box<dyn FastKernel>> = Vec::new();
    forms.extend(ConvFast::new(kernel, step, isa).map(|form| Box::new(form) as Box<dyn FastKernel>));
    forms.extend(winograd.map(|form| Box::new(form) as Box<dyn FastKernel>));
    if pays {
        forms.reverse();
    }
    forms
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
    weights: Arc<Packed>,
    /// Padded with zeros to whole panels.
    bias: Aligned,
    panels: Vec<Panel>,
    /// What taps outside the picture see.
    zeros: Aligned,
    /// Output rows and columns whose windows are inside the picture.
    inside: [Range<usize>; 2],
    /// How pixels with equal distances are found.
    spans: Spans,
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
        let pack = || {
            let mut weights = Aligned::zeros(at);
            for panel in &panels {
                let width = panel.vectors * lanes;
                let filters = &conv.weights[panel.first_channel * depth..][..panel.channels * depth];
                // Filters side by side, so that each line is written once.
                for at in 0..depth {
                    let (c, tap) = (at / taps, at % taps);
                    let row = &mut weights[panel.weights + (tap * src.channels + c) * width..][..panel.channels];
                    for (n, weight) in row.iter_mut().enumerate() {
                        *weight = filters[n * depth + at];
                    }
                }
            }
            weights
        };
        let weights = packed::packed(&conv.weights, ("direct", [lanes, taps, src.channels]), pack);
        let mut bias = Aligned::zeros(dst.channels.next_multiple_of(PANEL_VECTORS * lanes));
        bias[..dst.channels].copy_from_slice(&conv.bias);
        let mut fast = ConvFast {
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
            inside: [(0, src.height, dst.height), (1, src.width, dst.width)].map(|(axis, size, out)| {
                let whole = |at: &usize| taps_inside(&conv.window, axis, *at, size).len() == conv.window.kernel[axis];
                let first = (0..out).find(whole).unwrap_or(out);
                first..(first..out).find(|at| !whole(at)).unwrap_or(out)
            }),
            spans: Spans::None,
            macs: (dst.batch * dst.height * dst.width * dst.channels * depth) as u64,
        };
        fast.spans = fast.find_spans(depth);
        Some(fast)
    }

    /// Panels that are used together, as ranges of `self.panels`.
    fn groups(&self, at_least: usize) -> usize {
        (self.weights.values.len() * 4).div_ceil(GROUP_BYTES).max(at_least).clamp(1, self.panels.len().max(1))
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

impl From<RowMaps> for Maps {
    fn from(maps: RowMaps) -> Maps {
        Maps { src: maps.src.cast(), dst: maps.dst.cast(), residual: maps.residual.cast() }
    }
}

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

/// An output pixel.
#[derive(Clone, Copy)]
struct Pixel {
    n: usize,
    y: usize,
    x: usize,
}

/// Where the pixels of a tile lie.
struct Places {
    /// Top left corners of the windows; not to be read where they are outside the picture.
    corners: [*const f32; ROWS_MAX],
    /// Their coordinates, wrapped where negative.
    corner_y: [usize; ROWS_MAX],
    corner_x: [usize; ROWS_MAX],
    dst: [*mut f32; ROWS_MAX],
    residual: [*const f32; ROWS_MAX],
    /// All windows are inside the picture.
    inside: bool,
}

impl ConvFast {
    /// Computes some panels for some output pixels.
    ///
    /// # Safety
    /// The maps must be as `prepare` saw them; `count` pixels from `first` on, counted through the batch, each one
    /// `step` behind the one before: 1, or a row.
    unsafe fn run_tiles(&self, maps: Maps, first: usize, count: usize, step: usize, panels: &[Panel]) {
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
        let first_in_tile = tile.0.as_mut_ptr();
        // Rows of the tile for panels of one and of two vectors.
        let in_tile: [[*mut f32; ROWS_MAX]; PANEL_VECTORS] = std::array::from_fn(|vectors| {
            std::array::from_fn(|r| first_in_tile.wrapping_add(r * (vectors + 1) * self.kernels.lanes))
        });
        let clamp = self.epilogue.as_clamp();
        let area = self.dst.height * self.dst.width;
        let mut pixel = Pixel { n: first / area, y: first % area / self.dst.width, x: first % self.dst.width };
        let mut left = count;
        while left > 0 {
            let count = left.min(self.kernels.tallest());
            let (rows, kernels) = self.kernels.for_rows(count);
            let mut places = self.place(maps, &mut pixel, count, step);
            // Rows of the tile that no pixel is left for compute the last one again; nobody wants their sums.
            for r in count..rows {
                places.corners[r] = places.corners[count - 1];
                places.corner_y[r] = places.corner_y[count - 1];
                places.corner_x[r] = places.corner_x[count - 1];
            }
            let (runs, run_len) = self.fill_table(&places, rows, table);
            left -= count;
            if left > 0 && step == 1 {
                self.prefetch(maps.src, pixel, left);
            }
            for panel in panels {
                // A clamp happens in registers on the way to dst; all else, and partial vectors, go through the tile.
                let whole = panel.channels == panel.vectors * self.kernels.lanes;
                let direct = clamp.filter(|_| whole && rows == count);
                let (lo, hi) = direct.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
                let arguments = TileArguments {
                    rows: table.as_ptr(),
                    runs,
                    run_len,
                    weights: self.weights.values[panel.weights..].as_ptr(),
                    bias: self.bias[panel.first_channel..].as_ptr(),
                    out: if direct.is_some() { places.dst.as_ptr() } else { in_tile[panel.vectors - 1].as_ptr() },
                    out_offset: if direct.is_some() { panel.first_channel } else { 0 },
                    lo,
                    hi,
                };
                // SAFETY: `Kernels::new` found the instruction set; the table holds `runs` times `rows` pointers to
                // `run_len` values, the weights are packed for that depth.
                unsafe { kernels[panel.vectors - 1](&arguments) };
                if direct.is_none() {
                    let finish = Finish {
                        epilogue: self.epilogue,
                        tile: first_in_tile,
                        tile_stride: panel.vectors * self.kernels.lanes,
                        channels: panel.channels,
                        dst: &places.dst[..count],
                        residual: &places.residual[..count],
                        offset: panel.first_channel,
                    };
                    // SAFETY: as above; the pixels are inside dst and the residual.
                    unsafe { (self.kernels.finish)(&finish) };
                }
            }
        }
    }

    /// Computes some panels for some output pixels, counted through the batch.
    ///
    /// # Safety
    /// The maps must be as `prepare` saw them.
    unsafe fn run_pixels(&self, maps: Maps, pixels: Range<usize>, panels: &[Panel]) {
        if !matches!(self.spans, Spans::Whole) {
            // SAFETY: by contract.
            unsafe { self.run_tiles(maps, pixels.start, pixels.len(), 1, panels) };
            return;
        }
        let residual = self.residual.as_ref().map_or(0, |map| map.pixel_stride);
        let span = Span {
            src: maps.src.wrapping_add(pixels.start * self.src.pixel_stride),
            src_step: self.src.pixel_stride,
            dst: maps.dst.wrapping_add(pixels.start * self.dst.pixel_stride),
            residual: (maps.residual.wrapping_add(pixels.start * residual), residual),
            count: pixels.len(),
        };
        // SAFETY: by contract.
        unsafe { self.run_span(&span, &[0], self.src.channels, panels) };
    }

    /// Computes some panels for some output rows, counted through the batch.
    ///
    /// # Safety
    /// The maps must be as `prepare` saw them, as far as the rows and their windows go.
    unsafe fn run_some_rows(&self, maps: Maps, rows: Range<usize>, panels: &[Panel]) {
        // SAFETY: by contract.
        unsafe {
            match &self.spans {
                Spans::Rows { offsets, run_len } => self.run_row_spans(maps, rows, (offsets, *run_len), panels),
                _ => self.run_pixels(maps, rows.start * self.dst.width..rows.end * self.dst.width, panels),
            }
        }
    }

    /// Places the next `count` pixels, along rows (`step` 1) or down a column, and moves on behind them.
    #[inline]
    fn place(&self, maps: Maps, pixel: &mut Pixel, count: usize, step: usize) -> Places {
        let mut places = Places {
            corners: [maps.src; ROWS_MAX],
            corner_y: [0; ROWS_MAX],
            corner_x: [0; ROWS_MAX],
            dst: [maps.dst; ROWS_MAX],
            residual: [maps.residual; ROWS_MAX],
            inside: true,
        };
        let [stride_y, stride_x] = self.window.stride;
        let [top, left, ..] = self.window.pads;
        let mut r = 0;
        while r < count {
            let Pixel { n, y, x } = *pixel;
            let len = if step == 1 { (count - r).min(self.dst.width - x) } else { 1 };
            let (corner_y, corner_x) = ((y * stride_y).wrapping_sub(top), (x * stride_x).wrapping_sub(left));
            let offset = (n * self.src.image_stride)
                .wrapping_add(corner_y.wrapping_mul(self.src.row_stride))
                .wrapping_add(corner_x.wrapping_mul(self.src.pixel_stride));
            let corner = maps.src.wrapping_add(offset);
            let dst = maps.dst.wrapping_add(distance(&self.dst, n, y, x));
            let src_step = stride_x * self.src.pixel_stride;
            for i in 0..len {
                places.corners[r + i] = corner.wrapping_add(i * src_step);
                places.corner_y[r + i] = corner_y;
                places.corner_x[r + i] = corner_x.wrapping_add(i * stride_x);
                places.dst[r + i] = dst.wrapping_add(i * self.dst.pixel_stride);
            }
            if let Some(map) = &self.residual {
                let residual = maps.residual.wrapping_add(distance(map, n, y, x));
                for i in 0..len {
                    places.residual[r + i] = residual.wrapping_add(i * map.pixel_stride);
                }
            }
            let [rows, columns] = &self.inside;
            places.inside &= rows.contains(&y) && columns.contains(&x) && x + len <= columns.end;
            r += len;
            if step == 1 {
                pixel.x += len;
            }
            if step != 1 || pixel.x == self.dst.width {
                pixel.x = if step == 1 { 0 } else { x };
                pixel.y += 1;
                if pixel.y == self.dst.height {
                    pixel.y = 0;
                    pixel.n += 1;
                }
            }
        }
        places
    }

    /// Fills the table for the pixels of a tile; gives the number of runs and their length.
    #[inline]
    fn fill_table(&self, places: &Places, rows: usize, table: &mut [*const f32]) -> (usize, usize) {
        let [kernel_y, kernel_x] = self.window.kernel;
        let [step_y, step_x] = self.window.dilation;
        let map = &self.src;
        if places.inside {
            // Taps that are neighbours in memory make one run.
            let merged = step_x == 1 && map.pixel_stride == map.channels;
            let across = if merged { 1 } else { kernel_x };
            for ky in 0..kernel_y {
                for kx in 0..across {
                    let offset = ky * step_y * map.row_stride + kx * step_x * map.pixel_stride;
                    let run = &mut table[(ky * across + kx) * rows..][..rows];
                    for (entry, corner) in run.iter_mut().zip(&places.corners) {
                        *entry = corner.wrapping_add(offset);
                    }
                }
            }
            return (kernel_y * across, map.channels * kernel_x / across);
        }
        for ky in 0..kernel_y {
            for kx in 0..kernel_x {
                let (down, across) = (ky * step_y, kx * step_x);
                let offset = down * map.row_stride + across * map.pixel_stride;
                let run = &mut table[(ky * kernel_x + kx) * rows..][..rows];
                for (r, entry) in run.iter_mut().enumerate() {
                    let y = places.corner_y[r].wrapping_add(down);
                    let x = places.corner_x[r].wrapping_add(across);
                    let seen = y < map.height && x < map.width;
                    *entry = if seen { places.corners[r].wrapping_add(offset) } else { self.zeros.as_ptr() };
                }
            }
        }
        (kernel_y * kernel_x, map.channels)
    }

    /// Asks for the input of the tile that starts at `pixel`, as far as the tile before has not read it.
    #[inline]
    fn prefetch(&self, src: *const f32, pixel: Pixel, left: usize) {
        let [kernel_y, kernel_x] = self.window.kernel;
        let [stride_y, stride_x] = self.window.stride;
        let [top, pad, ..] = self.window.pads;
        let count = left.min(self.kernels.tallest()).min(self.dst.width - pixel.x);
        let overlap = (kernel_x - 1).saturating_sub(stride_x - 1);
        let first = (pixel.x * stride_x + overlap).saturating_sub(pad);
        let end = (pixel.x * stride_x + count * stride_x + overlap).saturating_sub(pad).min(self.src.width);
        for ky in 0..kernel_y {
            let y = (pixel.y * stride_y + ky * self.window.dilation[0]).wrapping_sub(top);
            if y >= self.src.height || first >= end {
                continue;
            }
            let row = src.wrapping_add(distance(&self.src, pixel.n, y, 0));
            if self.src.pixel_stride < 2 * self.src.channels {
                for i in (first * self.src.pixel_stride..end * self.src.pixel_stride).step_by(16) {
                    simd::prefetch(row.wrapping_add(i));
                }
            } else {
                for x in first..end {
                    for c in (0..self.src.channels).step_by(16) {
                        simd::prefetch(row.wrapping_add(x * self.src.pixel_stride + c));
                    }
                }
            }
        }
    }
}

/// Elements between the first element of a map and a pixel of it.
pub(super) fn distance(map: &FeatureMap, n: usize, y: usize, x: usize) -> usize {
    n * map.image_stride + y * map.row_stride + x * map.pixel_stride
}

/// The taps of a window that meet the picture along one axis, for output position `at`.
#[inline(always)]
pub(super) fn taps_inside(window: &Window, axis: usize, at: usize, len: usize) -> Range<usize> {
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
        let threads = threads::useful_threads(self.macs);
        let tall = self.kernels.tallest();
        let (rows, pixels) = (self.dst.batch * self.dst.height, self.dst.batch * self.dst.height * self.dst.width);
        let by_rows = matches!(self.spans, Spans::Rows { .. });
        let units = if by_rows { rows } else { pixels.div_ceil(tall) };
        let chunks = if threads == 1 { 1 } else { units.min(4 * threads) };
        let groups = self.groups(if threads == 1 { 1 } else { (2 * threads).div_ceil(chunks) });
        threads::share(threads, groups * chunks, |task| {
            let panels = &self.panels[threads::part(self.panels.len(), groups, task / chunks)];
            let units = threads::part(units, chunks, task % chunks);
            // SAFETY: the maps are those of `prepare`; tasks write different pixels or channels.
            unsafe {
                if by_rows {
                    self.run_some_rows(maps, units, panels);
                } else {
                    self.run_pixels(maps, units.start * tall..(units.end * tall).min(pixels), panels);
                }
            }
        });
    }

    fn by_rows(&self) -> Option<&dyn ByRows> {
        // Weights that do not stay in a cache would be read again for every few rows.
        (self.groups(1) == 1).then_some(self)
    }
}

impl ByRows for ConvFast {
    fn shape(&self) -> RowShape {
        RowShape { src: self.src, dst: self.dst, window: self.window, grain: 1, element: Element::F32, macs: self.macs }
    }

    unsafe fn run_rows(&self, maps: RowMaps, rows: Range<usize>) {
        // SAFETY: by contract.
        unsafe { self.run_some_rows(maps.into(), rows, &self.panels) };
    }
}
