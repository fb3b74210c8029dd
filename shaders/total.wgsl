// Sum and maximum over a workgroup of WG invocations, a power of two: of FAN
// numbers each by a few, then of those by all.

const FAN: u32 = select(32u, 16u, WG <= 256u);
const FEW: u32 = WG / FAN;

var<workgroup> totals: array<f32, WG>;

fn workgroup_sum(v: f32, index: u32) -> f32 {
  totals[index] = v;
  workgroupBarrier();
  if (index < FEW) {
    var part = totals[index];
    for (var i = 1u; i < FAN; i++) { part += totals[index + i * FEW]; }
    totals[index] = part;
  }
  workgroupBarrier();
  var sum = totals[0];
  for (var i = 1u; i < FEW; i++) { sum += totals[i]; }
  workgroupBarrier();
  return sum;
}

fn workgroup_max(v: f32, index: u32) -> f32 {
  totals[index] = v;
  workgroupBarrier();
  if (index < FEW) {
    var part = totals[index];
    for (var i = 1u; i < FAN; i++) { part = max(part, totals[index + i * FEW]); }
    totals[index] = part;
  }
  workgroupBarrier();
  var most = totals[0];
  for (var i = 1u; i < FEW; i++) { most = max(most, totals[i]); }
  workgroupBarrier();
  return most;
}
