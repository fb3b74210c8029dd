// Units of codes with a scale and a subtrahend for each half, w = scale q - minus:
// the integer codecs. The codec's file gives `Codes`, `load_codes(row, unit)` and
// what dots.wgsl asks for.

//: use int_scales
//: use dots

struct Block { codes: Codes, scales: Scales }

fn load(row: u32, unit: u32) -> Block { return Block(load_codes(row, unit), scales(row, unit)); }

//: if HEADS
// The unit `k` behind `first`, under their superblock's head.
fn load_under(h: Head, row: u32, first: u32, k: u32) -> Block {
  return Block(load_codes(row, first + k), scales_under(h, (first & 7u) + k));
}
//: end

//: if WEIGHTS
fn weights(b: Block) -> array<vec4<f32>, 8> {
  let q = quads(b.codes);
  let s = b.scales.scale;
  let m = b.scales.minus - CENTRE * s;
  return array<vec4<f32>, 8>(
    q[0] * s.x - m.x, q[1] * s.x - m.x, q[2] * s.x - m.x, q[3] * s.x - m.x,
    q[4] * s.y - m.y, q[5] * s.y - m.y, q[6] * s.y - m.y, q[7] * s.y - m.y);
}
//: else
fn dot_block(b: Block, x: X) -> f32 {
  let d = dots(b.codes, x);
//: if I8|I24
  let minus = b.scales.minus;
//: else
  let minus = b.scales.minus - CENTRE * b.scales.scale;
//: end
//: if HALVES
  return dot(b.scales.scale, d) - dot(minus, x.sums);
//: else
  return b.scales.scale.x * (d.x + d.y) - minus.x * (x.sums.x + x.sums.y);
//: end
}
//: end
