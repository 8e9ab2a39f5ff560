//! Loading: one load per miss, fresh and stale values, limits, what a loader may choose, how it may fail.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use larder_cache::{
    Cache, Caches, Load, LoadError, LoadOptions, Timeout,
    clock::{Clock, ClockHand},
    settings::AliasSettings,
};
use tokio::time::sleep;

/// A cache in memory whose clock stands still.
fn cache(name: &str) -> (Cache, ClockHand) {
    let (clock, hand) = Clock::manual();
    let settings = AliasSettings::from_address("default", &format!("locmem://loading-{name}")).unwrap();
    let caches = Caches::builder().alias("default", settings).clock(clock).build().unwrap();
    (caches.default_cache(), hand)
}

/// A source that counts how often it was asked, and answers with that number.
#[derive(Clone, Default)]
struct Source {
    asked: Arc<AtomicUsize>,
}

impl Source {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn load(&self) -> impl FnOnce() -> std::future::Ready<Result<usize, &'static str>> + Send + 'static {
        let asked = Arc::clone(&self.asked);
        move || std::future::ready(Ok(asked.fetch_add(1, Ordering::SeqCst) + 1))
    }

    fn fail(&self) -> impl FnOnce() -> std::future::Ready<Result<usize, &'static str>> + Send + 'static {
        let asked = Arc::clone(&self.asked);
        move || {
            asked.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Err("upstream is down"))
        }
    }
}

/// Waits until a background task has done something.
async fn until(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(5), "nothing happened");
        sleep(Duration::from_millis(1)).await;
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[actix_web::test]
async fn a_stale_value_is_served_while_one_caller_has_it_loaded_again() {
    let (cache, hand) = cache("swr");
    let cache = cache.load_options(LoadOptions::new().stale_while_revalidate(60));
    let source = Source::default();
    assert_eq!(cache.get_or_set("key", 10, source.load()).await, Ok(1));
    hand.advance(11 * SECOND);
    assert_eq!(cache.get::<usize>("key").await.unwrap(), None, "a plain get wants it fresh");
    let served = join_all((0..50).map(|_| cache.get_or_set("key", 10, source.load()))).await;
    assert!(served.iter().all(|served| matches!(served, Ok(1 | 2))), "{served:?}");
    assert_eq!(served[0], Ok(1), "nobody waits for the refresh");
    until(|| source.asked() == 2).await;
    sleep(Duration::from_millis(20)).await;
    assert_eq!(cache.get_or_set("key", 10, source.load()).await, Ok(2));
    assert_eq!(source.asked(), 2);
    hand.advance(71 * SECOND);
    assert_eq!(cache.get_or_set("key", 10, source.load()).await, Ok(3), "the window is over");
}

