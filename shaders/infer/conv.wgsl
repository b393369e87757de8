// Convolution, one group: implicit GEMM with tiles in workgroup memory.
// include: activation
//
//   dst[n, y, x, o] = finish(bias[o] + sum over ky, kx, i of
//                     src[n, y·STRIDE_Y + ky·DILATION_Y - PAD_Y, x·STRIDE_X + kx·DILATION_X - PAD_X, i] · w[ky, kx, i, o])
//   finish: activation, and the residual before or after it
//
// As a matrix product: rows m are pixels, columns are output channels, and the inner axis k runs over (ky, kx, i).
// Bindings: weights: rows of DST_VECTORS vectors: the bias, then one row per k, i padded to 4·SRC_VECTORS
//           src, residual, dst: feature maps, channels last, strides in vectors of four
// Tile of a workgroup: THREADS_M·PIXELS pixels x THREADS_N·VECTORS vectors of channels, DEPTH vectors of k at a time.
// While a block of k is multiplied, the next one is already being loaded into registers.
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
const THREADS_N: u32 = 8u;
const THREADS_M: u32 = 8u;
const PIXELS: u32 = 1u;
const VECTORS: u32 = 1u;
const DEPTH: u32 = 4u;
const TILES_N: u32 = 1u;
const TILES_M: u32 = 1u;
const GROUPS_X: u32 = 1u;
// Vectors of src and of weights that each thread loads per block.
const SRC_SLOTS: u32 = 1u;
const WEIGHT_SLOTS: u32 = 2u;

const THREADS: u32 = THREADS_N * THREADS_M;
const TILE_PIXELS: u32 = THREADS_M * PIXELS;
const TILE_VECTORS: u32 = THREADS_N * VECTORS;
// Two vectors more than the pixels: neighbours in k then lie in different banks.
const SRC_TILE_ROW: u32 = TILE_PIXELS + 2u;
// Vectors along k.
const K_VECTORS: u32 = KERNEL_Y * KERNEL_X * SRC_VECTORS;

@group(0) @binding(0) var<storage, read> weights: array<S4>;
@group(0) @binding(1) var<storage, read> src: array<S4>;
@group(0) @binding(2) var<storage, read> residual: array<S4>;
@group(0) @binding(3) var<storage, read_write> dst: array<S4>;

// [k vector][pixel]
var<workgroup> src_tile: array<vec4<f32>, DEPTH * SRC_TILE_ROW>;
// [k][vector of output channels]
var<workgroup> weight_tile: array<vec4<f32>, DEPTH * 4u * TILE_VECTORS>;

fn load_src(at: u32, c4: u32) -> vec4<f32> { return vec4<f32>(src[at]); }
fn finish(x: vec4<f32>, at: u32) -> vec4<f32> { return activate(x + vec4<f32>(residual[at])); }
fn store(at: u32, c4: u32, v: vec4<f32>) { dst[at] = S4(v); }
// Rows and columns left of or above the picture have wrapped around to large numbers.
fn inside(y: u32, x: u32) -> bool { return y < SRC_HEIGHT && x < SRC_WIDTH; }

// Vector `k` of the input of the pixel whose window starts at row `y`, column `x` of the picture that starts at `image`.
fn fetch_src(image: u32, y: u32, x: u32, k: u32) -> vec4<f32> {
    let tap = k / SRC_VECTORS;
    let c = k % SRC_VECTORS;
    let sy = y + tap / KERNEL_X * DILATION_Y;
    let sx = x + tap % KERNEL_X * DILATION_X;
    let seen = k < K_VECTORS && inside(sy, sx);
    let at = select(SRC_OFFSET, image + sy * SRC_ROW + sx * SRC_PIXEL + c, seen);
    return select(vec4<f32>(0.0), load_src(at, c), seen);
}

// Row `k` (not a vector of k) of the weights, column `vector`. Beyond the end the last row is read again: there the
// input is 0, or the column is not stored.
fn fetch_weights(k: u32, vector: u32) -> vec4<f32> {
    return vec4<f32>(weights[(1u + min(k, 4u * K_VECTORS - 1u)) * DST_VECTORS + min(vector, DST_VECTORS - 1u)]);
}

// Numbers of the copies of unrolled lines.
const px: u32 = 0u;
const ch: u32 = 0u;
const sl: u32 = 0u;
const kv: u32 = 0u;

