//! The async handle does what the blocking one does, on a store that never blocks and on one that does.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use larder_cache::{Cache, Caches, Error, Timeout, backend::Sharing, settings::AliasSettings};
use tempfile::TempDir;

fn caches() -> (TempDir, Caches) {
    let folder = tempfile::tempdir().unwrap();
    let file = AliasSettings::from_address("file", &format!("file://{}", folder.path().display())).unwrap();
    let locmem = AliasSettings::from_address("default", "locmem://handles").unwrap();
    (folder, Caches::builder().alias("default", locmem).alias("file", file).build().unwrap())
}

async fn every_verb(cache: Cache) {
    cache.clear().await.unwrap();
    cache.set("key", "value", 60).await.unwrap();
    assert_eq!(cache.get("key").await.unwrap(), Some("value".to_owned()));
    assert!(cache.has_key("key").await.unwrap());
    assert!(!cache.add("key", "other", 60).await.unwrap());
    assert!(cache.touch("key", Timeout::Never).await.unwrap());
    assert!(cache.delete("key").await.unwrap());
    assert_eq!(cache.get::<String>("key").await.unwrap(), None);

    cache.set_bytes("bytes", Bytes::from_static(b"\0\xff"), 60).await.unwrap();
    assert_eq!(cache.get_bytes("bytes").await.unwrap().as_deref(), Some(&b"\0\xff"[..]));

    assert!(cache.add("counter", &1, 60).await.unwrap());
    assert_eq!(cache.incr("counter", 4).await.unwrap(), 5);
    assert_eq!(cache.decr("counter", 7).await.unwrap(), -2);
    assert!(matches!(cache.incr("missing", 1).await, Err(Error::KeyNotFound { .. })));
    assert_eq!(cache.incr_version("counter", 1).await.unwrap(), 2);
    assert_eq!(cache.clone().version(2).decr_version("counter", 1).await.unwrap(), 1);

    let values = HashMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]);
    assert!(cache.set_many(values.clone(), 60).await.unwrap().is_empty());
    assert_eq!(cache.get_many::<i32, _>(["a", "b", "c"]).await.unwrap(), values);
    assert_eq!(cache.delete_many(["a", "b", "c"]).await.unwrap(), 2);

    let tagged = cache.clone().tags(["object"]).because("a test");
    for _ in 0..2 {
        let value = tagged.get_or_set("loaded", 60, || async { Ok::<_, Infallible>(7) }).await;
        assert_eq!(value, Ok(7));
    }
    cache.set("retyped", "text", Timeout::Never).await.unwrap();
    assert_eq!(cache.get_or_set("retyped", 60, || async { Ok::<_, Infallible>(7) }).await, Ok(7));
    assert_eq!(cache.get("retyped").await.unwrap(), Some(7));
    let failed = tagged.get_or_set("failed", 60, || async { Err::<i32, _>("upstream is down") }).await;
    assert_eq!(failed.unwrap_err().loader_error(), Some(&"upstream is down"));
    assert!(!tagged.has_key("failed").await.unwrap());
    tagged.invalidate_tags(["object"]).await.unwrap();
    assert_eq!(cache.get::<i32>("loaded").await.unwrap(), None);
    assert!(!cache.stats().await.unwrap().is_empty());
    cache.clear().await.unwrap();
    assert!(!cache.has_key("counter").await.unwrap());
}

#[actix_web::test]
async fn every_verb_works_where_the_caller_stands() {
    let (_folder, caches) = caches();
    assert!(!caches.default_cache().capabilities().blocking);
    every_verb(caches.default_cache()).await;
}

#[actix_web::test]
async fn every_verb_works_on_the_blocking_pool() {
    let (_folder, caches) = caches();
    let cache = caches.get("file").unwrap();
    assert!(cache.capabilities().blocking && cache.capabilities().sharing == Sharing::Machine);
    every_verb(cache).await;
}

#[actix_web::test]
async fn an_unknown_alias_names_those_there_are() {
    let (_folder, caches) = caches();
    let error = caches.get("nowhere").unwrap_err().to_string();
    assert!(error.contains("default, file"), "{error}");
}

#[actix_web::test]
async fn a_refused_key_is_an_error_and_bypasses_get_or_set() {
    let settings = AliasSettings::from_address("default", "locmem://refusing?invalid_keys=refuse").unwrap();
    let cache = Caches::builder().alias("default", settings).build().unwrap().default_cache();
    assert!(matches!(cache.get::<i32>("a b").await, Err(Error::InvalidKey { .. })));
    assert!(matches!(cache.set("a b", &1, 60).await, Err(Error::InvalidKey { .. })));
    assert_eq!(cache.get_or_set("a b", 60, || async { Ok::<_, Infallible>(5) }).await, Ok(5));
}

#[actix_web::test]
async fn many_callers_of_a_missing_key_load_it_once() {
    for cache in [caches().1.default_cache(), caches().1.get("file").unwrap()] {
        cache.clear().await.unwrap();
        let loads = Arc::new(AtomicUsize::new(0));
        let callers = (0..200).map(|_| {
            let loads = Arc::clone(&loads);
            cache.get_or_set("slow", 60, || async move {
                loads.fetch_add(1, Ordering::Relaxed);
                actix_web::rt::time::sleep(std::time::Duration::from_millis(20)).await;
                Ok::<_, Infallible>(7)
            })
        });
        let values = futures_util::future::join_all(callers).await;
        assert_eq!(values, vec![Ok(7); 200]);
        assert_eq!(loads.load(Ordering::Relaxed), 1);
        assert!(cache.delete("slow").await.unwrap());
    }
}
