//! `squizd serve` from outside: the real binary, the tiny trained model, real
//! sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod answers;
mod clients;
mod http;
mod limits;
mod matrix;
mod random;
mod server;
mod streams;