#[actix_web::test]
async fn a_refresh_that_fails_is_not_tried_again_at_once() {
    let (cache, hand) = cache("throttle");
    let options = LoadOptions::new().stale_while_revalidate(600).retry_after(30);
    let cache = cache.load_options(options);
    let source = Source::default();
    assert_eq!(cache.get_or_set("key", 10, source.load()).await, Ok(1));
    hand.advance(11 * SECOND);
    for _ in 0..20 {
        assert_eq!(cache.get_or_set("key", 10, source.fail()).await, Ok(1));
        sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(source.asked(), 2, "once more, and then left alone");
    hand.advance(31 * SECOND);
    assert_eq!(cache.get_or_set("key", 10, source.load()).await, Ok(1));
    until(|| source.asked() == 3).await;
}

#[actix_web::test]
async fn a_stale_value_is_served_instead_of_an_error() {
    let (cache, hand) = cache("sie");
    let cache = cache.load_options(LoadOptions::new().stale_if_error(60).retry_after(5));
    let source = Source::default();
    assert_eq!(cache.get_or_set("key", 10, source.load()).await, Ok(1));
    hand.advance(11 * SECOND);
    assert_eq!(cache.get_or_set("key", 10, source.fail()).await, Ok(1));
    assert_eq!(cache.get_or_set("key", 10, source.fail()).await, Ok(1));
    assert_eq!(source.asked(), 2, "the second caller leaves the source alone");
    hand.advance(6 * SECOND);
    assert_eq!(cache.get_or_set("key", 10, source.load()).await, Ok(3), "and later it is asked again");
    hand.advance(11 * SECOND);
    cache.delete("key").await.unwrap();
    let failed = cache.get_or_set("key", 10, source.fail()).await;
    assert_eq!(failed.unwrap_err().loader_error(), Some(&"upstream is down"), "what was deleted is not served");
}

#[actix_web::test]
async fn a_tag_makes_a_value_unfit_to_be_served_stale() {
    let (cache, hand) = cache("sie-tag");
    let cache = cache.tags(["object"]).load_options(LoadOptions::new().stale_if_error(60).stale_while_revalidate(60));
    let source = Source::default();
    assert_eq!(cache.get_or_set("key", 10, source.load()).await, Ok(1));
    hand.advance(11 * SECOND);
    cache.invalidate_tags(["object"]).await.unwrap();
    assert!(cache.get_or_set("key", 10, source.fail()).await.is_err());
}

#[actix_web::test]
async fn a_soft_invalidation_leaves_a_value_to_those_who_may_serve_it_stale() {
    let (cache, _hand) = cache("expire");
    let patient = cache.clone().load_options(LoadOptions::new().stale_while_revalidate(60));
    let source = Source::default();
    assert_eq!(patient.get_or_set("key", 600, source.load()).await, Ok(1));
    assert!(cache.expire("key").await.unwrap());
    assert!(!cache.expire("other").await.unwrap());
    assert_eq!(cache.get::<usize>("key").await.unwrap(), None);
    assert_eq!(patient.get_or_set("key", 600, source.load()).await, Ok(1), "stale");
    until(|| source.asked() == 2).await;
    sleep(Duration::from_millis(20)).await;
    assert_eq!(cache.get::<usize>("key").await.unwrap(), Some(2));
}

#[actix_web::test]
async fn a_load_is_overtaken_by_a_deletion_an_expiry_and_another_value() {
    let (cache, _hand) = cache("overtaken");
    for overtake in ["delete", "delete_many", "set", "expire", "clear", "invalidate", "clear_prefix"] {
        let (tagged, other) = (cache.clone().tags(["object"]), cache.clone());
        let loaded = tagged.get_or_set(overtake, 60, move || async move {
            match overtake {
                "delete" => drop(other.delete(overtake).await.unwrap()),
                "delete_many" => drop(other.delete_many([overtake]).await.unwrap()),
                "set" => other.set(overtake, "newer", 60).await.unwrap(),
                "expire" => drop(other.expire(overtake).await.unwrap()),
                "clear" => other.clear().await.unwrap(),
                "clear_prefix" => other.clear_prefix().await.unwrap(),
                _ => other.invalidate_tags(["object"]).await.unwrap(),
            }
            Ok::<_, Infallible>("from the old row".to_owned())
        });
        assert_eq!(loaded.await.unwrap(), "from the old row");
        let left = cache.get::<String>(overtake).await.unwrap();
        assert_eq!(left.as_deref(), (overtake == "set").then_some("newer"), "{overtake}");
    }
}

#[actix_web::test]
async fn a_refresh_is_overtaken_too() {
    let (cache, hand) = cache("refresh-overtaken");
    let cache = cache.load_options(LoadOptions::new().stale_while_revalidate(600));
    let source = Source::default();
    assert_eq!(cache.get_or_set("key", 10, source.load()).await, Ok(1));
    hand.advance(11 * SECOND);
    let (other, asked) = (cache.clone(), Arc::clone(&source.asked));
    let refresh = move || async move {
        other.delete("key").await.unwrap();
        asked.fetch_add(1, Ordering::SeqCst);
        Ok::<_, &'static str>(99)
    };
    assert_eq!(cache.get_or_set("key", 10, refresh).await, Ok(1));
    until(|| source.asked() == 2).await;
    sleep(Duration::from_millis(20)).await;
    assert_eq!(
        cache.get_or_set("key", 10, source.load()).await,
        Ok(3),
        "neither the stale value nor the refreshed one"
    );
}

#[actix_web::test]
async fn what_a_caller_who_came_after_the_invalidation_waits_for_is_not_older_than_it() {
    let (cache, _hand) = cache("late");
    let row = Arc::new(AtomicUsize::new(1));
    let read = |pause: u64| {
        let row = Arc::clone(&row);
        move || async move {
            let read = row.load(Ordering::SeqCst);
            sleep(Duration::from_millis(pause)).await;
            Ok::<_, Infallible>(read)
        }
    };
    let first = actix_web::rt::spawn({
        let (cache, read) = (cache.clone(), read(50));
        async move { cache.get_or_set("key", 60, read).await }
    });
    sleep(Duration::from_millis(10)).await;
    row.store(2, Ordering::SeqCst);
    cache.delete("key").await.unwrap();
    assert_eq!(cache.get_or_set("key", 60, read(0)).await, Ok(2), "it waited for the first, and then loaded");
    assert_eq!(first.await.unwrap(), Ok(1));
    assert_eq!(cache.get::<usize>("key").await.unwrap(), Some(2));
}

#[actix_web::test]
async fn an_entry_is_loaded_again_before_its_end() {
    let (cache, hand) = cache("early");
    let early = cache.clone().load_options(LoadOptions::new().early_refresh(0.8));
    let source = Source::default();
    assert_eq!(early.clone().tags(["t"]).get_or_set("key", 100, source.load()).await, Ok(1));
    hand.advance(79 * SECOND);
    assert_eq!(early.get_or_set("key", 100, source.load()).await, Ok(1));
    sleep(Duration::from_millis(20)).await;
    assert_eq!(source.asked(), 1);
    hand.advance(2 * SECOND);
    assert_eq!(early.get_or_set("key", 100, source.load()).await, Ok(1), "served, and loaded meanwhile");
    until(|| source.asked() == 2).await;
    sleep(Duration::from_millis(20)).await;
    assert_eq!(early.get_or_set("key", 100, source.load()).await, Ok(2));
}

#[actix_web::test]
async fn an_entry_that_took_long_is_loaded_again_by_chance_before_its_end() {
    let (cache, hand) = cache("xfetch");
    let cache = cache.tags(["t"]).load_options(LoadOptions::new().early_beta(1.0));
    let slow = || async {
        sleep(Duration::from_millis(100)).await;
        Ok::<_, Infallible>(1)
    };
    assert_eq!(cache.get_or_set("key", 1000, slow).await, Ok(1));
    let source = Source::default();
    for _ in 0..200 {
        cache.get_or_set("key", 1000, source.load()).await.unwrap();
    }
    assert_eq!(source.asked(), 0, "its end is far");
    hand.advance(Duration::from_millis(999_990));
    for _ in 0..200 {
        cache.get_or_set("key", 1000, source.load()).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(source.asked(), 1, "a tenth of its cost before the end nearly every draw elects; one loads");
}

#[actix_web::test]
async fn timeouts_are_spread_by_jitter_and_absent_values_have_their_own() {
    let (cache, _hand) = cache("jitter");
    let jittery = cache.clone().load_options(LoadOptions::new().jitter(0.5).absent_timeout(5));
    let mut spread = Vec::new();
    for n in 0..50 {
        let key = format!("key{n}");
        jittery.get_or_set(&key, 100, || async { Ok::<_, Infallible>("value".to_owned()) }).await.unwrap();
        let Some(Timeout::After(left)) = cache.ttl(&key).await.unwrap() else { panic!("it does not expire") };
        assert!((100..=150).contains(&left.as_secs()), "{left:?}");
        spread.push(left);
    }
    spread.sort();
    spread.dedup();
    assert!(spread.len() > 40, "{spread:?}");
    let absent = cache.clone().load_options(LoadOptions::new().absent_timeout(5));
    absent.get_or_set("none", 100, || async { Ok::<_, Infallible>(None::<String>) }).await.unwrap();
    assert_eq!(cache.ttl("none").await.unwrap(), Some(Timeout::from(5)));
    assert_eq!(cache.ttl("missing").await.unwrap(), None);
    cache.set("ever", "value", Timeout::Never).await.unwrap();
    assert_eq!(cache.ttl("ever").await.unwrap(), Some(Timeout::Never));
}

#[actix_web::test]
async fn a_slow_loader_is_left_when_there_is_a_stale_value_and_its_value_is_kept() {
    let (cache, hand) = cache("soft");
    let cache = cache.load_options(LoadOptions::new().stale_if_error(600).soft_limit(0.02));
    let source = Source::default();
    assert_eq!(cache.get_or_set("key", 10, source.load()).await, Ok(1));
    hand.advance(11 * SECOND);
    let slow = || async {
        sleep(Duration::from_millis(100)).await;
        Ok::<_, &'static str>(7)
    };
    let begun = Instant::now();
    assert_eq!(cache.get_or_set("key", 10, slow).await, Ok(1));
    assert!(begun.elapsed() < Duration::from_millis(90), "{:?}", begun.elapsed());
    sleep(Duration::from_millis(150)).await;
    assert_eq!(cache.get::<usize>("key").await.unwrap(), Some(7));
}

#[actix_web::test]
async fn a_loader_over_the_hard_limit_is_an_error_and_its_value_is_kept() {
    let (cache, _hand) = cache("hard");
    let cache = cache.load_options(LoadOptions::new().hard_limit(0.02));
    let slow = || async {
        sleep(Duration::from_millis(100)).await;
        Ok::<_, Infallible>(7)
    };
    let error = cache.get_or_set("key", 10, slow).await.unwrap_err();
    assert_eq!(error.to_string(), "loading key=key took longer than 20 ms; it goes on, try again");
    sleep(Duration::from_millis(150)).await;
    assert_eq!(cache.get::<i32>("key").await.unwrap(), Some(7));
}

#[actix_web::test]
async fn a_caller_who_goes_away_cancels_nothing() {
    let (cache, _hand) = cache("cancel");
    let slow = || async {
        sleep(Duration::from_millis(50)).await;
        Ok::<_, Infallible>(7)
    };
    let gone = tokio::time::timeout(Duration::from_millis(10), cache.get_or_set("key", 60, slow)).await;
    assert!(gone.is_err());
    let source = Source::default();
    assert_eq!(cache.get_or_set("key", 60, source.load()).await, Ok(7), "the next waits for the same load");
    assert_eq!(source.asked(), 0);
}

#[actix_web::test]
async fn those_who_wait_share_the_error() {
    let (cache, _hand) = cache("error");
    let source = Source::default();
    let load = || {
        let asked = Arc::clone(&source.asked);
        move || async move {
            asked.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(20)).await;
            Err::<usize, _>("upstream is down")
        }
    };
    let answers = join_all((0..100).map(|_| cache.get_or_set("key", 60, load()))).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap_err().loader_error() == Some(&"upstream is down")));
    assert_eq!(source.asked(), 1);
    assert_eq!(cache.get_or_set("key", 60, source.load()).await, Ok(2), "an error is not kept");
}

