//! What the sections of a cfg mean: attributes with their defaults, shapes, and how many floats of the weights file
//! each layer takes. Nothing here touches the weights, so that a wrong pair of files is refused before memory is
//! asked for.
//!
//! The arithmetic is that of the maintained Darknet fork (YOLOv4 and later); where the original of 2018 differs, the
//! section's doc says so.

use super::cfg::Section;
use crate::infer::activation::Activation;
use crate::infer::import::{ImportError, Unsupported};
use crate::infer::kernels::conv::Window;
use crate::infer::kernels::pool::PoolKind;

/// Most elements of one feature map or one weights tensor: 512 MiB of f32.
const ELEMENTS_MAX: usize = 1 << 27;

/// A feature map without its batch axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl Shape {
    /// Channels × height × width; shapes in a [`Network`] are checked to have one.
    pub fn elements(self) -> usize {
        self.channels * self.height * self.width
    }
}

/// `[convolutional]` or `[connected]`, which is a convolution whose window is the whole feature map.
#[derive(Clone, Debug)]
pub struct Convolution {
    pub filters: usize,
    pub window: Window,
    pub groups: usize,
    pub batch_normalize: bool,
    pub activation: Activation,
    /// The file holds `[in·kernel][filters]`.
    pub transposed: bool,
    /// Layer whose weights these are (`share_index`).
    pub shared: Option<usize>,
    /// The weights file holds the weights before the batch-norm arrays.
    pub connected: bool,
}

/// `[yolo]`.
#[derive(Clone, Debug)]
pub struct Yolo {
    pub anchors_px: Vec<[f32; 2]>,
    pub classes: usize,
    pub scale_x_y: f32,
    pub new_coords: bool,
}

/// A section after `[net]`.
#[derive(Clone, Debug)]
pub enum Layer {
    Convolution(Convolution),
    BatchNorm,
    /// Padding is resolved with the input's shape.
    Pool {
        kind: PoolKind,
        size: usize,
        stride: [usize; 2],
        padding: usize,
    },
    GlobalAverage,
    Upsample {
        stride: usize,
        scale: f32,
    },
    /// Concatenates block `group` of `groups` of the channels of each layer.
    Route {
        layers: Vec<usize>,
        groups: usize,
        group: usize,
    },
    Shortcut {
        from: Vec<usize>,
        activation: Activation,
    },
    /// `from` × previous, which is broadcast over the picture, or over the channels with `per_pixel`.
    ScaleChannels {
        from: usize,
        per_pixel: bool,
        activation: Activation,
    },
    Multiply {
        from: usize,
        activation: Activation,
    },
    /// Space to depth; `flat` is the older layer, which reads its input as if it had another shape.
    Reorg {
        stride: usize,
        flat: bool,
    },
    Activation(Activation),
    Softmax {
        groups: usize,
        spatial: bool,
    },
    Yolo(Yolo),
    Identity,
}

/// A layer with its place in the network.
#[derive(Debug)]
pub struct Placed {
    /// Long name of its section, for node names and messages.
    pub kind: &'static str,
    pub layer: Layer,
    pub input: Shape,
    pub output: Shape,
}

/// A cfg whose every section is understood.
#[derive(Debug)]
pub struct Network {
    pub input: Shape,
    pub layers: Vec<Placed>,
    /// Darknet's `letter_box`: the picture keeps its aspect.
    pub letter_box: bool,
}

/// `Unsupported` entries are gathered, `Stop` ends the import.
enum Refusal {
    Unsupported(Unsupported),
    Stop(ImportError),
}

impl From<ImportError> for Refusal {
    fn from(error: ImportError) -> Refusal {
        Refusal::Stop(error)
    }
}

/// Where a section stands, for messages.
#[derive(Clone, Copy)]
struct Place<'a> {
    section: &'a Section,
    index: usize,
}

