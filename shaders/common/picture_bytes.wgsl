// Pixels of a picture from its bytes: the first two bindings of the convert shaders, and pixel(x, y).
// Rust: src/convert/picture.rs fills the constants in; Frame::rgb in src/frame.rs is the same arithmetic.
// include: frame_params
//
//   params  FrameParams: picture_px and row_bytes (of the first plane) are read; sides <= 16384
//   bytes   the frame, 4 bytes in a word, first byte lowest; the buffer is padded to whole words
//
// PACKED   BYTES_PER_PIXEL bytes a pixel, colours at RED, GREEN and BLUE (bits of the pixel's little-endian word)
// YUYV     Y0 U Y1 V for two pixels of a row
// NV12     a plane of Y, then U V pairs for blocks of 2 x 2
// I420     a plane of Y, one of U, one of V, the last two for blocks of 2 x 2
// Chroma has ceil(side / 2) samples a side, and a pixel takes the sample of its block. Planes follow each other: where
// they begin follows from the picture's size.
//
//   rgb = clamp((LUMA * (Y - BLACK) + FROM_U * (U - 128) + FROM_V * (V - 128) + 32768) >> 16, 0, 255)
// in integers, which are the same on every device.

const PACKED: u32 = 0u;
const YUYV: u32 = 1u;
const NV12: u32 = 2u;
const I420: u32 = 3u;
const FORMAT: u32 = 0u;
const BYTES_PER_PIXEL: u32 = 3u;
const RED: u32 = 0u;
const GREEN: u32 = 8u;
const BLUE: u32 = 16u;
const BLACK: i32 = 16i;
const LUMA: i32 = 76309i;
const RED_FROM_V: i32 = 104597i;
const GREEN_FROM_U: i32 = -25675i;
const GREEN_FROM_V: i32 = -53279i;
const BLUE_FROM_U: i32 = 132201i;

@group(0) @binding(0) var<storage, read> params: FrameParams;
@group(0) @binding(1) var<storage, read> bytes: array<u32>;

fn byte(at: u32) -> i32 {
    return i32((bytes[at >> 2u] >> ((at & 3u) * 8u)) & 255u);
}

fn rgb_from_yuv(y: i32, u: i32, v: i32) -> vec3<u32> {
    let luma = LUMA * (y - BLACK) + 32768i;
    let red = luma + RED_FROM_V * (v - 128i);
    let green = luma + GREEN_FROM_U * (u - 128i) + GREEN_FROM_V * (v - 128i);
    let blue = luma + BLUE_FROM_U * (u - 128i);
    return vec3<u32>(clamp(vec3<i32>(red, green, blue) >> vec3<u32>(16u), vec3<i32>(0i), vec3<i32>(255i)));
}

// Red, green and blue, 0 to 255, of the pixel in column x of row y.
fn pixel(x: u32, y: u32) -> vec3<u32> {
    let at = y * params.row_bytes + x * BYTES_PER_PIXEL;
    if (FORMAT == YUYV) {
        let pair = bytes[(y * params.row_bytes >> 2u) + (x >> 1u)];
        let luma = (pair >> ((x & 1u) * 16u)) & 255u;
        return rgb_from_yuv(i32(luma), i32((pair >> 8u) & 255u), i32(pair >> 24u));
    }
    if (FORMAT == NV12 || FORMAT == I420) {
        let half = (params.picture_px + vec2<u32>(1u)) >> vec2<u32>(1u);
        let planes = params.row_bytes * params.picture_px.y;
        let block = (y >> 1u) * half.x + (x >> 1u);
        let u = planes + select(block, 2u * block, FORMAT == NV12);
        let v = u + select(half.x * half.y, 1u, FORMAT == NV12);
        return rgb_from_yuv(byte(at), byte(u), byte(v));
    }
    let shift = (at & 3u) * 8u;
    var word = bytes[at >> 2u] >> shift;
    // Only then does a pixel of 3 bytes reach into the next word: the last pixel never reads beyond the buffer.
    if (BYTES_PER_PIXEL == 3u && shift > 8u) {
        word = word | (bytes[(at >> 2u) + 1u] << (32u - shift));
    }
    return (vec3<u32>(word) >> vec3<u32>(RED, GREEN, BLUE)) & vec3<u32>(255u);
}
