//! Depthwise convolution of bytes: sixteen channels of some pixels of a row at a time.
//!
//! The lines that an output row sees are copied into a ring, with the zero point left and right of them, so that no pixel
//! is at an edge. At stride 1 pixels with channels that do not fill vectors go together: what a few neighbours see lies one
//! behind the other, as channels do.

use super::super::chain::{ByRows, RowMaps, RowShape};
use super::super::conv::distance;
use super::super::simd::dots::{CHANNELS, TapArguments, TapKernel};
use super::super::simd::{self, Vector, Work};
use super::super::{Isa, Memory, threads};
use super::finish::Finisher;
use super::{Bytes, label_of, maps, start_of};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::bytes::conv::ByteConv;
use crate::infer::kernels::conv::Window;
use crate::infer::plan::step::{Element, Step};
use crate::infer::plan::view::FeatureMap;
use std::ops::Range;

/// Most steps, of a pixel or a few, that a panel is passed over at once.
const STEPS: usize = 32;

/// A depthwise convolution with packed weights.
#[derive(Debug)]
pub struct DepthwiseFast {
    label: String,
    isa: Isa,
    kernel: TapKernel,
    /// The kernel's function for columns, where the window is one for it.
    columns: Option<unsafe fn(&TapArguments)>,
    window: Window,
    src: FeatureMap,
    dst: FeatureMap,
    signed: bool,
    /// Pixels that go together as if they were one of so many times the channels.
    together: usize,
    /// Taps of a channel, whole groups of the kernel's.
    taps: usize,
    /// `[panel]`, of the channels of pixels together, and then as [`TapKernel::place`] says.
    weights: Vec<i16>,
    /// What sums start with, padded to whole panels.
    start: Vec<i32>,
    /// What taps in the padding see.
    zero: u8,
    finisher: Finisher,
    macs: u64,
}

/// How many pixels fill vectors best: the fewest whose channels are whole vectors, if that is where it matters.
fn together(channels: usize) -> usize {
    let pixels = (1..=CHANNELS).find(|pixels| (pixels * channels).is_multiple_of(CHANNELS)).unwrap_or(1);
    // Of many channels few are left over.
    if pixels > 4 || channels >= 16 * CHANNELS { 1 } else { pixels }
}

/// Where a tap stands among the kernel's.
fn place(by_columns: bool, window: Window, tap: usize) -> usize {
    let (ky, kx) = (tap / window.kernel[1], tap % window.kernel[1]);
    if by_columns { 4 * kx + ky } else { tap }
}

impl DepthwiseFast {
    pub fn new(conv: &ByteConv, step: &Step, isa: Isa) -> Option<DepthwiseFast> {
        let (src, dst) = maps(step)?;
        let (channels, taps) = (dst.channels, conv.window.taps());
        let fits = conv.groups == channels && src.channels == channels && conv.bias.len() == channels;
        if !fits || taps == 0 || conv.weights.len() != channels * taps {
            return None;
        }
        let kernel = TapKernel::best(isa);
        let together = if conv.window.stride[1] == 1 && dst.pixel_stride == channels { together(channels) } else { 1 };
        let window = conv.window;
        let columns = kernel
            .columns
            .filter(|_| window.kernel == [3, 3] && window.stride[1] == 1 && window.dilation[1] == 1 && together == 1);
        let padded = if columns.is_some() { 12 } else { taps.next_multiple_of(kernel.group) };
        let panels = (together * channels).div_ceil(CHANNELS);
        let mut weights = vec![0i16; panels * padded * CHANNELS];
        for (c, filter) in conv.weights.chunks_exact(taps).cycle().take(together * channels).enumerate() {
            for (tap, &w) in filter.iter().enumerate() {
                weights[c / CHANNELS * padded * CHANNELS
                    + kernel.place(place(columns.is_some(), window, tap), c % CHANNELS)] = w;
            }
        }
        let mut start = start_of(conv, conv.from.zero)[..channels].repeat(together);
        start.resize(panels * CHANNELS, 0);
        let mut requantise = conv.requantise();
        requantise.factors = requantise.factors.repeat(together);
        requantise.offsets = requantise.offsets.repeat(together);
        Some(DepthwiseFast {
            label: label_of(conv, isa.name()),
            isa,
            kernel,
            columns,
            window,
            src,
            dst,
            signed: conv.from.signed,
            together,
            taps: padded,
            weights,
            start,
            zero: conv.from.zero as u8,
            finisher: Finisher::new(requantise),
            macs: (dst.batch * dst.height * dst.width * channels * taps) as u64,
        })
    }
}

/// The lines of src that an output row sees.
struct Ring<'a> {
    conv: &'a DepthwiseFast,
    /// Lines one behind the other, the last of which stays zeros.
    lines: Vec<u8>,
    line_len: usize,
    /// Which line is held, counted through the batch.
    held: Vec<Option<usize>>,
}

