//! The building site of `pattern:site`: people with bare heads and under safety helmets, who walk and look about. Rendered;
//! where their heads are is known. Frame n of a seed is the same on every run.

use std::f32::consts::TAU;

use rayon::prelude::*;

use super::building_site::{self as twin, BARREL, CONE, CRATE, Figure, HEAD, Header, PERSON};
use super::vec3::{Vec3, vec3};
use super::{Random, Scene};
use crate::frame::{Frame, MAX_SIDE_PX, PixelFormat};
use crate::shader::Variant;

/// Class names in the order of the numbers that [`Scene::truth`] gives.
pub const CLASSES: [&str; 2] = ["head", "helmet"];

/// A head counts while so much of it is seen.
const VISIBLE: f32 = 0.5;

/// A smaller head does not count.
const SMALLEST_PX: f32 = 8.0;

/// Seed of the scene of `pattern:site`; no picture of it is trained with.
pub const SAMPLE_SEED: u64 = 8;

/// How the scene is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// What `pattern:site` shows: everybody has a lane, so that nobody hides another for long, by daylight.
    Sample,
    /// Pictures to train with: anybody anywhere, other cameras and lights with every seed.
    Varied,
}

/// One who walks to and fro in a lane, or a thing that stands.
#[derive(Clone, Debug)]
struct Walker {
    figure: Figure,
    /// How far to either side, metres; how often in 1000 frames; where in the swing it begins.
    reach: f32,
    walks: f32,
    phase: f32,
    /// Where the body faces, radians; 0 is towards the camera.
    facing: f32,
    /// How far the head turns to either side and nods, radians.
    look: [f32; 2],
    looks: f32,
    /// Tilt and nod that stay.
    tilt: f32,
    nod: f32,
}

/// The scene: everything that doesn't change from frame to frame.
#[derive(Clone, Debug)]
pub struct Site {
    header: Header,
    walkers: Vec<Walker>,
}

fn rgb(hex: u32) -> Vec3 {
    let level = |shift: u32| {
        let v = (hex >> shift & 0xff) as f32 / 255.0;
        v * v
    };
    vec3(level(16), level(8), level(0))
}

const SKINS: [u32; 7] = [0xe8b896, 0xd9a17c, 0xc98d66, 0xf0c8a8, 0xa86f4b, 0x7d5138, 0xdcab88];
const HAIRS: [u32; 6] = [0x1c1816, 0x241c18, 0x3a2a1e, 0x15130f, 0x5a4028, 0x77706a];
const HELMETS: [u32; 7] = [0xf2c21a, 0xe03a26, 0xf0f0ee, 0x2a62c8, 0xf07a1c, 0xd82c20, 0x2f9450];
const SHIRTS: [u32; 10] =
    [0xf4f4f2, 0x4a6fae, 0x2c3346, 0xe46a22, 0x8f9498, 0x30343a, 0x9fbcd8, 0x7c2f2c, 0x556b45, 0xc9b48c];
const TROUSERS: [u32; 5] = [0x23262c, 0x2f3b56, 0x4b4a46, 0x6a6350, 0x1a1b1e];
const VESTS: [u32; 3] = [0xd6f01e, 0xff7a14, 0xf04a1a];

impl Site {
    /// The scene of `pattern:site`.
    ///
    /// # Errors
    /// As [`Site::new`].
    pub fn sample(width: u32, height: u32) -> Result<Site, String> {
        Site::new(width, height, SAMPLE_SEED, Layout::Sample)
    }

    /// A scene for pictures of that size.
    ///
    /// # Errors
    /// A side is 1 to [`MAX_SIDE_PX`].
    pub fn new(width: u32, height: u32, seed: u64, layout: Layout) -> Result<Site, String> {
        if [width, height].iter().any(|side| !(1..=MAX_SIDE_PX).contains(side)) {
            return Err(format!("a scene of {width}x{height} pixels: a side must be 1 to {MAX_SIDE_PX}"));
        }
        let mut random = Random(seed);
        let varied = layout == Layout::Varied;
        let header = header(&mut random, [width as f32, height as f32], varied);
        let walkers = if varied { crowd(&mut random, &header) } else { lanes(&mut random, &header) };
        Ok(Site { header, walkers })
    }

