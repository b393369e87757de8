// Softmax, or its logarithm, along one axis.
//
//   m = max over i of src[i];  s = sum over i of exp(src[i] - m)
//   dst[i] = exp(src[i] - m) / s,  or src[i] - m - ln(s)
//
// Bindings: src, dst: any strides, in elements. Axes across rows are merged as far as both allow.
// TEAM threads share a row: member t takes elements t, t + TEAM, ... A workgroup of 64 has 64/TEAM rows.
// Dispatch: COUNT rows, flat, GROUPS_X workgroups per row of the dispatch.
alias S = f32;

const LOG: bool = false;
const COUNT: u32 = 16u;
const RANK: u32 = 1u;
// Across rows.
const EXTENTS: array<u32, 1> = array<u32, 1>(16u);
const SRC_OFFSET: u32 = 0u;
const SRC_STRIDES: array<u32, 1> = array<u32, 1>(16u);
const DST_OFFSET: u32 = 0u;
const DST_STRIDES: array<u32, 1> = array<u32, 1>(16u);
// Along a row.
const EXTENT: u32 = 16u;
const SRC_STRIDE: u32 = 1u;
const DST_STRIDE: u32 = 1u;
const TEAM: u32 = 1u;
const GROUPS_X: u32 = 1u;

const TEAMS: u32 = 64u / TEAM;
const LOWEST: f32 = -3.40282347e38f;

@group(0) @binding(0) var<storage, read> src: array<S>;
@group(0) @binding(1) var<storage, read_write> dst: array<S>;

// [member][team]
var<workgroup> parts: array<f32, 64>;

// Number of the copies of unrolled lines.
const ax: u32 = 0u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let team = thread % TEAMS;
    let member = thread / TEAMS;
    let wanted = (group.y * GROUPS_X + group.x) * TEAMS + team;
    // Teams past the end compute the last row again and do not store it: all threads reach the barriers.
    var rest = min(wanted, max(COUNT, 1u) - 1u);
    var src_at = SRC_OFFSET;
    var dst_at = DST_OFFSET;
    //unroll ax RANK
    let i_ax = rest % EXTENTS[ax];
    rest = rest / EXTENTS[ax];
    src_at += i_ax * SRC_STRIDES[ax];
    dst_at += i_ax * DST_STRIDES[ax];
    //end

    var largest = LOWEST;
    for (var i = member; i < EXTENT; i += TEAM) {
        largest = max(largest, f32(src[src_at + i * SRC_STRIDE]));
    }
    if TEAM > 1u {
        parts[thread] = largest;
        for (var half = TEAM / 2u; half > 0u; half = half / 2u) {
            workgroupBarrier();
            if member < half {
                parts[thread] = max(parts[thread], parts[thread + half * TEAMS]);
            }
        }
        workgroupBarrier();
        largest = parts[team];
        workgroupBarrier();
    }

    var sum = 0.0;
    for (var i = member; i < EXTENT; i += TEAM) {
        sum += exp(f32(src[src_at + i * SRC_STRIDE]) - largest);
    }
    if TEAM > 1u {
        parts[thread] = sum;
        for (var half = TEAM / 2u; half > 0u; half = half / 2u) {
            workgroupBarrier();
            if member < half {
                parts[thread] = parts[thread] + parts[thread + half * TEAMS];
            }
        }
        workgroupBarrier();
        sum = parts[team];
    }

    if wanted < COUNT {
        let scale = 1.0 / sum;
        let log_sum = log(sum);
        for (var i = member; i < EXTENT; i += TEAM) {
            let x = f32(src[src_at + i * SRC_STRIDE]) - largest;
            dst[dst_at + i * DST_STRIDE] = S(select(exp(x) * scale, x - log_sum, LOG));
        }
    }
}
