//! The overlay window: winit's events in, the newest frame on a surface.
//!
//! Nothing that a window system does ends it: a surface that is outdated or lost is made again, a device that is lost is
//! opened again, and while nothing of the window can be seen, frames are still inferred. The state of the window and the
//! handlers of its events are one file; keys and surface have their own.

mod keys;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use winit::application::ApplicationHandler;
use winit::dpi::PhysicalSize;
use winit::event::{ElementState, KeyEvent, WindowEvent};
use winit::event_loop::{ActiveEventLoop, ControlFlow, EventLoop};
use winit::window::{Window, WindowId};

use super::meter::{FrameTimes, REFRESH};
use super::surface::{Acquired, Surface};
use super::{FrameResult, KEYS, MapOperations, Meter, Placement};
use crate::acquire::capture::{Capture, CaptureOptions, Captured, Event, Pace, Reopen};
use crate::acquire::{Picture, Source};
use crate::decode::DecodeOptions;
use crate::detector::Detector;
use crate::draw::Style;
use crate::draw::panel::{Corner, text_box};
use crate::error::Error;
use crate::gpu::live::Target;
use crate::gpu::{GpuError, GpuOptions, LiveOverlay, offscreen};
use crate::session::{Backend, Model, Session, SessionOptions};

/// How long a message stays in the panel.
const MESSAGE: Duration = Duration::from_secs(4);

/// How often a hidden window is tried again.
const HIDDEN: Duration = Duration::from_millis(250);

/// Largest window that is opened on its own account.
const LARGEST_PX: [u32; 2] = [1600, 900];

/// What to show and how.
pub struct WindowOptions {
    pub decode: DecodeOptions,
    pub session: SessionOptions,
    pub style: Style,
    pub panel: bool,
    pub profile: bool,
    /// Size in physical pixels; `None`: the first picture's.
    pub size_px: Option<[u32; 2]>,
    pub pace: Pace,
    /// For cameras: how to open the source again after it went away.
    pub reopen: Option<Reopen>,
    /// Stay at the source's end, for pictures.
    pub stays: bool,
    /// Close after so many frames.
    pub frames: Option<u64>,
    /// Where `s` saves to.
    pub directory: PathBuf,
}

impl Default for WindowOptions {
    /// The newest picture of the source at its own rate, with the panel, until the source ends.
    fn default() -> WindowOptions {
        WindowOptions {
            decode: DecodeOptions::default(),
            session: SessionOptions::default(),
            style: Style::default(),
            panel: true,
            profile: false,
            size_px: None,
            pace: Pace::Newest,
            reopen: None,
            stays: false,
            frames: None,
            directory: PathBuf::from("."),
        }
    }
}

/// Gets detections with the name of their picture and the backend that found them.
pub type OnResult = Box<dyn FnMut(&FrameResult, &str, &Detector) -> Result<(), Error>>;

/// What happened until the window was closed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WindowReport {
    /// Frames that were inferred.
    pub frames: u64,
    pub dropped: u64,
    pub map_operations: MapOperations,
    /// Upload and encode, and the driver's submission: medians of the last frames.
    pub encode_ms: f64,
    pub submit_ms: f64,
}

/// A surface and what draws on it.
struct View {
    surface: Surface,
    overlay: LiveOverlay,
    /// What hidden frames are drawn on.
    nowhere: wgpu::TextureView,
    gpu_detector: Option<Detector>,
    /// Map operations for saved pictures.
    saved_reads: u64,
}

struct App {
    model: Model,
    options: WindowOptions,
    on_result: Option<OnResult>,
    capture: Capture,
    next: Option<(Picture, f64)>,
    last: Option<Picture>,
    origins: VecDeque<String>,
    window: Option<Arc<Window>>,
    view: Option<View>,
    cpu_detector: Option<Detector>,
    on_gpu: bool,
    meter: Meter,
    report: WindowReport,
    confidence: Option<f32>,
    is_paused: bool,
    shows_help: bool,
    is_hidden: bool,
    /// The source told of something since the last look.
    has_news: bool,
    /// When a hidden window was tried last.
    tried: Instant,
    /// The last frame must be inferred again, as the threshold or the backend changed while paused.
    is_stale: bool,
    has_ended: bool,
    /// Frames came since the panel's text was made.
    text_is_old: bool,
    message: Option<(String, Instant)>,
    saves: u64,
    reopened: Vec<Instant>,
    error: Option<Error>,
    /// The last error of the source; it counts if the source ends.
    trouble: Option<Error>,
    is_connected: bool,
}

