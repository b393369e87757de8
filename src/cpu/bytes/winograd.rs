//! 3×3 convolution of bytes at stride 1 by Winograd's minimal filtering F(2×2, 3×3), in whole numbers: 16 multiplications
//! where the direct sum needs 36 (Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, 2015).
//!
//! With G doubled, filters are 4·G·g·Gᵀ: whole numbers, as are the inputs Bᵀ·d·B. Both fit into the i16 that the kernels of
//! pairs multiply. Sums in i32 may wrap around in between and come out right, as only additions follow, if four times the
//! result fits; a shift then gives the sum of the direct form, exactly.
//!
//! Larger tiles do not go: F(4×4, 3×3) has 24ths in G, and 576 times a filter is no i16. Kernels that multiply bytes do
//! without: they take twice as many at a time, which nearly makes up for it.

use super::super::chain::{ByRows, RowMaps, RowShape};
use super::super::conv::distance;
use super::super::simd::dots::{CHANNELS, DotArguments, DotKernel, Inputs};
use super::super::simd::{self, Aligned, Vector, Work};
use super::super::{Isa, Memory, threads};
use super::finish::Finisher;
use super::{Bytes, maps, start_of};
use crate::infer::kernel::{ByteKernel, FastKernel};
use crate::infer::kernels::bytes::conv::ByteConv;
use crate::infer::plan::step::{Element, Step};
use crate::infer::plan::view::FeatureMap;
use std::cell::RefCell;
use std::ops::Range;

/// Side of an output tile, and of an input tile.
const OUT: usize = 2;
const IN: usize = OUT + 2;
const POINTS: usize = IN * IN;
/// The point that all outputs take once: row 1 and column 1 of the transformed tile.
const SHARED_POINT: usize = IN + 1;
/// What the sums of the others start with.
const NO_START: [i32; CHANNELS] = [0; CHANNELS];
/// Transformed inputs of the tiles that are worked on together.
const BLOCK_BYTES: usize = 256 << 10;
/// Most of these tiles: their products with a panel of filters stay in a cache.
const BLOCK_TILES: usize = 48;
/// Channels that are transformed together.
const LANES: usize = 16;
/// i16 between planes: at a power of two planes would share the same few sets of the cache. Also what is written too much.
const PLANE_GAP: usize = 2 * LANES;

thread_local! {
    /// What lies between the steps; as large as the largest layer on this thread needs.
    static SCRATCH: RefCell<Aligned> = RefCell::default();
}

/// A convolution with transformed filters.
#[derive(Debug)]
pub struct WinogradFast {
    label: String,
    isa: Isa,
    kernel: DotKernel,
    pads: [usize; 2],
    src: FeatureMap,
    dst: FeatureMap,
    signed: bool,
    /// What taps in the padding see: the zero point, for all channels and a vector behind them.
    zeros: Vec<u8>,
    /// `[panel][point]` and then as [`Inputs`] says.
    weights: Aligned,
    /// Four times what sums start with, padded to whole panels.
    start: Vec<i32>,
    finisher: Finisher,
    /// Tiles down and across.
    tiles: [usize; 2],
    macs: u64,
}

/// 2·G·g
fn filter_line(g: [i32; 3]) -> [i32; IN] {
    [2 * g[0], g[0] + g[1] + g[2], g[0] - g[1] + g[2], 2 * g[2]]
}

/// 4·G·g·Gᵀ
fn transformed(filter: &[i16]) -> [[i32; IN]; IN] {
    let rows: [[i32; 3]; 3] = std::array::from_fn(|y| std::array::from_fn(|x| i32::from(filter[3 * y + x])));
    let columns: [[i32; IN]; 3] = std::array::from_fn(|x| filter_line([rows[0][x], rows[1][x], rows[2][x]]));
    std::array::from_fn(|y| filter_line([columns[0][y], columns[1][y], columns[2][y]]))
}

