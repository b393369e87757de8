//! From graph to steps: decides where every value lies, then lets each operator append its kernels.
//!
//! Three walks over the nodes:
//! 1. forward, the *natural axis order* of every value: channels last for feature maps, and what view operators make
//!    of it;
//! 2. backward, *placement*: the inputs of a Concat are given their part of its output, so that their producers write
//!    there directly;
//! 3. forward, *lowering*: view operators become arithmetic on [`View`]s, Concat copies only what could not be placed,
//!    all others append steps.
//!
//! A long file: the walks share the state of [`Lowering`], and operators see all of it.

use super::hops;
use super::host_steps::held_values;
use super::step::{Buffer, BufferKind, Element, OutputPlace, Plan, Step};
use super::view::{BufferId, View, channels_last_order};
use crate::infer::graph::{Fact, Graph, Node, ValueId};
use crate::infer::kernel::{Kernel, OnBytes};
use crate::infer::kernels::bytes::copy::ByteCopy;
use crate::infer::kernels::copy::Copy;
use crate::infer::op::OpError;
use crate::infer::ops::concat::Concat;
use crate::infer::ops::split::Split;
use crate::infer::tensor::{DType, Tensor, TensorElements};
use std::collections::HashMap;
use std::sync::Arc;

/// Why a node is refused where host tensors are not possible.
const HOST_ONLY: &str = "works on integers, booleans or f64, on empty tensors, or on a shape that depends on the input";

/// What a backend wants of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The fastest axis of new buffers is padded to a multiple of this: 1 on the CPU, 4 (a `vec4`) on the GPU.
    pub block: usize,
    /// Its memory is not the host's: what host steps compute with must be copied over.
    pub host_apart: bool,
}

impl Target {
    pub const CPU: Target = Target { block: 1, host_apart: false };
    pub const GPU: Target = Target { block: 4, host_apart: true };
}

/// A node that cannot be planned, and why.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("node '{node}' ({op}): {why}")]
pub struct LowerError {
    pub node: String,
    pub op: String,
    pub why: String,
}

/// The planner's state, handed to [`crate::infer::op::Op::lower`].
pub struct Lowering<'a> {
    pub(super) graph: &'a Graph,
    pub(super) target: Target,
    pub(super) plan: Plan,
    /// Where each value lies, once known.
    pub(super) places: Vec<Option<View>>,
    /// Axis order that each value prefers.
    orders: Vec<Vec<usize>>,
    /// Copies made because a consumer needed another layout.
    pub(super) copies: HashMap<(ValueId, usize), View>,
    /// Results computed in a buffer of their own that must still be copied to where the value was placed.
    pub(super) pending: Vec<(View, View)>,
    /// Copies that layout required, for `--explain`.
    pub(super) notes: Vec<String>,
    node: String,
    pub(super) macs: u64,
    /// Steps that compute dense host tensors are possible.
    host: bool,
    /// Place of each value among the host tensors.
    pub(super) host_places: Vec<Option<usize>>,
    /// Integers and booleans that memory holds as numbers.
    pub(super) held: Vec<bool>,
    /// u8 and i8 values that lie in memory as bytes.
    pub(super) bytes: Vec<bool>,
    /// Values that belong into memory but that only the host has so far.
    pub(super) host_only: Vec<bool>,
}

/// Plans a graph for a target.
///
/// # Errors
/// Every node that cannot be planned, all at once.
pub fn plan_graph(graph: &Graph, target: Target) -> Result<(Plan, Vec<String>), Vec<LowerError>> {
    plan_with(graph, target, true)
}

