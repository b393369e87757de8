//! Timestamps at the boundaries of a frame's passes, brought back without waiting.

use super::buffer::Readback;
use super::{Gpu, GpuError};

/// Measures the passes of one frame at a time: the next one after the last result has arrived.
#[derive(Debug)]
pub(super) struct PassTimer {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    readback: Readback,
    passes: u32,
    is_under_way: bool,
    last_ms: Option<Vec<f64>>,
    /// Results that were brought back.
    pub(super) reads: u64,
}

impl PassTimer {
    /// For frames of so many passes, on a device with timestamps.
    pub(super) fn new(gpu: &Gpu, passes: u32) -> Result<PassTimer, GpuError> {
        let size = u64::from(passes) * 16;
        let (queries, resolved) = gpu.scoped(|| {
            let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("passes"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * passes,
            });
            let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("passes"),
                size,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            (queries, resolved)
        })?;
        let readback = Readback::new(gpu, &[(&resolved, 0, size as usize)])?;
        Ok(PassTimer { queries, resolved, readback, passes, is_under_way: false, last_ms: None, reads: 0 })
    }

    /// Whether this frame can be measured; if so, it must be, and [`PassTimer::map`] called.
    pub(super) fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.is_under_way, true)
    }

    pub(super) fn compute_writes(&self, pass: u32) -> wgpu::ComputePassTimestampWrites<'_> {
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(2 * pass),
            end_of_pass_write_index: Some(2 * pass + 1),
        }
    }

    pub(super) fn render_writes(&self, pass: u32) -> wgpu::RenderPassTimestampWrites<'_> {
        wgpu::RenderPassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(2 * pass),
            end_of_pass_write_index: Some(2 * pass + 1),
        }
    }

    /// Appends what brings the timestamps back.
    pub(super) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.resolve_query_set(&self.queries, 0..2 * self.passes, &self.resolved, 0);
        self.readback.encode(encoder);
    }

    /// After the submission.
    pub(super) fn map(&mut self, gpu: &Gpu) -> Result<(), GpuError> {
        self.reads += 1;
        self.readback.map(gpu)
    }

    /// Takes the result if it has arrived.
    pub(super) fn collect(&mut self, gpu: &Gpu) -> Result<(), GpuError> {
        if let Some(bytes) = self.readback.take(gpu)? {
            self.is_under_way = false;
            let ticks: Vec<u64> = bytes.first().map(|b| bytemuck::pod_collect_to_vec(b)).unwrap_or_default();
            let ms_per_tick = f64::from(gpu.queue.get_timestamp_period()) * 1e-6;
            self.last_ms =
                Some(ticks.chunks_exact(2).map(|t| t[1].saturating_sub(t[0]) as f64 * ms_per_tick).collect());
        }
        Ok(())
    }

    /// Milliseconds of each pass of the last frame that was measured.
    pub(super) fn last_ms(&self) -> Option<&[f64]> {
        self.last_ms.as_deref()
    }
}
