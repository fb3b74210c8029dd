//! The input vector of a matvec, in the forms the kernels read.

/// How a kernel may read the activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32-bit floats throughout; the reference.
    F32,
    /// 8-bit integers with one scale per 32 values (as llama.cpp does):
    /// integer dot products, about 0.4% relative error of each product sum.
    #[default]
    Q8,
}

/// One input vector.
#[derive(Debug)]
pub struct Activation<'a> {
    x: &'a [f32],
    precision: Precision,
}

impl<'a> Activation<'a> {
    /// Prepares `x` (one value per matrix column) for kernels of `precision`.
    pub fn new(x: &'a [f32], precision: Precision) -> Self {
        Self { x, precision }
    }

    /// The values.
    pub fn x(&self) -> &'a [f32] {
        self.x
    }

    /// How kernels read the values.
    pub fn precision(&self) -> Precision {
        self.precision
    }
}
