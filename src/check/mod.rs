//! Where a backend parts from plain arithmetic: what `eyas check` does.
//!
//! The file's graph as imported, its operators one by one in f32 on one thread, is the *plain path*. The graph after the
//! passes, planned and run by a [`Session`], is what is checked. Passes keep the numbers of values, so each node that is
//! left stands for a known piece of the file, a [`Part`]. Every value that is left becomes an output of the session;
//! memory is not shared then, and kernels stay the same. Each part is computed plainly *from the values that the
//! backend had*, which shows the error of that part alone; and once from the plain path's own values, which shows how
//! far the backend has drifted. The network's outputs come from a session as everybody runs it.
//!
//! Tolerances are those of `docs/numerics.md`. Where a part misses, its plain form is computed again with inputs moved
//! by [`MOVE_F32`]; an error of up to [`MOVED_FACTOR`] times what that does passes: rounding to integers, and
//! differences of large numbers, turn the last bit of an input into any error. Outputs likewise, with [`MOVE_NETWORK`].

mod difference;
mod parts;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

pub use difference::{Difference, Odd, Place};
pub use parts::{Part, Values};

use crate::convert::Preprocess;
use crate::error::Error;
use crate::infer::graph::{Fact, Graph, ValueId};
use crate::infer::ops::dense::{Numbers, from_numbers};
use crate::infer::tensor::{DType, Tensor};
use crate::session::{Model, Session, SessionOptions};
use crate::shader::Precision;

/// Values of a backend that are held at once; larger networks are run several times.
const CHUNK_BYTES: usize = 192 << 20;

/// What inputs of a part are multiplied by, plus or minus, to see how much it amplifies: a few roundings.
pub const MOVE_F32: f64 = 1e-6;
const MOVE_F16: f64 = 1.0 / 2048.0;
/// The same for the whole network's inputs.
pub const MOVE_NETWORK: f64 = 1e-5;
pub const MOVED_FACTOR: f64 = 1.5;

/// Largest difference over the largest value that a part may show: `docs/numerics.md`, "one layer".
fn part_tolerance(precision: Precision, kernels: &str) -> f64 {
    match precision {
        Precision::F16 => 2e-3,
        Precision::F32 if kernels.contains("winograd") => 1e-3,
        Precision::F32 => 1e-5,
    }
}

/// The same for outputs of the whole network.
fn network_tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F16 => 2e-2,
        Precision::F32 => 1e-3,
    }
}

/// A network to check: the file's graph, and what the passes made of it.
#[derive(Debug)]
pub struct Check {
    plain: Graph,
    optimised: Graph,
}

/// A value of the file that does not exist any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    pub value: String,
    /// Operator and name of the node of the file that computes it.
    pub op: &'static str,
    pub node: String,
    /// The node after the passes that computes it in passing; `None`: computed at load, or read by nobody.
    pub into: Option<String>,
}

/// One value on one backend, beside the plain path.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Name in the file.
    pub value: String,
    /// Node after the passes, its operator, and the kernels that it became.
    pub node: String,
    pub op: &'static str,
    pub kernels: String,
    /// Operators and names of the file's nodes that it stands for.
    pub covers: Vec<(&'static str, String)>,
    pub shape: Vec<usize>,
    /// From plain arithmetic on the values that the backend had.
    pub own: Difference,
    /// From the plain path.
    pub drift: Difference,
    /// What `own` may be, over the largest value.
    pub allowed: f64,
    /// What the plain form itself changes by when its inputs move; known where the tolerance was missed.
    pub moved: Option<f64>,
}

impl Finding {
    pub fn agrees(&self) -> bool {
        passes(self.own.relative(), self.allowed, self.moved)
    }
}

/// An output of the network as everybody runs it, or a tensor that was given, beside what is there.
#[derive(Clone, Debug)]
pub struct Compared {
    pub name: String,
    pub difference: Difference,
    pub allowed: f64,
    pub moved: Option<f64>,
}

