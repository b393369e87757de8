//! Quantised arithmetic on bytes, for plans on the CPU: what stands between DequantizeLinear and QuantizeLinear becomes
//! operators on bytes ([`crate::infer::ops::bytes`]), so that nothing goes back to f32 in between.
//!
//! One walk over the nodes. Of every f32 value it is known whether it is a function of one byte value: of 256 numbers,
//! then. Whatever a network computes from one such value and quantises again is a table, however many nodes the file
//! spells it with. A table goes into the convolution before it. What is not covered stays in f32, between a Quantise and a
//! Dequantise; a pair that nothing on bytes reads is left to the next pass.
//!
//! A long file: what is known of values and the rewrites that rest on it make no sense apart.

use super::pattern::{Edges, uniform};
use super::{PassReport, dead_code};
use crate::infer::activation::Activation;
use crate::infer::bytes::{ByteScale, Table};
use crate::infer::graph::{Fact, Graph, Node, ValueId};
use crate::infer::kernels::bytes::arithmetic::{ByteArithmetic, ByteFunction};
use crate::infer::kernels::bytes::conv::ByteConv;
use crate::infer::kernels::bytes::max_pool::ByteMaxPool;
use crate::infer::kernels::bytes::nearest::ByteNearest;
use crate::infer::kernels::conv::Residual;
use crate::infer::kernels::elementwise::Function;
use crate::infer::kernels::pool::PoolKind;
use crate::infer::kernels::resize::{self, Interpolation};
use crate::infer::op::Op;
use crate::infer::ops::activation::Activate;
use crate::infer::ops::bytes::{Arithmetic, ConvOnBytes, Dequantise, LookUp, MaxPool, Nearest, Quantise};
use crate::infer::ops::concat::Concat;
use crate::infer::ops::conv::Conv;
use crate::infer::ops::elementwise::Elementwise;
use crate::infer::ops::pool::Pool;
use crate::infer::ops::resize::Resize;
use crate::infer::tensor::Tensor;
use std::collections::HashMap;
use std::sync::Arc;

/// Products of one sum, at most: it fits in i32 whatever they are.
const DEPTH_MAX: usize = 1 << 15;

/// Constants that DequantizeLinear makes of integers, as they are before they are folded.
pub struct QuantisedConstants(HashMap<ValueId, Weights>);

/// Filters in integers less their zero points, and the scale of each.
struct Weights {
    values: Arc<Vec<i16>>,
    scales: Vec<f32>,
}

impl QuantisedConstants {
    /// Looks for them in a graph as imported.
    pub fn of(graph: &Graph) -> QuantisedConstants {
        let producers = graph.producers();
        let constants = |node: &Node| -> Option<Vec<Option<Tensor>>> {
            node.inputs
                .iter()
                .map(|i| i.map(|i| graph.fact(i).constant.clone()).map_or(Some(None), |t| t.map(Some)))
                .collect()
        };
        let evaluated = |node: &Node, inputs: &[Option<Tensor>]| -> Option<Tensor> {
            let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
            node.op.eval(&inputs)?.ok()?.into_iter().next()
        };
        let mut found = HashMap::new();
        let nodes = graph.nodes.iter().chain(&graph.dequantised);
        for node in nodes.filter(|node| node.op.name() == "DequantizeLinear") {
            let Some(x) = node.inputs[0] else { continue };
            let mut inputs: Vec<Option<Tensor>> =
                node.inputs.iter().map(|i| i.and_then(|i| graph.fact(i).constant.clone())).collect();
            // Weights that the file quantises itself.
            if let (None, Some(producer)) = (&inputs[0], producers[x.0]) {
                let quantise = &graph.nodes[producer];
                if quantise.op.name() == "QuantizeLinear" {
                    inputs[0] = constants(quantise).and_then(|given| evaluated(quantise, &given));
                }
            }
            let given = node.inputs.iter().zip(&inputs).all(|(input, tensor)| input.is_none() == tensor.is_none());
            let Some(numbers) = evaluated(node, &inputs).filter(|_| given) else { continue };
            if let Some(weights) = Weights::new(&inputs, &numbers) {
                found.insert(node.outputs[0], weights);
            }
        }
        QuantisedConstants(found)
    }
}

