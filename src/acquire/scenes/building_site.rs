//! Twin of `shaders/acquire/building_site.wgsl`: one pixel of people at a building site, by sphere tracing.
//!
//! Figures are signed distance functions in metres, each in a frame of its own (feet at the origin, y up, facing +z). A
//! ray is followed through each figure from the nearest to the farthest; where it passes closer than a pixel, the figure
//! covers a share of the pixel, so edges are smooth. What no figure covers is ground, wall, scaffold or sky, which are
//! planes with patterns computed at the point that is hit. Smooth unions and the bound of an ellipsoid's distance are the
//! usual ones (Quilez, "Distance functions"). [`super::site`] fills in what is where.
//!
//! One file, long as it is: it mirrors one shader, function by function.

use super::vec3::{Vec3, vec3};
use crate::shader::{Variant, VariantBuilder};

pub const WGSL: &str = include_str!("../../../shaders/acquire/building_site.wgsl");

/// Rows of 4 floats before the first figure; the layout is that of the shader's buffer `scene`, see there.
pub const HEADER_ROWS: usize = 12;

/// Rows of 4 floats of each figure.
pub const FIGURE_ROWS: usize = 12;

/// Kinds of figures.
pub const PERSON: f32 = 0.0;
pub const CRATE: f32 = 1.0;
pub const BARREL: f32 = 2.0;
pub const CONE: f32 = 3.0;

const STEPS_MAX: usize = 40;

/// Where the head's own frame stands in a person's.
pub const HEAD: Vec3 = vec3(0.0, 1.59, 0.02);

/// The camera and what all pixels share.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub size_px: [f32; 2],
    /// Width of a pixel at a distance of 1.
    pub pixel: f32,
    pub figures: usize,
    pub eye: Vec3,
    pub right: Vec3,
    pub up: Vec3,
    pub forward: Vec3,
    pub sun: Vec3,
    pub sun_strength: f32,
    pub sun_colour: Vec3,
    pub exposure: f32,
    pub sky: Vec3,
    pub clouds: f32,
    pub horizon: Vec3,
    pub haze: f32,
    pub ground: Vec3,
    pub seed: u32,
    pub wall: Vec3,
    /// Distance of the wall behind the camera's origin; its height; 1 for bricks, 0 for panels with windows.
    pub wall_z: f32,
    pub wall_height: f32,
    pub bricks: f32,
    pub scaffold: Vec3,
    /// 0 for none.
    pub scaffold_z: f32,
}

/// One figure.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub feet: Vec3,
    pub scale: f32,
    /// Cosine and sine of the turn about y.
    pub turn: [f32; 2],
    /// How far an arm and a leg are ahead, metres.
    pub swing: f32,
    pub kind: f32,
    /// Rows of the rotation from a person's frame to its head's.
    pub head: [Vec3; 3],
    /// 0 bald, 1 short, 2 long.
    pub hair_style: f32,
    pub helmet_on: f32,
    pub vest_on: f32,
    pub skin: Vec3,
    pub stubble: f32,
    pub hair: Vec3,
    pub helmet: Vec3,
    pub shirt: Vec3,
    pub trousers: Vec3,
    pub vest: Vec3,
    /// Pixels that it can cover: left, top, right, bottom.
    pub rect: [f32; 4],
}

/// The buffer that the shader reads.
pub fn rows(header: &Header, figures: &[Figure]) -> Vec<[f32; 4]> {
    let h = header;
    let row = |v: Vec3, w: f32| [v.x, v.y, v.z, w];
    let mut rows = vec![
        [h.size_px[0], h.size_px[1], h.pixel, h.figures as f32],
        row(h.eye, 0.0),
        row(h.right, h.wall_height),
        row(h.up, h.bricks),
        row(h.forward, 0.0),
        row(h.sun, h.sun_strength),
        row(h.sun_colour, h.exposure),
        row(h.sky, h.clouds),
        row(h.horizon, h.haze),
        row(h.ground, h.seed as f32),
        row(h.wall, h.wall_z),
        row(h.scaffold, h.scaffold_z),
    ];
    for f in figures {
        rows.extend([
            row(f.feet, f.scale),
            [f.turn[0], f.turn[1], f.swing, f.kind],
            row(f.head[0], f.hair_style),
            row(f.head[1], f.helmet_on),
            row(f.head[2], f.vest_on),
            row(f.skin, f.stubble),
            row(f.hair, 0.0),
            row(f.helmet, 0.0),
            row(f.shirt, 0.0),
            row(f.trousers, 0.0),
            row(f.vest, 0.0),
            f.rect,
        ]);
    }
    rows
}

/// The shader for pictures of that size.
pub fn variant([width, height]: [u32; 2]) -> Variant {
    VariantBuilder::new("building_site", WGSL).build([width.div_ceil(8), height.div_ceil(8), 1])
}

// ---- numbers ----

fn clamp01(x: f32) -> f32 {
    x.clamp(0.0, 1.0)
}

fn ramp(low: f32, high: f32, x: f32) -> f32 {
    let t = clamp01((x - low) / (high - low));
    t * t * (3.0 - 2.0 * t)
}

/// The library's call would take most of the time of a pixel.
fn floor(x: f32) -> f32 {
    let whole = x as i32 as f32;
    if whole > x { whole - 1.0 } else { whole }
}

