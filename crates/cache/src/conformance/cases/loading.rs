//! Loading against invalidations: what is computed from an old row is never served after its invalidation.
//!
//! Two caches over one store stand for two processes. A loader is a closure: what it does happens while it runs. So it
//! reads the row, the writer commits and invalidates, and the loader returns what it read, in this order every time.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{Harness, SHORT};
use crate::{
    BlockingCache, Caches, Load, LoadError, LoadOptions,
    dependencies::depends_on,
    settings::{AliasSettings, NearSettings},
};

pub(super) type Invalidate = fn(&BlockingCache, &str);

/// The ways to say that the value of a key, which is its only tag too, is out of date.
pub(super) const INVALIDATIONS: [(&str, Invalidate); 4] = [
    ("delete", |cache, key| _ = cache.delete(key).unwrap()),
    ("delete_many", |cache, key| _ = cache.delete_many(["other", key]).unwrap()),
    ("expire", |cache, key| _ = cache.expire(key).unwrap()),
    ("invalidate_tags", |cache, key| cache.invalidate_tags(["other", key]).unwrap()),
];

/// Whose load a writer overtakes, by their positions among the caches of [`three`]. Who keeps copies for long sees what
/// others change later; that has a case of its own.
const LOADERS_AND_WRITERS: [(usize, usize); 5] = [(0, 0), (0, 1), (1, 1), (2, 0), (2, 1)];

pub(super) const LONG: Duration = Duration::from_secs(3600);

pub(super) const OLD: &str = "from the old row";
pub(super) const NEW: &str = "from the new row";

pub(super) fn row(text: &str) -> Result<String, Infallible> {
    Ok(text.to_owned())
}

pub(super) fn read(cache: &BlockingCache, key: &str) -> Option<String> {
    cache.get(key).unwrap()
}

pub(super) fn with_near(stale_for: Duration) -> AliasSettings {
    let near = NearSettings { stale_for, max_entries: 100, max_bytes: 1_000_000 };
    AliasSettings { near: Some(near), ..AliasSettings::default() }
}

/// Opens the store as three processes: one without copies, one that keeps them long, one that keeps them for no time.
fn three<H: Harness>(harness: &Arc<H>) -> [BlockingCache; 3] {
    [harness.cache(), harness.cache_with(with_near(LONG)), harness.cache_with(with_near(Duration::ZERO))]
}

/// Loads a key whose row changes meanwhile, and asserts that nobody sees the old row afterwards.
fn assert_overtaken(loader: &BlockingCache, key: &str, all: &[BlockingCache], invalidate: impl Fn()) {
    let loader = loader.clone().tags([key]);
    let overtaken = || {
        invalidate();
        row(OLD)
    };
    assert_eq!(loader.get_or_set(key, 60, overtaken).as_deref(), Ok(OLD), "{key}: whoever asked before may have it");
    for cache in all {
        assert_eq!(read(cache, key), None, "{key}");
    }
    assert_eq!(loader.get_or_set(key, 60, || row(NEW)).as_deref(), Ok(NEW), "{key}");
    for cache in all {
        assert_eq!(read(cache, key).as_deref(), Some(NEW), "{key}");
    }
}

pub fn what_is_loaded_while_its_row_changes_is_never_served<H: Harness>(harness: &Arc<H>) {
    let all = three(harness);
    for (name, invalidate) in INVALIDATIONS {
        for (loader, writer) in LOADERS_AND_WRITERS {
            let key = format!("{name} {loader} {writer}");
            assert_overtaken(&all[loader], &key, &all, || invalidate(&all[writer], &key));
        }
    }
}

pub fn what_is_loaded_while_another_value_is_stored_is_never_served<H: Harness>(harness: &Arc<H>) {
    let all = three(harness);
    for (loader, writer) in LOADERS_AND_WRITERS {
        let key = format!("{loader} {writer}");
        let overtaken = || {
            all[writer].set(&key, NEW, 60).unwrap();
            row(OLD)
        };
        assert_eq!(all[loader].get_or_set(&key, 60, overtaken).as_deref(), Ok(OLD));
        for cache in &all {
            assert_eq!(read(cache, &key).as_deref(), Some(NEW), "{key}");
        }
    }
}