/// Shows `source` until the window is closed or the source ends.
///
/// # Errors
/// When there is no window system or no adapter that can draw on a window, when the device fails again and again, and
/// what ended the source if that was no plain end. All complete frames before that were shown.
pub fn run(
    model: Model,
    mut source: Box<dyn Source>,
    mut options: WindowOptions,
    on_result: Option<OnResult>,
) -> Result<WindowReport, Error> {
    // The first picture gives the window its size; and a source that has none needs no window.
    let begin = Instant::now();
    let first = match source.next() {
        Some(picture) => picture?,
        None => return Err(Error::Input("the source ended before its first frame".into())),
    };
    let acquire_ms = begin.elapsed().as_secs_f64() * 1e3;
    let event_loop = EventLoop::<()>::with_user_event()
        .build()
        .map_err(|e| Error::Input(format!("no window system: {e}; use --headless")))?;
    let proxy = event_loop.create_proxy();
    let capture_options = CaptureOptions {
        reopen: options.reopen.take(),
        notify: Some(Box::new(move || {
            // The loop may have ended already.
            let _ = proxy.send_event(());
        })),
        ..CaptureOptions::new(options.pace)
    };
    let capture = Capture::start(source, capture_options)
        .map_err(|e| Error::Input(format!("the system gives no thread for the source: {e}")))?;
    let mut app = App {
        model,
        options,
        on_result,
        capture,
        next: Some((first, acquire_ms)),
        last: None,
        origins: VecDeque::new(),
        window: None,
        view: None,
        cpu_detector: None,
        on_gpu: false,
        meter: Meter::default(),
        report: WindowReport::default(),
        confidence: None,
        is_paused: false,
        shows_help: false,
        is_hidden: false,
        has_news: false,
        tried: Instant::now(),
        is_stale: false,
        has_ended: false,
        text_is_old: false,
        message: None,
        saves: 0,
        reopened: Vec::new(),
        error: None,
        trouble: None,
        is_connected: true,
    };
    event_loop.run_app(&mut app).map_err(|e| Error::Input(format!("the window system failed: {e}")))?;
    app.close()
}

impl App {
    fn close(mut self) -> Result<WindowReport, Error> {
        if !matches!(self.error, Some(Error::Gpu(_))) {
            self.deliver(true)?;
        }
        self.report.dropped = self.capture.dropped();
        self.report.encode_ms = self.meter.median_encode_ms();
        self.report.submit_ms = self.meter.median_submit_ms();
        self.count_reads();
        let trouble = self.trouble.take().filter(|_| self.has_ended);
        match self.error.take().or(trouble) {
            Some(error) => Err(error),
            None => Ok(self.report),
        }
    }

    /// Takes what was read back on the open device into the report.
    fn count_reads(&mut self) {
        let Some(view) = &self.view else { return };
        let (saved, statistics) = (view.saved_reads, view.overlay.statistics_reads());
        let reads = &mut self.report.map_operations;
        reads.in_loop += view.surface.gpu.map_operations().saturating_sub(saved + statistics);
        reads.for_pictures += saved;
        reads.for_statistics += statistics;
    }

    fn open_window(&mut self, event_loop: &ActiveEventLoop) -> Result<(), Error> {
        if self.window.is_none() {
            let picture = self.next.as_ref().map(|(picture, _)| [picture.frame.width, picture.frame.height]);
            let size = self.options.size_px.unwrap_or_else(|| {
                let picture = picture.unwrap_or([640, 480]);
                let limits = [0, 1].map(|axis| LARGEST_PX[axis].min(picture[axis].max(160)));
                Placement::new(picture, limits).content_px
            });
            let attributes = Window::default_attributes()
                .with_title("eyas live")
                .with_inner_size(PhysicalSize::new(size[0], size[1]));
            let window = event_loop
                .create_window(attributes)
                .map_err(|e| Error::Input(format!("cannot open a window: {e}; use --headless")))?;
            self.window = Some(Arc::new(window));
        }
        if self.view.is_none()
            && let Some(window) = self.window.clone()
        {
            let display = Box::new(event_loop.owned_display_handle());
            self.open_view(&window, display)?;
        }
        Ok(())
    }

