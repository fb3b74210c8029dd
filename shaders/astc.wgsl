// ASTC blocks of 6x6 luminance texels, decoded in the shader: those that the
// format allows, anything else as zeros. Strips of six rows, a block a unit.
//
// Binding 0 holds the blocks, 1 the rows' scales (f16), 2 (with COLUMNS) the
// columns', 3 the tables: see `codec::astc::device`. p.extra.x: 2^e (f32).

@group(0) @binding(0) var<storage, read> blocks: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> row_scales: array<u32>;
//: if COLUMNS
@group(0) @binding(2) var<storage, read> column_scales: array<u32>;
//: end
@group(0) @binding(3) var<storage, read> tables: array<u32>;

// Where each table begins: what there is to know of a mode, by range bits and
// partitions; 8-bit values of endpoint codes, four a word; digits of shared
// trits and quints, four bits each; levels of groups of texels by their stored
// bits, for 2 to 6 levels, five bits each; partitions of a row's texels, eight
// times the number in five bits each, by count and seed.
const MODES: u32 = 0u;
const VALUES: u32 = 256u;
const TRITS: u32 = 2304u;
const QUINTS: u32 = 2560u;
const TWO: u32 = 2688u;
const THREE: u32 = 2752u;
const FOUR: u32 = 3008u;
const FIVE: u32 = 3072u;
const SIX: u32 = 3200u;
const MAPS: u32 = 11392u;

// Values of each partition's levels, eight to a partition.
//: if WEIGHTS
var<private> palette: array<f32, 32>;

fn put_value(i: u32, index: u32, v: f32) { palette[i] = v; }
fn get_value(i: u32, index: u32) -> f32 { return palette[i]; }
//: else
var<workgroup> palette: array<array<f32, WG>, 32>;

// Invocations have a column each and leave the others' alone.
fn put_value(i: u32, index: u32, v: f32) { palette[i][index] = v; }
fn get_value(i: u32, index: u32) -> f32 { return palette[i][index]; }
//: end

// The value 2 t - 1 of a 16-bit texel: t is rounded to 11 bits toward zero.
fn texel(c: u32) -> f32 {
  let down = bitcast<f32>(bitcast<u32>(f32(c)) & 0xffffe000u);
  return select(down, 65536.0, c == 65535u) * (1.0 / 32768.0) - 1.0;
}

// `bits` bits from bit `at` on; those from 64 on are zero.
fn field(e: vec2<u32>, at: u32, bits: u32) -> u32 {
  let low = (e.x >> (at & 31u)) | ((e.y << 1u) << (31u - (at & 31u)));
  let v = select(select(e.y >> (at & 31u), 0u, at >= 64u), low, at < 32u);
  return v & ((1u << bits) - 1u);
}

// `bits` bits of a block, `at` bits from its top.
fn top(b: vec4<u32>, at: u32, bits: u32) -> u32 {
  let low = 128u - at - bits;
  let i = low >> 5u;
  let v = (b[i] >> (low & 31u)) | ((b[min(i + 1u, 3u)] << 1u) << (31u - (low & 31u)));
  return v & ((1u << bits) - 1u);
}

