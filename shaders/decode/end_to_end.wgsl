// Candidates from rows that are final: networks that suppress overlaps themselves. Twin: src/decode/heads/end_to_end.rs.
//
// Row r: x0 y0 x1 y1 in pixels of the input, score, class as a number. Rows of padding have a score of 0. With TURNED the
// first four are centre and size of a box that column ANGLE turns, in radians; its upright box is taken.
// Bindings: 0 candidates, 1 the output's buffer, number k of row r at OFFSET + r ROW_STRIDE + k COLUMN_STRIDE.
// Tile: one thread per row. Dispatch: ceil(ROWS / 64) workgroups, spread over x and y (ROW threads per y).

// include: candidates
// include: rotated

alias S = f32;
@group(0) @binding(1) var<storage, read> src: array<S>;

const ROW: u32 = 64u;
const ROWS: u32 = 1u;
const CLASSES: f32 = 80.0;
const OFFSET: u32 = 0u;
const ROW_STRIDE: u32 = 6u;
const COLUMN_STRIDE: u32 = 1u;
const TURNED: bool = false;
const ANGLE: u32 = 6u;

fn at(base: u32, column: u32) -> f32 {
    return f32(src[base + column * COLUMN_STRIDE]);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x + id.y * ROW;
    if (row >= ROWS) {
        return;
    }
    let base = OFFSET + row * ROW_STRIDE;
    let score = at(base, 4u);
    let class_number = floor(at(base, 5u) + 0.5);
    if (!(score >= candidates.score_threshold && score > 0.0 && class_number >= 0.0 && class_number < CLASSES)) {
        return;
    }
    var bounds = vec4<f32>(at(base, 0u), at(base, 1u), at(base, 2u), at(base, 3u));
    if (TURNED) {
        bounds = upright(bounds, at(base, ANGLE));
    }
    append(bounds, score, u32(class_number), row);
}
