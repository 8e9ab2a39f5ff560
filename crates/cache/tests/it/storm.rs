//! Storms: what a site answers under load while its store is frozen, killed, restarted, full, vanishes or lies.
//!
//! No answer is an error or an old row, 99 of 100 come within the store's own timeout, and afterwards the cache is as
//! good as before. The figures are printed: `cargo test storm:: -- --nocapture`.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    io::{self, BufRead, BufReader, Write},
    iter,
    net::TcpStream,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use larder_cache::{
    Caches,
    backend::memcached::DEFAULT_TIMEOUT,
    conformance::{chaos::Random, server::MemcachedServer},
    settings::{AliasSettings, NearSettings},
};
use tokio::time::sleep;

use crate::{
    clients::{Clients, Figures},
    proxy::{Answers, Proxy},
};

const SECOND: Duration = Duration::from_secs(1);

/// What 99 of 100 answers stay below: the store's own timeout, twice for a busy machine.
const P99: Duration = Duration::from_millis(2 * DEFAULT_TIMEOUT.as_millis() as u64);

/// What all of them stay below.
const LONGEST: Duration = Duration::from_secs(3);

/// How long a ticket stays of whose end the store has not heard, and a little more.
const TICKET_GONE: Duration = Duration::from_secs(12);

fn caches(address: &str) -> Caches {
    let settings = AliasSettings::from_address("default", address).unwrap();
    Caches::builder().alias("default", settings).build().unwrap()
}

/// Clients of which those in the writer's process keep copies for a moment.
fn clients(address: &str) -> Clients {
    let mut settings = AliasSettings::from_address("default", address).unwrap();
    settings.near = Some(NearSettings { stale_for: SECOND / 10, max_entries: 100, max_bytes: 1_000_000 });
    Clients::start([Caches::builder().alias("default", settings).build().unwrap(), caches(address)])
}

fn assert_bounded(storm: &str, figures: &BTreeMap<&'static str, Figures>) {
    print(storm, figures);
    for (phase, Figures { answers, p99, longest, .. }) in figures {
        assert!(*answers > 100, "{phase}: {answers} answers prove little");
        assert!(*p99 < P99, "{phase}: 99 of 100 took {p99:?}");
        assert!(*longest < LONGEST, "{phase}: one took {longest:?}");
    }
}

/// Where the store understands or answers a part of what it is told, tickets stay in it whose end it has not heard.
fn assert_bounded_by_tickets(storm: &str, figures: &BTreeMap<&'static str, Figures>) {
    print(storm, figures);
    for (phase, Figures { longest, .. }) in figures {
        assert!(*longest < TICKET_GONE, "{phase}: one took {longest:?}");
    }
}

fn print(storm: &str, figures: &BTreeMap<&'static str, Figures>) {
    for (phase, Figures { answers, median, p99, longest }) in figures {
        eprintln!("{storm}: {phase}: {answers} answers, {median:.0?}, 99 of 100 {p99:.0?}, longest {longest:.0?}");
    }
}

fn a_memcached_that_is_frozen_killed_and_restarted(driver: &str) {
    let mut server = MemcachedServer::start();
    let clients = clients(&format!("memcached://{}?driver={driver}", server.address()));
    clients.phase("1 calm", SECOND / 2);
    server.freeze();
    clients.phase("2 frozen", 2 * SECOND);
    server.thaw();
    clients.phase("3 thawed", 3 * SECOND / 2);
    server.stop();
    clients.phase("4 killed", SECOND);
    server.restart();
    clients.phase("5 restarted", 3 * SECOND / 2);
    server.restart();
    clients.phase("6 restarted at once", SECOND);
    assert_bounded(driver, &clients.end());
}

#[test]
fn a_site_outlives_a_memcached_that_is_frozen_killed_and_restarted() {
    a_memcached_that_is_frozen_killed_and_restarted("meta");
}

#[test]
fn a_site_outlives_such_a_memcached_through_r2d2_too() {
    a_memcached_that_is_frozen_killed_and_restarted("r2d2");
}

#[test]
fn of_two_memcached_servers_one_goes_on() {
    let mut servers = [MemcachedServer::start(), MemcachedServer::start()];
    let clients = clients(&format!("memcached://{},{}", servers[0].address(), servers[1].address()));
    clients.phase("1 calm", SECOND / 2);
    servers[0].freeze();
    clients.phase("2 one frozen", 2 * SECOND);
    servers[0].thaw();
    clients.phase("3 thawed", SECOND);
    servers[1].stop();
    clients.phase("4 the other killed", 3 * SECOND / 2);
    servers[1].restart();
    clients.phase("5 restarted", 3 * SECOND / 2);
    assert_bounded("two servers", &clients.end());
}

