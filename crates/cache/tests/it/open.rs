//! Pages with holes: one page for all, filled for each.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_session::{Session, SessionExt, SessionMiddleware, storage::CookieSessionStore};
use actix_web::{
    App, Either, Error, HttpRequest, HttpResponse, Responder,
    body::MessageBody,
    cookie::{Cookie, Key},
    dev::ServiceResponse,
    error::{ErrorForbidden, ErrorInternalServerError, ErrorServiceUnavailable},
    http::{Method, StatusCode, header},
    middleware::{Compress, Next, from_fn},
    rt,
    test::{TestRequest, call_service, init_service, read_body},
    web,
};
use futures_util::{FutureExt, future::join_all};
use larder_cache::{
    Caches,
    page::{self, CachePage, PageCache, cache_page},
    settings::AliasSettings,
    template::{Context, Lazy, Templates},
};

fn caches() -> Caches {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    caches_at(&format!("locmem://open-{}", MADE.fetch_add(1, Ordering::Relaxed)))
}

fn caches_at(store: &str) -> Caches {
    Caches::builder().alias("default", AliasSettings::from_address("default", store).unwrap()).build().unwrap()
}

const PAGE: &str = "{{ run | safe }} {% nocache %}hello {{ name }}{% endnocache %}";

/// How often a view ran, and what it does instead of rendering an open page.
#[derive(Default)]
struct Runs {
    count: AtomicUsize,
    how: AtomicUsize,
}

const FAILS: usize = 1;
const PANICS: usize = 2;
const IS_PRIVATE: usize = 3;
const IS_PLAIN: usize = 4;

async fn view(
    request: HttpRequest,
    runs: web::Data<Runs>,
    templates: web::Data<Templates>,
) -> Result<impl Responder, Error> {
    let run = runs.count.fetch_add(1, Ordering::SeqCst) + 1;
    rt::time::sleep(Duration::from_millis(20)).await;
    let visits = request.get_session().get::<u32>("visits").unwrap();
    match runs.how.load(Ordering::SeqCst) {
        FAILS => return Err(ErrorServiceUnavailable("no")),
        PANICS => panic!("the view was told to"),
        IS_PRIVATE => page::mark_private(&request),
        IS_PLAIN => {
            let plain =
                HttpResponse::Ok().insert_header(("cdn-cache-control", "max-age=600")).body(format!("plain {run}"));
            return Ok(Either::Right(plain));
        }
        _ => {}
    }
    let mut context = Context::new();
    let cookies: Vec<String> = request.cookies().unwrap().iter().map(Cookie::to_string).collect();
    let authorization = request.headers().contains_key(header::AUTHORIZATION);
    let sees_visitor = cookies.iter().any(|cookie| cookie.starts_with("name="));
    assert!(sees_visitor || visits.is_none(), "where the cookies are gone the session is too");
    context.insert("run", &format!("run {run} of {} {cookies:?} {authorization}", request.uri().path()));
    page::add_tags(&request, ["object"]);
    let page = templates.open("page.html", &context, Lazy::new()).map_err(ErrorInternalServerError)?;
    Ok(Either::Left(
        page.customize().insert_header((header::ETAG, "\"1\"")).insert_header(("cdn-cache-control", "max-age=600")),
    ))
}

/// Knows who asks by a cookie, or who was here by the session.
async fn visitor(request: HttpRequest, session: Session) -> Result<Context, Error> {
    let name = request.cookie("name").map(|cookie| cookie.value().to_owned());
    if name.as_deref() == Some("mallory") {
        return Err(ErrorForbidden("you cannot come in"));
    }
    let visits = session.get::<u32>("visits").unwrap().unwrap_or(0) + 1;
    session.insert("visits", visits).unwrap();
    let mut context = Context::new();
    if name.as_deref() != Some("nobody") {
        context.insert("name", &format!("{} for the {visits}. time", name.unwrap_or_default()));
    }
    Ok(context)
}

fn templates(caches: &Caches, source: &str) -> Templates {
    Templates::builder().template("page.html", source).build(caches.clone()).unwrap()
}

