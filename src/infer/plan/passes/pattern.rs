//! What passes ask of a graph.

use crate::infer::activation::Activation;
use crate::infer::graph::{Graph, Node, ValueId};
use crate::infer::kernels::elementwise::Function;
use crate::infer::op::Op;
use crate::infer::ops::activation::Activate;
use crate::infer::ops::elementwise::Elementwise;

/// Producers and reader counts, taken once before a pass starts looking.
pub struct Edges {
    producer: Vec<Option<usize>>,
    readers: Vec<usize>,
}

impl Edges {
    pub fn of(graph: &Graph) -> Edges {
        let mut readers: Vec<usize> = graph.consumers().iter().map(Vec::len).collect();
        for output in &graph.outputs {
            readers[output.0] += 1;
        }
        Edges { producer: graph.producers(), readers }
    }

    /// Index of the node that computes a value.
    pub fn producer(&self, value: ValueId) -> Option<usize> {
        self.producer[value.0]
    }

    /// Another node computes a value now.
    pub fn set_producer(&mut self, value: ValueId, node: usize) {
        self.producer[value.0] = Some(node);
    }

    /// True when exactly one node reads the value and the caller does not.
    pub fn has_one_reader(&self, value: ValueId) -> bool {
        self.readers[value.0] == 1
    }

    pub fn readers(&self, value: ValueId) -> usize {
        self.readers[value.0]
    }
}

/// The node that computes `value`, if its operator is a `T`.
pub fn producer_of<'g, T: Op + 'static>(graph: &'g Graph, edges: &Edges, value: ValueId) -> Option<(&'g Node, &'g T)> {
    let node = &graph.nodes[edges.producer(value)?];
    Some((node, node.op.downcast::<T>()?))
}

/// `value = activation(input)`.
pub fn as_activation(graph: &Graph, edges: &Edges, value: ValueId) -> Option<(Activation, ValueId)> {
    let (node, op) = producer_of::<Activate>(graph, edges, value)?;
    Some((op.activation, node.inputs[0]?))
}

/// `value = function(a, b)` without an activation.
pub fn as_binary(graph: &Graph, edges: &Edges, value: ValueId, function: Function) -> Option<[ValueId; 2]> {
    let (node, op) = producer_of::<Elementwise>(graph, edges, value)?;
    if op.function != function || op.activation != Activation::None {
        return None;
    }
    match node.inputs[..] {
        [Some(a), Some(b)] => Some([a, b]),
        _ => None,
    }
}

/// A constant whose elements are all equal.
pub fn uniform(graph: &Graph, value: ValueId) -> Option<f32> {
    let tensor = graph.fact(value).constant.as_ref()?;
    if tensor.len() > 4096 {
        return None;
    }
    let values = tensor.to_f32();
    let first = *values.first()?;
    values.iter().all(|&v| v == first).then_some(first)
}

/// Splits `[a, b]` into the run-time operand and the uniform constant, whichever way round they stand.
pub fn with_uniform(graph: &Graph, operands: [ValueId; 2]) -> Option<(ValueId, f32)> {
    let [a, b] = operands;
    uniform(graph, b).map(|c| (a, c)).or_else(|| uniform(graph, a).map(|c| (b, c)))
}
