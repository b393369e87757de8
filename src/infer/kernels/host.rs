//! Operators on dense host tensors: whatever is not feature-map arithmetic in f32. Small things after the network mostly
//! (candidates, indices, counts), and shapes that depend on the input. There is no shader: in a plan for a GPU such steps
//! run on the CPU, and [`Crossing`] steps bring values over.

use crate::infer::kernel::{Cells, Kernel, Place};
use crate::infer::op::Op;
use crate::infer::ops::dense;
use crate::infer::plan::evaluate::evaluate;
use crate::infer::plan::step::Step;
use crate::infer::tensor::{DType, Tensor};
use crate::shader::{Precision, Variant};

/// Where an input of the operator comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// An optional input that the file leaves out.
    Missing,
    Constant(Tensor),
    /// A place among the host tensors.
    Host(usize),
    /// The next of the step's reads.
    Memory,
}

/// Where an output of the operator goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    Nowhere,
    /// A place among the host tensors.
    Host(usize),
    /// The next of the step's writes.
    Memory,
}

/// One operator, evaluated as at load. Reads and writes are those sources and destinations that lie in memory, in order.
#[derive(Clone, Debug)]
pub struct Host {
    pub op: Box<dyn Op>,
    pub sources: Vec<Source>,
    pub destinations: Vec<Destination>,
}

impl Host {
    /// Computes the step. `tensors` are the host tensors of the plan.
    ///
    /// # Errors
    /// What the operator says of these values.
    pub fn run(
        &self,
        step: &Step,
        reads: &[Cells<'_>],
        writes: &[Cells<'_>],
        tensors: &mut [Option<Tensor>],
    ) -> Result<(), String> {
        let failed = |why: String| format!("node '{}' ({}): {why}", step.node, self.op.name());
        let mut views = step.reads.iter().zip(reads);
        let mut inputs: Vec<Option<Tensor>> = Vec::with_capacity(self.sources.len());
        for source in &self.sources {
            inputs.push(match source {
                Source::Missing => None,
                Source::Constant(tensor) => Some(tensor.clone()),
                Source::Host(place) => {
                    let tensor = tensors.get(*place).cloned().flatten();
                    Some(tensor.ok_or_else(|| failed("an input was not set".into()))?)
                }
                Source::Memory => {
                    let (view, cells) = views.next().ok_or_else(|| failed("has too few reads".into()))?;
                    let values = dense::walk(view).map(|i| cells[i].get()).collect();
                    Some(Tensor::from_f32(&view.shape, values).map_err(failed)?)
                }
            });
        }
        let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
        let outputs = evaluate(&*self.op, &inputs).map_err(|e| failed(e.to_string()))?;
        let mut views = step.writes.iter().zip(writes);
        for (i, destination) in self.destinations.iter().enumerate() {
            let output = outputs.get(i).ok_or_else(|| failed(format!("has no output {i}")));
            match destination {
                Destination::Nowhere => {}
                Destination::Host(place) => {
                    if let Some(slot) = tensors.get_mut(*place) {
                        *slot = Some(output?.clone());
                    }
                }
                Destination::Memory => {
                    let output = output?;
                    let (view, cells) = views.next().ok_or_else(|| failed("has too few writes".into()))?;
                    if output.shape() != view.shape || output.dtype() != DType::F32 {
                        return Err(failed(format!("gives {output:?} where f32 {:?} was planned", view.shape)));
                    }
                    for (at, value) in dense::walk(view).zip(output.to_f32()) {
                        cells[at].set(value);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Kernel for Host {
    fn stem(&self) -> &'static str {
        "host"
    }

    fn label(&self) -> String {
        format!("host_{}", self.op.name())
    }

    /// Does nothing: [`Host::run`] needs the host tensors too.
    fn run_twin(&self, _step: &Step, _reads: &[Cells<'_>], _writes: &[Cells<'_>]) {}

    fn variant(&self, _step: &Step, _precision: Precision) -> Variant {
        Variant::none(self.stem())
    }

    fn host(&self) -> Option<&Host> {
        Some(self)
    }

    fn place(&self) -> Place {
        Place::Host
    }

    fn host_places(&self) -> (Vec<usize>, Vec<usize>) {
        let taken = self.sources.iter().filter_map(|s| if let Source::Host(place) = s { Some(*place) } else { None });
        let given = self.destinations.iter().filter_map(|d| match d {
            Destination::Host(place) => Some(*place),
            Destination::Nowhere | Destination::Memory => None,
        });
        (taken.collect(), given.collect())
    }
}

/// An f32 value on its way between the memory of a device and the host tensors. The session of the device does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// From the one view that the step reads into this place, as this type.
    Download(usize, DType),
    /// From this place into the one view that the step writes. The view is all of its buffer but padding.
    Upload(usize),
}

impl Kernel for Crossing {
    fn stem(&self) -> &'static str {
        match self {
            Crossing::Download(..) => "download",
            Crossing::Upload(_) => "upload",
        }
    }

    /// Does nothing: where memory and host tensors are one, nothing crosses.
    fn run_twin(&self, _step: &Step, _reads: &[Cells<'_>], _writes: &[Cells<'_>]) {}

    fn variant(&self, _step: &Step, _precision: Precision) -> Variant {
        Variant::none(self.stem())
    }

    fn place(&self) -> Place {
        match *self {
            Crossing::Download(place, dtype) => Place::Download(place, dtype),
            Crossing::Upload(place) => Place::Upload(place),
        }
    }

    fn host_places(&self) -> (Vec<usize>, Vec<usize>) {
        match *self {
            Crossing::Download(place, _) => (Vec::new(), vec![place]),
            Crossing::Upload(place) => (vec![place], Vec::new()),
        }
    }
}
