//! A plan on a device: a buffer for each of the plan's, a prebuilt dispatch for each of its steps.
//!
//! No two plan buffers share memory, even where their lifetimes would allow it. wgpu tracks hazards per buffer, so one
//! arena would put a barrier between every two dispatches; like this there is one only where a step needs another's
//! result. All of a run is one compute pass and one submission, unless the plan has hops: operators that the host computes
//! in between. Each ends a submission, reads back what the operators take, and uploads what the device needs of them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use super::buffer::{Readback, decode_f32, encode_f32};
use super::device::lock;
use super::dispatch::Dispatch;
use super::hop::HostSide;
use super::{Gpu, GpuError};
use crate::infer::kernel::Place;
use crate::infer::plan::step::{BufferKind, OutputPlace, Plan, Step};
use crate::infer::plan::transfer::{as_held, gather, scatter};
use crate::infer::plan::view::{BufferId, View};
use crate::infer::tensor::Tensor;
use crate::shader::{Precision, Variant};
use rayon::prelude::*;

/// Uploads wait in host memory until something is submitted; this is how much may wait.
const PENDING_UPLOAD_BYTES: usize = 32 << 20;

const STEPS_PACKED_AT_ONCE: usize = 16;

/// A network ready to run on a GPU.
#[derive(Debug)]
pub struct GpuSession {
    gpu: Arc<Gpu>,
    plan: Arc<Plan>,
    precision: Precision,
    /// One for each buffer of the plan.
    buffers: Vec<wgpu::Buffer>,
    /// One for each step of the plan; `None` for steps that have nothing to do.
    dispatches: Vec<Option<Dispatch>>,
    /// Packed weights, perhaps shared with other sessions.
    _weights: Vec<Arc<wgpu::Buffer>>,
    memory_bytes: u64,
    last: Mutex<Option<wgpu::SubmissionIndex>>,
    /// Host images of the input buffers, made when first needed; their padding is zero and stays so.
    images: Mutex<Vec<Vec<f32>>>,
    /// The way back of all outputs in memory; taken out while in use.
    readback: Mutex<Option<Readback>>,
    host: Mutex<HostSide>,
}

impl GpuSession {
    /// Uploads the constants and weights of a plan made for [`crate::infer::plan::lower::Target::GPU`], and compiles
    /// its shaders.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] for f16 on a device without it, [`GpuError::Limit`] for a network too large for the
    /// device, [`GpuError::Shader`] for a shader that its compiler refuses.
    pub fn new(gpu: Arc<Gpu>, plan: Arc<Plan>, precision: Precision) -> Result<GpuSession, GpuError> {
        if precision == Precision::F16 && !gpu.adapter.f16 {
            return Err(GpuError::Invalid(format!(
                "{} has no 16-bit floats in shaders; use the precision f32",
                gpu.adapter
            )));
        }
        let mut uploads = Uploads { gpu: &gpu, precision, pending_bytes: 0, memory_bytes: 0 };
        let mut buffers = Vec::with_capacity(plan.buffers.len());
        for buffer in &plan.buffers {
            buffers.push(match &buffer.kind {
                BufferKind::Constant(tensor) => uploads.make(&buffer.name, buffer.len_elements, &tensor.to_f32())?,
                BufferKind::Input | BufferKind::Activation { .. } => {
                    uploads.make(&buffer.name, buffer.len_elements, &[])?
                }
            });
        }
        let on_device = |step: &Step| step.kernel.place() == Place::Device;
        let variants: Vec<Option<Variant>> = plan
            .steps
            .par_iter()
            .map(|s| on_device(s).then(|| s.kernel.variant(s, precision)).filter(|variant| !is_idle(variant)))
            .collect();
        let mut weights = Vec::with_capacity(plan.steps.len());
        // Packing weights is worth all cores, but not a second copy of all weights in host memory.
        for (steps, variants) in plan.steps.chunks(STEPS_PACKED_AT_ONCE).zip(variants.chunks(STEPS_PACKED_AT_ONCE)) {
            let packed: Vec<Vec<f32>> = steps
                .par_iter()
                .zip(variants)
                .map(|(step, variant)| if variant.is_some() { step.kernel.gpu_weights(step) } else { Vec::new() })
                .collect();
            for (step, values) in steps.iter().zip(&packed) {
                weights.push(match values.as_slice() {
                    [] => None,
                    values => Some(uploads.make_shared(&step.node, values)?),
                });
            }
        }
        let memory_bytes = uploads.memory_bytes;
        let (busy, jobs): (Vec<usize>, Vec<_>) = variants
            .into_iter()
            .enumerate()
            .filter_map(|(i, variant)| Some((i, variant?)))
            .map(|(i, variant)| (i, (variant, bound_buffers(&plan.steps[i], weights[i].as_deref(), &buffers))))
            .unzip();
        let mut dispatches: Vec<Option<Dispatch>> = vec![None; plan.steps.len()];
        for (i, dispatch) in busy.into_iter().zip(gpu.dispatch_all(&jobs)?) {
            dispatches[i] = Some(dispatch);
        }
        drop(jobs);
        Ok(GpuSession {
            images: Mutex::new(vec![Vec::new(); plan.inputs.len()]),
            host: Mutex::new(HostSide::new(&plan)),
            gpu,
            plan,
            precision,
            buffers,
            dispatches,
            _weights: weights.into_iter().flatten().collect(),
            memory_bytes,
            last: Mutex::new(None),
            readback: Mutex::new(None),
        })
    }

    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of all buffers on the device: activations, constants, weights.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// The device's buffer for one of the plan's; elements have the session's precision.
    pub fn buffer(&self, id: BufferId) -> &wgpu::Buffer {
        &self.buffers[id.0]
    }