impl Place<'_> {
    fn unsupported(self, why: impl Into<String>) -> Refusal {
        Refusal::Unsupported(Unsupported {
            node: format!("section {} at line {}", self.index, self.section.line),
            op: format!("[{}]", self.section.kind),
            why: why.into(),
        })
    }

    fn malformed(self, why: impl AsRef<str>) -> ImportError {
        ImportError::malformed(format!(
            "section {} [{}] at line {}: {}",
            self.index,
            self.section.kind,
            self.section.line,
            why.as_ref()
        ))
    }

    /// Resolves a reference to an earlier layer.
    fn layer(self, key: &str, value: i64) -> Result<usize, ImportError> {
        let index = self.index as i64;
        let absolute = if value < 0 { index.saturating_add(value) } else { value };
        if (0..index).contains(&absolute) {
            return Ok(absolute as usize);
        }
        Err(self.malformed(format!("{key}={value} does not name one of the {index} layers before it")))
    }

    fn activation(self, default: &str) -> Result<Activation, Refusal> {
        let name = self.section.text("activation", default);
        Ok(match name {
            "linear" => Activation::None,
            "relu" => Activation::Relu,
            "leaky" | "revleaky" => Activation::LeakyRelu { alpha: 0.1 },
            "relie" => Activation::LeakyRelu { alpha: 0.01 },
            "logistic" => Activation::Sigmoid,
            "swish" => Activation::Silu,
            "mish" => Activation::Mish,
            "tanh" => Activation::Tanh,
            "elu" => Activation::Elu { alpha: 1.0 },
            "gelu" => Activation::GeluTanh,
            "relu6" => Activation::Clip { lo: 0.0, hi: 6.0 },
            "hardtan" => Activation::Clip { lo: -1.0, hi: 1.0 },
            other => {
                return Err(self.unsupported(format!(
                    "activation '{other}' is not one of linear, relu, relu6, leaky, revleaky, relie, logistic, swish, \
                     mish, tanh, elu, gelu, hardtan"
                )));
            }
        })
    }

    /// Refuses keys whose value changes what is computed in a way that is not implemented.
    fn refuse_flags(self, keys: &[(&str, &str)]) -> Result<(), Refusal> {
        for (key, what) in keys {
            if self.section.flag(key)? {
                return Err(self.unsupported(format!("{key}={} ({what})", self.section.text(key, "1"))));
            }
        }
        Ok(())
    }

    fn strides(self, default: usize) -> Result<[usize; 2], ImportError> {
        let stride = self.section.positive("stride", default)?;
        Ok([self.section.positive("stride_y", stride)?, self.section.positive("stride_x", stride)?])
    }
}

const NOT_IN_FILE: [(&str, &str); 2] = [
    ("dontload", "its weights are not in the weights file"),
    ("dontloadscales", "its batch-norm arrays are not in the weights file"),
];

/// Every kind with its short form, for the message about an unknown one.
const KINDS: &str = "convolutional, connected, batchnorm, maxpool, local_avgpool, avgpool, upsample, route, shortcut, \
                     scale_channels, sam, reorg, reorg3d, activation, softmax, dropout, cost, empty, silence, yolo";

fn read_convolution(at: Place<'_>) -> Result<Layer, Refusal> {
    let section = at.section;
    at.refuse_flags(&NOT_IN_FILE)?;
    at.refuse_flags(&[
        ("xnor", "binary convolution"),
        ("binary", "binary weights"),
        ("antialiasing", "blur after the convolution"),
    ])?;
    let size = section.positive("size", 1)?;
    let pad = if section.flag("pad")? { size / 2 } else { section.count("padding", 0)? };
    let dilation = section.positive("dilation", 1)?;
    let dilation = if size == 1 { 1 } else { dilation };
    let pad = pad.checked_mul(dilation).ok_or_else(|| at.malformed("the padding does not fit in memory"))?;
    let shared = match section.integer("share_index", i64::MIN)? {
        i64::MIN => None,
        value => Some(at.layer("share_index", value)?),
    };
    Ok(Layer::Convolution(Convolution {
        filters: section.positive("filters", 1)?,
        window: Window { kernel: [size; 2], stride: at.strides(1)?, pads: [pad; 4], dilation: [dilation; 2] },
        groups: section.positive("groups", 1)?,
        batch_normalize: section.flag("batch_normalize")?,
        activation: at.activation("logistic")?,
        transposed: section.flag("flipped")?,
        shared,
        connected: false,
    }))
}

fn read_connected(at: Place<'_>) -> Result<Layer, Refusal> {
    let section = at.section;
    at.refuse_flags(&NOT_IN_FILE)?;
    Ok(Layer::Convolution(Convolution {
        filters: section.positive("output", 1)?,
        // The kernel is set to the input's size when that is known.
        window: Window { kernel: [0; 2], stride: [1; 2], pads: [0; 4], dilation: [1; 2] },
        groups: 1,
        batch_normalize: section.flag("batch_normalize")?,
        activation: at.activation("logistic")?,
        transposed: false,
        shared: None,
        connected: true,
    }))
}

