//! The GPU draws what the CPU draws, from the same rectangles; and it lays out the same rectangles itself.

#![cfg(feature = "gpu")]

use eyas::decode::points::PointList;
use eyas::decode::rotated::RotatedBox;
use eyas::decode::{Detection, DetectionsHeader, Mask, RawDetection};
use eyas::draw::layout::{DrawHeader, LabelTable, lay_out_with_points, overlay_bytes, variant};
use eyas::draw::{Instance, Style, annotate, instances};
use eyas::frame::{Frame, PixelFormat};
use eyas::gpu::draw::{Overlay, TargetView};
use eyas::gpu::{Gpu, GpuError, test_gpu};
use eyas::letterbox::{Fit, Letterbox};

/// Numbers that look random and are the same everywhere (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From `low` to `high`.
    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }
}

const LABELS: [&str; 7] = ["person", "traffic light", "Âne à lunettes…", "", "猫", "jigsaw (pyjq)", "W"];

fn picture(width: u32, height: u32, format: PixelFormat) -> Frame {
    let mut random = Random(7);
    let len = (width * height) as usize * format.bytes_per_pixel();
    Frame::new(width, height, format, (0..len).map(|_| random.next() as u8).collect()).expect("frame")
}

/// Detections that lie inside, across every border and outside, with some that are no boxes at all.
fn detections(count: usize, width: u32, height: u32) -> Vec<RawDetection> {
    let mut random = Random(count as u64);
    (0..count)
        .map(|i| {
            let x = random.between(-40.0, width as f32 + 20.0);
            let y = random.between(-40.0, height as f32 + 20.0);
            let mut bounds = [x, y, x + random.between(-2.0, 160.0), y + random.between(-2.0, 120.0)];
            match i % 23 {
                3 => bounds[i % 4] = f32::NAN,
                7 => bounds[i % 4] = f32::INFINITY,
                11 => bounds = [-1e30, -1e30, 1e30, 1e30],
                13 => bounds = bounds.map(|v| v.round() + 0.5),
                _ => {}
            }
            let score = if i % 29 == 5 { f32::NAN } else { random.between(-0.1, 1.1) };
            RawDetection { bounds, score, class: random.next() as u32 % 9, anchor: i as u32, reserved: 0 }
        })
        .collect()
}

fn named(raw: &[RawDetection]) -> Vec<Detection> {
    raw.iter()
        .map(|d| Detection {
            class: d.class,
            label: LABELS[d.class as usize % LABELS.len()].to_string(),
            score: d.score,
            bounds: d.bounds,
            ..Detection::default()
        })
        .collect()
}

/// Some of them with a mask, a turned box, landmarks.
fn with_shapes(mut found: Vec<Detection>, picture_px: [u32; 2]) -> Vec<Detection> {
    let letterbox = Letterbox::new(Fit::Stretch, picture_px, picture_px);
    let mut random = Random(3);
    for (i, d) in found.iter_mut().enumerate() {
        match i % 4 {
            0 if d.bounds.iter().all(|v| v.abs() < 1e4) => {
                let [left, top, right, bottom] = d.bounds;
                let centre = [(left + right) * 0.5, (top + bottom) * 0.5];
                let size = [right - left, bottom - top];
                let rotated = RotatedBox { centre, size, angle: random.between(-1.0, 2.0) };
                d.quad = Some(rotated.in_picture(&letterbox));
            }
            1 => {
                // A hole in the middle, and rows that begin and end anywhere.
                let [w, h] = picture_px.map(|v| v.min(40));
                let (from, hole) = (random.next() as u32 % (w * h).div_ceil(3), (w * h) / 8);
                let mut runs = vec![from, (w * h - from - hole) / 2, hole];
                runs.push(w * h - runs.iter().sum::<u32>());
                let left = random.next() as u32 % (picture_px[0] - w + 1);
                d.mask = Some(Mask { bounds_px: [left, 0, left + w, h], runs });
            }
            2 => d.landmarks = (0..5).map(|_| [random.between(-5.0, 700.0), random.between(-5.0, 500.0)]).collect(),
            _ => {}
        }
    }
    found
}

