// y = W x (+ bias) (+ y) for codecs whose rows are superblocks of 1024 columns,
// in which a lane's share is columns that lie apart: as `gemv`, but LANES =
// CLUSTER lanes take one superblock of each of ROWS rows at a time, and the whole
// workgroup that of the same columns, whose input it fetches into its memory.
//
// The codec gives `Share`, `load_share(row, s, lane)`, and of its eight slices
// `slice_at(share, lane, s)`, the quad of the superblock where their input
// begins, `load_slice(stage, at)` and `dot_sliceN(share, slice)`; last,
// `dot_rest(share, lane, stage)`. `live(share, lane)` says whether the lane has
// a share in a row's last superblock.

//: use params
//: use staged
//: use CODEC
@group(0) @binding(4) var<storage, read> xv: array<vec4<f32>>;
//: use put
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
//: if EXPERTS
  let rows = p.expert_rows;
  let start = experts[layer] * rows;
//: else
  let rows = p.rows;
  let start = 0u;
//: end
  let x_first = layer / p.share * (p.x_stride / 4u);
  let y_first = layer * p.y_stride;
  let first = ((group.x + group.y * groups.x) * (WG / LANES) + at.index / LANES) * ROWS;
//: each r ROWS
  let row$r = start + min(first + $ru, rows - 1u);
  var sum$r = 0.0;
//: end
  let superblocks = (p.units + CLUSTER - 1u) / CLUSTER;
  // With the input's padding, for rows have weights there.
  let quads = (p.cols + 31u) / 32u * 8u;
  for (var s = 0u; s < superblocks; s++) {
//: each r ROWS
    let w$r = load_share(row$r, s, lane);
//: end
    // In turns, so that one barrier keeps writing from reading.
    let stage = (s & 1u) * 256u;
    for (var i = index; i < min(quads - s * 256u, 256u); i += WG) {
      staged[stage + swizzled(i)] = xv[x_first + s * 256u + i];
    }
    workgroupBarrier();
    if (live(w0, lane)) {
//: each k 8
      let x$k = load_slice(stage, slice_at(w0, lane, $ku));
//: each r ROWS
      sum$r += dot_slice$k(w$r, x$k);
//: end
//: end
//: each r ROWS
      sum$r += dot_rest(w$r, lane, stage);
//: end
    }
  }
//: each r ROWS
  let total$r = reduce(sum$r, $ru, at);
  if (lane == $ru % LANES && first + $ru < rows) {
    put(y_first + p.first + first + $ru, p.first + first + $ru, total$r);
  }
//: end
}
