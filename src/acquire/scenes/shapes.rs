//! `pattern:shapes`: flat circles, squares and triangles drift and turn over a background that changes slowly, and where
//! they are is known. Frame n is the same on every run.
//!
//! The look is that of the pictures which `models/recipe/shapes/make_pictures.py` draws to train `models/shapes.onnx`:
//! a gradient between two muted colours under noise of several sizes, shapes with a light gradient of their own.

use std::f32::consts::{PI, TAU};

use super::{Random, Scene, cycle};
use crate::frame::{Frame, MAX_SIDE_PX, PixelFormat};

/// Class names in the order of the numbers that [`Scene::truth`] gives.
pub const CLASSES: [&str; 3] = ["circle", "square", "triangle"];

/// Sub-rows that an edge's coverage is sampled at.
const SUB_ROWS: usize = 4;

/// Corners of what stands for a circle.
const CIRCLE_CORNERS: usize = 48;

/// The background's texture is wider than the picture by this, and the picture drifts over it.
const DRIFT_PX: usize = 64;

/// One thing that moves within its own part of the picture.
#[derive(Clone, Debug)]
struct Shape {
    class: usize,
    /// Of the circle around it.
    radius_px: f32,
    centre_px: [f32; 2],
    /// How far the centre swings to either side, how often in 1000 frames, and where in the swing it begins.
    swing_px: [f32; 2],
    swings: [f32; 2],
    phase: [f32; 2],
    /// Turns in 1000 frames.
    turns: f32,
    colour: [f32; 3],
    /// What the colour gains from the top of the shape to its bottom.
    gradient: f32,
}

/// The scene: everything that doesn't change from frame to frame.
#[derive(Clone, Debug)]
pub struct Shapes {
    width: u32,
    height: u32,
    shapes: Vec<Shape>,
    /// Levels of the background without its tint, one row `DRIFT_PX` pixels longer than the picture's, RGB.
    texture: Vec<u8>,
}

/// Background before its tint: below all shapes' colours, so that the tint never reaches 255.
const TEXTURE_LEVELS: [f32; 2] = [30.0, 110.0];

/// Largest that the tint adds to a channel.
const TINT: f32 = 50.0;

impl Shapes {
    /// A scene for pictures of that size.
    ///
    /// # Errors
    /// A side is 1 to [`MAX_SIDE_PX`], and the texture must fit into memory.
    pub fn new(width: u32, height: u32) -> Result<Shapes, String> {
        if [width, height].iter().any(|side| !(1..=MAX_SIDE_PX).contains(side)) {
            return Err(format!("a pattern of {width}x{height} pixels: a side must be 1 to {MAX_SIDE_PX}"));
        }
        let mut random = Random(7);
        let texture = texture(&mut random, width as usize + DRIFT_PX, height as usize);
        // A part of the picture for every shape, so that none hides another.
        let parts = if width >= height { [3, 2] } else { [2, 3] };
        let part = [width as f32 / parts[0] as f32, height as f32 / parts[1] as f32];
        let colours = [[235, 70, 60], [250, 215, 70], [90, 220, 110], [240, 240, 240], [80, 160, 255], [240, 130, 220]];
        let shapes = (0..parts[0] * parts[1])
            .map(|i| {
                let radius_px = part[0].min(part[1]) * random.within(0.2, 0.36);
                // The shape stays 1/20 of a part away from its edges.
                let swing_px = part.map(|side| (0.45 * side - radius_px).max(0.0));
                let mut pair = |low: f32, high: f32| [random.within(low, high), random.within(low, high)];
                let (swings, phase) = (pair(2.0, 7.0), pair(0.0, TAU));
                Shape {
                    class: (i + i / 3) % 3,
                    radius_px,
                    centre_px: [(i % parts[0]) as f32 + 0.5, (i / parts[0]) as f32 + 0.5]
                        .into_iter()
                        .zip(part)
                        .map(|(at, side)| at * side)
                        .collect::<Vec<_>>()
                        .try_into()
                        .unwrap_or_default(),
                    swing_px,
                    swings,
                    phase,
                    turns: random.within(-4.0, 4.0),
                    colour: colours[i % colours.len()].map(|level: u8| f32::from(level)),
                    gradient: random.within(-20.0, 20.0),
                }
            })
            .collect();
        Ok(Shapes { width, height, shapes, texture })
    }
}