/// As [`plan_graph`]; `host` says whether operators without a kernel may be computed on dense host tensors.
pub(crate) fn plan_with(graph: &Graph, target: Target, host: bool) -> Result<(Plan, Vec<String>), Vec<LowerError>> {
    let mut l = Lowering {
        graph,
        target,
        plan: Plan::default(),
        places: vec![None; graph.values.len()],
        orders: Vec::new(),
        copies: HashMap::new(),
        pending: Vec::new(),
        notes: Vec::new(),
        node: String::new(),
        macs: 0,
        host,
        host_places: vec![None; graph.values.len()],
        held: if target.host_apart && host { held_values(graph) } else { vec![false; graph.values.len()] },
        bytes: bytes_in_memory(graph),
        host_only: vec![false; graph.values.len()],
    };
    l.orders = l.natural_orders();
    let mut errors = Vec::new();
    for &input in &graph.inputs {
        let view = l.allocate(input, BufferKind::Input);
        let fact = graph.fact(input);
        let mut place = None;
        if l.is_host_value(input) {
            if host {
                place = Some((l.add_host_place(input), fact.dtype));
            } else {
                let why = format!("is {} {:?}; {HOST_ONLY}", fact.dtype, fact.shape);
                errors.push(LowerError { node: graph.value(input).name.clone(), op: "input".into(), why });
            }
        } else {
            l.places[input.0] = Some(view.clone());
        }
        l.plan.inputs.push((graph.value(input).name.clone(), view));
        l.plan.host.inputs.push(place);
        l.plan.host.held_inputs.push(l.held[input.0]);
    }
    l.place_concat_inputs();
    for node in &graph.nodes {
        if let Err(e) = l.lower_node(node) {
            errors.push(LowerError { node: node.name.clone(), op: node.op.name().to_string(), why: e.to_string() });
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    for &output in &graph.outputs {
        l.node = graph.value(output).name.clone();
        if l.bytes[output.0] {
            let why = "is bytes in the plan's memory, which no output can be".into();
            errors.push(LowerError { node: l.node.clone(), op: "output".into(), why });
            continue;
        }
        let only_there = l.is_host_value(output) || l.host_only[output.0];
        if let Some(place) = l.host_places[output.0].filter(|_| only_there) {
            let view = l.allocate(output, BufferKind::Activation { first: 0, last: 0 });
            l.plan.outputs.push((graph.value(output).name.clone(), view));
            l.plan.host.outputs.push(OutputPlace::Host(place));
            continue;
        }
        l.plan.host.outputs.push(match &graph.fact(output).constant {
            Some(constant) => OutputPlace::Constant(constant.clone()),
            None if l.held[output.0] => OutputPlace::Held(graph.fact(output).dtype),
            None => OutputPlace::Memory,
        });
        match l.read(output) {
            Ok(view) => l.plan.outputs.push((graph.value(output).name.clone(), view)),
            Err(e) => errors.push(LowerError {
                node: graph.value(output).name.clone(),
                op: "output".into(),
                why: e.to_string(),
            }),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    l.plan.half_outputs.clone_from(&graph.half_outputs);
    if target.host_apart {
        l.plan.steps = hops::arrange(std::mem::take(&mut l.plan.steps));
        l.plan.hops = hops::hops(&l.plan.steps);
    }
    l.set_lifetimes();
    Ok((l.plan, l.notes))
}

impl<'a> Lowering<'a> {
    // ---- what operators call --------------------------------------------------------------------------------

    pub fn fact(&self, value: ValueId) -> &'a Fact {
        self.graph.fact(value)
    }

    /// Shape in the graph's axis order.
    pub fn shape(&self, value: ValueId) -> &'a [usize] {
        &self.graph.fact(value).shape
    }

    /// The value itself, where it is a constant.
    pub fn constant(&self, value: ValueId) -> Option<&'a Tensor> {
        self.graph.fact(value).constant.as_ref()
    }

    /// A required constant input as f32, e.g. the weights of a convolution.
    ///
    /// # Errors
    /// When the value is only known at run time.
    pub fn constant_f32(&self, value: ValueId, what: &str) -> Result<Vec<f32>, OpError> {
        self.constant(value).map(Tensor::to_f32).ok_or_else(|| {
            OpError::Unsupported(format!(
                "{what} '{}' is computed at run time; only constants are supported here",
                self.graph.value(value).name
            ))
        })
    }

    /// As [`Lowering::constant_f32`], without a copy where the constant is f32.
    ///
    /// # Errors
    /// As [`Lowering::constant_f32`].
    pub fn shared_constant_f32(&self, value: ValueId, what: &str) -> Result<Arc<Vec<f32>>, OpError> {
        match self.constant(value).map(Tensor::elements) {
            Some(TensorElements::F32(values)) => Ok(Arc::clone(values)),
            _ => self.constant_f32(value, what).map(Arc::new),
        }
    }

    /// Where a value lies, with whatever strides it has. Constants get a buffer of their own.
    ///
    /// # Errors
    /// When its producer could not be planned.
    pub fn read(&mut self, value: ValueId) -> Result<View, OpError> {
        if let (true, Some(place)) = (self.host_only[value.0], self.host_places[value.0]) {
            return Ok(self.upload(value, place));
        }
        if let Some(view) = &self.places[value.0] {
            return Ok(view.clone());
        }
        let name = &self.graph.value(value).name;
        let Some(tensor) = self.constant(value) else {
            return Err(OpError::Invalid(format!("its input '{name}' is not computed before it")));
        };
        let id = self.add_buffer(name, tensor.len(), Element::F32, BufferKind::Constant(tensor.clone()));
        let view = View::row_major(id, tensor.shape());
        self.places[value.0] = Some(view.clone());
        Ok(view)
    }

    /// A value as a feature map ([`View::feature_map`]) aligned to the target's block; copied where it lies otherwise.
    ///
    /// # Errors
    /// As [`Lowering::read`]; and the rank must be 4.
    pub fn read_feature_map(&mut self, value: ValueId) -> Result<View, OpError> {
        let view = self.read(value)?;
        self.as_feature_map(value, view)
    }

    fn as_feature_map(&mut self, value: ValueId, view: View) -> Result<View, OpError> {
        if view.rank() != 4 {
            return Err(OpError::Unsupported(format!("needs a feature map [N, C, H, W], got shape {:?}", view.shape)));
        }
        if self.fits(&view) {
            return Ok(view);
        }
        if let Some(copy) = self.copies.get(&(value, 4)) {
            return Ok(copy.clone());
        }
        let name = self.graph.value(value).name.clone();
        let copy = self.temporary_like(&name, &view.shape, &view);
        self.note(format!("'{name}' copied to channels-last for '{}'", self.node));
        self.copy(&view, &copy);
        self.copies.insert((value, 4), copy.clone());
        Ok(copy)
    }

    /// True for a feature map that kernels of this target can read and write as it lies.
    pub fn fits(&self, view: &View) -> bool {
        view.feature_map().is_some_and(|f| f.is_aligned(self.target.block))
    }

    /// Where to write an output, in its natural order or inside the Concat that consumes it.
    pub fn write(&mut self, value: ValueId) -> View {
        if let Some(view) = &self.places[value.0] {
            return view.clone();
        }
        let view = self.allocate(value, BufferKind::Activation { first: 0, last: 0 });
        self.places[value.0] = Some(view.clone());
        view
    }

    /// Where to write an output that must be an aligned feature map. If the value was placed where that is not so, the
    /// result goes to a buffer of its own and is copied after the node.
    pub fn write_feature_map(&mut self, value: ValueId) -> View {
        let view = self.write(value);
        if self.fits(&view) {
            return view;
        }
        let name = self.graph.value(value).name.clone();
        let own = self.temporary_like(&name, &view.shape, &view);
        self.note(format!(
            "'{name}' computed beside its place and copied: not aligned to {} channels",
            self.target.block
        ));
        self.pending.push((own.clone(), view));
        own
    }

    /// A fresh channels-last buffer for intermediate results of a node.
    pub fn temporary(&mut self, name: &str, shape: &[usize]) -> View {
        self.temporary_of(name, shape, Element::F32)
    }

    /// As [`Lowering::temporary`], for elements of the kind that `view` has.
    pub fn temporary_like(&mut self, name: &str, shape: &[usize], view: &View) -> View {
        self.temporary_of(name, shape, self.plan.buffer(view.buffer).element)
    }

    fn temporary_of(&mut self, name: &str, shape: &[usize], element: Element) -> View {
        let order = channels_last_order(shape.len());
        let mut view = View::in_order(BufferId(0), shape, &order, self.target.block);
        let kind = BufferKind::Activation { first: 0, last: 0 };
        view.buffer = self.add_buffer(name, padded_len(&view, self.target.block), element, kind);
        view
    }

    /// A fresh constant buffer, dense row-major.
    pub fn constant_buffer(&mut self, name: &str, tensor: &Tensor) -> View {
        let id = self.add_buffer(name, tensor.len(), Element::F32, BufferKind::Constant(tensor.clone()));
        View::row_major(id, tensor.shape())
    }

    /// Appends a kernel.
    pub fn step(&mut self, kernel: impl Kernel + 'static, reads: Vec<View>, writes: Vec<View>) {
        self.plan.steps.push(Step {
            node: self.node.clone(),
            kernel: Arc::new(kernel),
            reads,
            writes,
            macs: std::mem::take(&mut self.macs),
        });
    }

    /// Appends a copy between views of equal shape, unless they are one place.
    pub fn copy(&mut self, from: &View, to: &View) {
        if from.is_place_of(to) {
            return;
        }
        // A copy computes nothing: the node's operations belong to its own kernel.
        let macs = std::mem::take(&mut self.macs);
        let (reads, writes) = (vec![from.clone()], vec![to.clone()]);
        match self.plan.buffer(from.buffer).element {
            Element::F32 => self.step(Copy, reads, writes),
            Element::Byte => self.step(OnBytes(ByteCopy::default()), reads, writes),
        }
        self.macs = macs;
    }

    /// Declares that an output lies where `view` says, without computing anything.
    pub fn alias(&mut self, value: ValueId, view: View) {
        self.places[value.0] = Some(view);
    }

    /// Adds a line to `--explain`.
    pub fn note(&mut self, line: String) {
        self.notes.push(line);
    }

    // ---- internals ------------------------------------------------------------------------------------------

    fn add_buffer(&mut self, name: &str, len_elements: usize, element: Element, kind: BufferKind) -> BufferId {
        self.plan.buffers.push(Buffer { name: name.to_string(), len_elements, element, kind });
        BufferId(self.plan.buffers.len() - 1)
    }

    pub(super) fn allocate(&mut self, value: ValueId, kind: BufferKind) -> View {
        let shape = &self.graph.fact(value).shape;
        let order = self.orders[value.0].clone();
        let mut view = View::in_order(BufferId(0), shape, &order, self.target.block);
        let name = self.graph.value(value).name.clone();
        let element = if self.bytes[value.0] { Element::Byte } else { Element::F32 };
        view.buffer = self.add_buffer(&name, padded_len(&view, self.target.block), element, kind);
        view
    }

    pub(super) fn input_facts(&self, node: &Node) -> Vec<Option<&'a Fact>> {
        let graph = self.graph;
        node.inputs.iter().map(|i| i.map(|i| graph.fact(i))).collect()
    }

    fn natural_orders(&self) -> Vec<Vec<usize>> {
        let graph = self.graph;
        let default = |value: ValueId| {
            let rank = graph.fact(value).shape.len();
            if rank == 4 { channels_last_order(4) } else { (0..rank).collect() }
        };
        let mut orders: Vec<Vec<usize>> = (0..graph.values.len())
            .map(|i| {
                if graph.values[i].fact.constant.is_some() {
                    (0..graph.values[i].fact.shape.len()).collect()
                } else {
                    default(ValueId(i))
                }
            })
            .collect();
        for node in graph.nodes.iter().filter(|node| !self.is_host_node(node)) {
            let facts = self.input_facts(node);
            for (k, &output) in node.outputs.iter().enumerate() {
                let rank = graph.fact(output).shape.len();
                let first = node.inputs.iter().flatten().find(|i| graph.fact(**i).constant.is_none());
                let Some(&first) = first else { continue };
                let same_rank = graph.fact(first).shape.len() == rank;
                if node.op.is_view() {
                    let source = View::in_order(BufferId(0), &graph.fact(first).shape, &orders[first.0], 1);
                    if let Some(view) = node.op.view_forward(&source, &facts, k) {
                        orders[output.0] = view.axis_order();
                    }
                } else if node.op.downcast::<Concat>().is_some() {
                    if same_rank {
                        orders[output.0] = orders[first.0].clone();
                    }
                } else if node.op.keeps_layout() {
                    let same_shape = node.inputs.iter().flatten().find(|i| {
                        graph.fact(**i).constant.is_none() && graph.fact(**i).shape == graph.fact(output).shape
                    });
                    if let Some(same) = same_shape {
                        orders[output.0] = orders[same.0].clone();
                    }
                }
            }
        }
        orders
    }

    fn place_concat_inputs(&mut self) {
        let graph = self.graph;
        let producers = graph.producers();
        for node in graph.nodes.iter().rev() {
            let Some(concat) = node.op.downcast::<Concat>() else { continue };
            let output = node.outputs[0];
            if graph.fact(output).constant.is_some() || self.is_host_node(node) {
                continue;
            }
            let whole = self.write(output);
            let axis = concat.axis;
            let mut start = 0;
            let mut i = 0;
            while i < node.inputs.len() {
                let Some(input) = node.inputs[i] else {
                    i += 1;
                    continue;
                };
                // All outputs of a Split in a row: place what was split instead.
                if let Some((source, parts)) = self.split_run(&node.inputs[i..], axis, &producers) {
                    let count = graph.fact(source).shape[axis];
                    let part = whole.sliced(axis, start, count, 1);
                    if self.try_place(source, &part, &producers) {
                        start += count;
                        i += parts;
                        continue;
                    }
                }
                let count = graph.fact(input).shape[axis];
                let part = whole.sliced(axis, start, count, 1);
                self.try_place(input, &part, &producers);
                start += count;
                i += 1;
            }
        }
    }

    fn split_run(
        &self,
        inputs: &[Option<ValueId>],
        axis: usize,
        producers: &[Option<usize>],
    ) -> Option<(ValueId, usize)> {
        let node = &self.graph.nodes[producers[inputs[0]?.0]?];
        let split = node.op.downcast::<Split>()?;
        let all = node.outputs.len();
        let run = inputs.get(..all)?;
        let in_order = run.iter().zip(&node.outputs).all(|(a, b)| *a == Some(*b));
        (split.axis == axis && in_order).then_some((node.inputs[0]?, all))
    }

    /// Gives a value its place if nothing else has and its producer can write there.
    fn try_place(&mut self, value: ValueId, view: &View, producers: &[Option<usize>]) -> bool {
        if self.places[value.0].is_some() || self.graph.fact(value).constant.is_some() {
            return false;
        }
        let Some(producer) = producers[value.0] else { return false };
        let node = &self.graph.nodes[producer];
        if node.op.is_view() && !self.is_host_node(node) {
            let facts = self.input_facts(node);
            let (Some(source), Some(input)) = (node.op.view_backward(view, &facts), node.inputs[0]) else {
                return false;
            };
            if !self.try_place(input, &source, producers) {
                return false;
            }
        } else if self.target.block > 1 && view.feature_map().is_some_and(|f| !f.is_aligned(self.target.block)) {
            return false;
        }
        self.places[value.0] = Some(view.clone());
        true
    }

    fn lower_node(&mut self, node: &Node) -> Result<(), OpError> {
        self.node.clone_from(&node.name);
        if node.outputs.iter().all(|&o| self.graph.fact(o).constant.is_some()) {
            return Ok(());
        }
        if self.is_host_node(node) {
            return match self.host {
                true => self.lower_on_host(node),
                false => Err(OpError::Unsupported(HOST_ONLY.into())),
            };
        }
        if self.stays_on_host(node) {
            return self.lower_on_host(node);
        }
        let mark = self.mark(node);
        match self.lower_on_device(node) {
            Err(OpError::Unsupported(why)) if self.host => {
                self.roll_back(mark);
                if self.target.host_apart {
                    self.note(format!("{} '{}' {why}", node.op.name(), node.name));
                }
                self.lower_on_host(node)
            }
            other => other,
        }
    }

    fn lower_on_device(&mut self, node: &Node) -> Result<(), OpError> {
        let facts = self.input_facts(node);
        let outputs: Vec<&Fact> = node.outputs.iter().map(|&o| self.graph.fact(o)).collect();
        // The first kernel of the node takes them.
        self.macs = node.op.macs(&facts, &outputs);
        if let Some(concat) = node.op.downcast::<Concat>() {
            return self.lower_concat(node, concat.axis);
        }
        if node.op.is_view() {
            return self.lower_view(node, &facts);
        }
        node.op.lower(self, &node.inputs, &node.outputs)?;
        for (from, to) in std::mem::take(&mut self.pending) {
            self.copy(&from, &to);
        }
        Ok(())
    }

    fn lower_concat(&mut self, node: &Node, axis: usize) -> Result<(), OpError> {
        let whole = self.write(node.outputs[0]);
        let mut start = 0;
        for input in node.inputs.iter().flatten() {
            let source = self.read(*input)?;
            let count = source.shape[axis];
            let part = whole.sliced(axis, start, count, 1);
            start += count;
            if source != part && !source.is_empty() {
                self.note(format!("Concat '{}': input '{}' is copied", node.name, self.graph.value(*input).name));
                self.copy(&source, &part);
            }
        }
        Ok(())
    }

    fn lower_view(&mut self, node: &Node, facts: &[Option<&Fact>]) -> Result<(), OpError> {
        let Some(input) = node.inputs[0] else {
            return Err(OpError::Invalid("has no input".into()));
        };
        let source = self.read(input)?;
        for (k, &output) in node.outputs.iter().enumerate().filter(|(_, o)| self.graph.fact(**o).constant.is_none()) {
            let moved = node.op.view_forward(&source, facts, k);
            match (self.places[output.0].clone(), moved) {
                (Some(placed), Some(view)) if placed == view => {}
                (Some(placed), Some(view)) => self.copy(&view, &placed),
                (None, Some(view)) => self.alias(output, view),
                (_, None) => {
                    // Not expressible for this source: fill the output's own memory, seen in the shape of the input.
                    let target = self.write(output);
                    self.note(format!("{} '{}' is a copy: strides cannot express it", node.op.name(), node.name));
                    if let Some(seen) = node.op.view_backward(&target, facts) {
                        self.copy(&source, &seen);
                    } else {
                        let element = self.plan.buffer(source.buffer).element;
                        let kind = BufferKind::Activation { first: 0, last: 0 };
                        let id = self.add_buffer(&node.name, source.len(), element, kind);
                        let dense = View::row_major(id, &source.shape);
                        self.copy(&source, &dense);
                        let view = node
                            .op
                            .view_forward(&dense, facts, k)
                            .ok_or_else(|| OpError::Unsupported("cannot be expressed on dense memory".into()))?;
                        self.copy(&view, &target);
                    }
                }
            }
        }
        Ok(())
    }

    fn set_lifetimes(&mut self) {
        let mut spans: Vec<Option<(usize, usize)>> = vec![None; self.plan.buffers.len()];
        let mut touch = |id: BufferId, at: usize| {
            let span = spans[id.0].get_or_insert((at, at));
            span.0 = span.0.min(at);
            span.1 = span.1.max(at);
        };
        for (i, step) in self.plan.steps.iter().enumerate() {
            for view in step.reads.iter().chain(&step.writes) {
                touch(view.buffer, i);
            }
        }
        for (_, view) in &self.plan.outputs {
            touch(view.buffer, self.plan.steps.len());
        }
        for (buffer, span) in self.plan.buffers.iter_mut().zip(spans) {
            if let BufferKind::Activation { first, last } = &mut buffer.kind {
                (*first, *last) = span.unwrap_or((0, 0));
            }
        }
    }
}

/// The values that operators on bytes give, and what is made of them by moving elements.
fn bytes_in_memory(graph: &Graph) -> Vec<bool> {
    let mut bytes = vec![false; graph.values.len()];
    for node in &graph.nodes {
        let moved = || {
            let mut inputs = node.inputs.iter().flatten().filter(|i| graph.fact(**i).constant.is_none()).peekable();
            (node.op.is_view() || node.op.downcast::<Concat>().is_some())
                && inputs.peek().is_some()
                && inputs.all(|i| bytes[i.0])
        };
        if node.op.is_on_bytes() || moved() {
            for output in &node.outputs {
                let fact = graph.fact(*output);
                bytes[output.0] = matches!(fact.dtype, DType::U8 | DType::I8) && !fact.late;
            }
        }
    }
    bytes
}

/// Elements to allocate for a fresh view: its end, rounded up so that the last vector load stays inside.
pub(super) fn padded_len(view: &View, block: usize) -> usize {
    view.end().next_multiple_of(block)
}