#[actix_web::test]
async fn a_loader_that_panics_lets_the_next_one_try() {
    let (cache, _hand) = cache("panic");
    let panicking = actix_web::rt::spawn({
        let cache = cache.clone();
        async move {
            let load = || async { panic!("a loader fell over") };
            cache.get_or_set::<usize, &str, _>("key", 60, load).await
        }
    });
    let source = Source::default();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(cache.get_or_set("key", 60, source.load()).await, Ok(1));
    assert!(panicking.await.unwrap_err().is_panic());
    assert_eq!(cache.get::<usize>("key").await.unwrap(), Some(1));
}

#[actix_web::test]
async fn a_loader_that_asks_for_its_own_key_is_told_so() {
    let (cache, _hand) = cache("recursive");
    let inner = cache.clone();
    let load = move || async move { inner.get_or_set("key", 60, || async { Ok::<_, Infallible>(1) }).await };
    let begun = Instant::now();
    let error = cache.get_or_set("key", 60, load).await.unwrap_err();
    assert!(error.to_string().contains("asked for that same key"), "{error}");
    let inner = cache.clone();
    let load = move |keys: Vec<String>| {
        let inner = inner.clone();
        async move { inner.get_or_set(&keys[0], 60, || async { Ok::<_, Infallible>(1) }).await.map(|_| HashMap::new()) }
    };
    let error = cache.get_or_set_many::<i32, _, _, _>(["many"], 60, load).await.unwrap_err();
    assert!(error.to_string().contains("asked for that same key"), "{error}");
    let blocking = cache.blocking();
    let error =
        blocking.get_or_set("key", 60, || blocking.get_or_set("key", 60, || Ok::<_, Infallible>(1))).unwrap_err();
    assert!(matches!(error.loader_error(), Some(LoadError::Recursive { .. })));
    assert!(begun.elapsed() < SECOND);
    assert_eq!(cache.get_or_set("key", 60, || async { Ok::<_, Infallible>(2) }).await, Ok(2));
}

