// y = W x (+ bias) (+ y) for codecs that store HEIGHT rows together, in strips:
// as `gemv`, but a group of LANES shares the rows of a strip, and a lane adds
// what a unit gives to all of them.
//
// The codec gives `begin(index)`, which every invocation of the workgroup calls
// first, `add(strip, unit, x_first, index, &sums)`, which adds to HEIGHT sums what the
// strip's columns of `unit` give with the input that begins at float `x_first`,
// and `finish(row, sum)`, which makes a row's output of its sum. With OFTEN it also
// gives `add_often`, which does the same as `add` or returns false.

//: use params
//: use CODEC
//: use put
// Subgroups have at least four invocations.
const PARTIALS: u32 = (2u + HEIGHT / 4u) * WG;
//: use reduce

// Where outputs go: the matrix's row `start`, of `rows` that are wanted, to `y`.
struct Rows { y: u32, first: u32, start: u32, rows: u32 }

fn give(out: Rows, row: u32, sum: f32) {
  let i = row - out.start;
  if (row >= out.start && i < out.rows) { put(out.y + i, out.first + i, finish(row, sum)); }
}

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
  begin(index);
//: if SUBGROUP
  let at = Place(subgroup * subgroup_size + lane_in_subgroup, subgroup_size);
//: else
  let at = Place(index, 1u);
//: end
  let lane = at.index % LANES;
  let layer = group.z;
//: if EXPERTS
  let rows = p.expert_rows;
  let start = experts[layer] * rows;
//: else
  let rows = p.rows;
  let start = 0u;
//: end
  let x_first = layer / p.share * p.x_stride;
  let y_first = layer * p.y_stride;
  // An expert may begin and end within a strip.
  let last = (start + rows - 1u) / HEIGHT;
  let wanted = start / HEIGHT + (group.x + group.y * groups.x) * (WG / LANES) + at.index / LANES;
  let strip = min(wanted, last);
  var sums: array<f32, HEIGHT>;
//: each r HEIGHT
  sums[$r] = 0.0;
//: end
//: if OFTEN
  // At most 32 units of a lane at a time: first those of the kind that is quick,
  // then the others, so that neighbouring lanes wait for each other but once.
  for (var first = lane; first < p.units; first += 32u * LANES) {
    let count = min((p.units - first + LANES - 1u) / LANES, 32u);
    var rest = 0u;
    for (var i = 0u; i < count; i++) {
      if (!add_often(strip, first + i * LANES, x_first, index, &sums)) { rest |= 1u << i; }
    }
    for (var left = countOneBits(rest); left > 0u; left--) {
      add(strip, first + firstTrailingBit(rest) * LANES, x_first, index, &sums);
      rest &= rest - 1u;
    }
  }
//: else
  for (var unit = lane; unit < p.units; unit += LANES) {
    add(strip, unit, x_first, index, &sums);
  }
//: end
//: if OVER_TABLE
  // Nothing is looked up any more.
  workgroupBarrier();
//: end
  let out = Rows(y_first + p.first, p.first, start, select(0u, rows, wanted <= last));
//: if SHUFFLE
//: each r HEIGHT
  let total$r = reduce(sums[$r], $ru, at);
  if (lane == $ru % LANES) { give(out, strip * HEIGHT + $ru, total$r); }
//: end
//: else
//: if SUBGROUP
  // The subgroups' sums of all rows, one barrier, then a lane for each row.
//: each r HEIGHT
  let sum$r = subgroupAdd(sums[$r]);
//: end
  let subgroups = WG / subgroup_size;
  let mine = at.index / subgroup_size;
  if (lane_in_subgroup == 0u) {
//: each r HEIGHT
    keep($ru * subgroups + mine, sum$r);
//: end
  }
  workgroupBarrier();
  let count = LANES / subgroup_size;
  for (var r = lane; r < HEIGHT; r += LANES) {
    let begin = r * subgroups + mine / count * count;
    var total = 0.0;
    for (var i = 0u; i < count; i++) { total += kept(begin + i); }
    give(out, strip * HEIGHT + r, total);
  }
//: else
//: each r HEIGHT
  let total$r = reduce(sums[$r], $ru, at);
  if (lane == $ru % LANES) { give(out, strip * HEIGHT + $ru, total$r); }
//: end
//: end
//: end
}
