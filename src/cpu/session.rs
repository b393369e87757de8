//! Walks a plan on the CPU.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::chain::{Chain, Limits};
use super::team::Team;
use super::tune::Tuning;
use super::{Isa, Memory};
use crate::infer::kernel::{Cells, FastKernel, Kernel};
use crate::infer::plan::memory::plan_arena;
use crate::infer::plan::step::{BufferKind, OutputPlace, Plan, Step};
use crate::infer::plan::transfer;
use crate::infer::plan::view::{BufferId, View};
use crate::infer::tensor::Tensor;
use crate::shader::{Precision, Variant};

/// Why a plan cannot be run on the CPU.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CpuError {
    #[error("the network needs {needed_bytes} bytes of activations, more than the limit of {limit_bytes} bytes")]
    TooLarge { needed_bytes: usize, limit_bytes: usize },
    #[error("{0}")]
    Host(String),
    #[error("could not start {threads} threads: {why}")]
    Threads { threads: usize, why: String },
}

/// Activations and constants of one network may take this much.
const MEMORY_LIMIT_BYTES: usize = if cfg!(target_pointer_width = "32") { 1 << 30 } else { 8 << 30 };

/// What is left of a kernel that has a fast form and whose weights nobody needs any more.
#[derive(Debug)]
struct Spent {
    stem: &'static str,
    label: String,
}

impl Kernel for Spent {
    fn stem(&self) -> &'static str {
        self.stem
    }

    fn label(&self) -> String {
        self.label.clone()
    }

    fn run_twin(&self, step: &Step, _: &[Cells<'_>], _: &[Cells<'_>]) {
        // The session runs the fast form.
        debug_assert!(false, "the weights of '{}' are gone", step.node);
    }

    fn variant(&self, _: &Step, _: Precision) -> Variant {
        Variant::none(self.stem)
    }
}

/// The buffer that an output lies in, and where.
pub type OutputPlaced<'a> = (Cow<'a, [f32]>, Cow<'a, View>);

/// A plan ready to run: memory allocated, weights packed, threads waiting.
pub struct CpuSession {
    plan: Plan,
    memory: Memory,
    /// Per step, where there is something faster than the twin.
    fast: Vec<Option<Box<dyn FastKernel>>>,
    /// In the order of their steps.
    chains: Vec<Chain>,
    /// `None` for one thread: everything runs on the caller's.
    team: Option<Team>,
    /// The plan's [`crate::infer::plan::step::HostValues`].
    host: Vec<Option<Tensor>>,
}

impl CpuSession {
    /// Prepares a plan made for [`crate::infer::plan::lower::Target::CPU`].
    ///
    /// # Errors
    /// When memory or threads cannot be had.
    pub fn new(plan: Plan, isa: Isa, threads: usize) -> Result<CpuSession, CpuError> {
        CpuSession::prepare(plan, isa, threads, false)
    }

    /// As [`CpuSession::new`], but lets go of a step's weights as soon as they are packed. Where nobody else holds them,
    /// loading then never has all weights twice.
    ///
    /// # Errors
    /// As there.
    pub fn new_lean(plan: Plan, isa: Isa, threads: usize) -> Result<CpuSession, CpuError> {
        CpuSession::prepare(plan, isa, threads, true)
    }

    /// As [`CpuSession::new`], with the form for each step that is the fastest by what the user's cache folder holds and by
    /// measuring; what was measured is kept there. Also gives a line for each measurement.
    ///
    /// # Errors
    /// As there.
    pub fn tuned(plan: Plan, isa: Isa, threads: usize) -> Result<(CpuSession, Vec<String>), CpuError> {
        let mut session = CpuSession::with_kernels(plan, isa, threads, false)?;
        session.allocate();
        let notes = session.tune(isa, threads);
        session.join_chains();
        session.allocate();
        Ok((session, notes))
    }

    fn prepare(plan: Plan, isa: Isa, threads: usize, is_lean: bool) -> Result<CpuSession, CpuError> {
        let mut session = CpuSession::with_kernels(plan, isa, threads, is_lean)?;
        session.join_chains();
        session.allocate();
        Ok(session)
    }

