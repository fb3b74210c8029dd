// An activation of `length` values, a multiple of 32, in the form that the
// kernels read.

struct Prepare { length: u32 }
var<immediate> p: Prepare;

@group(0) @binding(0) var<storage, read> values: array<vec4<f32>>;
//: use emit

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let quad = (group.x + group.y * groups.x) * WG + index;
  let inside = quad < p.length / 4u;
  var v = vec4<f32>(0.0);
  if (inside) { v = values[quad]; }
  emit(index, quad, inside, v);
}
