// Points of the detections that NMS kept (landmarks), from one scale of cells. Twin: src/decode/points.rs.
//
// Cell (i, j) of stride s holds v; point m = ((v_2m + i) s, (v_2m+1 + j) s) in pixels of the input, and then
// picture = clamp((model - offset) / scale, 0, picture size). Detections of other scales are left alone.
// Bindings: 0 candidates (for offset and scale), 1 detections: what NMS wrote, as words (16 of header, 8 a detection);
// point m of detection d goes to word POINTS_AT + 2 (d POINTS + m), x then y; 2 the output's buffer, element (cell, k) at
// OFFSET + cell ROW_STRIDE + k COLUMN_STRIDE.
// Tile: one thread per detection. Dispatch: ceil(ROOM / 64) workgroups.

// include: candidates

alias S = f32;
@group(0) @binding(1) var<storage, read_write> detections: array<u32>;
@group(0) @binding(2) var<storage, read> src: array<S>;

const HEADER_WORDS: u32 = 16u;
const DETECTION_WORDS: u32 = 8u;
// Word of a detection that holds its anchor.
const ANCHOR: u32 = 6u;

const ROOM: u32 = 1u;
const POINTS: u32 = 1u;
const POINTS_AT: u32 = 24u;
const CELLS: u32 = 1u;
const COLS: u32 = 1u;
// Anchor number of the scale's first cell.
const FIRST: u32 = 0u;
const STRIDE_PX: f32 = 8.0;
const OFFSET: u32 = 0u;
const ROW_STRIDE: u32 = 2u;
const COLUMN_STRIDE: u32 = 1u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let d = id.x;
    if (d >= min(detections[0], ROOM)) {
        return;
    }
    let anchor = detections[HEADER_WORDS + DETECTION_WORDS * d + ANCHOR];
    if (anchor < FIRST || anchor >= FIRST + CELLS) {
        return;
    }
    let cell = anchor - FIRST;
    let corner = vec2<f32>(f32(cell % COLS), f32(cell / COLS));
    let base = OFFSET + cell * ROW_STRIDE;
    for (var m = 0u; m < POINTS; m++) {
        let v = vec2<f32>(f32(src[base + 2u * m * COLUMN_STRIDE]), f32(src[base + (2u * m + 1u) * COLUMN_STRIDE]));
        let model = (v + corner) * STRIDE_PX;
        let at = POINTS_AT + 2u * (d * POINTS + m);
        let edge = vec2<f32>(candidates.picture_px);
        let picture = min(max((model - candidates.offset_px) / candidates.scale, vec2<f32>(0.0)), edge);
        detections[at] = bitcast<u32>(picture.x);
        detections[at + 1u] = bitcast<u32>(picture.y);
    }
}
