// Candidates from box distributions on one scale of an anchor-free grid (NanoDet, NanoDet-Plus, PicoDet).
// Twin: src/decode/heads/gfl.rs.
//
// Cell (i, j): class probabilities, and for each side BINS logits; d = s * sum_k k softmax(logits)_k;
// box = point - (d_left, d_top) .. point + (d_right, d_bottom), point = (i + POINT, j + POINT) s. Score: best class.
// Bindings: 0 candidates, 1 buffer of the classes, 2 buffer of the box logits, element (cell, k) at
// OFFSET + cell ROW_STRIDE + k COLUMN_STRIDE of each.
// Tile: one thread per cell. Dispatch: ceil(CELLS / 64) workgroups, spread over x and y (ROW threads per y).

// include: candidates
// include: best_class

alias S = f32;
@group(0) @binding(1) var<storage, read> class_src: array<S>;
@group(0) @binding(2) var<storage, read> box_src: array<S>;

const ROW: u32 = 64u;
const CELLS: u32 = 1u;
const COLS: u32 = 1u;
// Anchor number of the scale's first cell.
const FIRST: u32 = 0u;
const STRIDE_PX: f32 = 8.0;
const POINT: f32 = 0.5;
const CLASSES: u32 = 1u;
const BINS: u32 = 8u;
const CLASS_OFFSET: u32 = 0u;
const CLASS_ROW_STRIDE: u32 = 1u;
const CLASS_COLUMN_STRIDE: u32 = 1u;
const BOX_OFFSET: u32 = 0u;
const BOX_ROW_STRIDE: u32 = 32u;
const BOX_COLUMN_STRIDE: u32 = 1u;

fn class_at(base: u32, column: u32) -> f32 {
    return f32(class_src[base + column * CLASS_COLUMN_STRIDE]);
}

// Expectation of the softmax over the bins of one side.
fn distance_to(base: u32) -> f32 {
    var largest = f32(box_src[base]);
    for (var b = 1u; b < BINS; b++) {
        largest = max(largest, f32(box_src[base + b * BOX_COLUMN_STRIDE]));
    }
    var sum = 0.0;
    var weighted = 0.0;
    for (var b = 0u; b < BINS; b++) {
        let e = side(f32(box_src[base + b * BOX_COLUMN_STRIDE]) - largest);
        sum += e;
        weighted += e * f32(b);
    }
    return weighted / sum;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let cell = id.x + id.y * ROW;
    if (cell >= CELLS) {
        return;
    }
    let base = CLASS_OFFSET + cell * CLASS_ROW_STRIDE;
    let best = best_class(base);
    if (!(best.value >= candidates.score_threshold)) {
        return;
    }
    let box_base = BOX_OFFSET + cell * BOX_ROW_STRIDE;
    let cx = (f32(cell % COLS) + POINT) * STRIDE_PX;
    let cy = (f32(cell / COLS) + POINT) * STRIDE_PX;
    let left = distance_to(box_base) * STRIDE_PX;
    let top = distance_to(box_base + BINS * BOX_COLUMN_STRIDE) * STRIDE_PX;
    let right = distance_to(box_base + 2u * BINS * BOX_COLUMN_STRIDE) * STRIDE_PX;
    let bottom = distance_to(box_base + 3u * BINS * BOX_COLUMN_STRIDE) * STRIDE_PX;
    append(vec4<f32>(cx - left, cy - top, cx + right, cy + bottom), best.value, best.class_id, FIRST + cell);
}
