//! Fast forms of the kernels on bytes, see [`crate::infer::kernels::bytes`]. They give the twins' bytes, to the last bit
//! (but for activations of convolutions that are approximated in vectors, where a byte may be the neighbour of a tie).

pub mod average;
mod dense;
mod depthwise;
mod finish;
mod grouped;
pub mod pointwise;
#[cfg(test)]
mod tests;
pub mod window;
mod winograd;

use super::Isa;
use super::chain::RowMaps;
use super::simd::dots::{CHANNELS, DotKernel};
use crate::infer::kernel::{ByteKernel, FastKernel};
use crate::infer::kernels::bytes::conv::ByteConv;
use crate::infer::plan::step::Step;
use crate::infer::plan::view::FeatureMap;
use dense::DenseFast;
use winograd::WinogradFast;

/// The micro-kernel for a convolution's weights.
fn dot_of(conv: &ByteConv, isa: Isa) -> DotKernel {
    let (low, high) = conv.weights.iter().fold((0, 0), |(low, high), &w| (w.min(low), w.max(high)));
    DotKernel::best(isa, low..=high)
}

/// The fast form of a convolution.
pub fn prepare_conv(conv: &ByteConv, step: &Step, isa: Isa) -> Option<Box<dyn FastKernel>> {
    prepare_conv_by(dot_of(conv, isa), conv, step, isa)
}

/// Every fast form of a convolution, first the one that [`prepare_conv`] takes.
pub fn conv_forms(conv: &ByteConv, step: &Step, isa: Isa) -> Vec<Box<dyn FastKernel>> {
    let Some((src, dst)) = maps(step).filter(|_| conv.groups == 1) else {
        return prepare_conv(conv, step, isa).into_iter().collect();
    };
    let dot = dot_of(conv, isa);
    let mut forms: Vec<Box<dyn FastKernel>> = Vec::new();
    forms.extend(DenseFast::new(conv, src, dst, isa, dot).map(|form| Box::new(form) as Box<dyn FastKernel>));
    forms.extend(WinogradFast::new(conv, src, dst, isa, dot).map(|form| Box::new(form) as Box<dyn FastKernel>));
    if WinogradFast::pays(&src, &dst) {
        forms.reverse();
    }
    forms
}

/// The fast form with sums by a kernel, which must take the weights. Depthwise ones have a kernel of their own.
fn prepare_conv_by(dot: DotKernel, conv: &ByteConv, step: &Step, isa: Isa) -> Option<Box<dyn FastKernel>> {
    let (src, dst) = maps(step)?;
    if conv.groups == 1 {
        // Asked first: filters are not transformed for nothing.
        if WinogradFast::pays(&src, &dst)
            && let Some(winograd) = WinogradFast::new(conv, src, dst, isa, dot)
        {
            return Some(Box::new(winograd));
        }
        return Some(Box::new(DenseFast::new(conv, src, dst, isa, dot)?));
    }
    if conv.is_depthwise() {
        return Some(Box::new(depthwise::DepthwiseFast::new(conv, step, isa)?));
    }
    Some(Box::new(grouped::GroupedFast::new(conv, src, dst, isa, dot)?))
}

fn label_of(conv: &ByteConv, kernel: &str) -> String {
    format!("{}_{kernel}", conv.label())
}

/// What the sums of each output channel start with: less what the zero point of the inputs adds. Padded to whole panels.
fn start_of(conv: &ByteConv, zero: i32) -> Vec<i32> {
    let channels = conv.bias.len();
    let per_channel = (conv.weights.len() / channels.max(1)).max(1);
    let sum = |filter: &[i16]| filter.iter().map(|&w| i32::from(w)).sum::<i32>();
    let mut start: Vec<i32> = conv.weights.chunks_exact(per_channel).map(|f| -zero * sum(f)).collect();
    start.resize(channels.next_multiple_of(CHANNELS), 0);
    start
}

/// The feature maps that a step reads and writes; `None` where they are none.
fn maps(step: &Step) -> Option<(FeatureMap, FeatureMap)> {
    let (src, dst) = (step.reads.first()?.feature_map()?, step.writes.first()?.feature_map()?);
    (src.batch == dst.batch).then_some((src, dst))
}

/// Pointers to bytes, handed to threads that write different elements.
#[derive(Clone, Copy)]
struct Bytes {
    src: *const u8,
    dst: *mut u8,
}

// SAFETY: the threads read what the step only reads, and write different elements.
unsafe impl Sync for Bytes {}

impl From<RowMaps> for Bytes {
    fn from(maps: RowMaps) -> Bytes {
        Bytes { src: maps.src, dst: maps.dst }
    }
}

impl Bytes {
    /// Further by so many elements.
    fn moved(self, src: usize, dst: usize) -> Bytes {
        Bytes { src: self.src.wrapping_add(src), dst: self.dst.wrapping_add(dst) }
    }

    fn new(step: &Step, memory: &super::Memory) -> Bytes {
        Bytes { src: memory.byte_pointer(&step.reads[0]), dst: memory.byte_pointer(&step.writes[0]) }
    }
}
