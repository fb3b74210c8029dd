// y = W x (+ bias) (+ y) for codecs that store HEIGHT rows together, in strips:
// as `gemv`, but a group of LANES shares the rows of a strip, and a lane adds
// what a unit gives to all of them.
//
// The codec gives `begin(index)`, which every invocation of the workgroup calls
// first, `add(strip, unit, x_first, index, &sums)`, which adds to HEIGHT sums what the
// strip's columns of `unit` give with the input that begins at float `x_first`,
// and `finish(row, sum)`, which makes a row's output of its sum.

//: use params
//: use CODEC
//: use put
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
  for (var unit = lane; unit < p.units; unit += LANES) {
    add(strip, unit, x_first, index, &sums);
  }
//: each r HEIGHT
  {
    let total = reduce(sums[$r], $ru, at);
    let row = strip * HEIGHT + $ru;
    if (lane == $ru % LANES && wanted <= last && row >= start && row - start < rows) {
      put(y_first + p.first + row - start, p.first + row - start, finish(row, total));
    }
  }
//: end
}