impl Weights {
    /// `None` where the scales do not belong to the filters. `numbers`: what DequantizeLinear gives.
    fn new(inputs: &[Option<Tensor>], numbers: &Tensor) -> Option<Weights> {
        let (q, scale) = (inputs.first()?.as_ref()?, inputs.get(1)?.as_ref()?.to_f32());
        if q.rank() != 4 || q.is_empty() || q.dtype().size_bytes() != 1 {
            return None;
        }
        let filters = q.shape()[0];
        let zero = inputs.get(2).and_then(Option::as_ref).map_or(vec![0], Tensor::to_i64);
        if ![1, filters].contains(&scale.len()) || ![1, filters].contains(&zero.len()) {
            return None;
        }
        let scales: Vec<f32> = (0..filters).map(|f| scale[f.min(scale.len() - 1)]).collect();
        let per_filter = q.len() / filters;
        let less_zero = |(i, q): (usize, i64)| q - zero[(i / per_filter).min(zero.len() - 1)];
        let values: Vec<i64> = q.to_i64().into_iter().enumerate().map(less_zero).collect();
        let numbers = numbers.to_f32();
        // Whichever axis the file names, this is what it means.
        let same = |(i, &v): (usize, &i64)| (v as f64 * f64::from(scales[i / per_filter])) as f32 == numbers[i];
        let fits = values.iter().all(|v| (-255..=255).contains(v)) && values.iter().enumerate().all(same);
        let values = Arc::new(values.into_iter().map(|v| v as i16).collect());
        (fits && scales.iter().all(|s| s.is_normal())).then_some(Weights { values, scales })
    }
}

/// An f32 value as a function of a byte value.
#[derive(Clone)]
struct OfByte {
    base: ValueId,
    from: ByteScale,
    numbers: Arc<[f32; 256]>,
    /// The numbers are those of the bytes.
    plain: bool,
}

/// The walk.
struct Walk<'a> {
    graph: &'a mut Graph,
    edges: Edges,
    old: Vec<Node>,
    constants: &'a QuantisedConstants,
    nodes: Vec<Node>,
    functions: HashMap<ValueId, OfByte>,
    /// Byte values that are tables of others.
    tables: HashMap<ValueId, (ValueId, Table)>,
    /// Quantised values of the file and where their bytes are.
    quantised: HashMap<ValueId, (ValueId, ByteScale)>,
    report: PassReport,
}

/// Rewrites the graph after constants were folded. `applied` counts the nodes of the file that run on bytes.
pub fn run(graph: &mut Graph, constants: &QuantisedConstants) -> PassReport {
    let old = std::mem::take(&mut graph.nodes);
    graph.nodes.clone_from(&old);
    let edges = Edges::of(graph);
    let mut walk = Walk {
        graph,
        edges,
        old,
        constants,
        nodes: Vec::new(),
        functions: HashMap::new(),
        tables: HashMap::new(),
        quantised: HashMap::new(),
        report: PassReport::new("compute quantised arithmetic on bytes"),
    };
    let scales = walk.scales();
    for i in 0..walk.old.len() {
        walk.node(i, &scales);
    }
    let Walk { nodes, old, report, .. } = walk;
    graph.nodes = nodes;
    let constants: Vec<Option<Tensor>> = graph.values.iter().map(|value| value.fact.constant.clone()).collect();
    dead_code::run(graph);
    fuse_tables(graph);
    restore_pairs(graph, &old, &constants);
    report
}

