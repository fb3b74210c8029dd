// INT4: 16 bytes of a block of 32 weights are one vector; byte j holds weight j
// in its low half and weight j + 16 in its high half.

@group(0) @binding(0) var<storage, read> code_plane: array<vec4<u32>>;
//: use affine

struct Codes { words: vec4<u32> }

fn code_bits(q: Codes) -> u32 { return q.words.x; }

const CENTRE: f32 = 8.0;
// Bytes have codes of the first half, and 16 times those of the second less 8.
//: if I8|I24
const CENTRES: vec2<f32> = vec2<f32>(0.0, 8.0);
const STEPS: vec4<i32> = vec4<i32>(1, 1, 16, 16);
//: end

fn load_codes(row: u32, unit: u32) -> Codes {
  return Codes(code_plane[((p.base.x + row * p.stride.x) >> 4u) + unit]);
}

//: if I8|I24
fn bytes(q: Codes) -> Bytes {
  return Bytes(q.words & vec4<u32>(0x0f0f0f0fu), (q.words & vec4<u32>(0xf0f0f0f0u)) ^ vec4<u32>(unseen(0x80808080u)));
}
//: else
//: if F16
fn low(w: u32) -> vec4<f16> { return half_fields(w, 0u, 15u, 8.0h); }
fn high(w: u32) -> vec4<f16> { return half_fields(w, 4u, 15u, 8.0h); }

fn half_quads(q: Codes) -> HalfQuads {
  let w = q.words;
  return HalfQuads(low(w.x), low(w.y), low(w.z), low(w.w), high(w.x), high(w.y), high(w.z), high(w.w));
}
//: else
fn low(w: u32) -> vec4<f32> { return fields(w, 0u, 15u, CENTRE); }
fn high(w: u32) -> vec4<f32> { return fields(w, 4u, 15u, CENTRE); }

fn quads(q: Codes) -> array<vec4<f32>, 8> {
  let w = q.words;
  return array<vec4<f32>, 8>(low(w.x), low(w.y), low(w.z), low(w.w), high(w.x), high(w.y), high(w.z), high(w.w));
}
//: end
//: end
