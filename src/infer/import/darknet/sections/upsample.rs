//! `[upsample]`: every pixel repeated, times `scale`. With a negative stride, in the original code, the opposite: the
//! sum of each block of pixels, times `scale`.

use crate::infer::graph::ValueId;
use crate::infer::import::ImportError;
use crate::infer::import::darknet::builder::{Builder, Site};
use crate::infer::import::darknet::network::{Before, Layer, Shape};
use crate::infer::import::darknet::place::{Place, Refusal};
use crate::infer::kernels::conv::Window;
use crate::infer::kernels::elementwise::Function;
use crate::infer::kernels::pool::PoolKind;
use crate::infer::ops::pool::Pool;
use crate::infer::ops::resize::Resize;

#[derive(Debug)]
struct Upsample {
    stride: usize,
    down: bool,
    scale: f32,
}

pub fn read(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    let stride = at.section.integer("stride", 2)?;
    let size = usize::try_from(stride.unsigned_abs()).ok().filter(|s| (1..=1 << 16).contains(s));
    let size = size.ok_or_else(|| at.malformed(format!("stride={stride} is out of range")))?;
    Ok(Box::new(Upsample { stride: size, down: stride < 0, scale: at.section.float("scale", 1.0)? }))
}

impl Layer for Upsample {
    fn place(&mut self, at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        let Shape { height, width, .. } = input;
        let s = self.stride;
        if self.down {
            if !height.is_multiple_of(s) || !width.is_multiple_of(s) {
                return Err(at.malformed(format!("stride=-{s} does not divide {input}")).into());
            }
            return Ok(Shape { height: height / s, width: width / s, ..input });
        }
        let scaled = |length: usize| length.checked_mul(s).ok_or_else(|| at.malformed("too large"));
        Ok(Shape { height: scaled(height)?, width: scaled(width)?, ..input })
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let Site { name, input, previous, .. } = *site;
        let s = self.stride;
        let factor = if self.down { self.scale * (s * s) as f32 } else { self.scale };
        let own_name = if factor == 1.0 { name.to_string() } else { format!("{name}.resized") };
        let resized = if self.down {
            let window = Window { kernel: [s; 2], stride: [s; 2], pads: [0; 4], dilation: [1; 2] };
            let kind = PoolKind::Average { count_include_pad: false };
            builder.one(&own_name, Pool { kind, window, ceil_mode: false }, &[previous])?
        } else {
            builder.one(&own_name, Resize::repeat(s, [input.height, input.width]), &[previous])?
        };
        if factor == 1.0 { Ok(resized) } else { builder.with_number(name, Function::Mul, resized, factor) }
    }
}
