// INT3: a row's low two bits as INT2 has them, then its high bits, a word of 32
// for each block: bit p of byte b is that of weight 4 p + b.

@group(0) @binding(0) var<storage, read> code_plane: array<u32>;
//: use affine

struct Codes { words: vec2<u32>, high: u32 }

const CENTRE: f32 = 4.0;

fn load_codes(row: u32, unit: u32) -> Codes {
  let at = (p.base.x + row * p.stride.x) >> 2u;
  return Codes(
    vec2<u32>(code_plane[at + unit * 2u], code_plane[at + unit * 2u + 1u]),
    code_plane[at + p.units * 2u + unit]);
}

// Codes of weights 4 i .. 4 i + 3, whose low bits are field i / 2 of `low`.
fn code_bytes(low: u32, high: u32, i: u32) -> u32 {
  return ((low >> ((i >> 1u) * 2u)) & 0x03030303u) | (((high >> i) & 0x01010101u) << 2u);
}

//: if I8|I24
fn bytes(q: Codes) -> Bytes {
  let w = q.words;
  let h = q.high;
  return Bytes(
    vec4<u32>(code_bytes(w.x, h, 0u), code_bytes(w.y, h, 1u), code_bytes(w.x, h, 2u), code_bytes(w.y, h, 3u)),
    vec4<u32>(code_bytes(w.x, h, 4u), code_bytes(w.y, h, 5u), code_bytes(w.x, h, 6u), code_bytes(w.y, h, 7u)));
}
//: else
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
