//! What the drivers must do against real servers; those tests that wait for memcached's own clock say so.

use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::conformance::server::MemcachedServer;

macro_rules! on_every_driver {
    ($($test:ident)*) => {
        mod meta {
            $(#[test] fn $test() { super::$test(super::Driver::Meta); })*
        }

        #[cfg(feature = "memcached-r2d2")]
        mod r2d2 {
            $(#[test] fn $test() { super::$test(super::Driver::R2d2); })*
        }
    };
}

on_every_driver! {
    every_verb_does_what_it_says
    values_of_all_kinds_read_back
    counters_cover_the_whole_range_and_keep_their_timeout
    a_dash_behind_a_counter_in_the_memory_of_the_server_is_not_its_sign
    only_counters_count
    many_threads_lose_no_count
    many_keys_go_together
    expiries_are_kept_and_pass
    an_expiry_that_has_passed_removes_the_value
    a_value_that_is_too_large_takes_the_old_one_with_it
    a_server_that_takes_less_than_we_think_says_so
    a_replacement_that_the_server_refuses_does_not_hide_the_others
    a_server_without_cas_refuses_to_replace
    what_looks_like_a_number_is_no_counter_when_it_is_replaced
    the_largest_value_fits_with_the_longest_key
    a_restart_is_survived
    a_stopped_server_fails_at_once_and_is_not_served_stale
    a_frozen_server_costs_one_timeout_and_never_mixes_answers_up
    of_two_servers_the_living_goes_on
    garbage_is_an_outage
    clear_and_stats_reach_the_server
    a_silent_server_does_not_hold_a_caller_longer_than_the_timeout
    a_host_that_is_not_known_yet_does_not_stop_the_start
}

const ONE: Value = Value::Integer(1);

fn connect(driver: Driver, servers: &[String]) -> Memcached {
    Memcached::connect(Settings::new(servers).driver(driver)).unwrap()
}

fn start(driver: Driver) -> (MemcachedServer, Memcached) {
    let server = MemcachedServer::start();
    let store = connect(driver, &[server.address()]);
    (server, store)
}

fn text(text: &str) -> Value {
    Value::Bytes(Bytes::copy_from_slice(text.as_bytes()))
}

fn after(seconds: u64) -> Expiry {
    Expiry::At(Clock::system().now().saturating_add(Duration::from_secs(seconds)))
}

fn value(store: &Memcached, key: &str) -> Option<Value> {
    store.get(key).unwrap().map(|entry| entry.value)
}

/// Waits until the breaker lets a trial through and the store answers.
fn wait_for(store: &Memcached) {
    let limit = Instant::now() + Duration::from_secs(10);
    while store.get("probe").is_err() {
        assert!(Instant::now() < limit, "the store does not recover");
        thread::sleep(Duration::from_millis(50));
    }
}

fn assert_expires_in(store: &Memcached, key: &str, seconds: u64) {
    let Expiry::At(moment) = store.get(key).unwrap().unwrap().expiry else { panic!("{key} never expires") };
    let left = moment.saturating_since(Clock::system().now()).as_secs();
    assert!((seconds.saturating_sub(3)..=seconds + 1).contains(&left), "{key} has {left} s left");
}

fn every_verb_does_what_it_says(driver: Driver) {
    let (_server, store) = start(driver);
    assert_eq!(store.get("k").unwrap(), None);
    assert!(!store.delete("k").unwrap());
    assert!(!store.touch("k", after(60)).unwrap());
    assert_eq!(store.incr("k", 1).unwrap(), None);
    store.set("k", &text("old"), Expiry::Never).unwrap();
    assert!(!store.add("k", &text("other"), Expiry::Never).unwrap());
    assert_eq!(store.get("k").unwrap(), Some(Entry { value: text("old"), expiry: Expiry::Never }));
    store.set("k", &text("new"), after(60)).unwrap();
    assert_eq!(value(&store, "k"), Some(text("new")));
    assert!(store.touch("k", after(600)).unwrap());
    assert_expires_in(&store, "k", 600);
    assert!(store.touch("k", Expiry::Never).unwrap());
    assert_eq!(store.get("k").unwrap(), Some(Entry { value: text("new"), expiry: Expiry::Never }));
    assert!(store.delete("k").unwrap());
    assert!(store.add("k", &text("added"), after(60)).unwrap());
    assert_eq!(value(&store, "k"), Some(text("added")));
}

fn values_of_all_kinds_read_back(driver: Driver) {
    let (_server, store) = start(driver);
    let every_byte = Value::Bytes((0..=255).collect());
    for value in [text(""), text("12"), text(" 7"), text("'"), text("a\r\nEND\r\n"), every_byte, Value::Integer(-5)] {
        store.set("k", &value, Expiry::Never).unwrap();
        assert_eq!(store.get("k").unwrap().unwrap().value, value);
        store.delete("k").unwrap();
        assert!(store.add("k", &value, Expiry::Never).unwrap());
        assert_eq!(store.get_many(&["k"]).unwrap()[0].as_ref().unwrap().value, value);
    }
    store.set("schlüssel:清", &ONE, Expiry::Never).unwrap();
    assert_eq!(value(&store, "schlüssel:清"), Some(ONE));
}

fn counters_cover_the_whole_range_and_keep_their_timeout(driver: Driver) {
    let (_server, store) = start(driver);
    let set = |number| store.set("n", &Value::Integer(number), after(600)).unwrap();
    for (start, delta) in [(1, 1), (0, -1), (-1, 1), (10, -1), (-10, -100), (5, 0), (i64::MIN, i64::MAX), (0, i64::MIN)]
    {
        set(start);
        let sum = start.checked_add(delta).unwrap();
        assert_eq!(store.incr("n", delta).unwrap(), Some(sum), "{start} + {delta}");
        assert_eq!(value(&store, "n"), Some(Value::Integer(sum)));
        assert_expires_in(&store, "n", 600);
    }
    for (start, delta) in [(i64::MAX, 1), (i64::MIN, -1), (1, i64::MAX), (-2, i64::MIN), (i64::MIN, i64::MIN)] {
        set(start);
        assert!(matches!(store.incr("n", delta), Err(Error::NotACounter { .. })), "{start} + {delta}");
        assert_eq!(value(&store, "n"), Some(Value::Integer(start)), "it did not change");
    }
}

fn a_dash_behind_a_counter_in_the_memory_of_the_server_is_not_its_sign(driver: Driver) {
    let (_server, store) = start(driver);
    for number in [-5, i64::MIN, 5, 0] {
        // The server gives the memory of a deleted item to the next one of its size, as it is.
        store.set("n", &text(&"-".repeat(30)), Expiry::Never).unwrap();
        store.delete("n").unwrap();
        store.set("n", &Value::Integer(number), after(600)).unwrap();
        assert_eq!(store.incr("n", 1).unwrap(), Some(number + 1));
        assert_eq!(value(&store, "n"), Some(Value::Integer(number + 1)));
        assert_expires_in(&store, "n", 600);
    }
}

fn only_counters_count(driver: Driver) {
    let (_server, store) = start(driver);
    for bytes in ["", "a", "5", "-5", " 5", "+5", "\n5"] {
        store.set("k", &text(bytes), Expiry::Never).unwrap();
        assert!(matches!(store.incr("k", 1), Err(Error::NotACounter { .. })), "{bytes:?}");
        assert_eq!(value(&store, "k"), Some(text(bytes)));
    }
}

fn many_threads_lose_no_count(driver: Driver) {
    let (_server, store) = start(driver);
    let store = &Memcached::connect(
        Settings::new([store.servers[0].address.clone()]).driver(driver).timeout(Duration::from_secs(5)),
    )
    .unwrap();
    store.set("n", &Value::Integer(-100), Expiry::Never).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || (0..50).for_each(|_| assert!(store.incr("n", 1).unwrap().is_some())));
        }
    });
    assert_eq!(value(store, "n"), Some(Value::Integer(100)));
    let wins: usize = thread::scope(|scope| {
        let threads = [(); 4].map(|()| scope.spawn(|| usize::from(store.add("lock", &ONE, after(60)).unwrap())));
        threads.map(|thread| thread.join().unwrap()).into_iter().sum()
    });
    assert_eq!(wins, 1);
}

