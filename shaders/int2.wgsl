// INT2: 8 bytes of a block of 32 weights; byte j holds weights j, j + 8, j + 16
// and j + 24 in its four fields.

@group(0) @binding(0) var<storage, read> code_plane: array<vec2<u32>>;
//: use affine

struct Codes { words: vec2<u32> }

fn code_bits(q: Codes) -> u32 { return q.words.x; }

const CENTRE: f32 = 2.0;
// Bytes have fields 0, 1 and 2 where they are, and field 3 where field 2 is.
//: if I8|I24
const CENTRES: vec2<f32> = vec2<f32>(0.0);
const STEPS: vec4<i32> = vec4<i32>(1, 4, 16, 16);
//: end

fn load_codes(row: u32, unit: u32) -> Codes {
  return Codes(code_plane[((p.base.x + row * p.stride.x) >> 3u) + unit]);
}

//: if I8|I24
fn bytes(q: Codes) -> Bytes {
  let w = q.words;
  return Bytes(
    w.xyxy & vec4<u32>(0x03030303u, 0x03030303u, 0x0c0c0c0cu, 0x0c0c0c0cu),
    vec4<u32>(w, w >> vec2<u32>(2u)) & vec4<u32>(0x30303030u));
}
//: else
//: if F16
fn half_quads(q: Codes) -> HalfQuads {
  return HalfQuads(
//: each f 4
    half_fields(q.words.x, 2u * $fu, 3u, 2.0h), half_fields(q.words.y, 2u * $fu, 3u, 2.0h),
//: end
  );
}
//: else
fn quads(q: Codes) -> array<vec4<f32>, 8> {
  return array<vec4<f32>, 8>(
//: each f 4
    fields(q.words.x, 2u * $fu, 3u, CENTRE), fields(q.words.y, 2u * $fu, 3u, CENTRE),
//: end
  );
}
//: end
//: end
