//! `[convolutional]`: cross-correlation with batch-norm, binary forms (`xnor`, `binary`) and a blur behind it
//! (`antialiasing`).
//!
//! Rastegari et al., "XNOR-Net", arXiv 1603.05279; Zhang, "Making Convolutional Networks Shift-Invariant Again",
//! arXiv 1904.11486.

use crate::infer::activation::Activation;
use crate::infer::graph::ValueId;
use crate::infer::import::ImportError;
use crate::infer::import::darknet::activation::Nonlinearity;
use crate::infer::import::darknet::builder::{Builder, Site};
use crate::infer::import::darknet::network::{Before, ELEMENTS_MAX, Layer, Shape, no_window, window_steps};
use crate::infer::import::darknet::place::{Place, Refusal};
use crate::infer::import::darknet::weights::{Folded, transposed};
use crate::infer::kernels::conv::Window;
use crate::infer::kernels::elementwise::Function;
use crate::infer::ops::activation::Activate;
use crate::infer::ops::conv::Conv;

/// What is replaced by signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Binary {
    Nothing,
    /// Each weight by its sign times the mean magnitude of its filter.
    Weights,
    /// The input too: 1 where x > 0, else −1. Positions in the padding stay 0, as in the plain path of Darknet; its
    /// fast path takes them as −1, so results at the picture's border differ a little between the two.
    Both,
}

/// A fixed depthwise filter behind a layer, which takes over the layer's stride.
#[derive(Clone, Copy, Debug)]
pub struct Blur {
    /// 3×3 binomial with a padding of 1, else the mean of 2×2 without.
    binomial: bool,
    stride: [usize; 2],
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Convolution {
    filters: usize,
    window: Window,
    groups: usize,
    batch_normalize: bool,
    activation: Nonlinearity,
    /// The file holds `[in·kernel][filters]`.
    flipped: bool,
    /// Layer whose weights these are (`share_index`).
    shared: Option<usize>,
    binary: Binary,
    blur: Option<Blur>,
}

/// Reads `antialiasing=`; the layer's own stride becomes 1 where there is some.
pub fn read_blur(at: Place<'_>, stride: &mut [usize; 2]) -> Result<Option<Blur>, Refusal> {
    let binomial = match at.section.integer("antialiasing", 0)? {
        0 => return Ok(None),
        1 => true,
        2 => false,
        other => return Err(at.unsupported(format!("antialiasing={other}; 1 and 2 are known"))),
    };
    Ok(Some(Blur { binomial, stride: std::mem::replace(stride, [1; 2]) }))
}

impl Blur {
    fn size(&self) -> usize {
        if self.binomial { 3 } else { 2 }
    }

    fn pad(&self) -> usize {
        usize::from(self.binomial)
    }

    /// Shape behind the blur.
    pub fn place(&self, at: Place<'_>, input: Shape) -> Result<Shape, Refusal> {
        let steps = |length, axis: usize| window_steps(length, 2 * self.pad(), self.size(), self.stride[axis]);
        match (steps(input.height, 0), steps(input.width, 1)) {
            (Some(height), Some(width)) => Ok(Shape { height, width, ..input }),
            _ => Err(at.malformed(no_window(self.size(), 2 * self.pad(), input)).into()),
        }
    }

