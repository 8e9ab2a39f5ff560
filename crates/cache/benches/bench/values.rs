//! What look-ups in local memory take, and what an entry takes there.

use std::{
    fs,
    hint::black_box,
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use larder_cache::{
    BlockingCache, Caches,
    settings::AliasSettings,
    template::{Context, Templates},
};

const ENTRIES: usize = 10_000;
const ROUNDS: usize = 5;

fn cache(name: &str, entries: usize) -> Caches {
    let address = format!("locmem://{name}?max_entries={}&max_bytes=1000000000", entries * 2);
    Caches::builder().alias("default", AliasSettings::from_address("default", &address).unwrap()).build().unwrap()
}

fn filled(name: &str, entries: usize, bytes: usize) -> (Caches, BlockingCache) {
    let caches = cache(name, entries);
    let cache = caches.default_cache().blocking();
    let value = Bytes::from(vec![b'x'; bytes]);
    (0..entries).for_each(|n| cache.set_bytes(format!("object:{n}"), value.clone(), 3600).unwrap());
    (caches, cache)
}

/// Returns what one of many calls takes, the median of some rounds, in nanoseconds.
fn nanos(calls: usize, mut call: impl FnMut(usize)) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            (0..calls).for_each(&mut call);
            begun.elapsed().as_secs_f64() * 1e9 / calls as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

/// Returns the memory of this process, in bytes.
fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    pages.and_then(|line| line.split(' ').nth(1)?.parse::<usize>().ok()).unwrap_or_default() * 4096
}

pub(crate) fn print() {
    let keys: Vec<String> = (0..ENTRIES).map(|n| format!("object:{}", n * 7919 % ENTRIES)).collect();
    let (_caches, cache) = filled("values", ENTRIES, 2048);
    let took = nanos(1_000_000, |n| drop(black_box(cache.get_bytes(keys[n % ENTRIES].as_str()).unwrap())));
    println!("| `get_bytes` of 2 KB, locmem, {ENTRIES} entries | {took:.0} ns | 250 ns |");

    let text = "<p>0123456789</p>".repeat(2048 / 17);
    let source = format!("{{% cache 3600 part %}}{text}{{% endcache %}}");
    let caches = self::cache("fragments", 100);
    let templates = Templates::builder().template("cached.txt", source).template("ready.txt", "{{ ready }}");
    let templates = templates.build(caches).unwrap();
    let mut context = Context::new();
    context.insert("ready", &text);
    let empty = Context::new();
    let cached = nanos(100_000, |_| drop(black_box(templates.render("cached.txt", &empty).unwrap())));
    let ready = nanos(100_000, |_| drop(black_box(templates.render("ready.txt", &context).unwrap())));
    let over = (cached - ready) / 1000.0;
    println!("| fragment hit of 2 KB, over the insertion of the ready text | {over:.2} µs | 1.5 µs |");

    let before = resident();
    let (many, bytes) = (200_000, 200);
    let held = filled("memory", many, bytes);
    let each = (resident().saturating_sub(before)) as f64 / many as f64 - bytes as f64 - "object:123456".len() as f64;
    drop(held);
    println!("| memory beside key and value, locmem, an entry | {each:.0} B | 250 B |");

    let loads = Arc::new(AtomicUsize::new(0));
    let callers = async {
        let cache = self::cache("cold", 100).default_cache();
        join_all((0..200).map(|_| {
            let loads = Arc::clone(&loads);
            cache.get_or_set("cold", 60, move || async move {
                loads.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(200)).await;
                Ok::<_, std::convert::Infallible>(1)
            })
        }))
        .await
    };
    actix_web::rt::System::new().block_on(callers);
    println!("| calls of a slow loader by 200 callers of a cold key | {} | 1 |", loads.load(Ordering::SeqCst));
}
