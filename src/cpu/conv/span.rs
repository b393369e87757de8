//! Pixels at even distances in src and dst: all of a pointwise convolution, or the inside of each row. They need no table
//! of pointers, and one call of the micro-kernel works through many tiles.

use std::ops::Range;

use super::super::simd::tile::{Finish, ROWS_MAX, SpanArguments};
use super::{ConvFast, Maps, Panel, distance};
use crate::infer::plan::view::FeatureMap;

/// Windows of more values than this gain nothing from spans.
const SPAN_DEPTH_MAX: usize = 512;
/// Inputs and outputs of the pixels that pass through all panels before the next ones; they stay in the first-level
/// cache.
pub const SPAN_BYTES: usize = 24 << 10;

/// Pixels at even distances in src and dst, which need no table of pointers.
#[derive(Debug)]
pub(super) enum Spans {
    /// Not worth it.
    None,
    /// The columns inside of each row. Offsets of the runs of a window and their length.
    Rows { offsets: Vec<usize>, run_len: usize },
    /// All pixels are one span.
    Whole,
}

/// Pixels at even distances.
pub(super) struct Span {
    /// The first value of the first pixel's window.
    pub src: *const f32,
    pub src_step: usize,
    pub dst: *mut f32,
    /// The first pixel and the distance to the next.
    pub residual: (*const f32, usize),
    pub count: usize,
}

impl ConvFast {
    /// Which pixels lie at even distances, and whether that is worth anything.
    pub(super) fn find_spans(&self, depth: usize) -> Spans {
        let window = &self.window;
        let even = |map: &FeatureMap| {
            (map.height <= 1 || map.row_stride == map.width * map.pixel_stride)
                && (map.batch <= 1 || map.image_stride == map.height * map.width * map.pixel_stride)
        };
        if window.is_pointwise() && even(&self.src) && even(&self.dst) && self.residual.as_ref().is_none_or(even) {
            return Spans::Whole;
        }
        if depth > SPAN_DEPTH_MAX || self.inside[1].len() < 2 * self.kernels.tallest() {
            return Spans::None;
        }
        let [kernel_y, kernel_x] = window.kernel;
        let [step_y, step_x] = window.dilation;
        let merged = step_x == 1 && self.src.pixel_stride == self.src.channels;
        let across = if merged { 1 } else { kernel_x };
        let offset = |ky: usize, kx: usize| ky * step_y * self.src.row_stride + kx * step_x * self.src.pixel_stride;
        let offsets = (0..kernel_y).flat_map(|ky| (0..across).map(move |kx| (ky, kx)));
        Spans::Rows {
            offsets: offsets.map(|(ky, kx)| offset(ky, kx)).collect(),
            run_len: self.src.channels * kernel_x / across,
        }
    }

    /// Computes some panels for some output rows, counted through the batch: the pixels inside as spans, the others
    /// tile by tile.
    ///
    /// # Safety
    /// The maps must be as `prepare` saw them.
    pub(super) unsafe fn run_row_spans(
        &self,
        maps: Maps,
        rows: Range<usize>,
        (offsets, run_len): (&[usize], usize),
        panels: &[Panel],
    ) {
        let [inside_y, inside_x] = &self.inside;
        let (height, width) = (self.dst.height, self.dst.width);
        let mut row = rows.start;
        while row < rows.end {
            if !inside_y.contains(&(row % height)) {
                // SAFETY: by contract.
                unsafe { self.run_tiles(maps, row * width, width, 1, panels) };
                row += 1;
                continue;
            }
            let end = (row - row % height + inside_y.end).min(rows.end);
            for row in row..end {
                let (n, y, x) = (row / height, row % height, inside_x.start);
                let src = distance(
                    &self.src,
                    n,
                    y * self.window.stride[0] - self.window.pads[0],
                    x * self.window.stride[1] - self.window.pads[1],
                );
                let span = Span {
                    src: maps.src.wrapping_add(src),
                    src_step: self.window.stride[1] * self.src.pixel_stride,
                    dst: maps.dst.wrapping_add(distance(&self.dst, n, y, x)),
                    residual: match &self.residual {
                        Some(map) => (maps.residual.wrapping_add(distance(map, n, y, x)), map.pixel_stride),
                        None => (maps.residual, 0),
                    },
                    count: inside_x.len(),
                };
                // SAFETY: the windows of these pixels are inside.
                unsafe { self.run_span(&span, offsets, run_len, panels) };
            }
            for x in (0..inside_x.start).chain(inside_x.end..width) {
                // SAFETY: by contract.
                unsafe { self.run_tiles(maps, row * width + x, end - row, width, panels) };
            }
            row = end;
        }
    }

