//! Sections that work element by element: `[activation]`, `[sam]`, `[scale_channels]`; and those that do nothing when a
//! network runs: `[dropout]`, `[cost]`, `[empty]`, `[silence]`, `[contrastive]`.

use crate::infer::graph::ValueId;
use crate::infer::import::ImportError;
use crate::infer::import::darknet::activation::Nonlinearity;
use crate::infer::import::darknet::builder::{Builder, Site};
use crate::infer::import::darknet::network::{Before, Layer, Shape};
use crate::infer::import::darknet::place::{Place, Refusal};
use crate::infer::kernels::elementwise::Function;

/// The layer before it, untouched.
#[derive(Debug)]
struct Identity;

pub fn read_identity(_at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    Ok(Box::new(Identity))
}

impl Layer for Identity {
    fn place(&mut self, _at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        Ok(input)
    }

    fn build(&self, _builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        Ok(site.previous)
    }
}

#[derive(Debug)]
struct Activation(Nonlinearity);

pub fn read_activation(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    Ok(Box::new(Activation(at.activation("linear")?)))
}

impl Layer for Activation {
    fn place(&mut self, _at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        Ok(input)
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        builder.activate(site.name, self.0, site.previous)
    }
}

/// What the two factors of a [`Product`] must look like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Factors {
    /// `[sam]`: alike.
    Alike,
    /// `[scale_channels]`: the layer before it has one number per channel (squeeze and excite).
    PerChannel,
    /// With `scale_wh=1`: one number per pixel.
    PerPixel,
}

/// Layer `from` times the layer before it.
#[derive(Debug)]
struct Product {
    from: usize,
    factors: Factors,
    activation: Nonlinearity,
}

pub fn read_sam(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    Ok(Box::new(Product { from: at.from()?, factors: Factors::Alike, activation: at.activation("linear")? }))
}

pub fn read_scale_channels(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    let factors = if at.section.flag("scale_wh")? { Factors::PerPixel } else { Factors::PerChannel };
    Ok(Box::new(Product { from: at.from()?, factors, activation: at.activation("linear")? }))
}

impl Layer for Product {
    fn place(&mut self, at: Place<'_>, input: Shape, before: &Before<'_>) -> Result<Shape, Refusal> {
        let shape = before.shape(at, self.from)?;
        let expected = match self.factors {
            Factors::Alike => shape,
            Factors::PerChannel => Shape { height: 1, width: 1, ..shape },
            Factors::PerPixel => Shape { channels: 1, ..shape },
        };
        if input != expected {
            let from = self.from;
            let why = format!("the layer before it has the shape {input}; layer {from} with {shape} needs {expected}");
            return Err(at.malformed(why).into());
        }
        Ok(shape)
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let factors = [builder.values[self.from], site.previous];
        builder.activated(site.name, self.activation, |builder, name, activation| {
            builder.binary(name, Function::Mul, activation, factors)
        })
    }
}
