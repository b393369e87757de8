//! Convolution of bytes with one group: implicit GEMM.
//!
//! A block of output pixels is gathered once: one row per pixel with all that its window sees, as bytes or widened to i16,
//! as the micro-kernel takes them; pixels that lie in memory as their rows would be are not gathered. Where windows of a
//! line of pixels overlap, what they see is gathered column by column instead: the rows of neighbours then overlap in memory
//! as the windows do. Panels of sixteen output channels pass over the block. Taps in the padding are the zero point; what
//! the zero point adds to each sum is what sums start with.

use super::super::chain::{ByRows, RowMaps, RowShape};
use super::super::conv::{GROUP_BYTES, distance};
use super::super::simd::dots::{CHANNELS, DotArguments, DotKernel, Inputs};
use super::super::simd::{self, Aligned, Vector, Work};
use super::super::{Isa, Memory, threads};
use super::finish::Finisher;
use super::{Bytes, label_of, maps, start_of};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::bytes::conv::ByteConv;
use crate::infer::kernels::conv::Window;
use crate::infer::plan::step::{Element, Step};
use crate::infer::plan::view::FeatureMap;
use std::ops::Range;

/// Gathered rows of a block; they should stay in the second-level cache beside the weights of a panel.
const BLOCK_BYTES: usize = 40 << 10;
/// Most pixels of a block.
const BLOCK_ROWS: usize = 48;
/// Least pixels of a line that is gathered column by column: blocks end with their line then.
const LINE_PIXELS: usize = 12;
/// Bytes that may be written or read behind gathered rows.
const SLACK_BYTES: usize = 64;
/// Most lines of a window that is gathered so.
const MOST_LINES: usize = 8;

/// A dense convolution with packed weights.
#[derive(Debug)]
pub struct DenseFast {
    label: String,
    isa: Isa,
    kernel: DotKernel,
    window: Window,
    src: FeatureMap,
    dst: FeatureMap,
    signed: bool,
    /// Added to bytes of src, modulo 256, to make the bytes that the kernel takes: 0 or 128.
    flip: u8,
    /// What taps in the padding see.
    zero: i16,
    /// Bytes of a row: whole groups.
    row_bytes: usize,
    /// Inputs come column by column: `[kernel x][kernel y][in]`, else `[kernel y][kernel x][in]`.
    by_columns: bool,
    /// Bytes from a gathered row to the next.
    row_stride: usize,
    /// The pixels of src side by side are the rows of all blocks, but for what is done to each byte.
    in_a_piece: bool,
    /// All pixels of dst are equally far apart.
    dst_in_a_line: bool,
    /// Pixels of a block, a multiple of the kernel's.
    block: usize,
    /// `[panel]` and then as [`Inputs`] says.
    weights: Aligned,
    /// What sums start with, padded to whole panels.
    start: Vec<i32>,
    finisher: Finisher,
    macs: u64,
}

