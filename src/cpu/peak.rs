//! What the processor could do at best: multiply-adds from registers, and reads from memory. Kernels are judged by it.

use std::hint::black_box;
use std::time::Instant;

use super::Isa;

/// Floating-point operations per second, in units of 10^9, of multiply-adds that never leave the registers, on
/// `threads` threads at once. Best of several short tries.
pub fn multiply_add_gflops(isa: Isa, threads: usize) -> f64 {
    const ROUNDS: usize = 100_000;
    best_of_all(threads, || multiply_adds(isa, ROUNDS) as f64) / 1e9
}

/// Bytes read per second, in units of 10^9, from an array that fits no cache, by `threads` threads at once.
pub fn read_gb_per_s(threads: usize) -> f64 {
    let words: Vec<u64> = vec![1; (64 << 20) / size_of::<u64>()];
    let share = words.len() / threads.max(1);
    best_of_all(threads, || {
        let sum = words[..share].iter().fold(0u64, |sum, &w| sum.wrapping_add(w));
        black_box(sum);
        (share * size_of::<u64>()) as f64
    }) / 1e9
}

/// `work` on every thread at once, several times; the best total amount per second.
fn best_of_all(threads: usize, work: impl Fn() -> f64 + Sync) -> f64 {
    (0..7)
        .map(|_| {
            let barrier = std::sync::Barrier::new(threads.max(1));
            let rates: Vec<f64> = std::thread::scope(|scope| {
                let handles: Vec<_> = (0..threads.max(1))
                    .map(|_| {
                        scope.spawn(|| {
                            barrier.wait();
                            let start = Instant::now();
                            work() / start.elapsed().as_secs_f64()
                        })
                    })
                    .collect();
                handles.into_iter().map(|h| h.join().unwrap_or(0.0)).collect()
            });
            rates.iter().sum()
        })
        .fold(0.0, f64::max)
}

/// Runs `rounds` rounds of independent multiply-adds; returns the number of operations.
fn multiply_adds(isa: Isa, rounds: usize) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if isa.is_available() => {
            // SAFETY: the processor has the instructions.
            unsafe { x86::avx512(rounds) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if isa.is_available() => {
            // SAFETY: the processor has the instructions.
            unsafe { x86::avx2(rounds) }
        }
        _ => plain(rounds),
    }
}

/// Enough independent sums to hide the latency, in plain Rust for the compiler to vectorise as it can.
fn plain(rounds: usize) -> usize {
    const CHAINS: usize = 32;
    let factor = black_box(0.999f32);
    let mut sums = [black_box(1.0f32); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = *sum * factor + factor;
        }
    }
    black_box(sums);
    rounds * CHAINS * 2
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps, _mm512_fmadd_ps, _mm512_set1_ps};
    use std::hint::black_box;

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(rounds: usize) -> usize {
        const CHAINS: usize = 12;
        let factor = _mm256_set1_ps(black_box(0.999));
        let mut sums = [_mm256_set1_ps(black_box(1.0)); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, factor);
            }
        }
        black_box(sums);
        rounds * CHAINS * 8 * 2
    }

    #[target_feature(enable = "avx512f")]
    pub fn avx512(rounds: usize) -> usize {
        const CHAINS: usize = 24;
        let factor = _mm512_set1_ps(black_box(0.999));
        let mut sums = [_mm512_set1_ps(black_box(1.0)); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, factor);
            }
        }
        black_box(sums);
        rounds * CHAINS * 16 * 2
    }
}