impl Scene for Shapes {
    fn classes(&self) -> &'static [&'static str] {
        &CLASSES
    }

    fn size_px(&self) -> [u32; 2] {
        [self.width, self.height]
    }

    fn truth(&self, n: u64) -> Vec<(usize, [f32; 4])> {
        let limit = [self.width as f32, self.height as f32];
        let bounds = |corners: Vec<[f32; 2]>| {
            let of = |axis: usize, pick: fn(f32, f32) -> f32, start: f32| {
                corners.iter().fold(start, |so_far, corner| pick(so_far, corner[axis])).clamp(0.0, limit[axis])
            };
            let (low, high) = (f32::INFINITY, f32::NEG_INFINITY);
            [of(0, f32::min, low), of(1, f32::min, low), of(0, f32::max, high), of(1, f32::max, high)]
        };
        self.shapes.iter().map(|shape| (shape.class, bounds(shape.corners(n)))).collect()
    }

    fn render(&self, n: u64) -> Frame {
        let (width, height) = (self.width as usize, self.height as usize);
        let row_bytes = 3 * width;
        let mut bytes = vec![0u8; row_bytes * height];
        // The window goes to and fro over the texture: a pixel in four frames.
        let step = (n / 4 % (2 * DRIFT_PX as u64)) as usize;
        let offset = 3 * step.min(2 * DRIFT_PX - step);
        let phase = cycle(n, 600);
        let tint = [0.0, 1.0, 2.0].map(|c| (TINT * (0.5 + 0.5 * (TAU * (phase + c / 3.0)).sin())) as u8);
        // Rows of whole triples: one row of the tint serves all.
        let tints: Vec<u8> = tint.iter().copied().cycle().take(row_bytes).collect();
        let texture = self.texture.chunks_exact(3 * (width + DRIFT_PX));
        for (out, texture) in bytes.chunks_exact_mut(row_bytes).zip(texture) {
            for ((out, &level), &tint) in out.iter_mut().zip(&texture[offset..]).zip(&tints) {
                *out = level.saturating_add(tint);
            }
        }
        for shape in &self.shapes {
            fill(&mut bytes, [width, height], &shape.corners(n), shape);
        }
        Frame { width: self.width, height: self.height, format: PixelFormat::Rgb8, bytes, colour: Default::default() }
    }
}

impl Shape {
    /// Corners in frame `n`, in their order around.
    fn corners(&self, n: u64) -> Vec<[f32; 2]> {
        let at = |per_1000: f32| (n as f64 / 1000.0 * f64::from(per_1000)).fract() as f32 * TAU;
        let centre = [0, 1]
            .map(|axis| self.centre_px[axis] + self.swing_px[axis] * (at(self.swings[axis]) + self.phase[axis]).sin());
        let count = [CIRCLE_CORNERS, 4, 3][self.class];
        (0..count)
            .map(|i| {
                let angle = at(self.turns) + i as f32 * (2.0 * PI / count as f32);
                [centre[0] + self.radius_px * angle.cos(), centre[1] + self.radius_px * angle.sin()]
            })
            .collect()
    }
}

/// Fills a convex polygon, edges smooth: coverage is exact across and sampled at [`SUB_ROWS`] heights.
fn fill(bytes: &mut [u8], [width, height]: [usize; 2], corners: &[[f32; 2]], shape: &Shape) {
    let top = corners.iter().fold(f32::INFINITY, |y, c| y.min(c[1]));
    let bottom = corners.iter().fold(f32::NEG_INFINITY, |y, c| y.max(c[1]));
    let rows = (top.max(0.0) as usize)..(bottom.ceil().clamp(0.0, height as f32) as usize);
    let mut coverage = vec![0f32; width];
    for y in rows {
        let (mut from, mut to) = (width, 0);
        // Columns from `full[0]` to `full[1]` are covered in every sub-row.
        let mut full = [0, width];
        for sub in 0..SUB_ROWS {
            let at = y as f32 + (sub as f32 + 0.5) / SUB_ROWS as f32;
            let Some([left, right]) = span(corners, at).map(|span| span.map(|x| x.clamp(0.0, width as f32))) else {
                full = [0, 0];
                continue;
            };
            let (first, last) = (left as usize, (right.ceil() as usize).min(width));
            for (x, covered) in coverage[first..last].iter_mut().enumerate() {
                let x = (first + x) as f32;
                *covered += ((right.min(x + 1.0) - left.max(x)) / SUB_ROWS as f32).max(0.0);
            }
            (from, to) = (from.min(first), to.max(last));
            full = [full[0].max(left.ceil() as usize), full[1].min(right as usize)];
        }
        if from >= to {
            continue;
        }
        let gain = shape.gradient * ((y as f32 + 0.5 - top) / (bottom - top).max(1.0) - 0.5);
        let colour = shape.colour.map(|c| (c + gain).clamp(0.0, 255.0));
        let level = colour.map(|c| (c + 0.5) as u8);
        let row = &mut bytes[3 * (y * width + from)..3 * (y * width + to)];
        for (x, (pixel, covered)) in row.as_chunks_mut::<3>().0.iter_mut().zip(&mut coverage[from..to]).enumerate() {
            if (full[0]..full[1]).contains(&(from + x)) {
                *pixel = level;
            } else {
                let share = covered.min(1.0);
                for (out, c) in pixel.iter_mut().zip(colour) {
                    *out = (f32::from(*out) * (1.0 - share) + c * share + 0.5) as u8;
                }
            }
            *covered = 0.0;
        }
    }
}

