// Elementwise function of one or two tensors.
// include: activation
//
//   dst[i] = activate(apply(a[i], b[i]))
//
// Bindings: a, b, dst: any strides; axes are merged as far as all three allow, fastest axis of dst first.
// A thread computes four neighbours along the fastest axis where dst is aligned for it, else one element. The host
// chooses for each tensor how it is loaded: vectors, one element for all lanes, or four elements one by one.
// Dispatch: COUNT threads in workgroups of 64, flat, GROUPS_X per row of the dispatch.
alias S = f32;
alias S4 = vec4<S>;

const COUNT: u32 = 16u;
const RANK: u32 = 1u;
// Threads along each axis; strides in the units in which each binding is indexed.
const EXTENTS: array<u32, 1> = array<u32, 1>(16u);
const A_OFFSET: u32 = 0u;
const A_STRIDES: array<u32, 1> = array<u32, 1>(1u);
const B_OFFSET: u32 = 0u;
const B_STRIDES: array<u32, 1> = array<u32, 1>(1u);
const DST_OFFSET: u32 = 0u;
const DST_STRIDES: array<u32, 1> = array<u32, 1>(1u);
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> a: array<S4>;
@group(0) @binding(1) var<storage, read> b: array<S4>;
@group(0) @binding(2) var<storage, read_write> dst: array<S4>;

fn load_a(at: u32, inner: u32) -> vec4<f32> { return vec4<f32>(a[at]); }
fn load_b(at: u32, inner: u32) -> vec4<f32> { return vec4<f32>(b[at]); }
fn apply(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> { return power(a, b); }
fn store(at: u32, c4: u32, v: vec4<f32>) { dst[at] = S4(v); }

fn truth(holds: vec4<bool>) -> vec4<f32> { return select(vec4<f32>(0.0), vec4<f32>(1.0), holds); }

// a^b for any sign of a: WGSL leaves pow undefined below 0. A fractional power of a negative number has no value; NaN
// cannot be written in WGSL, but a root of a negative number is one.
fn power(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    let magnitude = select(pow(abs(a), b), vec4<f32>(1.0), b == vec4<f32>(0.0));
    let whole = floor(b) == b;
    let odd = abs(b - 2.0 * floor(b * 0.5)) == vec4<f32>(1.0);
    let signed = select(sqrt(a), select(magnitude, -magnitude, odd), whole);
    return select(magnitude, signed, a < vec4<f32>(0.0));
}

// The remainder of a / b that has the sign of a (fmod of C), exact whatever the quotient. The significands are divided
// as integers, eight bits of the quotient a turn, at most 32 turns. No value where a is infinite or b is 0.
fn remainder_of(a: f32, b: f32) -> f32 {
    let x = bitcast<u32>(a) & 0x7fffffffu;
    let y = bitcast<u32>(b) & 0x7fffffffu;
    if x >= 0x7f800000u || y > 0x7f800000u || y == 0u {
        return bitcast<f32>(x | 0x7fc00000u);
    }
    if x < y {
        return a;
    }
    // A number is significand * 2^(exponent - 150). Those below 2^-126 have the exponent 1.
    let exponent = max(y >> 23u, 1u);
    let divisor = significand(y);
    var rest = significand(x) % divisor;
    var left = max(x >> 23u, 1u) - exponent;
    while left > 0u {
        let bits = min(left, 8u);
        rest = (rest << bits) % divisor;
        left -= bits;
    }
    let sign = bitcast<u32>(a) & 0x80000000u;
    if rest == 0u {
        return bitcast<f32>(sign);
    }
    // The leading bit of a significand, at 23, adds 1 to the exponent.
    let shift = min(23u - firstLeadingBit(rest), exponent - 1u);
    return bitcast<f32>(sign | ((rest << shift) + ((exponent - 1u - shift) << 23u)));
}

fn significand(magnitude: u32) -> u32 {
    return select((magnitude & 0x7fffffu) | 0x800000u, magnitude, magnitude < 0x800000u);
}

fn remainder(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(
        remainder_of(a.x, b.x), remainder_of(a.y, b.y), remainder_of(a.z, b.z), remainder_of(a.w, b.w)
    );
}

// The remainder that has the sign of b, also where it is 0.
fn modulo(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    let rest = remainder(a, b);
    let zero = vec4<f32>(0.0);
    let moved = select(rest + b, rest, (rest < zero) == (b < zero));
    return select(moved, bitcast<vec4<f32>>(bitcast<vec4<u32>>(b) & vec4<u32>(0x80000000u)), rest == zero);
}

// Number of the copies of unrolled lines.
const ax: u32 = 0u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let flat = (group.y * GROUPS_X + group.x) * 64u + thread;
    if flat >= COUNT {
        return;
    }
    let inner = flat % EXTENTS[0];
    var rest = flat;
    var a_at = A_OFFSET;
    var b_at = B_OFFSET;
    var dst_at = DST_OFFSET;
    //unroll ax RANK
    let i_ax = rest % EXTENTS[ax];
    rest = rest / EXTENTS[ax];
    a_at += i_ax * A_STRIDES[ax];
    b_at += i_ax * B_STRIDES[ax];
    dst_at += i_ax * DST_STRIDES[ax];
    //end
    store(dst_at, inner, activate(apply(load_a(a_at, inner), load_b(b_at, inner))));
}
