//! The page cache as a cache of HTTP (RFC 9110, 9111, 5861): what is answered from it, validated, served in parts or stale.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpResponseBuilder,
    body::MessageBody,
    dev::{Service, ServiceResponse},
    http::{Method, StatusCode, header::HeaderName},
    test::{TestRequest, call_service, init_service, read_body},
    web,
};
use futures_util::{future::join_all, stream};
use larder_cache::{
    Caches,
    clock::{Clock, ClockHand},
    page::{self, PageCache, cache_by_headers, cache_page},
    settings::AliasSettings,
};

/// What an origin was asked, one line a request, with the fields that matter here.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    fn note(&self, request: &HttpRequest) -> usize {
        let field = |name: &str| {
            let value = request.headers().get(name)?.to_str().ok()?;
            Some(format!(" {name}: {value}"))
        };
        let names = ["if-none-match", "if-modified-since", "range", "x-forwarded-host", "if-match"];
        let fields: String = names.into_iter().filter_map(field).collect();
        let mut asked = self.0.lock().unwrap();
        asked.push(format!("{} {}{fields}", request.method(), request.uri()));
        asked.len()
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

fn caches() -> (Caches, ClockHand) {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let (clock, hand) = Clock::manual();
    let store = format!("locmem://http-{}", MADE.fetch_add(1, Ordering::Relaxed));
    let settings = AliasSettings::from_address("default", &store).unwrap();
    (Caches::builder().alias("default", settings).clock(clock).build().unwrap(), hand)
}

fn gateway(caches: &Caches) -> PageCache {
    PageCache::new(caches.clone())
        .site(cache_by_headers(0))
        .session_cookies([""; 0])
        .obey_reload(true)
        .etags(false)
        .debug(true)
}

/// An app whose every path is answered by `answer`, which is told how often it was asked, this time included.
macro_rules! site {
    ($around:expr, $asked:expr, $answer:expr) => {{
        let (asked, answer) = ($asked.clone(), $answer);
        let view = move |request: HttpRequest| {
            let number = asked.note(&request);
            let made: HttpResponse = answer(&request, number);
            async move { made }
        };
        init_service(App::new().default_service(web::to(view)).wrap($around)).await
    }};
}

fn says(cache_control: &str) -> HttpResponseBuilder {
    let mut answer = HttpResponse::Ok();
    answer.insert_header(("cache-control", cache_control));
    answer
}

async fn send<B: MessageBody>(
    app: &impl Service<actix_http::Request, Response = ServiceResponse<B>, Error = actix_web::Error>,
    method: Method,
    uri: &str,
    fields: &[(&str, &str)],
) -> (u16, String, String) {
    let request = TestRequest::with_uri(uri).method(method).insert_header(("host", "larder.test"));
    let request = fields.iter().fold(request, |request, field| request.append_header(*field));
    let answer = call_service(app, request.to_request()).await;
    let mut head: Vec<String> = answer
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    head.sort();
    let status = answer.status().as_u16();
    let body = read_body(answer).await;
    (status, head.join("\n"), String::from_utf8_lossy(&body).into_owned())
}

const GET: Method = Method::GET;

#[actix_web::test]
async fn a_gateway_keeps_what_may_be_kept_for_as_long_as_it_says() {
    let (caches, hand) = caches();
    let asked = Asked::default();
    let app = site!(gateway(&caches), asked, |_: &HttpRequest, n: usize| says("max-age=60").body(format!("body {n}")));
    let (status, head, body) = send(&app, GET, "/a", &[]).await;
    assert_eq!((status, body.as_str()), (200, "body 1"));
    assert!(head.contains("cache-status: larder; fwd=uri-miss; stored; ttl=60"), "{head}");
    hand.advance(Duration::from_secs(59));
    let (_, head, body) = send(&app, GET, "/a", &[]).await;
    assert_eq!(body, "body 1");
    assert!(head.contains("age: 59") && head.contains("cache-status: larder; hit; ttl=1"), "{head}");
    hand.advance(Duration::from_secs(1));
    assert_eq!(send(&app, GET, "/a", &[]).await.2, "body 2");
    assert_eq!(send(&app, GET, "/b", &[]).await.2, "body 3");
}

#[actix_web::test]
async fn what_says_nothing_is_not_kept_by_a_gateway() {
    let (caches, _) = caches();
    let asked = Asked::default();
    let app = site!(gateway(&caches), asked, |_: &HttpRequest, _| HttpResponse::Ok().body("x"));
    for _ in 0..2 {
        send(&app, GET, "/", &[]).await;
    }
    assert_eq!(asked.count(), 2);
}

