// Attention of one query head of one position, a workgroup each: scores over
// WG cached positions at a time with a running maximum (FlashAttention,
// arXiv 2205.14135), causal, with an optional sliding window and soft cap.
//
//   EMIT: the result's coded form and sums, too; heads are whole blocks of 32.

struct Attention {
  // Query heads to a key head, values of a head, vectors of four that the cache
  // has for them, positions of the cache.
  share: u32, dim: u32, quads: u32, capacity: u32,
  // Values from position to position, of queries and of results.
  stride: u32,
  // 0: everything before is seen.
  window: u32,
  scale: f32, cap: f32,
}
var<immediate> p: Attention;

@group(0) @binding(0) var<storage, read> q: array<f32>;
//: if KV_HALVES
@group(0) @binding(1) var<storage, read> keys: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> values: array<vec2<u32>>;
fn widen(v: vec2<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)); }
//: else
@group(0) @binding(1) var<storage, read> keys: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> values: array<vec4<f32>>;
fn widen(v: vec4<f32>) -> vec4<f32> { return v; }
//: end
@group(0) @binding(3) var<storage, read> state: array<u32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
//: use total
//: if EMIT
//: use emit
//: end

var<workgroup> query: array<vec4<f32>, QUADS>;
var<workgroup> chances: array<f32, WG>;
var<workgroup> sums: array<vec4<f32>, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
  let head = group.x;
  let token = group.y;
  let end = state[0] + token + 1u;
  var begin = 0u;
  if (p.window > 0u && end > p.window) { begin = end - p.window; }
  let cached = head / p.share * p.capacity;
  let own = token * p.stride + head * p.dim;
  for (var i = index; i < p.quads; i += WG) {
    var v = vec4<f32>(0.0);
//: each c 4
    if (4u * i + $cu < p.dim) { v[$c] = q[own + 4u * i + $cu] * p.scale; }
//: end
    query[i] = v;
  }
  workgroupBarrier();
  // The invocation sums vector `quad` of the values of every `parts`-th position.
  let parts = WG / p.quads;
  let quad = index % p.quads;
  let part = index / p.quads;
  var most = -3.0e38;
  var total = 0.0;
  var sum = vec4<f32>(0.0);
  for (var base = begin; base < end; base += WG) {
    let position = base + index;
    var score = -3.0e38;
    if (position < end) {
      let row = (cached + position) * p.quads;
      score = 0.0;
      for (var i = 0u; i < p.quads; i++) { score += dot(query[i], widen(keys[row + i])); }
//: if CAP
      score = p.cap * tanh(clamp(score / p.cap, -15.0, 15.0));
//: end
    }
    let highest = max(most, workgroup_max(score, index));
    var chance = 0.0;
    if (position < end) { chance = exp(score - highest); }
    chances[index] = chance;
    let shrink = exp(most - highest);
    // Also the barrier between writing and reading the chances.
    total = total * shrink + workgroup_sum(chance, index);
    most = highest;
    sum *= shrink;
    if (part < parts) {
      let count = min(WG, end - base);
      for (var i = part; i < count; i += parts) {
        sum += chances[i] * widen(values[(cached + base + i) * p.quads + quad]);
      }
    }
    workgroupBarrier();
  }
  sums[index] = sum;
  workgroupBarrier();
  let inside = index < p.quads;
  var all = vec4<f32>(0.0);
  if (inside) {
    for (var i = 0u; i < parts; i++) { all += sums[i * p.quads + index]; }
    all /= total;
//: each c 4
    if (4u * index + $cu < p.dim) { out[own + 4u * index + $cu] = all[$c]; }
//: end
  }
//: if EMIT
  emit(index, own / 4u + index, inside, all);
//: end
}
