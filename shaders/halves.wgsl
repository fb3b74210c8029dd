// Inputs of `gemm` with cooperative matrices: each as halves, times the power of
// two that brings its largest value to 2^14 and more, below 2^15; and that
// power's inverse, for the products. One workgroup an input. Of every four
// neighbours the second and the third change places, as weights do there: that
// is the order in which codes come out of their words.

struct Halves { quads: u32 }
var<immediate> p: Halves;

@group(0) @binding(0) var<storage, read> values: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> halves: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> scales: array<f32>;

var<workgroup> peaks: array<f32, WG>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let first = group.x * p.quads;
  var peak = 0.0;
  for (var i = index; i < p.quads; i += WG) {
    let a = abs(values[first + i]);
    peak = max(peak, max(max(a.x, a.y), max(a.z, a.w)));
  }
  peaks[index] = peak;
  workgroupBarrier();
  for (var step = WG / 2u; step > 0u; step /= 2u) {
    if (index < step) { peaks[index] = max(peaks[index], peaks[index + step]); }
    workgroupBarrier();
  }
  // The peak's exponent in its bits, where both powers of two are normal.
  let exponent = clamp(bitcast<u32>(peaks[0]) >> 23u, 15u, 254u);
  let factor = bitcast<f32>((268u - exponent) << 23u);
  for (var i = index; i < p.quads; i += WG) {
    let v = values[first + i] * factor;
    halves[first + i] = vec2<u32>(pack2x16float(v.xz), pack2x16float(v.yw));
  }
  if (index == 0u) { scales[group.x] = bitcast<f32>((exponent - 14u) << 23u); }
}