fn many_keys_go_together(driver: Driver) {
    let servers = [MemcachedServer::start(), MemcachedServer::start()];
    let store = connect(driver, &servers.each_ref().map(MemcachedServer::address));
    let keys: Vec<String> = (0..350).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let items: Vec<_> = keys.iter().map(|key| (*key, text(key))).collect();
    assert!(store.set_many(&items, after(60)).unwrap().is_empty());
    let mut asked = keys.clone();
    asked.insert(3, "missing");
    let found = store.get_many(&asked).unwrap();
    for (key, entry) in asked.iter().zip(&found) {
        let expected = (*key != "missing").then(|| text(key));
        assert_eq!(entry.as_ref().map(|entry| entry.value.clone()), expected);
    }
    assert_eq!(store.parts(), 2);
    assert!(keys.iter().any(|key| store.part_of(key) == 1) && keys.iter().any(|key| store.part_of(key) == 0));
    let replacements: Vec<_> =
        items.iter().map(|(key, old)| Replacement { key, old, new: &ONE, expiry: after(60) }).collect();
    assert_eq!(store.replace_many(&replacements).unwrap(), vec![true; keys.len()]);
    assert_eq!(store.replace_many(&replacements).unwrap(), vec![false; keys.len()]);
    assert_eq!(store.add_many(&items, after(60)).unwrap(), vec![false; keys.len()]);
    assert_eq!(store.delete_many(&asked).unwrap(), keys.len());
    assert!(store.get_many(&keys).unwrap().iter().all(Option::is_none));
    assert_eq!(store.get_many(&[]).unwrap(), []);
    assert_eq!(store.set_many(&[], Expiry::Never).unwrap(), Vec::<usize>::new());
    assert_eq!(store.delete_many(&[]).unwrap(), 0);
}

