//! The convert and marshal shaders against their twins, on whatever Vulkan adapter there is.
#![cfg(feature = "gpu")]

use std::cell::Cell;

use eyas::convert::{ChannelOrder, Preprocess, run_twin, variant};
use eyas::frame::{Frame, PixelFormat};
use eyas::gpu::{Gpu, test_gpu};
use eyas::infer::plan::view::{BufferId, View};
use eyas::letterbox::{Fit, FrameParams};
use eyas::marshal::{ChannelAxis, Route, route};
use eyas::shader::Precision;

/// What the buffers hold before the shaders run: no result, and exact in f16.
const UNTOUCHED: f32 = -4096.0;

fn cells(v: &mut [f32]) -> &[Cell<f32>] {
    Cell::from_mut(v).as_slice_of_cells()
}

fn frame(size: [u32; 2], format: PixelFormat) -> Frame {
    let len = (size[0] * size[1]) as usize * format.bytes_per_pixel();
    let bytes = (0..len as u64).map(|i| ((i * 2_654_435_761 % 4_294_967_296) >> 24) as u8).collect();
    Frame::new(size[0], size[1], format, bytes).expect("frame")
}

fn precisions(gpu: &Gpu) -> Vec<Precision> {
    match gpu.precision {
        Precision::F32 => vec![Precision::F32],
        Precision::F16 => vec![Precision::F32, Precision::F16],
    }
}

/// Runs shader and twin and compares every element that the view owns; the others must stay untouched, but for the
/// padding lanes of an aligned view.
fn compare(gpu: &Gpu, frame: &Frame, p: &Preprocess, view: &View, precision: Precision) {
    let letterbox = p.letterbox([frame.width, frame.height]);
    let len = view.end().next_multiple_of(4) + 4;
    let mut expected = vec![UNTOUCHED; len];
    run_twin(frame, p, &letterbox, view, cells(&mut expected)).expect("twin");

    let v = variant(p, frame.format, view, precision).expect("variant");
    let params = gpu.upload("params", bytemuck::bytes_of(&FrameParams::new(frame, &letterbox))).expect("upload");
    let mut bytes = frame.bytes.clone();
    bytes.resize(bytes.len().next_multiple_of(4), 255);
    let bytes = gpu.upload("bytes", &bytes).expect("upload");
    let dst = gpu.upload_f32("input", &vec![UNTOUCHED; len], precision).expect("upload");
    let dispatch = gpu.dispatch(&v, &[&params, &bytes, &dst]).expect("dispatch");
    gpu.run(&[&dispatch]).expect("run");
    let found = gpu.download_f32(&dst, len, precision).expect("download");

    let padded = v.source.contains("array<S4>;");
    for (i, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
        if padded && expected == UNTOUCHED && i < view.end().next_multiple_of(4) {
            continue;
        }
        // f32 is exact where the compiler keeps the order of the two operations; f16 rounds the result.
        let limit = match precision {
            Precision::F32 => 1e-6 * expected.abs().max(1.0),
            Precision::F16 => 1e-3 * expected.abs().max(1e-3),
        };
        assert!(
            (found - expected).abs() <= limit,
            "element {i}: {found} for {expected}; {frame:?} {p:?} {view:?} {precision:?}"
        );
    }
}

#[test]
fn resize_normalise_equals_its_twin() {
    let Some(gpu) = test_gpu() else { return };
    let formats = [PixelFormat::Rgb8, PixelFormat::Rgba8, PixelFormat::Bgra8, PixelFormat::Gray8];
    let sizes = [[641, 479], [3, 5], [1, 1], [31, 200], [33, 21]];
    let fits = [Fit::LetterboxCentre { pad: 114 }, Fit::Stretch, Fit::LetterboxTopLeft { pad: 7 }];
    let (mean, std) = ([103.53, 116.28, 123.675], [57.375, 57.12, 58.395]);
    for precision in precisions(&gpu) {
        for (i, size) in sizes.into_iter().enumerate() {
            for (j, format) in formats.into_iter().enumerate() {
                let order = [ChannelOrder::Rgb, ChannelOrder::Bgr, ChannelOrder::Gray][(i + j) % 3];
                let p = Preprocess { width_px: 33, height_px: 21, fit: fits[(i + j / 2) % 3], order, mean, std };
                let mut view = View::channels_last(BufferId(0), &[1, order.channels(), 21, 33], [1, 4][j % 2]);
                view.offset = [0, 4, 3][i % 3];
                compare(&gpu, &frame(size, format), &p, &view, precision);
            }
        }
    }
}

#[test]
fn pack_equals_its_twin() {
    let Some(gpu) = test_gpu() else { return };
    for precision in precisions(&gpu) {
        for (shape, offset) in [([1, 3, 7, 19], 0), ([1, 13, 2, 5], 3)] {
            let input = View { offset, ..View::row_major(BufferId(0), &shape) };
            let Ok(Route::Packed(pack)) = route(&input, ChannelAxis::First, 4) else { panic!("planes are packed") };
            let mut src: Vec<f32> = (0..pack.staging_len()).map(|i| i as f32 * 0.25).collect();
            let mut expected = vec![UNTOUCHED; (input.end() + 2).next_multiple_of(4)];
            let from = gpu.upload_f32("staging", &src, precision).expect("upload");
            let to = gpu.upload_f32("input", &expected, precision).expect("upload");
            pack.run_twin(cells(&mut src), cells(&mut expected));
            let dispatch = gpu.dispatch(&pack.variant(precision), &[&from, &to]).expect("dispatch");
            gpu.run(&[&dispatch]).expect("run");
            let found = gpu.download_f32(&to, expected.len(), precision).expect("download");
            assert_eq!(found, expected, "{shape:?} {precision:?}");
        }
    }
}
