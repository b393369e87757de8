//! `eyas live`: a source of pictures, shown with its boxes in a window or drawn offscreen.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;

use eyas::acquire::{self, LiveOptions, Source};
use eyas::draw::Style;
use eyas::live::headless::HeadlessOptions;
use eyas::live::{FrameResult, Headless, Sink};
use eyas::{Detector, Error};
use serde_json::json;

use super::CliError;
use super::detect::{HeadArgs, json_detections};
use super::options::Common;
use super::report::{open_handles, print_line, rss_bytes};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// camera:N, a .y4m or .mjpeg file, '-' (YUV4MPEG2 on stdin), a picture, a directory, pattern: or pattern:WxH (a
    /// rendered building site), pattern:shapes [default: camera:0; pattern: with --headless or without a camera]
    #[arg(value_name = "SOURCE")]
    source: Option<String>,
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    head: HeadArgs,
    /// Draw every frame offscreen instead of in a window
    #[arg(long)]
    headless: bool,
    /// End after so many frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    frames: Option<u64>,
    /// With --headless: write the drawn frames here, a .y4m file or a directory of PNG pictures
    #[arg(short, long, value_name = "FILE or DIR", requires = "headless")]
    output: Option<PathBuf>,
    /// Size of the window [default: the first picture's]
    #[arg(long, value_name = "WxH", value_parser = super::options::parse_size)]
    window: Option<[usize; 2]>,
    /// Show no panel with rates and times
    #[arg(long)]
    no_panel: bool,
    /// Measure the stages by GPU timestamps; a few bytes are read back for that
    #[arg(long)]
    profile: bool,
    /// Show every frame in the window, instead of the newest when inference is slower than the source
    #[arg(long = "every-frame")]
    every: bool,
    /// Size to ask the camera for
    #[arg(long, value_name = "WxH", value_parser = super::options::parse_size)]
    camera_size: Option<[usize; 2]>,
    /// Start again at the source's end
    #[arg(long = "loop")]
    again: bool,
    /// One JSON object per frame on one line
    #[arg(long)]
    json: bool,
}

impl Args {
    fn live_options(&self) -> LiveOptions {
        LiveOptions {
            camera_px: self.camera_size.map_or([640, 480], |size| size.map(|v| v as u32)),
            #[cfg(feature = "gpu")]
            scene_gpu: self.scene_gpu(),
            ..Default::default()
        }
    }

    /// The GPU that renders scenes: the one that the detector would take.
    #[cfg(feature = "gpu")]
    fn scene_gpu(&self) -> Option<eyas::gpu::GpuOptions> {
        use super::options::BackendArg;
        let options = self.common.session_options().gpu_options();
        match self.common.backend {
            BackendArg::Cpu => None,
            BackendArg::Auto => Some(options),
            BackendArg::Gpu => Some(eyas::gpu::GpuOptions { allow_software: true, ..options }),
        }
    }

    fn uri(&self) -> &str {
        self.source.as_deref().unwrap_or(if self.headless { "pattern:" } else { "camera:0" })
    }

    fn open(&self) -> Result<Box<dyn Source>, CliError> {
        let mut uri = self.uri();
        let source = match acquire::open_live(uri, &self.live_options()) {
            Err(e) if self.source.is_none() => {
                log::warn!("no source given, and no camera: {e}; showing pattern:, a rendered building site");
                uri = "pattern:";
                acquire::open_live(uri, &self.live_options())
            }
            opened => opened,
        };
        let source = source.map_err(Error::from)?;
        let again = Again { uri: uri.to_string(), options: self.live_options(), source, frames: 0 };
        Ok(if self.again { Box::new(again) } else { again.source })
    }
}

pub fn run(args: &Args) -> Result<(), CliError> {
    if args.json && args.output.as_deref() == Some(std::path::Path::new("-")) {
        return Err(CliError::Usage("--json and -o - both write to standard output".into()));
    }
    // A source that is not there is told before the network is loaded.
    let source = args.open()?;
    if args.headless { headless(args, source) } else { window(args, source) }
}

#[cfg(not(feature = "window"))]
fn window(_: &Args, _: Box<dyn Source>) -> Result<(), CliError> {
    Err(CliError::Usage("this eyas was built without the feature 'window'; use --headless".into()))
}

#[cfg(feature = "window")]
fn window(args: &Args, source: Box<dyn Source>) -> Result<(), CliError> {
    use eyas::acquire::capture::{Pace, Reopen};
    use eyas::live::window::{OnResult, WindowOptions, run};

    let model = args.common.load_model()?;
    let options = WindowOptions {
        decode: args.head.options()?,
        session: args.common.session_options(),
        style: Style::default(),
        panel: !args.no_panel,
        profile: args.profile,
        size_px: args.window.map(|size| size.map(|v| v as u32)),
        pace: if args.every { Pace::Lossless } else { Pace::Newest },
        reopen: source.is_live().then(|| -> Reopen {
            let (uri, options) = (args.uri().to_string(), args.live_options());
            Box::new(move || acquire::open_live(&uri, &options))
        }),
        stays: source.len_hint().is_some(),
        frames: args.frames,
        directory: PathBuf::from("."),
    };
    let on_result: Option<OnResult> = args.json.then(|| -> OnResult {
        Box::new(|result, origin, detector| {
            print_line(&json_line(result, origin, detector)).map_err(|e| Error::Input(e.to_string()))
        })
    });
    let report = run(model, source, options, on_result)?;
    log::info!(
        "{} frames shown, {} dropped; upload and encode took the host {:.3} ms a frame, the driver's submit {:.3} ms",
        report.frames,
        report.dropped,
        report.encode_ms,
        report.submit_ms
    );
    log::info!("{}", report.map_operations);
    Ok(())
}

