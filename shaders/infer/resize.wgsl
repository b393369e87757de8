// Resize of height and width, nearest or linear.
//
//   source coordinate of output x: max(A_X·x + B_X, 0) / D_X, in exact integers; the same for y
//   nearest: dst = src[(STEP·n + SHIFT) / (STEP·D)], n the numerator; linear: weighted by the remainder
//
// Bindings: src, dst: feature maps, channels last, strides in vectors of four
// A thread computes one vector of channels of one pixel.
// Dispatch: COUNT threads in workgroups of 64, flat, GROUPS_X per row of the dispatch.
alias S = f32;
alias S4 = vec4<S>;

const LINEAR: bool = true;
const SIZE_Y: u32 = 8u;
const A_Y: i32 = 2i;
const B_Y: i32 = -1i;
const D_Y: i32 = 4i;
const STEP_Y: i32 = 1i;
const SHIFT_Y: i32 = 0i;
const SIZE_X: u32 = 8u;
const A_X: i32 = 2i;
const B_X: i32 = -1i;
const D_X: i32 = 4i;
const STEP_X: i32 = 1i;
const SHIFT_X: i32 = 0i;
const SRC_OFFSET: u32 = 0u;
const SRC_IMAGE: u32 = 64u;
const SRC_ROW: u32 = 8u;
const SRC_PIXEL: u32 = 1u;
const DST_OFFSET: u32 = 0u;
const DST_IMAGE: u32 = 256u;
const DST_ROW: u32 = 16u;
const DST_PIXEL: u32 = 1u;
const DST_HEIGHT: u32 = 16u;
const DST_WIDTH: u32 = 16u;
const VECTORS: u32 = 1u;
const COUNT: u32 = 256u;
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> src: array<S4>;
@group(0) @binding(1) var<storage, read_write> dst: array<S4>;

fn store(at: u32, c4: u32, v: vec4<f32>) { dst[at] = S4(v); }

fn load(n: u32, y: u32, x: u32, c: u32) -> vec4<f32> {
    return vec4<f32>(src[SRC_OFFSET + n * SRC_IMAGE + y * SRC_ROW + x * SRC_PIXEL + c]);
}

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
    // Not negative from here on.
    let ny = u32(max(A_Y * i32(y) + B_Y, 0i));
    let nx = u32(max(A_X * i32(x) + B_X, 0i));
    var value: vec4<f32>;
    if LINEAR {
        let y0 = min(ny / u32(D_Y), SIZE_Y - 1u);
        let x0 = min(nx / u32(D_X), SIZE_X - 1u);
        let y1 = min(y0 + 1u, SIZE_Y - 1u);
        let x1 = min(x0 + 1u, SIZE_X - 1u);
        let fy = f32(ny % u32(D_Y)) / f32(D_Y);
        let fx = f32(nx % u32(D_X)) / f32(D_X);
        let top = load(n, y0, x0, c) * (1.0 - fx) + load(n, y0, x1, c) * fx;
        let bottom = load(n, y1, x0, c) * (1.0 - fx) + load(n, y1, x1, c) * fx;
        value = top * (1.0 - fy) + bottom * fy;
    } else {
        let sy = min((u32(STEP_Y) * ny + u32(SHIFT_Y)) / u32(STEP_Y * D_Y), SIZE_Y - 1u);
        let sx = min((u32(STEP_X) * nx + u32(SHIFT_X)) / u32(STEP_X * D_X), SIZE_X - 1u);
        value = load(n, sy, sx, c);
    }
    store(DST_OFFSET + n * DST_IMAGE + y * DST_ROW + x * DST_PIXEL + c, c, value);
}
