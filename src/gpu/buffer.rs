//! Buffers: made, filled and read back, with sizes checked first.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use super::device::lock;
use super::{Gpu, GpuError};
use crate::shader::Precision;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Values as the bytes of a storage precision. Finite values that f16 cannot hold become its largest ones, so that a
/// finite weight never turns into an infinity.
pub fn encode_f32(values: &[f32], precision: Precision) -> Vec<u8> {
    match precision {
        Precision::F32 => bytemuck::cast_slice(values).to_vec(),
        Precision::F16 => {
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            for (half, &value) in halves.iter_mut().zip(values) {
                if half.is_infinite() && value.is_finite() {
                    *half = if value > 0.0 { f16::MAX } else { f16::MIN };
                }
            }
            bytemuck::cast_slice(&halves).to_vec()
        }
    }
}

/// The inverse of [`encode_f32`]; bytes beyond the last whole element are ignored.
pub fn decode_f32(bytes: &[u8], precision: Precision) -> Vec<f32> {
    let whole = &bytes[..bytes.len() / precision.size_bytes() * precision.size_bytes()];
    match precision {
        Precision::F32 => bytemuck::pod_collect_to_vec(whole),
        Precision::F16 => {
            let halves: Vec<f16> = bytemuck::pod_collect_to_vec(whole);
            halves.to_f32_vec()
        }
    }
}

impl Gpu {
    /// A zeroed storage buffer that can be copied from and to; its size is rounded up to a multiple of 16, at least 16.
    ///
    /// # Errors
    /// [`GpuError::Limit`] when it is larger than a binding may be, [`GpuError::Device`] when memory is out.
    pub fn storage_buffer(&self, label: &str, size_bytes: usize) -> Result<wgpu::Buffer, GpuError> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        self.buffer(label, size_bytes, usage, self.limits.max_storage_buffer_binding_size)
    }

    fn buffer(
        &self,
        label: &str,
        size_bytes: usize,
        usage: wgpu::BufferUsages,
        limit: u64,
    ) -> Result<wgpu::Buffer, GpuError> {
        let limit = limit.min(self.limits.max_buffer_size);
        let size = (size_bytes.max(1) as u64).checked_next_multiple_of(16).unwrap_or(u64::MAX);
        if size > limit {
            return Err(GpuError::Limit { what: format!("the size in bytes of buffer '{label}'"), value: size, limit });
        }
        self.scoped(|| {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage,
                mapped_at_creation: false,
            })
        })
    }

    /// A storage buffer with these bytes; the rest of the last 16 bytes is zero.
    ///
    /// # Errors
    /// As [`Gpu::storage_buffer`].
    pub fn upload(&self, label: &str, bytes: &[u8]) -> Result<wgpu::Buffer, GpuError> {
        let buffer = self.storage_buffer(label, bytes.len())?;
        self.write(&buffer, 0, bytes)?;
        Ok(buffer)
    }

    /// As [`Gpu::upload`], at a storage precision.
    ///
    /// # Errors
    /// As [`Gpu::storage_buffer`].
    pub fn upload_f32(&self, label: &str, values: &[f32], precision: Precision) -> Result<wgpu::Buffer, GpuError> {
        match precision {
            Precision::F32 => self.upload(label, bytemuck::cast_slice(values)),
            Precision::F16 => self.upload(label, &encode_f32(values, precision)),
        }
    }

    /// Writes bytes into a buffer, before whatever is submitted next. When their number is no multiple of 4, up to 3
    /// bytes after them become zero.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] when they reach outside or `offset_bytes` is no multiple of 4.
    pub fn write(&self, buffer: &wgpu::Buffer, offset_bytes: u64, bytes: &[u8]) -> Result<(), GpuError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = (offset_bytes + bytes.len() as u64).next_multiple_of(4);
        if !offset_bytes.is_multiple_of(4) || end > buffer.size() {
            return Err(GpuError::Invalid(format!(
                "{} bytes at {offset_bytes} do not fit a GPU buffer of {} bytes",
                bytes.len(),
                buffer.size()
            )));
        }
        self.scoped(|| {
            let (whole, rest) = bytes.split_at(bytes.len() / 4 * 4);
            if !whole.is_empty() {
                self.queue.write_buffer(buffer, offset_bytes, whole);
            }
            if !rest.is_empty() {
                let mut last = [0; 4];
                last[..rest.len()].copy_from_slice(rest);
                self.queue.write_buffer(buffer, offset_bytes + whole.len() as u64, &last);
            }
        })
    }

    /// Reads the first bytes of a buffer; waits for all work before it.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] when the buffer is smaller, [`GpuError::Lost`] or [`GpuError::Device`].
    pub fn download(&self, buffer: &wgpu::Buffer, size_bytes: usize) -> Result<Vec<u8>, GpuError> {
        let mut bytes = self.download_ranges(&[(buffer, 0, size_bytes)])?;
        Ok(bytes.pop().unwrap_or_default())
    }

    /// As [`Gpu::download`], as f32.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub fn download_f32(
        &self,
        buffer: &wgpu::Buffer,
        len_elements: usize,
        precision: Precision,
    ) -> Result<Vec<f32>, GpuError> {
        Ok(decode_f32(&self.download(buffer, len_elements * precision.size_bytes())?, precision))
    }

    /// Reads ranges (buffer, offset in bytes, length in bytes) in one submission; offsets are multiples of 4.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub fn download_ranges(&self, ranges: &[(&wgpu::Buffer, u64, usize)]) -> Result<Vec<Vec<u8>>, GpuError> {
        let readback = Readback::new(self, ranges)?;
        let submission = self.submit(|encoder| readback.encode(encoder))?;
        readback.map(self)?;
        readback.take_after(self, submission)
    }
}

