// Bytes of a picture -> the network's input: bilinear resize, letterbox, channel order, standardisation, store.
// Twin: src/convert/resize_normalise.rs.
// include: picture_bytes
// include: frame_params
//
//   position(x) = (x + 1/2) * picture / content - 1/2         half-pixel centres, no antialiasing
//   level       = bilinear(picture, position) rounded to 0..255, PAD outside the content
//   dst         = (level - MEAN[c]) * SCALE[c]                SCALE = 1 / std
//
// The resize is OpenCV's INTER_LINEAR on 8-bit pictures, in integers: weights are multiples of 1/2048, the products of
// the rows lose 4 bits before and 16 bits after the columns are weighted. Integers are the same on every device, so
// the twin gives the same levels. The division is kept as a product: (a - b) * c offers no fused multiply-add.
//
// Bindings
//   params, bytes  see shaders/common/picture_bytes.wgsl; content_px and offset_px (whole pixels) are read too
//   dst            channels last: OFFSET + y * ROW_STRIDE + x * PIXEL_STRIDE + c, in elements
// Tile: one pixel a thread, 16 x 16 a workgroup. Dispatch: ceil(MODEL_W / 16) x ceil(MODEL_H / 16).

const LUMINANCE: bool = false;
const MODEL_W: u32 = 416u;
const MODEL_H: u32 = 416u;
const PAD: u32 = 114u;
const MEAN_0: f32 = 0.0f;
const MEAN_1: f32 = 0.0f;
const MEAN_2: f32 = 0.0f;
const SCALE_0: f32 = 1.0f;
const SCALE_1: f32 = 1.0f;
const SCALE_2: f32 = 1.0f;
const OFFSET: u32 = 0u;
const ROW_STRIDE: u32 = 1248u;
const PIXEL_STRIDE: u32 = 3u;
alias S = f32;
alias S4 = vec4<S>;

@group(0) @binding(2) var<storage, read_write> dst: array<S>;

fn store(at: u32, v: vec3<f32>) { dst[at] = S(v.x); dst[at + 1u] = S(v.y); dst[at + 2u] = S(v.z); }

// Colours in the order of the network's channels.
fn ordered(rgb: vec3<u32>) -> vec3<u32> { return rgb; }

// The two neighbours of a position, clamped to the edge, and the weight of the second in 1/2048.
struct Tap {
    low: u32,
    high: u32,
    weight: u32,
}

fn tap(x: u32, picture: u32, content: u32) -> Tap {
    // position + 1 = ((2 x + 1) picture + content) / (2 content); the 1 keeps it positive.
    let numerator = (2u * x + 1u) * picture + content;
    let whole = numerator / (2u * content);
    let rest = numerator - whole * (2u * content);
    let last = picture - 1u;
    return Tap(min(max(whole, 1u) - 1u, last), min(whole, last), (rest * 2048u + content) / (2u * content));
}

@compute @workgroup_size(16, 16)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= MODEL_W || id.y >= MODEL_H) {
        return;
    }
    var level = vec3<u32>(PAD);
    let corner = vec2<u32>(params.offset_px);
    // Left of or above the content the difference wraps around and is large.
    let x = id.x - corner.x;
    let y = id.y - corner.y;
    if (x < params.content_px.x && y < params.content_px.y) {
        let tx = tap(x, params.picture_px.x, params.content_px.x);
        let ty = tap(y, params.picture_px.y, params.content_px.y);
        let left = vec3<u32>(2048u - tx.weight);
        let right = vec3<u32>(tx.weight);
        let above = (pixel(tx.low, ty.low) * left + pixel(tx.high, ty.low) * right) >> vec3<u32>(4u);
        let below = (pixel(tx.low, ty.high) * left + pixel(tx.high, ty.high) * right) >> vec3<u32>(4u);
        level = ((above * (2048u - ty.weight)) >> vec3<u32>(16u)) + ((below * ty.weight) >> vec3<u32>(16u));
        level = (level + vec3<u32>(2u)) >> vec3<u32>(2u);
        if (LUMINANCE) {
            level = vec3<u32>((level.x * 9798u + level.y * 19235u + level.z * 3735u + 16384u) >> 15u);
        } else {
            level = ordered(level);
        }
    }
    let mean = vec3<f32>(MEAN_0, MEAN_1, MEAN_2);
    let scale = vec3<f32>(SCALE_0, SCALE_1, SCALE_2);
    store(OFFSET + id.y * ROW_STRIDE + id.x * PIXEL_STRIDE, (vec3<f32>(level) - mean) * scale);
}
