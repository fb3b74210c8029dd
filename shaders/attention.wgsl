// Attention of HEADS query heads of one position that share a key head, a
// workgroup each: causal, with an optional sliding window and soft cap. Cached
// positions are taken TILE at a time (FlashAttention, arXiv 2205.14135). LANES
// invocations share the products with a key, so that all keys and values of a
// tile are under way at once; every invocation then sums one vector of four of
// the values of every PARTS-th position under a maximum of its own, and the parts
// are brought together once, at the end (Flash-Decoding).
//
//   OWN:     the position's queries, key and value come as the products left
//            them: the heads' norm (QK_NORM), the rotary embedding (ROPE, as in
//            rope.wgsl) and the cache's update happen here. One position only.
//   SPLIT:   each layer of the grid takes a share of the positions, and leaves
//            what attention_join.wgsl brings together.
//   WHOLE:   heads are whole vectors of four.
//   SHUFFLE: LANES is at most the smallest subgroup.
//   EMIT:    the result's coded form and sums, too; heads are whole blocks of 32.

struct Attention {
  // Query heads to a key head, values of a head, positions of the cache, values
  // from position to position, of queries and of results.
  share: u32, dim: u32, capacity: u32, stride: u32,
  // 0: everything before is seen.
  window: u32,
  scale: f32, cap: f32,
//: if OWN
  // Where keys, values and the angles begin, rotated pairs of a head.
  k_first: u32, v_first: u32, angles: u32, pairs: u32,
  eps: f32,
//: end
}
var<immediate> p: Attention;

//: if WHOLE
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
fn fetch(first: u32, quad: u32) -> vec4<f32> { return q[first / 4u + quad]; }
//: else
@group(0) @binding(0) var<storage, read> q: array<f32>;
fn fetch(first: u32, quad: u32) -> vec4<f32> {
  var v = vec4<f32>(0.0);
//: each c 4
  if (4u * quad + $cu < p.dim) { v[$c] = q[first + 4u * quad + $cu]; }
//: end
  return v;
}
//: end
//: if KV_HALVES
alias Stored = vec2<u32>;
fn widen(v: Stored) -> vec4<f32> { return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)); }
fn narrow(v: vec4<f32>) -> Stored {
  let limited = clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0));
  return Stored(pack2x16float(limited.xy), pack2x16float(limited.zw));
}
//: else
alias Stored = vec4<f32>;
fn widen(v: Stored) -> vec4<f32> { return v; }
fn narrow(v: vec4<f32>) -> Stored { return v; }
//: end
//: if OWN
@group(0) @binding(1) var<storage, read_write> keys: array<Stored>;
@group(0) @binding(2) var<storage, read_write> values: array<Stored>;
//: else
@group(0) @binding(1) var<storage, read> keys: array<Stored>;
@group(0) @binding(2) var<storage, read> values: array<Stored>;
//: end
// Positions before these; with OWN from `angles` on cosines and sines.
@group(0) @binding(3) var<storage, read> state: array<u32>;
//: if SPLIT
// Of a head's every share QUADS vectors and the largest score and the total.
@group(0) @binding(6) var<storage, read_write> shares: array<vec4<f32>>;
//: else
//: if WHOLE
@group(0) @binding(6) var<storage, read_write> out: array<vec4<f32>>;
//: else
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
//: end
//: if EMIT
//: use emit
//: end
//: end
//: if QK_NORM
// Of queries, then of keys.
@group(0) @binding(7) var<storage, read> gains: array<f32>;
//: end

const LOWEST: f32 = -3.0e38;
// Positions whose keys are fetched at a time, and that come before the next barrier.
const STEP: u32 = WG / LANES;
const TILE: u32 = STEP * UNROLL;
const PARTS: u32 = WG / QUADS;
//: if SHUFFLE
const PIECES: u32 = 1u;
//: else
const PIECES: u32 = LANES;
//: end

// A tile's scores, each in PIECES.
var<workgroup> scores: array<f32, HEADS * TILE * PIECES>;
var<workgroup> sums: array<vec4<f32>, WG>;
// Largest score and total of a part.
var<workgroup> peaks: array<vec2<f32>, PARTS>;

fn capped(score: f32) -> f32 {
//: if CAP
  return p.cap * tanh(clamp(score / p.cap, -15.0, 15.0));
//: else
  return score;
//: end
}

fn score_at(i: u32) -> f32 {
  var score = scores[i * PIECES];
  for (var piece = 1u; piece < PIECES; piece++) { score += scores[i * PIECES + piece]; }
  return capped(score);
}

