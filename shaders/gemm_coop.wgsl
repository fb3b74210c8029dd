// Y = X W^T (+ bias) (+ Y) for a batch of inputs by cooperative matrices of
// TILE x TILE halves, summed in f32. A workgroup has WARPS_R x WARPS_T
// subgroups of 32, each with FRAGS_R x FRAGS_T of the matrices; DEPTH columns at
// a time lie in workgroup memory, while the next ones are fetched.
//
// Inputs are halves under a power of two of each input, `x_scales`; weights are
// multiplied by a power of two of the matrix, `p.factor`: both so that the
// largest is below 2^15, where nothing overflows and what is lost below the
// smallest half is 2^-39 of the largest.
//
// Columns lie in the order of halves.wgsl: 0, 2, 1, 3 of every four.
//
// The codec gives `Block`, `load(row, unit)` and `weights(block)`; with F16, where
// all that its weights are made of is in the range of halves, too,
// `half_weights(block, factor)`, times the factor and in that order.

//: use params
//: use CODEC
@group(0) @binding(4) var<storage, read> xv: array<vec4<f16>>;
@group(0) @binding(5) var<storage, read> x_scales: array<f32>;
//: use put

//: if EIGHT
const TILE: u32 = 8u;
alias MatrixA = coop_mat8x8<f16, A>;
alias MatrixB = coop_mat8x8<f16, B>;
alias Sums = coop_mat8x8<f32, C>;
//: else
const TILE: u32 = 16u;
alias MatrixA = coop_mat16x16<f16, A>;
alias MatrixB = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;
//: end

const SUBGROUPS: u32 = WARPS_R * WARPS_T;
const WG: u32 = 32u * SUBGROUPS;
const ROWS: u32 = WARPS_R * FRAGS_R * TILE;
const TOKENS: u32 = WARPS_T * FRAGS_T * TILE;
// Units of a row in a tile, and vectors of four columns.
const TILE_UNITS: u32 = DEPTH / (4u * VECTORS);
const QUADS: u32 = DEPTH / 4u;
// Two more keep the rows of a matrix in different banks.
const PITCH: u32 = QUADS + 2u;

// Tiles [row or input][column], of two turns.
//: if EIGHT
// Metal loads matrices from numbers only.
const STEP: u32 = 4u;
var<workgroup> w_tile: array<f16, 8u * ROWS * PITCH>;
var<workgroup> x_tile: array<f16, 8u * TOKENS * PITCH>;
//: else
const STEP: u32 = 1u;
var<workgroup> w_tile: array<vec4<f16>, 2u * ROWS * PITCH>;
var<workgroup> x_tile: array<vec4<f16>, 2u * TOKENS * PITCH>;
//: end
// A matrix of sums of each subgroup, [input][row].
var<workgroup> staged: array<f32, SUBGROUPS * TILE * TILE>;

fn keep_w(at: u32, v: vec4<f16>) {
//: if EIGHT
//: each i 4
  w_tile[4u * at + $iu] = v[$i];
//: end
//: else
  w_tile[at] = v;
//: end
}

