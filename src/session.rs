//! Raw tensors in, raw tensors out: a network on one backend.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cpu::{CpuSession, Isa};
use crate::decode::{DecodeError, DecodeOptions, Decoder, Labels, recognise};
use crate::error::Error;
use crate::infer::graph::Graph;
use crate::infer::import::{ImportError, ImportOptions, import_file};
use crate::infer::plan::lower::{Target, plan_graph};
use crate::infer::plan::passes::{PassReport, optimise, optimise_for_bytes};
use crate::infer::plan::step::Plan;
use crate::infer::tensor::{DType, Tensor, TensorElements};
use crate::shader::Precision;

/// A network, read and optimised, not yet bound to a device.
#[derive(Clone, Debug)]
pub struct Model {
    /// After the passes.
    pub graph: Graph,
    /// The same for plans on the CPU, with what each pass did, where quantised arithmetic runs on bytes there.
    pub on_bytes: Option<(Graph, Vec<PassReport>)>,
    /// As imported, without the filters: what head recognition looks at.
    pub imported: Graph,
    /// What each pass did.
    pub passes: Vec<PassReport>,
    /// The file it was read from; class names may lie beside it.
    pub path: Option<PathBuf>,
}

impl Model {
    /// Reads a model file: `.onnx`, or `.cfg` with its `.weights`.
    ///
    /// # Errors
    /// All that is wrong with the file, at once.
    pub fn load(path: &Path, weights: Option<&Path>, options: &ImportOptions) -> Result<Model, Error> {
        let graph = import_file(path, weights, options).map_err(|why| match why {
            // Names the file itself; it may be the weights.
            why @ ImportError::Io { .. } => Error::Import(why),
            why => Error::ModelFile { path: path.to_path_buf(), why },
        })?;
        let mut model = Model::from_graph(graph);
        model.path = Some(path.to_path_buf());
        Ok(model)
    }

    /// Reads an ONNX model from memory, for models that a program carries with it.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_onnx(bytes: &'static [u8], name: &str) -> Result<Model, Error> {
        let bytes = bytes::Bytes::from_static(bytes);
        let graph: Result<Graph, ImportError> =
            crate::infer::import::onnx::import_onnx(bytes, name, &ImportOptions::default());
        Ok(Model::from_graph(graph?))
    }

    /// Optimises a graph that was built by hand.
    pub fn from_graph(mut graph: Graph) -> Model {
        let mut imported = graph.clone();
        for value in &mut imported.values {
            // Filters are most of a file; nobody recognises a head by them, and passes make new ones.
            if value.fact.shape.len() == 4 {
                value.fact.constant = None;
            }
        }
        let on_bytes = optimise_for_bytes(&graph);
        graph.dequantised.clear();
        let passes = optimise(&mut graph);
        Model { graph, on_bytes, imported, passes, path: None }
    }

    /// A graph that is planned without passes.
    pub fn as_it_is(graph: Graph) -> Model {
        Model { imported: graph.clone(), graph, on_bytes: None, passes: Vec::new(), path: None }
    }

    /// The graph that is planned for a target, and what the passes did to it.
    pub fn optimised(&self, target: Target) -> (&Graph, &[PassReport]) {
        match &self.on_bytes {
            Some((graph, passes)) if !target.host_apart => (graph, passes),
            _ => (&self.graph, &self.passes),
        }
    }

    /// The decoder for the network's head. Class names come from the options, else from the file's metadata, else from
    /// a `.names` file beside the model, else from the kind of network.
    ///
    /// # Errors
    /// When no head or more than one fits, or the options name what is not there.
    pub fn decoder(&self, options: &DecodeOptions) -> Result<Decoder, DecodeError> {
        let mut options = options.clone();
        let found = recognise(&self.imported, options.head.as_deref())?;
        if let (None, None, Some(path)) = (&options.labels, self.imported.metadata.get("names"), &self.path) {
            options.labels = Labels::beside(path, found.head.classes());
        }
        Decoder::from_recognised(found, &options)
    }

    /// The steps for a target, and notes on what had to be copied.
    ///
    /// # Errors
    /// All nodes that cannot be planned.
    pub fn plan(&self, target: Target) -> Result<(Plan, Vec<String>), Error> {
        plan_graph(self.optimised(target).0, target).map_err(Error::Plan)
    }
}

