//! Statistics by key group: which kinds of entries earn their place.
//!
//! A group is what keys have in common: `object:7` and `object:8` are `object:*`, `/objects/7/` is `/objects/#/`. There
//! are few of them, so they can be kept for ever and named in metrics, which keys cannot.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{MissReason, What};
use crate::key::{Key, Kind};

/// How many groups of an alias are told apart; the others are counted as one.
const MAX_GROUPS: usize = 500;

/// Twice as many places, so that a group is found near its first one.
const SLOTS: usize = 1024;

const KINDS: [Kind; 4] = [Kind::Value, Kind::Fragment, Kind::Page, Kind::Tag];

/// The name of the group for what does not fit.
const OTHER: &str = "other";

/// The longest name of a group; longer ones are cut and end in `…`. What visitors send shall not become a long label.
const MAX_NAME_BYTES: usize = 96;

/// From this length on, a segment of a path with a digit in it stands for one thing: a digest, a UUID, a headline.
const LONG_SEGMENT_BYTES: usize = 16;

/// What one group of keys did since the process was started.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GroupStats {
    /// The kind of entry.
    pub kind: Kind,
    /// The name of the group: `object:*`.
    pub group: String,
    /// Look-ups that found a value.
    pub hits: u64,
    /// Those of them that were served stale.
    pub stale_hits: u64,
    /// Look-ups that found nothing of use, by the name of the reason.
    pub misses: Vec<(&'static str, u64)>,
    /// How many look-ups were measured: those of stores that may wait, all of them while they are logged or observed, and
    /// else one of several.
    pub timed_look_ups: u64,
    /// How long these took.
    pub look_up_time: Duration,
    /// Callers who waited for another one's load.
    pub waits: u64,
    /// How long they waited together.
    pub wait_time: Duration,
    /// Loads that returned a value.
    pub loads: u64,
    /// Loads that failed.
    pub load_failures: u64,
    /// What all loads took.
    pub load_time: Duration,
    /// What the hits would have taken to load.
    pub saved: Duration,
    /// Values stored.
    pub stored: u64,
    /// How many bytes they took in the store.
    pub stored_bytes: u64,
    /// How many of them it is known of what they took to make.
    pub timed_stored: u64,
    /// How long these took to make.
    pub make_time: Duration,
    /// Loaded values that an invalidation overtook.
    pub overtaken: u64,
    /// Invalidations.
    pub invalidations: u64,
}

/// The groups of one alias. Found without a lock, and without an allocation once they are known.
pub(super) struct Groups {
    slots: Box<[OnceLock<Box<Group>>]>,
    known: AtomicUsize,
    /// What does not fit, by kind. A key of that name belongs there too, or two series would have one name.
    others: [Group; KINDS.len()],
}

#[derive(Debug)]
struct Group {
    id: u64,
    kind: Kind,
    name: String,
    tally: Tally,
}

/// The counts of a group, on cache lines of their own: threads that count shall not disturb those that look for it.
///
/// What Prometheus shall see apart is counted apart. By subtraction a counter could go down between two readings.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Tally {
    fresh_hits: AtomicU64,
    stale_hits: AtomicU64,
    misses: [AtomicU64; MissReason::NAMES.len()],
    timed_look_ups: AtomicU64,
    look_up_nanos: AtomicU64,
    waits: AtomicU64,
    wait_micros: AtomicU64,
    loads: AtomicU64,
    load_failures: AtomicU64,
    load_micros: AtomicU64,
    saved_micros: AtomicU64,
    stored: AtomicU64,
    stored_bytes: AtomicU64,
    timed_stored: AtomicU64,
    make_micros: AtomicU64,
    overtaken: AtomicU64,
    invalidations: AtomicU64,
}

impl Default for Groups {
    fn default() -> Self {
        let slots = (0..SLOTS).map(|_| OnceLock::new()).collect();
        let others = KINDS.map(|kind| Group::new(id(kind, OTHER), kind, OTHER.to_owned()));
        Groups { slots, known: AtomicUsize::new(0), others }
    }
}

impl Groups {
    pub(super) fn count(&self, key: &Key<'_>, what: &What<'_>) {
        self.of(key).tally.count(what);
    }

    pub(super) fn all(&self) -> Vec<GroupStats> {
        let known = self.slots.iter().filter_map(OnceLock::get).map(|group| &**group);
        let mut all: Vec<GroupStats> =
            known.chain(&self.others).map(Group::stats).filter(GroupStats::is_used).collect();
        all.sort_by(|a, b| (a.kind, &a.group).cmp(&(b.kind, &b.group)));
        all
    }

    fn of(&self, key: &Key<'_>) -> &Group {
        let id = id(key.kind(), key.label());
        let other = &self.others[KINDS.iter().position(|kind| *kind == key.kind()).unwrap_or(0)];
        if other.id == id {
            return other;
        }
        let first = usize::try_from(id % SLOTS as u64).unwrap_or(0);
        for slot in self.slots[first..].iter().chain(&self.slots[..first]) {
            let group = match slot.get() {
                Some(group) => group,
                None if self.known.load(Ordering::Relaxed) >= MAX_GROUPS => return other,
                None => slot.get_or_init(|| {
                    self.known.fetch_add(1, Ordering::Relaxed);
                    Box::new(Group::new(id, key.kind(), name(key.kind(), key.label())))
                }),
            };
            if group.id == id {
                return group;
            }
        }
        other
    }
}

