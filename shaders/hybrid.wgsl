// HYBRID: blocks of 64 columns, each at 2, 3, 4 or 5 bits or bfloat16 as the map
// says for 16 rows at a time. A unit is half a block.
//
// Bound are scale words, map, starts and codes; p.extra.x is 2^e as a float.

@group(0) @binding(0) var<storage, read> word_plane: array<u32>;
@group(0) @binding(1) var<storage, read> map: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> starts: array<u32>;
@group(0) @binding(3) var<storage, read> code_plane: array<vec2<u32>>;
//: if I8
//: use fields
//: else
//: use dots
//: end

// Units of 8 bytes of the blocks before a record's number `k`.
fn units_before(rates: u32, k: u32) -> u32 {
  let r = rates & ((1u << (4u * k)) - 1u);
  let sums = (r & 0x0f0f0f0fu) + ((r >> 4u) & 0x0f0f0f0fu);
  return ((sums * 0x01010101u) >> 24u) + 2u * k + 10u * countOneBits(r & 0x44444444u);
}

// What the rows of a strip have in common in a unit: where the first's codes are,
// from row to row, and what the rate says.
struct Head {
  first: u32, row_units: u32, block: u32, half: u32, rate: u32,
  // From the first codes to the others, and to the word of the bits above.
  next: u32, bits: u32,
  // Fields of the low bits, of the bit above, and that bit's place.
  mask: u32, above: u32, lift: u32,
  most: f32, mean: f32,
}

// What the map says of a unit's block and its neighbours.
fn record_of(row: u32, unit: u32) -> vec2<u32> {
  return map[((p.base.y + (row >> 4u) * p.stride.y) >> 3u) + (unit >> 4u)];
}

fn head(row: u32, unit: u32) -> Head { return head_of(row, unit, record_of(row, unit)); }

fn head_of(row: u32, unit: u32, record: vec2<u32>) -> Head {
  var h: Head;
  h.block = unit >> 1u;
  h.half = unit & 1u;
  let strip = row >> 4u;
  let at = (p.base.z >> 2u) + strip;
  let start = starts[at];
  let length = starts[at + 1u] - start;
  let count = min(16u, p.rows - (strip << 4u));
  h.row_units = length >> 4u;
  // The last strip alone may be lower.
  if (count < 16u) { h.row_units = length / count; }
  let k = h.block & 7u;
  h.rate = (record.x >> (4u * k)) & 15u;
  // Two bits and, at 3 bits, one above; or four bits and, at 5, one above.
  let narrow = h.rate < 2u;
  let odd = (h.rate & 1u) == 1u;
  let skipped = select(2u * h.half, h.half, narrow);
  h.first = (p.base.w >> 3u) + start + record.y + units_before(record.x, k) + skipped;
  h.next = select(1u, 0u, narrow);
  h.bits = select(0u, h.rate + 1u - skipped, odd);
  h.mask = select(0x0f0f0f0fu, 0x03030303u, narrow);
  h.above = select(0u, select(0x10101010u, 0x04040404u, narrow), odd);
  h.lift = select(4u, 2u, narrow);
  h.most = bitcast<f32>((129u + h.rate) << 23u) - 1.0;
  h.mean = select(select(select(20.0, 8.0, h.rate == 2u), 3.5, h.rate == 1u), 2.25, h.rate == 0u);
  return h;
}

// Codes have their low bits in the nibbles of `a`, as INT4 has them, and the bit
// above, if any, in `high`: the first four's in every byte's lowest bit, and so on.
struct Codes { a: vec4<u32>, high: u32, mask: u32, above: u32, lift: u32, most: f32 }
struct Block { head: Head, codes: Codes, begin: u32, word: u32 }

fn load_under(h: Head, row: u32) -> Block {
  var b: Block;
  b.head = h;
  b.begin = h.first + (row & 15u) * h.row_units;
  b.word = word_plane[((p.base.x + row * p.stride.x) >> 2u) + h.block];
  let narrow = h.rate < 2u;
  let words = code_plane[b.begin];
  // Fields of two bits lie as nibbles do once the second is brought to the first's place.
  let next = code_plane[b.begin + h.next];
  let more = select(next, words >> vec2<u32>(2u), narrow);
  let bits = code_plane[b.begin + h.bits];
  b.codes = Codes(vec4<u32>(words, more), select(bits.x, bits.y, h.half == 1u), h.mask, h.above, h.lift, h.most);
  return b;
}

