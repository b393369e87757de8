//! A whole frame on the GPU: convert, marshal, layers, decode and NMS in one submission; only boxes come back. Where
//! the plan has hops to the host, the frame is cut at them.

use std::sync::Arc;

use super::buffer::{Readback, decode_f32};
use super::dispatch::Dispatch;
use super::{Gpu, GpuError, GpuSession};
use crate::convert::{self, Preprocess};
use crate::decode::candidates::read_detections;
use crate::decode::{Decoder, DetectionsHeader, GpuBinding, GpuDecode, RawDetection};
use crate::frame::{Colour, Frame, PixelFormat};
use crate::infer::plan::step::OutputPlace;
use crate::infer::plan::view::{BufferId, View};
use crate::letterbox::{FrameParams, Letterbox};
use crate::marshal::{Pack, Route};
use crate::shader::Precision;

/// The buffers and dispatches around the layers.
#[derive(Debug)]
pub struct FrameLoop {
    gpu: Arc<Gpu>,
    params: wgpu::Buffer,
    /// The picture's bytes, with room for the largest so far.
    picture: Option<wgpu::Buffer>,
    /// Convert dispatches for the buffers that pictures came in last.
    converts: Vec<Convert>,
    /// Where convert writes, and the copy into the input's layout where that is another.
    target: View,
    staging: Option<wgpu::Buffer>,
    pack: Option<Dispatch>,
    /// `None`: only the host can decode as the options ask.
    decode: Option<Decode>,
    /// Made when first needed; a live loop has its own.
    overlay: Option<super::draw::Overlay>,
}

/// The convert dispatch for a buffer with pictures of a format.
#[derive(Debug)]
struct Convert {
    bytes: wgpu::Buffer,
    format: PixelFormat,
    colour: Colour,
    dispatch: Dispatch,
}

/// Picture buffers that a loop may use in turn.
const CONVERTS_KEPT: usize = 4;

/// Decode and NMS.
#[derive(Debug)]
struct Decode {
    candidates: wgpu::Buffer,
    dispatches: Vec<Dispatch>,
    detections: wgpu::Buffer,
    readback: Readback,
}

impl Decode {
    fn new(gpu: &Gpu, session: &GpuSession, views: &[View], stages: &GpuDecode) -> Result<Decode, GpuError> {
        let candidates = gpu.storage_buffer("candidates", stages.candidates_bytes)?;
        let detections = gpu.storage_buffer("detections", stages.detections_bytes)?;
        gpu.write(&detections, 0, bytemuck::bytes_of(&stages.detections_header))?;
        let priors = match &stages.priors[..] {
            [] => None,
            priors => Some(gpu.upload_f32("priors", priors.as_flattened(), Precision::F32)?),
        };
        let dispatches = stages
            .dispatches
            .iter()
            .map(|(variant, bindings)| {
                let buffers: Vec<&wgpu::Buffer> = bindings
                    .iter()
                    .filter_map(|binding| match binding {
                        GpuBinding::Output(index) => Some(session.buffer(views[*index].buffer)),
                        GpuBinding::Priors => priors.as_ref(),
                        GpuBinding::Candidates => Some(&candidates),
                        GpuBinding::Detections => Some(&detections),
                    })
                    .collect();
                gpu.dispatch(variant, &buffers)
            })
            .collect::<Result<_, _>>()?;
        let readback = Readback::new(gpu, &[(&detections, 0, stages.detections_bytes)])?;
        Ok(Decode { candidates, dispatches, detections, readback })
    }
}