/// Sleeps: the server has a clock of its own.
fn expiries_are_kept_and_pass(driver: Driver) {
    let (_server, store) = start(driver);
    const DAY: u64 = 60 * 60 * 24;
    for seconds in [60, 30 * DAY, 31 * DAY, 365 * DAY] {
        store.set("k", &ONE, after(seconds)).unwrap();
        assert_expires_in(&store, "k", seconds);
        assert!(store.touch("k", after(2 * seconds)).unwrap());
        assert_expires_in(&store, "k", 2 * seconds);
    }
    store.set("short", &ONE, after(1)).unwrap();
    store.set("touched", &ONE, after(600)).unwrap();
    assert!(store.touch("touched", after(1)).unwrap());
    thread::sleep(Duration::from_millis(2100));
    assert_eq!(store.get_many(&["short", "touched"]).unwrap(), [None, None]);
    assert!(store.add("short", &ONE, Expiry::Never).unwrap(), "an expired entry is missing");
}

fn an_expiry_that_has_passed_removes_the_value(driver: Driver) {
    let (_server, store) = start(driver);
    let past = Expiry::At(Timestamp::from_millis(1));
    let set = || store.set("k", &ONE, Expiry::Never).unwrap();
    set();
    store.set("k", &ONE, past).unwrap();
    assert_eq!(value(&store, "k"), None);
    set();
    assert!(store.touch("k", past).unwrap());
    assert_eq!(value(&store, "k"), None);
    assert!(store.add("k", &ONE, past).unwrap());
    assert_eq!(value(&store, "k"), None);
    set();
    assert!(!store.add("k", &ONE, past).unwrap());
    assert!(store.set_many(&[("k", ONE)], past).unwrap().is_empty());
    assert_eq!(value(&store, "k"), None);
}

fn a_value_that_is_too_large_takes_the_old_one_with_it(driver: Driver) {
    let (_server, store) = start(driver);
    let huge = Value::Bytes(vec![b'x'; 1_048_576].into());
    store.set("k", &ONE, Expiry::Never).unwrap();
    let error = store.set("k", &huge, Expiry::Never).unwrap_err();
    assert!(matches!(error, Error::ValueTooLarge { bytes: 1_048_576, .. }), "{error}");
    assert_eq!(value(&store, "k"), None);
    store.set("k", &ONE, Expiry::Never).unwrap();
    let items = [("a", ONE), ("k", huge), ("b", ONE)];
    assert_eq!(store.set_many(&items, Expiry::Never).unwrap(), [1]);
    assert_eq!(value(&store, "k"), None);
    assert_eq!(store.get_many(&["a", "b"]).unwrap().iter().flatten().count(), 2);
}

fn a_server_that_takes_less_than_we_think_says_so(driver: Driver) {
    let server = MemcachedServer::start_with(&["-I", "512k"]);
    let store = connect(driver, &[server.address()]);
    let large = Value::Bytes(vec![b'x'; 600_000].into());
    store.set("k", &ONE, Expiry::Never).unwrap();
    assert!(matches!(store.set("k", &large, Expiry::Never), Err(Error::ValueTooLarge { .. })));
    assert_eq!(value(&store, "k"), None);
    assert!(matches!(store.add("k", &large, Expiry::Never), Err(Error::ValueTooLarge { .. })));
    store.set("k", &ONE, Expiry::Never).unwrap();
    let items = [("a", ONE), ("k", large), ("b", ONE)];
    assert_eq!(store.set_many(&items, Expiry::Never).unwrap(), [1]);
    assert_eq!(value(&store, "k"), None);
    assert_eq!(store.get_many(&["a", "b"]).unwrap().iter().flatten().count(), 2);
}

