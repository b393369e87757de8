//! The live view: what it draws on the GPU is what the CPU draws, nothing is read back in its loop, and nothing grows.

#![cfg(feature = "gpu")]

mod networks;

use std::sync::Arc;

use eyas::acquire::Source;
use eyas::acquire::pattern::Pattern;
use eyas::acquire::scenes::Shapes;
use eyas::draw::Style;
use eyas::draw::palette::class_colour;
use eyas::gpu::live::{LiveOverlay, Target};
use eyas::gpu::{Gpu, GpuApi, GpuOptions, offscreen, test_gpu};
use eyas::live::headless::HeadlessOptions;
use eyas::live::{FrameResult, Headless, MapOperations};
use eyas::{Backend, DecodeOptions, Detector, Frame, Model, PixelFormat, Session, SessionOptions};
use networks::Further;

fn model() -> Model {
    Model::from_onnx(include_bytes!("../models/shapes.onnx"), "shapes.onnx").expect("the network loads")
}

fn on_gpu(gpu: &Arc<Gpu>, options: &DecodeOptions) -> Detector {
    with_on_gpu(&model(), gpu, options)
}

fn with_on_gpu(model: &Model, gpu: &Arc<Gpu>, options: &DecodeOptions) -> Detector {
    let session = Session::on_device(model, Arc::clone(gpu), None).expect("a session");
    Detector::with_session(session, model.decoder(options).expect("a decoder")).expect("a detector")
}

fn on_cpu(options: &DecodeOptions) -> Detector {
    with_on_cpu(&model(), options)
}

fn with_on_cpu(model: &Model, options: &DecodeOptions) -> Detector {
    let device = SessionOptions { backend: Backend::Cpu, threads: Some(1), ..SessionOptions::default() };
    Detector::new(model, options, &device).expect("a detector")
}

fn frames(count: usize, width: u32, height: u32) -> Vec<Frame> {
    let mut pattern = Pattern::new(Shapes::new(width, height).expect("a scene"));
    (0..count).map(|_| pattern.next().expect("a frame").expect("a frame").frame).collect()
}

/// The drawn pictures and the detections of a clip.
fn play(detector: Detector, size_px: Option<[u32; 2]>, clip: &[Frame]) -> (Vec<Frame>, Vec<FrameResult>) {
    let options = HeadlessOptions { pictures: true, results: true, ..HeadlessOptions::default() };
    let mut live = Headless::new(detector, size_px, options);
    let (mut pictures, mut results) = (Vec::new(), Vec::new());
    for frame in clip {
        live.push(frame, 0.0).expect("a frame goes through");
        pictures.extend(std::iter::from_fn(|| live.picture(false).expect("a picture")));
        results.extend(live.results(false).expect("results"));
    }
    pictures.extend(std::iter::from_fn(|| live.picture(true).expect("a picture")));
    results.extend(live.results(true).expect("results"));
    (pictures, results)
}

/// Boxes of both within a hundredth of a pixel, scores within 1e-4.
fn same_results(a: &[FrameResult], b: &[FrameResult]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!((a.frame, a.picture_px, a.detections.len()), (b.frame, b.picture_px, b.detections.len()));
        for (x, y) in a.detections.iter().zip(&b.detections) {
            assert_eq!((x.class, &x.label), (y.class, &y.label));
            assert!((x.score - y.score).abs() < 1e-4, "{x:?} {y:?}");
            assert!(x.bounds.iter().zip(&y.bounds).all(|(p, q)| (p - q).abs() < 0.05), "{x:?} {y:?}");
            assert_eq!(x.landmarks.len(), y.landmarks.len());
            let mut points = x.landmarks.iter().flatten().zip(y.landmarks.iter().flatten());
            assert!(points.all(|(p, q)| (p - q).abs() < 0.05), "{x:?} {y:?}");
        }
    }
}

/// The share of pixels whose channels differ by no more than `levels`.
fn agreement(a: &Frame, b: &Frame, levels: u8) -> f64 {
    assert_eq!((a.width, a.height, a.bytes.len()), (b.width, b.height, b.bytes.len()));
    let pixels = a.bytes.chunks_exact(3).zip(b.bytes.chunks_exact(3));
    let same = pixels.filter(|(p, q)| p.iter().zip(*q).all(|(x, y)| x.abs_diff(*y) <= levels)).count();
    same as f64 / (a.bytes.len() / 3) as f64
}

