// Q8: 32 signed bytes of a block of 32 weights, then one scale per block
// (f16, or f32 with WIDE), w = scale q.

@group(0) @binding(0) var<storage, read> code_plane: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> scale_plane: array<u32>;
//: use dots

struct Codes { a: vec4<u32>, b: vec4<u32> }
struct Block { codes: Codes, scale: f32 }

fn bits(b: Block) -> u32 { return b.codes.a.x | b.codes.b.x | bitcast<u32>(b.scale); }

const CENTRE: f32 = 0.0;

fn load(row: u32, unit: u32) -> Block {
  let at = ((p.base.x + row * p.stride.x) >> 4u) + unit * 2u;
//: if WIDE
  let scale = bitcast<f32>(scale_plane[((p.base.y + row * p.stride.y) >> 2u) + unit]);
//: else
  let half = ((p.base.y + row * p.stride.y) >> 1u) + unit;
  let scale = unpack2x16float(scale_plane[half >> 1u] >> ((half & 1u) * 16u)).x;
//: end
  return Block(Codes(code_plane[at], code_plane[at + 1u]), scale);
}

//: if I8|I24
fn bytes(q: Codes) -> Bytes { return Bytes(q.a, q.b); }
//: else
// Signed bytes plus 128 are fields less 128.
//: if F16
fn signed(w: u32) -> vec4<f16> { return half_fields(w ^ 0x80808080u, 0u, 255u, 128.0h); }

fn half_quads(q: Codes) -> HalfQuads {
  return HalfQuads(
    signed(q.a.x), signed(q.a.y), signed(q.a.z), signed(q.a.w),
    signed(q.b.x), signed(q.b.y), signed(q.b.z), signed(q.b.w));
}
//: else
fn signed(w: u32) -> vec4<f32> { return fields(w ^ 0x80808080u, 0u, 255u, 128.0); }

fn quads(q: Codes) -> array<vec4<f32>, 8> {
  return array<vec4<f32>, 8>(
    signed(q.a.x), signed(q.a.y), signed(q.a.z), signed(q.a.w),
    signed(q.b.x), signed(q.b.y), signed(q.b.z), signed(q.b.w));
}
//: end
//: end

//: if WEIGHTS
fn weights(b: Block) -> array<vec4<f32>, 8> {
  let q = quads(b.codes);
  let s = b.scale;
  return array<vec4<f32>, 8>(q[0] * s, q[1] * s, q[2] * s, q[3] * s, q[4] * s, q[5] * s, q[6] * s, q[7] * s);
}
//: else
fn dot_block(b: Block, x: X) -> f32 {
  let d = dots(b.codes, x);
  return b.scale * (d.x + d.y);
}
//: end