impl Ring<'_> {
    fn new(conv: &DepthwiseFast) -> Ring<'_> {
        let (window, map) = (&conv.window, &conv.src);
        let reach = |axis: usize| (window.kernel[axis] - 1) * window.dilation[axis] + 1;
        let seen = conv.dst.width.saturating_sub(1) * window.stride[1] + reach(1);
        let line_len = seen.max(window.pads[1] + map.width) * map.channels + CHANNELS;
        let count = reach(0);
        Ring { conv, lines: vec![conv.zero; (count + 1) * line_len], line_len, held: vec![None; count] }
    }

    /// The first of the padded pixels of a line of an image; beyond the image it is padding.
    #[inline(always)]
    fn line(&mut self, bytes: Bytes, n: usize, y: usize) -> *const u8 {
        let map = &self.conv.src;
        // From one pointer, so that lines given before stay valid.
        let lines = self.lines.as_mut_ptr();
        if y >= map.height {
            return lines.wrapping_add(self.held.len() * self.line_len);
        }
        let number = n * map.height + y;
        let slot = number % self.held.len();
        let line = lines.wrapping_add(slot * self.line_len);
        if self.held[slot] != Some(number) {
            self.held[slot] = Some(number);
            let to = line.wrapping_add(self.conv.window.pads[1] * map.channels);
            let from = bytes.src.wrapping_add(distance(map, n, y, 0));
            // SAFETY: the pixels of a line of src, which the step reads; `new` made room for them.
            unsafe {
                if map.pixel_stride == map.channels {
                    to.copy_from_nonoverlapping(from, map.width * map.channels);
                } else {
                    for x in 0..map.width {
                        let from = from.add(x * map.pixel_stride);
                        to.add(x * map.channels).copy_from_nonoverlapping(from, map.channels);
                    }
                }
            }
        }
        line
    }
}

/// Some output rows, counted through the batch.
struct Rows<'a> {
    conv: &'a DepthwiseFast,
    bytes: Bytes,
    rows: Range<usize>,
}

impl Work for Rows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Rows { conv, bytes, rows } = self;
        let (window, dst) = (&conv.window, &conv.dst);
        let ([kernel_y, kernel_x], channels) = (window.kernel, dst.channels);
        let mut ring = Ring::new(conv);
        // Taps that fill up a group of the kernel's have no weights.
        let mut taps = vec![ring.lines.as_mut_ptr().cast_const(); conv.taps];
        let mut sums = [0i32; STEPS * CHANNELS];
        let mut places = [std::ptr::null_mut(); STEPS];
        for row in rows {
            let (n, y) = (row / dst.height, row % dst.height);
            for ky in 0..kernel_y {
                let sy = (y * window.stride[0] + ky * window.dilation[0]).wrapping_sub(window.pads[0]);
                let line = ring.line(bytes, n, sy);
                for kx in 0..kernel_x {
                    taps[place(conv.columns.is_some(), conv.window, ky * kernel_x + kx)] =
                        line.wrapping_add(kx * window.dilation[1] * channels);
                }
            }
            let mut x = 0;
            while x < dst.width {
                let left = dst.width - x;
                let together = if left < conv.together { 1 } else { conv.together };
                let steps = STEPS.min(left / together);
                for (i, place) in places[..steps].iter_mut().enumerate() {
                    *place = bytes.dst.wrapping_add(distance(dst, n, y, x + i * together));
                }
                let wide = together * channels;
                for panel in 0..wide.div_ceil(CHANNELS) {
                    let channel = panel * CHANNELS;
                    let arguments = TapArguments {
                        taps: taps.as_ptr(),
                        count: conv.taps,
                        pixels: steps,
                        step: together * window.stride[1] * channels,
                        channel: x * window.stride[1] * channels + channel,
                        signed: conv.signed,
                        weights: conv.weights[panel * conv.taps * CHANNELS..].as_ptr(),
                        start: conv.start[channel..].as_ptr(),
                        sums: sums.as_mut_ptr(),
                    };
                    // SAFETY: the instruction set is the one that this was entered with; all taps of all pixels are in
                    // lines of the ring, and so is what is read behind the last channels.
                    unsafe {
                        conv.columns.unwrap_or(conv.kernel.run)(&arguments);
                        let count = CHANNELS.min(wide - channel);
                        conv.finisher.rows::<V>(sums.as_ptr(), channel, count, &places[..steps]);
                    }
                }
                x += steps * together;
            }
        }
    }
}

impl FastKernel for DepthwiseFast {
    fn label(&self) -> String {
        self.label.clone()
    }

    fn run(&self, step: &Step, memory: &Memory) {
        assert_eq!(maps(step), Some((self.src, self.dst)), "not the step that the kernel was prepared for");
        let bytes = Bytes::new(step, memory);
        let rows = self.dst.batch * self.dst.height;
        let threads = threads::useful_threads(self.macs);
        let chunks = if threads == 1 { 1 } else { rows.min(4 * threads) };
        threads::share(threads, chunks, |chunk| {
            let rows = threads::part(rows, chunks, chunk);
            simd::run(self.isa, Rows { conv: self, bytes, rows });
        });
    }

    fn by_rows(&self) -> Option<&dyn ByRows> {
        Some(self)
    }
}

impl ByRows for DepthwiseFast {
    fn shape(&self) -> RowShape {
        let (src, dst, window, macs) = (self.src, self.dst, self.window, self.macs);
        RowShape { src, dst, window, grain: 1, element: Element::Byte, macs }
    }

    unsafe fn run_rows(&self, maps: RowMaps, rows: Range<usize>) {
        simd::run(self.isa, Rows { conv: self, bytes: maps.into(), rows });
    }
}
