// Candidates from boxes that the graph itself has decoded (YOLOv8 family; YOLOv5 and v6 with an objectness).
// Twin: src/decode/heads/yolo_v8.rs.
//
// Anchor a: cx cy w h in pixels of the input, then an objectness if OBJECTNESS, then class probabilities.
// score = best class (* objectness). With TURNED column ANGLE holds an angle in radians, and centre, size and angle are
// appended as they are: NMS makes upright boxes of them.
// Bindings: 0 candidates, 1 the output's buffer, number k of anchor a at OFFSET + a ROW_STRIDE + k COLUMN_STRIDE.
// Tile: one thread per anchor. Dispatch: ceil(ANCHORS / 64) workgroups, spread over x and y (ROW threads per y).

// include: candidates
// include: best_class

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
const TURNED: bool = false;
const ANGLE: u32 = 5u;

fn at(base: u32, column: u32) -> f32 {
    return f32(src[base + column * COLUMN_STRIDE]);
}

fn class_at(base: u32, c: u32) -> f32 {
    return at(base, FIRST_CLASS + c);
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
    let best = best_class(base);
    let score = objectness * best.value;
    if (!(score >= threshold)) {
        return;
    }
    let centre_size = vec4<f32>(at(base, 0u), at(base, 1u), at(base, 2u), at(base, 3u));
    if (TURNED) {
        append_turned(centre_size, bitcast<u32>(at(base, ANGLE)), score, best.class_id, anchor);
    } else {
        append(corners(centre_size.x, centre_size.y, centre_size.z, centre_size.w), score, best.class_id, anchor);
    }
}
