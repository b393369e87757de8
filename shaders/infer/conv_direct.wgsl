// Convolution, one group, registers only.
// include: activation
//
//   dst[n, y, x, o] = finish(bias[o] + sum over ky, kx, i of
//                     src[n, y·STRIDE_Y + ky·DILATION_Y - PAD_Y, x·STRIDE_X + kx·DILATION_X - PAD_X, i] · w[ky, kx, i, o])
//   finish: activation, and the residual before or after it
//
// Bindings: weights: rows of DST_VECTORS vectors: the bias, then one row per (ky, kx, i), i padded to 4·SRC_VECTORS
//           src, residual, dst: feature maps, channels last, strides in vectors of four
// A thread computes PIXELS pixels x VECTORS vectors of channels; a workgroup THREADS_M x THREADS_N of that.
// Dispatch: TILES_M·TILES_N workgroups, flat, GROUPS_X per row of the dispatch.
alias S = f32;
alias S4 = vec4<S>;

const SRC_OFFSET: u32 = 0u;
const SRC_IMAGE: u32 = 64u;
const SRC_ROW: u32 = 8u;
const SRC_PIXEL: u32 = 1u;
const SRC_HEIGHT: u32 = 8u;
const SRC_WIDTH: u32 = 8u;
const SRC_VECTORS: u32 = 1u;
const DST_OFFSET: u32 = 0u;
const DST_IMAGE: u32 = 64u;
const DST_ROW: u32 = 8u;
const DST_PIXEL: u32 = 1u;
const DST_HEIGHT: u32 = 8u;
const DST_WIDTH: u32 = 8u;
const DST_VECTORS: u32 = 1u;
const DST_PIXELS: u32 = 64u;
const RESIDUAL_OFFSET: u32 = 0u;
const RESIDUAL_IMAGE: u32 = 64u;
const RESIDUAL_ROW: u32 = 8u;
const RESIDUAL_PIXEL: u32 = 1u;
const KERNEL_Y: u32 = 3u;
const KERNEL_X: u32 = 3u;
const STRIDE_Y: u32 = 1u;
const STRIDE_X: u32 = 1u;
const PAD_Y: u32 = 1u;
const PAD_X: u32 = 1u;
const DILATION_Y: u32 = 1u;
const DILATION_X: u32 = 1u;
const THREADS_N: u32 = 1u;
const THREADS_M: u32 = 64u;
const PIXELS: u32 = 1u;
const VECTORS: u32 = 1u;
const TILES_N: u32 = 1u;
const TILES_M: u32 = 1u;
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> weights: array<S4>;
@group(0) @binding(1) var<storage, read> src: array<S4>;
@group(0) @binding(2) var<storage, read> residual: array<S4>;
@group(0) @binding(3) var<storage, read_write> dst: array<S4>;

fn load_src(at: u32, c4: u32) -> vec4<f32> { return vec4<f32>(src[at]); }
fn finish(x: vec4<f32>, at: u32) -> vec4<f32> { return activate(x + vec4<f32>(residual[at])); }
fn store(at: u32, c4: u32, v: vec4<f32>) { dst[at] = S4(v); }
// Rows and columns left of or above the picture have wrapped around to large numbers.
fn inside(y: u32, x: u32) -> bool { return y < SRC_HEIGHT && x < SRC_WIDTH; }

// Numbers of the copies of unrolled lines.
const px: u32 = 0u;
const ch: u32 = 0u;

@compute @workgroup_size(THREADS_N, THREADS_M)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let tile = group.y * GROUPS_X + group.x;
    if tile >= TILES_M * TILES_N {
        return;
    }
    let first_vector = (tile % TILES_N) * (THREADS_N * VECTORS) + local.x;
    let first_pixel = ((tile / TILES_N) * THREADS_M + local.y) * PIXELS;

    // Past the end the last vector or pixel is computed again, and not stored.
    //unroll ch VECTORS
    let vector_ch = min(first_vector + ch * THREADS_N, DST_VECTORS - 1u);
    let bias_ch = vec4<f32>(weights[vector_ch]);
    //end
    //unroll px PIXELS
    let m_px = min(first_pixel + px, DST_PIXELS - 1u);
    let n_px = m_px / (DST_HEIGHT * DST_WIDTH);
    let y_px = m_px / DST_WIDTH % DST_HEIGHT;
    let x_px = m_px % DST_WIDTH;
    //unroll ch VECTORS
    var sum_px_ch = bias_ch;
    //end
    //end

    var row = DST_VECTORS;
    for (var ky = 0u; ky < KERNEL_Y; ky++) {
        for (var kx = 0u; kx < KERNEL_X; kx++) {
            //unroll px PIXELS
            let sy_px = y_px * STRIDE_Y + ky * DILATION_Y - PAD_Y;
            let sx_px = x_px * STRIDE_X + kx * DILATION_X - PAD_X;
            let inside_px = inside(sy_px, sx_px);
            let at_px = select(SRC_OFFSET, SRC_OFFSET + n_px * SRC_IMAGE + sy_px * SRC_ROW + sx_px * SRC_PIXEL, inside_px);
            //end
            for (var c = 0u; c < SRC_VECTORS; c++) {
                //unroll px PIXELS
                let v_px = select(vec4<f32>(0.0), load_src(at_px + c, c), inside_px);
                //end
                //unroll ch VECTORS
                let wx_ch = vec4<f32>(weights[row + vector_ch]);
                let wy_ch = vec4<f32>(weights[row + DST_VECTORS + vector_ch]);
                let wz_ch = vec4<f32>(weights[row + 2u * DST_VECTORS + vector_ch]);
                let ww_ch = vec4<f32>(weights[row + 3u * DST_VECTORS + vector_ch]);
                //unroll px PIXELS
                sum_px_ch = sum_px_ch + v_px.x * wx_ch;
                sum_px_ch = sum_px_ch + v_px.y * wy_ch;
                sum_px_ch = sum_px_ch + v_px.z * wz_ch;
                sum_px_ch = sum_px_ch + v_px.w * ww_ch;
                //end
                //end
                row += 4u * DST_VECTORS;
            }
        }
    }

    //unroll px PIXELS
    if first_pixel + px < DST_PIXELS {
        let dst_at = DST_OFFSET + n_px * DST_IMAGE + y_px * DST_ROW + x_px * DST_PIXEL;
        let residual_at = RESIDUAL_OFFSET + n_px * RESIDUAL_IMAGE + y_px * RESIDUAL_ROW + x_px * RESIDUAL_PIXEL;
        //unroll ch VECTORS
        if first_vector + ch * THREADS_N < DST_VECTORS {
            store(dst_at + vector_ch, vector_ch, finish(sum_px_ch, residual_at + vector_ch));
        }
        //end
    }
    //end
}
