// y = W x (+ bias) (+ y) for codecs that store HEIGHT rows together, in strips:
// as `gemv`, but a group of LANES shares the rows of a strip, and a lane adds
// what a unit gives to all of them. With JOINED there are PARTS matrices with one
// input, each with workgroups of its own.
//
// The codec gives `begin(index)`, which every invocation of the workgroup calls
// first, `add(strip, unit, x_first, at.index, &sums)`, which adds to HEIGHT sums what the
// strip's columns of `unit` give with the input that begins at float `x_first`,
// and `finish(row, sum)`, which makes a row's output of its sum. With OFTEN it also
// gives `add_often`, which does the same as `add` or returns false.

//: use params
//: use CODEC
//: use put
//: if JOINED
//: use part
//: end
//
// FOLD: subgroups have SIZE invocations, and strips sixteen rows.
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
//: if SUBGROUP
  let at = Place(subgroup * subgroup_size + lane_in_subgroup, subgroup_size);
//: else
  let at = Place(index, 1u);
//: end
  begin(at.index);
  let lane = at.index % LANES;
//: if JOINED
  let taken = take_part(group.x + group.y * groups.x);
  let number = taken.x;
  let output = taken.y;
//: else
  let number = group.x + group.y * groups.x;
  let output = p.first;
//: end
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
  let wanted = start / HEIGHT + number * (WG / LANES) + at.index / LANES;
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
      if (!add_often(strip, first + i * LANES, x_first, at.index, &sums)) { rest |= 1u << i; }
    }
    for (var left = countOneBits(rest); left > 0u; left--) {
      add(strip, first + firstTrailingBit(rest) * LANES, x_first, at.index, &sums);
      rest &= rest - 1u;
    }
  }
//: else
  for (var unit = lane; unit < p.units; unit += LANES) {
    add(strip, unit, x_first, at.index, &sums);
  }
//: end
//: if OVER_TABLE
  // Nothing is looked up any more.
  workgroupBarrier();
//: end
  let out = Rows(y_first + output, output, start, select(0u, rows, wanted <= last));
//: if SHUFFLE
//: each r HEIGHT
  let total$r = reduce(sums[$r], $ru, at);
  if (lane == $ru % LANES) { give(out, strip * HEIGHT + $ru, total$r); }
//: end
//: else
//: if SUBGROUP
  // The subgroups' sums of all rows, one barrier, then a lane for each row.
  let subgroups = WG / subgroup_size;
  let mine = at.index / subgroup_size;
//: if FOLD
  // Half of a subgroup takes over half of the rows from the other half, and so on:
  // sixteen exchanges instead of five for each row.
//: each s 4
  if (SIZE >> ($su + 1u) > 0u) {
    let upper = (lane_in_subgroup & (SIZE >> ($su + 1u))) != 0u;
//: each i 8
    if ($iu < 8u >> $su) {
      let other = select(sums[$iu + (8u >> $su)], sums[$i], upper);
      sums[$i] = select(sums[$i], sums[$iu + (8u >> $su)], upper) + subgroupShuffleXor(other, SIZE >> ($su + 1u));
    }
//: end
  }
//: end
//: each s 3
  if (SIZE >> ($su + 5u) > 0u) { sums[0] += subgroupShuffleXor(sums[0], SIZE >> ($su + 5u)); }
//: end
  if (lane_in_subgroup % max(SIZE / 16u, 1u) == 0u) {
//: each i 4
    if ($iu < max(16u / SIZE, 1u)) { keep((lane_in_subgroup * 16u / SIZE + $iu) * subgroups + mine, sums[$i]); }
//: end
  }
//: else
//: each r HEIGHT
  let sum$r = subgroupAdd(sums[$r]);
//: end
  if (lane_in_subgroup == 0u) {
//: each r HEIGHT
    keep($ru * subgroups + mine, sum$r);
//: end
  }
//: end
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
