// The rotation of SQINT2, R = T M, on one vector for each y of the grid: signs,
// then Hadamard blocks of BLOCK = 2^LOG columns (M); where BLOCK does not divide
// the columns, signs and a Hadamard matrix of the last BLOCK of them (T).
//
//   MAIN, TAIL: M, T. Both in one dispatch where a workgroup holds the vector,
//               else T follows M (with INVERSE M follows T).
//   INVERSE:    R^T.
//   IN_PLACE:   reads what it overwrites.
//   NORMED:     rotates the RMS norm x * gain / sqrt(mean(x^2) + eps) (arXiv
//               1910.07467) of a vector.
//   GATED:      rotates activation(gate) * up (SILU, GELU_TANH or neither:
//               activation.wgsl).
//   EMIT:       writes the result's coded form and sums, too (see `emit`).
//
// A workgroup has SPACE floats: M is done by segments of so many columns.

struct Rotate {
  // Columns, and floats from vector to vector; BLOCK^-1/2.
  cols: u32, stride: u32, unit: f32,
  // Of the norm; number of the first vector that is read.
  eps: f32, first: u32,
}
var<immediate> p: Rotate;

//: if !IN_PLACE
// Zero from the columns to the stride.
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
//: end
//: if NORMED|GATED
// The gain, or what is gated.
@group(0) @binding(3) var<storage, read> companions: array<vec4<f32>>;
//: end
//: if NORMED
//: use total
//: end
//: if GATED
//: use activation
//: end
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
// A bit for each column, then, from a whole word on, for each of the tail.
@group(0) @binding(2) var<storage, read> signs: array<u32>;

//: if EMIT
//: use emit
//: end

var<workgroup> values: array<f32, SPACE>;

//: if !IN_PLACE
fn keep_four(first: u32, v: vec4<f32>) {
//: each k 4
  values[first + $ku] = v[$k];
//: end
}
//: end

// `factor` times `count` values from `first` on, negated where bits from number `bit`
// on are 1.
fn flip(index: u32, first: u32, count: u32, bit: u32, factor: f32) {
  for (var i = index; i < count; i += WG) {
    let sign = (signs[(bit + i) >> 5u] >> ((bit + i) & 31u)) << 31u;
    values[first + i] = factor * bitcast<f32>(bitcast<u32>(values[first + i]) ^ sign);
  }
  workgroupBarrier();
}

// Hadamard matrices of order BLOCK on `count` values from `first` on.
fn hadamard(index: u32, first: u32, count: u32) {
//: if ODD
  let factor = select(1.0, p.unit, LOG == 1u);
  for (var i = index; i < count / 2u; i += WG) {
    let a = values[first + 2u * i];
    let b = values[first + 2u * i + 1u];
    values[first + 2u * i] = factor * (a + b);
    values[first + 2u * i + 1u] = factor * (a - b);
  }
  workgroupBarrier();
//: end
  for (var step = LOG & 1u; step + 1u < LOG; step += 2u) {
    let h = 1u << step;
    let factor = select(1.0, p.unit, step + 2u == LOG);
    for (var i = index; i < count / 4u; i += WG) {
      let at = first + (i >> step) * 4u * h + (i & (h - 1u));
      let a = values[at] + values[at + h];
      let b = values[at] - values[at + h];
      let c = values[at + 2u * h] + values[at + 3u * h];
      let d = values[at + 2u * h] - values[at + 3u * h];
      values[at] = factor * (a + c);
      values[at + h] = factor * (b + d);
      values[at + 2u * h] = factor * (a - c);
      values[at + 3u * h] = factor * (b - d);
    }
    workgroupBarrier();
  }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
//: if MAIN
  let start = group.x * SPACE;
  let count = min(p.cols - start, SPACE);
  let covered = count / BLOCK * BLOCK;
//: else
  let start = p.cols - BLOCK;
  let count = BLOCK;
//: end
  let tail = count - BLOCK;
  let tail_bit = (p.cols + 31u) / 32u * 32u;
  let at = group.y * p.stride + start;
  let source = (p.first + group.y) * p.stride / 4u;
  var factor = 1.0;
//: if IN_PLACE
  for (var i = index; i < count; i += WG) { values[i] = y[at + i]; }
  workgroupBarrier();
//: else
//: if NORMED
  // Every workgroup sums the squares of the whole vector.
  let own = (count + 3u) / 4u;
  var squares = 0.0;
  for (var i = index; i < p.stride / 4u; i += WG) {
    let v = x[source + i];
    squares += dot(v, v);
    let to = i - start / 4u;
    if (i >= start / 4u && to < own) { keep_four(4u * to, v * companions[i]); }
  }
  factor = inverseSqrt(workgroup_sum(squares, index) / f32(p.cols) + p.eps);
//: else
  for (var i = index; i < (count + 3u) / 4u; i += WG) {
//: if GATED
    let quad = source + start / 4u + i;
    keep_four(4u * i, activation(x[quad]) * companions[quad]);
//: else
    keep_four(4u * i, x[source + start / 4u + i]);
//: end
  }
  workgroupBarrier();
//: end
//: end
//: if INVERSE
//: if TAIL
  hadamard(index, tail, BLOCK);
  flip(index, tail, BLOCK, tail_bit, 1.0);
//: end
//: if MAIN
  hadamard(index, 0u, covered);
  flip(index, 0u, count, start, factor);
//: end
//: else
//: if MAIN
  flip(index, 0u, count, start, factor);
  hadamard(index, 0u, covered);
//: end
//: if TAIL
  flip(index, tail, BLOCK, tail_bit, 1.0);
  hadamard(index, tail, BLOCK);
//: end
//: end
  for (var i = index; i < count; i += WG) { y[at + i] = values[i]; }
//: if !IN_PLACE
  // Padding is zero.
  if (start + count == p.cols) {
    for (var i = p.cols + index; i < p.stride; i += WG) { y[group.y * p.stride + i] = 0.0; }
  }
//: end
//: if EMIT
  // Blocks of 32 are whole in a segment, but for the last one's padding.
  let padded = (count + 31u) / 32u * 32u;
  for (var i = count + index; i < padded; i += WG) { values[i] = 0.0; }
  workgroupBarrier();
  for (var first = 0u; first < padded / 4u; first += WG) {
    let quad = first + index;
    let inside = quad < padded / 4u;
    var v = vec4<f32>(0.0);
    if (inside) { v = vec4<f32>(values[4u * quad], values[4u * quad + 1u], values[4u * quad + 2u], values[4u * quad + 3u]); }
    emit(index, (group.y * p.stride + start) / 4u + quad, inside, v);
  }
//: end
}
