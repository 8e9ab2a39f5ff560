//! Stores that say that they keep nothing: as Django's `DummyCache`, all verbs work and all reads miss.

use std::{collections::HashMap, convert::Infallible, sync::Arc};

use super::{Harness, after, text};
use crate::{
    Error,
    backend::{Replacement, Value},
};

pub fn it_says_that_it_keeps_nothing_and_does_not<H: Harness>(harness: &Arc<H>) {
    let store = harness.open();
    assert!(!store.capabilities().stores, "the suite for it is conformance!(…)");
    store.set("key", &text("value"), after(harness, 60)).unwrap();
    assert_eq!(store.get("key").unwrap(), None);
    assert_eq!(store.get_many(&["key", "other"]).unwrap(), [None, None]);
}

pub fn all_writes_succeed_and_all_reads_miss<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("key", "value", 60).unwrap();
    cache.clone().tags(["object"]).set("tagged", &5, 60).unwrap();
    assert!(cache.set_many([("key", 1), ("other", 2)], 60).unwrap().is_empty());
    for key in ["key", "tagged", "other"] {
        assert_eq!(cache.get::<String>(key).unwrap(), None);
        assert!(!cache.has_key(key).unwrap());
    }
    assert_eq!(cache.get_many::<i64, _>(["key", "other"]).unwrap(), HashMap::new());
    cache.invalidate_tags(["object"]).unwrap();
    cache.clear().unwrap();
}

pub fn every_add_succeeds<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    assert!(cache.add("key", "value", 60).unwrap());
    assert!(cache.add("key", "value", 60).unwrap());
    assert_eq!(cache.get::<String>("key").unwrap(), None);
}

pub fn there_is_nothing_to_touch_delete_or_count<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    cache.set("key", &1, 60).unwrap();
    assert!(!cache.touch("key", 60).unwrap());
    assert!(!cache.delete("key").unwrap());
    assert_eq!(cache.delete_many(["key", "other"]).unwrap(), 0);
    assert!(matches!(cache.incr("key", 1), Err(Error::KeyNotFound { .. })));
    assert!(matches!(cache.decr("key", 1), Err(Error::KeyNotFound { .. })));
    assert!(matches!(cache.incr_version("key", 1), Err(Error::KeyNotFound { .. })));
}

pub fn get_or_set_loads_each_time<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache().tags(["object"]);
    for number in 0..3 {
        assert_eq!(cache.get_or_set("key", 60, || Ok::<_, Infallible>(number)), Ok(number));
    }
    let failed = cache.get_or_set("key", 60, || Err::<i64, _>("upstream is down"));
    assert_eq!(failed.unwrap_err().loader_error(), Some(&"upstream is down"));
}

pub fn there_is_nothing_to_replace<H: Harness>(harness: &Arc<H>) {
    let (store, minute) = (harness.open(), after(harness, 60));
    let ticket = text("ticket");
    assert_eq!(store.add_many(&[("a", ticket.clone()), ("b", ticket.clone())], minute).unwrap(), [true, true]);
    assert!(!store.replace("a", &ticket, &Value::Integer(1), minute).unwrap());
    let item = Replacement { key: "b", old: &ticket, new: &Value::Integer(1), expiry: minute };
    assert_eq!(store.replace_many(&[item, item]).unwrap(), [false, false]);
    assert_eq!(store.get("a").unwrap(), None);
}
