//! Chains: steps that run together, some rows at a time, where a whole feature map between them would leave the cache.
//!
//! A pointwise convolution that widens, the depthwise one behind it and the pointwise one that narrows again are such a
//! chain, and so are a first convolution and the pool behind it. Of the maps between the steps of a chain only the rows that
//! the next step still wants exist, in a window that moves down the picture; they have no place in the plan's memory.
//! What a window of several rows has to see again is moved to the start of its memory, not computed again; only where two
//! threads meet, both compute the rows that both see.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::simd::Aligned;
use super::{Memory, threads};
use crate::infer::kernel::FastKernel;
use crate::infer::kernels::conv::Window;
use crate::infer::plan::step::{BufferKind, Element, Plan, Step};
use crate::infer::plan::view::{BufferId, FeatureMap, View};

/// Sizes that decide what becomes a chain.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maps of no more bytes than this stay in a cache anyway.
    pub map_bytes: usize,
    /// Bytes that the windows of a chain may have in all: with weights and what comes in and goes out they should stay in a
    /// second-level cache of half a MiB.
    pub windows_bytes: usize,
    /// Most rows that the last step of a chain computes at a time.
    pub rows: usize,
}

impl Limits {
    /// What was found to pay.
    pub const USUAL: Limits = Limits { map_bytes: 256 << 10, windows_bytes: 256 << 10, rows: 16 };
}

/// Pointers to the feature maps of a step: to where their first element is, or would be if all of the map existed.
#[derive(Clone, Copy, Debug)]
pub struct RowMaps {
    pub src: *const u8,
    pub dst: *mut u8,
    /// Null when there is none.
    pub residual: *const u8,
}

// SAFETY: the threads read what the step only reads, and write different elements.
unsafe impl Sync for RowMaps {}

fn pointer(view: &View, memory: &Memory, element: Element) -> *mut u8 {
    match element {
        Element::F32 => memory.pointer(view).cast(),
        Element::Byte => memory.byte_pointer(view),
    }
}

/// What output rows of a step depend on.
#[derive(Clone, Copy, Debug)]
pub struct RowShape {
    pub src: FeatureMap,
    pub dst: FeatureMap,
    pub window: Window,
    /// Rows are computed from a multiple of this on, in multiples of it; less than that only at the lower end.
    pub grain: usize,
    /// Of both maps.
    pub element: Element,
    pub macs: u64,
}

impl RowShape {
    /// Of a 3×3 convolution at stride 1 that works on blocks of square tiles of outputs. Its filters are read for each block:
    /// the tiles of the rows that it computes at a time are half a block at least.
    pub fn of_tiles(
        (src, dst): (FeatureMap, FeatureMap),
        [top, left]: [usize; 2],
        (side, block): (usize, usize),
        element: Element,
        macs: u64,
    ) -> RowShape {
        let across = dst.width.div_ceil(side).max(1);
        let window = Window { kernel: [3, 3], stride: [1, 1], pads: [top, left, 0, 0], dilation: [1, 1] };
        RowShape { src, dst, window, grain: block.div_ceil(2).div_ceil(across).max(1) * side, element, macs }
    }

    /// Numbers of the tiles of so many pixels a side that make up some output rows.
    pub fn tiles_of(&self, rows: Range<usize>, side: usize) -> Range<usize> {
        let across = self.dst.width.div_ceil(side);
        rows.start / side * across..rows.end.div_ceil(side) * across
    }

    fn dst_row_bytes(&self) -> usize {
        self.dst.row_stride * self.element.size_bytes()
    }

    /// First row that an output row and those behind it see.
    fn first_seen(&self, row: usize) -> usize {
        (row * self.window.stride[0]).saturating_sub(self.window.pads[0]).min(self.src.height)
    }

    /// End of the rows that output rows before `end` see.
    fn end_seen(&self, end: usize) -> usize {
        self.rows_seen(end).saturating_sub(self.window.pads[0]).min(self.src.height)
    }

    /// `row`, or the next row that a computation may end before.
    fn round_up(&self, row: usize) -> usize {
        row.next_multiple_of(self.grain).min(self.dst.height)
    }