    /// All but the memory.
    fn with_kernels(mut plan: Plan, isa: Isa, threads: usize, is_lean: bool) -> Result<CpuSession, CpuError> {
        let needed_bytes = plan_arena(&plan).len_words.saturating_mul(size_of::<f32>());
        if needed_bytes > MEMORY_LIMIT_BYTES {
            return Err(CpuError::TooLarge { needed_bytes, limit_bytes: MEMORY_LIMIT_BYTES });
        }
        let team = if threads > 1 {
            Some(Team::new(threads).map_err(|e| CpuError::Threads { threads, why: e.to_string() })?)
        } else {
            None
        };
        // Packing weights takes most of the time of loading.
        type Prepared = (Step, Option<Box<dyn FastKernel>>);
        let steps: Vec<Mutex<Prepared>> = plan.steps.drain(..).map(|step| Mutex::new((step, None))).collect();
        let prepare = || {
            super::threads::share(threads, steps.len(), |i| {
                // The last ones first: they mostly have the most weights, and there is room for a copy of those before
                // the packed ones are many.
                let mut prepared = steps[steps.len() - 1 - i].lock().unwrap_or_else(PoisonError::into_inner);
                let (step, fast) = &mut *prepared;
                *fast = step.kernel.fast(step, isa);
                if is_lean && fast.is_some() {
                    step.kernel = Arc::new(Spent { stem: step.kernel.stem(), label: step.kernel.label() });
                }
            });
        };
        match &team {
            Some(team) => team.install(prepare),
            None => prepare(),
        }
        let prepared = steps.into_iter().map(|step| step.into_inner().unwrap_or_else(PoisonError::into_inner));
        let (steps, fast) = prepared.unzip();
        plan.steps = steps;
        let host = vec![None; plan.host.count];
        let memory = Memory::new(0, vec![(0, 0); plan.buffers.len()]);
        Ok(CpuSession { plan, memory, fast, chains: Vec::new(), team, host })
    }

    fn join_chains(&mut self) {
        self.chains = Chain::find(&mut self.plan, &self.fast, Limits::USUAL);
    }

    /// Gives the plan its memory, and constants their values.
    fn allocate(&mut self) {
        let CpuSession { plan, memory, .. } = self;
        let arena = plan_arena(plan);
        *memory = Memory::new(arena.len_words, arena.spans);
        for (i, buffer) in plan.buffers.iter().enumerate() {
            if let BufferKind::Constant(tensor) = &buffer.kind {
                for (cell, value) in memory.cells(BufferId(i)).iter().zip(tensor.to_f32()) {
                    cell.set(value);
                }
            }
        }
    }

    fn tune(&mut self, isa: Isa, threads: usize) -> Vec<String> {
        let mut tuning = Tuning::of_user(isa, threads);
        let CpuSession { plan, memory, fast, team, .. } = self;
        let mut walk = || {
            for (step, fast) in plan.steps.iter().zip(fast.iter_mut()) {
                let forms = step.kernel.fast_forms(step, isa);
                if forms.len() > 1 {
                    *fast = tuning.choose(step, forms, |form| {
                        let start = Instant::now();
                        form.run(step, memory);
                        start.elapsed()
                    });
                }
            }
        };
        match team {
            Some(team) => team.install(walk),
            None => walk(),
        }
        tuning.save();
        tuning.notes
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Name of what runs each step, for profiles. Steps of a chain say so, and how many rows go at a time.
    pub fn step_label(&self, step: usize) -> String {
        let chained = self.chains.iter().find(|chain| chain.steps.contains(&step));
        match (&self.fast[step], chained) {
            (Some(fast), Some(chain)) => format!("{}_{}", fast.label(), chain.label()),
            (Some(fast), None) => fast.label(),
            (None, _) => format!("{}_twin", self.plan.steps[step].kernel.label()),
        }
    }

    /// Fills input `index` from a dense tensor in the graph's axis order.
    ///
    /// # Panics
    /// When the tensor does not have the input's number of elements; the caller has checked it.
    pub fn write_input(&mut self, index: usize, dense: &[f32]) {
        let view = self.plan.inputs[index].1.clone();
        transfer::scatter(dense, &view, self.slice_mut(view.buffer));
    }

    /// Fills input `index` from a tensor of its shape. Where the input is no f32 value, the types must agree.
    ///
    /// # Errors
    /// When they do not.
    pub fn write_tensor(&mut self, index: usize, tensor: &Tensor) -> Result<(), String> {
        match self.plan.host.input(index, tensor)? {
            Some((place, tensor)) => self.host[place] = Some(tensor),
            None => self.write_input(index, &tensor.f32_values()),
        }
        Ok(())
    }

    /// Lets a stage write an input in place: `work` gets the whole buffer, and runs on the session's threads.
    pub fn fill_input<R: Send>(&mut self, index: usize, work: impl FnOnce(&mut [f32]) -> R + Send) -> R {
        let id = self.plan.inputs[index].1.buffer;
        let CpuSession { memory, team, .. } = self;
        let buffer = memory.slice_mut(id);
        match team {
            Some(team) => team.install(|| work(buffer)),
            None => work(buffer),
        }
    }

    /// For each output the whole buffer that it lies in, and where; dense f32 copies of those that lie elsewhere.
    ///
    /// # Errors
    /// When nothing was computed yet.
    pub fn outputs(&mut self) -> Result<Vec<OutputPlaced<'_>>, CpuError> {
        let CpuSession { plan, memory, host, .. } = self;
        let ids: Vec<BufferId> = plan.outputs.iter().map(|(_, view)| view.buffer).collect();
        let dense = |tensor: &Tensor| {
            let view = View::row_major(BufferId(0), tensor.shape());
            (Cow::Owned(tensor.to_f32()), Cow::Owned(view))
        };
        let outputs = memory.slices(&ids).into_iter().zip(&plan.outputs).enumerate();
        outputs
            .map(|(i, (values, (name, view)))| match plan.host.outputs.get(i) {
                Some(OutputPlace::Host(place)) => match &host[*place] {
                    Some(tensor) => Ok(dense(tensor)),
                    None => Err(CpuError::Host(format!("output '{name}' was not computed yet"))),
                },
                Some(OutputPlace::Constant(tensor)) => Ok(dense(tensor)),
                _ => Ok((Cow::Borrowed(values), Cow::Borrowed(view))),
            })
            .collect()
    }