#[actix_web::test]
async fn a_stale_page_is_validated_and_lives_on() {
    let (caches, hand) = caches();
    let asked = Asked::default();
    let app = site!(gateway(&caches), asked, |request: &HttpRequest, n: usize| {
        let mut answer = says(&format!("max-age={}", n * 10));
        answer.insert_header(("etag", "\"v1\"")).insert_header(("x-number", n.to_string()));
        match request.headers().get("if-none-match").is_some_and(|tags| tags == "\"v1\"") {
            true => answer.status(StatusCode::NOT_MODIFIED).finish(),
            false => answer.body("body"),
        }
    });
    send(&app, GET, "/a", &[]).await;
    hand.advance(Duration::from_secs(10));
    let (status, head, body) = send(&app, GET, "/a", &[]).await;
    assert_eq!((status, body.as_str()), (200, "body"), "the client asked for the page");
    assert!(head.contains("x-number: 2") && head.contains("cache-control: max-age=20"), "{head}");
    assert!(head.contains("fwd=stale; fwd-status=304; stored; ttl=20"), "{head}");
    hand.advance(Duration::from_secs(15));
    assert_eq!(send(&app, GET, "/a", &[]).await.2, "body");
    assert_eq!(asked.all(), ["GET /a", "GET /a if-none-match: \"v1\""]);
    let (status, _, body) = send(&app, GET, "/a", &[("if-none-match", "\"v1\"")]).await;
    assert_eq!((status, body.as_str()), (304, ""));
    assert_eq!(send(&app, GET, "/a", &[("if-none-match", "\"v0\"")]).await.0, 200);
    assert_eq!(asked.count(), 2);
}

#[actix_web::test]
async fn the_conditions_of_one_client_do_not_reach_what_is_kept() {
    let (caches, _) = caches();
    let asked = Asked::default();
    let app = site!(gateway(&caches), asked, |_: &HttpRequest, _| {
        says("max-age=60").insert_header(("etag", "\"v1\"")).body("0123456789")
    });
    let conditions =
        [("if-none-match", "\"v1\""), ("range", "bytes=0-1"), ("if-modified-since", "Thu, 01 Jan 1970 00:00:10 GMT")];
    let (status, _, body) = send(&app, GET, "/a", &conditions).await;
    assert_eq!((status, body.as_str()), (304, ""));
    assert_eq!(asked.all(), ["GET /a"]);
    assert_eq!(send(&app, GET, "/a", &[]).await.2, "0123456789");
    assert_eq!(asked.count(), 1);
}

#[actix_web::test]
async fn parts_are_served_from_the_whole() {
    let (caches, _) = caches();
    let asked = Asked::default();
    let app = site!(gateway(&caches), asked, |_: &HttpRequest, _| {
        says("max-age=60").insert_header(("etag", "\"v1\"")).content_type("text/plain").body("0123456789")
    });
    let (status, head, body) = send(&app, GET, "/a", &[("range", "bytes=2-4")]).await;
    assert_eq!((status, body.as_str()), (206, "234"), "made just now");
    assert!(head.contains("content-range: bytes 2-4/10"), "{head}");
    let part = async |fields: &[(&str, &str)]| send(&app, GET, "/a", fields).await;
    assert_eq!(part(&[("range", "bytes=-2")]).await.2, "89");
    assert_eq!(part(&[("range", "bytes=0-0"), ("if-range", "\"v1\"")]).await.0, 206);
    assert_eq!(part(&[("range", "bytes=0-0"), ("if-range", "\"v0\"")]).await.0, 200);
    let (status, head, body) = part(&[("range", "bytes=20-")]).await;
    assert_eq!((status, body.as_str()), (416, ""));
    assert!(head.contains("content-range: bytes */10"), "{head}");
    let (status, head, body) = part(&[("range", "bytes=0-1,8-9")]).await;
    assert_eq!(status, 206);
    assert!(head.contains("content-type: multipart/byteranges; boundary="), "{head}");
    assert!(body.contains("Content-Range: bytes 0-1/10\r\n\r\n01\r\n") && body.contains("89"), "{body}");
    assert_eq!(send(&app, Method::HEAD, "/a", &[("range", "bytes=0-1")]).await.0, 200, "parts are for GET");
    assert_eq!(asked.all(), ["GET /a"]);
}

#[actix_web::test]
async fn a_request_may_ask_for_more_or_be_content_with_less() {
    let (caches, hand) = caches();
    let asked = Asked::default();
    let app = site!(gateway(&caches), asked, |_: &HttpRequest, n: usize| says("max-age=60").body(format!("body {n}")));
    let get = async |directive: &str| send(&app, GET, "/a", &[("cache-control", directive)]).await;
    let (status, head, _) = get("only-if-cached").await;
    assert_eq!((status, asked.count()), (504, 0), "{head}");
    assert_eq!(get("no-store").await.2, "body 1");
    assert_eq!(get("").await.2, "body 2", "the first was not kept");
    hand.advance(Duration::from_secs(10));
    assert_eq!(get("only-if-cached, max-age=10").await.2, "body 2");
    let (_, head, body) = get("max-age=9").await;
    assert_eq!(body, "body 3");
    assert!(head.contains("fwd=request; stored"), "{head}");
    assert_eq!(get("no-cache").await.2, "body 4");
    assert_eq!(get("min-fresh=61").await.2, "body 5");
    hand.advance(Duration::from_secs(70));
    let (_, head, body) = get("max-stale=10").await;
    assert_eq!(body, "body 5");
    assert!(head.contains("hit; ttl=-10"), "{head}");
    assert_eq!(get("max-stale=9").await.2, "body 6");
}

