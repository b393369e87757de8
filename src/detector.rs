//! The life of a frame: convert → marshal → infer → decode, and draw for those who want to see it.
//!
//! On the CPU the stages run one after the other on the session's memory. On a GPU they are one submission, and only
//! the boxes come back.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::convert::{self, Preprocess};
use crate::decode::head::PictureInput;
use crate::decode::{DecodeOptions, Decoder, Detection, OutputRef};
use crate::draw::{self, Style};
use crate::embedded::Embedded;
use crate::error::Error;
use crate::frame::Frame;
use crate::infer::import::ImportOptions;
use crate::infer::plan::lower::Target;
use crate::infer::plan::transfer::gather;
use crate::infer::plan::view::{BufferId, View};
use crate::infer::tensor::{Tensor, TensorElements};
use crate::letterbox::Letterbox;
use crate::marshal::{ChannelAxis, Route, route};
use crate::session::{Backend, Engine, Model, Session, SessionOptions};

/// Milliseconds that a frame spent in each stage. Convert and marshal are one kernel where the layout allows it; its
/// time then stands under `convert`. On a GPU, `convert` is the upload and `infer` the whole submission from bytes to boxes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StageTimes {
    pub acquire: f64,
    pub convert: f64,
    pub marshal: f64,
    pub infer: f64,
    pub decode: f64,
    pub draw: f64,
    pub total: f64,
}

fn lap_ms(since: &mut Instant) -> f64 {
    let now = Instant::now();
    let ms = now.duration_since(*since).as_secs_f64() * 1e3;
    *since = now;
    ms
}

/// A network with everything around it: pictures in, boxes out.
pub struct Detector {
    session: Session,
    decoder: Decoder,
    stages: Stages,
}

/// What the stages before and after the layers keep between frames.
enum Stages {
    Cpu {
        route: Route,
        /// What convert writes when the input's layout is not its own.
        staging: Vec<f32>,
    },
    #[cfg(feature = "gpu")]
    Gpu(Box<crate::gpu::FrameLoop>),
    /// The network takes bytes, which have no place in a plan's memory: the host converts for either backend.
    Bytes(BytePicture),
}

/// The way of a picture into an input of bytes.
struct BytePicture {
    input: String,
    shape: Vec<usize>,
    /// What convert writes, channels last, and the same with its axes in the order of the file.
    staging: View,
    in_file_order: View,
    values: Vec<f32>,
}

impl BytePicture {
    fn new(input: &str, view: &View, axis: ChannelAxis) -> Result<BytePicture, Error> {
        let refused = || Error::Input(format!("input '{input}' of shape {:?} is no picture", view.shape));
        let (_, [channels, height, width]) = ChannelAxis::of(&view.shape).ok_or_else(refused)?;
        let staging = View::channels_last(BufferId(0), &[1, channels, height, width], 1);
        let in_file_order = match axis {
            ChannelAxis::First => staging.clone(),
            ChannelAxis::Last => staging.transposed(&[0, 2, 3, 1]),
        };
        let values = vec![0.0; staging.end()];
        Ok(BytePicture { input: input.to_string(), shape: view.shape.clone(), staging, in_file_order, values })
    }

    fn tensor(&mut self, frame: &Frame, p: &Preprocess, letterbox: &Letterbox) -> Result<Tensor, Error> {
        let done = convert::into_slice(frame, p, letterbox, &self.staging, &mut self.values);
        done.map_err(|e| Error::Input(e.to_string()))?;
        let bytes = gather(&self.values, &self.in_file_order).into_iter().map(|v| v.round().clamp(0.0, 255.0) as u8);
        let elements = TensorElements::U8(Arc::new(bytes.collect()));
        Tensor::new(self.shape.clone(), elements).map_err(Error::Input)
    }
}

/// Collects options for a [`Detector`].
#[derive(Clone, Debug, Default)]
pub struct DetectorBuilder {
    model: Option<PathBuf>,
    embedded: Embedded,
    weights: Option<PathBuf>,
    import: ImportOptions,
    decode: DecodeOptions,
    session: SessionOptions,
}

impl DetectorBuilder {
    /// Which of the detectors inside, where no file is named.
    #[must_use]
    pub fn embedded(mut self, which: Embedded) -> Self {
        self.embedded = which;
        self
    }

    /// The model file: `.onnx`, or `.cfg` with its `.weights` beside it. Without one: [`Model::embedded`].
    #[must_use]
    pub fn model(mut self, path: impl AsRef<Path>) -> Self {
        self.model = Some(path.as_ref().to_path_buf());
        self
    }

    /// Weights of a Darknet `.cfg` that do not lie beside it.
    #[must_use]
    pub fn weights(mut self, path: impl AsRef<Path>) -> Self {
        self.weights = Some(path.as_ref().to_path_buf());
        self
    }

    #[must_use]
    pub fn backend(mut self, backend: Backend) -> Self {
        self.session.backend = backend;
        self
    }

