//! Many readers against a writer, in two processes that keep copies for a moment: on every store, nothing goes wrong.
//!
//! What happens in which order is left to chance here; the cases of the conformance suite put it in order.

use std::time::Duration;

use larder_cache::{
    Caches,
    backend::{Options, database::Database},
    conformance::server::MemcachedServer,
    settings::{AliasSettings, NearSettings},
};

use crate::clients::Clients;

/// How old the copies of what the other process changes may be.
const COPIES_FOR: Duration = Duration::from_millis(100);

fn race(address: &str) {
    let mut settings = AliasSettings::from_address("default", address).unwrap();
    settings.near = Some(NearSettings { stale_for: COPIES_FOR, max_entries: 100, max_bytes: 1_000_000 });
    let process = |_| Caches::builder().alias("default", settings.clone()).build().unwrap();
    let clients = Clients::start([(); 2].map(process));
    clients.phase("calm", Duration::from_millis(1500));
    let answers = clients.end()["calm"].answers;
    assert!(answers > 500, "{answers} answers prove little");
}

#[test]
fn no_reader_is_served_an_old_row_from_local_memory() {
    race("locmem://races");
}

#[test]
fn no_reader_is_served_an_old_row_from_files() {
    let folder = tempfile::tempdir().unwrap();
    race(&format!("file://{}", folder.path().display()));
}

#[test]
fn no_reader_is_served_an_old_row_from_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("cache.sqlite3").display());
    Database::open(&url, "cache_entry", Options::new()).unwrap().create_table().unwrap();
    race(&format!("db://cache_entry?url={url}"));
}

#[test]
fn no_reader_is_served_an_old_row_from_memcached() {
    let server = MemcachedServer::start();
    race(&format!("memcached://{}", server.address()));
}

#[test]
fn no_reader_is_served_an_old_row_from_memcached_through_r2d2() {
    let server = MemcachedServer::start();
    race(&format!("memcached://{}?driver=r2d2", server.address()));
}
