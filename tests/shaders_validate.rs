//! Every shader file is valid WGSL as it stands and has its twin; every variant of the inference kernels passes naga
//! and can be written as SPIR-V, Metal and GLSL ES.
#![cfg(feature = "gpu")]

mod kernel_cases;

use eyas::shader::{Precision, Variant};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

const STORAGE_BUFFERS_MAX: usize = 4;
const THREADS_MAX: u32 = 256;
const WORKGROUP_BYTES_MAX: u32 = 16352;

fn validate(name: &str, source: &str, capabilities: Capabilities) -> (naga::Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|e| panic!("{name}: {}\n{source}", e.emit_to_string(source)));
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|e| panic!("{name}: {}\n{source}", e.emit_to_string(source)));
    (module, info)
}

/// Limits that any device which eyas supports keeps.
fn check_limits(name: &str, module: &naga::Module) {
    let mut storage = 0;
    let mut workgroup_bytes = 0;
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).expect("layout");
    for (_, variable) in module.global_variables.iter() {
        match variable.space {
            naga::AddressSpace::Storage { .. } => storage += 1,
            naga::AddressSpace::WorkGroup => workgroup_bytes += layouter[variable.ty].size,
            _ => {}
        }
    }
    assert!(storage <= STORAGE_BUFFERS_MAX, "{name}: {storage} storage buffers");
    assert!(workgroup_bytes <= WORKGROUP_BYTES_MAX, "{name}: {workgroup_bytes} bytes of workgroup memory");
    for entry in module.entry_points.iter().filter(|e| e.stage == naga::ShaderStage::Compute) {
        let threads: u32 = entry.workgroup_size.iter().product();
        assert!(threads <= THREADS_MAX, "{name}: {threads} threads in a workgroup");
    }
}

/// Writes the module as the three backends would get it.
fn write_all(name: &str, module: &naga::Module, info: &ModuleInfo, precision: Precision) {
    let options = naga::back::spv::Options { lang_version: (1, 3), ..Default::default() };
    naga::back::spv::write_vec(module, info, &options, None).unwrap_or_else(|e| panic!("{name}: SPIR-V: {e}"));
    let options = naga::back::msl::Options { lang_version: (2, 4), ..Default::default() };
    naga::back::msl::write_string(module, info, &options, &Default::default())
        .unwrap_or_else(|e| panic!("{name}: Metal: {e}"));
    if precision == Precision::F32 {
        let options = naga::back::glsl::Options::default();
        assert_eq!(options.version, naga::back::glsl::Version::new_gles(310));
        let pipeline = naga::back::glsl::PipelineOptions {
            shader_stage: naga::ShaderStage::Compute,
            entry_point: "main".into(),
            multiview: None,
        };
        let mut text = String::new();
        naga::back::glsl::Writer::new(&mut text, module, info, &options, &pipeline, Default::default())
            .and_then(|mut w| w.write())
            .unwrap_or_else(|e| panic!("{name}: GLSL: {e}"));
    }
}

#[test]
fn every_variant_is_valid_everywhere() {
    let mut seen: HashSet<Variant> = HashSet::new();
    for precision in [Precision::F32, Precision::F16] {
        for case in kernel_cases::cases() {
            let variant = case.variant(precision);
            if seen.contains(&variant) {
                continue;
            }
            let name = format!("{} {precision:?}", case.name);
            let capabilities = match precision {
                Precision::F32 => Capabilities::empty(),
                Precision::F16 => Capabilities::SHADER_FLOAT16,
            };
            let (module, info) = validate(&name, &variant.source, capabilities);
            check_limits(&name, &module);
            write_all(&name, &module, &info, precision);
            // Bindings: weights if any, reads, writes, numbered without gaps.
            let weights = usize::from(!case.step.kernel.gpu_weights(&case.step).is_empty());
            let bindings = weights + case.step.reads.len() + case.step.writes.len();
            let mut numbers: Vec<u32> =
                module.global_variables.iter().filter_map(|(_, v)| v.binding).map(|b| b.binding).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (0..bindings as u32).collect::<Vec<_>>(), "{name}");
            assert!(variant.workgroups.iter().all(|&n| (1..=65535).contains(&n)), "{name}: {:?}", variant.workgroups);
            seen.insert(variant);
        }
    }
    assert!(seen.len() > 500, "only {} variants", seen.len());
}

fn rust_stems(folder: &Path, stems: &mut HashSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_stems(&path, stems);
        } else if path.extension().is_some_and(|e| e == "rs") {
            stems.extend(path.file_stem().map(|s| s.to_string_lossy().into_owned()));
        }
    }
}

/// A file's text with the snippets that its lines `// include: NAME` ask for, or that it plainly uses.
fn with_includes(path: &Path, text: &str) -> String {
    let common = path.parent().and_then(Path::parent).expect("shaders/").join("common");
    let mut whole = text.to_string();
    let mut names: Vec<&str> = text.lines().filter_map(|l| l.trim().strip_prefix("// include: ")).collect();
    if text.contains(": FrameParams;") && !names.contains(&"frame_params") {
        names.push("frame_params");
    }
    for name in names {
        let snippet = common.join(format!("{}.wgsl", name.trim()));
        whole.push('\n');
        whole += &std::fs::read_to_string(&snippet).unwrap_or_else(|e| panic!("{}: {e}", snippet.display()));
    }
    whole
}

#[test]
fn every_file_is_valid_alone_and_has_a_twin() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = Vec::new();
    for stage in std::fs::read_dir(root.join("shaders")).expect("shaders/").flatten() {
        let folder = std::fs::read_dir(stage.path()).expect("a folder of shaders");
        files.extend(folder.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "wgsl")));
    }
    assert!(files.len() >= 12, "{files:?}");
    for path in files {
        let name = path.display().to_string();
        let stage = path.parent().and_then(Path::file_name).expect("stage").to_string_lossy().into_owned();
        if stage == "common" {
            // Snippets are read with the files that include them.
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (module, _) = validate(&name, &with_includes(&path, &text), Capabilities::empty());
        check_limits(&name, &module);
        let mut stems = HashSet::new();
        rust_stems(&root.join("src").join(&stage), &mut stems);
        let stem = path.file_stem().expect("stem").to_string_lossy().into_owned();
        assert!(stems.contains(&stem), "shaders/{stage}/{stem}.wgsl has no twin src/{stage}/**/{stem}.rs");
    }
}
