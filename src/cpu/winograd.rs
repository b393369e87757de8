//! 3×3 convolution at stride 1 by Winograd's minimal filtering F(4×4, 3×3): 36 multiplications where the direct sum needs
//! 144 (Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, 2015).
//!
//! A tile of 6×6 input pixels becomes 4×4 output pixels. For each of the 36 points of the transformed tile a matrix
//! product over the input channels remains, which the register tile of the other convolutions does. Some tiles at a
//! time go through all three steps, so that what lies between the steps stays in the second-level cache.
//!
//! Transformed filters are four times as large as filters. Where they would not stay in a cache either and a block has
//! enough tiles, filters are kept as they are and transformed for each block, a panel and a third of the points at a time:
//! a quarter of the memory in about the time that it takes to read the transformed ones.

mod filters;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use super::chain::{ByRows, RowMaps, RowShape};
use super::conv::{Maps, SPAN_BYTES, distance, windowed_maps};
use super::packed::{self, Packed};
use super::simd::tile::{Epilogue, Finish, Kernels, PANEL_VECTORS, SpanArguments};
use super::simd::{self, Aligned, Vector, Work, load, store};
use super::{Isa, threads};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::conv::Conv;
use crate::infer::plan::step::{Element, Step};
use crate::infer::plan::view::FeatureMap;
use filters::{GROUP_POINTS, GROUPS, TransformPanel};

/// Side of an output tile, and of an input tile.
const OUT: usize = 4;
const IN: usize = OUT + 2;
const POINTS: usize = IN * IN;
/// A line between the planes of points: at a power of two they would share the same few sets of the cache.
const PLANE_GAP: usize = 16;
/// Where the one run of the micro-kernel starts.
static NO_OFFSET: usize = 0;
/// Transformed inputs and products of the tiles that are worked on together.
const BLOCK_BYTES: usize = 576 << 10;
/// Filters whose transformed form is larger are transformed for each block, given [`LEAN_TILES`].
const LEAN_BYTES: usize = 2 << 20;
/// The same where there are at most two blocks: to transform them twice costs little, and they take a quarter of the memory.
const LEAN_BYTES_OF_FEW: usize = 512 << 10;
/// Tiles of a block that make up for transforming the filters again.
const LEAN_TILES: usize = 9;
/// Tiles of a block then: many, as to transform filters costs as much as to multiply some three tiles with them. The inputs
/// of a block no longer stay in the second-level cache, but less is read of them than of transformed filters otherwise.
const LEAN_BLOCK: usize = 56;
/// With kept filters whose transformed form is larger than this the direct sum is as fast.
const BYTES_MAX: usize = 16 << 20;

thread_local! {
    /// What lies between the steps; as large as the largest layer on this thread needs.
    static SCRATCH: RefCell<Aligned> = RefCell::default();
}

/// A convolution with transformed weights.
#[derive(Debug)]
pub struct Winograd {
    isa: Isa,
    kernels: Kernels,
    pads: [usize; 2],
    src: FeatureMap,
    dst: FeatureMap,
    residual: Option<FeatureMap>,
    epilogue: Epilogue,
    /// Transformed, `[point][panel][in][channel]`; or where that is made for each block `[panel][in][tap][channel]`.
    weights: Arc<Packed>,
    is_lean: bool,
    /// Vectors of each panel.
    panels: Vec<usize>,
    /// Padded to whole vectors.
    bias: Aligned,
    /// What taps outside the picture see; also a bias of 0.
    zeros: Aligned,
    /// Tiles down and across.
    tiles: [usize; 2],
    macs: u64,
}

impl Winograd {
    /// `None` where the step is no such convolution, or if asked, where this does not pay.
    pub fn new(conv: &Conv, step: &Step, isa: Isa, if_it_pays: bool) -> Option<Winograd> {
        let plan = Self::plan(conv, step, isa).filter(|plan| !if_it_pays || plan.pays())?;
        let bytes = POINTS * plan.src.channels * plan.width() * 4;
        let tiles = plan.tiles[0] * plan.tiles[1];
        let lean_bytes = if tiles <= 2 * LEAN_BLOCK { LEAN_BYTES_OF_FEW } else { LEAN_BYTES };
        let is_lean = bytes > lean_bytes && tiles >= LEAN_TILES;
        (is_lean || bytes <= BYTES_MAX).then(|| plan.with_filters(&conv.weights, is_lean))
    }

