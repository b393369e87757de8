//! `[batchnorm]`, and `[normalization]`: local response normalisation across channels.

use super::convolution::check_weights;
use crate::infer::activation::Activation;
use crate::infer::graph::ValueId;
use crate::infer::import::ImportError;
use crate::infer::import::darknet::builder::{Builder, Site};
use crate::infer::import::darknet::network::{Before, Layer, Shape};
use crate::infer::import::darknet::place::{Place, Refusal};
use crate::infer::kernels::conv::Window;
use crate::infer::kernels::elementwise::Function;
use crate::infer::ops::conv::Conv;

const POINT: Window = Window { kernel: [1; 2], stride: [1; 2], pads: [0; 4], dilation: [1; 2] };

/// A scale and a shift per channel.
#[derive(Debug)]
struct BatchNorm;

pub fn read_batch_norm(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    at.refuse_unloaded()?;
    Ok(Box::new(BatchNorm))
}

impl Layer for BatchNorm {
    fn place(&mut self, _at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        Ok(input)
    }

    fn floats(&self, input: Shape) -> Option<usize> {
        input.channels.checked_mul(4)
    }

    /// The biases.
    fn floats_of_fork(&self, input: Shape) -> usize {
        input.channels
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let Site { name, input: Shape { channels, .. }, previous, .. } = *site;
        let affine = builder.weights.batch_norm(channels, name)?;
        let scale = builder.constant(&format!("{name}.scale"), &[channels, 1, 1, 1], affine.scale)?;
        let shift = builder.constant(&format!("{name}.shift"), &[channels], affine.shift)?;
        builder.one(name, Conv::new(POINT, channels), &[previous, scale, shift])
    }
}

/// y = x·(kappa + alpha·Σ x²)^−beta, the sum over channels near x's own. `alpha` is not divided by the size, as ONNX
/// does.
///
/// Darknet moves the sum from channel to channel: it begins with channels 0 to size/2 − 1 for channel 0, adds channel
/// k + size/2 and takes away channel k − (size − 1)/2 − 1 at each further channel k. So channel size/2 is never added,
/// but taken away. Networks are trained with that, so it is done here too.
#[derive(Debug)]
struct ResponseNorm {
    size: usize,
    alpha: f32,
    beta: f32,
    kappa: f32,
}

pub fn read_response(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    let section = at.section;
    Ok(Box::new(ResponseNorm {
        size: section.positive("size", 5)?,
        alpha: section.float("alpha", 1e-4)?,
        beta: section.float("beta", 0.75)?,
        kappa: section.float("kappa", 1.0)?,
    }))
}

impl ResponseNorm {
    /// `[channel][channel that is summed]`, times alpha.
    fn weights(&self, channels: usize) -> Vec<f32> {
        let mut all = Vec::with_capacity(channels * channels);
        let mut row = vec![0.0f32; channels];
        row[..self.size / 2].fill(self.alpha);
        all.extend_from_slice(&row);
        for k in 1..channels {
            if let Some(left) = k.checked_sub((self.size - 1) / 2 + 1) {
                row[left] -= self.alpha;
            }
            if let Some(entered) = row.get_mut(k + self.size / 2) {
                *entered += self.alpha;
            }
            all.extend_from_slice(&row);
        }
        all
    }
}

impl Layer for ResponseNorm {
    fn place(&mut self, at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        if self.size / 2 > input.channels {
            return Err(at.malformed(format!("size={} over {} channels", self.size, input.channels)).into());
        }
        check_weights(at, input.channels, input.channels.checked_mul(input.channels), input)?;
        Ok(input)
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let Site { name, input: Shape { channels, .. }, previous, .. } = *site;
        let sub = |what: &str| format!("{name}.{what}");
        let weights = builder.constant(&sub("weights"), &[channels, channels, 1, 1], self.weights(channels))?;
        let kappa = builder.constant(&sub("kappa"), &[channels], vec![self.kappa; channels])?;
        let squared = builder.binary(&sub("squared"), Function::Mul, Activation::None, [previous, previous])?;
        let sum = builder.one(&sub("sum"), Conv::new(POINT, 1), &[squared, weights, kappa])?;
        let factor = builder.with_number(&sub("factor"), Function::Pow, sum, -self.beta)?;
        builder.binary(name, Function::Mul, Activation::None, [previous, factor])
    }
}
