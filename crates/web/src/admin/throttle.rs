//! Slows down who guesses passwords: the more attempts failed, for an account or from an address, the longer the next one must
//! wait. Each process counts for itself.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use actix_web::{HttpMessage, HttpRequest, web};
use larder_models::User;

use crate::{failure::Failure, peer::Peer, state::State, text::cut};

/// How many attempts may fail before there is a pause: of an account, and from an address, behind which may be many people.
const FREE_OF_ACCOUNT: u32 = 5;
const FREE_OF_ADDRESS: u32 = 30;

/// The pause after that. It is twice as long after each further attempt.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// After how long without an attempt everything is forgotten.
const MEMORY: Duration = Duration::from_secs(30 * 60);

/// How many accounts and addresses are kept in mind.
const MAX_ENTRIES: usize = 10_000;

/// How much of the name of an account is kept in mind.
const MAX_ACCOUNT_CHARS: usize = 200;

/// What is known of failed attempts.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<HashMap<String, Failures>>);

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
    /// Until when nobody may try.
    until: Instant,
}

impl Throttle {
    /// Returns how long somebody must wait who wants to sign in to an account from an address, if he must.
    pub(super) fn wait(&self, account: &str, address: &str, now: Instant) -> Option<Duration> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = |key: String| Some(entries.get(&key)?.until.saturating_duration_since(now));
        let longest = wait(of_account(account)).max(wait(of_address(address)));
        longest.filter(|wait| !wait.is_zero())
    }

    /// Notes that an attempt has failed.
    pub(super) fn failed(&self, account: &str, address: &str, now: Instant) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() + 2 > MAX_ENTRIES {
            entries.retain(|_, failures| now.duration_since(failures.last) < MEMORY);
        }
        while entries.len() + 2 > MAX_ENTRIES {
            let oldest = entries.iter().min_by_key(|(_, failures)| failures.last).map(|(key, _)| key.clone());
            oldest.map(|key| entries.remove(&key));
        }
        for (key, free) in [(of_account(account), FREE_OF_ACCOUNT), (of_address(address), FREE_OF_ADDRESS)] {
            let failures = entries.entry(key).or_insert(Failures { count: 0, last: now, until: now });
            if now.duration_since(failures.last) >= MEMORY {
                failures.count = 0;
            }
            failures.count += 1;
            failures.last = now;
            if let Some(more) = failures.count.checked_sub(free) {
                failures.until = now + (FIRST_PAUSE * 2_u32.saturating_pow(more)).min(LONGEST_PAUSE);
            }
        }
    }

    /// Forgets the failures of an account whose password was right.
    pub(super) fn succeeded(&self, account: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&of_account(account));
    }
}

/// What became of a password.
pub(super) enum Verified {
    Right(User),
    Wrong,
    /// Not looked at: so many seconds are to be waited before the next attempt.
    TooEarly(u64),
}

/// Says that it is too early.
pub(super) fn too_early(seconds: u64) -> String {
    format!("Too many attempts. Try again in {seconds} seconds.")
}

/// Verifies the password of an account, unless it is too early for that.
///
/// # Errors
/// The blocking pool is gone.
pub(super) async fn verify(
    state: &State,
    request: &HttpRequest,
    account: &str,
    found: Option<User>,
    password: String,
) -> Result<Verified, Failure> {
    let peer = Peer::noted(&request.extensions());
    let text = |address: Option<IpAddr>| address.map_or_else(String::new, |address| address.to_string());
    let (network, address) = (text(peer.network()), text(peer.address));
    let (failed, account) = (Arc::clone(&state.failed_logins), account.to_owned());
    let wait = || failed.wait(&account, &network, Instant::now()).map(|wait| Verified::TooEarly(wait.as_secs() + 1));
    if let Some(too_early) = wait() {
        return Ok(too_early);
    }
    // One after the other: guessing passwords must not take the machine from visitors, and of many guesses that are sent at
    // once each shall know of those before it.
    let turn = Arc::clone(&state.password_turn).acquire_owned().await.map_err(Failure::internal)?;
    if let Some(too_early) = wait() {
        return Ok(too_early);
    }
    // All of it, so that it counts too if whoever guesses does not wait for the answer.
    let verify = move || {
        let verified = match User::verified(found, &password) {
            Some(user) => {
                failed.succeeded(&account);
                Verified::Right(user)
            }
            None => {
                log::warn!("the password of {:?} from {address} was wrong", cut(&account, MAX_ACCOUNT_CHARS));
                failed.failed(&account, &network, Instant::now());
                Verified::Wrong
            }
        };
        drop(turn);
        verified
    };
    Ok(web::block(verify).await?)
}

/// Long names are cut: there is no such account.
fn of_account(account: &str) -> String {
    format!("account {}", cut(account, MAX_ACCOUNT_CHARS))
}

fn of_address(address: &str) -> String {
    format!("address {address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        for _ in 1..FREE_OF_ACCOUNT {
            throttle.failed("anna", "a", start);
            assert_eq!(throttle.wait("anna", "a", start), None);
        }
        throttle.failed("anna", "b", start);
        assert_eq!(throttle.wait("anna", "c", start), Some(FIRST_PAUSE), "from wherever");
        assert_eq!(throttle.wait("anna", "c", start + FIRST_PAUSE), None);
        assert_eq!(throttle.wait("bert", "a", start), None);
        throttle.failed("anna", "a", start + FIRST_PAUSE);
        assert_eq!(throttle.wait("anna", "a", start + FIRST_PAUSE), Some(FIRST_PAUSE * 2));
        for _ in 0..100 {
            throttle.failed("anna", "a", start);
        }
        assert_eq!(throttle.wait("anna", "z", start), Some(LONGEST_PAUSE));
        throttle.succeeded("anna");
        assert_eq!(throttle.wait("anna", "z", start), None);
        assert!(throttle.wait("bert", "a", start).is_some(), "the address is known for its failures");
        throttle.failed("bert", "x", start + MEMORY);
        throttle.failed("bert", "a", start + MEMORY + LONGEST_PAUSE);
        assert_eq!(throttle.wait("bert", "a", start + MEMORY + LONGEST_PAUSE), None, "forgotten");
    }

    #[test]
    fn memory_is_bounded() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        for number in 0..MAX_ENTRIES + 100 {
            throttle.failed(&number.to_string(), &number.to_string(), start + Duration::from_millis(number as u64));
        }
        assert_eq!(throttle.0.lock().unwrap().len(), MAX_ENTRIES);
    }
}
