// Bit fields of words as numbers, without conversions: a field of k bits that is
// put into the mantissa of a fitting power of two counts in steps of one, and
// subtracting that power (and a centre) is exact.

// A constant that a compiler does not know to be one: it puts two known ones into
// an operation each where `(w & mask) | unseen(bits)` is one.
fn unseen(bits: u32) -> u32 { return select(bits, p.rows, p.cols == 0u); }

// A field in steps of the power of two whose mantissa it is put in, at bit `at`:
// 2^(23 - at) and as much as it says.
fn raised(w: u32, at: u32, mask: u32) -> f32 {
  return bitcast<f32>((w & (mask << at)) | unseen((150u - at) << 23u));
}

// The fields at `at` of a word's four bytes, less `centre`; at + k <= 15.
fn fields(w: u32, at: u32, mask: u32, centre: f32) -> vec4<f32> {
  let h = w >> 16u;
  let m = mask << at;
  let one = (150u - at) << 23u;
  let other = one - (8u << 23u);
  let bits = vec4<u32>(w, w, h, h) & vec4<u32>(m, m << 8u, m, m << 8u);
  let less = vec2<f32>(bitcast<f32>(one) + centre, bitcast<f32>(other) + centre);
  let raise = vec2<u32>(unseen(one), unseen(other));
  return bitcast<vec4<f32>>(bits | raise.xyxy) - less.xyxy;
}

//: if F16
fn as_halves(u: u32) -> vec2<f16> { return vec2<f16>(unpack2x16float(u)); }

// The same as halves, those of bytes 0, 2, 1, 3; at + k <= 8.
fn half_fields(w: u32, at: u32, mask: u32, centre: f16) -> vec4<f16> {
  let m = (mask << at) * 0x00010001u;
  let one = unseen(((25u - at) << 10u) * 0x00010001u);
  // Not from the bits of `one`, which Mesa 22.3 folds to another number.
  let less = vec2<f16>(f16(1024u >> at) + centre);
  return vec4<f16>(as_halves((w & m) | one) - less, as_halves(((w >> 8u) & m) | one) - less);
}
//: end
