// Q8: 32 signed bytes of a block of 32 weights, then one scale per block
// (f16, or f32 with WIDE), w = scale q.

@group(0) @binding(0) var<storage, read> code_plane: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> scale_plane: array<u32>;

struct Block { a: vec4<u32>, b: vec4<u32>, scale: f32 }

fn load(row: u32, unit: u32) -> Block {
  let at = ((p.base.x + row * p.stride.x) >> 4u) + unit * 2u;
//: if WIDE
  let scale = bitcast<f32>(scale_plane[((p.base.y + row * p.stride.y) >> 2u) + unit]);
//: else
  let half = ((p.base.y + row * p.stride.y) >> 1u) + unit;
  let scale = unpack2x16float(scale_plane[half >> 1u] >> ((half & 1u) * 16u)).x;
//: end
  return Block(code_plane[at], code_plane[at + 1u], scale);
}

fn codes(w: u32) -> vec4<f32> { return vec4<f32>(unpack4xI8(w)); }

//: if WEIGHTS
fn weights(w: Block) -> array<vec4<f32>, 8> {
  return array<vec4<f32>, 8>(
    codes(w.a.x) * w.scale, codes(w.a.y) * w.scale, codes(w.a.z) * w.scale, codes(w.a.w) * w.scale,
    codes(w.b.x) * w.scale, codes(w.b.y) * w.scale, codes(w.b.z) * w.scale, codes(w.b.w) * w.scale);
}
//: else
fn dot_block(w: Block, x: X) -> f32 {
//: if I8
  let d = dot4I8Packed(w.a.x, x.v0.x) + dot4I8Packed(w.a.y, x.v0.y) + dot4I8Packed(w.a.z, x.v0.z) + dot4I8Packed(w.a.w, x.v0.w)
    + dot4I8Packed(w.b.x, x.v1.x) + dot4I8Packed(w.b.y, x.v1.y) + dot4I8Packed(w.b.z, x.v1.z) + dot4I8Packed(w.b.w, x.v1.w);
  return w.scale * (x.scale * f32(d));
//: else
  return w.scale * (dot(codes(w.a.x), x.v0) + dot(codes(w.a.y), x.v1) + dot(codes(w.a.z), x.v2) + dot(codes(w.a.w), x.v3)
    + dot(codes(w.b.x), x.v4) + dot(codes(w.b.y), x.v5) + dot(codes(w.b.z), x.v6) + dot(codes(w.b.w), x.v7));
//: end
}
//: end
