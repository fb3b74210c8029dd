// TCA-TBE, profile TBE3: superblocks of 1024 weights of a row, each with three
// bit planes of exponent codes and a byte of sign and mantissa per weight.
//
// Binding 0 holds the index (u16 a superblock), 1 the bases (a byte), 2 the
// planes, 3 the anchors and, p.extra.x bytes behind them, the side stream with
// the exponents of codes 0, the escapes.
//
// A share, what a lane takes at a time, is one word of each plane (Word: 32
// weights; with ALIGNED, where cols are a multiple of 128, four words, 128
// weights) and the eight words of sign/mantissa bytes that belong to it: slice
// s of a share is the weights of bit s of the words' bytes, neighbours in the
// row. CLUSTER shares make a superblock.

//: if ALIGNED
alias Word = vec4<u32>;
const WORDS: u32 = 4u;
//: else
alias Word = u32;
const WORDS: u32 = 1u;
//: end
// Words of the planes of a whole superblock.
const SUPERBLOCK: u32 = 11u * CLUSTER;

@group(0) @binding(0) var<storage, read> index_plane: array<u32>;
@group(0) @binding(1) var<storage, read> base_plane: array<u32>;
@group(0) @binding(2) var<storage, read> planes: array<Word>;
@group(0) @binding(3) var<storage, read> tail: array<u32>;

// Where superblock `s` of a row begins in `planes`, and how many words a plane
// of it has.
struct Superblock { at: u32, width: u32 }

fn superblock(row: u32, s: u32) -> Superblock {
  let shares = (p.cols + 32u * WORDS - 1u) / (32u * WORDS);
  return Superblock((p.base.z + row * p.stride.z) / (4u * WORDS) + s * SUPERBLOCK, min(shares - s * CLUSTER, CLUSTER));
}

fn base_exponent(row: u32, s: u32) -> u32 {
  let byte = p.base.y + row * p.stride.y + s;
  return (base_plane[byte >> 2u] >> ((byte & 3u) * 8u)) & 0xffu;
}

// A superblock's part of the side stream: its first byte, and whether it is
// nibbles.
struct Side { start: u32, nibbles: bool }

fn side(row: u32, s: u32) -> Side {
  let byte = p.base.x + row * p.stride.x + s * 2u;
  let entry = (index_plane[byte >> 2u] >> ((byte & 2u) * 8u)) & 0xffffu;
  let number = (p.first + row) * ((p.cols + 1023u) / 1024u) + s;
  let anchor = tail[(p.base.w >> 2u) + (number >> 5u)];
  return Side(p.base.w + p.extra.x + anchor + (entry & 0x7fffu), entry >= 0x8000u);
}

// The exponent that a nibble stands for: twelve below a base, four above the
// seven from it on.
fn nearby(base: u32, nibble: u32) -> u32 {
  return (base + select(nibble - 5u, 0xffffffffu - nibble, nibble < 12u)) & 0xffu;
}

// The exponent of escape `n` of a superblock.
fn escape(source: Side, n: u32, base: u32) -> u32 {
  let byte = source.start + select(n, n >> 1u, source.nibbles);
  let value = (tail[byte >> 2u] >> ((byte & 3u) * 8u)) & 0xffu;
  return select(value, nearby(base, (value >> ((n & 1u) * 4u)) & 15u), source.nibbles);
}

//: if ALIGNED
fn ones(w: Word) -> u32 {
  let c = countOneBits(w);
  return (c.x + c.y) + (c.z + c.w);
}
//: else
fn ones(w: Word) -> u32 { return countOneBits(w); }
//: end

// Codes 0 among the first `count` words of the superblock's planes.
fn escapes_before(b: Superblock, count: u32) -> u32 {
  var sum = 0u;
  for (var i = b.at; i < b.at + count; i++) {
    sum += ones(~(planes[i] | planes[i + b.width] | planes[i + 2u * b.width]));
  }
  return sum;
}

// `a` where the mask is set, else `b`: one instruction on most.
fn pick(mask: u32, a: u32, b: u32) -> u32 { return b ^ ((a ^ b) & mask); }

// Four weights from their bytes of sign and mantissa, and of exponents: both
// halves of a word are bfloat16s.
fn four(signs: u32, exponents: u32) -> vec4<f32> {
  let even = pick(0x7f807f80u, exponents << 7u, pick(0x80008000u, signs << 8u, signs));
  let odd = pick(0x7f807f80u, exponents >> 1u, pick(0x80008000u, signs, signs >> 8u));
  return bitcast<vec4<f32>>(vec4<u32>(even << 16u, odd << 16u, even & 0xffff0000u, odd & 0xffff0000u));
}

//: if WEIGHTS
struct Block { a: vec4<f32>, b: vec4<f32> }