#[actix_web::test]
async fn a_loader_chooses_how_its_value_is_kept() {
    let (cache, hand) = cache("choices");
    let load = |load: Load<String>| async move {
        assert_eq!(load.old(), None);
        load.timeout(100);
        load.options(LoadOptions::new().stale_if_error(50));
        Ok::<_, Infallible>("value".to_owned())
    };
    cache.get_or_load("key", 10, load).await.unwrap();
    assert_eq!(cache.ttl("key").await.unwrap(), Some(Timeout::from(100)));
    hand.advance(101 * SECOND);
    let since = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&since);
    let load = move |load: Load<String>| async move {
        seen.store(usize::from(load.old_since().is_some()), Ordering::SeqCst);
        load.do_not_store();
        Ok::<_, Infallible>(load.not_modified().unwrap_or_default())
    };
    let cache = cache.load_options(LoadOptions::new().stale_if_error(50));
    assert_eq!(cache.get_or_load("key", 10, load).await.as_deref(), Ok("value"), "the source says it did not change");
    assert_eq!(since.load(Ordering::SeqCst), 1);
    assert!(!cache.has_key("key").await.unwrap(), "it asked not to be stored");
}

#[actix_web::test]
async fn a_batch_serves_what_may_be_stale_and_loads_it_in_the_background() {
    let (cache, hand) = cache("stale batch");
    let cache = cache.load_options(LoadOptions::new().stale_while_revalidate(50).stale_if_error(500));
    let calls = Arc::new(Mutex::new(Vec::new()));
    let load = |value: Option<&'static str>| {
        let calls = Arc::clone(&calls);
        let load = move |keys: Vec<String>| {
            calls.lock().unwrap().push(keys.clone());
            let values = keys.into_iter().map(|key| Some((key, value?.to_owned()))).collect::<Option<HashMap<_, _>>>();
            async move { values.ok_or("down") }
        };
        cache.get_or_set_many(["a", "b"], 10, load)
    };
    let calls = || calls.lock().unwrap().len();
    assert_eq!(load(Some("old")).await.unwrap()["a"], "old");
    hand.advance(Duration::from_secs(20));
    assert_eq!(load(Some("new")).await.unwrap()["a"], "old", "nobody waits");
    while cache.get::<String>("b").await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(load(None).await.unwrap()["b"], "new");
    assert_eq!(calls(), 2);
    hand.advance(Duration::from_secs(100));
    assert_eq!(load(None).await.unwrap()["b"], "new", "the loader fails");
    assert_eq!(load(None).await.unwrap()["b"], "new");
    assert_eq!(calls(), 3, "it is left alone for a while");
    let down = |_| Err::<HashMap<String, String>, _>("down");
    assert_eq!(cache.blocking().get_or_set_many(["a"], 10, down).unwrap()["a"], "new");
}

