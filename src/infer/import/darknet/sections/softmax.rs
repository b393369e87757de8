//! `[softmax]`: over the whole input in `groups` parts, or over the channels of each pixel with `spatial`.

use crate::infer::graph::ValueId;
use crate::infer::import::ImportError;
use crate::infer::import::darknet::builder::{Builder, Site};
use crate::infer::import::darknet::network::{Before, Layer, Shape};
use crate::infer::import::darknet::place::{Place, Refusal};
use crate::infer::kernels::elementwise::Function;
use crate::infer::ops::softmax::Softmax as SoftmaxOp;

#[derive(Debug)]
struct Softmax {
    groups: usize,
    spatial: bool,
    /// Inputs are divided by this.
    temperature: f32,
}

pub fn read(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    let section = at.section;
    if section.has("tree") {
        return Err(at.unsupported("tree= (hierarchical softmax)"));
    }
    let temperature = section.float("temperature", 1.0)?;
    if temperature == 0.0 {
        return Err(at.malformed("temperature must not be 0").into());
    }
    Ok(Box::new(Softmax { groups: section.positive("groups", 1)?, spatial: section.flag("spatial")?, temperature }))
}

impl Layer for Softmax {
    fn place(&mut self, at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        if !self.spatial && !input.elements().is_multiple_of(self.groups) {
            return Err(at.malformed(format!("groups={} does not divide {input}", self.groups)).into());
        }
        Ok(input)
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let Site { name, input, output, mut previous, .. } = *site;
        if self.temperature != 1.0 {
            let scaled = format!("{name}.scaled");
            previous = builder.with_number(&scaled, Function::Mul, previous, 1.0 / self.temperature)?;
        }
        let op = SoftmaxOp { axis: 1, log: false, flattens: false };
        if self.spatial {
            return builder.one(name, op, &[previous]);
        }
        let shape = [self.groups, input.elements() / self.groups];
        let flat = builder.reshape(&format!("{name}.flat"), previous, &shape)?;
        let softmax = builder.one(&format!("{name}.softmax"), op, &[flat])?;
        builder.reshape(name, softmax, &output.dims())
    }
}
