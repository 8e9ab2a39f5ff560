//! The cases, one function each. A case panics when the store fails it.

#![expect(clippy::unwrap_used, reason = "a case fails by panicking")]
#![expect(missing_docs, reason = "the name of a case says what it proves")]

mod declared;
mod keeping;
mod keeping_nothing;
mod loading;
mod replacing;

pub use declared::*;
pub use keeping::*;
pub use keeping_nothing::*;
pub use loading::*;
pub use replacing::*;

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Harness;
use crate::{
    Error, Expiry, Timeout,
    backend::{Backend, Value},
    settings::AliasSettings,
};

const SHORT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Jar {
    label: String,
    weight: Option<f64>,
    tags: Vec<String>,
    by_shelf: BTreeMap<String, i64>,
}

fn jar() -> Jar {
    Jar {
        label: "Quittengelee, süß 清".into(),
        weight: Some(0.35),
        tags: vec!["quince".into(), String::new()],
        by_shelf: BTreeMap::from([("upper".into(), -3)]),
    }
}

fn text(text: &str) -> Value {
    Value::Bytes(Bytes::copy_from_slice(text.as_bytes()))
}

fn after<H: Harness>(harness: &Arc<H>, timeout: impl Into<Timeout>) -> Expiry {
    timeout.into().expiry(harness.clock().now()).unwrap()
}

fn value(store: &dyn Backend, key: &str) -> Option<Value> {
    store.get(key).unwrap().map(|entry| entry.value)
}

pub fn values_of_all_types_read_back<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("jar", &jar(), 60).unwrap();
    assert_eq!(cache.get("jar").unwrap(), Some(jar()));
    cache.set("text", "plain\r\nEND\r\n", 60).unwrap();
    assert_eq!(cache.get::<String>("text").unwrap().as_deref(), Some("plain\r\nEND\r\n"));
    cache.set("empty", "", 60).unwrap();
    assert_eq!(cache.get::<String>("empty").unwrap().as_deref(), Some(""));
    for number in [0, -1, 127, i64::MAX, i64::MIN] {
        cache.set("number", &number, 60).unwrap();
        assert_eq!(cache.get::<i64>("number").unwrap(), Some(number));
    }
    cache.set("flag", &true, 60).unwrap();
    assert_eq!(cache.get("flag").unwrap(), Some(true));
    assert_eq!(cache.get::<Jar>("text").unwrap(), None, "another type is a miss");
}

pub fn a_cached_none_is_a_hit<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("nothing", &None::<String>, 60).unwrap();
    assert_eq!(cache.get::<Option<String>>("nothing").unwrap(), Some(None));
    let loaded = cache.get_or_set("nothing", 60, || -> Result<Option<String>, Infallible> { panic!("it was cached") });
    assert_eq!(loaded.unwrap(), None);
}

pub fn bytes_read_back_as_they_are<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    for bytes in [&b""[..], b"12", b"-5", b"\0\r\n", &[0xff; 100_000]] {
        let bytes = Bytes::copy_from_slice(bytes);
        cache.set_bytes("bytes", bytes.clone(), 60).unwrap();
        assert_eq!(cache.get_bytes("bytes").unwrap(), Some(bytes));
    }
}

pub fn a_missing_key_is_none<H: Harness>(harness: &Arc<H>) {
    assert_eq!(harness.cache().get::<i64>("missing").unwrap(), None);
}

pub fn set_replaces_value_and_timeout<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("key", "old", SHORT).unwrap();
    cache.set("key", &7, 600).unwrap();
    harness.wait(SHORT);
    assert_eq!(cache.get::<i64>("key").unwrap(), Some(7));
}

pub fn an_entry_expires_after_its_timeout<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("key", "value", SHORT).unwrap();
    cache.set("counter", &1, SHORT).unwrap();
    cache.set("later", "value", 600).unwrap();
    assert!(cache.has_key("key").unwrap());
    harness.wait(SHORT);
    assert_eq!(cache.get::<String>("key").unwrap(), None);
    assert_eq!(cache.get::<i64>("counter").unwrap(), None);
    assert!(cache.has_key("later").unwrap());
    assert!(!cache.delete("key").unwrap(), "an expired entry is not there");
}

pub fn an_entry_that_never_expires_stays<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("key", "value", Timeout::Never).unwrap();
    harness.wait(SHORT);
    assert!(cache.has_key("key").unwrap());
}

