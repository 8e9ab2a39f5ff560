//! Mishaps that were found by reading, and shall not come back.

use std::{
    collections::HashMap,
    convert::Infallible,
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use actix_web::{
    App,
    test::{TestRequest, call_service, init_service, read_body},
    web,
};
use futures_util::future::join_all;
use larder_cache::{
    Caches, Expiry, Load, LoadOptions, Result,
    backend::{
        Backend, Capabilities, Entry, Options, Sharing, Value,
        locmem::{DEFAULT_MAX_BYTES, Locmem},
    },
    conformance::server::MemcachedServer,
    page::{PageCache, cache_page},
    settings::{AliasSettings, NearSettings},
};
use tokio::time::sleep;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn settings(address: &str) -> AliasSettings {
    AliasSettings::from_address("default", address).unwrap()
}

/// A shared, blocking store in memory with switches.
#[derive(Debug, Clone)]
struct Slow {
    inner: Locmem,
    delete_takes: Duration,
    fail_next_add: Arc<AtomicBool>,
    gets: Arc<AtomicUsize>,
}

impl Slow {
    fn new() -> Self {
        Slow {
            inner: Locmem::new(Options::new(), DEFAULT_MAX_BYTES),
            delete_takes: Duration::ZERO,
            fail_next_add: Arc::default(),
            gets: Arc::default(),
        }
    }
    fn caches(&self, change: impl FnOnce(&mut AliasSettings)) -> Caches {
        let mut settings = AliasSettings::default();
        settings.backend = "slow".to_owned();
        change(&mut settings);
        let store = self.clone();
        Caches::builder()
            .alias("default", settings)
            .backend("slow", move |_| Ok(Box::new(store.clone()) as Box<dyn Backend>))
            .build()
            .unwrap()
    }
}

impl Backend for Slow {
    fn capabilities(&self) -> Capabilities {
        Capabilities { sharing: Sharing::Network, blocking: true, stores: true, max_value_bytes: None }
    }
    fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.inner.get(key)
    }
    fn get_many(&self, keys: &[&str]) -> Result<Vec<Option<Entry>>> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.inner.get_many(keys)
    }
    fn set(&self, key: &str, value: &Value, expiry: Expiry) -> Result<()> {
        self.inner.set(key, value, expiry)
    }
    fn add(&self, key: &str, value: &Value, expiry: Expiry) -> Result<bool> {
        if self.fail_next_add.swap(false, Ordering::SeqCst) {
            return Err(larder_cache::Error::unavailable("slow", "hiccup"));
        }
        self.inner.add(key, value, expiry)
    }
    fn replace(&self, key: &str, old: &Value, new: &Value, expiry: Expiry) -> Result<bool> {
        self.inner.replace(key, old, new, expiry)
    }
    fn touch(&self, key: &str, expiry: Expiry) -> Result<bool> {
        self.inner.touch(key, expiry)
    }
    fn delete(&self, key: &str) -> Result<bool> {
        thread::sleep(self.delete_takes);
        self.inner.delete(key)
    }
    fn incr(&self, key: &str, delta: i64) -> Result<Option<i64>> {
        self.inner.incr(key, delta)
    }
    fn clear(&self) -> Result<()> {
        self.inner.clear()
    }
}

#[test]
fn a_tag_that_is_too_long_is_an_error_and_no_panic() {
    let cache = Caches::local().default_cache().blocking();
    let tag = format!("a{}", "é".repeat(40_000));
    assert!(cache.invalidate_tags([tag]).is_err());
}

#[test]
fn a_foreign_item_on_memcached_is_a_miss() {
    let server = MemcachedServer::start();
    let caches =
        Caches::builder().alias("default", settings(&format!("memcached://{}", server.address()))).build().unwrap();
    let cache = caches.default_cache().blocking().load_options(LoadOptions::new().max_wait(3));
    // What Django's PyMemcacheCache writes for cache.set("key", object): flag 1 is a pickle.
    let mut socket = std::net::TcpStream::connect(server.address()).unwrap();
    socket.write_all(b"set :1:key 1 0 3\r\nabc\r\n").unwrap();
    let mut answer = [0; 8];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"STORED\r\n");
    let begun = Instant::now();
    let value = cache.get_or_set("key", 60, || Ok::<_, Infallible>("new".to_owned())).unwrap();
    assert_eq!(value, "new");
    eprintln!("add: {:?}", cache.add("key", "added", 60));
    assert!(begun.elapsed() < ms(1000), "took {:?}", begun.elapsed());
    assert_eq!(cache.get::<String>("key").unwrap().as_deref(), Some("new"));
}

