//! What look-ups in local memory take, and what an entry takes there.

use std::{
    convert::Infallible,
    env, fs,
    hint::black_box,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use actix_web::rt;
use bytes::Bytes;
use futures_util::future::join_all;
use larder_cache::{
    Cache, Caches,
    settings::AliasSettings,
    template::{Context, Templates},
};

use crate::{body, report::Report};

const ENTRIES: usize = 10_000;
const CALLS: usize = 500_000;
const RENDERINGS: usize = 2_000;

/// How often renderings with and without the cache take turns in a round.
const TURNS: usize = 25;

/// What the memory of an entry is measured with: enough that what the process needs besides does not count.
const MANY_ENTRIES: usize = 200_000;
const SMALL_VALUE_BYTES: usize = 200;

pub(crate) struct Values {
    cache: Cache,
    keys: Vec<String>,
    templates: Templates,
    ready: Context,
}

impl Values {
    pub(crate) fn new() -> Self {
        let cache = cache("values", ENTRIES).default_cache();
        fill(&cache, ENTRIES, 2048);
        // Not in the order in which they lie in memory.
        let keys = (0..ENTRIES).map(|n| format!("object:{}", n * 7919 % ENTRIES)).collect();
        let source = format!("{{% cache 3600 part %}}{}{{% endcache %}}", body());
        // Text, so that nothing has to be escaped.
        let templates = Templates::builder().template("cached.txt", source).template("ready.txt", "{{ ready }}");
        let templates = templates.build(self::cache("fragments", 100)).unwrap();
        let mut ready = Context::new();
        ready.insert("ready", &body());
        let values = Values { cache, keys, templates, ready };
        assert_eq!(values.render("cached.txt"), values.render("ready.txt"));
        values
    }

    pub(crate) fn measure(&self, report: &mut Report) {
        report.add("fragment", || self.fragment());
        report.add("get", || {
            let cache = self.cache.blocking();
            nanos(CALLS, |n| drop(black_box(cache.get_bytes(self.key(n)).unwrap())))
        });
        report.add("get-async", || {
            rt::System::new().block_on(async {
                let begun = Instant::now();
                for n in 0..CALLS {
                    drop(black_box(self.cache.get_bytes(self.key(n)).await.unwrap()));
                }
                begun.elapsed().as_secs_f64() * 1e9 / CALLS as f64
            })
        });
        report.add("memory", memory);
        report.add("cold-value", || rt::System::new().block_on(loads()));
    }

    fn key(&self, n: usize) -> &str {
        &self.keys[n % ENTRIES]
    }

    fn render(&self, name: &str) -> String {
        self.templates.render(name, &self.ready).unwrap()
    }

    /// Returns how much longer a fragment's hit takes than its ready text, in microseconds.
    fn fragment(&self) -> f64 {
        let nanos = |name| nanos(RENDERINGS, |_| drop(black_box(self.render(name))));
        let over: f64 = (0..TURNS).map(|_| nanos("cached.txt") - nanos("ready.txt")).sum();
        over / TURNS as f64 / 1000.0
    }
}

fn cache(name: &str, entries: usize) -> Caches {
    let address = format!("locmem://{name}?max_entries={}&max_bytes=1000000000", entries * 2);
    Caches::builder().alias("default", AliasSettings::from_address("default", &address).unwrap()).build().unwrap()
}

fn fill(cache: &Cache, entries: usize, bytes: usize) {
    let (cache, value) = (cache.blocking(), Bytes::from(vec![b'x'; bytes]));
    (0..entries).for_each(|n| cache.set_bytes(format!("object:{n}"), value.clone(), 3600).unwrap());
}

/// Returns what one of many calls takes, in nanoseconds.
fn nanos(calls: usize, call: impl FnMut(usize)) -> f64 {
    let begun = Instant::now();
    (0..calls).for_each(call);
    begun.elapsed().as_secs_f64() * 1e9 / calls as f64
}

/// Has a process of its own measure it: in this one there is memory that was freed and would be used again.
fn memory() -> f64 {
    let out = Command::new(env::current_exe().unwrap()).arg("memory").output().unwrap();
    String::from_utf8_lossy(&out.stdout).trim().parse().unwrap()
}

pub(crate) fn bytes_beside_key_and_value() -> f64 {
    let cache = cache("memory", MANY_ENTRIES).default_cache();
    fill(&cache, 1, SMALL_VALUE_BYTES);
    let before = resident();
    fill(&cache, MANY_ENTRIES, SMALL_VALUE_BYTES);
    let grown = resident() - before;
    let keys: usize = (0..MANY_ENTRIES).map(|n| format!("object:{n}").len()).sum();
    (grown - keys as f64) / MANY_ENTRIES as f64 - SMALL_VALUE_BYTES as f64
}

/// Returns the memory that this process has, in bytes.
fn resident() -> f64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    let page_bytes = Command::new("getconf").arg("PAGESIZE").output().unwrap().stdout;
    pages * String::from_utf8_lossy(&page_bytes).trim().parse::<f64>().unwrap()
}

/// Returns how often a slow loader was called by 200 callers of a key that is not there.
async fn loads() -> f64 {
    let loads = Arc::new(AtomicUsize::new(0));
    let cache = self::cache("cold", 100).default_cache();
    cache.delete("cold").await.unwrap();
    join_all((0..200).map(|_| {
        let loads = Arc::clone(&loads);
        cache.get_or_set("cold", 60, move || async move {
            loads.fetch_add(1, Ordering::SeqCst);
            rt::time::sleep(Duration::from_millis(200)).await;
            Ok::<_, Infallible>(1)
        })
    }))
    .await;
    loads.load(Ordering::SeqCst) as f64
}