/// Where to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// A real GPU if there is one, else the CPU.
    #[default]
    Auto,
    /// Any adapter, a software one too.
    Gpu,
    Cpu,
}

/// Interface to the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuApi {
    Vulkan,
    Metal,
    Gles,
}

/// How to run a network.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    pub backend: Backend,
    pub gpu_api: Option<GpuApi>,
    /// Part of the adapter's name.
    pub adapter: Option<String>,
    /// CPU threads; `None`: one per core.
    pub threads: Option<usize>,
    /// Storage of activations and weights on the GPU; the CPU always computes in f32.
    pub precision: Option<Precision>,
    /// Measure at load which CPU kernel is the fastest for each layer that has several, and keep that for the next time;
    /// see [`crate::cpu::tune`].
    pub tune: bool,
}

impl SessionOptions {
    /// Which adapter to open; software ones are not allowed.
    #[cfg(feature = "gpu")]
    pub fn gpu_options(&self) -> crate::gpu::GpuOptions {
        crate::gpu::GpuOptions {
            api: self.gpu_api.map(|api| match api {
                GpuApi::Vulkan => crate::gpu::GpuApi::Vulkan,
                GpuApi::Metal => crate::gpu::GpuApi::Metal,
                GpuApi::Gles => crate::gpu::GpuApi::Gles,
            }),
            adapter: self.adapter.clone(),
            ..crate::gpu::GpuOptions::default()
        }
    }

    /// The number of CPU threads to use.
    pub fn threads_or_cores(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1)
    }
}

/// The part of a session that differs by backend.
pub enum Engine {
    Cpu(Box<CpuSession>),
    #[cfg(feature = "gpu")]
    Gpu(Box<crate::gpu::GpuSession>),
}

/// A network ready to run.
pub struct Session {
    pub(crate) engine: Engine,
    /// Processor or adapter, as a person would name it.
    adapter: String,
    threads: usize,
    precision: Precision,
    /// Why the backend was chosen, and what the planner had to copy.
    pub notes: Vec<String>,
}

impl Session {
    /// Plans the network for a backend and prepares everything that does not depend on the input.
    ///
    /// # Errors
    /// When the network cannot be planned, or the device asked for is not there.
    pub fn new(model: &Model, options: &SessionOptions) -> Result<Session, Error> {
        Session::open(Cow::Borrowed(model), options)
    }

    /// As [`Session::new`] of a network that nobody needs afterwards: on the CPU its weights are let go of as they are
    /// packed, so that the peak of memory is lower.
    ///
    /// # Errors
    /// As there.
    pub fn of(model: Model, options: &SessionOptions) -> Result<Session, Error> {
        Session::open(Cow::Owned(model), options)
    }

    fn open(model: Cow<'_, Model>, options: &SessionOptions) -> Result<Session, Error> {
        match options.backend {
            Backend::Cpu => Session::on_cpu(model, options, Vec::new()),
            Backend::Gpu => Session::on_gpu(&model, options, true),
            Backend::Auto => match Session::on_gpu(&model, options, false) {
                Ok(session) => Ok(session),
                Err(no_gpu) => {
                    let note = format!("using the CPU: {no_gpu}");
                    log::info!("{note}");
                    Session::on_cpu(model, options, vec![note])
                }
            },
        }
    }

