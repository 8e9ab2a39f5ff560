//! Every case of the conformance suite on every store, by name.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod custom;
mod dependencies;
mod handles;
mod levels;
mod outage;
mod page;
mod simulation;
mod stores;
