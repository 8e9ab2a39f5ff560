//! What a page takes over from what it is made of: lifetime, privacy, and what it varies by.

use std::time::Duration;

use actix_web::{
    App, HttpResponse,
    test::{TestRequest, call_service, init_service, read_body},
    web,
};
use bytes::Bytes;
use futures_util::stream;
use larder_cache::{
    Cache, Caches,
    clock::{Clock, ClockHand},
    dependencies::{carry_async, depends_on, mark_private, untracked_async, vary_on_headers},
    page::{PageCache, cache_page},
    settings::AliasSettings,
};

fn caches() -> (Caches, ClockHand) {
    let (clock, hand) = Clock::manual();
    let caches = Caches::builder().alias("default", AliasSettings::default()).clock(clock).build().unwrap();
    (caches, hand)
}

/// Gets `/` of an app with one view that is kept for 300 seconds; returns the page, `Cache-Status` and the rest of the head.
macro_rules! app {
    ($caches:expr, $view:expr) => {{
        let view = $view;
        let route = web::get().to(view).wrap(cache_page(300));
        init_service(App::new().route("/", route).wrap(PageCache::new($caches.clone()).debug(true))).await
    }};
}

macro_rules! get {
    ($app:expr $(, $field:expr)*) => {{
        let request = TestRequest::get().uri("/").insert_header(("host", "a"));
        $(let request = request.insert_header($field);)*
        let answer = call_service($app, request.to_request()).await;
        let field = |name: &str| answer.headers().get(name).map_or("", |field| field.to_str().unwrap()).to_owned();
        let (status, control, vary) = (field("cache-status"), field("cache-control"), field("vary"));
        (String::from_utf8(read_body(answer).await.to_vec()).unwrap(), status, control, vary)
    }};
}

async fn value(cache: &Cache, seconds: u64) -> String {
    cache.get_or_set("value", seconds, || async { Ok::<_, std::io::Error>("value".to_owned()) }).await.unwrap()
}

#[actix_web::test]
async fn a_page_is_fresh_no_longer_than_what_it_is_made_of() {
    let (caches, hand) = caches();
    let cache = caches.default_cache();
    let app = app!(caches, move || {
        let cache = cache.clone();
        async move { value(&cache, 60).await }
    });
    let (_, _, control, _) = get!(&app);
    assert!(control.contains("max-age=60"), "the value is loaded for it: {control}");
    hand.advance(Duration::from_secs(59));
    assert!(get!(&app).1.contains("; hit"));
    hand.advance(Duration::from_secs(1));
    assert!(!get!(&app).1.contains("; hit"));

    // Now the value is found, with what is left of its time.
    hand.advance(Duration::from_secs(20));
    PageCache::new(caches.clone()).purge_url("http://a/").await.unwrap();
    let (_, status, control, _) = get!(&app);
    assert!(control.contains("max-age=40") && status.contains("stored"), "{control} {status}");
    hand.advance(Duration::from_secs(40));
    assert!(!get!(&app).1.contains("; hit"));
}

#[actix_web::test]
async fn what_is_untracked_does_not_shorten_a_page() {
    let (caches, _hand) = caches();
    let cache = caches.default_cache();
    let app = app!(caches, move || {
        let cache = cache.clone();
        async move {
            let value = untracked_async(value(&cache, 60)).await;
            depends_on(["tag"]);
            value
        }
    });
    let (_, _, control, _) = get!(&app);
    assert!(control.contains("max-age=300"), "{control}");
    caches.default_cache().invalidate_tags(["tag"]).await.unwrap();
    assert!(!get!(&app).1.contains("; hit"));
}

#[actix_web::test]
async fn a_page_with_something_private_in_it_is_not_stored() {
    let (caches, _hand) = caches();
    let cache = caches.default_cache();
    let app = app!(caches, move || {
        let cache = cache.clone();
        async move {
            let load = || async {
                mark_private();
                Ok::<_, std::io::Error>("for you".to_owned())
            };
            cache.get_or_set("private", 60, load).await.unwrap()
        }
    });
    for turn in ["loaded", "found"] {
        let (page, status, control, _) = get!(&app);
        assert_eq!(page, "for you");
        assert!(status.contains("private-data") && control == "private", "{turn}: {status} {control}");
    }
}

#[actix_web::test]
async fn a_page_varies_by_what_its_parts_were_made_for() {
    let (caches, _hand) = caches();
    let cache = caches.default_cache();
    let app = app!(caches, move |request: actix_web::HttpRequest| {
        let cache = cache.clone();
        let language = request.headers().get("accept-language").unwrap().to_str().unwrap().to_owned();
        async move {
            let load = |language: String| async move {
                vary_on_headers(["Accept-Language"]);
                Ok::<_, std::io::Error>(format!("hello {language}"))
            };
            cache.get_or_set(format!("hello:{language}"), 60, move || load(language)).await.unwrap()
        }
    });
    for turn in 0..2 {
        for language in ["de", "en"] {
            let (page, status, _, vary) = get!(&app, ("accept-language", language));
            assert_eq!((page, &*vary), (format!("hello {language}"), "accept-language"));
            assert_eq!(status.contains("; hit"), turn > 0, "{status}");
        }
    }
    // The pages alone are gone: the values that are found say it too.
    PageCache::new(caches.clone()).purge_url("http://a/").await.unwrap();
    for language in ["de", "en"] {
        assert_eq!(get!(&app, ("accept-language", language)).0, format!("hello {language}"));
    }
}

#[actix_web::test]
async fn what_a_body_reads_while_it_is_sent_counts_too() {
    let (caches, _hand) = caches();
    let app = app!(caches, || async {
        let body = stream::once(async {
            actix_web::rt::task::yield_now().await;
            depends_on(["tag"]);
            Ok::<_, std::io::Error>(Bytes::from_static(b"late"))
        });
        HttpResponse::Ok().streaming(Box::pin(body))
    });
    assert_eq!(get!(&app).0, "late");
    assert!(get!(&app).1.contains("; hit"));
    caches.default_cache().invalidate_tags(["tag"]).await.unwrap();
    assert!(!get!(&app).1.contains("; hit"));
}

#[actix_web::test]
async fn what_a_task_reads_counts_if_it_was_carried() {
    let (caches, _hand) = caches();
    let app = app!(caches, || async {
        actix_web::rt::spawn(carry_async(async { depends_on(["carried"]) })).await.unwrap();
        actix_web::rt::spawn(async { depends_on(["left behind"]) }).await.unwrap();
        "page"
    });
    get!(&app);
    caches.default_cache().invalidate_tags(["left behind"]).await.unwrap();
    assert!(get!(&app).1.contains("; hit"));
    caches.default_cache().invalidate_tags(["carried"]).await.unwrap();
    assert!(!get!(&app).1.contains("; hit"));
}

/// The first answer of a page does not foresee its tags, the later ones do: it is not stored, they are stored in vain.
#[actix_web::test]
async fn an_invalidation_while_a_page_is_made_wins() {
    let (caches, _hand) = caches();
    let cache = caches.default_cache();
    let app = app!(caches, move || {
        let cache = cache.clone();
        async move {
            depends_on(["tag"]);
            cache.invalidate_tags(["tag"]).await.unwrap();
            "old"
        }
    });
    let status = get!(&app).1;
    assert!(status.contains("overtaken"), "{status}");
    for _ in 0..3 {
        let status = get!(&app).1;
        assert!(!status.contains("; hit"), "{status}");
    }
}
