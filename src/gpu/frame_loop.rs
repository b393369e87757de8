//! A whole frame on the GPU: convert, marshal, layers, decode and NMS in one submission; only boxes come back.

use std::sync::Arc;

use super::buffer::{Readback, decode_f32};
use super::dispatch::Dispatch;
use super::{Gpu, GpuError, GpuSession};
use crate::convert::{self, Preprocess};
use crate::decode::candidates::read_detections;
use crate::decode::{Decoder, DetectionsHeader, GpuBinding, GpuDecode, RawDetection};
use crate::frame::{Colour, Frame, PixelFormat};
use crate::infer::plan::view::View;
use crate::letterbox::{FrameParams, Letterbox};
use crate::marshal::{Pack, Route};

/// The buffers and dispatches around the layers.
#[derive(Debug)]
pub struct FrameLoop {
    gpu: Arc<Gpu>,
    params: wgpu::Buffer,
    /// The picture's bytes, with room for the largest so far.
    picture: Option<Upload>,
    /// Where convert writes, and the copy into the input's layout where that is another.
    target: View,
    staging: Option<wgpu::Buffer>,
    pack: Option<Dispatch>,
    /// `None`: only the host can decode as the options ask.
    decode: Option<Decode>,
    overlay: super::draw::Overlay,
}

/// A picture buffer and the convert dispatch that reads it.
#[derive(Debug)]
struct Upload {
    bytes: wgpu::Buffer,
    format: PixelFormat,
    colour: Colour,
    convert: Dispatch,
}

/// Decode and NMS.
#[derive(Debug)]
struct Decode {
    candidates: wgpu::Buffer,
    dispatches: Vec<Dispatch>,
    detections: Readback,
}

impl Decode {
    fn new(gpu: &Gpu, session: &GpuSession, views: &[View], stages: &GpuDecode) -> Result<Decode, GpuError> {
        let candidates = gpu.storage_buffer("candidates", stages.candidates_bytes)?;
        let detections = gpu.storage_buffer("detections", stages.detections_bytes)?;
        let dispatches = stages
            .dispatches
            .iter()
            .map(|(variant, bindings)| {
                let buffers: Vec<&wgpu::Buffer> = bindings
                    .iter()
                    .map(|binding| match binding {
                        GpuBinding::Output(index) => session.buffer(views[*index].buffer),
                        GpuBinding::Candidates => &candidates,
                        GpuBinding::Detections => &detections,
                    })
                    .collect();
                gpu.dispatch(variant, &buffers)
            })
            .collect::<Result<_, _>>()?;
        let detections = Readback::new(gpu, &[(&detections, 0, stages.detections_bytes)])?;
        Ok(Decode { candidates, dispatches, detections })
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
            Some(stages) => Some(Decode::new(&gpu, session, &views, &stages)?),
            None => None,
        };
        let overlay = super::draw::Overlay::new(&gpu)?;
        Ok(FrameLoop { gpu, params, picture: None, target, staging, pack, decode, overlay })
    }

    /// Uploads a frame and submits all stages; returns without waiting.
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
        let upload = match self.picture.take() {
            Some(u)
                if (u.format, u.colour) == (frame.format, frame.colour)
                    && u.bytes.size() >= frame.bytes.len() as u64 =>
            {
                u
            }
            _ => self.prepare_upload(session, frame, &decoder.preprocess)?,
        };
        self.gpu.write(&upload.bytes, 0, &frame.bytes)?;
        self.gpu.write(&self.params, 0, bytemuck::bytes_of(&FrameParams::new(frame, letterbox)))?;
        if let Some(decode) = &self.decode {
            let header = decoder.candidates_header(letterbox);
            self.gpu.write(&decode.candidates, 0, bytemuck::bytes_of(&header))?;
        }
        let submission = self.gpu.submit(|encoder| {
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                upload.convert.encode(&mut pass);
                if let Some(pack) = &self.pack {
                    pack.encode(&mut pass);
                }
                session.encode(&mut pass);
                for dispatch in self.decode.iter().flat_map(|d| &d.dispatches) {
                    dispatch.encode(&mut pass);
                }
            }
            if let Some(decode) = &self.decode {
                decode.detections.encode(encoder);
            }
        })?;
        self.picture = Some(upload);
        if let Some(decode) = &self.decode {
            decode.detections.map(&self.gpu)?;
        }
        Ok(submission)
    }

    fn prepare_upload(&self, session: &GpuSession, frame: &Frame, preprocess: &Preprocess) -> Result<Upload, GpuError> {
        let bytes = self.gpu.storage_buffer("picture", frame.bytes.len())?;
        let variant = convert::variant(preprocess, frame.format, frame.colour, &self.target, session.precision())
            .map_err(|e| GpuError::Invalid(e.to_string()))?;
        let target = match &self.staging {
            Some(staging) => staging,
            None => session.buffer(self.target.buffer),
        };
        let convert = self.gpu.dispatch(&variant, &[&self.params, &bytes, target])?;
        Ok(Upload { bytes, format: frame.format, colour: frame.colour, convert })
    }

    /// Waits for a submission and gives its detections, in picture pixels. `None` when the shaders cannot: too many
    /// candidates, or options that only the host serves.
    ///
    /// # Errors
    /// When the device fails.
    pub fn detections(&self, submission: wgpu::SubmissionIndex) -> Result<Option<Vec<RawDetection>>, GpuError> {
        let Some(decode) = &self.decode else {
            self.gpu.wait(Some(submission))?;
            return Ok(None);
        };
        let bytes = decode.detections.take_after(&self.gpu, submission)?;
        let read: Option<(DetectionsHeader, Vec<RawDetection>)> =
            bytes.first().and_then(|bytes| read_detections(bytes));
        let Some((header, found)) = read else {
            return Err(GpuError::Device("the detections buffer is damaged".into()));
        };
        Ok(if header.overflowed() { None } else { Some(found) })
    }

    /// The overlay that draws on this device.
    pub fn overlay(&mut self) -> (&Gpu, &mut super::draw::Overlay) {
        (&self.gpu, &mut self.overlay)
    }
}

/// All outputs' whole buffers on the host, as f32: what the decoders' twins read.
///
/// # Errors
/// When the device fails.
pub fn read_output_buffers(session: &GpuSession) -> Result<Vec<Vec<f32>>, GpuError> {
    let plan = session.plan();
    let bytes_of = |view: &View| plan.buffer(view.buffer).len_elements * session.precision().size_bytes();
    let ranges: Vec<_> =
        plan.outputs.iter().map(|(_, view)| (session.buffer(view.buffer), 0, bytes_of(view))).collect();
    let bytes = session.gpu().download_ranges(&ranges)?;
    Ok(bytes.iter().map(|b| decode_f32(b, session.precision())).collect())
}
