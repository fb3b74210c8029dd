// y = W x (+ bias) (+ y): the product of a stored matrix with a vector, or with
// one for each layer of the grid. With EXPERTS the matrix is many stacked ones
// of `expert_rows` rows, of which every layer takes the one that is listed. With
// JOINED there are PARTS matrices with one input, each with workgroups of its own.
//
// WG invocations form groups of LANES, each with ROWS rows. The lanes of a
// group stride through the row's units of UNIT columns; a unit's input is read
// once for all ROWS rows, and UNROLL units are under way at a time.
//
// The codec gives `Block`, `load(row, unit)` and `dot_block(block, x)`.

//: use params
//: use input
//: use CODEC
@group(0) @binding(6) var<storage, read_write> y: array<f32>;
//: if EXPERTS
@group(0) @binding(7) var<storage, read> experts: array<u32>;
//: end
//: if BIAS
@group(0) @binding(7) var<storage, read> bias: array<f32>;
//: end
//: if JOINED
// A matrix of several: its workgroups and rows, and where its outputs and biases
// begin.
struct Part { workgroups: u32, rows: u32, y: u32, base: vec4<u32>, extra: vec4<u32> }
@group(0) @binding(8) var<storage, read> parts: array<Part, PARTS>;
//: end

// What becomes of the sum of output `row`, to be written at `at`.
fn put(at: u32, row: u32, sum: f32) {
  var value = sum;
//: if BIAS
  value += bias[row];
//: end
//: if ACCUMULATE
  value += y[at];
//: end
  y[at] = value;
}

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
  var number = group.x + group.y * groups.x;
  var part = parts[0];
//: each i PARTS
  if ($iu + 1u < PARTS && number >= part.workgroups) {
    number -= part.workgroups;
    part = parts[min($iu + 1u, PARTS - 1u)];
  }
//: end
  p = told;
  p.rows = part.rows;
  p.base = part.base;
  p.extra = part.extra;
  let output = part.y;
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
//: each r ROWS
  let row$r = start + min(first + $ru, rows - 1u);
  var sum$r = 0.0;
//: end
  var unit = lane;
  for (; unit + (UNROLL - 1u) * LANES < p.units; unit += UNROLL * LANES) {
//: each k UNROLL
//: each r ROWS
    let w$k_$r = load(row$r, unit + $ku * LANES);
//: end
//: end
//: each k UNROLL
    let x$k = load_x(x_first + unit + $ku * LANES);
//: each r ROWS
    sum$r += dot_block(w$k_$r, x$k);
//: end
//: end
  }
  for (; unit < p.units; unit += LANES) {
//: each r ROWS
    let v$r = load(row$r, unit);
//: end
    let x = load_x(x_first + unit);
//: each r ROWS
    sum$r += dot_block(v$r, x);
//: end
  }
//: each r ROWS
  let total$r = reduce(sum$r, $ru, at);
  if (lane == $ru % LANES && first + $ru < rows) {
    put(y_first + output + first + $ru, output + first + $ru, total$r);
  }
//: end
}
