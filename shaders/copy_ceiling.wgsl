// Copies `length` vectors.

struct Ceiling { length: u32 }
var<immediate> p: Ceiling;

@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sink: array<vec4<u32>>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let first = (group.x + group.y * groups.x) * WG * 4u + index;
//: each k 4
  let v$k = source[min(first + $ku * WG, p.length - 1u)];
//: end
//: each k 4
  if (first + $ku * WG < p.length) { sink[first + $ku * WG] = v$k; }
//: end
}
