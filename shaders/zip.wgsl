// TCA-TBE, profile TBE3: superblocks of 1024 weights of a row, each with three
// bit planes of exponent codes and a byte of sign and mantissa per weight.
//
// Binding 0 holds the index (u16 a superblock), 1 the bases (a byte), 2 the
// planes, 3 the anchors and, p.extra.x bytes behind them, the side stream with
// the exponents of codes 0, the escapes. For `gemv` 3 is a list of the escapes,
// made when the matrix was loaded (squizd/src/gpu/escapes.rs).
//
// A share, what a lane of `gemv` takes at a time, is two neighbouring words of each
// plane, 64 weights, and the 16 words of sign/mantissa bytes that belong to it:
// slice s of a share is the weights of bit s of the planes' bytes, eight
// neighbours in the row. So 16 lanes take a superblock.

// Words of the planes as they are fetched, of whole ones (ALIGNED: cols is a
// multiple of 128) four where weights are looked up, and two for `gemv`.
//: if ALIGNED
//: if WEIGHTS
alias Word = vec4<u32>;
const WORDS: u32 = 4u;
//: else
alias Word = vec2<u32>;
const WORDS: u32 = 2u;
//: end
//: else
alias Word = u32;
const WORDS: u32 = 1u;
//: end
// Of a plane of a whole superblock, and of all that is stored of it.
const WIDTH: u32 = 32u / WORDS;
const SUPERBLOCK: u32 = 11u * WIDTH;

//: if WEIGHTS
@group(0) @binding(0) var<storage, read> index_plane: array<u32>;
//: end
@group(0) @binding(1) var<storage, read> base_plane: array<u32>;
@group(0) @binding(2) var<storage, read> planes: array<Word>;
//: if WEIGHTS
@group(0) @binding(3) var<storage, read> tail: array<u32>;
//: else
@group(0) @binding(3) var<storage, read> escapes: array<vec4<u32>>;
//: end

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

// `a` where the mask is set, else `b`: one instruction on most.
fn pick(mask: u32, a: u32, b: u32) -> u32 { return (a & mask) | (b & ~mask); }

//: if WEIGHTS
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

// Four weights from their bytes of sign and mantissa, and of exponents: both
// halves of a word are bfloat16s.
fn four(signs: u32, exponents: u32) -> vec4<f32> {
  let even = pick(0x7f807f80u, exponents << 7u, pick(0x80008000u, signs << 8u, signs));
  let odd = pick(0x7f807f80u, exponents >> 1u, pick(0x80008000u, signs, signs >> 8u));
  return bitcast<vec4<f32>>(vec4<u32>(even << 16u, odd << 16u, even & 0xffff0000u, odd & 0xffff0000u));
}

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
// Exponents of `gemv` are codes plus this, whatever the base, so that a constant
// stands for their upper bits. What a superblock's sum is to be multiplied with is
// in range, as a number, for all bases but those whose exponents reach what is no
// normal number: of such a superblock nothing counts, and its weights are listed.
const ZERO: u32 = 120u;

fn scale(row: u32, s: u32) -> f32 {
  let base = base_exponent(row, s);
  return select(0.0, bitcast<f32>((base + (126u - ZERO)) << 23u), base - 2u < 247u);
}

// Superblocks whose escapes are listed together, and whose scales the lanes of one
// hold, one each (PREFIX: they are neighbours in a subgroup of 32, all of which take
// part).
const HELD: u32 = 16u;

//: if PREFIX
fn hold(row: u32, s: u32) -> f32 { return scale(row, s); }

fn scale_of(held: f32, row: u32, s: u32, index: u32) -> f32 {
  return subgroupShuffle(held, (index & 16u) | (s & 15u));
}
//: else
fn hold(row: u32, s: u32) -> f32 { return 0.0; }

fn scale_of(held: f32, row: u32, s: u32, index: u32) -> f32 { return scale(row, s); }
//: end

alias Pair = vec2<u32>;

// Words from one lane's to the next one's.
const STEP: u32 = 2u / WORDS;

fn pair(at: u32) -> Pair {
//: if ALIGNED
  return planes[at];
//: else
  return Pair(planes[at], planes[at + 1u]);
//: end
}

// The second quad of inputs of a slice, none behind a superblock's `quads`.
fn second(x: vec4<f32>, lane: u32, quads: u32) -> vec4<f32> {
//: if ALIGNED
  return x;
//: else
  return select(vec4<f32>(0.0), x, lane * 2u + 1u < quads);
//: end
}

