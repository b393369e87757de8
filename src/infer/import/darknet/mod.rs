//! Darknet networks: a `.cfg` text and the `.weights` file that belongs to it.
//!
//! [`cfg`] reads the text, [`layer`] gives the sections their meaning and shapes, [`weights`] checks the file's length
//! and folds the batch-norms; here the layers become nodes. A `[yolo]` section adds no node: the feature map that
//! it reads becomes an output of the graph, and its anchors go to [`Graph::darknet_heads`].

mod cfg;
mod layer;
mod weights;

use std::collections::HashMap;

use super::{ImportError, ImportOptions};
use crate::infer::activation::Activation;
use crate::infer::graph::{DarknetHead, Fact, Format, Graph, ValueId};
use crate::infer::kernels::conv::Window;
use crate::infer::kernels::elementwise::Function;
use crate::infer::op::Op;
use crate::infer::ops::activation::Activate;
use crate::infer::ops::concat::Concat;
use crate::infer::ops::conv::Conv;
use crate::infer::ops::elementwise::Elementwise;
use crate::infer::ops::pool::Pool;
use crate::infer::ops::reduce::Reduce;
use crate::infer::ops::reshape::Reshape;
use crate::infer::ops::resize::Resize;
use crate::infer::ops::softmax::Softmax;
use crate::infer::ops::space_depth::SpaceDepth;
use crate::infer::ops::split::Split;
use crate::infer::tensor::Tensor;
use layer::{Convolution, Layer, Network, Placed, Shape};
use weights::Weights;

/// Builds the graph of a Darknet network. Its input is `input`, `[1, channels, height, width]`, RGB, 0 to 1; its
/// outputs are the maps that the `[yolo]` sections read, in the order of the file, or the last layer's where there is
/// no head. A layer's value is named after its section and number, `convolutional_12`.
///
/// `options.size_px` replaces the size of `[net]`. `name` is used in messages and as the graph's name.
///
/// # Errors
/// Every section, key and activation that is not supported, at once; else the first contradiction in the cfg; else by
/// how many floats the weights file is too short or too long.
pub fn import_darknet(
    cfg_text: &str,
    weights: &[u8],
    name: &str,
    options: &ImportOptions,
) -> Result<Graph, ImportError> {
    let sections = cfg::parse(cfg_text)?;
    let network = Network::read(&sections, name, options.size_px)?;
    let weights = Weights::open(weights, &network)?;
    let mut graph = Graph::new(name, Format::Darknet);
    let input = graph.add_value("input", Fact::f32(&dims(network.input)));
    graph.inputs.push(input);
    if network.letter_box {
        graph.metadata.insert("letter_box".to_string(), "1".to_string());
    }
    let mut builder = Builder { graph, weights, values: Vec::new(), constants: HashMap::new() };
    let mut last = input;
    for (index, layer) in network.layers.iter().enumerate() {
        last = builder.layer(index, layer, last)?;
        builder.values.push(last);
    }
    let mut graph = builder.graph;
    if graph.darknet_heads.is_empty() {
        graph.outputs.push(last);
    }
    Ok(graph)
}

fn dims(shape: Shape) -> [usize; 4] {
    [1, shape.channels, shape.height, shape.width]
}

struct Builder<'a> {
    graph: Graph,
    weights: Weights<'a>,
    /// Output of each layer so far.
    values: Vec<ValueId>,
    /// Weights and bias of each convolution that owns them.
    constants: HashMap<usize, [ValueId; 2]>,
}