pub fn a_timeout_of_zero_or_less_stores_nothing_and_removes_the_old_value<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    for timeout in [Timeout::from(0), Timeout::from(-1), Timeout::from(Duration::ZERO)] {
        cache.set("key", "old", 60).unwrap();
        cache.set("key", "new", timeout).unwrap();
        assert!(!cache.has_key("key").unwrap(), "{timeout:?}");
    }
}

pub fn a_timeout_over_thirty_days_works<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("year", "value", 365 * 24 * 60 * 60).unwrap();
    assert!(cache.add("month", &1, 31 * 24 * 60 * 60).unwrap());
    cache.set("touched", "value", 60).unwrap();
    assert!(cache.touch("touched", 60 * 24 * 60 * 60).unwrap());
    harness.wait(SHORT);
    for key in ["year", "month", "touched"] {
        assert!(cache.has_key(key).unwrap(), "{key}");
    }
}

pub fn the_default_timeout_comes_from_the_settings<H: Harness>(harness: &Arc<H>) {
    let short = harness.cache_with(AliasSettings { timeout: SHORT.into(), ..AliasSettings::default() });
    let never = harness.cache_with(AliasSettings { timeout: Timeout::Never, ..AliasSettings::default() });
    short.set("short", &1, Timeout::Default).unwrap();
    never.set("never", &1, Timeout::Default).unwrap();
    harness.wait(SHORT);
    assert!(!short.has_key("short").unwrap());
    assert!(never.has_key("never").unwrap());
}

pub fn add_stores_only_what_is_missing<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    assert!(cache.add("key", "first", 60).unwrap());
    assert!(!cache.add("key", "second", 60).unwrap());
    assert_eq!(cache.get::<String>("key").unwrap().as_deref(), Some("first"));
    cache.delete("key").unwrap();
    assert!(cache.add("key", "third", 60).unwrap());
}

pub fn add_replaces_an_expired_entry<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("key", "old", SHORT).unwrap();
    harness.wait(SHORT);
    assert!(cache.add("key", "new", 60).unwrap());
    assert_eq!(cache.get::<String>("key").unwrap().as_deref(), Some("new"));
}

pub fn add_with_a_timeout_of_zero_stores_nothing<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    assert!(cache.add("key", "value", 0).unwrap());
    assert!(!cache.has_key("key").unwrap());
    cache.set("key", "value", 60).unwrap();
    assert!(!cache.add("key", "other", 0).unwrap());
    assert!(cache.has_key("key").unwrap());
}

pub fn touch_gives_a_new_timeout<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    for (key, timeout) in [("longer", Timeout::from(600)), ("ever", Timeout::Never)] {
        cache.set(key, "value", SHORT).unwrap();
        assert!(cache.touch(key, timeout).unwrap());
    }
    cache.set("counter", &5, SHORT).unwrap();
    assert!(cache.touch("counter", 600).unwrap());
    cache.set("shorter", "value", 600).unwrap();
    assert!(cache.touch("shorter", SHORT).unwrap());
    harness.wait(SHORT);
    assert_eq!(cache.get::<String>("longer").unwrap().as_deref(), Some("value"));
    assert!(cache.has_key("ever").unwrap());
    assert_eq!(cache.incr("counter", 1).unwrap(), 6);
    assert!(!cache.has_key("shorter").unwrap());
}

pub fn touch_of_a_missing_key_does_nothing<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    assert!(!cache.touch("missing", 60).unwrap());
    assert!(!cache.has_key("missing").unwrap());
}

pub fn touch_does_not_bring_an_expired_value_back<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("key", "value", SHORT).unwrap();
    harness.wait(SHORT);
    assert!(!cache.touch("key", 600).unwrap());
    assert!(!cache.has_key("key").unwrap());
}

pub fn touch_with_a_timeout_of_zero_expires_the_entry<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("key", "value", 60).unwrap();
    assert!(cache.touch("key", 0).unwrap());
    assert!(!cache.has_key("key").unwrap());
}

pub fn delete_tells_whether_something_was_there<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    assert!(!cache.delete("key").unwrap());
    cache.set("key", "value", 60).unwrap();
    assert!(cache.delete("key").unwrap());
    assert!(!cache.delete("key").unwrap());
    assert!(!cache.has_key("key").unwrap());
}