/// An app with the view under `/`, its mark made by `$mark`, and sessions between the mark and the page cache.
macro_rules! app {
    ($caches:expr, $runs:expr, $mark:expr, $pages:expr) => {
        app!($caches, $runs, $mark, $pages, PAGE)
    };
    ($caches:expr, $runs:expr, $mark:expr, $pages:expr, $source:expr) => {{
        let session = SessionMiddleware::builder(CookieSessionStore::default(), Key::from(&[7; 64]));
        init_service(
            App::new()
                .app_data(web::Data::from(Arc::clone($runs)))
                .app_data(web::Data::new(templates($caches, $source)))
                .service(web::resource("/").wrap($mark).to(view))
                .wrap(session.cookie_secure(false).build())
                .wrap($pages),
        )
        .await
    }};
}

/// What came, with nothing of ours in it.
struct Came {
    status: StatusCode,
    body: String,
    said: String,
    headers: header::HeaderMap,
}

async fn came(answer: ServiceResponse<impl MessageBody>) -> Came {
    let headers = answer.headers().clone();
    assert!(!headers.contains_key("larder-open-page"));
    let said = headers.get("cache-status").map(|said| said.to_str().unwrap().to_owned()).unwrap_or_default();
    let status = answer.status();
    let body = String::from_utf8_lossy(&read_body(answer).await).into_owned();
    assert!(!body.contains('\u{2}'), "{body}");
    Came { status, body, said, headers }
}

/// Sends a request for `/`.
macro_rules! send {
    ($app:expr, $name:expr $(, $field:expr)*) => {
        send!(@ $app, TestRequest::get(), $name $(, $field)*)
    };
    (@ $app:expr, $request:expr, $name:expr $(, $field:expr)*) => {{
        let request = $request.insert_header((header::HOST, "larder.test")).cookie(Cookie::new("name", $name));
        $(let request = request.insert_header($field);)*
        came(call_service($app, request.to_request()).await).await
    }};
}

const RUN_1: &str = "run 1 of / [] false";

fn mark() -> CachePage {
    cache_page(300)
}

#[actix_web::test]
async fn the_page_is_made_once_and_filled_for_each() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    let app = app!(&caches, &runs, mark().holes(visitor), PageCache::new(caches.clone()));
    let authorization = (header::AUTHORIZATION, "Basic YTpi");
    let ann = send!(&app, "ann", authorization);
    assert_eq!(ann.body, format!("{RUN_1} hello ann for the 1. time"));
    assert_eq!(ann.said, "larder; fwd=uri-miss; stored; ttl=300");
    let session = ann.headers.get(header::SET_COOKIE).unwrap().to_str().unwrap().split(';').next().unwrap().to_owned();
    for came in [&ann, &send!(&app, "ben"), &send!(&app, "<b>")] {
        assert_eq!(came.headers.get(header::CACHE_CONTROL).unwrap(), "private, no-store");
        assert!(came.headers.contains_key(header::SET_COOKIE), "each has a session of his own");
        assert!(!came.headers.contains_key("cdn-cache-control"));
        for name in [header::ETAG, header::AGE, header::EXPIRES, header::LAST_MODIFIED, header::CONTENT_ENCODING] {
            assert!(!came.headers.contains_key(&name), "{name}");
        }
    }
    let ben = send!(&app, "ben");
    assert_eq!(ben.body, format!("{RUN_1} hello ben for the 1. time"));
    assert!(ben.said.starts_with("larder; hit; ttl="), "{}", ben.said);
    assert_eq!(send!(&app, "<b>").body, format!("{RUN_1} hello &lt;b&gt; for the 1. time"));
    let again = TestRequest::get().cookie(Cookie::parse_encoded(session).unwrap());
    assert_eq!(send!(@ &app, again, "ann").body, format!("{RUN_1} hello ann for the 2. time"));
    assert_eq!(runs.count.load(Ordering::SeqCst), 1);
}