    fn on_cpu(model: Cow<'_, Model>, options: &SessionOptions, mut notes: Vec<String>) -> Result<Session, Error> {
        if options.precision == Some(Precision::F16) {
            notes.push("the CPU computes in f32; --precision f16 is for the GPU".into());
            log::warn!("the CPU computes in f32; --precision f16 is for the GPU");
        }
        let threads = options.threads_or_cores();
        let isa = Isa::detect();
        let (plan, planning) = model.plan(Target::CPU)?;
        notes.extend(planning);
        let is_lean = matches!(model, Cow::Owned(_));
        drop(model);
        let cpu = match (options.tune, is_lean) {
            (true, _) => {
                let (cpu, mut measured) = CpuSession::tuned(plan, isa, threads)?;
                notes.append(&mut measured);
                cpu
            }
            (false, true) => CpuSession::new_lean(plan, isa, threads)?,
            (false, false) => CpuSession::new(plan, isa, threads)?,
        };
        Ok(Session {
            engine: Engine::Cpu(Box::new(cpu)),
            adapter: crate::cpu::processor_name(isa),
            threads,
            precision: Precision::F32,
            notes,
        })
    }

    #[cfg(feature = "gpu")]
    fn on_gpu(model: &Model, options: &SessionOptions, allow_software: bool) -> Result<Session, Error> {
        let wanted = crate::gpu::GpuOptions { allow_software, ..options.gpu_options() };
        let gpu = crate::gpu::Gpu::open(&wanted)?;
        Session::on_device(model, gpu, options.precision)
    }

    #[cfg(not(feature = "gpu"))]
    fn on_gpu(_: &Model, _: &SessionOptions, _: bool) -> Result<Session, Error> {
        Err(Error::Input("this eyas was built without the feature 'gpu'".into()))
    }

    /// Runs on a device that is open already. `precision` defaults to f32.
    ///
    /// # Errors
    /// As [`Session::new`]; and when f16 is asked of an adapter that cannot store it.
    #[cfg(feature = "gpu")]
    pub fn on_device(model: &Model, gpu: Arc<crate::gpu::Gpu>, precision: Option<Precision>) -> Result<Session, Error> {
        let precision = precision.unwrap_or(Precision::F32);
        let (plan, mut notes) = model.plan(Target::GPU)?;
        notes.insert(0, format!("using {}", gpu.adapter));
        notes.extend(plan.hops_in_short(precision.size_bytes()));
        let adapter = gpu.adapter.to_string();
        let session = crate::gpu::GpuSession::new(gpu, Arc::new(plan), precision)?;
        Ok(Session { engine: Engine::Gpu(Box::new(session)), adapter, threads: 0, precision, notes })
    }

