//! `[implicit]`: a learned constant, `filters` × `atoms` × 1. Wang et al., "You Only Learn One Representation",
//! arXiv 2105.04206.

use super::convolution::check_weights;
use crate::infer::graph::ValueId;
use crate::infer::import::ImportError;
use crate::infer::import::darknet::builder::{Builder, Site};
use crate::infer::import::darknet::network::{Before, Layer, Shape};
use crate::infer::import::darknet::place::{Place, Refusal};

#[derive(Debug)]
struct Implicit {
    filters: usize,
    atoms: usize,
}

pub fn read(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    at.refuse_unloaded()?;
    Ok(Box::new(Implicit { filters: at.section.positive("filters", 128)?, atoms: at.section.positive("atoms", 1)? }))
}

impl Layer for Implicit {
    fn place(&mut self, at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        check_weights(at, self.filters, self.filters.checked_mul(self.atoms), input)?;
        Ok(Shape { channels: self.filters, height: self.atoms, width: 1 })
    }

    fn floats(&self, _input: Shape) -> Option<usize> {
        self.filters.checked_mul(self.atoms)
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let values = builder.weights.take(site.output.elements())?;
        builder.constant(site.name, &site.output.dims(), values)
    }

    fn reads_previous(&self) -> bool {
        false
    }
}
