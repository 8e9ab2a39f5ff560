//! The rules of the page cache as pure functions: data and time in, decision out.

pub mod cache_control;
pub mod coding;
pub mod conditional;
pub mod freshness;
pub mod query;
pub mod range;
pub mod request;
pub mod response;
pub mod targeted;

use std::fmt;

use actix_web::http::header::HeaderValue;
pub use request::Bypass;
pub use response::NotStored;

/// The name of this cache in `Cache-Status` (RFC 9211, section 2).
pub const CACHE_NAME: &str = "larder";

/// Why a request went on to its view (RFC 9211, section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Forward {
    /// Nothing is stored for its address.
    UriMiss,
    /// Something is stored for its address, but not for its headers.
    VaryMiss,
    /// What is stored is no longer fresh.
    Stale,
    /// What is stored is fresh, and the request wants it made anew.
    Request,
}

/// What became of a request at the page cache. [`PageCache`](super::PageCache) leaves it in the extensions of the
/// request, for request logging to print. Times are those for which the page is fresh yet, in seconds; negative for one
/// that is stale.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PageOutcome {
    /// The page came from the cache.
    Hit {
        /// For how long the page is fresh yet.
        ttl: i64,
    },
    /// Another request made the page, and this one waited for it.
    Collapsed {
        /// For how long the page is fresh yet.
        ttl: i64,
    },
    /// The page was made and stored.
    Stored {
        /// Why it was made.
        forward: Forward,
        /// For how long the page is fresh.
        ttl: i64,
    },
    /// The view said that what is stored has not changed.
    Revalidated {
        /// For how long the page is fresh again.
        ttl: i64,
    },
    /// The page could not be made, and what is stored was served.
    StaleIfError {
        /// What the view answered.
        status: u16,
        /// For how long the page has been stale, as a negative number.
        ttl: i64,
    },
    /// The page was made, and may not be stored.
    NotStored {
        /// Why it was made.
        forward: Forward,
        /// Why it was not stored.
        reason: NotStored,
    },
    /// The client wanted nothing but a stored page, and there is none.
    OnlyIfCached,
    /// The request was let through without a look at the cache.
    Bypass(Bypass),
}

impl PageOutcome {
    /// Returns the value of the `Cache-Status` field; the reason stands in it only if `debug`, since it tells
    /// strangers how the site works (RFC 9211, section 6).
    pub fn cache_status(&self, debug: bool) -> String {
        let detail = |reason: &dyn fmt::Display| if debug { format!("; detail=\"{reason}\"") } else { String::new() };
        match self {
            PageOutcome::Hit { ttl } => format!("{CACHE_NAME}; hit; ttl={ttl}"),
            PageOutcome::Collapsed { ttl } => format!("{CACHE_NAME}; fwd=uri-miss; collapsed; ttl={ttl}"),
            PageOutcome::Stored { forward, ttl } => format!("{CACHE_NAME}; fwd={forward}; stored; ttl={ttl}"),
            PageOutcome::Revalidated { ttl } => format!("{CACHE_NAME}; fwd=stale; fwd-status=304; stored; ttl={ttl}"),
            PageOutcome::StaleIfError { status, ttl } => {
                format!("{CACHE_NAME}; fwd=stale; fwd-status={status}; ttl={ttl}{}", detail(&"stale-if-error"))
            }
            PageOutcome::NotStored { forward, reason } => format!("{CACHE_NAME}; fwd={forward}{}", detail(reason)),
            PageOutcome::OnlyIfCached => format!("{CACHE_NAME}; fwd=request{}", detail(&"only-if-cached")),
            PageOutcome::Bypass(reason @ Bypass::Method) => format!("{CACHE_NAME}; fwd=method{}", detail(reason)),
            PageOutcome::Bypass(reason) => format!("{CACHE_NAME}; fwd=bypass{}", detail(reason)),
        }
    }
}

impl PageOutcome {
    /// Returns it as a field.
    pub(super) fn field(&self, debug: bool, key: Option<&str>) -> HeaderValue {
        let mut field = self.cache_status(debug);
        // A string of RFC 8941 holds visible ASCII, escaped as Rust does it.
        if let Some(key) = key.filter(|key| key.bytes().all(|byte| matches!(byte, 0x20..=0x7e))) {
            field += &format!("; key={key:?}");
        }
        // A reason is a word of ours or of the view's type; visible ASCII is always a valid value.
        HeaderValue::try_from(field).unwrap_or(HeaderValue::from_static(CACHE_NAME))
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Forward::UriMiss => "uri-miss",
            Forward::VaryMiss => "vary-miss",
            Forward::Stale => "stale",
            Forward::Request => "request",
        })
    }
}

/// One word for a log line, with the reason where there is one: `hit`, `stored`, `not-stored:set-cookie`.
impl fmt::Display for PageOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PageOutcome::Hit { ttl: 1.. } => f.write_str("hit"),
            PageOutcome::Hit { .. } => f.write_str("stale"),
            PageOutcome::Collapsed { .. } => f.write_str("waited"),
            PageOutcome::Stored { .. } => f.write_str("stored"),
            PageOutcome::Revalidated { .. } => f.write_str("revalidated"),
            PageOutcome::StaleIfError { .. } => f.write_str("stale-if-error"),
            PageOutcome::NotStored { reason, .. } => write!(f, "not-stored:{reason}"),
            PageOutcome::OnlyIfCached => f.write_str("only-if-cached"),
            PageOutcome::Bypass(reason) => write!(f, "bypass:{reason}"),
        }
    }
}
