//! A source on a thread of its own, and the one picture that waits to be shown.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::acquire::{AcquireError, Picture, Source};

/// What happens to a picture that nobody took before the next one came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It is dropped, and counted.
    Newest,
    /// The source waits; and a picture is shown for at least so long.
    Every(Duration),
}

/// What [`Feed::take`] gives.
#[derive(Debug)]
pub enum Fed {
    Picture(Box<Picture>, f64),
    /// Nothing new yet.
    Nothing,
    /// Something went wrong; the source may go on.
    Trouble(AcquireError),
    /// The source's end.
    End,
}

#[derive(Default)]
struct State {
    /// With the milliseconds that it took to get.
    waiting: Option<(Picture, f64)>,
    dropped: u64,
    troubles: VecDeque<AcquireError>,
    has_ended: bool,
    is_closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A source that gives nothing but errors has ended.
const TROUBLES_IN_A_ROW: usize = 1000;
const TROUBLES_KEPT: usize = 16;

/// The receiving end.
pub struct Feed {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    /// Starts the thread. `wake` is called on it whenever there is something to take.
    pub fn start(source: Box<dyn Source>, pace: Pace, wake: impl Fn() + Send + 'static) -> Feed {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || run(source, pace, &theirs, &wake));
        Feed { shared, thread: Some(thread) }
    }

    /// The waiting picture, at once.
    pub fn take(&self) -> Fed {
        let mut state = self.shared.lock();
        if let Some((picture, acquire_ms)) = state.waiting.take() {
            self.shared.changed.notify_all();
            return Fed::Picture(Box::new(picture), acquire_ms);
        }
        match state.troubles.pop_front() {
            Some(error) => Fed::Trouble(error),
            None if state.has_ended => Fed::End,
            None => Fed::Nothing,
        }
    }

    /// Pictures that came and were never taken.
    pub fn dropped(&self) -> u64 {
        self.shared.lock().dropped
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
        // A source that waits for a camera or a pipe is left behind; it ends with the process.
        if let Some(thread) = self.thread.take().filter(JoinHandle::is_finished) {
            drop(thread.join());
        }
    }
}

fn run(mut source: Box<dyn Source>, pace: Pace, shared: &Shared, wake: &dyn Fn()) {
    let mut due = Instant::now();
    let mut troubles = 0;
    loop {
        let begin = Instant::now();
        let next = source.next();
        let acquire_ms = begin.elapsed().as_secs_f64() * 1e3;
        let mut state = shared.lock();
        if let Pace::Every(hold) = pace {
            loop {
                let early = due.saturating_duration_since(Instant::now());
                if state.is_closed || (state.waiting.is_none() && early.is_zero()) {
                    break;
                }
                let patience = if early.is_zero() { Duration::from_secs(1) } else { early };
                state = match shared.changed.wait_timeout(state, patience) {
                    Ok((state, _)) => state,
                    Err(poisoned) => poisoned.into_inner().0,
                };
            }
            // A source that was held up does not hurry afterwards.
            due = due.max(Instant::now() - hold) + hold;
        }
        if state.is_closed {
            return;
        }
        match next {
            Some(Ok(picture)) => {
                troubles = 0;
                if state.waiting.replace((picture, acquire_ms)).is_some() {
                    state.dropped += 1;
                }
            }
            Some(Err(e)) => {
                troubles += 1;
                state.troubles.push_back(e);
                state.troubles.truncate(TROUBLES_KEPT);
                state.has_ended = troubles > TROUBLES_IN_A_ROW;
            }
            None => state.has_ended = true,
        }
        let is_over = state.has_ended;
        drop(state);
        wake();
        if is_over {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, PixelFormat};

    struct Numbers(u8, u8);

    impl Source for Numbers {
        fn next(&mut self) -> Option<Result<Picture, AcquireError>> {
            (self.0 < self.1).then(|| {
                self.0 += 1;
                let frame = Frame::new(1, 1, PixelFormat::Gray8, vec![self.0]).expect("frame");
                Ok(Picture { frame, origin: String::new() })
            })
        }

        fn len_hint(&self) -> Option<usize> {
            None
        }
    }

    fn all(feed: &Feed) -> Vec<u8> {
        let mut levels = Vec::new();
        loop {
            match feed.take() {
                Fed::Picture(picture, _) => levels.push(picture.frame.bytes[0]),
                Fed::Nothing => std::thread::sleep(Duration::from_millis(1)),
                Fed::Trouble(e) => panic!("{e}"),
                Fed::End => return levels,
            }
        }
    }

    #[test]
    fn every_picture_arrives_when_asked_for() {
        let feed = Feed::start(Box::new(Numbers(0, 50)), Pace::Every(Duration::ZERO), || ());
        assert_eq!(all(&feed), (1..=50).collect::<Vec<u8>>());
        assert_eq!(feed.dropped(), 0);
        assert!(matches!(feed.take(), Fed::End), "the end stays");
    }

    #[test]
    fn the_newest_wins_and_the_others_are_counted() {
        let feed = Feed::start(Box::new(Numbers(0, 50)), Pace::Newest, || ());
        while !feed.shared.lock().has_ended {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!((all(&feed), feed.dropped()), (vec![50], 49));
    }
}