@compute @workgroup_size(THREADS_N, THREADS_M)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile = group.y * GROUPS_X + group.x;
    let tile_vector = (tile % TILES_N) * TILE_VECTORS;
    let tile_pixel = (tile / TILES_N) * TILE_PIXELS;

    // What this thread loads: for src, k fastest, so that neighbours read one pixel's channels.
    //unroll sl SRC_SLOTS
    let slot_sl = thread + sl * THREADS;
    let slot_k_sl = slot_sl % DEPTH;
    let slot_pixel_sl = slot_sl / DEPTH;
    let slot_m_sl = min(tile_pixel + slot_pixel_sl, DST_PIXELS - 1u);
    let slot_image_sl = SRC_OFFSET + slot_m_sl / (DST_HEIGHT * DST_WIDTH) * SRC_IMAGE;
    let slot_y_sl = slot_m_sl / DST_WIDTH % DST_HEIGHT * STRIDE_Y - PAD_Y;
    let slot_x_sl = slot_m_sl % DST_WIDTH * STRIDE_X - PAD_X;
    var next_src_sl = fetch_src(slot_image_sl, slot_y_sl, slot_x_sl, slot_k_sl);
    //end
    //unroll sl WEIGHT_SLOTS
    let weight_slot_sl = thread + sl * THREADS;
    let weight_k_sl = weight_slot_sl / TILE_VECTORS;
    let weight_vector_sl = tile_vector + weight_slot_sl % TILE_VECTORS;
    var next_weight_sl = fetch_weights(weight_k_sl, weight_vector_sl);
    //end

    //unroll ch VECTORS
    let vector_ch = tile_vector + local.x + ch * THREADS_N;
    let bias_ch = vec4<f32>(weights[min(vector_ch, DST_VECTORS - 1u)]);
    //unroll px PIXELS
    var sum_px_ch = bias_ch;
    //end
    //end

    for (var k = 0u; k < K_VECTORS; k += DEPTH) {
        workgroupBarrier();
        //unroll sl SRC_SLOTS
        if slot_sl < DEPTH * TILE_PIXELS {
            src_tile[slot_k_sl * SRC_TILE_ROW + slot_pixel_sl] = next_src_sl;
        }
        //end
        //unroll sl WEIGHT_SLOTS
        if weight_slot_sl < DEPTH * 4u * TILE_VECTORS {
            weight_tile[weight_slot_sl] = next_weight_sl;
        }
        //end
        workgroupBarrier();
        if k + DEPTH < K_VECTORS {
            //unroll sl SRC_SLOTS
            next_src_sl = fetch_src(slot_image_sl, slot_y_sl, slot_x_sl, k + DEPTH + slot_k_sl);
            //end
            //unroll sl WEIGHT_SLOTS
            next_weight_sl = fetch_weights((k + DEPTH) * 4u + weight_k_sl, weight_vector_sl);
            //end
        }
        //unroll kv DEPTH
        {
            //unroll px PIXELS
            let v_px = src_tile[kv * SRC_TILE_ROW + local.y + px * THREADS_M];
            //end
            //unroll ch VECTORS
            let wx_ch = weight_tile[(kv * 4u) * TILE_VECTORS + local.x + ch * THREADS_N];
            let wy_ch = weight_tile[(kv * 4u + 1u) * TILE_VECTORS + local.x + ch * THREADS_N];
            let wz_ch = weight_tile[(kv * 4u + 2u) * TILE_VECTORS + local.x + ch * THREADS_N];
            let ww_ch = weight_tile[(kv * 4u + 3u) * TILE_VECTORS + local.x + ch * THREADS_N];
            //unroll px PIXELS
            sum_px_ch = sum_px_ch + v_px.x * wx_ch;
            sum_px_ch = sum_px_ch + v_px.y * wy_ch;
            sum_px_ch = sum_px_ch + v_px.z * wz_ch;
            sum_px_ch = sum_px_ch + v_px.w * ww_ch;
            //end
            //end
        }
        //end
    }

    //unroll px PIXELS
    {
        let m_px = tile_pixel + local.y + px * THREADS_M;
        if m_px < DST_PIXELS {
            let n_px = m_px / (DST_HEIGHT * DST_WIDTH);
            let y_px = m_px / DST_WIDTH % DST_HEIGHT;
            let x_px = m_px % DST_WIDTH;
            let dst_at = DST_OFFSET + n_px * DST_IMAGE + y_px * DST_ROW + x_px * DST_PIXEL;
            let residual_at = RESIDUAL_OFFSET + n_px * RESIDUAL_IMAGE + y_px * RESIDUAL_ROW + x_px * RESIDUAL_PIXEL;
            //unroll ch VECTORS
            if vector_ch < DST_VECTORS {
                store(dst_at + vector_ch, vector_ch, finish(sum_px_ch, residual_at + vector_ch));
            }
            //end
        }
    }
    //end
}
