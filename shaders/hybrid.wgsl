// HYBRID: blocks of 64 columns, each at 2, 3, 4 or 5 bits or bfloat16 as the map
// says for 16 rows at a time. A unit is half a block.
//
// Bound are scale words, map, starts and codes; p.extra.x is 2^e as a float.

@group(0) @binding(0) var<storage, read> word_plane: array<u32>;
@group(0) @binding(1) var<storage, read> map: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> starts: array<u32>;
@group(0) @binding(3) var<storage, read> code_plane: array<vec2<u32>>;
//: use dots

// Units of 8 bytes of the blocks before a record's number `k`.
fn units_before(rates: u32, k: u32) -> u32 {
  let r = rates & ((1u << (4u * k)) - 1u);
  let sums = (r & 0x0f0f0f0fu) + ((r >> 4u) & 0x0f0f0f0fu);
  return ((sums * 0x01010101u) >> 24u) + 2u * k + 10u * countOneBits(r & 0x44444444u);
}

// What the rows of a strip have in common in a unit: where the block of the
// first begins, from row to row, and what the rate says.
struct Head {
  first: u32, row_units: u32, block: u32, half: u32, rate: u32,
  // Fields of the low bits, of the bit above, and that bit's place.
  mask: u32, above: u32, lift: u32,
  most: f32, mean: f32,
}

fn head(row: u32, unit: u32) -> Head {
  var h: Head;
  h.block = unit >> 1u;
  h.half = unit & 1u;
  let strip = row >> 4u;
  let record = map[((p.base.y + strip * p.stride.y) >> 3u) + (h.block >> 3u)];
  let at = (p.base.z >> 2u) + strip;
  let start = starts[at];
  let length = starts[at + 1u] - start;
  let count = min(16u, p.rows - (strip << 4u));
  h.row_units = length >> 4u;
  // The last strip alone may be lower.
  if (count < 16u) { h.row_units = length / count; }
  let k = h.block & 7u;
  h.rate = (record.x >> (4u * k)) & 15u;
  h.first = (p.base.w >> 3u) + start + record.y + units_before(record.x, k);
  // Two bits and, at 3 bits, one above; or four bits and, at 5, one above.
  let narrow = h.rate < 2u;
  h.mask = select(0x0f0f0f0fu, 0x03030303u, narrow);
  h.above = select(0x10101010u, 0x04040404u, narrow);
  h.lift = select(4u, 2u, narrow);
  h.most = bitcast<f32>((129u + h.rate) << 23u) - 1.0;
  h.mean = select(select(select(20.0, 8.0, h.rate == 2u), 3.5, h.rate == 1u), 2.25, h.rate == 0u);
  return h;
}

// Codes have their low bits in the nibbles of `a`, as INT4 has them, and the bit
// above in `high`, already in its place for the first four.
struct Codes { a: vec4<u32>, high: u32, mask: u32, above: u32, most: f32 }
struct Block { head: Head, codes: Codes, begin: u32, word: u32 }

fn load_under(h: Head, row: u32) -> Block {
  var b: Block;
  b.head = h;
  b.begin = h.first + (row & 15u) * h.row_units;
  b.word = word_plane[((p.base.x + row * p.stride.x) >> 2u) + h.block];
  let narrow = h.rate < 2u;
  let at = b.begin + select(2u * h.half, h.half, narrow);
  let words = code_plane[at];
  // Fields of two bits lie as nibbles do once the second is brought to the first's place.
  let next = code_plane[select(at + 1u, at, narrow)];
  let more = select(next, words >> vec2<u32>(2u), narrow);
  b.codes = Codes(vec4<u32>(words, more), 0u, h.mask, h.above, h.most);
  let odd = (h.rate & 1u) == 1u;
  let bits = code_plane[select(at, b.begin + h.rate + 1u, odd)];
  let high = select(0u, select(bits.x, bits.y, h.half == 1u), odd);
  b.codes.high = (high << h.lift) | (high >> (32u - h.lift));
  return b;
}

fn load(row: u32, unit: u32) -> Block { return load_under(head(row, unit), row); }

fn bits(b: Block) -> u32 { return 1u; }

// The codes of weights 4 i .. 4 i + 3.
fn code_bytes(q: Codes, i: u32) -> u32 {
  let high = (q.high >> i) | ((q.high << 1u) << (31u - i));
  return ((q.a[i & 3u] >> ((i >> 2u) * 4u)) & q.mask) | (high & q.above);
}

struct Scales { scale: vec2<f32>, minus: vec2<f32> }

fn scales(b: Block) -> Scales {
  let k = b.word & 255u;
  let step = select(bitcast<f32>((k << 21u) + 0x3f800000u) * bitcast<f32>(p.extra.x), 0.0, k == 0u);
  let e = b.word >> (8u + 12u * b.head.half);
  // Whole numbers in the mantissas of 2^23, and in halves, 2^22.
  let sc = bitcast<vec2<f32>>((vec2<u32>(e, e >> 6u) & vec2<u32>(7u)) | vec2<u32>(0x4b000000u)) - 8388602.0;
  let m = bitcast<vec2<f32>>((vec2<u32>(e >> 2u, e >> 8u) & vec2<u32>(14u)) | vec2<u32>(0x4a800000u)) - 4194307.5;
  return Scales(step * sc, step * m);
}

// Numbers 8 i .. 8 i + 7 of bfloat16 are in one vector.
fn brain_quad(w: vec2<u32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u));
}

fn brains(b: Block) -> array<vec4<f32>, 8> {
  let at = b.begin + 8u * b.head.half;
  return array<vec4<f32>, 8>(
//: each i 8
    brain_quad(code_plane[at + $iu]),
//: end
  );
}

//: if I8|I24
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

//: if WEIGHTS
fn weights(b: Block) -> array<vec4<f32>, 8> {
  if (b.head.rate > 3u) { return brains(b); }
  let q = quads(b.codes);
  let s = scales(b);
  let m = b.head.mean * s.minus - 0.5 * s.scale;
  let w = s.scale;
  return array<vec4<f32>, 8>(
    q[0] * w.x - m.x, q[1] * w.x - m.x, q[2] * w.x - m.x, q[3] * w.x - m.x,
    q[4] * w.y - m.y, q[5] * w.y - m.y, q[6] * w.y - m.y, q[7] * w.y - m.y);
}
//: else
fn dot_block(b: Block, x: X) -> f32 {
//: if I8|I24
  let centre = 0.5 * b.head.most * x.sums;
//: else
  let centre = -0.5 * x.sums;
//: end
  let mean = b.head.mean * x.sums;
  let s = scales(b);
  var sum = dot(s.scale, dots(b.codes, x) - centre) - dot(s.minus, mean);
  if (b.head.rate > 3u) {
    let v = x_floats(x);
    let w = brains(b);
    sum = x.scale * (
      dot(w[0], v[0]) + dot(w[1], v[1]) + dot(w[2], v[2]) + dot(w[3], v[3])
      + dot(w[4], v[4]) + dot(w[5], v[5]) + dot(w[6], v[6]) + dot(w[7], v[7]));
  }
  return sum;
}
//: end
