//! Which nodes of a plan are computed on dense host tensors, and how their values come and go.
//!
//! On the CPU host steps read and write the plan's memory themselves. In a plan for a GPU, memory is elsewhere: a value
//! in memory comes to the host by a [`Crossing::Download`] once, whatever number of host steps read it, and an f32
//! result of a host step goes to memory by a [`Crossing::Upload`] only if something on the device reads it.

use super::lower::Lowering;
use super::step::BufferKind;
use super::view::View;
use crate::infer::graph::{Fact, Graph, Node, ValueId};
use crate::infer::kernel::Place;
use crate::infer::kernels::host::{Crossing, Destination, Host, Source};
use crate::infer::op::{HELD_MAX, OpError};
use crate::infer::ops::late::Late;
use crate::infer::tensor::DType;

/// A node that the device could compute but whose input lies on the host stays there if no more than so many elements
/// and multiply-accumulates are at stake: about a millisecond.
const STAY_LIMIT: u64 = 1 << 17;

/// True where kernels compute a node although it touches integers or booleans; `held`: which values memory holds.
fn holds(graph: &Graph, held: &[bool], node: &Node) -> bool {
    let known = |id: ValueId| match (&graph.fact(id).constant, graph.fact(id)) {
        (Some(constant), _) => match constant.dtype() {
            DType::F32 => true,
            DType::F64 | DType::F16 => false,
            _ => constant.to_i64().iter().all(|v| v.unsigned_abs() <= HELD_MAX as u64),
        },
        (None, fact) => held[id.0] || !fact.is_host(),
    };
    let holdable = |id: ValueId| {
        let fact = graph.fact(id);
        let typed = matches!(fact.dtype, DType::F32 | DType::I64 | DType::I32 | DType::Bool);
        fact.constant.is_some() || (!fact.late && typed && !fact.shape.contains(&0))
    };
    let inputs: Vec<Option<&Fact>> = node.inputs.iter().map(|i| i.map(|i| graph.fact(i))).collect();
    let outputs: Vec<&Fact> = node.outputs.iter().map(|&o| graph.fact(o)).collect();
    node.op.downcast::<Late>().is_none()
        && node.inputs.iter().flatten().all(|&i| known(i))
        && node.outputs.iter().all(|&o| holdable(o))
        && node.op.holds(&inputs, &outputs)
}

/// The integers and booleans that f32 memory holds as numbers: what kernels give as such, and boolean inputs that only
/// kernels read.
pub(super) fn held_values(graph: &Graph) -> Vec<bool> {
    let mut inputs: Vec<ValueId> = graph.inputs.iter().copied().filter(|&i| is_boolean(graph.fact(i))).collect();
    loop {
        let mut held = vec![false; graph.values.len()];
        inputs.iter().for_each(|i| held[i.0] = true);
        let mut elsewhere = vec![false; graph.values.len()];
        for node in &graph.nodes {
            if holds(graph, &held, node) {
                for &output in node.outputs.iter().filter(|&&o| graph.fact(o).is_host()) {
                    held[output.0] = true;
                }
            } else {
                node.inputs.iter().flatten().for_each(|i| elsewhere[i.0] = true);
            }
        }
        let count = inputs.len();
        inputs.retain(|i| !elsewhere[i.0]);
        if inputs.len() == count {
            return held;
        }
    }
}

fn is_boolean(fact: &Fact) -> bool {
    fact.dtype == DType::Bool && fact.is_host() && !fact.late && !fact.shape.contains(&0)
}

/// What a node may add to or change before it is given up; see [`Lowering::roll_back`].
pub(super) struct Mark {
    steps: usize,
    buffers: usize,
    notes: usize,
    outputs: Vec<(ValueId, Option<View>)>,
}