impl Walk<'_> {
    /// The quantised values of the file that only DequantizeLinear with the same parameters reads.
    fn scales(&self) -> HashMap<ValueId, ByteScale> {
        let readers = self.graph.consumers();
        let of = |node: &Node, typed: ValueId| -> Option<ByteScale> {
            let one = |id: ValueId| {
                let tensor = self.graph.fact(id).constant.as_ref()?;
                (tensor.len() == 1).then(|| tensor.to_f32()[0])
            };
            let zero = match node.inputs.get(2).copied().flatten() {
                Some(zero) => one(zero)?,
                None => 0.0,
            };
            ByteScale::new(self.graph.fact(typed).dtype, one(node.inputs.get(1).copied().flatten()?)?, zero)
        };
        let mut scales = HashMap::new();
        for node in self.old.iter().filter(|node| node.op.name() == "QuantizeLinear") {
            let (q, Some(x)) = (node.outputs[0], node.inputs[0]) else { continue };
            let fact = self.graph.fact(x);
            if fact.is_host() || fact.constant.is_some() || self.graph.outputs.contains(&q) {
                continue;
            }
            let Some(scale) = of(node, q) else { continue };
            let same = |&reader: &usize| {
                let reader = &self.old[reader];
                reader.op.name() == "DequantizeLinear"
                    && of(reader, q) == Some(scale)
                    && !self.graph.fact(reader.outputs[0]).is_host()
            };
            if readers[q.0].iter().all(same) {
                scales.insert(q, scale);
            }
        }
        scales
    }

    fn node(&mut self, index: usize, scales: &HashMap<ValueId, ByteScale>) {
        let node = self.old[index].clone();
        match node.op.name() {
            "QuantizeLinear" => {
                if let (Some(&to), Some(x)) = (scales.get(&node.outputs[0]), node.inputs[0]) {
                    self.quantise(&node, x, to);
                    return;
                }
            }
            "DequantizeLinear" => {
                if let Some((base, from)) = node.inputs[0].and_then(|q| self.quantised.get(&q)).copied() {
                    let y = node.outputs[0];
                    self.push(&node.name, Dequantise { from }, &[base], y);
                    let numbers = Arc::new(from.numbers());
                    self.functions.insert(y, OfByte { base, from, numbers, plain: true });
                    return;
                }
            }
            _ => self.derive(&node),
        }
        self.nodes.push(node);
    }

    fn push(&mut self, name: &str, op: impl Op + 'static, inputs: &[ValueId], output: ValueId) {
        let inputs = inputs.iter().copied().map(Some).collect();
        self.nodes.push(Node { name: name.to_string(), op: Box::new(op), inputs, outputs: vec![output] });
    }

    /// The bytes of a function in a scale: those of its base, or a table of them.
    fn table(&mut self, name: &str, of: &OfByte, to: ByteScale, output: Option<ValueId>) -> ValueId {
        let table = Table::new(&of.numbers, of.from, to);
        if table.is_identity() {
            return of.base;
        }
        let shape = self.graph.fact(of.base).shape.clone();
        let output =
            output.unwrap_or_else(|| self.graph.add_value(&format!("{name}.bytes"), Fact::new(to.dtype(), &shape)));
        self.push(name, LookUp { table: table.clone() }, &[of.base], output);
        self.tables.insert(output, (of.base, table));
        output
    }

    /// Finds something on bytes that gives the quantised value.
    fn quantise(&mut self, node: &Node, x: ValueId, to: ByteScale) {
        let q = node.outputs[0];
        let outcome = match self.functions.get(&x).cloned() {
            Some(function) => Ok(self.table(&node.name, &function, to, Some(q))),
            None => self.computed(x, to, q).map(|()| q),
        };
        let bytes = match outcome {
            Ok(bytes) => bytes,
            Err(why) => {
                if let Some(why) = why {
                    self.report.did_not(why);
                }
                self.push(&node.name, Quantise { to }, &[x], q);
                q
            }
        };
        self.quantised.insert(q, (bytes, to));
    }

    /// Appends the operator on bytes whose result is the bytes of x. An error says why not, if that is of interest.
    fn computed(&mut self, x: ValueId, to: ByteScale, q: ValueId) -> Result<(), Option<String>> {
        let Some(producer) = self.edges.producer(x) else { return Err(None) };
        let mut node = self.old[producer].clone();
        let label = |node: &Node| format!("{} '{}'", node.op.name(), node.name);
        if !self.edges.has_one_reader(x) {
            return Err(Some(format!("{}: {} readers of its f32 result", label(&node), self.edges.readers(x))));
        }
        let mut activation = Activation::None;
        if let (Some(activate), Some(&Some(before))) = (node.op.downcast::<Activate>(), node.inputs.first())
            && self.edges.has_one_reader(before)
            && let Some(producer) = self.edges.producer(before)
        {
            activation = activate.activation;
            node = self.old[producer].clone();
        }
        let refused = |why: String| Some(format!("{}: {why}", label(&node)));
        if let Some(conv) = node.op.downcast::<Conv>() {
            let op = self.conv(&node, conv, activation, to).map_err(refused)?;
            let base = node.inputs[0].and_then(|x| self.functions.get(&x)).map(|f| f.base);
            let base = base.ok_or_else(|| refused("its input is not quantised".into()))?;
            self.push(&node.name, op, &[base], q);
        } else if let Some(op) = node.op.downcast::<Elementwise>() {
            let (op, operands) = self.arithmetic(&node, op, activation, to).map_err(refused)?;
            self.push(&node.name, op, &operands, q);
        } else if node.op.downcast::<Concat>().is_some() && activation == Activation::None {
            let functions: Option<Vec<OfByte>> =
                node.inputs.iter().map(|i| i.and_then(|i| self.functions.get(&i)).cloned()).collect();
            let functions = functions.ok_or_else(|| refused("not all of its inputs are quantised".into()))?;
            let inputs = functions.iter().map(|f| Some(self.table(&node.name, f, to, None))).collect();
            self.nodes.push(Node { name: node.name.clone(), op: node.op.clone(), inputs, outputs: vec![q] });
        } else {
            return Err(refused("has no form on bytes".into()));
        }
        self.report.did(label(&node));
        Ok(())
    }

    fn conv(&self, node: &Node, conv: &Conv, activation: Activation, to: ByteScale) -> Result<ConvOnBytes, String> {
        let input = |i: usize| node.inputs.get(i).copied().flatten();
        let x = input(0).and_then(|x| self.functions.get(&x)).ok_or("its input is not quantised")?;
        if !x.plain {
            return Err("its input is not quantised after the function before it".into());
        }
        let weights =
            input(1).and_then(|w| self.constants.0.get(&w)).ok_or("its weights are not quantised in 8 bits")?;
        let Ok(shape) = <[usize; 4]>::try_from(&self.graph.fact(node.outputs[0]).shape[..]) else {
            return Err("is not 2-D".into());
        };
        let (filters, channels) = (shape[1], self.graph.fact(x.base).shape[1]);
        if conv.groups != 1 && (conv.groups != channels || conv.groups != filters) {
            return Err(format!("{} groups of {channels} channels have no kernel on bytes", conv.groups));
        }
        if conv.activation != Activation::None || conv.residual != Residual::None {
            return Err("something is fused into it already".into());
        }
        if weights.values.len() / filters.max(1) > DEPTH_MAX {
            return Err(format!("sums of more than {DEPTH_MAX} products"));
        }
        let bias = match input(2) {
            None => vec![0.0; filters],
            Some(bias) => {
                self.graph.fact(bias).constant.as_ref().map(Tensor::to_f32).ok_or("its bias is no constant")?
            }
        };
        let kernel = ByteConv {
            window: conv.window,
            groups: conv.groups,
            weights: weights.values.clone(),
            weight_scales: Arc::new(weights.scales.clone()),
            bias: Arc::new(bias),
            from: x.from,
            activation,
            to,
            table: None,
        };
        let requantise = kernel.requantise();
        if !requantise.factors.iter().chain(&requantise.offsets).all(|v| v.is_finite()) {
            return Err("its scales or its bias are not finite".into());
        }
        Ok(ConvOnBytes { kernel, shape })
    }

    fn arithmetic(
        &self,
        node: &Node,
        op: &Elementwise,
        activation: Activation,
        to: ByteScale,
    ) -> Result<(Arithmetic, Vec<ValueId>), String> {
        let function = match op.function {
            Function::Add => ByteFunction::Add,
            Function::Sub => ByteFunction::Sub,
            Function::Mul => ByteFunction::Mul,
            _ => return Err("has no form on bytes".into()),
        };
        let bounds = to.clamp(activation).filter(|_| op.activation == Activation::None);
        let bounds = bounds.ok_or("has an activation that is no clamp")?;
        let [Some(a), Some(b)] = node.inputs[..] else { return Err("has not two inputs".into()) };
        let of = |x: ValueId| self.functions.get(&x).filter(|f| f.plain);
        let (Some(a), Some(b)) = (of(a), of(b)) else { return Err("not both of its inputs are quantised".into()) };
        let kernel = ByteArithmetic { function, operands: [a.from, b.from], to, bounds };
        Ok((Arithmetic { kernel }, vec![a.base, b.base]))
    }

    /// What the node's outputs are as functions of bytes.
    fn derive(&mut self, node: &Node) {
        let Some(&Some(x)) = node.inputs.first() else { return };
        if let Some(activate) = node.op.downcast::<Activate>() {
            if let Some(function) = self.functions.get(&x) {
                self.functions.insert(node.outputs[0], function.then(|x| activate.activation.apply(x)));
            }
            return;
        }
        if let Some(op) = node.op.downcast::<Elementwise>() {
            if let Some(function) = self.elementwise(node, op) {
                self.functions.insert(node.outputs[0], function);
            }
            return;
        }
        let Some(function) = self.functions.get(&x).cloned() else { return };
        let rest_constant = node.inputs[1..].iter().flatten().all(|i| self.graph.fact(*i).constant.is_some());
        if !rest_constant {
            return;
        }
        // Moving elements and computing on each may be done in either order; so may a maximum and what is monotone.
        let op: Box<dyn Op> = if node.op.is_view() {
            node.op.clone()
        } else if let Some(pool) = node.op.downcast::<Pool>() {
            if pool.kind != PoolKind::Max || !function.is_monotone() {
                return;
            }
            let kernel = ByteMaxPool { window: pool.window, signed: function.from.signed };
            Box::new(MaxPool { kernel, ceil_mode: pool.ceil_mode })
        } else if let Some(resize) = node.op.downcast::<Resize>() {
            if resize.interpolation == Interpolation::Linear {
                return;
            }
            let Resize { interpolation, coordinates, scale, size_px } = *resize;
            let kernel = ByteNearest { resize: resize::Resize { interpolation, coordinates, scale } };
            Box::new(Nearest { kernel, size_px })
        } else {
            return;
        };
        let dtype = function.from.dtype();
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for &output in &node.outputs {
            let (name, shape) = (self.graph.value(output).name.clone(), self.graph.fact(output).shape.clone());
            let moved = self.graph.add_value(&format!("{name}.bytes"), Fact::new(dtype, &shape));
            self.functions.insert(output, OfByte { base: moved, ..function.clone() });
            outputs.push(moved);
        }
        let mut inputs = node.inputs.clone();
        inputs[0] = Some(function.base);
        self.nodes.push(Node { name: node.name.clone(), op, inputs, outputs });
    }

    fn elementwise(&self, node: &Node, op: &Elementwise) -> Option<OfByte> {
        let apply = |a: f32, b: f32| op.activation.apply(op.function.apply(a, b));
        let shape = &self.graph.fact(node.outputs[0]).shape;
        let of = |x: ValueId| self.functions.get(&x).filter(|_| self.graph.fact(x).shape == *shape);
        match node.inputs[..] {
            [Some(x)] if !op.function.is_binary() => Some(of(x)?.then(|x| apply(x, 0.0))),
            [Some(a), Some(b)] => match (of(a), of(b)) {
                (Some(a), Some(b)) => self.common(a, b, apply),
                (Some(a), None) => uniform(self.graph, b).map(|c| a.then(|x| apply(x, c))),
                (None, Some(b)) => uniform(self.graph, a).map(|c| b.then(|x| apply(c, x))),
                (None, None) => None,
            },
            _ => None,
        }
    }

    /// A function of two functions, where both are functions of one byte.
    fn common(&self, a: &OfByte, b: &OfByte, apply: impl Fn(f32, f32) -> f32) -> Option<OfByte> {
        let up = |f: &OfByte| -> Option<OfByte> {
            let (base, table) = self.tables.get(&f.base)?;
            let numbers = std::array::from_fn(|i| f.numbers[usize::from(table.bytes[i])]);
            Some(OfByte { base: *base, from: table.from, numbers: Arc::new(numbers), plain: false })
        };
        let line = |f: &OfByte| std::iter::successors(Some(f.clone()), up).take(16).collect::<Vec<_>>();
        let others = line(b);
        let (a, b) = line(a).into_iter().find_map(|a| Some((a.clone(), others.iter().find(|b| b.base == a.base)?)))?;
        let numbers = std::array::from_fn(|i| apply(a.numbers[i], b.numbers[i]));
        Some(OfByte { numbers: Arc::new(numbers), plain: false, ..a })
    }
}

