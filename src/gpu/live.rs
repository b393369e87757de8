//! The live view: a frame's bytes go up once; convert, marshal, layers, decode, NMS and the drawing on the target follow
//! in one submission. Nothing is read back, except what a caller asks for ([`LiveOverlay::collect_results`]).
//!
//! The target is any texture view: a window's surface, an offscreen texture, or a texture of a host application whose
//! device was handed in with [`Gpu::from_device`].

use std::sync::Arc;
use std::time::Instant;

use super::dispatch::Dispatch;
use super::draw::{Overlay, OverlayBinding, TargetView};
use super::pass_timer::PassTimer;
use super::results::{Pending, ResultRing};
use super::{Gpu, GpuError};
use crate::convert::{self, Preprocess};
use crate::decode::candidates::detections_bytes;
use crate::decode::points::PointList;
use crate::decode::{Decoder, Detection, DetectionsHeader};
use crate::detector::{Detector, StageTimes};
use crate::draw::layout::{self, DrawHeader};
use crate::draw::{Instance, Style};
use crate::error::Error;
use crate::frame::{Colour, Frame, PixelFormat};
use crate::letterbox::FrameParams;
use crate::live::{FrameResult, Placement, raw_detection};

/// Frames that may be under way on the device. Also the length of the rings of uploads and of results.
pub const FRAMES_IN_FLIGHT: usize = 3;

/// Rectangles of a detection at most: two rings of four, two of the bar, a glyph each for label and score.
const RECTANGLES_PER_DETECTION: usize = 10 + layout::LABEL_CHARACTERS + 4;

/// Rectangles of a point of a detection.
const RECTANGLES_PER_POINT: usize = 2;

/// Rectangles of the panel and the help together.
const TEXT_RECTANGLES: usize = 2048;

/// Where to draw.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Of the format that the overlay was made for; it is drawn over as a whole.
    pub view: &'a wgpu::TextureView,
    pub size_px: [u32; 2],
}

/// What a call of [`LiveOverlay::draw`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Drawn {
    /// Counts the frames (not the redraws) from 0.
    pub frame: u64,
    /// By the host's clock. On the CPU all stages up to decode; on a GPU only `total`.
    pub ms: StageTimes,
    /// Waiting for the device to have room for another frame.
    pub wait_ms: f64,
    /// Our side of the driver: upload and encode.
    pub encode_ms: f64,
    /// Handing it over. Software drivers compute the frame here.
    pub submit_ms: f64,
    /// True when the host had to take part, because the shaders cannot what the options ask for or because the network
    /// has operators that only the CPU computes: the frame was read back in between.
    pub host_decoded: bool,
}

/// Milliseconds on the device, by timestamps between passes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeviceTimes {
    pub convert: f64,
    pub infer: f64,
    pub decode: f64,
    pub draw: f64,
}

/// One place of the ring of uploads.
#[derive(Debug, Default)]
struct Slot {
    bytes: Option<wgpu::Buffer>,
    /// The way of `bytes` into the picture's texture, for frames of one kind.
    picture: Option<(FrameKind, Dispatch)>,
    in_flight: Option<wgpu::SubmissionIndex>,
}

/// Frames that one picture dispatch serves.
type FrameKind = ([u32; 2], PixelFormat, Colour);

/// The picture as a texture, and how it is shown.
#[derive(Debug)]
struct Shown {
    placement: Placement,
    texture: wgpu::Texture,
    /// The texels as convert writes them, with padded rows.
    words: wgpu::Buffer,
    text_px: u32,
    binding: OverlayBinding,
}

