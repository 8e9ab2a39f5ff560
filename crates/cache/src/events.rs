//! Decisions and their reasons: what was hit, missed, stored, refused and invalidated.
//!
//! Every decision is one line of the log target `cache`, with the same field names everywhere, and one count.

use std::{
    fmt::{self, Display},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use log::{Level, kv};

pub use crate::envelope::Unreadable;
use crate::{error::Error, key::Key};

/// The log target of cache decisions, for operators to subscribe to: `RUST_LOG=cache=debug`.
pub const TARGET: &str = "cache";

/// Why a look-up found nothing that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissReason {
    /// Nothing is there: never stored, expired, evicted or deleted.
    Absent,
    /// It was stored with a tag that was invalidated, or whose version the store has lost.
    TagChanged(String),
    /// What is there is not an entry of this version of the cache.
    Unreadable(Unreadable),
    /// The entry holds another type than the caller asked for.
    OtherType,
    /// Its time is over; it is kept as stale.
    Expired,
    /// Everything under its prefix was cleared.
    Cleared,
    /// Somebody is loading its first value.
    Loading,
    /// The store does not answer.
    Unavailable,
}

impl Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MissReason::Absent => f.write_str("absent"),
            MissReason::TagChanged(tag) => write!(f, "tag {tag} changed"),
            MissReason::Unreadable(why) => write!(f, "{why}"),
            MissReason::OtherType => f.write_str("holds another type"),
            MissReason::Expired => f.write_str("expired"),
            MissReason::Cleared => f.write_str("cleared with its prefix"),
            MissReason::Loading => f.write_str("being loaded"),
            MissReason::Unavailable => f.write_str("store does not answer"),
        }
    }
}

/// How often this process found, missed, stored and invalidated something under one alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Look-ups that found a usable entry.
    pub hits: u64,
    /// Look-ups that did not.
    pub misses: u64,
    /// Entries stored.
    pub stored: u64,
    /// Keys, tags and whole stores invalidated.
    pub invalidations: u64,
}

#[expect(dead_code, reason = "counted by key group soon")]
pub(crate) struct HitFacts {
    pub(crate) took: Option<Duration>,
    pub(crate) saved: Duration,
    pub(crate) bytes: usize,
    pub(crate) stale: bool,
}

/// Counts and logs the decisions of one alias.
#[derive(Debug)]
pub(crate) struct Journal {
    alias: String,
    hits: AtomicU64,
    misses: AtomicU64,
    stored: AtomicU64,
    invalidations: AtomicU64,
}

