// cap * tanh(x / cap), in place.

struct Softcap { count: u32, cap: f32 }
var<immediate> p: Softcap;

@group(0) @binding(0) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let i = (group.x + group.y * groups.x) * WG + index;
  if (i < p.count) { x[i] = p.cap * tanh(clamp(x[i] / p.cap, -15.0, 15.0)); }
}
