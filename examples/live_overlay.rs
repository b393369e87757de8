//! The live overlay in a window, made for a Jetson: camera or pipe in, Vulkan, the frame never leaves the GPU.
//!
//! With a USB camera:
//!
//!     cargo run --release --example live_overlay -- yolov8n.onnx camera:0
//!
//! With a CSI camera, through GStreamer:
//!
//!     gst-launch-1.0 -q nvarguscamerasrc ! 'video/x-raw(memory:NVMM),width=1280,height=720,framerate=30/1' \
//!         ! nvvidconv ! video/x-raw,format=I420 ! y4menc ! fdsink \
//!         | cargo run --release --example live_overlay -- yolov8n.onnx -
//!
//! Without a camera: `pattern:` instead of `camera:0`, or any .y4m file. Keys: h in the window shows them.

use eyas::live::window::{self, WindowOptions};
use eyas::{Backend, GpuApi, Model, SessionOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    env_logger::init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, source] = args.as_slice() else {
        return Err("usage: live_overlay MODEL SOURCE, where SOURCE is camera:0, -, a .y4m file or pattern:".into());
    };
    let model = Model::load(model.as_ref(), None, &eyas::infer::import::ImportOptions::default())?;
    let session = SessionOptions { backend: Backend::Auto, gpu_api: Some(GpuApi::Vulkan), ..SessionOptions::default() };
    let options = WindowOptions { session, ..WindowOptions::default() };

    let report = window::run(model, eyas::acquire::open_live(source, &Default::default())?, options, None)?;
    println!("{} frames shown, {} dropped; {}", report.frames, report.dropped, report.map_operations);
    Ok(())
}