    /// An output as a dense tensor in the graph's axis order.
    ///
    /// # Errors
    /// When nothing was computed yet.
    pub fn read_output(&mut self, index: usize) -> Result<Tensor, String> {
        let (name, view) = self.plan.outputs[index].clone();
        match self.plan.host.outputs.get(index) {
            Some(OutputPlace::Host(place)) => {
                self.host[*place].clone().ok_or_else(|| format!("output '{name}' was not computed yet"))
            }
            Some(OutputPlace::Constant(tensor)) => Ok(tensor.clone()),
            _ => Tensor::from_f32(&view.shape, transfer::gather(self.slice_mut(view.buffer), &view)),
        }
    }

    /// One inference on what the inputs hold.
    ///
    /// # Errors
    /// When a step on host tensors cannot work with the values that it gets.
    pub fn run(&mut self) -> Result<(), CpuError> {
        self.run_with(None)
    }

    /// One inference that reports each step's duration in milliseconds. The time of a chain is divided among its steps as
    /// they took it on all threads together.
    ///
    /// # Errors
    /// As [`CpuSession::run`].
    pub fn run_profiled(&mut self) -> Result<Vec<f64>, CpuError> {
        let mut times_ms = vec![0.0; self.plan.steps.len()];
        self.run_with(Some(&mut times_ms))?;
        Ok(times_ms)
    }

    fn run_with(&mut self, mut times_ms: Option<&mut [f64]>) -> Result<(), CpuError> {
        let CpuSession { plan, memory, fast, chains, team, host } = self;
        let mut walk = || {
            let mut chains = chains.iter().peekable();
            let mut at = 0;
            while at < plan.steps.len() {
                if let Some(chain) = chains.next_if(|chain| chain.steps.start == at) {
                    at = chain.steps.end;
                    match &mut times_ms {
                        Some(times_ms) => chain.run_profiled(&plan.steps, fast, memory, times_ms),
                        None => chain.run(&plan.steps, fast, memory, None),
                    }
                    continue;
                }
                let (start, step) = (Instant::now(), &plan.steps[at]);
                match &fast[at] {
                    Some(kernel) => kernel.run(step, memory),
                    None => {
                        let ids: Vec<BufferId> = step.reads.iter().chain(&step.writes).map(|v| v.buffer).collect();
                        let cells = memory.cells_many(&ids);
                        let (reads, writes) = cells.split_at(step.reads.len());
                        match step.kernel.host() {
                            Some(kernel) => kernel.run(step, reads, writes, host).map_err(CpuError::Host)?,
                            None => step.kernel.run_twin(step, reads, writes),
                        }
                    }
                }
                if let Some(times_ms) = &mut times_ms {
                    times_ms[at] = start.elapsed().as_secs_f64() * 1e3;
                }
                at += 1;
            }
            Ok(())
        };
        match team {
            Some(team) => team.install(walk),
            None => walk(),
        }
    }

    fn slice_mut(&mut self, id: BufferId) -> &mut [f32] {
        self.memory.slice_mut(id)
    }

    /// Bytes of activations, inputs and constants.
    pub fn memory_bytes(&self) -> usize {
        self.memory.len_bytes()
    }
}