/// For up to a second after it, the others may miss what is stored by a process that has not noticed the clearing.
pub fn what_is_loaded_while_the_store_is_cleared_is_never_served<H: Harness>(harness: &Arc<H>) {
    let all = three(harness);
    for (loader, writer) in LOADERS_AND_WRITERS {
        let key = format!("{loader} {writer}");
        let overtaken = || {
            all[writer].clear().unwrap();
            row(OLD)
        };
        assert_eq!(all[loader].get_or_set(&key, 60, overtaken).as_deref(), Ok(OLD));
        for cache in &all {
            assert_eq!(read(cache, &key), None, "{key}");
        }
        for cache in &all {
            assert_eq!(cache.get_or_set(&key, 60, || row(NEW)).as_deref(), Ok(NEW), "{key}");
        }
    }
}

/// The blocking handle refreshes on its caller's thread, who gets what he loaded.
pub fn what_is_refreshed_while_its_row_changes_is_never_served<H: Harness>(harness: &Arc<H>) {
    let all = three(harness).map(|cache| cache.load_options(LoadOptions::new().stale_while_revalidate(600)));
    for (name, invalidate) in INVALIDATIONS {
        for (loader, writer) in LOADERS_AND_WRITERS {
            let key = format!("{name} {loader} {writer}");
            all[writer].clone().tags([&*key]).set(&key, "stale", 60).unwrap();
            assert!(all[writer].expire(&key).unwrap());
            assert_overtaken(&all[loader], &key, &all, || invalidate(&all[writer], &key));
        }
    }
}

pub fn what_is_refreshed_early_while_its_row_changes_is_never_served<H: Harness>(harness: &Arc<H>) {
    let all = three(harness).map(|cache| cache.load_options(LoadOptions::new().early_refresh(0.05)));
    let keys = INVALIDATIONS.iter().flat_map(|(name, invalidate)| {
        LOADERS_AND_WRITERS.map(|(loader, writer)| (format!("{name} {loader} {writer}"), loader, writer, invalidate))
    });
    let keys: Vec<_> = keys.collect();
    for (key, _, writer, _) in &keys {
        all[*writer].clone().tags([key]).set(key, "fresh", 10).unwrap();
    }
    harness.wait(SHORT);
    for (key, loader, writer, invalidate) in &keys {
        assert_overtaken(&all[*loader], key, &all, || invalidate(&all[*writer], key));
    }
}

pub fn what_is_refreshed_in_the_background_while_its_row_changes_is_never_served<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (process(harness), process(harness));
    let options = LoadOptions::new().stale_while_revalidate(600);
    let cache = here.default_cache().load_options(options);
    let writers = [here.default_cache().blocking(), there.default_cache().blocking()];
    // What is expired once more while it is loaded may still be served as stale.
    for (name, invalidate) in INVALIDATIONS.into_iter().filter(|(name, _)| *name != "expire") {
        for (number, writer) in writers.iter().enumerate() {
            let key = format!("{name} {number}");
            let cache = cache.clone().tags([&*key]);
            block_on(async {
                cache.set(&key, "stale", 60).await.unwrap();
                assert!(cache.expire(&key).await.unwrap());
                let ((began, has_begun), (go_on, may_go_on)) = (oneshot::channel(), oneshot::channel());
                let refresh = move || async move {
                    began.send(()).unwrap();
                    may_go_on.await.unwrap();
                    row(OLD)
                };
                assert_eq!(cache.get_or_set(&key, 60, refresh).await.as_deref(), Ok("stale"), "{key}: nobody waits");
                has_begun.await.unwrap();
                invalidate(writer, &key);
                assert_eq!(there.default_cache().get::<String>(&key).await.unwrap(), None, "{key}");
                go_on.send(()).unwrap();
                // Waits for the refresh, whose value comes to nothing.
                let loaded = cache.get_or_set(&key, 60, || async { row(NEW) }).await;
                assert_eq!(loaded.as_deref(), Ok(NEW), "{key}");
            });
            assert_eq!(read(writer, &key).as_deref(), Some(NEW), "{key}");
        }
    }
}

