//! Which nodes of a plan are computed on dense host tensors, and how their values come and go.
//!
//! On the CPU host steps read and write the plan's memory themselves. In a plan for a GPU, memory is elsewhere: a value
//! in memory comes to the host by a [`Crossing::Download`] once, whatever number of host steps read it, and an f32
//! result of a host step goes to memory by a [`Crossing::Upload`] only if something on the device reads it.

use super::lower::Lowering;
use super::step::BufferKind;
use super::view::View;
use crate::infer::graph::{Node, ValueId};
use crate::infer::kernel::Place;
use crate::infer::kernels::host::{Crossing, Destination, Host, Source};
use crate::infer::op::OpError;
use crate::infer::ops::late::Late;

/// A node that the device could compute but whose input lies on the host stays there if no more than so many elements
/// and multiply-accumulates are at stake: about a millisecond.
const STAY_LIMIT: u64 = 1 << 17;

/// What a node may add to or change before it is given up; see [`Lowering::roll_back`].
pub(super) struct Mark {
    steps: usize,
    buffers: usize,
    notes: usize,
    outputs: Vec<(ValueId, Option<View>)>,
}

impl Lowering<'_> {
    /// True for nodes that touch values which f32 memory cannot hold.
    pub(super) fn is_host_node(&self, node: &Node) -> bool {
        let touched = node.inputs.iter().flatten().chain(&node.outputs);
        node.op.downcast::<Late>().is_some() || touched.into_iter().any(|&v| self.graph.fact(v).is_host())
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
                            self.step(Crossing::Download(place), vec![view], Vec::new());
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
                self.host_only[output.0] = !fact.is_host();
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
