// Units of codes with a scale and a subtrahend for each half, w = scale q - minus:
// the integer codecs. The codec's file gives `Codes`, `load_codes(row, unit)` and
// what dots.wgsl asks for; for bytes CENTRES, what they have taken off the codes of
// either half, and STEPS, the fractions of one that quarters of a unit count in,
// the second pair no coarser than the first.

//: use int_scales
//: if I8|I24
//: use fields
struct Bytes { a: vec4<u32>, b: vec4<u32> }

const LEAP: vec2<i32> = vec2<i32>(STEPS.y / STEPS.x, STEPS.w / STEPS.z);
const COUNT: vec2<f32> = vec2<f32>(1.0 / f32(STEPS.y), 1.0 / f32(STEPS.w));

// The sums of both halves, in steps of COUNT.
fn byte_sums(c: Bytes, u: vec4<u32>, v: vec4<u32>) -> vec2<i32> {
  return vec2<i32>(
    (dot4I8Packed(c.a.x, u.x) + dot4I8Packed(c.a.y, u.y)) * LEAP.x + (dot4I8Packed(c.a.z, u.z) + dot4I8Packed(c.a.w, u.w)),
    (dot4I8Packed(c.b.x, v.x) + dot4I8Packed(c.b.y, v.y)) * LEAP.y + (dot4I8Packed(c.b.z, v.z) + dot4I8Packed(c.b.w, v.w)));
}

//: if HALVES
fn dots(q: Codes, x: X) -> vec2<f32> {
  let c = bytes(q);
  let scale = x.scale * COUNT;
//: if I24
  let high = vec2<f32>(byte_sums(c, x.v0, x.v1));
  let middle = vec2<f32>(byte_sums(c, x.v2, x.v3));
  return scale * (65536.0 * high + (256.0 * middle + vec2<f32>(byte_sums(c, x.v4, x.v5))));
//: else
  return scale * vec2<f32>(byte_sums(c, x.v0, x.v1));
//: end
}
//: else
// That of a whole unit, in steps of COUNT.y.
fn byte_sum(c: Bytes, u: vec4<u32>, v: vec4<u32>) -> f32 {
  let sums = byte_sums(c, u, v);
  return f32(sums.x * (STEPS.w / STEPS.y) + sums.y);
}

fn whole_dot(q: Codes, x: X) -> f32 {
  let c = bytes(q);
//: if I24
  let sum = 65536.0 * byte_sum(c, x.v0, x.v1) + (256.0 * byte_sum(c, x.v2, x.v3) + byte_sum(c, x.v4, x.v5));
//: else
  let sum = byte_sum(c, x.v0, x.v1);
//: end
  return x.scale * COUNT.y * sum;
}
//: end
//: else
//: use dots
const CENTRES: vec2<f32> = vec2<f32>(CENTRE);
//: if !HALVES|WEIGHTS
fn whole_dot(q: Codes, x: X) -> f32 {
  let d = dots(q, x);
  return d.x + d.y;
}
//: end
//: end

struct Block { codes: Codes, scales: Scales }

fn load(row: u32, unit: u32) -> Block { return Block(load_codes(row, unit), scales(row, unit)); }

// Some bits of everything that it was fetched from; only in blocks of zeros none is set.
fn bits(b: Block) -> u32 { return code_bits(b.codes) | scale_bits(b.scales); }

//: if HEADS
// The unit `k` behind `first`, under their superblock's head.
fn load_under(h: Head, row: u32, first: u32, k: u32) -> Block {
  return Block(load_codes(row, first + k), scales_under(h, (first & 7u) + k));
}
//: end

//: if WEIGHTS
// Of each half: a weight is scale (q - CENTRE) + offset.
struct Line { scale: vec2<f32>, offset: vec2<f32> }

fn line(b: Block) -> Line {
//: if PLAIN
//: if HALVES
  let first = floats(b.scales.first);
  let second = floats(b.scales.second);
//: else
  let first = floats(b.scales.both);
  let second = first;
//: end
  let s = vec2<f32>(first.x, second.x);
  return Line(s, vec2<f32>(first.y, second.y) + CENTRE * s);
//: else
  let d = factors(b.scales) * bitcast<f32>(p.extra.x);
  let e = steps(b.scales);
  let s = d.x * e.scale;
  return Line(s, (CENTRE - bitcast<f32>(p.extra.z)) * s - d.y * e.minus);
//: end
}

//: if F16
// Times `factor`, weights 0, 2, 1, 3 of every four.
fn half_weights(b: Block, factor: f32) -> array<vec4<f16>, 8> {
  let q = half_quads(b.codes);
  let l = line(b);
  let s = vec2<f16>(l.scale * factor);
  let o = vec2<f16>(l.offset * factor);
  return array<vec4<f16>, 8>(
//: each i 4
    fma(q.v$i, vec4<f16>(s.x), vec4<f16>(o.x)),
//: end
    fma(q.v4, vec4<f16>(s.y), vec4<f16>(o.y)), fma(q.v5, vec4<f16>(s.y), vec4<f16>(o.y)),
    fma(q.v6, vec4<f16>(s.y), vec4<f16>(o.y)), fma(q.v7, vec4<f16>(s.y), vec4<f16>(o.y)));
}
//: else
// The largest of what weights are made of in `half_weights`.
fn extent(b: Block) -> f32 {
  let l = line(b);
  return max(max(abs(l.scale.x), abs(l.scale.y)), max(abs(l.offset.x), abs(l.offset.y)));
}

fn weights(b: Block) -> array<vec4<f32>, 8> {
  let q = quads(b.codes);
  let l = line(b);
  let s = l.scale;
  let o = l.offset;
  return array<vec4<f32>, 8>(
    q[0] * s.x + o.x, q[1] * s.x + o.x, q[2] * s.x + o.x, q[3] * s.x + o.x,
    q[4] * s.y + o.y, q[5] * s.y + o.y, q[6] * s.y + o.y, q[7] * s.y + o.y);
}
//: end
//: else
// With what codes have taken off, the input's sums s and the products d:
// sum of (scale q - minus) x = scale (d + centre s) - minus s.
fn dot_block(b: Block, x: X) -> f32 {
//: if PLAIN
//: if HALVES
  let first = floats(b.scales.first);
  let second = floats(b.scales.second);
  let t = dots(b.codes, x) + CENTRES * x.sums;
  return (first.x * t.x + first.y * x.sums.x) + (second.x * t.y + second.y * x.sums.y);
//: else
  let pair = floats(b.scales.both);
  let t = whole_dot(b.codes, x) + (CENTRES.x * x.sums.x + CENTRES.y * x.sums.y);
  return pair.x * t + pair.y * (x.sums.x + x.sums.y);
//: end
//: else
  let code_bias = bitcast<f32>(p.extra.z);
  let d = factors(b.scales) * bitcast<f32>(p.extra.x);
  let e = steps(b.scales);
  let more = (CENTRES - code_bias) * x.sums;
//: if HALVES
  let t = dots(b.codes, x) + more;
  return d.x * (e.scale.x * t.x + e.scale.y * t.y) - d.y * (e.minus.x * x.sums.x + e.minus.y * x.sums.y);
//: else
  let t = whole_dot(b.codes, x) + (more.x + more.y);
  return (d.x * e.scale.x) * t - (d.y * e.minus.x) * (x.sums.x + x.sums.y);
//: end
//: end
}
//: end
