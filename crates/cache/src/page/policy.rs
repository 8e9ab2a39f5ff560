//! The rules of the page cache as pure functions: data and time in, decision out.

pub mod cache_control;
pub mod request;
pub mod response;

use std::{fmt, time::Duration};

pub use request::Bypass;
pub use response::NotStored;

/// The name of this cache in `Cache-Status` (RFC 9211, section 2).
pub const CACHE_NAME: &str = "larder";

/// What became of a request at the page cache. [`PageCache`](super::PageCache) leaves it in the extensions of the
/// request, for request logging to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageOutcome {
    /// The page came from the cache.
    Hit {
        /// For how long the page would still be used.
        ttl: Option<Duration>,
    },
    /// The page was made and stored.
    Stored {
        /// For how long the page will be used.
        ttl: Duration,
    },
    /// The page was made, and may not be stored.
    NotStored(NotStored),
    /// The request was let through without a look at the cache.
    Bypass(Bypass),
}

impl PageOutcome {
    /// Returns the value of the `Cache-Status` field; the reason stands in it only if `debug`, since it tells
    /// strangers how the site works (RFC 9211, section 6).
    pub fn cache_status(&self, debug: bool) -> String {
        let detail = |reason: &dyn fmt::Display| if debug { format!("; detail=\"{reason}\"") } else { String::new() };
        match self {
            PageOutcome::Hit { ttl: Some(ttl) } => format!("{CACHE_NAME}; hit; ttl={}", ttl.as_secs()),
            PageOutcome::Hit { ttl: None } => format!("{CACHE_NAME}; hit"),
            PageOutcome::Stored { ttl } => format!("{CACHE_NAME}; fwd=uri-miss; stored; ttl={}", ttl.as_secs()),
            PageOutcome::NotStored(reason) => format!("{CACHE_NAME}; fwd=uri-miss{}", detail(reason)),
            PageOutcome::Bypass(reason @ Bypass::Method) => format!("{CACHE_NAME}; fwd=method{}", detail(reason)),
            PageOutcome::Bypass(reason) => format!("{CACHE_NAME}; fwd=bypass{}", detail(reason)),
        }
    }
}

/// One word for a log line, with the reason where there is one: `hit`, `stored`, `not-stored:set-cookie`.
impl fmt::Display for PageOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PageOutcome::Hit { .. } => f.write_str("hit"),
            PageOutcome::Stored { .. } => f.write_str("stored"),
            PageOutcome::NotStored(reason) => write!(f, "not-stored:{reason}"),
            PageOutcome::Bypass(reason) => write!(f, "bypass:{reason}"),
        }
    }
}