fn keep_x(at: u32, v: vec4<f16>) {
//: if EIGHT
//: each i 4
  x_tile[4u * at + $iu] = v[$i];
//: end
//: else
  x_tile[at] = v;
//: end
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let row0 = group.x * ROWS;
  let token0 = group.y * TOKENS;
  // Where the subgroup's part begins.
  let part_row = (subgroup % WARPS_R) * FRAGS_R * TILE;
  let part_token = (subgroup / WARPS_R) * FRAGS_T * TILE;
//: each i FRAGS_R
//: each j FRAGS_T
  var sums$i_$j: Sums;
//: end
//: end
  let tiles = (p.units + TILE_UNITS - 1u) / TILE_UNITS;
  let x_quads = p.x_stride / 4u;

//: each i UNITS
  var block$i: Block;
//: end
//: each i X_QUADS
  var x$i: vec4<f16>;
//: end
  for (var e = index; e < ROWS * PITCH; e += WG) { keep_w(ROWS * PITCH + e, vec4<f16>(0.0h)); }
  for (var e = index; e < TOKENS * PITCH; e += WG) { keep_x(TOKENS * PITCH + e, vec4<f16>(0.0h)); }
  workgroupBarrier();
  for (var turn = 0u; turn <= tiles; turn++) {
    // Of the next tile, whose numbers are under way during the products.
    if (turn < tiles) {
//: each i UNITS
      {
        let e = index + $iu * WG;
        let row = min(row0 + e % ROWS, p.rows - 1u);
        block$i = load(row, min(turn * TILE_UNITS + e / ROWS, p.units - 1u));
      }
//: end
//: each i X_QUADS
      {
        let e = index + $iu * WG;
        let token = min(token0 + e / QUADS, p.tokens - 1u);
//: if WORDS_OF_PLANES
        let quad = x_quad(min(turn * TILE_UNITS + e % QUADS / VECTORS, p.units - 1u), e % VECTORS);
//: else
        let quad = turn * QUADS + e % QUADS;
//: end
        x$i = xv[token * x_quads + min(quad, x_quads - 1u)];
      }
//: end
    }
    // Of the tile before; at first, of zeros.
    let w_first = (((turn + 1u) & 1u) * ROWS + part_row) * PITCH * STEP;
    let x_first = (((turn + 1u) & 1u) * TOKENS + part_token) * PITCH * STEP;
//: each k TURNS
    {
//: each j FRAGS_T
      let b$j = coopLoad<MatrixB>(&x_tile[x_first + ($ju * TILE * PITCH + $ku * (TILE / 4u)) * STEP], PITCH * STEP);
//: end
//: each i FRAGS_R
      let a$i = coopLoadT<MatrixA>(&w_tile[w_first + ($iu * TILE * PITCH + $ku * (TILE / 4u)) * STEP], PITCH * STEP);
//: each j FRAGS_T
      sums$i_$j = coopMultiplyAdd(a$i, b$j, sums$i_$j);
//: end
//: end
    }
//: end
    if (turn < tiles) {
//: each i UNITS
      {
        let e = index + $iu * WG;
        if (e < ROWS * TILE_UNITS) {
          let at = ((turn & 1u) * ROWS + e % ROWS) * PITCH + (e / ROWS) * VECTORS;
          // Units beyond the last are zero.
          let factor = select(0.0, p.factor, turn * TILE_UNITS + e / ROWS < p.units);
//: if F16
          let w = half_weights(block$i, factor);
//: each k VECTORS
          keep_w(at + $ku, w[$k]);
//: end
//: else
          let w = weights(block$i);
//: each k VECTORS
          keep_w(at + $ku, vec4<f16>(w[$k].xzyw * factor));
//: end
//: end
        }
      }
//: end
//: each i X_QUADS
      {
        let e = index + $iu * WG;
        keep_x(((turn & 1u) * TOKENS + e / QUADS) * PITCH + e % QUADS, x$i);
      }
//: end
    }
    workgroupBarrier();
  }

  let first = subgroup * TILE * TILE;
  // 1 / p.factor, which is a power of two.
  let inverse = bitcast<f32>(0x7f000000u - bitcast<u32>(p.factor));
//: each i FRAGS_R
//: each j FRAGS_T
  coopStore(sums$i_$j, &staged[first], TILE);
  workgroupBarrier();
  for (var e = lane; e < TILE * TILE; e += 32u) {
    let row = row0 + part_row + $iu * TILE + e % TILE;
    let token = token0 + part_token + $ju * TILE + e / TILE;
    if (row < p.rows && token < p.tokens) {
      put(token * p.y_stride + p.first + row, p.first + row, staged[first + e] * x_scales[token] * inverse);
    }
  }
  workgroupBarrier();
//: end
//: end
}
