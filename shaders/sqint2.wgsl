// SQINT2, layout trellis: strips of tiles of 16 x 16. A tile is a stream of 32 N
// bits; weight t is V[s], s being the WINDOW bits from bit N t / 8 on, cyclically.
// Sixteen rows of four columns, 64 weights, begin at byte N q of a tile.
//
// Binding 0 holds the scales of the rows, 1 the tiles, 3 tables. The first one is V
// as floats, by a window's bits; or, with PAIRS, where the windows of two
// neighbours in a row lie apart by the same number of bits everywhere, the values
// of both (f16) by the SPAN bits that both windows take. Otherwise SPAN is WINDOW.
// The second one, for products with whole numbers, has V as bytes, or pairs of
// bytes. With QUADS, where four neighbours' windows lie alike everywhere and take
// QUAD bits, the third one has the four bytes of states whose last bit is 0: V is
// odd, so the state of all other bits has their negatives. With TRIPLES (I8 only),
// where windows lie RATE / 8 bits apart but for each eighth, it has those of three.
//
// Weights are those under the rotation: inputs are rotated before (`rotate`),
// looked up rows after. p.extra.x: the tensor's scale (f32).

@group(0) @binding(0) var<storage, read> scale_plane: array<u32>;
@group(0) @binding(1) var<storage, read> tiles: array<u32>;
@group(0) @binding(3) var<storage, read> table: array<u32>;

const STATES: u32 = 1u << SPAN;

fn row_scale(row: u32) -> f32 {
//: if WIDE
  return bitcast<f32>(scale_plane[(p.base.x + row * 4u) >> 2u]);
//: else
  let byte = p.base.x + row;
  let code = (scale_plane[byte >> 2u] >> ((byte & 3u) * 8u)) & 0xffu;
  let value = f32((16u + (code & 15u)) << (code >> 4u)) * bitcast<f32>(p.extra.x);
  return select(value, 0.0, code == 0u);
//: end
}

//: if WEIGHTS
struct Block { a: vec4<f32>, b: vec4<f32> }

//: if PAIRS
fn value(state: u32) -> f32 { return unpack2x16float(table[state]).x; }
//: else
fn value(state: u32) -> f32 { return bitcast<f32>(table[state]); }
//: end

// The weights of a row in four columns, the tile's quad q.
fn quad(at: u32, q: u32, row: u32) -> vec4<f32> {
  var values: vec4<f32>;
  for (var i = 0u; i < 4u; i++) {
    let bit = RATE * (64u * q + 4u * row + i) / 8u;
    let first = bit >> 5u;
    let next = select(first + 1u, 0u, first + 1u == RATE);
    let shift = bit & 31u;
    let state = ((tiles[at + first] >> shift) | ((tiles[at + next] << 1u) << (31u - shift))) & (STATES - 1u);
    values[i] = value(state);
  }
  return values;
}

fn load(row: u32, unit: u32) -> Block {
  let at = (p.base.y + (row >> 4u) * p.stride.y) / 4u + (unit >> 1u) * RATE;
  let q = (unit & 1u) * 2u;
  let scale = row_scale(row);
  return Block(quad(at, q, row & 15u) * scale, quad(at, q + 1u, row & 15u) * scale);
}

fn weights(b: Block) -> array<vec4<f32>, 2> { return array<vec4<f32>, 2>(b.a, b.b); }
//: else
//: if I8|I24
@group(0) @binding(4) var<storage, read> xv: array<u32>;
//: else
//: if F16
@group(0) @binding(4) var<storage, read> xv: array<vec4<f16>>;
//: else
@group(0) @binding(4) var<storage, read> xv: array<vec4<f32>>;
//: end
//: end
//: if F16|I8|I24
@group(0) @binding(5) var<storage, read> xs: array<vec4<f32>>;

// Block, and word (or quad of halves) `i` of those that the columns from 4 quad on
// have in its coded form of `parts` vectors (`emit.wgsl`).
fn place(quad: u32, parts: u32, i: u32) -> u32 {
  return (quad >> 6u) * (8u * parts) + i * 8u + ((quad >> 3u) & 7u);
}
//: end

// Where the table that is looked up begins, and how much of it is kept.
//: if I8|I24
//: if QUADS|TRIPLES
const FIRST: u32 = 2u * STATES;
const KEPT: u32 = 1u << (QUAD - 1u);
//: else
const FIRST: u32 = STATES;
const KEPT: u32 = STATES;
//: end
//: else
const FIRST: u32 = 0u;
//: if ODD
// Half of the table, which is odd, so that it leaves room for other workgroups.
const KEPT: u32 = STATES / 2u;
//: else
const KEPT: u32 = STATES;
//: end
//: end
var<workgroup> values: array<u32, max(KEPT, PARTIALS)>;

// Sixteen reads are under way at a time.
const EVEN: bool = KEPT % (16u * WG) == 0u;

