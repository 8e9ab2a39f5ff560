//! What was invalidated while a store was away, with a real memcached that is stopped in the middle.

use std::{
    thread,
    time::{Duration, Instant},
};

use larder_cache::{BlockingCache, Caches, conformance::server::MemcachedServer, settings::AliasSettings};

/// Opens the store as a process of its own would.
fn process(server: &MemcachedServer) -> (Caches, BlockingCache) {
    let address = format!("memcached://{}", server.address());
    let settings = AliasSettings::from_address("default", &address).unwrap();
    let caches = Caches::builder().alias("default", settings).build().unwrap();
    let cache = caches.default_cache().blocking();
    (caches, cache)
}

#[test]
fn a_failed_deletion_is_delivered_although_its_process_asks_nothing_more() {
    let server = MemcachedServer::start();
    let (_here, here) = process(&server);
    let (_there, there) = process(&server);
    here.set("key", "old", 600).unwrap();
    here.clone().tags(["object"]).set("tagged", "old", 600).unwrap();

    server.freeze();
    assert!(here.delete("key").unwrap_err().is_outage());
    assert!(here.invalidate_tags(["object"]).unwrap_err().is_outage());
    server.thaw();

    let thawed = Instant::now();
    while there.has_key("key").unwrap() || there.has_key("tagged").unwrap() {
        assert!(thawed.elapsed() < Duration::from_secs(5), "not delivered in time");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_this_process_invalidated_is_never_served_again() {
    let server = MemcachedServer::start();
    let (_caches, cache) = process(&server);
    cache.set("key", "old", 600).unwrap();
    server.freeze();
    assert!(cache.delete("key").unwrap_err().is_outage());
    server.thaw();
    let thawed = Instant::now();
    while thawed.elapsed() < Duration::from_secs(3) {
        assert_eq!(cache.get::<String>("key").unwrap(), None);
    }
    cache.set("key", "new", 600).unwrap();
    assert_eq!(cache.get::<String>("key").unwrap().as_deref(), Some("new"));
}