fn word(i: u32) -> u32 {
//: if ALIGNED
  return planes[i >> 2u][i & 3u];
//: else
  return planes[i];
//: end
}

// Four neighbouring weights, from column `col` on, a multiple of four.
fn quad(row: u32, col: u32) -> vec4<f32> {
  let s = col >> 10u;
  let b = superblock(row, s);
  let width = b.width * WORDS;
  let place = (col & 1023u) >> 2u;
  let bit = place / width;
  let i = place % width;
  let at = b.at * WORDS + i;
  let planes0 = word(at);
  let planes1 = word(at + width);
  let planes2 = word(at + 2u * width);
  let signs = word(at + (3u + bit) * width);
  let open = ~(planes0 | planes1 | planes2);
  let here = (open >> bit) & 0x01010101u;
  let codes = ((planes0 >> bit) & 0x01010101u) | (((planes1 >> bit) & 0x01010101u) << 1u) | (((planes2 >> bit) & 0x01010101u) << 2u);
  let base = base_exponent(row, s);
  var exponents = (codes | here) + (base - 1u) * 0x01010101u;
  if (here != 0u) {
    let source = side(row, s);
    var n = escapes_before(b, i / WORDS);
    for (var k = i / WORDS * WORDS; k < i; k++) {
      let before = b.at * WORDS + k;
      n += countOneBits(~(word(before) | word(before + width) | word(before + 2u * width)));
    }
    for (var k = 0u; k < 4u; k++) {
      let place_of = 8u * k + bit;
      if (((open >> place_of) & 1u) == 1u) {
        let number = n + countOneBits(open & ((1u << place_of) - 1u));
        exponents = pick(0xffu << (8u * k), escape(source, number, base) << (8u * k), exponents);
      }
    }
  }
  return four(signs, exponents);
}

fn load(row: u32, unit: u32) -> Block { return Block(quad(row, unit * 8u), quad(row, unit * 8u + 4u)); }

fn weights(b: Block) -> array<vec4<f32>, 2> { return array<vec4<f32>, 2>(b.a, b.b); }
//: else
struct Share {
  // Codes of slice k in the low and of slice k + 4 in the high half of each
  // byte, escapes as code 1.
//: each k 4
  codes$k: Word,
//: end
  // Signs and mantissas of the slices.
//: each k 8
  signs$k: Word,
//: end
  // What makes exponents of four codes.
  offset: u32,
  // Its escapes, how many there are, and the number of the first.
  open: Word, count: u32, first: u32,
  source: Side,
  // Their first sixteen nibbles.
  nibbles: vec2<u32>,
  // Its first sign/mantissa word, and words from slice to slice.
  signs: u32, width: u32,
}

fn live(w: Share, lane: u32) -> bool { return lane < w.width; }

fn load_share(row: u32, s: u32, lane: u32) -> Share {
  let b = superblock(row, s);
  let l = min(lane, b.width - 1u);
  let low = planes[b.at + l];
  let middle = planes[b.at + b.width + l];
  let high = planes[b.at + 2u * b.width + l];
  var share: Share;
  share.signs = b.at + 3u * b.width + l;
  share.width = b.width;
//: each k 8
  share.signs$k = planes[share.signs + $ku * b.width];
//: end
  share.open = ~(low | middle | high);
  let lowest = low | share.open;
  let ones_of = Word(0x11111111u);
  let twos = Word(0x22222222u);
  let fours = Word(0x44444444u);
  share.codes0 = (lowest & ones_of) | ((middle << Word(1u)) & twos) | ((high << Word(2u)) & fours);
  share.codes1 = ((lowest >> Word(1u)) & ones_of) | (middle & twos) | ((high << Word(1u)) & fours);
  share.codes2 = ((lowest >> Word(2u)) & ones_of) | ((middle >> Word(1u)) & twos) | (high & fours);
  share.codes3 = ((lowest >> Word(3u)) & ones_of) | ((middle >> Word(2u)) & twos) | ((high >> Word(1u)) & fours);
  share.offset = (base_exponent(row, s) - 1u) * 0x01010101u;
  share.count = select(0u, ones(share.open), lane < b.width);
  share.source = side(row, s);
//: if PREFIX
  // The lanes of a superblock stand side by side in a subgroup.
  var sum = share.count;
  for (var step = 1u; step < CLUSTER; step <<= 1u) {
    let below = subgroupShuffleUp(sum, step);
    sum += select(0u, below, lane >= step);
  }
  share.first = sum - share.count;
//: else
  share.first = 0u;
  if (share.count > 0u) { share.first = escapes_before(b, l); }
//: end
  let nibble = share.source.start * 2u + share.first;
  let shift = (nibble & 7u) * 4u;
  let first = tail[nibble >> 3u];
  let second = tail[(nibble >> 3u) + 1u];
  let third = tail[(nibble >> 3u) + 2u];
  share.nibbles = vec2<u32>(
    (first >> shift) | ((second << 1u) << (31u - shift)),
    (second >> shift) | ((third << 1u) << (31u - shift)));
  return share;
}

