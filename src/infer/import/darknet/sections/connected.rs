//! `[connected]`: a matrix over the whole input, as a convolution whose window is the input.

use super::convolution::check_weights;
use crate::infer::graph::ValueId;
use crate::infer::import::ImportError;
use crate::infer::import::darknet::activation::Nonlinearity;
use crate::infer::import::darknet::builder::{Builder, Site};
use crate::infer::import::darknet::network::{Before, Layer, Shape};
use crate::infer::import::darknet::place::{Place, Refusal};
use crate::infer::import::darknet::weights::{Folded, transposed};
use crate::infer::kernels::conv::Window;
use crate::infer::ops::conv::Conv;

#[derive(Debug)]
struct Connected {
    outputs: usize,
    batch_normalize: bool,
    activation: Nonlinearity,
}

pub fn read(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    at.refuse_unloaded()?;
    Ok(Box::new(Connected {
        outputs: at.section.positive("output", 1)?,
        batch_normalize: at.section.flag("batch_normalize")?,
        activation: at.activation("logistic")?,
    }))
}

impl Layer for Connected {
    fn place(&mut self, at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        check_weights(at, self.outputs, self.outputs.checked_mul(input.elements()), input)?;
        Ok(Shape { channels: self.outputs, height: 1, width: 1 })
    }

    fn floats(&self, input: Shape) -> Option<usize> {
        let arrays = if self.batch_normalize { 4 } else { 1 };
        self.outputs.checked_mul(arrays)?.checked_add(self.outputs.checked_mul(input.elements())?)
    }

    /// The file holds the weights before the batch-norm arrays.
    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let Site { name, input, previous, .. } = *site;
        let bias = builder.weights.take(self.outputs)?;
        let mut weights = builder.weights.take(self.outputs * input.elements())?;
        let norm = if self.batch_normalize { Some(builder.weights.take_norm(self.outputs)?) } else { None };
        if builder.weights.transposed {
            weights = transposed(&weights, self.outputs);
        }
        let folded = Folded::new(weights, bias, norm.as_ref(), name)?;
        let shape = [self.outputs, input.channels, input.height, input.width];
        let weights = builder.constant(&format!("{name}.weights"), &shape, folded.weights)?;
        let bias = builder.constant(&format!("{name}.bias"), &[self.outputs], folded.bias)?;
        let kernel = [input.height, input.width];
        let window = Window { kernel, stride: [1; 2], pads: [0; 4], dilation: [1; 2] };
        builder.activated(name, self.activation, |builder, name, activation| {
            builder.one(name, Conv { activation, ..Conv::new(window, 1) }, &[previous, weights, bias])
        })
    }
}
