// Candidates from tables of scores and boxes: SSD and detectors of faces with priors, tables that are decoded in the graph.
// Twin: src/decode/heads/ssd.rs.
//
// Score: the best of CLASSES columns from FIRST_CLASS on; ACTIVATION 0 as it is, 1 logistic, 2 softmax over the columns
// 0 to FIRST_CLASS + CLASSES. WITH_IOU: sqrt(score * iou). Box from the numbers d, and from a prior with centre p, size q:
// CODE 0: corners d, in units of UNIT_W and UNIT_H px
// CODE 1: centre p + CENTRE_VARIANCE d q, size q e^(SIZE_VARIANCE d)
// CODE 2: centre p + d q, size d q
// CODE 3: corners p - d q, p + d q
// Bindings: 0 candidates, 1 buffer of the scores, 2 buffer of the boxes, element (row, k) at
// OFFSET + row ROW_STRIDE + k COLUMN_STRIDE of each; 3 nothing, the buffer of the iou, or the priors (centre and size in
// pixels, f32), by anchor.
// Tile: one thread per row. Dispatch: ceil(ANCHORS / 64) workgroups, spread over x and y (ROW threads per y).

// include: candidates
// include: best_class

alias S = f32;
@group(0) @binding(1) var<storage, read> score_src: array<S>;
@group(0) @binding(2) var<storage, read> box_src: array<S>;
@group(0) @binding(3) var<storage, read> iou: array<S>;

const ROW: u32 = 64u;
const ANCHORS: u32 = 1u;
// Anchor number of the table's first row.
const FIRST: u32 = 0u;
const CLASSES: u32 = 1u;
const FIRST_CLASS: u32 = 1u;
const ACTIVATION: u32 = 0u;
const WITH_IOU: bool = false;
const CODE: u32 = 0u;
const UNIT_W: f32 = 320.0;
const UNIT_H: f32 = 240.0;
const CENTRE_VARIANCE: f32 = 0.1;
const SIZE_VARIANCE: f32 = 0.2;
// Where in its cell a prior's centre lies.
const POINT: f32 = 0.5;
const CLIP_PX = vec2<f32>(320.0, 240.0);
const SCORE_OFFSET: u32 = 0u;
const SCORE_ROW_STRIDE: u32 = 2u;
const SCORE_COLUMN_STRIDE: u32 = 1u;
const BOX_OFFSET: u32 = 0u;
const BOX_ROW_STRIDE: u32 = 4u;
const BOX_COLUMN_STRIDE: u32 = 1u;

fn number(base: u32, column: u32) -> f32 {
    return f32(box_src[base + column * BOX_COLUMN_STRIDE]);
}

fn score_at(row: u32, column: u32) -> f32 {
    return f32(score_src[SCORE_OFFSET + row * SCORE_ROW_STRIDE + column * SCORE_COLUMN_STRIDE]);
}

fn class_at(row: u32, c: u32) -> f32 {
    return score_at(row, FIRST_CLASS + c);
}

// Centre and size of a prior, clipped.
fn prior(i: u32, j: u32, stride: f32, side_px: f32) -> vec4<f32> {
    let centre = min((vec2<f32>(f32(i), f32(j)) + POINT) * stride, CLIP_PX);
    return vec4<f32>(centre, min(vec2<f32>(side_px), CLIP_PX));
}

fn prior_of(anchor: u32) -> vec4<f32> { return prior(anchor, 0u, 8.0, 10.0); }

fn iou_of(row: u32) -> f32 { return f32(iou[row]); }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x + id.y * ROW;
    if (row >= ANCHORS) {
        return;
    }
    let best = best_class(row);
    var score = best.value;
    if (ACTIVATION == 1u) {
        score = logistic(best.value);
    } else if (ACTIVATION == 2u) {
        var sum = 0.0;
        for (var c = 0u; c < FIRST_CLASS + CLASSES; c++) {
            // Capped where the share is nothing, so that the sum stays finite.
            sum += exp(min(score_at(row, c) - best.value, 60.0));
        }
        score = 1.0 / sum;
    }
    if (WITH_IOU) {
        score = sqrt(score * clamp(iou_of(row), 0.0, 1.0));
    }
    if (!(score >= candidates.score_threshold)) {
        return;
    }
    let base = BOX_OFFSET + row * BOX_ROW_STRIDE;
    let d = vec4<f32>(number(base, 0u), number(base, 1u), number(base, 2u), number(base, 3u));
    let p = prior_of(FIRST + row);
    var bounds = vec4<f32>(d.x * UNIT_W, d.y * UNIT_H, d.z * UNIT_W, d.w * UNIT_H);
    if (CODE == 1u) {
        let centre = p.xy + d.xy * CENTRE_VARIANCE * p.zw;
        bounds = corners(centre.x, centre.y, p.z * side(d.z * SIZE_VARIANCE), p.w * side(d.w * SIZE_VARIANCE));
    } else if (CODE == 2u) {
        let centre = p.xy + d.xy * p.zw;
        bounds = corners(centre.x, centre.y, d.z * p.z, d.w * p.w);
    } else if (CODE == 3u) {
        bounds = vec4<f32>(p.xy - d.xy * p.zw, p.xy + d.zw * p.zw);
    }
    append(bounds, score, best.class_id, FIRST + row);
}