#[test]
fn a_blocking_batch_does_not_wait_for_a_load_of_its_own_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cache = Caches::local().default_cache().load_options(LoadOptions::new().max_wait(3));
        let other = cache.clone();
        let load = tokio::spawn(async move {
            other
                .get_or_set("key", 60, || async {
                    sleep(ms(100)).await;
                    Ok::<_, Infallible>("async".to_owned())
                })
                .await
        });
        sleep(ms(20)).await;
        let begun = Instant::now();
        let values = cache
            .blocking()
            .get_or_set_many(["key"], 60, |keys| {
                Ok::<_, Infallible>(keys.into_iter().map(|key| (key, "blocking".to_owned())).collect::<HashMap<_, _>>())
            })
            .unwrap();
        assert_eq!(values["key"], "blocking");
        let took = begun.elapsed();
        load.await.unwrap().unwrap();
        assert!(took < ms(1000), "the thread was blocked for {took:?}");
    });
}

#[test]
fn a_near_copy_does_not_make_an_old_value_look_new() {
    let store = Slow::new();
    let near = NearSettings { stale_for: ms(600), max_entries: 100, max_bytes: 1 << 20 };
    let (writer, reader) = (store.caches(|_| {}), store.caches(|settings| settings.near = Some(near)));
    let (writer, reader_cache) = (writer.default_cache().blocking(), reader.default_cache().blocking());
    writer.set("inner", "old", 600).unwrap();
    assert_eq!(reader_cache.get::<String>("inner").unwrap().as_deref(), Some("old"));
    // The writer commits and invalidates.
    writer.delete_many(["inner", "outer"]).unwrap();
    // The other process makes something of what it finds in the cache.
    let outer = || {
        let load = || {
            let inner = reader_cache.get::<String>("inner").unwrap().unwrap_or_else(|| "new".to_owned());
            Ok::<_, Infallible>(inner)
        };
        reader_cache.get_or_set("outer", 600, load).unwrap()
    };
    outer();
    thread::sleep(ms(1500));
    assert_eq!(writer.get::<String>("inner").unwrap(), None);
    let shared = writer.get::<String>("outer").unwrap();
    assert_ne!(shared.as_deref(), Some("old"), "long after the bound, and by the process that invalidated");
    assert_eq!(outer(), "new");
}

#[actix_web::test]
async fn a_page_is_not_made_of_copies() {
    let store = Slow::new();
    let near = NearSettings { stale_for: Duration::from_secs(60), max_entries: 100, max_bytes: 1 << 20 };
    let (writer, reader) = (store.caches(|_| {}), store.caches(|settings| settings.near = Some(near)));
    writer.default_cache().set("row", "old", 60).await.unwrap();
    let cache = reader.default_cache();
    assert_eq!(cache.get::<String>("row").await.unwrap().as_deref(), Some("old"));
    writer.default_cache().set("row", "new", 60).await.unwrap();
    let view = move || {
        let cache = cache.clone();
        async move { cache.get::<String>("row").await.unwrap().unwrap() }
    };
    let route = |mark: &'static str| match mark {
        "marked" => web::get().to(view.clone()).wrap(cache_page(60)),
        _ => web::get().to(view.clone()),
    };
    let pages = PageCache::new(reader.clone());
    let app = App::new().route("/marked", route("marked")).route("/plain", route("plain"));
    let app = init_service(app.wrap(pages)).await;
    let get = async |uri| {
        let request = TestRequest::get().uri(uri).insert_header(("host", "a")).to_request();
        read_body(call_service(&app, request).await).await
    };
    assert_eq!(get("/plain").await, "old", "what is not kept may be as old as the settings say");
    assert_eq!(get("/marked").await, "new");
}