    /// Most rows of src that have to be there for `rows` output rows to be computed.
    fn rows_seen(&self, rows: usize) -> usize {
        let reach = (self.window.kernel[0] - 1) * self.window.dilation[0] + 1;
        rows.saturating_sub(1) * self.window.stride[0] + reach
    }
}

/// A kernel that can compute some of its output rows at a time. Its only image is the first.
pub trait ByRows: Sync {
    fn shape(&self) -> RowShape;

    /// Computes output rows, on the calling thread.
    ///
    /// # Safety
    /// The maps must be as the kernel was prepared for, as far as the rows and what they see go; the rows start and end as
    /// [`RowShape::grain`] says.
    unsafe fn run_rows(&self, maps: RowMaps, rows: Range<usize>);
}

/// Some steps of a plan that run together.
#[derive(Debug)]
pub struct Chain {
    pub steps: Range<usize>,
    shapes: Vec<RowShape>,
    /// Rows that the windows have room for, one window behind each step but the last.
    room: Vec<usize>,
    /// Rows that the last step computes at a time.
    rows: usize,
}

thread_local! {
    static WINDOWS: Cell<Aligned> = Cell::default();
}

/// For each step the buffer between it and the next where that is nothing but a dense map that the first writes and the
/// second reads.
fn between(plan: &Plan) -> Vec<Option<BufferId>> {
    // Views of a buffer in all steps and outputs.
    let mut uses = vec![0; plan.buffers.len()];
    let of_steps = plan.steps.iter().flat_map(|step| step.reads.iter().chain(&step.writes));
    for view in of_steps.chain(plan.outputs.iter().map(|(_, view)| view)) {
        uses[view.buffer.0] += 1;
    }
    let join = |pair: &[Step]| {
        let (written, read) = (pair[0].writes.first()?, pair[1].reads.first()?);
        let (id, map) = (written.buffer, written.feature_map()?);
        let fits = matches!(plan.buffer(id).kind, BufferKind::Activation { .. })
            && uses[id.0] == 2
            && read.buffer == id
            && read.feature_map() == Some(map)
            && map.is_dense()
            && map.row_stride == map.width * map.channels;
        fits.then_some(id)
    };
    plan.steps.windows(2).map(join).collect()
}

impl Chain {
    /// The chains of a plan that keep the most bytes out of memory: `fast` are the forms that its steps have. Buffers between
    /// the steps of a chain lose their elements; all others that they use are live from the first step of the chain to its
    /// last.
    pub fn find(plan: &mut Plan, fast: &[Option<Box<dyn FastKernel>>], limits: Limits) -> Vec<Chain> {
        let shapes: Vec<Option<RowShape>> = fast
            .iter()
            .map(|fast| fast.as_ref()?.by_rows().map(ByRows::shape).filter(|shape| shape.dst.batch == 1))
            .collect();
        let between = between(plan);
        // Per number of steps from the start: bytes that the best division of them saves, and its last chain.
        let mut best: Vec<(usize, Option<Chain>)> = vec![(0, None)];
        for end in 1..=shapes.len() {
            let mut here = (best[end - 1].0, None);
            let (mut links, mut saved) = (VecDeque::new(), 0);
            for first in (0..end).rev() {
                let Some(shape) = shapes[first] else { break };
                links.push_front(shape);
                if first + 1 == end {
                    continue;
                }
                let bytes = shape.dst_row_bytes() * shape.dst.height;
                if bytes <= limits.map_bytes || between[first].is_none() {
                    break;
                }
                saved += bytes;
                let Some(chain) = Chain::plan(first..end, links.make_contiguous(), limits) else { break };
                if best[first].0 + saved > here.0 {
                    here = (best[first].0 + saved, Some(chain));
                }
            }
            best.push(here);
        }
        let mut chains = Vec::new();
        let mut end = shapes.len();
        while end > 0 {
            match best[end].1.take() {
                Some(chain) => {
                    end = chain.steps.start;
                    chains.push(chain);
                }
                None => end -= 1,
            }
        }
        chains.reverse();
        for chain in &chains {
            chain.claim(plan, between[chain.steps.start..chain.steps.end - 1].iter().copied().flatten());
        }
        chains
    }

