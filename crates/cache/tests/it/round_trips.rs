//! How often the cache waits for memcached, counted by a proxy in between.
//!
//! | | round trips | |
//! | --- | --- | --- |
//! | look-up: `get`, `has_key`, `ttl`, `get_or_set` that hits | 1 | with the tags that the handle names |
//! | look-up of an entry with tags that the handle does not name | 2 | entry, tags |
//! | look-up that finds a copy in this process | 0 | 2 where a copy must not be old; the value stays where it is |
//! | `get_many` of any number up to 100, less the named tags | 1 | 2 with tags that the handle does not name |
//! | `get_or_set` that loads | 4 | look-up, ticket, and two to replace the ticket |
//! | with tags | 5 | their versions; each that has none yet costs one more |
//! | `get_or_load` that loads | 5 | the mark of all invalidations |
//! | with tags that it found last time as well | 6 | their versions |
//! | with tags that it finds for the first time | 7 | their versions and once more the mark, after the loader |
//! | refresh of a stale value | 4 | two for the ticket, two for the value; after the look-up |
//! | `get_or_set_many` that loads any number up to 100 | 4 | as for one key; 5 with tags |
//! | `set`, `set_many` up to 100 | 1 | 2 with tags |
//! | `add` | 2 | the generation, which must not be an old one |
//! | `touch`, `expire` | 3 | look-up, and two to replace the entry |
//! | `incr`, `delete`, `delete_many` up to 100 | 1 | |
//! | `invalidate_tags` | 2 | the mark, then the tags |
//!
//! Once a second a process asks what generation its prefix is in. A look-up of one key has this come along for nothing;
//! whatever else meets that moment first waits once more.

use std::{collections::HashMap, convert::Infallible, thread, time::Duration};

use larder_cache::{
    BlockingCache, Caches, Load, LoadOptions,
    conformance::server::MemcachedServer,
    settings::{AliasSettings, NearSettings},
};

use crate::proxy::Proxy;

/// How long a process believes what it knows of a generation, and a little more.
const GENERATION_FORGOTTEN: Duration = Duration::from_millis(1100);

struct Counted {
    cache: BlockingCache,
    proxy: Proxy,
    caches: Caches,
    _server: MemcachedServer,
}

impl Counted {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut AliasSettings)) -> Self {
        let server = MemcachedServer::start();
        let proxy = Proxy::start(&server.address());
        // A machine that is busy with other tests answers late.
        let address = format!("memcached://{}?timeout_ms=5000", proxy.address());
        let mut settings = AliasSettings::from_address("default", &address).unwrap();
        change(&mut settings);
        let caches = Caches::builder().alias("default", settings).build().unwrap();
        Counted { cache: caches.default_cache().blocking(), proxy, caches, _server: server }
    }

    /// Returns the round trips of an operation in a process that has looked something up not long ago: the least of a
    /// few attempts, for a busy machine may let a second go by. Each attempt has a number, for keys of its own.
    fn trips<T>(&self, operation: impl Fn(usize) -> T) -> usize {
        let attempt = |number| {
            self.cache.get::<i64>("anything").unwrap();
            self.trips_of(|| operation(number))
        };
        (0..5).map(attempt).min().unwrap()
    }

    fn trips_of<T>(&self, operation: impl FnOnce() -> T) -> usize {
        let before = self.proxy.trips();
        operation();
        self.proxy.trips() - before
    }
}

fn load() -> Result<String, Infallible> {
    Ok("value".to_owned())
}

fn load_many(keys: Vec<String>) -> Result<HashMap<String, String>, Infallible> {
    Ok(keys.into_iter().map(|key| (key, "value".to_owned())).collect())
}

fn names(prefix: impl std::fmt::Display, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}.{number}")).collect()
}

#[test]
fn a_look_up_is_one_round_trip_with_the_tags_that_it_names() {
    let counted = Counted::new();
    let (plain, tagged) = (&counted.cache, counted.cache.clone().tags(["a", "b", "c"]));
    plain.set("plain", "value", 600).unwrap();
    tagged.set("tagged", "value", 600).unwrap();
    assert_eq!(counted.trips(|_| plain.get::<String>("plain").unwrap().unwrap()), 1);
    assert_eq!(counted.trips(|_| assert!(!plain.has_key("missing").unwrap())), 1);
    assert_eq!(counted.trips(|_| plain.ttl("plain").unwrap().unwrap()), 1);
    assert_eq!(counted.trips(|_| plain.get_or_set("plain", 60, load).unwrap()), 1);
    assert_eq!(counted.trips(|_| tagged.get::<String>("tagged").unwrap().unwrap()), 1);
    assert_eq!(counted.trips(|_| tagged.get_or_set("tagged", 60, load).unwrap()), 1);
    assert_eq!(counted.trips(|_| plain.get::<String>("tagged").unwrap().unwrap()), 2);
}