#[actix_web::test]
async fn a_deletion_is_not_given_up_while_it_is_under_way() {
    let store = Slow { delete_takes: ms(1500), ..Slow::new() };
    let caches = store.caches(|settings| settings.deadline = ms(200));
    let cache = caches.default_cache();
    cache.set("key", "old", 60).await.unwrap();
    assert!(cache.delete("key").await.is_ok());
    assert_eq!(cache.get::<String>("key").await.unwrap(), None);
}

#[actix_web::test]
async fn nor_is_the_invalidation_of_a_tag() {
    let store = Slow { delete_takes: ms(1500), ..Slow::new() };
    let caches = store.caches(|settings| settings.deadline = ms(200));
    let cache = caches.default_cache().tags(["object"]);
    cache.set("key", "old", 60).await.unwrap();
    assert!(cache.invalidate_tags(["object"]).await.is_ok());
    assert_eq!(cache.get::<String>("key").await.unwrap(), None);
}

#[actix_web::test]
async fn a_batch_with_a_value_that_is_too_large_leaves_no_ticket() {
    let caches = Caches::builder().alias("default", settings("locmem://t08?max_bytes=100000")).build().unwrap();
    let cache = caches.default_cache().load_options(LoadOptions::new().max_wait(2));
    let big = || "x".repeat(200_000);
    let load = move |keys: Vec<String>| {
        let values: HashMap<String, String> = keys.into_iter().map(|key| (key, big())).collect();
        std::future::ready(Ok::<_, Infallible>(values))
    };
    cache.get_or_set_many(["key"], 60, load).await.unwrap();
    let begun = Instant::now();
    let small = || std::future::ready(Ok::<_, Infallible>("small".to_owned()));
    assert_eq!(cache.get_or_set("key", 60, small).await.unwrap(), "small");
    let took = begun.elapsed();
    eprintln!("{}", cache.explain("key").await.unwrap());
    assert_eq!(cache.get::<String>("key").await.unwrap().as_deref(), Some("small"), "and took {took:?}");
    assert!(took < ms(1000), "took {took:?}");
}

#[actix_web::test]
async fn callers_of_a_value_with_no_time_do_not_queue_up() {
    let cache = Caches::local().default_cache();
    let begun = Instant::now();
    let call = || {
        cache.get_or_set("key", 0, || async {
            sleep(ms(100)).await;
            Ok::<_, Infallible>(1)
        })
    };
    join_all((0..20).map(|_| call())).await;
    assert!(begun.elapsed() < ms(500), "took {:?}", begun.elapsed());
}

#[actix_web::test]
async fn callers_of_an_absent_value_with_no_time_do_not_queue_up() {
    let cache = Caches::local().default_cache().load_options(LoadOptions::new().absent_timeout(0));
    let begun = Instant::now();
    let call = || {
        cache.get_or_set("key", 60, || async {
            sleep(ms(100)).await;
            Ok::<_, Infallible>(None::<i32>)
        })
    };
    join_all((0..20).map(|_| call())).await;
    assert!(begun.elapsed() < ms(500), "took {:?}", begun.elapsed());
}

#[actix_web::test]
async fn a_hiccup_of_the_store_does_not_let_the_herd_in() {
    let store = Slow::new();
    let caches = store.caches(|_| {});
    let cache = caches.default_cache();
    cache.get::<i32>("other").await.unwrap();
    store.fail_next_add.store(true, Ordering::SeqCst);
    cache.get_or_set("key", 60, || async { Ok::<_, Infallible>(0) }).await.unwrap();
    cache.get::<i32>("other").await.unwrap();
    sleep(ms(1500)).await;
    cache.set("other", &1, 60).await.unwrap();
    assert_eq!(cache.get::<i32>("other").await.unwrap(), Some(1), "the store is well");
    let loads = Arc::new(AtomicUsize::new(0));
    let call = || {
        let loads = Arc::clone(&loads);
        cache.get_or_set("key", 60, move || async move {
            loads.fetch_add(1, Ordering::SeqCst);
            sleep(ms(200)).await;
            Ok::<_, Infallible>(1)
        })
    };
    join_all((0..50).map(|_| call())).await;
    assert_eq!(loads.load(Ordering::SeqCst), 1);
}