    fn open_view(
        &mut self,
        window: &Arc<Window>,
        display: Box<dyn wgpu::wgt::WgpuHasDisplayHandle>,
    ) -> Result<(), Error> {
        let session = &self.options.session;
        let gpu_options = GpuOptions { allow_software: true, ..session.gpu_options() };
        let surface = Surface::open(window, display, &gpu_options)?;
        let gpu = &surface.gpu;
        let mut overlay = LiveOverlay::new(Arc::clone(gpu), surface.format, self.options.style)?;
        overlay.collect_results(self.on_result.is_some());
        if self.options.profile && !overlay.measure_passes()? {
            log::warn!("{} has no timestamps: the panel shows the host's clock alone", gpu.adapter);
        }
        let nowhere =
            offscreen::canvas(gpu, [1, 1], surface.format)?.create_view(&wgpu::TextureViewDescriptor::default());
        let infers = match session.backend {
            Backend::Gpu => true,
            Backend::Cpu => false,
            Backend::Auto => !gpu.adapter.is_software,
        };
        self.view = Some(View { surface, overlay, nowhere, gpu_detector: None, saved_reads: 0 });
        if self.confidence.is_none() {
            self.on_gpu = infers;
        }
        self.make_detector()?;
        Ok(())
    }

    /// Makes the detector of the chosen backend if it is not there yet.
    fn make_detector(&mut self) -> Result<(), Error> {
        let Some(view) = &mut self.view else { return Ok(()) };
        let kept = if self.on_gpu { &mut view.gpu_detector } else { &mut self.cpu_detector };
        let detector = match kept {
            Some(detector) => detector,
            None => {
                let decoder = self.model.decoder(&self.options.decode)?;
                let session = if self.on_gpu {
                    Session::on_device(&self.model, Arc::clone(&view.surface.gpu), self.options.session.precision)?
                } else {
                    Session::new(
                        &self.model,
                        &SessionOptions { backend: Backend::Cpu, ..self.options.session.clone() },
                    )?
                };
                let made = Detector::with_session(session, decoder)?;
                log::info!("{} on {}", made.backend(), made.adapter());
                kept.insert(made)
            }
        };
        let confidence = *self.confidence.get_or_insert(detector.decoder().score_threshold);
        detector.set_score_threshold(confidence);
        Ok(())
    }

    fn say(&mut self, text: String) {
        log::info!("{text}");
        self.message = Some((text, Instant::now()));
        self.meter.hurry();
    }

    fn request_redraw(&self) {
        if let Some(window) = &self.window {
            window.request_redraw();
        }
    }

    /// Takes the next picture from the source.
    fn fetch(&mut self) {
        if self.next.is_some() || self.is_paused || self.has_ended {
            return;
        }
        match self.capture.take() {
            Event::Frame(Captured { picture, acquire_ms, .. }) => self.next = Some((picture, acquire_ms)),
            Event::Waiting => {}
            Event::Failed(error) => {
                self.say(error.to_string());
                self.trouble = Some(error.into());
                // There may be more to take.
                self.request_redraw();
            }
            Event::Ended => self.has_ended = true,
        }
        if self.is_connected != self.capture.is_connected() {
            self.is_connected = !self.is_connected;
            self.say(if self.is_connected { "the camera is back".into() } else { "waiting for the camera".into() });
        }
    }

    /// Infers and shows what there is to show. Errors of a lost device are answered by opening it again.
    fn step(&mut self, event_loop: &ActiveEventLoop) {
        self.fetch();
        let drawn = self.draw();
        let failed = match self.or_reopen(drawn, event_loop) {
            Ok(()) => false,
            Err(error) => {
                self.error = Some(error);
                true
            }
        };
        let enough = self.options.frames.is_some_and(|limit| self.report.frames >= limit);
        let over = self.has_ended && self.next.is_none() && !self.options.stays;
        if enough || over || failed {
            event_loop.exit();
        }
    }

    /// Answers the loss of the device by opening it again.
    fn or_reopen(&mut self, done: Result<(), Error>, event_loop: &ActiveEventLoop) -> Result<(), Error> {
        match done {
            Err(Error::Gpu(GpuError::Lost(why))) => self.reopen(event_loop, &why),
            other => other,
        }
    }

    fn reopen(&mut self, event_loop: &ActiveEventLoop, why: &str) -> Result<(), Error> {
        self.reopened.retain(|at| at.elapsed() < Duration::from_secs(60));
        if self.reopened.len() >= 3 {
            return Err(GpuError::Lost(format!("{why}, and again after {} new starts", self.reopened.len())).into());
        }
        self.reopened.push(Instant::now());
        self.count_reads();
        self.view = None;
        self.origins.clear();
        self.open_window(event_loop)?;
        self.say("the GPU was lost and opened again".into());
        self.is_stale = true;
        self.request_redraw();
        Ok(())
    }

