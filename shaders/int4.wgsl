// INT4: 16 bytes of a block of 32 weights are one vector; byte j holds weight j
// in its low half and weight j + 16 in its high half.

@group(0) @binding(0) var<storage, read> code_plane: array<vec4<u32>>;
//: use int_scales

struct Block { codes: vec4<u32>, scales: Scales }

fn load(row: u32, unit: u32) -> Block {
  return Block(code_plane[((p.base.x + row * p.stride.x) >> 4u) + unit], scales(row, unit));
}

fn low(w: u32) -> vec4<f32> { return vec4<f32>(unpack4xU8(w & 0x0f0f0f0fu)); }
fn high(w: u32) -> vec4<f32> { return vec4<f32>(unpack4xU8((w >> 4u) & 0x0f0f0f0fu)); }

//: if WEIGHTS
// The block's weights, in order.
fn weights(b: Block) -> array<vec4<f32>, 8> {
  let s = b.scales.scale;
  let m = b.scales.minus;
  return array<vec4<f32>, 8>(
    low(b.codes.x) * s.x - m.x, low(b.codes.y) * s.x - m.x, low(b.codes.z) * s.x - m.x, low(b.codes.w) * s.x - m.x,
    high(b.codes.x) * s.y - m.y, high(b.codes.y) * s.y - m.y, high(b.codes.z) * s.y - m.y, high(b.codes.w) * s.y - m.y);
}
//: else
//: if I8
const CENTRE: f32 = 0.0;

fn dots(q: vec4<u32>, x: X) -> vec2<f32> {
  let a = q & vec4<u32>(0x0f0f0f0fu);
  let b = (q >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
  let first = dot4I8Packed(a.x, x.v0.x) + dot4I8Packed(a.y, x.v0.y) + dot4I8Packed(a.z, x.v0.z) + dot4I8Packed(a.w, x.v0.w);
  let second = dot4I8Packed(b.x, x.v1.x) + dot4I8Packed(b.y, x.v1.y) + dot4I8Packed(b.z, x.v1.z) + dot4I8Packed(b.w, x.v1.w);
  return vec2<f32>(f32(first), f32(second)) * x.scale;
}
//: else
//: if F16
const CENTRE: f32 = 8.0;

// Halves made of 16 bits: a code in the low bits of 1024 is 1024 + code; centred
// as in f32.
fn halves(u: u32) -> vec2<f16> { return vec2<f16>(unpack2x16float(u)); }

// Weights 4 i .. 4 i + 3 and 16 above, of word i, times their inputs.
fn word_dots(w: u32, a: vec4<f16>, b: vec4<f16>, sums: vec4<f16>) -> vec4<f16> {
  let bias = vec2<f16>(-1032.0h);
  let w8 = w >> 8u;
  // Nibbles of bits 4..7 come out as 1024 + 16 code.
  let sixteenth = vec2<f16>(0.0625h);
  let high_bias = vec2<f16>(-72.0h);
  var first = fma(halves((w & 0x000f000fu) | 0x64006400u) + bias, a.xz, sums.xy);
  first = fma(halves((w8 & 0x000f000fu) | 0x64006400u) + bias, a.yw, first);
  var second = fma(fma(halves((w & 0x00f000f0u) | 0x64006400u), sixteenth, high_bias), b.xz, sums.zw);
  second = fma(fma(halves((w8 & 0x00f000f0u) | 0x64006400u), sixteenth, high_bias), b.yw, second);
  return vec4<f16>(first, second);
}

fn dots(q: vec4<u32>, x: X) -> vec2<f32> {
  var d = word_dots(q.x, x.v0, x.v4, vec4<f16>(0.0h));
  d = word_dots(q.y, x.v1, x.v5, d);
  d = word_dots(q.z, x.v2, x.v6, d);
  d = word_dots(q.w, x.v3, x.v7, d);
  let f = vec4<f32>(d);
  return vec2<f32>(f.x + f.y, f.z + f.w) * x.scale;
}
//: else
const CENTRE: f32 = 8.0;

// A code in the mantissa of 1 is 1 + code / 16, without a conversion; less 1.5,
// exactly, it is centred, so that little cancels between products and sums.
fn unit_left(w: u32, shift: u32) -> f32 { return bitcast<f32>(((w << shift) & 0x00780000u) | 0x3f800000u); }
fn unit_right(w: u32, shift: u32) -> f32 { return bitcast<f32>(((w >> shift) & 0x00780000u) | 0x3f800000u); }
fn unit_low(w: u32) -> vec4<f32> {
  return vec4<f32>(unit_left(w, 19u), unit_left(w, 11u), unit_left(w, 3u), unit_right(w, 5u)) - 1.5;
}
fn unit_high(w: u32) -> vec4<f32> {
  return vec4<f32>(unit_left(w, 15u), unit_left(w, 7u), unit_right(w, 1u), unit_right(w, 9u)) - 1.5;
}

fn dots(q: vec4<u32>, x: X) -> vec2<f32> {
  let first = dot(unit_low(q.x), x.v0) + dot(unit_low(q.y), x.v1) + dot(unit_low(q.z), x.v2) + dot(unit_low(q.w), x.v3);
  let second = dot(unit_high(q.x), x.v4) + dot(unit_high(q.y), x.v5) + dot(unit_high(q.z), x.v6) + dot(unit_high(q.w), x.v7);
  return 16.0 * vec2<f32>(first, second);
}
//: end
//: end

// Products are with codes less CENTRE.
fn dot_block(b: Block, x: X) -> f32 {
  let d = dots(b.codes, x);
  let minus = b.scales.minus - CENTRE * b.scales.scale;
//: if HALVES
  return dot(b.scales.scale, d) - dot(minus, x.sums);
//: else
  return b.scales.scale.x * (d.x + d.y) - minus.x * (x.sums.x + x.sums.y);
//: end
}
//: end
