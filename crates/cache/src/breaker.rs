//! Decides whether a store that fails is asked again: a circuit breaker as a plain state machine.
//!
//! It is told the time and what happened, and it neither waits, locks nor logs; [`Guarded`](crate::backend::guarded)
//! does. Closed, it lets everything through. After [`FAILURES_TO_OPEN`] failures in a row, or one refused connection,
//! it opens and nothing goes through for [`TRIAL_INTERVAL`]. Then one caller is let through as a trial: success closes
//! the breaker, failure leaves the store alone for another interval.

use std::time::Duration;

use crate::clock::Timestamp;

/// Failures in a row after which a store is left alone. One slow answer is no outage, three are.
pub(crate) const FAILURES_TO_OPEN: u32 = 3;

/// How long a store is left alone before one caller tries it. A visitor who runs into the trial waits at most for the
/// store's own timeout, once a second for all visitors together.
pub(crate) const TRIAL_INTERVAL: Duration = Duration::from_secs(1);

/// What a failure says about the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing listens there: the next attempt will fail too.
    Refused,
    /// Anything else: a timeout, a broken connection, an answer that makes no sense.
    Other,
}

/// A circuit breaker.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    /// When the outage began that has not ended yet.
    outage_since: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { since: Timestamp },
    Trial { since: Timestamp },
}

impl Breaker {
    /// Returns a closed breaker.
    pub(crate) const fn new() -> Self {
        Breaker { state: State::Closed { failures: 0 }, outage_since: None }
    }

    /// Tells whether there is no failure that a success has not made good.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.outage_since.is_none()
    }

    /// Returns how long callers will be refused; `None` if one would be let through now.
    pub(crate) fn refuses_for(&self, now: Timestamp) -> Option<Duration> {
        match self.state {
            State::Closed { .. } => None,
            // A trial whose caller never came back does not block the store for good.
            State::Open { since } | State::Trial { since } => {
                // A clock that was set back must not prolong the outage.
                let waited = if now < since { TRIAL_INTERVAL } else { now.saturating_since(since) };
                TRIAL_INTERVAL.checked_sub(waited).filter(|left| !left.is_zero())
            }
        }
    }

    /// Lets a caller through, as a trial if the breaker is open, or says how long it will refuse.
    pub(crate) fn admit(&mut self, now: Timestamp) -> Result<(), Duration> {
        if let Some(left) = self.refuses_for(now) {
            return Err(left);
        }
        if !matches!(self.state, State::Closed { .. }) {
            self.state = State::Trial { since: now };
        }
        Ok(())
    }

    /// Learns that the store answered; returns the length of the outage that this ends.
    pub(crate) fn success(&mut self, now: Timestamp) -> Option<Duration> {
        self.state = State::Closed { failures: 0 };
        self.outage_since.take().map(|since| now.saturating_since(since))
    }

    /// Learns that the store failed; tells whether an outage begins with this.
    pub(crate) fn failure(&mut self, now: Timestamp, failure: Failure) -> bool {
        self.state = match self.state {
            State::Closed { failures } if failure == Failure::Other && failures + 1 < FAILURES_TO_OPEN => {
                State::Closed { failures: failures + 1 }
            }
            State::Closed { .. } | State::Trial { .. } => State::Open { since: now },
            // Somebody who was let through before the breaker opened: that must not prolong the wait.
            State::Open { since } => State::Open { since },
        };
        let begins = self.outage_since.is_none();
        self.outage_since.get_or_insert(now);
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn opens_at_the_third_failure_in_a_row() {
        let now = Clock::system().now();
        let mut breaker = Breaker::new();
        assert!(breaker.failure(now, Failure::Other), "the first failure begins the outage");
        assert!(!breaker.failure(now, Failure::Other), "the second belongs to it");
        assert_eq!(breaker.admit(now), Ok(()));
        assert!(!breaker.failure(now, Failure::Other));
        assert_eq!(breaker.admit(now), Err(TRIAL_INTERVAL));
    }

    #[test]
    fn a_success_between_failures_starts_the_count_again() {
        let now = Clock::system().now();
        let mut breaker = Breaker::new();
        for _ in 0..10 {
            breaker.failure(now, Failure::Other);
            breaker.failure(now, Failure::Other);
            breaker.success(now);
        }
        assert_eq!(breaker.admit(now), Ok(()));
        assert!(breaker.is_at_rest());
    }

    #[test]
    fn a_refused_connection_opens_it_at_once() {
        let now = Clock::system().now();
        let mut breaker = Breaker::new();
        breaker.failure(now, Failure::Refused);
        assert!(breaker.admit(now).is_err());
    }

    #[test]
    fn one_caller_an_interval_is_let_through_as_a_trial() {
        let (clock, hand) = Clock::manual();
        let mut breaker = Breaker::new();
        breaker.failure(clock.now(), Failure::Refused);
        hand.advance(TRIAL_INTERVAL);
        assert_eq!(breaker.admit(clock.now()), Ok(()));
        assert!(breaker.admit(clock.now()).is_err(), "the second caller waits for the trial");
        breaker.failure(clock.now(), Failure::Other);
        assert!(breaker.admit(clock.now()).is_err(), "a failed trial opens it for another interval");
        hand.advance(TRIAL_INTERVAL);
        assert_eq!(breaker.admit(clock.now()), Ok(()));
        assert_eq!(breaker.success(clock.now()), Some(2 * TRIAL_INTERVAL));
        assert_eq!(breaker.admit(clock.now()), Ok(()));
        assert_eq!(breaker.success(clock.now()), None, "an outage ends once");
    }

    #[test]
    fn a_trial_that_never_reports_is_replaced() {
        let (clock, hand) = Clock::manual();
        let mut breaker = Breaker::new();
        breaker.failure(clock.now(), Failure::Refused);
        hand.advance(TRIAL_INTERVAL);
        assert_eq!(breaker.admit(clock.now()), Ok(()));
        hand.advance(TRIAL_INTERVAL);
        assert_eq!(breaker.admit(clock.now()), Ok(()));
    }

    #[test]
    fn late_failures_do_not_prolong_the_wait() {
        let (clock, hand) = Clock::manual();
        let mut breaker = Breaker::new();
        breaker.failure(clock.now(), Failure::Refused);
        hand.advance(TRIAL_INTERVAL / 2);
        breaker.failure(clock.now(), Failure::Other);
        hand.advance(TRIAL_INTERVAL / 2);
        assert_eq!(breaker.admit(clock.now()), Ok(()));
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_prolong_the_wait() {
        let mut breaker = Breaker::new();
        breaker.failure(Timestamp::from_millis(1_000_000), Failure::Refused);
        assert_eq!(breaker.admit(Timestamp::from_millis(5)), Ok(()));
    }
}