fn read_pool(at: Place<'_>, kind: PoolKind) -> Result<Layer, Refusal> {
    let section = at.section;
    at.refuse_flags(&[("maxpool_depth", "maximum over channels"), ("antialiasing", "blur after the pool")])?;
    let stride = at.strides(1)?;
    let size = section.positive("size", section.positive("stride", 1)?)?;
    let padding = section.count("padding", size - 1)?;
    Ok(Layer::Pool { kind, size, stride, padding })
}

fn read_route(at: Place<'_>) -> Result<Layer, Refusal> {
    let section = at.section;
    let listed = section.integers("layers")?.ok_or_else(|| at.malformed("layers= is missing"))?;
    let layers = listed.iter().map(|&value| at.layer("layers", value)).collect::<Result<_, _>>()?;
    let groups = section.positive("groups", 1)?;
    let group = section.count("group_id", 0)?;
    if group >= groups {
        return Err(at.malformed(format!("group_id={group} is not below groups={groups}")).into());
    }
    Ok(Layer::Route { layers, groups, group })
}

fn read_shortcut(at: Place<'_>) -> Result<Layer, Refusal> {
    let section = at.section;
    let weights = section.text("weights_type", "none");
    if weights != "none" {
        return Err(at.unsupported(format!("weights_type={weights}; only none is supported")));
    }
    for key in ["alpha", "beta"] {
        let value = section.float(key, 1.0)?;
        if value != 1.0 {
            return Err(at.unsupported(format!("{key}={value}; only 1 is supported")));
        }
    }
    let listed = section.integers("from")?.ok_or_else(|| at.malformed("from= is missing"))?;
    let from = listed.iter().map(|&value| at.layer("from", value)).collect::<Result<_, _>>()?;
    Ok(Layer::Shortcut { from, activation: at.activation("linear")? })
}

/// The one layer that `from=` names.
fn read_from(at: Place<'_>) -> Result<usize, ImportError> {
    if !at.section.has("from") {
        return Err(at.malformed("from= is missing"));
    }
    at.layer("from", at.section.integer("from", 0)?)
}

fn read_yolo(at: Place<'_>) -> Result<Layer, Refusal> {
    let section = at.section;
    let num = section.positive("num", 1)?;
    let classes = section.positive("classes", 20)?;
    let sides = section.floats("anchors")?.ok_or_else(|| at.malformed("anchors= is missing"))?;
    let mask = match section.integers("mask")? {
        Some(mask) => mask,
        None => (0..num.min(sides.len()) as i64).collect(),
    };
    let mut anchors_px = Vec::with_capacity(mask.len());
    for &anchor in &mask {
        let sides = usize::try_from(anchor).ok().and_then(|a| sides.get(a.checked_mul(2)?..)?.first_chunk::<2>());
        match sides {
            Some(&sides) if sides.iter().all(|&side| side > 0.0) => anchors_px.push(sides),
            Some(sides) => return Err(at.malformed(format!("anchor {anchor} is {sides:?}, not above 0")).into()),
            None => return Err(at.malformed(format!("mask={anchor} names an anchor that anchors= lacks")).into()),
        }
    }
    let scale_x_y = section.float("scale_x_y", 1.0)?;
    let new_coords = section.flag("new_coords")?;
    Ok(Layer::Yolo(Yolo { anchors_px, classes, scale_x_y, new_coords }))
}

