//! `[shortcut]`: the layer before it plus others, weighted or not.
//!
//! Where channel counts differ only the channels that both have are added; the sum has the shape of the layer before it.
//! The maintained fork knows weights from the file (BiFPN: Tan et al., "EfficientDet", arXiv 1911.09070). The original
//! code knows `alpha` and `beta`, and layers of another size: of a larger one every stride-th pixel is added, a smaller
//! one is added at every sample-th pixel.

use super::convolution::check_weights;
use crate::infer::activation::Activation;
use crate::infer::graph::ValueId;
use crate::infer::import::ImportError;
use crate::infer::import::darknet::activation::Nonlinearity;
use crate::infer::import::darknet::builder::{Builder, Site};
use crate::infer::import::darknet::network::{Before, Layer, Shape};
use crate::infer::import::darknet::place::{Place, Refusal};
use crate::infer::kernels::elementwise::Function;
use crate::infer::ops::concat::Concat;
use crate::infer::ops::resize::Resize;
use crate::infer::ops::slice::{Range, Slice};

/// How many weights each layer of a sum has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Weighting {
    None,
    PerLayer,
    PerChannel,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Normalisation {
    None,
    /// max(w, 0.001)/(Σ max(w, 0.001) + 1e-4): what Darknet makes of the weights when it loads a network to run it.
    Relu,
    /// e^(w − largest)/(Σ e^(w − largest) + 1e-4)
    Softmax,
}

#[derive(Debug)]
struct Shortcut {
    from: Vec<usize>,
    weighting: Weighting,
    normalisation: Normalisation,
    /// Factors of the layer before it and of the others.
    alpha: f32,
    beta: f32,
    activation: Nonlinearity,
}

pub fn read(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    let section = at.section;
    let weighting = match section.text("weights_type", "none") {
        "none" => Weighting::None,
        "per_feature" | "per_layer" => Weighting::PerLayer,
        "per_channel" => Weighting::PerChannel,
        other => {
            let why = format!("weights_type={other}; none, per_feature, per_layer and per_channel are known");
            return Err(at.unsupported(why));
        }
    };
    let normalisation = match section.text("weights_normalization", "none") {
        "none" => Normalisation::None,
        "relu" | "avg_relu" => Normalisation::Relu,
        "softmax" => Normalisation::Softmax,
        other => return Err(at.unsupported(format!("weights_normalization={other}; none, relu and softmax are known"))),
    };
    if weighting != Weighting::None {
        at.refuse_unloaded()?;
    }
    let (alpha, beta) = (section.float("alpha", 1.0)?, section.float("beta", 1.0)?);
    let activation = at.activation("linear")?;
    let from = at.layers("from")?;
    if (alpha, beta) != (1.0, 1.0) && (from.len() > 1 || weighting != Weighting::None) {
        return Err(at.unsupported("alpha= and beta= with several layers or with weights_type="));
    }
    Ok(Box::new(Shortcut { from, weighting, normalisation, alpha, beta, activation }))
}

/// How a layer that is added relates to the sum in one direction.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fit {
    Same,
    /// Every n-th of its pixels is taken.
    Skip(usize),
    /// It goes to every n-th pixel.
    Spread(usize),
}

impl Fit {
    fn new(from: usize, to: usize) -> Option<Fit> {
        match (from / to.max(1), to / from.max(1)) {
            (1, 1) => Some(Fit::Same),
            (n, 0) if n > 1 => Some(Fit::Skip(n)),
            (0, n) if n > 1 && to == from * n => Some(Fit::Spread(n)),
            _ => None,
        }
    }
}

impl Shortcut {
    /// Weights of each layer.
    fn weights_each(&self, input: Shape) -> usize {
        match self.weighting {
            Weighting::None => 0,
            Weighting::PerLayer => 1,
            Weighting::PerChannel => input.channels,
        }
    }