pub fn tags_found_while_loading_invalidate<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (harness.cache(), harness.cache());
    let with = |tags: &'static [&'static str]| {
        move |load: Load<String>| {
            load.tags(tags.iter().copied());
            row(NEW)
        }
    };
    here.get_or_load("list", 60, with(&["object", "object:7"])).unwrap();
    here.get_or_load("other", 60, with(&["object", "object:8"])).unwrap();
    there.invalidate_tags(["object:7"]).unwrap();
    assert_eq!((read(&here, "list"), read(&there, "list")), (None, None));
    assert_eq!(read(&there, "other").as_deref(), Some(NEW));
    there.get_or_load("list", 60, with(&["object:9"])).unwrap();
    here.invalidate_tags(["object:7"]).unwrap();
    assert_eq!(read(&here, "list").as_deref(), Some(NEW), "it has other tags now");
    there.invalidate_tags(["object:9", "object"]).unwrap();
    assert!(here.get_many::<String, _>(["list", "other"]).unwrap().is_empty());
}

/// The inner value is loaded within the outer one, or found there: alone, and by a load of several keys.
pub fn what_is_made_of_an_entry_depends_on_what_that_does<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (harness.cache(), harness.cache());
    let inner = || {
        here.get_or_set("inner", 60, || {
            depends_on(["object:7"]);
            row(NEW)
        })
    };
    let many = |names: Vec<String>| {
        let inner = inner()?;
        Ok::<_, LoadError<Infallible>>(names.into_iter().map(|name| (name, inner.clone())).collect::<HashMap<_, _>>())
    };
    for is_found in [false, true, false] {
        if is_found {
            inner().unwrap();
        }
        here.get_or_set("outer", 60, inner).unwrap();
        here.get_or_set_many(["one", "two"], 60, many).unwrap();
        let all = ["inner", "outer", "one", "two"];
        there.invalidate_tags(["object:8"]).unwrap();
        assert_eq!(there.get_many::<String, _>(all).unwrap().len(), 4, "found: {is_found}");
        there.invalidate_tags(["object:7"]).unwrap();
        assert!(here.get_many::<String, _>(all).unwrap().is_empty(), "found: {is_found}");
    }
    let overtaken = || {
        inner().unwrap();
        there.invalidate_tags(["object:7"]).unwrap();
        row(OLD)
    };
    assert_eq!(here.get_or_set("outer", 60, overtaken).as_deref(), Ok(OLD));
    assert_eq!(read(&there, "outer"), None, "what it is made of was invalidated while it was made");
}

/// The first load of a key does not foresee its tags, the second does.
pub fn what_is_loaded_while_a_tag_that_it_finds_is_invalidated_is_never_served<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (harness.cache(), harness.cache());
    for (name, writer) in [("own", &here), ("other's", &there)] {
        let tag = format!("object of {name}");
        let load = |invalidated: &'static str, text: &'static str| {
            let tag = tag.clone();
            move |load: Load<String>| {
                if !invalidated.is_empty() {
                    writer.invalidate_tags([if invalidated == "its" { &tag } else { invalidated }]).unwrap();
                }
                load.tags([tag]);
                row(text)
            }
        };
        for turn in ["unforeseen", "foreseen"] {
            assert_eq!(here.get_or_load(name, 60, load("its", OLD)).as_deref(), Ok(OLD));
            assert_eq!((read(&here, name), read(&there, name)), (None, None), "{name}, {turn}");
            assert_eq!(here.get_or_load(name, 60, load("", NEW)).as_deref(), Ok(NEW));
            assert_eq!(read(&there, name).as_deref(), Some(NEW), "{name}, {turn}");
            writer.invalidate_tags([&*tag]).unwrap();
        }
        here.get_or_load(name, 60, load("unrelated", NEW)).unwrap();
        assert_eq!(read(&there, name).as_deref(), Some(NEW), "its tags were foreseen, and none was invalidated");
    }
}

/// How often the row is edited while others read it.
const EDITS: i64 = 40;

