//! Decisions and their reasons: what was hit, missed, loaded, stored, refused and invalidated.
//!
//! Every decision is one [`Event`]. From it come the line of the log target `cache`, with the same field names
//! everywhere, the counts, the statistics by key group, the history that [`explain`](crate::BlockingCache::explain)
//! looks into, and whatever an [`Observer`] makes of it: they cannot tell different stories.

mod groups;
mod history;
mod prometheus;

use std::{
    cell::Cell,
    fmt::{self, Display},
    panic::{AssertUnwindSafe, catch_unwind},
    slice,
    sync::{
        Arc, Once,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use log::{Level, kv};

pub(crate) use self::prometheus::render;
pub use self::{groups::GroupStats, history::Invalidation};
use self::{groups::Groups, history::History};
pub use crate::envelope::Unreadable;
use crate::{
    clock::{Clock, Timestamp},
    error::{Causes, Error},
    key::Key,
    timeout::Expiry,
};

/// One of how many look-ups is measured that nobody asks about and that take less than measuring them.
const SAMPLE_OF: u32 = 64;

/// The log target of cache decisions, for operators to subscribe to: `RUST_LOG=cache=debug`.
pub const TARGET: &str = "cache";

/// Why a look-up found nothing that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissReason {
    /// Nothing is there: never stored, expired, evicted or deleted.
    Absent,
    /// Its time is over; it is kept as stale.
    Expired,
    /// It was stored with a tag that was invalidated, or whose version the store has lost.
    TagChanged(String),
    /// Everything under its prefix was cleared since.
    Cleared,
    /// Somebody is loading its first value.
    Loading,
    /// What is there is not an entry of this version of the cache.
    Unreadable(Unreadable),
    /// The entry holds another type than the caller asked for.
    OtherType,
    /// The store does not answer.
    Unavailable,
    /// The transaction that is open on the caller's thread has changed it.
    Uncommitted,
    /// What others invalidate is heard of later here than in the store of what is made of it.
    Behind,
}

impl MissReason {
    /// The names of all reasons, in the order in which they are counted.
    pub(crate) const NAMES: [&'static str; 10] = [
        "absent",
        "expired",
        "tag_changed",
        "cleared",
        "loading",
        "unreadable",
        "other_type",
        "unavailable",
        "uncommitted",
        "behind",
    ];

    /// Returns the reason as one word, for metrics.
    pub fn name(&self) -> &'static str {
        Self::NAMES[self.index()]
    }

    fn index(&self) -> usize {
        match self {
            MissReason::Absent => 0,
            MissReason::Expired => 1,
            MissReason::TagChanged(_) => 2,
            MissReason::Cleared => 3,
            MissReason::Loading => 4,
            MissReason::Unreadable(_) => 5,
            MissReason::OtherType => 6,
            MissReason::Unavailable => 7,
            MissReason::Uncommitted => 8,
            MissReason::Behind => 9,
        }
    }
}

impl Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MissReason::Absent => f.write_str("absent"),
            MissReason::Expired => f.write_str("expired"),
            MissReason::TagChanged(tag) => write!(f, "tag {tag} changed"),
            MissReason::Cleared => f.write_str("cleared with its prefix"),
            MissReason::Loading => f.write_str("being loaded"),
            MissReason::Unreadable(why) => write!(f, "{why}"),
            MissReason::OtherType => f.write_str("holds another type"),
            MissReason::Unavailable => f.write_str("store does not answer"),
            MissReason::Uncommitted => f.write_str("changed in the open transaction"),
            MissReason::Behind => f.write_str("may be behind the store of what is made of it"),
        }
    }
}

/// One decision of the cache.
#[derive(Debug)]
#[non_exhaustive]
pub struct Event<'a> {
    /// The alias of the settings.
    pub alias: &'a str,
    /// What it was about; `None` if about the whole alias.
    pub key: Option<&'a Key<'a>>,
    /// What happened.
    pub what: What<'a>,
}

impl Event<'_> {
    /// Returns the level of its log line.
    pub fn level(&self) -> Level {
        self.what.level()
    }

    /// Returns the message of its log line: `hit`, `invalidated`.
    pub fn message(&self) -> &'static str {
        self.what.message()
    }

    /// Returns the fields of its log line in their order: `key=objects`, `alias=default`, `took_us=12`.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        match self.key {
            Some(key) => fields(&self.what, &[(key.kind().field(), &key.label()), ("alias", &self.alias)]),
            None => fields(&self.what, &[("alias", &self.alias)]),
        }
    }
}

