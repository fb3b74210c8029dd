// TCA-TBE, profile TBE3: superblocks of 1024 weights of a row, each with three
// bit planes of exponent codes and a byte of sign and mantissa per weight.
//
// Binding 0 holds the index (u16 a superblock), 1 the bases (a byte), 2 the
// planes, 3 the anchors and, p.extra.x bytes behind them, the side stream with
// the exponents of codes 0, the escapes.
//
// A share, what a lane takes at a time, is one word of each plane, 32 weights, and
// the eight words of sign/mantissa bytes that belong to it: slice s of a share is
// the weights of bit s of the planes' bytes, neighbours in the row. The 32 lanes
// of a superblock find their places in its side stream together.

// Words of the planes as they are fetched: where weights are looked up four with
// ALIGNED (cols a multiple of 128).
//: if WEIGHTS
//: if ALIGNED
alias Word = vec4<u32>;
const WORDS: u32 = 4u;
//: else
alias Word = u32;
const WORDS: u32 = 1u;
//: end
//: else
alias Word = u32;
const WORDS: u32 = 1u;
//: end
// Of a plane of a whole superblock, and of all that is stored of it.
const WIDTH: u32 = 32u / WORDS;
const SUPERBLOCK: u32 = 11u * WIDTH;

@group(0) @binding(0) var<storage, read> index_plane: array<u32>;
@group(0) @binding(1) var<storage, read> base_plane: array<u32>;
@group(0) @binding(2) var<storage, read> planes: array<Word>;
@group(0) @binding(3) var<storage, read> tail: array<u32>;

// Where superblock `s` of a row begins in `planes`, and how many words a plane
// of it has.
struct Superblock { at: u32, width: u32 }