    /// Weights of the layer before it and of the others, normalised.
    fn weights(&self, builder: &mut Builder<'_>, each: usize) -> Result<Vec<Vec<f32>>, ImportError> {
        let layers = self.from.len() + 1;
        let given = builder.weights.take(layers * each)?;
        let mut weights = vec![vec![0.0; each]; layers];
        for channel in 0..each {
            let of: Vec<f64> = (0..layers).map(|layer| f64::from(given[layer * each + channel])).collect();
            let largest = of.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let raised = |w: f64| match self.normalisation {
                Normalisation::None => w,
                Normalisation::Relu => w.max(0.001),
                Normalisation::Softmax => (w - largest).exp(),
            };
            let sum: f64 = of.iter().map(|&w| raised(w)).sum::<f64>() + 1e-4;
            let divisor = if self.normalisation == Normalisation::None { 1.0 } else { sum };
            for (weights, &w) in weights.iter_mut().zip(&of) {
                weights[channel] = (raised(w) / divisor) as f32;
            }
        }
        Ok(weights)
    }

    /// What is added of layer `index` in the end: cut or spread to the size of the sum, times its factors.
    fn part(&self, builder: &mut Builder<'_>, name: &str, value: ValueId, to: Shape) -> Result<ValueId, ImportError> {
        let shape = builder.graph.fact(value).shape.clone();
        let mut value = builder.channels(&format!("{name}.shared"), value, 0, shape[1].min(to.channels))?;
        match (Fit::new(shape[2], to.height), Fit::new(shape[3], to.width)) {
            (Some(Fit::Skip(y)), Some(Fit::Skip(x))) => {
                let range = |axis, count, step: usize| Range { axis, start: 0, count, step: step as isize };
                let ranges = vec![range(2, to.height, y), range(3, to.width, x)];
                value = builder.one(&format!("{name}.skipped"), Slice { ranges }, &[value])?;
            }
            (Some(Fit::Spread(n)), Some(Fit::Spread(_))) => {
                let repeated = Resize::repeat(n, [shape[2], shape[3]]);
                let repeated = builder.one(&format!("{name}.repeated"), repeated, &[value])?;
                let mask = self.mask(builder, name, to, n, [1.0, 0.0])?;
                value = builder.binary(&format!("{name}.spread"), Function::Mul, Activation::None, [repeated, mask])?;
            }
            _ => {}
        }
        if self.beta != 1.0 {
            value = builder.with_number(&format!("{name}.beta"), Function::Mul, value, self.beta)?;
        }
        Ok(value)
    }

    /// A map of one channel: `values[0]` at every n-th pixel, `values[1]` between.
    fn mask(
        &self,
        builder: &mut Builder<'_>,
        name: &str,
        to: Shape,
        n: usize,
        values: [f32; 2],
    ) -> Result<ValueId, ImportError> {
        let at = |y: usize, x: usize| values[usize::from(!y.is_multiple_of(n) || !x.is_multiple_of(n))];
        let mask = (0..to.height).flat_map(|y| (0..to.width).map(move |x| at(y, x))).collect();
        builder.constant(&format!("{name}.mask{}", values[1]), &[1, 1, to.height, to.width], mask)
    }

    /// The sum so far times `alpha`, on the `channels` and at the pixels that a part is added to; Darknet leaves the
    /// others alone.
    fn faded(
        &self,
        builder: &mut Builder<'_>,
        name: &str,
        sum: ValueId,
        from: &[usize],
        to: Shape,
    ) -> Result<ValueId, ImportError> {
        if self.alpha == 1.0 {
            return Ok(sum);
        }
        let factor = match Fit::new(from[2], to.height) {
            Some(Fit::Spread(n)) => self.mask(builder, name, to, n, [self.alpha, 1.0])?,
            _ => builder.constant(&format!("{name}.alpha"), &[1], vec![self.alpha])?,
        };
        builder.binary(&format!("{name}.faded"), Function::Mul, Activation::None, [sum, factor])
    }