fn a_memcached_that_is_silent_and_then_raves(driver: &str) {
    let server = MemcachedServer::start();
    let proxy = Proxy::start(&server.address());
    proxy.set(Answers::AreLost);
    let clients = clients(&format!("memcached://{}?driver={driver}", proxy.address()));
    clients.phase("1 silent", 3 * SECOND / 2);
    proxy.set(Answers::Arrive);
    clients.phase("2 well", SECOND);
    proxy.set(Answers::AreGarbage);
    clients.phase("3 raving", SECOND);
    proxy.set(Answers::Arrive);
    clients.phase("4 well", 3 * SECOND / 2);
    assert_bounded(driver, &clients.end());
}

#[test]
fn a_site_outlives_a_memcached_that_is_silent_and_then_raves() {
    a_memcached_that_is_silent_and_then_raves("meta");
}

#[test]
fn a_site_outlives_one_that_is_silent_and_then_raves_through_r2d2_too() {
    a_memcached_that_is_silent_and_then_raves("r2d2");
}

#[test]
fn no_wrong_bit_of_memcached_makes_a_wrong_value() {
    let server = MemcachedServer::start();
    let proxy = Proxy::start(&server.address());
    let clients = clients(&format!("memcached://{}", proxy.address()));
    proxy.set(Answers::AreDamaged);
    clients.phase("damaged", 3 * SECOND);
    proxy.set(Answers::Arrive);
    assert_bounded_by_tickets("wrong bits", &clients.end());
}

/// Fills a memcached with items of many sizes, until it takes no more of any of them.
fn fill(server: &MemcachedServer) {
    const BATCH: usize = 200;
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
    for bytes in [1, 40, 80, 120, 180, 250, 340, 460, 600, 800] {
        let filling = "x".repeat(bytes);
        let is_full = (0..1000).any(|batch| {
            let sets = (0..BATCH).map(|n| format!("set filler.{bytes}.{batch}.{n} 0 0 {bytes}\r\n{filling}\r\n"));
            stream.write_all(sets.collect::<String>().as_bytes()).unwrap();
            let refused = |answer: &io::Result<String>| answer.as_ref().unwrap().contains("out of memory");
            answers.by_ref().take(BATCH).filter(refused).count() > 0
        });
        assert!(is_full, "there is room for ever more items of {bytes} bytes");
    }
}

#[test]
fn a_site_outlives_a_memcached_that_is_full() {
    for driver in ["meta", "r2d2"] {
        // Two megabytes, and none of them is taken back from an older item.
        let server = MemcachedServer::start_with(&["-m", "2", "-M"]);
        let address = format!("memcached://{}?driver={driver}", server.address());
        let clients = clients(&address);
        clients.phase("1 calm", SECOND / 2);
        fill(&server);
        clients.phase("2 full", 3 * SECOND / 2);
        caches(&address).default_cache().blocking().clear().unwrap();
        clients.phase("3 cleared", SECOND);
        assert_bounded_by_tickets(driver, &clients.end());
    }
}

#[test]
fn a_site_outlives_a_cache_folder_that_vanishes() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("cache");
    let clients = clients(&format!("file://{}", folder.display()));
    let remove = || {
        // The clients make new files while the old ones are removed.
        while folder.exists() {
            let _ = fs::remove_dir_all(&folder);
        }
    };
    clients.phase("1 calm", SECOND / 2);
    for _ in 0..10 {
        remove();
        clients.phase("2 removed again and again", SECOND / 10);
    }
    remove();
    while fs::write(&folder, "").is_err() {
        remove();
    }
    clients.phase("3 a file in its place", 3 * SECOND / 2);
    fs::remove_file(&folder).unwrap();
    clients.phase("4 well", 3 * SECOND / 2);
    assert_bounded("folder", &clients.end());
}

/// Whoever loads such a value waits for nobody: not for those who load it too, nor for those who tried before.
#[test]
fn values_that_are_too_large_are_loaded_side_by_side() {
    let random = Random::new(7);
    let noise = |chars| iter::repeat_with(|| char::from(b' ' + random.below(95) as u8)).take(chars).collect();
    // More than a server takes as it comes, and more than this one takes, of which the settings do not know.
    for (value, arguments) in [(noise(1_400_000), &[][..]), (noise(700_000), &["-I", "512k"])] {
        let value: String = value;
        let server = MemcachedServer::start_with(arguments);
        let caches = caches(&format!("memcached://{}?timeout_ms=5000", server.address()));
        let cache = caches.default_cache();
        let loaded = value.clone();
        let load = move || async move {
            sleep(SECOND / 4).await;
            Ok::<_, Infallible>(loaded)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let begun = Instant::now();
            for _ in 0..2 {
                let answers = join_all((0..32).map(|_| cache.get_or_set("large", 60, load.clone()))).await;
                assert!(answers.iter().all(|answer| answer.as_ref() == Ok(&value)));
            }
            assert!(begun.elapsed() < 5 * SECOND, "one after the other: {:?}", begun.elapsed());
            assert_eq!(cache.get::<String>("large").await.unwrap(), None);
            cache.set("large", "small", 60).await.unwrap();
            assert_eq!(cache.get::<String>("large").await.unwrap().as_deref(), Some("small"));
        });
    }
}
