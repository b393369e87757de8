//! Draws a picture and the rectangles of stage 6 with render pipelines: `shaders/draw/overlay.wgsl`.
//!
//! A live loop makes one [`Overlay`] for its surface's format, one buffer of rectangles ([`Overlay::buffer`]) that the
//! layout shader fills ([`crate::draw::layout::variant`]), one [`OverlayBinding`] for picture and atlas, and calls
//! [`Overlay::encode`] in its render pass. [`Overlay::render`] does all of it offscreen for one picture.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::device::lock;
use super::{Dispatch, Gpu, GpuError};
use crate::draw::font::Atlas;
use crate::draw::layout::{DrawHeader, overlay_bytes};
use crate::draw::overlay::OVERLAY_WGSL;
use crate::draw::{Instance, Instances};
use crate::frame::{Frame, PixelFormat};
use bytemuck::{Pod, Zeroable};

/// How the target shows the picture: `View` of the shader, 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct TargetView {
    /// Size of the target.
    pub target_px: [f32; 2],
    /// Where the picture's top left lies in the target.
    pub offset_px: [f32; 2],
    /// Picture pixels per target pixel.
    pub picture_per_target: [f32; 2],
    pub reserved: [f32; 2],
}

impl TargetView {
    /// The picture fills a target of the same size.
    pub fn one_to_one(size_px: [u32; 2]) -> TargetView {
        TargetView {
            target_px: size_px.map(|v| v as f32),
            offset_px: [0.0; 2],
            picture_per_target: [1.0; 2],
            reserved: [0.0; 2],
        }
    }
}

/// The pipelines that draw onto targets of one format.
#[derive(Debug)]
pub struct Overlay {
    layout: wgpu::BindGroupLayout,
    picture: wgpu::RenderPipeline,
    instances: wgpu::RenderPipeline,
    /// Atlas textures by text size.
    atlases: Mutex<BTreeMap<u32, wgpu::TextureView>>,
    /// Of the last picture that was drawn offscreen; the next one is mostly as large.
    offscreen: Mutex<Option<Offscreen>>,
    /// What [`Overlay::render`] draws from.
    rectangles: Mutex<Option<wgpu::Buffer>>,
}

/// A picture's texture, an atlas and a [`TargetView`], bound.
#[derive(Debug)]
pub struct OverlayBinding {
    group: wgpu::BindGroup,
    view: wgpu::Buffer,
}

impl OverlayBinding {
    /// Shows the picture otherwise from the next submission on, for a window that changed its size.
    ///
    /// # Errors
    /// [`GpuError::Device`] or [`GpuError::Lost`].
    pub fn set_view(&self, gpu: &Gpu, view: TargetView) -> Result<(), GpuError> {
        gpu.write(&self.view, 0, bytemuck::bytes_of(&view))
    }
}

/// Textures and buffers of one picture size.
#[derive(Debug)]
struct Offscreen {
    size_px: [u32; 2],
    text_px: u32,
    picture: wgpu::Texture,
    target: wgpu::Texture,
    readback: wgpu::Buffer,
    binding: OverlayBinding,
}

/// Rows of a texture lie this far apart, or a multiple of it, when they are copied into a buffer.
pub(super) const ROW_ALIGNMENT_BYTES: u32 = wgpu::COPY_BYTES_PER_ROW_ALIGNMENT;

const INSTANCE_ATTRIBUTES: [wgpu::VertexAttribute; 4] =
    wgpu::vertex_attr_array![0 => Sint32x4, 1 => Sint32x2, 2 => Unorm8x4, 3 => Uint32];

/// `dst + (src − dst)·α` on the colours; the target's alpha stays.
const BLEND: wgpu::BlendState = wgpu::BlendState {
    color: wgpu::BlendComponent {
        src_factor: wgpu::BlendFactor::SrcAlpha,
        dst_factor: wgpu::BlendFactor::OneMinusSrcAlpha,
        operation: wgpu::BlendOperation::Add,
    },
    alpha: wgpu::BlendComponent {
        src_factor: wgpu::BlendFactor::Zero,
        dst_factor: wgpu::BlendFactor::One,
        operation: wgpu::BlendOperation::Add,
    },
};

impl Overlay {
    /// The pipelines for offscreen pictures: Rgba8Unorm.
    ///
    /// # Errors
    /// [`GpuError::Shader`] when the driver does not take the shader, [`GpuError::Lost`].
    pub fn new(gpu: &Gpu) -> Result<Overlay, GpuError> {
        Overlay::with_format(gpu, wgpu::TextureFormat::Rgba8Unorm)
    }

