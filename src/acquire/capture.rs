//! A source on a thread of its own.
//!
//! With [`Pace::Newest`] frames come at the source's own rate into one slot, and a newer frame replaces one that nobody
//! has taken: what is shown is never old, however slow the consumer. With [`Pace::Lossless`] every frame is delivered in
//! its order, and the next is read while the consumer works.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{AcquireError, Picture, Source};

/// Errors that wait to be taken. A source that fails faster than anybody looks has to wait.
const MAX_FAILURES: usize = 16;

/// How long a dropped [`Capture`] waits for its thread; one that is blocked in a read goes on alone.
const STOP_WAIT: Duration = Duration::from_millis(300);

/// Streams are shown this much faster than they say, so that a camera behind a pipe, whose clock runs ahead of ours,
/// never fills it up.
const DRIFT: f64 = 0.99;

/// What happens to frames that come faster than they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The newest wins. Files play at their own rate.
    Newest,
    /// The source waits: every frame is delivered.
    Lossless,
}

/// Opens a source again.
pub type Reopen = Box<dyn FnMut() -> Result<Box<dyn Source>, AcquireError> + Send>;

/// How a source is run.
pub struct CaptureOptions {
    pub pace: Pace,
    /// For cameras: how to open the source again after it has ended. Without it the end is the end.
    pub reopen: Option<Reopen>,
    /// How long to wait before each attempt.
    pub reopen_delay: Duration,
    /// Called on the capture thread after there is something new to take.
    pub notify: Option<Box<dyn Fn() + Send>>,
}

impl CaptureOptions {
    pub fn new(pace: Pace) -> CaptureOptions {
        CaptureOptions { pace, reopen: None, reopen_delay: Duration::from_secs(1), notify: None }
    }
}

/// A picture with its place in the stream.
#[derive(Clone, Debug)]
pub struct Captured {
    pub picture: Picture,
    /// Counts the source's pictures from 0, dropped ones too.
    pub number: u64,
    /// How long reading and decoding it took; for a camera, waiting for it too.
    pub acquire_ms: f64,
    /// When it was complete.
    pub at: Instant,
}

/// What [`Capture::take`] found.
#[derive(Debug)]
pub enum Event {
    Frame(Captured),
    /// One picture failed, or the source did; frames may follow.
    Failed(AcquireError),
    /// Nothing new yet.
    Waiting,
    /// Nothing will come any more.
    Ended,
}

#[derive(Default)]
struct Shared {
    slot: Option<Captured>,
    failures: VecDeque<AcquireError>,
    dropped: u64,
    disconnected: bool,
    paused: bool,
    stop: bool,
    ended: bool,
    /// The thread is done.
    left: bool,
}

struct Channel {
    shared: Mutex<Shared>,
    changed: Condvar,
}