/// A source that starts again at its end.
struct Again {
    uri: String,
    options: LiveOptions,
    source: Box<dyn Source>,
    /// Frames since the last start; a source without any would go round for ever.
    frames: u64,
}

impl Source for Again {
    fn next(&mut self) -> Option<Result<acquire::Picture, acquire::AcquireError>> {
        if let Some(next) = self.source.next() {
            self.frames += u64::from(next.is_ok());
            return Some(next);
        }
        if std::mem::take(&mut self.frames) == 0 {
            return None;
        }
        match acquire::open_live(&self.uri, &self.options) {
            Ok(source) => self.source = source,
            Err(e) => return Some(Err(e)),
        }
        let next = self.source.next()?;
        self.frames += u64::from(next.is_ok());
        Some(next)
    }

    fn len_hint(&self) -> Option<usize> {
        None
    }

    fn frame_rate(&self) -> Option<[u32; 2]> {
        self.source.frame_rate()
    }

    fn is_live(&self) -> bool {
        self.source.is_live()
    }
}

/// When `-v` tells what the process holds: nothing may grow after the first of these.
fn is_footprint_due(frames: u64) -> bool {
    frames == 1000 || frames.is_multiple_of(10_000)
}

/// What the process holds now, where the system tells.
fn tell_footprint(frames: u64, live: &Headless) {
    let Some(bytes) = rss_bytes() else { return };
    let handles = open_handles().map_or(String::new(), |n| format!(", {n} open handles"));
    let objects = live.gpu_objects().map_or(String::new(), |n| format!(", {n} GPU objects"));
    log::info!("after frame {frames}: {:.1} MiB resident{handles}{objects}", bytes as f64 / 1_048_576.0);
}

/// A frame's line.
fn json_line(result: &FrameResult, origin: &str, detector: &Detector) -> String {
    json!({
        "frame": result.frame,
        "image": origin,
        "width": result.picture_px[0],
        "height": result.picture_px[1],
        "backend": detector.backend(),
        "adapter": detector.adapter(),
        "detections": json_detections(&result.detections),
    })
    .to_string()
}

fn print_results(
    results: Vec<FrameResult>,
    origins: &mut VecDeque<String>,
    detector: &Detector,
) -> Result<(), CliError> {
    for result in results {
        let origin = origins.pop_front().unwrap_or_default();
        print_line(&json_line(&result, &origin, detector))?;
    }
    Ok(())
}

fn headless(args: &Args, mut source: Box<dyn Source>) -> Result<(), CliError> {
    let model = args.common.load_model()?;
    let detector = Detector::of(model, &args.head.options()?, &args.common.session_options())?;
    log::info!("{} on {}", detector.backend(), detector.adapter());
    let rate = source.frame_rate().unwrap_or([30, 1]);
    let mut sink = args.output.as_deref().map(|path| Sink::open(path, rate)).transpose().map_err(Error::from)?;
    let options = HeadlessOptions {
        style: Style::default(),
        panel: !args.no_panel,
        pictures: sink.is_some(),
        results: args.json,
        profile: args.profile,
    };
    let size_px = args.window.map(|size| size.map(|v| v as u32));
    let mut live = Headless::new(detector, size_px, options);
    let mut waiting = VecDeque::new();
    let mut frames = 0u64;
    let start = Instant::now();
    let (mut failure, mut failures_in_a_row) = (None, 0);
    while args.frames.is_none_or(|limit| frames < limit) {
        let begin = Instant::now();
        let picture = match source.next() {
            Some(Ok(picture)) => picture,
            // The source goes on if it can: with the next picture of a directory.
            Some(Err(e)) => {
                failures_in_a_row += 1;
                if failures_in_a_row > 1000 {
                    break;
                }
                if let Some(earlier) = failure.replace(e) {
                    log::error!("{earlier}");
                }
                continue;
            }
            None => break,
        };
        failures_in_a_row = 0;
        live.push(&picture.frame, begin.elapsed().as_secs_f64() * 1e3)?;
        frames += 1;
        if is_footprint_due(frames) {
            tell_footprint(frames, &live);
        }
        if args.json {
            waiting.push_back(picture.origin);
            print_results(live.results(false)?, &mut waiting, live.detector())?;
        }
        if let Some(sink) = &mut sink {
            while let Some(drawn) = live.picture(false)? {
                sink.write(drawn).map_err(Error::from)?;
            }
        }
    }
    if let Some(sink) = &mut sink {
        while let Some(drawn) = live.picture(true)? {
            sink.write(drawn).map_err(Error::from)?;
        }
    }
    print_results(live.results(true)?, &mut waiting, live.detector())?;
    live.finish()?;
    let seconds = start.elapsed().as_secs_f64();
    if let Some(sink) = sink {
        sink.finish().map_err(Error::from)?;
    }
    log::info!(
        "{frames} frames in {seconds:.2} s: {:.1} a second; upload and encode took the host {:.3} ms a frame, the driver's \
         submit {:.3} ms",
        frames as f64 / seconds.max(1e-9),
        live.meter.median_encode_ms(),
        live.meter.median_submit_ms()
    );
    log::info!("{}", live.map_operations());
    match (failure, frames) {
        (Some(e), 0) => Err(Error::from(e).into()),
        (Some(e), n) => Err(CliError::Runtime(format!("{e} (after {n} complete frames)"))),
        (None, 0) => Err(CliError::Runtime("the source ended before its first frame".into())),
        (None, _) => Ok(()),
    }
}
