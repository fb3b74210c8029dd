// The index of the largest number, the first of equals; NaN counts as impossible.
// It goes where the next token's embedding is looked up, and onto a list.
//
//   FIRST:   many workgroups, each finds the best of its share,
//   SECOND:  one workgroup, takes the best of those;
//   neither: one workgroup for all numbers.

struct Argmax { count: u32 }
var<immediate> p: Argmax;

//: if SECOND
@group(0) @binding(0) var<storage, read> candidates: array<vec2<u32>>;
//: else
@group(0) @binding(0) var<storage, read> x: array<f32>;
//: end
//: if FIRST
// The bits of a number, and its index.
@group(0) @binding(4) var<storage, read_write> found: array<vec2<u32>>;
//: else
@group(0) @binding(1) var<storage, read_write> ids: array<u32>;
@group(0) @binding(2) var<storage, read> state: array<u32>;
@group(0) @binding(3) var<storage, read_write> list: array<u32>;
//: end

var<workgroup> best: array<f32, WG>;
var<workgroup> place: array<u32, WG>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let first = group.x * WG + index;
  var most = -3.4028234e38;
  var at = 0xffffffffu;
  // Four are asked for before any is looked at.
  let step = WG * groups.x;
  for (var i = first; i < p.count; i += 4u * step) {
//: each k 4
//: if SECOND
    let found$k = candidates[min(i + $ku * step, p.count - 1u)];
    let value$k = bitcast<f32>(found$k.x);
    let number$k = found$k.y;
//: else
    let number$k = min(i + $ku * step, p.count - 1u);
    let value$k = x[number$k];
//: end
//: end
//: each k 4
    if (value$k > most || (value$k == most && number$k < at)) {
      most = value$k;
      at = number$k;
    }
//: end
  }
  best[index] = most;
  place[index] = at;
  workgroupBarrier();
  for (var step = WG / 2u; step > 0u; step >>= 1u) {
    if (index < step) {
      let other = best[index + step];
      if (other > best[index] || (other == best[index] && place[index + step] < place[index])) {
        best[index] = other;
        place[index] = place[index + step];
      }
    }
    workgroupBarrier();
  }
  if (index == 0u) {
//: if FIRST
    found[group.x] = vec2<u32>(bitcast<u32>(best[0]), place[0]);
//: else
    // Nothing possible: id 0.
    let winner = select(place[0], 0u, place[0] == 0xffffffffu);
    ids[0] = winner;
    list[state[1]] = winner;
//: end
  }
}
