//! Any sequence of verbs does what it does to a plain map with timeouts and tags, on every store and from two handles.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use larder_cache::{BlockingCache, DEFAULT_TIMEOUT, Error, LoadOptions, Timeout, conformance::Harness};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{select, subsequence},
    test_runner::TestRunner,
};
use serde::{Deserialize, Serialize};

/// The third needs a digest.
const KEYS: [&str; 3] = ["a", "b", "süß 清 \r\n"];
const TAGS: [&str; 2] = ["object", "object:7"];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Content {
    Nothing,
    Number(i64),
    Text(String),
    List(Vec<i64>),
}

/// How a value is stored.
#[derive(Debug, Clone)]
struct Manner {
    timeout: Timeout,
    stale_for: Duration,
    tags: Vec<usize>,
}

#[derive(Debug, Clone)]
enum Verb {
    Get(usize),
    GetMany(Vec<usize>),
    GetOrSet(usize, Content, Manner),
    HasKey(usize),
    Ttl(usize),
    Set(usize, Content, Manner),
    SetMany(Vec<usize>, Content, Manner),
    Add(usize, Content, Manner),
    Touch(usize, Timeout),
    Delete(usize),
    DeleteMany(Vec<usize>),
    Expire(usize),
    InvalidateTags(Vec<usize>),
    Incr(usize, i64),
    Decr(usize, i64),
    IncrVersion(usize, i64),
    Clear,
    Wait(Duration),
}

/// What a verb answers.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Done,
    Found(Option<Content>),
    FoundMany(BTreeMap<String, Content>),
    Is(bool),
    Count(usize),
    Number(i64),
    Lasts(Option<Timeout>),
    NotFound,
    NotACounter,
}

/// A verb on keys of a version, by one of two handles.
#[derive(Debug, Clone)]
struct Step {
    verb: Verb,
    version: i64,
    is_there: bool,
}

/// Makes a test of the model for one store.
macro_rules! model {
    ($harness:expr, $time:expr, $cases:expr) => {
        #[test]
        fn any_sequence_of_verbs_does_what_it_does_to_a_map() {
            crate::model::agrees(&::std::sync::Arc::new($harness), $time, $cases);
        }
    };
}
pub(crate) use model;

/// Whether the test can let time pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    Stands,
    /// It passes by itself, so that no timeout may be short.
    Flies,
}

