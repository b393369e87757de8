// Candidates from FastestDet's single map. Twin: src/decode/heads/fastestdet.rs.
//
// Channels: objectness, r0 r1 r2 r3, softmaxed classes. Cell (i, j) of COLS x ROWS, input W x H:
// score = obj^0.6 class^0.4 (best class), cx = (i + tanh r0) W/COLS, cy = (j + tanh r1) H/ROWS,
// w = logistic(r2) W, h = logistic(r3) H.
// Bindings: 0 candidates, 1 the output's buffer, element (channel, y, x) at OFFSET + channel CHANNEL_STRIDE +
// y Y_STRIDE + x X_STRIDE.
// Tile: one thread per cell. Dispatch: ceil(COLS ROWS / 64) workgroups, spread over x and y (ROW threads per y).

// include: candidates
// include: best_class

alias S = f32;
@group(0) @binding(1) var<storage, read> src: array<S>;

const ROW: u32 = 64u;
const COLS: u32 = 1u;
const ROWS: u32 = 1u;
const CLASSES: u32 = 1u;
const INPUT_W: f32 = 16.0;
const INPUT_H: f32 = 16.0;
const CELL_W: f32 = 16.0;
const CELL_H: f32 = 16.0;
const OFFSET: u32 = 0u;
const CHANNEL_STRIDE: u32 = 1u;
const Y_STRIDE: u32 = 6u;
const X_STRIDE: u32 = 6u;

fn at(base: u32, channel: u32) -> f32 {
    return f32(src[base + channel * CHANNEL_STRIDE]);
}

fn score_of(objectness: f32, class_value: f32) -> f32 {
    return pow(max(objectness, 0.0), 0.6) * pow(max(class_value, 0.0), 0.4);
}

fn offset(x: f32) -> f32 {
    return tanh(clamp(x, -15.0, 15.0));
}

fn class_at(base: u32, c: u32) -> f32 {
    return at(base, 5u + c);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let cell = id.x + id.y * ROW;
    if (cell >= COLS * ROWS) {
        return;
    }
    let i = cell % COLS;
    let j = cell / COLS;
    let base = OFFSET + j * Y_STRIDE + i * X_STRIDE;
    let threshold = candidates.score_threshold;
    let objectness = at(base, 0u);
    // The class factor is at most 1.
    if (!(score_of(objectness, 1.0) >= threshold)) {
        return;
    }
    let best = best_class(base);
    let score = score_of(objectness, best.value);
    if (!(score >= threshold)) {
        return;
    }
    let cx = (f32(i) + offset(at(base, 1u))) * CELL_W;
    let cy = (f32(j) + offset(at(base, 2u))) * CELL_H;
    let w = logistic(at(base, 3u)) * INPUT_W;
    let h = logistic(at(base, 4u)) * INPUT_H;
    append(corners(cx, cy, w, h), score, best.class_id, cell);
}