    /// Figures of frame `n`, the nearest first.
    fn figures(&self, n: u64) -> Vec<Figure> {
        let mut figures: Vec<Figure> = self.walkers.iter().map(|walker| walker.at(n, &self.header)).collect();
        let depth = |f: &Figure| (f.feet - self.header.eye).dot(self.header.forward);
        figures.sort_by(|a, b| depth(a).total_cmp(&depth(b)));
        figures
    }
}

impl Scene for Site {
    fn classes(&self) -> &'static [&'static str] {
        &CLASSES
    }

    fn size_px(&self) -> [u32; 2] {
        self.header.size_px.map(|side| side as u32)
    }

    fn shader(&self, n: u64) -> Option<(Variant, Vec<[f32; 4]>)> {
        let figures = self.figures(n);
        let rows = twin::rows(&Header { figures: figures.len(), ..self.header }, &figures);
        Some((twin::variant(self.size_px()), rows))
    }

    fn render(&self, n: u64) -> Frame {
        let (header, figures) = (&self.header, self.figures(n));
        let [width, height] = header.size_px.map(|side| side as usize);
        let mut bytes = vec![0u8; 3 * width * height];
        bytes.par_chunks_exact_mut(3 * width).enumerate().for_each(|(y, row)| {
            for (x, out) in row.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                *out = twin::pixel(header, &figures, x, y);
            }
        });
        Frame {
            width: width as u32,
            height: height as u32,
            format: PixelFormat::Rgb8,
            bytes,
            colour: Default::default(),
        }
    }

    /// Bounds of the pixels where a head with what is on it is seen, past what hides it and within the picture; heads
    /// that are hidden by half or more, or smaller than [`SMALLEST_PX`], are left out.
    fn truth(&self, n: u64) -> Vec<(usize, [f32; 4])> {
        let (header, figures) = (&self.header, self.figures(n));
        figures
            .par_iter()
            .enumerate()
            .filter(|(_, figure)| figure.kind == PERSON)
            .filter_map(|(k, figure)| {
                Some((usize::from(figure.helmet_on > 0.5), head_bounds(header, &figures[..k], figure)?))
            })
            .collect()
    }
}

/// Bounds of what is seen of a figure's head behind `nearer` figures.
fn head_bounds(header: &Header, nearer: &[Figure], figure: &Figure) -> Option<[f32; 4]> {
    let centre = world_of(figure, HEAD + vec3(0.0, 0.03, 0.0));
    let rect = projected(header, centre, 0.21 * figure.scale)?;
    let [mut left, mut top, mut right, mut bottom] = [f32::INFINITY, f32::INFINITY, 0.0f32, 0.0f32];
    let (mut all, mut seen) = (0usize, 0usize);
    // Beyond the picture too, so that a head that its edge cuts is known to be cut.
    for y in rect[1].floor() as i32..rect[3].ceil() as i32 {
        for x in rect[0].floor() as i32..rect[2].ceil() as i32 {
            let (px, py) = (x as f32 + 0.5, y as f32 + 0.5);
            if twin::head_coverage(header, figure, px, py) < 0.5 {
                continue;
            }
            all += 1;
            let within = px > 0.0 && py > 0.0 && px < header.size_px[0] && py < header.size_px[1];
            let hidden = nearer.iter().any(|other| {
                let r = other.rect;
                px > r[0] && py > r[1] && px < r[2] && py < r[3] && twin::coverage(header, other, px, py).0 > 0.5
            });
            if within && !hidden {
                seen += 1;
                (left, right) = (left.min(px - 0.5), right.max(px + 0.5));
                (top, bottom) = (top.min(py - 0.5), bottom.max(py + 0.5));
            }
        }
    }
    let large = right - left >= SMALLEST_PX && bottom - top >= SMALLEST_PX;
    (large && seen as f32 > VISIBLE * all as f32).then_some([left, top, right, bottom])
}

