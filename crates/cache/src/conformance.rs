//! What every store must do, as tests, and the servers to run them against.

pub mod server;