impl Compared {
    pub fn agrees(&self) -> bool {
        passes(self.difference.relative(), self.allowed, self.moved)
    }
}

fn passes(error: f64, allowed: f64, moved: Option<f64>) -> bool {
    error <= allowed || moved.is_some_and(|moved| moved.is_finite() && error <= MOVED_FACTOR * moved)
}

/// Everything found on one backend.
#[derive(Clone, Debug)]
pub struct Backend {
    /// "cpu" or "gpu".
    pub name: &'static str,
    pub adapter: String,
    /// CPU threads; 0 on the GPU.
    pub threads: usize,
    pub precision: Precision,
    /// In the order of the file.
    pub findings: Vec<Finding>,
    pub outputs: Vec<Compared>,
    /// The tensors that were given, beside this backend's values.
    pub expected: Vec<Compared>,
}

impl Backend {
    /// The first value that its node computes otherwise than plain arithmetic does.
    pub fn first_divergence(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| !finding.agrees())
    }

    /// The first value that holds a NaN or an infinity.
    pub fn first_odd(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.own.odd[0].any())
    }

    pub fn agrees(&self) -> bool {
        let compared = self.outputs.iter().chain(&self.expected);
        self.first_divergence().is_none() && compared.into_iter().all(Compared::agrees)
    }
}

/// All that [`Check::run`] found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub backends: Vec<Backend>,
    /// The tensors that were given, beside the plain path.
    pub expected: Vec<Compared>,
    pub gone: Vec<Gone>,
}

impl Report {
    pub fn agrees(&self) -> bool {
        self.backends.iter().all(Backend::agrees) && self.expected.iter().all(Compared::agrees)
    }
}

impl Check {
    /// `plain` is the graph as imported, `optimised` the same after the passes ([`crate::Model::graph`]).
    pub fn new(plain: Graph, optimised: Graph) -> Check {
        Check { plain, optimised }
    }

