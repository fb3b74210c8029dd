// INT2: 8 bytes of a block of 32 weights; byte j holds weights j, j + 8, j + 16
// and j + 24 in its four fields.

@group(0) @binding(0) var<storage, read> code_plane: array<vec2<u32>>;
//: use affine

struct Codes { words: vec2<u32> }

const CENTRE: f32 = 2.0;

fn load_codes(row: u32, unit: u32) -> Codes {
  return Codes(code_plane[((p.base.x + row * p.stride.x) >> 3u) + unit]);
}

//: if I8|I24
fn bytes(q: Codes) -> Bytes {
  let m = vec4<u32>(0x03030303u);
  return Bytes(
    (q.words.xyxy >> vec4<u32>(0u, 0u, 2u, 2u)) & m,
    (q.words.xyxy >> vec4<u32>(4u, 4u, 6u, 6u)) & m);
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