impl WinogradFast {
    /// `None` where this is no such convolution, where numbers do not fit, or where the kernel takes no pairs.
    pub fn new(conv: &ByteConv, src: FeatureMap, dst: FeatureMap, isa: Isa, kernel: DotKernel) -> Option<WinogradFast> {
        let window = &conv.window;
        let (ins, outs) = (src.channels, dst.channels);
        let fits = window.kernel == [3, 3] && window.stride == [1, 1] && window.dilation == [1, 1] && conv.groups == 1;
        if !fits || kernel.inputs != Inputs::Pairs || ins == 0 || conv.weights.len() != outs * ins * 9 {
            return None;
        }
        if conv.bias.len() != outs || conv.largest_sums().max()? * 4 > i64::from(i32::MAX) {
            return None;
        }
        let panels = outs.div_ceil(CHANNELS);
        let point_len = ins.div_ceil(2) * CHANNELS;
        let mut weights = Aligned::zeros(panels * POINTS * point_len);
        let packed: &mut [i16] = bytemuck::cast_slice_mut(&mut weights);
        for (i, filter) in conv.weights.chunks_exact(9).enumerate() {
            let (o, c) = (i / ins, i % ins);
            for (point, &w) in transformed(filter).as_flattened().iter().enumerate() {
                let at = (o / CHANNELS * POINTS + point) * point_len + (c / 2 * CHANNELS + o % CHANNELS);
                packed[2 * at + c % 2] = i16::try_from(w).ok()?;
            }
        }
        Some(WinogradFast {
            label: format!("{}_winograd_{}", conv.label(), kernel.name),
            isa,
            kernel,
            pads: [window.pads[0], window.pads[1]],
            src,
            dst,
            signed: conv.from.signed,
            zeros: vec![conv.from.zero as u8; ins + LANES],
            weights,
            start: start_of(conv, conv.from.zero).iter().map(|s| s.wrapping_mul(4)).collect(),
            finisher: Finisher::new(conv.requantise()),
            tiles: [dst.height.div_ceil(OUT), dst.width.div_ceil(OUT)],
            macs: (dst.batch * dst.height * dst.width * outs * ins * 9) as u64,
        })
    }

    /// Whether this takes clearly fewer instructions than the direct sum, by rough counts: 8/3 for sixteen products of
    /// pairs, a hundred for each sixteen channels of a tile that are transformed.
    pub fn pays(src: &FeatureMap, dst: &FeatureMap) -> bool {
        let (ins, outs) = (src.channels, dst.channels.next_multiple_of(CHANNELS));
        let tiles = dst.height.div_ceil(OUT) * dst.width.div_ceil(OUT);
        let here = tiles * (POINTS * ins * outs / 6 + 6 * (ins.next_multiple_of(LANES) + outs));
        let direct = dst.height * dst.width * 9 * ins * outs / 6;
        here * 10 < direct * 9
    }

    /// i16 of a tile at a point.
    fn row(&self) -> usize {
        self.src.channels.next_multiple_of(2)
    }

    /// Tiles that go through the steps together.
    fn block(&self) -> usize {
        let rows = self.kernel.rows;
        (BLOCK_BYTES / (POINTS * self.row() * 2) / rows).clamp(1, BLOCK_TILES / rows) * rows
    }
}

impl FastKernel for WinogradFast {
    fn label(&self) -> String {
        self.label.clone()
    }

    fn run(&self, step: &Step, memory: &Memory) {
        assert_eq!(maps(step), Some((self.src, self.dst)), "not the step that the kernel was prepared for");
        let bytes = Bytes::new(step, memory);
        let tiles = self.dst.batch * self.tiles[0] * self.tiles[1];
        let threads = threads::useful_threads(self.macs);
        // As few parts as give every thread the same work and keep to the size of a block.
        let rounds = tiles.div_ceil(threads * self.block()).max(1);
        let parts = if threads == 1 { 1 } else { (rounds * threads).min(tiles) };
        threads::share(threads, parts, |part| {
            simd::run(self.isa, Part { conv: self, bytes, tiles: threads::part(tiles, parts, part) });
        });
    }

