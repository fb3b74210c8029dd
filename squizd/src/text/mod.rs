//! Text in, text out: tokenizer, chat template and sampler.
//!
//! ```text
//! messages --ChatTemplate--> text --Tokenizer::encode_chat--> ids --model--> logits
//!          text <-StopMatcher- text <-----StreamDecoder-------- id  <-Sampler-'
//! ```
//!
//! A `.squizd` file comes from anywhere, so its tokenizer and its template are
//! hostile input: every component is checked against an allow-list and capped
//! before a library sees it, and templates run in a sandbox.

mod chat;
mod penalties;
mod sampler;
mod stop;
mod tokenizer;

pub use chat::{ChatTemplate, Date, Message, RenderOptions};
pub use penalties::Penalties;
pub use sampler::{Sampler, SamplerOptions};
pub use stop::StopMatcher;
pub use tokenizer::{StreamDecoder, Tokenizer};
