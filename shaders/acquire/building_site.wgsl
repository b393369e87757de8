// People at a building site, by sphere tracing: the picture of `pattern:site`.
// Twin: src/acquire/scenes/building_site.rs, which says how it works; same functions, same order. Long, as that is: the scene
// is one function of a pixel, and WGSL has no modules.
//
//   t += d(origin + t * direction) until d < a tenth of a pixel; coverage = 1 - ramp(0.1, 1, smallest d in pixels)
//
// Bindings
//   scene  Header (12 rows of 4 floats), then header.size.w Figures (12 rows each), the nearest first. Metres, y up,
//          colours linear 0 to 1, rectangles in pixels.
//   dst    width * height words: red | green << 8 | blue << 16 | 255 << 24
// Tile: one pixel a thread, 8 x 8 a workgroup. Dispatch: ceil(width / 8) x ceil(height / 8).

struct Header {
    // width, height, width of a pixel at a distance of 1, figures
    size: vec4<f32>,
    eye: vec3<f32>,
    reserved0: f32,
    right: vec3<f32>,
    wall_height: f32,
    up: vec3<f32>,
    bricks: f32,
    forward: vec3<f32>,
    reserved1: f32,
    sun: vec3<f32>,
    sun_strength: f32,
    sun_colour: vec3<f32>,
    exposure: f32,
    sky: vec3<f32>,
    clouds: f32,
    horizon: vec3<f32>,
    haze: f32,
    ground: vec3<f32>,
    seed: f32,
    wall: vec3<f32>,
    wall_z: f32,
    scaffold: vec3<f32>,
    scaffold_z: f32,
}

struct Figure {
    feet: vec3<f32>,
    scale: f32,
    turn: vec2<f32>,
    swing: f32,
    // 0 person, 1 crate, 2 barrel, 3 cone
    kind: f32,
    // Rows of the rotation into the head's frame.
    head0: vec3<f32>,
    // 0 bald, 1 short, 2 long
    hair_style: f32,
    head1: vec3<f32>,
    helmet_on: f32,
    head2: vec3<f32>,
    vest_on: f32,
    skin: vec3<f32>,
    stubble: f32,
    hair: vec3<f32>,
    reserved0: f32,
    helmet: vec3<f32>,
    reserved1: f32,
    shirt: vec3<f32>,
    reserved2: f32,
    trousers: vec3<f32>,
    reserved3: f32,
    vest: vec3<f32>,
    reserved4: f32,
    rect: vec4<f32>,
}

struct Scene {
    header: Header,
    figures: array<Figure>,
}

@group(0) @binding(0) var<storage, read> scene: Scene;
@group(0) @binding(1) var<storage, read_write> dst: array<u32>;

const STEPS_MAX: u32 = 40u;
const HEAD = vec3<f32>(0.0, 1.59, 0.02);
const PERSON: f32 = 0.0;
const CRATE: f32 = 1.0;
const BARREL: f32 = 2.0;
const CONE: f32 = 3.0;

// ---- numbers ----

fn clamp01(x: f32) -> f32 {
    return clamp(x, 0.0, 1.0);
}

// smoothstep, which the standard leaves open where low > high.
fn ramp(low: f32, high: f32, x: f32) -> f32 {
    let t = clamp01((x - low) / (high - low));
    return t * t * (3.0 - 2.0 * t);
}

fn hash(x: i32, y: i32, seed: u32) -> f32 {
    var h = (u32(x) * 0x9e3779b9u) ^ (u32(y) * 0x85ebca6bu) ^ (seed * 0xc2b2ae35u);
    h = h * 747796405u + 2891336453u;
    h = ((h >> ((h >> 28u) + 4u)) ^ h) * 277803737u;
    h = (h >> 22u) ^ h;
    return f32(h >> 8u) * (1.0 / 16777216.0);
}

fn noise(x: f32, y: f32, seed: u32) -> f32 {
    let fx = floor(x);
    let fy = floor(y);
    let ix = i32(fx);
    let iy = i32(fy);
    let tx = ramp(0.0, 1.0, x - fx);
    let ty = ramp(0.0, 1.0, y - fy);
    let above = hash(ix, iy, seed) * (1.0 - tx) + hash(ix + 1, iy, seed) * tx;
    let below = hash(ix, iy + 1, seed) * (1.0 - tx) + hash(ix + 1, iy + 1, seed) * tx;
    return above * (1.0 - ty) + below * ty;
}

fn layered(x: f32, y: f32, footprint: f32, seed: u32) -> f32 {
    var sum = 0.0;
    var weight = 0.5;
    var scale = 1.0;
    for (var octave = 0u; octave < 3u; octave++) {
        let fade = 1.0 - ramp(0.3, 1.0, footprint * scale);
        sum += weight * fade * (noise(x * scale, y * scale, seed + octave) - 0.5);
        scale *= 2.7;
        weight *= 0.6;
    }
    return sum;
}

