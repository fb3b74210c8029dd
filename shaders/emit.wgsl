// Writes an activation in the form that `input` reads: see encode.wgsl.

//: if I8|I24
@group(0) @binding(4) var<storage, read_write> out_values: array<u32>;
//: else
//: if HALVES_OUT
@group(0) @binding(4) var<storage, read_write> out_values: array<vec2<u32>>;
//: else
@group(0) @binding(4) var<storage, read_write> out_values: array<vec4<f32>>;
//: end
//: end
@group(0) @binding(5) var<storage, read_write> out_sums: array<vec4<f32>>;

// Vector `i` of `parts` of a block, in tiles of eight blocks.
fn place(block: u32, parts: u32, i: u32) -> u32 {
  return (block >> 3u) * (8u * parts) + i * 8u + (block & 7u);
}

//: if I8|I24
//: if I24
const PARTS_OUT: u32 = 6u;
//: else
const PARTS_OUT: u32 = 2u;
//: end
fn keep_word(block: u32, digit: u32, own: u32, word: u32) {
  out_values[place(block, PARTS_OUT, 2u * digit + (own >> 2u)) * 4u + (own & 3u)] = word;
}
//: else
fn keep_quad(block: u32, own: u32, v: vec4<f32>) {
//: if HALVES_OUT
  // Two quads to a vector, in the order that `input` says.
  out_values[place(block, 4u, own >> 1u) * 2u + (own & 1u)] = vec2<u32>(pack2x16float(v.xz), pack2x16float(v.yw));
//: else
  out_values[place(block, 8u, own)] = v;
//: end
}
//: end
fn keep_sums(block: u32, sums: vec4<f32>) { out_sums[block] = sums; }
//: use encode