/// A point of a figure's frame in the world.
fn world_of(f: &Figure, p: Vec3) -> Vec3 {
    let p = p * f.scale;
    f.feet + vec3(f.turn[0] * p.x + f.turn[1] * p.z, p.y, f.turn[0] * p.z - f.turn[1] * p.x)
}

/// A rectangle in pixels around a sphere; `None` behind the camera.
fn projected(header: &Header, centre: Vec3, radius: f32) -> Option<[f32; 4]> {
    let v = centre - header.eye;
    let depth = v.dot(header.forward) - radius;
    if depth < 0.1 {
        return None;
    }
    let scale = 1.0 / (header.pixel * (depth + radius));
    let x = 0.5 * header.size_px[0] + v.dot(header.right) * scale;
    let y = 0.5 * header.size_px[1] - v.dot(header.up) * scale;
    let r = radius / (header.pixel * depth) + 2.0;
    Some([x - r, y - r, x + r, y + r])
}

impl Walker {
    fn at(&self, n: u64, header: &Header) -> Figure {
        let turn = |per_1000: f32| (n as f64 / 1000.0 * f64::from(per_1000)).fract() as f32 * TAU + self.phase;
        let mut f = self.figure;
        let (sin, cos) = turn(self.walks).sin_cos();
        f.feet.x += self.reach * sin;
        // Steps as long as the way: an arm and a leg forward, then the others; standing at the turning points.
        if self.reach > 0.0 {
            f.swing = 0.28 * cos.abs().min(0.6) * (f.feet.x * 3.6 + self.phase).sin();
        }
        let facing = self.facing + if self.reach > 0.0 { 1.1 * cos } else { 0.0 };
        f.turn = [facing.cos(), facing.sin()];
        if f.kind == PERSON {
            let yaw = self.look[0] * turn(self.looks).sin() - if self.reach > 0.0 { 0.5 * cos } else { 0.0 };
            f.head = rotation(yaw, self.nod + self.look[1] * turn(self.looks * 1.7).sin(), self.tilt);
        }
        f.rect = hull(header, &f);
        f
    }
}

/// Rows of the rotation into a head's frame that is turned, nods and is tilted.
fn rotation(yaw: f32, nod: f32, tilt: f32) -> [Vec3; 3] {
    let ((sy, cy), (sn, cn), (st, ct)) = (yaw.sin_cos(), nod.sin_cos(), tilt.sin_cos());
    let forward = vec3(sy * cn, -sn, cy * cn);
    let flat = vec3(cy, 0.0, -sy);
    let up = forward.cross(flat);
    let right = flat * ct + up * st;
    [right, forward.cross(right), forward]
}

/// Pixels that a figure can cover.
fn hull(header: &Header, f: &Figure) -> [f32; 4] {
    let mut rect = [f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY];
    let (count, radius) = if f.kind == PERSON { (6, 0.42) } else { (2, 0.75) };
    for k in 0..count {
        let centre = f.feet + vec3(0.0, (0.25 + 0.27 * k as f32) * f.scale, 0.0);
        let Some(r) = projected(header, centre, radius * f.scale) else {
            return if (f.feet - header.eye).dot(header.forward) < -1.0 {
                [0.0; 4]
            } else {
                [0.0, 0.0, header.size_px[0], header.size_px[1]]
            };
        };
        rect = [rect[0].min(r[0]), rect[1].min(r[1]), rect[2].max(r[2]), rect[3].max(r[3])];
    }
    rect
}

fn pick(random: &mut Random, colours: &[u32]) -> Vec3 {
    let base = rgb(colours[(random.within(0.0, 1.0) * colours.len() as f32) as usize % colours.len()]);
    base * random.within(0.85, 1.12)
}

