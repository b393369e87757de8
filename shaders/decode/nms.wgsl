// Class-aware greedy non-maximum suppression, and the way back from model pixels to picture pixels.
// Twin: src/decode/nms.rs, bit-identical with IoU (but for what its header says of contraction and division).
//
// The order is by score descending, then class, then anchor ascending; no two candidates have the same anchor. The order
// in which the decode shaders appended does not matter. Candidates are taken in rounds of the next best, at most 1024,
// until all were seen or the detections are full; nearly always one round is enough.
// 1. More than 1024 left: radix selection of the next best 512 to 1024, 8 bits of the key (score, class, anchor) at a time.
// 2. Bitonic sort of the round in workgroup memory.
// 3. What an earlier round kept kills its rivals in this one.
// 4. From the best on: a candidate that is alive is kept and kills the later ones of its class with
//    overlap > iou_threshold. Each thread holds four sorted candidates in registers.
// Overlap, by SUPPRESSION: 0 none; 1 inter / union; 2 inter / union - (d^2 / c^2)^BETA, d between the centres and c the
// diagonal of the box around both; 3 probabilistic IoU of turned boxes, which are written as the upright boxes around them.
// Then the kept ones are written with picture = clamp((model - offset) / scale, 0, picture size).
//
// Bindings: 0 candidates (header + items, see shaders/common/candidates.wgsl), 1 detections (header of 16 words:
// count, number of candidates found, 2 that stay as they are, reserved; then Candidate items, best first).
// Tile: everything. Dispatch: one workgroup of 256 threads; 13 KiB of workgroup memory.

// include: candidates
// include: rotated

@group(0) @binding(1) var<storage, read_write> detections: Detections;

// Most candidates of a round.
const CAPACITY: u32 = 1024u;
const THREADS: u32 = 256u;
const NONE: u32 = 0xffffffffu;
// Items that fit into the detections buffer.
const ROOM: u32 = 1u;
const SUPPRESSION: u32 = 1u;
const BETA: f32 = 0.6;
const s: u32 = 0u;

struct Detections {
    count: u32,
    candidates: u32,
    // points of a detection and the word where they begin: the host's, see points.wgsl
    points: vec2<u32>,
    reserved: array<vec4<u32>, 3>,
    items: array<Candidate>,
}

// Score bits while sorting; afterwards 1 for alive, 0 for dead.
var<workgroup> keys: array<u32, CAPACITY>;
// Index into candidates.items at each place of the sorted order.
var<workgroup> places: array<u32, CAPACITY>;
var<workgroup> kept: array<u32, CAPACITY>;
var<workgroup> shared_count: u32;
// Candidates by 8 bits of their key, while the next round is selected.
var<workgroup> histogram: array<atomic<u32>, 256>;
// What thread 0 found in the histogram: the first digit that is too many, how many come before it, and how many in all.
var<workgroup> shared_digit: u32;
var<workgroup> shared_before: u32;
var<workgroup> shared_fill: atomic<u32>;

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

// What overlaps are reckoned from: bounds; of a turned box its centre, and the covariance that stands for it.
struct Shape {
    bounds: vec4<f32>,
    covariance: vec3<f32>,
}

fn shape_of(item: u32) -> Shape {
    let bounds = candidates.items[item].bounds;
    if (SUPPRESSION == 3u) {
        return Shape(bounds, covariance(bounds.zw, bitcast<f32>(candidates.items[item].angle)));
    }
    return Shape(bounds, vec3<f32>(0.0));
}

// True when b overlaps a by more than the threshold.
fn suppresses(of_a: Shape, of_b: Shape, threshold: f32) -> bool {
    if (SUPPRESSION == 0u) {
        return false;
    }
    let a = of_a.bounds;
    let b = of_b.bounds;
    if (SUPPRESSION == 3u) {
        return overlap(a.xy - b.xy, of_a.covariance, of_b.covariance) > threshold;
    }
    let w = max(min(a.z, b.z) - max(a.x, b.x), 0.0);
    let h = max(min(a.w, b.w) - max(a.y, b.y), 0.0);
    let inter = w * h;
    let both = area(a) + area(b) - inter;
    if (SUPPRESSION == 2u) {
        let around = max(a.zw, b.zw) - min(a.xy, b.xy);
        let diagonal = dot(around, around);
        let between = (a.xy + a.zw - b.xy - b.zw) * 0.5;
        var apart = 0.0;
        if (diagonal > 0.0) {
            apart = pow(dot(between, between) / diagonal, BETA);
        }
        return inter > (threshold + apart) * both;
    }
    return inter > threshold * both;
}

// Place of a candidate in the order, as three words compared one after the other, smallest first. Scores are not
// negative, and for those the bits order as the numbers do.
fn key_of(item: u32) -> vec3<u32> {
    return vec3<u32>(~bitcast<u32>(candidates.items[item].score), candidates.items[item].class_id, candidates.items[item].anchor);
}

