//! What a store says about itself, against what it does.

use std::{
    sync::{Arc, Barrier},
    thread,
};

use super::{Harness, after, text, value};
use crate::{
    Error,
    backend::{Backend, Replacement, Sharing, Value},
    key::MAX_KEY_BYTES,
};

/// Larger values than these are not made only to see them taken.
const MAX_TRIED_BYTES: usize = 4 * 1024 * 1024;

pub fn it_says_that_it_keeps_things_and_does<H: Harness>(harness: &Arc<H>) {
    let store = harness.open();
    assert!(store.capabilities().stores, "the suite for it is conformance!(keeps_nothing; …)");
    store.set("key", &text("value"), after(harness, 60)).unwrap();
    assert_eq!(value(&*store, "key"), Some(text("value")));
}

pub fn all_handles_say_the_same<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (harness.open(), harness.open());
    assert_eq!(here.capabilities(), there.capabilities());
    assert_eq!(here.parts(), there.parts());
    for key in ["key", ":1:object:7", "k"].map(str::to_owned).into_iter().chain((0..100).map(|n| format!("key{n}"))) {
        assert!(here.part_of(&key) < here.parts(), "{key}");
        assert_eq!(here.part_of(&key), there.part_of(&key), "{key}");
    }
}

pub fn the_largest_value_is_taken_and_one_byte_more_is_not<H: Harness>(harness: &Arc<H>) {
    let (store, minute) = (harness.open(), after(harness, 60));
    let Some(limit) = store.capabilities().max_value_bytes.filter(|limit| *limit < MAX_TRIED_BYTES) else { return };
    let of = |bytes: usize| Value::Bytes(vec![b'x'; bytes].into());
    let key = "k".repeat(MAX_KEY_BYTES);
    store.set(&key, &of(limit), minute).unwrap();
    assert_eq!(value(&*store, &key), Some(of(limit)));
    assert!(store.replace(&key, &of(limit), &text("ticket"), minute).unwrap());
    assert!(store.replace(&key, &text("ticket"), &of(limit), minute).unwrap());
    assert_eq!(value(&*store, &key), Some(of(limit)));
    assert!(store.delete(&key).unwrap());
    assert!(store.add(&key, &of(limit), minute).unwrap());
    assert_eq!(value(&*store, &key), Some(of(limit)));
    for key in ["k", &key] {
        let too_large = |done| matches!(done, Err(Error::ValueTooLarge { .. }));
        assert!(too_large(store.set(key, &of(limit + 1), minute)));
        assert!(too_large(store.add(key, &of(limit + 1), minute).map(drop)));
        assert_eq!(value(&*store, key), None);
    }
}

pub fn what_is_shared_is_seen_through_another_handle<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (harness.open(), harness.open());
    if here.capabilities().sharing == Sharing::Process {
        return;
    }
    let expiry = after(harness, 60);
    here.set("key", &text("value"), expiry).unwrap();
    assert_eq!(value(&*there, "key"), Some(text("value")));
    assert!(there.replace("key", &text("value"), &Value::Integer(1), expiry).unwrap());
    assert_eq!(here.incr("key", 1).unwrap(), Some(2));
    assert_eq!(value(&*there, "key"), Some(Value::Integer(2)));
    assert!(here.delete("key").unwrap());
    assert_eq!(there.get("key").unwrap(), None);
}

/// The handles go through the keys in opposite directions, so that they meet.
pub fn of_two_handles_that_race_for_a_key_one_wins<H: Harness>(harness: &Arc<H>) {
    if harness.open().capabilities().sharing == Sharing::Process {
        return;
    }
    let minute = after(harness, 60);
    let keys: Vec<String> = (0..40).map(|number| format!("key{number}")).collect();
    let start = Barrier::new(2);
    let race = |store: Box<dyn Backend>, name: &str| {
        let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        if name == "backwards" {
            keys.reverse();
        }
        let (ticket, result) = (text("ticket"), text(name));
        let tickets: Vec<_> = keys.iter().map(|key| (*key, ticket.clone())).collect();
        let results: Vec<_> =
            keys.iter().map(|key| Replacement { key, old: &ticket, new: &result, expiry: minute }).collect();
        start.wait();
        let added = store.add_many(&tickets, minute).unwrap();
        start.wait();
        let mut wins: Vec<_> = added.into_iter().zip(store.replace_many(&results).unwrap()).collect();
        if name == "backwards" {
            wins.reverse();
        }
        wins
    };
    let (one, other) = thread::scope(|scope| {
        let other = scope.spawn(|| race(harness.open(), "backwards"));
        (race(harness.open(), "forwards"), other.join().unwrap())
    });
    let store = harness.open();
    for ((one, other), key) in one.into_iter().zip(other).zip(&keys) {
        assert!(one.0 != other.0, "one of them added {key}");
        assert!(one.1 != other.1, "one of them replaced {key}");
        assert_eq!(value(&*store, key), Some(text(if one.1 { "forwards" } else { "backwards" })));
    }
}
