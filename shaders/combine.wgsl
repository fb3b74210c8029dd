// x[t] += sum over a token's experts of weight * result.

struct Combine { quads: u32, picks: u32, tokens: u32 }
var<immediate> p: Combine;

@group(0) @binding(0) var<storage, read> results: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let at = (group.x + group.y * groups.x) * WG + index;
  let token = at / p.quads;
  let quad = at % p.quads;
  if (token >= p.tokens) { return; }
  var sum = vec4<f32>(0.0);
  for (var i = 0u; i < p.picks; i++) {
    let route = token * p.picks + i;
    sum += weights[route] * results[route * p.quads + quad];
  }
  x[at] += sum;
}
