//! Every variant of the decode shaders is valid WGSL, and naga can write it for every API.

#![cfg(feature = "gpu")]

mod decode_heads;

use eyas::decode::Suppression;
use eyas::shader::{Precision, Variant};
use naga::back::{glsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};

fn translate(name: &str, variant: &Variant, precision: Precision) {
    let source = &variant.source;
    let module =
        naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(source)));
    let capabilities = match precision {
        Precision::F32 => Capabilities::empty(),
        Precision::F16 => Capabilities::SHADER_FLOAT16,
    };
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(source)));

    let storage = module.global_variables.iter().filter(|(_, v)| v.binding.is_some()).count();
    assert!(storage <= 4, "{name} binds {storage} buffers");
    let [x, y, z] = module.entry_points[0].workgroup_size;
    assert!(x * y * z <= 256, "{name}");
    assert!(variant.workgroups.iter().all(|&n| n <= 65535), "{name}");

    let words = spv::write_vec(&module, &info, &spv::Options::default(), None);
    assert!(words.unwrap_or_else(|e| panic!("{name} to SPIR-V: {e}")).len() > 20);
    let options = msl::Options { lang_version: (2, 4), ..Default::default() };
    let (text, _) = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
        .unwrap_or_else(|e| panic!("{name} to MSL: {e}"));
    assert!(text.contains("metal"));
    // GLES has no 16-bit floats.
    if precision == Precision::F32 {
        let options =
            glsl::Options { version: glsl::Version::Embedded { version: 310, is_webgl: false }, ..Default::default() };
        let pipeline = glsl::PipelineOptions {
            shader_stage: naga::ShaderStage::Compute,
            entry_point: "main".to_string(),
            multiview: None,
        };
        let mut text = String::new();
        glsl::Writer::new(&mut text, &module, &info, &options, &pipeline, naga::proc::BoundsCheckPolicies::default())
            .and_then(|mut writer| writer.write())
            .unwrap_or_else(|e| panic!("{name} to GLSL ES 3.10: {e}"));
        assert!(text.starts_with("#version 310 es"));
    }
}

#[test]
fn heads_translate() {
    for case in decode_heads::cases() {
        for precision in [Precision::F32, Precision::F16] {
            let variants = case.head.variants(&case.views, precision);
            assert!(!variants.is_empty());
            for (variant, outputs) in variants {
                assert_eq!(variant.stem, case.head.stem());
                assert!(outputs.len() <= 3 && outputs.iter().all(|&o| o < case.views.len()), "{}", case.name);
                translate(&case.name, &variant, precision);
            }
            for scale in case.head.cell_points() {
                let variant = scale.variant(&case.views[scale.output], precision, 300);
                translate(&format!("points of {}", case.name), &variant, precision);
            }
        }
    }
}

#[test]
fn nms_translates() {
    for of in [Suppression::None, Suppression::Iou, Suppression::Distance { beta: 0.6 }, Suppression::Rotated] {
        translate(&format!("nms {of:?}"), &eyas::decode::nms::variant(300, of), Precision::F32);
    }
}
