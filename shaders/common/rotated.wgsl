// Boxes that are turned around their centre: centre x y and size w h, and the angle from the x axis to the box's first
// axis in radians, positive from x to y. Twin: src/decode/rotated.rs, which names the source.

// The smallest upright box around it: left, top, right, bottom.
fn upright(centre_size: vec4<f32>, angle: f32) -> vec4<f32> {
    let turn = abs(vec2<f32>(cos(angle), sin(angle)));
    let size = abs(centre_size.zw);
    let half = vec2<f32>(dot(size, turn), dot(size, turn.yx)) * 0.5;
    return vec4<f32>(centre_size.xy - half, centre_size.xy + half);
}

// Of the normal distribution with the variances of a uniform one over the box: along x, along y, covariance.
fn covariance(size: vec2<f32>, angle: f32) -> vec3<f32> {
    let variance = size * size / 12.0;
    let turn = vec2<f32>(cos(angle), sin(angle));
    let squares = turn * turn;
    let mixed = (variance.x - variance.y) * turn.x * turn.y;
    return vec3<f32>(dot(variance, squares), dot(variance, squares.yx), mixed);
}

const EPSILON: f32 = 1e-7;

// Probabilistic IoU of two boxes of covariances a and b whose centres lie `apart`.
fn overlap(apart: vec2<f32>, a: vec3<f32>, b: vec3<f32>) -> f32 {
    let both = a + b;
    let determinant = both.x * both.y - both.z * both.z;
    let squares = apart * apart;
    let distance = dot(both.yx, squares) - 2.0 * both.z * apart.x * apart.y;
    let of_centres = 0.25 * distance / (determinant + EPSILON);
    let own = sqrt(max(a.x * a.y - a.z * a.z, 0.0) * max(b.x * b.y - b.z * b.z, 0.0));
    let of_shapes = 0.5 * log(determinant / (4.0 * own + EPSILON) + EPSILON);
    let bhattacharyya = clamp(of_centres + of_shapes, EPSILON, 100.0);
    return 1.0 - sqrt(1.0 - exp(-bhattacharyya) + EPSILON);
}
