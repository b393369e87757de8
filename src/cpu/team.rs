//! Threads of a CPU session.
//!
//! A network is a chain of jobs of ten microseconds to some milliseconds, each divided among the threads. Waking a
//! sleeping thread takes as long as a short job, so the threads of a team wait for the next job awake, for a time shorter
//! than a picture takes to come; then they sleep. The caller works too, and does not wait for threads that come late.

use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::threads::affinity;

/// How long a thread stays awake after its last job.
const AWAKE: Duration = Duration::from_micros(200);

/// Threads that wait for jobs. Dropping it ends them.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<Thread>,
    handles: Vec<JoinHandle<()>>,
    /// Where the caller works, when each thread has a processor of its own.
    home: Option<usize>,
}

/// What the caller and the workers both see.
struct Shared {
    /// Bit 0: a job is open. Above it: how many workers are at it.
    gate: AtomicUsize,
    /// Number of the open job, so that nobody takes one twice.
    number: AtomicUsize,
    job: UnsafeCell<Job>,
    /// The next task of the job.
    next: AtomicUsize,
    asleep: Vec<AtomicBool>,
    stop: AtomicBool,
    panicked: AtomicBool,
}

// SAFETY: `job` is written only while the gate is closed and nobody is at it, and read only after passing the gate.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in it is used only while the job's caller waits.
unsafe impl Send for Shared {}

const OPEN: usize = 1;
const ONE_WORKER: usize = 2;

/// Tasks `0..tasks` of a closure that is borrowed while the job is open.
#[derive(Clone, Copy)]
struct Job {
    call: unsafe fn(*const (), usize),
    closure: *const (),
    tasks: usize,
}

unsafe fn nothing(_: *const (), _: usize) {}

unsafe fn call<F: Fn(usize) + Sync>(closure: *const (), task: usize) {
    // SAFETY: made from a reference to F in `share`, which outlives the job.
    unsafe { (*closure.cast::<F>())(task) };
}

thread_local! {
    /// The team that jobs of this thread are shared with.
    static CURRENT: Cell<*const Team> = const { Cell::new(std::ptr::null()) };
}

/// Puts back the team that was current before.
struct Restore(*const Team);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Threads of the current team, or `None` outside of one.
pub fn current_threads() -> Option<usize> {
    let team = CURRENT.get();
    // SAFETY: set by `install`, which borrows the team for as long.
    (!team.is_null()).then(|| unsafe { (*team).threads() })
}

/// Calls `task(0..tasks)`, each once, on the threads of the current team; false, and nothing done, outside of one.
pub fn share<F: Fn(usize) + Sync>(tasks: usize, task: &F) -> bool {
    let team = CURRENT.get();
    if team.is_null() {
        return false;
    }
    // SAFETY: as above.
    unsafe { (*team).share(tasks, task) };
    true
}

impl Team {
    /// A team of `threads`, the caller of [`Team::install`] being one of them. When they are as many as the processors
    /// that this process may use, each gets one of its own: left alone, Linux was seen to keep two busy threads on one
    /// of two processors for half a second.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn new(threads: usize) -> std::io::Result<Team> {
        let processors = affinity::allowed_processors();
        let bound = threads > 1 && processors.len() == threads;
        // Threads that share a processor must not keep each other from it.
        let awake = if processors.is_empty() || processors.len() >= threads { AWAKE } else { Duration::ZERO };
        let shared = Arc::new(Shared {
            gate: AtomicUsize::new(0),
            number: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { call: nothing, closure: std::ptr::null(), tasks: 0 }),
            next: AtomicUsize::new(0),
            asleep: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
        });
        let mut team = Team { shared, workers: Vec::new(), handles: Vec::new(), home: bound.then(|| processors[0]) };
        for index in 1..threads {
            let shared = team.shared.clone();
            let processor = processors.get(index).copied().filter(|_| bound);
            let handle = std::thread::Builder::new().name(format!("eyas-{index}")).spawn(move || {
                if let Some(processor) = processor {
                    affinity::stay_on(processor);
                }
                shared.work(index - 1, awake);
            })?;
            team.workers.push(handle.thread().clone());
            team.handles.push(handle);
        }
        Ok(team)
    }

    /// The caller and the workers.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work` on this thread, with the team to share jobs with.
    pub fn install<R>(&self, work: impl FnOnce() -> R) -> R {
        let _home = self.home.map(affinity::Stay::on);
        let _restore = Restore(CURRENT.replace(self));
        self.wake();
        work()
    }

    fn wake(&self) {
        for (asleep, worker) in self.shared.asleep.iter().zip(&self.workers) {
            if asleep.load(Ordering::SeqCst) && asleep.swap(false, Ordering::SeqCst) {
                worker.unpark();
            }
        }
    }

    fn share<F: Fn(usize) + Sync>(&self, tasks: usize, task: &F) {
        // Jobs within a job are done by who comes across them.
        let _restore = Restore(CURRENT.replace(std::ptr::null()));
        let shared = &*self.shared;
        // SAFETY: the gate is closed and nobody is at the job before: `Close` saw to that.
        unsafe { *shared.job.get() = Job { call: call::<F>, closure: std::ptr::from_ref(task).cast(), tasks } };
        shared.next.store(0, Ordering::Relaxed);
        shared.number.fetch_add(1, Ordering::Relaxed);
        shared.gate.store(OPEN, Ordering::SeqCst);
        // Closes the gate and waits for those at the job, also when a task of ours panics.
        let close = Close(shared);
        self.wake();
        loop {
            let i = shared.next.fetch_add(1, Ordering::Relaxed);
            if i >= tasks {
                break;
            }
            task(i);
        }
        drop(close);
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a thread of the session panicked");
    }
}