pub fn batches_do_what_single_verbs_do<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    let values: HashMap<String, i64> = (0..20).map(|number| (format!("key{number}"), number)).collect();
    assert_eq!(cache.set_many(values.clone(), 60).unwrap(), Vec::<String>::new());
    let asked = values.keys().map(String::as_str).chain(["missing"]);
    assert_eq!(cache.get_many::<i64, _>(asked).unwrap(), values);
    assert_eq!(cache.delete_many(["key0", "key1", "missing"]).unwrap(), 2);
    assert_eq!(cache.get_many::<i64, _>(["key0", "key1", "key2"]).unwrap(), HashMap::from([("key2".into(), 2)]));
    assert_eq!(cache.set_many(HashMap::<String, i64>::new(), 60).unwrap(), Vec::<String>::new());
    assert!(cache.get_many::<i64, &str>([]).unwrap().is_empty());
    assert_eq!(cache.delete_many::<&str>([]).unwrap(), 0);
    cache.set_many([("key2", 5)], 0).unwrap();
    assert!(!cache.has_key("key2").unwrap(), "a timeout of zero");
}

pub fn counters_count_up_and_down_and_below_zero<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("counter", &8, 60).unwrap();
    assert_eq!(cache.incr("counter", 1).unwrap(), 9);
    assert_eq!(cache.incr("counter", 10).unwrap(), 19);
    assert_eq!(cache.decr("counter", 15).unwrap(), 4);
    assert_eq!(cache.decr("counter", 6).unwrap(), -2);
    assert_eq!(cache.incr("counter", -10).unwrap(), -12);
    assert_eq!(cache.incr("counter", 0).unwrap(), -12);
    assert_eq!(cache.decr("counter", -13).unwrap(), 1);
    assert_eq!(cache.get::<i64>("counter").unwrap(), Some(1));
    assert!(cache.add("added", &1, 60).unwrap());
    assert_eq!(cache.incr("added", 1).unwrap(), 2);
}

pub fn counters_keep_their_timeout<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("short", &1, SHORT).unwrap();
    cache.incr("short", 1).unwrap();
    cache.set("long", &1, Timeout::Never).unwrap();
    cache.decr("long", 1).unwrap();
    harness.wait(SHORT);
    assert_eq!(cache.get::<i64>("short").unwrap(), None);
    assert_eq!(cache.get::<i64>("long").unwrap(), Some(0));
}

pub fn counters_stop_at_their_bounds<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("top", &(i64::MAX - 1), 60).unwrap();
    assert_eq!(cache.incr("top", 1).unwrap(), i64::MAX);
    assert!(matches!(cache.incr("top", 1), Err(Error::NotACounter { .. })));
    assert_eq!(cache.get::<i64>("top").unwrap(), Some(i64::MAX));
    cache.set("bottom", &(i64::MIN + 1), 60).unwrap();
    assert!(matches!(cache.decr("bottom", 2), Err(Error::NotACounter { .. })));
    assert_eq!(cache.get::<i64>("bottom").unwrap(), Some(i64::MIN + 1));
}

pub fn only_integers_count<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("text", "12", 60).unwrap();
    assert!(matches!(cache.incr("text", 1), Err(Error::NotACounter { .. })));
    assert_eq!(cache.get::<String>("text").unwrap().as_deref(), Some("12"));
}

pub fn a_missing_key_does_not_count<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    assert!(matches!(cache.incr("missing", 1), Err(Error::KeyNotFound { .. })));
    assert!(matches!(cache.decr("missing", 1), Err(Error::KeyNotFound { .. })));
    cache.set("expired", &1, SHORT).unwrap();
    harness.wait(SHORT);
    assert!(matches!(cache.incr("expired", 1), Err(Error::KeyNotFound { .. })));
    assert!(matches!(cache.incr_version("missing", 1), Err(Error::KeyNotFound { .. })));
}

