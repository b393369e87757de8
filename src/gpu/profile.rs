//! How long each step takes.
//!
//! With timestamps, each step runs in a pass of its own, because passes are where every platform can take them. Passes
//! keep steps from overlapping, so the sum is more than a run takes; the shares are what counts. Without timestamps,
//! each step is submitted and waited for, which adds a round trip to each.

use std::time::Instant;

use super::buffer::Readback;
use super::session::GpuSession;
use super::{Gpu, GpuError};

/// What the times were taken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The device's own timestamps.
    Device,
    /// The host's, around a submission and the wait for it.
    Host,
}

/// Times of the steps of one plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    pub clock: Clock,
    /// Index of the step and its median time over the runs; steps that have nothing to do are left out. What the host
    /// computes is timed in the warm-up run, by its own clock.
    pub steps: Vec<(usize, f64)>,
}

/// Steps per query set: two queries each, and wgpu allows 4096 in a set.
const STEPS_PER_SET: usize = 2048;

/// Times every step over `runs` runs (at least one) after a warm-up run. The inputs are whatever they were.
///
/// # Errors
/// [`GpuError::Device`] or [`GpuError::Lost`].
pub fn profile(session: &GpuSession, runs: usize) -> Result<Profile, GpuError> {
    session.run()?;
    session.wait()?;
    let mut all = Vec::with_capacity(runs.max(1));
    let mut clock = Clock::Device;
    let host_times = session.host_times_ms();
    for _ in 0..runs.max(1) {
        let mut times = match times_by_timestamps(session)? {
            Some(times) => times,
            None => {
                clock = Clock::Host;
                times_by_host(session)?
            }
        };
        times.extend_from_slice(&host_times);
        times.sort_by_key(|&(step, _)| step);
        all.push(times);
    }
    let first = all.first().cloned().unwrap_or_default();
    let steps = first
        .iter()
        .enumerate()
        .map(|(i, &(step, _))| {
            let mut times: Vec<f64> = all.iter().filter_map(|run| run.get(i)).map(|t| t.1).collect();
            times.sort_by(f64::total_cmp);
            (step, times[times.len() / 2])
        })
        .collect();
    Ok(Profile { clock, steps })
}

/// Milliseconds of each step by the device's clock; `None` where it has no timestamps.
///
/// # Errors
/// [`GpuError::Device`] or [`GpuError::Lost`].
pub fn times_by_timestamps(session: &GpuSession) -> Result<Option<Vec<(usize, f64)>>, GpuError> {
    let gpu = session.gpu();
    if !gpu.adapter.timestamps {
        return Ok(None);
    }
    let busy: Vec<usize> = (0..session.plan().steps.len()).filter(|&i| session.dispatch(i).is_some()).collect();
    let mut times = Vec::with_capacity(busy.len());
    for steps in busy.chunks(STEPS_PER_SET) {
        times.extend(time_chunk(gpu, session, steps)?);
    }
    Ok(Some(times))
}

fn time_chunk(gpu: &Gpu, session: &GpuSession, steps: &[usize]) -> Result<Vec<(usize, f64)>, GpuError> {
    let count = steps.len() as u32 * 2;
    let size = u64::from(count) * 8;
    let (queries, resolved) = gpu.scoped(|| {
        let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("profile"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("profile"),
            size,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        (queries, resolved)
    })?;
    let readback = Readback::new(gpu, &[(&resolved, 0, size as usize)])?;
    let submission = gpu.submit(|encoder| {
        for (query, &step) in (0u32..).step_by(2).zip(steps) {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(query),
                    end_of_pass_write_index: Some(query + 1),
                }),
            });
            if let Some(dispatch) = session.dispatch(step) {
                dispatch.encode(&mut pass);
            }
        }
        encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
        readback.encode(encoder);
    })?;
    readback.map(gpu)?;
    let bytes = readback.take_after(gpu, submission)?.pop();
    let ticks: Vec<u64> = bytes.map(|b| bytemuck::pod_collect_to_vec(&b)).unwrap_or_default();
    let ms_per_tick = f64::from(gpu.queue.get_timestamp_period()) * 1e-6;
    Ok(steps
        .iter()
        .zip(ticks.chunks_exact(2))
        .map(|(&step, tick)| (step, tick[1].saturating_sub(tick[0]) as f64 * ms_per_tick))
        .collect())
}

/// Milliseconds of each step by the host's clock; each includes a round trip to the device.
///
/// # Errors
/// [`GpuError::Device`] or [`GpuError::Lost`].
pub fn times_by_host(session: &GpuSession) -> Result<Vec<(usize, f64)>, GpuError> {
    let mut times = Vec::new();
    for step in 0..session.plan().steps.len() {
        if let Some(dispatch) = session.dispatch(step) {
            let start = Instant::now();
            session.gpu().run(&[dispatch])?;
            times.push((step, start.elapsed().as_secs_f64() * 1e3));
        }
    }
    Ok(times)
}
