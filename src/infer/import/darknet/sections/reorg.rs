//! `[reorg]` and `[reorg3d]`: pixels to channels, or back with `reverse`.
//!
//! `[reorg3d]` is space to depth with the position in a block slowest. `[reorg]` is older: its loops run over the
//! input's dims, so it reads `[C, H, W]` as `[C/s², H·s, W·s]`, moves the pixels of each block to channels, and hands the
//! result on as `[C·s², H/s, W/s]`. With `reverse` the loops copy the other way: then `[reorg]` is plain depth to space,
//! and `[reorg3d]` reads its input as if it had the output's shape.

use crate::infer::graph::ValueId;
use crate::infer::import::ImportError;
use crate::infer::import::darknet::builder::{Builder, Site};
use crate::infer::import::darknet::network::{Before, Layer, Shape};
use crate::infer::import::darknet::place::{Place, Refusal};
use crate::infer::ops::space_depth::SpaceDepth;

#[derive(Debug)]
struct Reorg {
    stride: usize,
    reverse: bool,
    /// `[reorg]`.
    flat: bool,
}

pub fn read(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    read_either(at, false)
}

pub fn read_flat(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    read_either(at, true)
}

fn read_either(at: Place<'_>, flat: bool) -> Result<Box<dyn Layer>, Refusal> {
    at.refuse_flags(&[("flatten", "flattening"), ("extra", "extra values")])?;
    Ok(Box::new(Reorg { stride: at.section.positive("stride", 1)?, reverse: at.section.flag("reverse")?, flat }))
}

impl Layer for Reorg {
    fn place(&mut self, at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        let too_large = || at.malformed("too large");
        let s = self.stride;
        let block = s.checked_mul(s).ok_or_else(too_large)?;
        let Shape { channels, height, width } = input;
        let even = height.is_multiple_of(s) && width.is_multiple_of(s);
        let fits = match (self.reverse, self.flat) {
            (false, false) => even,
            (false, true) => even && channels.is_multiple_of(block),
            (true, true) => channels.is_multiple_of(block),
            (true, false) => channels.is_multiple_of(block.checked_mul(block).ok_or_else(too_large)?),
        };
        if !fits {
            return Err(at.malformed(format!("stride={s} does not divide {input}")).into());
        }
        let times = |n: usize, factor: usize| n.checked_mul(factor).ok_or_else(too_large);
        Ok(match self.reverse {
            false => Shape { channels: times(channels, block)?, height: height / s, width: width / s },
            true => Shape { channels: channels / block, height: times(height, s)?, width: times(width, s)? },
        })
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let Site { name, input, output, previous, .. } = *site;
        let s = self.stride;
        let op = SpaceDepth { block: s, to_depth: !self.reverse, channels_first: false };
        if self.flat == self.reverse {
            return builder.one(name, op, &[previous]);
        }
        let read_as = match self.reverse {
            false => Shape { channels: input.channels / (s * s), height: input.height * s, width: input.width * s },
            true => output,
        };
        let spread = builder.reshape(&format!("{name}.spread"), previous, &read_as.dims())?;
        let moved = builder.one(&format!("{name}.moved"), op, &[spread])?;
        builder.reshape(name, moved, &output.dims())
    }
}