fn read_layer(at: Place<'_>) -> Result<(&'static str, Layer), Refusal> {
    let section = at.section;
    Ok(match section.kind.as_str() {
        "convolutional" | "conv" => ("convolutional", read_convolution(at)?),
        "connected" | "conn" => ("connected", read_connected(at)?),
        "batchnorm" => {
            at.refuse_flags(&NOT_IN_FILE)?;
            ("batchnorm", Layer::BatchNorm)
        }
        "maxpool" | "max" => ("maxpool", read_pool(at, PoolKind::Max)?),
        "local_avgpool" | "local_avg" => {
            ("local_avgpool", read_pool(at, PoolKind::Average { count_include_pad: false })?)
        }
        "avgpool" | "avg" => ("avgpool", Layer::GlobalAverage),
        "upsample" => {
            let stride = section.integer("stride", 2)?;
            if stride < 0 {
                return Err(at.unsupported(format!("stride={stride} (downsampling)")));
            }
            (
                "upsample",
                Layer::Upsample { stride: section.positive("stride", 2)?, scale: section.float("scale", 1.0)? },
            )
        }
        "route" => ("route", read_route(at)?),
        "shortcut" => ("shortcut", read_shortcut(at)?),
        "scale_channels" => {
            let per_pixel = section.flag("scale_wh")?;
            let activation = at.activation("linear")?;
            ("scale_channels", Layer::ScaleChannels { from: read_from(at)?, per_pixel, activation })
        }
        "sam" => ("sam", Layer::Multiply { activation: at.activation("linear")?, from: read_from(at)? }),
        kind @ ("reorg" | "reorg3d") => {
            at.refuse_flags(&[("reverse", "depth to space"), ("flatten", "flattening"), ("extra", "extra values")])?;
            let stride = section.positive("stride", 1)?;
            let flat = kind == "reorg";
            (if flat { "reorg" } else { "reorg3d" }, Layer::Reorg { stride, flat })
        }
        "activation" => ("activation", Layer::Activation(at.activation("linear")?)),
        "softmax" | "soft" => {
            if section.has("tree") {
                return Err(at.unsupported("tree= (hierarchical softmax)"));
            }
            let temperature = section.float("temperature", 1.0)?;
            if temperature != 1.0 {
                return Err(at.unsupported(format!("temperature={temperature}; only 1 is supported")));
            }
            ("softmax", Layer::Softmax { groups: section.positive("groups", 1)?, spatial: section.flag("spatial")? })
        }
        "yolo" => ("yolo", read_yolo(at)?),
        "dropout" => ("dropout", Layer::Identity),
        "cost" => ("cost", Layer::Identity),
        "empty" => ("empty", Layer::Identity),
        "silence" => ("silence", Layer::Identity),
        _ => return Err(at.unsupported(format!("no such section is supported; those that are: {KINDS}"))),
    })
}

impl Network {
    /// Reads the sections and works out every shape. `size_px` replaces the width and height of `[net]`.
    ///
    /// # Errors
    /// All unsupported sections, keys and activations at once; or the first contradiction.
    pub fn read(sections: &[Section], name: &str, size_px: Option<[usize; 2]>) -> Result<Network, ImportError> {
        let not_a_model = |why: String| ImportError::NotAModel { name: name.to_string(), why };
        let Some((net, rest)) = sections.split_first() else {
            return Err(not_a_model("the cfg has no section".to_string()));
        };
        if !matches!(net.kind.as_str(), "net" | "network") {
            return Err(not_a_model(format!("a cfg begins with [net], this one with [{}]", net.kind)));
        }
        if rest.is_empty() {
            return Err(not_a_model("the cfg has no layer after [net]".to_string()));
        }
        if net.positive("time_steps", 1)? != 1 {
            return Err(ImportError::Unsupported(vec![Unsupported {
                node: format!("line {}", net.line),
                op: "[net]".to_string(),
                why: "time_steps above 1 (recurrent networks)".to_string(),
            }]));
        }
        let [width, height] = match size_px {
            Some(size) => size,
            None => [net.positive("width", 0)?, net.positive("height", 0)?],
        };
        let input = Shape { channels: net.positive("channels", 0)?, height, width };
        let letter_box = net.flag("letter_box")?;

        let mut read = Vec::with_capacity(rest.len());
        let mut unsupported = Vec::new();
        for (index, section) in rest.iter().enumerate() {
            match read_layer(Place { section, index }) {
                Ok(layer) => read.push(layer),
                Err(Refusal::Unsupported(one)) => unsupported.push(one),
                Err(Refusal::Stop(error)) => return Err(error),
            }
            let unused = section.unused_keys();
            if !unused.is_empty() {
                log::debug!("section {index} [{}]: ignored {}", section.kind, unused.join(", "));
            }
        }
        if !unsupported.is_empty() {
            return Err(ImportError::Unsupported(unsupported));
        }

        if input.width == 0 || input.height == 0 {
            return Err(ImportError::malformed("the input's width and height must be at least 1"));
        }
        check_elements(input).map_err(|why| ImportError::malformed(format!("[net]: {why}")))?;
        let mut layers: Vec<Placed> = Vec::with_capacity(read.len());
        for (index, (kind, layer)) in read.into_iter().enumerate() {
            let at = Place { section: &rest[index], index };
            let previous = layers.last().map_or(input, |l| l.output);
            let placed = place(at, kind, layer, previous, &layers)?;
            check_elements(placed.output).map_err(|why| at.malformed(why))?;
            layers.push(placed);
        }
        Ok(Network { input, layers, letter_box })
    }

