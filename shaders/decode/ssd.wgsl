// Candidates from tables of scores and boxes, mostly with a background class (Ultra-Light-Fast face detectors, YOLOv4
// as exported from PyTorch).
// Twin: src/decode/heads/ssd.rs.
//
// Score: the best class but the background. DECODED: the box is x0 y0 x1 y1 in fractions of the input. Otherwise
// offsets d from a prior p: centre = p_c + 0.1 d p_size, size = p_size e^(0.2 d).
// Bindings: 0 candidates, 1 buffer of the scores (CLASS_OFFSET is that of the first class, after the background),
// 2 buffer of the boxes, element (a, k) at OFFSET + a ROW_STRIDE + k COLUMN_STRIDE of each.
// Tile: one thread per anchor. Dispatch: ceil(ANCHORS / 64) workgroups, spread over x and y (ROW threads per y).

// include: candidates

alias S = f32;
@group(0) @binding(1) var<storage, read> class_src: array<S>;
@group(0) @binding(2) var<storage, read> box_src: array<S>;

const ROW: u32 = 64u;
const ANCHORS: u32 = 1u;
const CLASSES: u32 = 1u;
const DECODED: bool = true;
const INPUT_W: f32 = 320.0;
const INPUT_H: f32 = 240.0;
const CLASS_OFFSET: u32 = 1u;
const CLASS_ROW_STRIDE: u32 = 2u;
const CLASS_COLUMN_STRIDE: u32 = 1u;
const BOX_OFFSET: u32 = 0u;
const BOX_ROW_STRIDE: u32 = 4u;
const BOX_COLUMN_STRIDE: u32 = 1u;

fn at(base: u32, column: u32) -> f32 {
    return f32(box_src[base + column * BOX_COLUMN_STRIDE]);
}

// Centre and size of a prior, clipped to the input.
fn prior(i: u32, j: u32, stride: f32, side_px: f32) -> vec4<f32> {
    let size = vec2<f32>(INPUT_W, INPUT_H);
    return vec4<f32>(min((vec2<f32>(f32(i), f32(j)) + 0.5) * stride, size), min(vec2<f32>(side_px), size));
}

fn prior_of(anchor: u32) -> vec4<f32> { return prior(anchor, 0u, 8.0, 10.0); }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let anchor = id.x + id.y * ROW;
    if (anchor >= ANCHORS) {
        return;
    }
    let base = CLASS_OFFSET + anchor * CLASS_ROW_STRIDE;
    var best = -3.0e38;
    var class_id = 0u;
    for (var c = 0u; c < CLASSES; c++) {
        let v = f32(class_src[base + c * CLASS_COLUMN_STRIDE]);
        if (v > best) {
            best = v;
            class_id = c;
        }
    }
    if (!(best >= candidates.score_threshold)) {
        return;
    }
    let box_base = BOX_OFFSET + anchor * BOX_ROW_STRIDE;
    let b = vec4<f32>(at(box_base, 0u), at(box_base, 1u), at(box_base, 2u), at(box_base, 3u));
    var bounds = vec4<f32>(b.x * INPUT_W, b.y * INPUT_H, b.z * INPUT_W, b.w * INPUT_H);
    if (!DECODED) {
        let p = prior_of(anchor);
        bounds = corners(p.x + b.x * 0.1 * p.z, p.y + b.y * 0.1 * p.w, p.z * side(b.z * 0.2), p.w * side(b.w * 0.2));
    }
    append(bounds, best, class_id, anchor);
}
