// SQINT2, layout trellis: strips of tiles of 16 x 16. A tile is a stream of 32 N
// bits; weight t is V[s], s being the WINDOW bits from bit N t / 8 on, cyclically.
// Sixteen rows of four columns, 64 weights, begin at byte N q of a tile.
//
// Binding 0 holds the scales of the rows, 1 the tiles, 3 the table V as floats.
// With PAIRS, where the windows of two neighbours in a row lie apart by the same
// number of bits everywhere, it is one of the values of both (f16) by the SPAN
// bits of both windows; otherwise SPAN is WINDOW.
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
@group(0) @binding(4) var<storage, read> xv: array<vec4<f32>>;

//: if ODD
// Half of the table, which is odd, so that it leaves room for other workgroups.
const KEPT: u32 = STATES / 2u;
//: else
const KEPT: u32 = STATES;
//: end
var<workgroup> values: array<u32, KEPT>;

fn begin(index: u32) {
  for (var i = index; i < KEPT; i += WG) { values[i] = table[i]; }
  workgroupBarrier();
}

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
//: end

// A state from bit `bit` of the words on that 64 windows lie in, STREAM of them
// and one more.
fn state(words: ptr<function, array<u32, STREAM + 1u>>, bit: u32) -> u32 {
  let low = (*words)[bit >> 5u] >> (bit & 31u);
  let high = ((*words)[(bit >> 5u) + 1u] << 1u) << (31u - (bit & 31u));
  return select(low | high, low, (bit & 31u) + SPAN <= 32u) & (STATES - 1u);
}

fn add(strip: u32, unit: u32, x_first: u32, index: u32, sums: ptr<function, array<f32, HEIGHT>>) {
  let at = (p.base.y + strip * p.stride.y) / 4u + (unit >> 2u) * RATE;
  let start = RATE * (unit & 3u);
  // Behind a tile's last word comes its first.
  var words: array<u32, STREAM + 1u>;
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
  let x = xv[x_first / 4u + unit];
//: each r 16
//: if PAIRS
  (*sums)[$r] += dot(x, vec4<f32>(
    pair(state(&words, RATE * (4u * $ru) / 8u)),
    pair(state(&words, RATE * (4u * $ru + 2u) / 8u))));
//: else
  (*sums)[$r] += dot(x, vec4<f32>(
    value(state(&words, RATE * (4u * $ru) / 8u)),
    value(state(&words, RATE * (4u * $ru + 1u) / 8u)),
    value(state(&words, RATE * (4u * $ru + 2u) / 8u)),
    value(state(&words, RATE * (4u * $ru + 3u) / 8u))));
//: end
//: end
}

fn finish(row: u32, sum: f32) -> f32 { return sum * row_scale(row); }
//: end