/// Looks random, 0 to 1, for a lattice point (PCG's output permutation, O'Neill 2014).
fn hash(x: i32, y: i32, seed: u32) -> f32 {
    let mut h =
        (x as u32).wrapping_mul(0x9e37_79b9) ^ (y as u32).wrapping_mul(0x85eb_ca6b) ^ seed.wrapping_mul(0xc2b2_ae35);
    h = h.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    h = ((h >> ((h >> 28) + 4)) ^ h).wrapping_mul(277_803_737);
    h = (h >> 22) ^ h;
    (h >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Value noise, 0 to 1.
fn noise(x: f32, y: f32, seed: u32) -> f32 {
    let (fx, fy) = (floor(x), floor(y));
    let (ix, iy) = (fx as i32, fy as i32);
    let (tx, ty) = (ramp(0.0, 1.0, x - fx), ramp(0.0, 1.0, y - fy));
    let above = hash(ix, iy, seed) * (1.0 - tx) + hash(ix + 1, iy, seed) * tx;
    let below = hash(ix, iy + 1, seed) * (1.0 - tx) + hash(ix + 1, iy + 1, seed) * tx;
    above * (1.0 - ty) + below * ty
}

/// Three octaves, those finer than `footprint` left out.
fn layered(x: f32, y: f32, footprint: f32, seed: u32) -> f32 {
    let mut sum = 0.0;
    let mut weight = 0.5;
    let mut scale = 1.0;
    for octave in 0..3u32 {
        let fade = 1.0 - ramp(0.3, 1.0, footprint * scale);
        sum += weight * fade * (noise(x * scale, y * scale, seed + octave) - 0.5);
        scale *= 2.7;
        weight *= 0.6;
    }
    sum
}

/// 1 within `half` of a multiple of `period`, edges as wide as a pixel.
fn bars(x: f32, period: f32, half: f32, footprint: f32) -> f32 {
    let turns = x / period;
    let distance = (0.5 - (turns - floor(turns) - 0.5).abs()) * period;
    // What is thinner than a pixel covers its share of it.
    let wide = half.max(0.5 * footprint);
    (1.0 - ramp(wide - 0.5 * footprint, wide + 0.5 * footprint, distance)) * (half / wide)
}

// ---- distances ----

#[inline(always)]
fn ellipsoid(p: Vec3, r: Vec3) -> f32 {
    // The radii are constants where it is called, so the reciprocals are too.
    let inverse = vec3(1.0 / r.x, 1.0 / r.y, 1.0 / r.z);
    let q = p.times(inverse);
    let k0 = q.length();
    let k1 = q.times(inverse).length();
    k0 * (k0 - 1.0) / k1.max(1e-6)
}

#[inline(always)]
fn capsule(p: Vec3, a: Vec3, b: Vec3, radius: f32) -> f32 {
    let (pa, ba) = (p - a, b - a);
    let h = clamp01(pa.dot(ba) / ba.dot(ba));
    (pa - ba * h).length() - radius
}

#[inline(always)]
fn smooth_min(a: f32, b: f32, k: f32) -> f32 {
    let h = (k - (a - b).abs()).max(0.0);
    a.min(b) - h * h * (0.25 / k)
}

fn smooth_max(a: f32, b: f32, k: f32) -> f32 {
    -smooth_min(-a, -b, k)
}

fn rounded_box(p: Vec3, half: Vec3, radius: f32) -> f32 {
    let q = vec3(p.x.abs() - half.x, p.y.abs() - half.y, p.z.abs() - half.z);
    let outside = vec3(q.x.max(0.0), q.y.max(0.0), q.z.max(0.0)).length();
    outside + q.x.max(q.y.max(q.z)).min(0.0) - radius
}

/// Distances to a figure's materials.
#[derive(Clone, Copy)]
struct Parts {
    skin: f32,
    hair: f32,
    helmet: f32,
    shirt: f32,
    trousers: f32,
    shoes: f32,
}

impl Parts {
    const FAR: Parts = Parts { skin: 1e3, hair: 1e3, helmet: 1e3, shirt: 1e3, trousers: 1e3, shoes: 1e3 };

    fn nearest(&self) -> f32 {
        self.skin.min(self.hair).min(self.helmet).min(self.shirt).min(self.trousers).min(self.shoes)
    }
}

fn to_head(f: &Figure, p: Vec3) -> Vec3 {
    let q = p - HEAD;
    vec3(f.head[0].dot(q), f.head[1].dot(q), f.head[2].dot(q))
}

/// Face, hair and helmet; `q` in the head's frame.
fn head_parts(f: &Figure, q: Vec3, parts: &mut Parts) {
    let side = vec3(q.x.abs(), q.y, q.z);
    let skull = ellipsoid(q - vec3(0.0, 0.03, -0.012), vec3(0.074, 0.092, 0.094));
    let jaw = ellipsoid(q - vec3(0.0, -0.045, 0.022), vec3(0.056, 0.072, 0.066));
    let mut skin = smooth_min(skull, jaw, 0.05);
    let nose = capsule(q, vec3(0.0, 0.0, 0.078), vec3(0.0, -0.03, 0.092), 0.011);
    skin = smooth_min(skin, nose, 0.018);
    let socket = ellipsoid(side - vec3(0.031, 0.003, 0.092), vec3(0.018, 0.012, 0.014));
    skin = smooth_max(skin, -socket, 0.02);
    let ear = ellipsoid(side - vec3(0.075, -0.012, -0.008), vec3(0.01, 0.031, 0.02));
    skin = smooth_min(skin, ear, 0.008);
    parts.skin = parts.skin.min(skin);
    if f.hair_style > 0.5 {
        let cap = ellipsoid(q - vec3(0.0, 0.034, -0.016), vec3(0.083, 0.099, 0.103));
        // Above a plane that rises from the neck to the forehead.
        let hairline = 0.014 - q.y + 0.95 * q.z - 0.5 * (q.z - 0.04).max(0.0);
        let mut hair = smooth_max(cap, hairline * 0.75, 0.02);
        if f.hair_style > 1.5 {
            let long = ellipsoid(q - vec3(0.0, -0.06, -0.045), vec3(0.088, 0.15, 0.07));
            hair = smooth_min(hair, long, 0.04);
        }
        parts.hair = hair;
    }
    if f.helmet_on > 0.5 {
        let r = q - vec3(0.0, 0.05, -0.004);
        let shell = ellipsoid(r, vec3(0.104, 0.104, 0.124));
        // Three ridges from front to back.
        let ridge = 0.004 * (1.0 - ramp(0.006, 0.014, (r.x.abs() - 0.022).abs()).min(ramp(0.007, 0.015, r.x.abs())));
        let above = 0.004 - r.y;
        let dome = smooth_max(shell - ridge * clamp01(r.y * 20.0), above, 0.008);
        let tilted = r.y + 0.09 * r.z - 0.006;
        let rim = ellipsoid(vec3(r.x, tilted, r.z), vec3(0.117, 0.012, 0.136));
        let peak = ellipsoid(vec3(r.x, tilted + 0.5 * r.x * r.x, r.z - 0.09), vec3(0.088, 0.012, 0.085));
        parts.helmet = smooth_min(dome, smooth_min(rim, peak, 0.012), 0.012);
        // Hair does not come through the shell.
        parts.hair = smooth_max(parts.hair, r.y - 0.005, 0.01);
    }
}

/// How far the arm on the point's side is ahead.
fn arm_ahead(f: &Figure, p: Vec3) -> f32 {
    if p.x < 0.0 { -f.swing } else { f.swing }
}

/// Joints of the arm on the point's side, mirrored to x > 0.
fn elbow(f: &Figure, p: Vec3) -> Vec3 {
    vec3(0.262, 1.08, -0.05 + 0.4 * arm_ahead(f, p))
}

fn wrist(f: &Figure, p: Vec3) -> Vec3 {
    vec3(0.25, 0.86, 0.05 + 1.1 * arm_ahead(f, p))
}

/// Neck, clothes, hands and shoes; `p` in the figure's frame.
fn body_parts(f: &Figure, p: Vec3, parts: &mut Parts) {
    let side = vec3(p.x.abs(), p.y, p.z);
    if p.y > 0.6 {
        let (elbow, wrist) = (elbow(f, p), wrist(f, p));
        let neck = capsule(p, vec3(0.0, 1.36, -0.035), vec3(0.0, 1.53, -0.002), 0.052);
        let hand = ellipsoid(side - wrist + vec3(0.0, 0.06, -0.01), vec3(0.03, 0.075, 0.042));
        parts.skin = parts.skin.min(smooth_min(neck, parts.skin, 0.03)).min(hand);
        let chest = ellipsoid(p - vec3(0.0, 1.20, -0.015), vec3(0.19, 0.27, 0.122));
        let belly = ellipsoid(p - vec3(0.0, 0.9, 0.0), vec3(0.17, 0.34, 0.122));
        let yoke = capsule(side, vec3(0.03, 1.405, -0.035), vec3(0.165, 1.36, -0.025), 0.056);
        // Cut at the hem.
        let trunk = smooth_max(smooth_min(chest, belly, 0.12), 0.85 - p.y, 0.02);
        let mut shirt = smooth_min(trunk, yoke, 0.07);
        let sleeve = capsule(side, vec3(0.195, 1.34, -0.025), elbow, 0.056);
        let lower = capsule(side, elbow, wrist, 0.043);
        shirt = smooth_min(shirt, smooth_min(sleeve, lower, 0.02), 0.035);
        // A collar around the neck.
        let collar = capsule(p, vec3(0.0, 1.405, -0.03), vec3(0.0, 1.425, -0.025), 0.064);
        parts.shirt = smooth_min(shirt, collar, 0.02);
    }
    if p.y < 1.15 {
        // Both legs: they may cross.
        for (sign, ahead) in [(1.0, -f.swing), (-1.0, f.swing)] {
            let hip = vec3(0.09 * sign, 0.92, 0.0);
            let knee = vec3(0.1 * sign, 0.5, 0.03 + 0.5 * ahead);
            let ankle = vec3(0.105 * sign, 0.1, -0.02 + ahead);
            let thigh = capsule(p, hip, knee, 0.082);
            let shin = capsule(p, knee, ankle, 0.063);
            parts.trousers = parts.trousers.min(smooth_min(thigh, shin, 0.04));
            parts.shoes =
                parts.shoes.min(capsule(p, ankle + vec3(0.0, -0.05, -0.02), ankle + vec3(0.0, -0.06, 0.13), 0.045));
        }
    }
}

/// Distance to any figure, a lower bound where it is far.
fn distance(f: &Figure, p: Vec3) -> f32 {
    if f.kind != PERSON {
        return prop(f, p);
    }
    let hull = capsule(p, vec3(0.0, 0.3, 0.0), vec3(0.0, 1.5, 0.0), 0.38);
    if hull > 0.12 {
        return hull;
    }
    let mut parts = Parts::FAR;
    let from_head = (p - HEAD).length() - 0.2;
    if from_head < 0.1 {
        head_parts(f, to_head(f, p), &mut parts);
    } else {
        parts.skin = from_head;
    }
    body_parts(f, p, &mut parts);
    parts.nearest()
}

fn prop(f: &Figure, p: Vec3) -> f32 {
    if f.kind == CRATE {
        return rounded_box(p - vec3(0.0, 0.4, 0.0), vec3(0.48, 0.38, 0.38), 0.02);
    }
    if f.kind == BARREL {
        let ring = 0.012 * (1.0 - ramp(0.01, 0.03, ((p.y - 0.45).abs() - 0.15).abs()));
        let radial = (p.x * p.x + p.z * p.z).sqrt() - 0.28 - ring;
        return smooth_max(radial, (p.y - 0.45).abs() - 0.44, 0.02);
    }
    let radial = (p.x * p.x + p.z * p.z).sqrt() - (0.19 - 0.22 * p.y);
    let cone = smooth_max(radial * 0.97, (p.y - 0.36).abs() - 0.36, 0.02);
    cone.min(rounded_box(p - vec3(0.0, 0.02, 0.0), vec3(0.23, 0.01, 0.23), 0.01))
}

// ---- light ----

struct Surface {
    colour: Vec3,
    /// Strength of the highlight.
    gloss: f32,
}

/// Skin with what is on it: eyes, brows, mouth, cheeks, a strap. `q` in the head's frame.
fn face(f: &Figure, q: Vec3, footprint: f32) -> Vec3 {
    let soft = footprint.max(0.003);
    let mut colour = f.skin;
    let side = vec3(q.x.abs(), q.y, q.z);
    if q.z > 0.02 && q.y > -0.13 {
        let spot = |cx: f32, cy: f32, rx: f32, ry: f32| {
            let (dx, dy) = ((side.x - cx) / rx, (side.y - cy) / ry);
            let d = (dx * dx + dy * dy).sqrt() - 1.0;
            1.0 - ramp(-soft / ry, soft / ry, d)
        };
        colour = colour.mix(f.skin.times(vec3(1.0, 0.72, 0.68)), 0.45 * spot(0.04, -0.035, 0.03, 0.025));
        let beard = f.stubble * ramp(-0.04, -0.06, q.y - 0.25 * (side.x - 0.02).max(0.0));
        colour = colour.mix(f.hair, 0.75 * beard);
        colour = colour.mix(f.skin * 0.45, 0.55 * spot(0.031, 0.004, 0.024, 0.014));
        colour = colour.mix(vec3(0.75, 0.74, 0.72), 0.8 * spot(0.031, 0.002, 0.014, 0.006));
        colour = colour.mix(vec3(0.03, 0.02, 0.02), spot(0.031, 0.002, 0.007, 0.007));
        colour = colour.mix(f.hair * 0.8, 0.85 * spot(0.032, 0.026, 0.022, 0.006));
        colour = colour.mix(f.skin.times(vec3(0.75, 0.42, 0.4)), 0.85 * spot(0.0, -0.068, 0.026, 0.008));
        colour = colour.mix(f.skin * 0.3, 0.7 * spot(0.0, -0.068, 0.024, 0.002));
        colour = colour.mix(f.skin * 0.4, 0.6 * spot(0.008, -0.041, 0.005, 0.003));
    }
    // A buzz cut's shadow on a bald head.
    let top = ramp(0.05, 0.075, q.y - 0.75 * q.z - 0.02);
    colour = colour.mix(f.hair, 0.3 * top * clamp01(1.0 - f.hair_style));
    if f.helmet_on > 0.5 {
        // The strap runs from the ears to below the chin.
        let strap = (side.z - 0.03 + 0.35 * (q.y + 0.1)).abs() - 0.005;
        let on = 1.0 - ramp(0.0, soft, strap);
        if side.x > 0.02 && q.y < 0.04 && q.y > -0.14 {
            colour = colour.mix(vec3(0.03, 0.03, 0.035), 0.9 * on);
        }
    }
    colour
}

fn shirt(f: &Figure, p: Vec3, footprint: f32) -> Vec3 {
    let soft = footprint.max(0.004);
    let mut colour = f.shirt;
    // Folds.
    colour = colour * (1.0 + 0.35 * layered(p.x * 9.0 + p.y * 4.0, p.y * 9.0 + p.z * 7.0, footprint * 9.0, 5));
    let sleeve = capsule(vec3(p.x.abs(), p.y, p.z), vec3(0.225, 1.3, -0.03), elbow(f, p), 0.056).min(capsule(
        vec3(p.x.abs(), p.y, p.z),
        elbow(f, p),
        wrist(f, p),
        0.05,
    ));
    if f.vest_on > 0.5 && sleeve > 0.0 {
        let opening = if p.z > 0.0 { 0.06 * ramp(1.12, 1.4, p.y) + 0.006 } else { -1.0 };
        let on = ramp(opening - soft, opening + soft, p.x.abs()) * ramp(0.0, 2.0 * soft, sleeve);
        let mut vest = f.vest;
        let band = (1.0 - ramp(0.022, 0.022 + soft, (p.y - 0.98).abs()))
            .max(1.0 - ramp(0.022, 0.022 + soft, (p.y - 1.12).abs()))
            .max((1.0 - ramp(0.02, 0.02 + soft, (p.x.abs() - 0.12).abs())) * ramp(1.12, 1.14, p.y));
        vest = vest.mix(vec3(0.72, 0.74, 0.74), band);
        colour = colour.mix(vest, on);
    } else if p.z > 0.0 {
        // A row of buttons, and the open collar.
        let line = 1.0 - ramp(0.003, 0.003 + soft, p.x.abs());
        colour = colour.mix(f.shirt * 0.55, 0.6 * line);
    }
    colour
}

/// Colour at a point of a figure.
fn surface(f: &Figure, p: Vec3, footprint: f32) -> Surface {
    if f.kind != PERSON {
        let mut colour = f.shirt;
        if f.kind == CRATE {
            let plank = bars(p.y, 0.13, 0.006, footprint);
            colour = colour * (1.0 - 0.5 * plank);
            colour = colour * (1.0 + 0.4 * layered(p.x * 3.0 + p.z * 3.0, p.y * 22.0, footprint * 8.0, 9));
        } else if f.kind == CONE {
            let stripe = ramp(0.2, 0.21, p.y) * (1.0 - ramp(0.32, 0.33, p.y))
                + ramp(0.44, 0.45, p.y) * (1.0 - ramp(0.52, 0.53, p.y));
            colour = colour.mix(vec3(0.8, 0.8, 0.8), stripe);
        } else {
            colour = colour * (1.0 + 0.5 * layered(p.x * 4.0, p.y * 4.0, footprint * 4.0, 11));
        }
        return Surface { colour, gloss: 0.05 };
    }
    let q = to_head(f, p);
    let mut parts = Parts::FAR;
    head_parts(f, q, &mut parts);
    body_parts(f, p, &mut parts);
    let nearest = parts.nearest();
    // Materials that meet within a pixel share it.
    let width = footprint.max(0.002);
    let weight = |d: f32| {
        let w = clamp01(1.0 - (d - nearest) / width);
        w * w
    };
    let weights = [parts.skin, parts.hair, parts.helmet, parts.shirt, parts.trousers, parts.shoes].map(weight);
    let mut colour = vec3(0.0, 0.0, 0.0);
    if weights[0] > 0.0 {
        colour = colour + face(f, q, footprint) * weights[0];
    }
    if weights[1] > 0.0 {
        let strands = 1.0 + 0.9 * layered(q.x * 90.0, q.z * 25.0 + q.y * 20.0, footprint * 60.0, 3);
        colour = colour + f.hair * (strands * weights[1]);
    }
    if weights[2] > 0.0 {
        // A badge at the front, and the dark inside.
        let r = q - vec3(0.0, 0.105, 0.0);
        let badge = if q.z > 0.05 {
            1.0 - ramp(0.9, 1.1 + footprint * 60.0, vec3(r.x / 0.022, r.y / 0.016, 0.0).length())
        } else {
            0.0
        };
        let mut shell = f.helmet.mix(vec3(0.1, 0.12, 0.3), 0.8 * badge);
        let inside = clamp01(1.0 - ellipsoid(q - vec3(0.0, 0.05, -0.004), vec3(0.098, 0.098, 0.118)) * -200.0);
        shell = shell * (0.35 + 0.65 * inside);
        colour = colour + shell * weights[2];
    }
    if weights[3] > 0.0 {
        colour = colour + shirt(f, p, footprint) * weights[3];
    }
    let folds = 1.0 + 0.4 * layered(p.x * 8.0, p.y * 7.0 + p.z * 4.0, footprint * 8.0, 6);
    colour = colour + f.trousers * (folds * weights[4]) + vec3(0.05, 0.045, 0.04) * weights[5];
    let total: f32 = weights.iter().sum();
    Surface {
        colour: colour * (1.0 / total),
        gloss: (0.35 * weights[2] + 0.06 * weights[0] + 0.05 * weights[1]) / total,
    }
}

fn normal(f: &Figure, p: Vec3, h: f32) -> Vec3 {
    let tap = |x: f32, y: f32, z: f32| vec3(x, y, z) * distance(f, p + vec3(x, y, z) * h);
    (tap(1.0, -1.0, -1.0) + tap(-1.0, -1.0, 1.0) + tap(-1.0, 1.0, -1.0) + tap(1.0, 1.0, 1.0)).normalize()
}

/// Share of the sun that reaches a point of a figure past the figure itself.
fn sunlight(f: &Figure, p: Vec3, sun: Vec3) -> f32 {
    let mut light = 1.0f32;
    let mut t = 0.012;
    for _ in 0..6 {
        let d = distance(f, p + sun * t);
        light = light.min(10.0 * d / t);
        t += d.clamp(0.02, 0.15);
        if light < 0.02 || t > 0.7 {
            break;
        }
    }
    clamp01(light)
}

fn to_figure(f: &Figure, v: Vec3) -> Vec3 {
    vec3(f.turn[0] * v.x - f.turn[1] * v.z, v.y, f.turn[1] * v.x + f.turn[0] * v.z)
}

/// How a ray meets a figure: where it is nearest, as a share of the pixel, and the distance there.
pub struct Meeting {
    pub coverage: f32,
    pub point: Vec3,
    pub t: f32,
}

/// Follows a ray, in the figure's frame, to where it hits or passes nearest.
fn meet(
    header: &Header,
    origin: Vec3,
    direction: Vec3,
    distance: impl Fn(Vec3) -> f32,
    near: f32,
    far: f32,
) -> Meeting {
    let mut t = near;
    let mut best = Meeting { coverage: 0.0, point: origin, t };
    let mut closest = 1.0f32;
    for _ in 0..STEPS_MAX {
        let point = origin + direction * t;
        let d = distance(point);
        let pixel = header.pixel * t;
        let share = d / pixel;
        if share < closest {
            closest = share;
            best = Meeting { coverage: 1.0 - ramp(0.1, 1.0, share), point, t };
        }
        if share < 0.1 {
            best.coverage = 1.0;
            break;
        }
        t += d.max(0.4 * pixel);
        if t > far {
            break;
        }
    }
    best
}

fn ray(header: &Header, x: f32, y: f32) -> Vec3 {
    let dx = (x - 0.5 * header.size_px[0]) * header.pixel;
    let dy = (0.5 * header.size_px[1] - y) * header.pixel;
    (header.forward + header.right * dx + header.up * dy).normalize()
}

/// A ray in a figure's frame: origin, direction, and where on it the figure can be.
fn ray_in_figure(header: &Header, f: &Figure, direction: Vec3) -> (Vec3, Vec3, f32, f32) {
    let origin = to_figure(f, header.eye - f.feet) * (1.0 / f.scale);
    let direction = to_figure(f, direction);
    let middle = (vec3(0.0, 0.9, 0.0) - origin).dot(direction);
    (origin, direction, (middle - 1.15).max(0.05), middle + 1.15)
}

/// Share of the pixel at `(x, y)` (in pixels, its centre at .5) that a figure covers, and how far away.
pub fn coverage(header: &Header, f: &Figure, x: f32, y: f32) -> (f32, f32) {
    let (origin, direction, near, far) = ray_in_figure(header, f, ray(header, x, y));
    let met = meet(header, origin, direction, |p| distance(f, p), near, far);
    (met.coverage, met.t * f.scale)
}

/// As [`coverage`], for a person's head with what is on it, without neck and body.
pub fn head_coverage(header: &Header, f: &Figure, x: f32, y: f32) -> f32 {
    let (origin, direction, near, far) = ray_in_figure(header, f, ray(header, x, y));
    let head = |p: Vec3| {
        let from_head = (p - HEAD).length() - 0.2;
        if from_head > 0.1 {
            return from_head;
        }
        let mut parts = Parts::FAR;
        head_parts(f, to_head(f, p), &mut parts);
        parts.nearest()
    };
    meet(header, origin, direction, head, near, far).coverage
}

fn lit(header: &Header, f: &Figure, met: &Meeting, direction: Vec3) -> Vec3 {
    let footprint = header.pixel * met.t;
    let n = normal(f, met.point, footprint.clamp(0.0015, 0.006));
    let sun = to_figure(f, header.sun);
    let material = surface(f, met.point, footprint);
    let facing = n.dot(sun);
    let mut direct = 0.0;
    if facing > 0.0 {
        direct = header.sun_strength * facing * sunlight(f, met.point + n * 0.006, sun);
    }
    // How open the surroundings are, from the distance a little off the surface.
    let open = clamp01(0.35 + 0.65 * distance(f, met.point + n * 0.05) / 0.05);
    let up = 0.5 + 0.5 * n.y;
    let ambient = header.sky.mix(header.horizon, 0.6) * (0.45 * up * open + 0.06);
    let bounce = header.ground * (0.22 * (1.0 - up) * open);
    let light = header.sun_colour * direct + ambient + bounce;
    let half = (sun - direction).normalize();
    let shine = n.dot(half).max(0.0);
    let shine = shine * shine * shine * shine;
    let shine = shine * shine * shine * shine;
    let rim = material.gloss * 0.35 * (1.0 - (-n.dot(direction)).max(0.0)) * up;
    material.colour.times(light) + header.sun_colour * (material.gloss * (shine * direct * 1.6)) + header.sky * rim
}

// ---- surroundings ----

fn sky(header: &Header, d: Vec3) -> Vec3 {
    let up = d.y.max(0.0);
    let mut colour = header.horizon.mix(header.sky, ramp(0.0, 0.45, up));
    let plane = 1.2 / (up + 0.12);
    let cloud = layered(d.x * plane * 1.1 + 7.0, d.z * plane * 1.1, 0.0, header.seed + 20) + 0.5;
    colour = colour.mix(vec3(0.95, 0.95, 0.97), header.clouds * ramp(0.45, 0.75, cloud) * ramp(0.02, 0.2, up));
    // Hills and trees along the horizon.
    let along = d.x / (-d.z).max(0.05);
    let hill = 0.035
        + 0.06 * (noise(along * 3.0 + 11.0, 0.5, header.seed + 30))
        + 0.02 * noise(along * 23.0, 0.5, header.seed + 31);
    let tree = vec3(0.12, 0.17, 0.1).mix(header.horizon, 0.35);
    colour.mix(tree, 1.0 - ramp(hill - header.pixel, hill + header.pixel, d.y))
}

fn ground(header: &Header, figures: &[Figure], p: Vec3, footprint: f32) -> Vec3 {
    let seed = header.seed + 40;
    let coarse = layered(p.x * 0.6, p.z * 0.6, footprint * 0.6, seed);
    let fine = layered(p.x * 6.0, p.z * 6.0, footprint * 6.0, seed + 4);
    let mut colour = header.ground * (1.0 + 0.7 * coarse + 0.7 * fine);
    // Tracks of wheels.
    let track = bars(p.x + 0.25 * noise(p.z * 0.4, 0.5, seed + 8), 1.9, 0.16, footprint)
        * noise(p.z * 0.7, p.x * 0.3, seed + 9);
    colour = colour * (1.0 - 0.35 * track);
    // What stands on it: a soft dark spot, and its shadow away from the sun.
    let mut light = 1.0;
    for f in figures {
        let (dx, dz) = (p.x - f.feet.x, p.z - f.feet.z);
        let away = -(dx * header.sun.x + dz * header.sun.z);
        let across = dx * header.sun.z - dz * header.sun.x;
        let flat = (header.sun.x * header.sun.x + header.sun.z * header.sun.z).sqrt().max(0.05);
        let (away, across) = (away / flat, across / flat);
        let size = if f.kind == PERSON { 1.0 } else { 1.5 };
        let length = (if f.kind == PERSON { 1.7 } else { 0.7 }) * f.scale * (flat / header.sun.y.max(0.2)).min(3.0);
        let h = clamp01(away / length);
        let gap = ((away - h * length) * (away - h * length) + across * across).sqrt();
        let blur = 0.08 + 0.25 * h;
        let shade = 1.0 - ramp(0.2 * size - blur * 0.5, 0.2 * size + blur, gap);
        light *= 1.0 - 0.6 * header.sun_strength.min(1.0) * shade;
        light *= 1.0 - 0.5 * (1.0 - ramp(0.1, 0.42 * size, (dx * dx + dz * dz).sqrt()));
    }
    colour.times(
        header.sun_colour * (0.55 * header.sun_strength * light * header.sun.y.max(0.1))
            + header.sky.mix(header.horizon, 0.6) * (0.45 * (0.5 + 0.5 * light)),
    )
}

fn wall(header: &Header, p: Vec3, footprint: f32) -> Vec3 {
    let seed = header.seed + 60;
    let stains = layered(p.x * 0.5, p.y * 0.9, footprint * 0.7, seed);
    let grain = layered(p.x * 7.0, p.y * 7.0, footprint * 7.0, seed + 4);
    let mut colour = header.wall * (1.0 + 0.5 * stains + 0.3 * grain);
    if header.bricks > 0.5 {
        let row = floor(p.y / 0.09);
        let shift = if (row * 0.5 - floor(row * 0.5)) > 0.25 { 0.13 } else { 0.0 };
        let joint = bars(p.y, 0.09, 0.006, footprint).max(bars(p.x + shift, 0.26, 0.006, footprint));
        let tone = (hash(floor((p.x + shift) / 0.26 + 0.5) as i32, row as i32, seed + 7) - 0.5)
            * (1.0 - ramp(0.05, 0.2, footprint));
        colour = colour * (1.0 + 0.4 * tone);
        colour = colour.mix(vec3(0.5, 0.48, 0.45).times(header.wall.mix(vec3(1.0, 1.0, 1.0), 0.6)), joint * 0.8);
    } else {
        let slab = bars(p.y + 0.2, 3.0, 0.16, footprint);
        let joint = bars(p.x, 2.4, 0.015, footprint);
        colour = colour * (1.0 - 0.5 * joint);
        // Openings between the slabs: dark, some with glass that shows the sky.
        let (cell_x, cell_y) = (floor(p.x / 2.4), floor((p.y + 1.7) / 3.0));
        let (in_x, in_y) = (p.x - (cell_x + 0.5) * 2.4, p.y + 1.7 - (cell_y + 0.5) * 3.0);
        let inside = (1.0 - ramp(0.75, 0.75 + footprint, in_x.abs())) * (1.0 - ramp(0.8, 0.8 + footprint, in_y.abs()));
        let which = hash(cell_x as i32, cell_y as i32, seed + 8);
        let glass = vec3(0.07, 0.08, 0.09).mix(header.sky * 0.5, 0.7 * ramp(0.5, 0.9, which));
        let frame = bars(in_x, 0.75, 0.025, footprint) * 0.6;
        colour =
            colour.mix(glass.mix(vec3(0.4, 0.4, 0.4), frame * ramp(0.3, 0.4, which)), inside * ramp(0.12, 0.2, which));
        colour = colour.mix(header.wall * 1.15, slab);
    }
    let facing = header.sun.z.max(0.0);
    colour.times(header.sun_colour * (0.75 * header.sun_strength * facing) + header.sky.mix(header.horizon, 0.6) * 0.5)
}

/// Colour and coverage of the scaffold at a point of its plane.
fn scaffold(header: &Header, p: Vec3, footprint: f32) -> (Vec3, f32) {
    let pole = bars(p.x, 2.1, 0.03, footprint);
    let ledger = bars(p.y + 0.3, 1.9, 0.025, footprint).max(bars(p.y - 0.7, 1.9, 0.018, footprint));
    let brace =
        bars(p.x + p.y * 1.105, 8.4, 0.025, footprint).max(bars(p.x - p.y * 1.105 + 2.0, 12.6, 0.025, footprint));
    let plank = bars(p.y + 0.36, 1.9, 0.045, footprint);
    // Round bars are bright along their middle.
    let round = 0.65 + 0.35 * bars(p.x + 0.008, 2.1, 0.012, footprint);
    let light = header.sun_colour * (0.5 * header.sun_strength) + header.sky.mix(header.horizon, 0.6) * 0.45;
    let metal = header.scaffold.times(light) * round;
    let wood = vec3(0.5, 0.38, 0.22).times(light);
    let cover = pole.max(ledger).max(brace);
    // Nets hang in some bays.
    let bay = hash(floor(p.x / 2.1 + 0.5) as i32, floor((p.y + 0.3) / 1.9 + 0.5) as i32, header.seed + 80);
    let net =
        if bay > 0.8 { 0.55 + 0.5 * layered(p.x * 2.0, p.y * 5.0, footprint * 3.0, header.seed + 81) } else { 0.0 };
    let netting = vec3(0.08, 0.3, 0.17).times(light) * 1.4;
    let mut colour = netting.mix(metal, cover);
    let mut alpha = net.max(cover);
    colour = colour.mix(wood, plank * (1.0 - pole));
    alpha = alpha.max(plank);
    (colour, clamp01(alpha))
}

fn surroundings(header: &Header, figures: &[Figure], d: Vec3) -> Vec3 {
    let far = 1e6;
    let to_ground = if d.y < -1e-4 { -header.eye.y / d.y } else { far };
    let to_plane = |z: f32| if d.z < -1e-4 && z > 0.0 { (-z - header.eye.z) / d.z } else { far };
    let to_wall = to_plane(header.wall_z);
    let wall_point = header.eye + d * to_wall;
    let mut t = far;
    let mut colour;
    if to_wall < to_ground && wall_point.y < header.wall_height {
        t = to_wall;
        colour = wall(header, wall_point, header.pixel * t / d.z.abs().max(0.3));
        let edge = ramp(header.wall_height - 2.0 * header.pixel * t, header.wall_height, wall_point.y);
        colour = colour.mix(sky(header, d), edge);
    } else if to_ground < 200.0 {
        t = to_ground;
        let p = header.eye + d * t;
        colour = ground(header, figures, p, header.pixel * t / (-d.y).max(0.05));
    } else {
        colour = sky(header, d);
    }
    if t < far {
        colour = colour.mix(header.horizon, 0.7 - 0.7 * (-header.haze * t).exp());
    }
    let to_scaffold = to_plane(header.scaffold_z);
    if to_scaffold < t {
        let (bar, alpha) = scaffold(header, header.eye + d * to_scaffold, header.pixel * to_scaffold);
        colour = colour.mix(bar, alpha);
    }
    colour
}

/// RGB levels of the pixel in column `x`, row `y`.
pub fn pixel(header: &Header, figures: &[Figure], x: usize, y: usize) -> [u8; 3] {
    let (px, py) = (x as f32 + 0.5, y as f32 + 0.5);
    let d = ray(header, px, py);
    let mut colour = vec3(0.0, 0.0, 0.0);
    let mut left = 1.0;
    for f in figures {
        let r = f.rect;
        if px < r[0] || py < r[1] || px > r[2] || py > r[3] {
            continue;
        }
        let (origin, direction, near, far) = ray_in_figure(header, f, d);
        let met = meet(header, origin, direction, |p| distance(f, p), near, far);
        if met.coverage > 0.0 {
            let mut shade = lit(header, f, &met, direction);
            shade = shade.mix(header.horizon, 1.0 - (-header.haze * met.t * f.scale).exp());
            colour = colour + shade * (left * met.coverage);
            left *= 1.0 - met.coverage;
            if left < 0.01 {
                break;
            }
        }
    }
    if left >= 0.01 {
        colour = colour + surroundings(header, figures, d) * left;
    } else {
        colour = colour * (1.0 / (1.0 - left));
    }
    // A film's shoulder, then gamma 2.
    let level = |v: f32| {
        let v = v.max(0.0) * header.exposure;
        let v = v * (1.0 + 0.15 * v) / (1.0 + 0.45 * v);
        (255.0 * clamp01(v.sqrt()) + 0.5) as u8
    };
    [level(colour.x), level(colour.y), level(colour.z)]
}
