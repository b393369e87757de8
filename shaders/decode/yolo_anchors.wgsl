// Candidates from one raw map with anchor boxes (Darknet's [yolo], YOLOv5). Twin: src/decode/heads/yolo_anchors.rs.
//
// Number k of anchor a in cell (i, j), k: x y w h objectness classes. cx = (i + p(x) SCALE_X_Y - BETA) CELL_W,
// score = p(objectness) p(class), w = e^w A_w, with SQUARE (2 p(w))^2 A_w; p = logistic, with ACTIVATED p(v) = v.
// Bindings: 0 candidates, 1 the map's buffer, element (a, k, y, x) at OFFSET + a ANCHOR_STRIDE + k NUMBER_STRIDE +
// y Y_STRIDE + x X_STRIDE.
// Tile: one thread per anchor box, counted anchor, row, column. Dispatch: ceil(BOXES / 64) workgroups, spread over
// x and y (ROW threads per y).

// include: candidates

alias S = f32;
@group(0) @binding(1) var<storage, read> src: array<S>;

const ROW: u32 = 64u;
const BOXES: u32 = 1u;
const COLS: u32 = 1u;
const ROWS: u32 = 1u;
const CLASSES: u32 = 1u;
// Number of the map's first anchor box.
const FIRST: u32 = 0u;
const CELL_W: f32 = 32.0;
const CELL_H: f32 = 32.0;
const SCALE_X_Y: f32 = 1.0;
const BETA: f32 = 0.0;
const ACTIVATED: bool = false;
const SQUARE: bool = false;
const OFFSET: u32 = 0u;
const ANCHOR_STRIDE: u32 = 6u;
const NUMBER_STRIDE: u32 = 1u;
const Y_STRIDE: u32 = 6u;
const X_STRIDE: u32 = 6u;
const k: u32 = 0u;

fn anchor_px(a: u32) -> vec2<f32> { return vec2<f32>(10.0, 10.0); }

fn at(base: u32, number: u32) -> f32 {
    return f32(src[base + number * NUMBER_STRIDE]);
}

fn probability(x: f32) -> f32 {
    if (ACTIVATED) {
        return x;
    }
    return logistic(x);
}

fn size(x: f32) -> f32 {
    if (SQUARE) {
        return (probability(x) * 2.0) * (probability(x) * 2.0);
    }
    return side(x);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let index = id.x + id.y * ROW;
    if (index >= BOXES) {
        return;
    }
    let i = index % COLS;
    let j = (index / COLS) % ROWS;
    let a = index / (COLS * ROWS);
    let base = OFFSET + j * Y_STRIDE + i * X_STRIDE + a * ANCHOR_STRIDE;
    let threshold = candidates.score_threshold;
    let objectness = probability(at(base, 4u));
    if (!(objectness >= threshold)) {
        return;
    }
    var best = -3.0e38;
    var class_id = 0u;
    for (var c = 0u; c + 4u <= CLASSES; c += 4u) {
        //unroll k 4
        let v_k = at(base, 5u + c + k);
        //end
        //unroll k 4
        if (v_k > best) {
            best = v_k;
            class_id = c + k;
        }
        //end
    }
    for (var c = CLASSES & ~3u; c < CLASSES; c++) {
        let v = at(base, 5u + c);
        if (v > best) {
            best = v;
            class_id = c;
        }
    }
    let score = objectness * probability(best);
    if (!(score >= threshold)) {
        return;
    }
    let cx = (f32(i) + probability(at(base, 0u)) * SCALE_X_Y - BETA) * CELL_W;
    let cy = (f32(j) + probability(at(base, 1u)) * SCALE_X_Y - BETA) * CELL_H;
    let anchor = anchor_px(a);
    let w = size(at(base, 2u)) * anchor.x;
    let h = size(at(base, 3u)) * anchor.y;
    append(corners(cx, cy, w, h), score, class_id, FIRST + index);
}
