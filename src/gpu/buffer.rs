//! Buffers: made, filled and read back, with sizes checked first.

use std::sync::mpsc;

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
        let mut total = 0;
        for &(buffer, offset, len) in ranges {
            let end = offset.saturating_add(len as u64).saturating_add(3) / 4 * 4;
            if end > buffer.size() || !offset.is_multiple_of(4) {
                return Err(GpuError::Invalid(format!(
                    "{len} bytes at {offset} do not lie in a GPU buffer of {} bytes",
                    buffer.size()
                )));
            }
            total += len.next_multiple_of(4);
        }
        if total == 0 {
            return Ok(vec![Vec::new(); ranges.len()]);
        }
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.buffer("readback", total, usage, u64::MAX)?;
        let submission = self.scoped(|| {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let mut at = 0;
            for &(buffer, offset, len) in ranges {
                let len = (len as u64).next_multiple_of(4);
                if len > 0 {
                    encoder.copy_buffer_to_buffer(buffer, offset, &staging, at, len);
                }
                at += len;
            }
            self.queue.submit([encoder.finish()])
        })?;
        let bytes = self.read_mapped(&staging, total, submission)?;
        let mut rest = bytes.as_slice();
        Ok(ranges
            .iter()
            .map(|&(_, _, len)| {
                let (piece, tail) = rest.split_at(len.next_multiple_of(4));
                rest = tail;
                piece[..len].to_vec()
            })
            .collect())
    }

    /// Maps a readback buffer once `submission` is done, and copies its first bytes.
    fn read_mapped(
        &self,
        staging: &wgpu::Buffer,
        size_bytes: usize,
        submission: wgpu::SubmissionIndex,
    ) -> Result<Vec<u8>, GpuError> {
        let (sender, receiver) = mpsc::channel();
        let slice = staging.slice(..size_bytes as u64);
        self.scoped(|| slice.map_async(wgpu::MapMode::Read, move |result| drop(sender.send(result))))?;
        self.wait(Some(submission))?;
        match receiver.try_recv() {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(GpuError::Device(format!("reading back: {e}"))),
            Err(_) => return Err(GpuError::Device("reading back: the buffer was not mapped in time".into())),
        }
        let view = slice.get_mapped_range().map_err(|e| GpuError::Device(format!("reading back: {e}")))?;
        let bytes = view.to_vec();
        drop(view);
        staging.unmap();
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