    /// The pipelines for a surface. Its format must not be an sRGB one: camera pixels are gamma coded already.
    ///
    /// # Errors
    /// As [`Overlay::new`].
    pub fn with_format(gpu: &Gpu, format: wgpu::TextureFormat) -> Result<Overlay, GpuError> {
        let device = &gpu.device;
        let texture = |binding| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::FRAGMENT,
            ty: wgpu::BindingType::Texture {
                sample_type: wgpu::TextureSampleType::Float { filterable: false },
                view_dimension: wgpu::TextureViewDimension::D2,
                multisampled: false,
            },
            count: None,
        };
        let view = wgpu::BindGroupLayoutEntry {
            binding: 0,
            visibility: wgpu::ShaderStages::VERTEX_FRAGMENT,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Uniform,
                has_dynamic_offset: false,
                min_binding_size: wgpu::BufferSize::new(size_of::<TargetView>() as u64),
            },
            count: None,
        };
        gpu.scoped(|| {
            let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some("overlay"),
                entries: &[view, texture(1), texture(2)],
            });
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some("overlay"),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some("overlay"),
                source: wgpu::ShaderSource::Wgsl(OVERLAY_WGSL.into()),
            });
            let pipeline = |vertex, fragment, buffers: &[_], topology, blend| {
                device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
                    label: Some(vertex),
                    layout: Some(&pipeline_layout),
                    vertex: wgpu::VertexState {
                        module: &module,
                        entry_point: Some(vertex),
                        compilation_options: wgpu::PipelineCompilationOptions::default(),
                        buffers,
                    },
                    primitive: wgpu::PrimitiveState { topology, ..wgpu::PrimitiveState::default() },
                    depth_stencil: None,
                    multisample: wgpu::MultisampleState::default(),
                    fragment: Some(wgpu::FragmentState {
                        module: &module,
                        entry_point: Some(fragment),
                        compilation_options: wgpu::PipelineCompilationOptions::default(),
                        targets: &[Some(wgpu::ColorTargetState { format, blend, write_mask: wgpu::ColorWrites::ALL })],
                    }),
                    multiview_mask: None,
                    cache: None,
                })
            };
            let instances = wgpu::VertexBufferLayout {
                array_stride: size_of::<Instance>() as u64,
                step_mode: wgpu::VertexStepMode::Instance,
                attributes: &INSTANCE_ATTRIBUTES,
            };
            let triangles = wgpu::PrimitiveTopology::TriangleList;
            let strip = wgpu::PrimitiveTopology::TriangleStrip;
            Overlay {
                picture: pipeline("picture_vertex", "picture_fragment", &[], triangles, None),
                instances: pipeline("instance_vertex", "instance_fragment", &[Some(instances)], strip, Some(BLEND)),
                layout,
                atlases: Mutex::default(),
                offscreen: Mutex::default(),
                rectangles: Mutex::default(),
            }
        })
        .map_err(|e| match e {
            GpuError::Device(message) => GpuError::Shader { stem: "overlay".into(), message },
            other => other,
        })
    }

    /// A buffer for up to `capacity` rectangles, with no rectangle in it: [`DrawHeader`], then [`Instance`]s. The layout
    /// shader may write it (STORAGE), and [`Overlay::encode`] draws from it.
    ///
    /// # Errors
    /// [`GpuError::Limit`] when the device has no buffer that large, [`GpuError::Device`] when memory is out.
    pub fn buffer(gpu: &Gpu, capacity: usize) -> Result<wgpu::Buffer, GpuError> {
        let size = overlay_bytes(capacity.max(1)) as u64;
        let limit = gpu.limits.max_buffer_size.min(gpu.limits.max_storage_buffer_binding_size);
        if size > limit {
            let what = format!("the size in bytes of the buffer for {capacity} rectangles");
            return Err(GpuError::Limit { what, value: size, limit });
        }
        let buffer = gpu.scoped(|| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("rectangles"),
                size,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::VERTEX
                    | wgpu::BufferUsages::INDIRECT
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        gpu.write(&buffer, 0, bytemuck::bytes_of(&DrawHeader::new(0)))?;
        Ok(buffer)
    }

    /// Binds the texture that holds the picture (any float format), an atlas, and how the target shows the picture.
    ///
    /// # Errors
    /// [`GpuError::Device`] or [`GpuError::Lost`].
    pub fn bind(
        &self,
        gpu: &Gpu,
        picture: &wgpu::TextureView,
        atlas: &Atlas,
        view: TargetView,
    ) -> Result<OverlayBinding, GpuError> {
        let atlas = self.atlas_texture(gpu, atlas)?;
        let buffer = gpu.scoped(|| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("overlay view"),
                size: size_of::<TargetView>() as u64,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        let entry = |binding, resource| wgpu::BindGroupEntry { binding, resource };
        let group = gpu.scoped(|| {
            gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("overlay"),
                layout: &self.layout,
                entries: &[
                    entry(0, buffer.as_entire_binding()),
                    entry(1, wgpu::BindingResource::TextureView(picture)),
                    entry(2, wgpu::BindingResource::TextureView(&atlas)),
                ],
            })
        })?;
        let binding = OverlayBinding { group, view: buffer };
        binding.set_view(gpu, view)?;
        Ok(binding)
    }

    /// Appends to a render pass: the picture, then the rectangles of a buffer from [`Overlay::buffer`], as many as its
    /// header says. Nothing is read back.
    pub fn encode(&self, pass: &mut wgpu::RenderPass<'_>, binding: &OverlayBinding, rectangles: &wgpu::Buffer) {
        pass.set_bind_group(0, &binding.group, &[]);
        pass.set_pipeline(&self.picture);
        pass.draw(0..3, 0..1);
        pass.set_pipeline(&self.instances);
        pass.set_vertex_buffer(0, rectangles.slice(size_of::<DrawHeader>() as u64..));
        pass.draw_indirect(rectangles, 0);
    }

    /// Appends more rectangles, on top of what [`Overlay::encode`] has drawn in this pass.
    pub fn encode_rectangles(
        &self,
        pass: &mut wgpu::RenderPass<'_>,
        binding: &OverlayBinding,
        rectangles: &wgpu::Buffer,
    ) {
        pass.set_bind_group(0, &binding.group, &[]);
        pass.set_pipeline(&self.instances);
        pass.set_vertex_buffer(0, rectangles.slice(size_of::<DrawHeader>() as u64..));
        pass.draw_indirect(rectangles, 0);
    }

    /// The picture with rectangles on it, as Rgb8. Waits for the device.
    ///
    /// # Errors
    /// [`GpuError::Limit`] for a picture larger than a texture may be, [`GpuError::Device`], [`GpuError::Lost`].
    pub fn render(&self, gpu: &Gpu, frame: &Frame, drawn: &Instances) -> Result<Frame, GpuError> {
        let count = drawn.list.len();
        let mut kept = lock(&self.rectangles);
        let rectangles = match kept.take().filter(|b| b.size() >= overlay_bytes(count) as u64) {
            Some(buffer) => buffer,
            None => Overlay::buffer(gpu, count.next_power_of_two().max(1024))?,
        };
        gpu.write(&rectangles, 0, bytemuck::bytes_of(&DrawHeader::new(count)))?;
        gpu.write(&rectangles, size_of::<DrawHeader>() as u64, bytemuck::cast_slice(&drawn.list))?;
        let picture = self.render_after(gpu, &[], frame, &drawn.atlas, &rectangles)?;
        *kept = Some(rectangles);
        Ok(picture)
    }

    /// As [`Overlay::render`], with the rectangles in a buffer from [`Overlay::buffer`] that `dispatches`, run first in
    /// the same submission, may fill: the live loop without a window.
    ///
    /// # Errors
    /// As [`Overlay::render`].
    pub fn render_after(
        &self,
        gpu: &Gpu,
        dispatches: &[&Dispatch],
        frame: &Frame,
        atlas: &Atlas,
        rectangles: &wgpu::Buffer,
    ) -> Result<Frame, GpuError> {
        let size_px = [frame.width, frame.height];
        let mut kept = lock(&self.offscreen);
        let offscreen = match kept.take().filter(|o| o.size_px == size_px && o.text_px == atlas.text_px) {
            Some(offscreen) => offscreen,
            None => self.offscreen(gpu, size_px, atlas)?,
        };
        let row_bytes = (4 * size_px[0]).next_multiple_of(ROW_ALIGNMENT_BYTES);
        let extent = extent(size_px);
        gpu.scoped(|| {
            write_texture(gpu, &offscreen.picture, &rgba8(frame), 4);
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                dispatches.iter().for_each(|dispatch| dispatch.encode(&mut pass));
            }
            let target = offscreen.target.create_view(&wgpu::TextureViewDescriptor::default());
            {
                let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
                    label: Some("overlay"),
                    color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                        view: &target,
                        depth_slice: None,
                        resolve_target: None,
                        ops: wgpu::Operations {
                            load: wgpu::LoadOp::Clear(wgpu::Color::BLACK),
                            store: wgpu::StoreOp::Store,
                        },
                    })],
                    ..wgpu::RenderPassDescriptor::default()
                });
                self.encode(&mut pass, &offscreen.binding, rectangles);
            }
            encoder.copy_texture_to_buffer(
                offscreen.target.as_image_copy(),
                wgpu::TexelCopyBufferInfo {
                    buffer: &offscreen.readback,
                    layout: wgpu::TexelCopyBufferLayout {
                        offset: 0,
                        bytes_per_row: Some(row_bytes),
                        rows_per_image: None,
                    },
                },
                extent,
            );
            gpu.queue.submit([encoder.finish()]);
        })?;
        let padded = gpu.download(&offscreen.readback, row_bytes as usize * size_px[1] as usize)?;
        *kept = Some(offscreen);
        let mut bytes = Vec::with_capacity(size_px[0] as usize * size_px[1] as usize * 3);
        for row in padded.chunks_exact(row_bytes as usize) {
            bytes.extend(row.chunks_exact(4).take(size_px[0] as usize).flat_map(|p| [p[0], p[1], p[2]]));
        }
        Frame::new(frame.width, frame.height, PixelFormat::Rgb8, bytes).map_err(GpuError::Invalid)
    }

    fn offscreen(&self, gpu: &Gpu, size_px: [u32; 2], atlas: &Atlas) -> Result<Offscreen, GpuError> {
        let format = wgpu::TextureFormat::Rgba8Unorm;
        let sampled = wgpu::TextureUsages::TEXTURE_BINDING | wgpu::TextureUsages::COPY_DST;
        let drawn = wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC;
        let picture = texture(gpu, "picture", size_px, format, sampled)?;
        let target = texture(gpu, "annotated picture", size_px, format, drawn)?;
        let row_bytes = (4 * size_px[0] as usize).next_multiple_of(ROW_ALIGNMENT_BYTES as usize);
        let readback = gpu.storage_buffer("annotated picture", row_bytes * size_px[1] as usize)?;
        let view = picture.create_view(&wgpu::TextureViewDescriptor::default());
        let binding = self.bind(gpu, &view, atlas, TargetView::one_to_one(size_px))?;
        Ok(Offscreen { size_px, text_px: atlas.text_px, picture, target, readback, binding })
    }

    fn atlas_texture(&self, gpu: &Gpu, atlas: &Atlas) -> Result<wgpu::TextureView, GpuError> {
        let mut atlases = lock(&self.atlases);
        if let Some(view) = atlases.get(&atlas.text_px) {
            return Ok(view.clone());
        }
        let usage = wgpu::TextureUsages::TEXTURE_BINDING | wgpu::TextureUsages::COPY_DST;
        let size_px = [atlas.width_px, atlas.height_px];
        let texture = texture(gpu, "glyphs", size_px, wgpu::TextureFormat::R8Unorm, usage)?;
        let view = gpu.scoped(|| {
            write_texture(gpu, &texture, &atlas.coverage, 1);
            texture.create_view(&wgpu::TextureViewDescriptor::default())
        })?;
        atlases.insert(atlas.text_px, view.clone());
        Ok(view)
    }
}

