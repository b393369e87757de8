// Class-aware greedy non-maximum suppression, and the way back from model pixels to picture pixels.
// Twin: src/decode/nms.rs, bit-identical (but for what its header says of contraction and division).
//
// 1. Bitonic sort of at most 1024 candidates in workgroup memory, by score descending, then class, then anchor
//    ascending. The order in which the decode shaders appended does not matter.
// 2. From the best on: a candidate that is alive is kept and kills the later ones of its class with
//    inter > iou_threshold * union. Each thread holds four sorted candidates in registers.
// 3. The kept ones are written with picture = clamp((model - offset) / scale, 0, picture size).
//
// Bindings: 0 candidates (header + items, see shaders/common/candidates.wgsl), 1 detections (header of 16 words:
// count, number of candidates found, reserved; then Candidate items, best first).
// Tile: everything. Dispatch: one workgroup of 256 threads; 12 KiB of workgroup memory.

// include: candidates

@group(0) @binding(1) var<storage, read_write> detections: Detections;

const CAPACITY: u32 = 1024u;
const THREADS: u32 = 256u;
const NONE: u32 = 0xffffffffu;
// Items that fit into the detections buffer.
const ROOM: u32 = 1u;
const s: u32 = 0u;

struct Detections {
    count: u32,
    candidates: u32,
    reserved_0: vec2<u32>,
    reserved_1: array<vec4<u32>, 3>,
    items: array<Candidate>,
}

// Score bits while sorting; afterwards 1 for alive, 0 for dead.
var<workgroup> keys: array<u32, CAPACITY>;
// Index into candidates.items at each place of the sorted order.
var<workgroup> places: array<u32, CAPACITY>;
var<workgroup> kept: array<u32, CAPACITY>;
var<workgroup> shared_count: u32;

// True when place a belongs before place b.
fn is_before(a: u32, b: u32) -> bool {
    if (keys[a] != keys[b]) {
        return keys[a] > keys[b];
    }
    let ia = places[a];
    let ib = places[b];
    if (ia == NONE || ib == NONE) {
        return ia < ib;
    }
    if (candidates.items[ia].class_id != candidates.items[ib].class_id) {
        return candidates.items[ia].class_id < candidates.items[ib].class_id;
    }
    return candidates.items[ia].anchor < candidates.items[ib].anchor;
}

fn area(b: vec4<f32>) -> f32 {
    return (b.z - b.x) * (b.w - b.y);
}

// True when b overlaps a by more than the threshold.
fn suppresses(a: vec4<f32>, b: vec4<f32>, threshold: f32) -> bool {
    let w = max(min(a.z, b.z) - max(a.x, b.x), 0.0);
    let h = max(min(a.w, b.w) - max(a.y, b.y), 0.0);
    let inter = w * h;
    let both = area(a) + area(b) - inter;
    return inter > threshold * both;
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    if (lane == 0u) {
        shared_count = atomicLoad(&candidates.count);
    }
    let found = workgroupUniformLoad(&shared_count);
    let n = min(found, CAPACITY);
    for (var k = lane; k < CAPACITY; k += THREADS) {
        if (k < n) {
            keys[k] = bitcast<u32>(candidates.items[k].score);
            places[k] = k;
        } else {
            keys[k] = 0u;
            places[k] = NONE;
        }
    }
    workgroupBarrier();

    // The padding up to the next power of two sorts to the end: its place NONE is the largest.
    for (var run = 2u; run < 2u * n; run = run << 1u) {
        for (var step = run >> 1u; step > 0u; step = step >> 1u) {
            // Places beyond the power of two that covers n hold padding only: swapping it changes nothing.
            for (var k = lane; k < min(2u * n, CAPACITY); k += THREADS) {
                let other = k ^ step;
                if (other > k) {
                    let ascending = (k & run) == 0u;
                    if (is_before(other, k) == ascending) {
                        let key = keys[k];
                        keys[k] = keys[other];
                        keys[other] = key;
                        let place = places[k];
                        places[k] = places[other];
                        places[other] = place;
                    }
                }
            }
            workgroupBarrier();
        }
    }

    let iou_threshold = candidates.iou_threshold;
    let limit = min(min(candidates.max_detections, ROOM), CAPACITY);
    //unroll s 4
    let p_s = lane + THREADS * s;
    var bounds_s = vec4<f32>(0.0);
    var class_s = NONE;
    if (p_s < n) {
        bounds_s = candidates.items[places[p_s]].bounds;
        class_s = candidates.items[places[p_s]].class_id;
    }
    keys[p_s] = select(0u, 1u, p_s < n);
    //end

    var count = 0u;
    for (var i = 0u; i < n; i++) {
        // Its barriers also order the kills of the round before.
        if (workgroupUniformLoad(&keys[i]) == 0u) {
            continue;
        }
        if (count >= limit) {
            break;
        }
        let place = places[i];
        if (lane == 0u) {
            kept[count] = place;
        }
        count += 1u;
        let best = candidates.items[place].bounds;
        let class_id = candidates.items[place].class_id;
        //unroll s 4
        if (p_s > i && class_s == class_id && suppresses(best, bounds_s, iou_threshold)) {
            keys[p_s] = 0u;
        }
        //end
    }
    workgroupBarrier();

    let offset_px = candidates.offset_px.xyxy;
    let scale = candidates.scale.xyxy;
    let edge = vec4<f32>(candidates.picture_px.xyxy);
    for (var d = lane; d < count; d += THREADS) {
        var c = candidates.items[kept[d]];
        c.bounds = min(max((c.bounds - offset_px) / scale, vec4<f32>(0.0)), edge);
        detections.items[d] = c;
    }
    if (lane == 0u) {
        detections.count = count;
        detections.candidates = found;
        atomicStore(&candidates.count, 0u);
    }
}