#[test]
fn a_full_store_in_memory_keeps_what_was_used_last() {
    let caches = Caches::builder().alias("default", settings("locmem://t11?max_entries=1000")).build().unwrap();
    let cache = caches.default_cache().blocking();
    let begun = Instant::now();
    for n in 0..3000 {
        cache.set(format!("k{n}"), "v", 600).unwrap();
    }
    eprintln!("filled in {:?}", begun.elapsed());
    let hits = || (2900..3000).filter(|n| cache.get::<String>(format!("k{n}")).unwrap().is_some()).count();
    assert_eq!(hits(), 100);
    thread::sleep(ms(1100));
    let left = hits();
    assert_eq!(left, 100, "{}", cache.explain("k2999").unwrap());
}

#[actix_web::test]
async fn a_handle_alone_keeps_tickets_alive() {
    let directory = std::env::temp_dir().join(format!("larder-t12-{}", std::process::id()));
    let open = || {
        let address = format!("file://{}", directory.display());
        Caches::builder().alias("default", settings(&address)).build().unwrap().default_cache()
    };
    let cache = open();
    let load = || async {
        sleep(ms(12_000)).await;
        Ok::<_, Infallible>("slow".to_owned())
    };
    cache.get_or_set("key", 60, load).await.unwrap();
    let kept = cache.get::<String>("key").await.unwrap();
    let _ = std::fs::remove_dir_all(&directory);
    assert_eq!(kept.as_deref(), Some("slow"));
}

#[test]
fn a_value_that_was_not_modified_keeps_the_tags_that_were_found_out() {
    let cache = Caches::local().default_cache().blocking();
    let cache = cache.load_options(LoadOptions::new().stale_while_revalidate(600));
    let load = |load: Load<String>| {
        if load.old().is_some() {
            return Ok(load.not_modified().unwrap());
        }
        load.tags(["object:7"]);
        Ok::<_, Infallible>("old".to_owned())
    };
    cache.get_or_load("key", 0.05, load).unwrap();
    thread::sleep(ms(100));
    cache.get_or_load("key", 600, load).unwrap();
    cache.invalidate_tags(["object:7"]).unwrap();
    assert_eq!(cache.get::<String>("key").unwrap(), None);
}

#[test]
fn too_many_tags_in_all_are_no_panic() {
    let cache = Caches::builder()
        .alias("default", settings("locmem://t18?max_entries=200000"))
        .build()
        .unwrap()
        .default_cache()
        .blocking()
        .tags((0..40_000).map(|n| format!("g{n}")));
    let load = |load: Load<String>| {
        load.tags((0..40_000).map(|n| format!("d{n}")));
        Ok::<_, Infallible>("value".to_owned())
    };
    assert_eq!(cache.get_or_load("key", 60, load).unwrap(), "value");
}

#[test]
fn a_loaded_number_goes_with_its_prefix_until_it_is_counted_with() {
    let caches = Caches::builder().alias("default", settings("locmem://loaded number")).build().unwrap();
    let cache = caches.default_cache().blocking();
    let load = || Ok::<_, Infallible>(5);
    assert_eq!(cache.get_or_set("gone", 600, load), Ok(5));
    cache.clear_prefix().unwrap();
    assert_eq!(cache.get::<i64>("gone").unwrap(), None);
    assert_eq!(cache.get_or_set("count", 600, load), Ok(5));
    assert_eq!(cache.incr("count", 2).unwrap(), 7);
    assert_eq!(cache.incr("count", 2).unwrap(), 9);
    assert!(cache.ttl("count").unwrap().is_some());
}

