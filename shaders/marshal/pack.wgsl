// A dense picture of floats, channels last -> the network's input, whatever its strides (NCHW, say).
// Twin: src/marshal/pack.rs.
//
//   dst[OFFSET + c * STRIDE_C + y * STRIDE_Y + x * STRIDE_X] = src[(y * WIDTH + x) * SRC_PIXEL_STRIDE + c]
//
// Bindings
//   src  [HEIGHT, WIDTH, SRC_PIXEL_STRIDE], of each pixel the first CHANNELS elements
//   dst  any strides
// Tile: one pixel a thread, 16 x 16 a workgroup; neighbours in x stay neighbours in the planes of dst.
// Dispatch: ceil(WIDTH / 16) x ceil(HEIGHT / 16).

const CHANNELS: u32 = 3u;
const HEIGHT: u32 = 416u;
const WIDTH: u32 = 416u;
const SRC_PIXEL_STRIDE: u32 = 4u;
const OFFSET: u32 = 0u;
const STRIDE_C: u32 = 173056u;
const STRIDE_Y: u32 = 416u;
const STRIDE_X: u32 = 1u;
alias S = f32;

@group(0) @binding(0) var<storage, read> src: array<S>;
@group(0) @binding(1) var<storage, read_write> dst: array<S>;

@compute @workgroup_size(16, 16)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= WIDTH || id.y >= HEIGHT) {
        return;
    }
    let from_at = (id.y * WIDTH + id.x) * SRC_PIXEL_STRIDE;
    let to_at = OFFSET + id.y * STRIDE_Y + id.x * STRIDE_X;
    for (var c = 0u; c < CHANNELS; c++) {
        dst[to_at + c * STRIDE_C] = src[from_at + c];
    }
}
