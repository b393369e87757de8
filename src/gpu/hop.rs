//! The host's part of a plan on a device: its tensors, and the hops between two submissions.

use std::time::Instant;

use super::buffer::{Readback, encode_f32};
use super::session::{GpuSession, Span};
use super::{Gpu, GpuError};
use crate::infer::kernel::Place;
use crate::infer::op::HELD_MAX;
use crate::infer::plan::hops::Hop;
use crate::infer::plan::step::Plan;
use crate::infer::plan::transfer::{as_held, scatter};
use crate::infer::tensor::{DType, Tensor};
use crate::shader::Precision;

/// What the host keeps of a session.
#[derive(Debug)]
pub(super) struct HostSide {
    /// The plan's [`crate::infer::plan::step::HostValues`].
    pub tensors: Vec<Option<Tensor>>,
    /// The way back for each hop, made when first needed.
    readbacks: Vec<Option<Readback>>,
    /// Index and milliseconds of each operator of the last run.
    pub times_ms: Vec<(usize, f64)>,
}

impl HostSide {
    pub fn new(plan: &Plan) -> HostSide {
        HostSide {
            tensors: vec![None; plan.host.count],
            readbacks: plan.hops.iter().map(|_| None).collect(),
            times_ms: Vec::new(),
        }
    }

    /// Submits the device steps in front of hop `index`, waits for what it needs of them, computes its steps, and hands
    /// what the device needs to the queue.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] for values that an operator refuses; [`GpuError::Device`] or [`GpuError::Lost`].
    pub fn hop(&mut self, session: &GpuSession, index: usize, before: std::ops::Range<usize>) -> Result<(), GpuError> {
        let (gpu, plan) = (session.gpu(), session.plan());
        let hop = &plan.hops[index];
        let spans = downloads(plan, hop, session.precision());
        let encode = |encoder: &mut wgpu::CommandEncoder| {
            session.encode_steps(before, &mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        };
        if spans.iter().all(|(_, _, span)| span.len_bytes == 0) {
            gpu.submit(encode)?;
        } else {
            // Taken out, so that an error drops it with whatever state it is in.
            let readback = match self.readbacks[index].take() {
                Some(readback) => readback,
                None => {
                    let view = |step: usize| &plan.steps[step].reads[0];
                    let range = |&(_, step, span): &(usize, usize, Span)| {
                        (session.buffer(view(step).buffer), span.start_bytes, span.len_bytes)
                    };
                    Readback::new(gpu, &spans.iter().map(range).collect::<Vec<_>>())?
                }
            };
            let submission = gpu.submit(|encoder| {
                encode(encoder);
                readback.encode(encoder);
            })?;
            readback.map(gpu)?;
            let bytes = readback.take_after(gpu, submission)?;
            self.readbacks[index] = Some(readback);
            for ((place, step, span), bytes) in spans.iter().zip(&bytes) {
                let numbers = span.tensor(&plan.steps[*step].reads[0], bytes, session.precision())?;
                self.tensors[*place] = Some(match plan.steps[*step].kernel.place() {
                    Place::Download(_, dtype) => as_held(numbers, dtype).map_err(GpuError::Invalid)?,
                    _ => numbers,
                });
            }
        }
        for i in hop.steps.clone() {
            let step = &plan.steps[i];
            match (step.kernel.host(), step.kernel.place()) {
                (Some(host), _) => {
                    let start = Instant::now();
                    host.run(step, &[], &[], &mut self.tensors).map_err(GpuError::Invalid)?;
                    self.times_ms.push((i, start.elapsed().as_secs_f64() * 1e3));
                }
                (None, Place::Upload(place)) => self.upload(gpu, session, i, place)?,
                (None, _) => {}
            }
        }
        Ok(())
    }

    fn upload(&self, gpu: &Gpu, session: &GpuSession, step: usize, place: usize) -> Result<(), GpuError> {
        let (plan, precision) = (session.plan(), session.precision());
        let view = &plan.steps[step].writes[0];
        let node = &plan.steps[step].node;
        let Some(tensor) = self.tensors[place].as_ref().filter(|t| t.shape() == view.shape) else {
            return Err(GpuError::Invalid(format!(
                "node '{node}': a value of another shape was planned for the device"
            )));
        };
        let mut image = vec![0.0; plan.buffer(view.buffer).len_elements];
        let is_held =
            tensor.dtype() != DType::F64 && tensor.to_i64().iter().all(|v| v.unsigned_abs() <= HELD_MAX as u64);
        match tensor.as_f32() {
            Some(values) => scatter(values, view, &mut image),
            None if is_held => scatter(&tensor.to_f32(), view, &mut image),
            None => return Err(GpuError::Invalid(format!("node '{node}': {tensor:?} where f32 was planned"))),
        }
        match precision {
            Precision::F32 => gpu.write(session.buffer(view.buffer), 0, bytemuck::cast_slice(&image)),
            Precision::F16 => gpu.write(session.buffer(view.buffer), 0, &encode_f32(&image, precision)),
        }
    }
}

/// Place, step and span of each value that a hop reads from the device.
fn downloads(plan: &Plan, hop: &Hop, precision: Precision) -> Vec<(usize, usize, Span)> {
    hop.steps
        .clone()
        .filter_map(|i| match plan.steps[i].kernel.place() {
            Place::Download(place, _) => Some((place, i, Span::of(&plan.steps[i].reads[0], precision))),
            _ => None,
        })
        .collect()
}