fn header(random: &mut Random, size_px: [f32; 2], varied: bool) -> Header {
    let mut between = |low: f32, high: f32, sample: f32| {
        let value = random.within(low, high);
        if varied { value } else { sample }
    };
    let tan = between(0.32, 0.62, 0.5);
    let eye = vec3(0.0, between(1.2, 2.9, 1.72), 0.0);
    let pitch = between(-0.2, 0.06, -0.06) - 0.1 * (eye.y - 1.7).max(0.0);
    let roll = between(-0.06, 0.06, 0.0);
    let azimuth = between(-1.5, 1.5, 0.7);
    let elevation = between(0.35, 1.2, 0.8);
    let overcast = between(0.0, 1.0, 0.25);
    let exposure = between(0.35, 1.5, 1.0);
    let warm = between(0.0, 1.0, 0.4);
    let clouds = between(0.0, 1.0, 0.6);
    let haze = between(0.0, 0.014, 0.006);
    let sky = [rgb(0x6f9fd8), rgb(0x88aacc), rgb(0xb8c0c8)][(between(0.0, 2.999, 0.0)) as usize];
    let ground = [rgb(0xa8977c), rgb(0x9a9a96), rgb(0x8a7050), rgb(0x6e7468)][(between(0.0, 3.999, 0.0)) as usize];
    let wall = [rgb(0xb4b0a8), rgb(0xa0604a), rgb(0xcfc6b0), rgb(0x8c949c), rgb(0x9c7a58)]
        [(between(0.0, 4.999, 0.0)) as usize];
    let far = between(5.0, 22.0, 15.0);
    let wall_height = between(2.0, 14.0, 6.3);
    let has_wall = between(0.0, 1.0, 0.0) < 0.75;
    let bricks = f32::from(u8::from(between(0.0, 1.0, 1.0) < 0.4));
    let has_scaffold = between(0.0, 1.0, 0.0) < 0.6;
    let scaffold = [rgb(0x9aa0a6), rgb(0xb8762e), rgb(0x3c6ab0), rgb(0xc8b23c)][(between(0.0, 3.999, 0.0)) as usize];
    let seed = between(0.0, 4000.0, 40.0) as u32;
    let (sin, cos) = pitch.sin_cos();
    let (flat, up) = (vec3(1.0, 0.0, 0.0), vec3(0.0, cos, sin));
    let (rs, rc) = roll.sin_cos();
    Header {
        size_px,
        pixel: 2.0 * tan / size_px[0].max(size_px[1]),
        figures: 0,
        eye,
        right: flat * rc + up * rs,
        up: up * rc - flat * rs,
        forward: vec3(0.0, sin, -cos),
        sun: vec3(azimuth.sin() * elevation.cos(), elevation.sin(), azimuth.cos() * elevation.cos()),
        sun_strength: 1.0 - 0.85 * overcast,
        sun_colour: vec3(1.0, 0.97, 0.92).mix(vec3(1.0, 0.84, 0.64), warm) * 1.45,
        exposure: exposure * (1.0 + 0.5 * overcast),
        sky,
        clouds,
        horizon: sky.mix(vec3(0.8, 0.82, 0.84), 0.75),
        haze,
        ground,
        seed,
        wall,
        wall_z: if has_wall { far } else { 0.0 },
        wall_height,
        bricks,
        scaffold,
        scaffold_z: if has_scaffold { far - 1.4 } else { 0.0 },
    }
}

fn person(random: &mut Random, feet: Vec3, helmet: bool) -> Walker {
    let style = random.within(0.0, 1.0);
    let skin = pick(random, &SKINS);
    let orange = rgb(SHIRTS[3]);
    let shirt = pick(random, &SHIRTS);
    let vest_on = f32::from(u8::from(random.within(0.0, 1.0) < if helmet { 0.5 } else { 0.12 }));
    let overall = helmet && random.within(0.0, 1.0) < 0.2;
    let trousers = pick(random, &TROUSERS);
    Walker {
        figure: Figure {
            feet,
            scale: random.within(0.94, 1.05),
            turn: [1.0, 0.0],
            swing: random.within(-0.06, 0.06),
            kind: PERSON,
            head: rotation(0.0, 0.0, 0.0),
            hair_style: if style < 0.1 {
                0.0
            } else if style < 0.8 {
                1.0
            } else {
                2.0
            },
            helmet_on: f32::from(u8::from(helmet)),
            vest_on,
            skin,
            stubble: (random.within(-0.8, 1.0)).max(0.0),
            hair: pick(random, &HAIRS),
            helmet: pick(random, &HELMETS),
            shirt: if overall { orange } else { shirt },
            trousers: if overall { orange } else { trousers },
            vest: pick(random, &VESTS),
            rect: [0.0; 4],
        },
        reach: 0.0,
        walks: 0.0,
        phase: random.within(0.0, TAU),
        facing: 0.0,
        look: [random.within(0.2, 0.9), random.within(0.05, 0.2)],
        looks: random.within(4.0, 12.0),
        tilt: random.within(-0.12, 0.12),
        nod: random.within(-0.05, 0.25),
    }
}