/// Readers of two caches, with and without tags, and an editor who invalidates in every way in turn.
pub fn no_reader_sees_less_than_was_invalidated_before_he_asked<H: Harness>(harness: &Arc<H>) {
    let (edited, invalidated) = (AtomicI64::new(0), AtomicI64::new(0));
    let (reads, loads) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let load = || {
        loads.fetch_add(1, SeqCst);
        let read = edited.load(SeqCst);
        thread::yield_now();
        Ok::<_, Infallible>(read)
    };
    let options = LoadOptions::new().stale_while_revalidate(600);
    let here = harness.cache().tags(["key"]).load_options(options);
    let caches = [here.clone(), here.clone(), harness.cache().tags(["key"]), harness.cache()];
    let discovering = |load_more: Load<i64>| {
        load_more.tags(["key"]);
        load()
    };
    thread::scope(|scope| {
        for (number, cache) in caches.iter().enumerate() {
            scope.spawn({
                let (load, discovering, edited, invalidated, reads) =
                    (&load, &discovering, &edited, &invalidated, &reads);
                move || {
                    while edited.load(SeqCst) < EDITS {
                        let oldest = invalidated.load(SeqCst);
                        let value = match number {
                            3 => cache.get_or_load("key", 60, discovering),
                            _ => cache.get_or_set("key", 60, load),
                        };
                        let value = value.unwrap();
                        assert!(value >= oldest, "read {value} after the invalidation for {oldest} was done");
                        reads.fetch_add(1, SeqCst);
                    }
                }
            });
        }
        let writers = [here.clone(), harness.cache()];
        // Soft ones leave the old value to those who may serve it stale.
        let hard = INVALIDATIONS.into_iter().filter(|(name, _)| *name != "expire").map(|(_, invalidate)| invalidate);
        let clear: Invalidate = |cache, _| cache.clear().unwrap();
        let hard: Vec<_> = hard.chain([clear]).collect();
        for edit in 1..=EDITS {
            let before = reads.load(SeqCst);
            for _ in 0..100 {
                if reads.load(SeqCst) > before + 8 {
                    break;
                }
                thread::sleep(Duration::from_micros(200));
            }
            edited.store(edit, SeqCst);
            let turn = usize::try_from(edit).unwrap();
            hard[turn % hard.len()](&writers[turn / hard.len() % writers.len()], "key");
            invalidated.store(edit, SeqCst);
        }
    });
    let (reads, loads) = (reads.load(SeqCst), loads.load(SeqCst));
    assert!(loads < reads, "all of {reads} reads were loads");
}

pub fn of_many_callers_in_three_processes_one_loads<H: Harness>(harness: &Arc<H>) {
    let processes = [process(harness), process(harness), process(harness)];
    let loads = Arc::new(AtomicUsize::new(0));
    let callers = processes.iter().flat_map(|caches| (0..30).map(|_| caches.default_cache()));
    block_on(async {
        let callers: Vec<_> = callers
            .map(|cache| {
                let loads = Arc::clone(&loads);
                let load = move || async move {
                    loads.fetch_add(1, SeqCst);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    row(NEW)
                };
                tokio::spawn(async move { cache.get_or_set("key", 60, load).await })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap().as_deref(), Ok(NEW));
        }
    });
    assert_eq!(loads.load(SeqCst), 1);
}

