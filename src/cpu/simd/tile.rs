//! The micro-kernel of convolution and matrix product: a register tile of `ROWS` pixels by `VECTORS` vectors of output
//! channels, and the epilogue that writes a finished tile.
//!
//! Per step of K the kernel loads `VECTORS` vectors of packed weights, broadcasts one input value per row and does
//! `ROWS·VECTORS` multiply-adds. Rows come as pointers, one set of `ROWS` per *run*, a stretch of consecutive input
//! values (the channels of a tap of the window, or a whole row of taps), so that borders, strides and dilation need no
//! copy of the picture.

use super::activate::{self, Activate};
use super::{Isa, Vector, Work};
use crate::infer::activation::Activation;
use crate::infer::kernels::conv::Residual;

/// Vectors of output channels in a panel of packed weights.
pub const PANEL_VECTORS: usize = 2;
/// Steps of K between the request for weights and their use: what comes from the third-level cache is there in time.
const AHEAD: usize = 24;
/// Values of a line of the cache: one request for each is enough.
const LINE: usize = 16;
/// No tile has more rows.
pub const ROWS_MAX: usize = 14;
/// No tile has more elements.
pub const TILE_MAX: usize = ROWS_MAX * PANEL_VECTORS * 16;

/// Sums of a tile between the micro-kernel and the epilogue.
#[repr(align(64))]
pub struct TileBuffer(pub [f32; TILE_MAX]);

/// What a micro-kernel works on.
#[derive(Clone, Copy, Debug)]
pub struct TileArguments {
    /// `runs` sets of one pointer per row.
    pub rows: *const *const f32,
    pub runs: usize,
    /// Values behind each pointer.
    pub run_len: usize,
    /// `[runs·run_len][VECTORS·LANES]`
    pub weights: *const f32,
    /// `[VECTORS·LANES]`
    pub bias: *const f32,
    /// One pointer per row to `VECTORS·LANES` elements.
    pub out: *const *mut f32,
    /// Added to each pointer of `out`.
    pub out_offset: usize,
    /// Sums are clamped to this range.
    pub lo: f32,
    pub hi: f32,
}

/// A micro-kernel. Unsafe: needs its instruction set, and the pointers of [`TileArguments`] valid.
pub type TileKernel = unsafe fn(&TileArguments);

/// out[r][n] = clamp(bias[n] + Σk row[r][k]·weights[k][n])
///
/// # Safety
/// See [`TileArguments`] and [`Vector`].
#[inline(always)]
pub unsafe fn multiply<V: Vector, const ROWS: usize, const VECTORS: usize>(a: &TileArguments) {
    let panel = VECTORS * V::LANES;
    let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
    for v in 0..VECTORS {
        let bias = V::load(a.bias.add(v * V::LANES));
        for row in &mut sums {
            row[v] = bias;
        }
    }
    let mut weights = a.weights;
    let mut table = a.rows;
    for _ in 0..a.runs {
        let mut rows = [std::ptr::null::<f32>(); ROWS];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = *table.add(r);
        }
        table = table.add(ROWS);
        let mut k = 0;
        while k < a.run_len {
            let mut w = [V::splat(0.0); VECTORS];
            for (v, w) in w.iter_mut().enumerate() {
                let from = weights.add(v * V::LANES);
                *w = V::load(from);
                if (v * V::LANES).is_multiple_of(LINE) {
                    super::prefetch(from.wrapping_add(AHEAD * panel));
                }
            }
            for r in 0..ROWS {
                let x = V::splat(*rows[r].add(k));
                for v in 0..VECTORS {
                    sums[r][v] = w[v].mul_add(x, sums[r][v]);
                }
            }
            weights = weights.add(panel);
            k += 1;
        }
    }
    let (lo, hi) = (V::splat(a.lo), V::splat(a.hi));
    for (r, row) in sums.iter().enumerate() {
        let out = (*a.out.add(r)).add(a.out_offset);
        for (v, sum) in row.iter().enumerate() {
            hi.min(lo.max(*sum)).store(out.add(v * V::LANES));
        }
    }
}

