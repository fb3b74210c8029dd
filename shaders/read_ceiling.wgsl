// Reads `length` vectors and writes next to nothing: what memory gives at most.

struct Ceiling { length: u32 }
var<immediate> p: Ceiling;

@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sink: array<u32>;

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
  let v = v0 ^ v1 ^ v2 ^ v3;
  // The buffers hold other numbers, which the compiler cannot know.
  if ((v.x ^ v.y ^ v.z ^ v.w) == 0x9e3779b9u) { sink[0] = v.x; }
}
