//! The page cache through a real actix app, in every arrangement of middleware.

use std::{
    cell::Cell,
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use actix_web::{
    App, HttpRequest, HttpResponse,
    body::MessageBody,
    dev::{Service, ServiceResponse},
    http::header::{CACHE_CONTROL, EXPIRES, HeaderName, SET_COOKIE, VARY},
    middleware::{DefaultHeaders, from_fn},
    test::{TestRequest, call_service, init_service, read_body},
    web,
};
use larder_cache::{
    Caches,
    clock::{Clock, ClockHand},
    page::{CachePage, PageCache, cache_page},
    settings::AliasSettings,
};

/// A view that counts how often it ran.
#[derive(Clone, Default)]
struct View(Rc<Cell<usize>>);

impl View {
    fn answer(&self, request: &HttpRequest) -> HttpResponse {
        self.0.set(self.0.get() + 1);
        HttpResponse::Ok().body(format!("{} run {}", request.uri(), self.0.get()))
    }

    fn runs(&self) -> usize {
        self.0.get()
    }
}

fn caches() -> (Caches, ClockHand) {
    let (clock, hand) = Clock::manual();
    let store = |name: &str| {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let unique = format!("locmem://{name}-{}", MADE.fetch_add(1, Ordering::Relaxed));
        AliasSettings::from_address(name, &unique).unwrap()
    };
    let built =
        Caches::builder().alias("default", store("default")).alias("other", store("other")).clock(clock).build();
    (built.unwrap(), hand)
}

async fn get<B: MessageBody>(
    app: &impl Service<actix_http::Request, Response = ServiceResponse<B>, Error = actix_web::Error>,
    uri: &str,
    fields: &[(&str, &str)],
) -> ServiceResponse<B> {
    let request = TestRequest::with_uri(uri).insert_header(("host", "larder.test"));
    let request = fields.iter().fold(request, |request, field| request.append_header(*field));
    call_service(app, request.to_request()).await
}

fn field<B>(response: &ServiceResponse<B>, name: &str) -> String {
    let values = response.headers().get_all(name).map(|value| value.to_str().unwrap());
    values.collect::<Vec<_>>().join(", ")
}

/// An app with one view under `/{tail}`, marked, and `PageCache` around it.
macro_rules! app {
    ($view:expr, $mark:expr, $around:expr) => {{
        let view = $view.clone();
        let route = web::get()
            .to(move |request: HttpRequest| {
                let view = view.clone();
                async move { view.answer(&request) }
            })
            .wrap($mark);
        init_service(App::new().route("/{tail:.*}", route).wrap($around)).await
    }};
}

async fn is_stored_with(mark: CachePage, inner: DefaultHeaders) -> bool {
    let view = View::default();
    let counted = view.clone();
    let route = web::get()
        .to(move |request: HttpRequest| {
            let view = counted.clone();
            async move { view.answer(&request) }
        })
        .wrap(mark);
    let app = App::new().route("/", route).wrap(inner).wrap(PageCache::new(caches().0));
    let app = init_service(app).await;
    get(&app, "/", &[]).await;
    get(&app, "/", &[]).await;
    view.runs() == 1
}

#[actix_web::test]
async fn a_marked_view_runs_once_for_each_url() {
    let view = View::default();
    let app = app!(view, cache_page(300), PageCache::new(caches().0));
    let first = get(&app, "/objects/1/", &[]).await;
    assert_eq!(field(&first, "cache-status"), "larder; fwd=uri-miss; stored; ttl=300");
    let body = read_body(first).await;
    for _ in 0..3 {
        assert_eq!(read_body(get(&app, "/objects/1/", &[]).await).await, body);
    }
    assert_eq!(view.runs(), 1);
    assert_ne!(read_body(get(&app, "/objects/2/", &[]).await).await, body);
    assert_ne!(read_body(get(&app, "/objects/1/?page=2", &[]).await).await, body);
    assert_eq!(view.runs(), 3);
}

#[actix_web::test]
async fn a_hit_tells_its_age_and_ends_with_its_lifetime() {
    let view = View::default();
    let (caches, hand) = caches();
    let app = app!(view, cache_page(300), PageCache::new(caches));
    let first = get(&app, "/", &[]).await;
    assert_eq!(field(&first, CACHE_CONTROL.as_str()), "max-age=300");
    assert_eq!(field(&first, "age"), "");
    hand.advance(Duration::from_secs(100));
    let second = get(&app, "/", &[]).await;
    assert_eq!(field(&second, "age"), "100");
    assert_eq!(field(&second, "cache-status"), "larder; hit; ttl=200");
    assert_eq!(field(&second, EXPIRES.as_str()), field(&first, EXPIRES.as_str()));
    hand.advance(Duration::from_secs(200));
    get(&app, "/", &[]).await;
    assert_eq!(view.runs(), 2);
}

#[actix_web::test]
async fn what_inner_middleware_adds_is_seen() {
    let set_cookie = || DefaultHeaders::new().add((SET_COOKIE, "id=alice"));
    assert!(!is_stored_with(cache_page(300), set_cookie()).await);
    assert!(!is_stored_with(cache_page(300).public(), set_cookie()).await);
    for field in [(CACHE_CONTROL, "private"), (CACHE_CONTROL, "no-store"), (VARY, "Accept, *")] {
        assert!(!is_stored_with(cache_page(300), DefaultHeaders::new().add(field.clone())).await, "{field:?}");
    }
    let harmless = DefaultHeaders::new().add((HeaderName::from_static("x-plain"), "1"));
    assert!(is_stored_with(cache_page(300), harmless).await);
}

#[actix_web::test]
async fn a_vary_field_that_inner_middleware_adds_keeps_variants_apart() {
    let view = View::default();
    let counted = view.clone();
    let route = web::get()
        .to(move |request: HttpRequest| {
            let view = counted.clone();
            async move { view.answer(&request) }
        })
        .wrap(cache_page(300));
    let vary = DefaultHeaders::new().add((VARY, "X-Tenant"));
    let app = init_service(App::new().route("/", route).wrap(vary).wrap(PageCache::new(caches().0))).await;
    let alice = read_body(get(&app, "/", &[("x-tenant", "alice")]).await).await;
    let bob = read_body(get(&app, "/", &[("x-tenant", "bob")]).await).await;
    let nobody = read_body(get(&app, "/", &[]).await).await;
    let empty = read_body(get(&app, "/", &[("x-tenant", "")]).await).await;
    assert_eq!(view.runs(), 4);
    assert!(alice != bob && nobody != empty);
    assert_eq!(read_body(get(&app, "/", &[("x-tenant", "alice")]).await).await, alice);
    assert_eq!(read_body(get(&app, "/", &[("x-tenant", "bob")]).await).await, bob);
    assert_eq!(view.runs(), 4);
}

#[actix_web::test]
async fn personal_requests_neither_read_nor_fill_the_cache() {
    let view = View::default();
    let app = app!(view, cache_page(300), PageCache::new(caches().0).debug(true));
    for fields in [[("cookie", "id=alice")], [("authorization", "Bearer alice")]] {
        let passed = get(&app, "/", &fields).await;
        assert!(field(&passed, "cache-status").starts_with("larder; fwd=bypass; detail="));
        assert_eq!(field(&passed, CACHE_CONTROL.as_str()), "");
    }
    get(&app, "/", &[]).await;
    assert_eq!(view.runs(), 3);
    get(&app, "/", &[("cookie", "id=alice")]).await;
    assert_eq!(view.runs(), 4, "not even from the cache");
}

#[actix_web::test]
async fn developers_see_the_key_of_a_page_and_strangers_do_not() {
    for debug in [true, false] {
        let app = app!(View::default(), cache_page(300), PageCache::new(caches().0).debug(debug));
        let keys = [get(&app, "/", &[]).await, get(&app, "/", &[]).await, get(&app, "/", &[]).await].map(|answer| {
            let said = field(&answer, "cache-status").to_owned();
            said.split_once("; key=").map(|(_, key)| key.trim_matches('"').to_owned())
        });
        assert_eq!(keys[0].is_some(), debug);
        assert!(keys[0] == keys[1] && keys[1] == keys[2], "made, found, and at hand: {keys:?}");
        assert!(keys[0].as_ref().is_none_or(|key| key.starts_with(":1/page//~")), "{keys:?}");
    }
}

#[actix_web::test]
async fn a_public_page_is_shared_by_everyone() {
    let view = View::default();
    let app = app!(view, cache_page(300).public(), PageCache::new(caches().0));
    // Middleware may have read the cookie before the worker knew that the view is public.
    let first = get(&app, "/", &[("cookie", "id=alice")]).await;
    assert_eq!(field(&first, "cache-status"), "larder; fwd=uri-miss");
    for who in [("cookie", "id=alice"), ("cookie", "id=bob"), ("authorization", "Bearer x")] {
        get(&app, "/", &[who]).await;
    }
    assert_eq!(view.runs(), 2);
}

#[actix_web::test]
async fn cookies_that_are_no_session_s_do_not_matter() {
    let view = View::default();
    let app = app!(view, cache_page(300), PageCache::new(caches().0).session_cookies(["id"]));
    get(&app, "/", &[("cookie", "theme=dark")]).await;
    get(&app, "/", &[]).await;
    assert_eq!(view.runs(), 1);
    get(&app, "/", &[("cookie", "theme=dark; id=1")]).await;
    assert_eq!(view.runs(), 2);
}

#[actix_web::test]
async fn a_get_answers_head_and_nothing_answers_post() {
    let view = View::default();
    let counted = view.clone();
    let resource = web::resource("/").wrap(cache_page(300)).to(move |request: HttpRequest| {
        let view = counted.clone();
        async move { view.answer(&request) }
    });
    let app = init_service(App::new().service(resource).wrap(PageCache::new(caches().0))).await;
    let send = async |request: TestRequest| {
        call_service(&app, request.uri("/").insert_header(("host", "a")).to_request()).await
    };
    send(TestRequest::default().method(actix_web::http::Method::HEAD)).await;
    assert_eq!(view.runs(), 1, "a HEAD fills nothing");
    send(TestRequest::get()).await;
    let head = send(TestRequest::default().method(actix_web::http::Method::HEAD)).await;
    assert_eq!((view.runs(), field(&head, "cache-status").as_str()), (2, "larder; hit; ttl=300"));
    let post = send(TestRequest::post()).await;
    assert_eq!((view.runs(), field(&post, "cache-status").as_str()), (3, "larder; fwd=method"));
}

#[actix_web::test]
async fn only_allowed_hosts_are_cached() {
    let view = View::default();
    let app = app!(view, cache_page(300), PageCache::new(caches().0).allowed_hosts(["larder.test"]));
    for host in ["evil.test", "larder.test"] {
        for _ in 0..2 {
            let request = TestRequest::get().uri("/").insert_header(("host", host)).to_request();
            call_service(&app, request).await;
        }
    }
    assert_eq!(view.runs(), 3);
}

#[actix_web::test]
async fn aliases_and_prefixes_keep_pages_apart() {
    let (caches, _hand) = caches();
    let view = View::default();
    for mark in [cache_page(300), cache_page(300).key_prefix("a"), cache_page(300).alias("other")] {
        let app = app!(view, mark, PageCache::new(caches.clone()));
        get(&app, "/", &[]).await;
        get(&app, "/", &[]).await;
    }
    assert_eq!(view.runs(), 3);
    assert_eq!(caches.get("other").unwrap().counts().stored, 1);
}

#[actix_web::test]
async fn an_alias_that_is_not_there_lets_the_request_through() {
    let view = View::default();
    let app = app!(view, cache_page(300).alias("nowhere"), PageCache::new(caches().0));
    assert!(get(&app, "/", &[]).await.status().is_success());
    assert_eq!(view.runs(), 1);
}

#[actix_web::test]
async fn an_invalidated_tag_makes_its_pages_stale() {
    let (caches, _hand) = caches();
    let view = View::default();
    let mark = cache_page(300).tags(|request| vec![format!("object:{}", &request.match_info()["tail"])]);
    let app = app!(view, mark, PageCache::new(caches.clone()));
    for uri in ["/1", "/2", "/1", "/2"] {
        get(&app, uri, &[]).await;
    }
    assert_eq!(view.runs(), 2);
    caches.default_cache().invalidate_tags(["object:1"]).await.unwrap();
    for uri in ["/1", "/2", "/1"] {
        get(&app, uri, &[]).await;
    }
    assert_eq!(view.runs(), 3);
}

#[actix_web::test]
async fn an_invalidation_while_the_view_runs_wins() {
    let (caches, _hand) = caches();
    let view = View::default();
    let (counted, meanwhile) = (view.clone(), caches.clone());
    let mark = cache_page(300).tags(|_| vec!["object".to_owned()]);
    let route = web::get()
        .to(move |request: HttpRequest| {
            let (view, caches) = (counted.clone(), meanwhile.clone());
            async move {
                let answer = view.answer(&request);
                if view.runs() == 1 {
                    caches.default_cache().invalidate_tags(["object"]).await.unwrap();
                }
                answer
            }
        })
        .wrap(mark);
    let app = init_service(App::new().route("/", route).wrap(PageCache::new(caches))).await;
    get(&app, "/", &[]).await;
    get(&app, "/", &[]).await;
    assert_eq!(view.runs(), 2, "the first answer was made from what had changed");
    get(&app, "/", &[]).await;
    assert_eq!(view.runs(), 2);
}

#[actix_web::test]
async fn clients_may_be_granted_less_than_the_cache() {
    let view = View::default();
    let app = app!(view, cache_page(300).clients(0), PageCache::new(caches().0));
    let made = get(&app, "/", &[]).await;
    assert_eq!(field(&made, CACHE_CONTROL.as_str()), "max-age=0, must-revalidate");
    get(&app, "/", &[]).await;
    assert_eq!(view.runs(), 1);
}

#[actix_web::test]
async fn bodies_over_the_limit_and_streams_pass_through() {
    let view = View::default();
    let app = app!(view, cache_page(300), PageCache::new(caches().0).max_body_bytes(5).debug(true));
    let made = get(&app, "/", &[]).await;
    assert!(field(&made, "cache-status").starts_with("larder; fwd=uri-miss; detail=\"too-large\"; key="));
    let body = read_body(made).await;
    assert_eq!(body, "/ run 1");

    let events = web::get()
        .to(|| async {
            let pieces = ["a", "b"].map(|piece| Ok::<_, actix_web::Error>(web::Bytes::from(piece)));
            HttpResponse::Ok().content_type("text/event-stream").streaming(futures_util::stream::iter(pieces))
        })
        .wrap(cache_page(300));
    let app = init_service(App::new().route("/", events).wrap(PageCache::new(caches().0).debug(true))).await;
    let made = get(&app, "/", &[]).await;
    assert_eq!(
        field(&made, "cache-status").split_once("; key=").unwrap().0,
        "larder; fwd=uri-miss; detail=\"streaming\""
    );
    assert_eq!(read_body(made).await, "ab");
}

#[actix_web::test]
async fn the_whole_site_is_cached_where_nothing_forbids_it() {
    let view = View::default();
    let (plain, forbidden) = (view.clone(), view.clone());
    let app = App::new()
        .route(
            "/plain",
            web::get().to(move |request: HttpRequest| {
                let view = plain.clone();
                async move { view.answer(&request) }
            }),
        )
        .route(
            "/never",
            web::get().to(move |request: HttpRequest| {
                let view = forbidden.clone();
                async move {
                    let mut answer = view.answer(&request);
                    answer.headers_mut().insert(CACHE_CONTROL, "no-store".parse().unwrap());
                    answer
                }
            }),
        )
        .wrap(PageCache::new(caches().0).site(cache_page(60).key_prefix("site")));
    let app = init_service(app).await;
    for uri in ["/plain", "/plain", "/never", "/never", "/missing", "/missing"] {
        get(&app, uri, &[]).await;
    }
    assert_eq!(view.runs(), 3);
}

#[actix_web::test]
async fn a_view_s_own_mark_goes_before_the_site_s() {
    let view = View::default();
    let app = app!(view, cache_page(300), PageCache::new(caches().0).site(cache_page(60).alias("other")));
    let made = get(&app, "/", &[]).await;
    assert_eq!(field(&made, "cache-status"), "larder; fwd=uri-miss; stored; ttl=300");
    let hit = get(&app, "/", &[]).await;
    assert_eq!(field(&hit, "cache-status"), "larder; hit; ttl=300");
}

#[actix_web::test]
async fn cache_page_works_alone() {
    let (caches, _hand) = caches();
    let view = View::default();
    let counted = view.clone();
    let route = web::get()
        .to(move |request: HttpRequest| {
            let view = counted.clone();
            async move { view.answer(&request) }
        })
        .wrap(cache_page(300));
    let app = init_service(App::new().app_data(web::Data::new(caches)).route("/", route)).await;
    get(&app, "/", &[]).await;
    let hit = get(&app, "/", &[]).await;
    assert_eq!((view.runs(), field(&hit, "cache-status").as_str()), (1, "larder; hit; ttl=300"));
}

#[actix_web::test]
async fn a_hit_runs_no_inner_middleware() {
    let view = View::default();
    let (counted, inner_runs) = (view.clone(), Rc::new(Cell::new(0)));
    let counting = Rc::clone(&inner_runs);
    let route = web::get()
        .to(move |request: HttpRequest| {
            let view = counted.clone();
            async move { view.answer(&request) }
        })
        .wrap(cache_page(300));
    let inner = from_fn(move |request, next: actix_web::middleware::Next<_>| {
        counting.set(counting.get() + 1);
        next.call(request)
    });
    let app = init_service(App::new().route("/", route).wrap(inner).wrap(PageCache::new(caches().0))).await;
    for _ in 0..3 {
        get(&app, "/", &[]).await;
    }
    assert_eq!((view.runs(), inner_runs.get()), (1, 1));
}

/// Guests are answered by a marked view, members by one that is not, under one path.
#[actix_web::test]
async fn what_another_view_answers_under_a_known_path_is_not_stored() {
    use actix_web::guard;

    let (caches, hand) = caches();
    let guests = || async { HttpResponse::Ok().body("hello guest") };
    let members = |request: HttpRequest| async move {
        HttpResponse::Ok().body(format!("hello {}", request.headers().get("x-member").unwrap().to_str().unwrap()))
    };
    let is_member = guard::fn_guard(|context| context.head().headers().contains_key("x-member"));
    let resource = web::resource("/")
        .route(web::route().guard(is_member).to(members))
        .route(web::get().to(guests).wrap(cache_page(60).public()));
    let app = init_service(App::new().service(resource).wrap(PageCache::new(caches))).await;
    let guest = async || read_body(get(&app, "/", &[]).await).await;
    let member = async |name: &str| read_body(get(&app, "/", &[("x-member", name)]).await).await;
    for _ in 0..2 {
        assert_eq!(guest().await, "hello guest");
    }
    hand.advance(Duration::from_secs(61));
    assert_eq!(member("alice").await, "hello alice");
    assert_eq!(member("bob").await, "hello bob");
    assert_eq!(guest().await, "hello guest");
    assert_eq!(member("bob").await, "hello bob", "from now on each request is led to its view first");
}

#[actix_web::test]
async fn pages_of_the_whole_site_can_have_tags() {
    let (caches, _hand) = caches();
    let view = View::default();
    let counted = view.clone();
    let plain = web::get().to(move |request: HttpRequest| {
        let view = counted.clone();
        async move { view.answer(&request) }
    });
    let every_page = cache_page(60).tags(|_| vec!["object".to_owned()]);
    let app = init_service(App::new().route("/", plain).wrap(PageCache::new(caches.clone()).site(every_page))).await;
    get(&app, "/", &[]).await;
    get(&app, "/", &[]).await;
    assert_eq!(view.runs(), 1);
    caches.default_cache().invalidate_tags(["object"]).await.unwrap();
    get(&app, "/", &[]).await;
    assert_eq!(view.runs(), 2);
}

#[actix_web::get("/", wrap = "cache_page(300)")]
async fn with_attribute(runs: web::Data<AtomicUsize>) -> String {
    format!("run {}", runs.fetch_add(1, Ordering::Relaxed))
}

#[actix_web::test]
async fn a_view_can_be_marked_by_its_attribute() {
    let runs = web::Data::new(AtomicUsize::new(1));
    let app = App::new().app_data(runs.clone()).service(with_attribute).wrap(PageCache::new(caches().0));
    let app = init_service(app).await;
    for _ in 0..2 {
        assert_eq!(read_body(get(&app, "/", &[]).await).await, "run 1");
    }
}

/// Answers many requests at the same time from a view that takes a while; returns how often it ran.
async fn runs_for_many(set_cookie: bool, languages: &[&str]) -> usize {
    let view = View::default();
    let counted = view.clone();
    let slow = web::get().to(move |request: HttpRequest| {
        let view = counted.clone();
        async move {
            actix_web::rt::time::sleep(Duration::from_millis(50)).await;
            let mut answer = view.answer(&request);
            answer.headers_mut().insert(VARY, "accept-language".parse().unwrap());
            if set_cookie {
                answer.headers_mut().insert(SET_COOKIE, "a=b".parse().unwrap());
            }
            answer
        }
    });
    let app = App::new().route("/", slow.wrap(cache_page(300))).wrap(PageCache::new(caches().0));
    let app = init_service(app).await;
    let requests = (0..200).map(|number| {
        let language = languages[number % languages.len()];
        let app = &app;
        async move { get(app, "/", &[("accept-language", language)]).await.status().is_success() }
    });
    assert!(futures_util::future::join_all(requests).await.into_iter().all(|success| success));
    view.runs()
}

#[actix_web::test]
async fn two_hundred_clients_on_a_cold_page_run_its_view_once() {
    assert_eq!(runs_for_many(false, &["de"]).await, 1);
}

#[actix_web::test]
async fn a_page_that_cannot_be_stored_keeps_nobody_waiting_in_line() {
    let begun = std::time::Instant::now();
    assert_eq!(runs_for_many(true, &["de"]).await, 200);
    assert!(begun.elapsed() < Duration::from_secs(2), "one after the other: {:?}", begun.elapsed());
}

#[actix_web::test]
async fn variants_are_each_made_once_when_the_cold_page_turns_out_to_have_them() {
    assert_eq!(runs_for_many(false, &["de", "en", "fr"]).await, 3);
}

/// A view whose answer, and the headers that it varies by, the test decides while it runs.
#[actix_web::test]
async fn a_variant_made_before_a_clearing_is_not_served_after_it() {
    use std::{cell::RefCell, rc::Rc};
    let (caches, _) = caches();
    let data = Rc::new(RefCell::new("old"));
    let clears = Rc::new(Cell::new(false));
    let (read, clear, table) = (Rc::clone(&data), Rc::clone(&clears), caches.clone());
    let route = web::get()
        .to(move |request: HttpRequest| {
            let value = *read.borrow();
            if clear.take() {
                // Somebody changes the data and clears the cache while this view is being made.
                *read.borrow_mut() = "new";
                table.default_cache().blocking().clear().unwrap();
            }
            let vary = if request.headers().contains_key("x-b") { "x-a, x-b" } else { "x-a" };
            async move { HttpResponse::Ok().insert_header((VARY, vary)).body(value) }
        })
        .wrap(cache_page(300));
    let app = init_service(App::new().route("/{tail:.*}", route).wrap(PageCache::new(caches.clone()))).await;
    let body = async |fields: &[(&str, &str)]| {
        String::from_utf8(read_body(get(&app, "/", fields).await).await.to_vec()).unwrap()
    };
    // The page varies by x-a; then one answer says that it varies by x-b too, and is overtaken by the clearing.
    assert_eq!(body(&[("x-a", "1")]).await, "old");
    clears.set(true);
    assert_eq!(body(&[("x-a", "2"), ("x-b", "1")]).await, "old");
    assert_eq!(body(&[("x-a", "2"), ("x-b", "1")]).await, "new");
}

#[actix_web::test]
async fn a_variant_made_before_its_prefix_was_cleared_is_not_served_after_it() {
    use std::{cell::RefCell, rc::Rc};
    let caches = Caches::builder()
        .alias("default", AliasSettings::from_address("default", "locmem://t07b").unwrap())
        .build()
        .unwrap();
    let data = Rc::new(RefCell::new("old"));
    let clears = Rc::new(Cell::new(false));
    let (read, clear, table) = (Rc::clone(&data), Rc::clone(&clears), caches.clone());
    let route = web::get()
        .to(move |_: HttpRequest| {
            let value = *read.borrow();
            if clear.take() {
                *read.borrow_mut() = "new";
                table.default_cache().blocking().clear_prefix().unwrap();
            }
            async move { HttpResponse::Ok().insert_header((VARY, "x-a")).body(value) }
        })
        .wrap(cache_page(300));
    let app = init_service(App::new().route("/{tail:.*}", route).wrap(PageCache::new(caches.clone()))).await;
    let body = async |fields: &[(&str, &str)]| {
        String::from_utf8(read_body(get(&app, "/", fields).await).await.to_vec()).unwrap()
    };
    clears.set(true);
    assert_eq!(body(&[("x-a", "1")]).await, "old");
    assert_eq!(body(&[("x-a", "2")]).await, "new");
    assert_eq!(body(&[("x-a", "1")]).await, "new");
}

/// Something that ends a page, and what it is called.
type End = (&'static str, fn(&Caches, &PageCache, &ClockHand));

#[actix_web::test]
async fn a_page_that_a_worker_has_at_hand_ends_with_everything_that_ends_it_in_the_store() {
    let ends: [End; 6] = [
        ("tag", |caches, _, _| caches.default_cache().blocking().invalidate_tags(["object"]).unwrap()),
        ("clear", |caches, _, _| caches.default_cache().blocking().clear().unwrap()),
        ("prefix", |caches, _, _| caches.default_cache().blocking().clear_prefix().unwrap()),
        ("purge", |_, pages, _| {
            let purged = futures_util::FutureExt::now_or_never(pages.purge_url("http://larder.test/7?page=2"));
            assert_eq!(purged.unwrap().unwrap(), 1);
        }),
        ("time", |_, _, hand| hand.advance(Duration::from_secs(300))),
        ("culling", |caches, _, _| {
            for number in 0..20_000 {
                caches.default_cache().blocking().set(format!("key{number}"), &number, 300).unwrap();
            }
        }),
    ];
    for (name, end) in ends {
        let (caches, hand) = caches();
        let view = View::default();
        let pages = PageCache::new(caches.clone());
        let app = app!(view, cache_page(300).tags(|_| vec!["object".to_owned()]), pages.clone());
        for round in 1..=3 {
            for _ in 0..4 {
                let page = get(&app, "/7?page=2", &[]).await;
                assert_eq!(read_body(page).await, format!("/7?page=2 run {round}"), "{name}");
            }
            end(&caches, &pages, &hand);
        }
    }
}

#[actix_web::test]
async fn a_page_at_hand_is_not_for_those_who_may_not_have_it() {
    let (caches, _hand) = caches();
    let view = View::default();
    let app = app!(view, cache_page(300), PageCache::new(caches));
    for _ in 0..3 {
        get(&app, "/", &[]).await;
    }
    assert_eq!(view.runs(), 1);
    let others: [&[(&str, &str)]; 5] = [
        &[("authorization", "Bearer 1")],
        &[("cookie", "id=7")],
        &[("content-length", "1")],
        &[("if-match", "\"1\"")],
        &[("host", "other.test")],
    ];
    for (runs, fields) in (2..).zip(others) {
        let request = fields.iter().fold(TestRequest::with_uri("/"), |request, field| request.insert_header(*field));
        let request = if fields[0].0 == "host" { request } else { request.insert_header(("host", "larder.test")) };
        call_service(&app, request.to_request()).await;
        assert_eq!(view.runs(), runs, "{fields:?}");
    }
}