#[test]
fn gpu_and_cpu_show_the_same() {
    let Some(gpu) = test_gpu() else { return };
    let options = DecodeOptions::default();
    let mut clip = frames(4, 320, 240);
    // Another size in between, as in a directory of pictures, and another format.
    clip.insert(2, frames(1, 203, 150).remove(0));
    let gray = clip[1].bytes.chunks_exact(3).map(|p| p[1]).collect();
    clip.push(Frame::new(320, 240, PixelFormat::Gray8, gray).expect("a frame"));
    for size_px in [None, Some([200, 150]), Some([401, 223])] {
        let (gpu_pictures, gpu_results) = play(on_gpu(&gpu, &options), size_px, &clip);
        let (cpu_pictures, cpu_results) = play(on_cpu(&options), size_px, &clip);
        same_results(&gpu_results, &cpu_results);
        assert!(gpu_results.iter().any(|r| !r.detections.is_empty()), "the pattern shows shapes");
        assert_eq!(gpu_pictures.len(), clip.len());
        assert_eq!(cpu_pictures.len(), clip.len());
        for (i, (a, b)) in gpu_pictures.iter().zip(&cpu_pictures).enumerate() {
            // An edge may fall on the other side of half a pixel, and interpolation rounds.
            let share = agreement(a, b, 2);
            assert!(share > 0.995, "frame {i} at {size_px:?}: {share}");
        }
    }
}

#[test]
fn classes_that_were_not_asked_for_are_not_drawn() {
    let Some(gpu) = test_gpu() else { return };
    let options = DecodeOptions { classes: Some(vec!["circle".into()]), ..DecodeOptions::default() };
    let clip = frames(2, 320, 240);
    let (gpu_pictures, results) = play(on_gpu(&gpu, &options), None, &clip);
    let (cpu_pictures, _) = play(on_cpu(&options), None, &clip);
    assert!(results.iter().flat_map(|r| &r.detections).all(|d| d.label == "circle"));
    for (a, b) in gpu_pictures.iter().zip(&cpu_pictures) {
        assert!(agreement(a, b, 2) > 0.995);
    }
}

#[test]
fn what_only_the_host_decodes_is_shown_too() {
    let Some(gpu) = test_gpu() else { return };
    let options = DecodeOptions { multi_label: true, ..DecodeOptions::default() };
    let clip = frames(2, 160, 120);
    let (gpu_pictures, gpu_results) = play(on_gpu(&gpu, &options), None, &clip);
    let (cpu_pictures, cpu_results) = play(on_cpu(&options), None, &clip);
    same_results(&gpu_results, &cpu_results);
    for (a, b) in gpu_pictures.iter().zip(&cpu_pictures) {
        assert!(agreement(a, b, 2) > 0.995);
    }
}

