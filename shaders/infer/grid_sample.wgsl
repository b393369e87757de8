// A picture read at places that another tensor names.
//
//   dst[n, c, o] = sum over the REACH^RANK neighbours of grid[n, o] of their weights · x[n, c, neighbour]
//
// Places run from -1 to 1 along each axis, the fastest axis named first. REACH is 1 (nearest), 2 (linear) or
// 4 (cubic, a = -0.75). ONNX GridSample.
// Bindings: x, grid, dst: any strides, in elements. The grid's axis of RANK numbers has the stride GRID_STRIDE.
// A thread computes one element; channels are the fastest.
// Dispatch: COUNT threads in workgroups of 64, flat, GROUPS_X per row of the dispatch.
alias S = f32;

const RANK: u32 = 2u;
const REACH: u32 = 2u;
const NEIGHBOURS: u32 = 4u;
// 0: zeros outside, 1: the border goes on, 2: mirrored.
const PADDING: u32 = 0u;
// -1 and 1 are the centres of the outer pixels; else their outer edges.
const ALIGN: bool = false;
const CHANNELS: u32 = 1u;
// The spatial axes, the last one first.
const SIZES: array<u32, 2> = array<u32, 2>(4u, 4u);
const OUTPUTS: array<u32, 2> = array<u32, 2>(4u, 4u);
const SRC_OFFSET: u32 = 0u;
const SRC_IMAGE: u32 = 16u;
const SRC_CHANNEL: u32 = 1u;
const SRC_STRIDES: array<u32, 2> = array<u32, 2>(1u, 4u);
const GRID_OFFSET: u32 = 0u;
const GRID_IMAGE: u32 = 32u;
const GRID_STRIDE: u32 = 1u;
const GRID_STRIDES: array<u32, 2> = array<u32, 2>(2u, 8u);
const DST_OFFSET: u32 = 0u;
const DST_IMAGE: u32 = 16u;
const DST_CHANNEL: u32 = 1u;
const DST_STRIDES: array<u32, 2> = array<u32, 2>(1u, 4u);
const COUNT: u32 = 16u;
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> src: array<S>;
@group(0) @binding(1) var<storage, read> grid: array<S>;
@group(0) @binding(2) var<storage, read_write> dst: array<S>;

// Number of the copies of unrolled lines.
const ax: u32 = 0u;

// Mirrors at both ends, as often as needed.
fn mirrored(x: f32, least: f32, largest: f32) -> f32 {
    let range = largest - least;
    if range <= 0.0 {
        return least;
    }
    let below = x < least;
    if !below && x <= largest {
        return x;
    }
    let distance = select(x - largest, least - x, below);
    let turns = floor(distance / range);
    let rest = distance - turns * range;
    let even = turns - 2.0 * floor(turns * 0.5) == 0.0;
    return select(largest - rest, least + rest, below == even);
}

// The place along an axis of n pixels.
fn placed(given: f32, n: f32) -> f32 {
    var place = select(((given + 1.0) * n - 1.0) * 0.5, (given + 1.0) * 0.5 * (n - 1.0), ALIGN);
    let least = select(-0.5, 0.0, ALIGN);
    let largest = n - 1.0 - least;
    if REACH == 1u {
        place = round(place);
    }
    if place < least || place > largest {
        if PADDING == 1u {
            place = clamp(place, 0.0, n - 1.0);
        } else if PADDING == 2u {
            place = mirrored(place, least, largest);
        }
    }
    return place;
}

// The pixel that neighbour i stands for; -1: none.
fn pixel(i: f32, n: f32) -> f32 {
    if PADDING == 0u {
        return select(-1.0, i, i >= 0.0 && i < n);
    }
    if PADDING == 1u {
        return clamp(i, 0.0, n - 1.0);
    }
    let least = select(-0.5, 0.0, ALIGN);
    return min(floor(max(mirrored(i, least, n - 1.0 - least), 0.0)), n - 1.0);
}

// Weight of neighbour k for a place `part` behind the pixel on its left.
fn weight(k: u32, part: f32) -> f32 {
    if REACH == 1u {
        return 1.0;
    }
    if REACH == 2u {
        return select(part, 1.0 - part, k == 0u);
    }
    let x = abs(f32(k) - 1.0 - part);
    let near = (1.25 * x - 2.25) * x * x + 1.0;
    let far = ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0;
    return select(far, near, x <= 1.0);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let flat = (group.y * GROUPS_X + group.x) * 64u + thread;
    if flat >= COUNT {
        return;
    }
    let channel = flat % CHANNELS;
    var rest = flat / CHANNELS;
    var grid_at = GRID_OFFSET;
    var dst_at = DST_OFFSET + channel * DST_CHANNEL;
    //unroll ax RANK
    let o_ax = rest % OUTPUTS[ax];
    rest = rest / OUTPUTS[ax];
    grid_at += o_ax * GRID_STRIDES[ax];
    dst_at += o_ax * DST_STRIDES[ax];
    //end
    grid_at += rest * GRID_IMAGE;
    dst_at += rest * DST_IMAGE;
    let src_at = SRC_OFFSET + rest * SRC_IMAGE + channel * SRC_CHANNEL;
    //unroll ax RANK
    let place_ax = placed(f32(grid[grid_at + ax * GRID_STRIDE]), f32(SIZES[ax]));
    let low_ax = select(floor(place_ax), place_ax, REACH == 1u);
    let first_ax = select(low_ax, low_ax - 1.0, REACH == 4u);
    //end
    var sum = 0.0;
    for (var k = 0u; k < NEIGHBOURS; k++) {
        var left = k;
        var at = src_at;
        var factor = 1.0;
        var inside = true;
        //unroll ax RANK
        let k_ax = left % REACH;
        left = left / REACH;
        let p_ax = pixel(first_ax + f32(k_ax), f32(SIZES[ax]));
        inside = inside && p_ax >= 0.0;
        factor = factor * weight(k_ax, place_ax - low_ax);
        at += u32(max(p_ax, 0.0)) * SRC_STRIDES[ax];
        //end
        if inside {
            sum += factor * f32(src[at]);
        }
    }
    dst[dst_at] = S(sum);
}
