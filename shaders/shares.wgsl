// y = W x (+ bias) (+ y) for TCA-TBE, whose rows are superblocks of 1024 columns:
// 32 lanes take a superblock of each of ROWS rows at a time, the LANES of a row
// several superblocks.

//: use params
@group(0) @binding(4) var<storage, read> xv: array<vec4<f32>>;
//: use CODEC
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
  meet(at.index);
  let lane = at.index % 32u;
  let split = at.index % LANES / 32u;
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
  var sum$r = vec4<f32>(0.0);
//: end
  let m = masks();
  const SPLITS: u32 = LANES / 32u;
  let superblocks = (p.cols + 1023u) / 1024u;
  let last = superblocks - 1u;
  let turns = (superblocks + SPLITS - 1u) / SPLITS;
  for (var chunk = 0u; chunk < turns; chunk += 32u) {
    let end = min(chunk + 32u, turns);
//: each r ROWS
    let heads$r = heads(row$r, min((chunk + lane) * SPLITS + split, last));
    var raw$r = fetch(row$r, min(chunk * SPLITS + split, last), lane, heads$r, 0u);
//: end
    for (var t = chunk; t < end; t++) {
      let s = min(t * SPLITS + split, last);
      let x = x_first + s * 256u;
      let width = superblock(0u, s).width;
      let live = lane < width && t * SPLITS + split < superblocks;
      // The next turn's, to have the memory at work in this one.
      let later = min(t + 1u, end - 1u);
//: each r ROWS
      let next$r = fetch(row$r, min(later * SPLITS + split, last), lane, heads$r, later - chunk);
//: end
//: each r ROWS
      let open$r = open_of(raw$r, lane, live);
      var waiting$r = select(0u, open$r.bits, open$r.near);
      var nibbles$r = open$r.nibbles;
      var a$r = 0u;
      var b$r = 0u;
      var c$r = 0u;
      var h$r = 0u;
//: end
      // Of all rows at once: each is a chain of operations that wait for each other.
      loop {
        var any = 0u;
//: each r ROWS
        any |= waiting$r;
//: end
        if (any == 0u) { break; }
//: each r ROWS
        let bit$r = waiting$r & (~waiting$r + 1u);
        waiting$r ^= bit$r;
        a$r |= select(0u, bit$r, (nibbles$r & 1u) != 0u);
        b$r |= select(0u, bit$r, (nibbles$r & 2u) != 0u);
        c$r |= select(0u, bit$r, (nibbles$r & 4u) != 0u);
        h$r |= select(0u, bit$r, (nibbles$r & 8u) != 0u);
        nibbles$r >>= 4u;
//: end
      }
//: each r ROWS
      if (others(open$r) != 0u) { sum$r.x += rest_of(raw$r, open$r, lane, width, x); }
      let w$r = share_of(raw$r, open$r, a$r, b$r, c$r, h$r);
//: end
      if (live) {
//: each k 4
        let x$k = xv[x + lane + $ku * width];
//: each r ROWS
        sum$r = add4(m, sum$r, raw$r.signs$k, w$r.codes$k, w$r.offset, x$k);
//: end
//: end
        let x4 = xv[x + lane + 4u * width];
//: each r ROWS
        sum$r = add4(m, sum$r, raw$r.signs4, w$r.codes0 >> 4u, w$r.offset, x4);
//: end
        let x5 = xv[x + lane + 5u * width];
//: each r ROWS
        sum$r = add4(m, sum$r, raw$r.signs5, w$r.codes1 >> 4u, w$r.offset, x5);
//: end
        let x6 = xv[x + lane + 6u * width];
//: each r ROWS
        sum$r = add4(m, sum$r, raw$r.signs6, w$r.codes2 >> 4u, w$r.offset, x6);
//: end
        let x7 = xv[x + lane + 7u * width];
//: each r ROWS
        sum$r = add4(m, sum$r, raw$r.signs7, w$r.codes3 >> 4u, w$r.offset, x7);
//: end
      }
//: each r ROWS
      raw$r = next$r;
//: end
    }
  }
//: each r ROWS
  let total$r = reduce((sum$r.x + sum$r.y) + (sum$r.z + sum$r.w), $ru, at);
  if (at.index % LANES == $ru % LANES && first + $ru < rows) {
    put(y_first + p.first + first + $ru, p.first + first + $ru, total$r);
  }
//: end
}