#[actix_web::test]
async fn a_page_that_is_public_is_made_without_a_session() {
    async fn view(request: HttpRequest, session: Session) -> String {
        let visits = session.get::<u32>("visits").unwrap();
        format!("{visits:?} {:?}", request.cookie("name").map(|cookie| cookie.value().to_owned()))
    }
    let caches = caches();
    let session = SessionMiddleware::builder(CookieSessionStore::default(), Key::from(&[7; 64]));
    let app = init_service(
        App::new()
            .app_data(web::Data::new(templates(&caches, PAGE)))
            .service(web::resource("/public").wrap(cache_page(300).public()).to(view))
            .service(web::resource("/visit").to(async |session: Session| {
                session.insert("visits", 1).unwrap();
                ""
            }))
            .wrap(session.cookie_secure(false).build())
            .wrap(PageCache::new(caches)),
    )
    .await;
    let visit = send!(@ &app, TestRequest::with_uri("/visit"), "ann");
    let session =
        visit.headers.get(header::SET_COOKIE).unwrap().to_str().unwrap().split(';').next().unwrap().to_owned();
    let seen = async || {
        let request = TestRequest::with_uri("/public").cookie(Cookie::parse_encoded(session.clone()).unwrap());
        send!(@ &app, request, "ann").body
    };
    // Its session was read before the worker knew that the view is public: then nothing is kept.
    assert_eq!(seen().await, "Some(1) Some(\"ann\")");
    assert_eq!((seen().await.as_str(), seen().await.as_str()), ("None None", "None None"));
    assert_eq!(send!(@ &app, TestRequest::with_uri("/public"), "ben").body, "None None");
}

#[actix_web::test]
async fn fifty_visitors_of_a_cold_page_have_it_made_once() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    let app = app!(&caches, &runs, mark().holes(visitor), PageCache::new(caches.clone()));
    let names: Vec<String> = (0..50).map(|number| format!("visitor{number}")).collect();
    let all = join_all(names.iter().map(|name| async { send!(&app, name.as_str()).body })).await;
    for (name, body) in names.iter().zip(all) {
        assert_eq!(body, format!("{RUN_1} hello {name} for the 1. time"));
    }
}

#[actix_web::test]
async fn what_the_client_wants_of_a_page_it_has_does_not_hold_for_one_that_is_filled() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    let pages = PageCache::new(caches.clone()).compress(true).tag_field(header::HeaderName::from_static("cache-tag"));
    let app = app!(&caches, &runs, mark().holes(visitor), pages);
    for _ in 0..2 {
        let came = send!(
            &app,
            "ann",
            (header::IF_NONE_MATCH, "\"1\""),
            (header::RANGE, "bytes=0-1"),
            (header::ACCEPT_ENCODING, "br, gzip")
        );
        assert_eq!(came.body, format!("{RUN_1} hello ann for the 1. time"));
        assert_eq!(came.status, StatusCode::OK);
        assert!(!came.headers.contains_key("cache-tag"));
    }
    let head = send!(@ &app, TestRequest::with_uri("/").method(Method::HEAD), "ann");
    assert_eq!(head.status, StatusCode::OK);
}

#[actix_web::test]
async fn cookies_of_the_mark_reach_the_view_and_keep_pages_apart() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    let app = app!(&caches, &runs, mark().vary_on_cookie("lang").holes(visitor), PageCache::new(caches.clone()));
    for (run, lang) in ["de", "en", "de", "en"].into_iter().enumerate() {
        let request = TestRequest::get().cookie(Cookie::new("lang", lang));
        let came = send!(@ &app, request, "ann").body;
        let wanted = format!("run {} of / [\"lang={lang}\"] false hello ann", run % 2 + 1);
        assert!(came.starts_with(&wanted), "{came}");
    }
}

#[actix_web::test]
async fn tags_and_purges_remove_it() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    let pages = PageCache::new(caches.clone());
    let app = app!(&caches, &runs, mark().key_prefix("a").holes(visitor), pages.clone());
    let run = async || send!(&app, "ann").body.split(" of ").next().unwrap().to_owned();
    assert_eq!((run().await, run().await), ("run 1".to_owned(), "run 1".to_owned()));
    caches.default_cache().invalidate_tags(["object"]).await.unwrap();
    assert_eq!((run().await, run().await), ("run 2".to_owned(), "run 2".to_owned()));
    assert_eq!(pages.purge_url("http://larder.test/").await.unwrap(), 1);
    assert_eq!((run().await, run().await), ("run 3".to_owned(), "run 3".to_owned()));
    pages.purge_prefix("http://larder.test/").await.unwrap();
    assert_eq!((run().await, run().await), ("run 4".to_owned(), "run 4".to_owned()));
    // A successful unsafe request invalidates its address (RFC 9111, section 4.4).
    let posted = send!(@ &app, TestRequest::post(), "ann");
    assert!(posted.body.starts_with("run 5 of / [\"name=ann\"") && posted.body.ends_with("hello ann for the 1. time"));
    assert_eq!((run().await, run().await), ("run 6".to_owned(), "run 6".to_owned()));
}