pub fn counting_from_many_threads_loses_nothing<H: Harness>(harness: &Arc<H>) {
    harness.cache().set("counter", &0, 600).unwrap();
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let cache = harness.cache();
            thread::spawn(move || {
                for _ in 0..50 {
                    cache.incr("counter", 1).unwrap();
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert_eq!(harness.cache().get::<i64>("counter").unwrap(), Some(200));
}

pub fn one_of_many_adds_wins<H: Harness>(harness: &Arc<H>) {
    for round in 0..10 {
        let workers: Vec<_> = (0..4)
            .map(|number| {
                let cache = harness.cache();
                thread::spawn(move || cache.add(format!("lock{round}"), &number, 60).unwrap())
            })
            .collect();
        let winners = workers.into_iter().map(|worker| worker.join().unwrap()).filter(|won| *won).count();
        assert_eq!(winners, 1);
    }
}

pub fn versions_are_apart<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    let second = cache.clone().version(2);
    cache.set("key", "one", 60).unwrap();
    assert_eq!(second.get::<String>("key").unwrap(), None);
    second.set("key", "two", 60).unwrap();
    assert_eq!(cache.get::<String>("key").unwrap().as_deref(), Some("one"));
    assert!(second.delete("key").unwrap());
    assert!(cache.has_key("key").unwrap());
    let by_settings = harness.cache_with(AliasSettings { version: 2, ..AliasSettings::default() });
    second.set("key", "two", 60).unwrap();
    assert_eq!(by_settings.get::<String>("key").unwrap().as_deref(), Some("two"));
}

pub fn incr_version_moves_the_value_with_the_time_it_has_left<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("long", "value", 600).unwrap();
    cache.set("short", &5, SHORT).unwrap();
    assert_eq!(cache.incr_version("long", 1).unwrap(), 2);
    assert_eq!(cache.incr_version("short", 2).unwrap(), 3);
    assert!(!cache.has_key("long").unwrap());
    assert_eq!(cache.clone().version(3).get::<i64>("short").unwrap(), Some(5));
    harness.wait(SHORT);
    assert!(!cache.clone().version(3).has_key("short").unwrap());
    assert_eq!(cache.clone().version(2).decr_version("long", 1).unwrap(), 1);
    assert_eq!(cache.get::<String>("long").unwrap().as_deref(), Some("value"));
}

pub fn prefixes_are_apart<H: Harness>(harness: &Arc<H>) {
    let with_prefix =
        |prefix: &str| harness.cache_with(AliasSettings { key_prefix: prefix.into(), ..AliasSettings::default() });
    let (a, b, tricky) = (with_prefix("a"), with_prefix("b"), with_prefix("a:1"));
    a.set("key", "a", 60).unwrap();
    a.set("1:key", "a", 60).unwrap();
    assert!(!b.has_key("key").unwrap());
    assert!(!tricky.has_key("key").unwrap());
}

pub fn long_and_odd_keys_work_and_stay_apart<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    let long = "k".repeat(1000);
    let keys =
        [&*long, &long[1..], "with blank", "with\nnewline", "\r\nset victim 0 0 1\r\nx", "清潔", "", "a:b", "%s'\"\0"];
    for (number, key) in keys.iter().enumerate() {
        cache.set(*key, &number, 60).unwrap();
    }
    for (number, key) in keys.iter().enumerate() {
        assert_eq!(cache.get::<usize>(*key).unwrap(), Some(number), "{key:?}");
    }
    assert!(!cache.has_key("victim").unwrap());
    assert_eq!(cache.get_many::<usize, _>(keys).unwrap().len(), keys.len());
}

pub fn has_key_tells_without_reading<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("key", &None::<i64>, 60).unwrap();
    assert!(cache.has_key("key").unwrap());
    assert!(!cache.has_key("missing").unwrap());
}

pub fn clear_removes_everything<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    let other = harness.cache_with(AliasSettings { key_prefix: "other".into(), ..AliasSettings::default() });
    cache.set("a", &1, 60).unwrap();
    other.set("b", "text", Timeout::Never).unwrap();
    cache.clear().unwrap();
    assert!(!cache.has_key("a").unwrap());
    assert!(!other.has_key("b").unwrap());
    cache.set("a", &2, 60).unwrap();
    assert_eq!(cache.get::<i64>("a").unwrap(), Some(2));
}