/// The share of pixels whose channels all differ by no more than `levels`.
fn agreement(a: &Frame, b: &Frame, levels: u8) -> f64 {
    assert_eq!((a.width, a.height, a.format, a.bytes.len()), (b.width, b.height, b.format, b.bytes.len()));
    let same = a
        .bytes
        .chunks_exact(3)
        .zip(b.bytes.chunks_exact(3))
        .filter(|(p, q)| p.iter().zip(*q).all(|(x, y)| x.abs_diff(*y) <= levels))
        .count();
    same as f64 / (a.bytes.len() / 3) as f64
}

#[test]
fn both_backends_draw_the_same_picture() {
    let Some(gpu) = test_gpu() else { return };
    let overlay = Overlay::new(&gpu).expect("pipelines");
    for (width, height, count, format) in [
        (641, 483, 60, PixelFormat::Rgb8),
        (641, 483, 300, PixelFormat::Rgba8),
        (320, 240, 2000, PixelFormat::Bgra8),
        (64, 65, 5, PixelFormat::Gray8),
        (3, 3, 4, PixelFormat::Rgb8),
        (1, 1, 30, PixelFormat::Rgb8),
        (640, 480, 0, PixelFormat::Rgb8),
    ] {
        let frame = picture(width, height, format);
        let found = with_shapes(named(&detections(count, width, height)), [width, height]);
        for style in [Style::default(), Style { text_px: Some(33), line_px: Some(5), ..Style::default() }] {
            let expected = annotate(&frame, &found, &style);
            let drawn = overlay.render(&gpu, &frame, &instances(&found, [width, height], &style)).expect("a picture");
            let (within_2, within_1) = (agreement(&expected, &drawn, 2), agreement(&expected, &drawn, 1));
            let exact = agreement(&expected, &drawn, 0);
            println!("{width}x{height} {count}: within 2 levels {within_2}, within 1 {within_1}, exact {exact}");
            assert!(within_2 >= 0.999, "{width}x{height} {count} {format:?} {style:?}: {within_2}");
        }
    }
}

/// The buffer that NMS and the shader of points would have written.
fn found_bytes(raw: &[RawDetection], points: &PointList) -> Vec<u8> {
    let header = DetectionsHeader::new(raw.len(), raw.len(), points.per_detection);
    let mut bytes = bytemuck::bytes_of(&header).to_vec();
    bytes.extend_from_slice(bytemuck::cast_slice(raw));
    bytes.extend_from_slice(bytemuck::cast_slice(&points.points));
    bytes
}

/// Points inside, across the borders and outside, and some that are none.
fn points(per_detection: usize, detections: usize, width: u32, height: u32) -> PointList {
    let mut random = Random(99);
    let points = (0..per_detection * detections).map(|i| match i % 17 {
        3 => [f32::NAN, 5.0],
        5 => [5.0, f32::INFINITY],
        _ => [random.between(-9.0, width as f32 + 9.0), random.between(-9.0, height as f32 + 9.0)],
    });
    PointList { per_detection, points: points.collect() }
}

fn lay_out_on_gpu(
    gpu: &Gpu,
    raw: &[RawDetection],
    points: &PointList,
    table: &LabelTable,
    capacity: usize,
) -> Vec<Instance> {
    let found = gpu.upload("found", &found_bytes(raw, points)).expect("a buffer");
    let labels = gpu.upload("labels", table.bytes()).expect("a buffer");
    let rectangles = Overlay::buffer(gpu, capacity).expect("a buffer");
    let dispatch = gpu.dispatch(&variant(), &[&found, &labels, &rectangles]).expect("a shader");
    gpu.run(&[&dispatch]).expect("a run");
    let bytes = gpu.download(&rectangles, overlay_bytes(capacity)).expect("bytes");
    let (header, rest) = bytes.split_at(size_of::<DrawHeader>());
    let header: DrawHeader = bytemuck::pod_read_unaligned(header);
    assert_eq!(header, DrawHeader::new(header.instances as usize));
    rest.chunks_exact(size_of::<Instance>()).take(header.instances as usize).map(bytemuck::pod_read_unaligned).collect()
}