    pub fn build(&self, builder: &mut Builder<'_>, name: &str, value: ValueId) -> Result<ValueId, ImportError> {
        let channels = builder.channel_count(value);
        let filter: &[f32] = match self.binomial {
            true => &[0.0625, 0.125, 0.0625, 0.125, 0.25, 0.125, 0.0625, 0.125, 0.0625],
            false => &[0.25; 4],
        };
        let (size, pad) = (self.size(), self.pad());
        let weights = builder.constant(&format!("{name}.blur"), &[channels, 1, size, size], filter.repeat(channels))?;
        let window = Window { kernel: [size; 2], stride: self.stride, pads: [pad; 4], dilation: [1; 2] };
        builder.one(name, Conv::new(window, channels), &[value, weights])
    }
}

pub fn read(at: Place<'_>) -> Result<Box<dyn Layer>, Refusal> {
    let section = at.section;
    at.refuse_unloaded()?;
    let size = section.positive("size", 1)?;
    let pad = if section.flag("pad")? { size / 2 } else { section.count("padding", 0)? };
    let dilation = section.positive("dilation", 1)?;
    let dilation = if size == 1 { 1 } else { dilation };
    let pad = pad.checked_mul(dilation).ok_or_else(|| at.malformed("the padding does not fit in memory"))?;
    let shared = match section.integer("share_index", i64::MIN)? {
        i64::MIN => None,
        value => Some(at.layer("share_index", value)?),
    };
    let mut stride = at.strides(1)?;
    let blur = read_blur(at, &mut stride)?;
    let binary = match (section.flag("xnor")?, section.flag("binary")?) {
        (true, _) => Binary::Both,
        (false, true) => Binary::Weights,
        (false, false) => Binary::Nothing,
    };
    // With `bin_output` Darknet may leave out an activation that keeps the sign, where only the sign is looked at.
    section.flag("bin_output")?;
    Ok(Box::new(Convolution {
        filters: section.positive("filters", 1)?,
        window: Window { kernel: [size; 2], stride, pads: [pad; 4], dilation: [dilation; 2] },
        groups: section.positive("groups", 1)?,
        batch_normalize: section.flag("batch_normalize")?,
        activation: at.activation("logistic")?,
        flipped: section.flag("flipped")?,
        shared,
        binary,
        blur,
    }))
}

impl Convolution {
    fn weights_count(&self, input: Shape) -> Option<usize> {
        let [height, width] = self.window.kernel;
        (input.channels / self.groups).checked_mul(self.filters)?.checked_mul(height)?.checked_mul(width)
    }

    /// Follows `share_index` to the layer that owns the weights.
    fn share(&mut self, at: Place<'_>, input: Shape, before: &Before<'_>) -> Result<(), ImportError> {
        let Some(index) = self.shared else { return Ok(()) };
        let placed = &before.0[index];
        let Some(owner) = placed.layer.as_convolution() else {
            return Err(at.malformed(format!("share_index names layer {index}, which is no convolution")));
        };
        let equal = owner.filters == self.filters
            && owner.window.kernel == self.window.kernel
            && placed.input.channels / owner.groups == input.channels / self.groups
            && owner.batch_normalize == self.batch_normalize
            && (owner.binary == Binary::Nothing) == (self.binary == Binary::Nothing);
        if !equal {
            return Err(at.malformed(format!("share_index names layer {index}, whose weights have another shape")));
        }
        self.shared = Some(owner.shared.unwrap_or(index));
        Ok(())
    }