#[actix_web::test]
async fn a_deploy_with_other_templates_makes_the_page_anew() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    let before = app!(&caches, &runs, mark().holes(visitor), PageCache::new(caches.clone()));
    assert!(send!(&before, "ann").body.starts_with(RUN_1));
    let source = "{% nocache %}Good morning {{ name }}{% endnocache %} {{ run }}";
    let after = app!(&caches, &runs, mark().holes(visitor), PageCache::new(caches.clone()), source);
    for name in ["ann", "ben"] {
        assert_eq!(send!(&after, name).body, format!("Good morning {name} for the 1. time run 2 of / [] false"));
    }
    assert!(send!(&before, "ann").body.starts_with("run 3"));
}

#[actix_web::test]
async fn a_page_for_the_whole_site_is_not_made_of_a_filled_one() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    let pages = PageCache::new(caches.clone()).site(cache_page(60)).session_cookies(["id"]);
    let app = app!(&caches, &runs, mark().holes(visitor), pages.clone());
    for name in ["ann", "ben", "ann"] {
        assert_eq!(send!(&app, name).body, format!("{RUN_1} hello {name} for the 1. time"));
    }
    // Nor by a worker that has not met the path.
    let other = app!(&caches, &runs, mark().holes(visitor), pages);
    for name in ["cai", "dan"] {
        assert_eq!(send!(&other, name).body, format!("{RUN_1} hello {name} for the 1. time"));
    }
}

#[actix_web::test]
async fn a_failing_view_is_stood_in_for_by_the_page_of_before() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    let app = app!(&caches, &runs, cache_page(1).stale_if_error(60).holes(visitor), PageCache::new(caches.clone()));
    assert!(send!(&app, "ann").body.starts_with(RUN_1));
    rt::time::sleep(Duration::from_millis(1100)).await;
    runs.how.store(FAILS, Ordering::SeqCst);
    let came = send!(&app, "ben");
    assert_eq!(came.body, format!("{RUN_1} hello ben for the 1. time"));
    assert!(came.said.contains("fwd=stale; fwd-status=503"), "{}", came.said);
    assert!(came.headers.contains_key(header::SET_COOKIE), "the session is kept all the same");
}

#[actix_web::test]
async fn what_cannot_be_filled_fails_and_stays_with_its_visitor() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    let app = app!(&caches, &runs, mark().holes(visitor), PageCache::new(caches.clone()));
    let mallory = send!(&app, "mallory");
    assert_eq!((mallory.status, mallory.body.as_str()), (StatusCode::FORBIDDEN, "you cannot come in"));
    assert_eq!(runs.count.load(Ordering::SeqCst), 0, "the view was not asked for him");
    let nobody = send!(&app, "nobody");
    assert_eq!(
        (nobody.status, nobody.body.as_str()),
        (StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made")
    );
    assert!(nobody.headers.contains_key(header::SET_COOKIE), "the middleware around has its part in the failure");
    assert_eq!(send!(&app, "ann").body, format!("{RUN_1} hello ann for the 1. time"));
}

#[actix_web::test]
async fn a_mark_stands_alone_too_and_without_a_cache() {
    for has_cache in [true, false] {
        let (caches, runs) = (caches(), Arc::new(Runs::default()));
        let app = App::new()
            .app_data(web::Data::from(Arc::clone(&runs)))
            .app_data(web::Data::new(templates(&caches, PAGE)))
            .service(web::resource("/").wrap(mark().holes(visitor)).to(view));
        let app = if has_cache { app.app_data(web::Data::new(caches)) } else { app };
        let app = init_service(app).await;
        for (name, run) in [("ann", 1), ("ben", if has_cache { 1 } else { 2 })] {
            let body = send!(&app, name).body;
            assert!(body.starts_with(&format!("run {run} ")) && body.contains(&format!("hello {name}")), "{body}");
        }
    }
}

