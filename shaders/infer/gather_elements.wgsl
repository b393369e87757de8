// Elements by index along one axis.
//
//   dst[.., i, ..] = src[.., index[.., i, ..], ..]; an index below 0 counts from the end
//
// Bindings: src, indices, dst: any strides, in elements. Indices are whole numbers within the axis; others end at it.
// A thread moves one element. Axes of dst are merged as far as all three allow, its fastest axis first; src stands still
// along the axis of the index.
// Dispatch: COUNT threads in workgroups of 64, flat, GROUPS_X per row of the dispatch.
alias S = f32;

const COUNT: u32 = 16u;
const RANK: u32 = 1u;
const EXTENTS: array<u32, 1> = array<u32, 1>(16u);
const SRC_OFFSET: u32 = 0u;
const SRC_STRIDES: array<u32, 1> = array<u32, 1>(0u);
const INDICES_OFFSET: u32 = 0u;
const INDICES_STRIDES: array<u32, 1> = array<u32, 1>(1u);
const DST_OFFSET: u32 = 0u;
const DST_STRIDES: array<u32, 1> = array<u32, 1>(1u);
// The axis of the index in src.
const EXTENT: i32 = 16i;
const SRC_STRIDE: u32 = 1u;
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> src: array<S>;
@group(0) @binding(1) var<storage, read> indices: array<S>;
@group(0) @binding(2) var<storage, read_write> dst: array<S>;

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
    var indices_at = INDICES_OFFSET;
    var dst_at = DST_OFFSET;
    //unroll ax RANK
    let i_ax = rest % EXTENTS[ax];
    rest = rest / EXTENTS[ax];
    src_at += i_ax * SRC_STRIDES[ax];
    indices_at += i_ax * INDICES_STRIDES[ax];
    dst_at += i_ax * DST_STRIDES[ax];
    //end
    let given = i32(f32(indices[indices_at]));
    let index = clamp(select(given, given + EXTENT, given < 0), 0, EXTENT - 1);
    dst[dst_at] = src[src_at + u32(index) * SRC_STRIDE];
}