#[actix_web::test]
async fn strangers_cannot_have_pages_of_a_site_made_anew() {
    let (caches, _) = caches();
    let asked = Asked::default();
    let app = site!(PageCache::new(caches).site(cache_page(60)), asked, |_: &HttpRequest, _| {
        HttpResponse::Ok().body("x")
    });
    for fields in
        [&[][..], &[("cache-control", "no-cache")], &[("cache-control", "max-age=0")], &[("pragma", "no-cache")]]
    {
        send(&app, GET, "/a", fields).await;
    }
    assert_eq!(asked.count(), 1);
}

#[actix_web::test]
async fn a_page_is_served_stale_while_one_request_has_it_made_anew() {
    let (caches, hand) = caches();
    let asked = Asked::default();
    let around = PageCache::new(caches).site(cache_page(60).stale_while_revalidate(30)).debug(true);
    let app = site!(around, asked, |_: &HttpRequest, n: usize| HttpResponse::Ok().body(format!("body {n}")));
    send(&app, GET, "/a", &[]).await;
    hand.advance(Duration::from_secs(80));
    let (_, head, body) = send(&app, GET, "/a", &[]).await;
    assert_eq!(body, "body 1");
    assert!(head.contains("hit; ttl=-20") && head.contains("age: 80"), "{head}");
    while asked.count() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(send(&app, GET, "/a", &[]).await.2, "body 2");
    hand.advance(Duration::from_secs(91));
    assert_eq!(send(&app, GET, "/a", &[]).await.2, "body 3", "it was stale for too long");
}

#[actix_web::test]
async fn a_failing_view_is_answered_for_by_the_stale_page() {
    let (caches, hand) = caches();
    let asked = Asked::default();
    let around = PageCache::new(caches).site(cache_page(60).stale_if_error(600)).debug(true);
    let app = site!(around, asked, |_: &HttpRequest, n: usize| match n {
        1 => HttpResponse::Ok().body("body 1"),
        2 => HttpResponse::ServiceUnavailable().body("down"),
        _ => HttpResponse::Ok().body(format!("body {n}")),
    });
    send(&app, GET, "/a", &[]).await;
    hand.advance(Duration::from_secs(100));
    let (status, head, body) = send(&app, GET, "/a", &[]).await;
    assert_eq!((status, body.as_str()), (200, "body 1"));
    assert!(head.contains("fwd=stale; fwd-status=503; ttl=-40") && head.contains("age: 100"), "{head}");
    assert_eq!(send(&app, GET, "/a", &[]).await.2, "body 1");
    assert_eq!(asked.count(), 2, "the view is left alone for a while");
    hand.advance(Duration::from_secs(31));
    assert_eq!(send(&app, GET, "/a", &[]).await.2, "body 3");
    hand.advance(Duration::from_secs(60));
    assert_eq!(send(&app, Method::POST, "/b", &[]).await.0, 200);
}

#[actix_web::test]
async fn must_revalidate_is_never_stale() {
    let (caches, hand) = caches();
    let asked = Asked::default();
    let app = site!(gateway(&caches), asked, |_: &HttpRequest, n: usize| match n {
        1 => says("max-age=60, must-revalidate, stale-if-error=600").insert_header(("etag", "\"1\"")).body("body"),
        _ => HttpResponse::ServiceUnavailable().body("down"),
    });
    send(&app, GET, "/a", &[]).await;
    hand.advance(Duration::from_secs(61));
    assert_eq!(send(&app, GET, "/a", &[("cache-control", "max-stale")]).await.0, 503);
}

#[actix_web::test]
async fn a_successful_unsafe_request_removes_what_it_changed() {
    let (caches, _) = caches();
    let asked = Asked::default();
    let app = site!(gateway(&caches), asked, |request: &HttpRequest, n: usize| match request.method().as_str() {
        "GET" => says("max-age=60").body(format!("body {n}")),
        "PUT" => HttpResponse::BadRequest().finish(),
        "DELETE" => HttpResponse::NoContent().insert_header(("location", "http://elsewhere.test/b")).finish(),
        _ => HttpResponse::SeeOther()
            .insert_header(("location", "/b"))
            .insert_header(("content-location", "/c?x"))
            .finish(),
    });
    let get = async |path| send(&app, GET, path, &[]).await.2;
    for path in ["/a", "/b", "/c?x", "/d"] {
        get(path).await;
    }
    send(&app, Method::PUT, "/a", &[]).await;
    send(&app, Method::OPTIONS, "/a", &[]).await;
    assert_eq!(get("/a").await, "body 1", "neither a failed nor a safe request changes anything");
    let number = |body: String| body[5..].parse::<usize>().unwrap();
    let before = asked.count();
    send(&app, Method::from_bytes(b"BREW").unwrap(), "/a", &[]).await;
    for path in ["/a", "/b", "/c?x"] {
        assert!(number(get(path).await) > before, "{path}");
    }
    assert_eq!(get("/d").await, "body 4");
    send(&app, Method::DELETE, "/d", &[]).await;
    assert!(number(get("/d").await) > before);
    let after = number(get("/b").await);
    assert_eq!(number(get("/b").await), after, "nobody removes the pages of another host");
}