impl DenseFast {
    /// One group, from and to feature maps, by a kernel that takes the weights.
    pub fn new(conv: &ByteConv, src: FeatureMap, dst: FeatureMap, isa: Isa, kernel: DotKernel) -> Option<DenseFast> {
        let taps = conv.window.taps();
        let inputs = taps * src.channels;
        if inputs == 0 || conv.weights.len() != dst.channels * inputs || conv.bias.len() != dst.channels {
            return None;
        }
        let group = kernel.inputs.group();
        let row_bytes = inputs.div_ceil(group) * 4;
        let panels = dst.channels.div_ceil(CHANNELS);
        let ([kernel_y, kernel_x], [_, stride_x]) = (conv.window.kernel, conv.window.stride);
        let by_columns =
            kernel_x > stride_x && conv.window.dilation[1] == 1 && kernel_y <= MOST_LINES && dst.width >= LINE_PIXELS;
        let row_stride =
            if by_columns { stride_x * kernel_y * src.channels * kernel.inputs.bytes() } else { row_bytes };
        let mut weights = Aligned::zeros(panels * row_bytes / 4 * CHANNELS);
        let packed: &mut [u8] = bytemuck::cast_slice_mut(&mut weights);
        let bytes = kernel.inputs.bytes();
        for (o, filter) in conv.weights.chunks_exact(inputs).enumerate() {
            let panel = &mut packed[o / CHANNELS * row_bytes * CHANNELS..];
            for tap in 0..taps {
                let (ky, kx) = (tap / kernel_x, tap % kernel_x);
                let place = if by_columns { kx * kernel_y + ky } else { tap };
                for c in 0..src.channels {
                    let k = place * src.channels + c;
                    let at = ((k / group * CHANNELS + o % CHANNELS) * group + k % group) * bytes;
                    // The low byte alone, for a kernel that takes i8.
                    panel[at..at + bytes].copy_from_slice(&filter[c * taps + tap].to_le_bytes()[..bytes]);
                }
            }
        }
        let (signed, zero) = (conv.from.signed, conv.from.zero);
        let flips = matches!(kernel.inputs, Inputs::Quads { signed: taken } if taken != signed);
        let zero = match (flips, signed) {
            (false, _) => zero,
            (true, true) => zero + 128,
            (true, false) => zero - 128,
        };
        let rows = kernel.rows;
        Some(DenseFast {
            label: label_of(conv, kernel.name),
            isa,
            kernel,
            window: conv.window,
            src,
            dst,
            signed,
            flip: if flips { 128 } else { 0 },
            zero: zero as i16,
            row_bytes,
            by_columns,
            row_stride,
            in_a_piece: conv.window.is_pointwise() && src.is_dense() && inputs.is_multiple_of(group),
            dst_in_a_line: dst.is_in_a_line(),
            block: (BLOCK_BYTES / (row_stride * rows) * rows).clamp(rows, BLOCK_ROWS / rows * rows),
            weights,
            start: start_of(conv, zero),
            finisher: Finisher::new(conv.requantise()),
            macs: (dst.batch * dst.height * dst.width * dst.channels * inputs) as u64,
        })
    }

    /// Room for so many gathered rows.
    fn gathered_bytes(&self, rows: usize) -> usize {
        rows * self.row_stride + self.row_bytes + SLACK_BYTES
    }

    /// The pixels of src are rows as they are.
    fn is_direct(&self) -> bool {
        self.in_a_piece && self.flip == 0 && self.kernel.inputs != Inputs::Pairs
    }
}

/// Image, row and column of pixels that are counted through the batch, without a division for each.
struct Pixels {
    next: [usize; 3],
    left: usize,
    height: usize,
    width: usize,
}

impl Pixels {
    fn new(map: &FeatureMap, pixels: Range<usize>) -> Pixels {
        let (first, area) = (pixels.start, map.height * map.width);
        let next = [first / area, first % area / map.width, first % map.width];
        Pixels { next, left: pixels.len(), height: map.height, width: map.width }
    }
}

impl Iterator for Pixels {
    type Item = [usize; 3];

    #[inline(always)]
    fn next(&mut self) -> Option<[usize; 3]> {
        self.left = self.left.checked_sub(1)?;
        let here = self.next;
        self.next[2] += 1;
        if self.next[2] == self.width {
            (self.next[2], self.next[1]) = (0, here[1] + 1);
        }
        if self.next[1] == self.height {
            (self.next[1], self.next[0]) = (0, here[0] + 1);
        }
        Some(here)
    }
}

/// Some output pixels, counted through the batch, gathered into rows.
struct Gather<'a> {
    conv: &'a DenseFast,
    bytes: Bytes,
    pixels: Range<usize>,
    rows: &'a mut [u8],
}

impl Gather<'_> {
    /// # Safety
    /// Of [`Vector`]; the pixels are those of the map.
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the maps are those that `new` saw; a row has room for its inputs, which are i16 where they are widened.
        unsafe {
            let (flip, zero) = (self.conv.flip, self.conv.zero);
            match (self.conv.kernel.inputs, self.conv.signed) {
                (Inputs::Quads { .. }, _) => self.all(
                    |from, to: *mut u8, count| flipped(from, to, count, flip),
                    |to, count| to.write_bytes(zero as u8, count),
                    |from, to| flip_8(from, to, flip),
                ),
                (Inputs::Pairs, true) => self.all(
                    |from, to: *mut i16, count| widen::<V, true>(from, to, count),
                    |to, count| fill(to, count, zero),
                    |from, to| V::widen::<true>(from, to),
                ),
                (Inputs::Pairs, false) => self.all(
                    |from, to: *mut i16, count| widen::<V, false>(from, to, count),
                    |to, count| fill(to, count, zero),
                    |from, to| V::widen::<false>(from, to),
                ),
            }
        }
    }
}

