// Copy of a tensor to other strides.
//
//   dst[i] = src[i]
//
// Bindings: src, dst: any strides; axes are merged as far as both allow, fastest axis of dst first.
// A thread moves four neighbours along the fastest axis where dst is aligned for it, else one element.
// Dispatch: COUNT threads in workgroups of 64, flat, GROUPS_X per row of the dispatch.
alias S = f32;
alias S4 = vec4<S>;

const COUNT: u32 = 16u;
const RANK: u32 = 1u;
// Threads along each axis; strides in the units in which each binding is indexed.
const EXTENTS: array<u32, 1> = array<u32, 1>(16u);
const SRC_OFFSET: u32 = 0u;
const SRC_STRIDES: array<u32, 1> = array<u32, 1>(1u);
const DST_OFFSET: u32 = 0u;
const DST_STRIDES: array<u32, 1> = array<u32, 1>(1u);
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> src: array<S4>;
@group(0) @binding(1) var<storage, read_write> dst: array<S4>;

fn load_src(at: u32, inner: u32) -> vec4<f32> { return vec4<f32>(src[at]); }
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
    var src_at = SRC_OFFSET;
    var dst_at = DST_OFFSET;
    //unroll ax RANK
    let i_ax = rest % EXTENTS[ax];
    rest = rest / EXTENTS[ax];
    src_at += i_ax * SRC_STRIDES[ax];
    dst_at += i_ax * DST_STRIDES[ax];
    //end
    store(dst_at, inner, load_src(src_at, inner));
}
