//! The plan: a list of steps with no GPU types in it, printable and testable anywhere.

use std::sync::Arc;

use super::hops::Hop;
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

/// What a buffer's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// A GPU may store them as f16.
    F32,
    /// u8 or i8, as the kernels that share the buffer know. In plans for the CPU only.
    Byte,
}

impl Element {
    /// Bytes of one element, f32 where floats are meant.
    pub const fn size_bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::Byte => 1,
        }
    }
}

/// One allocation of a plan.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Name of the value it was made for.
    pub name: String,
    pub len_elements: usize,
    pub element: Element,
    pub kind: BufferKind,
}

impl Buffer {
    /// Its length in words of four bytes, the unit of the arena.
    pub fn len_words(&self) -> usize {
        (self.len_elements * self.element.size_bytes()).div_ceil(4)
    }
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
    /// As [`OutputPlace::Memory`], where numbers stand for this type.
    Held(DType),
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
    /// Per input of the plan, whether it is boolean but lies in memory, as numbers.
    pub held_inputs: Vec<bool>,
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
    /// Where a plan for a GPU goes to the host and back, in order; none in a plan for the CPU.
    pub hops: Vec<Hop>,
    /// Per output, whether it is handed out as f16.
    pub half_outputs: Vec<bool>,
}

impl HostValues {
    /// The place of an input that is such a value, and `tensor` as it belongs there; `None` for an input in memory.
    ///
    /// # Errors
    /// When the element types differ.
    pub fn input(&self, index: usize, tensor: &Tensor) -> Result<Option<(usize, Tensor)>, String> {
        let Some(&Some((place, dtype))) = self.inputs.get(index) else {
            let held = self.held_inputs.get(index).copied().unwrap_or(false);
            return match tensor.dtype() {
                given if held && given != DType::Bool => Err(format!("is {given}, the network expects bool")),
                _ => Ok(None),
            };
        };
        match tensor.dtype() {
            given if given == dtype => Ok(Some((place, tensor.clone()))),
            DType::F16 if dtype == DType::F32 => Ok(Some((place, Tensor::from_f32(tensor.shape(), tensor.to_f32())?))),
            given => Err(format!("is {given}, the network expects {dtype}")),
        }
    }
}

impl Plan {
    /// Nodes that a plan for a GPU leaves to the CPU: operator and name. None in a plan for the CPU.
    pub fn fallbacks(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.hops.iter().flat_map(|hop| hop.nodes(self))
    }

    /// One line about the hops of a plan for a GPU, whose elements there have `element_bytes`; `None` without hops.
    pub fn hops_in_short(&self, element_bytes: usize) -> Option<String> {
        let elements: usize = self.hops.iter().map(|hop| hop.down_elements + hop.up_elements).sum();
        let (nodes, hops) = (self.fallbacks().count(), self.hops.len());
        (hops > 0).then(|| {
            format!(
                "{nodes} node(s) run on the CPU, in {hops} hop(s) that move {} bytes a run",
                elements * element_bytes
            )
        })
    }

    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.0]
    }
}
