// Convolution of any dimensionality with weights in memory, and its transpose.
//
//   dst[n, m, o] = bias[m] + sum over k, t of weights[m, k, t] · src[n, g·GROUP_CHANNELS + k, s]
//   s = o·STRIDE + t·DILATION - BEFORE;  TRANSPOSED: s = (o + BEFORE - t·DILATION) / STRIDE where that is whole
//
// with g the group of m. Places outside the picture count as 0.
// Bindings: src, weights, bias (only where there is one), dst: any strides, in elements.
// A thread computes one element; filters are the fastest.
// Dispatch: COUNT threads in workgroups of 64, flat, GROUPS_X per row of the dispatch.
alias S = f32;

const TRANSPOSED: bool = false;
const RANK: u32 = 2u;
const TAPS: u32 = 9u;
const FILTERS: u32 = 1u;
const GROUP_FILTERS: u32 = 1u;
const GROUP_CHANNELS: u32 = 1u;
// The spatial axes, the last one first.
const KERNEL: array<u32, 2> = array<u32, 2>(3u, 3u);
const STRIDE: array<u32, 2> = array<u32, 2>(1u, 1u);
const DILATION: array<u32, 2> = array<u32, 2>(1u, 1u);
const BEFORE: array<u32, 2> = array<u32, 2>(1u, 1u);
const SIZES: array<u32, 2> = array<u32, 2>(4u, 4u);
const OUTPUTS: array<u32, 2> = array<u32, 2>(4u, 4u);
const SRC_OFFSET: u32 = 0u;
const SRC_IMAGE: u32 = 16u;
const SRC_CHANNEL: u32 = 1u;
const SRC_STRIDES: array<u32, 2> = array<u32, 2>(1u, 4u);
const WEIGHTS_OFFSET: u32 = 0u;
const WEIGHTS_GROUP: u32 = 9u;
const WEIGHTS_FILTER: u32 = 9u;
const WEIGHTS_CHANNEL: u32 = 9u;
const WEIGHTS_STRIDES: array<u32, 2> = array<u32, 2>(1u, 3u);
const BIAS_OFFSET: u32 = 0u;
const BIAS_STRIDE: u32 = 1u;
const DST_OFFSET: u32 = 0u;
const DST_IMAGE: u32 = 16u;
const DST_CHANNEL: u32 = 1u;
const DST_STRIDES: array<u32, 2> = array<u32, 2>(1u, 4u);
const COUNT: u32 = 16u;
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> src: array<S>;
@group(0) @binding(1) var<storage, read> weights: array<S>;
@group(0) @binding(2) var<storage, read> bias: array<S>;
@group(0) @binding(3) var<storage, read_write> dst: array<S>;

fn load_bias(filter_index: u32) -> f32 { return f32(bias[BIAS_OFFSET + filter_index * BIAS_STRIDE]); }

// Number of the copies of unrolled lines.
const ax: u32 = 0u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let flat = (group.y * GROUPS_X + group.x) * 64u + thread;
    if flat >= COUNT {
        return;
    }
    let filter_index = flat % FILTERS;
    let part = filter_index / GROUP_FILTERS;
    var rest = flat / FILTERS;
    var dst_at = DST_OFFSET + filter_index * DST_CHANNEL;
    //unroll ax RANK
    let o_ax = rest % OUTPUTS[ax];
    rest = rest / OUTPUTS[ax];
    dst_at += o_ax * DST_STRIDES[ax];
    //end
    dst_at += rest * DST_IMAGE;
    let src_at = SRC_OFFSET + rest * SRC_IMAGE + part * GROUP_CHANNELS * SRC_CHANNEL;
    let weights_at = WEIGHTS_OFFSET + part * WEIGHTS_GROUP + filter_index % GROUP_FILTERS * WEIGHTS_FILTER;
    var sum = load_bias(filter_index);
    for (var tap = 0u; tap < TAPS; tap++) {
        var left = tap;
        var inside = true;
        var from_at = src_at;
        var weight_at = weights_at;
        //unroll ax RANK
        let t_ax = left % KERNEL[ax];
        left = left / KERNEL[ax];
        // Before the picture these wrap around to large numbers.
        let forwards_ax = o_ax * STRIDE[ax] + t_ax * DILATION[ax] - BEFORE[ax];
        let back_ax = o_ax + BEFORE[ax] - t_ax * DILATION[ax];
        let whole_ax = back_ax < 0x80000000u && back_ax % STRIDE[ax] == 0u;
        let s_ax = select(forwards_ax, back_ax / STRIDE[ax], TRANSPOSED);
        inside = inside && s_ax < SIZES[ax] && (whole_ax || !TRANSPOSED);
        from_at += s_ax * SRC_STRIDES[ax];
        weight_at += t_ax * WEIGHTS_STRIDES[ax];
        //end
        if inside {
            for (var k = 0u; k < GROUP_CHANNELS; k++) {
                sum += f32(src[from_at + k * SRC_CHANNEL]) * f32(weights[weight_at + k * WEIGHTS_CHANNEL]);
            }
        }
    }
    dst[dst_at] = S(sum);
}
