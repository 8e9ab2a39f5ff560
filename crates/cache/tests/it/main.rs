//! Every case of the conformance suite on every store, by name.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod custom;
#[cfg(feature = "page")]
mod page;
mod stores;
