//! The plan: a list of steps with no GPU types in it, printable and testable anywhere.

use std::sync::Arc;

use super::view::{BufferId, View};
use crate::infer::kernel::Kernel;
use crate::infer::tensor::{DType, Tensor};

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

/// Where an output lies.
#[derive(Clone, Debug)]
pub enum OutputPlace {
    /// In a buffer, as its view says.
    Memory,
    /// Among the host tensors. The output's view is of a buffer that nobody writes.
    Host(usize),
    /// Known at load, with its type.
    Constant(Tensor),
}

/// Values that are not f32 in the plan's memory: integers, booleans, f64, empty tensors, and those whose shape depends
/// on the input. They are dense tensors in numbered places, filled and read by [`crate::infer::kernels::host::Host`].
#[derive(Clone, Debug, Default)]
pub struct HostValues {
    /// How many places there are.
    pub count: usize,
    /// Per input of the plan: its place and element type, if it is such a value.
    pub inputs: Vec<Option<(usize, DType)>>,
    /// Per output of the plan.
    pub outputs: Vec<OutputPlace>,
}

/// Everything a backend needs to run a network. Activations are f32 to a plan; a backend may store them as f16.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub buffers: Vec<Buffer>,
    pub steps: Vec<Step>,
    pub inputs: Vec<(String, View)>,
    pub outputs: Vec<(String, View)>,
    pub host: HostValues,
    /// Per output, whether it is handed out as f16.
    pub half_outputs: Vec<bool>,
}

impl Plan {
    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.0]
    }
}
