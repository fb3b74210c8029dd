// Queries, keys and values of new positions, a workgroup to a head of a
// position: the head's norm (QK_NORM), the rotary embedding (ROPE,
// arXiv 2104.09864, half-split order), then keys and values into the cache.
//
// Heads 0 .. heads are queries, then kv_heads keys, then kv_heads values.
// Angles come as (cosine, sine) from the CPU, whose sines are exact.

struct Rope {
  heads: u32, kv_heads: u32, dim: u32, pairs: u32,
  // Numbers from position to position.
  q_stride: u32, kv_stride: u32,
  // Where keys and values begin.
  k_first: u32, v_first: u32,
  capacity: u32, eps: f32,
}
var<immediate> p: Rope;

// Queries of every position, keys of every one, values of every one.
@group(0) @binding(0) var<storage, read_write> qkv: array<f32>;
// Positions before these.
@group(0) @binding(3) var<storage, read> state: array<u32>;
//: if KV_HALVES
@group(0) @binding(4) var<storage, read_write> keys: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> values: array<vec2<u32>>;
//: else
@group(0) @binding(4) var<storage, read_write> keys: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> values: array<vec4<f32>>;
//: end
//: if ROPE
@group(0) @binding(6) var<storage, read> angles: array<vec2<f32>>;
//: end
//: if QK_NORM
// Of queries, then of keys.
@group(0) @binding(7) var<storage, read> gains: array<f32>;
//: end
//: use total

// The head, zero up to a multiple of four.
var<workgroup> head: array<f32, DIM>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
  let number = group.x;
  let token = group.y;
  let is_query = number < p.heads;
  let is_value = number >= p.heads + p.kv_heads;
  var kv = number - p.heads;
  if (is_value) { kv -= p.kv_heads; }
  var squares = 0.0;
  for (var i = p.dim + index; i < DIM; i += WG) { head[i] = 0.0; }
  for (var i = index; i < p.dim; i += WG) {
    var value = 0.0;
    if (is_query) {
      value = qkv[token * p.q_stride + number * p.dim + i];
    } else if (is_value) {
      value = qkv[p.v_first + token * p.kv_stride + kv * p.dim + i];
    } else {
      value = qkv[p.k_first + token * p.kv_stride + kv * p.dim + i];
    }
    head[i] = value;
    squares += value * value;
  }
//: if QK_NORM
  let factor = inverseSqrt(workgroup_sum(squares, index) / f32(p.dim) + p.eps);
  if (!is_value) {
    let gain = select(p.dim, 0u, is_query);
    for (var i = index; i < p.dim; i += WG) {
      head[i] *= factor * gains[gain + i];
    }
  }
//: end
  workgroupBarrier();
//: if ROPE
  if (!is_value) {
    for (var i = index; i < p.pairs; i += WG) {
      let angle = angles[token * p.pairs + i];
      let a = head[i];
      let b = head[i + p.pairs];
      head[i] = a * angle.x - b * angle.y;
      head[i + p.pairs] = b * angle.x + a * angle.y;
    }
  }
  workgroupBarrier();
//: end
  if (is_query) {
    for (var i = index; i < p.dim; i += WG) {
      qkv[token * p.q_stride + number * p.dim + i] = head[i];
    }
  } else {
    let quads = DIM / 4u;
    let at = (kv * p.capacity + state[0] + token) * quads;
    for (var i = index; i < quads; i += WG) {
      let w = vec4<f32>(head[4u * i], head[4u * i + 1u], head[4u * i + 2u], head[4u * i + 3u]);
//: if KV_HALVES
      let limited = clamp(w, vec4<f32>(-65504.0), vec4<f32>(65504.0));
      let stored = vec2<u32>(pack2x16float(limited.xy), pack2x16float(limited.zw));
//: else
      let stored = w;
//: end
      if (is_value) { values[at + i] = stored; } else { keys[at + i] = stored; }
    }
  }
}