fn bars(x: f32, period: f32, half: f32, footprint: f32) -> f32 {
    let turns = x / period;
    let distance = (0.5 - abs(turns - floor(turns) - 0.5)) * period;
    let wide = max(half, 0.5 * footprint);
    return (1.0 - ramp(wide - 0.5 * footprint, wide + 0.5 * footprint, distance)) * (half / wide);
}

// ---- distances ----

fn ellipsoid(p: vec3<f32>, r: vec3<f32>) -> f32 {
    let inverse = 1.0 / r;
    let q = p * inverse;
    let k0 = length(q);
    let k1 = length(q * inverse);
    return k0 * (k0 - 1.0) / max(k1, 1e-6);
}

fn capsule(p: vec3<f32>, a: vec3<f32>, b: vec3<f32>, radius: f32) -> f32 {
    let pa = p - a;
    let ba = b - a;
    let h = clamp01(dot(pa, ba) / dot(ba, ba));
    return length(pa - ba * h) - radius;
}

fn smooth_min(a: f32, b: f32, k: f32) -> f32 {
    let h = max(k - abs(a - b), 0.0);
    return min(a, b) - h * h * (0.25 / k);
}

fn smooth_max(a: f32, b: f32, k: f32) -> f32 {
    return -smooth_min(-a, -b, k);
}

fn rounded_box(p: vec3<f32>, half: vec3<f32>, radius: f32) -> f32 {
    let q = abs(p) - half;
    return length(max(q, vec3<f32>(0.0))) + min(max(q.x, max(q.y, q.z)), 0.0) - radius;
}

struct Parts {
    skin: f32,
    hair: f32,
    helmet: f32,
    shirt: f32,
    trousers: f32,
    shoes: f32,
}

fn nearest(p: Parts) -> f32 {
    return min(min(min(p.skin, p.hair), min(p.helmet, p.shirt)), min(p.trousers, p.shoes));
}

fn to_head(f: u32, p: vec3<f32>) -> vec3<f32> {
    let q = p - HEAD;
    return vec3<f32>(dot(scene.figures[f].head0, q), dot(scene.figures[f].head1, q), dot(scene.figures[f].head2, q));
}

fn head_parts(f: u32, q: vec3<f32>, before: Parts) -> Parts {
    var parts = before;
    let side = vec3<f32>(abs(q.x), q.y, q.z);
    let skull = ellipsoid(q - vec3<f32>(0.0, 0.03, -0.012), vec3<f32>(0.074, 0.092, 0.094));
    let jaw = ellipsoid(q - vec3<f32>(0.0, -0.045, 0.022), vec3<f32>(0.056, 0.072, 0.066));
    var skin = smooth_min(skull, jaw, 0.05);
    let nose = capsule(q, vec3<f32>(0.0, 0.0, 0.078), vec3<f32>(0.0, -0.03, 0.092), 0.011);
    skin = smooth_min(skin, nose, 0.018);
    let socket = ellipsoid(side - vec3<f32>(0.031, 0.003, 0.092), vec3<f32>(0.018, 0.012, 0.014));
    skin = smooth_max(skin, -socket, 0.02);
    let ear = ellipsoid(side - vec3<f32>(0.075, -0.012, -0.008), vec3<f32>(0.01, 0.031, 0.02));
    skin = smooth_min(skin, ear, 0.008);
    parts.skin = min(parts.skin, skin);
    if (scene.figures[f].hair_style > 0.5) {
        let cap = ellipsoid(q - vec3<f32>(0.0, 0.034, -0.016), vec3<f32>(0.083, 0.099, 0.103));
        let hairline = 0.014 - q.y + 0.95 * q.z - 0.5 * max(q.z - 0.04, 0.0);
        var hair = smooth_max(cap, hairline * 0.75, 0.02);
        if (scene.figures[f].hair_style > 1.5) {
            let long = ellipsoid(q - vec3<f32>(0.0, -0.06, -0.045), vec3<f32>(0.088, 0.15, 0.07));
            hair = smooth_min(hair, long, 0.04);
        }
        parts.hair = hair;
    }
    if (scene.figures[f].helmet_on > 0.5) {
        let r = q - vec3<f32>(0.0, 0.05, -0.004);
        let shell = ellipsoid(r, vec3<f32>(0.104, 0.104, 0.124));
        let ridge = 0.004 * (1.0 - min(ramp(0.006, 0.014, abs(abs(r.x) - 0.022)), ramp(0.007, 0.015, abs(r.x))));
        let above = 0.004 - r.y;
        let dome = smooth_max(shell - ridge * clamp01(r.y * 20.0), above, 0.008);
        let tilted = r.y + 0.09 * r.z - 0.006;
        let rim = ellipsoid(vec3<f32>(r.x, tilted, r.z), vec3<f32>(0.117, 0.012, 0.136));
        let bent = tilted + 0.5 * r.x * r.x;
        let peak = ellipsoid(vec3<f32>(r.x, bent, r.z - 0.09), vec3<f32>(0.088, 0.012, 0.085));
        parts.helmet = smooth_min(dome, smooth_min(rim, peak, 0.012), 0.012);
        parts.hair = smooth_max(parts.hair, r.y - 0.005, 0.01);
    }
    return parts;
}