/// What happened to a key.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum What<'a> {
    /// A look-up found a value.
    Hit {
        /// Whether it was past its time and served nevertheless.
        stale: bool,
        /// How long the look-up took, if that was measured: where the store may wait, or the log or an observer wants it.
        took: Option<Duration>,
        /// What the value cost to load.
        saved: Duration,
        /// How many bytes it takes in the store.
        bytes: usize,
    },
    /// A look-up found nothing that may be used.
    Miss {
        /// Why.
        reason: &'a MissReason,
        /// As in a hit.
        took: Option<Duration>,
    },
    /// A caller who missed waited for another one's load, and has its value.
    Waited {
        /// How long.
        took: Duration,
    },
    /// A loader returned a value.
    Loaded {
        /// How long it took.
        cost: Duration,
        /// Whether nobody waited for it.
        background: bool,
    },
    /// A loader failed.
    LoadFailed {
        /// How long it took.
        cost: Duration,
        /// Its error.
        error: &'a dyn Display,
        /// Whether nobody waited for it.
        background: bool,
    },
    /// A value was stored.
    Stored {
        /// How many bytes it takes in the store.
        bytes: usize,
        /// What it cost to load, as far as that is known.
        cost: Duration,
        /// Until when it is kept.
        until: Expiry,
    },
    /// A value was not stored.
    NotStored {
        /// Why.
        reason: &'a dyn Display,
    },
    /// A loaded value was returned and not stored, because something was invalidated while it was loaded.
    Overtaken {
        /// How long it took to load.
        cost: Duration,
    },
    /// A key or tag was invalidated.
    Invalidated {
        /// Who did it and why, as the caller said.
        cause: Option<&'a str>,
        /// How many entries the store had; for a tag, how many this process knows.
        entries: usize,
        /// The names of those that this process knows.
        removed: &'a [String],
        /// Whether there may have been some that this process does not know: others stored them, or it forgot them.
        may_be_more: bool,
    },
    /// A value was made stale by hand.
    Expired {
        /// As in an invalidation.
        cause: Option<&'a str>,
    },
    /// The store did not hear of an invalidation, which is kept until it does.
    InvalidationFailed {
        /// As in an invalidation.
        cause: Option<&'a str>,
        /// What stood in the way.
        error: &'a Error,
    },
    /// Everything was removed.
    Cleared {
        /// As in an invalidation.
        cause: Option<&'a str>,
        /// Whether only what stands under the prefix of the alias.
        prefix_only: bool,
    },
    /// The store, or one server of it, failed; pages are made without it.
    StoreFailed {
        /// Its address.
        store: &'a str,
        /// How.
        error: &'a Error,
        /// Whether it had failed before and not answered since.
        again: bool,
    },
    /// The store, or one server of it, answers again.
    StoreAnswers {
        /// Its address.
        store: &'a str,
        /// For how long it did not.
        outage: Duration,
    },
}

impl fmt::Debug for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl What<'_> {
    fn level(&self) -> Level {
        match self {
            // Nobody had anything to lose.
            What::Invalidated { entries: 0, may_be_more: false, .. } => Level::Debug,
            What::Invalidated { .. } | What::Expired { .. } | What::Cleared { .. } | What::StoreAnswers { .. } => {
                Level::Info
            }
            What::InvalidationFailed { .. }
            | What::LoadFailed { background: true, .. }
            | What::StoreFailed { again: false, .. } => Level::Warn,
            _ => Level::Debug,
        }
    }

    fn message(&self) -> &'static str {
        match self {
            What::Hit { stale: false, .. } => "hit",
            What::Hit { stale: true, .. } => "hit stale",
            What::Miss { .. } => "miss",
            What::Waited { .. } => "waited",
            What::Loaded { .. } => "loaded",
            What::LoadFailed { .. } => "load failed",
            What::Stored { .. } => "stored",
            What::NotStored { .. } => "not stored",
            What::Overtaken { .. } => "not stored, overtaken by an invalidation",
            What::Invalidated { .. } => "invalidated",
            What::Expired { .. } => "expired",
            What::InvalidationFailed { .. } => "invalidation kept until the store answers",
            What::Cleared { prefix_only: false, .. } => "cleared the whole store",
            What::Cleared { prefix_only: true, .. } => "cleared the prefix",
            What::StoreFailed { again: false, .. } => "store failed, pages are answered without it",
            What::StoreFailed { again: true, .. } => "store failed again",
            What::StoreAnswers { .. } => "store answers again",
        }
    }

    /// Hands the fields of the log line to `field`, in their order.
    fn fields(&self, field: &mut dyn FnMut(&'static str, &dyn Display)) {
        let cause = |cause: &Option<&str>, field: &mut dyn FnMut(&'static str, &dyn Display)| {
            cause.iter().for_each(|cause| field("cause", cause));
        };
        match self {
            What::Hit { took, .. } => field("took_us", &micros(*took)),
            What::Miss { reason, took } => {
                field("reason", reason);
                field("took_us", &micros(*took));
            }
            What::Waited { took } => field("took_us", &took.as_micros()),
            What::Loaded { cost, background } => {
                field("cost_us", &cost.as_micros());
                field("background", background);
            }
            What::LoadFailed { cost, error, background } => {
                field("error", error);
                field("cost_us", &cost.as_micros());
                field("background", background);
            }
            What::Stored { bytes, cost, .. } => {
                field("bytes", bytes);
                field("cost_us", &cost.as_micros());
            }
            What::NotStored { reason } => field("reason", reason),
            What::Overtaken { cost } => field("cost_us", &cost.as_micros()),
            What::Invalidated { cause: why, entries, removed, .. } => {
                cause(why, field);
                field("entries", entries);
                if !removed.is_empty() {
                    field("removed", &removed.join(", "));
                }
            }
            What::Expired { cause: why } | What::Cleared { cause: why, .. } => cause(why, field),
            What::InvalidationFailed { cause: why, error } => {
                cause(why, field);
                field("error", error);
            }
            What::StoreFailed { store, error, .. } => {
                field("store", store);
                field("error", &Causes(*error));
            }
            What::StoreAnswers { store, outage } => {
                field("store", store);
                field("outage_ms", &outage.as_millis());
            }
        }
    }
}

