// Scales of the integer codecs: of each half of a block of 32, scale and
// subtrahend, w = scale q - minus.
//
//   PLAIN:          a scale and an offset per GROUP weights (f16, or f32 with WIDE).
//   otherwise:      superblocks of 256: f16 d and dmin, then 12 bits per 32 weights:
//     FINE          two pairs of 3 bits (scale, min), one for each half,
//     otherwise     one pair of 6 bits.
//
// p.extra, as floats: 2^e, what is taken off mins, what is taken off codes, what
// is added to scales (fine).

//: if ALIGNED
@group(0) @binding(1) var<storage, read> scale_plane: array<vec4<u32>>;
//: else
@group(0) @binding(1) var<storage, read> scale_plane: array<u32>;
//: end

struct Scales { scale: vec2<f32>, minus: vec2<f32> }

//: if PLAIN
fn pair(row: u32, group: u32) -> vec2<f32> {
//: if WIDE
  let at = ((p.base.y + row * p.stride.y) >> 2u) + group * 2u;
  return vec2<f32>(bitcast<f32>(scale_plane[at]), bitcast<f32>(scale_plane[at + 1u]));
//: else
  return unpack2x16float(scale_plane[((p.base.y + row * p.stride.y) >> 2u) + group]);
//: end
}

fn scales(row: u32, unit: u32) -> Scales {
//: if HALVES
  let last = (p.cols + 15u) / 16u - 1u;
  let a = pair(row, unit * 2u);
  let b = pair(row, min(unit * 2u + 1u, last));
  return Scales(vec2<f32>(a.x, b.x), vec2<f32>(-a.y, -b.y));
//: else
  let a = pair(row, unit / (GROUP / 32u));
  return Scales(vec2<f32>(a.x), vec2<f32>(-a.y));
//: end
}
//: else
// What the units of a superblock share: d and dmin, and the entries.
//: if ALIGNED
struct Head { d: vec2<f32>, entries: vec3<u32> }

fn head(row: u32, unit: u32) -> Head {
  let s = scale_plane[((p.base.y + row * p.stride.y) >> 4u) + (unit >> 3u)];
  return Head(unpack2x16float(s.x) * bitcast<f32>(p.extra.x), s.yzw);
}

// Of the unit of number `k` in its superblock.
fn scales_under(h: Head, k: u32) -> Scales {
  let bit = k * 12u;
  let s = h.entries;
  let low = select(select(s.x, s.y, bit >= 32u), s.z, bit >= 64u);
  let high = select(s.y, s.z, bit >= 32u);
  return expand(h.d, across(low, high, bit));
}

fn scales(row: u32, unit: u32) -> Scales { return scales_under(head(row, unit), unit & 7u); }
//: else
fn scales(row: u32, unit: u32) -> Scales {
  let bit = (unit & 7u) * 12u;
  let at = ((p.base.y + row * p.stride.y) >> 2u) + (unit >> 3u) * 4u;
  let d = unpack2x16float(scale_plane[at]) * bitcast<f32>(p.extra.x);
  let low = scale_plane[at + 1u + (bit >> 5u)];
  let high = scale_plane[at + 1u + ((bit + 11u) >> 5u)];
  return expand(d, across(low, high, bit));
}
//: end

// Twelve bits that begin in one word and may end in the next.
fn across(low: u32, high: u32, bit: u32) -> u32 {
  let shift = bit & 31u;
  return (low >> shift) | ((high << 1u) << (31u - shift));
}

fn expand(d: vec2<f32>, e: u32) -> Scales {
  let min_bias = bitcast<f32>(p.extra.y);
  let code_bias = bitcast<f32>(p.extra.z);
//: if FINE
  let sc = vec2<f32>(vec2<u32>(e, e >> 6u) & vec2<u32>(7u)) + bitcast<f32>(p.extra.w);
  let m = vec2<f32>(vec2<u32>(e >> 3u, e >> 9u) & vec2<u32>(7u)) - min_bias;
  let s = d.x * sc;
  return Scales(s, d.y * m + code_bias * s);
//: else
  let s = d.x * f32(e & 63u);
  let m = f32((e >> 6u) & 63u) - min_bias;
  return Scales(vec2<f32>(s), vec2<f32>(d.y * m + code_bias * s));
//: end
}
//: end
