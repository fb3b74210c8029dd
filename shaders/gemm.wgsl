//: if COOP
//: use gemm_coop
//: else
// Y = X W^T (+ bias) (+ Y) for a batch of inputs, in f32: tiles of 64 rows of W and 64 inputs,
// 32 columns at a time. Weights are decoded once per tile into workgroup
// memory; each invocation sums 4 x 4 products.
//
// The codec gives `Block`, `load(row, unit)` and `weights(block)`.

//: use params
//: use CODEC
@group(0) @binding(4) var<storage, read> xv: array<vec4<f32>>;
//: use put

// Column-major tiles: [column][row or input], 17 vectors of four a column.
var<workgroup> w_tile: array<array<f32, 68>, 32>;
var<workgroup> x_tile: array<array<f32, 68>, 32>;

// Vectors of four that a unit has, and units of a row in a tile.
const TILE_UNITS: u32 = 8u / VECTORS;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let row0 = group.x * 64u;
  let token0 = group.y * 64u;
  let r = (index & 15u) * 4u;
  let t = (index >> 4u) * 4u;
//: each i 4
  var sum$i = vec4<f32>(0.0);
//: end
  let tiles = (p.units + TILE_UNITS - 1u) / TILE_UNITS;
  for (var tile = 0u; tile < tiles; tile++) {
    for (var e = index; e < 64u * TILE_UNITS; e += 256u) {
      let row = e % 64u;
      let part = e / 64u;
      let unit = tile * TILE_UNITS + part;
      if (unit < p.units) {
        let w = weights(load(min(row0 + row, p.rows - 1u), unit));
//: each i VECTORS
        w_tile[(part * VECTORS + $iu) * 4u][row] = w[$i].x;
        w_tile[(part * VECTORS + $iu) * 4u + 1u][row] = w[$i].y;
        w_tile[(part * VECTORS + $iu) * 4u + 2u][row] = w[$i].z;
        w_tile[(part * VECTORS + $iu) * 4u + 3u][row] = w[$i].w;
//: end
      } else {
        for (var i = 0u; i < VECTORS * 4u; i++) { w_tile[part * VECTORS * 4u + i][row] = 0.0; }
      }
    }
    for (var e = index; e < 512u; e += 256u) {
      let token = e >> 3u;
      let quad = e & 7u;
      var v = vec4<f32>(0.0);
//: if WORDS_OF_PLANES
      let place = x_quad(tile, quad);
//: else
      let place = tile * 8u + quad;
//: end
      if (token0 + token < p.tokens && place * 4u < p.x_stride) {
        v = xv[(token0 + token) * (p.x_stride / 4u) + place];
      }
      x_tile[quad * 4u][token] = v.x;
      x_tile[quad * 4u + 1u][token] = v.y;
      x_tile[quad * 4u + 2u][token] = v.z;
      x_tile[quad * 4u + 3u][token] = v.w;
    }
    workgroupBarrier();
    for (var k = 0u; k < 32u; k++) {
      let w = vec4<f32>(w_tile[k][r], w_tile[k][r + 1u], w_tile[k][r + 2u], w_tile[k][r + 3u]);
//: each i 4
      sum$i += w * x_tile[k][t + $iu];
//: end
    }
    workgroupBarrier();
  }
//: each i 4
  if (token0 + t + $iu < p.tokens) {
    let at = (token0 + t + $iu) * p.y_stride + p.first + row0 + r;
//: each j 4
    if (row0 + r + $ju < p.rows) {
      put(at + $ju, p.first + row0 + r + $ju, sum$i[$j]);
    }
//: end
  }
//: end
}
//: end