    /// Computes some panels for a span.
    ///
    /// # Safety
    /// The windows of its pixels must be inside the picture.
    pub(super) unsafe fn run_span(&self, span: &Span, offsets: &[usize], run_len: usize, panels: &[Panel]) {
        let (Some(first), Some(last)) = (panels.first(), panels.last()) else { return };
        let channels = first.first_channel..last.first_channel + last.channels;
        let clamp = self.epilogue.as_clamp();
        let (lo, hi) = clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let tall = self.kernels.tallest();
        let per_pixel = (span.src_step.min(offsets.len() * run_len) + channels.len()) * 4;
        let block = (SPAN_BYTES / per_pixel / tall).max(2) * tall;
        let mut at = 0;
        while at < span.count {
            // The rest is no block of its own, so that its last tile can overlap the one before.
            let count = if span.count - at < block + tall { span.count - at } else { block };
            let dst = span.dst.wrapping_add(at * self.dst.pixel_stride);
            for panel in panels {
                let arguments = SpanArguments {
                    src: span.src.wrapping_add(at * span.src_step),
                    src_step: span.src_step,
                    offsets: offsets.as_ptr(),
                    runs: offsets.len(),
                    run_len,
                    weights: self.weights.values[panel.weights..].as_ptr(),
                    bias: self.bias[panel.first_channel..].as_ptr(),
                    dst: dst.wrapping_add(panel.first_channel),
                    dst_step: self.dst.pixel_stride,
                    channels: panel.channels,
                    lo,
                    hi,
                };
                // SAFETY: by contract; the weights are packed for that depth.
                unsafe { self.kernels.span(panel.vectors, &arguments, count) };
            }
            if clamp.is_none() {
                let residual = (span.residual.0.wrapping_add(at * span.residual.1), span.residual.1);
                // SAFETY: pixels of dst and of the residual.
                unsafe { self.finish_span((dst, residual), count, &channels) };
            }
            at += count;
        }
    }

    /// Activation and residual of pixels whose sums are in dst.
    ///
    /// # Safety
    /// `count` pixels at the distances of dst and of the residual.
    unsafe fn finish_span(
        &self,
        (dst, (residual, residual_step)): (*mut f32, (*const f32, usize)),
        count: usize,
        channels: &Range<usize>,
    ) {
        let mut finish = Finish {
            epilogue: self.epilogue,
            tile: dst.wrapping_add(channels.start),
            tile_stride: self.dst.pixel_stride,
            channels: channels.len(),
            dst: &[dst],
            residual: &[residual],
            offset: channels.start,
        };
        let dense = |map: &FeatureMap| map.pixel_stride == channels.len();
        if dense(&self.dst) && self.residual.as_ref().is_none_or(dense) {
            finish.channels *= count;
            // SAFETY: by contract; the pixels follow one another without gaps. Vectors are read before they are
            // written. `Kernels::new` found the instruction set.
            unsafe { (self.kernels.finish)(&finish) };
            return;
        }
        for at in (0..count).step_by(ROWS_MAX) {
            let some = (count - at).min(ROWS_MAX);
            let dst: [_; ROWS_MAX] = std::array::from_fn(|i| dst.wrapping_add((at + i) * self.dst.pixel_stride));
            let residual: [_; ROWS_MAX] = std::array::from_fn(|i| residual.wrapping_add((at + i) * residual_step));
            let tile = dst[0].wrapping_add(channels.start);
            let part = Finish { tile, dst: &dst[..some], residual: &residual[..some], ..finish };
            // SAFETY: as above.
            unsafe { (self.kernels.finish)(&part) };
        }
    }
}