/// How long a callback may be under way in another thread once its work is done.
const CALLBACK_PATIENCE: Duration = Duration::from_secs(10);

/// The way back from the device for a fixed set of ranges, usable for any number of frames: [`Readback::encode`] the
/// copies, submit, [`Readback::map`], and [`Readback::take`] the bytes once the submission is done. A ring of these
/// reads every frame without stalling the next.
#[derive(Debug)]
pub struct Readback {
    staging: wgpu::Buffer,
    ranges: Vec<(wgpu::Buffer, u64, usize)>,
    total_bytes: usize,
    mapped: Mutex<Option<mpsc::Receiver<Result<(), wgpu::BufferAsyncError>>>>,
}

impl Readback {
    /// For ranges (buffer, offset in bytes, length in bytes); offsets are multiples of 4.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] for a range outside its buffer, [`GpuError::Limit`] or [`GpuError::Device`] when the
    /// staging buffer cannot be made.
    pub fn new(gpu: &Gpu, ranges: &[(&wgpu::Buffer, u64, usize)]) -> Result<Readback, GpuError> {
        let mut total_bytes = 0;
        for &(buffer, offset, len) in ranges {
            let end = offset.saturating_add(len as u64).saturating_add(3) / 4 * 4;
            if end > buffer.size() || !offset.is_multiple_of(4) {
                return Err(GpuError::Invalid(format!(
                    "{len} bytes at {offset} do not lie in a GPU buffer of {} bytes",
                    buffer.size()
                )));
            }
            total_bytes += len.next_multiple_of(4);
        }
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        Ok(Readback {
            staging: gpu.buffer("readback", total_bytes, usage, u64::MAX)?,
            ranges: ranges.iter().map(|&(buffer, offset, len)| (buffer.clone(), offset, len)).collect(),
            total_bytes,
            mapped: Mutex::new(None),
        })
    }

