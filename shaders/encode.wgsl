// The coded form of an activation, as `input` reads it. Every invocation of the
// workgroup calls `emit` with four neighbouring values; eight neighbouring
// invocations hold a block of 32. Where words, vectors and sums go is the
// including file's: `keep_word(block, digit, own, word)`, four values' bytes of
// one digit, the highest first, or `keep_quad(block, own, v)`, and `keep_sums`.
//
// I8, I24, HALVES_OUT, F16 or none of them (floats).

var<workgroup> emitted: array<vec4<f32>, WG>;

// `index` is the invocation's, `quad` counts the vectors of four so far.
fn emit(index: u32, quad: u32, inside: bool, v: vec4<f32>) {
  emitted[index] = v;
  workgroupBarrier();
  if (inside) {
    let first = index & ~7u;
    let block = quad >> 3u;
    let own = quad & 7u;
    var peak = 0.0;
    for (var i = 0u; i < 8u; i++) {
      let a = abs(emitted[first + i]);
      peak = max(peak, max(max(a.x, a.y), max(a.z, a.w)));
    }
//: if I8
    let scale = peak / 127.0;
    let inverse = select(0.0, 127.0 / peak, scale > 1e-30);
    keep_word(block, 0u, own, pack4xI8(vec4<i32>(round(v * inverse))));
//: end
//: if I24
    // The smallest power of two of which three signed bytes count up to the peak.
    let largest = select(peak, 1e-30, peak < 1e-30);
    let above = ((bitcast<u32>(largest) >> 23u) & 255u) - 22u;
    let fits = peak <= 8355711.0 * bitcast<f32>(above << 23u);
    let exponent = select(above + 1u, above, fits);
    let scale = bitcast<f32>(exponent << 23u);
    let inverse = bitcast<f32>((254u - exponent) << 23u);
    let n = vec4<i32>(round(v * inverse));
    // Each of the parts from -128 to 127, without carries between them.
    let low = (n << vec4<u32>(24u)) >> vec4<u32>(24u);
    let rest = (n - low) >> vec4<u32>(8u);
    let middle = (rest << vec4<u32>(24u)) >> vec4<u32>(24u);
    let high = (rest - middle) >> vec4<u32>(8u);
    keep_word(block, 0u, own, pack4xI8(high));
    keep_word(block, 1u, own, pack4xI8(middle));
    keep_word(block, 2u, own, pack4xI8(low));
//: end
//: if HALVES_OUT|F16
    let scale = peak;
    let inverse = select(0.0, 1.0 / peak, scale > 1e-30);
    keep_quad(block, own, v * inverse);
//: end
//: if !I8|I24|HALVES_OUT|F16
    let scale = 1.0;
    keep_quad(block, own, v);
//: end
    if (own == 0u) {
      var sums = vec2<f32>(0.0);
      for (var i = 0u; i < 4u; i++) {
//: if I8|I24
        let c = round(emitted[first + i] * inverse);
        let d = round(emitted[first + 4u + i] * inverse);
//: else
        let c = emitted[first + i];
        let d = emitted[first + 4u + i];
//: end
        sums += vec2<f32>(c.x + c.y + c.z + c.w, d.x + d.y + d.z + d.w);
      }
//: if I8|I24
      sums *= scale;
//: end
      keep_sums(block, vec4<f32>(scale, sums, 0.0));
    }
  }
  workgroupBarrier();
}
