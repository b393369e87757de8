// From detections to rectangles: the list that overlay.wgsl draws, without the CPU in between.
//
// Formulae: an edge lies on floor(p + 1/2) of the box's coordinate p in target pixels; the rest is integer geometry,
// the same as in the twin, src/draw/layout.rs, to the last bit; a point p marks the pixel floor(p). All boxes come first,
// then all labels, then the points of all, each from the worst detection to the best.
//
// found:   what NMS wrote: HEADER_WORDS words (the number of detections, unused, the number of points of each, the word
//          where those begin), then 8 words a detection: f32 left, top, right, bottom (pixels of the picture), f32 score,
//          class, 1 unused, LABEL_ONLY where no box is drawn. Best first. The points: f32 x and y of each, in pixels of the picture.
// labels:  header, labels and glyphs; the layout stands at LabelTable in src/draw/layout.rs.
// overlay: arguments of an indirect draw (vertices, instances, first vertex, first instance), 4 unused words, then the
//          instances of 32 bytes. Bind it as vertex buffer from byte 32.
//
// Tile: the first thread gives the best labels their places, one after the other (32 at most: some hundred comparisons);
// then each thread takes a run of neighbouring detections and counts its rectangles; a scan gives every thread its place in
// the list. Dispatch: 1 workgroup, always.

const HEADER_WORDS: u32 = 16u;

const THREADS: u32 = 256u;
const LABEL_BASE: u32 = 16u;
const LABEL_WORDS: u32 = 8u;
const GLYPH_WORDS: u32 = 8u;
const DETECTION_WORDS: u32 = 8u;
const OUTLINE_PX: i32 = 1;
// Labels that look for a place, and how many places there are; as in the twin.
const PLACED_LABELS: u32 = 32u;
const PLACES: u32 = 7u;
const LABEL_ONLY: u32 = 1u;
const SOLID: u32 = 0u;
const GLYPH: u32 = 1u;

struct Instance {
    rect_px: vec4<i32>,
    texel_px: vec2<i32>,
    colour: u32,
    source: u32,
}

struct Overlay {
    // vertices, instances, first vertex, first instance
    draw: vec4<u32>,
    reserved: vec4<u32>,
    instances: array<Instance>,
}

@group(0) @binding(0) var<storage, read> found: array<u32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> overlay: Overlay;

var<workgroup> box_ends: array<u32, 256>;
var<workgroup> label_ends: array<u32, 256>;
var<workgroup> point_ends: array<u32, 256>;
var<workgroup> placed_bars: array<vec4<i32>, 32>;
var<workgroup> places: array<u32, 32>;
var<workgroup> boxes: array<vec4<i32>, 32>;

var<private> writing: bool;
var<private> next: u32;
var<private> target_px: vec2<i32>;

fn emit(rect_px: vec4<i32>, texel_px: vec2<i32>, colour: u32, source: u32) {
    let low = max(rect_px.xy, vec2<i32>(0));
    let high = min(rect_px.zw, target_px);
    if high.x <= low.x || high.y <= low.y {
        return;
    }
    if writing && next < arrayLength(&overlay.instances) {
        var texel = vec2<i32>(0);
        if source == GLYPH {
            texel = texel_px + low - rect_px.xy;
        }
        overlay.instances[next] = Instance(vec4<i32>(low, high), texel, colour, source);
    }
    next += 1u;
}

fn shrink(r: vec4<i32>, by_px: i32) -> vec4<i32> {
    return r + vec4<i32>(by_px, by_px, -by_px, -by_px);
}

fn ring(o: vec4<i32>, width_px: i32, colour: u32) {
    let i = shrink(o, width_px);
    if i.z <= i.x || i.w <= i.y {
        emit(o, vec2<i32>(0), colour, SOLID);
        return;
    }
    emit(vec4<i32>(o.x, o.y, o.z, i.y), vec2<i32>(0), colour, SOLID);
    emit(vec4<i32>(o.x, i.w, o.z, o.w), vec2<i32>(0), colour, SOLID);
    emit(vec4<i32>(o.x, i.y, i.x, i.w), vec2<i32>(0), colour, SOLID);
    emit(vec4<i32>(i.z, i.y, o.z, i.w), vec2<i32>(0), colour, SOLID);
}

// On the bits: a shader compiler may assume that no float is a NaN.
fn is_finite(bits: u32) -> bool {
    return (bits & 0x7F800000u) != 0x7F800000u;
}

