// Choice between two tensors.
//
//   dst[i] = condition[i] != 0 ? a[i] : b[i]
//
// Bindings: condition, a, b, dst: any strides; axes are merged as far as all four allow, fastest axis of dst first.
// A thread computes four neighbours along the fastest axis where dst is aligned for it, else one element.
// Dispatch: COUNT threads in workgroups of 64, flat, GROUPS_X per row of the dispatch.
alias S = f32;
alias S4 = vec4<S>;

const COUNT: u32 = 16u;
const RANK: u32 = 1u;
// Threads along each axis; strides in the units in which each binding is indexed.
const EXTENTS: array<u32, 1> = array<u32, 1>(16u);
const CONDITION_OFFSET: u32 = 0u;
const CONDITION_STRIDES: array<u32, 1> = array<u32, 1>(1u);
const A_OFFSET: u32 = 0u;
const A_STRIDES: array<u32, 1> = array<u32, 1>(1u);
const B_OFFSET: u32 = 0u;
const B_STRIDES: array<u32, 1> = array<u32, 1>(1u);
const DST_OFFSET: u32 = 0u;
const DST_STRIDES: array<u32, 1> = array<u32, 1>(1u);
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> condition: array<S4>;
@group(0) @binding(1) var<storage, read> a: array<S4>;
@group(0) @binding(2) var<storage, read> b: array<S4>;
@group(0) @binding(3) var<storage, read_write> dst: array<S4>;

fn load_condition(at: u32, inner: u32) -> vec4<f32> { return vec4<f32>(condition[at]); }
fn load_a(at: u32, inner: u32) -> vec4<f32> { return vec4<f32>(a[at]); }
fn load_b(at: u32, inner: u32) -> vec4<f32> { return vec4<f32>(b[at]); }
fn store(at: u32, c4: u32, v: vec4<f32>) { dst[at] = S4(v); }

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
    var condition_at = CONDITION_OFFSET;
    var a_at = A_OFFSET;
    var b_at = B_OFFSET;
    var dst_at = DST_OFFSET;
    //unroll ax RANK
    let i_ax = rest % EXTENTS[ax];
    rest = rest / EXTENTS[ax];
    condition_at += i_ax * CONDITION_STRIDES[ax];
    a_at += i_ax * A_STRIDES[ax];
    b_at += i_ax * B_STRIDES[ax];
    dst_at += i_ax * DST_STRIDES[ax];
    //end
    let chosen = load_condition(condition_at, inner) != vec4<f32>(0.0);
    store(dst_at, inner, select(load_b(b_at, inner), load_a(a_at, inner), chosen));
}