#[actix_web::test]
async fn tags_found_while_loading_invalidate_and_an_invalidation_meanwhile_wins() {
    let (cache, _hand) = cache("discovered");
    let rows = Arc::new(AtomicUsize::new(1));
    let load = |invalidate: Option<Cache>| {
        let rows = Arc::clone(&rows);
        move |load: Load<usize>| async move {
            let read = rows.load(Ordering::SeqCst);
            if let Some(cache) = invalidate {
                rows.fetch_add(1, Ordering::SeqCst);
                cache.invalidate_tags(["object:7"]).await.unwrap();
            }
            load.tags(["object", "object:7"]);
            Ok::<_, Infallible>(read)
        }
    };
    assert_eq!(cache.get_or_load("list", 60, load(None)).await, Ok(1));
    assert_eq!(cache.get::<usize>("list").await.unwrap(), Some(1));
    cache.invalidate_tags(["object:7"]).await.unwrap();
    assert_eq!(cache.get::<usize>("list").await.unwrap(), None);
    for key in ["list", "new"] {
        let before = rows.load(Ordering::SeqCst);
        assert_eq!(cache.get_or_load(key, 60, load(Some(cache.clone()))).await, Ok(before));
        assert_eq!(cache.get::<usize>(key).await.unwrap(), None, "{key} was read before the invalidation");
        assert_eq!(cache.get_or_load(key, 60, load(None)).await, Ok(before + 1));
        assert_eq!(cache.get::<usize>(key).await.unwrap(), Some(before + 1));
    }
    let other = cache.clone();
    let load = |load: Load<usize>| async move {
        other.invalidate_tags(["unrelated"]).await.unwrap();
        load.tags(["object", "object:7"]);
        Ok::<_, Infallible>(9)
    };
    cache.delete("new").await.unwrap();
    assert_eq!(cache.get_or_load("new", 60, load).await, Ok(9));
    assert_eq!(cache.get::<usize>("new").await.unwrap(), Some(9), "its tags were foreseen, and none was invalidated");
}