    fn by_rows(&self) -> Option<&dyn ByRows> {
        Some(self)
    }
}

impl ByRows for WinogradFast {
    fn shape(&self) -> RowShape {
        RowShape::of_tiles((self.src, self.dst), self.pads, (OUT, self.block()), Element::Byte, self.macs)
    }

    unsafe fn run_rows(&self, maps: RowMaps, rows: Range<usize>) {
        let tiles = self.shape().tiles_of(rows, OUT);
        simd::run(self.isa, Part { conv: self, bytes: maps.into(), tiles });
    }
}

/// Sixteen channels; loops over them become vectors.
type Words = [i16; LANES];

#[inline(always)]
fn add(a: Words, b: Words) -> Words {
    let mut sum = a;
    for i in 0..LANES {
        sum[i] = a[i].wrapping_add(b[i]);
    }
    sum
}

#[inline(always)]
fn sub(a: Words, b: Words) -> Words {
    let mut difference = a;
    for i in 0..LANES {
        difference[i] = a[i].wrapping_sub(b[i]);
    }
    difference
}

/// Bᵀ·d
#[inline(always)]
fn input_line(d: [Words; IN]) -> [Words; IN] {
    [sub(d[0], d[2]), add(d[1], d[2]), sub(d[2], d[1]), sub(d[1], d[3])]
}

/// Aᵀ·m for one channel.
#[inline(always)]
fn output_line(m: [i32; IN]) -> [i32; OUT] {
    [m[0].wrapping_add(m[1]).wrapping_add(m[2]), m[1].wrapping_sub(m[2]).wrapping_sub(m[3])]
}

/// Some tiles, counted through the batch.
struct Part<'a> {
    conv: &'a WinogradFast,
    bytes: Bytes,
    tiles: Range<usize>,
}

impl Work for Part<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let conv = self.conv;
        let block = conv.block().min(self.tiles.len().next_multiple_of(conv.kernel.rows));
        let plane = block * conv.row() + PLANE_GAP;
        let (inputs_len, products_len) = (POINTS * plane / 2, POINTS * block * CHANNELS);
        let needed = inputs_len + products_len + block * OUT * OUT * CHANNELS;
        // Taken out, not borrowed: code inside a closure of the standard library would not be compiled for the
        // instruction set.
        let mut scratch = SCRATCH.take();
        if scratch.len() < needed {
            scratch = Aligned::zeros(needed);
        }
        let inputs = scratch.as_mut_ptr().cast::<i16>();
        let products = inputs.wrapping_add(2 * inputs_len).cast::<i32>();
        let sums = products.wrapping_add(products_len);
        let mut places = [std::ptr::null_mut(); BLOCK_TILES * OUT * OUT];
        let mut first = self.tiles.start;
        while first < self.tiles.end {
            let tiles = first..self.tiles.end.min(first + block);
            // SAFETY: the scratch is as large as computed above, and the maps are those that `new` saw. Tiles that a last
            // step of the kernel has too many are what the scratch held; their products are not read.
            unsafe {
                for (i, tile) in tiles.clone().enumerate() {
                    let to = inputs.add(i * conv.row());
                    if conv.signed {
                        self.transform_input::<true>(tile, to, plane);
                    } else {
                        self.transform_input::<false>(tile, to, plane);
                    }
                }
                let pixels = self.places(tiles.clone(), &mut places);
                for panel in 0..conv.start.len() / CHANNELS {
                    let first_channel = panel * CHANNELS;
                    self.multiply(panel, tiles.len(), inputs, plane, products);
                    self.transform_output(tiles.clone(), products, sums);
                    let channels = CHANNELS.min(conv.dst.channels - first_channel);
                    conv.finisher.rows::<V>(sums, first_channel, channels, &places[..pixels]);
                }
            }
            first = tiles.end;
        }
        SCRATCH.set(scratch);
    }
}

