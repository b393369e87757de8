// Bytes of a picture in any pixel format -> RGBA words at the original size, rows as texture copies want them.
// Twin: src/convert/picture.rs.
// include: picture_bytes
// include: frame_params
//
//   dst[y * row_words + x] = red | green << 8 | blue << 16 | 255 << 24,   row_words = picture_px.x rounded up to 64
//
// 64 words are the 256 bytes to which copies from buffers to textures align their rows. Words beyond a row's last pixel
// are not written.
//
// Bindings
//   params, bytes  see shaders/common/picture_bytes.wgsl
//   dst            row_words * picture_px.y words
// Tile: one pixel a thread, 16 x 16 a workgroup. Dispatch: ceil(width / 16) x ceil(height / 16).

@group(0) @binding(2) var<storage, read_write> dst: array<u32>;

@compute @workgroup_size(16, 16)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.picture_px.x || id.y >= params.picture_px.y) {
        return;
    }
    let rgb = pixel(id.x, id.y);
    let row_words = (params.picture_px.x + 63u) & ~63u;
    dst[id.y * row_words + id.x] = rgb.x | (rgb.y << 8u) | (rgb.z << 16u) | (255u << 24u);
}
