//! Every case of the conformance suite on every store, by name.

mod stores;