/// What a span kernel works on: pixels at even distances, whose windows are inside the picture.
#[derive(Clone, Copy, Debug)]
pub struct SpanArguments {
    /// First value of the first pixel's window.
    pub src: *const f32,
    /// Elements between the windows of neighbours.
    pub src_step: usize,
    /// Where each of `runs` stretches of `run_len` values starts, counted from a window's first value.
    pub offsets: *const usize,
    pub runs: usize,
    pub run_len: usize,
    /// `[runs·run_len][VECTORS·LANES]`
    pub weights: *const f32,
    /// `[VECTORS·LANES]`
    pub bias: *const f32,
    pub dst: *mut f32,
    /// Elements between pixels of dst.
    pub dst_step: usize,
    /// Output channels: more than `VECTORS − 1` vectors, `VECTORS` at most.
    pub channels: usize,
    /// Sums are clamped to this range.
    pub lo: f32,
    pub hi: f32,
}

/// A micro-kernel for that many tiles one after the other. Unsafe: needs its instruction set, and the pointers of
/// [`SpanArguments`] valid.
pub type SpanKernel = unsafe fn(&SpanArguments, usize);

/// dst[p][n] = clamp(bias[n] + Σk src[p][k]·weights[k][n]) for `tiles·ROWS` pixels.
///
/// # Safety
/// See [`SpanArguments`] and [`Vector`].
#[inline(always)]
pub unsafe fn span<V: Vector, const ROWS: usize, const VECTORS: usize>(a: &SpanArguments, tiles: usize) {
    let panel = VECTORS * V::LANES;
    let last = a.channels - (VECTORS - 1) * V::LANES;
    let (lo, hi) = (V::splat(a.lo), V::splat(a.hi));
    let mut rows = [a.src; ROWS];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = row.wrapping_add(r * a.src_step);
    }
    let mut dst = a.dst;
    for _ in 0..tiles {
        let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
        for v in 0..VECTORS {
            let bias = V::load(a.bias.add(v * V::LANES));
            for row in &mut sums {
                row[v] = bias;
            }
        }
        let mut weights = a.weights;
        for run in 0..a.runs {
            let mut at = *a.offsets.add(run);
            let end = at + a.run_len;
            while at < end {
                let mut w = [V::splat(0.0); VECTORS];
                for (v, w) in w.iter_mut().enumerate() {
                    let from = weights.add(v * V::LANES);
                    *w = V::load(from);
                    if (v * V::LANES).is_multiple_of(LINE) {
                        super::prefetch(from.wrapping_add(AHEAD * panel));
                    }
                }
                for r in 0..ROWS {
                    let x = V::splat(*rows[r].add(at));
                    for v in 0..VECTORS {
                        sums[r][v] = w[v].mul_add(x, sums[r][v]);
                    }
                }
                weights = weights.add(panel);
                at += 1;
            }
        }
        for (r, row) in sums.iter().enumerate() {
            let out = dst.wrapping_add(r * a.dst_step);
            for (v, sum) in row.iter().enumerate() {
                let y = hi.min(lo.max(*sum));
                if v + 1 < VECTORS || last == V::LANES {
                    y.store(out.add(v * V::LANES));
                } else {
                    y.store_first(out.add(v * V::LANES), last);
                }
            }
        }
        dst = dst.wrapping_add(ROWS * a.dst_step);
        for row in &mut rows {
            *row = row.wrapping_add(ROWS * a.src_step);
        }
    }
}