struct Close<'a>(&'a Shared);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.gate.fetch_and(!OPEN, Ordering::SeqCst);
        let mut spins = 0u32;
        while self.0.gate.load(Ordering::Acquire) != 0 {
            spins += 1;
            // Who is still at it may have lost its processor to somebody.
            if spins.is_multiple_of(4096) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }
}

impl Shared {
    fn work(&self, index: usize, awake: Duration) {
        let mut done = 0;
        while !self.stop.load(Ordering::SeqCst) {
            if !self.take_part(&mut done) {
                self.wait(index, done, awake);
            }
        }
    }

    /// Whether there was a job, and this thread was not at it before.
    fn take_part(&self, done: &mut usize) -> bool {
        let mut gate = self.gate.load(Ordering::SeqCst);
        if gate & OPEN == 0 || self.number.load(Ordering::Relaxed) == *done {
            return false;
        }
        loop {
            match self.gate.compare_exchange(gate, gate + ONE_WORKER, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break,
                Err(now) if now & OPEN == 0 => return false,
                Err(now) => gate = now,
            }
        }
        // While a worker is at it, the job stays.
        *done = self.number.load(Ordering::Relaxed);
        // SAFETY: the gate was open; the caller waits for this thread before it changes the job.
        let job = unsafe { *self.job.get() };
        let tasks = AssertUnwindSafe(|| {
            loop {
                let i = self.next.fetch_add(1, Ordering::Relaxed);
                if i >= job.tasks {
                    return;
                }
                // SAFETY: the closure is borrowed until the caller has waited for this thread.
                unsafe { (job.call)(job.closure, i) };
            }
        });
        if catch_unwind(tasks).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        self.gate.fetch_sub(ONE_WORKER, Ordering::Release);
        true
    }

    fn has_work(&self, done: usize) -> bool {
        self.stop.load(Ordering::SeqCst)
            || self.gate.load(Ordering::SeqCst) & OPEN != 0 && self.number.load(Ordering::Relaxed) != done
    }

    /// Waits for the next job: awake for a while, then asleep.
    fn wait(&self, index: usize, done: usize, awake: Duration) {
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                if self.has_work(done) {
                    return;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() >= awake {
                break;
            }
        }
        // Announced first and looked again after, so that who opens a job either sees this thread asleep or is seen.
        self.asleep[index].store(true, Ordering::SeqCst);
        while self.asleep[index].load(Ordering::SeqCst) {
            if self.has_work(done) {
                self.asleep[index].store(false, Ordering::SeqCst);
                return;
            }
            std::thread::park();
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (asleep, worker) in self.shared.asleep.iter().zip(&self.workers) {
            asleep.store(false, Ordering::SeqCst);
            worker.unpark();
        }
        for handle in self.handles.drain(..) {
            // Workers catch panics; there is nothing to pass on.
            let _ = handle.join();
        }
    }
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Team({} threads)", self.threads())
    }
}

#[cfg(test)]
mod tests {
    use super::super::threads;
    use super::*;

    #[test]
    fn every_task_of_many_jobs_runs_once() {
        for members in [2, 3, 5] {
            let team = Team::new(members).expect("threads");
            for job in 0..500 {
                let counts: Vec<AtomicUsize> = (0..job % 40).map(|_| AtomicUsize::new(0)).collect();
                team.install(|| {
                    assert_eq!(threads::useful_threads(u64::MAX), members);
                    threads::share(members, counts.len(), |i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{members} threads, job {job}");
                if job % 100 == 0 {
                    // Long enough for the others to fall asleep.
                    std::thread::sleep(4 * AWAKE);
                }
            }
        }
        assert_eq!(current_threads(), None);
    }

    #[test]
    fn a_job_within_a_task_is_done_in_place() {
        let team = Team::new(2).expect("threads");
        let count = AtomicUsize::new(0);
        team.install(|| {
            threads::share(2, 6, |_| {
                threads::share(2, 7, |_| {
                    count.fetch_add(1, Ordering::Relaxed);
                });
            });
        });
        assert_eq!(count.into_inner(), 42);
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::new(2).expect("threads");
        let run = |bad: usize| {
            catch_unwind(AssertUnwindSafe(|| {
                team.install(|| threads::share(2, 100, |i| assert_ne!(i, bad, "meant to fail")));
            }))
        };
        for bad in [0, 50, 99] {
            assert!(run(bad).is_err());
            assert!(run(1000).is_ok());
        }
    }
}