    /// Appends the copies; to be submitted before [`Readback::map`].
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut at = 0;
        for (buffer, offset, len) in &self.ranges {
            let len = (*len as u64).next_multiple_of(4);
            if len > 0 {
                encoder.copy_buffer_to_buffer(buffer, *offset, &self.staging, at, len);
            }
            at += len;
        }
    }

    /// Asks for the bytes of everything submitted so far. Until [`Readback::take`] has given them, this readback must
    /// not be submitted again.
    ///
    /// # Errors
    /// [`GpuError::Device`] or [`GpuError::Lost`].
    pub fn map(&self, gpu: &Gpu) -> Result<(), GpuError> {
        let (sender, receiver) = mpsc::channel();
        gpu.map_operations.fetch_add(1, Ordering::Relaxed);
        gpu.scoped(|| {
            self.staging.slice(..).map_async(wgpu::MapMode::Read, move |result| drop(sender.send(result)));
        })?;
        *lock(&self.mapped) = Some(receiver);
        Ok(())
    }

    /// The bytes of every range, or `None` when they are not there yet; [`Gpu::poll`] brings them.
    ///
    /// # Errors
    /// [`GpuError::Device`] or [`GpuError::Lost`] when mapping failed.
    pub fn take(&self, gpu: &Gpu) -> Result<Option<Vec<Vec<u8>>>, GpuError> {
        let mut mapped = lock(&self.mapped);
        let Some(receiver) = mapped.as_ref() else { return Ok(None) };
        match receiver.try_recv() {
            Err(mpsc::TryRecvError::Empty) => Ok(None),
            Err(mpsc::TryRecvError::Disconnected) => Err(gpu.fault("reading back: never mapped".into())),
            Ok(result) => {
                *mapped = None;
                self.copy_out(gpu, result).map(Some)
            }
        }
    }

    /// Waits for the submission that the copies are in, and gives the bytes of every range.
    ///
    /// # Errors
    /// [`GpuError::Device`] or [`GpuError::Lost`] when mapping failed; [`GpuError::Invalid`] when nothing was mapped.
    pub fn take_after(&self, gpu: &Gpu, submission: wgpu::SubmissionIndex) -> Result<Vec<Vec<u8>>, GpuError> {
        gpu.wait(Some(submission))?;
        let Some(receiver) = lock(&self.mapped).take() else {
            return Err(GpuError::Invalid("a readback that was not mapped".into()));
        };
        // Another thread that polls the same device may have taken on our callback and not yet come to it.
        match receiver.recv_timeout(CALLBACK_PATIENCE) {
            Ok(result) => self.copy_out(gpu, result),
            Err(e) => Err(gpu.fault(format!("reading back: never mapped ({e})"))),
        }
    }

    fn copy_out(&self, gpu: &Gpu, result: Result<(), wgpu::BufferAsyncError>) -> Result<Vec<Vec<u8>>, GpuError> {
        let fault = |message: &str| gpu.fault(format!("reading back: {message}"));
        result.map_err(|e| fault(&e.to_string()))?;
        let view = self.staging.slice(..).get_mapped_range().map_err(|e| fault(&e.to_string()))?;
        let mut rest = &view[..self.total_bytes];
        let bytes = self
            .ranges
            .iter()
            .map(|&(_, _, len)| {
                let (piece, tail) = rest.split_at(len.next_multiple_of(4));
                rest = tail;
                piece[..len].to_vec()
            })
            .collect();
        drop(view);
        self.staging.unmap();
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finite_values_stay_finite_in_f16() {
        let values = [0.5, -1e9, 1e9, f32::INFINITY, 65519.0, 1e-9, 7.0];
        let back = decode_f32(&encode_f32(&values, Precision::F16), Precision::F16);
        assert_eq!(back, [0.5, -65504.0, 65504.0, f32::INFINITY, 65504.0, 0.0, 7.0]);
        assert_eq!(decode_f32(&encode_f32(&values, Precision::F32), Precision::F32), values);
    }
}