impl Lowering<'_> {
    /// True for values that are dense host tensors: f32 memory does not hold them.
    pub(super) fn is_host_value(&self, value: ValueId) -> bool {
        self.graph.fact(value).is_host() && !self.held[value.0] && !self.bytes[value.0]
    }

    /// True for nodes that touch values which f32 memory does not hold, or that no kernel takes from there.
    pub(super) fn is_host_node(&self, node: &Node) -> bool {
        let touched = || node.inputs.iter().flatten().chain(&node.outputs).copied();
        node.op.downcast::<Late>().is_some()
            || touched().any(|v| self.is_host_value(v))
            || (touched().any(|v| self.graph.fact(v).is_host() && !self.bytes[v.0])
                && !holds(self.graph, &self.held, node))
    }

    /// True for small nodes that go on with what the host has just computed, so that the tail of a network is one hop.
    pub(super) fn stays_on_host(&self, node: &Node) -> bool {
        if !node.inputs.iter().flatten().any(|v| self.host_only[v.0]) {
            return false;
        }
        let facts = self.input_facts(node);
        let outputs: Vec<_> = node.outputs.iter().map(|&o| self.graph.fact(o)).collect();
        let elements = |shape: &[usize]| shape.iter().product::<usize>() as u64;
        let moved: u64 =
            facts.iter().flatten().chain(&outputs).filter(|f| f.constant.is_none()).map(|f| elements(&f.shape)).sum();
        moved.saturating_add(node.op.macs(&facts, &outputs)) <= STAY_LIMIT
    }

    pub(super) fn add_host_place(&mut self, value: ValueId) -> usize {
        let place = self.plan.host.count;
        self.plan.host.count += 1;
        self.host_places[value.0] = Some(place);
        place
    }

    /// One step that gathers the inputs, lets the operator evaluate them, and stores the outputs.
    pub(super) fn lower_on_host(&mut self, node: &Node) -> Result<(), OpError> {
        // Copies compute nothing: the node's operations belong to its own step.
        let macs = std::mem::take(&mut self.macs);
        let mut reads = Vec::new();
        let mut sources = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            sources.push(match *input {
                None => Source::Missing,
                Some(id) => match (self.constant(id), self.host_places[id.0]) {
                    (Some(constant), _) => Source::Constant(constant.clone()),
                    (None, Some(place)) => Source::Host(place),
                    (None, None) => {
                        let view = self.read(id)?;
                        if self.target.host_apart {
                            let place = self.add_host_place(id);
                            self.step(Crossing::Download(place, self.graph.fact(id).dtype), vec![view], Vec::new());
                            Source::Host(place)
                        } else {
                            reads.push(view);
                            Source::Memory
                        }
                    }
                },
            });
        }
        let mut writes = Vec::new();
        let mut destinations = Vec::with_capacity(node.outputs.len());
        for &output in &node.outputs {
            let fact = self.graph.fact(output);
            destinations.push(if fact.constant.is_some() {
                Destination::Nowhere
            } else if fact.is_host() || self.target.host_apart {
                self.host_only[output.0] = !self.is_host_value(output);
                Destination::Host(self.add_host_place(output))
            } else {
                writes.push(self.write(output));
                Destination::Memory
            });
        }
        self.note(format!("{} '{}' is computed on dense host tensors", node.op.name(), node.name));
        self.macs = macs;
        self.step(Host { op: node.op.clone(), sources, destinations }, reads, writes);
        Ok(())
    }

    /// Brings a value that only the host has into memory, to the place that it was given, if it was given one.
    pub(super) fn upload(&mut self, value: ValueId, place: usize) -> View {
        let given = self.places[value.0].clone();
        let view = match given.clone() {
            Some(view) if self.is_whole_buffer(&view) => view,
            _ => self.allocate(value, BufferKind::Activation { first: 0, last: 0 }),
        };
        let macs = std::mem::take(&mut self.macs);
        self.step(Crossing::Upload(place), Vec::new(), vec![view.clone()]);
        if let Some(given) = given.as_ref().filter(|given| **given != view) {
            self.copy(&view, given);
        }
        self.macs = macs;
        self.host_only[value.0] = false;
        let view = given.unwrap_or(view);
        self.places[value.0] = Some(view.clone());
        view
    }

    /// True when a view is all of its buffer but padding, so that the buffer can be written as one.
    fn is_whole_buffer(&self, view: &View) -> bool {
        let fresh = View::in_order(view.buffer, &view.shape, &view.axis_order(), self.target.block);
        fresh == *view
            && self.plan.buffer(view.buffer).len_elements == super::lower::padded_len(view, self.target.block)
    }

    /// Where the plan stands, before a node is tried.
    pub(super) fn mark(&self, node: &Node) -> Mark {
        Mark {
            steps: self.plan.steps.len(),
            buffers: self.plan.buffers.len(),
            notes: self.notes.len(),
            outputs: node.outputs.iter().map(|&o| (o, self.places[o.0].clone())).collect(),
        }
    }

    /// Gives up what was begun since the mark.
    pub(super) fn roll_back(&mut self, mark: Mark) {
        for step in self.plan.steps.drain(mark.steps..) {
            if let Place::Upload(place) = step.kernel.place()
                && let Some(value) = self.host_places.iter().position(|p| *p == Some(place))
            {
                self.host_only[value] = true;
            }
        }
        self.plan.buffers.truncate(mark.buffers);
        self.notes.truncate(mark.notes);
        for place in &mut self.places {
            if place.as_ref().is_some_and(|view| view.buffer.0 >= mark.buffers) {
                *place = None;
            }
        }
        for (output, place) in mark.outputs {
            self.places[output.0] = place;
        }
        self.copies.retain(|_, view| view.buffer.0 < mark.buffers);
        self.pending.clear();
    }
}
