//! Text in, text out: tokenizer, chat template and sampler.
//!
//! ```text
//! messages --ChatTemplate--> text --Tokenizer::encode_chat--> ids --model--> logits
//!                            text <-----StreamDecoder-------- id  <-Sampler-'
//! ```
//!
//! A `.squizd` file comes from anywhere, so its tokenizer and its template are
//! hostile input: every component is checked against an allow-list and capped
//! before a library sees it, and templates run in a sandbox.

mod chat;
mod sampler;
mod tokenizer;

pub use chat::{ChatTemplate, Date, Message, RenderOptions};
pub use sampler::{Sampler, SamplerOptions};
pub use tokenizer::{StreamDecoder, Tokenizer};