fn thing(random: &mut Random, feet: Vec3) -> Walker {
    let mut walker = person(random, feet, false);
    let which = random.within(0.0, 3.0);
    walker.figure.kind = if which < 1.0 {
        CRATE
    } else if which < 2.0 {
        BARREL
    } else {
        CONE
    };
    let colours: &[u32] = if which < 1.0 {
        &[0xa07848, 0x8c6a40, 0x6c7078]
    } else if which < 2.0 {
        &[0x2a58a8, 0xa83a28, 0xd8a820, 0x404448]
    } else {
        &[0xf0601c]
    };
    walker.figure.shirt = pick(random, colours);
    walker.figure.scale = random.within(0.7, 1.3);
    walker.facing = random.within(0.0, TAU);
    walker
}

/// Half of the picture's width at a distance, metres.
fn half_width(header: &Header, distance: f32) -> f32 {
    0.5 * header.size_px[0] * header.pixel * distance
}

/// One lane a person, side by side; the nearer stand towards the sides.
fn lanes(random: &mut Random, header: &Header) -> Vec<Walker> {
    // Where across the picture (-1 to 1), how far away, with a helmet or without.
    let places = [
        (-0.74, 2.6, true),
        (-0.40, 6.2, false),
        (-0.16, 9.0, true),
        (0.10, 4.4, true),
        (0.36, 7.4, true),
        (0.56, 5.4, false),
        (0.82, 3.2, false),
    ];
    let mut walkers: Vec<Walker> = places
        .iter()
        .map(|&(across, distance, helmet)| {
            let half = half_width(header, distance);
            let mut walker = person(random, vec3(across * half, 0.0, -distance), helmet);
            walker.reach = 0.06 * half;
            walker.walks = random.within(3.0, 6.0);
            walker.facing = random.within(-0.5, 0.5);
            walker
        })
        .collect();
    for (x, z) in [(-1.9, -8.0), (2.6, -10.5), (0.3, -11.5), (-4.6, -11.0)] {
        walkers.push(thing(random, vec3(x, 0.0, z)));
    }
    walkers
}

