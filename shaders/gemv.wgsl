// y = W x (+ bias) (+ y): the product of a stored matrix with a vector, or with
// one for each layer of the grid. With EXPERTS the matrix is many stacked ones
// of `expert_rows` rows, of which every layer takes the one that is listed. With
// JOINED there are PARTS matrices with one input, each with workgroups of its own.
//
// With STAGED every workgroup makes the input itself (stage.wgsl), with ALONE while
// the only unit of its lanes is fetched.
//
// sparse_gemv: with LISTED_ROWS only the rows that active.wgsl lists are read,
// and the others come to zero; with LISTED_UNITS only the units it lists are
// read, so the input must be zero in all others.
//
// WG invocations form groups of LANES, each with ROWS rows. The lanes of a
// group stride through the row's units of UNIT columns; a unit's input is read
// once for all ROWS rows, and UNROLL units are under way at a time: LANES apart,
// or with NEIGHBOURS one behind the other, which lets them share what a codec
// stores for several (HEADS: `head(row, unit)` and `load_under`).
//
// With STRIPS a lane's rows share a head; what it is made of, `record_of(row, unit)`,
// is fetched a turn ahead, since the rows' places follow from it; not with I24,
// which was slower for it.
//
// The codec gives `Block`, `load(row, unit)` and `dot_block(block, x)`, and for units
// of 32 `bits(block)`: of several units under way nothing is used before all of it is
// there. Bits that are all zero mean products that are zero; asking for them keeps
// compilers from moving a load to its use, behind the wait for another.

//: use params
//: use input
//: use CODEC
//: use put
//: if JOINED
//: use part
//: end
//: if LISTED_ROWS|LISTED_UNITS
@group(0) @binding(7) var<storage, read> listed: array<u32>;
//: end

// Unit number `i` of those that are read.
fn unit_of(i: u32) -> u32 {
//: if LISTED_UNITS
  return min(listed[1u + i], p.units - 1u);
//: else
  return i;
//: end
}

const PARTIALS: u32 = 2u * WG;
//: use reduce

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
//: if SUBGROUP
  @builtin(subgroup_invocation_id) lane_in_subgroup: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_size) subgroup_size: u32,
//: end
  @builtin(local_invocation_index) index: u32,
) {
//: if SUBGROUP
  let at = Place(subgroup * subgroup_size + lane_in_subgroup, subgroup_size);
//: else
  let at = Place(index, 1u);
//: end
  let lane = at.index % LANES;
  let layer = group.z;
//: if JOINED
  let taken = take_part(group.x + group.y * groups.x);
  let number = taken.x;
  let output = taken.y;
//: else
  let number = group.x + group.y * groups.x;
  let output = p.first;
//: end
//: if EXPERTS
  let rows = p.expert_rows;
  let start = experts[layer] * rows;
//: else
  let rows = p.rows;
  let start = 0u;
//: end
  let x_first = layer / p.share * (p.x_stride / (4u * VECTORS));
  let y_first = layer * p.y_stride;
  let first = (number * (WG / LANES) + at.index / LANES) * ROWS;
//: if LISTED_UNITS
  let units = min(listed[0], p.units);
//: else
//: if LISTED_ROWS
  let taking = min(listed[0], rows);
  let units = select(0u, p.units, first < taking);
//: else
  let units = p.units;
//: end
//: end
//: each r ROWS
//: if LISTED_ROWS
  // Rows behind the active ones repeat one of them, which costs no bytes.
  let row$r = min(listed[1u + min(first + $ru, max(taking, 1u) - 1u)], rows - 1u);
//: else
  let row$r = start + min(first + $ru, rows - 1u);
//: end
  var sum$r = 0.0;
//: end
//: if STAGED
//: if ALONE
//: each r ROWS
  let v$r = load(row$r, min(lane, units - 1u));
//: end
//: end
  let factor = stage(index);
//: end
//: if ALONE
  if (lane < units) {
    let x = load_x(lane);
//: each r ROWS
    sum$r += dot_block(v$r, x);
//: end
  }
//: else
//: if NEIGHBOURS
  let runs = units / UNROLL;
  for (var run = lane; run < runs; run += LANES) {
    let at = run * UNROLL;
//: if HEADS
//: each r ROWS
    let head$r = head(row$r, at);
//: end
//: end
//: each k UNROLL
//: each r ROWS
//: if HEADS
    let w$k_$r = load_under(head$r, row$r, at, $ku);
//: else
    let w$k_$r = load(row$r, at + $ku);
//: end
//: end
//: end
//: each k UNROLL
    let x$k = load_x(x_first + at + $ku);
//: end
//: if BLOCKS
    var some = 0u;
//: each k UNROLL
    some |= x_bits(x$k);
//: each r ROWS
    some |= bits(w$k_$r);
//: end
//: end
    if (ROWS * UNROLL == 1u || some != 0u) {
//: each k UNROLL
//: each r ROWS
      sum$r += dot_block(w$k_$r, x$k);
//: end
//: end
    }
//: else
//: each k UNROLL
//: each r ROWS
    sum$r += dot_block(w$k_$r, x$k);
//: end
//: end
//: end
  }
  var i = runs * UNROLL + lane;
//: else
  var i = lane;
//: if STRIPS
//: if !I24
//: each k UNROLL
  var record$k = record_of(row0, min(unit_of(lane + $ku * LANES), p.units - 1u));
//: end
//: end
//: end
  for (; i + (UNROLL - 1u) * LANES < units; i += UNROLL * LANES) {
//: each k UNROLL
    let unit$k = unit_of(i + $ku * LANES);
//: if STRIPS
//: if I24
    let head$k = head(row0, unit$k);
//: else
    let head$k = head_of(row0, unit$k, record$k);
    record$k = record_of(row0, min(unit_of(i + ($ku + UNROLL) * LANES), p.units - 1u));
//: end
//: end
//: each r ROWS
//: if STRIPS
    let w$k_$r = load_under(head$k, row$r);
//: else
    let w$k_$r = load(row$r, unit$k);
//: end
//: end
//: end
//: each k UNROLL
    let x$k = load_x(x_first + unit$k);
//: end
//: if BLOCKS
    var some = 0u;
//: each k UNROLL
    some |= x_bits(x$k);
//: each r ROWS
    some |= bits(w$k_$r);
//: end
//: end
    if (ROWS * UNROLL == 1u || some != 0u) {
//: each k UNROLL
//: each r ROWS
      sum$r += dot_block(w$k_$r, x$k);
//: end
//: end
    }
//: else
//: each k UNROLL
//: each r ROWS
    sum$r += dot_block(w$k_$r, x$k);
//: end
//: end
//: end
  }
//: end
  for (; i < units; i += LANES) {
    let unit = unit_of(i);
//: if STRIPS
    let head = head(row0, unit);
//: end
//: each r ROWS
//: if STRIPS
    let v$r = load_under(head, row$r);
//: else
    let v$r = load(row$r, unit);
//: end
//: end
    let x = load_x(x_first + unit);
//: each r ROWS
    sum$r += dot_block(v$r, x);
//: end
  }
//: end
//: each r ROWS
//: if STAGED
  let total$r = reduce(sum$r, $ru, at) * factor;
//: else
  let total$r = reduce(sum$r, $ru, at);
//: end
  if (lane == $ru % LANES && first + $ru < rows) {
//: if LISTED_ROWS
    let out$r = min(listed[1u + first + $ru], rows - 1u);
    put(y_first + out$r, out$r, select(0.0, total$r, first + $ru < taking));
//: else
    put(y_first + output + first + $ru, output + first + $ru, total$r);
//: end
  }
//: end
}