#[actix_web::test]
async fn an_address_is_purged_with_all_its_variants() {
    let (caches, _) = caches();
    let asked = Asked::default();
    let around = PageCache::new(caches).site(cache_page(60)).ignore_query(["utm_*"]);
    let app = site!(around.clone(), asked, |_: &HttpRequest, n: usize| {
        HttpResponse::Ok().insert_header(("vary", "accept-language")).body(format!("body {n}"))
    });
    let get = async |language| send(&app, GET, "/a?p=1", &[("accept-language", language)]).await.2;
    assert_eq!((get("de").await.as_str(), get("en").await.as_str()), ("body 1", "body 2"));
    assert_eq!(around.purge_url("http://larder.test/b").await.unwrap(), 0);
    assert_eq!(get("de").await, "body 1");
    assert_eq!(around.purge_url("https://LARDER.test/a?utm_source=x&p=1").await.unwrap(), 1);
    assert_eq!((get("de").await.as_str(), get("en").await.as_str()), ("body 3", "body 4"));
}

#[actix_web::test]
async fn an_address_is_purged_with_the_port_that_goes_without_saying() {
    let (caches, _) = caches();
    let asked = Asked::default();
    let around = PageCache::new(caches).site(cache_page(60));
    let app = site!(around.clone(), asked, |_: &HttpRequest, n: usize| HttpResponse::Ok().body(format!("body {n}")));
    let get = async |host| {
        let request = TestRequest::with_uri("/a").insert_header(("host", host)).to_request();
        read_body(call_service(&app, request).await).await
    };
    let both = async || (get("larder.test").await, get("larder.test:80").await);
    for purged in ["http://larder.test/a", "http://larder.test:80/a"] {
        let before = both().await;
        assert_eq!(both().await, before);
        assert_eq!(around.purge_url(purged).await.unwrap(), 2);
        let after = both().await;
        assert!(after.0 != before.0 && after.1 != before.1, "{before:?} {after:?}");
    }
    let before = both().await;
    around.purge_prefix("http://larder.test/").await.unwrap();
    let after = both().await;
    assert!(after.0 != before.0 && after.1 != before.1, "{before:?} {after:?}");
}

#[actix_web::test]
async fn what_does_not_count_reaches_neither_key_nor_view() {
    let (caches, _) = caches();
    let asked = Asked::default();
    let around = PageCache::new(caches).site(cache_page(60)).ignore_query(["utm_*"]);
    let app = site!(around, asked, |request: &HttpRequest, _| HttpResponse::Ok().body(request.uri().to_string()));
    let get = async |uri, fields: &[(&str, &str)]| send(&app, GET, uri, fields).await.2;
    assert_eq!(get("/a?utm_source=evil;q=1&q=2", &[("x-forwarded-host", "evil.test")]).await, "/a?q=2");
    assert_eq!(get("/a?q=2&utm_medium=x", &[]).await, "/a?q=2");
    assert_eq!(get("/a?utm_x", &[]).await, "/a");
    assert_eq!(asked.all(), ["GET /a?q=2", "GET /a"]);
}

#[actix_web::test]
async fn pages_are_told_apart_by_what_their_rule_says() {
    let (caches, _) = caches();
    let asked = Asked::default();
    let rule = cache_page(60).vary_on_session("id").vary_on_headers(["X-Tenant"]).query(["page"]);
    let around = PageCache::new(caches).site(rule).session_cookies(["id"]);
    let app = site!(around.clone(), asked, |request: &HttpRequest, n: usize| {
        page::mark_private(request);
        HttpResponse::Ok().insert_header(("vary", "Cookie")).body(format!("body {n}"))
    });
    let get = async |uri, fields: &[(&str, &str)]| send(&app, GET, uri, fields).await.2;
    let head = send(&app, GET, "/a", &[("cookie", "id=ann; theme=dark")]).await.1;
    assert!(head.contains("vary: Cookie, x-tenant"), "caches before this one must tell them apart too: {head}");
    assert_eq!(get("/a", &[("cookie", "id=ann; theme=dark")]).await, "body 1");
    assert_eq!(get("/a?x=1", &[("cookie", "theme=light;id=ann")]).await, "body 1");
    assert_eq!(get("/a", &[("cookie", "id=bob")]).await, "body 2");
    assert_eq!(get("/a", &[("cookie", "id=bob"), ("x-tenant", "")]).await, "body 3");
    assert_eq!(get("/a?page=2", &[("cookie", "id=bob")]).await, "body 4");
    assert_eq!(get("/a?page=2&x=1", &[("cookie", "id=bob")]).await, "body 4");
    for body in ["body 5", "body 6"] {
        assert_eq!(get("/a", &[]).await, body, "without the cookie it is nobody's own");
    }
    assert_eq!(around.purge_url("http://larder.test/a").await.unwrap(), 1);
    assert_eq!(get("/a", &[("cookie", "id=bob")]).await, "body 7");
    assert_eq!(get("/a", &[("cookie", "id=ann")]).await, "body 8");
    assert_eq!(around.purge_url("http://larder.test/a?page=2&x=1").await.unwrap(), 1, "x does not count");
    assert_eq!(get("/a?page=2", &[("cookie", "id=bob")]).await, "body 9");
    assert!(head.contains("cache-control: private, max-age=60"), "{head}");
}

