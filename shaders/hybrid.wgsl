// HYBRID: blocks of 64 columns, each at 2, 3, 4 or 5 bits or bfloat16 as the map
// says for 16 rows at a time. A unit is half a block.
//
// Bound are scale words, map, starts and codes; p.extra.x is 2^e as a float.

@group(0) @binding(0) var<storage, read> word_plane: array<u32>;
@group(0) @binding(1) var<storage, read> map: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> starts: array<u32>;
@group(0) @binding(3) var<storage, read> code_plane: array<vec2<u32>>;
//: use dots

// Numbers of bfloat16 are `a` to `d`. Codes have their low bits in the nibbles of
// `a` under `mask`, as INT4 has them, and the bit above in `high`, which counts `lift`.
struct Codes { a: vec4<u32>, high: u32, mask: u32, lift: u32, centre: f32 }
struct Block { codes: Codes, b: vec4<u32>, c: vec4<u32>, d: vec4<u32>, brain: bool, scale: vec2<f32>, minus: vec2<f32> }

// Units of 8 bytes of the blocks before a record's number `k`.
fn units_before(rates: u32, k: u32) -> u32 {
  let r = rates & ((1u << (4u * k)) - 1u);
  let sums = (r & 0x0f0f0f0fu) + ((r >> 4u) & 0x0f0f0f0fu);
  return ((sums * 0x01010101u) >> 24u) + 2u * k + 10u * countOneBits(r & 0x44444444u);
}

fn load(row: u32, unit: u32) -> Block {
  let block = unit >> 1u;
  let half = unit & 1u;
  let strip = row >> 4u;
  let record = map[((p.base.y + strip * p.stride.y) >> 3u) + (block >> 3u)];
  let at = (p.base.z >> 2u) + strip;
  let start = starts[at];
  let length = starts[at + 1u] - start;
  let count = min(16u, p.rows - (strip << 4u));
  var row_units = length >> 4u;
  // The last strip alone may be lower.
  if (count < 16u) { row_units = length / count; }
  let k = block & 7u;
  let rate = (record.x >> (4u * k)) & 15u;
  let first = (p.base.w >> 3u) + start + (row & 15u) * row_units + record.y + units_before(record.x, k);

  var b: Block;
  b.brain = rate > 3u;
  // Two bits and, at 3 bits, one above; or four bits and, at 5, one above.
  let narrow = rate < 2u;
  b.codes.mask = select(0x0f0f0f0fu, 0x03030303u, narrow);
  b.codes.lift = select(16u, 4u, narrow);
  b.codes.centre = bitcast<f32>((128u + rate) << 23u);
  if (b.brain) {
    let begin = first + 8u * half;
    b.codes.a = vec4<u32>(code_plane[begin], code_plane[begin + 1u]);
    b.b = vec4<u32>(code_plane[begin + 2u], code_plane[begin + 3u]);
    b.c = vec4<u32>(code_plane[begin + 4u], code_plane[begin + 5u]);
    b.d = vec4<u32>(code_plane[begin + 6u], code_plane[begin + 7u]);
  } else {
    let begin = first + select(2u * half, half, narrow);
    let words = code_plane[begin];
    // Fields of two bits lie as nibbles do once the second is brought to the first's place.
    var more = words >> vec2<u32>(2u);
    if (!narrow) { more = code_plane[begin + 1u]; }
    b.codes.a = vec4<u32>(words, more);
    if ((rate & 1u) == 1u) {
      let bits = code_plane[first + rate + 1u];
      b.codes.high = select(bits.x, bits.y, half == 1u);
    }
    let word = word_plane[((p.base.x + row * p.stride.x) >> 2u) + block];
    let k = word & 255u;
    let power = bitcast<f32>(((k >> 2u) + 127u) << 23u | (k & 3u) << 21u);
    let step = select(power * bitcast<f32>(p.extra.x), 0.0, k == 0u);
    let e = word >> (8u + 12u * half);
    let sc = vec2<f32>(vec2<u32>(e, e >> 6u) & vec2<u32>(7u)) + 6.0;
    let m = vec2<f32>(vec2<u32>(e >> 3u, e >> 9u) & vec2<u32>(7u)) - 3.5;
    let most = bitcast<f32>((129u + rate) << 23u) - 1.0;
    let mean = select(select(select(20.0, 8.0, rate == 2u), 3.5, rate == 1u), 2.25, rate == 0u);
    b.scale = step * sc;
    b.minus = (step * mean) * m + 0.5 * most * b.scale;
  }
  return b;
}

// The codes of weights 4 i .. 4 i + 3.
fn code_bytes(q: Codes, i: u32) -> u32 {
  return ((q.a[i & 3u] >> ((i >> 2u) * 4u)) & q.mask) + ((q.high >> i) & 0x01010101u) * q.lift;
}

// Numbers 8 i .. 8 i + 7 of bfloat16 are in one vector.
fn brain_quad(w: vec2<u32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u));
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
  let centre = f16(q.centre);
  return HalfQuads(
//: each i 8
    half_fields(code_bytes(q, $iu), 0u, 31u, centre),
//: end
  );
}
//: else
fn quads(q: Codes) -> array<vec4<f32>, 8> {
  return array<vec4<f32>, 8>(
//: each i 8
    fields(code_bytes(q, $iu), 0u, 31u, q.centre),
//: end
  );
}
//: end
//: end

//: if WEIGHTS
fn weights(b: Block) -> array<vec4<f32>, 8> {
  if (b.brain) {
    let a = b.codes.a;
    return array<vec4<f32>, 8>(
      brain_quad(a.xy), brain_quad(a.zw), brain_quad(b.b.xy), brain_quad(b.b.zw),
      brain_quad(b.c.xy), brain_quad(b.c.zw), brain_quad(b.d.xy), brain_quad(b.d.zw));
  }
  let q = quads(b.codes);
  let s = b.scale;
  let m = b.minus - b.codes.centre * s;
  return array<vec4<f32>, 8>(
    q[0] * s.x - m.x, q[1] * s.x - m.x, q[2] * s.x - m.x, q[3] * s.x - m.x,
    q[4] * s.y - m.y, q[5] * s.y - m.y, q[6] * s.y - m.y, q[7] * s.y - m.y);
}
//: else
fn dot_block(b: Block, x: X) -> f32 {
  if (b.brain) {
    let v = x_floats(x);
    let a = b.codes.a;
    return x.scale * (
      dot(brain_quad(a.xy), v[0]) + dot(brain_quad(a.zw), v[1])
      + dot(brain_quad(b.b.xy), v[2]) + dot(brain_quad(b.b.zw), v[3])
      + dot(brain_quad(b.c.xy), v[4]) + dot(brain_quad(b.c.zw), v[5])
      + dot(brain_quad(b.d.xy), v[6]) + dot(brain_quad(b.d.zw), v[7]));
  }
  let d = dots(b.codes, x);
//: if I8|I24
  let minus = b.minus;
//: else
  let minus = b.minus - b.codes.centre * b.scale;
//: end
  return dot(b.scale, d) - dot(minus, x.sums);
}
//: end
