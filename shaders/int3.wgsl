// INT3: a row's low two bits as INT2 has them, then its high bits, a word of 32
// for each block: bit p of byte b is that of weight 4 p + b.

@group(0) @binding(0) var<storage, read> code_plane: array<u32>;
//: use affine

struct Codes { words: vec2<u32>, high: u32 }

fn code_bits(q: Codes) -> u32 { return q.words.x | q.words.y | q.high; }

const CENTRE: f32 = 4.0;
// Bytes have codes whose low bits lie where fields 0, 1 and 2 are, those of field 3
// where field 2 is.
//: if I8|I24
const CENTRES: vec2<f32> = vec2<f32>(0.0);
const STEPS: vec4<i32> = vec4<i32>(1, 4, 16, 16);
//: end

fn load_codes(row: u32, unit: u32) -> Codes {
  let at = (p.base.x + row * p.stride.x) >> 2u;
  return Codes(
    vec2<u32>(code_plane[at + unit * 2u], code_plane[at + unit * 2u + 1u]),
    code_plane[at + p.units * 2u + unit]);
}

//: if I8|I24
// Fields of `low` and the high bits of `high`, behind each of them, at bit `at`.
fn joined(low: u32, high: u32, at: u32) -> u32 {
  return (low & (0x03030303u << at)) | (high & (0x04040404u << at));
}

fn bytes(q: Codes) -> Bytes {
  let w = q.words;
  let x = q.high << 2u;
  let y = q.high << 1u;
  return Bytes(
    vec4<u32>(joined(w.x, x, 0u), joined(w.y, y, 0u), joined(w.x, x, 2u), joined(w.y, y, 2u)),
    vec4<u32>(
      joined(w.x, x, 4u), joined(w.y, y, 4u),
      joined(w.x >> 2u, q.high, 4u), joined(w.y >> 2u, q.high >> 1u, 4u)));
}
//: else
// Codes of weights 4 i .. 4 i + 3, whose low bits are field i / 2 of `low`.
fn code_bytes(low: u32, high: u32, i: u32) -> u32 {
  return ((low >> ((i >> 1u) * 2u)) & 0x03030303u) | (((high >> i) & 0x01010101u) << 2u);
}

//: if F16
fn half_quads(q: Codes) -> HalfQuads {
  return HalfQuads(
//: each f 4
    half_fields(code_bytes(q.words.x, q.high, 2u * $fu), 0u, 7u, 4.0h),
    half_fields(code_bytes(q.words.y, q.high, 2u * $fu + 1u), 0u, 7u, 4.0h),
//: end
  );
}
//: else
fn quads(q: Codes) -> array<vec4<f32>, 8> {
  return array<vec4<f32>, 8>(
//: each f 4
    fields(code_bytes(q.words.x, q.high, 2u * $fu), 0u, 7u, CENTRE),
    fields(code_bytes(q.words.y, q.high, 2u * $fu + 1u), 0u, 7u, CENTRE),
//: end
  );
}
//: end
//: end