impl Journal {
    pub(crate) fn new(alias: &str) -> Self {
        let zero = || AtomicU64::new(0);
        Journal { alias: alias.into(), hits: zero(), misses: zero(), stored: zero(), invalidations: zero() }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            stored: self.stored.load(Ordering::Relaxed),
            invalidations: self.invalidations.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn hit(&self, key: &Key<'_>, hit: &HitFacts) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        self.decision(Level::Debug, "hit", key, &[("took_us", &Micros(hit.took))]);
    }
    pub(crate) fn waited(&self, key: &Key<'_>, took: Duration) {
        self.decision(Level::Debug, "waited", key, &[("took_us", &took.as_micros())]);
    }
    pub(crate) fn loaded(&self, key: &Key<'_>, cost: Duration, _background: bool) {
        self.decision(Level::Debug, "loaded", key, &[("cost_us", &cost.as_micros())]);
    }
    pub(crate) fn load_failed(&self, key: &Key<'_>, cost: Duration, error: &dyn Display, _background: bool) {
        self.decision(Level::Debug, "load failed", key, &[("cost_us", &cost.as_micros()), ("error", error)]);
    }
    pub(crate) fn overtaken(&self, key: &Key<'_>, cost: Duration) {
        self.decision(Level::Debug, "overtaken", key, &[("cost_us", &cost.as_micros())]);
    }
    pub(crate) fn expired(&self, key: &Key<'_>, _cause: Option<&str>) {
        self.decision(Level::Info, "expired", key, &[]);
    }

    pub(crate) fn miss(&self, key: &Key<'_>, reason: &MissReason, took: Option<Duration>) {
        self.misses.fetch_add(1, Ordering::Relaxed);
        self.decision(Level::Debug, "miss", key, &[("reason", reason), ("took_us", &Micros(took))]);
    }

    pub(crate) fn stored(&self, key: &Key<'_>, bytes: usize, cost: Duration) {
        self.stored.fetch_add(1, Ordering::Relaxed);
        self.decision(Level::Debug, "stored", key, &[("bytes", &bytes), ("cost_us", &cost.as_micros())]);
    }

    pub(crate) fn not_stored(&self, key: &Key<'_>, reason: &dyn Display) {
        self.decision(Level::Debug, "not stored", key, &[("reason", reason)]);
    }

    /// Records an invalidation. `entries` is how many the store had; for a tag, how many this process had stored.
    pub(crate) fn invalidated(&self, key: &Key<'_>, cause: Option<&str>, entries: usize, removed: Option<&str>) {
        self.invalidations.fetch_add(1, Ordering::Relaxed);
        let mut fields: Vec<(&str, &dyn Display)> = Vec::new();
        cause.iter().for_each(|cause| fields.push(("cause", cause)));
        fields.push(("entries", &entries));
        removed.iter().for_each(|names| fields.push(("removed", names)));
        self.decision(Level::Info, "invalidated", key, &fields);
    }

    pub(crate) fn cleared(&self, cause: Option<&str>, _prefix_only: bool) {
        self.invalidations.fetch_add(1, Ordering::Relaxed);
        let mut fields: Vec<(&str, &dyn Display)> = vec![("alias", &self.alias)];
        cause.iter().for_each(|cause| fields.push(("cause", cause)));
        line(Level::Info, "cleared the whole store", &fields);
    }

    pub(crate) fn invalidation_failed(&self, key: &Key<'_>, cause: Option<&str>, error: &Error) {
        let mut fields: Vec<(&str, &dyn Display)> = Vec::new();
        cause.iter().for_each(|cause| fields.push(("cause", cause)));
        fields.push(("error", error));
        self.decision(Level::Warn, KEPT, key, &fields);
    }

    pub(crate) fn clearing_failed(&self, cause: Option<&str>, error: &Error) {
        let mut fields: Vec<(&str, &dyn Display)> = vec![("alias", &self.alias)];
        cause.iter().for_each(|cause| fields.push(("cause", cause)));
        fields.push(("error", error));
        line(Level::Warn, KEPT, &fields);
    }

    fn decision(&self, level: Level, message: &str, key: &Key<'_>, more: &[(&str, &dyn Display)]) {
        if log::log_enabled!(target: TARGET, level) {
            let label = key.label();
            let named: [(&str, &dyn Display); 2] = [(key.kind().field(), &label), ("alias", &self.alias)];
            line(level, message, &[&named, more].concat());
        }
    }
}

/// What the log says of an invalidation that a store did not hear of.
const KEPT: &str = "invalidation kept until the store answers";

/// Tells whether hits and misses are logged, so that their time is worth measuring.
pub(crate) fn are_timed() -> bool {
    log::log_enabled!(target: TARGET, Level::Debug)
}

/// Writes one line of the target `cache`.
pub(crate) fn line(level: Level, message: &str, fields: &[(&str, &dyn Display)]) {
    if !log::log_enabled!(target: TARGET, level) {
        return;
    }
    let fields: Vec<(&str, kv::Value<'_>)> =
        fields.iter().map(|(name, value)| (*name, kv::Value::from_dyn_display(*value))).collect();
    let mut record = log::Record::builder();
    record.level(level).target(TARGET);
    log::logger().log(&record.args(format_args!("{message}")).key_values(&fields.as_slice()).build());
}

struct Micros(Option<Duration>);

impl Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.unwrap_or_default().as_micros())
    }
}
