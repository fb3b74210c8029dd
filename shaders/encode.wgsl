// The coded form of an activation, as `input` reads it. Every invocation of the
// workgroup calls `emit` with four neighbouring values; eight neighbouring
// invocations hold a block of 32. Where words, vectors and sums go is the
// including file's: `keep_word(block, digit, own, word)`, four values' bytes of
// one digit, the highest first, or `keep_quad(block, own, v)`, and `keep_sums`.
//
// I8, I24, HALVES_OUT, F16 or none of them (floats).

// Of every vector of four: the largest value, then the sum of the values as rounded.
var<workgroup> emitted_peaks: array<f32, WG>;
var<workgroup> emitted_sums: array<f32, WG>;

// `index` is the invocation's, `quad` counts the vectors of four so far. What is kept
// is there for others behind the next barrier.
fn emit(index: u32, quad: u32, inside: bool, v: vec4<f32>) {
  let first = index & ~7u;
  let block = quad >> 3u;
  let own = quad & 7u;
  let size = abs(v);
  emitted_peaks[index] = max(max(size.x, size.y), max(size.z, size.w));
  workgroupBarrier();
  var scale = 1.0;
  if (inside) {
    var peak = 0.0;
    for (var i = 0u; i < 8u; i++) { peak = max(peak, emitted_peaks[first + i]); }
//: if I8
    scale = peak / 127.0;
    let inverse = select(0.0, 127.0 / peak, scale > 1e-30);
    let rounded = round(v * inverse);
    keep_word(block, 0u, own, pack4xI8(vec4<i32>(rounded)));
//: end
//: if I24
    // The smallest power of two of which three signed bytes count up to the peak.
    let largest = select(peak, 1e-30, peak < 1e-30);
    let above = ((bitcast<u32>(largest) >> 23u) & 255u) - 22u;
    let fits = peak <= 8355711.0 * bitcast<f32>(above << 23u);
    let exponent = select(above + 1u, above, fits);
    scale = bitcast<f32>(exponent << 23u);
    let inverse = bitcast<f32>((254u - exponent) << 23u);
    let rounded = round(v * inverse);
    let n = vec4<i32>(rounded);
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
    scale = peak;
    let inverse = select(0.0, 1.0 / peak, scale > 1e-30);
    let rounded = v;
    keep_quad(block, own, v * inverse);
//: end
//: if !I8|I24|HALVES_OUT|F16
    let rounded = v;
    keep_quad(block, own, v);
//: end
    emitted_sums[index] = rounded.x + rounded.y + rounded.z + rounded.w;
  }
  workgroupBarrier();
  if (inside && own == 0u) {
    var sums = vec2<f32>(0.0);
    for (var i = 0u; i < 4u; i++) {
      sums += vec2<f32>(emitted_sums[first + i], emitted_sums[first + 4u + i]);
    }
//: if I8|I24
    sums *= scale;
//: end
    keep_sums(block, vec4<f32>(scale, sums, 0.0));
  }
}