    /// As many rows at a time as there is room for; `None` where that is too few.
    fn plan(steps: Range<usize>, shapes: &[RowShape], limits: Limits) -> Option<Chain> {
        let last = shapes.last()?;
        let grain = last.grain;
        let most = limits.rows.min(last.dst.height).next_multiple_of(grain);
        (1..=most / grain).rev().map(|grains| grains * grain).find_map(|rows| {
            let mut room = vec![0; shapes.len() - 1];
            let mut wanted = rows;
            for (link, room) in room.iter_mut().enumerate().rev() {
                // Both ends may be less than a grain off.
                let grains = 2 * (shapes[link].grain - 1);
                wanted = (shapes[link + 1].rows_seen(wanted) + grains).min(shapes[link].dst.height);
                *room = wanted;
            }
            let chain = Chain { steps: steps.clone(), shapes: shapes.to_vec(), room, rows };
            (chain.windows_bytes() <= limits.windows_bytes).then_some(chain)
        })
    }

    fn window_bytes(&self, link: usize) -> usize {
        (self.room[link] * self.shapes[link].dst_row_bytes()).next_multiple_of(64)
    }

    fn windows_bytes(&self) -> usize {
        (0..self.room.len()).map(|link| self.window_bytes(link)).sum()
    }

    /// Takes the buffers that its steps use for all of its time, but for those between them, which it needs not.
    fn claim(&self, plan: &mut Plan, inside: impl Iterator<Item = BufferId>) {
        let Plan { buffers, steps, .. } = plan;
        for view in steps[self.steps.clone()].iter().flat_map(|step| step.reads.iter().chain(&step.writes)) {
            let buffer = &mut buffers[view.buffer.0];
            if let BufferKind::Activation { first, last } = &mut buffer.kind {
                *first = (*first).min(self.steps.start);
                *last = (*last).max(self.steps.end - 1);
            }
        }
        for id in inside {
            buffers[id.0].len_elements = 0;
        }
    }

    /// What is put behind the labels of its kernels.
    pub fn label(&self) -> String {
        format!("rows_{}", self.rows)
    }

    /// Runs the steps, which have these fast forms. `spent_ns`: what each of them took, added up over the threads.
    ///
    /// # Panics
    /// When the steps or their forms are not those that the chain was found for.
    pub fn run(
        &self,
        steps: &[Step],
        fast: &[Option<Box<dyn FastKernel>>],
        memory: &Memory,
        spent_ns: Option<&[AtomicU64]>,
    ) {
        let end = self.shapes.len() - 1;
        let links: Vec<Link> = self
            .steps
            .clone()
            .zip(&self.shapes)
            .enumerate()
            .map(|(i, (at, shape))| {
                let kernel =
                    fast[at].as_deref().and_then(FastKernel::by_rows).expect("a chain of kernels that go by rows");
                let step = &steps[at];
                let place = |is_outside: bool, view: Option<&View>| match view {
                    Some(view) if is_outside => pointer(view, memory, shape.element),
                    _ => std::ptr::null_mut(),
                };
                let maps = RowMaps {
                    src: place(i == 0, step.reads.first()),
                    dst: place(i == end, step.writes.first()),
                    residual: place(true, step.reads.get(1)),
                };
                Link { kernel, maps }
            })
            .collect();
        let last = &self.shapes[end];
        let threads = threads::useful_threads(self.shapes.iter().map(|shape| shape.macs).sum());
        let units = last.dst.height.div_ceil(last.grain);
        let parts = threads.min(units);
        threads::share(threads, parts, |part| {
            let units = threads::part(units, parts, part);
            let rows = units.start * last.grain..(units.end * last.grain).min(last.dst.height);
            self.run_part(&links, rows, spent_ns);
        });
    }

