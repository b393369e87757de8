//! The GPU runtime on whatever adapters this machine has; software ones count. Without any, the tests say so and pass,
//! unless EYAS_REQUIRE_GPU=1.
#![cfg(feature = "gpu")]

use eyas::gpu::{Gpu, GpuApi, GpuError, GpuOptions, GpuSession, Readback, profile, test_gpu};
use eyas::infer::kernel::{Cells, Kernel};
use eyas::infer::plan::step::Element;
use eyas::infer::plan::{Buffer, BufferId, BufferKind, Plan, Step, View};
use eyas::infer::tensor::Tensor;
use eyas::shader::{Precision, Variant, VariantBuilder};
use std::sync::Arc;

/// dst[i] = src[i]·FACTOR + 1 for LEN elements.
const SCALE: &str = "
alias S = f32;
const LEN: u32 = 1u;
const FACTOR: f32 = 1.0;
@group(0) @binding(0) var<storage, read> src: array<S>;
@group(0) @binding(1) var<storage, read_write> dst: array<S>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= LEN { return; }
    dst[id.x] = S(f32(src[id.x]) * FACTOR + 1.0);
}
";

fn scale(len: usize, factor: f32, precision: Precision) -> Variant {
    VariantBuilder::new("scale", SCALE).u32("LEN", len).f32("FACTOR", factor).precision(precision).build([
        len.div_ceil(64) as u32,
        1,
        1,
    ])
}

fn open(api: GpuApi, checked_shaders: bool) -> Option<Arc<Gpu>> {
    match Gpu::open(&GpuOptions { api: Some(api), adapter: None, allow_software: true, checked_shaders }) {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            assert!(std::env::var("EYAS_REQUIRE_GPU").as_deref() != Ok("1"), "EYAS_REQUIRE_GPU=1, but {error}");
            eprintln!("NO GPU ADAPTER for {api}: {error}; test skipped");
            None
        }
    }
}

fn round_trip(gpu: &Gpu, precision: Precision) {
    // An odd count: in f16 the last 4 bytes are half used.
    let values: Vec<f32> = (0..77).map(|i| i as f32 * 0.5 - 9.0).collect();
    let src = gpu.upload_f32("src", &values, precision).expect("upload");
    let dst = gpu.storage_buffer("dst", values.len() * precision.size_bytes()).expect("buffer");
    let dispatch = gpu.dispatch(&scale(values.len(), 2.0, precision), &[&src, &dst]).expect("dispatch");
    gpu.run(&[&dispatch]).expect("run");
    let expected: Vec<f32> = values.iter().map(|v| v * 2.0 + 1.0).collect();
    assert_eq!(gpu.download_f32(&dst, values.len(), precision).expect("download"), expected);
    assert_eq!(gpu.download_f32(&src, values.len(), precision).expect("download"), values);
}

#[test]
fn vulkan_round_trip() {
    let Some(gpu) = open(GpuApi::Vulkan, false) else { return };
    assert_eq!(gpu.adapter.backend, "vulkan");
    round_trip(&gpu, Precision::F32);
    if gpu.precision == Precision::F16 {
        round_trip(&gpu, Precision::F16);
    } else {
        eprintln!("{} has no f16", gpu.adapter);
    }
}

#[test]
fn gles_round_trip() {
    let Some(gpu) = open(GpuApi::Gles, false) else { return };
    assert_eq!(gpu.adapter.backend, "gles");
    assert_eq!(gpu.precision, Precision::F32, "no f16 on GLES");
    round_trip(&gpu, Precision::F32);
}

#[test]
fn checked_shaders_compute_the_same() {
    let Some(gpu) = open(GpuApi::Vulkan, true) else { return };
    round_trip(&gpu, Precision::F32);
}

