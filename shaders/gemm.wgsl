//: if COOP
//: use gemm_coop
//: else
// Y = X W^T (+ bias) (+ Y) for a batch of inputs, in f32: tiles of 64 rows of W and 64 inputs,
// 32 columns at a time. Weights are decoded once per tile into workgroup
// memory; each invocation sums 4 x 4 products, column by column.
//
// The codec gives `Block`, `load(row, unit)` and `weights(block)`.

//: use params
//: use CODEC
@group(0) @binding(4) var<storage, read> xv: array<vec4<f32>>;
//: use put

// Tiles of rows or inputs, eight vectors of four columns each and one that
// keeps neighbouring rows in different banks.
const PITCH: u32 = 9u;
var<workgroup> w_tile: array<vec4<f32>, 64u * PITCH>;
var<workgroup> x_tile: array<vec4<f32>, 64u * PITCH>;

// Units of a row in a tile.
const TILE_UNITS: u32 = 8u / VECTORS;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let row0 = group.x * 64u;
  let token0 = group.y * 64u;
  // Rows r, r + 16, ...; inputs t, t + 16, ...
  let r = index & 15u;
  let t = index >> 4u;
//: each i 4
  var sum$i = vec4<f32>(0.0);
//: end
  let tiles = (p.units + TILE_UNITS - 1u) / TILE_UNITS;
  for (var tile = 0u; tile < tiles; tile++) {
    for (var e = index; e < 64u * TILE_UNITS; e += 256u) {
      let row = e % 64u;
      let part = e / 64u;
      let unit = tile * TILE_UNITS + part;
      let at = row * PITCH + part * VECTORS;
      if (unit < p.units) {
        let w = weights(load(min(row0 + row, p.rows - 1u), unit));
//: each i VECTORS
        w_tile[at + $iu] = w[$i];
//: end
      } else {
//: each i VECTORS
        w_tile[at + $iu] = vec4<f32>(0.0);
//: end
      }
    }
    for (var e = index; e < 512u; e += 256u) {
      let token = e >> 3u;
      let quad = e & 7u;
      var v = vec4<f32>(0.0);
      if (token0 + token < p.tokens && (tile * 8u + quad) * 4u < p.x_stride) {
        v = xv[(token0 + token) * (p.x_stride / 4u) + tile * 8u + quad];
      }
      x_tile[token * PITCH + quad] = v;
    }
    workgroupBarrier();
    for (var quad = 0u; quad < 8u; quad++) {
//: each j 4
      let w$j = w_tile[(r + 16u * $ju) * PITCH + quad];
//: end
//: each i 4
      let x$i = x_tile[(t + 16u * $iu) * PITCH + quad];
//: each k 4
      sum$i += vec4<f32>(w0[$k], w1[$k], w2[$k], w3[$k]) * x$i[$k];
//: end
//: end
    }
    workgroupBarrier();
  }
//: each i 4
  if (token0 + t + 16u * $iu < p.tokens) {
    let at = (token0 + t + 16u * $iu) * p.y_stride + p.first + row0 + r;
//: each j 4
    if (row0 + r + 16u * $ju < p.rows) {
      put(at + 16u * $ju, p.first + row0 + r + 16u * $ju, sum$i[$j]);
    }
//: end
  }
//: end
}
//: end