    /// CPU threads; one per core if not given.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.session.threads = Some(threads);
        self
    }

    /// Detections with a lower score are dropped.
    #[must_use]
    pub fn conf(mut self, score: f32) -> Self {
        self.decode.score_threshold = Some(score);
        self
    }

    /// All options about decoding at once.
    #[must_use]
    pub fn decode(mut self, options: DecodeOptions) -> Self {
        self.decode = options;
        self
    }

    /// All options about the device at once.
    #[must_use]
    pub fn session(mut self, options: SessionOptions) -> Self {
        self.session = options;
        self
    }

    /// Loads the network and prepares it.
    ///
    /// # Errors
    /// When the file is no usable network, its head is not known, or the device is not there.
    pub fn build(self) -> Result<Detector, Error> {
        let model = match &self.model {
            Some(path) => Model::load(path, self.weights.as_deref(), &self.import)?,
            None => Model::embedded(self.embedded, &self.import)?,
        };
        Detector::of(model, &self.decode, &self.session)
    }
}

impl Detector {
    pub fn builder() -> DetectorBuilder {
        DetectorBuilder::default()
    }

    /// Prepares a loaded network.
    ///
    /// # Errors
    /// When its head is not known, or the device is not there.
    pub fn new(model: &Model, options: &DecodeOptions, device: &SessionOptions) -> Result<Detector, Error> {
        let decoder = model.decoder(options)?;
        Detector::with_session(Session::new(model, device)?, decoder)
    }

    /// As [`Detector::new`] for a network that nobody needs afterwards, see [`Session::of`].
    ///
    /// # Errors
    /// As there.
    pub fn of(model: Model, options: &DecodeOptions, device: &SessionOptions) -> Result<Detector, Error> {
        let decoder = model.decoder(options)?;
        Detector::with_session(Session::of(model, device)?, decoder)
    }

    /// Puts the stages around a session that exists already.
    ///
    /// # Errors
    /// When the network's input takes no picture.
    pub fn with_session(mut session: Session, decoder: Decoder) -> Result<Detector, Error> {
        let block = if session.backend() == "cpu" { Target::CPU.block } else { Target::GPU.block };
        for (name, values) in decoder.head().inputs() {
            session.set_input(&name, &values)?;
        }
        let PictureInput { index, axis } = decoder.picture;
        let plan = session.plan();
        let Some((name, input)) = plan.inputs.get(index) else {
            return Err(Error::Input(format!("the network has no input {index} for the picture")));
        };
        if matches!(plan.host.inputs.get(index), Some(Some(_))) {
            let stages = Stages::Bytes(BytePicture::new(name, input, axis)?);
            return Ok(Detector { session, decoder, stages });
        }
        let route = route(input, axis, block).map_err(|e| Error::Input(e.to_string()))?;
        let stages = match &session.engine {
            Engine::Cpu(_) => {
                let staging = match &route {
                    Route::Fused(_) => Vec::new(),
                    Route::Packed(pack) => vec![0.0; pack.staging_len()],
                };
                Stages::Cpu { route, staging }
            }
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => Stages::Gpu(Box::new(crate::gpu::FrameLoop::new(gpu, &decoder, route)?)),
        };
        Ok(Detector { session, decoder, stages })
    }