#[test]
fn software_adapters_are_not_taken_unasked() {
    let found = Gpu::adapters(&GpuOptions::default());
    match Gpu::open(&GpuOptions::default()) {
        Ok(gpu) => assert!(!gpu.adapter.is_software),
        Err(GpuError::OnlySoftware(names)) => {
            assert!(found.iter().all(|a| a.is_software));
            assert!(names.contains(&found[0].name), "{names}");
        }
        Err(GpuError::NoAdapter(_)) => assert!(found.is_empty()),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn an_adapter_that_is_not_there_is_named() {
    let options = GpuOptions { adapter: Some("no such adapter".into()), allow_software: true, ..GpuOptions::default() };
    let error = Gpu::open(&options).expect_err("no such adapter");
    assert!(matches!(error, GpuError::NoAdapter(_)), "{error}");
}

#[test]
fn one_buffer_read_and_written_in_one_dispatch() {
    let Some(gpu) = test_gpu() else { return };
    // Reads the first 64 elements, writes the next 64 of the same buffer.
    let source = SCALE.replace("dst[id.x]", "dst[id.x + 64u]").replace("LEN: u32 = 1u", "LEN: u32 = 64u");
    let variant = Variant { stem: "aliased", source, workgroups: [1, 1, 1] };
    let values: Vec<f32> = (0..128).map(|i| i as f32).collect();
    let buffer = gpu.upload_f32("both", &values, Precision::F32).expect("upload");
    let dispatch = gpu.dispatch(&variant, &[&buffer, &buffer]).expect("aliased dispatch");
    gpu.run(&[&dispatch]).expect("run");
    let result = gpu.download_f32(&buffer, 128, Precision::F32).expect("download");
    assert_eq!(result[..64], values[..64]);
    assert!(result[64..].iter().zip(&values).all(|(&r, &v)| r == v + 1.0));
}

#[test]
fn bad_shaders_are_errors() {
    let Some(gpu) = test_gpu() else { return };
    let buffer = gpu.storage_buffer("b", 64).expect("buffer");
    let variant = |source: &str| Variant { stem: "bad", source: source.to_string(), workgroups: [1, 1, 1] };
    let bindings = "@group(0) @binding(0) var<storage, read_write> a: array<f32>;\n";
    let cases = [
        ("syntax", format!("{bindings}@compute @workgroup_size(1) fn main() {{ a[0] = ; }}")),
        ("type", format!("{bindings}@compute @workgroup_size(1) fn main() {{ a[0] = 1u; }}")),
        ("no entry point", bindings.to_string()),
        ("too many threads", format!("{bindings}@compute @workgroup_size(65536) fn main() {{ a[0] = 1.0; }}")),
        ("undeclared", "@compute @workgroup_size(1) fn main() {}".to_string()),
    ];
    for (case, source) in cases {
        match gpu.dispatch(&variant(&source), &[&buffer]) {
            Err(GpuError::Shader { stem, message }) => {
                assert_eq!(stem, "bad");
                assert!(!message.is_empty());
            }
            other => panic!("{case}: {other:?}"),
        }
    }
    // The device is as good as before.
    round_trip(&gpu, Precision::F32);
}

#[test]
fn limits_are_errors() {
    let Some(gpu) = test_gpu() else { return };
    let size = gpu.limits.max_storage_buffer_binding_size as usize + 1;
    assert!(matches!(gpu.storage_buffer("huge", size), Err(GpuError::Limit { .. })));
    assert!(matches!(gpu.storage_buffer("absurd", usize::MAX), Err(GpuError::Limit { .. })));
    let buffer = gpu.storage_buffer("b", 64).expect("buffer");
    let mut variant = scale(16, 1.0, Precision::F32);
    variant.workgroups = [1, gpu.limits.max_compute_workgroups_per_dimension + 1, 1];
    assert!(matches!(gpu.dispatch(&variant, &[&buffer, &buffer]), Err(GpuError::Limit { .. })));
    assert!(matches!(gpu.download(&buffer, 65), Err(GpuError::Invalid(_))));
    assert!(matches!(gpu.write(&buffer, 60, &[0; 8]), Err(GpuError::Invalid(_))));
    assert!(matches!(gpu.write(&buffer, 2, &[0; 4]), Err(GpuError::Invalid(_))));
}

/// Resident memory of this process; `None` where the system does not tell.
fn resident_bytes() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split_whitespace().nth(1)?.parse::<usize>().ok()? * 4096)
}

#[test]
fn many_submits_do_not_leak() {
    let Some(gpu) = test_gpu() else { return };
    let values = vec![1.0f32; 4096];
    let src = gpu.upload_f32("src", &values, Precision::F32).expect("upload");
    let dst = gpu.storage_buffer("dst", values.len() * 4).expect("buffer");
    let dispatch = gpu.dispatch(&scale(values.len(), 2.0, Precision::F32), &[&src, &dst]).expect("dispatch");
    let frame = || {
        gpu.write(&src, 0, bytemuck::cast_slice(&values)).expect("write");
        gpu.run(&[&dispatch]).expect("run");
        assert_eq!(gpu.download_f32(&dst, 1, Precision::F32).expect("download"), [3.0]);
    };
    (0..100).for_each(|_| frame());
    let before = resident_bytes();
    (0..1000).for_each(|_| frame());
    if let (Some(before), Some(after)) = (before, resident_bytes()) {
        // 1000 frames of 16 KiB each way would be 32 MB; other tests of this process may allocate a little.
        assert!(after < before + 24_000_000, "{before} bytes resident became {after}");
    }
}