fn arm_ahead(f: u32, p: vec3<f32>) -> f32 {
    return select(scene.figures[f].swing, -scene.figures[f].swing, p.x < 0.0);
}

fn elbow(f: u32, p: vec3<f32>) -> vec3<f32> {
    return vec3<f32>(0.262, 1.08, -0.05 + 0.4 * arm_ahead(f, p));
}

fn wrist(f: u32, p: vec3<f32>) -> vec3<f32> {
    return vec3<f32>(0.25, 0.86, 0.05 + 1.1 * arm_ahead(f, p));
}

fn body_parts(f: u32, p: vec3<f32>, before: Parts) -> Parts {
    var parts = before;
    let side = vec3<f32>(abs(p.x), p.y, p.z);
    if (p.y > 0.6) {
        let at_elbow = elbow(f, p);
        let at_wrist = wrist(f, p);
        let neck = capsule(p, vec3<f32>(0.0, 1.36, -0.035), vec3<f32>(0.0, 1.53, -0.002), 0.052);
        let hand = ellipsoid(side - at_wrist + vec3<f32>(0.0, 0.06, -0.01), vec3<f32>(0.03, 0.075, 0.042));
        parts.skin = min(min(parts.skin, smooth_min(neck, parts.skin, 0.03)), hand);
        let chest = ellipsoid(p - vec3<f32>(0.0, 1.20, -0.015), vec3<f32>(0.19, 0.27, 0.122));
        let belly = ellipsoid(p - vec3<f32>(0.0, 0.9, 0.0), vec3<f32>(0.17, 0.34, 0.122));
        let yoke = capsule(side, vec3<f32>(0.03, 1.405, -0.035), vec3<f32>(0.165, 1.36, -0.025), 0.056);
        let trunk = smooth_max(smooth_min(chest, belly, 0.12), 0.85 - p.y, 0.02);
        var shirt = smooth_min(trunk, yoke, 0.07);
        let sleeve = capsule(side, vec3<f32>(0.195, 1.34, -0.025), at_elbow, 0.056);
        let lower = capsule(side, at_elbow, at_wrist, 0.043);
        shirt = smooth_min(shirt, smooth_min(sleeve, lower, 0.02), 0.035);
        let collar = capsule(p, vec3<f32>(0.0, 1.405, -0.03), vec3<f32>(0.0, 1.425, -0.025), 0.064);
        parts.shirt = smooth_min(shirt, collar, 0.02);
    }
    if (p.y < 1.15) {
        for (var leg = 0u; leg < 2u; leg++) {
            let sign = select(-1.0, 1.0, leg == 0u);
            let ahead = -sign * scene.figures[f].swing;
            let hip = vec3<f32>(0.09 * sign, 0.92, 0.0);
            let knee = vec3<f32>(0.1 * sign, 0.5, 0.03 + 0.5 * ahead);
            let ankle = vec3<f32>(0.105 * sign, 0.1, -0.02 + ahead);
            let thigh = capsule(p, hip, knee, 0.082);
            let shin = capsule(p, knee, ankle, 0.063);
            parts.trousers = min(parts.trousers, smooth_min(thigh, shin, 0.04));
            let heel = ankle + vec3<f32>(0.0, -0.05, -0.02);
            let toe = ankle + vec3<f32>(0.0, -0.06, 0.13);
            parts.shoes = min(parts.shoes, capsule(p, heel, toe, 0.045));
        }
    }
    return parts;
}

fn far_parts() -> Parts {
    return Parts(1e3, 1e3, 1e3, 1e3, 1e3, 1e3);
}

fn distance_to(f: u32, p: vec3<f32>) -> f32 {
    if (scene.figures[f].kind != PERSON) {
        return prop(f, p);
    }
    let hull = capsule(p, vec3<f32>(0.0, 0.3, 0.0), vec3<f32>(0.0, 1.5, 0.0), 0.38);
    if (hull > 0.12) {
        return hull;
    }
    var parts = far_parts();
    let from_head = length(p - HEAD) - 0.2;
    if (from_head < 0.1) {
        parts = head_parts(f, to_head(f, p), parts);
    } else {
        parts.skin = from_head;
    }
    parts = body_parts(f, p, parts);
    return nearest(parts);
}