    /// All but the filters.
    fn plan(conv: &Conv, step: &Step, isa: Isa) -> Option<Winograd> {
        let window = conv.window;
        if window.kernel != [3, 3] || window.stride != [1, 1] || window.dilation != [1, 1] {
            return None;
        }
        let (src, dst, residual) = windowed_maps(step, conv.residual)?;
        let (ins, outs) = (src.channels, dst.channels);
        if ins == 0 || conv.weights.len() != outs * ins * 9 || conv.bias.len() != outs {
            return None;
        }
        let kernels = Kernels::new(isa)?;
        let lanes = kernels.lanes;
        let vectors = outs.div_ceil(lanes);
        let mut bias = Aligned::zeros(vectors * lanes);
        bias[..outs].copy_from_slice(&conv.bias);
        Some(Winograd {
            isa,
            pads: [window.pads[0], window.pads[1]],
            src,
            dst,
            residual,
            epilogue: Epilogue { activation: conv.activation, residual: conv.residual },
            weights: Arc::new(Packed { values: Aligned::default() }),
            is_lean: false,
            panels: (0..vectors).step_by(PANEL_VECTORS).map(|v| (vectors - v).min(PANEL_VECTORS)).collect(),
            bias,
            zeros: Aligned::zeros(ins.max(PANEL_VECTORS * lanes)),
            tiles: [dst.height.div_ceil(OUT), dst.width.div_ceil(OUT)],
            macs: (dst.batch * dst.height * dst.width * outs * ins * 9) as u64,
            kernels,
        })
    }

    fn with_filters(mut self, weights: &Arc<Vec<f32>>, is_lean: bool) -> Winograd {
        self.is_lean = is_lean;
        let points = if is_lean { 9 } else { POINTS };
        let layout = ("winograd", [self.kernels.lanes, points, self.src.channels]);
        self.weights = packed::packed(weights, layout, || self.pack(weights));
        self
    }

    fn pack(&self, weights: &[f32]) -> Aligned {
        let (ins, outs, lanes, width) = (self.src.channels, self.dst.channels, self.kernels.lanes, self.width());
        let mut taps = Aligned::zeros(if self.is_lean { width * ins * 9 } else { PANEL_VECTORS * lanes * ins * 9 });
        let plane = ins * width + PLANE_GAP;
        let mut all = Aligned::zeros(if self.is_lean { 0 } else { POINTS * plane });
        let mut first = 0;
        for &vectors in &self.panels {
            let panel = vectors * lanes;
            let here = if self.is_lean { &mut taps[first * ins * 9..] } else { &mut taps[..] };
            // A last panel may have lanes left.
            here[..ins * 9 * panel].fill(0.0);
            let filters = &weights[first * ins * 9..][..panel.min(outs - first) * ins * 9];
            for (at, row) in here[..ins * 9 * panel].chunks_exact_mut(panel).enumerate() {
                for (weight, filter) in row.iter_mut().zip(filters.chunks_exact(ins * 9)) {
                    *weight = filter[at];
                }
            }
            if !self.is_lean {
                let all = all.as_mut_ptr();
                for (group, rows) in GROUPS.iter().enumerate() {
                    let rows = rows.map(|y| all.wrapping_add(y * IN * plane + first * ins));
                    simd::run(self.isa, TransformPanel { taps: &taps, group, vectors, ins, rows, plane });
                }
            }
            first += panel;
        }
        if self.is_lean { taps } else { all }
    }