    fn draw(&mut self) -> Result<(), Error> {
        let Some(window) = self.window.clone() else { return Ok(()) };
        let size = window.inner_size();
        self.is_hidden |= size.width == 0 || size.height == 0;
        let begin = Instant::now();
        let texture = if self.is_hidden { None } else { self.surface_texture(&window)? };
        let surface_ms = begin.elapsed().as_secs_f64() * 1e3;
        if texture.is_none() && self.next.is_none() {
            return Ok(());
        }
        self.update_text()?;
        let Some(view) = &mut self.view else { return Ok(()) };
        let Some(detector) = (if self.on_gpu { view.gpu_detector.as_mut() } else { self.cpu_detector.as_mut() }) else {
            return Ok(());
        };
        let shown = texture.as_ref().map(|texture| view.surface.view_of(texture));
        let target = match &shown {
            Some(shown) => Target { view: shown, size_px: view.surface.size_px() },
            None => Target { view: &view.nowhere, size_px: [1, 1] },
        };
        let fresh = self.next.take();
        let acquire_ms = fresh.as_ref().map(|(_, ms)| *ms);
        if let Some((picture, _)) = fresh {
            self.last = Some(picture);
        }
        let Some(last) = &self.last else { return Ok(()) };
        let infers = acquire_ms.is_some() || self.is_stale;
        let drawn = view.overlay.draw(detector, infers.then_some(&last.frame), target, |_| ())?;
        let begin = Instant::now();
        if let Some(texture) = texture {
            window.pre_present_notify();
            view.surface.gpu.queue.present(texture);
        }
        // Some drivers wait for the frame here.
        let present_ms = begin.elapsed().as_secs_f64() * 1e3;
        self.is_stale = false;
        if infers {
            self.origins.push_back(last.origin.clone());
        }
        if let Some(acquire) = acquire_ms {
            self.report.frames += 1;
            self.text_is_old = true;
            let stages = (!self.on_gpu || drawn.host_decoded).then_some(drawn.ms);
            let wait = drawn.wait_ms + surface_ms + present_ms;
            let (encode, submit) = (drawn.encode_ms, drawn.submit_ms);
            self.meter.push(&FrameTimes { acquire, encode, submit, wait, stages });
            self.meter.device_ms = view.overlay.device_times().map(|t| [t.convert, t.infer, t.decode, t.draw]);
            self.meter.dropped = self.capture.dropped();
            if drawn.host_decoded && drawn.frame == 0 {
                log::warn!(
                    "the GPU alone cannot do this network as asked: frames are read back and finished on the host"
                );
            }
        }
        self.deliver(false)
    }

    /// Hands detections that have arrived to who wants them.
    fn deliver(&mut self, wait: bool) -> Result<(), Error> {
        let (Some(on_result), Some(view)) = (&mut self.on_result, &mut self.view) else {
            self.origins.clear();
            return Ok(());
        };
        let detector = if self.on_gpu { view.gpu_detector.as_ref() } else { self.cpu_detector.as_ref() };
        let Some(detector) = detector else { return Ok(()) };
        for result in view.overlay.results(detector.decoder(), wait)? {
            let origin = self.origins.pop_front().unwrap_or_default();
            on_result(&result, &origin, detector)?;
        }
        Ok(())
    }

    /// The surface's next texture; `None` when there is none to draw on now.
    fn surface_texture(&mut self, window: &Arc<Window>) -> Result<Option<wgpu::SurfaceTexture>, Error> {
        let Some(view) = &mut self.view else { return Ok(None) };
        Ok(match view.surface.acquire(window)? {
            Acquired::Texture(texture) => Some(texture),
            Acquired::Hidden => {
                self.is_hidden = true;
                None
            }
            Acquired::Nothing => None,
        })
    }

    /// Renews panel and help where it is time.
    fn update_text(&mut self) -> Result<(), Error> {
        if self.message.as_ref().is_some_and(|(_, since)| since.elapsed() > MESSAGE) {
            self.message = None;
            self.meter.hurry();
        }
        let has_picture = self.next.is_some() || self.last.is_some();
        if self.view.is_none() || !has_picture || !self.meter.is_due() {
            return Ok(());
        }
        self.text_is_old = false;
        self.set_text(true)
    }