fn prop(f: u32, p: vec3<f32>) -> f32 {
    let kind = scene.figures[f].kind;
    if (kind == CRATE) {
        return rounded_box(p - vec3<f32>(0.0, 0.4, 0.0), vec3<f32>(0.48, 0.38, 0.38), 0.02);
    }
    let from_axis = sqrt(p.x * p.x + p.z * p.z);
    if (kind == BARREL) {
        let ring = 0.012 * (1.0 - ramp(0.01, 0.03, abs(abs(p.y - 0.45) - 0.15)));
        return smooth_max(from_axis - 0.28 - ring, abs(p.y - 0.45) - 0.44, 0.02);
    }
    let cone = smooth_max((from_axis - (0.19 - 0.22 * p.y)) * 0.97, abs(p.y - 0.36) - 0.36, 0.02);
    return min(cone, rounded_box(p - vec3<f32>(0.0, 0.02, 0.0), vec3<f32>(0.23, 0.01, 0.23), 0.01));
}

// ---- light ----

struct Surface {
    colour: vec3<f32>,
    gloss: f32,
}

// An ellipse on the face.
fn spot(x: f32, y: f32, centre: vec2<f32>, radii: vec2<f32>, soft: f32) -> f32 {
    let d = length((vec2<f32>(x, y) - centre) / radii) - 1.0;
    return 1.0 - ramp(-soft / radii.y, soft / radii.y, d);
}

fn face(f: u32, q: vec3<f32>, footprint: f32) -> vec3<f32> {
    let soft = max(footprint, 0.003);
    let skin = scene.figures[f].skin;
    let hair = scene.figures[f].hair;
    var colour = skin;
    let x = abs(q.x);
    if (q.z > 0.02 && q.y > -0.13) {
        let cheek = spot(x, q.y, vec2<f32>(0.04, -0.035), vec2<f32>(0.03, 0.025), soft);
        colour = mix(colour, skin * vec3<f32>(1.0, 0.72, 0.68), 0.45 * cheek);
        let beard = scene.figures[f].stubble * ramp(-0.04, -0.06, q.y - 0.25 * max(x - 0.02, 0.0));
        colour = mix(colour, hair, 0.75 * beard);
        let socket = spot(x, q.y, vec2<f32>(0.031, 0.004), vec2<f32>(0.024, 0.014), soft);
        colour = mix(colour, skin * 0.45, 0.55 * socket);
        let white = spot(x, q.y, vec2<f32>(0.031, 0.002), vec2<f32>(0.014, 0.006), soft);
        colour = mix(colour, vec3<f32>(0.75, 0.74, 0.72), 0.8 * white);
        let iris = spot(x, q.y, vec2<f32>(0.031, 0.002), vec2<f32>(0.007, 0.007), soft);
        colour = mix(colour, vec3<f32>(0.03, 0.02, 0.02), iris);
        let brow = spot(x, q.y, vec2<f32>(0.032, 0.026), vec2<f32>(0.022, 0.006), soft);
        colour = mix(colour, hair * 0.8, 0.85 * brow);
        let lips = spot(x, q.y, vec2<f32>(0.0, -0.068), vec2<f32>(0.026, 0.008), soft);
        colour = mix(colour, skin * vec3<f32>(0.75, 0.42, 0.4), 0.85 * lips);
        let mouth = spot(x, q.y, vec2<f32>(0.0, -0.068), vec2<f32>(0.024, 0.002), soft);
        colour = mix(colour, skin * 0.3, 0.7 * mouth);
        let nostril = spot(x, q.y, vec2<f32>(0.008, -0.041), vec2<f32>(0.005, 0.003), soft);
        colour = mix(colour, skin * 0.4, 0.6 * nostril);
    }
    let top = ramp(0.05, 0.075, q.y - 0.75 * q.z - 0.02);
    colour = mix(colour, hair, 0.3 * top * clamp01(1.0 - scene.figures[f].hair_style));
    if (scene.figures[f].helmet_on > 0.5) {
        let strap = abs(q.z - 0.03 + 0.35 * (q.y + 0.1)) - 0.005;
        let on = 1.0 - ramp(0.0, soft, strap);
        if (x > 0.02 && q.y < 0.04 && q.y > -0.14) {
            colour = mix(colour, vec3<f32>(0.03, 0.03, 0.035), 0.9 * on);
        }
    }
    return colour;
}

