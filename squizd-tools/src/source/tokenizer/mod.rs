//! Tokenizers of foreign files, rebuilt as one form: a Hugging Face `tokenizer.json`.
//!
//! ```text
//! GGUF arrays      --gguf::GgufVocab-----\
//!                                         >-- json::Spec --> tokenizer.json
//! tokenizer.model  --sentencepiece::Model-/
//! ```
//!
//! A vocabulary is hostile input: every count, length, id and reference is
//! checked, and errors name the index.

mod checks;
pub mod gguf;
mod json;
mod pieces;
mod pretokenizer;
mod protobuf;
pub mod sentencepiece;

#[cfg(test)]
mod tests;

pub use gguf::GgufVocab;