/// Draws frames with their detections. See the module's text.
#[derive(Debug)]
pub struct LiveOverlay {
    gpu: Arc<Gpu>,
    style: Style,
    overlay: Overlay,
    slots: [Slot; FRAMES_IN_FLIGHT],
    next_slot: usize,
    frames: u64,
    params: wgpu::Buffer,
    shown: Option<Shown>,
    labels: Option<wgpu::Buffer>,
    rectangles: Option<wgpu::Buffer>,
    /// Detections that were computed on the host.
    found: Option<wgpu::Buffer>,
    /// Those of them with a mask or a turned box, and the rectangles of these on the target.
    shaped: Vec<Detection>,
    shapes: Option<wgpu::Buffer>,
    shapes_are_old: bool,
    /// Layout dispatches by the buffer of detections that they read.
    layouts: Vec<(wgpu::Buffer, Dispatch)>,
    /// The buffer of detections that the last frame was drawn from, and how many points each has.
    source: Option<wgpu::Buffer>,
    points: usize,
    text: wgpu::Buffer,
    results: ResultRing,
    timer: Option<PassTimer>,
}

impl LiveOverlay {
    /// For targets of `format`, which must not be an sRGB one: pictures are gamma coded already.
    ///
    /// # Errors
    /// When the overlay's shader does not compile or memory is out.
    pub fn new(gpu: Arc<Gpu>, format: wgpu::TextureFormat, style: Style) -> Result<LiveOverlay, GpuError> {
        Ok(LiveOverlay {
            overlay: Overlay::with_format(&gpu, format)?,
            text: Overlay::buffer(&gpu, TEXT_RECTANGLES)?,
            params: gpu.storage_buffer("live params", size_of::<FrameParams>())?,
            gpu,
            style,
            slots: Default::default(),
            next_slot: 0,
            frames: 0,
            shown: None,
            labels: None,
            rectangles: None,
            found: None,
            shaped: Vec::new(),
            shapes: None,
            shapes_are_old: false,
            layouts: Vec::new(),
            source: None,
            points: 0,
            results: ResultRing::default(),
            timer: None,
        })
    }

    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// From the next frame on, brings the detections of every frame back through a ring of asynchronous readbacks.
    pub fn collect_results(&mut self, collects: bool) {
        self.results.collects = collects;
    }

    /// From the next frame on, measures passes by timestamps; a few bytes come back for that every few frames. False
    /// when the adapter has no timestamps.
    ///
    /// # Errors
    /// [`GpuError::Device`] or [`GpuError::Lost`].
    pub fn measure_passes(&mut self) -> Result<bool, GpuError> {
        if self.gpu.adapter.timestamps && self.timer.is_none() {
            self.timer = Some(PassTimer::new(&self.gpu, 4)?);
        }
        Ok(self.timer.is_some())
    }

    /// Map operations of [`LiveOverlay::measure_passes`] so far.
    pub fn statistics_reads(&self) -> u64 {
        self.timer.as_ref().map_or(0, |timer| timer.reads)
    }

    /// The last measured times of [`LiveOverlay::measure_passes`].
    pub fn device_times(&self) -> Option<DeviceTimes> {
        let &[convert, infer, decode, draw] = self.timer.as_ref()?.last_ms()? else { return None };
        Some(DeviceTimes { convert, infer, decode, draw })
    }

    /// Replaces the rectangles on top of everything, in pixels of the target; what is beyond the room is left out. They
    /// are drawn with the glyphs of [`LiveOverlay::text_px`].
    ///
    /// # Errors
    /// [`GpuError::Device`] or [`GpuError::Lost`].
    pub fn set_text(&mut self, list: &[Instance]) -> Result<(), GpuError> {
        let list = &list[..list.len().min(TEXT_RECTANGLES)];
        self.gpu.write(&self.text, 0, bytemuck::bytes_of(&DrawHeader::new(list.len())))?;
        self.gpu.write(&self.text, size_of::<DrawHeader>() as u64, bytemuck::cast_slice(list))
    }

    /// Size of the text for a picture on a target.
    pub fn text_px(&self, picture_px: [u32; 2], target_px: [u32; 2]) -> u32 {
        self.style.text_px(Placement::new(picture_px, target_px).content_px)
    }

