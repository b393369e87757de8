//! The live view without a window: frames are drawn into textures and brought back through a ring.

use std::collections::VecDeque;
use std::sync::Arc;

use super::buffer::Readback;
use super::draw::{ROW_ALIGNMENT_BYTES, extent, texture};
use super::live::{Drawn, FRAMES_IN_FLIGHT, LiveOverlay, Target};
use super::{Gpu, GpuError};
use crate::detector::Detector;
use crate::draw::Style;
use crate::error::Error;
use crate::frame::{Frame, PixelFormat};

/// A texture to draw on and its way back.
#[derive(Debug)]
struct Canvas {
    texture: wgpu::Texture,
    view: wgpu::TextureView,
    rows: wgpu::Buffer,
    readback: Readback,
}

/// Draws what a window of that size would show.
#[derive(Debug)]
pub struct Offscreen {
    pub overlay: LiveOverlay,
    size_px: [u32; 2],
    spare: Vec<Canvas>,
    pending: VecDeque<Canvas>,
    /// Whether pictures are wanted back.
    reads_back: bool,
    pictures: VecDeque<Frame>,
    brought_back: u64,
}

const FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba8Unorm;

impl Offscreen {
    /// For pictures of `size_px`; with `reads_back` they come back, else they are only drawn.
    ///
    /// # Errors
    /// [`GpuError::Limit`] for a size that is larger than a texture may be; when memory is out.
    pub fn new(gpu: &Arc<Gpu>, size_px: [u32; 2], style: Style, reads_back: bool) -> Result<Offscreen, GpuError> {
        let overlay = LiveOverlay::new(Arc::clone(gpu), FORMAT, style)?;
        let spare = (0..FRAMES_IN_FLIGHT).map(|_| Canvas::new(gpu, size_px)).collect::<Result<_, _>>()?;
        Ok(Offscreen {
            overlay,
            size_px,
            spare,
            pending: VecDeque::new(),
            reads_back,
            pictures: VecDeque::new(),
            brought_back: 0,
        })
    }

    pub fn size_px(&self) -> [u32; 2] {
        self.size_px
    }

    /// Map operations that brought pictures back.
    pub fn brought_back(&self) -> u64 {
        self.brought_back
    }

    /// As [`LiveOverlay::draw`], on a texture of its own.
    ///
    /// # Errors
    /// As [`LiveOverlay::draw`].
    pub fn draw(&mut self, detector: &mut Detector, frame: Option<&Frame>) -> Result<Drawn, Error> {
        if self.spare.is_empty() {
            self.bring_back()?;
        }
        let Some(canvas) = self.spare.pop() else {
            return Err(Error::Input("no texture to draw on".into()));
        };
        let target = Target { view: &canvas.view, size_px: self.size_px };
        let drawn = self.overlay.draw(detector, frame, target, |encoder| {
            if self.reads_back {
                canvas.encode(encoder);
            }
        })?;
        if self.reads_back {
            canvas.readback.map(self.overlay.gpu())?;
            self.brought_back += 1;
            self.pending.push_back(canvas);
        } else {
            self.spare.push(canvas);
        }
        Ok(drawn)
    }

    /// The next picture as Rgb8, in the order in which they were drawn; with `wait`, also one that is not done yet.
    ///
    /// # Errors
    /// When the device fails.
    pub fn picture(&mut self, wait: bool) -> Result<Option<Frame>, GpuError> {
        if self.pictures.is_empty() && wait {
            self.bring_back()?;
        }
        Ok(self.pictures.pop_front())
    }

    fn bring_back(&mut self) -> Result<(), GpuError> {
        let Some(canvas) = self.pending.pop_front() else { return Ok(()) };
        let mut read = canvas.readback.take(self.overlay.gpu())?;
        if read.is_none() {
            self.overlay.wait_oldest()?;
            read = canvas.readback.take(self.overlay.gpu())?;
        }
        let bytes = match read {
            Some(bytes) => bytes,
            None => {
                self.overlay.gpu().wait(None)?;
                canvas.readback.take(self.overlay.gpu())?.unwrap_or_default()
            }
        };
        self.pictures.push_back(picture_of(&bytes, self.size_px, FORMAT)?);
        self.spare.push(canvas);
        Ok(())
    }
}