    /// Floats that one layer takes from the weights file.
    pub fn floats_of(layer: &Placed) -> Option<usize> {
        match &layer.layer {
            Layer::Convolution(Convolution { shared: Some(_), .. }) => Some(0),
            Layer::Convolution(conv) => {
                let arrays = if conv.batch_normalize { 4 } else { 1 };
                conv.filters.checked_mul(arrays)?.checked_add(weights_of(conv, layer.input)?)
            }
            Layer::BatchNorm => layer.input.channels.checked_mul(4),
            _ => Some(0),
        }
    }

    /// Floats that the weights file must hold: with biases in `[batchnorm]` sections (the maintained fork) and
    /// without (the original). `None` where the sum does not fit in memory arithmetic.
    pub fn floats(&self) -> Option<[usize; 2]> {
        let with = self.layers.iter().try_fold(0usize, |n, layer| n.checked_add(Self::floats_of(layer)?))?;
        let biases: usize =
            self.layers.iter().filter(|l| matches!(l.layer, Layer::BatchNorm)).map(|l| l.input.channels).sum();
        Some([with, with - biases])
    }
}

/// Elements of a convolution's weights tensor.
pub fn weights_of(conv: &Convolution, input: Shape) -> Option<usize> {
    let [height, width] = conv.window.kernel;
    (input.channels / conv.groups).checked_mul(conv.filters)?.checked_mul(height)?.checked_mul(width)
}

fn check_elements(shape: Shape) -> Result<(), String> {
    let Shape { channels, height, width } = shape;
    match channels.checked_mul(height).and_then(|n| n.checked_mul(width)) {
        Some(n) if n <= ELEMENTS_MAX => Ok(()),
        _ => Err(format!("a feature map of {channels}x{height}x{width} is above the limit of {ELEMENTS_MAX} elements")),
    }
}

/// floor((length + padding − size)/stride) + 1
fn window_steps(length: usize, padding: usize, size: usize, stride: usize) -> Option<usize> {
    Some(length.checked_add(padding)?.checked_sub(size)? / stride + 1)
}

