// Depthwise convolution.
// include: activation
//
//   dst[n, y, x, c] = finish(bias[c] + sum over ky, kx of
//                     src[n, y·STRIDE_Y + ky·DILATION_Y - PAD_Y, x·STRIDE_X + kx·DILATION_X - PAD_X, c] · w[ky, kx, c])
//   finish: activation, and the residual before or after it
//
// Bindings: weights: rows of VECTORS vectors: the bias, then one row per (ky, kx)
//           src, residual, dst: feature maps, channels last, strides in vectors of four
// A thread computes one vector of channels of PIXELS neighbours in a row; of each row of the window it loads the REACH
// pixels that any of them sees once.
// Dispatch: COUNT threads in workgroups of 64, flat, GROUPS_X per row of the dispatch.
alias S = f32;
alias S4 = vec4<S>;

const SRC_OFFSET: u32 = 0u;
const SRC_IMAGE: u32 = 64u;
const SRC_ROW: u32 = 8u;
const SRC_PIXEL: u32 = 1u;
const SRC_HEIGHT: u32 = 8u;
const SRC_WIDTH: u32 = 8u;
const DST_OFFSET: u32 = 0u;
const DST_IMAGE: u32 = 64u;
const DST_ROW: u32 = 8u;
const DST_PIXEL: u32 = 1u;
const DST_HEIGHT: u32 = 8u;
const DST_WIDTH: u32 = 8u;
const RESIDUAL_OFFSET: u32 = 0u;
const RESIDUAL_IMAGE: u32 = 64u;
const RESIDUAL_ROW: u32 = 8u;
const RESIDUAL_PIXEL: u32 = 1u;
const KERNEL_Y: u32 = 3u;
const KERNEL_X: u32 = 1u;
const STRIDE_Y: u32 = 1u;
const STRIDE_X: u32 = 1u;
const PAD_Y: u32 = 1u;
const PAD_X: u32 = 1u;
const DILATION_Y: u32 = 1u;
const DILATION_X: u32 = 1u;
const VECTORS: u32 = 1u;
const PIXELS: u32 = 1u;
const REACH: u32 = 1u;
const BLOCKS_X: u32 = 8u;
const COUNT: u32 = 64u;
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> weights: array<S4>;
@group(0) @binding(1) var<storage, read> src: array<S4>;
@group(0) @binding(2) var<storage, read> residual: array<S4>;
@group(0) @binding(3) var<storage, read_write> dst: array<S4>;

fn finish(x: vec4<f32>, at: u32) -> vec4<f32> { return activate(x + vec4<f32>(residual[at])); }
fn store(at: u32, c4: u32, v: vec4<f32>) { dst[at] = S4(v); }

// Numbers of the copies of unrolled lines.
const px: u32 = 0u;
const kx: u32 = 0u;
const rx: u32 = 0u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let flat = (group.y * GROUPS_X + group.x) * 64u + thread;
    if flat >= COUNT {
        return;
    }
    let c = flat % VECTORS;
    let x = flat / VECTORS % BLOCKS_X * PIXELS;
    let y = flat / (VECTORS * BLOCKS_X) % DST_HEIGHT;
    let n = flat / (VECTORS * BLOCKS_X * DST_HEIGHT);
    // Left of the picture this wraps around to a large number, which the test below takes as outside.
    let first_x = x * STRIDE_X - PAD_X;

    let bias = vec4<f32>(weights[c]);
    //unroll px PIXELS
    var sum_px = bias;
    //end
    // Always indexed by constants: this lives in registers.
    var seen: array<vec4<f32>, REACH>;
    for (var ky = 0u; ky < KERNEL_Y; ky++) {
        let sy = y * STRIDE_Y + ky * DILATION_Y - PAD_Y;
        if sy >= SRC_HEIGHT {
            continue;
        }
        let row = SRC_OFFSET + n * SRC_IMAGE + sy * SRC_ROW + c;
        //unroll rx REACH
        let sx_rx = first_x + rx;
        let inside_rx = sx_rx < SRC_WIDTH;
        seen[rx] = select(vec4<f32>(0.0), vec4<f32>(src[row + select(0u, sx_rx, inside_rx) * SRC_PIXEL]), inside_rx);
        //end
        let tap = VECTORS + ky * (KERNEL_X * VECTORS) + c;
        //unroll kx KERNEL_X
        let w_kx = vec4<f32>(weights[tap + kx * VECTORS]);
        //unroll px PIXELS
        sum_px = sum_px + seen[px * STRIDE_X + kx * DILATION_X] * w_kx;
        //end
        //end
    }

    //unroll px PIXELS
    if x + px < DST_WIDTH {
        let dst_at = DST_OFFSET + n * DST_IMAGE + y * DST_ROW + (x + px) * DST_PIXEL + c;
        let residual_at = RESIDUAL_OFFSET + n * RESIDUAL_IMAGE + y * RESIDUAL_ROW + (x + px) * RESIDUAL_PIXEL + c;
        store(dst_at, c, finish(sum_px, residual_at));
    }
    //end
}
