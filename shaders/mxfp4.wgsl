// MXFP4: 16 bytes of a block of 32 weights as INT4 has them, codes of sign,
// two bits of exponent and one of mantissa; a power of two for each block.

@group(0) @binding(0) var<storage, read> code_plane: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> scale_plane: array<u32>;

struct Codes { words: vec4<u32> }
struct Block { codes: Codes, power: f32 }

fn bits(b: Block) -> u32 { return b.codes.words.x | bitcast<u32>(b.power); }

fn load(row: u32, unit: u32) -> Block {
  let byte = p.base.y + row * p.stride.y + unit;
  let s = (scale_plane[byte >> 2u] >> ((byte & 3u) * 8u)) & 0xffu;
  // Byte 0 is the only one whose power has no exponent of its own.
  let power = bitcast<f32>(select(s << 23u, 0x00400000u, s == 0u));
  return Block(Codes(code_plane[((p.base.x + row * p.stride.x) >> 4u) + unit]), power);
}

//: if I24
//: use dots
const CENTRE: f32 = 0.0;

// Twice the magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6 of a word's eight codes, a
// nibble each. From 4 on the codes' low two bits count double, 3 four times.
fn doubled(w: u32) -> u32 {
  let big = w & 0x44444444u;
  let rest = w & (big - (big >> 2u));
  let three = rest & (rest >> 1u) & 0x11111111u;
  return (w & 0x77777777u) + rest + 2u * three;
}

// Bytes of twice the elements from magnitudes and from nibbles that are 15 for a
// negative one: 15 - v is v ^ 15, and 128 keeps the bytes apart.
fn signed_bytes(magnitude: u32, negative: u32) -> u32 {
  let n = negative & 0x0f0f0f0fu;
  return (((magnitude & 0x0f0f0f0fu) ^ n) + (0x80808080u - n)) ^ 0x80808080u;
}

fn bytes(q: Codes) -> Bytes {
//: each i 4
  let v$i = doubled(q.words[$i]);
  let n$i = ((q.words[$i] >> 3u) & 0x11111111u) * 15u;
//: end
  return Bytes(
    vec4<u32>(signed_bytes(v0, n0), signed_bytes(v1, n1), signed_bytes(v2, n2), signed_bytes(v3, n3)),
    vec4<u32>(
      signed_bytes(v0 >> 4u, n0 >> 4u), signed_bytes(v1 >> 4u, n1 >> 4u),
      signed_bytes(v2 >> 4u, n2 >> 4u), signed_bytes(v3 >> 4u, n3 >> 4u)));
}

fn dot_block(b: Block, x: X) -> f32 {
  let d = dots(b.codes, x);
  return (0.5 * b.power) * (d.x + d.y);
}
//: else
//: if I8
// Twice the magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6 of a word's eight codes, a
// nibble each: from 4 on the codes' low two bits count double, and 3 two more.
fn doubled(w: u32) -> u32 {
  let rest = w & (((w >> 2u) & 0x11111111u) * 3u);
  return (w & 0x77777777u) + rest + (rest & (rest * 2u));
}

// What a word's eight codes have twice, v or -v, is a difference of two bytes
// each, without carries. In low nibbles, n being 1 for a negative one: that of
// v ^ 15 n = 15 - v and of 15 n. In high ones, which are signed, 16 times that of
// v ^ k and of k, k being -8 or, for a negative one, 7.
struct Differences { low: u32, less_low: u32, high: u32, less_high: u32 }

fn differences(w: u32) -> Differences {
  let v = doubled(w);
  let n = (w >> 3u) & 0x11111111u;
  let m = n * 15u;
  let k = 0x88888888u - n;
  return Differences((v ^ m) & 0x0f0f0f0fu, m & 0x0f0f0f0fu, (v ^ k) & 0xf0f0f0f0u, k & 0xf0f0f0f0u);
}

