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

pub mod gguf;
mod json;
mod pieces;
mod pretokenizer;

pub use gguf::GgufVocab;