/// Is told of every decision, on the thread that made it: quick, please. Registered with
/// [`CachesBuilder::observer`](crate::CachesBuilder::observer). What it does with a cache itself is counted and
/// logged, but not observed, or it would never end.
///
/// # Examples
/// ```
/// use larder_cache::{Caches, events::{Event, Observer, What}, settings::AliasSettings};
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
///
/// struct Invalidations(Arc<AtomicU64>);
///
/// impl Observer for Invalidations {
///     fn observe(&self, event: &Event<'_>) {
///         if let What::Invalidated { .. } = event.what {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let count = Arc::new(AtomicU64::new(0));
/// let caches = Caches::builder()
///     .alias("default", AliasSettings::default())
///     .observer(Invalidations(Arc::clone(&count)))
///     .build()?;
/// caches.default_cache().blocking().delete("objects")?;
/// assert_eq!(count.load(Ordering::Relaxed), 1);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub trait Observer: Send + Sync {
    /// Is told of one decision. A panic in here is caught, and said in the log once.
    fn observe(&self, event: &Event<'_>);

    /// Tells whether it wants to hear of hits and misses now, which are by far the most: if nobody does, look-ups are
    /// spared what it takes to measure and to tell them. Asked before each one. Yes unless said otherwise.
    fn wants_look_ups(&self) -> bool {
        true
    }
}

pub(crate) type Observers = Arc<[Box<dyn Observer>]>;

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

/// All that was counted under one alias.
#[derive(Debug)]
pub(crate) struct Counted<'a> {
    alias: &'a str,
    groups: Vec<GroupStats>,
    clears: u64,
    failed_invalidations: u64,
    outages: u64,
}

/// Counts, logs and hands on the decisions of one alias.
pub(crate) struct Journal {
    alias: String,
    clock: Clock,
    observers: Observers,
    clears: AtomicU64,
    failed_invalidations: AtomicU64,
    outages: AtomicU64,
    groups: Groups,
    history: History,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("alias", &self.alias).field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Journal {
    pub(crate) fn new(alias: &str, clock: Clock, observers: Observers) -> Self {
        Journal {
            alias: alias.into(),
            clock,
            observers,
            clears: AtomicU64::new(0),
            failed_invalidations: AtomicU64::new(0),
            outages: AtomicU64::new(0),
            groups: Groups::default(),
            history: History::default(),
        }
    }

    pub(crate) fn alias(&self) -> &str {
        &self.alias
    }

    pub(crate) fn counts(&self) -> Counts {
        let Counted { groups, clears, .. } = self.counted();
        groups.iter().fold(Counts { invalidations: clears, ..Counts::default() }, |sum, group| Counts {
            hits: sum.hits + group.hits,
            misses: sum.misses + group.misses.iter().map(|(_, count)| count).sum::<u64>(),
            stored: sum.stored + group.stored,
            invalidations: sum.invalidations + group.invalidations,
        })
    }

    /// Returns all that was counted, for metrics.
    pub(crate) fn counted(&self) -> Counted<'_> {
        Counted {
            alias: &self.alias,
            groups: self.groups.all(),
            clears: self.clears.load(Ordering::Relaxed),
            failed_invalidations: self.failed_invalidations.load(Ordering::Relaxed),
            outages: self.outages.load(Ordering::Relaxed),
        }
    }

