//! Work shared by the threads of the current rayon pool.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Below this much work (in multiply-adds, or elements moved) waking a second thread costs more than it gains.
pub const WORTH_A_THREAD: u64 = 20_000;

/// Threads that a job of that size should use in the current pool.
pub fn useful_threads(work: u64) -> usize {
    if work < WORTH_A_THREAD { 1 } else { rayon::current_num_threads().max(1) }
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
