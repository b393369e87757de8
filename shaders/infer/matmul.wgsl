// Batched matrix product.
//
//   dst[i, m, n] = sum over k of a[i, m, k] · b[i, k, n]
//
// Bindings: a, b, dst: any strides, in elements; a stride of 0 repeats. Axes of the batch are merged as far as possible.
// A thread computes 4 x 4 elements; lanes along n.
// Dispatch: COUNT threads in workgroups of 64, flat, GROUPS_X per row of the dispatch.
alias S = f32;

const COUNT: u32 = 16u;
const RANK: u32 = 1u;
const EXTENTS: array<u32, 1> = array<u32, 1>(1u);
const A_OFFSET: u32 = 0u;
const A_STRIDES: array<u32, 1> = array<u32, 1>(256u);
const B_OFFSET: u32 = 0u;
const B_STRIDES: array<u32, 1> = array<u32, 1>(256u);
const DST_OFFSET: u32 = 0u;
const DST_STRIDES: array<u32, 1> = array<u32, 1>(256u);
const M: u32 = 16u;
const N: u32 = 16u;
const K: u32 = 16u;
const A_M: u32 = 16u;
const A_K: u32 = 1u;
const B_K: u32 = 16u;
const B_N: u32 = 1u;
const DST_M: u32 = 16u;
const DST_N: u32 = 1u;
const TILES_M: u32 = 4u;
const TILES_N: u32 = 4u;
const GROUPS_X: u32 = 1u;

@group(0) @binding(0) var<storage, read> a: array<S>;
@group(0) @binding(1) var<storage, read> b: array<S>;
@group(0) @binding(2) var<storage, read_write> dst: array<S>;

// Numbers of the copies of unrolled lines.
const ax: u32 = 0u;
const ro: u32 = 0u;
const co: u32 = 0u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let flat = (group.y * GROUPS_X + group.x) * 64u + thread;
    if flat >= COUNT {
        return;
    }
    let n = flat % TILES_N * 4u;
    let m = flat / TILES_N % TILES_M * 4u;
    var rest = flat / (TILES_N * TILES_M);
    var a_at = A_OFFSET;
    var b_at = B_OFFSET;
    var dst_at = DST_OFFSET;
    //unroll ax RANK
    let i_ax = rest % EXTENTS[ax];
    rest = rest / EXTENTS[ax];
    a_at += i_ax * A_STRIDES[ax];
    b_at += i_ax * B_STRIDES[ax];
    dst_at += i_ax * DST_STRIDES[ax];
    //end

    // Past the end the last row or column is computed again, and not stored.
    //unroll ro 4
    var row_ro = a_at + min(m + ro, M - 1u) * A_M;
    var sum_ro = vec4<f32>(0.0);
    //end
    let columns = b_at + min(vec4<u32>(0u, 1u, 2u, 3u) + n, vec4<u32>(N - 1u)) * B_N;
    for (var k = 0u; k < K; k++) {
        let at = columns + k * B_K;
        let v = vec4<f32>(f32(b[at.x]), f32(b[at.y]), f32(b[at.z]), f32(b[at.w]));
        //unroll ro 4
        sum_ro = sum_ro + f32(a[row_ro + k * A_K]) * v;
        //end
    }

    //unroll ro 4
    if m + ro < M {
        //unroll co 4
        if n + co < N {
            dst[dst_at + (m + ro) * DST_M + (n + co) * DST_N] = S(sum_ro[co]);
        }
        //end
    }
    //end
}
