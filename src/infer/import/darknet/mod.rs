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
        let tensor = Tensor::from_f32(shape, values).map_err(|why| ImportError::malformed(format!("{name}: {why}")))?;
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
                    let (before, taken) = (group * (channels / groups), channels / groups);
                    let cuts = [before, taken, channels - before - taken];
                    let cuts: Vec<usize> = cuts.into_iter().filter(|&n| n > 0).collect();
                    let split = Split { axis: 1, parts: cuts };
                    let outputs = self.node(&format!("{name}.split{part}"), split, &[value])?;
                    parts.push(outputs[usize::from(before > 0)]);
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
            Layer::Softmax { spatial: true, .. } => {
                self.one(name, Softmax { axis: 1, log: false, flattens: false }, &[previous])
            }
            &Layer::Softmax { groups, .. } => {
                let shape = vec![groups, input.elements() / groups];
                let flat = self.one(&format!("{name}.flat"), Reshape { shape }, &[previous])?;
                let softmax =
                    self.one(&format!("{name}.softmax"), Softmax { axis: 1, log: false, flattens: false }, &[flat])?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::plan::lower::{Target, plan_graph};
    use crate::infer::plan::step::BufferKind;
    use crate::infer::plan::transfer::{gather, scatter};
    use std::cell::Cell;

    /// Numbers in −0.5..0.5 without a pattern.
    fn number(i: usize) -> f32 {
        ((i * 7919 + 13) % 1009) as f32 / 1009.0 - 0.5
    }

    fn file(floats: &[f32]) -> Vec<u8> {
        let mut bytes: Vec<u8> = [0i32, 2, 5, 0, 0].iter().flat_map(|v| v.to_le_bytes()).collect();
        bytes.extend(floats.iter().flat_map(|v| v.to_le_bytes()));
        bytes
    }

    fn import(cfg: &str, floats: &[f32]) -> Result<Graph, ImportError> {
        import_darknet(cfg, &file(floats), "test", &ImportOptions::default())
    }

    /// Runs the twins of a graph on `number`s; dense outputs.
    fn run(graph: &Graph) -> Vec<Vec<f32>> {
        let (plan, _) = plan_graph(graph, Target::CPU).unwrap();
        let mut memory: Vec<Vec<f32>> = plan.buffers.iter().map(|b| vec![f32::NAN; b.len_elements]).collect();
        for (buffer, values) in plan.buffers.iter().zip(&mut memory) {
            if let BufferKind::Constant(tensor) = &buffer.kind {
                values[..tensor.len()].copy_from_slice(&tensor.to_f32());
            }
        }
        for (_, view) in &plan.inputs {
            let dense: Vec<f32> = (0..view.shape.iter().product()).map(number).collect();
            scatter(&dense, view, &mut memory[view.buffer.0]);
        }
        let cells: Vec<Vec<Cell<f32>>> = memory.iter().map(|b| b.iter().copied().map(Cell::new).collect()).collect();
        for step in &plan.steps {
            let of = |views: &[crate::infer::plan::view::View]| -> Vec<&[Cell<f32>]> {
                views.iter().map(|v| cells[v.buffer.0].as_slice()).collect()
            };
            step.kernel.run_twin(step, &of(&step.reads), &of(&step.writes));
        }
        plan.outputs
            .iter()
            .map(|(_, view)| gather(&cells[view.buffer.0].iter().map(Cell::get).collect::<Vec<_>>(), view))
            .collect()
    }

    fn assert_close(got: &[f32], expected: impl Iterator<Item = f64>) {
        let expected: Vec<f64> = expected.collect();
        assert_eq!(got.len(), expected.len());
        for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
            assert!((f64::from(*g) - e).abs() < 1e-5, "element {i}: {g} instead of {e}");
        }
    }

    const NET: &str = "[net]\nchannels=4\nheight=6\nwidth=5\n";

    /// Input value of channel, row, column; `None` outside.
    fn x(c: usize, y: isize, x: isize) -> Option<f64> {
        let inside = (0..6).contains(&y) && (0..5).contains(&x);
        inside.then(|| f64::from(number((c * 6 + y as usize) * 5 + x as usize)))
    }

    fn positions(c: usize, h: usize, w: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        (0..c).flat_map(move |k| (0..h).flat_map(move |j| (0..w).map(move |i| (k, j, i))))
    }

    #[test]
    fn max_pool_of_two_with_stride_one_looks_right_and_down() {
        let got = run(&import(&format!("{NET}[maxpool]\nsize=2\nstride=1"), &[]).unwrap());
        let expected = positions(4, 6, 5).map(|(k, j, i)| {
            let near = [(0, 0), (0, 1), (1, 0), (1, 1)];
            near.iter().filter_map(|(b, a)| x(k, j as isize + b, i as isize + a)).fold(f64::MIN, f64::max)
        });
        assert_close(&got[0], expected);
    }

    #[test]
    fn depthwise_five_by_five_with_batch_norm() {
        let [b, s, m, v] = [0.5, 1.5, 0.25, 2.0];
        let mut floats: Vec<f32> = [b, s, m, v].iter().flat_map(|&a| [a; 4]).collect();
        floats.extend((0..100).map(|i| number(i + 500)));
        let cfg = format!(
            "{NET}[convolutional]\nfilters=4\ngroups=4\nsize=5\nstride=2\npad=1\nbatch_normalize=1\nactivation=leaky"
        );
        let got = run(&import(&cfg, &floats).unwrap());
        let expected = positions(4, 3, 3).map(|(k, j, i)| {
            let sum: f64 = positions(1, 5, 5)
                .map(|(_, dy, dx)| {
                    let weight = f64::from(number(500 + k * 25 + dy * 5 + dx));
                    weight * x(k, (j * 2 + dy) as isize - 2, (i * 2 + dx) as isize - 2).unwrap_or(0.0)
                })
                .sum();
            let y = f64::from(s) * (sum - f64::from(m)) / (f64::from(v) + 1e-5).sqrt() + f64::from(b);
            if y > 0.0 { y } else { 0.1 * y }
        });
        assert_close(&got[0], expected);
    }

    #[test]
    fn shortcuts_add_the_channels_that_both_have() {
        // Layer 0 has 2 channels, layer 1 all 4.
        let narrow = format!("{NET}[route]\nlayers=0\n");
        assert!(import(&narrow, &[]).is_err(), "a layer cannot name itself");
        let cfg = format!(
            "{NET}[dropout]\n[route]\nlayers=0\ngroups=2\ngroup_id=1\n[route]\nlayers=0\n[shortcut]\nfrom=1\n\
             activation=relu\n[route]\nlayers=1\n[shortcut]\nfrom=0\n[route]\nlayers=3,5"
        );
        let got = run(&import(&cfg, &[]).unwrap());
        let expected = positions(6, 6, 5).map(|(k, j, i)| {
            let at = |k: usize| x(k, j as isize, i as isize).unwrap();
            match k {
                0 | 1 => (at(k) + at(k + 2)).max(0.0),
                2 | 3 => at(k).max(0.0),
                _ => at(k - 4 + 2) + at(k - 4),
            }
        });
        assert_close(&got[0], expected);
    }

    #[test]
    fn both_reorgs_follow_their_loops() {
        let net = "[net]\nchannels=4\nheight=6\nwidth=4\n";
        let (c, h, w, s) = (4, 6, 4, 2);
        let got = run(&import(&format!("{net}[reorg]\nstride=2"), &[]).unwrap());
        let mut expected = vec![0.0; c * h * w];
        for (k, j, i) in positions(c, h, w) {
            let (c2, offset) = (k % (c / (s * s)), k / (c / (s * s)));
            let (column, row) = (i * s + offset % s, j * s + offset / s);
            expected[i + w * (j + h * k)] = f64::from(number(column + w * s * (row + h * s * c2)));
        }
        assert_close(&got[0], expected.into_iter());
        let got = run(&import(&format!("{net}[reorg3d]\nstride=2"), &[]).unwrap());
        let expected = positions(c * s * s, h / s, w / s).map(|(k, j, i)| {
            let offset = k / c;
            f64::from(number(((k % c) * h + j * s + offset / s) * w + i * s + offset % s))
        });
        assert_close(&got[0], expected);
    }

    #[test]
    fn the_other_layers_compute_what_they_say() {
        // Batch-norm alone, squeeze and excite, upsampling with a scale, a fully connected layer, softmax.
        let cfg = format!(
            "{NET}[batchnorm]\n[avgpool]\n[scale_channels]\nfrom=0\nactivation=logistic\n[upsample]\nscale=3\n[connected]\n\
             output=2\nactivation=linear\n[softmax]\ngroups=1"
        );
        let norm = [[0.1; 4], [1.5; 4], [0.2; 4], [0.5; 4]].concat();
        let connected: Vec<f32> = (0..2 + 2 * 4 * 120).map(|i| 0.02 * number(i + 77)).collect();
        let floats = [norm, connected.clone()].concat();
        let got = run(&import(&cfg, &floats).unwrap());
        let normed = |k, j, i| {
            1.5 * (x(k, j as isize, i as isize).unwrap() - f64::from(0.2f32)) / (0.5f64 + 1e-5).sqrt()
                + f64::from(0.1f32)
        };
        let mean = |k| positions(1, 6, 5).map(|(_, j, i)| normed(k, j, i)).sum::<f64>() / 30.0;
        let scaled = |k, j, i| 3.0 / (1.0 + (-mean(k) * normed(k, j, i)).exp());
        let logits = [0, 1].map(|o| {
            let dot: f64 = positions(4, 12, 10)
                .map(|(k, j, i)| f64::from(connected[2 + o * 480 + (k * 12 + j) * 10 + i]) * scaled(k, j / 2, i / 2))
                .sum();
            dot + f64::from(connected[o])
        });
        let sum: f64 = logits.iter().map(|l| l.exp()).sum();
        assert_close(&got[0], logits.into_iter().map(|l| l.exp() / sum));
    }

    #[test]
    fn shared_weights_are_read_once() {
        let cfg =
            format!("{NET}[conv]\nfilters=4\nactivation=linear\n[conv]\nfilters=4\nactivation=relu\nshare_index=0");
        let floats: Vec<f32> = (0..20).map(number).collect();
        let graph = import(&cfg, &floats).unwrap();
        assert_eq!(graph.nodes[0].inputs[1..], graph.nodes[1].inputs[1..]);
        assert!(import(&cfg, &[floats.clone(), floats].concat()).unwrap_err().to_string().contains("20 are left over"));
    }

    #[test]
    fn heads_become_outputs() {
        let yolo = "[yolo]\nclasses=2\nnum=4\nanchors=10,14, 23,27, 37,58, 81,82\n";
        let cfg = format!(
            "{NET}[conv]\nfilters=14\nactivation=linear\n{yolo}mask=2,3\n[route]\nlayers=-2\n[upsample]\n[conv]\nfilters=14\n\
             activation=logistic\n{yolo}mask=0,1\nscale_x_y=2.0\nnew_coords=1\n"
        );
        let floats = vec![0.5; 14 * 5 + 14 * 15];
        let graph = import(&cfg, &floats).unwrap();
        let names: Vec<&str> = graph.outputs.iter().map(|&v| graph.value(v).name.as_str()).collect();
        assert_eq!(names, ["convolutional_0", "convolutional_4"]);
        assert_eq!(graph.fact(graph.inputs[0]).shape, [1, 4, 6, 5]);
        assert_eq!(graph.fact(graph.outputs[1]).shape, [1, 14, 12, 10]);
        let [first, second] = graph.darknet_heads.as_slice() else { panic!() };
        assert_eq!(first.anchors_px, [[37.0, 58.0], [81.0, 82.0]]);
        assert_eq!((first.scale_x_y, first.new_coords, first.classes), (1.0, false, 2));
        assert_eq!((second.scale_x_y, second.new_coords, second.output), (2.0, true, graph.outputs[1]));
        let options = ImportOptions { size_px: Some([32, 64]), ..ImportOptions::default() };
        let graph = import_darknet(&cfg, &file(&floats), "x", &options).unwrap();
        assert_eq!(graph.fact(graph.inputs[0]).shape, [1, 4, 64, 32]);
    }

    #[test]
    fn damaged_cfgs_never_panic() {
        let cfg = format!(
            "{NET}[conv]\nfilters=6\nsize=3\npad=1\nactivation=mish\n[maxpool]\nsize=2\nstride=1\n[route]\nlayers=-1,0\n\
             groups=2\ngroup_id=1\n[shortcut]\nfrom=-3\n[upsample]\nstride=2\n[reorg3d]\nstride=2\n[connected]\noutput=7\n\
             [yolo]\nclasses=2\nanchors=1,2\n[route]\nlayers=2\n[batchnorm]\n[avgpool]\n[softmax]\ngroups=3\n"
        );
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let mut built = 0;
        for _ in 0..4000 {
            let mut bytes = cfg.clone().into_bytes();
            for _ in 0..1 + random(3) {
                let at = random(bytes.len());
                match random(4) {
                    0 => bytes[at] = b"0123456789-,[]=#\n.e"[random(19)],
                    1 => bytes.insert(at, b"0123456789-"[random(11)]),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            let text = String::from_utf8(bytes).unwrap();
            let Ok(sections) = cfg::parse(&text) else { continue };
            let Ok(network) = Network::read(&sections, "x", None) else { continue };
            let Some([floats, _]) = network.floats().filter(|f| f[0] < 100_000) else { continue };
            built += usize::from(import(&text, &vec![1.0; floats]).is_ok());
        }
        assert!(built > 200, "only {built} of the damaged files could still be built");
    }
}
