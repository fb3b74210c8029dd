// SQINT2, layout nf2: per row, groups of 64 weights in 16 bytes, byte j with the
// 2-bit codes of weights j, j + 16, j + 32, j + 48; codes are the values -54,
// -16, 16, 54 times the group's scale. Units of 8 columns, under the rotation as
// in `sqint2`. p.extra.x: the tensor's scale (f32).

@group(0) @binding(0) var<storage, read> scale_plane: array<u32>;
@group(0) @binding(1) var<storage, read> code_plane: array<u32>;

struct Block { a: vec4<f32>, b: vec4<f32> }

fn group_scale(row: u32, number: u32) -> f32 {
//: if WIDE
  return bitcast<f32>(scale_plane[((p.base.x + row * p.stride.x) >> 2u) + number]);
//: else
  let byte = p.base.x + row * p.stride.x + number;
  let code = (scale_plane[byte >> 2u] >> ((byte & 3u) * 8u)) & 0xffu;
  let value = f32((16u + (code & 15u)) << (code >> 4u)) * bitcast<f32>(p.extra.x);
  return select(value, 0.0, code == 0u);
//: end
}

fn levels(word: u32, shift: u32) -> vec4<f32> {
  let odd = 2.0 * vec4<f32>(unpack4xU8((word >> shift) & 0x03030303u)) - 3.0;
  // 16 and 54 at 1 and 3.
  return odd * (15.75 + 0.25 * odd * odd);
}

fn load(row: u32, unit: u32) -> Block {
  let at = ((p.base.y + row * p.stride.y) >> 2u) + (unit >> 3u) * 4u + (unit & 1u) * 2u;
  let shift = (unit & 6u);
  let scale = group_scale(row, unit >> 3u);
  return Block(levels(code_plane[at], shift) * scale, levels(code_plane[at + 1u], shift) * scale);
}

//: if WEIGHTS
fn weights(b: Block) -> array<vec4<f32>, 2> { return array<vec4<f32>, 2>(b.a, b.b); }
//: else
fn dot_block(b: Block, x: X) -> f32 { return dot(b.a, x.v0) + dot(b.b, x.v1); }
//: end
