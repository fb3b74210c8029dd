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
// odd, so the state of all other bits has their negatives.
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
//: if QUADS
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

// Eight reads are under way at a time.
const EVEN: bool = KEPT % (8u * WG) == 0u;

fn begin(index: u32) {
  for (var i = index; i < KEPT; i += 8u * WG) {
//: each k 8
    let v$k = table[FIRST + i + $ku * WG];
//: end
//: each k 8
    if (EVEN || i + $ku * WG < KEPT) { values[i + $ku * WG] = v$k; }
//: end
  }
  workgroupBarrier();
}

alias Words = array<u32, STREAM + 1u>;

// A state from bit `bit` of the words on that 64 windows lie in, STREAM of them
// and one more.
fn state(words: ptr<function, Words>, bit: u32) -> u32 {
  let low = (*words)[bit >> 5u] >> (bit & 31u);
  let high = ((*words)[(bit >> 5u) + 1u] << 1u) << (31u - (bit & 31u));
  return select(low | high, low, (bit & 31u) + SPAN <= 32u) & (STATES - 1u);
}

//: if I8|I24
//: if I24
fn number(n: i32) -> f32 { return f32(n); }
//: else
// A whole number below 2^22 as a float, faster than by conversion. Not for sums with
// factors, into which compilers draw the constant, and lose the low digits (an
// H200's did).
fn number(n: i32) -> f32 { return bitcast<f32>(n + 0x4b400000) - 12582912.0; }
//: end

// The input of four columns.
struct X {
  scale: f32,
  high: u32,
//: if I24
  middle: u32,
  low: u32,
//: end
}

fn load_x(quad: u32) -> X {
  var x: X;
  x.scale = xs[quad >> 3u].x;
  let half = (quad >> 2u) & 1u;
//: if I24
  x.high = xv[place(quad, 6u, half) * 4u + (quad & 3u)];
  x.middle = xv[place(quad, 6u, 2u + half) * 4u + (quad & 3u)];
  x.low = xv[place(quad, 6u, 4u + half) * 4u + (quad & 3u)];
//: else
  x.high = xv[place(quad, 2u, half) * 4u + (quad & 3u)];
//: end
  return x;
}

// By itself, since naga's Metal declares the bytes again for each product with them.
fn product(a: u32, b: u32) -> f32 { return number(dot4I8Packed(a, b)); }

// The product with four bytes, in steps of the input's scale.
fn bytes_dot(bytes: u32, x: X) -> f32 {
  let high = product(bytes, x.high);
//: if I24
  return 65536.0 * high + (256.0 * product(bytes, x.middle) + product(bytes, x.low));
//: else
  return high;
//: end
}

//: if QUADS
// The product of row `r`.
fn row_dot(words: ptr<function, Words>, r: u32, x: X) -> f32 {
  // The state's last bit becomes the highest.
  let end = RATE * 4u * r / 8u + QUAD - 1u;
  let word = end >> 5u;
  let shift = 31u - (end & 31u);
  let top = ((*words)[word] << shift) | (((*words)[max(word, 1u) - 1u] >> 1u) >> (31u - shift));
  let negative = bitcast<u32>(bitcast<i32>(top) >> 31u);
  let bytes = values[((top ^ negative) >> (32u - QUAD)) & (KEPT - 1u)];
  return bitcast<f32>(bitcast<u32>(x.scale) ^ (top & 0x80000000u)) * bytes_dot(bytes, x);
}
//: else
fn row_dot(words: ptr<function, Words>, r: u32, x: X) -> f32 {
//: if PAIRS
  let bytes = values[state(words, RATE * (4u * r) / 8u)] | (values[state(words, RATE * (4u * r + 2u) / 8u)] << 16u);
//: else
  let bytes = values[state(words, RATE * (4u * r) / 8u)]
    | (values[state(words, RATE * (4u * r + 1u) / 8u)] << 8u)
    | (values[state(words, RATE * (4u * r + 2u) / 8u)] << 16u)
    | (values[state(words, RATE * (4u * r + 3u) / 8u)] << 24u);
//: end
  return x.scale * bytes_dot(bytes, x);
}
//: end
//: else
//: if PAIRS
fn pair(state: u32) -> vec2<f32> { return unpack2x16float(values[state]); }
//: else
fn value(state: u32) -> f32 {
//: if ODD
  // State STATES - 1 - s has the negative of state s.
  let upper = state >= KEPT;
  let v = bitcast<f32>(values[select(state, STATES - 1u - state, upper)]);
  return select(v, -v, upper);
//: else
  return bitcast<f32>(values[state]);
//: end
}
fn pair_of(words: ptr<function, Words>, first: u32) -> vec2<f32> {
  return vec2<f32>(value(state(words, RATE * first / 8u)), value(state(words, RATE * (first + 1u) / 8u)));
}
//: end

//: if F16
struct X { scale: f32, values: vec4<f16> }

fn load_x(quad: u32) -> X {
  return X(xs[quad >> 3u].x, xv[place(quad, 4u, (quad & 7u) >> 1u) * 2u + (quad & 1u)].xzyw);
}
//: else
struct X { values: vec4<f32> }

fn load_x(quad: u32) -> X { return X(xv[quad]); }
//: end

fn row_dot(words: ptr<function, Words>, r: u32, x: X) -> f32 {
//: if PAIRS
  let a = pair(state(words, RATE * (4u * r) / 8u));
  let b = pair(state(words, RATE * (4u * r + 2u) / 8u));
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

fn add(strip: u32, unit: u32, x_first: u32, index: u32, sums: ptr<function, array<f32, HEIGHT>>) {
  let at = (p.base.y + strip * p.stride.y) / 4u + (unit >> 2u) * RATE;
  let start = RATE * (unit & 3u);
  // Behind a tile's last word comes its first.
  var words: Words;
  var next = start >> 2u;
//: each i STREAM
  words[$i] = tiles[at + next];
  next = select(next + 1u, 0u, next + 1u == RATE);
//: end
  words[STREAM] = tiles[at + next];
//: if !WHOLE
  let shift = (start & 3u) * 8u;
//: each i STREAM
  words[$i] = (words[$i] >> shift) | ((words[$iu + 1u] << 1u) << (31u - shift));
//: end
//: end
  let x = load_x(x_first / 4u + unit);
//: each r 16
  (*sums)[$r] += row_dot(&words, $ru, x);
//: end
}

fn finish(row: u32, sum: f32) -> f32 { return sum * row_scale(row); }
//: end