impl OfByte {
    fn then(&self, apply: impl Fn(f32) -> f32) -> OfByte {
        let numbers = std::array::from_fn(|i| apply(self.numbers[i]));
        OfByte { numbers: Arc::new(numbers), plain: false, ..self.clone() }
    }

    /// Larger bytes are no smaller numbers.
    fn is_monotone(&self) -> bool {
        let ordered = |i: usize| self.numbers[if self.from.signed { i ^ 0x80 } else { i }];
        (1..256).all(|i| ordered(i - 1) <= ordered(i))
    }
}

/// Tables into the convolutions before them.
fn fuse_tables(graph: &mut Graph) {
    let mut edges = Edges::of(graph);
    let mut gone = vec![false; graph.nodes.len()];
    for (i, gone) in gone.iter_mut().enumerate() {
        let node = &graph.nodes[i];
        let fused = node.op.downcast::<LookUp>().zip(node.inputs[0]).and_then(|(look_up, x)| {
            let producer = edges.producer(x).filter(|_| edges.has_one_reader(x))?;
            let conv = graph.nodes[producer].op.downcast::<ConvOnBytes>()?;
            Some((producer, conv.followed_by(&look_up.table)))
        });
        if let Some((producer, conv)) = fused {
            let output = graph.nodes[i].outputs[0];
            graph.nodes[producer].op = Box::new(conv);
            graph.nodes[producer].outputs[0] = output;
            edges.set_producer(output, producer);
            *gone = true;
        }
    }
    let mut gone = gone.into_iter();
    graph.nodes.retain(|_| gone.next() != Some(true));
}

