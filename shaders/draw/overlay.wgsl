// Draws the picture, then rectangles and glyphs on it. Twin: src/draw/overlay.rs.
//
// Formula: a rectangle covers the pixels whose centre lies inside; blending is dst + (src - dst) * alpha on the coded
// 8-bit levels, rounded by the render target after every rectangle; a glyph's alpha is multiplied by its texel's
// coverage. One texel of the atlas falls on one pixel.
//
// view:     32 bytes, how the target shows the picture.
// picture:  the picture, gamma coded levels as 0 to 1. Shown 1:1 it is copied exactly, else interpolated.
// atlas:    coverage of the glyphs, R8Unorm.
// Vertex buffer, one Instance a rectangle (step mode instance, 32 bytes): Sint32x4, Sint32x2, Unorm8x4, Uint32.
// Draw: 3 vertices with the picture's entry points, then a strip of 4 vertices times the number
// of rectangles with the instance's.

struct View {
    target_px: vec2<f32>,
    // picture point = (target point - offset_px) * picture_per_target
    offset_px: vec2<f32>,
    picture_per_target: vec2<f32>,
    reserved: vec2<f32>,
}

@group(0) @binding(0) var<uniform> view: View;
@group(0) @binding(1) var picture: texture_2d<f32>;
@group(0) @binding(2) var atlas: texture_2d<f32>;

@vertex
fn picture_vertex(@builtin(vertex_index) vertex: u32) -> @builtin(position) vec4<f32> {
    // One triangle around the target: (-1, -1), (3, -1), (-1, 3).
    return vec4<f32>(f32(vertex & 1u) * 4.0 - 1.0, f32(vertex >> 1u) * 4.0 - 1.0, 0.0, 1.0);
}

@fragment
fn picture_fragment(@builtin(position) position: vec4<f32>) -> @location(0) vec4<f32> {
    let size = vec2<i32>(textureDimensions(picture));
    let point = (position.xy - view.offset_px) * view.picture_per_target;
    if any(point < vec2<f32>(0.0)) || any(point >= vec2<f32>(size)) {
        return vec4<f32>(0.0, 0.0, 0.0, 1.0);
    }
    let corner = floor(point - 0.5);
    let weight = point - 0.5 - corner;
    let low = clamp(vec2<i32>(corner), vec2<i32>(0), size - 1);
    let high = clamp(vec2<i32>(corner) + 1, vec2<i32>(0), size - 1);
    let top = mix(
        textureLoad(picture, low, 0).rgb,
        textureLoad(picture, vec2<i32>(high.x, low.y), 0).rgb,
        weight.x,
    );
    let bottom = mix(
        textureLoad(picture, vec2<i32>(low.x, high.y), 0).rgb,
        textureLoad(picture, high, 0).rgb,
        weight.x,
    );
    return vec4<f32>(mix(top, bottom, weight.y), 1.0);
}

struct Corner {
    @builtin(position) position: vec4<f32>,
    // atlas texel = target pixel + this
    @location(0) @interpolate(flat) texel_from_pixel: vec2<i32>,
    @location(1) @interpolate(flat) colour: vec4<f32>,
    @location(2) @interpolate(flat) source: u32,
}

@vertex
fn instance_vertex(
    @builtin(vertex_index) vertex: u32,
    @location(0) rect_px: vec4<i32>,
    @location(1) texel_px: vec2<i32>,
    @location(2) colour: vec4<f32>,
    @location(3) source: u32,
) -> Corner {
    // A triangle strip: bit 0 of the vertex is right, bit 1 is bottom.
    let right = (vertex & 1u) != 0u;
    let bottom = (vertex & 2u) != 0u;
    let x_px = select(rect_px.x, rect_px.z, right);
    let y_px = select(rect_px.y, rect_px.w, bottom);
    let ndc = vec2<f32>(f32(x_px), f32(y_px)) / view.target_px * 2.0 - 1.0;
    return Corner(vec4<f32>(ndc.x, -ndc.y, 0.0, 1.0), texel_px - rect_px.xy, colour, source);
}

@fragment
fn instance_fragment(in: Corner) -> @location(0) vec4<f32> {
    var alpha = in.colour.a;
    if in.source != 0u {
        alpha *= textureLoad(atlas, vec2<i32>(floor(in.position.xy)) + in.texel_from_pixel, 0).r;
    }
    return vec4<f32>(in.colour.rgb, alpha);
}