pub(super) fn extent([width, height]: [u32; 2]) -> wgpu::Extent3d {
    wgpu::Extent3d { width, height, depth_or_array_layers: 1 }
}

pub(super) fn texture(
    gpu: &Gpu,
    label: &str,
    size_px: [u32; 2],
    format: wgpu::TextureFormat,
    usage: wgpu::TextureUsages,
) -> Result<wgpu::Texture, GpuError> {
    let limit = gpu.limits.max_texture_dimension_2d;
    if let Some(&side) = size_px.iter().find(|&&side| side > limit) {
        let what = format!("a side in pixels of the texture '{label}'");
        return Err(GpuError::Limit { what, value: side.into(), limit: limit.into() });
    }
    gpu.scoped(|| {
        gpu.device.create_texture(&wgpu::TextureDescriptor {
            label: Some(label),
            size: extent(size_px),
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format,
            usage,
            view_formats: &[],
        })
    })
}

/// Fills a whole texture from rows without padding.
fn write_texture(gpu: &Gpu, texture: &wgpu::Texture, bytes: &[u8], bytes_per_texel: u32) {
    let layout = wgpu::TexelCopyBufferLayout {
        offset: 0,
        bytes_per_row: Some(bytes_per_texel * texture.width()),
        rows_per_image: None,
    };
    gpu.queue.write_texture(texture.as_image_copy(), bytes, layout, texture.size());
}

/// The picture with four bytes a pixel.
fn rgba8(frame: &Frame) -> Vec<u8> {
    match frame.format {
        PixelFormat::Rgba8 => frame.bytes.clone(),
        PixelFormat::Rgb8 => frame.bytes.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect(),
        _ => frame.to_rgb8().bytes.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect(),
    }
}