    /// Runs the network on each backend and compares. `expected` are tensors by the names of values in the file.
    /// `progress` is told how much is done of how much: parts computed plainly, and beside each backend.
    ///
    /// # Errors
    /// When an input does not fit, a name is unknown, or a session cannot be made or run.
    pub fn run(
        &self,
        inputs: &[(String, Tensor)],
        backends: &[SessionOptions],
        expected: &[(String, Tensor)],
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Report, Error> {
        let expected: Vec<(ValueId, &Tensor)> = expected
            .iter()
            .map(|(name, tensor)| Ok((self.value_named(name)?, tensor)))
            .collect::<Result<_, Error>>()?;
        let wanted: Vec<ValueId> =
            expected.iter().map(|(id, _)| *id).chain(self.plain.outputs.iter().copied()).collect();
        let parts = parts::parts(&self.plain, &self.optimised, &wanted);
        // As everybody runs it. These sessions stay, so that the others find their weights and shaders.
        let mut runs = Vec::with_capacity(backends.len());
        for options in backends {
            runs.push(Run::new(self.session(self.optimised.clone(), options, None)?, inputs)?);
        }
        let given = self.given(inputs)?;
        let mut plain_values = given.clone();
        let mut kept = Values::new();
        let last = parts::last_readers(&parts);
        let (done, total) = (AtomicUsize::new(0), parts.len() * (1 + backends.len()));
        let one_more = || progress(1 + done.fetch_add(1, Ordering::Relaxed), total);
        let mut start = 0;
        while start < parts.len() {
            let end = start + self.chunk(&parts[start..]);
            let chunk = &parts[start..end];
            for part in chunk {
                plain_values.extend(part.evaluate(&self.plain, &plain_values)?);
                one_more();
            }
            for (run, options) in runs.iter_mut().zip(backends) {
                let values = self.values_of(chunk, run, options, inputs, &given)?;
                let (precision, kernels) = (run.backend.precision, &run.kernels);
                let found: Vec<Vec<Finding>> = chunk
                    .par_iter()
                    .map(|part| self.compare(part, precision, kernels, &values, &plain_values).inspect(|_| one_more()))
                    .collect::<Result<_, Error>>()?;
                run.backend.findings.extend(found.into_iter().flatten());
                run.kept.extend(values.into_iter().filter(|(id, _)| wanted.contains(id)));
            }
            kept.extend(wanted.iter().filter_map(|id| Some((*id, plain_values.get(id)?.clone()))));
            plain_values.retain(|id, _| last.get(id).is_some_and(|&reader| reader >= end));
            start = end;
        }
        kept.extend(self.plain.outputs.iter().chain(&wanted).filter_map(|id| self.known(*id, &given)));
        self.conclude(runs, &parts, &kept, &expected, inputs, &wanted)
    }

    /// Outputs and given tensors beside what was computed.
    fn conclude(
        &self,
        mut runs: Vec<Run>,
        parts: &[Part],
        plain: &Values,
        expected: &[(ValueId, &Tensor)],
        inputs: &[(String, Tensor)],
        wanted: &[ValueId],
    ) -> Result<Report, Error> {
        let name = |id: ValueId| self.plain.value(id).name.clone();
        let compared = |id: ValueId, got: &Tensor, want: &Tensor, allowed: f64| Compared {
            name: name(id),
            difference: Difference::between(got, want),
            allowed,
            moved: None,
        };
        let mut report = Report { gone: self.gone(parts), ..Report::default() };
        for run in &mut runs {
            let allowed = network_tolerance(run.backend.precision);
            for (&id, got) in self.plain.outputs.iter().zip(&run.outputs) {
                if let Some(want) = plain.get(&id) {
                    run.backend.outputs.push(compared(id, got, want, allowed));
                }
            }
            for &(id, want) in expected {
                let output = self.plain.outputs.iter().position(|&o| o == id).and_then(|i| run.outputs.get(i));
                if let Some(got) = output.or_else(|| run.kept.get(&id)) {
                    run.backend.expected.push(compared(id, got, want, allowed));
                }
            }
        }
        for &(id, want) in expected {
            if let Some(got) = plain.get(&id) {
                report.expected.push(compared(id, got, want, network_tolerance(Precision::F32)));
            }
        }
        report.backends = runs.into_iter().map(|run| run.backend).collect();
        if !report.agrees() {
            let moved = self.moved_network(parts, inputs, plain, wanted)?;
            let by_name: HashMap<String, f64> = moved.into_iter().map(|(id, moved)| (name(id), moved)).collect();
            let on_backends = report.backends.iter_mut().flat_map(|b| b.outputs.iter_mut().chain(&mut b.expected));
            for one in on_backends.chain(&mut report.expected).filter(|one| !one.agrees()) {
                one.moved = by_name.get(&one.name).copied();
            }
        }
        Ok(report)
    }

    /// The value with this name.
    ///
    /// # Errors
    /// When there is none, or it is an input.
    fn value_named(&self, name: &str) -> Result<ValueId, Error> {
        let found = self.plain.values.iter().position(|value| value.name == name).map(ValueId);
        match found {
            Some(id) if self.plain.inputs.contains(&id) => {
                Err(Error::Input(format!("'{name}' is an input of the network: nothing computes it")))
            }
            Some(id) => Ok(id),
            None => {
                let outputs: Vec<&str> =
                    self.plain.outputs.iter().map(|&id| self.plain.value(id).name.as_str()).collect();
                Err(Error::Input(format!(
                    "the network computes no value '{name}'; its outputs are {}",
                    outputs.join(", ")
                )))
            }
        }
    }

    /// The inputs by their numbers, as the network computes with them.
    fn given(&self, inputs: &[(String, Tensor)]) -> Result<Values, Error> {
        let mut values = Values::new();
        for &id in &self.plain.inputs {
            let value = self.plain.value(id);
            let given = inputs.iter().find(|(name, _)| *name == value.name);
            let Some((_, tensor)) = given else {
                return Err(Error::Input(format!("input '{}' is missing", value.name)));
            };
            // Everything that is f32 to a plan takes any number.
            let tensor = match value.fact.dtype {
                DType::F32 => Tensor::from_f32(tensor.shape(), tensor.to_f32()).map_err(Error::Input)?,
                _ => tensor.clone(),
            };
            values.insert(id, tensor);
        }
        Ok(values)
    }

    /// A value that no part computes.
    fn known(&self, id: ValueId, given: &Values) -> Option<(ValueId, Tensor)> {
        let constant = self.plain.fact(id).constant.as_ref();
        constant.or_else(|| given.get(&id)).map(|tensor| (id, tensor.clone()))
    }

    fn session(&self, graph: Graph, options: &SessionOptions, like: Option<&Session>) -> Result<Session, Error> {
        let imported = Graph::new(&graph.name, graph.format);
        let model = Model { imported, ..Model::as_it_is(graph) };
        #[cfg(feature = "gpu")]
        if let Some(gpu) = like.and_then(Session::gpu) {
            return Session::on_device(&model, std::sync::Arc::clone(gpu), options.precision);
        }
        #[cfg(not(feature = "gpu"))]
        let _ = like;
        Session::new(&model, options)
    }

    /// How many parts fit into one run.
    fn chunk(&self, parts: &[Part]) -> usize {
        let bytes = |part: &Part| -> usize {
            let values = part.outputs.iter().chain(&part.inputs);
            values.map(|&id| self.plain.fact(id).shape.iter().product::<usize>().saturating_mul(4)).sum()
        };
        let mut held = 0_usize;
        let fits = parts.iter().take_while(|part| {
            held = held.saturating_add(bytes(part));
            held <= CHUNK_BYTES
        });
        fits.count().max(1)
    }

    /// What the backend has for the outputs and inputs of these parts.
    fn values_of(
        &self,
        parts: &[Part],
        run: &Run,
        options: &SessionOptions,
        inputs: &[(String, Tensor)],
        given: &Values,
    ) -> Result<Values, Error> {
        let shared = parts::shared_values(&self.plain, &self.optimised);
        let touched = parts.iter().flat_map(|part| part.inputs.iter().chain(&part.outputs)).copied();
        let mut ids: Vec<ValueId> = touched.filter(|id| shared.contains(id) && !given.contains_key(id)).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut values = given.clone();
        if ids.is_empty() {
            return Ok(values);
        }
        let mut graph = self.optimised.clone();
        graph.outputs.clone_from(&ids);
        graph.half_outputs.clear();
        let mut session = self.session(graph, options, Some(&run.session))?;
        let borrowed: Vec<(&str, Tensor)> = inputs.iter().map(|(name, t)| (name.as_str(), t.clone())).collect();
        let outputs = session.run(&borrowed)?;
        values.extend(ids.into_iter().zip(outputs.into_iter().map(|(_, tensor)| tensor)));
        Ok(values)
    }

    /// The outputs of one part beside both plain forms.
    fn compare(
        &self,
        part: &Part,
        precision: Precision,
        kernels: &HashMap<String, String>,
        values: &Values,
        plain: &Values,
    ) -> Result<Vec<Finding>, Error> {
        let Some(index) = part.node else { return Ok(Vec::new()) };
        let node = &self.optimised.nodes[index];
        let wanted = part.evaluate(&self.plain, values)?;
        let kernels = kernels.get(&node.name).cloned().unwrap_or_default();
        let mut findings = Vec::with_capacity(part.outputs.len());
        for id in &part.outputs {
            let (Some(got), Some(want), Some(plain)) = (values.get(id), wanted.get(id), plain.get(id)) else {
                let value = &self.plain.value(*id).name;
                return Err(Error::Input(format!("node '{}' left '{value}' uncomputed", node.name)));
            };
            findings.push(Finding {
                value: self.plain.value(*id).name.clone(),
                node: node.name.clone(),
                op: node.op.name(),
                kernels: kernels.clone(),
                covers: part.covers.iter().map(|&i| self.file_node(i)).collect(),
                shape: got.shape().to_vec(),
                own: Difference::between(got, want),
                drift: Difference::between(got, plain),
                allowed: part_tolerance(precision, &kernels),
                moved: None,
            });
        }
        if findings.iter().any(|finding| !finding.agrees()) {
            let by = if precision == Precision::F16 { MOVE_F16 } else { MOVE_F32 };
            for seed in 0..3 {
                let inputs = values.iter().filter(|(id, _)| part.inputs.contains(id));
                let inputs: Values = inputs.map(|(&id, t)| (id, moved(t, by, seed))).collect();
                let again = part.evaluate(&self.plain, &inputs)?;
                for (finding, id) in findings.iter_mut().zip(&part.outputs) {
                    let by = Difference::between(&again[id], &wanted[id]).relative();
                    finding.moved = Some(finding.moved.unwrap_or(0.0).max(by));
                }
            }
        }
        Ok(findings)
    }

    fn file_node(&self, index: usize) -> (&'static str, String) {
        let node = &self.plain.nodes[index];
        (node.op.name(), node.name.clone())
    }

    /// How far the plain path moves when the network's inputs do.
    fn moved_network(
        &self,
        parts: &[Part],
        inputs: &[(String, Tensor)],
        plain: &Values,
        wanted: &[ValueId],
    ) -> Result<HashMap<ValueId, f64>, Error> {
        let inputs: Vec<(String, Tensor)> =
            inputs.iter().map(|(name, t)| (name.clone(), moved(t, MOVE_NETWORK, 1))).collect();
        let mut values = self.given(&inputs)?;
        let last = parts::last_readers(parts);
        let mut moved = HashMap::new();
        for (i, part) in parts.iter().enumerate() {
            values.extend(part.evaluate(&self.plain, &values)?);
            for id in part.outputs.iter().filter(|id| wanted.contains(id)) {
                if let (Some(after), Some(before)) = (values.get(id), plain.get(id)) {
                    moved.insert(*id, Difference::between(after, before).relative());
                }
            }
            values.retain(|id, _| last.get(id).is_some_and(|&reader| reader > i));
        }
        Ok(moved)
    }

    /// The file's values that no session holds.
    fn gone(&self, parts: &[Part]) -> Vec<Gone> {
        let shared = parts::shared_values(&self.plain, &self.optimised);
        let mut into: HashMap<usize, &str> = HashMap::new();
        for part in parts {
            let Some(node) = part.node else { continue };
            for &covered in &part.covers {
                into.insert(covered, &self.optimised.nodes[node].name);
            }
        }
        let mut gone = Vec::new();
        for (i, node) in self.plain.nodes.iter().enumerate() {
            for &id in node.outputs.iter().filter(|id| !shared.contains(id)) {
                // Constants were never computed in a run.
                if self.plain.fact(id).constant.is_none() {
                    gone.push(Gone {
                        value: self.plain.value(id).name.clone(),
                        op: node.op.name(),
                        node: node.name.clone(),
                        into: into.get(&i).map(|name| (*name).to_string()),
                    });
                }
            }
        }
        gone
    }
}

/// A backend at work.
struct Run {
    backend: Backend,
    session: Session,
    /// Labels of the kernels of each node.
    kernels: HashMap<String, String>,
    outputs: Vec<Tensor>,
    /// Values that tensors were given for.
    kept: Values,
}

impl Run {
    fn new(mut session: Session, inputs: &[(String, Tensor)]) -> Result<Run, Error> {
        let borrowed: Vec<(&str, Tensor)> = inputs.iter().map(|(name, t)| (name.as_str(), t.clone())).collect();
        let outputs = session.run(&borrowed)?.into_iter().map(|(_, tensor)| tensor).collect();
        let mut kernels: HashMap<String, String> = HashMap::new();
        for (i, step) in session.plan().steps.iter().enumerate() {
            let label = session.step_label(i);
            let all = kernels.entry(step.node.clone()).or_default();
            if !all.is_empty() {
                all.push_str(", ");
            }
            all.push_str(&label);
        }
        let backend = Backend {
            name: session.backend(),
            adapter: session.adapter().to_string(),
            threads: session.threads(),
            precision: session.precision(),
            findings: Vec::new(),
            outputs: Vec::new(),
            expected: Vec::new(),
        };
        Ok(Run { backend, session, kernels, outputs, kept: Values::new() })
    }
}

/// Numbers in [0, 1) that are the same in every run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f64 / (1_u64 << 24) as f64
    }
}