pub fn many_keys_are_loaded_by_one_call_and_what_is_overtaken_is_not_stored<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (harness.cache().tags(["object"]), harness.cache());
    let names = ["there", "deleted", "stored", "expired", "kept", "absent"];
    let calls = Mutex::new(Vec::new());
    let load = |meanwhile: fn(&BlockingCache)| {
        let (calls, there) = (&calls, &there);
        move |keys: Vec<String>| {
            meanwhile(there);
            calls.lock().unwrap().push(keys.clone());
            let present = keys.into_iter().filter(|key| key != "absent");
            Ok::<HashMap<String, String>, Infallible>(present.map(|key| (key, OLD.to_owned())).collect())
        }
    };
    here.set("there", NEW, 60).unwrap();
    let loaded = here.get_or_set_many(
        names,
        60,
        load(|there| {
            there.delete("deleted").unwrap();
            there.set("stored", NEW, 60).unwrap();
            there.expire("expired").unwrap();
        }),
    );
    let loaded = loaded.unwrap();
    assert_eq!(loaded.len(), 5, "{loaded:?}");
    assert!(loaded.iter().all(|(name, value)| value == if name == "there" { NEW } else { OLD }), "{loaded:?}");
    let kept: HashMap<String, String> = there.get_many(names).unwrap();
    let expected = [("there", NEW), ("stored", NEW), ("kept", OLD)];
    assert_eq!(kept, HashMap::from(expected.map(|(name, value)| (name.to_owned(), value.to_owned()))));

    let loaded = here.get_or_set_many(names, 60, load(|there| there.invalidate_tags(["object"]).unwrap())).unwrap();
    assert_eq!(loaded.len(), 5);
    assert_eq!(there.get_many::<String, _>(names).unwrap().into_keys().collect::<Vec<_>>(), ["stored"]);
    assert_eq!(calls.lock().unwrap()[0], ["deleted", "stored", "expired", "kept", "absent"]);
    assert_eq!(calls.lock().unwrap().len(), 2, "one call for all that is missing");
    assert_eq!(there.get_or_set("absent", 60, || row(NEW)).as_deref(), Ok(NEW), "nobody is in the way of it");
}

pub fn a_load_of_many_keys_that_fails_stands_in_nobody_s_way<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (harness.cache(), harness.cache());
    let failed = here.get_or_set_many(["a", "b"], 60, |_| Err::<HashMap<String, String>, _>("upstream is down"));
    assert_eq!(failed.unwrap_err().loader_error(), Some(&"upstream is down"));
    let load = |keys: Vec<String>| {
        assert_eq!(keys, ["b", "a", "c"]);
        Ok::<HashMap<String, String>, Infallible>(keys.into_iter().map(|key| (key, NEW.to_owned())).collect())
    };
    assert_eq!(there.get_or_set_many(["b", "a", "c"], 60, load).unwrap().len(), 3);
    assert_eq!(read(&here, "a").as_deref(), Some(NEW));
}

/// Takes about a second for each of the two clearings: so long does a process believe what it knows of a prefix.
pub fn a_prefix_is_cleared_with_what_is_being_loaded_under_it<H: Harness>(harness: &Arc<H>) {
    let with_prefix =
        |prefix: &str| harness.cache_with(AliasSettings { key_prefix: prefix.into(), ..AliasSettings::default() });
    let (here, there, other) = (with_prefix("site"), with_prefix("site"), with_prefix("other"));
    for cache in [&here, &other] {
        cache.set("key", OLD, 60).unwrap();
        cache.clone().version(2).tags(["object"]).set("key", OLD, 60).unwrap();
    }
    assert_eq!(read(&there, "key").as_deref(), Some(OLD));
    let overtaken = || {
        there.clear_prefix().unwrap();
        row(OLD)
    };
    assert_eq!(here.get_or_set("loading", 60, overtaken).as_deref(), Ok(OLD));
    for cache in [&here, &there] {
        assert_eq!((read(cache, "key"), read(&cache.clone().version(2), "key")), (None, None));
        assert_eq!(read(cache, "loading"), None, "it was computed from what was there before");
    }
    assert_eq!(read(&other, "key").as_deref(), Some(OLD));
    assert_eq!(read(&other.clone().version(2), "key").as_deref(), Some(OLD));
    assert_eq!(there.get_or_set("loading", 60, || row(NEW)).as_deref(), Ok(NEW));
    assert_eq!(read(&here, "loading").as_deref(), Some(NEW));
}

/// Opens the store as a process does that lives for a while: its table keeps it maintained.
fn process<H: Harness>(harness: &Arc<H>) -> Caches {
    let harness = Arc::clone(harness);
    let settings = AliasSettings { backend: "under test".into(), ..AliasSettings::default() };
    let builder = Caches::builder().clock(harness.clock()).alias("default", settings);
    builder.backend("under test", move |_| Ok(harness.open())).build().unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}
