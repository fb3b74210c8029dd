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

//: if OFTEN
const TURNS: u32 = 16u;
// How many units each lane has left for later, and which.
var<workgroup> rests: array<u32, WG>;
var<workgroup> queue: array<u32, TURNS * WG>;
//: end

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
  // TURNS units of a lane at a time: first those of the kind that is quick, then
  // the others, dealt out evenly in an order that is always the same.
  let group_first = at.index - lane;
  for (var base = 0u; base < p.units; base += TURNS * LANES) {
    var rest = 0u;
    for (var i = 0u; i < TURNS; i++) {
      let unit = base + i * LANES + lane;
      if (unit < p.units && !add_often(strip, unit, x_first, index, &sums)) { rest |= 1u << i; }
    }
    let own = countOneBits(rest);
    rests[at.index] = own;
    workgroupBarrier();
    var before = 0u;
    var all = 0u;
    for (var i = 0u; i < LANES; i++) {
      let n = rests[group_first + i];
      before += select(0u, n, i < lane);
      all += n;
    }
    for (var i = 0u; i < own; i++) {
      queue[group_first * TURNS + before + i] = base + firstTrailingBit(rest) * LANES + lane;
      rest &= rest - 1u;
    }
    workgroupBarrier();
    for (var i = lane; i < all; i += LANES) {
      add(strip, queue[group_first * TURNS + i], x_first, index, &sums);
    }
    workgroupBarrier();
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