#[test]
fn fifty_entries_are_looked_up_in_one_round_trip_and_one_for_their_tags() {
    let counted = Counted::new();
    let (plain, tagged) = (&counted.cache, counted.cache.clone().tags(["a", "b", "c"]));
    let keys = names("key", 50);
    tagged.set_many(keys.iter().map(|key| (key, "value")), 600).unwrap();
    let look_up = |cache: &BlockingCache| assert_eq!(cache.get_many::<String, _>(&keys).unwrap().len(), 50);
    assert_eq!(counted.trips(|_| look_up(&tagged)), 1);
    assert_eq!(counted.trips(|_| look_up(plain)), 2);
}

#[test]
fn a_cold_key_costs_five_round_trips_and_more_with_new_tags() {
    let counted = Counted::new();
    let (plain, tagged) = (&counted.cache, counted.cache.clone().tags(["a", "b"]));
    tagged.set("tagged", "value", 600).unwrap();
    let finding = |load_more: Load<String>| {
        load_more.tags(["a", "b"]);
        load()
    };
    assert_eq!(counted.trips(|n| plain.get_or_set(format!("plain{n}"), 60, load).unwrap()), 5);
    assert_eq!(counted.trips(|n| tagged.get_or_set(format!("tagged{n}"), 60, load).unwrap()), 5);
    let with_new_tags = |n| plain.clone().tags(names(n, 2)).get_or_set(format!("new{n}"), 60, load).unwrap();
    assert_eq!(counted.trips(with_new_tags), 7);
    assert_eq!(counted.trips(|n| plain.get_or_load(format!("finding nothing{n}"), 60, |_| load()).unwrap()), 5);
    assert_eq!(counted.trips(|n| plain.get_or_load(format!("finding{n}"), 60, finding).unwrap()), 7);
    plain.delete_many((0..5).map(|n| format!("finding{n}"))).unwrap();
    assert_eq!(counted.trips(|n| plain.get_or_load(format!("finding{n}"), 60, finding).unwrap()), 5);
}

#[test]
fn the_async_handle_costs_no_more() {
    let counted = Counted::new();
    let cache = counted.caches.default_cache();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let load = |n: usize| {
        let loaded = cache.get_or_set(format!("key{n}"), 60, || async { load() });
        assert_eq!(runtime.block_on(loaded).as_deref(), Ok("value"));
    };
    assert_eq!(counted.trips(load), 5);
    assert_eq!(counted.trips(load), 1);
}

/// A blocking handle refreshes where it stands, so its count is that of the look-up and of the refresh.
#[test]
fn a_refresh_costs_five_round_trips_after_the_look_up() {
    let counted = Counted::new();
    let cache = counted.cache.clone().load_options(LoadOptions::new().stale_while_revalidate(600));
    for key in names("key", 5) {
        cache.set(&key, "value", 60).unwrap();
        cache.expire(&key).unwrap();
    }
    assert_eq!(counted.trips(|n| cache.get_or_set(format!("key.{n}"), 60, load).unwrap()), 1 + 5);
}

#[test]
fn many_cold_keys_cost_what_one_does() {
    let counted = Counted::new();
    let (plain, tagged) = (&counted.cache, counted.cache.clone().tags(["a", "b"]));
    tagged.set("tagged", "value", 600).unwrap();
    for count in [1, 10, 50, 98] {
        let load = |cache: &BlockingCache, name: String| {
            assert_eq!(cache.get_or_set_many(names(name, count), 60, load_many).unwrap().len(), count);
        };
        assert_eq!(counted.trips(|n| load(plain, format!("plain {n} of {count}"))), 5, "{count} keys");
        assert_eq!(counted.trips(|n| load(&tagged, format!("tagged {n} of {count}"))), 5, "{count} keys");
    }
}