    /// Finds objects in `frame` and draws both; with `None` it draws the last frame and its objects again, for a target
    /// that changed. `detector` may be another one than before, on this device or on the CPU, of the same network.
    /// `after` may append copies of the target. Returns when all is submitted.
    ///
    /// # Errors
    /// When the frame does not fit the device, or the device fails; [`Error::Input`] for `None` before any frame.
    pub fn draw(
        &mut self,
        detector: &mut Detector,
        frame: Option<&Frame>,
        target: Target<'_>,
        after: impl FnOnce(&mut wgpu::CommandEncoder),
    ) -> Result<Drawn, Error> {
        let start = Instant::now();
        let mut drawn = Drawn::default();
        let slot = self.next_slot;
        self.make_room(slot)?;
        drawn.wait_ms = ms_since(start);
        self.results.take(&self.gpu, detector.decoder(), false)?;
        if let Some(timer) = &mut self.timer {
            timer.collect(&self.gpu)?;
        }
        if self.results.collects && !detector.is_on(&self.gpu) {
            // Results come in the order of the frames, also where the backend changes.
            self.results.take(&self.gpu, detector.decoder(), true)?;
        }

        let host = Instant::now();
        let mut inference_ms = 0.0;
        let mut convert = None;
        if let Some(frame) = frame {
            frame.check().map_err(Error::Input)?;
            let picture_px = [frame.width, frame.height];
            let bytes = self.upload(slot, frame)?;
            if detector.is_on(&self.gpu)
                && let Some((session, frame_loop, decoder)) = detector.gpu_parts()
                && session.is_one_submission()
                && decoder.details_are_on_gpu()
                && let Some(found) = frame_loop.detections_buffer()
            {
                self.source = Some(found.clone());
                self.shaped.clear();
                self.points = decoder.head().cell_points().first().map_or(0, |scale| scale.points);
                let letterbox = decoder.preprocess.letterbox(picture_px);
                convert = Some((frame_loop.prepare(session, &bytes, frame, decoder, &letterbox)?, letterbox));
            } else {
                drawn.host_decoded = detector.is_on(&self.gpu);
                let begin = Instant::now();
                let (found, ms) = detector.process(frame)?;
                inference_ms = ms_since(begin);
                drawn.ms = ms;
                self.give(&found, detector.decoder().max_detections)?;
                self.results.push_found(FrameResult { frame: self.frames, picture_px, detections: found });
            }
        }
        self.place(detector.decoder(), frame, target.size_px)?;
        self.place_shapes()?;
        if let Some(frame) = frame {
            self.prepare_picture(slot, frame, &detector.decoder().preprocess)?;
        }
        let (Some(shown), Some(source), Some(labels)) = (&self.shown, &self.source, &self.labels) else {
            return Err(Error::Input("nothing to draw again: no frame was drawn yet".into()));
        };
        let per_detection = RECTANGLES_PER_DETECTION + RECTANGLES_PER_POINT * self.points;
        let room = per_detection * detector.decoder().max_detections;
        let rectangles = match &self.rectangles {
            Some(buffer) if buffer.size() >= layout::overlay_bytes(room) as u64 => buffer,
            _ => {
                self.layouts.clear();
                self.rectangles.insert(Overlay::buffer(&self.gpu, room)?)
            }
        };
        if !self.layouts.iter().any(|(of, _)| of == source) {
            let dispatch = self.gpu.dispatch(&layout::variant(), &[source, labels, rectangles])?;
            self.layouts.push((source.clone(), dispatch));
        }
        let lay_out = self.layouts.iter().find(|(of, _)| of == source).map(|(_, dispatch)| dispatch);
        let readback = match &convert {
            Some(_) => self.results.readback(&self.gpu, source)?,
            None => None,
        };
        let picture = self.slots[slot].picture.as_ref().filter(|_| frame.is_some()).map(|(_, dispatch)| dispatch);
        let parts = detector.gpu_parts();
        let (overlay, text) = (&self.overlay, &self.text);
        let shapes = self.shapes.as_ref().filter(|_| !self.shaped.is_empty());
        let timed = convert.is_some() && self.timer.as_mut().is_some_and(PassTimer::begin);
        let timer = self.timer.as_ref().filter(|_| timed);
        let timer_of = |pass: u32| timer.map(|timer| (timer, pass));
        let mut encoded = Instant::now();
        let submission = self.gpu.submit(|encoder| {
            match (&convert, parts) {
                (Some((convert, _)), Some((session, frame_loop, _))) if timed => {
                    {
                        let mut pass = compute_pass(encoder, timer_of(0));
                        picture.iter().for_each(|dispatch| dispatch.encode(&mut pass));
                        frame_loop.encode_convert(*convert, &mut pass);
                    }
                    session.encode(&mut compute_pass(encoder, timer_of(1)));
                    let mut pass = compute_pass(encoder, timer_of(2));
                    frame_loop.encode_decode(&mut pass);
                    lay_out.iter().for_each(|dispatch| dispatch.encode(&mut pass));
                }
                (Some((convert, _)), Some((session, frame_loop, _))) => {
                    let mut pass = compute_pass(encoder, None);
                    picture.iter().for_each(|dispatch| dispatch.encode(&mut pass));
                    frame_loop.encode_convert(*convert, &mut pass);
                    session.encode(&mut pass);
                    frame_loop.encode_decode(&mut pass);
                    lay_out.iter().for_each(|dispatch| dispatch.encode(&mut pass));
                }
                _ => {
                    let mut pass = compute_pass(encoder, None);
                    picture.iter().for_each(|dispatch| dispatch.encode(&mut pass));
                    lay_out.iter().for_each(|dispatch| dispatch.encode(&mut pass));
                }
            }
            if picture.is_some() {
                shown.encode_copy(encoder);
            }
            {
                let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
                    label: Some("live"),
                    color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                        view: target.view,
                        depth_slice: None,
                        resolve_target: None,
                        ops: wgpu::Operations {
                            load: wgpu::LoadOp::Clear(wgpu::Color::BLACK),
                            store: wgpu::StoreOp::Store,
                        },
                    })],
                    timestamp_writes: timer_of(3).map(|(timer, pass)| timer.render_writes(pass)),
                    ..wgpu::RenderPassDescriptor::default()
                });
                match shapes {
                    Some(shapes) => {
                        overlay.encode(&mut pass, &shown.binding, shapes);
                        overlay.encode_rectangles(&mut pass, &shown.binding, rectangles);
                    }
                    None => overlay.encode(&mut pass, &shown.binding, rectangles),
                }
                overlay.encode_rectangles(&mut pass, &shown.binding, text);
            }
            if let Some(timer) = timer {
                timer.resolve(encoder);
            }
            if let Some(readback) = &readback {
                readback.encode(encoder);
            }
            after(encoder);
            encoded = Instant::now();
        })?;
        drawn.encode_ms = encoded.duration_since(host).as_secs_f64() * 1e3 - inference_ms;
        drawn.submit_ms = ms_since(encoded);
        if timed && let Some(timer) = &mut self.timer {
            timer.map(&self.gpu)?;
        }
        if let (Some(readback), Some((_, letterbox))) = (readback, convert) {
            readback.map(&self.gpu)?;
            let (frame, source, submission) = (self.frames, source.clone(), submission.clone());
            self.results.push(Pending { frame, letterbox, readback, source, submission });
        }
        self.slots[slot].in_flight = Some(submission);
        self.next_slot = (slot + 1) % FRAMES_IN_FLIGHT;
        drawn.frame = self.frames;
        if frame.is_some() {
            self.frames += 1;
        }
        drawn.ms.total = ms_since(start);
        Ok(drawn)
    }

    /// Results that have arrived, in the order of their frames; with `wait`, those of all frames so far.
    ///
    /// # Errors
    /// When the device fails.
    pub fn results(&mut self, decoder: &Decoder, wait: bool) -> Result<Vec<FrameResult>, GpuError> {
        self.results.take(&self.gpu, decoder, wait)?;
        Ok(self.results.arrived())
    }

    /// Waits until all that was submitted is done.
    ///
    /// # Errors
    /// When the device fails.
    pub fn finish(&mut self) -> Result<(), GpuError> {
        (0..FRAMES_IN_FLIGHT).try_for_each(|slot| self.make_room(slot))
    }

    /// Waits for the oldest frame under way.
    pub(super) fn wait_oldest(&mut self) -> Result<(), GpuError> {
        let oldest = (0..FRAMES_IN_FLIGHT).map(|i| (self.next_slot + i) % FRAMES_IN_FLIGHT);
        let slot = oldest.into_iter().find(|&slot| self.slots[slot].in_flight.is_some());
        slot.map_or(Ok(()), |slot| self.make_room(slot))
    }

    fn make_room(&mut self, slot: usize) -> Result<(), GpuError> {
        match self.slots[slot].in_flight.take() {
            Some(submission) => self.gpu.wait(Some(submission)),
            None => self.gpu.check(),
        }
    }

    /// Puts the frame's bytes into a slot.
    fn upload(&mut self, slot: usize, frame: &Frame) -> Result<wgpu::Buffer, GpuError> {
        let bytes = match &self.slots[slot].bytes {
            Some(buffer) if buffer.size() >= frame.bytes.len() as u64 => buffer.clone(),
            _ => {
                self.slots[slot].picture = None;
                self.slots[slot].bytes.insert(self.gpu.storage_buffer("picture", frame.bytes.len())?).clone()
            }
        };
        self.gpu.write(&bytes, 0, &frame.bytes)?;
        Ok(bytes)
    }

    /// Uploads detections that the host found, in the form in which NMS writes them.
    fn give(&mut self, found: &[Detection], max_detections: usize) -> Result<(), GpuError> {
        let found = &found[..found.len().min(max_detections)];
        let points = PointList::of(found);
        let room = detections_bytes(max_detections, points.per_detection);
        let buffer = match &self.found {
            Some(buffer) if buffer.size() >= room as u64 => buffer,
            _ => {
                self.layouts.clear();
                self.found.insert(self.gpu.storage_buffer("found", room)?)
            }
        };
        let header = DetectionsHeader::new(found.len(), max_detections, points.per_detection);
        let mut bytes = bytemuck::bytes_of(&header).to_vec();
        for d in found {
            bytes.extend_from_slice(bytemuck::bytes_of(&raw_detection(d)));
        }
        bytes.resize(4 * header.points_at as usize, 0);
        bytes.extend_from_slice(bytemuck::cast_slice(&points.points));
        self.gpu.write(buffer, 0, &bytes)?;
        self.points = points.per_detection;
        self.shaped = found.iter().filter(|d| d.mask.is_some() || d.quad.is_some()).cloned().collect();
        self.shapes_are_old = true;
        self.source = Some(buffer.clone());
        Ok(())
    }

    /// Brings the picture's texture, its labels and its place on the target up to date.
    fn place(&mut self, decoder: &Decoder, frame: Option<&Frame>, target_px: [u32; 2]) -> Result<(), GpuError> {
        let picture_px = match (frame, &self.shown) {
            (Some(frame), _) => [frame.width, frame.height],
            (None, Some(shown)) => shown.placement.picture_px,
            (None, None) => return Ok(()),
        };
        let placement = Placement::new(picture_px, target_px);
        if self.shown.as_ref().is_none_or(|shown| shown.placement != placement) {
            self.shapes_are_old = true;
            let (table, atlas) = placement.labels(decoder, &self.style);
            let labels = match &self.labels {
                Some(buffer) if buffer.size() >= table.bytes().len() as u64 => buffer,
                _ => {
                    self.layouts.clear();
                    self.labels.insert(self.gpu.storage_buffer("labels", table.bytes().len())?)
                }
            };
            self.gpu.write(labels, 0, table.bytes())?;
            let view = TargetView {
                target_px: target_px.map(|v| v as f32),
                offset_px: placement.offset(),
                picture_per_target: placement.picture_per_target(),
                reserved: [0.0; 2],
            };
            self.shown = Some(match self.shown.take() {
                Some(old) if old.placement.picture_px == picture_px && old.text_px == atlas.text_px => {
                    old.binding.set_view(&self.gpu, view)?;
                    Shown { placement, ..old }
                }
                old => {
                    let same = old.filter(|old| old.placement.picture_px == picture_px);
                    let (texture, words) = match same {
                        Some(old) => (old.texture, old.words),
                        None => {
                            self.slots.iter_mut().for_each(|slot| slot.picture = None);
                            let words = convert::picture_row_words(picture_px[0]) as usize * picture_px[1] as usize;
                            let texture = picture_texture(&self.gpu, picture_px)?;
                            (texture, self.gpu.storage_buffer("picture words", 4 * words)?)
                        }
                    };
                    let texture_view = texture.create_view(&wgpu::TextureViewDescriptor::default());
                    let binding = self.overlay.bind(&self.gpu, &texture_view, &atlas, view)?;
                    Shown { placement, texture, words, text_px: atlas.text_px, binding }
                }
            });
        }
        Ok(())
    }

    /// Brings masks and turned boxes on the target up to date.
    fn place_shapes(&mut self) -> Result<(), GpuError> {
        let Some(shown) = &self.shown else { return Ok(()) };
        if self.shaped.is_empty() || !std::mem::take(&mut self.shapes_are_old) {
            return Ok(());
        }
        let list = shown.placement.shapes(&self.shaped, &self.style);
        let buffer = match &self.shapes {
            Some(buffer) if buffer.size() >= layout::overlay_bytes(list.len()) as u64 => buffer,
            _ => self.shapes.insert(Overlay::buffer(&self.gpu, list.len().next_power_of_two())?),
        };
        self.gpu.write(buffer, 0, bytemuck::bytes_of(&DrawHeader::new(list.len())))?;
        if !list.is_empty() {
            self.gpu.write(buffer, size_of::<DrawHeader>() as u64, bytemuck::cast_slice(&list))?;
        }
        Ok(())
    }

    /// Writes what the picture's dispatch reads, and makes it for another kind of frames.
    fn prepare_picture(&mut self, slot: usize, frame: &Frame, preprocess: &Preprocess) -> Result<(), GpuError> {
        let picture_px = [frame.width, frame.height];
        let params = FrameParams::new(frame, &preprocess.letterbox(picture_px));
        self.gpu.write(&self.params, 0, bytemuck::bytes_of(&params))?;
        let kind = (picture_px, frame.format, frame.colour);
        let slot = &mut self.slots[slot];
        if let (Some(shown), Some(bytes)) = (&self.shown, &slot.bytes)
            && slot.picture.as_ref().is_none_or(|(of, _)| *of != kind)
        {
            let variant = convert::picture_variant(frame.format, frame.colour, picture_px);
            slot.picture = Some((kind, self.gpu.dispatch(&variant, &[&self.params, bytes, &shown.words])?));
        }
        Ok(())
    }
}