#[inline(always)]
unsafe fn fill(to: *mut i16, count: usize, zero: i16) {
    // SAFETY: by whoever calls.
    unsafe { std::slice::from_raw_parts_mut(to, count).fill(zero) };
}

impl Gather<'_> {
    /// `copy` makes so many inputs of bytes, `pad` so many of the zero point.
    #[inline(always)]
    unsafe fn all<T>(
        self,
        copy: impl Fn(*const u8, *mut T, usize),
        pad: impl Fn(*mut T, usize),
        copy_8: impl Fn(*const u8, *mut T),
    ) {
        assert!(self.conv.gathered_bytes(self.pixels.len()) <= self.rows.len());
        if self.conv.by_columns {
            // SAFETY: by contract.
            unsafe { self.columns(copy, pad, copy_8) };
            return;
        }
        let Gather { conv, bytes, pixels, rows } = self;
        let (window, map) = (&conv.window, &conv.src);
        let [kernel_y, kernel_x] = window.kernel;
        let channels = map.channels;
        if conv.in_a_piece {
            // Pixels side by side, each with a window of its own.
            copy(bytes.src.wrapping_add(pixels.start * channels), rows.as_mut_ptr().cast(), pixels.len() * channels);
            return;
        }
        let rows = rows.as_mut_ptr();
        for (i, [n, y, x]) in Pixels::new(&conv.dst, pixels).enumerate() {
            let row = rows.wrapping_add(i * conv.row_bytes).cast::<T>();
            let top = (y * window.stride[0]).wrapping_sub(window.pads[0]);
            let left = (x * window.stride[1]).wrapping_sub(window.pads[1]);
            // Neighbouring taps are neighbours in memory.
            let whole = window.dilation[1] == 1
                && map.pixel_stride == channels
                && left < map.width
                && left + kernel_x <= map.width;
            let (across, run) = if whole { (1, kernel_x * channels) } else { (kernel_x, channels) };
            for ky in 0..kernel_y {
                let sy = top.wrapping_add(ky * window.dilation[0]);
                for kx in 0..across {
                    let sx = left.wrapping_add(kx * window.dilation[1]);
                    let out = row.wrapping_add((ky * across + kx) * run);
                    if sy < map.height && sx < map.width {
                        copy(bytes.src.wrapping_add(distance(map, n, sy, sx)), out, run);
                    } else {
                        pad(out, run);
                    }
                }
            }
        }
    }

    /// The pixels of one line, column by column; `copy_8` makes eight inputs of bytes.
    #[inline(always)]
    unsafe fn columns<T>(
        self,
        copy: impl Fn(*const u8, *mut T, usize),
        pad: impl Fn(*mut T, usize),
        copy_8: impl Fn(*const u8, *mut T),
    ) {
        let Gather { conv, bytes, pixels, rows } = self;
        let (window, map, channels) = (&conv.window, &conv.src, conv.src.channels);
        let [kernel_y, kernel_x] = window.kernel;
        let (line, x) = (pixels.start / conv.dst.width, pixels.start % conv.dst.width);
        let (n, y) = (line / conv.dst.height, line % conv.dst.height);
        let mut lines = [None; MOST_LINES];
        for (ky, line) in lines.iter_mut().enumerate().take(kernel_y) {
            let sy = (y * window.stride[0] + ky * window.dilation[0]).wrapping_sub(window.pads[0]);
            *line = (sy < map.height).then(|| bytes.src.wrapping_add(distance(map, n, sy, 0)));
        }
        let left = (x * window.stride[1]).wrapping_sub(window.pads[1]);
        // Few channels are copied by eights, as far as the line has as many. What is too much is written again, or lies
        // behind all columns.
        let eights =
            if channels < 8 && map.pixel_stride == channels { (map.width * channels).saturating_sub(7) } else { 0 };
        let mut out = rows.as_mut_ptr().cast::<T>();
        for sx in (0..(pixels.len() - 1) * window.stride[1] + kernel_x).map(|column| left.wrapping_add(column)) {
            for line in &lines[..kernel_y] {
                match line {
                    Some(line) if sx < map.width => {
                        let from = line.wrapping_add(sx * map.pixel_stride);
                        if sx * channels < eights { copy_8(from, out) } else { copy(from, out, channels) }
                    }
                    _ => pad(out, channels),
                }
                out = out.wrapping_add(channels);
            }
        }
    }
}