    /// Renews panel and, with `notes`, what else the window says: that it is paused, its last message, the help.
    fn set_text(&mut self, notes: bool) -> Result<(), Error> {
        let picture = self.next.as_ref().map(|(picture, _)| picture).or(self.last.as_ref());
        let (Some(view), Some(picture)) = (&mut self.view, picture) else { return Ok(()) };
        let detector = if self.on_gpu { view.gpu_detector.as_ref() } else { self.cpu_detector.as_ref() };
        let Some(detector) = detector else { return Ok(()) };
        let mut lines = Vec::new();
        if self.options.panel {
            lines = self.meter.panel(detector);
        }
        if notes && self.is_paused {
            lines.push("paused".into());
        }
        lines.extend(self.message.iter().filter(|_| notes).map(|(text, _)| text.clone()));
        let size_px = view.surface.size_px();
        let placement = Placement::new([picture.frame.width, picture.frame.height], size_px);
        let atlas = self.options.style.atlas(placement.content_px);
        let mut list = text_box(&lines, size_px, Corner::TopLeft, &atlas);
        if notes && self.shows_help {
            let help: Vec<String> = KEYS.iter().map(|(key, what)| format!("{key}: {what}")).collect();
            let help = text_box(&help, size_px, Corner::BottomLeft, &atlas);
            let overlap = help.first().zip(list.first()).is_some_and(|(h, p)| h.rect_px[1] < p.rect_px[3]);
            if overlap {
                list.clear();
            }
            list.extend(help);
        }
        view.overlay.set_text(&list)?;
        Ok(())
    }
}

impl ApplicationHandler for App {
    fn resumed(&mut self, event_loop: &ActiveEventLoop) {
        if let Err(error) = self.open_window(event_loop) {
            self.error = Some(error);
            self.has_ended = true;
            event_loop.exit();
            return;
        }
        self.is_hidden = false;
        self.request_redraw();
    }

    fn suspended(&mut self, _: &ActiveEventLoop) {
        // On phones the surface goes away; all is made again on the next `resumed`.
        if cfg!(any(target_os = "android", target_os = "ios")) {
            self.count_reads();
            self.view = None;
            self.origins.clear();
            self.is_stale = true;
        }
    }

    fn user_event(&mut self, _: &ActiveEventLoop, (): ()) {
        // No more than a note: winit hands all of these out before the window's own events. The source sends one for each
        // frame, so work that is slower than the source would keep keys and the window's return away for ever.
        self.has_news = true;
        if !self.is_hidden {
            self.request_redraw();
        }
    }

    fn window_event(&mut self, event_loop: &ActiveEventLoop, _: WindowId, event: WindowEvent) {
        match event {
            WindowEvent::CloseRequested => event_loop.exit(),
            WindowEvent::Resized(size) => {
                self.is_hidden = size.width == 0 || size.height == 0;
                if let Some(view) = &mut self.view {
                    view.surface.resize(size);
                }
                self.meter.hurry();
                self.request_redraw();
            }
            WindowEvent::Occluded(hidden) => {
                self.is_hidden = hidden;
                self.request_redraw();
            }
            WindowEvent::KeyboardInput {
                event: KeyEvent { logical_key, state: ElementState::Pressed, repeat: false, .. },
                ..
            } => {
                let pressed = self.press(&logical_key, event_loop);
                if let Err(error) = self.or_reopen(pressed, event_loop) {
                    self.error = Some(error);
                    event_loop.exit();
                }
            }
            WindowEvent::RedrawRequested => self.step(event_loop),
            _ => {}
        }
    }

    fn about_to_wait(&mut self, event_loop: &ActiveEventLoop) {
        // A hidden window gets no redraw events on some systems.
        if std::mem::take(&mut self.has_news) && self.is_hidden {
            self.step(event_loop);
        }
        let wakes = if self.is_hidden {
            // Whether it is still hidden is found by trying.
            if self.tried.elapsed() >= HIDDEN && self.window.as_ref().is_some_and(|w| w.inner_size().width > 0) {
                self.tried = Instant::now();
                self.is_hidden = false;
                self.request_redraw();
            }
            Some(HIDDEN)
        } else {
            let message = self.message.as_ref().map(|(_, since)| MESSAGE.saturating_sub(since.elapsed()) + REFRESH);
            if self.text_is_old { Some(REFRESH) } else { message }
        };
        event_loop.set_control_flow(match wakes {
            Some(after) => ControlFlow::WaitUntil(Instant::now() + after),
            None => ControlFlow::Wait,
        });
    }

    fn new_events(&mut self, _: &ActiveEventLoop, cause: winit::event::StartCause) {
        if matches!(cause, winit::event::StartCause::ResumeTimeReached { .. }) {
            self.request_redraw();
        }
    }
}
