// Sums over groups of LANES neighbouring invocations; every lane of a group
// gets the sum.
//
//   SUBGROUP, SHUFFLE: LANES is at most the smallest subgroup: butterflies.
//   SUBGROUP:          LANES is a multiple of the largest subgroup: a sum per
//                      subgroup, then those of the group.
//   neither:           a tree in workgroup memory.

// Number of an invocation, subgroup after subgroup, and the size of a subgroup.
struct Place { index: u32, subgroup: u32 }

//: if SHUFFLE
fn reduce(v: f32, slot: u32, at: Place) -> f32 {
  var sum = v;
  for (var step = 1u; step < LANES; step <<= 1u) {
    sum += subgroupShuffleXor(sum, step);
  }
  return sum;
}
//: else
// Two slots, in turns: with one barrier between writing and reading a slot, a
// slot is written again only after another barrier has passed.
var<workgroup> partial: array<array<f32, WG>, 2>;

fn reduce(v: f32, slot: u32, at: Place) -> f32 {
//: if SUBGROUP
  let sum = subgroupAdd(v);
  let mine = at.index / at.subgroup;
  if (at.index % at.subgroup == 0u) {
    partial[slot & 1u][mine] = sum;
  }
  workgroupBarrier();
  let count = LANES / at.subgroup;
  let first = mine / count * count;
  var total = 0.0;
  for (var i = 0u; i < count; i++) {
    total += partial[slot & 1u][first + i];
  }
  return total;
//: else
  partial[slot & 1u][at.index] = v;
  workgroupBarrier();
  for (var step = LANES / 2u; step > 0u; step >>= 1u) {
    if (at.index % LANES < step) {
      partial[slot & 1u][at.index] += partial[slot & 1u][at.index + step];
    }
    workgroupBarrier();
  }
  return partial[slot & 1u][at.index / LANES * LANES];
//: end
}
//: end
