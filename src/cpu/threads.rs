//! Work shared by the threads of the current [`super::team::Team`], or else of the current rayon pool.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::blocks::Shared;
use super::team;

/// Below this much work (in multiply-adds, or elements moved) waking a second thread costs more than it gains.
pub const WORTH_A_THREAD: u64 = 20_000;

/// Threads that a job of that size should use in the current team or pool; one outside of any.
pub fn useful_threads(work: u64) -> usize {
    if work < WORTH_A_THREAD {
        return 1;
    }
    let pool = || if rayon::current_thread_index().is_some() { rayon::current_num_threads() } else { 1 };
    team::current_threads().unwrap_or_else(pool).max(1)
}

#[cfg(target_os = "linux")]
pub(super) mod affinity {
    /// Words of a `cpu_set_t`: 1024 processors.
    const WORDS: usize = 1024 / usize::BITS as usize;

    unsafe extern "C" {
        fn sched_getaffinity(thread: i32, size_bytes: usize, mask: *mut usize) -> i32;
        fn sched_setaffinity(thread: i32, size_bytes: usize, mask: *const usize) -> i32;
    }

    /// Processors that this thread may run on; empty where that cannot be found out.
    pub fn allowed_processors() -> Vec<usize> {
        let mut mask = [0usize; WORDS];
        // SAFETY: the mask is as large as it says; thread 0 is the calling one.
        let status = unsafe { sched_getaffinity(0, size_of_val(&mask), mask.as_mut_ptr()) };
        if status < 0 {
            return Vec::new();
        }
        let bits = usize::BITS as usize;
        (0..WORDS * bits).filter(|i| mask[i / bits] >> (i % bits) & 1 == 1).collect()
    }

    /// Binds the calling thread to a processor until it is dropped.
    pub struct Stay([usize; WORDS]);

    impl Stay {
        /// Binds the calling thread. Where that is forbidden nothing happens.
        pub fn on(processor: usize) -> Stay {
            let mut before = [0usize; WORDS];
            // SAFETY: as above.
            unsafe { sched_getaffinity(0, size_of_val(&before), before.as_mut_ptr()) };
            stay_on(processor);
            Stay(before)
        }
    }

    impl Drop for Stay {
        fn drop(&mut self) {
            if self.0.iter().any(|&word| word != 0) {
                // SAFETY: as above.
                unsafe { sched_setaffinity(0, size_of_val(&self.0), self.0.as_ptr()) };
            }
        }
    }

    /// Binds the calling thread to a processor. Where that is forbidden nothing happens.
    pub fn stay_on(processor: usize) {
        let bits = usize::BITS as usize;
        let mut mask = [0usize; WORDS];
        mask[processor / bits] |= 1 << (processor % bits);
        // SAFETY: as above.
        unsafe { sched_setaffinity(0, size_of_val(&mask), mask.as_ptr()) };
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) mod affinity {
    pub fn allowed_processors() -> Vec<usize> {
        Vec::new()
    }

    pub fn stay_on(_processor: usize) {}

    pub struct Stay;

    impl Stay {
        pub fn on(_processor: usize) -> Stay {
            Stay
        }
    }
}

/// Calls `task(0..tasks)`, each once, from up to `threads` threads, which take the next task when they are free.
pub fn share(threads: usize, tasks: usize, task: impl Fn(usize) + Sync) {
    if threads <= 1 || tasks <= 1 {
        (0..tasks).for_each(task);
        return;
    }
    if team::share(tasks, &task) {
        return;
    }
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= tasks {
                return;
            }
            task(i);
        }
    };
    rayon::scope(|scope| {
        for _ in 1..threads.min(tasks) {
            scope.spawn(|_| work());
        }
        work();
    });
}

/// Calls `work(i, chunk)` for consecutive chunks of a slice, from as many threads as pay.
pub fn share_chunks(slice: &mut [f32], len: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let threads = useful_threads(slice.len() as u64);
    let total = slice.len();
    let start = Shared(slice.as_mut_ptr());
    let start = &start;
    share(threads, total.div_ceil(len), |i| {
        let at = i * len;
        // SAFETY: chunks of the slice, which is borrowed for as long, do not overlap, and each is visited once.
        let chunk = unsafe { std::slice::from_raw_parts_mut(start.0.add(at), len.min(total - at)) };
        work(i, chunk);
    });
}

/// The part `index` of `parts` nearly equal parts of `0..len`.
pub fn part(len: usize, parts: usize, index: usize) -> std::ops::Range<usize> {
    let (size, longer) = (len / parts, len % parts);
    let start = index * size + index.min(longer);
    start..start + size + usize::from(index < longer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_its_threads_and_no_pool_means_one() {
        assert_eq!(useful_threads(u64::MAX), 1);
        for threads in [2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            assert_eq!(pool.install(|| useful_threads(u64::MAX)), threads);
            assert_eq!(pool.install(|| useful_threads(1)), 1);
        }
    }

    #[test]
    fn every_task_runs_once() {
        let counts: Vec<AtomicUsize> = (0..37).map(|_| AtomicUsize::new(0)).collect();
        share(3, counts.len(), |i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn chunks_are_all_of_a_slice() {
        let team = team::Team::new(2).expect("threads");
        for len in [0, 1, 70_001] {
            let mut slice = vec![0.0; len];
            team.install(|| {
                share_chunks(&mut slice, 1000, |i, chunk| chunk.iter_mut().for_each(|x| *x += 1.0 + i as f32));
            });
            assert!(slice.iter().enumerate().all(|(at, &x)| x == 1.0 + (at / 1000) as f32));
        }
    }

    #[test]
    fn parts_cover_the_range() {
        for len in [0, 1, 5, 16, 17] {
            for parts in 1..8 {
                let mut at = 0;
                for i in 0..parts {
                    let p = part(len, parts, i);
                    assert_eq!(p.start, at);
                    at = p.end;
                }
                assert_eq!(at, len);
            }
        }
    }
}