/// A texture that can be drawn on and copied from.
///
/// # Errors
/// [`GpuError::Limit`] for a size that is larger than a texture may be; when memory is out.
pub fn canvas(gpu: &Gpu, size_px: [u32; 2], format: wgpu::TextureFormat) -> Result<wgpu::Texture, GpuError> {
    let usage = wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC;
    texture(gpu, "live", size_px, format, usage)
}

/// What the overlay shows now, as Rgb8, for targets of 8 bits a channel. Waits for the device.
///
/// # Errors
/// As [`LiveOverlay::draw`].
pub fn snapshot(
    overlay: &mut LiveOverlay,
    detector: &mut Detector,
    size_px: [u32; 2],
    format: wgpu::TextureFormat,
) -> Result<Frame, Error> {
    let gpu = Arc::clone(overlay.gpu());
    let canvas = Canvas::with_format(&gpu, size_px, format)?;
    overlay.draw(detector, None, Target { view: &canvas.view, size_px }, |encoder| canvas.encode(encoder))?;
    canvas.readback.map(&gpu)?;
    gpu.wait(None)?;
    let bytes = canvas.readback.take(&gpu)?.unwrap_or_default();
    Ok(picture_of(&bytes, size_px, format)?)
}

/// The texels of a [`Canvas`] that came back.
fn picture_of(bytes: &[Vec<u8>], size_px: [u32; 2], format: wgpu::TextureFormat) -> Result<Frame, GpuError> {
    let Some(padded) = bytes.first() else {
        return Err(GpuError::Device("a picture did not come back".into()));
    };
    let [width, height] = size_px;
    let [red, green, blue] = if format == wgpu::TextureFormat::Bgra8Unorm { [2, 1, 0] } else { [0, 1, 2] };
    let mut rgb = Vec::with_capacity(width as usize * height as usize * 3);
    for row in padded.chunks_exact(row_bytes(width) as usize).take(height as usize) {
        rgb.extend(row.chunks_exact(4).take(width as usize).flat_map(|p| [p[red], p[green], p[blue]]));
    }
    Frame::new(width, height, PixelFormat::Rgb8, rgb).map_err(GpuError::Invalid)
}

fn row_bytes(width: u32) -> u32 {
    (4 * width).next_multiple_of(ROW_ALIGNMENT_BYTES)
}

impl Canvas {
    fn new(gpu: &Gpu, size_px: [u32; 2]) -> Result<Canvas, GpuError> {
        Canvas::with_format(gpu, size_px, FORMAT)
    }

    fn with_format(gpu: &Gpu, size_px: [u32; 2], format: wgpu::TextureFormat) -> Result<Canvas, GpuError> {
        let texture = canvas(gpu, size_px, format)?;
        let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
        let size_bytes = row_bytes(size_px[0]) as usize * size_px[1] as usize;
        let rows = gpu.storage_buffer("live", size_bytes)?;
        let readback = Readback::new(gpu, &[(&rows, 0, size_bytes)])?;
        Ok(Canvas { texture, view, rows, readback })
    }

    /// Appends the copies that bring it back.
    fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        let layout = wgpu::TexelCopyBufferLayout {
            offset: 0,
            bytes_per_row: Some(row_bytes(self.texture.width())),
            rows_per_image: None,
        };
        encoder.copy_texture_to_buffer(
            self.texture.as_image_copy(),
            wgpu::TexelCopyBufferInfo { buffer: &self.rows, layout },
            extent([self.texture.width(), self.texture.height()]),
        );
        self.readback.encode(encoder);
    }
}
