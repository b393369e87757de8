//! The convert and marshal shaders against their twins, on whatever Vulkan adapter there is.
#![cfg(feature = "gpu")]

use std::cell::Cell;

use eyas::convert::{ChannelOrder, Preprocess, picture_row_words, picture_twin, picture_variant, run_twin, variant};
use eyas::frame::{Colour, Frame, PixelFormat, YuvMatrix, YuvRange};
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
    let bytes = (0..format.picture_bytes(size[0], size[1]))
        .map(|i| ((i * 2_654_435_761 % 4_294_967_296) >> 24) as u8)
        .collect();
    Frame::new(size[0], size[1], format, bytes).expect("frame")
}

const COLOURS: [Colour; 4] = [
    Colour { range: YuvRange::Limited, matrix: YuvMatrix::Bt601 },
    Colour { range: YuvRange::Limited, matrix: YuvMatrix::Bt709 },
    Colour { range: YuvRange::Full, matrix: YuvMatrix::Bt601 },
    Colour { range: YuvRange::Full, matrix: YuvMatrix::Bt709 },
];

/// A frame's bytes as they go up: whole words.
fn padded(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.bytes.clone();
    bytes.resize(bytes.len().next_multiple_of(4), 255);
    bytes
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

    let v = variant(p, frame.format, frame.colour, view, precision).expect("variant");
    let params = gpu.upload("params", bytemuck::bytes_of(&FrameParams::new(frame, &letterbox))).expect("upload");
    let bytes = gpu.upload("bytes", &padded(frame)).expect("upload");
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
    let sizes = [[641, 479], [3, 5], [1, 1], [31, 200], [33, 21]];
    let fits = [Fit::LetterboxCentre { pad: 114 }, Fit::Stretch, Fit::LetterboxTopLeft { pad: 7 }];
    let (mean, std) = ([103.53, 116.28, 123.675], [57.375, 57.12, 58.395]);
    for precision in precisions(&gpu) {
        for (i, size) in sizes.into_iter().enumerate() {
            for (j, format) in PixelFormat::ALL.into_iter().enumerate() {
                let order = [ChannelOrder::Rgb, ChannelOrder::Bgr, ChannelOrder::Gray][(i + j) % 3];
                let p = Preprocess { width_px: 33, height_px: 21, fit: fits[(i + j / 2) % 3], order, mean, std };
                let mut view = View::channels_last(BufferId(0), &[1, order.channels(), 21, 33], [1, 4][j % 2]);
                view.offset = [0, 4, 3][i % 3];
                let frame = frame(size, format).with_colour(COLOURS[(i + j) % 4]);
                compare(&gpu, &frame, &p, &view, precision);
            }
        }
    }
}

#[test]
fn picture_equals_its_twin() {
    let Some(gpu) = test_gpu() else { return };
    for format in PixelFormat::ALL {
        for (i, size) in [[641, 479], [3, 5], [1, 1], [64, 2], [2, 1]].into_iter().enumerate() {
            for colour in if format.is_yuv() { &COLOURS[..] } else { &COLOURS[i % 4..=i % 4] } {
                let frame = frame(size, format).with_colour(*colour);
                let expected = picture_twin(&frame).expect("twin");
                let p = Preprocess {
                    width_px: 4,
                    height_px: 4,
                    fit: Fit::Stretch,
                    order: ChannelOrder::Rgb,
                    mean: [0.0; 3],
                    std: [1.0; 3],
                };
                let params = FrameParams::new(&frame, &p.letterbox(size));
                let params = gpu.upload("params", bytemuck::bytes_of(&params)).expect("upload");
                let bytes = gpu.upload("bytes", &padded(&frame)).expect("upload");
                let row_bytes = 4 * picture_row_words(size[0]) as usize;
                let dst = gpu.upload("picture", &vec![7; row_bytes * size[1] as usize]).expect("upload");
                let v = picture_variant(format, *colour, size);
                let dispatch = gpu.dispatch(&v, &[&params, &bytes, &dst]).expect("dispatch");
                gpu.run(&[&dispatch]).expect("run");
                let found = gpu.download(&dst, row_bytes * size[1] as usize).expect("download");
                let rows = found.chunks_exact(row_bytes).zip(expected.bytes.chunks_exact(4 * size[0] as usize));
                for (y, (found, expected)) in rows.enumerate() {
                    let (pixels, rest) = found.split_at(expected.len());
                    assert_eq!(pixels, expected, "{frame:?} {colour:?} row {y}");
                    assert!(rest.iter().all(|&b| b == 7), "padding stays");
                }
            }
        }
    }
}

