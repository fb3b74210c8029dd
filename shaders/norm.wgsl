// RMS norm of rows: out = x * gain / sqrt(mean(x^2) + eps) (arXiv 1910.07467),
// a workgroup to a row. Rows are zero from `width` to their stride of `quads`
// vectors, and so is the gain.
//
//   ONTO: out += ... (sandwich norms).
//   EMIT: the result's coded form and sums, too.

struct Norm { width: u32, quads: u32, first: u32, eps: f32 }
var<immediate> p: Norm;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> gain: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
//: use total
//: if EMIT
//: use emit
//: end

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
  let source = (p.first + group.x) * p.quads;
  let to = group.x * p.quads;
  // Those of short rows are read once.
  let early = select(vec4<f32>(0.0), x[source + index], index < p.quads);
  var squares = dot(early, early);
  for (var i = index + WG; i < p.quads; i += WG) {
    squares += dot(x[source + i], x[source + i]);
  }
  let factor = inverseSqrt(workgroup_sum(squares, index) / f32(p.width) + p.eps);
  for (var base = 0u; base < p.quads; base += WG) {
    let i = base + index;
    let inside = i < p.quads;
    var v = vec4<f32>(0.0);
    if (inside) {
      if (base == 0u) { v = early; } else { v = x[source + i]; }
      v *= factor * gain[i];
//: if ONTO
      out[to + i] += v;
//: else
      out[to + i] = v;
//: end
    }
//: if EMIT
    emit(index, to + i, inside, v);
//: end
  }
}
