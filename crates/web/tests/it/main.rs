//! The app as its users have it: the real binary, real HTTP, real stores.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "some tests say what they measured")]

mod admin;
mod browser;
mod caches;
mod cli;
mod crash;
mod edit;
mod exact;
mod outage;
mod pages;
mod processes;
mod site;
mod toolbar;