#[actix_web::test]
async fn a_compressing_middleware_leaves_the_open_page_as_it_is() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    let long = format!("{PAGE}{}", "a".repeat(2000));
    let app = init_service(
        App::new()
            .app_data(web::Data::from(Arc::clone(&runs)))
            .app_data(web::Data::new(templates(&caches, &long)))
            .service(web::resource("/").wrap(Compress::default()).wrap(mark().holes(visitor)).to(view))
            .wrap(PageCache::new(caches)),
    )
    .await;
    for name in ["ann", "ben"] {
        let came = send!(&app, name, (header::ACCEPT_ENCODING, "gzip"));
        assert!(came.body.starts_with(&format!("{RUN_1} hello {name} for the 1. timeaaa")), "{}", came.body);
    }
}

#[actix_web::test]
async fn open_pages_are_answered_by_nobody_who_does_not_fill_them() {
    let caches = caches();
    let plain = async |templates: web::Data<Templates>| {
        templates
            .open(
                "page.html",
                &{
                    let mut context = Context::new();
                    context.insert("run", "run");
                    context
                },
                Lazy::new(),
            )
            .unwrap()
    };
    let forging = async || HttpResponse::Ok().insert_header(("larder-open-page", "x")).body("plain");
    let app = init_service(
        App::new()
            .app_data(web::Data::new(templates(&caches, PAGE)))
            .route("/unmarked", web::get().to(plain))
            .route("/other", web::get().to(plain).wrap(cache_page(300)))
            .route("/forged", web::get().to(forging).wrap(mark().holes(visitor)))
            .wrap(PageCache::new(caches).site(cache_page(5))),
    )
    .await;
    for (uri, status) in [("/unmarked", 500), ("/other", 500), ("/forged", 200)] {
        for _ in 0..2 {
            let came = send!(@ &app, TestRequest::with_uri(uri), "ann");
            assert_eq!(came.status.as_u16(), status, "{uri}");
            assert!(!came.body.contains("__hole"), "{uri}: {}", came.body);
        }
    }
}

#[actix_web::test]
async fn without_templates_it_says_so() {
    let caches = caches();
    let view = async || HttpResponse::Ok().body("plain");
    let app = init_service(
        App::new().route("/", web::get().to(view).wrap(mark().holes(visitor))).wrap(PageCache::new(caches)),
    )
    .await;
    assert_eq!(send!(&app, "ann").status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[actix_web::test]
async fn every_store_keeps_open_pages() {
    let folder = tempfile::tempdir().unwrap();
    let memcached = larder_cache::conformance::server::MemcachedServer::start();
    for store in [format!("file://{}", folder.path().display()), format!("memcached://{}", memcached.address())] {
        let (caches, runs) = (caches_at(&store), Arc::new(Runs::default()));
        let app = app!(&caches, &runs, mark().holes(visitor), PageCache::new(caches.clone()));
        for name in ["ann", "ben", "cai"] {
            assert_eq!(send!(&app, name).body, format!("{RUN_1} hello {name} for the 1. time"), "{store}");
        }
    }
}

#[actix_web::test]
async fn an_answer_without_holes_is_for_its_visitor_too() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    runs.how.store(IS_PLAIN, Ordering::SeqCst);
    let app = app!(&caches, &runs, mark().holes(visitor), PageCache::new(caches.clone()));
    for _ in 0..2 {
        let came = send!(&app, "ann");
        assert_eq!(came.body, "plain 1");
        assert!(came.headers.contains_key(header::SET_COOKIE));
        assert_eq!(came.headers.get(header::CACHE_CONTROL).unwrap(), "private, no-store");
        assert!(!came.headers.contains_key(header::EXPIRES) && !came.headers.contains_key("cdn-cache-control"));
    }
}

#[actix_web::test]
async fn what_the_view_calls_private_is_filled_and_not_kept() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    runs.how.store(IS_PRIVATE, Ordering::SeqCst);
    let app = app!(&caches, &runs, mark().holes(visitor), PageCache::new(caches.clone()));
    for run in 1..3 {
        assert_eq!(send!(&app, "ann").body, format!("run {run} of / [] false hello ann for the 1. time"));
    }
}

#[actix_web::test]
async fn a_view_that_panics_keeps_nobody_waiting() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    runs.how.store(PANICS, Ordering::SeqCst);
    let app = app!(&caches, &runs, mark().holes(visitor), PageCache::new(caches.clone()));
    let panics = AssertUnwindSafe(async { send!(&app, "ann").body }).catch_unwind();
    let waits = async {
        rt::time::sleep(Duration::from_millis(5)).await;
        runs.how.store(0, Ordering::SeqCst);
        send!(&app, "ben").body
    };
    let started = std::time::Instant::now();
    runs.how.store(PANICS, Ordering::SeqCst);
    let (panicked, waited) = futures_util::future::join(panics, waits).await;
    assert!(panicked.is_err() || panicked.is_ok_and(|body| body.contains("hello")), "one of the two");
    assert!(waited.ends_with("hello ben for the 1. time") && started.elapsed() < Duration::from_secs(5));
}