    /// As [`Chain::run`]; the time that it took is divided among its steps as they took it.
    pub fn run_profiled(
        &self,
        steps: &[Step],
        fast: &[Option<Box<dyn FastKernel>>],
        memory: &Memory,
        times_ms: &mut [f64],
    ) {
        let spent_ns: Vec<AtomicU64> = self.steps.clone().map(|_| AtomicU64::new(0)).collect();
        let start = Instant::now();
        self.run(steps, fast, memory, Some(&spent_ns));
        let ms = start.elapsed().as_secs_f64() * 1e3;
        let spent_ns: Vec<f64> = spent_ns.into_iter().map(|ns| ns.into_inner() as f64).collect();
        let all = spent_ns.iter().sum::<f64>().max(1.0);
        for (at, spent) in self.steps.clone().zip(spent_ns) {
            times_ms[at] = ms * spent / all;
        }
    }

    /// Some rows of the last step.
    fn run_part(&self, links: &[Link], rows: Range<usize>, spent_ns: Option<&[AtomicU64]>) {
        let count = links.len();
        let mut scratch = WINDOWS.take();
        if scratch.len() * size_of::<f32>() < self.windows_bytes() {
            scratch = Aligned::zeros(self.windows_bytes().div_ceil(size_of::<f32>()));
        }
        let mut windows = Vec::with_capacity(count - 1);
        let mut at = scratch.as_mut_ptr().cast::<u8>();
        for link in 0..count - 1 {
            windows.push(RowWindow { memory: at, first: 0 });
            at = at.wrapping_add(self.window_bytes(link));
        }
        // Rows before this are done, or never wanted.
        let mut done = vec![rows.start; count];
        for link in (0..count - 1).rev() {
            let first = self.shapes[link + 1].first_seen(done[link + 1]);
            done[link] = first - first % self.shapes[link].grain;
            windows[link].first = done[link];
        }
        let mut ends = vec![0; count];
        while done[count - 1] < rows.end {
            ends[count - 1] = (done[count - 1] + self.rows).min(rows.end);
            for link in (0..count - 1).rev() {
                let seen = self.shapes[link + 1].end_seen(ends[link + 1]);
                ends[link] = self.shapes[link].round_up(seen).max(done[link]);
            }
            for link in 0..count {
                if done[link] == ends[link] {
                    continue;
                }
                let start = spent_ns.map(|_| Instant::now());
                let mut maps = links[link].maps;
                if link + 1 < count {
                    let first_seen = self.shapes[link + 1].first_seen(done[link + 1]).min(done[link]);
                    let row_bytes = self.shapes[link].dst_row_bytes();
                    let window = &mut windows[link];
                    window.move_to(first_seen, done[link], row_bytes);
                    assert!(ends[link] - window.first <= self.room[link], "a chain's window is too small");
                    maps.dst = window.map(row_bytes);
                }
                if link > 0 {
                    maps.src = windows[link - 1].map(self.shapes[link - 1].dst_row_bytes());
                }
                // SAFETY: the step's maps are as its kernel saw them, or windows that hold the rows that it sees and have
                // room for those that it writes.
                unsafe { links[link].kernel.run_rows(maps, done[link]..ends[link]) };
                done[link] = ends[link];
                if let (Some(start), Some(spent)) = (start, spent_ns) {
                    spent[link].fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
                }
            }
        }
        WINDOWS.set(scratch);
    }
}

/// One step of a chain at work.
struct Link<'a> {
    kernel: &'a dyn ByRows,
    /// Null where windows stand in.
    maps: RowMaps,
}

/// Rows of a map between two steps.
struct RowWindow {
    memory: *mut u8,
    /// The row that lies at the start of the memory.
    first: usize,
}

impl RowWindow {
    /// Where the first row of the map would be.
    fn map(&self, row_bytes: usize) -> *mut u8 {
        self.memory.wrapping_sub(self.first * row_bytes)
    }

    /// Lets `first` be the first row; rows up to `end` are there.
    fn move_to(&mut self, first: usize, end: usize, row_bytes: usize) {
        let from = self.memory.wrapping_add((first - self.first) * row_bytes);
        // SAFETY: rows that are in the window.
        unsafe { std::ptr::copy(from, self.memory, (end - first) * row_bytes) };
        self.first = first;
    }
}