    /// Whether this takes clearly fewer instructions than the direct sum, by rough counts per tile: multiply-adds on
    /// vectors, and about two hundred instructions for each vector that is transformed.
    pub fn pays(&self) -> bool {
        let (ins, vectors) = (self.src.channels, self.panels.iter().sum::<usize>());
        let in_vectors = ins.div_ceil(self.kernels.lanes);
        let direct = self.dst.height * self.dst.width * 9 * ins * vectors;
        let tiles = self.tiles[0] * self.tiles[1];
        let here = tiles * (POINTS * ins * vectors * 5 / 4 + 220 * in_vectors + 200 * vectors);
        ins >= 8 && here * 5 < direct * 4
    }

    /// Output channels, padded to whole vectors.
    fn width(&self) -> usize {
        self.panels.iter().sum::<usize>() * self.kernels.lanes
    }

    /// Tiles that go through the steps together.
    fn block(&self) -> usize {
        let tall = self.kernels.tallest();
        if self.is_lean {
            let tiles = self.dst.batch * self.tiles[0] * self.tiles[1];
            return tiles.div_ceil(tiles.div_ceil(LEAN_BLOCK).max(1)).max(1).next_multiple_of(tall);
        }
        let per_tile = POINTS * (self.src.channels + self.width()) * 4;
        (BLOCK_BYTES / per_tile / tall).max(1) * tall
    }
}

impl FastKernel for Winograd {
    fn label(&self) -> String {
        let form = if self.is_lean { "_lean" } else { "" };
        format!("winograd_3x3{form}_{}_{}", self.epilogue.activation.label(), self.isa.name())
    }

    fn run(&self, step: &Step, memory: &super::Memory) {
        let maps = windowed_maps(step, self.epilogue.residual);
        assert_eq!(maps, Some((self.src, self.dst, self.residual)), "not the step that the kernel was prepared for");
        let maps = Maps::new(step, memory, self.residual.is_some());
        let tiles = self.dst.batch * self.tiles[0] * self.tiles[1];
        let threads = threads::useful_threads(self.macs);
        // As few parts as give every thread the same work and keep to the size of a block.
        let rounds = tiles.div_ceil(threads * self.block()).max(1);
        let parts = if threads == 1 { 1 } else { (rounds * threads).min(tiles) };
        threads::share(threads, parts, |part| {
            simd::run(self.isa, Part { winograd: self, maps, tiles: threads::part(tiles, parts, part) });
        });
    }

    fn by_rows(&self) -> Option<&dyn ByRows> {
        // Filters that are transformed for each block want large ones.
        (!self.is_lean).then_some(self)
    }
}

impl ByRows for Winograd {
    fn shape(&self) -> RowShape {
        RowShape::of_tiles((self.src, self.dst), self.pads, (OUT, self.block()), Element::F32, self.macs)
    }

    unsafe fn run_rows(&self, maps: RowMaps, rows: Range<usize>) {
        let tiles = self.shape().tiles_of(rows, OUT);
        simd::run(self.isa, Part { winograd: self, maps: maps.into(), tiles });
    }
}

/// Some tiles, counted through the batch.
struct Part<'a> {
    winograd: &'a Winograd,
    maps: Maps,
    tiles: Range<usize>,
}