pub(crate) fn agrees<H: Harness>(harness: &Arc<H>, time: Time, cases: u32) {
    let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) });
    let result = runner.run(&vec(step(time), 1..60), |steps| {
        let mut caches = cleared(harness);
        let mut model = Model::default();
        for Step { verb, version, is_there } in steps {
            let answer = match &verb {
                Verb::Clear => {
                    caches = cleared(harness);
                    Answer::Done
                }
                Verb::Wait(duration) if time == Time::Stands => {
                    harness.wait(*duration);
                    Answer::Done
                }
                verb => real(&caches[usize::from(is_there)].clone().version(version), verb),
            };
            let expected = model.apply(&verb, version);
            prop_assert!(is_same(&answer, &expected, time), "{verb:?} is {answer:?}, not {expected:?}");
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Clears the store and opens it twice. Handles from before may miss what those from after store, for a second of real
/// time: so long they believe in the generation that went with the rest.
fn cleared<H: Harness>(harness: &Arc<H>) -> [BlockingCache; 2] {
    harness.cache().clear().unwrap();
    [harness.cache(), harness.cache()]
}

fn is_same(answer: &Answer, expected: &Answer, time: Time) -> bool {
    match (answer, expected) {
        (Answer::Lasts(Some(Timeout::After(left))), Answer::Lasts(Some(Timeout::After(expected))))
            if time == Time::Flies =>
        {
            left.abs_diff(*expected) < Duration::from_secs(10)
        }
        _ => answer == expected,
    }
}

fn step(time: Time) -> impl Strategy<Value = Step> {
    (verb(time), 1..=2i64, any::<bool>()).prop_map(|(verb, version, is_there)| Step { verb, version, is_there })
}

fn verb(time: Time) -> impl Strategy<Value = Verb> {
    let key = || 0..KEYS.len();
    let keys = || subsequence((0..KEYS.len()).collect::<Vec<_>>(), 0..=KEYS.len());
    let delta = prop_oneof![8 => -3..4i64, 1 => Just(i64::MAX)];
    let waits = if time == Time::Stands { vec![1, 400, 1_000, 3_000] } else { vec![0] };
    prop_oneof![
        4 => key().prop_map(Verb::Get),
        2 => keys().prop_map(Verb::GetMany),
        3 => (key(), content(), lasting(time)).prop_map(|(key, content, manner)| Verb::GetOrSet(key, content, manner)),
        1 => key().prop_map(Verb::HasKey),
        2 => key().prop_map(Verb::Ttl),
        6 => (key(), content(), manner(time)).prop_map(|(key, content, manner)| Verb::Set(key, content, manner)),
        2 => (keys(), content(), manner(time)).prop_map(|(keys, content, manner)| Verb::SetMany(keys, content, manner)),
        3 => (key(), content(), manner(time)).prop_map(|(key, content, manner)| Verb::Add(key, content, manner)),
        2 => (key(), timeout(time)).prop_map(|(key, timeout)| Verb::Touch(key, timeout)),
        2 => key().prop_map(Verb::Delete),
        1 => keys().prop_map(Verb::DeleteMany),
        3 => key().prop_map(Verb::Expire),
        2 => subsequence((0..TAGS.len()).collect::<Vec<_>>(), 1..=TAGS.len()).prop_map(Verb::InvalidateTags),
        3 => (key(), delta.clone()).prop_map(|(key, delta)| Verb::Incr(key, delta)),
        2 => (key(), delta).prop_map(|(key, delta)| Verb::Decr(key, delta)),
        2 => (key(), -1..=1i64).prop_map(|(key, delta)| Verb::IncrVersion(key, delta)),
        1 => Just(Verb::Clear),
        4 => select(waits).prop_map(|millis| Verb::Wait(Duration::from_millis(millis))),
    ]
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        1 => Just(Content::Nothing),
        6 => prop_oneof![-2..3i64, Just(i64::MAX), Just(i64::MIN)].prop_map(Content::Number),
        2 => ".{0,8}".prop_map(Content::Text),
        1 => vec(any::<i64>(), 0..4).prop_map(Content::List),
    ]
}

fn manner(time: Time) -> impl Strategy<Value = Manner> {
    let stale_for = prop_oneof![3 => Just(0), 1 => Just(2)].prop_map(Duration::from_secs);
    let tags =
        prop_oneof![2 => Just(Vec::new()), 1 => subsequence((0..TAGS.len()).collect::<Vec<_>>(), 1..=TAGS.len())];
    (timeout(time), stale_for, tags).prop_map(|(timeout, stale_for, tags)| Manner { timeout, stale_for, tags })
}

/// What a loader keeps: for a second after one that keeps nothing, `delete` and `expire` take what is left of its ticket
/// for an entry.
fn lasting(time: Time) -> impl Strategy<Value = Manner> {
    manner(time).prop_map(|manner| match manner.timeout {
        Timeout::After(Duration::ZERO) => Manner { timeout: Timeout::Default, ..manner },
        _ => manner,
    })
}

fn timeout(time: Time) -> impl Strategy<Value = Timeout> {
    let lengths = if time == Time::Stands { vec![1, 2, 5] } else { vec![100, 1_000, 10_000] };
    prop_oneof![
        1 => Just(Timeout::After(Duration::ZERO)),
        1 => Just(Timeout::Never),
        1 => Just(Timeout::Default),
        5 => select(lengths).prop_map(|secs| Timeout::After(Duration::from_secs(secs))),
    ]
}

/// Asks the cache.
fn real(cache: &BlockingCache, verb: &Verb) -> Answer {
    let names = |keys: &[usize]| keys.iter().map(|key| KEYS[*key]).collect::<Vec<_>>();
    let with = |manner: &Manner| {
        let options = LoadOptions::new().stale_if_error(manner.stale_for);
        cache.clone().tags(manner.tags.iter().map(|tag| TAGS[*tag])).load_options(options)
    };
    match verb {
        Verb::Get(key) => Answer::Found(cache.get(KEYS[*key]).unwrap()),
        Verb::GetMany(keys) => Answer::FoundMany(cache.get_many(names(keys)).unwrap().into_iter().collect()),
        Verb::GetOrSet(key, content, manner) => {
            let load = || Ok::<_, Infallible>(content.clone());
            Answer::Found(Some(with(manner).get_or_set(KEYS[*key], manner.timeout, load).unwrap()))
        }
        Verb::HasKey(key) => Answer::Is(cache.has_key(KEYS[*key]).unwrap()),
        Verb::Ttl(key) => Answer::Lasts(cache.ttl(KEYS[*key]).unwrap()),
        Verb::Set(key, content, manner) => {
            with(manner).set(KEYS[*key], content, manner.timeout).unwrap();
            Answer::Done
        }
        Verb::SetMany(keys, content, manner) => {
            let items = names(keys).into_iter().map(|key| (key, content));
            assert!(with(manner).set_many(items, manner.timeout).unwrap().is_empty());
            Answer::Done
        }
        Verb::Add(key, content, manner) => Answer::Is(with(manner).add(KEYS[*key], content, manner.timeout).unwrap()),
        Verb::Touch(key, timeout) => Answer::Is(cache.touch(KEYS[*key], *timeout).unwrap()),
        Verb::Delete(key) => Answer::Is(cache.delete(KEYS[*key]).unwrap()),
        Verb::DeleteMany(keys) => Answer::Count(cache.delete_many(names(keys)).unwrap()),
        Verb::Expire(key) => Answer::Is(cache.expire(KEYS[*key]).unwrap()),
        Verb::InvalidateTags(tags) => {
            cache.invalidate_tags(tags.iter().map(|tag| TAGS[*tag])).unwrap();
            Answer::Done
        }
        Verb::Incr(key, delta) => number(cache.incr(KEYS[*key], *delta)),
        Verb::Decr(key, delta) => number(cache.decr(KEYS[*key], *delta)),
        Verb::IncrVersion(key, delta) => number(cache.incr_version(KEYS[*key], *delta)),
        Verb::Clear | Verb::Wait(_) => Answer::Done,
    }
}

fn number(result: Result<i64, Error>) -> Answer {
    match result {
        Ok(number) => Answer::Number(number),
        Err(Error::KeyNotFound { .. }) => Answer::NotFound,
        Err(Error::NotACounter { .. }) => Answer::NotACounter,
        Err(error) => panic!("{error:?}"),
    }
}

/// What the cache is said to do, without a store.
#[derive(Debug, Default)]
struct Model {
    now: Duration,
    entries: HashMap<(usize, i64), Entry>,
    tags: [u64; TAGS.len()],
}

#[derive(Debug, Clone)]
struct Entry {
    content: Content,
    /// A number that was not loaded and has neither tags nor a time when it is stale: it cannot be made stale either.
    is_bare: bool,
    /// Until when it is fresh, and until when it is there; `None` for ever.
    fresh_until: Option<Duration>,
    kept_until: Option<Duration>,
    is_expired: bool,
    tags: Vec<(usize, u64)>,
}

impl Model {
    fn apply(&mut self, verb: &Verb, version: i64) -> Answer {
        let now = self.now;
        self.entries.retain(|_, entry| entry.kept_until.is_none_or(|end| end > now));
        match verb {
            Verb::Get(key) => Answer::Found(self.fresh(*key, version).map(|entry| entry.content.clone())),
            Verb::GetMany(keys) => {
                let found = keys.iter().filter_map(|key| Some((KEYS[*key].to_owned(), self.fresh(*key, version)?)));
                Answer::FoundMany(found.map(|(name, entry)| (name, entry.content.clone())).collect())
            }
            Verb::GetOrSet(key, content, manner) => {
                if let Some(entry) = self.fresh(*key, version) {
                    return Answer::Found(Some(entry.content.clone()));
                }
                self.put(*key, version, content, manner);
                self.entries.entry((*key, version)).and_modify(|entry| entry.is_bare = false);
                Answer::Found(Some(content.clone()))
            }
            Verb::HasKey(key) => Answer::Is(self.fresh(*key, version).is_some()),
            Verb::Ttl(key) => {
                let left = |end: Option<Duration>| end.map_or(Timeout::Never, |end| Timeout::After(end - now));
                Answer::Lasts(self.fresh(*key, version).map(|entry| left(entry.fresh_until)))
            }
            Verb::Set(key, content, manner) => {
                self.put(*key, version, content, manner);
                Answer::Done
            }
            Verb::SetMany(keys, content, manner) => {
                keys.iter().for_each(|key| self.put(*key, version, content, manner));
                Answer::Done
            }
            Verb::Add(key, content, manner) => {
                let is_missing = self.fresh(*key, version).is_none();
                // With a timeout of zero it only tells whether it could have.
                if is_missing && manner.timeout != Timeout::After(Duration::ZERO) {
                    self.put(*key, version, content, manner);
                }
                Answer::Is(is_missing)
            }
            Verb::Touch(key, timeout) => Answer::Is(self.touch(*key, version, *timeout)),
            // Whether there was something, be it stale.
            Verb::Delete(key) => Answer::Is(self.entries.remove(&(*key, version)).is_some()),
            Verb::DeleteMany(keys) => {
                Answer::Count(keys.iter().filter(|key| self.entries.remove(&(**key, version)).is_some()).count())
            }
            Verb::Expire(key) => Answer::Is(self.expire(*key, version)),
            Verb::InvalidateTags(tags) => {
                tags.iter().for_each(|tag| self.tags[*tag] += 1);
                Answer::Done
            }
            Verb::Incr(key, delta) => self.count(*key, version, |number| number.checked_add(*delta)),
            Verb::Decr(key, delta) => self.count(*key, version, |number| number.checked_sub(*delta)),
            Verb::IncrVersion(key, delta) => match self.entries.remove(&(*key, version)) {
                Some(entry) => {
                    self.entries.insert((*key, version + delta), entry);
                    Answer::Number(version + delta)
                }
                None => Answer::NotFound,
            },
            Verb::Clear => {
                self.entries.clear();
                Answer::Done
            }
            Verb::Wait(duration) => {
                self.now += *duration;
                Answer::Done
            }
        }
    }

    fn fresh(&self, key: usize, version: i64) -> Option<&Entry> {
        self.entries.get(&(key, version)).filter(|entry| {
            !entry.is_expired && self.has_its_tags(entry) && entry.fresh_until.is_none_or(|end| end > self.now)
        })
    }

    fn has_its_tags(&self, entry: &Entry) -> bool {
        entry.tags.iter().all(|(tag, version)| self.tags[*tag] == *version)
    }

    /// Returns until when a value is fresh and kept; `None` if it is gone at once.
    fn until(&self, timeout: Timeout, stale_for: Duration) -> Option<(Option<Duration>, Option<Duration>)> {
        match timeout.or(Timeout::After(DEFAULT_TIMEOUT)) {
            Timeout::After(Duration::ZERO) => None,
            Timeout::After(after) => Some((Some(self.now + after), Some(self.now + after + stale_for))),
            _ => Some((None, None)),
        }
    }

    fn put(&mut self, key: usize, version: i64, content: &Content, manner: &Manner) {
        let Some((fresh_until, kept_until)) = self.until(manner.timeout, manner.stale_for) else {
            self.entries.remove(&(key, version));
            return;
        };
        let is_number = matches!(content, Content::Number(_));
        let entry = Entry {
            content: content.clone(),
            is_bare: is_number && manner.tags.is_empty() && fresh_until == kept_until,
            fresh_until,
            kept_until,
            is_expired: false,
            tags: manner.tags.iter().map(|tag| (*tag, self.tags[*tag])).collect(),
        };
        self.entries.insert((key, version), entry);
    }

    fn touch(&mut self, key: usize, version: i64, timeout: Timeout) -> bool {
        let Some(entry) = self.fresh(key, version) else { return false };
        let stale_for = match (entry.fresh_until, entry.kept_until) {
            (Some(fresh), Some(kept)) => kept - fresh,
            _ => Duration::ZERO,
        };
        match self.until(timeout, stale_for) {
            Some((fresh_until, kept_until)) => {
                self.entries.entry((key, version)).and_modify(|entry| {
                    (entry.fresh_until, entry.kept_until) = (fresh_until, kept_until);
                });
            }
            None => drop(self.entries.remove(&(key, version))),
        }
        true
    }

    fn expire(&mut self, key: usize, version: i64) -> bool {
        match self.entries.get_mut(&(key, version)) {
            None => false,
            Some(entry) if entry.is_bare => self.entries.remove(&(key, version)).is_some(),
            Some(entry) => {
                entry.is_expired = true;
                true
            }
        }
    }

    /// A stale value is still there, and no counter.
    fn count(&mut self, key: usize, version: i64, count: impl Fn(i64) -> Option<i64>) -> Answer {
        let Some(entry) = self.entries.get(&(key, version)).filter(|entry| self.has_its_tags(entry)) else {
            return Answer::NotFound;
        };
        let Content::Number(number) = entry.content else { return Answer::NotACounter };
        let is_free = entry.tags.is_empty() && entry.fresh_until == entry.kept_until && !entry.is_expired;
        match count(number).filter(|_| is_free) {
            Some(sum) => {
                self.entries
                    .entry((key, version))
                    .and_modify(|entry| (entry.content, entry.is_bare) = (Content::Number(sum), true));
                Answer::Number(sum)
            }
            None => Answer::NotACounter,
        }
    }
}