//: if OWN
// The heads' queries times the scale, then the key as the cache keeps it.
var<workgroup> fresh: array<vec4<f32>, (HEADS + 1u) * QUADS>;
// The same before the rotation, and squares of its vectors; then the products
// of queries and key.
var<workgroup> plain: array<f32, (HEADS + 1u) * QUADS * 4u>;
var<workgroup> products: array<f32, (HEADS + 1u) * QUADS>;

// Fills `fresh` and `products` from vector `quad` of row `part`.
fn freshen(index: u32, part: u32, quad: u32, vector: vec4<f32>) {
  let inside = part <= HEADS;
  let of_key = part == HEADS;
  var v = vector;
//: if ROPE
  var turn = array<vec2<f32>, 4>();
  var partner = vec4<u32>(0u);
  if (inside) {
//: each c 4
    let i$c = 4u * quad + $cu;
    partner[$c] = i$c;
    turn[$c] = vec2<f32>(1.0, 0.0);
    if (i$c < 2u * p.pairs) {
      let second = i$c >= p.pairs;
      let pair = select(i$c, i$c - p.pairs, second);
      partner[$c] = select(i$c + p.pairs, pair, second);
      let sine = bitcast<f32>(state[p.angles + 2u * pair + 1u]);
      turn[$c] = vec2<f32>(bitcast<f32>(state[p.angles + 2u * pair]), select(-sine, sine, second));
    }
//: end
  }
//: end
//: if QK_NORM
  var gain = vec4<f32>(0.0);
  if (inside) {
    products[index] = dot(v, v);
//: each c 4
    if (4u * quad + $cu < p.dim) { gain[$c] = gains[select(0u, p.dim, of_key) + 4u * quad + $cu]; }
//: end
  }
  workgroupBarrier();
  if (inside) {
    var squares = 0.0;
    for (var i = 0u; i < QUADS; i++) { squares += products[part * QUADS + i]; }
    v *= inverseSqrt(squares / f32(p.dim) + p.eps) * gain;
  }
//: end
//: if ROPE
  if (inside) {
//: each c 4
    plain[4u * index + $cu] = v[$c];
//: end
  }
  workgroupBarrier();
  if (inside) {
    let row = part * QUADS * 4u;
    let other = vec4<f32>(plain[row + partner.x], plain[row + partner.y], plain[row + partner.z], plain[row + partner.w]);
    v = v * vec4<f32>(turn[0].x, turn[1].x, turn[2].x, turn[3].x) + other * vec4<f32>(turn[0].y, turn[1].y, turn[2].y, turn[3].y);
  }
//: end
  if (inside) {
    if (of_key) { fresh[index] = widen(narrow(v)); } else { fresh[index] = v * p.scale; }
  }
  workgroupBarrier();
  // Read after the barrier behind a tile's scores.
  if (part < HEADS) { products[index] = dot(fresh[index], fresh[HEADS * QUADS + quad]); }
}
//: end

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
//: if SHUFFLE
  @builtin(subgroup_invocation_id) lane_in_subgroup: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_size) subgroup_size: u32,
