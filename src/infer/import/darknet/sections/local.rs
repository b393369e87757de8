//! `[local]` (YOLOv1): a convolution with a separate kernel for every position.
//!
//! y(f, p) = bias(f, p) + Σ w[p][f][·]·patch(p), as one product of matrices per position. The file holds a bias per
//! output element, then the weights `[position][filter][channel][kernel y][kernel x]`.

use super::convolution::check_weights;
use crate::infer::graph::ValueId;
use crate::infer::import::ImportError;
use crate::infer::import::darknet::activation::Nonlinearity;
use crate::infer::import::darknet::builder::{Builder, Site};
use crate::infer::import::darknet::network::{Before, Layer, Shape, no_window, window_steps};
use crate::infer::import::darknet::place::{Place, Refusal};
use crate::infer::kernels::elementwise::Function;
use crate::infer::ops::concat::Concat;
use crate::infer::ops::elementwise::Elementwise;
use crate::infer::ops::gemm::MatMul;
use crate::infer::ops::pad::Pad;
use crate::infer::ops::slice::{Range, Slice};
use crate::infer::ops::split::Split;
use crate::infer::ops::transpose::Transpose;

/// The weights of so many elements become one constant: 64 MiB, which every GPU can bind at once.
const PART_ELEMENTS: usize = 16 << 20;

#[derive(Debug)]
struct Local {
    filters: usize,
    size: usize,
    stride: usize,
    pad: usize,
    activation: Nonlinearity,
    /// Height and width of the output.
    steps: [usize; 2],
}

pub fn read(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    at.refuse_unloaded()?;
    Ok(Box::new(Local {
        filters: at.section.positive("filters", 1)?,
        size: at.section.positive("size", 1)?,
        stride: at.section.positive("stride", 1)?,
        pad: usize::from(at.section.flag("pad")?),
        activation: at.activation("logistic")?,
        steps: [0; 2],
    }))
}

impl Local {
    /// Elements of a patch.
    fn reach(&self, input: Shape) -> Option<usize> {
        input.channels.checked_mul(self.size)?.checked_mul(self.size)
    }

    fn weights_count(&self, input: Shape) -> Option<usize> {
        self.reach(input)?.checked_mul(self.filters)?.checked_mul(self.steps[0])?.checked_mul(self.steps[1])
    }

    /// The patches of all positions, `[positions, 1, size·size·channels]`.
    fn patches(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let Site { name, input, mut previous, .. } = *site;
        if self.pad > 0 {
            let pads = vec![[0; 2], [0; 2], [self.pad as isize; 2], [self.pad as isize; 2]];
            previous = builder.one(&format!("{name}.padded"), Pad { pads, value: 0.0 }, &[previous])?;
        }
        let mut taps = Vec::with_capacity(self.size * self.size);
        for y in 0..self.size {
            for x in 0..self.size {
                let range = |axis, start, count| Range { axis, start, count, step: self.stride as isize };
                let ranges = vec![range(2, y, self.steps[0]), range(3, x, self.steps[1])];
                taps.push(builder.one(&format!("{name}.tap{y}_{x}"), Slice { ranges }, &[previous])?);
            }
        }
        let taps = match taps[..] {
            [one] => one,
            _ => builder.one(&format!("{name}.taps"), Concat { axis: 1 }, &taps)?,
        };
        let last = Transpose { permutation: vec![0, 2, 3, 1] };
        let last = builder.one(&format!("{name}.channels_last"), last, &[taps])?;
        let reach = self.size * self.size * input.channels;
        builder.reshape(&format!("{name}.patches"), last, &[self.steps[0] * self.steps[1], 1, reach])
    }
}

impl Layer for Local {
    fn place(&mut self, at: Place<'_>, input: Shape, _before: &Before<'_>) -> Result<Shape, Refusal> {
        // Darknet's formula for the output takes a padding of 1 for one that keeps the size.
        if self.pad == 1 && self.size != 3 {
            return Err(at.unsupported(format!("pad=1 with size={}; only 3 has a meaning", self.size)));
        }
        let steps = |length| window_steps(length, 2 * self.pad, self.size, self.stride);
        let (Some(height), Some(width)) = (steps(input.height), steps(input.width)) else {
            return Err(at.malformed(no_window(self.size, 2 * self.pad, input)).into());
        };
        self.steps = [height, width];
        check_weights(at, self.filters, self.weights_count(input), input)?;
        Ok(Shape { channels: self.filters, height, width })
    }

    fn floats(&self, input: Shape) -> Option<usize> {
        let outputs = self.filters.checked_mul(self.steps[0])?.checked_mul(self.steps[1])?;
        outputs.checked_add(self.weights_count(input)?)
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let Site { name, input, output, .. } = *site;
        let bias = builder.weights.take(output.elements())?;
        let bias = builder.constant(&format!("{name}.bias"), &output.dims(), bias)?;
        let positions = self.steps[0] * self.steps[1];
        let (reach, filters, taps) = (self.size * self.size * input.channels, self.filters, self.size * self.size);
        let at_once = (PART_ELEMENTS / (reach * filters)).clamp(1, positions);
        let counts: Vec<usize> = (0..positions).step_by(at_once).map(|first| at_once.min(positions - first)).collect();
        let patches = self.patches(builder, site)?;
        let patches = match counts.len() {
            1 => vec![patches],
            _ => builder.node(&format!("{name}.split"), Split { axis: 0, parts: counts.clone() }, &[patches])?,
        };
        let mut products = Vec::with_capacity(counts.len());
        for (part, (&count, patches)) in counts.iter().zip(patches).enumerate() {
            let given = builder.weights.take(count * filters * reach)?;
            // [position][filter][channel][tap] to [position][tap][channel][filter]
            let mut weights = vec![0.0; given.len()];
            for (position, given) in given.chunks_exact(filters * reach).enumerate() {
                for (filter, given) in given.chunks_exact(reach).enumerate() {
                    for (k, &w) in given.iter().enumerate() {
                        let (channel, tap) = (k / taps, k % taps);
                        weights[((position * taps + tap) * input.channels + channel) * filters + filter] = w;
                    }
                }
            }
            let weights = builder.constant(&format!("{name}.weights{part}"), &[count, reach, filters], weights)?;
            products.push(builder.one(&format!("{name}.product{part}"), MatMul, &[patches, weights])?);
        }
        let product = match products[..] {
            [one] => one,
            _ => builder.one(&format!("{name}.products"), Concat { axis: 0 }, &products)?,
        };
        let map = builder.reshape(&format!("{name}.map"), product, &[1, self.steps[0], self.steps[1], filters])?;
        let map = builder.one(&format!("{name}.sum"), Transpose { permutation: vec![0, 3, 1, 2] }, &[map])?;
        builder.activated(name, self.activation, |builder, name, activation| {
            builder.one(name, Elementwise { function: Function::Add, activation }, &[map, bias])
        })
    }
}
