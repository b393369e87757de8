//! Quantised arithmetic on bytes, for plans on the CPU: what stands between DequantizeLinear and QuantizeLinear becomes
//! operators on bytes ([`crate::infer::ops::bytes`]), so that nothing goes back to f32 in between.
//!
//! One walk over the nodes. Of every f32 value it is known whether it is a function of one byte value: of 256 numbers,
//! then. Whatever a network computes from one such value and quantises again is a table, however many nodes the file
//! spells it with. A table goes into the convolution before it. What is not covered stays in f32, between a Quantise and a
//! Dequantise; a pair that nothing on bytes reads is left to the next pass.
//!
//! A long file: what is known of values and the walk that rests on it make no sense apart.

mod constants;
mod forms;
#[cfg(test)]
mod tests;

pub use constants::QuantisedConstants;

use super::affine::affine_of;
use super::pattern::{Edges, uniform};
use super::{PassReport, dead_code};
use crate::infer::activation::Activation;
use crate::infer::bytes::{ByteScale, Table};
use crate::infer::graph::{Fact, Graph, Node, ValueId};
use crate::infer::kernels::bytes::max_pool::ByteMaxPool;
use crate::infer::kernels::bytes::nearest::ByteNearest;
use crate::infer::kernels::pool::PoolKind;
use crate::infer::kernels::resize::{self, Interpolation};
use crate::infer::op::Op;
use crate::infer::ops::activation::Activate;
use crate::infer::ops::bytes::{ConvOnBytes, Dequantise, LookUp, MaxPool, Nearest, Quantise};
use crate::infer::ops::concat::Concat;
use crate::infer::ops::elementwise::Elementwise;
use crate::infer::ops::pool::Pool;
use crate::infer::ops::reshape::Reshape;
use crate::infer::ops::resize::Resize;
use crate::infer::tensor::Tensor;
use forms::{Affine, Follows};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

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
    /// Results of nodes of which it was said why they have no form on bytes.
    refused: HashSet<ValueId>,
    report: PassReport,
}

fn label(node: &Node) -> String {
    format!("{} '{}'", node.op.name(), node.name)
}

