// Scales of the integer codecs: of each half of a block of 32, scale and
// subtrahend, w = scale q - minus.
//
//   PLAIN:          a scale and an offset per GROUP weights (f16, or f32 with WIDE).
//   otherwise:      superblocks of 256: f16 d and dmin, then 12 bits per 32 weights:
//     FINE          two pairs of 3 bits (scale, min), one for each half,
//     otherwise     one pair of 6 bits.
//
// `Scales` is what is fetched; nothing is computed from it before it is used.
//
// p.extra, as floats: 2^e, what is taken off mins, what is taken off codes, what
// is added to scales (fine).

//: if ALIGNED
@group(0) @binding(1) var<storage, read> scale_plane: array<vec4<u32>>;
//: else
@group(0) @binding(1) var<storage, read> scale_plane: array<u32>;
//: end

//: if PLAIN
//: if WIDE
alias Pair = vec2<u32>;
fn pair(row: u32, group: u32) -> Pair {
  let at = ((p.base.y + row * p.stride.y) >> 2u) + group * 2u;
  return Pair(scale_plane[at], scale_plane[at + 1u]);
}
fn floats(s: Pair) -> vec2<f32> { return bitcast<vec2<f32>>(s); }
fn pair_bits(s: Pair) -> u32 { return s.x | s.y; }
//: else
alias Pair = u32;
fn pair(row: u32, group: u32) -> Pair { return scale_plane[((p.base.y + row * p.stride.y) >> 2u) + group]; }
fn floats(s: Pair) -> vec2<f32> { return unpack2x16float(s); }
fn pair_bits(s: Pair) -> u32 { return s; }
//: end

//: if HALVES
struct Scales { first: Pair, second: Pair }

fn scales(row: u32, unit: u32) -> Scales {
  let last = (p.cols + 15u) / 16u - 1u;
  return Scales(pair(row, unit * 2u), pair(row, min(unit * 2u + 1u, last)));
}

fn scale_bits(s: Scales) -> u32 { return pair_bits(s.first) | pair_bits(s.second); }
//: else
struct Scales { both: Pair }

fn scales(row: u32, unit: u32) -> Scales { return Scales(pair(row, unit / (GROUP / 32u))); }

fn scale_bits(s: Scales) -> u32 { return pair_bits(s.both); }
//: end
//: else
//: if ALIGNED
// d and dmin, and the entries of the superblock; the unit's number in it.
struct Scales { head: vec4<u32>, k: u32 }
alias Head = vec4<u32>;

fn head(row: u32, unit: u32) -> Head { return scale_plane[((p.base.y + row * p.stride.y) >> 4u) + (unit >> 3u)]; }

// Of the unit of number `k` in its superblock.
fn scales_under(h: Head, k: u32) -> Scales { return Scales(h, k); }

fn scales(row: u32, unit: u32) -> Scales { return Scales(head(row, unit), unit & 7u); }

fn scale_bits(s: Scales) -> u32 { return s.head.x; }

fn factors(s: Scales) -> vec2<f32> { return unpack2x16float(s.head.x); }

// The word in which the unit's 12 bits begin, and the next one.
fn entry_words(s: Scales) -> vec2<u32> {
  return select(select(s.head.wx, s.head.zw, s.k < 6u), s.head.yz, s.k < 3u);
}
//: else
struct Scales { d: u32, entry: vec2<u32>, k: u32 }

fn scales(row: u32, unit: u32) -> Scales {
  let at = ((p.base.y + row * p.stride.y) >> 2u) + (unit >> 3u) * 4u;
  let bit = (unit & 7u) * 12u;
  let entry = vec2<u32>(scale_plane[at + 1u + (bit >> 5u)], scale_plane[at + 1u + ((bit + 11u) >> 5u)]);
  return Scales(scale_plane[at], entry, unit & 7u);
}

fn scale_bits(s: Scales) -> u32 { return s.d | s.entry.x | s.entry.y; }

fn factors(s: Scales) -> vec2<f32> { return unpack2x16float(s.d); }

fn entry_words(s: Scales) -> vec2<u32> { return s.entry; }
//: end

// The unit's 12 bits, and others above them.
fn entry(s: Scales) -> u32 {
  let w = entry_words(s);
  let shift = s.k * 12u & 31u;
  // Entries that begin a word need nothing of the next one.
  return (w.x >> shift) | (w.y << min(32u - shift, 31u));
}

// What d and dmin are multiplied with, of each half: scales, and mins less their bias.
struct Steps { scale: vec2<f32>, minus: vec2<f32> }

fn steps(s: Scales) -> Steps {
  let e = entry(s);
  let min_bias = bitcast<f32>(p.extra.y);
//: if FINE
  let scale_bias = bitcast<f32>(p.extra.w);
  return Steps(
    vec2<f32>(raised(e, 0u, 7u) - (8388608.0 - scale_bias), raised(e, 6u, 7u) - (131072.0 - scale_bias)),
    vec2<f32>(raised(e, 3u, 7u) - (1048576.0 + min_bias), raised(e, 9u, 7u) - (16384.0 + min_bias)));
//: else
  return Steps(vec2<f32>(raised(e, 0u, 63u) - 8388608.0), vec2<f32>(raised(e, 6u, 63u) - (131072.0 + min_bias)));
//: end
}
//: end