    /// activation(alpha·sum + part), where `part` may have fewer channels.
    fn add(
        &self,
        builder: &mut Builder<'_>,
        name: &str,
        activation: Activation,
        [sum, part]: [ValueId; 2],
        [from, to]: [&[usize]; 2],
    ) -> Result<ValueId, ImportError> {
        let shape = Shape { channels: to[1], height: to[2], width: to[3] };
        let (have, given) = (to[1], builder.channel_count(part));
        let low = builder.channels(&format!("{name}.low"), sum, 0, given)?;
        let low = self.faded(builder, name, low, from, shape)?;
        if given == have {
            return builder.binary(name, Function::Add, activation, [low, part]);
        }
        let low = builder.binary(&format!("{name}.sum"), Function::Add, activation, [low, part])?;
        let high = builder.channels(&format!("{name}.high"), sum, given, have - given)?;
        let high = builder.activate(&format!("{name}.rest"), Nonlinearity::Fused(activation), high)?;
        builder.one(name, Concat { axis: 1 }, &[low, high])
    }
}

impl Layer for Shortcut {
    fn place(&mut self, at: Place<'_>, input: Shape, before: &Before<'_>) -> Result<Shape, Refusal> {
        for &index in &self.from {
            let shape = before.shape(at, index)?;
            let fits = match (Fit::new(shape.height, input.height), Fit::new(shape.width, input.width)) {
                (Some(Fit::Same), Some(Fit::Same)) => shape.same_size(input),
                (Some(Fit::Skip(y)), Some(Fit::Skip(x))) | (Some(Fit::Spread(y)), Some(Fit::Spread(x))) => x == y,
                _ => false,
            };
            if !fits {
                return Err(at.unsupported(format!(
                    "adds layer {index} of {}x{} pixels to {}x{}; only equal sizes and whole multiples are supported",
                    shape.width, shape.height, input.width, input.height
                )));
            }
            if self.weighting != Weighting::None && !shape.same_size(input) {
                return Err(at.unsupported("weights_type= for layers of different sizes"));
            }
        }
        let count = self.weights_each(input).checked_mul(self.from.len() + 1);
        check_weights(at, self.from.len(), count, input)?;
        Ok(input)
    }

    fn floats(&self, input: Shape) -> Option<usize> {
        self.weights_each(input).checked_mul(self.from.len() + 1)
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let Site { name, input, previous, .. } = *site;
        let mut sum = previous;
        let mut factors = Vec::new();
        let each = self.weights_each(input);
        if each > 0 {
            for (layer, weights) in self.weights(builder, each)?.into_iter().enumerate() {
                factors.push((format!("{name}.weight{layer}"), weights));
            }
            sum = weighted(builder, name, "own", previous, &factors[0])?;
        }
        for (part, &layer) in self.from.iter().enumerate() {
            let last = part + 1 == self.from.len();
            let part_name = if last { name.to_string() } else { format!("{name}.sum{part}") };
            let value = builder.values[layer];
            let from = builder.graph.fact(value).shape.clone();
            let mut value = self.part(builder, &format!("{name}.part{part}"), value, input)?;
            if each > 0 {
                value = weighted(builder, name, &format!("weighted{part}"), value, &factors[part + 1])?;
            }
            let activation = if last { self.activation } else { Nonlinearity::NONE };
            sum = builder.activated(&part_name, activation, |builder, name, activation| {
                self.add(builder, name, activation, [sum, value], [&from, &input.dims()])
            })?;
        }
        Ok(sum)
    }
}

/// value × weights, one for all channels or one each.
fn weighted(
    builder: &mut Builder<'_>,
    name: &str,
    what: &str,
    value: ValueId,
    (weights_name, weights): &(String, Vec<f32>),
) -> Result<ValueId, ImportError> {
    let count = if weights.len() == 1 { 1 } else { builder.channel_count(value) };
    let weights = builder.constant(weights_name, &[1, count, 1, 1], weights[..count].to_vec())?;
    builder.binary(&format!("{name}.{what}"), Function::Mul, Activation::None, [value, weights])
}
