//! Work shared by the threads of the current rayon pool.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Below this much work (in multiply-adds, or elements moved) waking a second thread costs more than it gains.
pub const WORTH_A_THREAD: u64 = 20_000;

/// Threads that a job of that size should use in the current pool; one outside of any pool.
pub fn useful_threads(work: u64) -> usize {
    let in_a_pool = rayon::current_thread_index().is_some();
    if work < WORTH_A_THREAD || !in_a_pool { 1 } else { rayon::current_num_threads().max(1) }
}

/// A pool of `threads` threads. When they are as many as the processors that this process may use, each gets one of
/// its own: left alone, Linux was seen to keep two busy threads on one of two processors for half a second.
///
/// # Errors
/// When the threads cannot be started.
pub fn pool(threads: usize) -> Result<rayon::ThreadPool, rayon::ThreadPoolBuildError> {
    let processors = affinity::allowed_processors();
    let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
    if threads > 1 && processors.len() == threads {
        builder.start_handler(move |index| affinity::stay_on(processors[index])).build()
    } else {
        builder.build()
    }
}

#[cfg(target_os = "linux")]
mod affinity {
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
mod affinity {
    pub fn allowed_processors() -> Vec<usize> {
        Vec::new()
    }

    pub fn stay_on(_processor: usize) {}
}

/// Calls `task(0..tasks)`, each once, from up to `threads` threads, which take the next task when they are free.
pub fn share(threads: usize, tasks: usize, task: impl Fn(usize) + Sync) {
    if threads <= 1 || tasks <= 1 {
        (0..tasks).for_each(task);
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
            let pool = pool(threads).expect("threads");
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
