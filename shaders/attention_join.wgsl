// Brings together what the shares of a head's positions came to (attention.wgsl,
// SPLIT), a workgroup to a head.
//
//   EMIT: the result's coded form and sums, too; heads are whole blocks of 32.

struct Join { shares: u32, dim: u32 }
var<immediate> p: Join;

// Of a head's every share QUADS vectors and the largest score and the total.
@group(0) @binding(0) var<storage, read> shares: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
//: if EMIT
//: use emit
//: end

const PARTS: u32 = WG / QUADS;

var<workgroup> sums: array<vec4<f32>, WG>;
// Largest score and total of a part.
var<workgroup> peaks: array<vec2<f32>, PARTS>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
  let first = group.x * p.shares;
  let part = index / QUADS;
  let quad = index % QUADS;
  // Every PARTS-th share, under their largest score.
  var most = -3.0e38;
  var total = 0.0;
  var sum = vec4<f32>(0.0);
  for (var i = part; i < p.shares; i += PARTS) {
    let row = (first + i) * (QUADS + 1u);
    let peak = shares[row + QUADS];
    let share = shares[row + quad];
    let highest = max(most, peak.x);
    let shrink = exp(most - highest);
    let weight = exp(peak.x - highest);
    total = total * shrink + weight * peak.y;
    sum = sum * shrink + weight * share;
    most = highest;
  }
  sums[index] = sum;
  if (part < PARTS && quad == 0u) { peaks[part] = vec2<f32>(most, total); }
  workgroupBarrier();
  let inside = index < QUADS;
  var all = vec4<f32>(0.0);
  if (inside) {
    var highest = peaks[0].x;
    for (var i = 1u; i < PARTS; i++) { highest = max(highest, peaks[i].x); }
    total = 0.0;
    for (var i = 0u; i < PARTS; i++) {
      let weight = exp(peaks[i].x - highest);
      total += weight * peaks[i].y;
      all += weight * sums[i * QUADS + index];
    }
    all /= total;
    let to = group.x * p.dim + 4u * index;
//: each c 4
    if (4u * index + $cu < p.dim) { out[to + $cu] = all[$c]; }
//: end
  }
//: if EMIT
  emit(index, group.x * p.dim / 4u + index, inside, all);
//: end
}