/// Defines `kernel(rows, vectors)` and `ROWS` for an instruction set, each tile shape in a function of its own.
macro_rules! tiles {
    (@one [$(#[$attribute:meta])*] $vector:ty, $rows:literal, $vectors:literal) => {{
        $(#[$attribute])*
        unsafe fn multiply(a: &super::tile::TileArguments) {
            super::tile::multiply::<$vector, $rows, $vectors>(a);
        }
        Some(multiply)
    }};
    (@span [$(#[$attribute:meta])*] $vector:ty, $rows:literal, $vectors:literal) => {{
        $(#[$attribute])*
        unsafe fn span(a: &super::tile::SpanArguments, tiles: usize) {
            super::tile::span::<$vector, $rows, $vectors>(a, tiles);
        }
        Some(span)
    }};
    (@finish [$(#[$attribute:meta])*] $vector:ty) => {
        /// The epilogue.
        ///
        /// # Safety
        /// See [`super::tile::Finish`] and [`super::Vector`].
        $(#[$attribute])*
        pub unsafe fn finish(finish: &super::tile::Finish<'_>) {
            finish.apply::<$vector>();
        }
    };
    ($attributes:tt $vector:ty, [$($rows:literal),*]) => {
        /// Heights of the tiles, largest first.
        pub const ROWS: &[usize] = &[$($rows),*];

        /// The micro-kernel for a tile shape.
        pub fn kernel(rows: usize, vectors: usize) -> Option<super::tile::TileKernel> {
            match (rows, vectors) {
                $(
                    ($rows, 1) => super::tile::tiles!(@one $attributes $vector, $rows, 1),
                    ($rows, 2) => super::tile::tiles!(@one $attributes $vector, $rows, 2),
                )*
                _ => None,
            }
        }

        /// The span kernel for a tile shape.
        pub fn span(rows: usize, vectors: usize) -> Option<super::tile::SpanKernel> {
            match (rows, vectors) {
                $(
                    ($rows, 1) => super::tile::tiles!(@span $attributes $vector, $rows, 1),
                    ($rows, 2) => super::tile::tiles!(@span $attributes $vector, $rows, 2),
                )*
                _ => None,
            }
        }

        super::tile::tiles!(@finish $attributes $vector);
    };
}
pub(crate) use tiles;

/// The micro-kernels of an instruction set: for `rows` pixels take the smallest height that holds them.
#[derive(Clone, Debug)]
pub struct Kernels {
    pub lanes: usize,
    /// The epilogue. Unsafe: the pointers of [`Finish`] must be valid.
    pub finish: unsafe fn(&Finish<'_>),
    /// Height and the kernels for one and two vectors; largest first.
    by_height: Vec<(usize, [TileKernel; PANEL_VECTORS])>,
    /// The same for spans.
    spans: Vec<(usize, [SpanKernel; PANEL_VECTORS])>,
}

impl Kernels {
    /// The kernels of `isa`, which must be available.
    pub fn new(isa: Isa) -> Option<Kernels> {
        use super::portable;
        if !isa.is_available() {
            return None;
        }
        type Find<K> = fn(usize, usize) -> Option<K>;
        type Set = (&'static [usize], Find<TileKernel>, Find<SpanKernel>, unsafe fn(&Finish<'_>));
        let (heights, find, span, finish): Set = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => (super::avx2::ROWS, super::avx2::kernel, super::avx2::span, super::avx2::finish),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => (super::avx512::ROWS, super::avx512::kernel, super::avx512::span, super::avx512::finish),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => (super::neon::ROWS, super::neon::kernel, super::neon::span, super::neon::finish),
            _ => (portable::ROWS, portable::kernel, portable::span, portable::finish),
        };
        let by_height =
            heights.iter().filter_map(|&rows| Some((rows, [find(rows, 1)?, find(rows, 2)?]))).collect::<Vec<_>>();
        let spans =
            heights.iter().filter_map(|&rows| Some((rows, [span(rows, 1)?, span(rows, 2)?]))).collect::<Vec<_>>();
        (!by_height.is_empty()).then_some(Kernels { lanes: super::lanes(isa), finish, by_height, spans })
    }

    /// Height of the tallest tile.
    pub fn tallest(&self) -> usize {
        self.by_height[0].0
    }

    /// Computes `count` pixels at even distances; `arguments` are those of the first.
    ///
    /// # Safety
    /// See [`SpanArguments`].
    pub unsafe fn span(&self, vectors: usize, arguments: &SpanArguments, count: usize) {
        let mut done = 0;
        let go_on = |height: usize, kernel: SpanKernel, from: usize, tiles: usize| {
            let a = SpanArguments {
                src: arguments.src.wrapping_add(from * arguments.src_step),
                dst: arguments.dst.wrapping_add(from * arguments.dst_step),
                ..*arguments
            };
            // SAFETY: by contract; `new` found the instruction set.
            unsafe { kernel(&a, tiles) };
            from + tiles * height
        };
        for &(height, kernels) in &self.spans {
            if count - done >= height {
                done = go_on(height, kernels[vectors - 1], done, (count - done) / height);
            }
            // A low tile wastes its instructions waiting; rather a higher one that computes some pixels again.
            if done < count {
                let fitting = self.spans.iter().rev().find(|(height, _)| *height >= count - done);
                if let Some(&(height, kernels)) = fitting.filter(|(height, _)| *height <= count) {
                    done = go_on(height, kernels[vectors - 1], count - height, 1);
                }
            }
            if done == count {
                return;
            }
        }
    }

    /// The lowest tile that holds `rows` pixels (the tallest if none does), and its kernels.
    pub fn for_rows(&self, rows: usize) -> (usize, [TileKernel; PANEL_VECTORS]) {
        let fitting = self.by_height.iter().rev().find(|(height, _)| *height >= rows);
        *fitting.unwrap_or(&self.by_height[0])
    }
}

/// What happens to a sum on its way to memory.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue {
    pub activation: Activation,
    pub residual: Residual,
}

impl Epilogue {
    /// The range of a clamp that is all there is to do, if so.
    pub fn as_clamp(&self) -> Option<(f32, f32)> {
        match (self.residual, self.activation) {
            (Residual::None, Activation::None) => Some((f32::NEG_INFINITY, f32::INFINITY)),
            (Residual::None, Activation::Relu) => Some((0.0, f32::INFINITY)),
            (Residual::None, Activation::Clip { lo, hi }) => Some((lo, hi)),
            _ => None,
        }
    }
}

/// Writes rows of finished sums: `dst[r][..channels] = activation(tile[r] (+ residual[r])) (+ residual[r])`.
#[derive(Clone, Copy, Debug)]
pub struct Finish<'a> {
    pub epilogue: Epilogue,
    /// `[rows][tile_stride]`
    pub tile: *const f32,
    pub tile_stride: usize,
    pub channels: usize,
    /// One pointer per row.
    pub dst: &'a [*mut f32],
    /// One pointer per row; not read when there is no residual.
    pub residual: &'a [*const f32],
    /// Added to the pointers of dst and residual.
    pub offset: usize,
}

impl Work for Finish<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        self.apply::<V>();
    }
}

impl Finish<'_> {
    /// # Safety
    /// The pointers must be valid for the channels.
    #[inline(always)]
    pub unsafe fn apply<V: Vector>(&self) {
        match self.epilogue.activation {
            Activation::None => self.rows::<V, _>(activate::Identity),
            Activation::Relu => self.rows::<V, _>(activate::Clip { lo: 0.0, hi: f32::INFINITY }),
            Activation::Clip { lo, hi } => self.rows::<V, _>(activate::Clip { lo, hi }),
            Activation::LeakyRelu { alpha } => self.rows::<V, _>(activate::LeakyRelu { alpha }),
            Activation::Sigmoid => self.rows::<V, _>(activate::Sigmoid),
            Activation::Silu => self.rows::<V, _>(activate::Silu),
            Activation::HardSigmoid { alpha, beta } => self.rows::<V, _>(activate::HardSigmoid { alpha, beta }),
            Activation::HardSwish => self.rows::<V, _>(activate::HardSwish),
            Activation::Mish => self.rows::<V, _>(activate::Mish),
            Activation::Tanh => self.rows::<V, _>(activate::Tanh),
            Activation::Elu { alpha } => self.rows::<V, _>(activate::Elu { alpha }),
            Activation::Gelu => self.rows::<V, _>(activate::Gelu),
            other => self.rows::<V, _>(activate::Scalar(other)),
        }
    }

    #[inline(always)]
    unsafe fn rows<V: Vector, A: Activate>(&self, activation: A) {
        for (r, dst) in self.dst.iter().enumerate() {
            let dst = dst.wrapping_add(self.offset);
            let tile = self.tile.add(r * self.tile_stride);
            let residual = match self.epilogue.residual {
                Residual::None => std::ptr::null(),
                _ => self.residual[r].wrapping_add(self.offset),
            };
            let mut c = 0;
            while c + V::LANES <= self.channels {
                let mut x = V::load(tile.add(c));
                match self.epilogue.residual {
                    Residual::None => x = activation.apply(x),
                    Residual::BeforeActivation => x = activation.apply(x.add(V::load(residual.add(c)))),
                    Residual::AfterActivation => x = activation.apply(x).add(V::load(residual.add(c))),
                }
                x.store(dst.add(c));
                c += V::LANES;
            }
            if c < self.channels {
                let rest = self.channels - c;
                let mut x = V::load_first(tile.add(c), rest);
                match self.epilogue.residual {
                    Residual::None => x = activation.apply(x),
                    Residual::BeforeActivation => x = activation.apply(x.add(V::load_first(residual.add(c), rest))),
                    Residual::AfterActivation => x = activation.apply(x).add(V::load_first(residual.add(c), rest)),
                }
                x.store_first(dst.add(c), rest);
            }
        }
    }
}
