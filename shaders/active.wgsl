// Which items take part, from a mask over clusters of neurons: those in active
// clusters, in order, then the others. An item is a row (`width` 1) or a unit
// of `width` columns, active if any of its columns is.

struct Active { items: u32, width: u32, clusters: u32 }
var<immediate> p: Active;

// First neuron of each cluster, and how many neurons there are.
@group(0) @binding(0) var<storage, read> boundaries: array<u32>;
// Not 0 for active clusters.
@group(0) @binding(1) var<storage, read> mask: array<u32>;
// How many are active, then the items.
@group(0) @binding(2) var<storage, read_write> listed: array<u32>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let item = (group.x + group.y * groups.x) * WG + index;
  if (item >= p.items) { return; }
  // Active items below `covered`, all and those before this one.
  var total = 0u;
  var before = 0u;
  var covered = 0u;
  var inside = false;
  for (var c = 0u; c < p.clusters; c++) {
    if (mask[c] != 0u) {
      let end = min((boundaries[c + 1u] + p.width - 1u) / p.width, p.items);
      let start = min(max(boundaries[c] / p.width, covered), end);
      total += end - start;
      before += min(end, item) - min(start, item);
      inside = inside || (item >= start && item < end);
      covered = max(covered, end);
    }
  }
  listed[1u + select(total + item - before, before, inside)] = item;
  if (item == 0u) { listed[0] = total; }
}