    /// The dispatch of a step; `None` when the step has nothing to do, or the host does it.
    pub fn dispatch(&self, step: usize) -> Option<&Dispatch> {
        self.dispatches[step].as_ref()
    }

    /// True when a run is one submission: the host computes nothing in between.
    pub fn is_one_submission(&self) -> bool {
        self.plan.hops.is_empty()
    }

    /// Appends all steps to a pass. Only for plans without hops ([`GpuSession::is_one_submission`]); all others are run
    /// by [`GpuSession::run`].
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.encode_steps(0..self.dispatches.len(), pass);
    }

    pub(super) fn encode_steps(&self, steps: Range<usize>, pass: &mut wgpu::ComputePass<'_>) {
        for dispatch in self.dispatches.get(steps).into_iter().flatten().flatten() {
            dispatch.encode(pass);
        }
    }

    /// Submits one run and does not wait for it; only for what the host must compute in between.
    ///
    /// # Errors
    /// [`GpuError::Device`] or [`GpuError::Lost`]; [`GpuError::Invalid`] for values that an operator on the host refuses.
    pub fn run(&self) -> Result<(), GpuError> {
        let mut host = lock(&self.host);
        host.times_ms.clear();
        let mut at = 0;
        for (i, hop) in self.plan.hops.iter().enumerate() {
            host.hop(self, i, at..hop.steps.start)?;
            at = hop.steps.end;
        }
        let rest = at..self.dispatches.len();
        if at > 0 && self.dispatches[rest.clone()].iter().all(Option::is_none) {
            return Ok(());
        }
        let submission = self.gpu.submit(|encoder| {
            self.encode_steps(rest, &mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        })?;
        *lock(&self.last) = Some(submission);
        Ok(())
    }

    /// Step and milliseconds of each operator that the host computed in the last run.
    pub fn host_times_ms(&self) -> Vec<(usize, f64)> {
        lock(&self.host).times_ms.clone()
    }

    /// Blocks until the last [`GpuSession::run`] is done.
    ///
    /// # Errors
    /// [`GpuError::Lost`] when the device goes away meanwhile.
    pub fn wait(&self) -> Result<(), GpuError> {
        match lock(&self.last).take() {
            Some(submission) => self.gpu.wait(Some(submission)),
            None => self.gpu.check(),
        }
    }

    /// Index of the input with this name.
    pub fn input_index(&self, name: &str) -> Option<usize> {
        self.plan.inputs.iter().position(|(n, _)| n == name)
    }

    /// Index of the output with this name.
    pub fn output_index(&self, name: &str) -> Option<usize> {
        self.plan.outputs.iter().position(|(n, _)| n == name)
    }

    /// Puts a dense tensor into an input, in the layout and precision of its buffer; padding is zero. The next run
    /// sees it.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] when there is no such input or the shape is another.
    pub fn write_input(&self, index: usize, tensor: &Tensor) -> Result<(), GpuError> {
        let Some((name, view)) = self.plan.inputs.get(index) else {
            return Err(GpuError::Invalid(format!("no input {index}: there are {}", self.plan.inputs.len())));
        };
        if tensor.shape() != view.shape {
            return Err(GpuError::Invalid(format!(
                "input '{name}' has shape {:?}, but a tensor of shape {:?} was given",
                view.shape,
                tensor.shape()
            )));
        }
        let on_host = self.plan.host.input(index, tensor);
        if let Some((place, tensor)) = on_host.map_err(|why| GpuError::Invalid(format!("input '{name}' {why}")))? {
            lock(&self.host).tensors[place] = Some(tensor);
            return Ok(());
        }
        let dense = tensor.f32_values();
        let mut images = lock(&self.images);
        let image = &mut images[index];
        image.resize(self.plan.buffer(view.buffer).len_elements, 0.0);
        scatter(&dense, view, image);
        let buffer = self.buffer(view.buffer);
        match self.precision {
            Precision::F32 => self.gpu.write(buffer, 0, bytemuck::cast_slice(image)),
            Precision::F16 => self.gpu.write(buffer, 0, &encode_f32(image, Precision::F16)),
        }
    }

    /// Waits for the last run and reads one output as a dense tensor; f32 unless it lives on the host.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] when there is no such output; [`GpuError::Device`] or [`GpuError::Lost`].
    pub fn read_output(&self, index: usize) -> Result<Tensor, GpuError> {
        let Some((_, view)) = self.plan.outputs.get(index) else {
            return Err(GpuError::Invalid(format!("no output {index}: there are {}", self.plan.outputs.len())));
        };
        if let Some(tensor) = self.output_on_host(index) {
            return tensor;
        }
        let span = Span::of(view, self.precision);
        let bytes = self.gpu.download_ranges(&[(self.buffer(view.buffer), span.start_bytes, span.len_bytes)])?;
        let numbers = span.tensor(view, bytes.first().map_or(&[], Vec::as_slice), self.precision)?;
        self.typed_output(index, numbers)
    }

    /// What an output's numbers in memory stand for.
    fn typed_output(&self, index: usize, numbers: Tensor) -> Result<Tensor, GpuError> {
        match self.plan.host.outputs.get(index) {
            Some(&OutputPlace::Held(dtype)) => as_held(numbers, dtype).map_err(GpuError::Invalid),
            _ => Ok(numbers),
        }
    }

    /// An output that is not in the device's memory.
    pub(super) fn output_on_host(&self, index: usize) -> Option<Result<Tensor, GpuError>> {
        match self.plan.host.outputs.get(index)? {
            OutputPlace::Memory | OutputPlace::Held(_) => None,
            OutputPlace::Constant(tensor) => Some(Ok(tensor.clone())),
            OutputPlace::Host(place) => {
                let tensor = lock(&self.host).tensors.get(*place).cloned().flatten();
                let name = &self.plan.outputs[index].0;
                Some(tensor.ok_or_else(|| GpuError::Invalid(format!("output '{name}' was not computed yet"))))
            }
        }
    }

    /// Waits for the last run and reads all outputs in one submission.
    ///
    /// # Errors
    /// [`GpuError::Device`] or [`GpuError::Lost`].
    pub fn read_outputs(&self) -> Result<Vec<Tensor>, GpuError> {
        let outputs = &self.plan.outputs;
        let mut tensors = (0..outputs.len())
            .map(|i| self.output_on_host(i).transpose())
            .collect::<Result<Vec<Option<Tensor>>, GpuError>>()?;
        let in_memory: Vec<(usize, Span)> = (0..outputs.len())
            .filter(|&i| tensors[i].is_none())
            .map(|i| (i, Span::of(&outputs[i].1, self.precision)))
            .collect();
        if !in_memory.is_empty() {
            // Taken out, so that an error drops it with whatever state it is in.
            let kept = lock(&self.readback).take();
            let readback = match kept {
                Some(readback) => readback,
                None => {
                    let ranges: Vec<_> = in_memory
                        .iter()
                        .map(|&(i, span)| (self.buffer(outputs[i].1.buffer), span.start_bytes, span.len_bytes))
                        .collect();
                    Readback::new(&self.gpu, &ranges)?
                }
            };
            let submission = self.gpu.submit(|encoder| readback.encode(encoder))?;
            readback.map(&self.gpu)?;
            let bytes = readback.take_after(&self.gpu, submission)?;
            *lock(&self.readback) = Some(readback);
            for (&(i, span), bytes) in in_memory.iter().zip(&bytes) {
                let numbers = span.tensor(&outputs[i].1, bytes, self.precision)?;
                tensors[i] = Some(self.typed_output(i, numbers)?);
            }
        }
        Ok(tensors.into_iter().flatten().collect())
    }
}

