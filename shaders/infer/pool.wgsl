// Max and average pooling.
//
//   dst[n, y, x, c] = max or mean over ky, kx of
//                     src[n, y·STRIDE_Y + ky·DILATION_Y - PAD_Y, x·STRIDE_X + kx·DILATION_X - PAD_X, c]
//
// Positions outside the picture are no candidates for a maximum; in a mean they count as zeros if COUNT_PADS and they
// lie in the padding, else not at all.
// Bindings: src, dst: feature maps, channels last, strides in vectors of four
// A thread computes one vector of channels of one pixel.
// Dispatch: COUNT threads in workgroups of 64, flat, GROUPS_X per row of the dispatch.
alias S = f32;
alias S4 = vec4<S>;

const MAX: bool = true;
const COUNT_PADS: bool = false;
const PADDED_HEIGHT: u32 = 10u;
const PADDED_WIDTH: u32 = 10u;
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
const KERNEL_Y: u32 = 3u;
const KERNEL_X: u32 = 3u;
const STRIDE_Y: u32 = 1u;
const STRIDE_X: u32 = 1u;
const PAD_Y: u32 = 1u;
const PAD_X: u32 = 1u;
const DILATION_Y: u32 = 1u;
const DILATION_X: u32 = 1u;
const VECTORS: u32 = 1u;
const COUNT: u32 = 64u;
const GROUPS_X: u32 = 1u;

const LOWEST: f32 = -3.40282347e38f;

@group(0) @binding(0) var<storage, read> src: array<S4>;
@group(0) @binding(1) var<storage, read_write> dst: array<S4>;

fn store(at: u32, c4: u32, v: vec4<f32>) { dst[at] = S4(v); }

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let flat = (group.y * GROUPS_X + group.x) * 64u + thread;
    if flat >= COUNT {
        return;
    }
    let c = flat % VECTORS;
    let x = flat / VECTORS % DST_WIDTH;
    let y = flat / (VECTORS * DST_WIDTH) % DST_HEIGHT;
    let n = flat / (VECTORS * DST_WIDTH * DST_HEIGHT);
    var value = vec4<f32>(select(0.0, LOWEST, MAX));
    var counted = 0u;
    for (var ky = 0u; ky < KERNEL_Y; ky++) {
        let padded_y = y * STRIDE_Y + ky * DILATION_Y;
        // Outside the picture these wrap around to large numbers.
        let sy = padded_y - PAD_Y;
        for (var kx = 0u; kx < KERNEL_X; kx++) {
            let padded_x = x * STRIDE_X + kx * DILATION_X;
            let sx = padded_x - PAD_X;
            let inside = sy < SRC_HEIGHT && sx < SRC_WIDTH;
            if inside {
                let seen = vec4<f32>(src[SRC_OFFSET + n * SRC_IMAGE + sy * SRC_ROW + sx * SRC_PIXEL + c]);
                if MAX {
                    value = max(value, seen);
                } else {
                    value += seen;
                }
            }
            if inside || (COUNT_PADS && padded_y < PADDED_HEIGHT && padded_x < PADDED_WIDTH) {
                counted++;
            }
        }
    }
    if !MAX {
        value = value * (1.0 / f32(max(counted, 1u)));
    }
    store(DST_OFFSET + n * DST_IMAGE + y * DST_ROW + x * DST_PIXEL + c, c, value);
}