fn begin(index: u32) {
  for (var i = index; i < KEPT; i += 16u * WG) {
//: each k 16
    var v$k = 0u;
    if ($ku * WG < KEPT) { v$k = table[FIRST + i + $ku * WG]; }
//: end
//: each k 16
    if (EVEN || i + $ku * WG < KEPT) { values[i + $ku * WG] = v$k; }
//: end
  }
  workgroupBarrier();
}

alias Words = array<u32, STREAM + 1u>;

// The words' bits from `bit` on, of which `count` are wanted, from bit 2 on: looked up
// without a further shift, since numbers of bytes are what memory is asked for.
fn window(words: ptr<function, Words>, bit: u32, count: u32) -> u32 {
  if (bit < 2u) { return (*words)[0] << (2u - bit); }
  let first = (bit - 2u) >> 5u;
  let shift = (bit - 2u) & 31u;
  let low = (*words)[first] >> shift;
  let high = ((*words)[first + 1u] << 1u) << (31u - shift);
  return select(low | high, low, shift + count + 2u <= 32u);
}

// What the table has for the state from bit `bit` on.
fn entry(words: ptr<function, Words>, bit: u32) -> u32 {
  return values[(window(words, bit, SPAN) & ((STATES - 1u) << 2u)) >> 2u];
}

//: if I8|I24
// The input of four columns.
struct X {
  scale: f32,
  high: u32,
//: if I24
  middle: u32,
  low: u32,
//: else
//: if QUADS|TRIPLES
  minus: u32,
//: end
//: end
}

// `ahead` quads behind `quad`, a multiple of 64.
fn load_x(quad: u32, ahead: u32) -> X {
  var x: X;
  x.scale = xs[(quad >> 3u) + (ahead >> 3u)].x;
  let half = (quad >> 2u) & 1u;
//: if I24
  x.high = xv[place(quad, 6u, half) * 4u + (quad & 3u) + 3u * ahead];
  x.middle = xv[place(quad, 6u, 2u + half) * 4u + (quad & 3u) + 3u * ahead];
  x.low = xv[place(quad, 6u, 4u + half) * 4u + (quad & 3u) + 3u * ahead];
//: else
  x.high = xv[place(quad, 2u, half) * 4u + (quad & 3u) + ahead];
//: if QUADS|TRIPLES
  // Bytes' negatives, of -127 to 127.
  x.minus = ((~x.high & 0x7f7f7f7fu) + 0x01010101u) ^ (~x.high & 0x80808080u);
//: end
//: end
  return x;
}

// By itself, since naga's Metal declares the bytes again for each product with them.
fn product(a: u32, b: u32) -> i32 { return dot4I8Packed(a, b); }

// The product with four bytes, in steps of the input's scale.
fn bytes_dot(bytes: u32, x: X) -> f32 {
  let high = product(bytes, x.high);
//: if I24
  // Sums of four products stay below 2^16, these below 2^25.
  let low = (product(bytes, x.middle) << 8u) + product(bytes, x.low);
  return 65536.0 * f32(high) + f32(low);
//: else
  return f32(high);
//: end
}

//: if QUADS|TRIPLES
// What is looked up for the QUAD bits from `bit` on: bytes, or if the last of these
// bits is 1, for which `negative` has ones everywhere, their negatives.
struct Several { bytes: u32, negative: u32 }

fn several(words: ptr<function, Words>, bit: u32) -> Several {
  let bits = window(words, bit, QUAD);
  let negative = bitcast<u32>(bitcast<i32>(bits << (30u - QUAD)) >> 31u);
  return Several(values[((bits ^ negative) & ((KEPT - 1u) << 2u)) >> 2u], negative);
}
//: if !I24

// The product with bytes of inputs, of which `minus` are the negatives.
fn several_dot(by: Several, high: u32, minus: u32) -> i32 {
  return product(by.bytes, (high & ~by.negative) | (minus & by.negative));
}
//: end
//: end