fn superblock(row: u32, s: u32) -> Superblock {
  let shares = (p.cols + 32u * WORDS - 1u) / (32u * WORDS);
  return Superblock((p.base.z + row * p.stride.z) / (4u * WORDS) + s * SUPERBLOCK, min(shares - s * WIDTH, WIDTH));
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

// `a` where the mask is set, else `b`: one instruction on most.
fn pick(mask: u32, a: u32, b: u32) -> u32 { return (a & mask) | (b & ~mask); }

// Four weights from their bytes of sign and mantissa, and of exponents: both
// halves of a word are bfloat16s.
fn four(signs: u32, exponents: u32) -> vec4<f32> {
  let even = pick(0x7f807f80u, exponents << 7u, pick(0x80008000u, signs << 8u, signs));
  let odd = pick(0x7f807f80u, exponents >> 1u, pick(0x80008000u, signs, signs >> 8u));
  return bitcast<vec4<f32>>(vec4<u32>(even << 16u, odd << 16u, even & 0xffff0000u, odd & 0xffff0000u));
}

//: if WEIGHTS
//: if ALIGNED
fn ones(w: Word) -> u32 {
  let c = countOneBits(w);
  return (c.x + c.y) + (c.z + c.w);
}

fn word(i: u32) -> u32 { return planes[i >> 2u][i & 3u]; }
//: else
fn ones(w: Word) -> u32 { return countOneBits(w); }

fn word(i: u32) -> u32 { return planes[i]; }
//: end

// Codes 0 among the first `count` words of the superblock's planes.
fn escapes_before(b: Superblock, count: u32) -> u32 {
  var sum = 0u;
  for (var i = b.at; i < b.at + count; i++) {
    sum += ones(~(planes[i] | planes[i + b.width] | planes[i + 2u * b.width]));
  }
  return sum;
}

//: if WORDS_OF_PLANES
//: use zip_share
//: else
struct Block { a: vec4<f32>, b: vec4<f32> }

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
//: end
//: else
// What the lanes of a superblock tell each other: by subgroup operations where
// they are a subgroup (PREFIX), else through the workgroup's memory, all of its
// invocations at once.
//: if PREFIX
fn meet(index: u32) {}

fn lane_of(v: u32, lane: u32) -> u32 { return subgroupShuffle(v, lane); }

// Sum of `count` over the lanes below this one: bit by bit of numbers below 8.
fn sum_below(count: u32, lane: u32) -> u32 {
  let below = (1u << lane) - 1u;
  var sum = countOneBits(subgroupBallot((count & 1u) != 0u).x & below)
    + 2u * countOneBits(subgroupBallot((count & 2u) != 0u).x & below)
    + 4u * countOneBits(subgroupBallot((count & 4u) != 0u).x & below);
  if (subgroupAny(count > 7u)) {
    sum = count;
    for (var step = 1u; step < 32u; step <<= 1u) {
      let moved = subgroupShuffleUp(sum, step);
      sum += select(0u, moved, lane >= step);
    }
    sum -= count;
  }
  return sum;
}
//: else
var<workgroup> passed: array<u32, WG>;
var<private> me: u32;

fn meet(index: u32) { me = index; }

fn lane_of(v: u32, lane: u32) -> u32 {
  workgroupBarrier();
  passed[me] = v;
  workgroupBarrier();
  return passed[(me & ~31u) + (lane & 31u)];
}

fn sum_below(count: u32, lane: u32) -> u32 {
  workgroupBarrier();
  passed[me] = count;
  workgroupBarrier();
  var sum = 0u;
  for (var i = me & ~31u; i < me; i++) { sum += passed[i]; }
  return sum;
}
//: end

// Of the superblocks of the next 32 turns, one a lane: where its part of the side
// stream begins, and its base with flags: the part is nibbles, and no exponent of
// theirs passes 0 or 255 (NEAR).
struct Heads { start: u32, base: u32 }

const NEAR: u32 = 256u;
const NIBBLES: u32 = 512u;

fn heads(row: u32, s: u32) -> Heads {
  let source = side(row, s);
  let base = base_exponent(row, s);
  let near = source.nibbles && base - 16u < 224u;
  return Heads(source.start, base | select(0u, NEAR, near) | select(0u, NIBBLES, source.nibbles));
}

// A lane's share of a superblock as stored, with a word of the side stream.
struct Raw {
  low: u32, middle: u32, high: u32,
//: each k 8
  signs$k: u32,
//: end
  stream: u32, at: u32, start: u32, base: u32,
}

// Words of the side stream that a superblock's lanes fetch: 16 have few too many.
const FETCHED: u32 = 16u;

fn fetch(row: u32, s: u32, lane: u32, heads: Heads, turn: u32) -> Raw {
  let b = superblock(row, s);
  let at = b.at + min(lane, b.width - 1u);
  var raw: Raw;
  raw.low = planes[at];
  raw.middle = planes[at + b.width];
  raw.high = planes[at + 2u * b.width];
//: each k 8
  raw.signs$k = planes[at + (3u + $ku) * b.width];
//: end
  raw.at = b.at;
  raw.start = lane_of(heads.start, turn);
  raw.base = lane_of(heads.base, turn);
  raw.stream = tail[(raw.start >> 2u) + min(lane, FETCHED - 1u)];
  return raw;
}

// The escapes of a share: their bits, the number of the first in the superblock,
// and their nibbles if these are NEAR, at most seven, and among the fetched words.
struct Open { bits: u32, first: u32, nibbles: u32, near: bool }

fn open_of(raw: Raw, lane: u32, live: bool) -> Open {
  let bits = select(0u, ~(raw.low | raw.middle | raw.high), live);
  let count = countOneBits(bits);
  let first = sum_below(count, lane);
  let nibble = (raw.start & 3u) * 2u + first;
  let word0 = lane_of(raw.stream, min(nibble >> 3u, FETCHED - 1u));
  let word1 = lane_of(raw.stream, min((nibble >> 3u) + 1u, FETCHED - 1u));
  let shift = (nibble & 7u) * 4u;
  let nibbles = (word0 >> shift) | ((word1 << 1u) << (31u - shift));
  let near = (raw.base & NEAR) != 0u && count <= 7u && nibble <= 8u * (FETCHED - 1u);
  return Open(bits, first, nibbles, near);
}

// Whether any escape adds more than what it counts as: those with nibbles 8 to 15
// but 12, and all where there are no nibbles. Bits of no further meaning.
fn others(open: Open) -> u32 {
  let n = open.nibbles;
  let far = n & 0x88888888u & ~((n << 1u) & ~(n << 2u) & ~(n << 3u));
  return select(open.bits, far & ((1u << (4u * countOneBits(open.bits))) - 1u), open.near);
}

// What escapes add to what they count as; `x` is the quad of the superblock's
// input.
fn rest_of(raw: Raw, open: Open, lane: u32, width: u32, x: u32) -> f32 {
  let base = raw.base & 255u;
  let source = Side(raw.start, (raw.base & NIBBLES) != 0u);
  var total = 0.0;
  var bits = open.bits;
  var n = open.first;
  while (bits != 0u) {
    let place = firstTrailingBit(bits);
    bits &= bits - 1u;
    let exponent = escape(source, n, base);
    var assumed = base;
    if (open.near) {
      let byte = source.start + (n >> 1u);
      let v = (tail[byte >> 2u] >> ((byte & 3u) * 8u + (n & 1u) * 4u)) & 15u;
      assumed = base + select(0xffffffffu - (v & select(7u, 3u, v >= 8u)), 7u - (v & 3u), v >= 12u);
    }
    let at = (place & 7u) * width + lane;
    let sign_mantissa = planes[raw.at + 3u * width + at] >> (place & 0x18u);
    let magnitude = ((sign_mantissa & 0x80u) << 24u) | ((sign_mantissa & 0x7fu) << 16u);
    let difference = bitcast<f32>(magnitude | (exponent << 23u)) - bitcast<f32>(magnitude | (assumed << 23u));
    total += difference * xv[x + at][place >> 3u];
    n++;
  }
  return total;
}

// Exponents less (base - 8) of a share, slices k in the low and k + 4 in the high
// half of each byte of codes k.
struct Share {
//: each k 4
  codes$k: u32,
//: end
  offset: u32,
}

// a, b, c, h: bits of the escapes' nibbles at their places. Weights with code c
// are 7 + c above base - 8, escapes with nibble v below 8 are 7 - v, 12 is 15.
fn share_of(raw: Raw, open: Open, a: u32, b: u32, c: u32, h: u32) -> Share {
  // Escapes that are none of these count as code 1.
  let lowest = raw.low | select(open.bits, 0u, open.near);
  let p0 = ~lowest ^ a;
  let p1 = ~(lowest ^ raw.middle) ^ b;
  let p2 = (~(lowest | raw.middle) ^ raw.high ^ c) | (c & h);
  let p3 = lowest | raw.middle | raw.high | (c & h);
  let even01 = pick(0xaaaaaaaau, p1 << 1u, p0);
  let odd01 = pick(0xaaaaaaaau, p1, p0 >> 1u);
  let even23 = pick(0xaaaaaaaau, p3 << 1u, p2);
  let odd23 = pick(0xaaaaaaaau, p3, p2 >> 1u);
  return Share(
    pick(0xccccccccu, even23 << 2u, even01), pick(0xccccccccu, odd23 << 2u, odd01),
    pick(0xccccccccu, even23, even01 >> 2u), pick(0xccccccccu, odd23, odd01 >> 2u),
    ((raw.base & 255u) - 8u) * 0x01010101u);
}

// Masks that a compiler does not know to be constant: else it splits a selection
// in two, for it sees that some bits are overwritten later.
struct Masks { sign: u32, exponent: u32, code: u32, top: u32 }

fn masks() -> Masks {
  let never = p.cols == 0u;
  return Masks(
    select(0x80008000u, p.rows, never), select(0x7f807f80u, p.units, never),
    select(0x0f0f0f0fu, p.first, never), select(0xffff0000u, p.tokens, never));
}

// As `four`, with codes in the low half of each byte.
fn add4(m: Masks, sum: vec4<f32>, signs: u32, codes: u32, offset: u32, x: vec4<f32>) -> vec4<f32> {
  let e = (codes & m.code) + offset;
  let even = pick(m.exponent, e << 7u, pick(m.sign, signs << 8u, signs));
  let odd = pick(m.exponent, e >> 1u, pick(m.sign, signs, signs >> 8u));
  let w = bitcast<vec4<f32>>(vec4<u32>(even << 16u, odd << 16u, even & m.top, odd & m.top));
  return fma(w, x, sum);
}
//: end
