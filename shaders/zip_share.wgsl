// Units of TCA-TBE for batches: the 32 weights of a share, one word of each plane.
// Which columns these are does not matter to a sum, if inputs are taken in the same
// order (`x_quad`); and a share's escapes are counted once, where 32 neighbours of a
// row, which lie in eight shares, count those before them eight times.

struct Block {
  low: u32, middle: u32, high: u32,
//: each k 8
  signs$k: u32,
//: end
  // Of its superblock: the exponents' base, in every byte; and where its escapes are.
  base: u32, row: u32, unit: u32,
}

// The quad of columns that slice `k` of a unit is.
fn x_quad(unit: u32, k: u32) -> u32 {
  let s = unit >> 5u;
  return s * 256u + k * (superblock(0u, s).width * WORDS) + (unit & 31u);
}

fn load(row: u32, unit: u32) -> Block {
  let s = unit >> 5u;
  let b = superblock(row, s);
  let width = b.width * WORDS;
  let at = b.at * WORDS + (unit & 31u);
  var share: Block;
  share.low = word(at);
  share.middle = word(at + width);
  share.high = word(at + 2u * width);
//: each k 8
  share.signs$k = word(at + (3u + $ku) * width);
//: end
  share.base = (base_exponent(row, s) - 1u) * 0x01010101u;
  share.row = row;
  share.unit = unit;
  return share;
}

// Codes 0 of a superblock before its word `i`.
fn escapes_until(b: Superblock, i: u32) -> u32 {
  var n = escapes_before(b, i / WORDS);
  for (var k = i / WORDS * WORDS; k < i; k++) {
    let at = b.at * WORDS + k;
    let width = b.width * WORDS;
    n += countOneBits(~(word(at) | word(at + width) | word(at + 2u * width)));
  }
  return n;
}

// What the unit behind the last one begins with, if it is of the same superblock:
// an invocation takes a row's units one after the other.
struct Reached { row: u32, unit: u32, escapes: u32, source: Side }
var<private> reached: Reached;

fn reach(share: Block) {
  let follows = share.row == reached.row && share.unit == reached.unit;
  if (follows && (share.unit & 31u) != 0u) { return; }
  let s = share.unit >> 5u;
  reached.row = share.row;
  reached.source = side(share.row, s);
  reached.escapes = escapes_until(superblock(share.row, s), share.unit & 31u);
}

fn weights(share: Block) -> array<vec4<f32>, 8> {
  reach(share);
  let open = ~(share.low | share.middle | share.high);
//: each k 8
  // An escape counts as code 1 at first.
  let bits$k = ((share.low | open) >> $ku) & 0x01010101u;
  let codes$k = bits$k | (((share.middle >> $ku) & 0x01010101u) << 1u) | (((share.high >> $ku) & 0x01010101u) << 2u);
  var exponents$k = codes$k + share.base;
//: end
  let base = (share.base + 1u) & 0xffu;
  var n = reached.escapes;
  for (var left = open; left != 0u; left &= left - 1u) {
    let place = firstTrailingBit(left);
    let byte = place & 0x18u;
    let exponent = escape(reached.source, n, base) << byte;
    let mask = 0xffu << byte;
//: each k 8
    exponents$k = pick(select(0u, mask, (place & 7u) == $ku), exponent, exponents$k);
//: end
    n++;
  }
  reached.escapes = n;
  reached.unit = share.unit + 1u;
  return array<vec4<f32>, 8>(
//: each k 8
    four(share.signs$k, exponents$k),
//: end
  );
}
