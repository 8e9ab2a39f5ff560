//! A cache framework for actix-web.

pub mod backend;
pub mod clock;
mod error;
#[cfg(feature = "template")]
pub mod template;
mod timeout;

pub mod settings {
    #![allow(missing_docs)]
    pub struct SettingsError;
}
pub struct Cache;
pub use error::{Error, Result, Source};
pub use timeout::{DEFAULT_TIMEOUT, Expiry, Timeout};