/// Where the horizontal line at `y` enters and leaves a convex polygon.
fn span(corners: &[[f32; 2]], y: f32) -> Option<[f32; 2]> {
    let mut span: Option<[f32; 2]> = None;
    for (i, a) in corners.iter().enumerate() {
        let b = corners[(i + 1) % corners.len()];
        if (a[1] <= y) != (b[1] <= y) {
            let x = a[0] + (y - a[1]) * (b[0] - a[0]) / (b[1] - a[1]);
            span = Some(span.map_or([x, x], |[left, right]| [left.min(x), right.max(x)]));
        }
    }
    span
}

/// A gradient between two muted colours under noise of three sizes.
fn texture(random: &mut Random, width: usize, height: usize) -> Vec<u8> {
    let [first, second] =
        [0, 1].map(|_| [0, 1, 2].map(|_| random.within(TEXTURE_LEVELS[0] + 20.0, TEXTURE_LEVELS[1] - 20.0)));
    let noises: Vec<(usize, f32, Vec<f32>)> = [(3, 30.0), (9, 20.0), (31, 14.0)]
        .into_iter()
        .map(|(cells, strength)| {
            (cells, strength, (0..(cells + 1) * (cells + 1)).map(|_| random.within(-0.5, 0.5)).collect())
        })
        .collect();
    let mut bytes = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            let ramp = (x as f32 / width as f32 + y as f32 / height as f32) / 2.0;
            let noise: f32 = noises
                .iter()
                .map(|(cells, strength, grid)| {
                    let (px, py) = (x as f32 / width as f32 * *cells as f32, y as f32 / height as f32 * *cells as f32);
                    let (ix, iy) = (px as usize, py as usize);
                    let (fx, fy) = (px.fract(), py.fract());
                    let at = |dx: usize, dy: usize| grid[(iy + dy) * (cells + 1) + ix + dx];
                    let above = at(0, 0) * (1.0 - fx) + at(1, 0) * fx;
                    let below = at(0, 1) * (1.0 - fx) + at(1, 1) * fx;
                    strength * (above * (1.0 - fy) + below * fy)
                })
                .sum();
            for c in 0..3 {
                let level = first[c] + (second[c] - first[c]) * ramp + noise + random.within(-2.0, 2.0);
                bytes.push(level.clamp(0.0, 255.0 - TINT) as u8);
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_depend_on_their_number_alone() {
        let scene = Shapes::new(97, 61).expect("scene");
        let again = Shapes::new(97, 61).expect("scene");
        for n in 0..5 {
            assert_eq!(again.render(n), scene.render(n));
        }
        assert_ne!(scene.render(0), scene.render(1));
        // Far frames too: positions don't lose their precision.
        assert!(scene.render(1 << 40).check().is_ok());
        assert_ne!(scene.render(1 << 40), scene.render((1 << 40) + 1));
    }

    #[test]
    fn shapes_are_where_the_truth_says() {
        let scene = Shapes::new(320, 240).expect("scene");
        for n in [0, 17, 400, 12345] {
            let frame = scene.render(n);
            let bare = Shapes { shapes: Vec::new(), ..scene.clone() }.render(n);
            let truth = scene.truth(n);
            assert_eq!(truth.len(), 6);
            for class in 0..3 {
                assert_eq!(truth.iter().filter(|(c, _)| *c == class).count(), 2);
            }
            // Pixels that the shapes changed, against the boxes.
            let mut found = vec![[320u32, 240, 0, 0]; truth.len()];
            for y in 0..240 {
                for x in 0..320 {
                    if frame.rgb(x, y) == bare.rgb(x, y) {
                        continue;
                    }
                    let inside = |b: &[f32; 4]| {
                        (x + 1) as f32 > b[0] && (x as f32) < b[2] && (y + 1) as f32 > b[1] && (y as f32) < b[3]
                    };
                    let of: Vec<usize> = (0..truth.len()).filter(|&i| inside(&truth[i].1)).collect();
                    assert_eq!(of.len(), 1, "{x} {y}: in one box only");
                    let f = &mut found[of[0]];
                    *f = [f[0].min(x), f[1].min(y), f[2].max(x + 1), f[3].max(y + 1)];
                }
            }
            for ((_, bounds), found) in truth.iter().zip(found) {
                for (a, b) in bounds.iter().zip(found) {
                    assert!((a - b as f32).abs() <= 2.0, "{n}: {bounds:?} {found:?}");
                }
            }
        }
    }

    #[test]
    fn odd_sizes() {
        for odd in [[1, 1], [3, 5], [2, 300], [16, 9]] {
            let scene = Shapes::new(odd[0], odd[1]).expect("scene");
            assert!(scene.render(3).check().is_ok());
        }
    }
}
