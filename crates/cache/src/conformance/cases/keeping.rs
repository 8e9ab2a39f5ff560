//! How long values are kept and served: fresh, stale, touched, expired by hand, compressed, copied.

use std::{
    collections::BTreeSet,
    iter,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;

use super::{
    Harness, SHORT,
    loading::{INVALIDATIONS, LONG, NEW, OLD, read, row, with_near},
};
use crate::{Error, LoadOptions, Timeout, conformance::chaos::Random, settings::AliasSettings};

pub fn an_expired_value_is_left_to_those_who_may_serve_it_stale<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (harness.cache(), harness.cache());
    let patient = there.clone().load_options(LoadOptions::new().stale_if_error(600).retry_after(0));
    patient.set("key", OLD, 60).unwrap();
    here.set("counter", &7, 60).unwrap();
    assert!(here.expire("key").unwrap());
    assert!(here.expire("counter").unwrap());
    assert!(!here.expire("missing").unwrap());
    for cache in [&here, &there] {
        assert_eq!(read(cache, "key"), None);
        assert_eq!(cache.get::<i64>("counter").unwrap(), None);
        assert_eq!(cache.ttl("key").unwrap(), None);
        assert!(!cache.touch("key", 60).unwrap(), "it is not brought back");
    }
    assert_eq!(patient.get_or_set("key", 60, || Err::<String, _>("upstream is down")).as_deref(), Ok(OLD));
    assert!(here.get_or_set("key", 60, || Err::<String, _>("upstream is down")).is_err(), "and to nobody else");
    assert!(here.add("key", NEW, 60).unwrap(), "it counts as missing");
    assert_eq!(read(&there, "key").as_deref(), Some(NEW));
}

pub fn ttl_is_the_time_for_which_a_value_is_fresh<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    let is_about = |key: &str, seconds: u64| {
        let Some(Timeout::After(left)) = cache.ttl(key).unwrap() else { panic!("{key}") };
        assert!((seconds.saturating_sub(2)..=seconds + 1).contains(&left.as_secs()), "{key} has {left:?} left");
    };
    assert_eq!(cache.ttl("missing").unwrap(), None);
    cache.set("value", "value", 60).unwrap();
    is_about("value", 60);
    cache.set("counter", &1, 600).unwrap();
    is_about("counter", 600);
    cache.set("ever", "value", Timeout::Never).unwrap();
    assert_eq!(cache.ttl("ever").unwrap(), Some(Timeout::Never));
    let patient = cache.clone().load_options(LoadOptions::new().stale_while_revalidate(600));
    patient.set("patient", "value", 30).unwrap();
    is_about("patient", 30);
    cache.touch("value", 300).unwrap();
    is_about("value", 300);
    cache.clone().tags(["object"]).set("tagged", "value", 60).unwrap();
    is_about("tagged", 60);
    cache.invalidate_tags(["object"]).unwrap();
    assert_eq!(cache.ttl("tagged").unwrap(), None);
}

pub fn a_stale_value_is_served_instead_of_an_error<H: Harness>(harness: &Arc<H>) {
    let options = || LoadOptions::new().stale_if_error(600);
    let (here, there) = (harness.cache().load_options(options()), harness.cache().load_options(options()));
    let asked = AtomicUsize::new(0);
    let fail = || {
        asked.fetch_add(1, SeqCst);
        Err::<String, _>("upstream is down")
    };
    here.clone().tags(["object"]).set("key", OLD, SHORT).unwrap();
    here.clone().tags(["object"]).set("tagged", OLD, SHORT).unwrap();
    harness.cache().set("short", OLD, SHORT).unwrap();
    harness.wait(SHORT);
    assert_eq!((read(&here, "key"), read(&there, "key")), (None, None), "a plain get wants it fresh");
    assert!(here.get_or_set("short", 60, fail).is_err(), "it was not kept for that");
    assert_eq!(asked.swap(0, SeqCst), 1);
    for cache in [&here, &there, &here] {
        assert_eq!(cache.get_or_set("key", 60, fail).as_deref(), Ok(OLD));
    }
    assert_eq!(asked.load(SeqCst), 1, "after a failure the source is left alone, by everybody");
    there.invalidate_tags(["object"]).unwrap();
    assert!(here.get_or_set("tagged", 60, fail).is_err(), "it is not only stale but wrong");
    there.delete("key").unwrap();
    assert!(here.get_or_set("key", 60, fail).is_err());
}

