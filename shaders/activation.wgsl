// The activation of a gate.
//
//   SILU: x / (1 + e^-x); GELU_TANH: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)));
//   neither: 0.5 x (1 + erf(x / sqrt 2)), erf as Abramowitz and Stegun 7.1.26.

fn activation(x: vec4<f32>) -> vec4<f32> {
//: if SILU
  return x / (1.0 + exp(-x));
//: else
//: if GELU_TANH
  let inner = 0.7978846 * x * (1.0 + 0.044715 * x * x);
  return 0.5 * x * (1.0 + tanh(clamp(inner, vec4<f32>(-15.0), vec4<f32>(15.0))));
//: else
  let z = abs(x) * 0.70710677;
  let t = 1.0 / (1.0 + 0.3275911 * z);
  let poly = ((((1.0614054 * t - 1.4531521) * t + 1.4214138) * t - 0.28449672) * t + 0.2548296) * t;
  return 0.5 * x * (1.0 + sign(x) * (1.0 - poly * exp(-z * z)));
//: end
//: end
}
