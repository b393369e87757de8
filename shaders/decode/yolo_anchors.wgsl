// Candidates from one raw map with anchor boxes (Darknet's heads, YOLOv2 to v5, Yolo-FastestV2).
// Twin: src/decode/heads/yolo_anchors.rs.
//
// Anchor a in cell (i, j) has numbers x y w h, an objectness and classes. cx = (i + p(x) SCALE_X_Y - BETA) CELL_W + SHIFT w;
// w = e^w A_w, with SIZES 1 (2 p(w))^2 A_w, with SIZES 2 max(w, 0) A_w; score = p(objectness) p(class), with SOFTMAX the
// softmax of the class, with DEVIATIONS times 1 - mean of p(deviation). p = logistic, with ACTIVATED p(v) = v. y and h alike.
// Bindings: 0 candidates, 1 the map's buffer. Number k of a box at BOX_OFFSET + a BOX_ANCHOR + k BOX_NUMBER + j BOX_Y +
// i BOX_X, its deviation DEVIATION elements further; objectness and class c alike.
// Tile: one thread per anchor box, counted anchor, row, column. Dispatch: ceil(BOXES / 64) workgroups, spread over
// x and y (ROW threads per y).

// include: candidates
// include: best_class

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
const SHIFT: f32 = 0.0;
// No class is above 1, so that a low objectness rules the box out.
const GATED: bool = true;
const ACTIVATED: bool = false;
const SOFTMAX: bool = false;
const DEVIATIONS: bool = false;
const SIZES: u32 = 0u;
const BOX_OFFSET: u32 = 0u;
const BOX_ANCHOR: u32 = 6u;
const BOX_NUMBER: u32 = 1u;
const BOX_Y: u32 = 6u;
const BOX_X: u32 = 6u;
const DEVIATION: u32 = 1u;
const OBJECTNESS_OFFSET: u32 = 4u;
const OBJECTNESS_ANCHOR: u32 = 6u;
const OBJECTNESS_Y: u32 = 6u;
const OBJECTNESS_X: u32 = 6u;
const CLASS_OFFSET: u32 = 5u;
const CLASS_ANCHOR: u32 = 6u;
const CLASS_NUMBER: u32 = 1u;
const CLASS_Y: u32 = 6u;
const CLASS_X: u32 = 6u;

fn anchor_px(a: u32) -> vec2<f32> { return vec2<f32>(10.0, 10.0); }

fn class_at(base: u32, c: u32) -> f32 {
    return f32(src[base + c * CLASS_NUMBER]);
}

fn probability(x: f32) -> f32 {
    if (ACTIVATED) {
        return x;
    }
    return logistic(x);
}

fn size(x: f32) -> f32 {
    if (SIZES == 1u) {
        return (probability(x) * 2.0) * (probability(x) * 2.0);
    } else if (SIZES == 2u) {
        return max(x, 0.0);
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
    let threshold = candidates.score_threshold;
    let objectness_at = OBJECTNESS_OFFSET + a * OBJECTNESS_ANCHOR + j * OBJECTNESS_Y + i * OBJECTNESS_X;
    let objectness = probability(f32(src[objectness_at]));
    if (GATED && !(objectness >= threshold)) {
        return;
    }
    let classes_at = CLASS_OFFSET + a * CLASS_ANCHOR + j * CLASS_Y + i * CLASS_X;
    let best = best_class(classes_at);
    var score = objectness;
    if (SOFTMAX) {
        var sum = 0.0;
        for (var c = 0u; c < CLASSES; c++) {
            sum += exp(class_at(classes_at, c) - best.value);
        }
        score *= 1.0 / sum;
    } else {
        score *= probability(best.value);
    }
    let base = BOX_OFFSET + a * BOX_ANCHOR + j * BOX_Y + i * BOX_X;
    if (DEVIATIONS) {
        var doubt = 0.0;
        for (var k = 0u; k < 4u; k++) {
            doubt += probability(f32(src[base + k * BOX_NUMBER + DEVIATION]));
        }
        score *= 1.0 - doubt * 0.25;
    }
    if (!(score >= threshold)) {
        return;
    }
    let anchor = anchor_px(a);
    let w = size(f32(src[base + 2u * BOX_NUMBER])) * anchor.x;
    let h = size(f32(src[base + 3u * BOX_NUMBER])) * anchor.y;
    let x = (f32(i) + probability(f32(src[base])) * SCALE_X_Y - BETA) * CELL_W;
    let y = (f32(j) + probability(f32(src[base + BOX_NUMBER])) * SCALE_X_Y - BETA) * CELL_H;
    append(corners(x + SHIFT * w, y + SHIFT * h, w, h), score, best.class_id, FIRST + index);
}