pub fn touch_keeps_the_time_for_which_a_value_may_be_served_stale<H: Harness>(harness: &Arc<H>) {
    let cache = harness.cache();
    let patient = cache.clone().load_options(LoadOptions::new().stale_if_error(600));
    patient.set("longer", OLD, SHORT).unwrap();
    patient.set("shorter", OLD, 60).unwrap();
    assert!(cache.touch("longer", 60).unwrap());
    assert!(cache.touch("shorter", SHORT).unwrap());
    harness.wait(SHORT);
    assert_eq!(read(&cache, "longer").as_deref(), Some(OLD));
    assert_eq!(read(&cache, "shorter"), None);
    assert!(!cache.touch("shorter", 60).unwrap(), "it is not brought back");
    assert_eq!(patient.get_or_set("shorter", 60, || Err::<String, _>("upstream is down")).as_deref(), Ok(OLD));
    cache.expire("longer").unwrap();
    assert_eq!(patient.get_or_set("longer", 60, || Err::<String, _>("upstream is down")).as_deref(), Ok(OLD));
}

pub fn large_values_read_back_compressed_or_not<H: Harness>(harness: &Arc<H>) {
    let compressing = harness.cache_with(AliasSettings { compress_above: Some(64), ..AliasSettings::default() });
    let plain = harness.cache();
    let random = Random::new(7);
    let noise: Bytes = iter::repeat_with(|| random.number().to_be_bytes()).take(10_000).flatten().collect();
    let values = [
        Bytes::from_static(&[7; 64]),
        Bytes::from_static(&[7; 65]),
        Bytes::from("row after row ".repeat(10_000)),
        noise,
        Bytes::new(),
    ];
    for (writer, reader) in [(&compressing, &plain), (&plain, &compressing), (&compressing, &compressing)] {
        for value in &values {
            writer.clone().tags(["object"]).set_bytes("key", value.clone(), 60).unwrap();
            assert_eq!(reader.get_bytes("key").unwrap().as_ref(), Some(value), "{} bytes", value.len());
            assert!(reader.touch("key", 600).unwrap());
            assert_eq!(writer.get_bytes("key").unwrap().as_ref(), Some(value), "{} bytes, touched", value.len());
        }
    }
    let Some(limit) = harness.open().capabilities().max_value_bytes else { return };
    let large = "x".repeat(limit + 1);
    assert!(matches!(plain.set("key", &large, 60), Err(Error::ValueTooLarge { .. })));
    assert_eq!(compressing.get_or_set("key", 60, || row(&large)), Ok(large.clone()));
    assert_eq!(read(&plain, "key"), Some(large), "compressed it fits");
}

pub fn a_near_copy_is_served_no_longer_than_its_bound<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (harness.cache_with(with_near(SHORT)), harness.cache());
    for key in ["deleted", "stored", "expired"] {
        there.set(key, OLD, 60).unwrap();
    }
    for key in ["tagged", "found"] {
        there.clone().tags([key]).set(key, OLD, 60).unwrap();
    }
    let keys = ["deleted", "stored", "expired", "tagged", "found"];
    for _ in 0..2 {
        assert_eq!(here.get_many::<String, _>(keys).unwrap().len(), 5);
        assert!(keys.iter().all(|key| read(&here, key).as_deref() == Some(OLD)));
    }
    there.delete("deleted").unwrap();
    there.set("stored", NEW, 60).unwrap();
    there.expire("expired").unwrap();
    there.invalidate_tags(["tagged", "found"]).unwrap();
    harness.wait(SHORT);
    let left: BTreeSet<(String, String)> = here.get_many(keys).unwrap().into_iter().collect();
    assert_eq!(left, BTreeSet::from([("stored".to_owned(), NEW.to_owned())]));
    assert_eq!(keys.map(|key| read(&here, key)), [None, Some(NEW.to_owned()), None, None, None]);
}

pub fn what_this_process_changes_it_sees_at_once_in_spite_of_copies<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (harness.cache_with(with_near(LONG)), harness.cache_with(with_near(Duration::ZERO)));
    for (name, invalidate) in INVALIDATIONS {
        for (number, writer) in [&here, &there].into_iter().enumerate() {
            let key = format!("{name} {number}");
            writer.clone().tags([&*key]).set(&key, OLD, 60).unwrap();
            // Copied by the first, served from the copy by the second.
            for _ in 0..2 {
                assert_eq!(read(writer, &key).as_deref(), Some(OLD));
            }
            invalidate(writer, &key);
            assert_eq!(read(writer, &key), None, "{key}");
        }
        let key = format!("{name} elsewhere");
        here.clone().tags([&*key]).set(&key, OLD, 60).unwrap();
        assert_eq!(read(&there, &key).as_deref(), Some(OLD));
        invalidate(&here, &key);
        assert_eq!(read(&there, &key), None, "{key}: with a bound of zero there is no copy");
    }
    here.set("key", OLD, 60).unwrap();
    assert_eq!(read(&here, "key").as_deref(), Some(OLD));
    here.set("key", NEW, 60).unwrap();
    assert_eq!(read(&here, "key").as_deref(), Some(NEW));
    here.set("key", &1, 60).unwrap();
    assert_eq!(here.get::<i64>("key").unwrap(), Some(1));
    assert_eq!(here.incr("key", 1).unwrap(), 2);
    assert_eq!(here.get::<i64>("key").unwrap(), Some(2));
}