impl Work for Part<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let w = self.winograd;
        // Blocks of equal size, of whole tiles of the micro-kernel.
        let blocks = self.tiles.len().div_ceil(w.block()).max(1);
        let block = self.tiles.len().div_ceil(blocks).next_multiple_of(w.kernels.tallest()).min(self.tiles.len());
        // Planes of transformed inputs, and of products.
        let (ins, panel) = (w.src.channels, PANEL_VECTORS * V::LANES);
        // Where filters are transformed for each block, products go on a panel at a time.
        let width = if w.is_lean { panel } else { w.width() };
        let in_plane = (block * ins).next_multiple_of(16) + PLANE_GAP;
        let out_plane = (block * width).next_multiple_of(16) + PLANE_GAP;
        let sums = OUT * OUT * width;
        let filters_len = if w.is_lean { GROUP_POINTS * (ins * panel + PLANE_GAP) } else { 0 };
        let needed = POINTS * (in_plane + out_plane) + sums + filters_len;
        // Taken out, not borrowed: code inside a closure of the standard library would not be compiled for the
        // instruction set.
        let mut scratch = SCRATCH.take();
        if scratch.len() < needed {
            scratch = Aligned::zeros(needed);
        }
        let inputs = scratch.as_mut_ptr();
        let products = inputs.wrapping_add(POINTS * in_plane);
        let filters = products.wrapping_add(POINTS * out_plane);
        let sums = filters.wrapping_add(filters_len);
        let mut first = self.tiles.start;
        while first < self.tiles.end {
            let count = block.min(self.tiles.end - first);
            // SAFETY: the scratch is as large as computed above, and the maps are those that `prepare` saw.
            unsafe {
                for i in 0..count {
                    self.transform_input::<V>(first + i, inputs.add(i * ins), in_plane);
                }
                let block = Block { first, count, inputs, in_plane, products, out_plane, width, sums };
                if w.is_lean {
                    self.multiply_lean::<V>(&block, std::slice::from_raw_parts_mut(filters, filters_len));
                } else {
                    self.multiply(&block);
                    self.transform_outputs::<V>(&block, 0..w.width());
                }
            }
            first += count;
        }
        SCRATCH.set(scratch);
    }
}

/// Tiles that go through the steps together: 36 planes each of `count` rows of input channels, and of output channels.
struct Block {
    /// The first tile.
    first: usize,
    count: usize,
    inputs: *const f32,
    in_plane: usize,
    products: *mut f32,
    out_plane: usize,
    /// Output channels of a row: all, or a panel's, where it has as many.
    width: usize,
    /// Room for those of 16 pixels.
    sums: *mut f32,
}

/// Bᵀ·d
#[inline(always)]
unsafe fn input_line<V: Vector>(d: [V; IN]) -> [V; IN] {
    // SAFETY: called with the vectors of an instruction set that is there.
    unsafe {
        let (two, four, five) = (V::splat(2.0), V::splat(4.0), V::splat(-5.0));
        let (minus_two, minus_four) = (V::splat(-2.0), V::splat(-4.0));
        let (even, odd) = (d[2].mul_add(minus_four, d[4]), d[1].mul_add(minus_four, d[3]));
        let (near, far) = (d[4].sub(d[2]), d[3].sub(d[1]));
        [
            d[0].mul_add(four, d[2].mul_add(five, d[4])),
            even.add(odd),
            even.sub(odd),
            far.mul_add(two, near),
            far.mul_add(minus_two, near),
            d[1].mul_add(four, d[3].mul_add(five, d[5])),
        ]
    }
}

/// Aᵀ·m
#[inline(always)]
unsafe fn output_line<V: Vector>(m: [V; IN]) -> [V; OUT] {
    // SAFETY: as above.
    unsafe {
        let (a, b) = (m[1].add(m[2]), m[1].sub(m[2]));
        let (c, d) = (m[3].add(m[4]), m[3].sub(m[4]));
        [
            m[0].add(a).add(c),
            d.mul_add(V::splat(2.0), b),
            c.mul_add(V::splat(4.0), a),
            d.mul_add(V::splat(8.0), b.add(m[5])),
        ]
    }
}