#[actix_web::test]
async fn what_was_made_for_one_visitor_is_not_kept() {
    let language = cache_page(60).vary_on(|request| format!("{:?}", request.headers().get("accept-language")));
    for rule in [cache_page(60), cache_page(60).public(), cache_page(60).vary_on_cookie("lang"), language] {
        let (caches, _) = caches();
        let asked = Asked::default();
        let around = PageCache::new(caches).site(rule).debug(true);
        let app = site!(around, asked, |request: &HttpRequest, _| {
            page::mark_private(request);
            HttpResponse::Ok().body("x")
        });
        let (_, head, _) = send(&app, GET, "/a", &[]).await;
        assert!(head.contains("detail=\"private-data\""), "{head}");
        assert!(head.contains("cache-control: private"), "other caches must not keep it: {head}");
        send(&app, GET, "/a", &[("cookie", "lang=de")]).await;
        send(&app, GET, "/a", &[]).await;
        assert_eq!(asked.count(), 3);
    }
}

#[actix_web::test]
async fn other_caches_are_told_that_pages_differ_by_what_they_cannot_know() {
    let (caches, _) = caches();
    let asked = Asked::default();
    let rule = cache_page(60).vary_on(|request| format!("{:?}", request.headers().get("accept-language")));
    let app = site!(PageCache::new(caches).site(rule), asked, |request: &HttpRequest, n: usize| {
        match request.path() {
            "/own" => says("max-age=5").body(format!("body {n}")),
            _ => HttpResponse::Ok().body(format!("body {n}")),
        }
    });
    for (language, body) in [("de", "body 1"), ("en", "body 2"), ("de", "body 1")] {
        let (_, head, made) = send(&app, GET, "/a", &[("accept-language", language)]).await;
        assert_eq!(made, body);
        assert!(head.contains("cache-control: private, max-age=60"), "{head}");
    }
    let (_, head, _) = send(&app, GET, "/own", &[]).await;
    assert!(head.contains("cache-control: max-age=5"), "what the view says stands: {head}");
}

#[actix_web::test]
async fn a_confirmation_brings_what_it_says_even_if_the_page_may_not_be_kept_any_more() {
    let (caches, hand) = caches();
    let asked = Asked::default();
    let app = site!(gateway(&caches), asked, |request: &HttpRequest, n: usize| {
        let mut answer = says("max-age=10");
        answer.insert_header(("etag", "\"1\""));
        match (request.headers().contains_key("if-none-match"), request.path()) {
            (true, "/cookie") => answer.insert_header(("set-cookie", "s=2")),
            (true, "/private") => {
                page::mark_private(request);
                answer.insert_header(("x-csrf-token", "secret"))
            }
            _ => return answer.body(format!("body {n}")),
        };
        answer.status(StatusCode::NOT_MODIFIED).finish()
    });
    for (path, field) in [("/cookie", "set-cookie: s=2"), ("/private", "x-csrf-token: secret")] {
        let (_, _, first) = send(&app, GET, path, &[]).await;
        hand.advance(Duration::from_secs(11));
        for _ in 0..2 {
            let (status, head, body) = send(&app, GET, path, &[]).await;
            assert_eq!((status, &body), (200, &first));
            assert!(head.contains(field) && !head.contains("; stored") && !head.contains("larder; hit"), "{head}");
        }
    }
    assert_eq!(asked.count(), 6);
}

