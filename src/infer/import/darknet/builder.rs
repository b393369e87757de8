//! From layers to nodes of the graph.

use std::collections::HashMap;

use super::network::Shape;
use super::weights::Weights;
use crate::infer::activation::Activation;
use crate::infer::graph::{DarknetHead, Graph, ValueId};
use crate::infer::import::ImportError;
use crate::infer::kernels::elementwise::Function;
use crate::infer::op::Op;
use crate::infer::ops::elementwise::Elementwise;
use crate::infer::ops::reshape::Reshape;
use crate::infer::ops::split::Split;
use crate::infer::tensor::Tensor;

/// The layer that is being built.
pub struct Site<'a> {
    /// Its number.
    pub index: usize,
    /// Name of the value that it computes; those on the way to it are called `name.what`.
    pub name: &'a str,
    pub input: Shape,
    pub output: Shape,
    /// What the layer before it computed.
    pub previous: ValueId,
}

/// The graph so far.
pub struct Builder<'a> {
    pub graph: Graph,
    pub weights: Weights<'a>,
    /// Output of each layer so far.
    pub values: Vec<ValueId>,
    /// Weights and bias of each convolution that owns them.
    pub filters: HashMap<usize, [ValueId; 2]>,
}

impl Builder<'_> {
    pub fn node(&mut self, name: &str, op: impl Op + 'static, inputs: &[ValueId]) -> Result<Vec<ValueId>, ImportError> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        self.graph
            .add_node(name, Box::new(op), &inputs)
            .map_err(|error| ImportError::malformed(format!("{name}: {error}")))
    }

    /// A node with one output.
    pub fn one(&mut self, name: &str, op: impl Op + 'static, inputs: &[ValueId]) -> Result<ValueId, ImportError> {
        let outputs = self.node(name, op, inputs)?;
        outputs.first().copied().ok_or_else(|| ImportError::malformed(format!("{name}: no output")))
    }

    pub fn constant(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<ValueId, ImportError> {
        let tensor = Tensor::from_f32(shape, values).map_err(|why| ImportError::malformed(format!("{name}: {why}")))?;
        Ok(self.graph.add_constant(name, &tensor))
    }

    pub fn binary(
        &mut self,
        name: &str,
        function: Function,
        activation: Activation,
        inputs: [ValueId; 2],
    ) -> Result<ValueId, ImportError> {
        self.one(name, Elementwise { function, activation }, &inputs)
    }

    /// function(value, number)
    pub fn with_number(
        &mut self,
        name: &str,
        function: Function,
        value: ValueId,
        number: f32,
    ) -> Result<ValueId, ImportError> {
        let number = self.constant(&format!("{name}.constant"), &[1], vec![number])?;
        self.binary(name, function, Activation::None, [value, number])
    }

    pub fn unary(&mut self, name: &str, function: Function, value: ValueId) -> Result<ValueId, ImportError> {
        self.one(name, Elementwise::new(function), &[value])
    }

    pub fn reshape(&mut self, name: &str, value: ValueId, shape: &[usize]) -> Result<ValueId, ImportError> {
        self.one(name, Reshape { shape: shape.to_vec() }, &[value])
    }

    /// Channels `first..first + count` of a map.
    pub fn channels(&mut self, name: &str, value: ValueId, first: usize, count: usize) -> Result<ValueId, ImportError> {
        let all = self.channel_count(value);
        if count == all {
            return Ok(value);
        }
        let parts: Vec<usize> = [first, count, all - first - count].into_iter().filter(|&n| n > 0).collect();
        Ok(self.node(name, Split { axis: 1, parts }, &[value])?[usize::from(first > 0)])
    }

    pub fn channel_count(&self, value: ValueId) -> usize {
        self.graph.fact(value).shape[1]
    }

    /// Makes what a head reads an output of the graph.
    pub fn head(&mut self, head: DarknetHead) -> ValueId {
        let output = head.output;
        if !self.graph.outputs.contains(&output) {
            self.graph.outputs.push(output);
        }
        self.graph.darknet_heads.push(head);
        output
    }
}