fn bits(b: Block) -> u32 { return b.codes.a.x | b.codes.a.z | b.codes.high | b.word; }

fn load(row: u32, unit: u32) -> Block { return load_under(head(row, unit), row); }

//: if !I8
// The codes of weights 4 i .. 4 i + 3.
fn code_bytes(q: Codes, i: u32) -> u32 {
  let turned = (q.high << q.lift) | (q.high >> (32u - q.lift));
  let high = (turned >> i) | ((turned << 1u) << (31u - i));
  return ((q.a[i & 3u] >> ((i >> 2u) * 4u)) & q.mask) | (high & q.above);
}
//: end

// A block's step.
fn step_of(word: u32) -> f32 {
  let k = word & 255u;
  return select(bitcast<f32>((k << 21u) + 0x3f800000u) * bitcast<f32>(p.extra.x), 0.0, k == 0u);
}

// Scales and mins of two groups in steps, from fields of three bits in place: in the
// mantissas of 2^23, 2^20, 2^17 and 2^14.
struct Scales { scale: vec2<f32>, minus: vec2<f32> }

fn fields_of(e: u32) -> Scales {
  let sc = vec2<f32>(raised(e, 0u, 7u), raised(e, 6u, 7u)) - vec2<f32>(8388602.0, 131066.0);
  let m = vec2<f32>(raised(e, 3u, 7u), raised(e, 9u, 7u)) - vec2<f32>(1048579.5, 16387.5);
  return Scales(sc, m);
}

// Numbers 8 i .. 8 i + 7 of bfloat16 are in one vector.
fn brain_quad(w: vec2<u32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u));
}

//: if WEIGHTS
fn brains(b: Block) -> array<vec4<f32>, 8> {
  let at = b.begin + 6u * b.head.half;
  return array<vec4<f32>, 8>(
//: each i 8
    brain_quad(code_plane[at + $iu]),
//: end
  );
}
//: else
// The product of a half of bfloat16 that begins at `at`. Such halves are rare: their
// code is short rather than quick, and a loop that no compiler unrolls.
fn brain_dot(at: u32, x: X) -> f32 {
  let count = min(8u, p.cols);
//: if I8|I24
//: if I24
  var digits = array<vec4<u32>, 6>(x.v0, x.v1, x.v2, x.v3, x.v4, x.v5);
//: else
  var digits = array<vec4<u32>, 2>(x.v0, x.v1);
//: end
//: else
  var values = x_floats(x);
//: end
  var sum = 0.0;
  for (var i = 0u; i < count; i++) {
//: if I8|I24
//: if I24
    var v = vec4<f32>(0.0);
    for (var d = i >> 2u; d < 6u; d += 2u) { v = 256.0 * v + whole(digits[d][i & 3u]); }
//: else
    let v = whole(digits[i >> 2u][i & 3u]);
//: end
//: else
    let v = values[i];
//: end
    sum += dot(brain_quad(code_plane[at + i]), v);
  }
  return x.scale * sum;
}
//: end