#[test]
fn a_lost_device_is_an_error() {
    let Some(gpu) = open(GpuApi::Vulkan, false) else { return };
    let buffer = gpu.storage_buffer("b", 64).expect("buffer");
    gpu.device.destroy();
    for _ in 0..2 {
        assert!(matches!(gpu.download(&buffer, 64), Err(GpuError::Lost(_))));
        assert!(matches!(gpu.storage_buffer("c", 64), Err(GpuError::Lost(_))));
        assert!(matches!(gpu.wait(None), Err(GpuError::Lost(_))));
    }
}

/// dst = src·weights[0] + 1, element by element, padding and all.
#[derive(Debug)]
struct ScaleByWeight;

const SCALE_BY_WEIGHT: &str = "
alias S = f32;
const LEN: u32 = 1u;
const SRC: u32 = 0u;
const DST: u32 = 0u;
@group(0) @binding(0) var<storage, read> weights: array<S>;
@group(0) @binding(1) var<storage, read> src: array<S>;
@group(0) @binding(2) var<storage, read_write> dst: array<S>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= LEN { return; }
    dst[DST + id.x] = S(f32(src[SRC + id.x]) * f32(weights[0]) + 1.0);
}
";

impl Kernel for ScaleByWeight {
    fn stem(&self) -> &'static str {
        "scale_by_weight"
    }
    fn run_twin(&self, _step: &Step, _reads: &[Cells<'_>], _writes: &[Cells<'_>]) {
        unreachable!("only the GPU is tested here");
    }
    fn variant(&self, step: &Step, precision: Precision) -> Variant {
        let (src, dst) = (&step.reads[0], &step.writes[0]);
        let len = src.end() - src.offset;
        VariantBuilder::new("scale_by_weight", SCALE_BY_WEIGHT)
            .u32("LEN", len)
            .u32("SRC", src.offset)
            .u32("DST", dst.offset)
            .precision(precision)
            .build([len.div_ceil(64) as u32, 1, 1])
    }
    fn gpu_weights(&self, _step: &Step) -> Vec<f32> {
        vec![3.0]
    }
}

