// The index of the largest number, the first of equals: where the next token's
// embedding is looked up, and appended to a list. One workgroup.

struct Argmax { count: u32 }
var<immediate> p: Argmax;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> ids: array<u32>;
@group(0) @binding(2) var<storage, read> state: array<u32>;
@group(0) @binding(3) var<storage, read_write> list: array<u32>;

var<workgroup> best: array<f32, WG>;
var<workgroup> place: array<u32, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) index: u32) {
  var most = -3.4e38;
  var at = min(index, p.count - 1u);
  for (var i = index; i < p.count; i += WG) {
    if (x[i] > most) {
      most = x[i];
      at = i;
    }
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
    ids[0] = place[0];
    list[state[1]] = place[0];
  }
}
