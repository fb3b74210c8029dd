// MXFP4: 16 bytes of a block of 32 weights as INT4 has them, codes of sign,
// two bits of exponent and one of mantissa; a power of two for each block.

@group(0) @binding(0) var<storage, read> code_plane: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> scale_plane: array<u32>;
//: use dots

struct Codes { words: vec4<u32> }
// `scale` is half the block's: products are with twice the elements, whole numbers.
struct Block { codes: Codes, scale: f32 }

const CENTRE: f32 = 0.0;

fn load(row: u32, unit: u32) -> Block {
  let byte = p.base.y + row * p.stride.y + unit;
  let s = (scale_plane[byte >> 2u] >> ((byte & 3u) * 8u)) & 0xffu;
  // Byte 0 is the only one whose power has no exponent of its own.
  let power = bitcast<f32>(select(s << 23u, 0x00400000u, s == 0u));
  let scale = 0.5 * power;
  return Block(Codes(code_plane[((p.base.x + row * p.stride.x) >> 4u) + unit]), scale);
}

// Twice the magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6 of a word's eight codes, a
// nibble each. From 4 on the codes' low two bits count double, 3 four times.
fn doubled(w: u32) -> u32 {
  let big = w & 0x44444444u;
  let rest = w & (big - (big >> 2u));
  let three = rest & (rest >> 1u) & 0x11111111u;
  return (w & 0x77777777u) + rest + 2u * three;
}

//: if I8|I24
// Bytes of twice the elements from magnitudes and from nibbles that are 15 for a
// negative one: 15 - v is v ^ 15, and 128 keeps the bytes apart.
fn signed_bytes(magnitude: u32, negative: u32) -> u32 {
  let n = negative & 0x0f0f0f0fu;
  return (((magnitude & 0x0f0f0f0fu) ^ n) + (0x80808080u - n)) ^ 0x80808080u;
}

fn bytes(q: Codes) -> Bytes {
//: each i 4
  let v$i = doubled(q.words[$i]);
  let n$i = ((q.words[$i] >> 3u) & 0x11111111u) * 15u;
//: end
  return Bytes(
    vec4<u32>(signed_bytes(v0, n0), signed_bytes(v1, n1), signed_bytes(v2, n2), signed_bytes(v3, n3)),
    vec4<u32>(
      signed_bytes(v0 >> 4u, n0 >> 4u), signed_bytes(v1 >> 4u, n1 >> 4u),
      signed_bytes(v2 >> 4u, n2 >> 4u), signed_bytes(v3 >> 4u, n3 >> 4u)));
}
//: else
//: if F16
// A code's bits at the top of a half are the element times 2^-14, its exponent 0
// included, which both have for their subnormal numbers.
fn elements(sign: u32, rest: u32) -> vec2<f16> {
  return as_halves((sign & 0x80008000u) | (rest & 0x0e000e00u)) * 32768.0h;
}
fn low(w: u32) -> vec4<f16> { return vec4<f16>(elements(w << 12u, w << 9u), elements(w << 4u, w << 1u)); }
fn high(w: u32) -> vec4<f16> { return vec4<f16>(elements(w << 8u, w << 5u), elements(w, w >> 3u)); }

fn half_quads(q: Codes) -> HalfQuads {
  let w = q.words;
  return HalfQuads(low(w.x), low(w.y), low(w.z), low(w.w), high(w.x), high(w.y), high(w.z), high(w.w));
}
//: else
fn with_signs(v: vec4<f32>, signs: vec4<u32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(bitcast<vec4<u32>>(v) | (signs & vec4<u32>(0x80000000u)));
}
fn low(w: u32) -> vec4<f32> {
  return with_signs(fields(doubled(w), 0u, 15u, 0.0), vec4<u32>(w) << vec4<u32>(28u, 20u, 12u, 4u));
}
fn high(w: u32) -> vec4<f32> {
  return with_signs(fields(doubled(w), 4u, 15u, 0.0), vec4<u32>(w) << vec4<u32>(24u, 16u, 8u, 0u));
}

fn quads(q: Codes) -> array<vec4<f32>, 8> {
  let w = q.words;
  return array<vec4<f32>, 8>(low(w.x), low(w.y), low(w.z), low(w.w), high(w.x), high(w.y), high(w.z), high(w.w));
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
