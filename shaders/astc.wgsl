// ASTC blocks of 6x6 luminance texels. Strips of six rows, a block a unit. They
// are decoded here, those that the format allows, anything else as zeros; or with
// TEXTURE by the texture unit, whose texels have the same values.
//
// Binding 0 holds the blocks, 1 the rows' scales (f16), 2 (with COLUMNS) the
// columns', 3 the tables: see `codec::astc::device`. p.extra.x: 2^e (f32). Layers
// of a texture have p.extra.y rows of p.extra.z blocks, p.extra.w of them side by
// side.

//: if TEXTURE
@group(0) @binding(0) var blocks: texture_2d_array<f32>;
//: else
@group(0) @binding(0) var<storage, read> blocks: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> tables: array<vec4<u32>>;
//: end
@group(0) @binding(1) var<storage, read> row_scales: array<u32>;
//: if COLUMNS
@group(0) @binding(2) var<storage, read> column_scales: array<u32>;
//: end

fn row_scale(row: u32) -> f32 {
  let byte = p.base.y + row * 2u;
  return unpack2x16float(row_scales[byte >> 2u] >> ((byte & 2u) * 8u)).x * bitcast<f32>(p.extra.x);
}

//: if TEXTURE
// Where a texel lies: its layer, column and row.
fn place(row: u32, col: u32) -> vec3<u32> {
  let side = 6u * vec2<u32>(p.extra.z, p.extra.y);
  let at = vec2<u32>(col, p.first + row);
  let layer = at / side;
  return vec3<u32>(at - layer * side, layer.y * p.extra.w + layer.x);
}

// The value 2 t - 1 of the texel at a place.
fn sample(at: vec3<u32>) -> f32 { return 2.0 * textureLoad(blocks, at.xy, at.z, 0).x - 1.0; }
//: else
// Where each table begins: what there is to know of a mode, by range bits and
// partitions; 8-bit values of endpoint codes, four a word; digits of shared
// trits and quints, four bits each; levels of groups of texels by their stored
// bits, for 2 to 6 levels, five bits each; two bits of
// the partitions of all texels, by count and seed: of rows 0 to 4 texel (x, y) at bit
// 5 x + y of words 0 and 2, of row 5 at bit 5 x of words 1 and 3.
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

// Word `i` of the tables.
fn word(i: u32) -> u32 { return tables[i >> 2u][i & 3u]; }

// A block taken apart: of each row of texels their places, level and eight times
// the partition, five bits each; both endpoints of each partition, a byte each;
// steps of the levels; and how many levels and partitions there are. Or texels
// that all have one value.
struct Texels {
  rows: array<u32, 6>, ends: vec2<u32>, steps: vec2<u32>, levels: u32, partitions: u32, same: bool, value: f32,
}

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

// The endpoints of the block's partitions.
fn endpoints(b: vec4<u32>, mode: u32, partitions: u32) -> vec2<u32> {
  let about = word(mode);
  let kind = (about >> 8u) & 3u;
  let bits = (about >> 12u) & 15u;
  let size = (about >> 16u) & 127u;
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
  var ends = vec2<u32>(0u);
  for (var i = 0u; i < 2u * partitions; i++) {
    var code = field(e, at, bits);
    // Numbers that share digits come with parts of them in between.
    if (kind == 0u) {
      at += bits;
    } else if (kind == 1u) {
      if (k == 0u) {
        digits = word(TRITS + (field(e, at + bits, 2u) | (field(e, at + 2u * bits + 2u, 2u) << 2u)
          | (field(e, at + 3u * bits + 4u, 1u) << 4u) | (field(e, at + 4u * bits + 5u, 2u) << 5u)
          | (field(e, at + 5u * bits + 7u, 1u) << 7u)));
      }
      code |= ((digits >> (4u * k)) & 15u) << bits;
      at += bits + select(2u, 1u, k == 2u || k == 4u);
      k = select(k + 1u, 0u, k == 4u);
    } else {
      if (k == 0u) {
        digits = word(QUINTS + (field(e, at + bits, 3u) | (field(e, at + 2u * bits + 3u, 2u) << 3u)
          | (field(e, at + 3u * bits + 5u, 2u) << 5u)));
      }
      code |= ((digits >> (4u * k)) & 15u) << bits;
      at += bits + select(2u, 3u, k == 0u);
      k = select(k + 1u, 0u, k == 2u);
    }
    let values = VALUES + (mode - MODES) * 8u;
    let end = (word(values + (code >> 2u)) >> ((code & 3u) * 8u)) & 0xffu;
    let shift = (i >> 1u) * 8u;
    ends |= select(vec2<u32>(end << shift, 0u), vec2<u32>(0u, end << shift), (i & 1u) == 1u);
  }
  return ends;
}

