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
//: if F16
// Times `factor`, weights 0, 2, 1, 3 of every four.
fn half_weights(b: Block, factor: f32) -> array<vec4<f16>, 8> {
  let q = half_quads(b.codes);
  let s = vec2<f16>(b.scales.scale * factor);
  let m = vec2<f16>((CENTRE * b.scales.scale - b.scales.minus) * factor);
  return array<vec4<f16>, 8>(
//: each i 4
    fma(q.v$i, vec4<f16>(s.x), vec4<f16>(m.x)),
//: end
    fma(q.v4, vec4<f16>(s.y), vec4<f16>(m.y)), fma(q.v5, vec4<f16>(s.y), vec4<f16>(m.y)),
    fma(q.v6, vec4<f16>(s.y), vec4<f16>(m.y)), fma(q.v7, vec4<f16>(s.y), vec4<f16>(m.y)));
}
//: else
// The largest of what weights are made of in `half_weights`.
fn extent(b: Block) -> f32 {
  let s = b.scales.scale;
  let m = CENTRE * s - b.scales.minus;
  return max(max(abs(s.x), abs(s.y)), max(abs(m.x), abs(m.y)));
}

fn weights(b: Block) -> array<vec4<f32>, 8> {
  let q = quads(b.codes);
  let s = b.scales.scale;
  let m = b.scales.minus - CENTRE * s;
  return array<vec4<f32>, 8>(
    q[0] * s.x - m.x, q[1] * s.x - m.x, q[2] * s.x - m.x, q[3] * s.x - m.x,
    q[4] * s.y - m.y, q[5] * s.y - m.y, q[6] * s.y - m.y, q[7] * s.y - m.y);
}
//: end
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
