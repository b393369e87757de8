//! A window's surface: configured for a device, and made again when the window system takes it away.

use std::sync::Arc;

use winit::dpi::PhysicalSize;
use winit::window::Window;

use crate::error::Error;
use crate::gpu::{Gpu, GpuOptions};

/// What there is to draw on.
pub(super) enum Acquired {
    Texture(wgpu::SurfaceTexture),
    /// Nothing of the window can be seen.
    Hidden,
    /// Nothing now; a later frame will do.
    Nothing,
}

/// A surface and the device that draws on it.
pub(super) struct Surface {
    pub gpu: Arc<Gpu>,
    /// Without sRGB coding: pictures are gamma coded already.
    pub format: wgpu::TextureFormat,
    surface: wgpu::Surface<'static>,
    config: wgpu::SurfaceConfiguration,
}

impl Surface {
    /// Opens the best device that can draw on the window.
    ///
    /// # Errors
    /// When no adapter can, as [`Gpu::open_in`]; when the surface has no plain format of 8 bits.
    pub fn open(
        window: &Arc<Window>,
        display: Box<dyn wgpu::wgt::WgpuHasDisplayHandle>,
        options: &GpuOptions,
    ) -> Result<Surface, Error> {
        let mut descriptor = wgpu::InstanceDescriptor::new_with_display_handle(display);
        crate::gpu::device::configure_instance(&mut descriptor, options);
        let instance = wgpu::Instance::new(descriptor);
        let surface = instance
            .create_surface(Arc::clone(window))
            .map_err(|e| Error::Input(format!("cannot draw on the window: {e}")))?;
        let gpu = Gpu::open_in(instance, Some(&surface), options)?;
        let (config, format) = configuration(&gpu, &surface, window.inner_size())?;
        surface.configure(&gpu.device, &config);
        Ok(Surface { gpu, format, surface, config })
    }

    pub fn size_px(&self) -> [u32; 2] {
        [self.config.width, self.config.height]
    }

    pub fn resize(&mut self, size: PhysicalSize<u32>) {
        if size.width > 0 && size.height > 0 {
            let limit = self.gpu.limits.max_texture_dimension_2d;
            (self.config.width, self.config.height) = (size.width.min(limit), size.height.min(limit));
            self.surface.configure(&self.gpu.device, &self.config);
        }
    }

    /// The next texture. A surface that is outdated or lost is made again.
    ///
    /// # Errors
    /// When the device is lost or the window gives no surface any more.
    pub fn acquire(&mut self, window: &Arc<Window>) -> Result<Acquired, Error> {
        use wgpu::CurrentSurfaceTexture as Current;
        for _ in 0..3 {
            match self.surface.get_current_texture() {
                // A suboptimal one is shown as it is; the resize event that follows configures the surface anew.
                Current::Success(texture) | Current::Suboptimal(texture) => return Ok(Acquired::Texture(texture)),
                Current::Timeout => return Ok(Acquired::Nothing),
                Current::Occluded => return Ok(Acquired::Hidden),
                Current::Outdated | Current::Validation => {}
                Current::Lost => {
                    if let Some((instance, _)) = &self.gpu.origin {
                        self.surface = instance
                            .create_surface(Arc::clone(window))
                            .map_err(|e| Error::Input(format!("cannot draw on the window again: {e}")))?;
                    }
                }
            }
            self.gpu.poll()?;
            self.resize(window.inner_size());
        }
        log::debug!("the window has no texture to draw on");
        Ok(Acquired::Nothing)
    }

    /// A view of such a texture in [`Surface::format`].
    pub fn view_of(&self, texture: &wgpu::SurfaceTexture) -> wgpu::TextureView {
        texture.texture.create_view(&wgpu::TextureViewDescriptor {
            format: Some(self.format),
            ..wgpu::TextureViewDescriptor::default()
        })
    }
}

/// How the surface is used: plain 8-bit levels, paced by the display.
fn configuration(
    gpu: &Gpu,
    surface: &wgpu::Surface<'_>,
    size: PhysicalSize<u32>,
) -> Result<(wgpu::SurfaceConfiguration, wgpu::TextureFormat), Error> {
    let unusable = || Error::Input(format!("{} cannot draw on this window; use --headless", gpu.adapter));
    let (_, adapter) = gpu.origin.as_ref().ok_or_else(unusable)?;
    let limit = gpu.limits.max_texture_dimension_2d;
    let [width, height] = [size.width, size.height].map(|side| side.clamp(1, limit));
    let mut config = surface.get_default_config(adapter, width, height).ok_or_else(unusable)?;
    let formats = surface.get_capabilities(adapter).formats;
    let plain = [wgpu::TextureFormat::Bgra8Unorm, wgpu::TextureFormat::Rgba8Unorm];
    let format = match formats.iter().find(|format| plain.contains(format)) {
        Some(&format) => {
            config.format = format;
            format
        }
        None => {
            let format = config.format.remove_srgb_suffix();
            if !plain.contains(&format) {
                return Err(unusable());
            }
            config.view_formats = vec![format];
            format
        }
    };
    config.present_mode = wgpu::PresentMode::AutoVsync;
    Ok((config, format))
}