/// Bytes as i16.
///
/// # Safety
/// They can be read and written.
#[inline(always)]
unsafe fn widen<V: Vector, const SIGNED: bool>(from: *const u8, to: *mut i16, count: usize) {
    // SAFETY: eights inside; the last one may begin inside the one before.
    unsafe {
        if count < 8 {
            for at in 0..count {
                let byte = *from.add(at);
                *to.add(at) = if SIGNED { i16::from(byte as i8) } else { i16::from(byte) };
            }
            return;
        }
        let mut at = 0;
        while at + 16 <= count {
            V::widen_16::<SIGNED>(from.add(at), to.add(at));
            at += 16;
        }
        if at + 8 <= count {
            V::widen::<SIGNED>(from.add(at), to.add(at));
            at += 8;
        }
        if at < count {
            V::widen::<SIGNED>(from.add(count - 8), to.add(count - 8));
        }
    }
}

/// Eight bytes with `flip` added modulo 256, 0 or 128.
///
/// # Safety
/// They can be read and written.
#[inline(always)]
unsafe fn flip_8(from: *const u8, to: *mut u8, flip: u8) {
    // SAFETY: by contract.
    unsafe {
        let word = from.cast::<u64>().read_unaligned() ^ u64::from_ne_bytes([flip; 8]);
        to.cast::<u64>().write_unaligned(word);
    }
}

/// Bytes with `flip` added, which is 0 or 128, modulo 256.
///
/// # Safety
/// They can be read and written.
#[inline(always)]
unsafe fn flipped(from: *const u8, to: *mut u8, count: usize, flip: u8) {
    // SAFETY: words inside; the last one may begin inside the one before.
    unsafe {
        let word = |at: usize| flip_8(from.add(at), to.add(at), flip);
        if count < 8 {
            for at in 0..count {
                *to.add(at) = *from.add(at) ^ flip;
            }
            return;
        }
        let mut at = 0;
        while at + 32 <= count {
            [0, 8, 16, 24].into_iter().for_each(|part| word(at + part));
            at += 32;
        }
        while at + 8 <= count {
            word(at);
            at += 8;
        }
        if at < count {
            word(count - 8);
        }
    }
}

/// Some panels for some pixels, counted through the batch.
struct Part<'a> {
    conv: &'a DenseFast,
    bytes: Bytes,
    pixels: Range<usize>,
    panels: Range<usize>,
}

impl Work for Part<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Part { conv, bytes, pixels, panels } = self;
        let tile = conv.kernel.rows;
        let block = conv.block.min(pixels.len().next_multiple_of(tile));
        let mut gathered = Aligned::zeros(conv.gathered_bytes(block).div_ceil(4));
        let gathered: &mut [u8] = bytemuck::cast_slice_mut(&mut gathered);
        let mut sums = [0i32; BLOCK_ROWS * CHANNELS];
        let mut places = [std::ptr::null_mut(); BLOCK_ROWS];
        let mut first = pixels.start;
        while first < pixels.end {
            let mut count = block.min(pixels.end - first);
            if conv.by_columns {
                count = count.min(conv.dst.width - first % conv.dst.width);
            }
            // Whole tiles alone: rows that no pixel is left for would be read beyond src.
            let direct = conv.is_direct() && count >= tile;
            let rows = if direct {
                count = count / tile * tile;
                bytes.src.wrapping_add(first * conv.row_stride)
            } else {
                let gather = Gather { conv, bytes, pixels: first..first + count, rows: gathered };
                // SAFETY: with the instruction set that this was entered with.
                unsafe { gather.run::<V>() };
                gathered.as_ptr()
            };
            conv.places(bytes, first, &mut places[..count]);
            for panel in panels.clone() {
                let first_channel = panel * CHANNELS;
                let channels = CHANNELS.min(conv.dst.channels - first_channel);
                // SAFETY: whole tiles of rows can be read, though of an unfinished one the rest are what was there
                // before, and whole tiles of sums written; the bytes are those of the pixels' channels.
                unsafe {
                    conv.multiply(panel, channels, rows, count, &mut sums);
                    conv.finisher.rows::<V>(sums.as_ptr(), first_channel, channels, &places[..count]);
                }
            }
            first += count;
        }
    }
}

