//! Activation-aware scaling (AWQ, arXiv 2306.00978): before they are quantized,
//! weight columns that read loud input channels are scaled up, and whatever
//! produces the input is scaled down in turn, so that the function of the model
//! stays and the rounding errors of loud channels shrink.
//!
//! ```text
//! y = W x,  x = g * n          g: gain of the norm before, n: normalised stream
//!   = (W diag(s)) (x / s)      columns of every W that reads x times s, once
//!                              g / s, once for all of them
//! ```
//!
//! What produces an input is a norm shared by several projections (query, key
//! and value; gate and up, in a mixture the router and all experts too), the
//! value projection (for the attention output), or the up projection (for
//! down). Gains are divided once, whatever the number of projections that read
//! them, and stay 32-bit floats.
//!
//! Scales are `s = rms(x)^alpha`, with a geometric mean of one. `alpha` is
//! searched per group by the error that the planned codecs really make on
//! sampled rows, as it reaches the outputs ([`search`]); 0 leaves the group
//! alone.

mod group;
mod scaled;
mod search;
#[cfg(test)]
mod tests;

pub use scaled::{ScaledCalibration, ScaledSource};
pub use search::{ALPHAS, search};

use std::{collections::BTreeMap, sync::Arc};

/// The factors of a model's tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scales {
    /// What was found, in the order of the layers.
    pub groups: Vec<GroupScale>,
    /// By tensor index.
    tensors: BTreeMap<usize, Factors>,
    /// Column factors by input name, as the calibration must follow them.
    inputs: BTreeMap<String, Arc<Sets>>,
}

/// One group's outcome.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct GroupScale {
    /// The input that was scaled, by name.
    pub input: String,
    /// Exponent; 0 for none.
    pub alpha: f32,
    /// Error at the outputs over that without scaling.
    pub error_ratio: f64,
    /// Largest factor.
    pub max_scale: f32,
}

/// Column factors: one set for all rows, or one for each expert of a stack.
type Sets = Vec<Vec<f32>>;

/// What one tensor's values are multiplied with.
#[derive(Clone, Debug, Default, PartialEq)]
struct Factors {
    /// Columns times these.
    columns: Option<Arc<Sets>>,
    /// Columns (of a norm's gain) divided by these.
    gain: Option<Arc<Sets>>,
    /// Rows divided by these, one for each row of the matrix view.
    rows: Option<Arc<Vec<f32>>>,
}

impl Scales {
    /// Whether nothing is scaled.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Whether the values of tensor `index` change.
    pub fn changes(&self, index: usize) -> bool {
        self.tensors.contains_key(&index)
    }
}