fn a_replacement_that_the_server_refuses_does_not_hide_the_others(driver: Driver) {
    let server = MemcachedServer::start_with(&["-I", "512k"]);
    let store = connect(driver, &[server.address()]);
    let large = Value::Bytes(vec![b'x'; 600_000].into());
    let old = text("old");
    let set = || ["a", "b", "c"].map(|key| store.set(key, &old, after(60)).unwrap());
    set();
    assert!(matches!(store.replace("b", &old, &large, after(60)), Err(Error::ValueTooLarge { .. })));
    set();
    let items = [("a", &ONE), ("b", &large), ("c", &ONE)];
    let items = items.map(|(key, new)| Replacement { key, old: &old, new, expiry: after(60) });
    let replaced = store.replace_many(&items).unwrap();
    assert_eq!(replaced[..2], [true, false]);
    assert_eq!(value(&store, "c"), Some(ONE));
    assert_ne!(value(&store, "b"), Some(large.clone()));
    let added = store.add_many(&[("d", ONE), ("e", large), ("f", ONE)], after(60)).unwrap();
    assert_eq!(added[..2], [true, false]);
    assert_eq!(store.get_many(&["d", "e", "f"]).unwrap().iter().flatten().count(), 2);
}

fn a_server_without_cas_refuses_to_replace(driver: Driver) {
    let server = MemcachedServer::start_with(&["-C"]);
    let store = connect(driver, &[server.address()]);
    store.set("k", &ONE, after(60)).unwrap();
    let error = store.replace("k", &ONE, &text("new"), after(60)).unwrap_err();
    assert!(crate::error::Causes(&error).to_string().contains("start memcached without -C"), "{error:?}");
    assert_eq!(value(&store, "k"), Some(ONE));
}

fn what_looks_like_a_number_is_no_counter_when_it_is_replaced(driver: Driver) {
    let (_server, store) = start(driver);
    let stored = encode_counter(5).to_string();
    for bytes in ["5", &stored, &format!("'{stored}")] {
        store.set("k", &Value::Integer(5), after(60)).unwrap();
        assert!(!store.replace("k", &text(bytes), &text("new"), after(60)).unwrap());
        store.set("k", &text(bytes), after(60)).unwrap();
        assert!(!store.replace("k", &Value::Integer(5), &text("new"), after(60)).unwrap());
        assert!(store.replace("k", &text(bytes), &text("new"), after(60)).unwrap());
    }
}

fn the_largest_value_fits_with_the_longest_key(driver: Driver) {
    let (_server, store) = start(driver);
    let limit = store.capabilities().max_value_bytes.unwrap();
    let key = "k".repeat(MAX_KEY_BYTES);
    let largest = Value::Bytes(vec![b'x'; limit].into());
    store.set(&key, &largest, Expiry::Never).unwrap();
    assert_eq!(value(&store, &key), Some(largest));
}

fn a_restart_is_survived(driver: Driver) {
    let (mut server, store) = start(driver);
    store.set("k", &ONE, Expiry::Never).unwrap();
    server.restart();
    wait_for(&store);
    assert_eq!(value(&store, "k"), None);
    store.set("k", &ONE, Expiry::Never).unwrap();
    assert_eq!(value(&store, "k"), Some(ONE));
}

fn a_stopped_server_fails_at_once_and_is_not_served_stale(driver: Driver) {
    let (mut server, store) = start(driver);
    store.set("k", &ONE, Expiry::Never).unwrap();
    server.stop();
    // Up to three failures, of which none waits: nothing listens.
    let begun = Instant::now();
    for _ in 0..100 {
        assert!(store.get("k").unwrap_err().is_outage());
    }
    assert!(begun.elapsed() < DEFAULT_TIMEOUT, "{:?}", begun.elapsed());
    assert!(store.delete("k").unwrap_err().is_outage());
    server.restart();
    // Another process stores the old value again.
    connect(driver, &[server.address()]).set("k", &ONE, Expiry::Never).unwrap();
    wait_for(&store);
    assert_eq!(value(&store, "k"), None, "the deletion was delivered first");
}