// A lane's share of a superblock as stored.
struct Share {
  low: Pair, middle: Pair, high: Pair,
//: each k 8
  signs$k: Pair,
//: end
}

fn fetch(row: u32, s: u32, lane: u32) -> Share {
  let b = superblock(row, s);
  let at = b.at + min(lane * STEP, b.width - 1u);
  var share: Share;
  share.low = pair(at);
  share.middle = pair(at + b.width);
  share.high = pair(at + 2u * b.width);
//: each k 8
  share.signs$k = pair(at + (3u + $ku) * b.width);
//: end
  return share;
}

// Bits of all of it.
fn share_bits(s: Share) -> u32 {
  var all = s.low | s.middle | s.high;
//: each k 8
  all |= s.signs$k;
//: end
  return all.x | all.y;
}

// The codes' upper two bits, of even slices and of odd ones: those of slices k and
// k + 1 are bits k and k + 1 of each byte.
struct Codes { even: Pair, odd: Pair }

fn codes(share: Share) -> Codes {
  let mask = Pair(0xaaaaaaaau);
  let even = ((share.high << Pair(1u)) & mask) | (share.middle & ~mask);
  let odd = (share.high & mask) | ((share.middle >> Pair(1u)) & ~mask);
  return Codes(even, odd);
}

// The same of slice k as bits 0 and 1.
fn upper(c: Codes, k: u32) -> Pair {
  if ((k & 1u) == 0u) { return c.even >> Pair(k); }
  return c.odd >> Pair(k & 6u);
}

// Masks that a compiler does not know to be constant: else it splits a selection
// in two, for it sees that some bits are overwritten later.
struct Masks { sign: u32, byte: u32, top: u32, none: u32 }

fn masks() -> Masks {
  let never = p.cols == 0u;
  return Masks(
    select(0x80808080u, p.rows, never), select(0xff00ff00u, p.units, never),
    select(0xffff0000u, p.tokens, never), select(0u, p.rows, never));
}

// sum + w x for four weights: bit 7 of `low` is the exponent's lowest, bits 0 and
// 1 of `upper` the next, of each byte.
fn add4(m: Masks, sum: vec4<f32>, signs: u32, low: u32, upper: u32, x: vec4<f32>) -> vec4<f32> {
  let first = pick(m.sign, signs, (upper & 0x03030303u) | ((ZERO >> 1u) * 0x01010101u));
  let second = pick(m.sign, low, signs);
  let even = pick(m.byte, first << 8u, second);
  let odd = pick(m.byte, first, second >> 8u);
  let w = bitcast<vec4<f32>>(vec4<u32>(even << 16u, odd << 16u, even & m.top, odd & m.top));
  return fma(w, x, sum);
}

// Quads of listed escapes of a row's superblocks `chunk` to `chunk + HELD - 1`.
struct Run { first: u32, count: u32 }

fn quads_before(i: u32) -> u32 {
  let at = p.extra.y + i;
  return escapes[at >> 2u][at & 3u];
}

fn run(row: u32, chunk: u32) -> Run {
  let at = (p.first + row) * ((p.cols + 1024u * HELD - 1u) / (1024u * HELD)) + chunk / HELD;
  let first = quads_before(at);
  return Run((p.extra.y >> 2u) + first, min(quads_before(at + 1u) - first, 256u * HELD));
}

// What four escapes of one superblock add to the sum; `x` is the first quad of the
// chunk's inputs. Each is a weight, above the number of its column in the superblock
// and four bits more: the superblock's number, and the exponent of its scale. The
// weight has been counted as that with code 0, which is a number times the scale.
fn added(four: vec4<u32>, x: u32) -> f32 {
  let scale = bitcast<f32>(((four.y & 0xf000u) << 15u) | ((four.z & 0xf000u) << 11u));
  let column = 4u * x + ((four.x & 0xf000u) >> 2u);
  let counted = bitcast<vec4<f32>>((four & vec4<u32>(0x807f0000u)) | vec4<u32>(ZERO << 23u));
  let difference = fma(-counted, vec4<f32>(scale), bitcast<vec4<f32>>(four & vec4<u32>(0xffff0000u)));
  let columns = column + (four & vec4<u32>(1023u));
  return (difference.x * input_of(columns.x) + difference.y * input_of(columns.y))
    + (difference.z * input_of(columns.z) + difference.w * input_of(columns.w));
}
//: end