fn shirt_colour(f: u32, p: vec3<f32>, footprint: f32) -> vec3<f32> {
    let soft = max(footprint, 0.004);
    let base = scene.figures[f].shirt;
    let folds = layered(p.x * 9.0 + p.y * 4.0, p.y * 9.0 + p.z * 7.0, footprint * 9.0, 5u);
    var colour = base * (1.0 + 0.35 * folds);
    let side = vec3<f32>(abs(p.x), p.y, p.z);
    let upper = capsule(side, vec3<f32>(0.225, 1.3, -0.03), elbow(f, p), 0.056);
    let sleeve = min(upper, capsule(side, elbow(f, p), wrist(f, p), 0.05));
    if (scene.figures[f].vest_on > 0.5 && sleeve > 0.0) {
        let opening = select(-1.0, 0.06 * ramp(1.12, 1.4, p.y) + 0.006, p.z > 0.0);
        let on = ramp(opening - soft, opening + soft, side.x) * ramp(0.0, 2.0 * soft, sleeve);
        let low = 1.0 - ramp(0.022, 0.022 + soft, abs(p.y - 0.98));
        let high = 1.0 - ramp(0.022, 0.022 + soft, abs(p.y - 1.12));
        let braces = (1.0 - ramp(0.02, 0.02 + soft, abs(side.x - 0.12))) * ramp(1.12, 1.14, p.y);
        let band = max(max(low, high), braces);
        colour = mix(colour, mix(scene.figures[f].vest, vec3<f32>(0.72, 0.74, 0.74), band), on);
    } else if (p.z > 0.0) {
        let line = 1.0 - ramp(0.003, 0.003 + soft, side.x);
        colour = mix(colour, base * 0.55, 0.6 * line);
    }
    return colour;
}

fn prop_surface(f: u32, p: vec3<f32>, footprint: f32) -> Surface {
    var colour = scene.figures[f].shirt;
    let kind = scene.figures[f].kind;
    if (kind == CRATE) {
        colour *= 1.0 - 0.5 * bars(p.y, 0.13, 0.006, footprint);
        colour *= 1.0 + 0.4 * layered(p.x * 3.0 + p.z * 3.0, p.y * 22.0, footprint * 8.0, 9u);
    } else if (kind == CONE) {
        let stripe = ramp(0.2, 0.21, p.y) * (1.0 - ramp(0.32, 0.33, p.y))
            + ramp(0.44, 0.45, p.y) * (1.0 - ramp(0.52, 0.53, p.y));
        colour = mix(colour, vec3<f32>(0.8), stripe);
    } else {
        colour *= 1.0 + 0.5 * layered(p.x * 4.0, p.y * 4.0, footprint * 4.0, 11u);
    }
    return Surface(colour, 0.05);
}

fn share(d: f32, nearest: f32, width: f32) -> f32 {
    let w = clamp01(1.0 - (d - nearest) / width);
    return w * w;
}

fn surface(f: u32, p: vec3<f32>, footprint: f32) -> Surface {
    if (scene.figures[f].kind != PERSON) {
        return prop_surface(f, p, footprint);
    }
    let q = to_head(f, p);
    let parts = body_parts(f, p, head_parts(f, q, far_parts()));
    let first = nearest(parts);
    let width = max(footprint, 0.002);
    let skin = share(parts.skin, first, width);
    let hair = share(parts.hair, first, width);
    let helmet = share(parts.helmet, first, width);
    let shirt = share(parts.shirt, first, width);
    let trousers = share(parts.trousers, first, width);
    let shoes = share(parts.shoes, first, width);
    var colour = vec3<f32>(0.0);
    if (skin > 0.0) {
        colour += face(f, q, footprint) * skin;
    }
    if (hair > 0.0) {
        let strands = 1.0 + 0.9 * layered(q.x * 90.0, q.z * 25.0 + q.y * 20.0, footprint * 60.0, 3u);
        colour += scene.figures[f].hair * (strands * hair);
    }
    if (helmet > 0.0) {
        var badge = 0.0;
        if (q.z > 0.05) {
            badge = 1.0 - ramp(0.9, 1.1 + footprint * 60.0, length(vec2<f32>(q.x / 0.022, (q.y - 0.105) / 0.016)));
        }
        var shell = mix(scene.figures[f].helmet, vec3<f32>(0.1, 0.12, 0.3), 0.8 * badge);
        let depth = ellipsoid(q - vec3<f32>(0.0, 0.05, -0.004), vec3<f32>(0.098, 0.098, 0.118));
        shell *= 0.35 + 0.65 * clamp01(1.0 + 200.0 * depth);
        colour += shell * helmet;
    }
    if (shirt > 0.0) {
        colour += shirt_colour(f, p, footprint) * shirt;
    }
    let folds = 1.0 + 0.4 * layered(p.x * 8.0, p.y * 7.0 + p.z * 4.0, footprint * 8.0, 6u);
    colour += scene.figures[f].trousers * (folds * trousers) + vec3<f32>(0.05, 0.045, 0.04) * shoes;
    let total = skin + hair + helmet + shirt + trousers + shoes;
    return Surface(colour * (1.0 / total), (0.35 * helmet + 0.06 * skin + 0.05 * hair) / total);
}

fn normal(f: u32, p: vec3<f32>, h: f32) -> vec3<f32> {
    let a = vec3<f32>(1.0, -1.0, -1.0);
    let b = vec3<f32>(-1.0, -1.0, 1.0);
    let c = vec3<f32>(-1.0, 1.0, -1.0);
    let d = vec3<f32>(1.0, 1.0, 1.0);
    return normalize(
        a * distance_to(f, p + a * h) + b * distance_to(f, p + b * h) + c * distance_to(f, p + c * h)
            + d * distance_to(f, p + d * h)
    );
}