impl FrameLoop {
    /// Prepares the stages around `session` for a network with this head.
    ///
    /// # Errors
    /// When a shader does not compile or memory is out.
    pub fn new(session: &GpuSession, decoder: &Decoder, route: Route) -> Result<FrameLoop, GpuError> {
        let gpu = Arc::clone(session.gpu());
        let precision = session.precision();
        let params = gpu.storage_buffer("frame params", size_of::<FrameParams>())?;
        let (target, staging, pack) = match route {
            Route::Fused(view) => (view, None, None),
            Route::Packed(Pack { staging, input }) => {
                let pack = Pack { staging, input };
                let buffer = gpu.storage_buffer("staging", pack.staging_len() * precision.size_bytes())?;
                let dispatch = gpu.dispatch(&pack.variant(precision), &[&buffer, session.buffer(pack.input.buffer)])?;
                (pack.staging, Some(buffer), Some(dispatch))
            }
        };
        let views: Vec<View> = session.plan().outputs.iter().map(|(_, view)| view.clone()).collect();
        let decode = match decoder.gpu(&views, precision) {
            Some(stages) if is_in_memory(session, &stages) => Some(Decode::new(&gpu, session, &views, &stages)?),
            _ => None,
        };
        let (picture, converts) = (None, Vec::new());
        Ok(FrameLoop { gpu, params, picture, converts, target, staging, pack, decode, overlay: None })
    }

    /// Uploads a frame and submits all stages; returns without waiting, unless the plan has hops to the host.
    ///
    /// # Errors
    /// When the frame does not fit the device, or the device fails.
    pub fn submit(
        &mut self,
        session: &GpuSession,
        frame: &Frame,
        decoder: &Decoder,
        letterbox: &Letterbox,
    ) -> Result<wgpu::SubmissionIndex, GpuError> {
        frame.check().map_err(GpuError::Invalid)?;
        let bytes = match self.picture.take() {
            Some(buffer) if buffer.size() >= frame.bytes.len() as u64 => buffer,
            _ => self.gpu.storage_buffer("picture", frame.bytes.len())?,
        };
        self.gpu.write(&bytes, 0, &frame.bytes)?;
        let convert = self.prepare(session, &bytes, frame, decoder, letterbox)?;
        self.picture = Some(bytes);
        let whole = session.is_one_submission();
        if !whole {
            self.gpu.submit(|encoder| {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                self.encode_convert(convert, &mut pass);
            })?;
            session.run()?;
        }
        let submission = self.gpu.submit(|encoder| {
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                if whole {
                    self.encode_convert(convert, &mut pass);
                    session.encode(&mut pass);
                }
                self.encode_decode(&mut pass);
            }
            if let Some(decode) = &self.decode {
                decode.readback.encode(encoder);
            }
        })?;
        if let Some(decode) = &self.decode {
            decode.readback.map(&self.gpu)?;
        }
        Ok(submission)
    }

    /// Writes what the shaders read of a frame whose bytes lie in `bytes`, and gives the number of its convert dispatch
    /// for [`FrameLoop::encode_convert`].
    pub(super) fn prepare(
        &mut self,
        session: &GpuSession,
        bytes: &wgpu::Buffer,
        frame: &Frame,
        decoder: &Decoder,
        letterbox: &Letterbox,
    ) -> Result<usize, GpuError> {
        self.gpu.write(&self.params, 0, bytemuck::bytes_of(&FrameParams::new(frame, letterbox)))?;
        if let Some(decode) = &self.decode {
            let header = decoder.candidates_header(letterbox);
            self.gpu.write(&decode.candidates, 0, bytemuck::bytes_of(&header))?;
        }
        let (format, colour) = (frame.format, frame.colour);
        let is_same = |c: &Convert| c.bytes == *bytes && c.format == format && c.colour == colour;
        if let Some(found) = self.converts.iter().position(is_same) {
            return Ok(found);
        }
        let dispatch = self.convert_dispatch(session, bytes, frame, &decoder.preprocess)?;
        if self.converts.len() == CONVERTS_KEPT {
            self.converts.remove(0);
        }
        self.converts.push(Convert { bytes: bytes.clone(), format, colour, dispatch });
        Ok(self.converts.len() - 1)
    }

    fn convert_dispatch(
        &self,
        session: &GpuSession,
        bytes: &wgpu::Buffer,
        frame: &Frame,
        preprocess: &Preprocess,
    ) -> Result<Dispatch, GpuError> {
        let variant = convert::variant(preprocess, frame.format, frame.colour, &self.target, session.precision())
            .map_err(|e| GpuError::Invalid(e.to_string()))?;
        let target = match &self.staging {
            Some(staging) => staging,
            None => session.buffer(self.target.buffer),
        };
        self.gpu.dispatch(&variant, &[&self.params, bytes, target])
    }

    /// Appends convert and marshal; `convert` is what [`FrameLoop::prepare`] gave.
    pub(super) fn encode_convert(&self, convert: usize, pass: &mut wgpu::ComputePass<'_>) {
        if let Some(convert) = self.converts.get(convert) {
            convert.dispatch.encode(pass);
        }
        if let Some(pack) = &self.pack {
            pack.encode(pass);
        }
    }

    /// Appends decode and NMS.
    pub(super) fn encode_decode(&self, pass: &mut wgpu::ComputePass<'_>) {
        for dispatch in self.decode.iter().flat_map(|d| &d.dispatches) {
            dispatch.encode(pass);
        }
    }

    /// What NMS writes; `None` where only the host decodes. Ask [`GpuSession::is_one_submission`] too before putting all
    /// of a frame into a submission of your own.
    pub(super) fn detections_buffer(&self) -> Option<&wgpu::Buffer> {
        self.decode.as_ref().map(|d| &d.detections)
    }

    /// Waits for a submission and gives its detections, in picture pixels. `None` for options that only the host serves.
    ///
    /// # Errors
    /// When the device fails.
    pub fn detections(&self, submission: wgpu::SubmissionIndex) -> Result<Option<Vec<RawDetection>>, GpuError> {
        let Some(decode) = &self.decode else {
            self.gpu.wait(Some(submission))?;
            return Ok(None);
        };
        let bytes = decode.readback.take_after(&self.gpu, submission)?;
        let read: Option<(DetectionsHeader, Vec<RawDetection>)> =
            bytes.first().and_then(|bytes| read_detections(bytes));
        match read {
            Some((_, found)) => Ok(Some(found)),
            None => Err(GpuError::Device("the detections buffer is damaged".into())),
        }
    }

    /// The overlay that draws on this device.
    ///
    /// # Errors
    /// When its shader does not compile.
    pub fn overlay(&mut self) -> Result<(&Gpu, &super::draw::Overlay), GpuError> {
        let overlay = match self.overlay.take() {
            Some(overlay) => overlay,
            None => super::draw::Overlay::new(&self.gpu)?,
        };
        Ok((&self.gpu, self.overlay.insert(overlay)))
    }
}