#[actix_web::test]
async fn a_confirmation_of_another_version_updates_nothing() {
    let (caches, hand) = caches();
    let asked = Asked::default();
    let modified = ("last-modified", "Sun, 22 Nov 2026 10:00:00 GMT");
    let app = site!(gateway(&caches), asked, move |request: &HttpRequest, n: usize| {
        let mut answer = says("max-age=10");
        answer.insert_header(modified);
        if n > 1 {
            answer.insert_header(("etag", "\"2\""));
        }
        if request.headers().contains_key("if-modified-since") {
            return answer.status(StatusCode::NOT_MODIFIED).finish();
        }
        answer.body(format!("body {n}"))
    });
    send(&app, GET, "/a", &[]).await;
    hand.advance(Duration::from_secs(11));
    let (_, head, body) = send(&app, GET, "/a", &[]).await;
    assert_eq!(body, "body 1");
    assert!(!head.contains("etag") && head.contains("other-version"), "{head}");
    let (_, head, body) = send(&app, GET, "/a", &[]).await;
    assert_eq!(body, "body 3", "the next one asks for the whole page");
    assert!(head.contains("etag: \"2\""), "{head}");
}

#[actix_web::test]
async fn what_clients_are_told_does_not_come_back_as_the_view_s_word() {
    let (caches, hand) = caches();
    let asked = Asked::default();
    let rule = cache_page(300).clients(0).stale_if_error(60).vary_on_headers(["accept-encoding"]);
    let app = site!(PageCache::new(caches).site(rule), asked, |request: &HttpRequest, n: usize| {
        let mut answer = HttpResponse::Ok();
        answer.insert_header(("etag", "\"1\"")).insert_header(("vary", "x-a"));
        if request.headers().contains_key("if-none-match") {
            return answer.status(StatusCode::NOT_MODIFIED).finish();
        }
        answer.body(format!("body {n}"))
    });
    send(&app, GET, "/a", &[]).await;
    for round in 1..4 {
        hand.advance(Duration::from_secs(301));
        for _ in 0..3 {
            let (_, head, body) = send(&app, GET, "/a", &[]).await;
            assert_eq!(body, "body 1");
            assert!(head.contains("cache-control: max-age=0, must-revalidate"), "{head}");
            assert!(head.contains("vary: x-a, accept-encoding"), "{head}");
        }
        assert_eq!(asked.count(), 1 + round);
    }
}

#[actix_web::test]
async fn a_part_of_what_is_never_stored_is_for_the_view_to_cut() {
    let (caches, _) = caches();
    let asked = Asked::default();
    let around = gateway(&caches).max_body_bytes(10);
    let app = site!(around, asked, |request: &HttpRequest, _| match request.headers().contains_key("range") {
        true => says("max-age=60").status(StatusCode::PARTIAL_CONTENT).body("lo"),
        false => says("max-age=60").body("longer than the limit"),
    });
    let range = [("range", "bytes=0-1")];
    assert_eq!(send(&app, GET, "/a", &range).await.0, 200, "nobody knew");
    for _ in 0..2 {
        let (status, _, body) = send(&app, GET, "/a", &range).await;
        assert_eq!((status, &*body), (206, "lo"));
    }
    assert_eq!(send(&app, GET, "/a", &[]).await.2, "longer than the limit");
}

#[actix_web::test]
async fn a_default_is_not_for_those_who_may_have_a_session() {
    let (caches, _) = caches();
    let asked = Asked::default();
    let around = PageCache::new(caches).site(cache_by_headers(60)).session_cookies([""; 0]);
    let app = site!(around, asked, |request: &HttpRequest, n: usize| match request.path() {
        "/said" => says("max-age=60").body(format!("body {n}")),
        _ => HttpResponse::Ok().body(format!("body {n}")),
    });
    let ann = [("cookie", "id=ann")];
    assert_eq!(send(&app, GET, "/a", &ann).await.2, "body 1");
    assert_eq!(send(&app, GET, "/a", &[]).await.2, "body 2");
    assert_eq!(send(&app, GET, "/a", &[]).await.2, "body 2");
    assert_eq!(send(&app, GET, "/said", &ann).await.2, "body 3");
    assert_eq!(send(&app, GET, "/said", &[]).await.2, "body 3", "the origin said so");
}

#[actix_web::test]
async fn a_cache_before_this_one_hears_of_tags_if_it_shall() {
    let (caches, _) = caches();
    let rule = || cache_page(60).tags(|_| vec!["object".to_owned()]);
    let told = PageCache::new(caches.clone()).site(rule()).tag_field(HeaderName::from_static("cache-tag"));
    for (around, expected) in
        [(told, Some("cache-tag: object,object:7")), (PageCache::new(caches).site(rule().key_prefix("x")), None)]
    {
        let app = site!(around, Asked::default(), |request: &HttpRequest, _| {
            page::add_tags(request, ["object:7"]);
            HttpResponse::Ok().body("x")
        });
        for _ in 0..3 {
            let (_, head, _) = send(&app, GET, "/a", &[]).await;
            assert_eq!(head.lines().find(|line| line.starts_with("cache-tag")), expected);
        }
    }
}

