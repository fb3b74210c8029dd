// Products of a unit's codes with its input, of the first and the second 16
// weights, in true size. The codec gives, for its `Codes`,
//
//   I8, I24:  bytes(q) -> Bytes, signed, four neighbouring weights to a word
//   F16:      half_quads(q) -> HalfQuads, each of weights 0, 2, 1, 3
//   neither:  quads(q) -> array<vec4<f32>, 8>
//
// and in CENTRE what the last two have taken off every code.

//: use fields
//: if I8|I24
struct Bytes { a: vec4<u32>, b: vec4<u32> }

fn byte_dots(c: Bytes, u: vec4<u32>, v: vec4<u32>) -> vec2<f32> {
  let first = dot4I8Packed(c.a.x, u.x) + dot4I8Packed(c.a.y, u.y) + dot4I8Packed(c.a.z, u.z) + dot4I8Packed(c.a.w, u.w);
  let second = dot4I8Packed(c.b.x, v.x) + dot4I8Packed(c.b.y, v.y) + dot4I8Packed(c.b.z, v.z) + dot4I8Packed(c.b.w, v.w);
  return vec2<f32>(f32(first), f32(second));
}

fn dots(q: Codes, x: X) -> vec2<f32> {
  let c = bytes(q);
//: if I24
  return x.scale * (65536.0 * byte_dots(c, x.v0, x.v1) + (256.0 * byte_dots(c, x.v2, x.v3) + byte_dots(c, x.v4, x.v5)));
//: else
  return x.scale * byte_dots(c, x.v0, x.v1);
//: end
}
//: else
//: if F16
struct HalfQuads {
//: each i 8
  v$i: vec4<f16>,
//: end
}

//: if !WEIGHTS
fn dots(q: Codes, x: X) -> vec2<f32> {
  let w = half_quads(q);
  let first = fma(w.v3, x.v3, fma(w.v2, x.v2, fma(w.v1, x.v1, w.v0 * x.v0)));
  let second = fma(w.v7, x.v7, fma(w.v6, x.v6, fma(w.v5, x.v5, w.v4 * x.v4)));
  let f = vec2<f32>(first.xy + first.zw);
  let s = vec2<f32>(second.xy + second.zw);
  return x.scale * vec2<f32>(f.x + f.y, s.x + s.y);
}
//: end
//: else
//: if !WEIGHTS
fn dots(q: Codes, x: X) -> vec2<f32> {
  let w = quads(q);
  return vec2<f32>(
    dot(w[0], x.v0) + dot(w[1], x.v1) + dot(w[2], x.v2) + dot(w[3], x.v3),
    dot(w[4], x.v4) + dot(w[5], x.v5) + dot(w[6], x.v6) + dot(w[7], x.v7));
}
//: end
//: end
//: end
