//! `[crop]`: the centre of the picture, then 2·x − 1 unless `noadjust`. Turning, mirroring and colours are for training.

use crate::infer::graph::ValueId;
use crate::infer::import::ImportError;
use crate::infer::import::darknet::builder::{Builder, Site};
use crate::infer::import::darknet::network::{Before, Layer, Shape};
use crate::infer::import::darknet::place::{Place, Refusal};
use crate::infer::kernels::elementwise::Function;
use crate::infer::ops::slice::{Range, Slice};

#[derive(Debug)]
struct Crop {
    /// Height and width.
    size: [usize; 2],
    adjust: bool,
}

pub fn read(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    let section = at.section;
    Ok(Box::new(Crop {
        size: [section.positive("crop_height", 1)?, section.positive("crop_width", 1)?],
        adjust: !section.flag("noadjust")?,
    }))
}

impl Layer for Crop {
    fn place(&mut self, at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        let [height, width] = self.size;
        if height > input.height || width > input.width {
            return Err(at
                .malformed(format!("crops {width}x{height} pixels out of {}x{}", input.width, input.height))
                .into());
        }
        Ok(Shape { height, width, ..input })
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let Site { name, input, output, previous, .. } = *site;
        let range = |axis, whole: usize, count| Range { axis, start: (whole - count) / 2, count, step: 1 };
        let ranges = vec![range(2, input.height, output.height), range(3, input.width, output.width)];
        if !self.adjust {
            return builder.one(name, Slice { ranges }, &[previous]);
        }
        let centre = builder.one(&format!("{name}.centre"), Slice { ranges }, &[previous])?;
        let twice = builder.with_number(&format!("{name}.twice"), Function::Mul, centre, 2.0)?;
        builder.with_number(name, Function::Sub, twice, 1.0)
    }
}