#[actix_web::test]
async fn a_page_is_kept_in_codings_and_each_client_gets_the_one_he_likes() {
    let (caches, hand) = caches();
    let asked = Asked::default();
    let rule = cache_page(60).stale_if_error(60);
    let app = site!(PageCache::new(caches).site(rule).compress(true), asked, |request: &HttpRequest, _| {
        let mut answer = HttpResponse::Ok();
        answer.content_type("text/html; charset=utf-8").insert_header(("etag", "\"1\""));
        match request.path() {
            "/own" => drop(answer.insert_header(("vary", "accept-encoding"))),
            "/as-it-is" => drop(answer.insert_header(("cache-control", "no-transform"))),
            _ => {}
        }
        if request.headers().contains_key("if-none-match") {
            return answer.status(StatusCode::NOT_MODIFIED).finish();
        }
        answer.body("<li>Quince jelly</li>".repeat(100))
    });
    let plain = "<li>Quince jelly</li>".repeat(100);
    for round in 0..4 {
        if round == 3 {
            hand.advance(Duration::from_secs(61));
        }
        let cases = [
            ("br, gzip", "br", "\"1-br\""),
            ("gzip", "gzip", "\"1-gzip\""),
            ("zstd;q=1, br;q=0.5", "zstd", "\"1-zstd\""),
        ];
        for (accepts, coding, tag) in cases {
            let (status, head, body) = send(&app, GET, "/a", &[("accept-encoding", accepts)]).await;
            assert_eq!(status, 200);
            assert!(head.contains(&format!("content-encoding: {coding}\n")), "{head}");
            assert!(head.contains(&format!("etag: {tag}\n")) && head.contains("vary: accept-encoding"), "{head}");
            assert!(body.len() < plain.len() / 5);
            let fields = [("accept-encoding", accepts), ("if-none-match", tag)];
            let (status, head, _) = send(&app, GET, "/a", &fields).await;
            assert!(status == 304 && head.contains(&format!("etag: {tag}")), "{head}");
            let fields = [("accept-encoding", accepts), ("range", "bytes=0-3"), ("if-range", tag)];
            let (status, _, part) = send(&app, GET, "/a", &fields).await;
            assert_eq!(status, 206);
            assert!(part.len() <= 12, "a part of what the tag names");
        }
        let (_, head, body) = send(&app, GET, "/a", &[]).await;
        assert_eq!(body, plain);
        assert!(!head.contains("content-encoding") && head.contains("etag: \"1\""), "{head}");
        assert!(head.contains("vary: accept-encoding"), "{head}");
        let fields = [("if-none-match", "\"1-br\"")];
        assert_eq!(send(&app, GET, "/a", &fields).await.0, 200, "he has other bytes than he would get");
    }
    assert_eq!(asked.all(), ["GET /a", "GET /a if-none-match: \"1\""]);
    for path in ["/own", "/as-it-is"] {
        for _ in 0..2 {
            let (_, head, body) = send(&app, GET, path, &[("accept-encoding", "br")]).await;
            assert!(body == plain && !head.contains("content-encoding"), "{head}");
        }
    }
}

#[actix_web::test]
async fn tags_that_a_view_finds_out_invalidate_its_page() {
    let (caches, _) = caches();
    let asked = Asked::default();
    let app = site!(PageCache::new(caches.clone()).site(cache_page(60)), asked, |request: &HttpRequest, n: usize| {
        page::add_tags(request, ["object:7"]);
        let mut answer = HttpResponse::Ok();
        if request.path() == "/varies" {
            answer.insert_header(("vary", "x-a"));
        }
        answer.body(format!("body {n}"))
    });
    for path in ["/plain", "/varies"] {
        let before = send(&app, GET, path, &[]).await.2;
        assert_eq!(send(&app, GET, path, &[]).await.2, before);
        caches.default_cache().invalidate_tags(["object:7"]).await.unwrap();
        assert_ne!(send(&app, GET, path, &[]).await.2, before, "{path}");
    }
}

#[actix_web::test]
async fn an_authorized_answer_is_for_others_only_by_permission() {
    for (directives, asked_for) in [("max-age=60", 3), ("max-age=60, public", 1), ("s-maxage=60", 1)] {
        let (caches, _) = caches();
        let asked = Asked::default();
        let app = site!(gateway(&caches), asked, |_: &HttpRequest, _| says(directives).body("x"));
        send(&app, GET, "/a", &[("authorization", "Basic x")]).await;
        send(&app, GET, "/a", &[("authorization", "Basic x")]).await;
        send(&app, GET, "/a", &[]).await;
        assert_eq!(asked.count(), asked_for, "{directives}");
    }
}

#[actix_web::test]
async fn conditions_for_writing_are_the_view_s() {
    let (caches, _) = caches();
    let asked = Asked::default();
    let app = site!(gateway(&caches), asked, |_: &HttpRequest, _| says("max-age=60").body("x"));
    send(&app, GET, "/a", &[]).await;
    send(&app, GET, "/a", &[("if-match", "\"x\"")]).await;
    assert_eq!(asked.all(), ["GET /a", "GET /a if-match: \"x\""]);
}

