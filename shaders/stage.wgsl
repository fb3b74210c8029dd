// The input of a product, made by every workgroup for itself, in its memory:
// for few rows that costs less than a dispatch before the product.
//
//   NORMED: x * gain; what makes an RMS norm of it (arXiv 1910.07467), the factor
//           1 / sqrt(mean(x^2) + eps), is for the products' sums. `p.factor` is eps.
//   GATED:  activation(gate) * up (SILU, GELU_TANH or neither: activation.wgsl).
//
// Vector `i` of unit `u` lies at i * SPAN + u, with SPAN odd and no less than the
// row's units, so that neither writers nor readers meet in a bank.

// The values of x and the gain's, or of gate and up.
@group(0) @binding(4) var<storage, read> sources: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> companions: array<vec4<f32>>;
//: if I8|I24
//: if I24
const DIGITS: u32 = 3u;
//: else
const DIGITS: u32 = 1u;
//: end
// Words of four values.
var<workgroup> made: array<u32, 8u * DIGITS * SPAN>;
//: else
//: if F16
var<workgroup> made: array<vec4<f16>, VECTORS * SPAN>;
//: else
var<workgroup> made: array<vec4<f32>, VECTORS * SPAN>;
//: end
//: end

//: if BLOCKS
var<workgroup> made_sums: array<vec4<f32>, SPAN>;

//: if I8|I24
fn keep_word(block: u32, digit: u32, own: u32, word: u32) { made[(8u * digit + own) * SPAN + block] = word; }
fn four(i: u32, unit: u32) -> vec4<u32> {
  let at = 4u * i * SPAN + unit;
  return vec4<u32>(made[at], made[at + SPAN], made[at + 2u * SPAN], made[at + 3u * SPAN]);
}
//: else
fn keep_quad(block: u32, own: u32, v: vec4<f32>) {
//: if F16
  made[own * SPAN + block] = vec4<f16>(v.xzyw);
//: else
  made[own * SPAN + block] = v;
//: end
}
//: end
fn keep_sums(block: u32, sums: vec4<f32>) { made_sums[block] = sums; }
//: use encode
//: end
//: if NORMED
//: use total
//: else
//: use activation
//: end

// Makes the input; what the products' sums are to be multiplied with.
fn stage(index: u32) -> f32 {
  // Past the columns there are zeros, up to whole blocks.
  let quads = (p.cols + 31u) / 32u * 8u;
  var squares = 0.0;
  for (var base = 0u; base < quads; base += WG) {
    let i = base + index;
    let inside = i < quads;
    var v = vec4<f32>(0.0);
    if (inside) {
//: if NORMED
      let x = sources[i];
      squares += dot(x, x);
      v = x * companions[i];
//: else
      v = activation(sources[i]) * companions[i];
//: end
//: if !BLOCKS
      if (i < VECTORS * SPAN) { made[i % VECTORS * SPAN + i / VECTORS] = v; }
//: end
    }
//: if BLOCKS
    emit(index, i, inside, v);
//: end
  }
//: if NORMED
  return inverseSqrt(workgroup_sum(squares, index) / f32(p.cols) + p.factor);
//: else
  workgroupBarrier();
  return 1.0;
//: end
}
