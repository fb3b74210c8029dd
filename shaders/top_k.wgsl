// The KEPT largest numbers of each share of 2048, sorted, the lowest index first
// among equals; NaN counts as minus infinity, infinity as the largest number,
// and zeros by their signs. Shares of what was kept follow until one is left.
//
//   FIRST: of numbers; otherwise of pairs that an earlier dispatch has kept.

struct Top { count: u32 }
var<immediate> p: Top;

//: if FIRST
@group(0) @binding(0) var<storage, read> x: array<f32>;
//: else
@group(0) @binding(0) var<storage, read> pairs: array<vec2<u32>>;
//: end
// The bits of a number, and its index.
@group(0) @binding(1) var<storage, read_write> kept: array<vec2<u32>>;

const SHARE: u32 = 2048u;
// Numbers as whole ones of the same order, and what is left of all indices.
var<workgroup> keys: array<vec2<u32>, SHARE>;

// Whole numbers in the order of floats, and back.
fn ordered(bits: u32) -> u32 { return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u); }
fn unordered(key: u32) -> u32 { return select(~key, key & 0x7fffffffu, key >= 0x80000000u); }

fn before(a: vec2<u32>, b: vec2<u32>) -> bool { return a.x > b.x || (a.x == b.x && a.y > b.y); }

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  for (var i = index; i < SHARE; i += WG) {
    let at = group.x * SHARE + i;
    // Below minus infinity: no number.
    var key = vec2<u32>(0u);
    if (at < p.count) {
//: if FIRST
      var bits = bitcast<u32>(x[at]);
      if ((bits & 0x7fffffffu) > 0x7f800000u) { bits = 0xff800000u; }
      if (bits == 0x7f800000u) { bits = 0x7f7fffffu; }
      key = vec2<u32>(ordered(bits), ~at);
//: else
      key = vec2<u32>(ordered(pairs[at].x), ~pairs[at].y);
//: end
    }
    keys[i] = key;
  }
  workgroupBarrier();
  // A bitonic sort (Batcher 1968): runs of `run`, compared `apart`.
  for (var run = 2u; run <= SHARE; run *= 2u) {
    for (var apart = run / 2u; apart > 0u; apart /= 2u) {
      for (var i = index; i < SHARE / 2u; i += WG) {
        let a = 2u * i - (i & (apart - 1u));
        let b = a + apart;
        let first = keys[a];
        let second = keys[b];
        // Every second run the other way around, so that the next ones fit.
        let falls = (a & run) == 0u;
        if (before(second, first) == falls) {
          keys[a] = second;
          keys[b] = first;
        }
      }
      workgroupBarrier();
    }
  }
  for (var i = index; i < KEPT; i += WG) {
    let key = keys[i];
    kept[group.x * KEPT + i] = vec2<u32>(unordered(key.x), ~key.y);
  }
}
