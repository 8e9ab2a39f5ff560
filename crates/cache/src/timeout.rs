//! How long an entry lasts: what the caller says ([`Timeout`]) and what a store is told ([`Expiry`]).

use std::time::Duration;

use crate::clock::Timestamp;

/// Django's default for `TIMEOUT`: five minutes.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a value shall last, as the caller says it.
///
/// Converts from whole seconds, fractions of seconds, a [`Duration`], and an `Option` of these where `None` is
/// for ever. Zero and negative numbers mean that the value has expired already, and so does a number that is not one.
///
/// # Examples
/// ```
/// use larder_cache::Timeout;
/// use std::time::Duration;
///
/// assert_eq!(Timeout::from(60), Timeout::After(Duration::from_secs(60)));
/// assert_eq!(Timeout::from(-1), Timeout::After(Duration::ZERO));
/// assert_eq!(Timeout::from(None::<u64>), Timeout::Never);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Timeout {
    /// What the settings of the alias say; 300 seconds unless they say otherwise.
    #[default]
    Default,
    /// The value does not expire. The store may still evict it for space.
    Never,
    /// The value expires after this time; zero means that it has expired already.
    After(Duration),
}

impl Timeout {
    /// Returns this timeout, or `default` where it leaves the choice to the settings.
    pub fn or(self, default: Timeout) -> Timeout {
        if self == Timeout::Default { default } else { self }
    }

    /// Returns when a value stored `now` expires; `None` if it has expired already.
    pub fn expiry(self, now: Timestamp) -> Option<Expiry> {
        match self {
            Timeout::Default => Timeout::After(DEFAULT_TIMEOUT).expiry(now),
            Timeout::Never => Some(Expiry::Never),
            Timeout::After(duration) if duration < Duration::from_millis(1) => None,
            Timeout::After(duration) => Some(Expiry::At(now.saturating_add(duration))),
        }
    }
}

impl From<Duration> for Timeout {
    fn from(duration: Duration) -> Self {
        Timeout::After(duration)
    }
}

impl From<u64> for Timeout {
    fn from(seconds: u64) -> Self {
        Timeout::After(Duration::from_secs(seconds))
    }
}

impl From<u32> for Timeout {
    fn from(seconds: u32) -> Self {
        u64::from(seconds).into()
    }
}

impl From<i64> for Timeout {
    fn from(seconds: i64) -> Self {
        u64::try_from(seconds).unwrap_or(0).into()
    }
}

impl From<i32> for Timeout {
    fn from(seconds: i32) -> Self {
        i64::from(seconds).into()
    }
}

impl From<f64> for Timeout {
    fn from(seconds: f64) -> Self {
        if seconds > 0.0 {
            Timeout::After(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
        } else {
            Timeout::After(Duration::ZERO)
        }
    }
}

impl<T: Into<Timeout>> From<Option<T>> for Timeout {
    fn from(seconds: Option<T>) -> Self {
        seconds.map_or(Timeout::Never, Into::into)
    }
}

/// When a stored value stops to be there, as a store is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Not by time.
    Never,
    /// From this moment on the value is missing.
    At(Timestamp),
}

impl Expiry {
    /// Tells whether a value with this expiry is missing at `now`.
    pub fn has_passed(self, now: Timestamp) -> bool {
        matches!(self, Expiry::At(moment) if moment <= now)
    }

    /// Returns whichever comes first.
    pub(crate) fn or_earlier(self, other: Expiry) -> Self {
        match (self, other) {
            (Expiry::At(one), Expiry::At(other)) => Expiry::At(one.min(other)),
            (Expiry::Never, moment) | (moment, Expiry::Never) => moment,
        }
    }

    /// Returns the time left at `now`; `None` if the value does not expire.
    pub fn remaining(self, now: Timestamp) -> Option<Duration> {
        match self {
            Expiry::Never => None,
            Expiry::At(moment) => Some(moment.saturating_since(now)),
        }
    }

    /// Returns the expiry as milliseconds since 1970, with 0 for never: the form that stores keep in a column.
    pub fn to_millis(self) -> u64 {
        match self {
            Expiry::Never => 0,
            Expiry::At(moment) => moment.as_millis(),
        }
    }

    /// Reads what [`Expiry::to_millis`] wrote.
    pub fn from_millis(millis: u64) -> Self {
        if millis == 0 { Expiry::Never } else { Expiry::At(Timestamp::from_millis(millis)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    #[test]
    fn zero_negative_and_odd_numbers_have_expired_already() {
        for timeout in [
            Timeout::from(0),
            Timeout::from(-5),
            Timeout::from(0.0),
            Timeout::from(f64::NAN),
            Timeout::from(-0.5),
            Timeout::from(Duration::ZERO),
        ] {
            assert_eq!(timeout.expiry(NOW), None, "{timeout:?}");
        }
    }

    #[test]
    fn a_default_comes_from_the_settings_and_else_is_django_s() {
        assert_eq!(Timeout::Default.or(Timeout::from(60)), Timeout::from(60));
        assert_eq!(Timeout::from(5).or(Timeout::from(60)), Timeout::from(5));
        assert_eq!(Timeout::Default.expiry(NOW), Some(Expiry::At(Timestamp::from_millis(1_300_000))));
    }

    #[test]
    fn an_expiry_passes_at_its_moment_not_after_it() {
        let expiry = Timeout::from(1).expiry(NOW).unwrap();
        assert!(!expiry.has_passed(Timestamp::from_millis(1_000_999)));
        assert!(expiry.has_passed(Timestamp::from_millis(1_001_000)));
        assert!(!Expiry::Never.has_passed(Timestamp::from_millis(u64::MAX)));
    }

    #[test]
    fn a_huge_timeout_saturates() {
        let expiry = Timeout::from(f64::MAX).expiry(NOW).unwrap();
        assert_eq!(expiry, Expiry::At(Timestamp::from_millis(u64::MAX)));
    }
}