struct Outer {
    rect_px: vec4<i32>,
    is_drawn: bool,
}

fn outer_rect(d: u32) -> Outer {
    let nothing = Outer(vec4<i32>(0), false);
    if !(is_finite(found[d]) && is_finite(found[d + 1u]) && is_finite(found[d + 2u]) && is_finite(found[d + 3u])) {
        return nothing;
    }
    if labels[label_entry(d) + 6u] != 0u {
        return nothing;
    }
    let half_line_px = i32(labels[8] / 2u);
    let side = vec2<f32>(target_px);
    let scale = vec2<f32>(bitcast<f32>(labels[4]), bitcast<f32>(labels[5]));
    let offset = vec2<f32>(bitcast<f32>(labels[6]), bitcast<f32>(labels[7]));
    let low_corner = vec2<f32>(bitcast<f32>(found[d]), bitcast<f32>(found[d + 1u]));
    let high_corner = vec2<f32>(bitcast<f32>(found[d + 2u]), bitcast<f32>(found[d + 3u]));
    let low = min(max(low_corner * scale + offset, vec2<f32>(0.0)), side);
    let high = min(max(high_corner * scale + offset, vec2<f32>(0.0)), side);
    // A 64th of a pixel is the least extent; it also turns boxes inside out away.
    let extent = high - low;
    if extent.x < 0.015625 || extent.y < 0.015625 {
        return nothing;
    }
    let low_px = min(vec2<i32>(floor(low + 0.5)), target_px - 1);
    let high_px = max(vec2<i32>(floor(high + 0.5)), low_px + 1);
    return Outer(vec4<i32>(max(low_px - half_line_px, vec2<i32>(0)), min(high_px + half_line_px, target_px)), true);
}

fn label_entry(d: u32) -> u32 {
    let last = labels[0] - 1u;
    return LABEL_BASE + LABEL_WORDS * min(found[d + 5u], last);
}

fn emit_box(d: u32) {
    if found[d + 7u] == LABEL_ONLY {
        return;
    }
    let outer = outer_rect(d);
    if !outer.is_drawn {
        return;
    }
    let line_px = i32(labels[8]);
    let entry = label_entry(d);
    ring(shrink(outer.rect_px, -OUTLINE_PX), line_px + 2 * OUTLINE_PX, labels[entry + 5u]);
    ring(outer.rect_px, line_px, labels[entry + 3u]);
}

fn emit_glyph(glyph: u32, pen_px: vec2<i32>, ink: u32) -> i32 {
    let g = labels[12] + GLYPH_WORDS * glyph;
    let top_left = pen_px + vec2<i32>(bitcast<i32>(labels[g + 4u]), bitcast<i32>(labels[g + 5u]));
    let size = vec2<i32>(i32(labels[g + 2u]), i32(labels[g + 3u]));
    let texel = vec2<i32>(i32(labels[g]), i32(labels[g + 1u]));
    emit(vec4<i32>(top_left, top_left + size), texel, ink, GLYPH);
    return pen_px.x + i32(labels[g + 6u]);
}

fn advance(glyph: u32) -> i32 {
    return i32(labels[labels[12] + GLYPH_WORDS * glyph + 6u]);
}

// Hundredths of a score, rounded half up; integer arithmetic, so that no compiler can fuse it.
fn hundredths(score_bits: u32) -> u32 {
    if !is_finite(score_bits) {
        return 0u;
    }
    let fraction = u32(min(max(bitcast<f32>(score_bits), 0.0), 1.0) * 16777216.0);
    return (fraction * 100u + 8388608u) >> 24u;
}

// What stands in a label's bar.
struct Label {
    // Of the box.
    outer_px: vec4<i32>,
    size_px: vec2<i32>,
    glyphs: u32,
    has_score: bool,
    digits: vec3<u32>,
    is_drawn: bool,
}

