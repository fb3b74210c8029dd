// The best `picks` of EXPERTS experts of a token by softmax of their scores, the
// first of equals, and their weights: probabilities, over their sum with
// NORMALIZE, times `scale`. A workgroup to a token.

struct Route { stride: u32, picks: u32, scale: f32 }
var<immediate> p: Route;

@group(0) @binding(0) var<storage, read> scores: array<f32>;
@group(0) @binding(1) var<storage, read_write> chosen: array<u32>;
@group(0) @binding(2) var<storage, read_write> weights: array<f32>;
//: use total

var<workgroup> chances: array<f32, EXPERTS>;
var<workgroup> best: array<f32, WG>;
var<workgroup> place: array<u32, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
  let token = group.x;
  var most = -3.0e38;
  for (var i = index; i < EXPERTS; i += WG) { most = max(most, scores[token * p.stride + i]); }
  let highest = workgroup_max(most, index);
  var sum = 0.0;
  for (var i = index; i < EXPERTS; i += WG) {
    let chance = exp(scores[token * p.stride + i] - highest);
    chances[i] = chance;
    sum += chance;
  }
  let all = workgroup_sum(sum, index);
  var taken = 0.0;
  for (var pick = 0u; pick < p.picks; pick++) {
    best[index] = -1.0;
    place[index] = EXPERTS;
    for (var i = index; i < EXPERTS; i += WG) {
      if (chances[i] > best[index]) {
        best[index] = chances[i];
        place[index] = i;
      }
    }
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
    let winner = min(place[0], EXPERTS - 1u);
    let chance = best[0] / all;
    taken += chance;
    workgroupBarrier();
    if (index == 0u) {
      chosen[token * p.picks + pick] = winner;
      weights[token * p.picks + pick] = chance;
      chances[winner] = -2.0;
    }
    workgroupBarrier();
  }
//: if NORMALIZE
  let factor = p.scale / taken;
//: else
  let factor = p.scale;
//: end
  if (index == 0u) {
    for (var pick = 0u; pick < p.picks; pick++) { weights[token * p.picks + pick] *= factor; }
  }
}
