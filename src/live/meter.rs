//! What the corner panel says: rates and times, averaged over the last second or so.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::detector::{Detector, StageTimes};

/// How often the panel's text changes.
pub const REFRESH: Duration = Duration::from_millis(250);

/// Frames whose times on the host are kept.
const HOST_TIMES_KEPT: usize = 1000;

/// Share of the newest value in a running average.
const WEIGHT: f64 = 0.1;

/// Times of one frame in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FrameTimes {
    pub acquire: f64,
    /// Upload and encode: our side of the driver.
    pub encode: f64,
    /// The driver's part of it.
    pub submit: f64,
    /// Waiting for the GPU.
    pub wait: f64,
    /// On the CPU.
    pub stages: Option<StageTimes>,
}

/// Collects times and makes the panel's lines.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    last: Option<Instant>,
    shown: Option<Instant>,
    frame_ms: Average,
    acquire: Average,
    submit: Average,
    wait: Average,
    stages: [Average; 3],
    on_cpu: bool,
    /// Encode and submit of the last frames, for their medians.
    host_ms: VecDeque<[f64; 2]>,
    /// Passes on the device: convert, infer, decode, draw.
    pub device_ms: Option<[f64; 4]>,
    /// Frames that came and were not shown.
    pub dropped: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Average(Option<f64>);

impl Average {
    fn push(&mut self, value: f64) {
        self.0 = Some(self.0.map_or(value, |old| old + WEIGHT * (value - old)));
    }

    fn get(self) -> f64 {
        self.0.unwrap_or(0.0)
    }
}

impl Meter {
    /// Takes up one frame.
    pub fn push(&mut self, times: &FrameTimes) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.frame_ms.push(now.duration_since(last).as_secs_f64() * 1e3);
        }
        self.acquire.push(times.acquire);
        self.submit.push(times.encode + times.submit);
        self.wait.push(times.wait);
        if self.host_ms.len() == HOST_TIMES_KEPT {
            self.host_ms.pop_front();
        }
        self.host_ms.push_back([times.encode, times.submit]);
        self.on_cpu = times.stages.is_some();
        if let Some(ms) = &times.stages {
            for (average, value) in self.stages.iter_mut().zip([ms.convert + ms.marshal, ms.infer, ms.decode]) {
                average.push(value);
            }
        }
    }

    /// Time between frames does not count while nothing is played.
    pub fn pause(&mut self) {
        self.last = None;
    }

    /// Forgets the averages, for another backend.
    pub fn restart(&mut self) {
        *self = Meter { dropped: self.dropped, ..Meter::default() };
    }

    /// True when the text is due, and then again after [`REFRESH`].
    pub fn is_due(&mut self) -> bool {
        let due = self.shown.is_none_or(|shown| shown.elapsed() >= REFRESH);
        if due {
            self.shown = Some(Instant::now());
        }
        due
    }

    /// Makes the text due at once.
    pub fn hurry(&mut self) {
        self.shown = None;
    }

    pub fn frames_per_second(&self) -> f64 {
        match self.frame_ms.get() {
            ms if ms > 0.0 => 1e3 / ms,
            _ => 0.0,
        }
    }

    /// Milliseconds of our side of the driver a frame, upload and encode: the median of the last thousand frames, which
    /// leaves out what makes pipelines and what other programs interrupt.
    pub fn median_encode_ms(&self) -> f64 {
        self.median(0)
    }

    /// Milliseconds that the driver takes over a frame in: the median of the last thousand frames. A software driver
    /// computes it there.
    pub fn median_submit_ms(&self) -> f64 {
        self.median(1)
    }

    fn median(&self, part: usize) -> f64 {
        let mut sorted: Vec<f64> = self.host_ms.iter().map(|ms| ms[part]).collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
    }

    /// The panel's lines for what this detector does.
    pub fn panel(&self, detector: &Detector) -> Vec<String> {
        let confidence = detector.decoder().score_threshold;
        #[cfg(feature = "gpu")]
        if let Some(gpu) = detector.session().gpu() {
            return self.lines(&format!("GPU ({})", gpu.adapter.backend), &gpu.adapter.name, confidence);
        }
        self.lines("CPU", detector.adapter(), confidence)
    }

    fn lines(&self, backend: &str, adapter: &str, confidence: f32) -> Vec<String> {
        let mut lines = vec![format!("{:.1} fps  {:.1} ms", self.frames_per_second(), self.frame_ms.get())];
        if self.on_cpu {
            let [convert, infer, decode] = self.stages.map(Average::get);
            lines.push(format!("convert {convert:.1}  infer {infer:.1}  decode {decode:.1}"));
        } else if let Some([convert, infer, decode, draw]) = self.device_ms {
            lines.push(format!("convert {convert:.2}  infer {infer:.2}"));
            lines.push(format!("decode {decode:.2}  draw {draw:.2}"));
        }
        lines.push(format!(
            "acquire {:.1}  submit {:.1}  wait {:.1}",
            self.acquire.get(),
            self.submit.get(),
            self.wait.get()
        ));
        lines.push(format!("{backend}  conf {confidence:.2}  dropped {}", self.dropped));
        lines.push(shortened(adapter, 34));
        lines
    }
}

/// At most so many characters, with an ellipsis for the rest.
fn shortened(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some(_) => text.chars().take(characters - 1).chain(['…']).collect(),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_was_pushed() {
        let mut meter = Meter::default();
        meter.push(&FrameTimes { acquire: 1.0, encode: 0.25, submit: 0.5, wait: 7.0, stages: None });
        assert_eq!((meter.median_encode_ms(), meter.median_submit_ms()), (0.25, 0.5));
        assert_eq!(meter.frames_per_second(), 0.0, "one frame has no rate");
        meter.dropped = 3;
        meter.device_ms = Some([0.1, 2.0, 0.05, 0.2]);
        let lines = meter.lines("GPU", &"x".repeat(50), 0.25);
        assert_eq!(lines[1], "convert 0.10  infer 2.00");
        assert_eq!(lines[3], "acquire 1.0  submit 0.8  wait 7.0");
        assert_eq!(lines[4], "GPU  conf 0.25  dropped 3");
        assert_eq!(lines[5].chars().count(), 34);
        let stages = StageTimes { convert: 1.0, marshal: 0.5, infer: 20.0, decode: 0.25, ..StageTimes::default() };
        meter.push(&FrameTimes { stages: Some(stages), ..FrameTimes::default() });
        assert_eq!(meter.lines("CPU", "", 0.5)[1], "convert 1.5  infer 20.0  decode 0.2");
        assert!(meter.frames_per_second() > 0.0);
        meter.restart();
        assert_eq!((meter.dropped, meter.device_ms), (3, None));
    }
}