#[test]
fn both_backends_lay_out_the_same_rectangles() {
    let Some(gpu) = test_gpu() else { return };
    let labels = || LABELS.iter().zip(0..).map(|(label, class)| (class, *label));
    for (size, count, capacity) in [
        ([641, 483], 300, 9000),
        ([641, 483], 300, 1000),
        ([3, 3], 40, 500),
        ([640, 480], 0, 4),
        ([999, 70], 257, 9000),
    ] {
        for style in [
            Style::default(),
            Style { labels: false, ..Style::default() },
            Style { scores: false, line_px: Some(1), text_px: Some(25), ..Style::default() },
            Style { labels: false, scores: false, line_px: Some(7), text_px: None },
        ] {
            let raw = detections(count, size[0], size[1]);
            let table = LabelTable::new(labels(), size, &style, &style.atlas(size));
            let points = points(count % 7, count, size[0], size[1]);
            let expected = lay_out_with_points(&raw, &points, &table, capacity);
            let actual = lay_out_on_gpu(&gpu, &raw, &points, &table, capacity);
            assert_eq!(actual.len(), expected.len(), "{size:?} {count} {style:?}");
            for (i, (a, e)) in actual.iter().zip(&expected).enumerate() {
                assert_eq!(a, e, "{size:?} {count} {style:?}: rectangle {i}");
            }
        }
    }
    // Powers of two scale exactly on every device.
    let table = LabelTable::new(labels(), [640, 480], &Style::default(), &Style::default().atlas([640, 480]))
        .on_target([400, 300], [0.5, 0.5], [40.0, 30.0]);
    let raw = detections(100, 640, 480);
    let points = points(5, 100, 640, 480);
    assert_eq!(lay_out_on_gpu(&gpu, &raw, &points, &table, 8000), lay_out_with_points(&raw, &points, &table, 8000));
}

/// Layout and drawing in one submission, frame after frame: nothing is read back in between.
#[test]
fn a_live_loop_draws_what_the_cpu_draws() {
    let Some(gpu) = test_gpu() else { return };
    let (width, height, style) = (320, 240, Style::default());
    let atlas = style.atlas([width, height]);
    let table = LabelTable::new(LABELS.iter().zip(0..).map(|(l, c)| (c, *l)), [width, height], &style, &atlas);
    let overlay = Overlay::new(&gpu).expect("pipelines");
    let found = gpu.upload("found", &vec![0; 64 + 32 * 100]).expect("a buffer");
    let labels = gpu.upload("labels", table.bytes()).expect("a buffer");
    let rectangles = Overlay::buffer(&gpu, 5000).expect("a buffer");
    let layout = gpu.dispatch(&variant(), &[&found, &labels, &rectangles]).expect("a shader");
    for count in [100, 0, 7] {
        let frame = picture(width, height, PixelFormat::Rgb8);
        let raw: Vec<RawDetection> =
            detections(count, width, height).into_iter().map(|d| RawDetection { class: d.class % 7, ..d }).collect();
        gpu.write(&found, 0, &found_bytes(&raw, &PointList::default())).expect("a write");
        let drawn = overlay.render_after(&gpu, &[&layout], &frame, &atlas, &rectangles).expect("a picture");
        let within_2 = agreement(&annotate(&frame, &named(&raw), &style), &drawn, 2);
        assert!(within_2 >= 0.999, "{count}: {within_2}");
        assert_eq!(drawn == frame, count == 0);
    }
}

#[test]
fn a_picture_too_large_for_a_texture_is_refused() {
    let Some(gpu) = test_gpu() else { return };
    let overlay = Overlay::new(&gpu).expect("pipelines");
    // Wider than any frame may be, where the device would take that: then the frame itself is refused.
    let mut frame = picture(1, 1, PixelFormat::Gray8);
    frame.width = gpu.limits.max_texture_dimension_2d + 1;
    frame.bytes = vec![0; frame.width as usize];
    let drawn = instances(&[], [frame.width, 1], &Style::default());
    let refused = overlay.render(&gpu, &frame, &drawn);
    assert!(matches!(refused, Err(GpuError::Limit { .. } | GpuError::Invalid(_))), "{refused:?}");
    assert!(matches!(Overlay::buffer(&gpu, usize::MAX / 64), Err(GpuError::Limit { .. })));
    assert_eq!(TargetView::one_to_one([3, 4]).target_px, [3.0, 4.0]);
}