impl Group {
    fn new(id: u64, kind: Kind, name: String) -> Self {
        Group { id, kind, name, tally: Tally::default() }
    }

    fn stats(&self) -> GroupStats {
        let tally = &self.tally;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (fresh_hits, stale_hits) = (read(&tally.fresh_hits), read(&tally.stale_hits));
        GroupStats {
            kind: self.kind,
            group: self.name.clone(),
            hits: fresh_hits + stale_hits,
            stale_hits,
            misses: MissReason::NAMES.into_iter().zip(tally.misses.iter().map(read)).filter(|(_, n)| *n > 0).collect(),
            timed_look_ups: read(&tally.timed_look_ups),
            look_up_time: Duration::from_nanos(read(&tally.look_up_nanos)),
            waits: read(&tally.waits),
            wait_time: Duration::from_micros(read(&tally.wait_micros)),
            loads: read(&tally.loads),
            load_failures: read(&tally.load_failures),
            load_time: Duration::from_micros(read(&tally.load_micros)),
            saved: Duration::from_micros(read(&tally.saved_micros)),
            stored: read(&tally.stored),
            stored_bytes: read(&tally.stored_bytes),
            timed_stored: read(&tally.timed_stored),
            make_time: Duration::from_micros(read(&tally.make_micros)),
            overtaken: read(&tally.overtaken),
            invalidations: read(&tally.invalidations),
        }
    }
}

impl Tally {
    fn looked_up(&self, took: Option<Duration>) {
        if let Some(took) = took {
            let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            self.timed_look_ups.fetch_add(1, Ordering::Relaxed);
            self.look_up_nanos.fetch_add(nanos, Ordering::Relaxed);
        }
    }

    fn count(&self, what: &What<'_>) {
        let add = |counter: &AtomicU64, number: u64| counter.fetch_add(number, Ordering::Relaxed);
        match what {
            What::Hit { stale, took, saved, .. } => {
                add(if *stale { &self.stale_hits } else { &self.fresh_hits }, 1);
                if !saved.is_zero() {
                    add(&self.saved_micros, micros(*saved));
                }
                self.looked_up(*took);
            }
            What::Miss { reason, took } => {
                add(&self.misses[reason.index()], 1);
                self.looked_up(*took);
            }
            What::Waited { took } => {
                add(&self.waits, 1);
                add(&self.wait_micros, micros(*took));
            }
            What::Loaded { cost, .. } => {
                add(&self.loads, 1);
                add(&self.load_micros, micros(*cost));
            }
            What::LoadFailed { cost, .. } => {
                add(&self.load_failures, 1);
                add(&self.load_micros, micros(*cost));
            }
            What::Stored { bytes, cost, .. } => {
                add(&self.stored, 1);
                add(&self.stored_bytes, *bytes as u64);
                if !cost.is_zero() {
                    add(&self.timed_stored, 1);
                    add(&self.make_micros, micros(*cost));
                }
            }
            What::Overtaken { .. } => drop(add(&self.overtaken, 1)),
            What::Invalidated { .. } | What::Expired { .. } => drop(add(&self.invalidations, 1)),
            What::NotStored { .. }
            | What::InvalidationFailed { .. }
            | What::Cleared { .. }
            | What::StoreFailed { .. }
            | What::StoreAnswers { .. } => {}
        }
    }
}

impl GroupStats {
    /// Returns how many look-ups there were, found or not.
    pub fn look_ups(&self) -> u64 {
        self.hits + self.misses.iter().map(|(_, count)| count).sum::<u64>()
    }

    /// Returns what a look-up takes, of those that were measured.
    pub fn average_look_up(&self) -> Option<Duration> {
        self.look_up_time.checked_div(u32::try_from(self.timed_look_ups).ok()?)
    }

    /// Returns what it takes to make what was stored, as far as that is known: of what is only set it is not.
    pub fn average_cost(&self) -> Option<Duration> {
        self.make_time.checked_div(u32::try_from(self.timed_stored).ok()?)
    }

    /// Returns the seconds that the cache saved: what the hits would have taken to load, less what looking up took.
    /// Negative if the values are cheaper to load than to look up.
    pub fn saved_seconds(&self) -> f64 {
        let looking = self.average_look_up().map_or(0.0, |average| average.as_secs_f64() * self.look_ups() as f64);
        self.saved.as_secs_f64() - looking
    }

    fn is_used(&self) -> bool {
        self.look_ups()
            + self.waits
            + self.stored
            + self.loads
            + self.load_failures
            + self.overtaken
            + self.invalidations
            > 0
    }
}

