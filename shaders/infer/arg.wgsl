// Index of the largest or smallest element along one axis.
//
//   dst = the first (or last, if LAST) i where SIGN·src[i] is largest; NaN counts as larger than every number
//
// Bindings: src, dst: any strides, in elements. Axes across rows are merged as far as both allow.
// A thread looks through one row.
// Dispatch: COUNT rows in workgroups of 64, flat, GROUPS_X per row of the dispatch.
alias S = f32;

const SIGN: f32 = 1.0f;
const LAST: bool = false;
const COUNT: u32 = 16u;
const RANK: u32 = 1u;
// Across rows.
const EXTENTS: array<u32, 1> = array<u32, 1>(16u);
const SRC_OFFSET: u32 = 0u;
const SRC_STRIDES: array<u32, 1> = array<u32, 1>(16u);
const DST_OFFSET: u32 = 0u;
const DST_STRIDES: array<u32, 1> = array<u32, 1>(1u);
// Along a row.
const EXTENT: u32 = 16u;
const SRC_STRIDE: u32 = 1u;
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> src: array<S>;
@group(0) @binding(1) var<storage, read_write> dst: array<S>;

// Number of the copies of unrolled lines.
const ax: u32 = 0u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let flat = (group.y * GROUPS_X + group.x) * 64u + thread;
    if flat >= COUNT {
        return;
    }
    var rest = flat;
    var src_at = SRC_OFFSET;
    var dst_at = DST_OFFSET;
    //unroll ax RANK
    let i_ax = rest % EXTENTS[ax];
    rest = rest / EXTENTS[ax];
    src_at += i_ax * SRC_STRIDES[ax];
    dst_at += i_ax * DST_STRIDES[ax];
    //end
    var best = SIGN * f32(src[src_at]);
    var found = 0u;
    for (var i = 1u; i < EXTENT; i++) {
        let value = SIGN * f32(src[src_at + i * SRC_STRIDE]);
        if value > best || (LAST && value == best) || (value != value && best == best) {
            best = value;
            found = i;
        }
    }
    dst[dst_at] = S(f32(found));
}