#[actix_web::test]
async fn a_refresh_that_panics_is_not_tried_again_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for address in ["locmem://panics".to_owned(), format!("file://{}", folder.path().display())] {
        let caches = Caches::builder().alias("default", settings(&address)).build().unwrap();
        let cache = caches.default_cache().load_options(LoadOptions::new().stale_while_revalidate(600));
        cache.get_or_set("key", 0.05, || async { Ok::<_, Infallible>(1) }).await.unwrap();
        sleep(ms(100)).await;
        let loads = Arc::new(AtomicUsize::new(0));
        for _ in 0..30 {
            let loads = Arc::clone(&loads);
            let load = move || async move {
                loads.fetch_add(1, Ordering::SeqCst);
                if loads.load(Ordering::SeqCst) > 0 {
                    panic!("on purpose");
                }
                Ok::<_, Infallible>(1)
            };
            assert_eq!(cache.get_or_set("key", 60, load).await, Ok(1));
            sleep(ms(50)).await;
        }
        assert_eq!(loads.load(Ordering::SeqCst), 1, "{address}");
    }
}

#[actix_web::test]
async fn batches_share_the_error_of_a_load() {
    let cache = Caches::local().default_cache();
    let loads = Arc::new(AtomicUsize::new(0));
    let call = || {
        let loads = Arc::clone(&loads);
        cache.get_or_set_many(["key"], 60, move |_| {
            loads.fetch_add(1, Ordering::SeqCst);
            async {
                sleep(ms(100)).await;
                Err::<HashMap<String, String>, _>("down")
            }
        })
    };
    let all = join_all((0..20).map(|_| call())).await;
    assert!(all.iter().all(|one| one.as_ref().is_err_and(|error| error.loader_error() == Some(&"down"))));
    assert_eq!(loads.load(Ordering::SeqCst), 1);
}

#[test]
fn a_batch_after_a_clearing_asks_once_for_the_generation() {
    let store = Slow::new();
    let caches = store.caches(|_| {});
    let cache = caches.default_cache().blocking();
    let keys: Vec<String> = (0..100).map(|n| format!("k{n}")).collect();
    cache.set_many(keys.iter().map(|key| (key.clone(), "v")), 60).unwrap();
    cache.clear_prefix().unwrap();
    let before = store.gets.load(Ordering::SeqCst);
    assert!(cache.get_many::<String, _>(&keys).unwrap().is_empty());
    let gets = store.gets.load(Ordering::SeqCst) - before;
    assert!(gets <= 3, "{gets} round trips");
}

#[test]
fn a_batch_keeps_what_belongs_to_the_server_that_answers() {
    let (one, mut two) = (MemcachedServer::start(), MemcachedServer::start());
    two.stop();
    let servers = settings(&format!("memcached://{},{}", one.address(), two.address()));
    let caches = Caches::builder().alias("default", servers).build().unwrap();
    let cache = caches.default_cache().blocking();
    let keys: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    let asked: Vec<usize> = (0..3)
        .map(|_| {
            let asked = AtomicUsize::new(0);
            let load = |keys: Vec<String>| {
                asked.fetch_add(keys.len(), Ordering::SeqCst);
                Ok::<_, Infallible>(keys.into_iter().map(|key| (key, "v".to_owned())).collect())
            };
            assert_eq!(cache.get_or_set_many(&keys, 60, load).unwrap().len(), 20);
            asked.into_inner()
        })
        .collect();
    assert_eq!(asked[0], 20);
    assert!((1..20).contains(&asked[2]), "asked for {asked:?}");
}

#[test]
fn an_explanation_names_the_process_that_invalidated_a_tag() {
    let store = Slow::new();
    let (here, there) = (store.caches(|_| {}), store.caches(|_| {}));
    let (here, there) = (here.default_cache().blocking(), there.default_cache().blocking());
    here.clone().tags(["object:7"]).set("key", "value", 60).unwrap();
    there.because("post_save Object#7").invalidate_tags(["object:7"]).unwrap();
    let wanted = format!("by process {}, post_save Object#7", std::process::id());
    let begun = Instant::now();
    while !here.explain("key").unwrap().to_string().contains(&wanted) {
        assert!(begun.elapsed() < Duration::from_secs(10), "{}", here.explain("key").unwrap());
        thread::sleep(ms(50));
    }
}
