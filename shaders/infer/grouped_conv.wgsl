// Convolution in groups.
// include: activation
//
//   dst[n, y, x, o] = finish(bias[o] + sum over ky, kx, i of
//                     src[n, y·STRIDE_Y + ky·DILATION_Y - PAD_Y, x·STRIDE_X + kx·DILATION_X - PAD_X, g·GROUP_INPUTS + i]
//                     · w[o, i, ky, kx]),  g = o / GROUP_OUTPUTS
//   finish: activation, and the residual before or after it
//
// Bindings: weights: the bias (CHANNELS), then [o][i][ky][kx]
//           src, residual, dst: feature maps, channels last, strides in elements
// A thread computes one channel of one pixel.
// Dispatch: COUNT threads in workgroups of 64, flat, GROUPS_X per row of the dispatch.
alias S = f32;

const SRC_OFFSET: u32 = 0u;
const SRC_IMAGE: u32 = 256u;
const SRC_ROW: u32 = 32u;
const SRC_PIXEL: u32 = 4u;
const SRC_HEIGHT: u32 = 8u;
const SRC_WIDTH: u32 = 8u;
const DST_OFFSET: u32 = 0u;
const DST_IMAGE: u32 = 256u;
const DST_ROW: u32 = 32u;
const DST_PIXEL: u32 = 4u;
const DST_HEIGHT: u32 = 8u;
const DST_WIDTH: u32 = 8u;
const RESIDUAL_OFFSET: u32 = 0u;
const RESIDUAL_IMAGE: u32 = 256u;
const RESIDUAL_ROW: u32 = 32u;
const RESIDUAL_PIXEL: u32 = 4u;
const KERNEL_Y: u32 = 3u;
const KERNEL_X: u32 = 3u;
const STRIDE_Y: u32 = 1u;
const STRIDE_X: u32 = 1u;
const PAD_Y: u32 = 1u;
const PAD_X: u32 = 1u;
const DILATION_Y: u32 = 1u;
const DILATION_X: u32 = 1u;
const CHANNELS: u32 = 4u;
const GROUP_INPUTS: u32 = 2u;
const GROUP_OUTPUTS: u32 = 2u;
const COUNT: u32 = 256u;
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> weights: array<S>;
@group(0) @binding(1) var<storage, read> src: array<S>;
@group(0) @binding(2) var<storage, read> residual: array<S>;
@group(0) @binding(3) var<storage, read_write> dst: array<S>;

fn finish(x: vec4<f32>, at: u32) -> vec4<f32> { return activate(x + f32(residual[at])); }

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let flat = (group.y * GROUPS_X + group.x) * 64u + thread;
    if flat >= COUNT {
        return;
    }
    let o = flat % CHANNELS;
    let x = flat / CHANNELS % DST_WIDTH;
    let y = flat / (CHANNELS * DST_WIDTH) % DST_HEIGHT;
    let n = flat / (CHANNELS * DST_WIDTH * DST_HEIGHT);
    let first = SRC_OFFSET + n * SRC_IMAGE + o / GROUP_OUTPUTS * GROUP_INPUTS;
    var sum = f32(weights[o]);
    for (var ky = 0u; ky < KERNEL_Y; ky++) {
        // Outside the picture these wrap around to large numbers.
        let sy = y * STRIDE_Y + ky * DILATION_Y - PAD_Y;
        for (var kx = 0u; kx < KERNEL_X; kx++) {
            let sx = x * STRIDE_X + kx * DILATION_X - PAD_X;
            if sy >= SRC_HEIGHT || sx >= SRC_WIDTH {
                continue;
            }
            let at = first + sy * SRC_ROW + sx * SRC_PIXEL;
            let tap = CHANNELS + o * (GROUP_INPUTS * KERNEL_Y * KERNEL_X) + ky * KERNEL_X + kx;
            for (var i = 0u; i < GROUP_INPUTS; i++) {
                sum += f32(src[at + i]) * f32(weights[tap + i * (KERNEL_Y * KERNEL_X)]);
            }
        }
    }
    let residual_at = RESIDUAL_OFFSET + n * RESIDUAL_IMAGE + y * RESIDUAL_ROW + x * RESIDUAL_PIXEL + o;
    dst[DST_OFFSET + n * DST_IMAGE + y * DST_ROW + x * DST_PIXEL + o] = S(finish(vec4<f32>(sum), residual_at).x);
}