// Quad of the superblock where the input of slice s of a share begins.
fn slice_at(w: Share, lane: u32, s: u32) -> u32 { return (s * w.width + lane) * WORDS; }

//: if ALIGNED
struct Slice { v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32> }

fn load_slice(stage: u32, at: u32) -> Slice {
  return Slice(
    staged[stage + swizzled(at)], staged[stage + swizzled(at + 1u)],
    staged[stage + swizzled(at + 2u)], staged[stage + swizzled(at + 3u)]);
}

fn dot_words(signs: Word, codes: Word, offset: u32, x: Slice) -> f32 {
  let e = codes + Word(offset);
  return (dot(four(signs.x, e.x), x.v0) + dot(four(signs.y, e.y), x.v1)) + (dot(four(signs.z, e.z), x.v2) + dot(four(signs.w, e.w), x.v3));
}
//: else
struct Slice { v0: vec4<f32> }

fn load_slice(stage: u32, at: u32) -> Slice { return Slice(staged[stage + swizzled(at)]); }

fn dot_words(signs: Word, codes: Word, offset: u32, x: Slice) -> f32 { return dot(four(signs, codes + offset), x.v0); }
//: end

//: each k 4
fn dot_slice$k(w: Share, x: Slice) -> f32 {
  return dot_words(w.signs$k, w.codes$k & Word(0x07070707u), w.offset, x);
}
//: end
fn dot_slice4(w: Share, x: Slice) -> f32 { return dot_words(w.signs4, (w.codes0 >> Word(4u)) & Word(0x07070707u), w.offset, x); }
fn dot_slice5(w: Share, x: Slice) -> f32 { return dot_words(w.signs5, (w.codes1 >> Word(4u)) & Word(0x07070707u), w.offset, x); }
fn dot_slice6(w: Share, x: Slice) -> f32 { return dot_words(w.signs6, (w.codes2 >> Word(4u)) & Word(0x07070707u), w.offset, x); }
fn dot_slice7(w: Share, x: Slice) -> f32 { return dot_words(w.signs7, (w.codes3 >> Word(4u)) & Word(0x07070707u), w.offset, x); }

// What the escapes' true weights add to those with code 1. Few weights are
// escapes: each is looked up by itself.
fn dot_rest(w: Share, lane: u32, stage: u32) -> f32 {
  var sum = 0.0;
  let base = ((w.offset & 0xffu) + 1u) & 0xffu;
  let short = w.source.nibbles && w.count <= 16u;
  // Bytes of a slice of the superblock (and floats of its input), the share's
  // first sign/mantissa byte and float.
  let stride = w.width * WORDS * 4u;
  let signs = w.signs * WORDS * 4u;
  let x = slice_at(w, lane, 0u) * 4u;
  var open = w.open;
  var nibbles = w.nibbles;
  for (var k = 0u; k < w.count; k++) {
//: if ALIGNED
    let i = select(select(select(3u, 2u, open.z != 0u), 1u, open.y != 0u), 0u, open.x != 0u);
    let mask = select(select(select(open.w, open.z, i == 2u), open.y, i == 1u), open.x, i == 0u);
    open = select(open, Word(mask & (mask - 1u)), Word(i) == Word(0u, 1u, 2u, 3u));
    let place = i * 32u + firstTrailingBit(mask);
//: else
    let place = firstTrailingBit(open);
    open &= open - 1u;
//: end
    var exponent: u32;
    if (short) {
      let nibble = nibbles.x & 15u;
      nibbles = vec2<u32>((nibbles.x >> 4u) | (nibbles.y << 28u), nibbles.y >> 4u);
      exponent = nearby(base, nibble);
    } else {
      exponent = escape(w.source, w.first + k, base);
    }
    let at = (place & 7u) * stride + (place >> 3u);
    let byte = signs + at;
//: if ALIGNED
    let word = planes[byte >> 4u][(byte >> 2u) & 3u];
//: else
    let word = planes[byte >> 2u];
//: end
    let sign_mantissa = word >> (8u * (byte & 3u));
    let bits = ((sign_mantissa & 0x80u) << 24u) | ((sign_mantissa & 0x7fu) << 16u);
    let difference = bitcast<f32>(bits | (exponent << 23u)) - bitcast<f32>(bits | (base << 23u));
    sum += difference * staged[stage + swizzled((x + at) >> 2u)][(x + at) & 3u];
  }
  return sum;
}
//: end