    /// "cpu" or "gpu".
    pub fn backend(&self) -> &'static str {
        self.session.backend()
    }

    /// Processor or GPU.
    pub fn adapter(&self) -> &str {
        self.session.adapter()
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The head, its thresholds and labels, and what the network expects of its input.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Detections with a lower score are dropped from the next picture on.
    pub fn set_score_threshold(&mut self, score: f32) {
        self.decoder.score_threshold = score;
    }

    /// Whether it runs on this open device.
    #[cfg(feature = "gpu")]
    pub fn is_on(&self, gpu: &std::sync::Arc<crate::gpu::Gpu>) -> bool {
        matches!(&self.session.engine, Engine::Gpu(session) if std::sync::Arc::ptr_eq(session.gpu(), gpu))
    }

    /// What a live loop puts into its own submission; `None` on the CPU.
    #[cfg(feature = "gpu")]
    pub(crate) fn gpu_parts(&mut self) -> Option<(&crate::gpu::GpuSession, &mut crate::gpu::FrameLoop, &Decoder)> {
        match (&mut self.stages, &self.session.engine) {
            (Stages::Gpu(frame_loop), Engine::Gpu(session)) => Some((session, frame_loop, &self.decoder)),
            _ => None,
        }
    }

    /// Objects in a picture, best first.
    ///
    /// # Errors
    /// When the picture is not one, or the device fails.
    pub fn detect(&mut self, frame: &Frame) -> Result<Vec<Detection>, Error> {
        Ok(self.process(frame)?.0)
    }

    /// Objects in a picture, best first, and how long each stage took.
    ///
    /// # Errors
    /// As [`Detector::detect`].
    pub fn process(&mut self, frame: &Frame) -> Result<(Vec<Detection>, StageTimes), Error> {
        let start = Instant::now();
        let mut lap = start;
        let mut ms = StageTimes::default();
        let decoder = &self.decoder;
        let preprocess = &decoder.preprocess;
        let letterbox = preprocess.letterbox([frame.width, frame.height]);
        if let Stages::Bytes(picture) = &mut self.stages {
            let tensor = picture.tensor(frame, preprocess, &letterbox)?;
            ms.convert = lap_ms(&mut lap);
            self.session.set_input(&picture.input, &tensor)?;
            ms.marshal = lap_ms(&mut lap);
            self.session.infer()?;
            let outputs: Vec<(Vec<f32>, View)> = self
                .session
                .outputs()?
                .into_iter()
                .map(|(_, tensor)| (tensor.to_f32(), View::row_major(BufferId(0), tensor.shape())))
                .collect();
            ms.infer = lap_ms(&mut lap);
            let outputs: Vec<OutputRef<'_>> = outputs.iter().map(|(values, view)| OutputRef { values, view }).collect();
            let found = decoder.decode(&outputs, &letterbox)?;
            let detections = decoder.detections(&found, &letterbox, Some(&outputs));
            ms.decode = lap_ms(&mut lap);
            ms.total = start.elapsed().as_secs_f64() * 1e3;
            return Ok((detections, ms));
        }
        let picture_input = decoder.picture.index;
        let detections = match (&mut self.stages, &mut self.session.engine) {
            (Stages::Cpu { route, staging }, Engine::Cpu(cpu)) => {
                let converted = match route {
                    Route::Fused(view) => cpu.fill_input(picture_input, |memory| {
                        convert::into_slice(frame, preprocess, &letterbox, view, memory)
                    }),
                    Route::Packed(pack) => {
                        let done = convert::into_slice(frame, preprocess, &letterbox, &pack.staging, staging);
                        ms.convert = lap_ms(&mut lap);
                        cpu.fill_input(picture_input, |memory| pack.run_twin(cells(staging), cells(memory)));
                        ms.marshal = lap_ms(&mut lap);
                        done
                    }
                };
                converted.map_err(|e| Error::Input(e.to_string()))?;
                ms.convert += lap_ms(&mut lap);
                cpu.run()?;
                ms.infer = lap_ms(&mut lap);
                let outputs = cpu.outputs()?;
                let outputs: Vec<OutputRef<'_>> =
                    outputs.iter().map(|(values, view)| OutputRef { values, view }).collect();
                let found = decoder.decode(&outputs, &letterbox)?;
                decoder.detections(&found, &letterbox, Some(&outputs))
            }
            #[cfg(feature = "gpu")]
            (Stages::Gpu(frame_loop), Engine::Gpu(gpu)) => {
                let submission = frame_loop.submit(gpu, frame, decoder, &letterbox)?;
                ms.convert = lap_ms(&mut lap);
                let found = frame_loop.detections(submission)?;
                ms.infer = lap_ms(&mut lap);
                // What the shaders cannot do (several classes an anchor, landmarks, masks) is done on the host from the outputs.
                if found.is_none() || decoder.head().has_details() {
                    let outputs = crate::gpu::frame_loop::read_output_buffers(gpu)?;
                    let outputs: Vec<OutputRef<'_>> =
                        outputs.iter().map(|(values, view)| OutputRef { values, view }).collect();
                    let found = match found {
                        Some(found) => found,
                        None => decoder.decode(&outputs, &letterbox)?,
                    };
                    decoder.detections(&found, &letterbox, Some(&outputs))
                } else {
                    decoder.detections(&found.unwrap_or_default(), &letterbox, None)
                }
            }
            _ => return Err(Error::Input("the stages and the session are on different backends".into())),
        };
        ms.decode = lap_ms(&mut lap);
        ms.total = start.elapsed().as_secs_f64() * 1e3;
        Ok((detections, ms))
    }

    /// The picture with boxes and labels drawn on it, by the backend that the detector runs on.
    ///
    /// # Errors
    /// When the device fails.
    pub fn annotate(&mut self, frame: &Frame, detections: &[Detection], style: &Style) -> Result<Frame, Error> {
        match &mut self.stages {
            Stages::Cpu { .. } | Stages::Bytes(_) => Ok(draw::annotate(frame, detections, style)),
            #[cfg(feature = "gpu")]
            Stages::Gpu(frame_loop) => {
                let (gpu, overlay) = frame_loop.overlay()?;
                let drawn = draw::instances(detections, [frame.width, frame.height], style);
                Ok(overlay.render(gpu, frame, &drawn)?)
            }
        }
    }
}

fn cells(values: &mut [f32]) -> &[Cell<f32>] {
    Cell::from_mut(values).as_slice_of_cells()
}
