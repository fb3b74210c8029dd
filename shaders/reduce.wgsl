// Sums over groups of LANES neighbouring invocations; every lane of a group
// gets the sum.
//
//   SUBGROUP, SHUFFLE: LANES is at most the smallest subgroup: butterflies.
//   SUBGROUP:          LANES is a multiple of the largest subgroup: a sum per
//                      subgroup, then those of the group.
//   neither:           a tree in workgroup memory.
//
// The frame says how many PARTIALS there is room for, at least two of an invocation.
//
// OVER_TABLE: that memory is the codec's table `values`, of which it needs no more.

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
//: if OVER_TABLE
fn keep(i: u32, v: f32) { values[i] = bitcast<u32>(v); }
fn kept(i: u32) -> f32 { return bitcast<f32>(values[i]); }
//: else
var<workgroup> partial: array<f32, PARTIALS>;

fn keep(i: u32, v: f32) { partial[i] = v; }
fn kept(i: u32) -> f32 { return partial[i]; }
//: end

fn reduce(v: f32, slot: u32, at: Place) -> f32 {
//: if SUBGROUP
  let sum = subgroupAdd(v);
  let mine = at.index / at.subgroup;
  if (at.index % at.subgroup == 0u) {
    keep((slot & 1u) * WG + mine, sum);
  }
  workgroupBarrier();
  let count = LANES / at.subgroup;
  let first = mine / count * count;
  var total = 0.0;
  for (var i = 0u; i < count; i++) {
    total += kept((slot & 1u) * WG + first + i);
  }
  return total;
//: else
  let own = (slot & 1u) * WG + at.index;
  keep(own, v);
  workgroupBarrier();
  for (var step = LANES / 2u; step > 0u; step >>= 1u) {
    if (at.index % LANES < step) {
      keep(own, kept(own) + kept(own + step));
    }
    workgroupBarrier();
  }
  return kept((slot & 1u) * WG + at.index / LANES * LANES);
//: end
}
//: end