// The value of the texel at a place.
fn value(t: ptr<function, Texels>, place: u32) -> f32 {
  let shift = place & 24u;
  let level = place & 7u;
  let step = (select((*t).steps.x, (*t).steps.y, level >= 4u) >> ((level & 3u) * 8u)) & 0xffu;
  let a = ((*t).ends.x >> shift) & 0xffu;
  let b = ((*t).ends.y >> shift) & 0xffu;
  return select(texel((257u * (a * (64u - step) + b * step) + 32u) >> 6u), (*t).value, (*t).same);
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

// Eight times the partitions of a row's texels, five bits each.
fn map_row(map: vec4<u32>, y: u32) -> u32 {
  let low = select(map.x >> y, map.y, y == 5u) & 0x02108421u;
  let high = select(map.z >> y, map.w, y == 5u) & 0x02108421u;
  return (low << 3u) | (high << 4u);
}

// Takes a block apart.
fn unpack(b: vec4<u32>) -> Texels {
  var rows = array<u32, 6>(0u, 0u, 0u, 0u, 0u, 0u);
  let partitions = ((b.x >> 11u) & 3u) + 1u;
  let range = ((b.x >> 4u) & 1u) | (((b.x >> 2u) & 3u) << 1u);
  let mode = MODES + (range * 4u + partitions - 1u) * 8u;
  let spare = vec4<u32>(word(mode + 4u), word(mode + 5u), word(mode + 6u), word(mode + 7u));
  let endpoint_mode = b.x & select(0x1f800000u, 0x0001e000u, partitions == 1u);
  let allowed = (word(mode) & 1u) == 1u && (b.x & 0x7e3u) == 0x100u && endpoint_mode == 0u && all((b & spare) == vec4<u32>(0u));
  if (!allowed) {
    let grey = b.z & 0xffffu;
    let constant = (b.x == 0xfffffdfcu) && b.y == 0xffffffffu && b.z == grey * 0x10001u && b.w == (grey | 0xffff0000u);
    var value = 0.0;
    if (constant) { value = texel(grey); }
    return Texels(rows, vec2<u32>(0u), vec2<u32>(0u), 1u, 1u, true, value);
  }
  let ends = endpoints(b, mode, partitions);
  let levels = (word(mode) >> 4u) & 15u;
  switch (levels) {
    case 2u: {
//: each y 6
      rows[$y] = word(TWO + top(b, 6u * $yu, 6u));
//: end
    }
    case 4u: {
//: each y 6
      rows[$y] = word(FOUR + top(b, 12u * $yu, 6u)) | (word(FOUR + top(b, 12u * $yu + 6u, 6u)) << 15u);
//: end
    }
    case 5u: {
//: each y 6
      rows[$y] = word(FIVE + top(b, 14u * $yu, 7u)) | (word(FIVE + top(b, 14u * $yu + 7u, 7u)) << 15u);
//: end
    }
    case 3u: {
      var groups: array<u32, 8>;
//: each g 7
      groups[$g] = word(THREE + top(b, 8u * $gu, 8u));
//: end
      // The last one has one texel.
      groups[7] = word(THREE + (top(b, 56u, 2u) << 6u));
      rows = rows_of_fives(groups);
    }
    default: {
      var groups: array<u32, 8>;
//: each g 7
      groups[$g] = word(SIX + top(b, 13u * $gu, 13u));
//: end
      groups[7] = word(SIX + (top(b, 91u, 3u) << 10u));
      rows = rows_of_fives(groups);
    }
  }
  if (partitions > 1u) {
    let map = tables[(MAPS >> 2u) + (partitions - 2u) * 1024u + ((b.x >> 13u) & 1023u)];
//: each y 6
    rows[$y] |= map_row(map, $yu);
//: end
  }
  return Texels(rows, ends, vec2<u32>(word(mode + 1u), word(mode + 2u)), levels, partitions, false, 0.0);
}

//: end

//: if WEIGHTS
struct Block { a: vec4<f32>, b: vec4<f32> }

fn load(row: u32, unit: u32) -> Block {
  var w: array<f32, 8>;
  let scale = row_scale(row);
  let end = min(unit * 8u + 8u, p.cols);
//: if !TEXTURE
  let first = (p.base.x + row / 6u * p.stride.x) >> 4u;
  var block = 0xffffffffu;
  var texels: Texels;
//: end
  for (var col = unit * 8u; col < end; col++) {
    var v = scale;
//: if COLUMNS
    let byte = p.base.z + col * 2u;
    v *= unpack2x16float(column_scales[byte >> 2u] >> ((byte & 2u) * 8u)).x;
//: end
//: if TEXTURE
    w[col & 7u] = v * sample(place(row, col));
//: else
    if (col / 6u != block) {
      block = col / 6u;
      texels = unpack(blocks[first + block]);
    }
    w[col & 7u] = v * value(&texels, (texels.rows[row % 6u] >> (5u * (col % 6u))) & 31u);
//: end
  }
  return Block(vec4<f32>(w[0], w[1], w[2], w[3]), vec4<f32>(w[4], w[5], w[6], w[7]));
}

fn weights(b: Block) -> array<vec4<f32>, 2> { return array<vec4<f32>, 2>(b.a, b.b); }
//: else
@group(0) @binding(4) var<storage, read> xv: array<vec2<f32>>;

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


//: if TEXTURE
fn begin(index: u32) {}

fn add(strip: u32, unit: u32, x_first: u32, index: u32, sums: ptr<function, array<f32, HEIGHT>>) {
  let at = place(6u * strip, 6u * unit);
//: each i 3
  let x$i = input(x_first, unit, $iu);
//: end
//: each y 6
  (*sums)[$y] += (sample(at + vec3<u32>(0u, $yu, 0u)) * x0.x + sample(at + vec3<u32>(1u, $yu, 0u)) * x0.y)
    + (sample(at + vec3<u32>(2u, $yu, 0u)) * x1.x + sample(at + vec3<u32>(3u, $yu, 0u)) * x1.y)
    + (sample(at + vec3<u32>(4u, $yu, 0u)) * x2.x + sample(at + vec3<u32>(5u, $yu, 0u)) * x2.y);
//: end
}
//: else
// A block's values by place; invocations have a column each and leave the others'
// alone. Then what of the tables `add_often` needs.
var<workgroup> palette: array<array<f32, WG>, 28>;
var<workgroup> fives: array<u32, 128>;
var<workgroup> trits: array<u32, 128>;
var<workgroup> twelve: array<u32, 12>;

fn begin(index: u32) {
  for (var i = index; i < 128u; i += WG) {
    fives[i] = word(FIVE + i);
    trits[i] = word(TRITS + i);
  }
  if (index < 12u) { twelve[index] = (word(VALUES + 21u * 64u + (index >> 2u)) >> ((index & 3u) * 8u)) & 0xffu; }
  workgroupBarrier();
}

// A row of texels times its input.
fn line_sum(line: u32, index: u32, x0: vec2<f32>, x1: vec2<f32>, x2: vec2<f32>) -> f32 {
  return (palette[line & 31u][index] * x0.x + palette[(line >> 5u) & 31u][index] * x0.y)
      + (palette[(line >> 10u) & 31u][index] * x1.x + palette[(line >> 15u) & 31u][index] * x1.y)
      + (palette[(line >> 20u) & 31u][index] * x2.x + palette[(line >> 25u) & 31u][index] * x2.y);
}

// The five values from endpoint `a` to endpoint `b`.
fn ramp(first: u32, index: u32, a: u32, b: u32) {
  var c = 1028u * a + 2u;
  let d = 257u * (b - a);
//: each r 5
  palette[first + $ru][index] = texel(c >> 2u);
  c += d;
//: end
}

// The same as `map_row` of two partitions.
fn half_row(map: vec4<u32>, y: u32) -> u32 { return (select(map.x >> y, map.y, y == 5u) & 0x02108421u) << 3u; }

// What most blocks are: two partitions of five levels, with no bit to spare.
// Another one is left for `add`.
fn add_often(strip: u32, unit: u32, x_first: u32, index: u32, sums: ptr<function, array<f32, HEIGHT>>) -> bool {
  let b = blocks[((p.base.x + strip * p.stride.x) >> 4u) + unit];
  if ((b.x & 0x1f801fffu) != 0x918u) { return false; }
  let e = (b.x >> 29u) | (b.y << 3u);
  let digits = trits[((e >> 2u) & 3u) | ((e >> 4u) & 12u) | ((e >> 6u) & 16u) | ((e >> 8u) & 96u)] << 2u;
  ramp(0u, index, twelve[(digits & 12u) | (e & 3u)], twelve[((digits >> 4u) & 12u) | ((e >> 4u) & 3u)]);
  ramp(8u, index, twelve[((digits >> 8u) & 12u) | ((e >> 8u) & 3u)], twelve[((digits >> 12u) & 12u) | ((e >> 11u) & 3u)]);
  let map = tables[(MAPS >> 2u) + ((b.x >> 13u) & 1023u)];
//: each i 3
  let x$i = input(x_first, unit, $iu);
//: end
//: each y 6
  (*sums)[$y] += line_sum(fives[top(b, 14u * $yu, 7u)] | (fives[top(b, 14u * $yu + 7u, 7u)] << 15u) | half_row(map, $yu), index, x0, x1, x2);
//: end
  return true;
}

fn add(strip: u32, unit: u32, x_first: u32, index: u32, sums: ptr<function, array<f32, HEIGHT>>) {
  var t = unpack(blocks[((p.base.x + strip * p.stride.x) >> 4u) + unit]);
//: each i 3
  let x$i = input(x_first, unit, $iu);
//: end
  for (var first = 0u; first < 8u * t.partitions; first += 8u) {
    for (var i = 0u; i < t.levels; i++) { palette[first + i][index] = value(&t, first + i); }
  }
//: each y 6
  (*sums)[$y] += line_sum(t.rows[$y], index, x0, x1, x2);
//: end
}
//: end

fn finish(row: u32, sum: f32) -> f32 { return sum * row_scale(row); }
//: end