/// Gives back their nodes of the file, with their constants, to values that are quantised and at once dequantised.
fn restore_pairs(graph: &mut Graph, old: &[Node], constants: &[Option<Tensor>]) {
    let readers = graph.consumers();
    let mut of_file = Vec::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        let q = node.outputs[0];
        let back = |&reader: &usize| graph.nodes[reader].op.downcast::<Dequantise>().is_some();
        if node.op.downcast::<Quantise>().is_none() || !readers[q.0].iter().all(back) {
            continue;
        }
        let original = |i: usize| {
            let node = &graph.nodes[i];
            let of_file = old.iter().find(|old| old.outputs[0] == node.outputs[0])?;
            (of_file.inputs[0] == node.inputs[0]).then(|| (i, of_file.clone()))
        };
        let all: Option<Vec<_>> = std::iter::once(i).chain(readers[q.0].iter().copied()).map(original).collect();
        of_file.extend(all.unwrap_or_default());
    }
    for (i, node) in of_file {
        for id in node.inputs.iter().flatten() {
            if let Some(constant @ Some(_)) = constants.get(id.0) {
                graph.values[id.0].fact.constant.clone_from(constant);
            }
        }
        graph.nodes[i] = node;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::graph::Format;
    use crate::infer::kernels::conv::Window;
    use crate::infer::ops::context::build_for_test;
    use crate::infer::ops::dense::{Numbers, from_numbers};
    use crate::infer::tensor::DType;
    use crate::session::{Backend, Model, Session, SessionOptions};

    /// Appends quantised arithmetic as files have it.
    struct Builder(Graph);

    impl Builder {
        fn node(&mut self, op: Box<dyn Op>, inputs: &[ValueId]) -> ValueId {
            let name = format!("node_{}", self.0.nodes.len());
            let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
            self.0.add_node(&name, op, &inputs).expect("fits")[0]
        }

        fn linear(&mut self, name: &str, x: ValueId, scale: ValueId, zero: ValueId) -> ValueId {
            let facts = [x, scale, zero].map(|v| self.0.fact(v).clone());
            // The axis of filters.
            let axis = [crate::infer::import::onnx::proto::AttributeProto::int("axis", 0)];
            let op = build_for_test(name, 13, &axis, &[&facts[0], &facts[1], &facts[2]]).expect("builds");
            self.node(op, &[x, scale, zero])
        }

        fn integers(&mut self, shape: &[usize], dtype: DType, values: Vec<i64>) -> ValueId {
            let tensor = from_numbers(shape, dtype, &Numbers::Int(values)).expect("tensor");
            self.0.add_constant("integers", &tensor)
        }

        fn pair(&mut self, x: ValueId, dtype: DType, scale: f32, zero: i64) -> ValueId {
            let scale = self.0.add_constant("scale", &Tensor::scalar_f32(scale));
            let zero = self.integers(&[], dtype, vec![zero]);
            let q = self.linear("QuantizeLinear", x, scale, zero);
            self.linear("DequantizeLinear", q, scale, zero)
        }

        fn conv(&mut self, x: ValueId, filters: usize, groups: usize, window: Window) -> ValueId {
            let shape = [filters, self.0.fact(x).shape[1] / groups, window.kernel[0], window.kernel[1]];
            let len: usize = shape.iter().product();
            let values = (0..len).map(|i| (i * 37 % 255) as i64 - 127).collect();
            let q = self.integers(&shape, DType::I8, values);
            let scales = (0..filters).map(|f| 0.002 + 0.0007 * f as f32).collect();
            let scales = self.0.add_constant("scales", &Tensor::from_f32(&[filters], scales).expect("tensor"));
            let zeros = self.integers(&[filters], DType::I8, vec![0; filters]);
            let weights = self.linear("DequantizeLinear", q, scales, zeros);
            let bias = (0..filters).map(|f| f as f32 * 0.11 - 0.4).collect();
            let bias = self.0.add_constant("bias", &Tensor::from_f32(&[filters], bias).expect("tensor"));
            self.node(Box::new(Conv::new(window, groups)), &[x, weights, bias])
        }

        fn activate(&mut self, activation: Activation, x: ValueId) -> ValueId {
            self.node(Box::new(Activate { activation }), &[x])
        }

        fn binary(&mut self, function: Function, a: ValueId, b: ValueId) -> ValueId {
            self.node(Box::new(Elementwise::new(function)), &[a, b])
        }

        /// Plans on bytes and in f32, runs both, and compares: a step of the last scale at most, rarely.
        fn finish(mut self, output: ValueId, step: f32) -> Graph {
            self.0.outputs.push(output);
            let model = Model::from_graph(self.0);
            let on_f32 = Model { on_bytes: None, ..model.clone() };
            let shape = model.graph.fact(model.graph.inputs[0]).shape.clone();
            let values = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.37).sin() * 2.0).collect();
            let input = Tensor::from_f32(&shape, values).expect("tensor");
            let options = SessionOptions { backend: Backend::Cpu, threads: Some(1), ..SessionOptions::default() };
            let run = |model: &Model| {
                let mut session = Session::new(model, &options).expect("plans");
                session.run(&[("x", input.clone())]).expect("runs").remove(0).1.to_f32()
            };
            let (got, wanted) = (run(&model), run(&on_f32));
            let off = |(a, b): (&f32, &f32)| (a - b).abs() / step;
            assert!(got.iter().zip(&wanted).map(off).all(|steps| steps < 1.01), "{got:?} {wanted:?}");
            let moved = got.iter().zip(&wanted).filter(|(a, b)| (*a - *b).abs() > step / 2.0).count();
            assert!(moved * 50 <= got.len(), "{moved} of {}", got.len());
            assert!(wanted.iter().any(|&x| x != wanted[0]));
            model.on_bytes.expect("runs on bytes").0
        }
    }

    const SAME: Window = Window { kernel: [3, 3], stride: [1, 1], pads: [1; 4], dilation: [1, 1] };
    const POINT: Window = Window { kernel: [1, 1], stride: [1, 1], pads: [0; 4], dilation: [1, 1] };

    fn start() -> (Builder, ValueId) {
        let mut graph = Graph::new("quantised", Format::Onnx);
        let x = graph.add_value("x", Fact::f32(&[1, 6, 7, 5]));
        graph.inputs.push(x);
        let mut b = Builder(graph);
        let x = b.pair(x, DType::U8, 0.016, 127);
        (b, x)
    }

    fn count<T: Op + 'static>(graph: &Graph) -> usize {
        graph.nodes.iter().filter(|node| node.op.downcast::<T>().is_some()).count()
    }

    #[test]
    fn convolutions_stay_on_bytes() {
        for dtype in [DType::U8, DType::I8] {
            let zero = if dtype == DType::U8 { 100 } else { -20 };
            let (mut b, x) = start();
            let y = b.conv(x, 9, 1, SAME);
            let y = b.pair(y, dtype, 0.05, zero);
            // SiLU, quantised in the middle.
            let gate = b.activate(Activation::Sigmoid, y);
            let gate = b.pair(gate, DType::U8, 1.0 / 255.0, 0);
            let y = b.binary(Function::Mul, y, gate);
            let y = b.pair(y, dtype, 0.04, zero);
            let z = b.conv(y, 9, 9, SAME);
            let z = b.activate(Activation::Clip { lo: 0.0, hi: 6.0 }, z);
            let z = b.pair(z, dtype, 0.03, zero);
            let sum = b.binary(Function::Add, y, z);
            let sum = b.pair(sum, dtype, 0.05, zero);
            let out = b.conv(sum, 4, 1, POINT);
            let out = b.pair(out, dtype, 0.2, zero);
            let graph = b.finish(out, 0.2);
            assert_eq!((count::<ConvOnBytes>(&graph), count::<Arithmetic>(&graph)), (3, 1));
            assert_eq!((graph.nodes.len(), count::<Quantise>(&graph), count::<Dequantise>(&graph)), (6, 1, 1));
        }
    }

    #[test]
    fn pools_resizes_views_and_concats_move_bytes() {
        let (mut b, x) = start();
        let y = b.conv(x, 6, 1, POINT);
        let y = b.pair(y, DType::U8, 0.05, 100);
        let pool = b.node(Box::new(Pool::max(SAME)), &[y]);
        let pool = b.pair(pool, DType::U8, 0.05, 100);
        let turned = b.node(Box::new(crate::infer::ops::transpose::Transpose { permutation: vec![0, 1, 3, 2] }), &[x]);
        let turned =
            b.node(Box::new(crate::infer::ops::transpose::Transpose { permutation: vec![0, 1, 3, 2] }), &[turned]);
        let all = b.node(Box::new(Concat { axis: 1 }), &[y, pool, turned]);
        let all = b.pair(all, DType::U8, 0.06, 90);
        let large = b.node(Box::new(Resize::repeat(2, [7, 5])), &[all]);
        let large = b.pair(large, DType::U8, 0.06, 90);
        let graph = b.finish(large, 0.06);
        assert_eq!((count::<MaxPool>(&graph), count::<Nearest>(&graph), count::<Concat>(&graph)), (1, 1, 1));
        assert_eq!((count::<Quantise>(&graph), count::<Dequantise>(&graph)), (1, 1));
    }

    #[test]
    fn what_has_no_form_on_bytes_is_f32_in_between() {
        let (mut b, x) = start();
        let y = b.conv(x, 5, 1, SAME);
        let y = b.pair(y, DType::U8, 0.05, 100);
        let soft = b.node(Box::new(crate::infer::ops::softmax::Softmax { axis: 1, log: false, flattens: false }), &[y]);
        let soft = b.pair(soft, DType::U8, 1.0 / 255.0, 0);
        let root =
            b.node(Box::new(crate::infer::ops::softmax::Softmax { axis: 2, log: false, flattens: false }), &[soft]);
        let root = b.pair(root, DType::U8, 1.0 / 255.0, 0);
        let graph = b.finish(root, 1.0 / 255.0);
        assert_eq!((count::<ConvOnBytes>(&graph), count::<Quantise>(&graph), count::<Dequantise>(&graph)), (1, 1, 1));
    }
}