impl Channel {
    /// A panic elsewhere leaves plain values behind, which are good.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready`, a stop, or the time is up; gives false after a stop.
    fn wait_until(&self, until: Option<Instant>, ready: impl Fn(&Shared) -> bool) -> bool {
        let mut shared = self.lock();
        loop {
            if shared.stop {
                return false;
            }
            if ready(&shared) {
                return true;
            }
            shared = match until {
                None => self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return true;
                    }
                    self.changed.wait_timeout(shared, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Changes the state and wakes all who wait for it.
    fn update(&self, change: impl FnOnce(&mut Shared)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// A source that runs on its own thread until it ends or this is dropped.
pub struct Capture {
    channel: Arc<Channel>,
    thread: Option<JoinHandle<()>>,
    frame_rate: Option<[u32; 2]>,
}

impl Capture {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(source: Box<dyn Source>, options: CaptureOptions) -> std::io::Result<Capture> {
        let channel = Arc::new(Channel { shared: Mutex::default(), changed: Condvar::new() });
        let frame_rate = source.frame_rate();
        let theirs = Arc::clone(&channel);
        let thread = thread::Builder::new().name("eyas capture".to_string()).spawn(move || {
            // Also when the source panics: nobody waits for ever.
            struct Leave(Arc<Channel>);
            impl Drop for Leave {
                fn drop(&mut self) {
                    self.0.update(|s| (s.ended, s.left) = (true, true));
                }
            }
            let leave = Leave(theirs);
            let notify = options.notify;
            Runner { channel: &leave.0, pace: options.pace, notify: notify.as_deref(), number: 0 }.run(
                source,
                options.reopen,
                options.reopen_delay,
            );
            drop(leave);
            if let Some(notify) = &notify {
                notify();
            }
        })?;
        Ok(Capture { channel, thread: Some(thread), frame_rate })
    }

    /// What has come: first a frame, then errors, then the end. Never waits.
    pub fn take(&self) -> Event {
        let mut shared = self.channel.lock();
        let event = if let Some(captured) = shared.slot.take() {
            Event::Frame(captured)
        } else if let Some(failure) = shared.failures.pop_front() {
            Event::Failed(failure)
        } else if shared.ended {
            Event::Ended
        } else {
            return Event::Waiting;
        };
        drop(shared);
        self.channel.changed.notify_all();
        event
    }

    /// As [`Capture::take`], but waits until there is something or the time is up.
    pub fn wait(&self, timeout: Duration) -> Event {
        let until = Instant::now().checked_add(timeout);
        self.channel.wait_until(until, |s| s.slot.is_some() || !s.failures.is_empty() || s.ended);
        self.take()
    }

    /// Frames that were replaced by a newer one before anybody took them.
    pub fn dropped(&self) -> u64 {
        self.channel.lock().dropped
    }

    /// False while a source that had ended is being opened again.
    pub fn is_connected(&self) -> bool {
        !self.channel.lock().disconnected
    }

    /// Holds a file or a stream where it is; a camera's frames are passed over, and not counted as dropped.
    pub fn set_paused(&self, paused: bool) {
        self.channel.update(|s| s.paused = paused);
    }

    /// Pictures per second as a ratio, where the source says it.
    pub fn frame_rate(&self) -> Option<[u32; 2]> {
        self.frame_rate
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.channel.update(|s| s.stop = true);
        let until = Instant::now() + STOP_WAIT;
        let mut shared = self.channel.lock();
        while !shared.left {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            shared = self.channel.changed.wait_timeout(shared, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(shared);
        if let Some(thread) = self.thread.take() {
            // A panic of the source was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// What the thread does.
struct Runner<'a> {
    channel: &'a Channel,
    pace: Pace,
    notify: Option<&'a (dyn Fn() + Send)>,
    number: u64,
}

impl Runner<'_> {
    fn notify(&self) {
        if let Some(notify) = self.notify {
            notify();
        }
    }

    fn run(&mut self, source: Box<dyn Source>, mut reopen: Option<Reopen>, delay: Duration) {
        let mut source = source;
        while self.play(source.as_mut()) {
            let Some(reopen) = &mut reopen else { return };
            // What has the device must go before it is opened again.
            drop(source);
            self.channel.update(|s| s.disconnected = true);
            self.notify();
            let mut said = String::new();
            source = loop {
                if !self.channel.wait_until(Instant::now().checked_add(delay), |_| false) {
                    return;
                }
                match reopen() {
                    Ok(opened) => break opened,
                    Err(e) => {
                        // Once, not every second.
                        let message = e.to_string();
                        if message != said {
                            said = message;
                            if !self.fail(e) {
                                return;
                            }
                        }
                    }
                }
            };
            self.channel.update(|s| s.disconnected = false);
            self.notify();
        }
    }

    /// Runs a source to its end; false after a stop.
    fn play(&mut self, source: &mut dyn Source) -> bool {
        let live = source.is_live();
        let period = match (self.pace, source.frame_rate()) {
            (Pace::Newest, Some([num, den])) if !live && num > 0 => {
                Some(Duration::from_secs_f64(f64::from(den) / f64::from(num) * DRIFT))
            }
            _ => None,
        };
        let mut due = Instant::now();
        loop {
            if !live {
                let paused = self.channel.lock().paused;
                if !self.channel.wait_until(None, |s| !s.paused) {
                    return false;
                }
                if paused {
                    due = Instant::now();
                }
            }
            let begun = Instant::now();
            let next = source.next();
            let picture = match next {
                None => return true,
                Some(Err(e)) => {
                    if !self.fail(e) {
                        return false;
                    }
                    continue;
                }
                Some(Ok(picture)) => picture,
            };
            let acquire_ms = begun.elapsed().as_secs_f64() * 1e3;
            if let Some(period) = period {
                if !self.channel.wait_until(Some(due), |_| false) {
                    return false;
                }
                // A source that is slower than it says sets the pace.
                due = due.max(Instant::now() - period) + period;
            }
            if self.pace == Pace::Lossless
                && !self.channel.wait_until(None, |s| s.slot.is_none() && s.failures.is_empty())
            {
                return false;
            }
            let captured = Captured { picture, number: self.number, acquire_ms, at: Instant::now() };
            self.number += 1;
            let mut stop = false;
            self.channel.update(|s| {
                stop = s.stop;
                if live && s.paused {
                    return;
                }
                s.dropped += u64::from(s.slot.replace(captured).is_some());
            });
            if stop {
                return false;
            }
            self.notify();
        }
    }

    /// Hands an error over; false after a stop.
    fn fail(&self, e: AcquireError) -> bool {
        let go_on = match self.pace {
            Pace::Lossless => self.channel.wait_until(None, |s| s.slot.is_none() && s.failures.is_empty()),
            Pace::Newest => self.channel.wait_until(None, |s| s.failures.len() < MAX_FAILURES),
        };
        if go_on {
            self.channel.update(|s| s.failures.push_back(e));
            self.notify();
        }
        go_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, PixelFormat};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Gives frames with their number as level, an error at every `fails_at`, and waits before each.
    struct Numbers {
        next: u8,
        end: u8,
        wait: Duration,
        rate: Option<[u32; 2]>,
        fails_at: Option<u8>,
        live: bool,
    }

    impl Numbers {
        fn to(end: u8) -> Numbers {
            Numbers { next: 0, end, wait: Duration::ZERO, rate: None, fails_at: None, live: false }
        }
    }

    impl Source for Numbers {
        fn next(&mut self) -> Option<Result<Picture, AcquireError>> {
            thread::sleep(self.wait);
            if self.next == self.end {
                return None;
            }
            self.next += 1;
            if self.fails_at == Some(self.next) {
                return Some(Err(AcquireError::NoInput));
            }
            let frame = Frame::new(1, 1, PixelFormat::Gray8, vec![self.next]).expect("frame");
            Some(Ok(Picture { frame, origin: "numbers".to_string(), number: None }))
        }

        fn len_hint(&self) -> Option<usize> {
            None
        }

        fn frame_rate(&self) -> Option<[u32; 2]> {
            self.rate
        }

        fn is_live(&self) -> bool {
            self.live
        }
    }

    /// All there is: levels, 0 for an error.
    fn all(capture: &Capture, each: Duration) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            match capture.wait(Duration::from_secs(20)) {
                Event::Frame(captured) => out.push(captured.picture.frame.bytes[0]),
                Event::Failed(_) => out.push(0),
                Event::Ended => return out,
                Event::Waiting => panic!("nothing came in 20 s after {out:?}"),
            }
            thread::sleep(each);
        }
    }

    #[test]
    fn lossless_delivers_everything_in_order() {
        let source = Numbers { fails_at: Some(4), ..Numbers::to(40) };
        let capture = Capture::start(Box::new(source), CaptureOptions::new(Pace::Lossless)).expect("thread");
        let found = all(&capture, Duration::from_millis(1));
        assert_eq!(found, (1..=40).map(|n| if n == 4 { 0 } else { n }).collect::<Vec<u8>>());
        assert_eq!(capture.dropped(), 0);
        assert!(matches!(capture.take(), Event::Ended), "the end stays");
    }

    #[test]
    fn the_newest_wins_and_the_others_are_counted() {
        let source = Numbers { wait: Duration::from_millis(2), fails_at: Some(100), ..Numbers::to(100) };
        let capture = Capture::start(Box::new(source), CaptureOptions::new(Pace::Newest)).expect("thread");
        let found = all(&capture, Duration::from_millis(15));
        assert!(found.contains(&0), "{found:?}");
        let frames: Vec<u8> = found.iter().copied().filter(|&level| level > 0).collect();
        assert!(frames.is_sorted() && frames.last() == Some(&99), "{frames:?}");
        assert_eq!(frames.len() as u64 + capture.dropped(), 99);
        assert!(capture.dropped() > 20, "{}", capture.dropped());
    }

    #[test]
    fn files_play_at_their_rate() {
        let source = Numbers { rate: Some([50, 1]), ..Numbers::to(11) };
        let begun = Instant::now();
        let capture = Capture::start(Box::new(source), CaptureOptions::new(Pace::Newest)).expect("thread");
        let found = all(&capture, Duration::ZERO);
        // Ten periods of 20 ms, a hundredth faster. How late a busy machine is has no limit.
        assert!(begun.elapsed() >= Duration::from_millis(190), "{:?}", begun.elapsed());
        assert_eq!(found.len() as u64 + capture.dropped(), 11);
    }

    #[test]
    fn a_pause_holds_a_file_and_passes_over_a_camera() {
        for live in [false, true] {
            let source = Numbers { wait: Duration::from_millis(1), live, ..Numbers::to(200) };
            let capture = Capture::start(Box::new(source), CaptureOptions::new(Pace::Newest)).expect("thread");
            let Event::Frame(mut before) = capture.wait(Duration::from_secs(20)) else { panic!("a frame") };
            capture.set_paused(true);
            thread::sleep(Duration::from_millis(20));
            // What was in the slot or on its way before the pause.
            if let Event::Frame(late) = capture.take() {
                before = late;
            }
            let dropped = capture.dropped();
            thread::sleep(Duration::from_millis(20));
            assert!(matches!(capture.take(), Event::Waiting));
            assert_eq!(capture.dropped(), dropped, "live {live}");
            capture.set_paused(false);
            let Event::Frame(after) = capture.wait(Duration::from_secs(20)) else { panic!("it goes on") };
            if live {
                assert!(after.number > before.number + 1, "frames passed meanwhile");
            } else {
                assert!(after.number > before.number);
            }
        }
    }

    #[test]
    fn a_lost_camera_is_opened_again() {
        let attempts = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&attempts);
        let mut options = CaptureOptions::new(Pace::Lossless);
        options.reopen_delay = Duration::from_millis(2);
        options.reopen = Some(Box::new(move || match counted.fetch_add(1, Ordering::Relaxed) {
            0..3 => Err(AcquireError::Camera { index: 0, reason: "it is not there".to_string() }),
            3 => Ok(Box::new(Numbers::to(2))),
            _ => Err(AcquireError::Camera { index: 0, reason: "it has gone for good".to_string() }),
        }));
        let capture = Capture::start(Box::new(Numbers::to(2)), options).expect("thread");
        let mut seen = Vec::new();
        while seen.len() < 6 {
            match capture.wait(Duration::from_secs(20)) {
                Event::Frame(captured) => seen.push(format!("{} {}", captured.number, captured.picture.frame.bytes[0])),
                Event::Failed(e) => seen.push(e.to_string()),
                other => panic!("{other:?} after {seen:?}"),
            }
        }
        let expected = ["0 1", "1 2", "camera 0: it is not there", "2 1", "3 2", "camera 0: it has gone for good"];
        assert_eq!(seen, expected, "a message once, however often it fails");
        assert!(!capture.is_connected());
        drop(capture);
        let after = attempts.load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(20));
        assert_eq!(attempts.load(Ordering::Relaxed), after, "the thread has stopped");
    }

    #[test]
    fn consumers_are_notified_and_a_blocked_source_does_not_hold_up_the_end() {
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        let mut options = CaptureOptions::new(Pace::Newest);
        options.notify = Some(Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        }));
        let capture = Capture::start(Box::new(Numbers::to(3)), options).expect("thread");
        let found = all(&capture, Duration::ZERO);
        drop(capture);
        assert_eq!(calls.load(Ordering::Relaxed), 4, "three frames and the end; taken: {found:?}");

        let source = Numbers { wait: Duration::from_secs(3600), ..Numbers::to(1) };
        let begun = Instant::now();
        drop(Capture::start(Box::new(source), CaptureOptions::new(Pace::Newest)).expect("thread"));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_source_that_panics_ends() {
        struct Panics;
        impl Source for Panics {
            fn next(&mut self) -> Option<Result<Picture, AcquireError>> {
                panic!("as the test wants it");
            }
            fn len_hint(&self) -> Option<usize> {
                None
            }
        }
        let capture = Capture::start(Box::new(Panics), CaptureOptions::new(Pace::Lossless)).expect("thread");
        assert!(matches!(capture.wait(Duration::from_secs(20)), Event::Ended));
    }
}
