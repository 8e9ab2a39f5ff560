//! How old a stored response is, and whether it may be used (RFC 9111, section 4.2; RFC 5861).

use std::time::{Duration, SystemTime};

use actix_web::http::header::{AGE, DATE, HeaderMap, HeaderName};

use super::cache_control::{MaxStale, RequestDirectives};
use crate::clock::Timestamp;

/// What decides for how long a stored response may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// When it was stored.
    pub stored_at: Timestamp,
    /// How old it was then already.
    pub initial_age: Duration,
    /// Up to which age it is fresh.
    pub lifetime: Duration,
    /// Whether it must be validated each time: `no-cache`.
    pub always_validate: bool,
    /// Whether it is never served stale: `must-revalidate`, `proxy-revalidate`, `s-maxage`.
    pub must_revalidate: bool,
    /// For how long after its lifetime it is served while it is made anew.
    pub stale_while_revalidate: Duration,
    /// For how long after its lifetime it is served if making it anew fails.
    pub stale_if_error: Duration,
}

/// What a stored response is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Serve it: it is fresh.
    Fresh,
    /// Serve it stale: the client takes it.
    Stale,
    /// Serve it stale, and have it made anew.
    Renew,
    /// Make it anew, or have it validated. Should that fail, it may be served if `or_stale`.
    Validate {
        /// Whether a failure is answered with the stale response.
        or_stale: bool,
        /// Whether it is only the request that wants it so.
        by_request: bool,
    },
}

impl Freshness {
    /// Returns the age at a moment: what it had when it was stored, and the time since (section 4.2.3).
    pub fn age(&self, now: Timestamp) -> Duration {
        self.initial_age.saturating_add(now.saturating_since(self.stored_at))
    }

    /// Returns for how long it is fresh yet, in seconds; negative if it is stale.
    pub fn ttl(&self, now: Timestamp) -> i64 {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        seconds(self.lifetime) - seconds(self.age(now))
    }

    /// Tells whether it can be served as it is to whoever wants nothing in particular.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        self.reuse(RequestDirectives::default(), now) == Reuse::Fresh
    }

    /// Returns it with a lifetime that ends at a moment at the latest; `None` if that has passed when it was stored.
    pub fn ending_by(self, end: Timestamp) -> Option<Self> {
        let left = end.saturating_since(self.stored_at);
        let lifetime = self.lifetime.min(self.initial_age.saturating_add(left));
        (!left.is_zero()).then_some(Freshness { lifetime, ..self })
    }

    /// Returns the moment since which it has its age.
    pub fn born(&self) -> Timestamp {
        self.stored_at.saturating_sub(self.initial_age)
    }

    /// Returns the moment from which on it is stale.
    pub fn fresh_until(&self) -> Timestamp {
        self.stored_at.saturating_add(self.lifetime.saturating_sub(self.initial_age))
    }

    /// Decides what it is good for after it was made stale by hand: as if its time had come just now.
    pub fn reuse_expired(&self, asked: RequestDirectives, now: Timestamp) -> Reuse {
        match self.reuse(asked, now) {
            Reuse::Fresh | Reuse::Stale | Reuse::Renew => {
                let or_stale = self.stale_if_error > Duration::ZERO && !self.must_revalidate;
                Reuse::Validate { or_stale, by_request: false }
            }
            validate => validate,
        }
    }

    /// Decides what it is good for.
    ///
    /// # Examples
    /// ```
    /// use larder_cache::{clock::Clock, page::policy::{cache_control::RequestDirectives, freshness::{Freshness, Reuse}}};
    /// use std::time::Duration;
    ///
    /// let (clock, hand) = Clock::manual();
    /// let page = Freshness::new(clock.now(), Duration::from_secs(60));
    /// assert_eq!(page.reuse(RequestDirectives::default(), clock.now()), Reuse::Fresh);
    /// hand.advance(Duration::from_secs(60));
    /// assert!(matches!(page.reuse(RequestDirectives::default(), clock.now()), Reuse::Validate { .. }));
    /// ```
    pub fn reuse(&self, asked: RequestDirectives, now: Timestamp) -> Reuse {
        let age = self.age(now);
        let fresh_for = self.lifetime.saturating_sub(age);
        let is_fresh = !fresh_for.is_zero() && !self.always_validate;
        let is_refused = asked.no_cache
            || asked.max_age.is_some_and(|limit| age > limit && asked.max_stale.is_none())
            || asked.min_fresh.is_some_and(|least| fresh_for < least);
        if is_fresh && !is_refused {
            return Reuse::Fresh;
        }
        let stale_for = age.saturating_sub(self.lifetime);
        // RFC 9111, section 4.2.4: some responses are never served stale.
        let may_be_stale = !self.must_revalidate && !self.always_validate;
        let or_stale = may_be_stale
            && stale_for < asked.stale_if_error.unwrap_or_default().max(self.stale_if_error)
            && !asked.no_cache;
        if is_refused || !may_be_stale {
            return Reuse::Validate { or_stale, by_request: is_fresh };
        }
        let is_taken = match asked.max_stale {
            None => false,
            Some(MaxStale::Any) => true,
            Some(MaxStale::For(limit)) => stale_for <= limit,
        };
        if is_taken {
            return Reuse::Stale;
        }
        if stale_for < self.stale_while_revalidate {
            return Reuse::Renew;
        }
        Reuse::Validate { or_stale, by_request: false }
    }

    /// Starts with a response that was made just now and is fresh for so long.
    pub fn new(stored_at: Timestamp, lifetime: Duration) -> Self {
        Freshness {
            stored_at,
            initial_age: Duration::ZERO,
            lifetime,
            always_validate: false,
            must_revalidate: false,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
        }
    }

    /// Returns for how long after `stored_at` it may still be served in some way.
    pub fn usable_for(&self) -> Duration {
        let window = if self.must_revalidate || self.always_validate {
            Duration::ZERO
        } else {
            self.stale_while_revalidate.max(self.stale_if_error)
        };
        self.lifetime.saturating_add(window).saturating_sub(self.initial_age)
    }
}