/// Landmarks go the way of the boxes: found after NMS by a shader, drawn by the layout shader, nothing read back for them.
#[test]
fn landmarks_are_drawn_without_a_readback() {
    let Some(gpu) = own_gpu() else { return };
    let model = networks::faces();
    let options = DecodeOptions { max_detections: Some(20), ..DecodeOptions::default() };
    let clip = frames(3, 320, 240);
    for size_px in [None, Some([401, 223])] {
        let (gpu_pictures, gpu_results) = play(with_on_gpu(&model, &gpu, &options), size_px, &clip);
        let (cpu_pictures, cpu_results) = play(with_on_cpu(&model, &options), size_px, &clip);
        same_results(&gpu_results, &cpu_results);
        assert!(gpu_results.iter().all(|r| r.detections.iter().all(|d| d.landmarks.len() == 5)));
        assert!(gpu_results.iter().any(|r| !r.detections.is_empty()), "the rule finds boxes");
        for (a, b) in gpu_pictures.iter().zip(&cpu_pictures) {
            let share = agreement(a, b, 2);
            assert!(share > 0.995, "{size_px:?}: {share}");
        }
    }
    // The points are there: the picture without them is another.
    let drawn = |options: &DecodeOptions| play(with_on_gpu(&model, &gpu, options), None, &clip[..1]);
    let (pictures, results) = drawn(&options);
    let [x, y] = results[0].detections[0].landmarks[2].map(|v| v as usize);
    let at = 3 * (y * 320 + x);
    assert_eq!(pictures[0].bytes[at..at + 3], class_colour(0)[..3], "a nose");

    let before = gpu.map_operations();
    let mut live = Headless::new(with_on_gpu(&model, &gpu, &options), None, HeadlessOptions::default());
    clip.iter().for_each(|frame| live.push(frame, 0.0).expect("a frame goes through"));
    live.finish().expect("all is drawn");
    assert_eq!(gpu.map_operations(), before);

    // Several classes an anchor are the host's: it hands landmarks over with the boxes.
    let on_host = DecodeOptions { multi_label: true, ..options.clone() };
    let (host_pictures, host_results) = drawn(&on_host);
    same_results(&host_results, &results);
    assert!(agreement(&host_pictures[0], &pictures[0], 2) > 0.999);
}

/// Masks, keypoints and turned boxes are found and laid out on the host, also where the network runs on the GPU.
#[test]
fn masks_keypoints_and_turned_boxes_are_drawn() {
    let Some(gpu) = test_gpu() else { return };
    let clip = frames(2, 160, 120);
    for further in [Further::Masks, Further::Keypoints, Further::Angle] {
        let model = networks::table(further);
        let options = DecodeOptions { max_detections: Some(8), ..DecodeOptions::default() };
        for size_px in [None, Some([201, 113])] {
            let (gpu_pictures, gpu_results) = play(with_on_gpu(&model, &gpu, &options), size_px, &clip);
            let (cpu_pictures, cpu_results) = play(with_on_cpu(&model, &options), size_px, &clip);
            same_results(&gpu_results, &cpu_results);
            for (a, b) in gpu_pictures.iter().zip(&cpu_pictures) {
                let share = agreement(a, b, 2);
                assert!(share > 0.995, "{further:?} at {size_px:?}: {share}");
            }
        }

        // One object alone, and large, so that little covers what is looked for.
        let large = frames(1, 320, 240);
        let one = DecodeOptions { max_detections: Some(1), ..DecodeOptions::default() };
        let (pictures, results) = play(with_on_gpu(&model, &gpu, &one), None, &large);
        let found = &results[0].detections[0];
        let colour = class_colour(found.class);
        let at = |frame: &Frame, x: u32, y: u32| -> [u8; 3] {
            let byte = 3 * (y * frame.width + x) as usize;
            std::array::from_fn(|k| frame.bytes[byte + k])
        };
        let is_drawn_at = |[x, y]: [f32; 2]| at(&pictures[0], x as u32, y as u32) == colour[..3];
        match further {
            Further::Masks => {
                let mask = found.mask.as_ref().expect("a mask");
                let inside: Vec<(u32, u32)> =
                    mask.spans().flat_map(|(y, from, to)| (from..to).map(move |x| (x, y))).collect();
                // 115 of 255 parts of the class's colour on the picture; box and label cover the others.
                let is_tinted = |&&(x, y): &&(u32, u32)| {
                    let (before, after) = (at(&large[0], x, y), at(&pictures[0], x, y));
                    (0..3).all(|k| {
                        let mixed = (140.0 * f32::from(before[k]) + 115.0 * f32::from(colour[k])) / 255.0;
                        (mixed - f32::from(after[k])).abs() < 2.0
                    })
                };
                let tinted = inside.iter().filter(is_tinted).count();
                assert!(tinted > 100 && 2 * tinted > inside.len(), "{tinted} of {} pixels", inside.len());
            }
            Further::Keypoints => {
                assert_eq!(found.landmarks.len(), 3);
                assert!(found.landmarks.iter().all(|&point| is_drawn_at(point)), "{:?}", found.landmarks);
            }
            Further::Angle => {
                let quad = found.quad.as_ref().expect("a turned box");
                let inside = |c: &[f32; 2]| (0.0..320.0).contains(&c[0]) && (0.0..240.0).contains(&c[1]);
                let corners: Vec<_> = quad.corners.into_iter().filter(inside).collect();
                assert!(corners.len() >= 2 && quad.angle.abs() > 0.1, "{quad:?}");
                assert!(corners.iter().filter(|&&corner| is_drawn_at(corner)).count() >= 2, "{quad:?}");
            }
        }
    }
}

