//! A cache framework for actix-web: per site, per view, per template fragment, and any value.
//!
//! - [`Cache`] keeps any value under a key. [`Caches`] is the table of them, from the settings.
//! - `page` caches whole responses: `PageCache` around the app, `cache_page` on a view (feature `page`).
//! - `template` gives Tera templates the block `{% cache %}` (feature `template`).
//! - [`backend`] has the stores: local memory, Memcached, a database table, files, none, or your own.
//!
//! Every feature works on every store. A store that is down makes a site slow, not broken.

mod alias;
pub mod backend;
mod breaker;
mod cache;
mod caches;
mod chance;
pub mod clock;
mod codec;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod dependencies;
mod envelope;
mod error;
pub mod events;
pub mod explain;
mod fill;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod generation;
mod key;
mod load;
#[cfg(feature = "page")]
pub mod page;
pub mod settings;
mod tags;
#[cfg(feature = "template")]
pub mod template;
mod timeout;
pub mod transaction;

pub use cache::{BlockingCache, Cache};
pub use caches::{BackendContext, Caches, CachesBuilder};
pub use codec::Format;
pub use error::{Error, Result, Source};
pub use key::{InvalidKeys, Key, Kind, MAX_KEY_BYTES, MAX_PREFIX_BYTES};
pub use load::{DEFAULT_MAX_WAIT, DEFAULT_RETRY_AFTER, Load, LoadError, LoadOptions, Span};
pub use timeout::{DEFAULT_TIMEOUT, Expiry, Timeout};

/// The code in the repository's pages, compiled and run as doctests; no part of the crate.
#[cfg(all(doctest, feature = "page", feature = "template"))]
mod prose {
    #[doc = include_str!("../../../README.md")]
    mod readme {}
    #[doc = include_str!("../README.md")]
    mod crate_readme {}
    #[doc = include_str!("../../../docs/guide.md")]
    mod guide {}
}