impl Shown {
    /// Appends the copy of the texels into the texture.
    fn encode_copy(&self, encoder: &mut wgpu::CommandEncoder) {
        let [width, height] = self.placement.picture_px;
        let layout = wgpu::TexelCopyBufferLayout {
            offset: 0,
            bytes_per_row: Some(4 * convert::picture_row_words(width)),
            rows_per_image: None,
        };
        encoder.copy_buffer_to_texture(
            wgpu::TexelCopyBufferInfo { buffer: &self.words, layout },
            self.texture.as_image_copy(),
            super::draw::extent([width, height]),
        );
    }
}

fn picture_texture(gpu: &Gpu, size_px: [u32; 2]) -> Result<wgpu::Texture, GpuError> {
    let usage = wgpu::TextureUsages::TEXTURE_BINDING | wgpu::TextureUsages::COPY_DST;
    super::draw::texture(gpu, "picture", size_px, wgpu::TextureFormat::Rgba8Unorm, usage)
}

fn compute_pass<'e>(encoder: &'e mut wgpu::CommandEncoder, timer: Option<(&PassTimer, u32)>) -> wgpu::ComputePass<'e> {
    encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
        label: None,
        timestamp_writes: timer.map(|(timer, pass)| timer.compute_writes(pass)),
    })
}

fn ms_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