#[actix_web::test]
async fn a_client_that_goes_away_leaves_the_page_to_the_others() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    let app = app!(&caches, &runs, mark().holes(visitor), PageCache::new(caches.clone()));
    let leaves =
        async { rt::time::timeout(Duration::from_millis(5), async { send!(&app, "ann").body }).await.is_err() };
    let waits = async {
        rt::time::sleep(Duration::from_millis(2)).await;
        send!(&app, "ben").body
    };
    let (left, waited) = futures_util::future::join(leaves, waits).await;
    assert!(left);
    assert_eq!(waited, format!("{RUN_1} hello ben for the 1. time"));
}

#[actix_web::test]
async fn one_makes_a_stale_page_and_the_others_have_it_as_it_was() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    let app =
        app!(&caches, &runs, cache_page(1).stale_while_revalidate(60).holes(visitor), PageCache::new(caches.clone()));
    assert!(send!(&app, "ann").body.starts_with(RUN_1));
    rt::time::sleep(Duration::from_millis(1100)).await;
    let mut runs: Vec<String> = join_all((0..5).map(|_| async { send!(&app, "ben").body })).await;
    runs.sort();
    let begin = |run: &str| runs.iter().filter(|body| body.starts_with(run)).count();
    assert_eq!((begin("run 1 "), begin("run 2 ")), (4, 1), "{runs:?}");
}

#[actix_web::test]
async fn middleware_around_sees_its_request_again_after_a_miss() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    let app = init_service(
        App::new()
            .app_data(web::Data::from(Arc::clone(&runs)))
            .app_data(web::Data::new(templates(&caches, PAGE)))
            .service(web::resource("/").wrap(mark().holes(visitor)).to(view))
            .wrap(from_fn(async |request, next: Next<_>| {
                let mut answer = next.call(request).await?;
                let name = answer.request().cookie("name").map_or_else(String::new, |cookie| cookie.value().to_owned());
                answer.headers_mut().insert(header::HeaderName::from_static("x-name"), name.parse().unwrap());
                Ok::<_, Error>(answer)
            }))
            .wrap(PageCache::new(caches)),
    )
    .await;
    for name in ["ann", "ben"] {
        assert_eq!(send!(&app, name).headers.get("x-name").unwrap(), name);
    }
}

#[actix_web::test]
async fn a_middleware_that_changes_the_open_page_is_told_of_and_nothing_is_kept() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    let app = init_service(
        App::new()
            .app_data(web::Data::from(Arc::clone(&runs)))
            .app_data(web::Data::new(templates(&caches, PAGE)))
            .service(
                web::resource("/")
                    .wrap(from_fn(async |request, next: Next<actix_web::body::BoxBody>| {
                        let answer = next.call(request).await?;
                        Ok::<_, Error>(answer.map_body(|_, body| {
                            let body = MessageBody::try_into_bytes(body).unwrap();
                            actix_web::body::BoxBody::new([b"<!-- -->", &body[..]].concat())
                        }))
                    }))
                    .wrap(mark().holes(visitor))
                    .to(view),
            )
            .wrap(PageCache::new(caches)),
    )
    .await;
    for runs_before in 0..2 {
        assert_eq!(runs.count.load(Ordering::SeqCst), runs_before);
        let came = send!(&app, "ann");
        assert_eq!(
            (came.status, came.body.as_str()),
            (StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made")
        );
    }
}

#[actix_web::test]
async fn what_an_unsafe_request_changed_is_gone_though_its_answer_cannot_be_filled() {
    let (caches, runs) = (caches(), Arc::new(Runs::default()));
    let app = app!(&caches, &runs, mark().holes(visitor), PageCache::new(caches.clone()));
    assert!(send!(&app, "ann").body.starts_with(RUN_1));
    assert_eq!(send!(@ &app, TestRequest::post(), "nobody").status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(send!(&app, "ann").body.starts_with("run 3"));
}
