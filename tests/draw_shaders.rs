//! The shaders of the draw stage are valid WGSL, and naga can write them for every API.

#![cfg(feature = "gpu")]

use naga::back::{glsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};

fn translate(name: &str, source: &str, entry_points: &[(&str, naga::ShaderStage)]) {
    let module =
        naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(source)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::empty())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(source)));
    assert_eq!(module.entry_points.len(), entry_points.len(), "{name}");

    let words = spv::write_vec(&module, &info, &spv::Options::default(), None);
    assert!(words.unwrap_or_else(|e| panic!("{name} to SPIR-V: {e}")).len() > 20);

    let (text, _) = msl::write_string(&module, &info, &msl::Options::default(), &msl::PipelineOptions::default())
        .unwrap_or_else(|e| panic!("{name} to MSL: {e}"));
    assert!(text.contains("metal"));

    for &(entry_point, shader_stage) in entry_points {
        let options =
            glsl::Options { version: glsl::Version::Embedded { version: 310, is_webgl: false }, ..Default::default() };
        let pipeline = glsl::PipelineOptions { shader_stage, entry_point: entry_point.to_string(), multiview: None };
        let mut text = String::new();
        glsl::Writer::new(&mut text, &module, &info, &options, &pipeline, naga::proc::BoundsCheckPolicies::default())
            .and_then(|mut writer| writer.write())
            .unwrap_or_else(|e| panic!("{name} {entry_point} to GLSL ES 3.10: {e}"));
        assert!(text.starts_with("#version 310 es"));
        if shader_stage == naga::ShaderStage::Vertex {
            assert!(!text.contains("buffer "), "{name} {entry_point} reads a storage buffer, which GLES 3.1 may lack");
        }
    }
}

#[test]
fn layout_translates() {
    let variant = eyas::draw::layout::variant();
    translate("layout", &variant.source, &[("main", naga::ShaderStage::Compute)]);
    translate("layout file", eyas::draw::layout::LAYOUT_WGSL, &[("main", naga::ShaderStage::Compute)]);
}

#[test]
fn overlay_translates() {
    let entry_points = [
        ("picture_vertex", naga::ShaderStage::Vertex),
        ("picture_fragment", naga::ShaderStage::Fragment),
        ("instance_vertex", naga::ShaderStage::Vertex),
        ("instance_fragment", naga::ShaderStage::Fragment),
    ];
    translate("overlay", eyas::draw::overlay::OVERLAY_WGSL, &entry_points);
}