// Fills the palette from the block's endpoints.
fn endpoints(b: vec4<u32>, index: u32, mode: u32, partitions: u32) {
  let about = tables[mode];
  let kind = (about >> 8u) & 3u;
  let bits = (about >> 12u) & 15u;
  let size = (about >> 16u) & 127u;
  let levels = (about >> 4u) & 15u;
  let steps = vec2<u32>(tables[mode + 1u], tables[mode + 2u]);
  let start = select(29u, 17u, partitions == 1u);
  let mask = vec2<u32>(
    select(0xffffffffu, (1u << (size & 31u)) - 1u, size < 32u),
    select(select(0xffffffffu, (1u << (size & 31u)) - 1u, size < 64u), 0u, size <= 32u));
  let e = vec2<u32>(
    (b.x >> start) | (b.y << (32u - start)),
    (b.y >> start) | (b.z << (32u - start))) & mask;
  var at = 0u;
  var k = 0u;
  var digits = 0u;
  var first = 0u;
  for (var i = 0u; i < 2u * partitions; i++) {
    var code = field(e, at, bits);
    // Numbers that share digits come with parts of them in between.
    if (kind == 0u) {
      at += bits;
    } else if (kind == 1u) {
      if (k == 0u) {
        digits = tables[TRITS + (field(e, at + bits, 2u) | (field(e, at + 2u * bits + 2u, 2u) << 2u)
          | (field(e, at + 3u * bits + 4u, 1u) << 4u) | (field(e, at + 4u * bits + 5u, 2u) << 5u)
          | (field(e, at + 5u * bits + 7u, 1u) << 7u))];
      }
      code |= ((digits >> (4u * k)) & 15u) << bits;
      at += bits + select(2u, 1u, k == 2u || k == 4u);
      k = select(k + 1u, 0u, k == 4u);
    } else {
      if (k == 0u) {
        digits = tables[QUINTS + (field(e, at + bits, 3u) | (field(e, at + 2u * bits + 3u, 2u) << 3u)
          | (field(e, at + 3u * bits + 5u, 2u) << 5u))];
      }
      code |= ((digits >> (4u * k)) & 15u) << bits;
      at += bits + select(2u, 3u, k == 0u);
      k = select(k + 1u, 0u, k == 2u);
    }
    let values = VALUES + (mode - MODES) * 8u;
    let end = (tables[values + (code >> 2u)] >> ((code & 3u) * 8u)) & 0xffu;
    if ((i & 1u) == 0u) {
      first = end * 257u;
    } else {
      for (var r = 0u; r < levels; r++) {
        let step = (select(steps.x, steps.y, r >= 4u) >> ((r & 3u) * 8u)) & 0xffu;
        put_value((i >> 1u) * 8u + r, index, texel((first * (64u - step) + end * 257u * step + 32u) >> 6u));
      }
    }
  }
}

// The levels of rows of a block whose groups are five texels.
fn rows_of_fives(g: array<u32, 8>) -> array<u32, 6> {
  return array<u32, 6>(
    g[0] | (g[1] << 25u),
    (g[1] >> 5u) | (g[2] << 20u),
    (g[2] >> 10u) | (g[3] << 15u),
    (g[3] >> 15u) | (g[4] << 10u),
    (g[4] >> 20u) | (g[5] << 5u),
    g[6] | (g[7] << 25u));
}

// Takes a block apart: fills the palette, and returns of each row of texels
// their places in it, five bits each.
fn unpack(b: vec4<u32>, index: u32) -> array<u32, 6> {
  var rows = array<u32, 6>(0u, 0u, 0u, 0u, 0u, 0u);
  let partitions = ((b.x >> 11u) & 3u) + 1u;
  let range = ((b.x >> 4u) & 1u) | (((b.x >> 2u) & 3u) << 1u);
  let mode = MODES + (range * 4u + partitions - 1u) * 8u;
  let spare = vec4<u32>(tables[mode + 4u], tables[mode + 5u], tables[mode + 6u], tables[mode + 7u]);
  let endpoint_mode = b.x & select(0x1f800000u, 0x0001e000u, partitions == 1u);
  let allowed = (tables[mode] & 1u) == 1u && (b.x & 0x7e3u) == 0x100u && endpoint_mode == 0u && all((b & spare) == vec4<u32>(0u));
  if (!allowed) {
    let grey = b.z & 0xffffu;
    let constant = (b.x == 0xfffffdfcu) && b.y == 0xffffffffu && b.z == grey * 0x10001u && b.w == (grey | 0xffff0000u);
    put_value(0u, index, select(0.0, texel(grey), constant));
    return rows;
  }
  endpoints(b, index, mode, partitions);
  switch ((tables[mode] >> 4u) & 15u) {
    case 2u: {
//: each y 6
      rows[$y] = tables[TWO + top(b, 6u * $yu, 6u)];
//: end
    }
    case 4u: {
//: each y 6
      rows[$y] = tables[FOUR + top(b, 12u * $yu, 6u)] | (tables[FOUR + top(b, 12u * $yu + 6u, 6u)] << 15u);
//: end
    }
    case 5u: {
//: each y 6
      rows[$y] = tables[FIVE + top(b, 14u * $yu, 7u)] | (tables[FIVE + top(b, 14u * $yu + 7u, 7u)] << 15u);
//: end
    }
    case 3u: {
      var groups: array<u32, 8>;
//: each g 7
      groups[$g] = tables[THREE + top(b, 8u * $gu, 8u)];
//: end
      // The last one has one texel.
      groups[7] = tables[THREE + (top(b, 56u, 2u) << 6u)];
      rows = rows_of_fives(groups);
    }
    default: {
      var groups: array<u32, 8>;
//: each g 7
      groups[$g] = tables[SIX + top(b, 13u * $gu, 13u)];
//: end
      groups[7] = tables[SIX + (top(b, 91u, 3u) << 10u)];
      rows = rows_of_fives(groups);
    }
  }
  if (partitions > 1u) {
    let map = MAPS + ((partitions - 2u) * 1024u + ((b.x >> 13u) & 1023u)) * 8u;
//: each y 6
    rows[$y] |= tables[map + $yu];
//: end
  }
  return rows;
}