/// Every float of a tensor times 1 + `by` or 1 − `by`, as chance has it.
fn moved(tensor: &Tensor, by: f64, seed: u64) -> Tensor {
    let Some(values) = tensor.as_f32() else { return tensor.clone() };
    let mut random = Random(seed);
    let factors = [1.0 + by, 1.0 - by];
    let values = values.iter().map(|&v| (f64::from(v) * factors[usize::from(random.next() < 0.5)]) as f32).collect();
    Tensor::from_f32(tensor.shape(), values).unwrap_or_else(|_| tensor.clone())
}

/// A random tensor for each input that `given` lacks: a picture of random levels as `preprocess` wants it where the
/// head is known and the input is a picture, else floats in [0, 1); integers from 1 to 255; booleans.
///
/// # Errors
/// When an input is larger than memory arithmetic allows.
pub fn random_inputs(
    graph: &Graph,
    preprocess: Option<&Preprocess>,
    given: &[(String, Tensor)],
    seed: u64,
) -> Result<Vec<(String, Tensor)>, Error> {
    let mut random = Random(seed);
    let mut inputs = Vec::new();
    for &id in &graph.inputs {
        let (name, fact) = (&graph.value(id).name, graph.fact(id));
        if given.iter().any(|(known, _)| known == name) {
            continue;
        }
        let tensor = random_tensor(fact, preprocess, &mut random);
        inputs.push((name.clone(), tensor.map_err(|why| Error::Input(format!("input '{name}': {why}")))?));
    }
    Ok(inputs)
}