fn a_frozen_server_costs_one_timeout_and_never_mixes_answers_up(driver: Driver) {
    let (server, store) = start(driver);
    for key in ["a", "b", "c"] {
        store.set(key, &text(key), Expiry::Never).unwrap();
    }
    server.freeze();
    let begun = Instant::now();
    assert!(store.get("a").unwrap_err().is_outage());
    assert!(begun.elapsed() < 3 * DEFAULT_TIMEOUT, "{:?}", begun.elapsed());
    assert!(store.delete("c").is_err());
    assert!(store.get("b").is_err());
    let begun = Instant::now();
    assert!(store.get("b").is_err());
    assert!(begun.elapsed() < DEFAULT_TIMEOUT / 2, "the breaker is open");
    server.thaw();
    wait_for(&store);
    for key in ["b", "a", "b"] {
        assert_eq!(value(&store, key), Some(text(key)));
    }
    assert_eq!(value(&store, "c"), None);
}

fn of_two_servers_the_living_goes_on(driver: Driver) {
    let mut servers = [MemcachedServer::start(), MemcachedServer::start()];
    let store = connect(driver, &servers.each_ref().map(MemcachedServer::address));
    let keys: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let items: Vec<_> = keys.iter().map(|key| (*key, ONE)).collect();
    assert!(store.set_many(&items, Expiry::Never).unwrap().is_empty());
    servers[0].stop();
    let (dead, living): (Vec<&str>, Vec<&str>) = keys.iter().partition(|key| store.position_for(key) == 0);
    assert!(dead.len() > 5 && living.len() > 5);
    let found = store.get_many(&keys).unwrap();
    assert_eq!(found.iter().flatten().count(), living.len(), "keys of the dead server are missing");
    assert!(living.iter().all(|key| store.get(key).unwrap().is_some()));
    assert!(dead.iter().all(|key| store.get(key).is_err()));
    assert_eq!(store.set_many(&items, Expiry::Never).unwrap().len(), dead.len());
    let two = Value::Integer(2);
    let replacements: Vec<_> =
        items.iter().map(|(key, old)| Replacement { key, old, new: &two, expiry: Expiry::Never }).collect();
    let replaced = store.replace_many(&replacements).unwrap();
    assert!(keys.iter().zip(replaced).all(|(key, replaced)| replaced == living.contains(key)));
    assert!(store.replace(dead[0], &ONE, &two, Expiry::Never).unwrap_err().is_outage());
    assert!(store.add_many(&[(dead[0], ONE)], Expiry::Never).unwrap_err().is_outage(), "nobody was there to answer");
    assert!(store.delete_many(&keys).unwrap_err().is_outage(), "whoever deletes learns that it is not done");
    assert!(living.iter().all(|key| store.get(key).unwrap().is_none()), "but the living server was told");
    assert!(store.stats().unwrap().iter().any(|(_, value)| value == "not available"));
    servers[0].restart();
    let limit = Instant::now() + Duration::from_secs(10);
    while store.get(dead[0]).is_err() {
        assert!(Instant::now() < limit);
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(store.delete_many(&keys).unwrap(), 0);
}

fn garbage_is_an_outage(driver: Driver) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let store = connect(driver, &[listener.local_addr().unwrap().to_string()]);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut stream = stream;
                let mut request = [0; 1024];
                while stream.read(&mut request).is_ok_and(|bytes| bytes > 0) {
                    if stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").is_err() {
                        return;
                    }
                }
            });
        }
    });
    for _ in 0..5 {
        assert!(store.get("k").unwrap_err().is_outage());
        assert!(store.set("k", &ONE, Expiry::Never).unwrap_err().is_outage());
    }
}

fn clear_and_stats_reach_the_server(driver: Driver) {
    let (_server, store) = start(driver);
    store.set("k", &ONE, Expiry::Never).unwrap();
    let stats = store.stats().unwrap();
    let names: Vec<&str> = stats.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, super::STATS);
    assert_eq!(stats[1], ("curr_items".to_owned(), "1".to_owned()));
    store.clear().unwrap();
    assert_eq!(value(&store, "k"), None);
    store.set("k", &ONE, Expiry::Never).unwrap();
    assert_eq!(value(&store, "k"), Some(ONE));
}

fn a_silent_server_does_not_hold_a_caller_longer_than_the_timeout(driver: Driver) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let settings = Settings::new([address]).driver(driver).timeout(Duration::from_millis(100));
    let store = Memcached::connect(settings).unwrap();
    let begun = Instant::now();
    assert!(store.get("k").unwrap_err().is_outage());
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
}

fn a_host_that_is_not_known_yet_does_not_stop_the_start(driver: Driver) {
    let store = connect(driver, &["nohost.invalid:1".to_owned()]);
    let error = store.get("key").unwrap_err();
    assert!(error.is_outage() && error.to_string().contains("nohost.invalid:1"), "{error}");
}