    /// "cpu" or "gpu".
    pub fn backend(&self) -> &'static str {
        match &self.engine {
            Engine::Cpu(_) => "cpu",
            #[cfg(feature = "gpu")]
            Engine::Gpu(_) => "gpu",
        }
    }

    /// Processor or GPU, with its driver and interface.
    pub fn adapter(&self) -> &str {
        &self.adapter
    }

    /// The open device; `None` on the CPU.
    #[cfg(feature = "gpu")]
    pub fn gpu(&self) -> Option<&Arc<crate::gpu::Gpu>> {
        match &self.engine {
            Engine::Cpu(_) => None,
            Engine::Gpu(gpu) => Some(gpu.gpu()),
        }
    }

    /// CPU threads; 0 on the GPU.
    pub fn threads(&self) -> usize {
        self.threads
    }

    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The steps that an inference walks.
    pub fn plan(&self) -> &Plan {
        match &self.engine {
            Engine::Cpu(cpu) => cpu.plan(),
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.plan(),
        }
    }

    /// Name of what runs a step.
    pub fn step_label(&self, step: usize) -> String {
        match &self.engine {
            Engine::Cpu(cpu) => cpu.step_label(step),
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.plan().steps[step].kernel.label(),
        }
    }

    /// Fills an input from a tensor in the file's axis order.
    ///
    /// # Errors
    /// When there is no such input, or the shapes differ.
    pub fn set_input(&mut self, name: &str, tensor: &Tensor) -> Result<(), Error> {
        let inputs = &self.plan().inputs;
        let Some(index) = inputs.iter().position(|(n, _)| n == name) else {
            let names: Vec<&str> = inputs.iter().map(|(n, _)| n.as_str()).collect();
            return Err(Error::Input(format!("the network has no input '{name}'; it has {}", names.join(", "))));
        };
        let expected = &inputs[index].1.shape;
        if tensor.shape() != expected.as_slice() {
            return Err(Error::Input(format!(
                "input '{name}' has shape {:?}, the network expects {expected:?}",
                tensor.shape()
            )));
        }
        match &mut self.engine {
            Engine::Cpu(cpu) => {
                cpu.write_tensor(index, tensor).map_err(|why| Error::Input(format!("input '{name}' {why}")))?;
            }
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.write_input(index, tensor)?,
        }
        Ok(())
    }

    /// One inference on what the inputs hold; returns when it is done.
    ///
    /// # Errors
    /// When the device fails.
    pub fn infer(&mut self) -> Result<(), Error> {
        match &mut self.engine {
            Engine::Cpu(cpu) => cpu.run()?,
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => {
                gpu.run()?;
                gpu.wait()?;
            }
        }
        Ok(())
    }

    /// All outputs by name, dense, in the file's axis order.
    ///
    /// # Errors
    /// When the device fails.
    pub fn outputs(&mut self) -> Result<Vec<(String, Tensor)>, Error> {
        let names: Vec<String> = self.plan().outputs.iter().map(|(n, _)| n.clone()).collect();
        let tensors = match &mut self.engine {
            Engine::Cpu(cpu) => {
                (0..names.len()).map(|i| cpu.read_output(i)).collect::<Result<Vec<_>, _>>().map_err(Error::Input)?
            }
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.read_outputs()?,
        };
        let half = &self.plan().half_outputs;
        let typed = |(i, tensor): (usize, Tensor)| match half.get(i) {
            Some(true) if tensor.dtype() == DType::F32 => to_f16(&tensor),
            _ => tensor,
        };
        let tensors = tensors.into_iter().enumerate().map(typed);
        Ok(names.into_iter().zip(tensors).collect())
    }

    /// Sets the inputs, infers, and gives the outputs.
    ///
    /// # Errors
    /// When an input is missing, unknown or of another shape, or the device fails.
    pub fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, Error> {
        let expected: Vec<String> = self.plan().inputs.iter().map(|(n, _)| n.clone()).collect();
        for name in &expected {
            if !inputs.iter().any(|(n, _)| n == name) {
                return Err(Error::Input(format!("input '{name}' is missing")));
            }
        }
        for (name, tensor) in inputs {
            self.set_input(name, tensor)?;
        }
        self.infer()?;
        self.outputs()
    }

    /// Milliseconds of each step of one inference, with the name of what ran it.
    ///
    /// # Errors
    /// When the device fails.
    pub fn profile(&mut self) -> Result<Vec<(String, f64)>, Error> {
        match &mut self.engine {
            Engine::Cpu(cpu) => {
                let times_ms = cpu.run_profiled()?;
                Ok(times_ms.into_iter().enumerate().map(|(i, ms)| (cpu.step_label(i), ms)).collect())
            }
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => {
                let mut times: Vec<(String, f64)> =
                    gpu.plan().steps.iter().map(|step| (step.kernel.label(), 0.0)).collect();
                for (step, ms) in crate::gpu::profile::profile(gpu, 1)?.steps {
                    times[step].1 = ms;
                }
                Ok(times)
            }
        }
    }

    /// Bytes of activations, constants and packed weights that the session holds, as far as it knows.
    pub fn memory_bytes(&self) -> u64 {
        match &self.engine {
            Engine::Cpu(cpu) => cpu.memory_bytes() as u64,
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.memory_bytes(),
        }
    }
}

/// Rounds to the nearest f16.
fn to_f16(tensor: &Tensor) -> Tensor {
    let halves = tensor.to_f32().into_iter().map(half::f16::from_f32).collect();
    Tensor::new(tensor.shape().to_vec(), TensorElements::F16(Arc::new(halves))).unwrap_or_else(|_| tensor.clone())
}