impl Builder<'_> {
    fn node(&mut self, name: &str, op: impl Op + 'static, inputs: &[ValueId]) -> Result<Vec<ValueId>, ImportError> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        self.graph
            .add_node(name, Box::new(op), &inputs)
            .map_err(|error| ImportError::malformed(format!("{name}: {error}")))
    }

    /// A node with one output.
    fn one(&mut self, name: &str, op: impl Op + 'static, inputs: &[ValueId]) -> Result<ValueId, ImportError> {
        let outputs = self.node(name, op, inputs)?;
        outputs.first().copied().ok_or_else(|| ImportError::malformed(format!("{name}: no output")))
    }

    fn constant(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<ValueId, ImportError> {
        let tensor =
            Tensor::from_f32(shape, values).map_err(|why| ImportError::malformed(format!("{name}: {why}")))?;
        Ok(self.graph.add_constant(name, &tensor))
    }

    fn binary(
        &mut self,
        name: &str,
        function: Function,
        activation: Activation,
        inputs: [ValueId; 2],
    ) -> Result<ValueId, ImportError> {
        self.one(name, Elementwise { function, activation }, &inputs)
    }

    fn layer(&mut self, index: usize, placed: &Placed, previous: ValueId) -> Result<ValueId, ImportError> {
        let name = &format!("{}_{index}", placed.kind);
        let (input, output) = (placed.input, placed.output);
        match &placed.layer {
            Layer::Identity => Ok(previous),
            Layer::Convolution(conv) => self.convolution(index, name, conv, placed, previous),
            Layer::BatchNorm => {
                let affine = self.weights.batch_norm(input.channels, name)?;
                let scale = self.constant(&format!("{name}.scale"), &[input.channels, 1, 1, 1], affine.scale)?;
                let shift = self.constant(&format!("{name}.shift"), &[input.channels], affine.shift)?;
                self.one(name, Conv::new(square(1, [1; 2], [0; 4]), input.channels), &[previous, scale, shift])
            }
            &Layer::Pool { kind, size, stride, padding } => {
                let begin = padding / 2;
                // What the last window reaches beyond the picture; less than `padding − begin` where windows skip.
                let end = |steps: usize, length: usize, axis: usize| {
                    ((steps - 1) * stride[axis] + size).saturating_sub(length + begin)
                };
                let pads = [begin, begin, end(output.height, input.height, 0), end(output.width, input.width, 1)];
                let window = square(size, stride, pads);
                self.one(name, Pool { kind, window, ceil_mode: false }, &[previous])
            }
            Layer::GlobalAverage => self.one(name, Reduce::global_average(), &[previous]),
            &Layer::Upsample { stride, scale } => {
                let resize = Resize::repeat(stride, [input.height, input.width]);
                if scale == 1.0 {
                    return self.one(name, resize, &[previous]);
                }
                let resized = self.one(&format!("{name}.resized"), resize, &[previous])?;
                let factor = self.constant(&format!("{name}.scale"), &[1], vec![scale])?;
                self.binary(name, Function::Mul, Activation::None, [resized, factor])
            }
            Layer::Route { layers, groups, group } => {
                let mut parts = Vec::with_capacity(layers.len());
                for (part, &layer) in layers.iter().enumerate() {
                    let value = self.values[layer];
                    if *groups == 1 {
                        parts.push(value);
                        continue;
                    }
                    let channels = self.graph.fact(value).shape[1];
                    let split = Split { axis: 1, parts: vec![channels / groups; *groups] };
                    parts.push(self.node(&format!("{name}.split{part}"), split, &[value])?[*group]);
                }
                match parts.as_slice() {
                    [one] => Ok(*one),
                    _ => self.one(name, Concat { axis: 1 }, &parts),
                }
            }
            Layer::Shortcut { from, activation } => {
                let mut sum = previous;
                for (part, &layer) in from.iter().enumerate() {
                    let (name, activation) = if part + 1 == from.len() {
                        (name.clone(), *activation)
                    } else {
                        (format!("{name}.sum{part}"), Activation::None)
                    };
                    sum = self.add(&name, activation, sum, self.values[layer])?;
                }
                Ok(sum)
            }
            &Layer::ScaleChannels { from, activation, .. } | &Layer::Multiply { from, activation } => {
                self.binary(name, Function::Mul, activation, [self.values[from], previous])
            }
            &Layer::Reorg { stride, flat } => self.reorg(name, input, output, stride, flat, previous),
            &Layer::Activation(activation) => match activation {
                Activation::None => Ok(previous),
                _ => self.one(name, Activate { activation }, &[previous]),
            },
            Layer::Softmax { spatial: true, .. } => self.one(name, Softmax { axis: 1, log: false, flattens: false }, &[previous]),
            &Layer::Softmax { groups, .. } => {
                let shape = vec![groups, input.elements() / groups];
                let flat = self.one(&format!("{name}.flat"), Reshape { shape }, &[previous])?;
                let softmax = self.one(&format!("{name}.softmax"), Softmax { axis: 1, log: false, flattens: false }, &[flat])?;
                self.one(name, Reshape { shape: dims(output).to_vec() }, &[softmax])
            }
            Layer::Yolo(yolo) => {
                if !self.graph.outputs.contains(&previous) {
                    self.graph.outputs.push(previous);
                }
                self.graph.darknet_heads.push(DarknetHead {
                    output: previous,
                    anchors_px: yolo.anchors_px.clone(),
                    classes: yolo.classes,
                    scale_x_y: yolo.scale_x_y,
                    new_coords: yolo.new_coords,
                });
                Ok(previous)
            }
        }
    }

    fn convolution(
        &mut self,
        index: usize,
        name: &str,
        conv: &Convolution,
        placed: &Placed,
        previous: ValueId,
    ) -> Result<ValueId, ImportError> {
        let owner = conv.shared.unwrap_or(index);
        let [weights, bias] = match self.constants.get(&owner) {
            Some(&constants) => constants,
            None => {
                let folded = self.weights.convolution(conv, placed, name)?;
                let [height, width] = conv.window.kernel;
                let shape = [conv.filters, placed.input.channels / conv.groups, height, width];
                let constants = [
                    self.constant(&format!("{name}.weights"), &shape, folded.weights)?,
                    self.constant(&format!("{name}.bias"), &[conv.filters], folded.bias)?,
                ];
                self.constants.insert(owner, constants);
                constants
            }
        };
        let op = Conv { activation: conv.activation, ..Conv::new(conv.window, conv.groups) };
        self.one(name, op, &[previous, weights, bias])
    }

    /// activation(a + b), where of two channel counts only the smaller is added; the sum has the shape of `a`.
    fn add(&mut self, name: &str, activation: Activation, a: ValueId, b: ValueId) -> Result<ValueId, ImportError> {
        let (have, given) = (self.graph.fact(a).shape[1], self.graph.fact(b).shape[1]);
        if given == have {
            return self.binary(name, Function::Add, activation, [a, b]);
        }
        if given > have {
            let split = Split { axis: 1, parts: vec![have, given - have] };
            let b = self.node(&format!("{name}.split"), split, &[b])?[0];
            return self.binary(name, Function::Add, activation, [a, b]);
        }
        let split = Split { axis: 1, parts: vec![given, have - given] };
        let parts = self.node(&format!("{name}.split"), split, &[a])?;
        let sum = self.binary(&format!("{name}.sum"), Function::Add, activation, [parts[0], b])?;
        let rest = match activation {
            Activation::None => parts[1],
            _ => self.one(&format!("{name}.rest"), Activate { activation }, &[parts[1]])?,
        };
        self.one(name, Concat { axis: 1 }, &[sum, rest])
    }

    /// Space to depth. The flat form reads `[C, H, W]` as `[C/s², H·s, W·s]`, moves the pixels of each block to
    /// channels, block position slowest, and reads the result as `[C·s², H/s, W/s]`.
    fn reorg(
        &mut self,
        name: &str,
        input: Shape,
        output: Shape,
        s: usize,
        flat: bool,
        previous: ValueId,
    ) -> Result<ValueId, ImportError> {
        let op = SpaceDepth { block: s, to_depth: true, channels_first: false };
        if !flat {
            return self.one(name, op, &[previous]);
        }
        let shape = vec![1, input.channels / (s * s), input.height * s, input.width * s];
        let spread = self.one(&format!("{name}.spread"), Reshape { shape }, &[previous])?;
        let moved = self.one(&format!("{name}.moved"), op, &[spread])?;
        self.one(name, Reshape { shape: dims(output).to_vec() }, &[moved])
    }
}

fn square(size: usize, stride: [usize; 2], pads: [usize; 4]) -> Window {
    Window { kernel: [size; 2], stride, pads, dilation: [1; 2] }
}