//: end
  @builtin(local_invocation_index) index: u32,
) {
//: if SHUFFLE
  let at = subgroup * subgroup_size + lane_in_subgroup;
//: else
  let at = index;
//: end
  let lane = at % LANES;
  let slot = at / LANES;
  let part = index / QUADS;
  let quad = index % QUADS;
  let first = group.x * HEADS;
  let token = group.y;
  let kv = first / p.share;
  let cached = kv * p.capacity;
  let past = state[0] + token;
//: if OWN
  var vector = vec4<f32>(0.0);
  var own_value = Stored();
  if (part < HEADS) { vector = fetch((first + part) * p.dim, quad); }
  if (part == HEADS) { vector = fetch(p.k_first + kv * p.dim, quad); }
  if (index < QUADS) { own_value = narrow(fetch(p.v_first + kv * p.dim, index)); }
  var end = past;
//: else
  var end = past + 1u;
//: end
  var begin = 0u;
  if (p.window > 0u && past + 1u > p.window) { begin = past + 1u - p.window; }
//: if SPLIT
  let length = (end - begin + groups.z - 1u) / groups.z;
  let start = begin + group.z * length;
  end = min(start + length, end);
  begin = min(start, end);
//: end
//: each h HEADS
//: each c CHUNK
//: if OWN
  var q$h_$c = vec4<f32>(0.0);
//: else
  let q$h_$c = fetch(token * p.stride + (first + $hu) * p.dim, lane + LANES * $cu) * p.scale;
//: end
//: end
  var most$h = LOWEST;
  var total$h = 0.0;
  var sum$h = vec4<f32>(0.0);
//: end
//: if OWN
  let turns = max((end - begin + TILE - 1u) / TILE, 1u);
//: else
  let turns = (end - begin + TILE - 1u) / TILE;
//: end
  for (var turn = 0u; turn < turns; turn++) {
    let base = begin + turn * TILE;
    // Everything is asked for before any of it is looked at.
//: each u UNROLL
//: each c CHUNK
    var k$u_$c = Stored();
//: end
    if (base + $uu * STEP < end) {
      let row = (cached + min(base + $uu * STEP + slot, end - 1u)) * QUADS + lane;
//: each c CHUNK
      k$u_$c = keys[row + LANES * $cu];
//: end
    }
//: end
//: each i RUNS
    let offset$i = $iu * PARTS + part;
    var v$i = Stored();
    if (base + $iu * PARTS < end) {
      v$i = values[(cached + min(base + offset$i, end - 1u)) * QUADS + quad];
    }
//: end
//: if OWN
    if (turn == 0u) {
      freshen(index, part, quad, vector);
//: each h HEADS
//: each c CHUNK
      q$h_$c = fresh[$hu * QUADS + lane + LANES * $cu];
//: end
//: end
    }
//: end
//: each u UNROLL
    if (base + $uu * STEP < end) {
//: each c CHUNK
      let wide$c = widen(k$u_$c);
//: end
//: each h HEADS
      var score$h = 0.0;
//: each c CHUNK
      score$h += dot(q$h_$c, wide$c);
//: end
//: if SHUFFLE
      for (var step = 1u; step < LANES; step <<= 1u) { score$h += subgroupShuffleXor(score$h, step); }
      if (lane == 0u) { scores[$hu * TILE + $uu * STEP + slot] = score$h; }
//: else
      scores[($hu * TILE + $uu * STEP + slot) * PIECES + lane] = score$h;
//: end
//: end
    }
//: end
    workgroupBarrier();
//: each i RUNS
    let inside$i = part < PARTS && offset$i < TILE && base + offset$i < end;
    let wide$i = widen(v$i);
//: end
//: each h HEADS
    {
      var highest = most$h;
//: each i RUNS
      var s$i = LOWEST;
      if (inside$i) { s$i = score_at($hu * TILE + offset$i); }
      highest = max(highest, s$i);
//: end
      let shrink = exp(most$h - highest);
      total$h *= shrink;
      sum$h *= shrink;
      most$h = highest;
//: each i RUNS
      let chance$i = select(0.0, exp(s$i - highest), inside$i);
      total$h += chance$i;
      sum$h += chance$i * wide$i;
//: end
    }
//: end
    workgroupBarrier();
  }
//: if OWN
  // Once for all query heads of the key's.
  if (group.z == 0u && first % p.share == 0u) {
    let row = (cached + past) * QUADS;
    if (index < QUADS) {
      keys[row + index] = narrow(fresh[HEADS * QUADS + index]);
      values[row + index] = own_value;
    }
  }
//: end
//: each h HEADS
  sums[index] = sum$h;
  if (part < PARTS && quad == 0u) { peaks[part] = vec2<f32>(most$h, total$h); }
  workgroupBarrier();
  {
    let inside = index < QUADS;
    var all = vec4<f32>(0.0);
    if (inside) {
      var highest = LOWEST;
      var total = 0.0;
      for (var i = 0u; i < PARTS; i++) { highest = max(highest, peaks[i].x); }
//: if OWN
      if (group.z == 0u) {
        var score = 0.0;
        for (var i = 0u; i < QUADS; i++) { score += products[$hu * QUADS + i]; }
        score = capped(score);
        highest = max(highest, score);
        total = exp(score - highest);
        all = total * widen(own_value);
      }
//: end
      for (var i = 0u; i < PARTS; i++) {
        let weight = exp(peaks[i].x - highest);
        total += weight * peaks[i].y;
        all += weight * sums[i * QUADS + index];
      }
//: if SPLIT
      let row = ((first + $hu) * groups.z + group.z) * (QUADS + 1u);
      shares[row + index] = all;
      if (index == 0u) { shares[row + QUADS] = vec4<f32>(highest, total, 0.0, 0.0); }
//: else
      all /= total;
      let to = token * p.stride + (first + $hu) * p.dim;
//: if WHOLE
      out[to / 4u + index] = all;
//: else
//: each c 4
      if (4u * index + $cu < p.dim) { out[to + 4u * index + $cu] = all[$c]; }
//: end
//: end
//: end
    }
//: if EMIT
//: if !SPLIT
    emit(index, (token * p.stride + (first + $hu) * p.dim) / 4u + index, inside, all);
//: end
//: end
  }
  workgroupBarrier();
//: end
}
