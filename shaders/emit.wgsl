// Writes an activation in the form that `input` reads: see there. Every
// invocation of the workgroup calls `emit` with four neighbouring values; eight
// neighbouring invocations hold a block of 32.

//: if I8
@group(0) @binding(4) var<storage, read_write> out_values: array<u32>;
//: else
//: if HALVES_OUT
@group(0) @binding(4) var<storage, read_write> out_values: array<vec2<u32>>;
//: end
//: end
@group(0) @binding(5) var<storage, read_write> out_sums: array<vec4<f32>>;

var<workgroup> emitted: array<vec4<f32>, WG>;

// `index` is the invocation's, `quad` counts the vectors of four written so far.
fn emit(index: u32, quad: u32, inside: bool, v: vec4<f32>) {
  emitted[index] = v;
  workgroupBarrier();
  if (inside) {
    let first = index & ~7u;
    var peak = 0.0;
    for (var i = 0u; i < 8u; i++) {
      let a = abs(emitted[first + i]);
      peak = max(peak, max(max(a.x, a.y), max(a.z, a.w)));
    }
//: if I8
    let scale = peak / 127.0;
    let inverse = select(0.0, 127.0 / peak, scale > 1e-30);
    out_values[quad] = pack4xI8(vec4<i32>(round(v * inverse)));
//: else
//: if HALVES_OUT
    let scale = peak;
    let inverse = select(0.0, 1.0 / peak, scale > 1e-30);
    let scaled = v * inverse;
    out_values[quad] = vec2<u32>(pack2x16float(scaled.xy), pack2x16float(scaled.zw));
//: else
    let scale = 1.0;
//: end
//: end
    if ((index & 7u) == 0u) {
      var sums = vec2<f32>(0.0);
      for (var i = 0u; i < 4u; i++) {
        let a = emitted[first + i];
        let b = emitted[first + 4u + i];
//: if I8
        let c = round(a * inverse);
        let d = round(b * inverse);
        sums += vec2<f32>(c.x + c.y + c.z + c.w, d.x + d.y + d.z + d.w);
//: else
        sums += vec2<f32>(a.x + a.y + a.z + a.w, b.x + b.y + b.z + b.w);
//: end
      }
//: if I8
      sums *= scale;
//: end
      out_sums[quad >> 3u] = vec4<f32>(scale, sums, 0.0);
    }
  }
  workgroupBarrier();
}
