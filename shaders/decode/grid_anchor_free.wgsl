// Candidates of an anchor-free grid with offsets from the cell (YOLOX). Twin: src/decode/heads/grid_anchor_free.rs.
//
// Row a of the output: x y w h objectness class_0 ...; cell (i, j) of stride s:
// cx = (x + i) s, cy = (y + j) s, w = e^w s, h = e^h s, score = objectness * class (the best one).
// Bindings: 0 candidates, 1 the output's buffer, element (a, k) at OFFSET + a ROW_STRIDE + k COLUMN_STRIDE.
// Tile: one thread per anchor. Dispatch: ceil(ANCHORS / 64) workgroups, spread over x and y (ROW threads per y).

// include: candidates
// include: best_class

alias S = f32;
@group(0) @binding(1) var<storage, read> src: array<S>;

const ROW: u32 = 64u;
const ANCHORS: u32 = 1u;
const CLASSES: u32 = 1u;
const OFFSET: u32 = 0u;
const ROW_STRIDE: u32 = 6u;
const COLUMN_STRIDE: u32 = 1u;

// (column, row, stride) of an anchor.
fn cell_of(anchor: u32) -> vec3<u32> { return vec3<u32>(anchor, 0u, 8u); }

fn at(base: u32, column: u32) -> f32 {
    return f32(src[base + column * COLUMN_STRIDE]);
}

fn class_at(base: u32, c: u32) -> f32 {
    return at(base, 5u + c);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let anchor = id.x + id.y * ROW;
    if (anchor >= ANCHORS) {
        return;
    }
    let base = OFFSET + anchor * ROW_STRIDE;
    let objectness = at(base, 4u);
    let threshold = candidates.score_threshold;
    if (!(objectness >= threshold)) {
        return;
    }
    let best = best_class(base);
    let score = objectness * best.value;
    if (!(score >= threshold)) {
        return;
    }
    let cell = cell_of(anchor);
    let stride = f32(cell.z);
    let cx = (at(base, 0u) + f32(cell.x)) * stride;
    let cy = (at(base, 1u) + f32(cell.y)) * stride;
    let w = side(at(base, 2u)) * stride;
    let h = side(at(base, 3u)) * stride;
    append(corners(cx, cy, w, h), score, best.class_id, anchor);
}