/// Two steps over a feature map of 3 channels padded to 4; the second reads and writes parts of one buffer. A third
/// has nothing to do.
fn small_plan() -> Plan {
    let shape = [1, 3, 2, 5];
    let input = View::channels_last(BufferId(0), &shape, 4);
    let first = View { buffer: BufferId(1), ..input.clone() };
    let second = View { offset: 40, ..first.clone() };
    let constant = View::row_major(BufferId(2), &[2, 3]);
    let empty = View::row_major(BufferId(1), &[0]);
    let step = |read: &View, write: &View| Step {
        node: "scale".into(),
        kernel: Arc::new(ScaleByWeight),
        reads: vec![read.clone()],
        writes: vec![write.clone()],
        macs: 0,
    };
    let buffer =
        |name: &str, len_elements, kind| Buffer { name: name.into(), len_elements, element: Element::F32, kind };
    let table = Tensor::from_f32(&[2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).expect("tensor");
    Plan {
        buffers: vec![
            buffer("x", 40, BufferKind::Input),
            buffer("y", 80, BufferKind::Activation { first: 0, last: 1 }),
            buffer("table", 6, BufferKind::Constant(table)),
        ],
        steps: vec![step(&input, &first), step(&first, &second), step(&empty, &empty)],
        inputs: vec![("x".into(), input)],
        outputs: vec![
            ("first".into(), first),
            ("second".into(), second.sliced(1, 1, 2, 1)),
            ("table".into(), constant),
            ("nothing".into(), empty),
        ],
        ..Plan::default()
    }
}

#[test]
fn a_session_runs_a_plan() {
    let Some(gpu) = test_gpu() else { return };
    let values: Vec<f32> = (0..30).map(|i| i as f32 * 0.25).collect();
    let input = Tensor::from_f32(&[1, 3, 2, 5], values.clone()).expect("tensor");
    let precisions: &[Precision] = if gpu.adapter.f16 { &[Precision::F32, Precision::F16] } else { &[Precision::F32] };
    for &precision in precisions {
        let session = GpuSession::new(Arc::clone(&gpu), Arc::new(small_plan()), precision).expect("session");
        // 40 and 80 elements, 6 rounded to 16 bytes, and two weights of 16 bytes.
        let table_bytes = (6 * precision.size_bytes()).next_multiple_of(16);
        assert_eq!(session.memory_bytes(), (120 * precision.size_bytes() + table_bytes + 32) as u64);
        session.write_input(session.input_index("x").expect("x"), &input).expect("write");
        for _ in 0..3 {
            session.run().expect("run");
            session.wait().expect("wait");
            let outputs = session.read_outputs().expect("outputs");
            let first: Vec<f32> = values.iter().map(|v| v * 3.0 + 1.0).collect();
            let second: Vec<f32> = first[10..].iter().map(|v| v * 3.0 + 1.0).collect();
            assert_eq!(outputs[0].as_f32(), Some(first.as_slice()));
            assert_eq!(outputs[1].shape(), [1, 2, 2, 5]);
            assert_eq!(outputs[1].as_f32(), Some(second.as_slice()));
            assert_eq!(outputs[2].as_f32(), Some([1.0, 2.0, 3.0, 4.0, 5.0, 6.0].as_slice()));
            assert_eq!(outputs[3].len(), 0);
            for (i, output) in outputs.iter().enumerate() {
                assert_eq!(session.read_output(i).expect("output"), *output);
            }
        }
        let wrong = Tensor::from_f32(&[1, 3, 5, 2], values.clone()).expect("tensor");
        let error = session.write_input(0, &wrong).expect_err("wrong shape").to_string();
        assert!(error.contains("'x'") && error.contains("[1, 3, 2, 5]"), "{error}");
        assert!(matches!(session.write_input(1, &input), Err(GpuError::Invalid(_))));
        assert!(matches!(session.read_output(4), Err(GpuError::Invalid(_))));
    }
}

#[test]
fn steps_are_timed() {
    let Some(gpu) = test_gpu() else { return };
    let timestamps = gpu.adapter.timestamps;
    let session = GpuSession::new(gpu, Arc::new(small_plan()), Precision::F32).expect("session");
    let by_host = profile::times_by_host(&session).expect("host times");
    assert_eq!(by_host.iter().map(|t| t.0).collect::<Vec<_>>(), [0, 1]);
    assert!(by_host.iter().all(|t| t.1 > 0.0));
    let profile = profile::profile(&session, 3).expect("profile");
    assert_eq!(profile.clock == profile::Clock::Device, timestamps);
    assert_eq!(profile.steps.iter().map(|t| t.0).collect::<Vec<_>>(), [0, 1]);
    assert!(profile.steps.iter().all(|t| t.1 >= 0.0 && t.1 < 10_000.0), "{:?}", profile.steps);
}

#[test]
fn a_device_of_the_host_application() {
    let Some(own) = open(GpuApi::Vulkan, false) else { return };
    let gpu = Gpu::from_device(own.device.clone(), own.queue.clone());
    assert_eq!(gpu.adapter.name, own.adapter.name);
    assert_eq!(gpu.precision, own.precision);
    round_trip(&gpu, Precision::F32);
}

#[test]
fn frames_come_back_without_waiting() {
    let Some(gpu) = test_gpu() else { return };
    let buffer = gpu.storage_buffer("b", 32).expect("buffer");
    // An odd length and an offset; used for several frames.
    let readback = Readback::new(&gpu, &[(&buffer, 4, 7), (&buffer, 16, 0), (&buffer, 28, 4)]).expect("readback");
    assert_eq!(readback.take(&gpu).expect("nothing asked for"), None);
    for frame in 0..3u8 {
        let bytes: Vec<u8> = (0..32).map(|i| i + frame).collect();
        gpu.write(&buffer, 0, &bytes).expect("write");
        gpu.submit(|encoder| readback.encode(encoder)).expect("submit");
        readback.map(&gpu).expect("map");
        let taken = loop {
            gpu.poll().expect("poll");
            if let Some(taken) = readback.take(&gpu).expect("take") {
                break taken;
            }
            std::thread::yield_now();
        };
        assert_eq!(taken, [bytes[4..11].to_vec(), vec![], bytes[28..].to_vec()]);
    }
    assert!(matches!(Readback::new(&gpu, &[(&buffer, 30, 1)]), Err(GpuError::Invalid(_))));
    assert!(matches!(Readback::new(&gpu, &[(&buffer, 28, 5)]), Err(GpuError::Invalid(_))));
}

#[test]
fn devices_and_sessions_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Gpu>();
    crosses::<GpuSession>();
    crosses::<Readback>();
}