/// Why nothing asked for the bytes of what a node gives.
fn not_quantised(graph: &Graph, node: &Node) -> String {
    if node.outputs.iter().any(|output| graph.outputs.contains(output)) {
        return "its result is an output, which is not quantised".into();
    }
    let reads = |reader: &&Node| reader.inputs.iter().flatten().any(|input| node.outputs.contains(input));
    match graph.nodes.iter().find(reads) {
        Some(reader) => format!("its result is not quantised before {}", label(reader)),
        None => "nothing reads its result".into(),
    }
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
        refused: HashSet::new(),
        report: PassReport::new("compute quantised arithmetic on bytes"),
    };
    let scales = walk.scales();
    for i in 0..walk.old.len() {
        walk.node(i, &scales);
    }
    let Walk { nodes, old, functions, refused, mut report, .. } = walk;
    graph.nodes = nodes;
    let constants: Vec<Option<Tensor>> = graph.values.iter().map(|value| value.fact.constant.clone()).collect();
    dead_code::run(graph);
    for node in graph.nodes.iter().filter(|node| !refused.contains(&node.outputs[0])) {
        let reads_quantised = node.inputs.iter().flatten().any(|input| functions.contains_key(input));
        if reads_quantised && !node.op.is_on_bytes() && !node.op.is_view() {
            report.did_not(format!("{}: {}", label(node), not_quantised(graph, node)));
        }
    }
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
                    self.push(&node.name, Dequantise { from, function: None }, &[base], y);
                    let numbers = Arc::new(from.numbers());
                    self.functions.insert(y, OfByte { base, from, numbers, plain: true });
                    return;
                }
            }
            _ => {
                self.derive(&node);
                if let (&[y], false) = (&node.outputs[..], node.op.is_view())
                    && let Some(OfByte { base, from, numbers, plain }) = self.functions.get(&y).cloned()
                {
                    // Where f32 is wanted, it comes from the bytes at once.
                    let function = (!plain).then_some(numbers);
                    self.push(&node.name, Dequantise { from, function }, &[base], y);
                    return;
                }
            }
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
        let output = output.unwrap_or_else(|| self.intermediate(name, to, &shape));
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

    /// Appends the operators on bytes whose result is the bytes of x. An error says why not, if that is of interest.
    fn computed(&mut self, x: ValueId, to: ByteScale, q: ValueId) -> Result<(), Option<String>> {
        // The views between the operator and q, the last one first.
        let mut views = Vec::new();
        let mut x = x;
        let mut node = loop {
            let Some(producer) = self.edges.producer(x) else { return Err(None) };
            let node = self.old[producer].clone();
            if !self.edges.has_one_reader(x) {
                self.refused.insert(x);
                return Err(Some(format!("{}: {} readers of its f32 result", label(&node), self.edges.readers(x))));
            }
            let rest_constant = || node.inputs[1..].iter().flatten().all(|i| self.graph.fact(*i).constant.is_some());
            match node.inputs.first() {
                Some(&Some(before)) if node.op.is_view() && node.outputs.len() == 1 && rest_constant() => {
                    x = before;
                    views.push(node);
                }
                _ => break node,
            }
        };
        // The node before, where nothing else reads what it gives.
        let before = |value: Option<ValueId>| {
            let value = value.filter(|value| self.edges.has_one_reader(*value))?;
            Some(self.old[self.edges.producer(value)?].clone())
        };
        let mut follows = Follows { affine: None, activation: Activation::None, to };
        if let Some(activate) = node.op.downcast::<Activate>()
            && let Some(producer) = before(node.inputs[0])
        {
            follows.activation = activate.activation;
            node = producer;
        }
        if let Some((producer, affine)) = self.affine(&node, before) {
            follows.affine = Some(affine);
            node = producer;
        }
        self.refused.insert(node.outputs[0]);
        let refused = |why: String| Some(format!("{}: {why}", label(&node)));
        let x_shape = self.graph.fact(x).shape.clone();
        let last = if views.is_empty() { q } else { self.intermediate(&node.name, to, &x_shape) };
        if node.op.downcast::<Concat>().is_some() && follows.activation == Activation::None {
            let functions: Option<Vec<OfByte>> =
                node.inputs.iter().map(|i| i.and_then(|i| self.functions.get(&i)).cloned()).collect();
            let functions = functions.ok_or_else(|| refused("not all of its inputs are quantised".into()))?;
            let inputs = functions.iter().map(|f| Some(self.table(&node.name, f, to, None))).collect();
            self.nodes.push(Node { name: node.name.clone(), op: node.op.clone(), inputs, outputs: vec![last] });
        } else {
            let form = self.form(&node, &follows).map_err(refused)?;
            let result = match form.shape.filter(|shape| *shape != x_shape) {
                Some(shape) => self.intermediate(&node.name, to, &shape),
                None => last,
            };
            let inputs = form.inputs.into_iter().map(Some).collect();
            self.nodes.push(Node { name: node.name.clone(), op: form.op, inputs, outputs: vec![result] });
            if result != last {
                self.push(&node.name, Reshape { shape: x_shape }, &[result], last);
            }
        }
        let mut bytes = last;
        for (i, view) in views.iter().enumerate().rev() {
            let shape = self.graph.fact(view.outputs[0]).shape.clone();
            let output = if i == 0 { q } else { self.intermediate(&view.name, to, &shape) };
            let mut inputs = view.inputs.clone();
            inputs[0] = Some(bytes);
            self.nodes.push(Node { name: view.name.clone(), op: view.op.clone(), inputs, outputs: vec![output] });
            bytes = output;
        }
        self.report.did(label(&node));
        Ok(())
    }

    /// A new value of bytes.
    fn intermediate(&mut self, name: &str, to: ByteScale, shape: &[usize]) -> ValueId {
        self.graph.add_value(&format!("{name}.bytes"), Fact::new(to.dtype(), shape))
    }

    /// The convolution or matrix product before a node that is batch norm or arithmetic per channel, or before several
    /// such, and the factor and the shift of each channel.
    fn affine(&self, node: &Node, before: impl Fn(Option<ValueId>) -> Option<Node>) -> Option<(Node, Affine)> {
        let rank = self.graph.fact(node.outputs[0]).shape.len();
        // Convolutions have their channels along axis 1, products of rows along the last one.
        [(1, false), (rank.checked_sub(1)?, true)].into_iter().find_map(|(axis, of_rows)| {
            let mut node = node.clone();
            let mut all: Option<Affine> = None;
            while !forms::is_filtering(&node, of_rows) {
                let (x, factors, shifts) = affine_of(self.graph, &node, axis)?;
                let same_shape = self.graph.fact(x).shape == self.graph.fact(node.outputs[0]).shape;
                let first = Affine { factors, shifts };
                all = Some(match all {
                    None => first,
                    Some(then) => then.after(&first),
                });
                node = before(Some(x)).filter(|_| same_shape)?;
            }
            Some((node, all?))
        })
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