/// True for a step with no elements.
fn is_idle(variant: &Variant) -> bool {
    variant.workgroups.contains(&0)
}

/// The buffers of a step in the order of its bindings: packed weights, reads, writes.
fn bound_buffers<'a>(
    step: &Step,
    weights: Option<&'a wgpu::Buffer>,
    buffers: &'a [wgpu::Buffer],
) -> Vec<&'a wgpu::Buffer> {
    weights.into_iter().chain(step.reads.iter().chain(&step.writes).map(|view| &buffers[view.buffer.0])).collect()
}

/// Two hashes and the length of some weights, and how they are stored.
pub(super) type WeightsKey = (u64, u64, usize, bool);

fn weights_key(values: &[f32], precision: Precision) -> WeightsKey {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let hash = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        hasher.write(bytes);
        hasher.finish()
    };
    (hash(1), hash(2), values.len(), precision == Precision::F16)
}

/// Makes buffers and keeps count of them.
struct Uploads<'a> {
    gpu: &'a Gpu,
    precision: Precision,
    pending_bytes: usize,
    memory_bytes: u64,
}

impl Uploads<'_> {
    /// A buffer with these values, the same one for all sessions of the device: a network planned for several input
    /// sizes keeps one copy of its weights. Counted by each session.
    fn make_shared(&mut self, label: &str, values: &[f32]) -> Result<Arc<wgpu::Buffer>, GpuError> {
        let key = weights_key(values, self.precision);
        if let Some(shared) = lock(&self.gpu.weights).get(&key).and_then(Weak::upgrade) {
            self.memory_bytes += shared.size();
            return Ok(shared);
        }
        let made = Arc::new(self.make(label, values.len(), values)?);
        let mut known = lock(&self.gpu.weights);
        known.retain(|_, weak| weak.strong_count() > 0);
        known.insert(key, Arc::downgrade(&made));
        Ok(made)
    }

    fn make(&mut self, label: &str, len_elements: usize, values: &[f32]) -> Result<wgpu::Buffer, GpuError> {
        let size_bytes = len_elements.max(values.len()).saturating_mul(self.precision.size_bytes());
        let buffer = self.gpu.storage_buffer(label, size_bytes)?;
        self.memory_bytes += buffer.size();
        match self.precision {
            Precision::F32 => self.gpu.write(&buffer, 0, bytemuck::cast_slice(values))?,
            Precision::F16 => self.gpu.write(&buffer, 0, &encode_f32(values, Precision::F16))?,
        }
        if !values.is_empty() {
            self.pending_bytes += size_bytes;
        }
        if self.pending_bytes > PENDING_UPLOAD_BYTES {
            self.gpu.submit(|_| {})?;
            self.pending_bytes = 0;
        }
        Ok(buffer)
    }
}

/// The bytes of a buffer that a view touches, from a multiple of 4.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start_elements: usize,
    pub start_bytes: u64,
    pub len_bytes: usize,
}

impl Span {
    pub fn of(view: &View, precision: Precision) -> Span {
        let size = precision.size_bytes();
        if view.is_empty() {
            return Span { start_elements: 0, start_bytes: 0, len_bytes: 0 };
        }
        let start_elements = view.offset / 4 * 4;
        Span {
            start_elements,
            start_bytes: (start_elements * size) as u64,
            len_bytes: (view.end() - start_elements) * size,
        }
    }

    pub fn tensor(&self, view: &View, bytes: &[u8], precision: Precision) -> Result<Tensor, GpuError> {
        let offset = if view.is_empty() { 0 } else { view.offset - self.start_elements };
        let shifted = View { offset, ..view.clone() };
        let values = gather(&decode_f32(bytes, precision), &shifted);
        Tensor::from_f32(&view.shape, values).map_err(GpuError::Invalid)
    }
}