#[actix_web::test]
async fn streams_are_kept_if_they_end_in_time_and_whole() {
    let (caches, _) = caches();
    let asked = Asked::default();
    let around = PageCache::new(caches).site(cache_page(60)).max_body_bytes(100);
    let app = site!(around, asked, |request: &HttpRequest, _| {
        let piece = |text: &'static str| Ok::<_, std::io::Error>(web::Bytes::from_static(text.as_bytes()));
        let long = "x".repeat(30);
        match request.path() {
            "/short" => HttpResponse::Ok().streaming(stream::iter([piece("one "), piece("two")])),
            "/long" => HttpResponse::Ok()
                .streaming(stream::iter((0..9).map(move |_| Ok::<_, std::io::Error>(long.clone().into())))),
            _ => HttpResponse::Ok().streaming(stream::iter([piece("one "), Err(std::io::Error::other("broken"))])),
        }
    });
    for _ in 0..2 {
        assert_eq!(send(&app, GET, "/short", &[]).await.2, "one two");
        assert_eq!(send(&app, GET, "/long", &[]).await.2.len(), 270);
        let request = TestRequest::with_uri("/broken").insert_header(("host", "larder.test")).to_request();
        let broken = call_service(&app, request).await.into_body();
        assert!(actix_web::body::to_bytes(broken).await.is_err(), "a half is not the whole");
    }
    assert_eq!(asked.all().iter().filter(|line| line.contains("short")).count(), 1);
    assert_eq!(asked.count(), 5);
}

#[actix_web::test]
async fn who_goes_away_takes_nothing_with_him() {
    let (caches, _) = caches();
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let view = move || {
        let runs = Arc::clone(&counted);
        async move {
            runs.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(100)).await;
            "made"
        }
    };
    let app = App::new().route("/a", web::get().to(view).wrap(cache_page(60))).wrap(PageCache::new(caches));
    let app = init_service(app).await;
    let request = || TestRequest::with_uri("/a").insert_header(("host", "larder.test")).to_request();
    let gone = tokio::time::timeout(Duration::from_millis(20), call_service(&app, request())).await;
    assert!(gone.is_err());
    let all = join_all((0..20).map(|_| call_service(&app, request()))).await;
    for answer in all {
        assert_eq!(read_body(answer).await, "made");
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[actix_web::test]
async fn views_say_of_themselves_how_they_are_kept() {
    let body = || async { "body" };
    let tagged = || page::condition().etag(|request| Some(request.path().trim_start_matches('/').to_owned()));
    let app = App::new()
        .route("/control", web::get().to(body).wrap(page::cache_control().public().max_age(60)))
        .route("/never", web::get().to(body).wrap(page::never_cache()))
        .route("/vary", web::get().to(body).wrap(page::vary_on_cookie()))
        .route("/page", web::get().to(body).wrap(page::conditional_page()))
        .service(web::resource("/v1").to(body).wrap(tagged()));
    let app = init_service(app).await;
    assert!(send(&app, GET, "/control", &[]).await.1.contains("cache-control: public, max-age=60"));
    assert!(send(&app, GET, "/never", &[]).await.1.contains("no-store"));
    assert!(send(&app, GET, "/vary", &[]).await.1.contains("vary: cookie"));
    let head = send(&app, GET, "/page", &[]).await.1;
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    assert_eq!(send(&app, GET, "/page", &[("if-none-match", tag)]).await.0, 304);
    let v1 = async |method, fields: &[(&str, &str)]| send(&app, method, "/v1", fields).await;
    assert!(v1(GET, &[]).await.1.contains("etag: \"v1\""));
    assert_eq!(v1(GET, &[("if-none-match", "\"v1\"")]).await.0, 304);
    assert_eq!(v1(Method::PUT, &[("if-none-match", "*")]).await.0, 412);
    assert_eq!(v1(Method::PUT, &[("if-match", "\"v0\"")]).await.0, 412);
    assert_eq!(v1(Method::PUT, &[("if-modified-since", "Thu, 01 Jan 2037 00:00:10 GMT")]).await.0, 200);
    assert_eq!(v1(Method::PUT, &[("if-match", "\"v1\"")]).await.0, 200);
}

#[actix_web::test]
async fn a_view_whose_page_is_not_kept_ends_with_its_client() {
    let (caches, _) = caches();
    let ended = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ended);
    let view = move || {
        let ended = Arc::clone(&counted);
        async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            ended.fetch_add(1, Ordering::SeqCst);
            "made"
        }
    };
    let app = App::new().route("/a", web::get().to(view)).wrap(PageCache::new(caches));
    let app = init_service(app).await;
    let request = TestRequest::with_uri("/a").insert_header(("host", "larder.test")).to_request();
    assert!(tokio::time::timeout(Duration::from_millis(10), call_service(&app, request)).await.is_err());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(ended.load(Ordering::SeqCst), 0);
}
