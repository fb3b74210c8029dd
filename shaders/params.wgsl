// What a dispatch over one piece of a stored matrix is told.

struct Params {
  // Rows of the piece, columns, units of a row, number of the piece's first row.
  rows: u32, cols: u32, units: u32, first: u32,
  // Of each plane: byte of row 0 in its binding, and bytes from row to row.
  base: vec4<u32>,
  stride: vec4<u32>,
  // Numbers of the codec.
  extra: vec4<u32>,
  // Inputs, numbers from one to the next, likewise of outputs, a factor (f32).
  tokens: u32, x_stride: u32, y_stride: u32, factor: f32,
  // Layers of the grid that share an input, and rows of a stacked matrix.
  share: u32, expert_rows: u32,
}
//: if JOINED
var<immediate> told: Params;
// Of the matrix that the workgroup takes part in.
var<private> p: Params;
//: else
var<immediate> p: Params;
//: end
