// The input vector, zero beyond its width, in the form that the variant reads.
//
//   F32 (no flag): floats.
//   F16: per block of 32 the values over their peak, as halves: of every four the
//        first, third, second and fourth, as bytes of codes become pairs of halves.
//   I8:  per block of 32 the values in steps of peak / 127, as signed bytes.
//   I24: per block of 32 the values in steps of a power of two, three signed
//        bytes each: all the high ones, all the middle ones, all the low ones.
//
// Units of 32 columns (BLOCKS) come with a scale and with the sums of both
// halves of the block, of the values as rounded. Their vectors lie in tiles of
// eight units (TILED): the first vectors of all, the second ones, and so on, so
// that neighbouring lanes read neighbouring vectors. Raw codecs have smaller
// units and read floats in order.
//
//   STAGED: it lies in the workgroup's memory (stage.wgsl).

//: if STAGED
//: use stage
//: else
//: if I8|I24
@group(0) @binding(4) var<storage, read> xv: array<vec4<u32>>;
//: else
//: if F16
@group(0) @binding(4) var<storage, read> xv: array<vec4<u32>>;
//: else
@group(0) @binding(4) var<storage, read> xv: array<vec4<f32>>;
//: end
//: end
//: if BLOCKS
@group(0) @binding(5) var<storage, read> xs: array<vec4<f32>>;
//: end
//: end

struct X {
//: if I8|I24
//: if I24
//: each i 6
  v$i: vec4<u32>,
//: end
//: else
  v0: vec4<u32>,
  v1: vec4<u32>,
//: end
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
//: if F16
  // Some of those of every vector.
  bits: u32,
//: end
//: end
}

//: if STAGED
fn load_x(unit: u32) -> X {
  var x: X;
//: if I24
//: each i 6
  x.v$i = four($iu, unit);
//: end
//: else
//: if I8
  x.v0 = four(0u, unit);
  x.v1 = four(1u, unit);
//: else
//: each i VECTORS
  x.v$i = made[$iu * SPAN + unit];
//: end
//: end
//: end
//: if BLOCKS
  let s = made_sums[unit];
  x.scale = s.x;
  x.sums = s.yz;
//: end
  return x;
}
//: else
//: if I24
const X_VECTORS: u32 = 6u;
//: else
//: if I8
const X_VECTORS: u32 = 2u;
//: else
//: if F16
const X_VECTORS: u32 = VECTORS / 2u;

fn halves_of(a: u32, b: u32) -> vec4<f16> { return vec4<f16>(vec2<f16>(unpack2x16float(a)), vec2<f16>(unpack2x16float(b))); }
//: else
const X_VECTORS: u32 = VECTORS;
//: end
//: end
//: end

// Vector `i` of a unit.
fn x_at(unit: u32, i: u32) -> u32 {
//: if TILED
  return (unit >> 3u) * (8u * X_VECTORS) + i * 8u + (unit & 7u);
//: else
  return unit * X_VECTORS + i;
//: end
}

fn load_x(unit: u32) -> X {
  var x: X;
//: if I8|I24
//: if I24
//: each i 6
  x.v$i = xv[x_at(unit, $iu)];
//: end
//: else
  x.v0 = xv[x_at(unit, 0u)];
  x.v1 = xv[x_at(unit, 1u)];
//: end
//: else
//: if F16
//: each i VECTORS
  let w$i = xv[x_at(unit, $iu / 2u)];
  x.v$i = halves_of(w$i[$iu % 2u * 2u], w$i[$iu % 2u * 2u + 1u]);
  x.bits |= w$i.x;
//: end
//: else
//: each i VECTORS
  x.v$i = xv[x_at(unit, $iu)];
//: end
//: end
//: end
//: if BLOCKS
  let s = xs[unit];
  x.scale = s.x;
  x.sums = s.yz;
//: end
  return x;
}
//: end

//: if BLOCKS
// Some bits of every vector of it.
fn x_bits(x: X) -> u32 {
//: if I24
  return x.v0.x | x.v1.x | x.v2.x | x.v3.x | x.v4.x | x.v5.x | bitcast<u32>(x.scale);
//: else
//: if I8
  return x.v0.x | x.v1.x | bitcast<u32>(x.scale);
//: else
//: if F16
  return x.bits | bitcast<u32>(x.scale);
//: else
  var bits = bitcast<u32>(x.scale);
//: each i 8
  bits |= bitcast<u32>(x.v$i.x);
//: end
  return bits;
//: end
//: end
//: end
}

// The unit's values in steps of its scale.
//: if I8|I24
fn whole(w: u32) -> vec4<f32> { return vec4<f32>(unpack4xI8(w)); }
//: end
fn x_floats(x: X) -> array<vec4<f32>, 8> {
//: if I24
  var v: array<vec4<f32>, 8>;
//: each c 4
  v[$c] = 65536.0 * whole(x.v0[$c]) + (256.0 * whole(x.v2[$c]) + whole(x.v4[$c]));
  v[4 + $c] = 65536.0 * whole(x.v1[$c]) + (256.0 * whole(x.v3[$c]) + whole(x.v5[$c]));
//: end
  return v;
//: else
//: if I8
  return array<vec4<f32>, 8>(
    whole(x.v0.x), whole(x.v0.y), whole(x.v0.z), whole(x.v0.w),
    whole(x.v1.x), whole(x.v1.y), whole(x.v1.z), whole(x.v1.w));
//: else
  return array<vec4<f32>, 8>(
//: each i 8
//: if F16
    vec4<f32>(x.v$i.xzyw),
//: else
    x.v$i,
//: end
//: end
  );
//: end
//: end
}
//: end