/// A device of its own, taken over as a host application's: the shared one counts what other tests read back. From an
/// adapter of its own, see [`Gpu::from_device`].
fn own_gpu() -> Option<Arc<Gpu>> {
    let shared = test_gpu()?;
    let apis = [GpuApi::Vulkan, GpuApi::Metal, GpuApi::Gles];
    let api = apis.into_iter().find(|api| api.to_string() == shared.adapter.backend);
    let options = GpuOptions { api, allow_software: true, ..GpuOptions::default() };
    let own = Gpu::open(&options).expect("another device of the kind");
    own.device.on_uncaptured_error(Arc::new(|error| panic!("{error}")));
    Some(Gpu::from_device(own.device.clone(), own.queue.clone()))
}

/// Open handles and resident bytes of this process, where the system tells.
fn footprint() -> Option<(usize, u64)> {
    let handles = std::fs::read_dir("/proc/self/fd").ok()?.count();
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split_whitespace().nth(1)?.parse().ok()?;
    Some((handles, pages * 4096))
}

#[test]
fn nothing_is_read_back_and_nothing_grows() {
    let Some(gpu) = own_gpu() else { return };
    let detector = on_gpu(&gpu, &DecodeOptions::default());
    let clip = frames(5, 96, 64);
    let mut live = Headless::new(detector, None, HeadlessOptions { panel: true, ..HeadlessOptions::default() });
    let mut before = None;
    for i in 0..400 {
        live.push(&clip[i % clip.len()], 0.0).expect("a frame goes through");
        if i == 150 {
            before = footprint();
        }
    }
    live.finish().expect("all is drawn");
    assert_eq!(live.map_operations(), MapOperations::default());
    if let (Some((handles, bytes)), Some((handles_after, bytes_after))) = (before, footprint()) {
        // Other tests of this process run meanwhile; a leak of a frame's buffers would be 10 MB here.
        assert!(bytes_after < bytes + (64 << 20), "{bytes} bytes before, {bytes_after} after");
        assert!(handles_after <= handles + 50, "{handles} handles before, {handles_after} after");
    }
}

#[test]
fn draws_again_after_another_backend_and_on_a_hosts_texture() {
    let Some(gpu) = own_gpu() else { return };
    let format = wgpu::TextureFormat::Bgra8Unorm;
    let options = DecodeOptions::default();
    let (mut first, mut second) = (on_gpu(&gpu, &options), on_cpu(&options));
    let mut overlay = LiveOverlay::new(Arc::clone(&gpu), format, Style::default()).expect("an overlay");
    let size_px = [160, 120];
    let texture = offscreen::canvas(&gpu, size_px, format).expect("a texture");
    let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
    let target = Target { view: &view, size_px };
    assert!(overlay.draw(&mut first, None, target, |_| ()).is_err(), "nothing to draw again yet");
    let frame = &frames(1, 320, 240)[0];
    let has_timestamps = overlay.measure_passes().expect("a timer");
    let mut shown = Vec::new();
    for detector in [&mut first, &mut second] {
        overlay.draw(detector, Some(frame), target, |_| ()).expect("drawn");
        shown.push(offscreen::snapshot(&mut overlay, detector, size_px, format).expect("a picture"));
        shown.push(offscreen::snapshot(&mut overlay, detector, [320, 240], format).expect("a picture"));
    }
    assert!(agreement(&shown[0], &shown[2], 2) > 0.995);
    assert!(agreement(&shown[1], &shown[3], 2) > 0.995);
    if has_timestamps {
        overlay.draw(&mut first, Some(frame), target, |_| ()).expect("drawn");
        let times = overlay.device_times().expect("times of the first frame");
        assert!(times.infer > 0.0 && times.draw > 0.0, "{times:?}");
    }
}