fn label_of(d: u32) -> Label {
    let outer = outer_rect(d);
    let entry = label_entry(d);
    let has_score = (labels[1] & 2u) != 0u;
    var glyphs = 0u;
    if (labels[1] & 1u) != 0u {
        glyphs = labels[entry + 1u];
    }
    let digit_0 = labels[13];
    let stop = labels[14];
    let space = labels[15];
    let h = hundredths(found[d + 4u]);
    let digits = vec3<u32>(digit_0 + h / 100u, digit_0 + h / 10u % 10u, digit_0 + h % 10u);

    var text_px = 0;
    if glyphs > 0u {
        text_px += i32(labels[entry + 2u]);
    }
    if has_score {
        if glyphs > 0u {
            text_px += advance(space);
        }
        text_px += advance(digits.x) + advance(stop) + advance(digits.y) + advance(digits.z);
    }
    let size_px = vec2<i32>(text_px + 2 * i32(labels[10]), i32(labels[9]));
    return Label(outer.rect_px, size_px, glyphs, has_score, digits, outer.is_drawn && (glyphs > 0u || has_score));
}

// A label's bar at a place: above the box (inside it where there is no room), below it, or above with room for another bar in
// between, each at its left or its right; at last inside. Always inside the target.
fn bar_of(label: Label, place: u32) -> vec4<i32> {
    let o = label.outer_px;
    let size = label.size_px;
    let line_px = i32(labels[8]);
    let above = o.y + line_px - size.y;
    var left = o.x;
    if place % 2u == 1u {
        left = o.z - size.x;
    }
    var top = o.y;
    if place / 2u == 0u && above >= 0 {
        top = above;
    } else if place / 2u == 1u {
        top = o.w - line_px;
    } else if place / 2u == 2u {
        top = above - size.y - 3 * OUTLINE_PX;
    }
    let corner = max(min(vec2<i32>(left, top), target_px - size), vec2<i32>(0));
    return vec4<i32>(corner, corner + size);
}

// Whether two rectangles share a pixel; an empty first one shares none.
fn overlap(a: vec4<i32>, b: vec4<i32>) -> bool {
    return a.z > a.x && a.w > a.y && a.z > b.x && b.z > a.x && a.w > b.y && b.w > a.y;
}

// Places of the best labels, one after the other: each takes the first where it covers neither a bar before it nor the box
// of another, else the first where it covers no bar, else the first.
fn place_labels(count: u32) {
    let placed = min(count, PLACED_LABELS);
    for (var i = 0u; i < placed; i++) {
        let label = label_of(HEADER_WORDS + DETECTION_WORDS * i);
        var chosen = 0u;
        var is_found = false;
        if label.is_drawn {
            for (var place = 0u; place < PLACES; place++) {
                // One pixel is left between the dark lines of neighbours.
                let room = shrink(bar_of(label, place), -2 * OUTLINE_PX);
                var covers_bar = false;
                for (var j = 0u; j < i; j++) {
                    covers_bar = covers_bar || overlap(placed_bars[j], room);
                }
                if covers_bar {
                    continue;
                }
                if !is_found {
                    chosen = place;
                    is_found = true;
                }
                var covers_box = false;
                for (var j = 0u; j < placed; j++) {
                    covers_box = covers_box || (j != i && overlap(boxes[j], room));
                }
                if !covers_box {
                    chosen = place;
                    break;
                }
            }
        }
        placed_bars[i] = vec4<i32>(0);
        if label.is_drawn {
            placed_bars[i] = bar_of(label, chosen);
        }
        places[i] = chosen;
    }
}

fn emit_label(d: u32) {
    let label = label_of(d);
    if !label.is_drawn {
        return;
    }
    let entry = label_entry(d);
    let glyphs = label.glyphs;
    let digits = label.digits;
    let index = (d - HEADER_WORDS) / DETECTION_WORDS;
    var place = 0u;
    if index < PLACED_LABELS {
        place = places[index];
    }
    let bar = bar_of(label, place);
    emit(shrink(bar, -OUTLINE_PX), vec2<i32>(0), labels[entry + 5u], SOLID);
    emit(bar, vec2<i32>(0), labels[entry + 3u], SOLID);

    let ink = labels[entry + 4u];
    let baseline = bar.y + i32(labels[11]);
    var pen = bar.x + i32(labels[10]);
    for (var k = 0u; k < glyphs; k++) {
        pen = emit_glyph(labels[labels[entry] + k], vec2<i32>(pen, baseline), ink);
    }
    if label.has_score {
        if glyphs > 0u {
            pen += advance(labels[15]);
        }
        pen = emit_glyph(digits.x, vec2<i32>(pen, baseline), ink);
        pen = emit_glyph(labels[14], vec2<i32>(pen, baseline), ink);
        pen = emit_glyph(digits.y, vec2<i32>(pen, baseline), ink);
        pen = emit_glyph(digits.z, vec2<i32>(pen, baseline), ink);
    }
}