/// A pixel by the standards' equations in f64, not rounded; where each sample lies is written anew here.
fn rgb_f64(frame: &Frame, x: usize, y: usize) -> [f64; 3] {
    let (width, height) = (frame.width as usize, frame.height as usize);
    let (half, b) = (width.div_ceil(2), &frame.bytes);
    let chroma = y / 2 * half + x / 2;
    let [luma, u, v] = match frame.format {
        PixelFormat::Rgb8 => return [0, 1, 2].map(|c| f64::from(b[3 * (y * width + x) + c])),
        PixelFormat::Rgba8 => return [0, 1, 2].map(|c| f64::from(b[4 * (y * width + x) + c])),
        PixelFormat::Bgra8 => return [2, 1, 0].map(|c| f64::from(b[4 * (y * width + x) + c])),
        PixelFormat::Gray8 => return [f64::from(b[y * width + x]); 3],
        PixelFormat::Yuyv => {
            let pair = 4 * (y * half + x / 2);
            [b[pair + 2 * (x % 2)], b[pair + 1], b[pair + 3]]
        }
        PixelFormat::Nv12 => {
            let at = width * height + 2 * chroma;
            [b[y * width + x], b[at], b[at + 1]]
        }
        PixelFormat::I420 => {
            let (u, plane) = (width * height, half * height.div_ceil(2));
            [b[y * width + x], b[u + chroma], b[u + plane + chroma]]
        }
    }
    .map(f64::from);
    let (luma, u, v) = match frame.colour.range {
        YuvRange::Limited => ((luma - 16.0) / 219.0, (u - 128.0) / 224.0, (v - 128.0) / 224.0),
        YuvRange::Full => (luma / 255.0, (u - 128.0) / 255.0, (v - 128.0) / 255.0),
    };
    // Shares of red and blue in luma: BT.601 and BT.709, clause 3.
    let (kr, kb) = match frame.colour.matrix {
        YuvMatrix::Bt601 => (0.299, 0.114),
        YuvMatrix::Bt709 => (0.2126, 0.0722),
    };
    let (red, blue) = (luma + 2.0 * (1.0 - kr) * v, luma + 2.0 * (1.0 - kb) * u);
    let green = (luma - kr * red - kb * blue) / (1.0 - kr - kb);
    [red, green, blue].map(|c| (255.0 * c).clamp(0.0, 255.0))
}

/// The picture as the overlay shows it, from the shader and from its twin, against f64.
#[test]
fn every_format_is_within_a_level_of_f64() {
    let Some(gpu) = test_gpu() else { return };
    for format in PixelFormat::ALL {
        let mut worst = [0.0f64; 2];
        for (size, colour) in [[641, 479], [3, 5]].into_iter().flat_map(|size| COLOURS.map(|colour| (size, colour))) {
            let frame = frame(size, format).with_colour(colour);
            let twin = picture_twin(&frame).expect("twin");
            let p = Preprocess {
                width_px: 4,
                height_px: 4,
                fit: Fit::Stretch,
                order: ChannelOrder::Rgb,
                mean: [0.0; 3],
                std: [1.0; 3],
            };
            let params = gpu
                .upload("params", bytemuck::bytes_of(&FrameParams::new(&frame, &p.letterbox(size))))
                .expect("upload");
            let bytes = gpu.upload("bytes", &padded(&frame)).expect("upload");
            let row_bytes = 4 * picture_row_words(size[0]) as usize;
            let dst = gpu.storage_buffer("picture", row_bytes * size[1] as usize).expect("buffer");
            let dispatch =
                gpu.dispatch(&picture_variant(format, colour, size), &[&params, &bytes, &dst]).expect("dispatch");
            gpu.run(&[&dispatch]).expect("run");
            let shader = gpu.download(&dst, row_bytes * size[1] as usize).expect("download");
            let [width, height] = size.map(|v| v as usize);
            for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
                let expected = rgb_f64(&frame, x, y);
                for (c, expected) in expected.into_iter().enumerate() {
                    let levels = [shader[y * row_bytes + 4 * x + c], twin.bytes[4 * (y * width + x) + c]];
                    for (worst, level) in worst.iter_mut().zip(levels) {
                        *worst = worst.max((f64::from(level) - expected).abs());
                    }
                }
            }
        }
        eprintln!("{format:?}: shader within {:.3} levels of f64, twin within {:.3}", worst[0], worst[1]);
        assert!(worst.iter().all(|&worst| worst <= 1.0), "{format:?}: {worst:?}");
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
