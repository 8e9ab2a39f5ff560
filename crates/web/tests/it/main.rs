//! The app as its users have it: the real binary, real HTTP, real stores.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admin;
mod cli;
mod edit;
mod outage;
mod pages;
mod site;