fn random_tensor(fact: &Fact, preprocess: Option<&Preprocess>, random: &mut Random) -> Result<Tensor, String> {
    let len: usize = fact.shape.iter().product();
    let plane: usize = fact.shape.iter().skip(2).product();
    let picture = preprocess.filter(|p| fact.shape.len() == 4 && fact.shape[1] == p.order.channels());
    let values = match (fact.dtype, picture) {
        (DType::F32, Some(p)) => Numbers::Float(
            (0..len)
                .map(|i| {
                    let channel = i / plane.max(1) % p.order.channels();
                    let level = (random.next() * 256.0).floor();
                    (level - f64::from(p.mean[channel])) / f64::from(p.std[channel])
                })
                .collect(),
        ),
        (DType::F32 | DType::F16 | DType::F64, _) => Numbers::Float((0..len).map(|_| random.next()).collect()),
        (DType::Bool, _) => Numbers::Int((0..len).map(|_| i64::from(random.next() < 0.5)).collect()),
        (DType::I8, _) => Numbers::Int((0..len).map(|_| 1 + (random.next() * 127.0) as i64).collect()),
        (DType::U8 | DType::I32 | DType::I64, _) => {
            Numbers::Int((0..len).map(|_| 1 + (random.next() * 255.0) as i64).collect())
        }
    };
    from_numbers(&fact.shape, fact.dtype, &values).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
