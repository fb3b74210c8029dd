// Plain numbers: f32, f16 (HALF), bf16 (BRAIN) or i8 (BYTE), in units of 8
// columns. ALIGNED: rows are whole vectors of 16 bytes (8 for i8), else every
// number is fetched by itself and columns past the end are zero.

//: if ALIGNED
@group(0) @binding(0) var<storage, read> plane: array<vec4<u32>>;
//: else
@group(0) @binding(0) var<storage, read> plane: array<u32>;
//: end

struct Block { a: vec4<f32>, b: vec4<f32> }

//: if ALIGNED
fn load(row: u32, unit: u32) -> Block {
//: if HALF
  let w = plane[((p.base.x + row * p.stride.x) >> 4u) + unit];
  return Block(
    vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y)),
    vec4<f32>(unpack2x16float(w.z), unpack2x16float(w.w)));
//: else
//: if BRAIN
  let w = plane[((p.base.x + row * p.stride.x) >> 4u) + unit];
  let even = bitcast<vec4<f32>>(w << vec4<u32>(16u));
  let odd = bitcast<vec4<f32>>(w & vec4<u32>(0xffff0000u));
  return Block(vec4<f32>(even.x, odd.x, even.y, odd.y), vec4<f32>(even.z, odd.z, even.w, odd.w));
//: else
//: if BYTE
  let at = ((p.base.x + row * p.stride.x) >> 3u) + unit;
  let w = plane[at >> 1u];
  let pair = select(w.xy, w.zw, (at & 1u) == 1u);
  return Block(vec4<f32>(unpack4xI8(pair.x)), vec4<f32>(unpack4xI8(pair.y)));
//: else
  let at = ((p.base.x + row * p.stride.x) >> 4u) + unit * 2u;
  return Block(bitcast<vec4<f32>>(plane[at]), bitcast<vec4<f32>>(plane[at + 1u]));
//: end
//: end
//: end
}
//: else
// Number `col` of a row, zero past its end.
fn number(row: u32, col: u32) -> f32 {
  if (col >= p.cols) { return 0.0; }
  let byte = p.base.x + row * p.stride.x + col * BYTES;
  let w = plane[byte >> 2u] >> ((byte & 3u) * 8u);
//: if HALF
  return unpack2x16float(w).x;
//: else
//: if BRAIN
  return bitcast<f32>(w << 16u);
//: else
//: if BYTE
  return f32(unpack4xI8(w).x);
//: else
  return bitcast<f32>(w);
//: end
//: end
//: end
}

fn load(row: u32, unit: u32) -> Block {
  let c = unit * 8u;
  return Block(
    vec4<f32>(number(row, c), number(row, c + 1u), number(row, c + 2u), number(row, c + 3u)),
    vec4<f32>(number(row, c + 4u), number(row, c + 5u), number(row, c + 6u), number(row, c + 7u)));
}
//: end

//: if WEIGHTS
fn weights(w: Block) -> array<vec4<f32>, 2> { return array<vec4<f32>, 2>(w.a, w.b); }
//: else
fn dot_block(w: Block, x: X) -> f32 { return dot(w.a, x.v0) + dot(w.b, x.v1); }
//: end
