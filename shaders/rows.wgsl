// Rows of a stored matrix, by number: y[t] = factor * W[ids[t]], zero beyond
// the columns up to y_stride. Rows outside the piece are left alone.
//
//   PEAK: no rows, but the bits of the largest |w| of all, at `p.share` of `peaks`,
//         and with SCALED, behind them, those of the largest `extent(block)`.

//: use params
//: use CODEC
//: if PEAK
@group(0) @binding(6) var<storage, read_write> peaks: array<atomic<u32>>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let at = (group.x + group.y * groups.x) * WG + index;
  let row = at / p.units;
  if (row >= p.rows) { return; }
  let b = load(row, at % p.units);
  let w = weights(b);
  // As whole numbers, in which infinity and what is no number count most.
  var most = vec4<u32>(0u);
//: each i VECTORS
  most = max(most, bitcast<vec4<u32>>(w[$i]) & vec4<u32>(0x7fffffffu));
//: end
  let peak = max(max(most.x, most.y), max(most.z, most.w));
  if (peak > atomicLoad(&peaks[p.share])) { atomicMax(&peaks[p.share], peak); }
//: if SCALED
  let bits = bitcast<u32>(extent(b)) & 0x7fffffffu;
  if (bits > atomicLoad(&peaks[p.share + 1u])) { atomicMax(&peaks[p.share + 1u], bits); }
//: end
}
//: else
@group(0) @binding(4) var<storage, read> ids: array<u32>;
@group(0) @binding(6) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let units = p.y_stride / (VECTORS * 4u);
  let at = (group.x + group.y * groups.x) * WG + index;
  let token = at / units;
  let unit = at % units;
  if (token >= p.tokens) { return; }
  let row = ids[token] - p.first;
  // Also where the difference wrapped around.
  if (row >= p.rows) { return; }
  let out = token * (p.y_stride / 4u) + unit * VECTORS;
  if (unit >= p.units) {
//: each i VECTORS
    y[out + $iu] = vec4<f32>(0.0);
//: end
    return;
  }
  let w = weights(load(row, unit));
//: each i VECTORS
  y[out + $iu] = w[$i] * p.factor * keep(unit * VECTORS + $iu);
//: end
}

// Which of the four columns from 4 quad on exist.
fn keep(quad: u32) -> vec4<f32> {
  return select(vec4<f32>(0.0), vec4<f32>(1.0), vec4<u32>(quad * 4u) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(p.cols));
}
//: end