/// Returns how old a response is that comes in now: what it says in `Age` or, if that is more, the time since its `Date`
/// (RFC 9111, section 4.2.3). `took` is how long it was waited for.
pub fn age_on_arrival(headers: &HeaderMap, took: Duration, now: SystemTime) -> Duration {
    let apparent = date(headers, &DATE).and_then(|date| now.duration_since(date).ok()).unwrap_or_default();
    // Of several values the first counts (section 5.1), of what is no number none.
    let said = headers.get(AGE).and_then(|age| {
        let first = age.as_bytes().split(|byte| *byte == b',').next()?.trim_ascii();
        std::str::from_utf8(first).ok()?.parse().ok().map(Duration::from_secs)
    });
    match said {
        Some(said) => apparent.max(said.saturating_add(took)),
        // A response without one came from its origin: the clocks of the two may differ by a second.
        None if apparent <= took + Duration::from_secs(1) => Duration::ZERO,
        None => apparent,
    }
}

/// Returns the date in a field.
pub fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn page() -> Freshness {
        Freshness { initial_age: secs(10), ..Freshness::new(Timestamp::from_millis(0), secs(60)) }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    const VALIDATE: Reuse = Reuse::Validate { or_stale: false, by_request: false };
    const AS_ASKED: Reuse = Reuse::Validate { or_stale: false, by_request: true };

    #[test]
    fn a_response_is_fresh_up_to_the_age_that_is_its_lifetime() {
        let plain = RequestDirectives::default();
        assert_eq!(page().age(at(5)), secs(15));
        assert_eq!((page().ttl(at(5)), page().ttl(at(70))), (45, -20));
        assert_eq!(page().reuse(plain, at(49)), Reuse::Fresh);
        assert_eq!(page().reuse(plain, at(50)), VALIDATE);
        assert_eq!(Freshness { always_validate: true, ..page() }.reuse(plain, at(0)), VALIDATE);
    }

    #[test]
    fn a_request_may_want_more_than_freshness() {
        let plain = RequestDirectives::default();
        let cases = [
            (RequestDirectives { no_cache: true, ..plain }, AS_ASKED),
            (RequestDirectives { max_age: Some(secs(14)), ..plain }, AS_ASKED),
            (RequestDirectives { max_age: Some(secs(15)), ..plain }, Reuse::Fresh),
            (RequestDirectives { min_fresh: Some(secs(46)), ..plain }, AS_ASKED),
            (RequestDirectives { min_fresh: Some(secs(45)), ..plain }, Reuse::Fresh),
        ];
        for (asked, expected) in cases {
            assert_eq!(page().reuse(asked, at(5)), expected, "{asked:?}");
        }
    }

    #[test]
    fn stale_responses_are_served_where_client_and_response_allow_it() {
        let plain = RequestDirectives::default();
        let takes = |max_stale| RequestDirectives { max_stale: Some(max_stale), ..plain };
        assert_eq!(page().reuse(takes(MaxStale::Any), at(1000)), Reuse::Stale);
        assert_eq!(page().reuse(takes(MaxStale::For(secs(5))), at(55)), Reuse::Stale);
        assert_eq!(page().reuse(takes(MaxStale::For(secs(5))), at(56)), VALIDATE);
        let strict = Freshness { must_revalidate: true, stale_if_error: secs(100), ..page() };
        assert_eq!(strict.reuse(takes(MaxStale::Any), at(55)), VALIDATE);
        assert_eq!(strict.usable_for(), secs(50));
        let lenient = Freshness { stale_while_revalidate: secs(5), stale_if_error: secs(20), ..page() };
        assert_eq!(lenient.reuse(plain, at(54)), Reuse::Renew);
        let or_stale = |or_stale| Reuse::Validate { or_stale, by_request: false };
        assert_eq!(lenient.reuse(plain, at(55)), or_stale(true));
        assert_eq!(lenient.reuse(plain, at(69)), or_stale(true));
        assert_eq!(lenient.reuse(plain, at(70)), or_stale(false));
        assert_eq!(lenient.usable_for(), secs(70));
        let forgiving = RequestDirectives { stale_if_error: Some(secs(30)), ..plain };
        assert_eq!(lenient.reuse(forgiving, at(79)), or_stale(true));
    }

    #[test]
    fn what_arrives_is_as_old_as_it_says_or_as_its_date_is() {
        let now = SystemTime::UNIX_EPOCH + secs(100);
        let arrival = |fields: &[(HeaderName, &'static str)], took| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name.clone(), HeaderValue::from_static(value));
            }
            age_on_arrival(&headers, secs(took), now).as_secs()
        };
        let date = (DATE, "Thu, 01 Jan 1970 00:01:00 GMT");
        assert_eq!(arrival(&[], 2), 0);
        assert_eq!(arrival(std::slice::from_ref(&date), 0), 40);
        assert_eq!(arrival(&[date, (AGE, "50")], 2), 52);
        assert_eq!(arrival(&[(AGE, "50, 7")], 0), 50);
        assert_eq!(arrival(&[(AGE, "-1")], 0), 0);
        assert_eq!(arrival(&[(DATE, "Thu, 01 Jan 1970 00:01:39 GMT")], 0), 0, "clocks differ");
        assert_eq!(arrival(&[(DATE, "yesterday"), (AGE, "x")], 0), 0);
    }
}