/// Tells groups apart without making their name. FNV-1a: two groups that share a number would only be counted together.
fn id(kind: Kind, label: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let mut id = step(0xcbf2_9ce4_8422_2325, kind as u8);
    general(kind, label, |byte| id = step(id, byte));
    id
}

fn name(kind: Kind, label: &str) -> String {
    let mut name = Vec::new();
    general(kind, label, |byte| name.push(byte));
    if name.len() <= MAX_NAME_BYTES {
        return String::from_utf8_lossy(&name).into_owned();
    }
    name.truncate(MAX_NAME_BYTES - '…'.len_utf8());
    let whole = std::str::from_utf8(&name).map_or_else(|error| error.valid_up_to(), str::len);
    String::from_utf8_lossy(&name[..whole]).into_owned() + "…"
}

/// Hands over the label without what tells one entry of a group from another: what follows the first colon, the query
/// of a page and its long segments with digits, and every number. Ends where a name is too long in any case.
fn general(kind: Kind, label: &str, mut push: impl FnMut(u8)) {
    let mut room = MAX_NAME_BYTES + 1;
    let mut push = |byte| {
        if room > 0 {
            room -= 1;
            push(byte);
        }
    };
    if kind == Kind::Page {
        let path = label.split('?').next().unwrap_or(label);
        for (position, segment) in path.split('/').enumerate() {
            if position > 0 {
                push(b'/');
            }
            let is_long = segment.len() >= LONG_SEGMENT_BYTES && segment.bytes().any(|byte| byte.is_ascii_digit());
            if is_long { push(b'*') } else { numbered(segment, &mut push) }
        }
    } else if let Some((head, _)) = label.split_once(':') {
        numbered(head, &mut push);
        b":*".iter().for_each(|byte| push(*byte));
    } else {
        numbered(label, &mut push);
    }
}

/// Hands over a text with `#` for each of its numbers.
fn numbered(text: &str, push: &mut impl FnMut(u8)) {
    let mut is_in_number = false;
    for byte in text.bytes() {
        let is_digit = byte.is_ascii_digit();
        match (is_digit, is_in_number) {
            (true, true) => {}
            (true, false) => push(b'#'),
            (false, _) => push(byte),
        }
        is_in_number = is_digit;
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_group_have_one_name() {
        for (label, group) in [
            ("objects", "objects"),
            ("object:7", "object:*"),
            ("object:7:title", "object:*"),
            ("report-2026-11", "report-#-#"),
            ("7", "#"),
            ("", ""),
            ("süß:清", "süß:*"),
        ] {
            assert_eq!(name(Kind::Value, label), group);
        }
    }

    #[test]
    fn pages_are_grouped_by_path() {
        for (label, group) in [
            ("/", "/"),
            ("/objects/17/?page=2&q=a:b", "/objects/#/"),
            ("/a:b/", "/a:b/"),
            ("/v2/2024-11-07/", "/v#/#-#-#/"),
            ("/files/550e8400-e29b-41d4-a716-446655440000.png", "/files/*"),
            ("/recipes/10-jams-for-winter/", "/recipes/*/"),
            ("/recipes/ten-jams-for-winter/", "/recipes/ten-jams-for-winter/"),
        ] {
            assert_eq!(name(Kind::Page, label), group);
        }
    }

    #[test]
    fn a_long_name_is_cut_between_characters_and_is_one_group() {
        let exact = "a".repeat(MAX_NAME_BYTES);
        assert_eq!(name(Kind::Value, &exact), exact);
        for start in ["a".repeat(200), "ö".repeat(100), format!("a{}", "ö".repeat(100)), "清".repeat(50)] {
            let (one, other) = (format!("{start}x"), format!("{start}y"));
            let cut = name(Kind::Value, &one);
            assert!(cut.ends_with('…') && (MAX_NAME_BYTES - 3..=MAX_NAME_BYTES).contains(&cut.len()), "{cut}");
            assert!(start.starts_with(cut.trim_end_matches('…')), "{cut}");
            assert_eq!((id(Kind::Value, &one), cut), (id(Kind::Value, &other), name(Kind::Value, &other)));
        }
    }

    #[test]
    fn groups_beyond_the_limit_are_counted_together() {
        let groups = Groups::default();
        for n in 0..MAX_GROUPS + 10 {
            let letters: String = format!("{n:03}").bytes().map(|digit| char::from(digit + 49)).collect();
            groups.count(&Key::from(letters), &What::Waited { took: Duration::ZERO });
        }
        groups.count(
            &Key::from("one more"),
            &What::Hit { stale: true, took: None, saved: Duration::from_secs(2), bytes: 7 },
        );
        groups.count(&Key::from(OTHER), &What::Waited { took: Duration::ZERO });
        let all = groups.all();
        let mut others = all.iter().filter(|group| group.group == OTHER);
        let other = others.next().unwrap();
        assert!(others.next().is_none(), "a key of that name is counted with them");
        assert_eq!((other.waits, other.hits, other.stale_hits, other.saved), (11, 1, 1, Duration::from_secs(2)));
    }
}
