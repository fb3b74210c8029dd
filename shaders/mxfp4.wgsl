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
  return Block(Codes(code_plane[(p.base.x >> 4u) + row * (p.stride.x >> 4u) + unit]), power);
}

//: if I8|I24
// Signs of a word's eight codes, 1 for a negative one.
fn signs(w: u32) -> u32 { return (w >> 3u) & 0x11111111u; }

// Twice their magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6, a nibble each: from 4 on the
// codes' low two bits count double, and 3 two more. Logic and sums are what bounds
// these kernels: a factor that a compiler does not know leaves them to the units of
// products, which have time left.
fn doubled(w: u32, n: u32) -> u32 {
  let rest = w & (((w >> 2u) & 0x11111111u) * 3u);
  return (rest & (rest * 2u)) + rest + (n * unseen(0xfffffff8u) + w);
}

// Bytes of 16 and v or -v, of low nibbles v; `negative` has 15 for a negative one.
const BIAS: f32 = 16.0;
fn biased(v: u32, negative: u32) -> u32 {
  return (v & negative & 0x0f0f0f0fu) * unseen(0xfffffffeu) + ((v & 0x0f0f0f0fu) | unseen(0x10101010u));
}

//: if I24
//: use dots
fn bytes(q: Codes) -> Bytes {
//: each i 4
  let n$i = signs(q.words[$i]);
  let v$i = doubled(q.words[$i], n$i);
  let m$i = n$i * 15u;
//: end
  return Bytes(
    vec4<u32>(biased(v0, m0), biased(v1, m1), biased(v2, m2), biased(v3, m3)),
    vec4<u32>(
      biased(v0 >> 4u, m0 >> 4u), biased(v1 >> 4u, m1 >> 4u),
      biased(v2 >> 4u, m2 >> 4u), biased(v3 >> 4u, m3 >> 4u)));
}

fn dot_block(b: Block, x: X) -> f32 {
  let d = dots(b.codes, x) - BIAS * x.sums;
  return (0.5 * b.power) * (d.x + d.y);
}
//: else
//: use fields
// A word's eight codes: of low nibbles, biased bytes; of high ones 16 v or -16 v as a
// difference of two signed bytes, those of v ^ k and k, k being -8 or, for a negative
// one, 7.
struct Signed { low: u32, high: u32, less_high: u32 }

fn signed_bytes(w: u32) -> Signed {
  let n = signs(w);
  let v = doubled(w, n);
  let k = n * unseen(0xffffffffu) + 0x88888888u;
  return Signed(biased(v, n * 15u), (v ^ k) & 0xf0f0f0f0u, k & 0xf0f0f0f0u);
}

fn dot_block(b: Block, x: X) -> f32 {
  let w = b.codes.words;
  let c0 = signed_bytes(w.x);
  let c1 = signed_bytes(w.y);
  let c2 = signed_bytes(w.z);
  let c3 = signed_bytes(w.w);
  let u = x.v0;
  let v = x.v1;
  let low = dot4I8Packed(c0.low, u.x) + dot4I8Packed(c1.low, u.y) + dot4I8Packed(c2.low, u.z) + dot4I8Packed(c3.low, u.w);
  let high = dot4I8Packed(c0.high, v.x) + dot4I8Packed(c1.high, v.y) + dot4I8Packed(c2.high, v.z) + dot4I8Packed(c3.high, v.w);
  let less = dot4I8Packed(c0.less_high, v.x) + dot4I8Packed(c1.less_high, v.y) + dot4I8Packed(c2.less_high, v.z) + dot4I8Packed(c3.less_high, v.w);
  return (0.5 * b.power) * (x.scale * 0.0625 * f32(16 * low + (high - less)) - BIAS * x.sums.x);
}
//: end
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
