//! What can go wrong in a cache, by what the caller can do about it.
//!
//! A miss is not an error: it is `Ok(None)`. Settings have an error of their own,
//! [`SettingsError`](crate::settings::SettingsError), because they stop the start and nothing later does.

use std::{error, fmt, io};

/// The cause of an [`Error`], as the library underneath reported it.
pub type Source = Box<dyn error::Error + Send + Sync>;

/// Why a cache operation failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The key is too long or holds bytes the store cannot take, and the alias refuses such keys.
    InvalidKey {
        /// The key as the caller gave it.
        key: String,
        /// What is wrong with it, and the way out.
        reason: String,
    },
    /// The store cannot hold a value of this size. After a `set` the old value of the key is gone.
    ValueTooLarge {
        /// The final key.
        key: String,
        /// Size of the value as it would be stored.
        bytes: usize,
        /// The most that the store takes.
        limit: usize,
    },
    /// `incr`, `decr`, `incr_version` or `decr_version` met a key that is not there.
    KeyNotFound {
        /// The key as the caller gave it.
        key: String,
    },
    /// `incr` or `decr` met a value that is not an integer, or would leave the range of `i64`.
    NotACounter {
        /// The final key.
        key: String,
        /// What stands in the way.
        reason: &'static str,
    },
    /// A value could not be turned into bytes.
    Encode {
        /// The key as the caller gave it.
        key: String,
        /// What the encoder said.
        source: Source,
    },
    /// The store did not answer, refused, or is being left alone because it failed just now.
    Unavailable {
        /// The store, as the operator knows it: `memcached 127.0.0.1:11211`.
        store: String,
        /// What the far side or the network said.
        source: Source,
    },
    /// So many operations wait for a blocking store that one more would not be answered in time.
    Overloaded {
        /// The alias whose queue is full.
        alias: String,
    },
    /// The alias is not in the settings.
    UnknownAlias {
        /// The alias that was asked for.
        alias: String,
        /// The aliases there are.
        known: Vec<String>,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Returns an [`Error::Unavailable`] for a store and what it reported.
    pub fn unavailable(store: impl Into<String>, source: impl Into<Source>) -> Self {
        Error::Unavailable { store: store.into(), source: source.into() }
    }

    /// Tells whether the store is to blame, rather than the key or the value.
    ///
    /// Such errors count against the circuit breaker of the store, and reads treat them as a miss.
    pub fn is_outage(&self) -> bool {
        matches!(self, Error::Unavailable { .. } | Error::Overloaded { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::InvalidKey { key, reason } => write!(f, "cache key {key:?} cannot be used: {reason}"),
            Error::ValueTooLarge { key, bytes, limit } => write!(
                f,
                "value of {bytes} bytes for key {key} is too large: the store takes {limit}; \
                 cache less, or raise the store's limit (memcached: -I)"
            ),
            Error::KeyNotFound { key } => write!(f, "key {key:?} not found; set or add it first"),
            Error::NotACounter { key, reason } => write!(f, "key {key} cannot be counted up or down: {reason}"),
            Error::Encode { key, .. } => write!(f, "value for key {key:?} cannot be encoded"),
            Error::Unavailable { store, .. } => write!(f, "{store} is not available"),
            Error::Overloaded { alias } => {
                write!(f, "too many operations wait for cache {alias}; it is slower than what is asked of it")
            }
            Error::UnknownAlias { alias, known } => {
                write!(f, "there is no cache {alias:?} in the settings; there is {}", known.join(", "))
            }
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Error::Encode { source, .. } | Error::Unavailable { source, .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}

/// Writes an error and its causes in one line, for the log.
pub(crate) struct Causes<'a>(pub(crate) &'a (dyn error::Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::other(error)
    }
}
