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
// Head word and the 12-bit entry of a unit.
fn entry(row: u32, unit: u32) -> vec2<u32> {
  let bit = (unit & 7u) * 12u;
  let shift = bit & 31u;
//: if ALIGNED
  let s = scale_plane[((p.base.y + row * p.stride.y) >> 4u) + (unit >> 3u)];
  // Bits 0 to 31 lie in y, to 63 in z, to 95 in w.
  let low = select(select(s.y, s.z, bit >= 32u), s.w, bit >= 64u);
  let high = select(s.z, s.w, bit >= 32u);
  let head = s.x;
//: else
  let at = ((p.base.y + row * p.stride.y) >> 2u) + (unit >> 3u) * 4u;
  let head = scale_plane[at];
  let low = scale_plane[at + 1u + (bit >> 5u)];
  let high = scale_plane[at + 1u + ((bit + 11u) >> 5u)];
//: end
  return vec2<u32>(head, (low >> shift) | ((high << 1u) << (31u - shift)));
}

fn scales(row: u32, unit: u32) -> Scales {
  let e = entry(row, unit);
  let d = unpack2x16float(e.x) * bitcast<f32>(p.extra.x);
  let min_bias = bitcast<f32>(p.extra.y);
  let code_bias = bitcast<f32>(p.extra.z);
//: if FINE
  let sc = vec2<f32>(vec2<u32>(e.y, e.y >> 6u) & vec2<u32>(7u)) + bitcast<f32>(p.extra.w);
  let m = vec2<f32>(vec2<u32>(e.y >> 3u, e.y >> 9u) & vec2<u32>(7u)) - min_bias;
  let s = d.x * sc;
  return Scales(s, d.y * m + code_bias * s);
//: else
  let s = d.x * f32(e.y & 63u);
  let m = f32((e.y >> 6u) & 63u) - min_bias;
  return Scales(vec2<f32>(s), vec2<f32>(d.y * m + code_bias * s));
//: end
}
//: end