fn sunlight(f: u32, p: vec3<f32>, sun: vec3<f32>) -> f32 {
    var light = 1.0;
    var t = 0.012;
    for (var i = 0u; i < 6u; i++) {
        let d = distance_to(f, p + sun * t);
        light = min(light, 10.0 * d / t);
        t += clamp(d, 0.02, 0.15);
        if (light < 0.02 || t > 0.7) {
            break;
        }
    }
    return clamp01(light);
}

fn to_figure(f: u32, v: vec3<f32>) -> vec3<f32> {
    let turn = scene.figures[f].turn;
    return vec3<f32>(turn.x * v.x - turn.y * v.z, v.y, turn.y * v.x + turn.x * v.z);
}

struct Meeting {
    coverage: f32,
    point: vec3<f32>,
    t: f32,
}

fn meet(f: u32, origin: vec3<f32>, direction: vec3<f32>, near: f32, far: f32) -> Meeting {
    var t = near;
    var best = Meeting(0.0, origin, near);
    var closest = 1.0;
    for (var i = 0u; i < STEPS_MAX; i++) {
        let point = origin + direction * t;
        let d = distance_to(f, point);
        let pixel = scene.header.size.z * t;
        let share = d / pixel;
        if (share < closest) {
            closest = share;
            best = Meeting(1.0 - ramp(0.1, 1.0, share), point, t);
        }
        if (share < 0.1) {
            best.coverage = 1.0;
            break;
        }
        t += max(d, 0.4 * pixel);
        if (t > far) {
            break;
        }
    }
    return best;
}

fn ray(x: f32, y: f32) -> vec3<f32> {
    let size = scene.header.size;
    let dx = (x - 0.5 * size.x) * size.z;
    let dy = (0.5 * size.y - y) * size.z;
    return normalize(scene.header.forward + scene.header.right * dx + scene.header.up * dy);
}

fn ambient_sky() -> vec3<f32> {
    return mix(scene.header.sky, scene.header.horizon, 0.6);
}

fn lit(f: u32, met: Meeting, direction: vec3<f32>) -> vec3<f32> {
    let footprint = scene.header.size.z * met.t;
    let n = normal(f, met.point, clamp(footprint, 0.0015, 0.006));
    let sun = to_figure(f, scene.header.sun);
    let material = surface(f, met.point, footprint);
    let facing = dot(n, sun);
    var direct = 0.0;
    if (facing > 0.0) {
        direct = scene.header.sun_strength * facing * sunlight(f, met.point + n * 0.006, sun);
    }
    let open = clamp01(0.35 + 0.65 * distance_to(f, met.point + n * 0.05) / 0.05);
    let up = 0.5 + 0.5 * n.y;
    let ambient = ambient_sky() * (0.45 * up * open + 0.06);
    let bounce = scene.header.ground * (0.22 * (1.0 - up) * open);
    let light = scene.header.sun_colour * direct + ambient + bounce;
    let half = normalize(sun - direction);
    var shine = max(dot(n, half), 0.0);
    shine = shine * shine * shine * shine;
    shine = shine * shine * shine * shine;
    let rim = material.gloss * 0.35 * (1.0 - max(-dot(n, direction), 0.0)) * up;
    return material.colour * light + scene.header.sun_colour * (material.gloss * (shine * direct * 1.6))
        + scene.header.sky * rim;
}

// ---- surroundings ----

fn sky_colour(d: vec3<f32>) -> vec3<f32> {
    let seed = u32(scene.header.seed);
    let up = max(d.y, 0.0);
    var colour = mix(scene.header.horizon, scene.header.sky, ramp(0.0, 0.45, up));
    let plane = 1.2 / (up + 0.12);
    let cloud = layered(d.x * plane * 1.1 + 7.0, d.z * plane * 1.1, 0.0, seed + 20u) + 0.5;
    let cover = scene.header.clouds * ramp(0.45, 0.75, cloud) * ramp(0.02, 0.2, up);
    colour = mix(colour, vec3<f32>(0.95, 0.95, 0.97), cover);
    let along = d.x / max(-d.z, 0.05);
    let hill = 0.035 + 0.06 * noise(along * 3.0 + 11.0, 0.5, seed + 30u) + 0.02 * noise(along * 23.0, 0.5, seed + 31u);
    let tree = mix(vec3<f32>(0.12, 0.17, 0.1), scene.header.horizon, 0.35);
    let pixel = scene.header.size.z;
    return mix(colour, tree, 1.0 - ramp(hill - pixel, hill + pixel, d.y));
}

