//! The plan: a list of steps with no GPU types in it, printable and testable anywhere.

use std::sync::Arc;

use super::view::{BufferId, View};
use crate::infer::kernel::Kernel;
use crate::infer::tensor::Tensor;

/// What a buffer holds.
#[derive(Clone, Debug)]
pub enum BufferKind {
    /// Filled by the caller (or the marshal stage) before each run.
    Input,
    /// Written by steps. `first` and `last` are the steps between which it is live.
    Activation { first: usize, last: usize },
    /// Filled once at load, dense row-major.
    Constant(Tensor),
}

/// One allocation of a plan.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Name of the value it was made for.
    pub name: String,
    pub len_elements: usize,
    pub kind: BufferKind,
}

/// One kernel with the places it reads and writes. The views in `reads` and `writes` stand in the order that the
/// kernel documents; a step never reads an element that it writes.
#[derive(Clone, Debug)]
pub struct Step {
    /// Name of the graph node it came from.
    pub node: String,
    pub kernel: Arc<dyn Kernel>,
    pub reads: Vec<View>,
    pub writes: Vec<View>,
    pub macs: u64,
}

/// Everything a backend needs to run a network. Activations are f32 to a plan; a backend may store them as f16.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub buffers: Vec<Buffer>,
    pub steps: Vec<Step>,
    pub inputs: Vec<(String, View)>,
    pub outputs: Vec<(String, View)>,
}

impl Plan {
    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.0]
    }
}
