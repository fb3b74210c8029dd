// The input vector, zero beyond its width, in the form that the variant reads.
//
//   F32 (neither flag): floats.
//   F16: per block of 32 the values over their peak, as halves.
//   I8:  per block of 32 the values in steps of peak / 127, as signed bytes.
//
// Units of 32 columns (BLOCKS) come with a scale and with the sums of both
// halves of the block, of the values as rounded; raw codecs have smaller units
// and read floats alone.

//: if I8
@group(0) @binding(4) var<storage, read> xv: array<vec4<u32>>;
//: else
//: if F16
@group(0) @binding(4) var<storage, read> xv: array<vec4<f16>>;
//: else
@group(0) @binding(4) var<storage, read> xv: array<vec4<f32>>;
//: end
//: end
//: if BLOCKS
@group(0) @binding(5) var<storage, read> xs: array<vec4<f32>>;
//: end

struct X {
//: if I8
  v0: vec4<u32>,
  v1: vec4<u32>,
//: else
//: each i VECTORS
//: if F16
  v$i: vec4<f16>,
//: else
  v$i: vec4<f32>,
//: end
//: end
//: end
//: if BLOCKS
  scale: f32,
  sums: vec2<f32>,
//: end
}

fn load_x(unit: u32) -> X {
  var x: X;
//: if I8
  x.v0 = xv[unit * 2u];
  x.v1 = xv[unit * 2u + 1u];
//: else
//: each i VECTORS
  x.v$i = xv[unit * VECTORS + $iu];
//: end
//: end
//: if BLOCKS
  let s = xs[unit];
  x.scale = s.x;
  x.sums = s.yz;
//: end
  return x;
}