impl DenseFast {
    /// Pointers to the pixels from one on.
    #[inline(always)]
    fn places(&self, bytes: Bytes, first: usize, places: &mut [*mut u8]) {
        if self.dst_in_a_line {
            for (i, place) in places.iter_mut().enumerate() {
                *place = bytes.dst.wrapping_add((first + i) * self.dst.pixel_stride);
            }
            return;
        }
        let pixels = Pixels::new(&self.dst, first..first + places.len());
        for (place, [n, y, x]) in places.iter_mut().zip(pixels) {
            *place = bytes.dst.wrapping_add(distance(&self.dst, n, y, x));
        }
    }

    /// Sums of a panel of so many channels for some rows.
    ///
    /// # Safety
    /// Whole tiles of rows can be read.
    #[inline(always)]
    unsafe fn multiply(
        &self,
        panel: usize,
        channels: usize,
        rows: *const u8,
        count: usize,
        sums: &mut [i32; BLOCK_ROWS * CHANNELS],
    ) {
        let weights: &[u8] = bytemuck::cast_slice(&self.weights);
        let kernel = if channels > CHANNELS / 2 { self.kernel.whole } else { self.kernel.half };
        for row in (0..count).step_by(self.kernel.rows) {
            let arguments = DotArguments {
                rows: rows.wrapping_add(row * self.row_stride),
                row_stride: self.row_stride,
                groups: self.row_bytes / 4,
                weights: weights[panel * self.row_bytes * CHANNELS..].as_ptr(),
                start: self.start[panel * CHANNELS..].as_ptr(),
                sums: sums[row * CHANNELS..].as_mut_ptr(),
            };
            // SAFETY: `DotKernel::available` has found the instructions; by contract.
            unsafe { kernel(&arguments) };
        }
    }

    /// The whole convolution, at the maps that `bytes` point to.
    pub fn run_at(&self, bytes: Bytes) {
        let pixels = self.dst.batch * self.dst.height * self.dst.width;
        let panels = self.start.len() / CHANNELS;
        let threads = threads::useful_threads(self.macs);
        let chunks = if threads == 1 { 1 } else { pixels.div_ceil(self.block).min(4 * threads) };
        // Few pixels: threads gather the same ones for different channels.
        let groups = if chunks >= 2 * threads { 1 } else { threads.div_ceil(chunks).min(panels) };
        threads::share(threads, chunks * groups, |task| {
            let pixels = threads::part(pixels, chunks, task / groups);
            let panels = threads::part(panels, groups, task % groups);
            simd::run(self.isa, Part { conv: self, bytes, pixels, panels });
        });
    }
}

impl FastKernel for DenseFast {
    fn label(&self) -> String {
        self.label.clone()
    }

    fn run(&self, step: &Step, memory: &Memory) {
        assert_eq!(maps(step), Some((self.src, self.dst)), "not the step that the kernel was prepared for");
        self.run_at(Bytes::new(step, memory));
    }

    fn by_rows(&self) -> Option<&dyn ByRows> {
        // Weights that do not stay in a cache would be read again for every few rows.
        (self.weights.len() * size_of::<f32>() <= GROUP_BYTES).then_some(self)
    }
}

impl ByRows for DenseFast {
    fn shape(&self) -> RowShape {
        let (src, dst, window, macs) = (self.src, self.dst, self.window, self.macs);
        RowShape { src, dst, window, grain: 1, element: Element::Byte, macs }
    }

    unsafe fn run_rows(&self, maps: RowMaps, rows: Range<usize>) {
        let pixels = rows.start * self.dst.width..rows.end * self.dst.width;
        let panels = 0..self.start.len() / CHANNELS;
        simd::run(self.isa, Part { conv: self, bytes: maps.into(), pixels, panels });
    }
}
