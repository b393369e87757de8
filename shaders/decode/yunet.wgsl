// Candidates from one scale of YuNet (faces). Twin: src/decode/heads/yunet.rs.
//
// Cell (i, j) of stride s: score = sqrt(cls obj), cx = (i + b0) s, cy = (j + b1) s, w = e^b2 s, h = e^b3 s; class 0.
// Bindings: 0 candidates, 1 buffer of cls, 2 buffer of obj, 3 buffer of bbox, element (cell, k) at
// OFFSET + cell ROW_STRIDE + k COLUMN_STRIDE of each.
// Tile: one thread per cell. Dispatch: ceil(CELLS / 64) workgroups, spread over x and y (ROW threads per y).

// include: candidates

alias S = f32;
@group(0) @binding(1) var<storage, read> cls: array<S>;
@group(0) @binding(2) var<storage, read> obj: array<S>;
@group(0) @binding(3) var<storage, read> bbox: array<S>;

const ROW: u32 = 64u;
const CELLS: u32 = 1u;
const COLS: u32 = 1u;
// Anchor number of the scale's first cell.
const FIRST: u32 = 0u;
const STRIDE_PX: f32 = 8.0;
const CLS_OFFSET: u32 = 0u;
const CLS_ROW_STRIDE: u32 = 1u;
const OBJ_OFFSET: u32 = 0u;
const OBJ_ROW_STRIDE: u32 = 1u;
const BBOX_OFFSET: u32 = 0u;
const BBOX_ROW_STRIDE: u32 = 4u;
const BBOX_COLUMN_STRIDE: u32 = 1u;

fn at(base: u32, column: u32) -> f32 {
    return f32(bbox[base + column * BBOX_COLUMN_STRIDE]);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let cell = id.x + id.y * ROW;
    if (cell >= CELLS) {
        return;
    }
    let c = clamp(f32(cls[CLS_OFFSET + cell * CLS_ROW_STRIDE]), 0.0, 1.0);
    let o = clamp(f32(obj[OBJ_OFFSET + cell * OBJ_ROW_STRIDE]), 0.0, 1.0);
    let score = sqrt(c * o);
    if (!(score >= candidates.score_threshold)) {
        return;
    }
    let base = BBOX_OFFSET + cell * BBOX_ROW_STRIDE;
    let cx = (f32(cell % COLS) + at(base, 0u)) * STRIDE_PX;
    let cy = (f32(cell / COLS) + at(base, 1u)) * STRIDE_PX;
    let w = side(at(base, 2u)) * STRIDE_PX;
    let h = side(at(base, 3u)) * STRIDE_PX;
    append(corners(cx, cy, w, h), score, 0u, FIRST + cell);
}