fn place(
    at: Place<'_>,
    kind: &'static str,
    mut layer: Layer,
    previous: Shape,
    layers: &[Placed],
) -> Result<Placed, ImportError> {
    let gather = |refusal: Refusal| match refusal {
        Refusal::Unsupported(one) => ImportError::Unsupported(vec![one]),
        Refusal::Stop(error) => error,
    };
    // Heads leave the network raw here, where Darknet hands on activated values.
    let head_read = |index: usize| match layers.get(index) {
        Some(Placed { layer: Layer::Yolo(_), .. }) => {
            Err(gather(at.unsupported(format!("reads the output of the [yolo] section {index}"))))
        }
        _ => Ok(()),
    };
    let shape_of = |index: usize| {
        head_read(index)?;
        Ok::<Shape, ImportError>(layers[index].output)
    };
    if at.index > 0 && !matches!(layer, Layer::Route { .. }) {
        head_read(at.index - 1)?;
    }
    let output = match &mut layer {
        Layer::Convolution(conv) if conv.connected => {
            conv.window.kernel = [previous.height, previous.width];
            check_weights(at, conv, previous)?;
            Shape { channels: conv.filters, height: 1, width: 1 }
        }
        Layer::Convolution(conv) => {
            if !previous.channels.is_multiple_of(conv.groups) || !conv.filters.is_multiple_of(conv.groups) {
                return Err(at.malformed(format!(
                    "groups={} does not divide {} input channels and {} filters",
                    conv.groups, previous.channels, conv.filters
                )));
            }
            check_weights(at, conv, previous)?;
            share(at, conv, previous, layers)?;
            let Window { kernel: [size, _], stride, pads: [pad, ..], dilation: [dilation, _] } = conv.window;
            let steps = |length, axis: usize| {
                let reach = (size - 1).checked_mul(dilation)?.checked_add(1)?;
                let ours = window_steps(length, pad.checked_mul(2)?, reach, stride[axis])?;
                Some((ours, window_steps(length, pad / dilation * 2, size, stride[axis])?))
            };
            match (steps(previous.height, 0), steps(previous.width, 1)) {
                // Darknet's formula knows no dilation; the two agree for the odd kernels with pad=1 that are in use.
                (Some(height), Some(width)) if height.0 == height.1 && width.0 == width.1 => {
                    Shape { channels: conv.filters, height: height.0, width: width.0 }
                }
                (Some(_), Some(_)) => {
                    return Err(gather(at.unsupported(format!(
                        "dilation={dilation} with size={size} and a padding of {pad} is only supported where the \
                         padding keeps the size: use an odd size and pad=1"
                    ))));
                }
                _ => return Err(at.malformed(no_window(size, pad.saturating_mul(2), previous))),
            }
        }
        Layer::Pool { size, stride, padding, .. } => {
            if *padding > 0 && padding.div_ceil(2) >= *size {
                return Err(at.malformed(format!("padding={padding} leaves windows of size={size} empty")));
            }
            let steps = |length, axis: usize| window_steps(length, *padding, *size, stride[axis]);
            match (steps(previous.height, 0), steps(previous.width, 1)) {
                (Some(height), Some(width)) => Shape { height, width, ..previous },
                _ => return Err(at.malformed(no_window(*size, *padding, previous))),
            }
        }
        Layer::GlobalAverage => Shape { height: 1, width: 1, ..previous },
        Layer::Upsample { stride, .. } => {
            let scaled = |length: usize| length.checked_mul(*stride).ok_or_else(|| at.malformed("too large"));
            Shape { height: scaled(previous.height)?, width: scaled(previous.width)?, ..previous }
        }
        Layer::Route { layers: listed, groups, .. } => {
            let first = shape_of(listed[0])?;
            let mut channels = 0usize;
            for &index in listed.iter() {
                let shape = shape_of(index)?;
                if (shape.height, shape.width) != (first.height, first.width) {
                    return Err(at.malformed(format!(
                        "layer {index} has {}x{} pixels, layer {} has {}x{}",
                        shape.width, shape.height, listed[0], first.width, first.height
                    )));
                }
                if !shape.channels.is_multiple_of(*groups) {
                    return Err(at.malformed(format!(
                        "groups={groups} does not divide the {} channels of layer {index}",
                        shape.channels
                    )));
                }
                channels = channels.saturating_add(shape.channels / *groups);
            }
            Shape { channels, ..first }
        }
        Layer::Shortcut { from, .. } => {
            for &index in from.iter() {
                let shape = shape_of(index)?;
                if (shape.height, shape.width) != (previous.height, previous.width) {
                    let why = format!(
                        "adds layer {index} of {}x{} pixels to {}x{}; only equal sizes are supported",
                        shape.width, shape.height, previous.width, previous.height
                    );
                    return Err(gather(at.unsupported(why)));
                }
            }
            previous
        }
        Layer::ScaleChannels { from, per_pixel, .. } => {
            let shape = shape_of(*from)?;
            let expected =
                if *per_pixel { Shape { channels: 1, ..shape } } else { Shape { height: 1, width: 1, ..shape } };
            if previous != expected {
                return Err(at.malformed(format!(
                    "the scales have the shape {}, layer {from} with {} needs {}",
                    text(previous),
                    text(shape),
                    text(expected)
                )));
            }
            shape
        }
        Layer::Multiply { from, .. } => {
            let shape = shape_of(*from)?;
            if shape != previous {
                return Err(at.malformed(format!(
                    "multiplies {} by layer {from} with {}",
                    text(previous),
                    text(shape)
                )));
            }
            previous
        }
        Layer::Reorg { stride, flat } => {
            let s = *stride;
            let block = s.checked_mul(s).ok_or_else(|| at.malformed("too large"))?;
            let divides = previous.height.is_multiple_of(s)
                && previous.width.is_multiple_of(s)
                && (!*flat || previous.channels.is_multiple_of(block));
            if !divides {
                return Err(at.malformed(format!("stride={s} does not divide {}", text(previous))));
            }
            let channels = previous.channels.checked_mul(block).ok_or_else(|| at.malformed("too large"))?;
            Shape { channels, height: previous.height / s, width: previous.width / s }
        }
        Layer::Softmax { groups, spatial } => {
            if !*spatial && !previous.elements().is_multiple_of(*groups) {
                return Err(at.malformed(format!("groups={groups} does not divide {}", text(previous))));
            }
            previous
        }
        Layer::Yolo(yolo) => {
            let channels = yolo.classes.checked_add(5).and_then(|n| n.checked_mul(yolo.anchors_px.len()));
            if channels != Some(previous.channels) {
                return Err(at.malformed(format!(
                    "{} anchors of 5 + {} values do not make the {} channels of its input",
                    yolo.anchors_px.len(),
                    yolo.classes,
                    previous.channels
                )));
            }
            previous
        }
        Layer::BatchNorm | Layer::Activation(_) | Layer::Identity => previous,
    };
    Ok(Placed { kind, layer, input: previous, output })
}