fn ground_colour(p: vec3<f32>, footprint: f32) -> vec3<f32> {
    let seed = u32(scene.header.seed) + 40u;
    let sun = scene.header.sun;
    let coarse = layered(p.x * 0.6, p.z * 0.6, footprint * 0.6, seed);
    let fine = layered(p.x * 6.0, p.z * 6.0, footprint * 6.0, seed + 4u);
    var colour = scene.header.ground * (1.0 + 0.7 * coarse + 0.7 * fine);
    let track = bars(p.x + 0.25 * noise(p.z * 0.4, 0.5, seed + 8u), 1.9, 0.16, footprint)
        * noise(p.z * 0.7, p.x * 0.3, seed + 9u);
    colour *= 1.0 - 0.35 * track;
    var light = 1.0;
    let flat = max(sqrt(sun.x * sun.x + sun.z * sun.z), 0.05);
    for (var f = 0u; f < u32(scene.header.size.w); f++) {
        let dx = p.x - scene.figures[f].feet.x;
        let dz = p.z - scene.figures[f].feet.z;
        let away = -(dx * sun.x + dz * sun.z) / flat;
        let across = (dx * sun.z - dz * sun.x) / flat;
        let is_person = scene.figures[f].kind == PERSON;
        let size = select(1.5, 1.0, is_person);
        let height = select(0.7, 1.7, is_person) * scene.figures[f].scale;
        let reach = height * min(flat / max(sun.y, 0.2), 3.0);
        let h = clamp01(away / reach);
        let gap = sqrt((away - h * reach) * (away - h * reach) + across * across);
        let blur = 0.08 + 0.25 * h;
        let shade = 1.0 - ramp(0.2 * size - blur * 0.5, 0.2 * size + blur, gap);
        light *= 1.0 - 0.6 * min(scene.header.sun_strength, 1.0) * shade;
        light *= 1.0 - 0.5 * (1.0 - ramp(0.1, 0.42 * size, sqrt(dx * dx + dz * dz)));
    }
    let direct = scene.header.sun_colour * (0.55 * scene.header.sun_strength * light * max(sun.y, 0.1));
    return colour * (direct + ambient_sky() * (0.45 * (0.5 + 0.5 * light)));
}

fn wall_colour(p: vec3<f32>, footprint: f32) -> vec3<f32> {
    let seed = u32(scene.header.seed) + 60u;
    let wall = scene.header.wall;
    let stains = layered(p.x * 0.5, p.y * 0.9, footprint * 0.7, seed);
    let grain = layered(p.x * 7.0, p.y * 7.0, footprint * 7.0, seed + 4u);
    var colour = wall * (1.0 + 0.5 * stains + 0.3 * grain);
    if (scene.header.bricks > 0.5) {
        let row = floor(p.y / 0.09);
        let shift = select(0.0, 0.13, row * 0.5 - floor(row * 0.5) > 0.25);
        let joint = max(bars(p.y, 0.09, 0.006, footprint), bars(p.x + shift, 0.26, 0.006, footprint));
        let brick = hash(i32(floor((p.x + shift) / 0.26 + 0.5)), i32(row), seed + 7u);
        colour *= 1.0 + 0.4 * (brick - 0.5) * (1.0 - ramp(0.05, 0.2, footprint));
        colour = mix(colour, vec3<f32>(0.5, 0.48, 0.45) * mix(wall, vec3<f32>(1.0), 0.6), joint * 0.8);
    } else {
        let slab = bars(p.y + 0.2, 3.0, 0.16, footprint);
        let joint = bars(p.x, 2.4, 0.015, footprint);
        colour *= 1.0 - 0.5 * joint;
        let cell_x = floor(p.x / 2.4);
        let cell_y = floor((p.y + 1.7) / 3.0);
        let in_x = p.x - (cell_x + 0.5) * 2.4;
        let in_y = p.y + 1.7 - (cell_y + 0.5) * 3.0;
        let inside = (1.0 - ramp(0.75, 0.75 + footprint, abs(in_x))) * (1.0 - ramp(0.8, 0.8 + footprint, abs(in_y)));
        let which = hash(i32(cell_x), i32(cell_y), seed + 8u);
        let glass = mix(vec3<f32>(0.07, 0.08, 0.09), scene.header.sky * 0.5, 0.7 * ramp(0.5, 0.9, which));
        let bar = bars(in_x, 0.75, 0.025, footprint) * 0.6 * ramp(0.3, 0.4, which);
        colour = mix(colour, mix(glass, vec3<f32>(0.4), bar), inside * ramp(0.12, 0.2, which));
        colour = mix(colour, wall * 1.15, slab);
    }
    let facing = max(scene.header.sun.z, 0.0);
    return colour * (scene.header.sun_colour * (0.75 * scene.header.sun_strength * facing) + ambient_sky() * 0.5);
}

