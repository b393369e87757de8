// What changes from frame to frame. Rust: FrameParams in src/letterbox.rs (64 bytes).
struct FrameParams {
    picture_px: vec2<u32>,
    row_bytes: u32,
    max_detections: u32,
    // model = picture * scale + offset
    scale: vec2<f32>,
    offset_px: vec2<f32>,
    content_px: vec2<u32>,
    score_threshold: f32,
    iou_threshold: f32,
    line_px: f32,
    text_px: f32,
    reserved: vec2<u32>,
}