fn text(shape: Shape) -> String {
    format!("{}x{}x{}", shape.channels, shape.height, shape.width)
}

fn no_window(size: usize, padding: usize, input: Shape) -> String {
    format!("size={size} with {padding} pixels of padding does not fit an input of {}", text(input))
}

fn check_weights(at: Place<'_>, conv: &Convolution, input: Shape) -> Result<(), ImportError> {
    match weights_of(conv, input) {
        Some(n) if n <= ELEMENTS_MAX => Ok(()),
        _ => Err(at.malformed(format!(
            "{} filters over {} are above the limit of {ELEMENTS_MAX} weights",
            conv.filters,
            text(input)
        ))),
    }
}

/// Follows `share_index` to the layer that owns the weights.
fn share(at: Place<'_>, conv: &mut Convolution, input: Shape, layers: &[Placed]) -> Result<(), ImportError> {
    let Some(index) = conv.shared else { return Ok(()) };
    let Some(Placed { layer: Layer::Convolution(owner), input: owner_input, .. }) = layers.get(index) else {
        return Err(at.malformed(format!("share_index names layer {index}, which is no convolution")));
    };
    let equal = owner.filters == conv.filters
        && owner.window.kernel == conv.window.kernel
        && owner_input.channels / owner.groups == input.channels / conv.groups
        && owner.batch_normalize == conv.batch_normalize
        && !owner.connected;
    if !equal {
        return Err(at.malformed(format!("share_index names layer {index}, whose weights have another shape")));
    }
    conv.shared = Some(owner.shared.unwrap_or(index));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::cfg::parse;
    use super::*;

    fn read(text: &str) -> Result<Network, ImportError> {
        Network::read(&parse(text)?, "test.cfg", None)
    }

    fn outputs(text: &str) -> Vec<[usize; 3]> {
        let network = read(text).unwrap();
        network.layers.iter().map(|l| [l.output.channels, l.output.height, l.output.width]).collect()
    }

    fn message(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    const NET: &str = "[net]\nwidth=26\nheight=13\nchannels=3\n";

    #[test]
    fn shapes_follow_darknets_formulas() {
        let layers = [
            ("[conv]\nfilters=8\nsize=3\nstride=2\npad=1\nactivation=leaky", [8, 7, 13]),
            ("[max]\nsize=2\nstride=2", [8, 4, 7]),
            ("[maxpool]\nsize=2\nstride=1", [8, 4, 7]),
            ("[maxpool]\nsize=5\nstride=1", [8, 4, 7]),
            ("[conv]\nfilters=8\ngroups=8\nsize=5\npad=1", [8, 4, 7]),
            ("[conv]\nfilters=4\nsize=3\npad=1\ndilation=2", [4, 4, 7]),
            ("[dropout]", [4, 4, 7]),
            ("[shortcut]\nfrom=-4", [4, 4, 7]),
            ("[route]\nlayers = -1, 4", [12, 4, 7]),
            ("[route]\nlayers=-1\ngroups=2\ngroup_id=1", [6, 4, 7]),
            ("[upsample]\nstride=3", [6, 12, 21]),
            ("[reorg3d]\nstride=3", [54, 4, 7]),
            ("[avgpool]", [54, 1, 1]),
            ("[scale_channels]\nfrom=-2", [54, 4, 7]),
            ("[sam]\nfrom=-3", [54, 4, 7]),
            ("[batchnorm]", [54, 4, 7]),
            ("[conv]\nfilters=12\nsize=1\npad=1\nstride_x=2", [12, 4, 4]),
            ("[reorg]\nstride=2", [48, 2, 2]),
            ("[connected]\noutput=10", [10, 1, 1]),
            ("[softmax]", [10, 1, 1]),
        ];
        let text = format!("{NET}{}", layers.map(|l| l.0).join("\n"));
        assert_eq!(outputs(&text), layers.map(|l| l.1));
        let network = read(&text).unwrap();
        let floats: Vec<usize> = network.layers.iter().map(|l| Network::floats_of(l).unwrap()).collect();
        let expected = [
            (0, 8 * 27 + 8),
            (4, 8 * 25 + 8),
            (5, 4 * 8 * 9 + 4),
            (15, 4 * 54),
            (16, 12 * 54 + 12),
            (18, 10 * 48 * 4 + 10),
        ];
        let mut all = vec![0; layers.len()];
        expected.iter().for_each(|&(i, n)| all[i] = n);
        assert_eq!(floats, all);
        let sum: usize = all.iter().sum();
        assert_eq!(network.floats(), Some([sum, sum - 54]));
    }

    #[test]
    fn the_size_can_be_replaced() {
        let sections = parse(&format!("{NET}[maxpool]\nstride=2")).unwrap();
        let network = Network::read(&sections, "x", Some([64, 32])).unwrap();
        assert_eq!(network.layers[0].output, Shape { channels: 3, height: 16, width: 32 });
    }

    #[test]
    fn everything_unsupported_is_said_at_once() {
        let error = read(&format!(
            "{NET}[conv]\nactivation=stair\n[lstm]\noutput=3\n[conv]\nxnor=1\nactivation=leaky\n[maxpool]\nmaxpool_depth=1\n\
             [softmax]\ntree=x.tree\n[shortcut]\nfrom=0\nweights_type=per_feature"
        ))
        .unwrap_err();
        let ImportError::Unsupported(list) = &error else { panic!("{error}") };
        assert_eq!(list.len(), 6, "{error}");
        for part in ["'stair'", "[lstm]", "section 1 at line 7", "xnor=1", "maxpool_depth", "tree", "per_feature"] {
            assert!(error.to_string().contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn contradictions_and_hostile_numbers_are_errors() {
        for (layers, part) in [
            ("[route]\nlayers=-1", "layers=-1"),
            ("[conv]\n[route]\nlayers=1", "layers=1"),
            ("[route]", "layers= is missing"),
            ("[conv]\nfilters=0", "filters must be at least 1"),
            ("[conv]\nsize=3\nstride=0", "stride"),
            ("[conv]\nfilters=4000000000\nsize=60000", "limit"),
            ("[conv]\nfilters=4000000000", "limit"),
            ("[conv]\nsize=99", "does not fit"),
            ("[conv]\nfilters=4\ngroups=2", "groups=2"),
            ("[maxpool]\nsize=2\npadding=9", "padding=9"),
            ("[upsample]\nstride=70000", "limit"),
            ("[conv]\nfilters=18\n[yolo]\nclasses=1\nnum=3\nanchors=1,2,3,4\nmask=0,1,2", "mask=2"),
            ("[conv]\nfilters=17\n[yolo]\nclasses=1\nanchors=1,2,3,4,5,6\nmask=0,1,2", "17 channels"),
            ("[conv]\nfilters=6\n[yolo]\nclasses=1\nanchors=1,2\n[conv]", "reads the output"),
            ("[conv]\nfilters=8\n[max]\nstride=2\n[shortcut]\nfrom=0", "equal sizes"),
            ("[conv]\nfilters=8\n[max]\nstride=2\n[route]\nlayers=0,1", "pixels"),
            ("[conv]\nfilters=2\n[conv]\nfilters=3\nshare_index=0", "another shape"),
            ("[reorg]\nstride=2", "stride=2"),
        ] {
            let error = message(&format!("{NET}{layers}"));
            assert!(error.contains(part), "{layers}: {error}");
        }
        assert!(message("[yolo]\nclasses=1").contains("[net]"));
        assert!(message("[net]\nwidth=3\nheight=3\nchannels=3").contains("no layer"));
        assert!(message("[net]\nwidth=0\nheight=3\nchannels=3\n[conv]").contains("width"));
        assert!(message("").contains("no section"));
    }
}
