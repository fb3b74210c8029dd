// Sum and maximum over a workgroup of WG invocations, a power of two.

var<workgroup> totals: array<f32, WG>;

fn workgroup_sum(v: f32, index: u32) -> f32 {
  totals[index] = v;
  workgroupBarrier();
  for (var step = WG / 2u; step > 0u; step >>= 1u) {
    if (index < step) { totals[index] += totals[index + step]; }
    workgroupBarrier();
  }
  let sum = totals[0];
  workgroupBarrier();
  return sum;
}

fn workgroup_max(v: f32, index: u32) -> f32 {
  totals[index] = v;
  workgroupBarrier();
  for (var step = WG / 2u; step > 0u; step >>= 1u) {
    if (index < step) { totals[index] = max(totals[index], totals[index + step]); }
    workgroupBarrier();
  }
  let most = totals[0];
  workgroupBarrier();
  return most;
}
