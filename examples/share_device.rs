//! eyas as a guest: the program makes the wgpu device and a texture, eyas computes on that device and draws the picture
//! with its boxes into that texture. A game or a camera app does the same with its own device and its own surface.
//!
//!     cargo run --release --example share_device -- models/shapes.onnx models/shapes_scene.png shared.png

use eyas::draw::Style;
use eyas::gpu::live::{LiveOverlay, Target};
use eyas::gpu::{Gpu, offscreen};
use eyas::{DecodeOptions, Detector, Model, Session};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, picture, output] = args.as_slice() else {
        return Err("usage: share_device MODEL PICTURE OUTPUT.png".into());
    };

    // The host application's part: a device as it likes it, and a texture that it will show.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let descriptor = wgpu::DeviceDescriptor { required_limits: adapter.limits(), ..wgpu::DeviceDescriptor::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))?;
    let size_px = [800, 600];
    let format = wgpu::TextureFormat::Rgba8Unorm;
    let texture = device.create_texture(&wgpu::TextureDescriptor {
        label: Some("the host's"),
        size: wgpu::Extent3d { width: size_px[0], height: size_px[1], depth_or_array_layers: 1 },
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format,
        usage: wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::TEXTURE_BINDING,
        view_formats: &[],
    });
    let view = texture.create_view(&wgpu::TextureViewDescriptor::default());

    // eyas' part: the same device, no readback.
    let gpu = Gpu::from_device(device, queue);
    println!("sharing {}", gpu.adapter);
    let model = Model::load(model.as_ref(), None, &eyas::infer::import::ImportOptions::default())?;
    let decoder = model.decoder(&DecodeOptions::default())?;
    let mut detector = Detector::with_session(Session::on_device(&model, gpu.clone(), None)?, decoder)?;
    let mut overlay = LiveOverlay::new(gpu.clone(), format, Style::default())?;
    let frame = eyas::acquire::pictures::load(picture.as_ref())?;
    overlay.draw(&mut detector, Some(&frame), Target { view: &view, size_px }, |_| ())?;
    println!("drawn into the host's texture with {} map operations", gpu.map_operations());

    // Only to have something to look at here.
    let shown = offscreen::snapshot(&mut overlay, &mut detector, size_px, format)?;
    eyas::acquire::pictures::save(output.as_ref(), &shown)?;
    println!("written to {output}");
    Ok(())
}
