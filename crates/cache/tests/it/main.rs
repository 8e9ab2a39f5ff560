//! Every case of the conformance suite on every store, by name.

#[cfg(feature = "page")]
mod page;
mod stores;
