// y = W x (+ bias) (+ y) for TCA-TBE, whose rows are superblocks of 1024 columns:
// CLUSTER lanes take a superblock of each of ROWS rows at a time, the LANES of a row
// several superblocks; then the LANES take what is listed of the row's escapes.
//
// STAGED, JOINED: as in gemv.wgsl.

//: use params
//: if STAGED
//: use stage

// Quad `i` of the input, and a number of it, whose column a buffer tells.
fn input(i: u32) -> vec4<f32> { return made[(i & 1u) * SPAN + (i >> 1u)]; }
fn input_of(column: u32) -> f32 {
  return made[((column >> 2u) & 1u) * SPAN + min(column >> 3u, SPAN - 1u)][column & 3u];
}
//: else
@group(0) @binding(4) var<storage, read> xv: array<vec4<f32>>;

// Quad `i` of the inputs, and a number of theirs.
fn input(i: u32) -> vec4<f32> { return xv[i]; }
fn input_of(column: u32) -> f32 { return xv[column >> 2u][column & 3u]; }
//: end
//: use CODEC
//: use put
//: if JOINED
//: use part
//: end
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
  let lane = at.index % CLUSTER;
  let split = at.index % LANES / CLUSTER;
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
  let x_first = layer / p.share * (p.x_stride / 4u);
  let y_first = layer * p.y_stride;
  let first = (number * (WG / LANES) + at.index / LANES) * ROWS;
//: each r ROWS
  let row$r = start + min(first + $ru, rows - 1u);
  var sum$r = 0.0;
//: end
//: if STAGED
  let factor = stage(index);
//: end
  let m = masks();
  const SPLITS: u32 = LANES / CLUSTER;
  let superblocks = (p.cols + 1023u) / 1024u;
  for (var chunk = 0u; chunk < superblocks; chunk += HELD) {
    let end = min(chunk + HELD, superblocks);
    let x_chunk = x_first + chunk * 256u;
//: each r ROWS
    let held$r = hold(row$r, min(chunk + lane, end - 1u));
    let run$r = run(row$r, chunk);
//: end
    for (var turn = chunk; turn < end; turn += SPLITS) {
      let s = min(turn + split, end - 1u);
      let width = superblock(0u, s).width;
      let live = lane * STEP < width && turn + split < end;
//: each r ROWS
      let share$r = fetch(row$r, s, lane);
      let scale$r = scale_of(held$r, row$r, s, at.index);
//: end
      // One row has few loads: none of it is used before all is there, else compilers move
      // loads behind the waits for others. `none` is 0, which they do not know.
      if (ROWS > 1u || (share_bits(share0) & m.none) == 0u) {
//: each r ROWS
        let codes$r = codes(share$r);
        var part$r = vec4<f32>(0.0);
//: end
        let quads = width * WORDS;
        let x = x_first + s * 256u + min(lane * 2u, quads - 1u);
//: each k 8
        let x$k_0 = input(x + $ku * quads);
        let x$k_1 = second(input(x + $ku * quads + 1u), lane, quads);
//: each r ROWS
        let low$k_$r = share$r.low << Pair(7u - $ku);
        let upper$k_$r = upper(codes$r, $ku);
        part$r = add4(m, part$r, share$r.signs$k.x, low$k_$r.x, upper$k_$r.x, x$k_0);
        part$r = add4(m, part$r, share$r.signs$k.y, low$k_$r.y, upper$k_$r.y, x$k_1);
//: end
//: end
//: each r ROWS
        sum$r += select(0.0, ((part$r.x + part$r.y) + (part$r.z + part$r.w)) * scale$r, live && scale$r > 0.0);
//: end
      }
    }
    // Escapes, four a lane.
//: each r ROWS
    for (var i = at.index % LANES; i < run$r.count; i += LANES) {
      sum$r += added(escapes[run$r.first + i], x_chunk);
    }
//: end
  }
//: each r ROWS
//: if STAGED
  let total$r = reduce(sum$r, $ru, at) * factor;
//: else
  let total$r = reduce(sum$r, $ru, at);
//: end
  if (at.index % LANES == $ru % LANES && first + $ru < rows) {
    put(y_first + output + first + $ru, output + first + $ru, total$r);
  }
//: end
}
