// activation(gate) * up, with its coded form and sums (EMIT).

struct Gated { quads: u32 }
var<immediate> p: Gated;

@group(0) @binding(0) var<storage, read> gate: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> up: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
//: use activation
//: if EMIT
//: use emit
//: end

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let i = (group.x + group.y * groups.x) * WG + index;
  let inside = i < p.quads;
  var v = vec4<f32>(0.0);
  if (inside) {
    v = activation(gate[i]) * up[i];
    out[i] = v;
  }
//: if EMIT
  emit(index, i, inside, v);
//: end
}