#[actix_web::test]
async fn many_keys_are_loaded_by_one_call() {
    let (cache, hand) = cache("many");
    let cache = cache.tags(["object"]).load_options(LoadOptions::new().stale_if_error(60).absent_timeout(5));
    let calls = Arc::new(AtomicUsize::new(0));
    let load = |answer: Result<i32, &'static str>| {
        let calls = Arc::clone(&calls);
        move |keys: Vec<String>| {
            let calls = Arc::clone(&calls);
            async move {
                calls.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(20)).await;
                let loaded = keys.into_iter().filter(|key| key != "gone");
                answer.map(|value| loaded.map(|key| (key.clone(), (key != "none").then_some(value))).collect())
            }
        }
    };
    cache.set("a", &Some(0), 60).await.unwrap();
    let names = ["a", "b", "c", "b", "gone", "none"];
    let callers = join_all((0..20).map(|_| cache.get_or_set_many(names, 60, load(Ok(1))))).await;
    for values in callers {
        let values: HashMap<String, Option<i32>> = values.unwrap();
        assert_eq!(
            (values.len(), values["a"], values["b"], values["c"], values["none"]),
            (4, Some(0), Some(1), Some(1), None)
        );
    }
    assert!(calls.load(Ordering::SeqCst) <= 20, "a key that is left out is asked for again, by each once");
    calls.store(0, Ordering::SeqCst);
    assert_eq!(cache.get_or_set_many(["b", "c"], 60, load(Ok(2))).await.unwrap()["b"], Some(1));
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    assert_eq!(cache.ttl("none").await.unwrap(), Some(Timeout::from(5)));
    hand.advance(61 * SECOND);
    let stale = cache.get_or_set_many(["b", "c"], 60, load(Err("upstream is down"))).await;
    assert_eq!(stale.unwrap()["c"], Some(1));
    cache.invalidate_tags(["object"]).await.unwrap();
    let failed = cache.get_or_set_many(["b", "c"], 60, load(Err("upstream is down"))).await;
    assert_eq!(failed.unwrap_err().loader_error(), Some(&"upstream is down"));
}

#[actix_web::test]
async fn a_prefix_is_cleared_and_nothing_else() {
    let build = |prefix: &str| {
        let mut settings = AliasSettings::from_address("default", "locmem://loading-prefix").unwrap();
        prefix.clone_into(&mut settings.key_prefix);
        Caches::builder().alias("default", settings).build().unwrap().default_cache()
    };
    let (here, there, other) = (build("site"), build("site"), build("other"));
    for cache in [&here, &other] {
        cache.set("key", "value", 60).await.unwrap();
        cache.clone().version(2).set("key", "value", 60).await.unwrap();
    }
    assert!(there.has_key("key").await.unwrap());
    here.clear_prefix().await.unwrap();
    for cache in [&here, &there] {
        assert!(!cache.has_key("key").await.unwrap());
        assert!(!cache.clone().version(2).has_key("key").await.unwrap());
    }
    assert!(other.has_key("key").await.unwrap());
    there.set("key", "newer", 60).await.unwrap();
    assert!(here.has_key("key").await.unwrap());
}
