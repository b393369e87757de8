//! The live overlay on Metal, for macOS and iOS. It takes no other interface to the GPU: what it shows was computed and
//! drawn by Metal. On other systems it says so and ends.
//!
//!     cargo run --release --example metal_demo -- yolov8n.onnx camera:0
//!
//! Without arguments it finds heads and helmets at a rendered building site with the network that eyas carries inside.

#[cfg(target_vendor = "apple")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use eyas::live::window::{self, WindowOptions};
    use eyas::{Backend, GpuApi, Model, SessionOptions};

    let args: Vec<String> = std::env::args().skip(1).collect();
    let (model, source) = match args.as_slice() {
        [] => (Model::embedded(Default::default(), &Default::default())?, "pattern:"),
        [model, source] => {
            let options = eyas::infer::import::ImportOptions::default();
            (Model::load(model.as_ref(), None, &options)?, source.as_str())
        }
        _ => return Err("usage: metal_demo [MODEL SOURCE]".into()),
    };
    let session = SessionOptions { backend: Backend::Gpu, gpu_api: Some(GpuApi::Metal), ..SessionOptions::default() };
    let options = WindowOptions { session, profile: true, ..WindowOptions::default() };
    window::run(model, eyas::acquire::open_live(source, &Default::default())?, options, None)?;
    Ok(())
}

#[cfg(not(target_vendor = "apple"))]
fn main() {
    println!(
        "metal_demo shows the live overlay on Metal, which only Apple's systems have; this is {}. \
         Try the example live_overlay here.",
        std::env::consts::OS
    );
}
