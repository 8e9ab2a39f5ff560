//! A cache framework for actix-web.

pub mod backend;
mod breaker;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod timeout;

pub mod settings {
    #![allow(missing_docs)]
    pub struct SettingsError;
}
pub struct Cache;
pub use error::{Error, Result, Source};
pub use timeout::{DEFAULT_TIMEOUT, Expiry, Timeout};