/// True when all outputs that the decode shaders read lie in the device's memory.
fn is_in_memory(session: &GpuSession, stages: &GpuDecode) -> bool {
    let bindings = stages.dispatches.iter().flat_map(|(_, bindings)| bindings);
    bindings.into_iter().all(|binding| match binding {
        GpuBinding::Output(index) => !matches!(session.plan().host.outputs.get(*index), Some(OutputPlace::Host(_))),
        GpuBinding::Priors | GpuBinding::Candidates | GpuBinding::Detections => true,
    })
}

/// All outputs on the host, as f32, with where their elements lie: what the decoders' twins read. Outputs in the
/// device's memory come as their whole buffers.
///
/// # Errors
/// When the device fails.
pub fn read_output_buffers(session: &GpuSession) -> Result<Vec<(Vec<f32>, View)>, GpuError> {
    let plan = session.plan();
    let precision = session.precision();
    let mut ranges = Vec::new();
    let mut outputs = Vec::with_capacity(plan.outputs.len());
    for (i, (_, view)) in plan.outputs.iter().enumerate() {
        outputs.push(match session.output_on_host(i).transpose()? {
            Some(tensor) => (tensor.to_f32(), View::row_major(BufferId(0), tensor.shape())),
            None => {
                let bytes = plan.buffer(view.buffer).len_elements * precision.size_bytes();
                ranges.push((i, session.buffer(view.buffer), bytes));
                (Vec::new(), view.clone())
            }
        });
    }
    let wanted: Vec<_> = ranges.iter().map(|&(_, buffer, bytes)| (buffer, 0, bytes)).collect();
    for ((i, ..), bytes) in ranges.iter().zip(session.gpu().download_ranges(&wanted)?) {
        outputs[*i].0 = decode_f32(&bytes, precision);
    }
    Ok(outputs)
}
