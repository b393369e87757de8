// What the decode shaders append to and NMS reads: always binding 0. Rust: CandidatesHeader (64 bytes) and RawDetection
// (32 bytes each) in src/decode.
@group(0) @binding(0) var<storage, read_write> candidates: Candidates;

struct Candidate {
    // left, top, right, bottom in pixels of the network's input; of a turned box centre and size
    bounds: vec4<f32>,
    score: f32,
    class_id: u32,
    anchor: u32,
    // of a turned box the bits of its angle
    angle: u32,
}

struct Candidates {
    // how many were found: at most one an anchor, so that all fit
    count: atomic<u32>,
    capacity: u32,
    score_threshold: f32,
    iou_threshold: f32,
    max_detections: u32,
    reserved_0: u32,
    picture_px: vec2<u32>,
    // model = picture * scale + offset
    scale: vec2<f32>,
    offset_px: vec2<f32>,
    reserved_1: vec4<u32>,
    items: array<Candidate>,
}

fn append(bounds: vec4<f32>, score: f32, class_id: u32, anchor: u32) {
    append_turned(bounds, 0u, score, class_id, anchor);
}

fn append_turned(centre_size: vec4<f32>, angle: u32, score: f32, class_id: u32, anchor: u32) {
    let at = atomicAdd(&candidates.count, 1u);
    if (at < candidates.capacity) {
        candidates.items[at] = Candidate(centre_size, score, class_id, anchor, angle);
    }
}

// Corners from centre and size.
fn corners(cx: f32, cy: f32, w: f32, h: f32) -> vec4<f32> {
    let half_w = w * 0.5;
    let half_h = h * 0.5;
    return vec4<f32>(cx - half_w, cy - half_h, cx + half_w, cy + half_h);
}

// Logistic function; the argument is clamped so that exp stays finite.
fn logistic(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-clamp(x, -80.0, 80.0)));
}

// exp for box sides: capped at e^20, far beyond any picture, so that areas stay finite.
fn side(x: f32) -> f32 {
    return exp(min(x, 20.0));
}
