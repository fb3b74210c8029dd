//! OpenAI's requests and replies: the subset that `docs/server.md` lists.
//! Parameters outside it are refused by name, never passed over, unless they
//! cannot change the answer.

mod chat;
mod completion;
mod fields;
mod params;
mod reply;
#[cfg(test)]
mod tests;

pub(crate) use chat::ChatRequest;
pub(crate) use completion::{CompletionRequest, Prompt};
pub(crate) use fields::Fields;
pub(crate) use params::Common;
pub(crate) use reply::{DONE, Kind, Reply, data};
