//! Networks whose input sizes are known only when they run.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use crate::error::Error;
use crate::infer::graph::Graph;
use crate::infer::import::ImportOptions;
use crate::infer::tensor::{Tensor, TensorElements};
use crate::session::{Model, Session, SessionOptions};

/// Smaller constants are not worth looking for.
const SHARED_ELEMENTS_MIN: usize = 256;

/// How many plans are kept unless the caller says otherwise.
const PLANS_KEPT: usize = 8;

/// Name and shape of each input.
type Shapes = Vec<(String, Vec<usize>)>;

/// A network with one [`Session`] for each combination of input shapes that it has met, the batch included. A new
/// combination is planned when it first comes; plans live side by side, and the one that was not used for longest goes
/// when there are too many. All of them share their weights, and on a GPU the device and its compiled shaders.
///
/// Only an ONNX file can leave sizes open.
pub struct DynamicSession {
    path: PathBuf,
    weights: Option<PathBuf>,
    import: ImportOptions,
    options: SessionOptions,
    /// Most recently used last.
    planned: Vec<(Shapes, Session)>,
    plans_kept: usize,
    constants: Constants,
}

impl DynamicSession {
    /// Nothing is read before the first run.
    pub fn new(path: &Path, weights: Option<&Path>, import: ImportOptions, options: SessionOptions) -> DynamicSession {
        DynamicSession {
            path: path.to_path_buf(),
            weights: weights.map(Path::to_path_buf),
            import,
            options,
            planned: Vec::new(),
            plans_kept: PLANS_KEPT,
            constants: Constants::default(),
        }
    }

    /// Keeps up to this many plans, at least one.
    pub fn keep_plans(&mut self, count: usize) {
        self.plans_kept = count.max(1);
        self.forget();
    }

    /// How many plans there are.
    pub fn plans(&self) -> usize {
        self.planned.len()
    }

    /// The session for inputs of these shapes, planned if it is not there yet.
    ///
    /// # Errors
    /// As [`Model::load`] and [`Session::new`].
    pub fn session(&mut self, shapes: &[(&str, &[usize])]) -> Result<&mut Session, Error> {
        let mut key: Shapes = shapes.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect();
        key.sort();
        let found = self.planned.iter().position(|(known, _)| *known == key);
        let entry = match found {
            Some(at) => self.planned.remove(at),
            None => {
                let session = self.plan(&key)?;
                (key, session)
            }
        };
        self.planned.push(entry);
        self.forget();
        match self.planned.last_mut() {
            Some((_, session)) => Ok(session),
            None => Err(Error::Input("no plan is kept".into())),
        }
    }

    /// Sets the inputs, infers, and gives the outputs; plans first if these shapes are new.
    ///
    /// # Errors
    /// As [`DynamicSession::session`] and [`Session::run`].
    pub fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, Error> {
        let shapes: Vec<(&str, &[usize])> = inputs.iter().map(|(name, t)| (*name, t.shape())).collect();
        self.session(&shapes)?.run(inputs)
    }

    fn plan(&mut self, shapes: &Shapes) -> Result<Session, Error> {
        let mut import = self.import.clone();
        import.shapes.extend(shapes.iter().cloned());
        let mut model = Model::load(&self.path, self.weights.as_deref(), &import)?;
        self.constants.share(&mut model.graph);
        #[cfg(feature = "gpu")]
        if let Some(gpu) = self.planned.iter().find_map(|(_, session)| session.gpu()) {
            return Session::on_device(&model, Arc::clone(gpu), self.options.precision);
        }
        Session::new(&model, &self.options)
    }

    fn forget(&mut self) {
        while self.planned.len() > self.plans_kept {
            self.planned.remove(0);
        }
    }
}

/// The larger f32 constants of all plans, by content.
#[derive(Default)]
struct Constants {
    known: HashMap<u64, Vec<Weak<Vec<f32>>>>,
}

impl Constants {
    /// Makes the graph use constants that another one has already.
    fn share(&mut self, graph: &mut Graph) {
        for value in &mut graph.values {
            let Some(tensor) = &value.fact.constant else { continue };
            let TensorElements::F32(elements) = tensor.elements() else { continue };
            if elements.len() < SHARED_ELEMENTS_MIN {
                continue;
            }
            let mut hasher = DefaultHasher::new();
            elements.iter().for_each(|v| v.to_bits().hash(&mut hasher));
            let alike = self.known.entry(hasher.finish()).or_default();
            alike.retain(|weak| weak.strong_count() > 0);
            let same = |other: &Arc<Vec<f32>>| {
                other.len() == elements.len()
                    && other.iter().zip(elements.iter()).all(|(a, b)| a.to_bits() == b.to_bits())
            };
            match alike.iter().filter_map(Weak::upgrade).find(same) {
                Some(shared) => {
                    if let Ok(tensor) = Tensor::new(tensor.shape().to_vec(), TensorElements::F32(shared)) {
                        value.fact.constant = Some(tensor);
                    }
                }
                None => alike.push(Arc::downgrade(elements)),
            }
        }
    }
}
