//! Renders scenes that have a shader, for `pattern:`, on a device of its own.

use std::sync::Arc;

use super::{Gpu, GpuError, GpuOptions};
use crate::frame::{Frame, PixelFormat};
use crate::shader::Variant;

/// An open device that renders frames and brings them back.
#[derive(Debug)]
pub struct SceneRenderer {
    gpu: Arc<Gpu>,
}

impl SceneRenderer {
    /// # Errors
    /// When there is no such adapter.
    pub fn open(options: &GpuOptions) -> Result<SceneRenderer, GpuError> {
        Ok(SceneRenderer::new(Gpu::open(options)?))
    }

    /// On a device that is open already.
    pub fn new(gpu: Arc<Gpu>) -> SceneRenderer {
        SceneRenderer { gpu }
    }

    /// Runs a scene's shader: binding 0 is `rows`, binding 1 takes `size_px` RGBA words.
    ///
    /// # Errors
    /// When the device fails, or the picture is larger than it can bind.
    pub fn render(&self, variant: &Variant, rows: &[[f32; 4]], size_px: [u32; 2]) -> Result<Frame, GpuError> {
        let [width, height] = size_px;
        let size_bytes = 4 * width as usize * height as usize;
        let scene = self.gpu.upload("scene", bytemuck::cast_slice(rows))?;
        let pixels = self.gpu.storage_buffer("scene pixels", size_bytes)?;
        let dispatch = self.gpu.dispatch(variant, &[&scene, &pixels])?;
        self.gpu.run(&[&dispatch])?;
        let words = self.gpu.download(&pixels, size_bytes)?;
        let bytes = words.as_chunks::<4>().0.iter().flat_map(|[r, g, b, _]| [*r, *g, *b]).collect();
        Ok(Frame { width, height, format: PixelFormat::Rgb8, bytes, colour: Default::default() })
    }
}