#[test]
fn writes_cost_what_the_table_says() {
    let counted = Counted::new();
    let (plain, tagged) = (&counted.cache, counted.cache.clone().tags(["a", "b"]));
    plain.set("counter", &1, 600).unwrap();
    let fifty = |cache: &BlockingCache| cache.set_many(names("key", 50).iter().map(|key| (key, "value")), 600).unwrap();
    assert_eq!(counted.trips(|_| plain.set("key", "value", 600).unwrap()), 1);
    assert_eq!(counted.trips(|_| tagged.set("tagged", "value", 600).unwrap()), 2);
    assert_eq!(counted.trips(|_| fifty(plain)), 1);
    assert_eq!(counted.trips(|_| fifty(&tagged)), 2);
    assert_eq!(counted.trips(|n| assert!(plain.add(format!("added{n}"), "value", 600).unwrap())), 2);
    assert_eq!(counted.trips(|_| assert!(plain.touch("key", 600).unwrap())), 3);
    assert_eq!(counted.trips(|n| assert!(plain.expire(format!("added{n}")).unwrap())), 3);
    assert_eq!(counted.trips(|_| plain.incr("counter", 1).unwrap()), 1);
    assert_eq!(counted.trips(|n| assert!(plain.delete(format!("added{n}")).unwrap())), 1);
    assert_eq!(counted.trips(|_| plain.delete_many(names("key", 50)).unwrap()), 1);
    assert_eq!(counted.trips(|_| plain.invalidate_tags(["a"]).unwrap()), 2);
    assert_eq!(counted.trips(|_| plain.invalidate_tags(names("tag", 50)).unwrap()), 2);
}

#[test]
fn a_copy_costs_nothing() {
    let near = NearSettings { stale_for: Duration::from_secs(60), max_entries: 100, max_bytes: 1_000_000 };
    let counted = Counted::with(|settings| settings.near = Some(near));
    let cache = counted.cache.clone().tags(["a", "b"]);
    let keys = names("key", 50);
    cache.set_many(keys.iter().map(|key| (key, "value")), 600).unwrap();
    assert_eq!(cache.get_many::<String, _>(&keys).unwrap().len(), 50);
    assert_eq!(counted.trips(|_| cache.get::<String>("key.7").unwrap().unwrap()), 0);
    assert_eq!(counted.trips(|_| counted.cache.get::<String>("key.7").unwrap().unwrap()), 0);
    assert_eq!(counted.trips(|_| cache.get_or_set("key.7", 60, load).unwrap()), 0);
    assert_eq!(counted.trips(|_| counted.cache.get_many::<String, _>(&keys).unwrap()), 0);
}

#[test]
fn of_a_copy_that_must_not_be_old_only_the_value_stays_where_it_is() {
    let near = NearSettings { stale_for: Duration::ZERO, max_entries: 100, max_bytes: 1_000_000 };
    let counted = Counted::with(|settings| {
        settings.near = Some(near);
        settings.compress_above = None;
    });
    let cache = counted.cache.clone().tags(["a", "b"]);
    let value = "x".repeat(100_000);
    cache.set("key", &value, 600).unwrap();
    assert_eq!(counted.cache.get("key").unwrap().as_ref(), Some(&value));
    let before = counted.proxy.answered_bytes();
    assert_eq!(counted.trips(|_| assert_eq!(counted.cache.get("key").unwrap().as_ref(), Some(&value))), 2);
    assert!(counted.proxy.answered_bytes() - before < 10_000);
    cache.set("key", "new", 600).unwrap();
    assert_eq!(counted.cache.get::<String>("key").unwrap().as_deref(), Some("new"));
}

#[test]
fn once_a_second_the_generation_is_asked_for_and_a_look_up_has_it_come_along() {
    let counted = Counted::new();
    let cache = counted.cache.clone().tags(["a"]);
    let keys = names("key", 50);
    cache.set_many(keys.iter().map(|key| (key, "value")), 600).unwrap();
    thread::sleep(GENERATION_FORGOTTEN);
    assert_eq!(counted.trips_of(|| cache.get::<String>("key.7").unwrap().unwrap()), 1);
    thread::sleep(GENERATION_FORGOTTEN);
    assert_eq!(counted.trips_of(|| cache.get_many::<String, _>(&keys).unwrap()), 1 + 1);
    thread::sleep(GENERATION_FORGOTTEN);
    assert_eq!(counted.trips_of(|| counted.cache.set("key", "value", 600).unwrap()), 1 + 1);
}
