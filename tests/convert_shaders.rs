//! Every variant of the convert and marshal shaders is valid and can be written for every shading language.
#![cfg(feature = "gpu")]

use eyas::convert::{ChannelOrder, Preprocess, picture_variant, variant};
use eyas::frame::{Colour, PixelFormat, YuvMatrix, YuvRange};
use eyas::infer::plan::view::{BufferId, View};
use eyas::letterbox::Fit;
use eyas::marshal::{ChannelAxis, Route, route};
use eyas::shader::{Precision, Variant};
use naga::back::{glsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// Parses, validates and translates; f16 has no GLSL ES.
fn translate(variant: &Variant, precision: Precision) {
    let fail = |stage: &str, e: &dyn std::fmt::Display| -> ! { panic!("{stage}: {e}\n{}", variant.source) };
    let module = naga::front::wgsl::parse_str(&variant.source)
        .unwrap_or_else(|e| fail("WGSL", &e.emit_to_string(&variant.source)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::SHADER_FLOAT16)
        .validate(&module)
        .unwrap_or_else(|e| fail("validation", &e.emit_to_string(&variant.source)));
    spv::write_vec(&module, &info, &spv::Options::default(), None).unwrap_or_else(|e| fail("SPIR-V", &e));
    msl::write_string(&module, &info, &msl::Options::default(), &msl::PipelineOptions::default())
        .unwrap_or_else(|e| fail("MSL", &e));
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
            .unwrap_or_else(|e| fail("GLSL ES", &e));
    }
}

#[test]
fn resize_normalise() {
    for precision in [Precision::F32, Precision::F16] {
        for format in PixelFormat::ALL {
            for order in [ChannelOrder::Rgb, ChannelOrder::Bgr, ChannelOrder::Gray] {
                for (fit, block) in [(Fit::Stretch, 1), (Fit::LetterboxCentre { pad: 114 }, 4)] {
                    let (mean, std) = ([103.53, 1e-20, -0.0], [57.375, 1e20, -1.0]);
                    let p = Preprocess { width_px: 33, height_px: 20, fit, order, mean, std };
                    let view = View::channels_last(BufferId(0), &[1, order.channels(), 20, 33], block);
                    let v = variant(&p, format, Colour::default(), &view, precision).expect("fits");
                    assert_eq!(v.workgroups, [3, 2, 1]);
                    assert_eq!(v.source.contains("array<S4>"), order != ChannelOrder::Gray && block == 4);
                    translate(&v, precision);
                }
            }
        }
    }
}

#[test]
fn picture() {
    for format in PixelFormat::ALL {
        let colour = Colour { range: YuvRange::Full, matrix: YuvMatrix::Bt709 };
        let v = picture_variant(format, colour, [641, 479]);
        assert_eq!(v.workgroups, [41, 30, 1]);
        translate(&v, Precision::F32);
    }
}

#[test]
fn pack() {
    for precision in [Precision::F32, Precision::F16] {
        let input = View::row_major(BufferId(0), &[1, 3, 20, 33]);
        let Ok(Route::Packed(pack)) = route(&input, ChannelAxis::First, 4) else { panic!("planes are packed") };
        let v = pack.variant(precision);
        assert_eq!(v.workgroups, [3, 2, 1]);
        translate(&v, precision);
    }
}