// 32 times the product.
fn difference_dot(a: Differences, b: Differences, c: Differences, d: Differences, u: vec4<u32>, v: vec4<u32>) -> f32 {
  let low = dot4I8Packed(a.low, u.x) + dot4I8Packed(b.low, u.y) + dot4I8Packed(c.low, u.z) + dot4I8Packed(d.low, u.w);
  let less_low = dot4I8Packed(a.less_low, u.x) + dot4I8Packed(b.less_low, u.y) + dot4I8Packed(c.less_low, u.z) + dot4I8Packed(d.less_low, u.w);
  let high = dot4I8Packed(a.high, v.x) + dot4I8Packed(b.high, v.y) + dot4I8Packed(c.high, v.z) + dot4I8Packed(d.high, v.w);
  let less_high = dot4I8Packed(a.less_high, v.x) + dot4I8Packed(b.less_high, v.y) + dot4I8Packed(c.less_high, v.z) + dot4I8Packed(d.less_high, v.w);
  return f32(16 * (low - less_low) + (high - less_high));
}

fn dot_block(b: Block, x: X) -> f32 {
  let w = b.codes.words;
  let c0 = differences(w.x);
  let c1 = differences(w.y);
  let c2 = differences(w.z);
  let c3 = differences(w.w);
  return x.scale * (b.power * 0.03125) * difference_dot(c0, c1, c2, c3, x.v0, x.v1);
}
//: else
// A code's bits at the top of a half are the element times 2^-14, its exponent 0
// included, which both have for their subnormal numbers.
fn halves(sign: u32, rest: u32) -> u32 { return (sign & 0x80008000u) | (rest & 0x0e000e00u); }
const RAISE: f32 = 16384.0;

//: if F16
//: use dots
fn low(w: u32) -> vec4<f16> {
  return vec4<f16>(as_halves(halves(w << 12u, w << 9u)), as_halves(halves(w << 4u, w << 1u)));
}
fn high(w: u32) -> vec4<f16> {
  return vec4<f16>(as_halves(halves(w << 8u, w << 5u)), as_halves(halves(w, w >> 3u)));
}

fn half_quads(q: Codes) -> HalfQuads {
  let w = q.words;
  return HalfQuads(low(w.x), low(w.y), low(w.z), low(w.w), high(w.x), high(w.y), high(w.z), high(w.w));
}

fn dot_block(b: Block, x: X) -> f32 {
  // The rows' share of the input: its values are at most 1.
  var scaled = x;
//: each i 8
  scaled.v$i = x.v$i * 16384.0h;
//: end
  let d = dots(b.codes, scaled);
  return b.power * (d.x + d.y);
}
//: else
// Four codes to floats, in order: those of bytes 0, 1, 2, 3.
fn quad(even: u32, odd: u32) -> vec4<f32> {
  let a = unpack2x16float(even);
  let b = unpack2x16float(odd);
  return vec4<f32>(a.x, b.x, a.y, b.y);
}
fn low(w: u32) -> vec4<f32> { return quad(halves(w << 12u, w << 9u), halves(w << 4u, w << 1u)); }
fn high(w: u32) -> vec4<f32> { return quad(halves(w << 8u, w << 5u), halves(w, w >> 3u)); }

fn quads(q: Codes) -> array<vec4<f32>, 8> {
  let w = q.words;
  return array<vec4<f32>, 8>(low(w.x), low(w.y), low(w.z), low(w.w), high(w.x), high(w.y), high(w.z), high(w.w));
}

//: if WEIGHTS
fn weights(b: Block) -> array<vec4<f32>, 8> {
  var q = quads(b.codes);
//: each i 8
  q[$i] = (q[$i] * RAISE) * b.power;
//: end
  return q;
}
//: else
//: use dots
fn dot_block(b: Block, x: X) -> f32 {
  let d = dots(b.codes, x);
  return b.power * (RAISE * (d.x + d.y));
}
//: end
//: end
//: end
//: end