// Colour, and coverage as w.
fn scaffold(p: vec3<f32>, footprint: f32) -> vec4<f32> {
    let seed = u32(scene.header.seed);
    let pole = bars(p.x, 2.1, 0.03, footprint);
    let ledger = max(bars(p.y + 0.3, 1.9, 0.025, footprint), bars(p.y - 0.7, 1.9, 0.018, footprint));
    let rising = bars(p.x + p.y * 1.105, 8.4, 0.025, footprint);
    let brace = max(rising, bars(p.x - p.y * 1.105 + 2.0, 12.6, 0.025, footprint));
    let plank = bars(p.y + 0.36, 1.9, 0.045, footprint);
    let round = 0.65 + 0.35 * bars(p.x + 0.008, 2.1, 0.012, footprint);
    let light = scene.header.sun_colour * (0.5 * scene.header.sun_strength) + ambient_sky() * 0.45;
    let metal = scene.header.scaffold * light * round;
    let wood = vec3<f32>(0.5, 0.38, 0.22) * light;
    let cover = max(max(pole, ledger), brace);
    let bay = hash(i32(floor(p.x / 2.1 + 0.5)), i32(floor((p.y + 0.3) / 1.9 + 0.5)), seed + 80u);
    var net = 0.0;
    if (bay > 0.8) {
        net = 0.55 + 0.5 * layered(p.x * 2.0, p.y * 5.0, footprint * 3.0, seed + 81u);
    }
    let netting = vec3<f32>(0.08, 0.3, 0.17) * light * 1.4;
    let colour = mix(mix(netting, metal, cover), wood, plank * (1.0 - pole));
    return vec4<f32>(colour, clamp01(max(max(net, cover), plank)));
}

fn to_plane(d: vec3<f32>, z: f32) -> f32 {
    if (d.z < -1e-4 && z > 0.0) {
        return (-z - scene.header.eye.z) / d.z;
    }
    return 1e6;
}

fn surroundings(d: vec3<f32>) -> vec3<f32> {
    let far = 1e6;
    let eye = scene.header.eye;
    let pixel = scene.header.size.z;
    var to_ground = far;
    if (d.y < -1e-4) {
        to_ground = -eye.y / d.y;
    }
    let to_wall = to_plane(d, scene.header.wall_z);
    let wall_point = eye + d * to_wall;
    var t = far;
    var colour: vec3<f32>;
    if (to_wall < to_ground && wall_point.y < scene.header.wall_height) {
        t = to_wall;
        colour = wall_colour(wall_point, pixel * t / max(abs(d.z), 0.3));
        let edge = ramp(scene.header.wall_height - 2.0 * pixel * t, scene.header.wall_height, wall_point.y);
        colour = mix(colour, sky_colour(d), edge);
    } else if (to_ground < 200.0) {
        t = to_ground;
        colour = ground_colour(eye + d * t, pixel * t / max(-d.y, 0.05));
    } else {
        colour = sky_colour(d);
    }
    if (t < far) {
        colour = mix(colour, scene.header.horizon, 0.7 - 0.7 * exp(-scene.header.haze * t));
    }
    let to_scaffold = to_plane(d, scene.header.scaffold_z);
    if (to_scaffold < t) {
        let bar = scaffold(eye + d * to_scaffold, pixel * to_scaffold);
        colour = mix(colour, bar.xyz, bar.w);
    }
    return colour;
}

fn level(x: f32) -> u32 {
    var v = max(x, 0.0) * scene.header.exposure;
    v = v * (1.0 + 0.15 * v) / (1.0 + 0.45 * v);
    return u32(255.0 * clamp01(sqrt(v)) + 0.5);
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let size = scene.header.size;
    if (id.x >= u32(size.x) || id.y >= u32(size.y)) {
        return;
    }
    let px = f32(id.x) + 0.5;
    let py = f32(id.y) + 0.5;
    let d = ray(px, py);
    var colour = vec3<f32>(0.0);
    var left = 1.0;
    for (var f = 0u; f < u32(size.w); f++) {
        let r = scene.figures[f].rect;
        if (px < r.x || py < r.y || px > r.z || py > r.w) {
            continue;
        }
        let scale = scene.figures[f].scale;
        let origin = to_figure(f, scene.header.eye - scene.figures[f].feet) * (1.0 / scale);
        let direction = to_figure(f, d);
        let middle = dot(vec3<f32>(0.0, 0.9, 0.0) - origin, direction);
        let met = meet(f, origin, direction, max(middle - 1.15, 0.05), middle + 1.15);
        if (met.coverage > 0.0) {
            var shade = lit(f, met, direction);
            shade = mix(shade, scene.header.horizon, 1.0 - exp(-scene.header.haze * met.t * scale));
            colour += shade * (left * met.coverage);
            left *= 1.0 - met.coverage;
            if (left < 0.01) {
                break;
            }
        }
    }
    if (left >= 0.01) {
        colour += surroundings(d) * left;
    } else {
        colour *= 1.0 / (1.0 - left);
    }
    dst[id.y * u32(size.x) + id.x] = level(colour.x) | (level(colour.y) << 8u) | (level(colour.z) << 16u) | (255u << 24u);
}