//: if I8
// Products with the codes' parts as they lie. Of the first 16: those with the low
// bits, and 8 times those with the bits above. Of the others: 16 times those with
// the low bits, less 8 if there are four, and 128 times those with the bits above.
// Everything is twice that, which makes the bit above count 1 or 4 times.
fn part_dots(h: Head, q: Codes, u: vec4<u32>, v: vec4<u32>) -> vec2<f32> {
  let a = q.a & vec4<u32>(h.mask);
  let low = dot4I8Packed(a.x, u.x) + dot4I8Packed(a.y, u.y) + dot4I8Packed(a.z, u.z) + dot4I8Packed(a.w, u.w);
  let flip = select(0x80808080u, 0u, h.rate < 2u);
  let c = (q.a ^ vec4<u32>(flip)) & vec4<u32>(h.mask << 4u);
  let high = dot4I8Packed(c.x, v.x) + dot4I8Packed(c.y, v.y) + dot4I8Packed(c.z, v.z) + dot4I8Packed(c.w, v.w);
  let l0 = dot4I8Packed(q.high & 0x01010101u, u.x);
  let l1 = dot4I8Packed(q.high & 0x02020202u, u.y);
  let l2 = dot4I8Packed(q.high & 0x04040404u, u.z);
  let l3 = dot4I8Packed(q.high & 0x08080808u, u.w);
  let h0 = dot4I8Packed(q.high & 0x10101010u, v.x);
  let h1 = dot4I8Packed(q.high & 0x20202020u, v.y);
  let h2 = dot4I8Packed(q.high & 0x40404040u, v.z);
  let h3 = dot4I8Packed(q.high & 0x80808080u, v.w);
  let lift = select(0, select(4, 1, h.rate < 2u), (h.rate & 1u) == 1u);
  return vec2<f32>(
    f32(2 * low + lift * (8 * l0 + 4 * l1 + 2 * l2 + l3)),
    f32(2 * high + lift * (8 * h0 + 4 * h1 + 2 * h2 - h3)));
}
//: else
//: if I24
fn bytes(q: Codes) -> Bytes {
  return Bytes(
    vec4<u32>(code_bytes(q, 0u), code_bytes(q, 1u), code_bytes(q, 2u), code_bytes(q, 3u)),
    vec4<u32>(code_bytes(q, 4u), code_bytes(q, 5u), code_bytes(q, 6u), code_bytes(q, 7u)));
}
//: else
//: if F16
fn half_quads(q: Codes) -> HalfQuads {
  let centre = f16(0.5 * q.most + 0.5);
  return HalfQuads(
//: each i 8
    half_fields(code_bytes(q, $iu), 0u, 31u, centre),
//: end
  );
}
//: else
fn quads(q: Codes) -> array<vec4<f32>, 8> {
  let centre = 0.5 * q.most + 0.5;
  return array<vec4<f32>, 8>(
//: each i 8
    fields(code_bytes(q, $iu), 0u, 31u, centre),
//: end
  );
}
//: end
//: end
//: end

//: if WEIGHTS
fn weights(b: Block) -> array<vec4<f32>, 8> {
  if (b.head.rate > 3u) { return brains(b); }
  let q = quads(b.codes);
  let s = fields_of(b.word >> (8u + 12u * b.head.half));
  let step = step_of(b.word);
  let w = step * s.scale;
  let m = b.head.mean * (step * s.minus) - 0.5 * w;
  return array<vec4<f32>, 8>(
    q[0] * w.x - m.x, q[1] * w.x - m.x, q[2] * w.x - m.x, q[3] * w.x - m.x,
    q[4] * w.y - m.y, q[5] * w.y - m.y, q[6] * w.y - m.y, q[7] * w.y - m.y);
}
//: else
// Products of a half's codes, less what the rate takes off each, with its groups.
fn products(h: Head, q: Codes, x: X) -> vec2<f32> {
//: if I8
  let flipped = select(8.0, 0.0, h.rate < 2u);
  let less = vec2<f32>(0.5 * h.most) - vec2<f32>(0.0, flipped);
  return part_dots(h, q, x.v0, x.v1) * (x.scale * vec2<f32>(0.5, 0.03125)) - less * x.sums;
//: else
//: if I24
  return dots(q, x) - 0.5 * h.most * x.sums;
//: else
  return dots(q, x) + 0.5 * x.sums;
//: end
//: end
}

// The product with a half in steps of its block; `e` begins with its groups' fields.
fn in_steps(h: Head, q: Codes, e: u32, x: X) -> f32 {
  let s = fields_of(e);
  return dot(s.scale, products(h, q, x)) - dot(s.minus, h.mean * x.sums);
}

fn dot_block(b: Block, x: X) -> f32 {
  let h = b.head;
  var sum = step_of(b.word) * in_steps(h, b.codes, b.word >> (8u + 12u * h.half), x);
  if (h.rate > 3u) { sum = brain_dot(b.begin + 6u * h.half, x); }
  return sum;
}
//: end