/// Anybody anywhere.
fn crowd(random: &mut Random, header: &Header) -> Vec<Walker> {
    let count = 1 + (random.within(0.25, 1.0) * random.within(0.3, 1.0) * 13.0) as usize;
    let nearest = random.within(1.1, 4.0);
    let spread = random.within(1.3, 4.5);
    let helmets = [0.5, 0.8, 0.2][(random.within(0.0, 2.999)) as usize];
    let floor = header.wall_z.max(8.0).min(if header.wall_z > 0.0 { header.wall_z - 0.6 } else { 30.0 });
    let mut walkers: Vec<Walker> = Vec::new();
    for k in 0..count + 3 {
        let distance = (nearest * (1.0 + (spread - 1.0) * random.within(0.0, 1.0))).min(floor);
        let feet = vec3(random.within(-0.95, 0.95) * half_width(header, distance), 0.0, -distance);
        // Bodies do not run into each other.
        let near = |w: &Walker| (w.figure.feet - feet).length() < 0.55;
        if walkers.iter().any(near) {
            continue;
        }
        if k >= count {
            if distance > 2.5 {
                walkers.push(thing(random, feet));
            }
            continue;
        }
        let helmet = random.within(0.0, 1.0) < helmets;
        let mut walker = person(random, feet, helmet);
        let turned = random.within(0.0, 1.0);
        walker.facing = if turned < 0.65 { random.within(-1.2, 1.2) } else { random.within(-3.2, 3.2) };
        walker.figure.swing = random.within(-0.25, 0.25);
        walker.nod = random.within(-0.25, 0.6);
        walker.tilt = random.within(-0.3, 0.3);
        walker.look = [1.0, 0.1];
        walkers.push(walker);
    }
    walkers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_depend_on_seed_and_number_alone() {
        let scene = Site::new(64, 48, 5, Layout::Varied).expect("scene");
        let again = Site::new(64, 48, 5, Layout::Varied).expect("scene");
        assert_eq!(scene.render(9), again.render(9));
        assert_eq!(scene.truth(9), again.truth(9));
        assert_ne!(scene.render(9), Site::new(64, 48, 6, Layout::Varied).expect("scene").render(9));
        let sample = Site::sample(64, 48).expect("scene");
        assert_ne!(sample.render(0), sample.render(30));
        assert!(sample.render(1 << 40).check().is_ok());
        assert!(Site::sample(0, 48).is_err() && Site::sample(64, 16385).is_err());
        assert!(Site::sample(1, 1).expect("scene").render(0).check().is_ok());
    }

    #[test]
    fn heads_are_where_the_truth_says() {
        let scene = Site::sample(240, 180).expect("scene");
        let truth = scene.truth(40);
        let frame = scene.render(40);
        let mut checked = 0;
        for k in 0..scene.walkers.len() {
            let figure = &scene.walkers[k].figure;
            if figure.kind != PERSON || (figure.feet - scene.header.eye).length() > 7.0 {
                continue;
            }
            // The same scene with this head in another colour; what changes from its hair to its chin is the head.
            let mut other = scene.clone();
            let painted = &mut other.walkers[k].figure;
            for colour in [&mut painted.skin, &mut painted.hair, &mut painted.helmet] {
                *colour = vec3(0.0, 3.0, 0.0);
            }
            let other = other.render(40);
            let lowest = if figure.hair_style > 1.5 { vec3(0.0, -0.2, -0.045) } else { vec3(0.0, -0.115, 0.05) };
            let chin = world_of(&scene.walkers[k].at(40, &scene.header), HEAD + lowest);
            let chin_px = projected(&scene.header, chin, 0.0).expect("before the camera")[1] + 2.0;
            let mut found = [f32::INFINITY, f32::INFINITY, 0.0f32, chin_px];
            for y in 0..chin_px as u32 {
                for x in 0..240 {
                    let (a, b) = (frame.rgb(x, y), other.rgb(x, y));
                    if a.iter().zip(b).any(|(a, b)| a.abs_diff(b) > 40) {
                        let (x, y) = (x as f32, y as f32);
                        found = [found[0].min(x), found[1].min(y), found[2].max(x + 1.0), found[3]];
                    }
                }
            }
            let class = usize::from(scene.walkers[k].figure.helmet_on > 0.5);
            let near = |b: &[f32; 4]| b.iter().zip(found).all(|(a, b)| (a - b).abs() <= 2.5);
            assert!(truth.iter().any(|(c, b)| *c == class && near(b)), "{k}: {found:?} in {truth:?}");
            checked += 1;
        }
        assert!(checked >= 4, "{checked}");
    }

    #[test]
    fn a_hidden_head_does_not_count() {
        let scene = Site::sample(240, 180).expect("scene");
        let before = scene.truth(0).len();
        let mut hidden = scene.clone();
        hidden.walkers[1].figure.feet = scene.walkers[0].figure.feet * 1.25;
        hidden.walkers[1].reach = scene.walkers[0].reach * 1.25;
        (hidden.walkers[1].walks, hidden.walkers[1].phase) = (scene.walkers[0].walks, scene.walkers[0].phase);
        assert_eq!(hidden.truth(0).len(), before - 1);
    }
}
