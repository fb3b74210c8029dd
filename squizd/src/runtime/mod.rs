//! The reference runtime: decoder-only transformers on the CPU, weights read in
//! place from their stored blocks.
//!
//! ```text
//! SquizdRef ─ FileWeights ─ Model::new ──── Session::new ─── forward(tokens) → logits
//!             by role       checks every    cache, buffers   batches: unpacked strips × inputs
//!                           tensor                           one token: the codec's own kernel
//! ```
//!
//! Per block, with RMS norm `N` (arXiv 1910.07467), attention `A` and gated
//! feed-forward `F`: `x += P(A(N(x)))`, then `x += P(F(N(x)))`, where `P` is the
//! identity or, in Gemma, one more norm. All arithmetic is `f32`; with
//! [`Precision::Q8`](crate::codec::Precision::Q8) the inputs of products are
//! rounded to 8 bits where the codec's weights are integers. Work is spread over the current rayon pool;
//! results do not depend on the number of threads.

mod attention;
mod cache;
#[cfg(test)]
pub(crate) mod family_tests;
mod ffn;
mod forward;
mod gemm;
mod generate;
pub(crate) mod gram;
pub(crate) mod lanes;
mod linear;
mod load;
mod math;
mod memory;
mod model;
mod observe;
mod rope;
mod sequence;
mod session;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod weights;

pub use cache::KvType;
pub use generate::{GenerateOptions, Generated, StopReason, generate, generate_from, generate_greedy};
#[cfg(feature = "gpu")]
pub(crate) use linear::Linear;
pub use memory::{MemoryNeed, Run, StoredSize};
pub use model::Model;
#[cfg(feature = "gpu")]
pub(crate) use model::{Ffn, Layer};
pub use observe::{InputShape, Observer};
#[cfg(feature = "gpu")]
pub(crate) use rope::Frequencies;
pub use sequence::{
    EachId, EachLogits, Likely, Sequence, Sequences, keep_likeliest, likeliest, likeliest_of,
};
pub use session::{Session, SessionOptions};
pub use weights::{FileWeights, Stored, Weights};
