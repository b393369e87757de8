// Sum, mean, maximum, minimum, product, or sum of squares or magnitudes over some axes.
//
//   dst[i] = SCALE · combine over r of term(src[i, r])
//
// Bindings: src, dst: any strides. Kept axes are merged as far as both allow, reduced axes as far as src allows.
// TEAM threads share the REDUCED values of an output (of four, where dst is aligned for it): member t takes values
// t, t + TEAM, ...; then the team combines its parts in a tree. A workgroup of 64 has 64/TEAM teams.
// Dispatch: COUNT teams, flat, GROUPS_X workgroups per row of the dispatch.
alias S = f32;
alias S4 = vec4<S>;

const START: f32 = 0.0f;
// Start from the first element instead: maxima and minima, which may be infinite.
const FIRST: bool = false;
const SCALE: f32 = 1.0f;
const COUNT: u32 = 16u;
const RANK: u32 = 1u;
// Outputs along each kept axis; strides in the units in which each binding is indexed.
const EXTENTS: array<u32, 1> = array<u32, 1>(16u);
const SRC_OFFSET: u32 = 0u;
const SRC_STRIDES: array<u32, 1> = array<u32, 1>(1u);
const DST_OFFSET: u32 = 0u;
const DST_STRIDES: array<u32, 1> = array<u32, 1>(1u);
const REDUCED: u32 = 64u;
const REDUCED_RANK: u32 = 1u;
const REDUCED_EXTENTS: array<u32, 1> = array<u32, 1>(64u);
const REDUCED_STRIDES: array<u32, 1> = array<u32, 1>(16u);
const TEAM: u32 = 16u;
const GROUPS_X: u32 = 1u;

const TEAMS: u32 = 64u / TEAM;

@group(0) @binding(0) var<storage, read> src: array<S4>;
@group(0) @binding(1) var<storage, read_write> dst: array<S4>;

// [member][team]
var<workgroup> parts: array<vec4<f32>, 64>;

fn load_src(at: u32, inner: u32) -> vec4<f32> { return vec4<f32>(src[at]); }
fn term(x: vec4<f32>) -> vec4<f32> { return x; }
fn combine(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> { return a + b; }
fn store(at: u32, c4: u32, v: vec4<f32>) { dst[at] = S4(v); }

// Numbers of the copies of unrolled lines.
const ax: u32 = 0u;
const rx: u32 = 0u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let team = thread % TEAMS;
    let member = thread / TEAMS;
    let wanted = (group.y * GROUPS_X + group.x) * TEAMS + team;
    // Teams past the end compute the last output again and do not store it: all threads reach the barriers.
    let flat = min(wanted, max(COUNT, 1u) - 1u);
    let inner = flat % EXTENTS[0];
    var rest = flat;
    var src_at = SRC_OFFSET;
    var dst_at = DST_OFFSET;
    //unroll ax RANK
    let i_ax = rest % EXTENTS[ax];
    rest = rest / EXTENTS[ax];
    src_at += i_ax * SRC_STRIDES[ax];
    dst_at += i_ax * DST_STRIDES[ax];
    //end

    var value = vec4<f32>(START);
    if FIRST {
        value = load_src(src_at, inner);
    }
    for (var r = member; r < REDUCED; r += TEAM) {
        var left = r;
        var at = src_at;
        //unroll rx REDUCED_RANK
        at += left % REDUCED_EXTENTS[rx] * REDUCED_STRIDES[rx];
        left = left / REDUCED_EXTENTS[rx];
        //end
        value = combine(value, term(load_src(at, inner)));
    }
    parts[thread] = value;
    for (var half = TEAM / 2u; half > 0u; half = half / 2u) {
        workgroupBarrier();
        if member < half {
            parts[thread] = combine(parts[thread], parts[thread + half * TEAMS]);
        }
    }
    if member == 0u && wanted < COUNT {
        store(dst_at, inner, parts[thread] * SCALE);
    }
}
