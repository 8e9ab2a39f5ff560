//! Every case of the conformance suite on every store, by name.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attacks;
mod chaos;
mod clients;
mod custom;
mod dependencies;
mod handles;
mod http;
mod levels;
mod loading;
mod marks;
mod mishaps;
mod model;
mod open;
mod orders;
mod outage;
mod page;
mod processes;
mod proxy;
mod races;
mod round_trips;
mod simulation;
mod stores;
mod storm;
mod tracking;