//: if TRIPLES
// The products of rows 2 k and 2 k + 1: eight neighbours, of which the last look-up
// has but two.
fn rows_dot(words: ptr<function, Words>, k: u32, x: X) -> vec2<f32> {
  let a = several(words, RATE * k);
  let b = several(words, RATE * k + 3u * (RATE / 8u));
  let c = several(words, RATE * k + 6u * (RATE / 8u));
  let upper = several_dot(a, x.high & 0xffffffu, x.minus & 0xffffffu) + several_dot(b, x.high >> 24u, x.minus >> 24u);
  let lower = several_dot(b, (x.high & 0xffffu) << 8u, (x.minus & 0xffffu) << 8u)
    + several_dot(c, x.high >> 16u, x.minus >> 16u);
  return x.scale * vec2<f32>(f32(upper), f32(lower));
}
//: else
//: if QUADS
// The product of row `r`.
fn row_dot(words: ptr<function, Words>, r: u32, x: X) -> f32 {
  let by = several(words, RATE * 4u * r / 8u);
//: if I24
  return bitcast<f32>(bitcast<u32>(x.scale) ^ (by.negative & 0x80000000u)) * bytes_dot(by.bytes, x);
//: else
  return x.scale * f32(several_dot(by, x.high, x.minus));
//: end
}
//: else
fn row_dot(words: ptr<function, Words>, r: u32, x: X) -> f32 {
//: if PAIRS
  let bytes = entry(words, RATE * (4u * r) / 8u) | (entry(words, RATE * (4u * r + 2u) / 8u) << 16u);
//: else
  let bytes = entry(words, RATE * (4u * r) / 8u)
    | (entry(words, RATE * (4u * r + 1u) / 8u) << 8u)
    | (entry(words, RATE * (4u * r + 2u) / 8u) << 16u)
    | (entry(words, RATE * (4u * r + 3u) / 8u) << 24u);
//: end
  return x.scale * bytes_dot(bytes, x);
}
//: end
//: end
//: else
//: if PAIRS
fn pair(words: ptr<function, Words>, bit: u32) -> vec2<f32> { return unpack2x16float(entry(words, bit)); }
//: else
fn value(words: ptr<function, Words>, bit: u32) -> f32 {
//: if ODD
  // State STATES - 1 - s has the negative of state s.
  let bits = window(words, bit, SPAN);
  let negative = bitcast<u32>(bitcast<i32>(bits << (30u - SPAN)) >> 31u);
  let size = values[((bits ^ negative) & ((KEPT - 1u) << 2u)) >> 2u];
  return bitcast<f32>(size ^ (negative & 0x80000000u));
//: else
  return bitcast<f32>(entry(words, bit));
//: end
}
fn pair_of(words: ptr<function, Words>, first: u32) -> vec2<f32> {
  return vec2<f32>(value(words, RATE * first / 8u), value(words, RATE * (first + 1u) / 8u));
}
//: end

//: if F16
struct X { scale: f32, values: vec4<f16> }

fn load_x(quad: u32, ahead: u32) -> X {
  let at = place(quad, 4u, (quad & 7u) >> 1u) * 2u + (quad & 1u) + ahead;
  return X(xs[(quad >> 3u) + (ahead >> 3u)].x, xv[at].xzyw);
}
//: else
struct X { values: vec4<f32> }

fn load_x(quad: u32, ahead: u32) -> X { return X(xv[quad + ahead]); }
//: end

fn row_dot(words: ptr<function, Words>, r: u32, x: X) -> f32 {
//: if PAIRS
  let a = pair(words, RATE * (4u * r) / 8u);
  let b = pair(words, RATE * (4u * r + 2u) / 8u);
//: else
  let a = pair_of(words, 4u * r);
  let b = pair_of(words, 4u * r + 2u);
//: end
//: if F16
  let products = fma(vec2<f16>(b), x.values.zw, vec2<f16>(a) * x.values.xy);
  return x.scale * (f32(products.x) + f32(products.y));
//: else
  return dot(x.values, vec4<f32>(a, b));
//: end
}
//: end

// `index` counts the invocations of the workgroup. Lanes that share rows are a multiple
// of four, so that a lane has the same quad of all its tiles.
fn add(strip: u32, unit: u32, x_first: u32, index: u32, sums: ptr<function, array<f32, HEIGHT>>) {
  let lane = index % LANES;
  let first = RATE * (lane & 3u) >> 2u;
  let at = (p.base.y + strip * p.stride.y) / 4u + (lane >> 2u) * RATE + first + ((unit - lane) >> 2u) * RATE;
  var words: Words;
  // Behind a tile's last word comes its first.
//: each i STREAM
  words[$i] = tiles[at + $iu - select(0u, RATE, 3u * RATE / 4u + $iu >= RATE && first + $iu >= RATE)];
//: end
  words[STREAM] = tiles[at + STREAM - select(0u, RATE, first + STREAM >= RATE)];
//: if !WHOLE
  let shift = (RATE * (lane & 3u) & 3u) * 8u;
  let above = select(1u << (32u - shift), 0u, shift == 0u);
//: each i STREAM
  words[$i] = (words[$i] >> shift) + words[$iu + 1u] * above;
//: end
//: end
  // Lanes that are a multiple of a tile of the input go through it in even steps.
  let even = LANES % 64u == 0u;
  let x = load_x(x_first / 4u + select(unit, lane, even), select(0u, unit - lane, even));
//: if TRIPLES
//: each k 8
  let dots$k = rows_dot(&words, $ku, x);
  (*sums)[2u * $ku] += dots$k.x;
  (*sums)[2u * $ku + 1u] += dots$k.y;
//: end
//: else
//: each r 16
  (*sums)[$r] += row_dot(&words, $ru, x);
//: end
//: end
}

fn finish(row: u32, sum: f32) -> f32 { return sum * row_scale(row); }
//: end