    /// Weights and bias, from the file or from the layer that owns them.
    fn constants(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<[ValueId; 2], ImportError> {
        let owner = self.shared.unwrap_or(site.index);
        if let Some(&constants) = builder.filters.get(&owner) {
            return Ok(constants);
        }
        let Site { name, input, .. } = *site;
        let count = self.weights_count(input).ok_or_else(|| ImportError::malformed("weights do not fit"))?;
        let bias = builder.weights.take(self.filters)?;
        let norm = if self.batch_normalize { Some(builder.weights.take_norm(self.filters)?) } else { None };
        let mut weights = builder.weights.take(count)?;
        if self.flipped {
            weights = transposed(&weights, self.filters);
        }
        if self.binary != Binary::Nothing {
            binarise(&mut weights, self.filters);
        }
        let folded = Folded::new(weights, bias, norm.as_ref(), name)?;
        let [height, width] = self.window.kernel;
        let shape = [self.filters, input.channels / self.groups, height, width];
        let constants = [
            builder.constant(&format!("{name}.weights"), &shape, folded.weights)?,
            builder.constant(&format!("{name}.bias"), &[self.filters], folded.bias)?,
        ];
        builder.filters.insert(owner, constants);
        Ok(constants)
    }
}

/// sign(w)·mean |w| per filter, where the sign of 0 is −1.
fn binarise(weights: &mut [f32], filters: usize) {
    let per_filter = weights.len() / filters;
    for filter in weights.chunks_exact_mut(per_filter.max(1)) {
        let mean = (filter.iter().map(|w| f64::from(w.abs())).sum::<f64>() / filter.len() as f64) as f32;
        for w in filter {
            *w = if *w > 0.0 { mean } else { -mean };
        }
    }
}

impl Layer for Convolution {
    fn place(&mut self, at: Place<'_>, input: Shape, before: &Before<'_>) -> Result<Shape, Refusal> {
        if !input.channels.is_multiple_of(self.groups) || !self.filters.is_multiple_of(self.groups) {
            let why = format!(
                "groups={} does not divide {} input channels and {} filters",
                self.groups, input.channels, self.filters
            );
            return Err(at.malformed(why).into());
        }
        check_weights(at, self.filters, self.weights_count(input), input)?;
        self.share(at, input, before)?;
        let Window { kernel: [size, _], stride, pads: [pad, ..], dilation: [dilation, _] } = self.window;
        let steps = |length, axis: usize| {
            let reach = (size - 1).checked_mul(dilation)?.checked_add(1)?;
            let ours = window_steps(length, pad.checked_mul(2)?, reach, stride[axis])?;
            Some((ours, window_steps(length, pad / dilation * 2, size, stride[axis])?))
        };
        let output = match (steps(input.height, 0), steps(input.width, 1)) {
            // Darknet's formula knows no dilation; the two agree for the odd kernels with pad=1 that are in use.
            (Some(height), Some(width)) if height.0 == height.1 && width.0 == width.1 => {
                Shape { channels: self.filters, height: height.0, width: width.0 }
            }
            (Some(_), Some(_)) => {
                return Err(at.unsupported(format!(
                    "dilation={dilation} with size={size} and a padding of {pad} is only supported where the padding \
                     keeps the size: use an odd size and pad=1"
                )));
            }
            _ => return Err(at.malformed(no_window(size, pad.saturating_mul(2), input)).into()),
        };
        match &self.blur {
            Some(blur) => blur.place(at, output),
            None => Ok(output),
        }
    }

    fn floats(&self, input: Shape) -> Option<usize> {
        if self.shared.is_some() {
            return Some(0);
        }
        let arrays = if self.batch_normalize { 4 } else { 1 };
        self.filters.checked_mul(arrays)?.checked_add(self.weights_count(input)?)
    }

    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError> {
        let [weights, bias] = self.constants(builder, site)?;
        let name = site.name;
        let mut input = site.previous;
        if self.binary == Binary::Both {
            input = signs(builder, &format!("{name}.signs"), input)?;
        }
        let own_name = if self.blur.is_some() { format!("{name}.sharp") } else { name.to_string() };
        let value = builder.activated(&own_name, self.activation, |builder, name, activation| {
            let op = Conv { activation, ..Conv::new(self.window, self.groups) };
            builder.one(name, op, &[input, weights, bias])
        })?;
        match &self.blur {
            Some(blur) => blur.build(builder, name, value),
            None => Ok(value),
        }
    }

    fn as_convolution(&self) -> Option<&Convolution> {
        Some(self)
    }
}

/// Refuses more weights than one tensor may have.
pub fn check_weights(at: Place<'_>, filters: usize, count: Option<usize>, input: Shape) -> Result<(), ImportError> {
    match count {
        Some(n) if n <= ELEMENTS_MAX => Ok(()),
        _ => Err(at.malformed(format!("{filters} filters over {input} are above the limit of {ELEMENTS_MAX} weights"))),
    }
}

/// x > 0 ? 1 : −1, as 2·ceil(x clamped to [0, 1]) − 1.
fn signs(builder: &mut Builder<'_>, name: &str, x: ValueId) -> Result<ValueId, ImportError> {
    let activation = Activation::Clip { lo: 0.0, hi: 1.0 };
    let clamped = builder.one(&format!("{name}.clamped"), Activate { activation }, &[x])?;
    let above = builder.unary(&format!("{name}.above"), Function::Ceil, clamped)?;
    let twice = builder.with_number(&format!("{name}.twice"), Function::Mul, above, 2.0)?;
    builder.with_number(name, Function::Sub, twice, 1.0)
}