fn row_scale(row: u32) -> f32 {
  let byte = p.base.y + row * 2u;
  return unpack2x16float(row_scales[byte >> 2u] >> ((byte & 2u) * 8u)).x * bitcast<f32>(p.extra.x);
}

//: if WEIGHTS
struct Block { a: vec4<f32>, b: vec4<f32> }

fn load(row: u32, unit: u32) -> Block {
  var w: array<f32, 8>;
  let first = (p.base.x + row / 6u * p.stride.x) >> 4u;
  let scale = row_scale(row);
  let end = min(unit * 8u + 8u, p.cols);
  var block = 0xffffffffu;
  var line = 0u;
  for (var col = unit * 8u; col < end; col++) {
    if (col / 6u != block) {
      block = col / 6u;
      let rows = unpack(blocks[first + block], 0u);
      line = rows[row % 6u];
    }
    var v = scale;
//: if COLUMNS
    let byte = p.base.z + col * 2u;
    v *= unpack2x16float(column_scales[byte >> 2u] >> ((byte & 2u) * 8u)).x;
//: end
    w[col & 7u] = v * get_value((line >> (5u * (col % 6u))) & 31u, 0u);
  }
  return Block(vec4<f32>(w[0], w[1], w[2], w[3]), vec4<f32>(w[4], w[5], w[6], w[7]));
}

fn weights(b: Block) -> array<vec4<f32>, 2> { return array<vec4<f32>, 2>(b.a, b.b); }
//: else
@group(0) @binding(4) var<storage, read> xv: array<vec2<f32>>;

fn begin(index: u32) {}

// Input of columns 2 i and 2 i + 1 of a block, what texels there stand for.
fn input(x_first: u32, unit: u32, i: u32) -> vec2<f32> {
  let col = vec2<u32>(unit * 6u + i * 2u) + vec2<u32>(0u, 1u);
  var x = xv[x_first / 2u + unit * 3u + i];
//: if COLUMNS
  x *= unpack2x16float(column_scales[(p.base.z >> 2u) + unit * 3u + i]);
//: end
  // Texels past the matrix have any value.
  return select(vec2<f32>(0.0), x, col < vec2<u32>(p.cols));
}

fn add(strip: u32, unit: u32, x_first: u32, index: u32, sums: ptr<function, array<f32, HEIGHT>>) {
  var rows = unpack(blocks[((p.base.x + strip * p.stride.x) >> 4u) + unit], index);
//: each i 3
  let x$i = input(x_first, unit, $iu);
//: end
//: each y 6
  {
    let line = rows[$y];
    (*sums)[$y] += (get_value(line & 31u, index) * x0.x + get_value((line >> 5u) & 31u, index) * x0.y)
      + (get_value((line >> 10u) & 31u, index) * x1.x + get_value((line >> 15u) & 31u, index) * x1.y)
      + (get_value((line >> 20u) & 31u, index) * x2.x + get_value((line >> 25u) & 31u, index) * x2.y);
  }
//: end
}

fn finish(row: u32, sum: f32) -> f32 { return sum * row_scale(row); }
//: end
