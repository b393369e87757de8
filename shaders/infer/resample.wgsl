// Weighted sums of elements along one axis, with the same places and weights for all rows.
//
//   dst[.., i, ..] = bias[i] + sum over t of weight[i, t] · src[.., place[i, t], ..]
//   or, if MAX, the largest src[.., place[i, t], ..] whose weight is not 0
//
// Bindings: table, src, dst. table: for each i its bias, then for each t the place as two numbers (place = 1024·high +
// low, so that 16-bit floats hold it) and the weight. src, dst: any strides, in elements.
// A thread computes one element. Axes other than i are merged as far as both allow, the fastest of dst first.
// Dispatch: COUNT threads in workgroups of 64, flat, GROUPS_X per row of the dispatch.
alias S = f32;

const COUNT: u32 = 16u;
const RANK: u32 = 1u;
// Axes other than i.
const EXTENTS: array<u32, 1> = array<u32, 1>(1u);
const SRC_OFFSET: u32 = 0u;
const SRC_STRIDES: array<u32, 1> = array<u32, 1>(1u);
const DST_OFFSET: u32 = 0u;
const DST_STRIDES: array<u32, 1> = array<u32, 1>(1u);
const MAX: bool = false;
const TAPS: u32 = 1u;
const SRC_STRIDE: u32 = 1u;
const DST_STRIDE: u32 = 1u;
const GROUPS_X: u32 = 1u;

const LOWEST: f32 = -3.40282347e38f;

@group(0) @binding(0) var<storage, read> table: array<S>;
@group(0) @binding(1) var<storage, read> src: array<S>;
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
    var dst_at = DST_OFFSET;
    //unroll ax RANK
    let i_ax = rest % EXTENTS[ax];
    rest = rest / EXTENTS[ax];
    src_at += i_ax * SRC_STRIDES[ax];
    dst_at += i_ax * DST_STRIDES[ax];
    //end
    let entry = rest * (1u + 3u * TAPS);
    var sum = select(f32(table[entry]), LOWEST, MAX);
    var empty = true;
    for (var t = 0u; t < TAPS; t++) {
        let at = entry + 1u + 3u * t;
        let weight = f32(table[at + 2u]);
        // A weight of 0 must not make NaN of an infinity.
        if weight != 0.0 {
            let place = u32(f32(table[at])) * 1024u + u32(f32(table[at + 1u]));
            let value = f32(src[src_at + place * SRC_STRIDE]);
            sum = select(sum + weight * value, select(max(sum, value), value, empty), MAX);
            empty = false;
        }
    }
    dst[dst_at + rest * DST_STRIDE] = S(sum);
}