    /// Tells whether a look-up shall be measured: where the store takes far longer than that, or somebody wants to know,
    /// and else one of several.
    pub(crate) fn times_look_ups(&self, store_may_wait: bool) -> bool {
        let is_wanted = || self.observers.iter().any(|observer| observer.wants_look_ups());
        store_may_wait || log::log_enabled!(target: TARGET, Level::Debug) || is_wanted() || is_sample()
    }

    pub(crate) fn groups(&self) -> Vec<GroupStats> {
        self.groups.all()
    }

    /// Returns when this process stored a key last, and until when it was to be kept.
    pub(crate) fn last_stored(&self, key: &Key<'_>) -> Option<(Timestamp, Expiry)> {
        self.history.last_stored(key)
    }

    /// Returns the last invalidation of a key or tag by this process.
    pub(crate) fn last_invalidation(&self, key: &Key<'_>) -> Option<Invalidation> {
        self.history.last_invalidation(key)
    }

    /// Takes note of a decision about a key.
    pub(crate) fn note(&self, key: &Key<'_>, what: What<'_>) {
        self.record(slice::from_ref(key), &what);
        self.tell(Some(key), &what);
    }

    fn record(&self, keys: &[Key<'_>], what: &What<'_>) {
        keys.iter().for_each(|key| self.groups.count(key, what));
        match what {
            What::Stored { until, .. } => {
                keys.iter().for_each(|key| self.history.stored(key, self.clock.now(), *until));
            }
            What::Invalidated { cause, .. } | What::Expired { cause } => {
                self.history.invalidated(keys, *cause, self.clock.now());
            }
            // Kept until the store answers; here the value is gone.
            What::InvalidationFailed { cause, .. } => {
                self.history.invalidated(keys, *cause, self.clock.now());
                self.failed_invalidations.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Takes note of a decision about several keys at once, in one line.
    pub(crate) fn note_all(&self, keys: &[Key<'_>], what: What<'_>) {
        self.record(keys, &what);
        let all = Key::from(keys.iter().map(Key::label).collect::<Vec<_>>().join(" "));
        self.tell(Some(&all), &what);
    }

    /// Takes note of a decision about the whole alias.
    pub(crate) fn note_alias(&self, what: What<'_>) {
        if let What::Cleared { cause, .. } | What::InvalidationFailed { cause, .. } = &what {
            self.history.cleared(*cause, self.clock.now());
            let is_done = matches!(what, What::Cleared { .. });
            let count = if is_done { &self.clears } else { &self.failed_invalidations };
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let What::StoreFailed { again: false, .. } = what {
            self.outages.fetch_add(1, Ordering::Relaxed);
        }
        self.tell(None, &what);
    }

    fn tell(&self, key: Option<&Key<'_>>, what: &What<'_>) {
        match key {
            Some(key) => log(what, &[(key.kind().field(), &key.label()), ("alias", &self.alias)]),
            None => log(what, &[("alias", &self.alias)]),
        }
        if !self.observers.is_empty() && !IN_OBSERVER.replace(true) {
            let is_look_up = matches!(what, What::Hit { .. } | What::Miss { .. });
            for observer in self.observers.iter().filter(|observer| !is_look_up || observer.wants_look_ups()) {
                observe(&**observer, &self.alias, key, what);
            }
            IN_OBSERVER.set(false);
        }
    }
}

thread_local! {
    /// Whether this thread is inside an observer.
    static IN_OBSERVER: Cell<bool> = const { Cell::new(false) };

    /// How many look-ups this thread has not measured since the last one that it did.
    static NOT_MEASURED: Cell<u32> = const { Cell::new(0) };
}

/// Tells of every so many calls on a thread that it is the one.
fn is_sample() -> bool {
    let count = NOT_MEASURED.get() + 1;
    NOT_MEASURED.set(count % SAMPLE_OF);
    count == SAMPLE_OF
}

fn observe(observer: &dyn Observer, alias: &str, key: Option<&Key<'_>>, what: &What<'_>) {
    static SAID: Once = Once::new();
    let observed = catch_unwind(AssertUnwindSafe(|| observer.observe(&Event { alias, key, what: *what })));
    if observed.is_err() {
        SAID.call_once(|| log::error!("an observer of the cache panicked; mend it, the cache goes on without it"));
    }
}

/// Writes the line of something that happened, if anybody wants to read it.
pub(crate) fn log(what: &What<'_>, about: &[(&'static str, &dyn Display)]) {
    if !log::log_enabled!(target: TARGET, what.level()) {
        return;
    }
    let fields = fields(what, about);
    let fields: Vec<(&str, &dyn Display)> = fields.iter().map(|(name, value)| (*name, value as &dyn Display)).collect();
    line(what.level(), what.message(), &fields);
}

/// Returns the fields of the line of something that happened.
fn fields(what: &What<'_>, about: &[(&'static str, &dyn Display)]) -> Vec<(&'static str, String)> {
    let mut fields: Vec<_> = about.iter().map(|(name, value)| (*name, value.to_string())).collect();
    what.fields(&mut |name, value| fields.push((name, value.to_string())));
    fields
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

fn micros(took: Option<Duration>) -> u128 {
    took.unwrap_or_default().as_micros()
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, OnceLock, atomic::AtomicBool};

    use super::*;

    /// Looks another key up whenever it hears of something, and panics at the end.
    #[derive(Default)]
    struct Reckless {
        journal: Arc<OnceLock<Journal>>,
        heard: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Observer for Reckless {
        fn observe(&self, event: &Event<'_>) {
            assert_eq!((event.level(), event.fields()[0].clone()), (Level::Debug, ("key", "a".to_owned())));
            self.heard.lock().unwrap().push(event.message());
            let miss = What::Miss { reason: &MissReason::Absent, took: None };
            self.journal.get().unwrap().note(&Key::from("another"), miss);
            panic!("on purpose");
        }
    }

    #[test]
    fn each_key_of_a_batch_is_counted_and_remembered() {
        let journal = Journal::new("default", Clock::system(), Vec::new().into());
        let keys = ["a", "b"].map(Key::from);
        journal.note_all(&keys, What::Invalidated { cause: Some("test"), entries: 1, removed: &[], may_be_more: true });
        let invalidated = journal.groups().iter().map(|group| group.invalidations).sum::<u64>();
        assert_eq!((journal.counts().invalidations, invalidated), (2, 2));
        let error = Error::unavailable("memcached", "refused");
        let failed = Some("while it was away");
        journal.note_all(&keys, What::InvalidationFailed { cause: failed, error: &error });
        assert_eq!(journal.last_invalidation(&keys[1]).unwrap().cause.as_deref(), failed);
        journal.note_all(&[], What::Invalidated { cause: None, entries: 0, removed: &[], may_be_more: true });
        assert_eq!(journal.last_invalidation(&"c".into()), None);
    }

    #[test]
    fn an_observer_that_uses_the_cache_and_panics_harms_nobody() {
        let reckless = Reckless::default();
        let (own, heard) = (Arc::clone(&reckless.journal), Arc::clone(&reckless.heard));
        let observers: Observers = vec![Box::new(reckless) as Box<dyn Observer>].into();
        let journal = own.get_or_init(|| Journal::new("default", Clock::system(), observers));
        for _ in 0..2 {
            journal.note(&Key::from("a"), What::Waited { took: Duration::ZERO });
        }
        assert_eq!(*heard.lock().unwrap(), ["waited", "waited"]);
        assert_eq!(journal.counts().misses, 2);
    }

    /// Hears of look-ups while it is switched on.
    struct Switched(Arc<(AtomicBool, Mutex<Vec<&'static str>>)>);

    impl Observer for Switched {
        fn observe(&self, event: &Event<'_>) {
            self.0.1.lock().unwrap().push(event.message());
        }

        fn wants_look_ups(&self) -> bool {
            self.0.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn look_ups_are_told_and_measured_while_somebody_wants_them() {
        let switched = Arc::new((AtomicBool::new(false), Mutex::default()));
        let observers: Observers = vec![Box::new(Switched(Arc::clone(&switched))) as Box<dyn Observer>].into();
        let journal = Journal::new("default", Clock::system(), observers);
        let (key, miss) = (Key::from("a"), What::Miss { reason: &MissReason::Absent, took: None });
        journal.note(&key, miss);
        journal.note(&key, What::Waited { took: Duration::ZERO });
        let is_logged = log::log_enabled!(target: TARGET, Level::Debug);
        assert_eq!(journal.times_look_ups(false), is_logged);
        let measured = (0..640).filter(|_| journal.times_look_ups(false)).count();
        assert!(is_logged || measured == 10, "{measured}");
        switched.0.store(true, Ordering::Relaxed);
        journal.note(&key, miss);
        assert!((0..100).all(|_| journal.times_look_ups(false)));
        assert_eq!(*switched.1.lock().unwrap(), ["waited", "miss"]);
    }
}