fn emit_points(d: u32) {
    let entry = label_entry(d);
    if labels[entry + 6u] != 0u {
        return;
    }
    let half_px = i32(labels[8]);
    let scale = vec2<f32>(bitcast<f32>(labels[4]), bitcast<f32>(labels[5]));
    let offset = vec2<f32>(bitcast<f32>(labels[6]), bitcast<f32>(labels[7]));
    let first = found[3] + 2u * found[2] * ((d - HEADER_WORDS) / DETECTION_WORDS);
    for (var m = 0u; m < found[2]; m++) {
        let x = found[first + 2u * m];
        let y = found[first + 2u * m + 1u];
        if !(is_finite(x) && is_finite(y)) {
            continue;
        }
        let at = floor(vec2<f32>(bitcast<f32>(x), bitcast<f32>(y)) * scale + offset);
        if any(at < vec2<f32>(0.0)) || any(at >= vec2<f32>(target_px)) {
            continue;
        }
        let pixel = vec2<i32>(at);
        let square = vec4<i32>(pixel - half_px, pixel + half_px + 1);
        emit(shrink(square, -OUTLINE_PX), vec2<i32>(0), labels[entry + 5u], SOLID);
        emit(square, vec2<i32>(0), labels[entry + 3u], SOLID);
    }
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) thread: u32) {
    target_px = vec2<i32>(i32(labels[2]), i32(labels[3]));
    let count = min(found[0], (max(arrayLength(&found), HEADER_WORDS) - HEADER_WORDS) / DETECTION_WORDS);
    let run = (count + THREADS - 1u) / THREADS;
    let first = min(thread * run, count);
    let end = min(first + run, count);

    if thread < min(count, PLACED_LABELS) {
        // Without their edges, which may be covered: a bar above one of two boxes side by side reaches into the other's.
        let outer = outer_rect(HEADER_WORDS + DETECTION_WORDS * thread).rect_px;
        boxes[thread] = shrink(outer, i32(labels[8]) + 2 * OUTLINE_PX);
    }
    workgroupBarrier();
    if thread == 0u {
        place_labels(count);
    }
    workgroupBarrier();

    writing = false;
    next = 0u;
    for (var k = first; k < end; k++) {
        emit_box(HEADER_WORDS + DETECTION_WORDS * (count - 1u - k));
    }
    let box_rects = next;
    next = 0u;
    for (var k = first; k < end; k++) {
        emit_label(HEADER_WORDS + DETECTION_WORDS * (count - 1u - k));
    }
    let label_rects = next;
    next = 0u;
    for (var k = first; k < end; k++) {
        emit_points(HEADER_WORDS + DETECTION_WORDS * (count - 1u - k));
    }
    let point_rects = next;

    // Inclusive scan of the three counts (Hillis and Steele).
    box_ends[thread] = box_rects;
    label_ends[thread] = label_rects;
    point_ends[thread] = point_rects;
    workgroupBarrier();
    for (var step = 1u; step < THREADS; step *= 2u) {
        var below = vec3<u32>(0u);
        if thread >= step {
            below = vec3<u32>(box_ends[thread - step], label_ends[thread - step], point_ends[thread - step]);
        }
        workgroupBarrier();
        box_ends[thread] += below.x;
        label_ends[thread] += below.y;
        point_ends[thread] += below.z;
        workgroupBarrier();
    }
    let all_boxes = box_ends[THREADS - 1u];
    let all_labels = label_ends[THREADS - 1u];
    let all = all_boxes + all_labels + point_ends[THREADS - 1u];

    writing = true;
    next = box_ends[thread] - box_rects;
    for (var k = first; k < end; k++) {
        emit_box(HEADER_WORDS + DETECTION_WORDS * (count - 1u - k));
    }
    next = all_boxes + label_ends[thread] - label_rects;
    for (var k = first; k < end; k++) {
        emit_label(HEADER_WORDS + DETECTION_WORDS * (count - 1u - k));
    }
    next = all_boxes + all_labels + point_ends[thread] - point_rects;
    for (var k = first; k < end; k++) {
        emit_points(HEADER_WORDS + DETECTION_WORDS * (count - 1u - k));
    }
    if thread == 0u {
        overlay.draw = vec4<u32>(4u, min(all, arrayLength(&overlay.instances)), 0u, 0u);
        overlay.reserved = vec4<u32>(0u);
    }
}
