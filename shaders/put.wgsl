// Outputs, and what is added to them.

@group(0) @binding(6) var<storage, read_write> y: array<f32>;
//: if EXPERTS
@group(0) @binding(7) var<storage, read> experts: array<u32>;
//: end
//: if BIAS
@group(0) @binding(7) var<storage, read> bias: array<f32>;
//: end

// What becomes of the sum of output `row`, to be written at `at`.
fn put(at: u32, row: u32, sum: f32) {
  var value = sum;
//: if BIAS
  value += bias[row];
//: end
//: if ACCUMULATE
  value += y[at];
//: end
  y[at] = value;
}
