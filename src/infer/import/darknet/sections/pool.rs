//! `[maxpool]`, `[local_avgpool]` and `[avgpool]`.

use super::convolution::{Blur, read_blur};
use crate::infer::graph::ValueId;
use crate::infer::import::ImportError;
use crate::infer::import::darknet::builder::{Builder, Site};
use crate::infer::import::darknet::network::{Before, Layer, Shape, no_window, window_steps};
use crate::infer::import::darknet::place::{Place, Refusal};
use crate::infer::kernels::conv::Window;
use crate::infer::kernels::elementwise::Function;
use crate::infer::kernels::pool::PoolKind;
use crate::infer::ops::concat::Concat;
use crate::infer::ops::elementwise::Elementwise;
use crate::infer::ops::pool::Pool as PoolOp;
use crate::infer::ops::reduce::Reduce;

/// `padding` is the sum of both sides; windows begin at −(padding div 2), and what is outside the picture does not
/// count.
#[derive(Debug)]
struct Pool {
    kind: PoolKind,
    size: usize,
    stride: [usize; 2],
    padding: usize,
    blur: Option<Blur>,
}

fn read_pool(at: Place<'_>, kind: PoolKind) -> Result<Box<dyn Layer>, Refusal> {
    let section = at.section;
    let mut stride = at.strides(1)?;
    let size = section.positive("size", section.positive("stride", 1)?)?;
    let padding = section.count("padding", size - 1)?;
    let blur = read_blur(at, &mut stride)?;
    Ok(Box::new(Pool { kind, size, stride, padding, blur }))
}

pub fn read_max(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    if at.section.flag("maxpool_depth")? {
        return Ok(Box::new(DepthPool { channels: at.section.positive("out_channels", 1)? }));
    }
    read_pool(at, PoolKind::Max)
}

pub fn read_average(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    read_pool(at, PoolKind::Average { count_include_pad: false })
}

impl Layer for Pool {
    fn place(&mut self, at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        let Pool { size, stride, padding, .. } = *self;
        if padding > 0 && padding.div_ceil(2) >= size {
            return Err(at.malformed(format!("padding={padding} leaves windows of size={size} empty")).into());
        }
        let steps = |length, axis: usize| window_steps(length, padding, size, stride[axis]);
        let output = match (steps(input.height, 0), steps(input.width, 1)) {
            (Some(height), Some(width)) => Shape { height, width, ..input },
            _ => return Err(at.malformed(no_window(size, padding, input)).into()),
        };
        match &self.blur {
            Some(blur) => blur.place(at, output),
            None => Ok(output),
        }
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let Site { name, input, previous, .. } = *site;
        let Pool { kind, size, stride, padding, .. } = *self;
        let begin = padding / 2;
        // What the last window reaches beyond the picture; less than `padding − begin` where windows skip.
        let end = |length: usize, axis: usize| {
            let steps = window_steps(length, padding, size, stride[axis]).unwrap_or(1);
            ((steps - 1) * stride[axis] + size).saturating_sub(length + begin)
        };
        let pads = [begin, begin, end(input.height, 0), end(input.width, 1)];
        let window = Window { kernel: [size; 2], stride, pads, dilation: [1; 2] };
        let op = PoolOp { kind, window, ceil_mode: false };
        match &self.blur {
            None => builder.one(name, op, &[previous]),
            Some(blur) => {
                let sharp = builder.one(&format!("{name}.sharp"), op, &[previous])?;
                blur.build(builder, name, sharp)
            }
        }
    }
}

/// `maxpool_depth=1`: channel g is the largest of channels g, g + n, g + 2n, ... of the input.
#[derive(Debug)]
struct DepthPool {
    channels: usize,
}

impl Layer for DepthPool {
    fn place(&mut self, at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        if self.channels > input.channels {
            let why = format!("out_channels={} of {} input channels", self.channels, input.channels);
            return Err(at.malformed(why).into());
        }
        Ok(Shape { channels: self.channels, ..input })
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let Site { name, input, previous, .. } = *site;
        let whole = input.channels / self.channels;
        let mut blocks = Vec::with_capacity(whole);
        for block in 0..whole {
            let part = format!("{name}.block{block}");
            blocks.push(builder.channels(&part, previous, block * self.channels, self.channels)?);
        }
        let max = || Elementwise::new(Function::Max);
        let rest = input.channels % self.channels;
        if rest == 0 {
            return builder.one(name, max(), &blocks);
        }
        let largest = builder.one(&format!("{name}.largest"), max(), &blocks)?;
        let low = builder.channels(&format!("{name}.low"), largest, 0, rest)?;
        let high = builder.channels(&format!("{name}.high"), largest, rest, self.channels - rest)?;
        let last = builder.channels(&format!("{name}.last"), previous, whole * self.channels, rest)?;
        let low = builder.one(&format!("{name}.both"), max(), &[low, last])?;
        builder.one(name, Concat { axis: 1 }, &[low, high])
    }
}

/// The mean of each channel.
#[derive(Debug)]
struct GlobalAverage;

pub fn read_global(_at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    Ok(Box::new(GlobalAverage))
}

impl Layer for GlobalAverage {
    fn place(&mut self, _at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        Ok(Shape { height: 1, width: 1, ..input })
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        builder.one(site.name, Reduce::global_average(), &[site.previous])
    }
}