pub fn a_value_over_the_limit_is_refused_and_the_old_one_is_gone<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    let Some(limit) = harness.open().capabilities().max_value_bytes else { return };
    cache.set("key", "old", 60).unwrap();
    let large = Bytes::from(vec![7; limit + 1]);
    assert!(matches!(cache.set_bytes("key", large.clone(), 60), Err(Error::ValueTooLarge { .. })));
    assert!(!cache.has_key("key").unwrap());
    let loaded = cache.get_or_set("key", 60, || Ok::<_, Infallible>(vec![1u8; limit + 1]));
    assert_eq!(loaded.unwrap().len(), limit + 1, "the caller gets his value all the same");
    cache.set("key", "small", 60).unwrap();
    assert_eq!(cache.get::<String>("key").unwrap().as_deref(), Some("small"), "the store goes on");
}

pub fn another_handle_sees_the_same_entries<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (harness.cache(), harness.cache());
    here.set("key", "value", 60).unwrap();
    assert_eq!(there.get::<String>("key").unwrap().as_deref(), Some("value"));
    assert!(there.delete("key").unwrap());
    assert!(!here.has_key("key").unwrap());
}

pub fn an_invalidated_tag_makes_its_entries_stale<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (harness.cache(), harness.cache());
    here.clone().tags(["object", "object:1"]).set("one", "1", 60).unwrap();
    here.clone().tags(["object", "object:2"]).set("two", &2, 60).unwrap();
    here.set("untagged", &3, 60).unwrap();
    assert_eq!(there.get::<i64>("two").unwrap(), Some(2));
    there.invalidate_tags(["object:1"]).unwrap();
    assert!(!here.has_key("one").unwrap());
    assert!(here.has_key("two").unwrap());
    here.clone().tags(["object", "object:1"]).set("one", "new", 60).unwrap();
    assert!(there.has_key("one").unwrap());
    here.invalidate_tags(["object"]).unwrap();
    assert!(there.get_many::<i64, _>(["one", "two"]).unwrap().is_empty());
    assert!(there.has_key("untagged").unwrap());
}

pub fn a_tag_invalidated_while_loading_wins<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (harness.cache().tags(["object:1"]), harness.cache());
    let loaded = here.get_or_set("page", 60, || {
        there.invalidate_tags(["object:1"]).unwrap();
        Ok::<_, Infallible>("from the old row".to_owned())
    });
    assert_eq!(loaded.unwrap(), "from the old row");
    assert_eq!(here.get::<String>("page").unwrap(), None);
}

pub fn add_replaces_an_entry_that_a_tag_made_stale<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.clone().tags(["object"]).set("key", "old", 60).unwrap();
    cache.invalidate_tags(["object"]).unwrap();
    assert!(cache.add("key", "new", 60).unwrap());
    assert_eq!(cache.get::<String>("key").unwrap().as_deref(), Some("new"));
}

pub fn tags_end_with_a_clear<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache().tags(["object"]);
    cache.set("key", "old", 60).unwrap();
    let before = cache.clone();
    cache.clear().unwrap();
    assert!(!before.has_key("key").unwrap());
    cache.set("key", "new", 60).unwrap();
    assert!(cache.has_key("key").unwrap());
}

pub fn get_or_set_loads_once<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    let mut loads = 0;
    for _ in 0..3 {
        let value = cache.get_or_set("key", 60, || {
            loads += 1;
            Ok::<_, Infallible>(jar())
        });
        assert_eq!(value.unwrap(), jar());
    }
    assert_eq!(loads, 1);
}

pub fn get_or_set_keeps_no_error<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    let failed = cache.get_or_set("key", 60, || Err::<i64, _>("upstream is down"));
    assert_eq!(failed.unwrap_err().loader_error(), Some(&"upstream is down"));
    assert!(!cache.has_key("key").unwrap());
    assert_eq!(cache.get_or_set("key", 60, || Ok::<_, Infallible>(5)), Ok(5));
}

pub fn get_or_set_replaces_what_it_cannot_read<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("key", "of another type", Timeout::Never).unwrap();
    assert_eq!(cache.get_or_set("key", 60, || Ok::<_, Infallible>(jar())), Ok(jar()));
    assert_eq!(cache.get("key").unwrap(), Some(jar()));
}

pub fn get_or_set_keeps_what_was_stored_meanwhile<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (harness.cache(), harness.cache());
    let loaded = here.get_or_set("key", 60, || {
        there.set("key", &2, 60).unwrap();
        Ok::<_, Infallible>(1)
    });
    assert_eq!(loaded, Ok(1), "the loader's value goes to its caller");
    assert_eq!(here.get::<i64>("key").unwrap(), Some(2), "and not into the cache");
}