fn is_less(a: vec3<u32>, b: vec3<u32>) -> bool {
    if (a.x != b.x) {
        return a.x < b.x;
    }
    if (a.y != b.y) {
        return a.y < b.y;
    }
    return a.z < b.z;
}

// Puts the best of those of `found` candidates that come after `last` (all, in the first round) into places: all if they
// fit, else between half and all of the room. Gives their number. Keys and the rest of places are ready to be sorted.
fn select_round(lane: u32, found: u32, is_first: bool, last: vec3<u32>) -> u32 {
    // Keys with these upper bits are still in question; all before them are taken.
    var prefix = vec3<u32>(0u);
    var mask = vec3<u32>(0u);
    var taken = 0u;
    var takes_all = false;
    for (var digit = 0u; digit < 12u; digit++) {
        let word = digit / 4u;
        let shift = 24u - 8u * (digit % 4u);
        atomicStore(&histogram[lane], 0u);
        workgroupBarrier();
        for (var k = lane; k < found; k += THREADS) {
            let key = key_of(k);
            if ((is_first || is_less(last, key)) && all((key & mask) == prefix)) {
                atomicAdd(&histogram[(key[word] >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        if (lane == 0u) {
            var before = taken;
            var d = 0u;
            for (; d < 256u; d++) {
                let more = before + atomicLoad(&histogram[d]);
                if (more > CAPACITY) {
                    break;
                }
                before = more;
            }
            shared_digit = d;
            shared_before = before;
        }
        let first_out = workgroupUniformLoad(&shared_digit);
        taken = workgroupUniformLoad(&shared_before);
        if (first_out == 256u) {
            // Only before any digit was chosen: those of a chosen digit are too many.
            takes_all = true;
            break;
        }
        prefix[word] |= first_out << shift;
        mask[word] |= 255u << shift;
        if (2u * taken >= CAPACITY) {
            break;
        }
    }

    for (var k = lane; k < CAPACITY; k += THREADS) {
        keys[k] = 0u;
        places[k] = NONE;
    }
    if (lane == 0u) {
        atomicStore(&shared_fill, 0u);
    }
    workgroupBarrier();
    for (var k = lane; k < found; k += THREADS) {
        let key = key_of(k);
        if ((is_first || is_less(last, key)) && (takes_all || is_less(key, prefix))) {
            let at = atomicAdd(&shared_fill, 1u);
            keys[at] = ~key.x;
            places[at] = k;
        }
    }
    workgroupBarrier();
    return taken;
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    if (lane == 0u) {
        shared_count = min(atomicLoad(&candidates.count), candidates.capacity);
    }
    let found = workgroupUniformLoad(&shared_count);
    let iou_threshold = candidates.iou_threshold;
    let limit = min(min(candidates.max_detections, ROOM), CAPACITY);
    var count = 0u;
    var seen = 0u;
    var last = vec3<u32>(0u);
    while (seen < found && count < limit) {
        var n = found;
        if (found <= CAPACITY) {
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
        } else {
            n = select_round(lane, found, seen == 0u, last);
            if (n == 0u) {
                break;
            }
        }

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
        last = key_of(places[n - 1u]);
        seen += n;

        //unroll s 4
        let p_s = lane + THREADS * s;
        var shape_s = Shape(vec4<f32>(0.0), vec3<f32>(0.0));
        var class_s = NONE;
        if (p_s < n) {
            shape_s = shape_of(places[p_s]);
            class_s = candidates.items[places[p_s]].class_id;
        }
        var alive_s = p_s < n;
        //end
        for (var e = 0u; e < count; e++) {
            let best = shape_of(kept[e]);
            let class_id = candidates.items[kept[e]].class_id;
            //unroll s 4
            alive_s = alive_s && !(class_s == class_id && suppresses(best, shape_s, iou_threshold));
            //end
        }
        //unroll s 4
        keys[p_s] = select(0u, 1u, alive_s);
        //end

        for (var i = 0u; i < n; i++) {
            // Its barriers also order the kills of the step before.
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
            let best = shape_of(place);
            let class_id = candidates.items[place].class_id;
            //unroll s 4
            if (p_s > i && class_s == class_id && suppresses(best, shape_s, iou_threshold)) {
                keys[p_s] = 0u;
            }
            //end
        }
        workgroupBarrier();
    }

    let offset_px = candidates.offset_px.xyxy;
    let scale = candidates.scale.xyxy;
    let edge = vec4<f32>(candidates.picture_px.xyxy);
    for (var d = lane; d < count; d += THREADS) {
        var c = candidates.items[kept[d]];
        if (SUPPRESSION == 3u) {
            c.bounds = upright(c.bounds, bitcast<f32>(c.angle));
            c.angle = 0u;
        }
        c.bounds = min(max((c.bounds - offset_px) / scale, vec4<f32>(0.0)), edge);
        detections.items[d] = c;
    }
    if (lane == 0u) {
        detections.count = count;
        detections.candidates = found;
        atomicStore(&candidates.count, 0u);
    }
}
