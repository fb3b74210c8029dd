// Matrices with one input in one dispatch, each with workgroups of its own.

// A matrix of several: its workgroups and rows, and where its outputs and biases
// begin.
struct Part { workgroups: u32, rows: u32, y: u32, base: vec4<u32>, extra: vec4<u32> }
@group(0) @binding(8) var<storage, read> parts: array<Part, PARTS>;

// Makes `p` that of the matrix that workgroup `number` takes part in; its number among
// those of the matrix, and where outputs begin.
fn take_part(number: u32) -> vec2<u32> {
  var own = number;
  var part = parts[0];
//: each i PARTS
  if ($iu + 1u < PARTS && own >= part.workgroups) {
    own -= part.workgroups;
    part = parts[min($iu + 1u, PARTS - 1u)];
  }
//: end
  p = told;
  p.rows = part.rows;
  p.base = part.base;
  p.extra = part.extra;
  return vec2<u32>(own, part.y);
}