impl Part<'_> {
    /// Image, row and column of a tile.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let [down, across] = self.winograd.tiles;
        (tile / (down * across), tile / across % down, tile % across)
    }

    /// # Safety
    /// `to` has room for the channels in each of 36 planes.
    #[inline(always)]
    unsafe fn transform_input<V: Vector>(&self, tile: usize, to: *mut f32, plane: usize) {
        let w = self.winograd;
        let (n, ty, tx) = self.place(tile);
        let mut from = [w.zeros.as_ptr(); POINTS];
        for y in 0..IN {
            let sy = (ty * OUT + y).wrapping_sub(w.pads[0]);
            if sy >= w.src.height {
                continue;
            }
            for x in 0..IN {
                let sx = (tx * OUT + x).wrapping_sub(w.pads[1]);
                if sx < w.src.width {
                    from[y * IN + x] = self.maps.src.wrapping_add(distance(&w.src, n, sy, sx));
                }
            }
        }
        let channels = w.src.channels;
        let mut c = 0;
        // SAFETY: pixels of src, or zeros; `c` counts whole or partial vectors of their channels.
        unsafe {
            while c + V::LANES <= channels {
                Self::input_vector::<V>(&from, c, to.add(c), plane, None);
                c += V::LANES;
            }
            if c < channels {
                Self::input_vector::<V>(&from, c, to.add(c), plane, Some(channels - c));
            }
        }
    }

    #[inline(always)]
    unsafe fn input_vector<V: Vector>(
        from: &[*const f32; POINTS],
        c: usize,
        to: *mut f32,
        plane: usize,
        partial: Option<usize>,
    ) {
        // SAFETY: see `transform_input`.
        unsafe {
            let mut rows = [[V::splat(0.0); IN]; IN];
            for x in 0..IN {
                let column = input_line::<V>([
                    load(from[x].add(c), partial),
                    load(from[IN + x].add(c), partial),
                    load(from[2 * IN + x].add(c), partial),
                    load(from[3 * IN + x].add(c), partial),
                    load(from[4 * IN + x].add(c), partial),
                    load(from[5 * IN + x].add(c), partial),
                ]);
                for y in 0..IN {
                    rows[y][x] = column[y];
                }
            }
            for (y, row) in rows.into_iter().enumerate() {
                for (x, value) in input_line(row).into_iter().enumerate() {
                    store(value, to.add((y * IN + x) * plane), partial);
                }
            }
        }
    }

    /// Products with filters that are kept transformed, for every point.
    ///
    /// # Safety
    /// See [`Block`].
    unsafe fn multiply(&self, block: &Block) {
        let w = self.winograd;
        let (ins, width, tall) = (w.src.channels, w.width(), w.kernels.tallest());
        // Tiles that pass through all panels before the next ones do, in the first-level cache.
        let some = (SPAN_BYTES / ((ins + width) * 4) / tall).max(2) * tall;
        for point in 0..POINTS {
            let weights = &w.weights.values[point * (ins * width + PLANE_GAP)..];
            let mut at = 0;
            while at < block.count {
                let count = if block.count - at < some + tall { block.count - at } else { some };
                let mut first = 0;
                for &vectors in &w.panels {
                    // SAFETY: by contract.
                    unsafe { self.span(block, point, at..at + count, (vectors, first), &weights[first * ins..]) };
                    first += vectors * w.kernels.lanes;
                }
                at += count;
            }
        }
    }

    /// The same with filters that are transformed first, in `filters`; and what becomes of the products.
    ///
    /// # Safety
    /// See [`Block`]; `filters` has room for a group of points of a panel.
    #[inline(always)]
    unsafe fn multiply_lean<V: Vector>(&self, block: &Block, filters: &mut [f32]) {
        let w = self.winograd;
        let ins = w.src.channels;
        let mut first = 0;
        for &vectors in &w.panels {
            let plane = ins * vectors * w.kernels.lanes + PLANE_GAP;
            // One panel's are read from memory once.
            let taps = &w.weights.values[first * ins * 9..];
            for (group, group_rows) in GROUPS.iter().enumerate() {
                let rows = [0, IN].map(|points| filters[points * plane..].as_mut_ptr());
                simd::run(w.isa, TransformPanel { taps, group, vectors, ins, rows, plane });
                for (place, point) in group_rows.iter().flat_map(|y| y * IN..(y + 1) * IN).enumerate() {
                    // SAFETY: by contract.
                    unsafe { self.span(block, point, 0..block.count, (vectors, 0), &filters[place * plane..]) };
                }
            }
            let channels = first..first + vectors * w.kernels.lanes;
            first = channels.end;
            // SAFETY: by contract.
            unsafe { self.transform_outputs::<V>(block, channels) };
        }
    }

    /// Products of some tiles at a point with the filters of a panel, `[in][channel]`: so many vectors from a channel of
    /// the products on.
    ///
    /// # Safety
    /// See [`Block`].
    unsafe fn span(
        &self,
        block: &Block,
        point: usize,
        tiles: Range<usize>,
        (vectors, first): (usize, usize),
        weights: &[f32],
    ) {
        let w = self.winograd;
        let (ins, width, channels) = (w.src.channels, block.width, vectors * w.kernels.lanes);
        assert!(weights.len() >= ins * channels);
        let arguments = SpanArguments {
            src: block.inputs.wrapping_add(point * block.in_plane + tiles.start * ins),
            src_step: ins,
            offsets: &raw const NO_OFFSET,
            runs: 1,
            run_len: ins,
            weights: weights.as_ptr(),
            bias: w.zeros.as_ptr(),
            dst: block.products.wrapping_add(point * block.out_plane + tiles.start * width + first),
            dst_step: width,
            channels,
            lo: f32::NEG_INFINITY,
            hi: f32::INFINITY,
        };
        // SAFETY: by contract; `Kernels::new` found the instruction set.
        unsafe { w.kernels.span(vectors, &arguments, tiles.len()) };
    }

    /// Outputs of all tiles of a block, for the padded output channels whose products it holds.
    ///
    /// # Safety
    /// See [`Block`].
    #[inline(always)]
    unsafe fn transform_outputs<V: Vector>(&self, block: &Block, channels: Range<usize>) {
        for i in 0..block.count {
            let from = block.products.wrapping_add(i * block.width);
            // SAFETY: by contract.
            unsafe { self.transform_output::<V>(block.first + i, from, block, &channels) };
        }
    }

    /// # Safety
    /// `from` holds the channels in each of 36 planes of the block.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // columns of `lines`
    unsafe fn transform_output<V: Vector>(
        &self,
        tile: usize,
        from: *const f32,
        block: &Block,
        channels: &Range<usize>,
    ) {
        let w = self.winograd;
        let (n, ty, tx) = self.place(tile);
        let Block { out_plane: plane, width, sums, .. } = *block;
        let rows = OUT.min(w.dst.height - ty * OUT);
        let columns = OUT.min(w.dst.width - tx * OUT);
        // SAFETY: by contract.
        unsafe {
            for c in (0..channels.len()).step_by(V::LANES) {
                let bias = V::load(w.bias.as_ptr().add(channels.start + c));
                let mut lines = [[V::splat(0.0); IN]; OUT];
                for x in 0..IN {
                    let from = from.add(x * plane + c);
                    let column = output_line::<V>([
                        V::load(from),
                        V::load(from.add(IN * plane)),
                        V::load(from.add(2 * IN * plane)),
                        V::load(from.add(3 * IN * plane)),
                        V::load(from.add(4 * IN * plane)),
                        V::load(from.add(5 * IN * plane)),
                    ]);
                    for y in 0..OUT {
                        lines[y][x] = column[y];
                    }
                }
                for (y, line) in lines.into_iter().enumerate() {
                    for (x, value) in output_line(line).into_iter().enumerate() {
                        value.add(bias).store(sums.add((y * OUT + x) * width + c));
                    }
                }
            }
        }
        let mut dst = [std::ptr::null_mut::<f32>(); OUT];
        let mut residual = [std::ptr::null::<f32>(); OUT];
        for y in 0..rows {
            for x in 0..columns {
                dst[x] = self.maps.dst.wrapping_add(distance(&w.dst, n, ty * OUT + y, tx * OUT + x));
                if let Some(map) = &w.residual {
                    residual[x] = self.maps.residual.wrapping_add(distance(map, n, ty * OUT + y, tx * OUT + x));
                }
            }
            let finish = Finish {
                epilogue: w.epilogue,
                tile: sums.wrapping_add(y * OUT * width),
                tile_stride: width,
                channels: channels.end.min(w.dst.channels) - channels.start,
                dst: &dst[..columns],
                residual: &residual[..columns],
                offset: channels.start,
            };
            // SAFETY: pixels of dst and of the residual; `Kernels::new` found the instruction set.
            unsafe { (w.kernels.finish)(&finish) };
        }
    }
}