impl Part<'_> {
    /// Image, row and column of a tile.
    #[inline(always)]
    fn tile(&self, tile: usize) -> (usize, usize, usize) {
        let [down, across] = self.conv.tiles;
        (tile / (down * across), tile / across % down, tile % across)
    }

    /// How many pixels of a tile down and across are inside.
    #[inline(always)]
    fn inside(&self, ty: usize, tx: usize) -> (usize, usize) {
        (OUT.min(self.conv.dst.height - ty * OUT), OUT.min(self.conv.dst.width - tx * OUT))
    }

    /// Pointers to the pixels of some tiles; how many there are.
    #[inline(always)]
    fn places(&self, tiles: Range<usize>, places: &mut [*mut u8]) -> usize {
        let mut count = 0;
        for tile in tiles {
            let (n, ty, tx) = self.tile(tile);
            let (height, width) = self.inside(ty, tx);
            for y in 0..height {
                for x in 0..width {
                    let at = distance(&self.conv.dst, n, ty * OUT + y, tx * OUT + x);
                    places[count] = self.bytes.dst.wrapping_add(at);
                    count += 1;
                }
            }
        }
        count
    }

    /// # Safety
    /// `to` has room for the channels in each of the planes, and for [`LANES`] too many in the last one.
    #[inline(always)]
    unsafe fn transform_input<const SIGNED: bool>(&self, tile: usize, to: *mut i16, plane: usize) {
        let conv = self.conv;
        let (n, ty, tx) = self.tile(tile);
        let mut from = [conv.zeros.as_ptr(); POINTS];
        for y in 0..IN {
            let sy = (ty * OUT + y).wrapping_sub(conv.pads[0]);
            for x in 0..IN {
                let sx = (tx * OUT + x).wrapping_sub(conv.pads[1]);
                if sy < conv.src.height && sx < conv.src.width {
                    from[y * IN + x] = self.bytes.src.wrapping_add(distance(&conv.src, n, sy, sx));
                }
            }
        }
        let channels = conv.src.channels;
        // SAFETY: pixels of src, or zeros, of which no more than the channels are read. What is written too much is
        // written again with the next tile, or lies behind the plane.
        unsafe {
            if channels < LANES {
                let mut few = [[0u8; LANES]; POINTS];
                for (few, from) in few.iter_mut().zip(&from) {
                    std::ptr::copy_nonoverlapping(*from, few.as_mut_ptr(), channels);
                }
                let mut from = from;
                for (from, few) in from.iter_mut().zip(&few) {
                    *from = few.as_ptr();
                }
                input_vector::<SIGNED>(&from, 0, to, plane);
                return;
            }
            let mut c = 0;
            while c < channels {
                // The last vector may begin inside the one before.
                let at = c.min(channels - LANES);
                input_vector::<SIGNED>(&from, at, to.add(at), plane);
                c += LANES;
            }
        }
    }

    /// Products of all points with a panel of filters, `[point][tile][CHANNELS]`.
    ///
    /// # Safety
    /// `inputs` holds so many tiles, and can be read to a multiple of the kernel's rows, in planes; `products` has room.
    #[inline(always)]
    unsafe fn multiply(&self, panel: usize, tiles: usize, inputs: *const i16, plane: usize, products: *mut i32) {
        let conv = self.conv;
        let (row, rows) = (conv.row(), conv.kernel.rows);
        let tiles = tiles.next_multiple_of(rows);
        let weights: &[i16] = bytemuck::cast_slice(&conv.weights);
        let point_len = row * CHANNELS;
        let is_half = conv.dst.channels - panel * CHANNELS <= CHANNELS / 2;
        let kernel = if is_half { conv.kernel.half } else { conv.kernel.whole };
        for point in 0..POINTS {
            let start = if point == SHARED_POINT { &conv.start[panel * CHANNELS..] } else { &NO_START[..] };
            let weights = &weights[(panel * POINTS + point) * point_len..][..point_len];
            for tile in (0..tiles).step_by(rows) {
                let arguments = DotArguments {
                    rows: inputs.wrapping_add(point * plane + tile * row).cast(),
                    row_stride: 2 * row,
                    groups: row / 2,
                    weights: weights.as_ptr().cast(),
                    start: start.as_ptr(),
                    sums: products.wrapping_add((point * tiles + tile) * CHANNELS),
                };
                // SAFETY: `DotKernel::available` has found the instructions; by contract.
                unsafe { kernel(&arguments) };
            }
        }
    }

    /// Sums of the pixels that are inside, `[pixel][CHANNELS]`.
    ///
    /// # Safety
    /// `products` are those of so many tiles, padded to a multiple of the kernel's rows; `sums` has room.
    #[inline(always)]
    unsafe fn transform_output(&self, tiles: Range<usize>, products: *const i32, sums: *mut i32) {
        let plane = tiles.len().next_multiple_of(self.conv.kernel.rows) * CHANNELS;
        let mut to = sums;
        for (i, tile) in tiles.enumerate() {
            let (_, ty, tx) = self.tile(tile);
            let (height, width) = self.inside(ty, tx);
            let mut all = [[[0i32; CHANNELS]; OUT]; OUT];
            // SAFETY: by contract.
            unsafe {
                let from = products.add(i * CHANNELS);
                let mut m = [[0i32; CHANNELS]; POINTS];
                for (point, m) in m.iter_mut().enumerate() {
                    *m = from.add(point * plane).cast::<[i32; CHANNELS]>().read_unaligned();
                }
                for c in 0..CHANNELS {
                    let mut lines = [[0i32; IN]; OUT];
                    for x in 0..IN {
                        let column = output_line([m[x][c], m[IN + x][c], m[2 * IN + x][c], m[3 * IN + x][c]]);
                        (lines[0][x], lines[1][x]) = (column[0], column[1]);
                    }
                    for y in 0..OUT {
                        let [first, second] = output_line(lines[y]);
                        (all[y][0][c], all[y][1][c]) = (first >> 2, second >> 2);
                    }
                }
                for row in &all[..height] {
                    for pixel in &row[..width] {
                        to.cast::<[i32; CHANNELS]>().write_unaligned(*pixel);
                        to = to.add(CHANNELS);
                    }
                }
            }
        }
    }
}

/// Bᵀ·d·B for sixteen channels from one on.
///
/// # Safety
/// As [`Part::transform_input`].
#[inline(always)]
#[allow(clippy::needless_range_loop)] // rows and columns of `d`
unsafe fn input_vector<const SIGNED: bool>(from: &[*const u8; POINTS], c: usize, to: *mut i16, plane: usize) {
    let mut d = [[[0i16; LANES]; IN]; IN];
    for y in 0..IN {
        for x in 0..IN {
            // SAFETY: by contract.
            let bytes = unsafe { from[y * IN + x].add(c).cast::<[u8; LANES]>().read_unaligned() };
            for i in 0..LANES {
                d[y][x][i] = if SIGNED { i16::from(bytes[i] as i8) } else { i16::from(bytes[i]) };
            }
        }
    }
    for x in 0..IN {
        let column = input_line([d[0][x], d[1][x], d[2][x], d[3][x]]);
        for y in 0..IN {
            d[y][x] = column[y];
        }
    }
    for (y, row) in d.into_iter().enumerate() {
        for (x, words) in input_line(row).into_iter().enumerate() {
            // SAFETY: by contract.
            unsafe { to.add((y * IN + x) * plane).cast::<Words>().write_unaligned(words) };
        }
    }
}
