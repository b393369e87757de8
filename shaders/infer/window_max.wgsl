// The largest element of each window of any dimensionality, or its place: pools that also give indices.
//
//   dst[n, c, o] = src[n, c, s], or if INDEX (n·CHANNELS + c)·PIXELS + sum over the spatial axes of s·PLACES
//   where s is the first of o·STRIDE + t·DILATION - BEFORE at which src is largest; NaN counts as larger than every number
//
// Positions outside the picture are no candidates.
// Bindings: src, dst: any strides, in elements.
// A thread looks through one window; channels are the fastest.
// Dispatch: COUNT windows in workgroups of 64, flat, GROUPS_X per row of the dispatch.
alias S = f32;

const INDEX: bool = true;
const RANK: u32 = 2u;
const TAPS: u32 = 9u;
const CHANNELS: u32 = 1u;
const PIXELS: u32 = 16u;
// The spatial axes, the last one first.
const KERNEL: array<u32, 2> = array<u32, 2>(3u, 3u);
const STRIDE: array<u32, 2> = array<u32, 2>(1u, 1u);
const DILATION: array<u32, 2> = array<u32, 2>(1u, 1u);
const BEFORE: array<u32, 2> = array<u32, 2>(1u, 1u);
const SIZES: array<u32, 2> = array<u32, 2>(4u, 4u);
const OUTPUTS: array<u32, 2> = array<u32, 2>(4u, 4u);
const PLACES: array<u32, 2> = array<u32, 2>(1u, 4u);
const SRC_OFFSET: u32 = 0u;
const SRC_IMAGE: u32 = 16u;
const SRC_CHANNEL: u32 = 1u;
const SRC_STRIDES: array<u32, 2> = array<u32, 2>(1u, 4u);
const DST_OFFSET: u32 = 0u;
const DST_IMAGE: u32 = 16u;
const DST_CHANNEL: u32 = 1u;
const DST_STRIDES: array<u32, 2> = array<u32, 2>(1u, 4u);
const COUNT: u32 = 16u;
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
    let channel = flat % CHANNELS;
    var rest = flat / CHANNELS;
    var dst_at = DST_OFFSET + channel * DST_CHANNEL;
    //unroll ax RANK
    let o_ax = rest % OUTPUTS[ax];
    rest = rest / OUTPUTS[ax];
    dst_at += o_ax * DST_STRIDES[ax];
    //end
    dst_at += rest * DST_IMAGE;
    let src_at = SRC_OFFSET + rest * SRC_IMAGE + channel * SRC_CHANNEL;
    var best = 0.0;
    var found = 0u;
    var empty = true;
    for (var tap = 0u; tap < TAPS; tap++) {
        var left = tap;
        var inside = true;
        var from_at = src_at;
        var place = 0u;
        //unroll ax RANK
        // Before the picture these wrap around to large numbers.
        let s_ax = o_ax * STRIDE[ax] + left % KERNEL[ax] * DILATION[ax] - BEFORE[ax];
        left = left / KERNEL[ax];
        inside = inside && s_ax < SIZES[ax];
        from_at += s_ax * SRC_STRIDES[ax];
        place += s_ax * PLACES[ax];
        //end
        if inside {
            let value = f32(src[from_at]);
            if empty || value > best || (value != value && best == best) {
                best = value;
                found = place;
            }
            empty = false;
        }
    }
    dst[dst_at] = S(select(best, f32((rest * CHANNELS + channel) * PIXELS + found), INDEX));
}
