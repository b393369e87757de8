// Candidates from boxes that the graph itself has decoded (YOLOv8 family; YOLOv5 and v6 with an objectness).
// Twin: src/decode/heads/yolo_v8.rs.
//
// Anchor a: cx cy w h in pixels of the input, then an objectness if OBJECTNESS, then class probabilities.
// score = best class (* objectness).
// Bindings: 0 candidates, 1 the output's buffer, number k of anchor a at OFFSET + a ROW_STRIDE + k COLUMN_STRIDE.
// Tile: one thread per anchor. Dispatch: ceil(ANCHORS / 64) workgroups, spread over x and y (ROW threads per y).

// include: candidates

alias S = f32;
@group(0) @binding(1) var<storage, read> src: array<S>;

const ROW: u32 = 64u;
const ANCHORS: u32 = 1u;
const CLASSES: u32 = 1u;
const OBJECTNESS: bool = false;
const OFFSET: u32 = 0u;
const ROW_STRIDE: u32 = 1u;
const COLUMN_STRIDE: u32 = 1u;
const FIRST_CLASS: u32 = 4u;
const k: u32 = 0u;

fn at(base: u32, column: u32) -> f32 {
    return f32(src[base + column * COLUMN_STRIDE]);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let anchor = id.x + id.y * ROW;
    if (anchor >= ANCHORS) {
        return;
    }
    let base = OFFSET + anchor * ROW_STRIDE;
    let threshold = candidates.score_threshold;
    var objectness = 1.0;
    if (OBJECTNESS) {
        objectness = at(base, 4u);
        if (!(objectness >= threshold)) {
            return;
        }
    }
    var best = -3.0e38;
    var class_id = 0u;
    for (var c = 0u; c + 4u <= CLASSES; c += 4u) {
        //unroll k 4
        let v_k = at(base, FIRST_CLASS + c + k);
        //end
        //unroll k 4
        if (v_k > best) {
            best = v_k;
            class_id = c + k;
        }
        //end
    }
    for (var c = CLASSES & ~3u; c < CLASSES; c++) {
        let v = at(base, FIRST_CLASS + c);
        if (v > best) {
            best = v;
            class_id = c;
        }
    }
    let score = objectness * best;
    if (!(score >= threshold)) {
        return;
    }
    append(corners(at(base, 0u), at(base, 1u), at(base, 2u), at(base, 3u)), score, class_id, anchor);
}
