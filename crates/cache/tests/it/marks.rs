//! Marks on views, with middleware and guards around them that see and change what the cache must know of.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{
    App, HttpMessage, HttpRequest, HttpResponse,
    dev::ServiceRequest,
    guard,
    http::{Method, header},
    middleware::{NormalizePath, from_fn},
    rt,
    test::{TestRequest, call_service, init_service, read_body},
    web,
};
use futures_util::future::join_all;
use larder_cache::{
    Caches,
    page::{self, PageCache, cache_page},
    settings::AliasSettings,
};

fn caches() -> Caches {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let store = format!("locmem://marks-{}", MADE.fetch_add(1, Ordering::Relaxed));
    Caches::builder().alias("default", AliasSettings::from_address("default", &store).unwrap()).build().unwrap()
}

type Runs = Arc<AtomicUsize>;

/// A view that shows its request and counts how often it ran.
fn view(runs: &Runs) -> impl Fn(HttpRequest) -> std::future::Ready<HttpResponse> + Clone + 'static {
    let runs = Arc::clone(runs);
    move |request| {
        let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
        let host = request.connection_info().host().to_owned();
        std::future::ready(HttpResponse::Ok().body(format!("{} {host}{} run {run}", request.method(), request.uri())))
    }
}

/// Sends a request and returns the page, and what the cache said of it.
macro_rules! send {
    ($app:expr, $method:expr, $uri:expr $(, $field:expr)*) => {{
        let request = TestRequest::with_uri($uri).method($method).insert_header((header::HOST, "larder.test"));
        $(let request = request.insert_header($field);)*
        let answer = call_service($app, request.to_request()).await;
        let said = answer.headers().get("cache-status").map(|said| said.to_str().unwrap().to_owned());
        (String::from_utf8(read_body(answer).await.to_vec()).unwrap(), said.unwrap_or_default())
    }};
}

const GET: Method = Method::GET;

#[actix_web::test]
async fn a_mark_that_stands_alone_forgets_what_an_unsafe_request_changed() {
    let runs = Runs::default();
    let resource = web::resource("/a").get(view(&runs)).post(view(&runs)).wrap(cache_page(60));
    let app = init_service(App::new().app_data(web::Data::new(caches())).service(resource)).await;
    assert_eq!(send!(&app, GET, "/a").0, "GET larder.test/a run 1");
    assert_eq!(send!(&app, GET, "/a").0, "GET larder.test/a run 1");
    assert_eq!(send!(&app, Method::POST, "/a").0, "POST larder.test/a run 2");
    assert_eq!(send!(&app, GET, "/a").0, "GET larder.test/a run 3");
}

#[actix_web::test]
async fn what_middleware_saw_of_a_stranger_s_word_is_not_kept() {
    let runs = Runs::default();
    let tenants = from_fn(async |request: ServiceRequest, next| {
        let tenant = request.connection_info().host().to_owned();
        request.extensions_mut().insert(tenant);
        actix_web::middleware::Next::<actix_web::body::BoxBody>::call(&next, request).await
    });
    let counted = Arc::clone(&runs);
    let show = move |request: HttpRequest| {
        counted.fetch_add(1, Ordering::SeqCst);
        let tenant = request.extensions().get::<String>().cloned();
        std::future::ready(format!("{tenant:?} {}", request.uri()))
    };
    let around = PageCache::new(caches()).ignore_query(["utm_*"]).debug(true);
    let route = web::get().to(show).wrap(cache_page(60));
    let app = init_service(App::new().route("/{tail:.*}", route).wrap(tenants).wrap(around)).await;
    let evil = ("x-forwarded-host", "evil.test");
    let (page, said) = send!(&app, GET, "/a", evil);
    assert!(page.contains("evil.test") && said.contains("unlearned"), "his own answer: {page} {said}");
    let (page, said) = send!(&app, GET, "/a", evil);
    assert!(page.contains("larder.test") && said.contains("stored"), "{page} {said}");
    assert!(send!(&app, GET, "/a").0.contains("larder.test"));
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    let (_, said) = send!(&app, GET, "/b?utm_x=1");
    assert!(said.contains("unlearned"), "{said}");
    assert!(send!(&app, GET, "/b").0.ends_with(" /b"));
}

#[actix_web::test]
async fn tags_that_are_added_before_the_mark_keep_the_page_from_being_stored() {
    let runs = Runs::default();
    let settings = from_fn(async |request: ServiceRequest, next| {
        page::add_tags(request.request(), ["settings"]);
        actix_web::middleware::Next::<actix_web::body::BoxBody>::call(&next, request).await
    });
    let route = web::get().to(view(&runs)).wrap(cache_page(60));
    let app =
        init_service(App::new().route("/a", route).wrap(settings).wrap(PageCache::new(caches()).debug(true))).await;
    for _ in 0..2 {
        assert!(send!(&app, GET, "/a").1.contains("early-tags"));
    }
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[actix_web::test]
async fn two_marks_under_one_path_are_each_asked_by_their_own_rule() {
    let runs = Runs::default();
    let of = |name: &str, mark| {
        web::resource("/{tail:.*}").guard(guard::Host(name)).route(web::get().to(view(&runs))).wrap(mark)
    };
    let app = App::new().service(of("a.test", cache_page(60).query(["page"]))).service(of("b.test", cache_page(60)));
    let app = init_service(app.wrap(PageCache::new(caches()))).await;
    let get = async |host: &str, uri: &str| {
        let request = TestRequest::with_uri(uri).insert_header((header::HOST, host)).to_request();
        String::from_utf8(read_body(call_service(&app, request).await).await.to_vec()).unwrap()
    };
    get("b.test", "/").await;
    get("a.test", "/").await;
    get("a.test", "/").await;
    assert!(get("b.test", "/?q=1").await.contains("/?q=1 run 3"));
    assert!(get("a.test", "/?q=2").await.contains("a.test/ run 2"));
}

#[actix_web::test]
async fn two_hundred_clients_of_a_cold_page_run_its_view_once_under_a_mark_within_a_cached_site() {
    let runs = Runs::default();
    let counted = Arc::clone(&runs);
    let slow = move || {
        let counted = Arc::clone(&counted);
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            rt::time::sleep(Duration::from_millis(100)).await;
            "page"
        }
    };
    let around = PageCache::new(caches()).site(cache_page(60));
    let route = web::get().to(slow).wrap(cache_page(300));
    let app = init_service(App::new().route("/a", route).wrap(around)).await;
    let all = join_all((0..200).map(async |_| send!(&app, GET, "/a").0)).await;
    assert!(all.iter().all(|page| page == "page"));
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[actix_web::test]
async fn an_unsafe_request_removes_the_page_of_the_address_that_was_sent() {
    let runs = Runs::default();
    let around = PageCache::new(caches()).site(cache_page(60));
    let app = App::new().route("/a", web::route().to(view(&runs))).wrap(NormalizePath::trim());
    let app = init_service(app.wrap(around)).await;
    assert!(send!(&app, GET, "/a/").0.ends_with("run 1"));
    assert!(send!(&app, GET, "/a").0.ends_with("run 2"));
    send!(&app, Method::POST, "/a/");
    assert!(send!(&app, GET, "/a/").0.ends_with("run 4"));
    assert!(send!(&app, GET, "/a").0.ends_with("run 5"));
}

#[actix_web::test]
async fn what_a_middleware_made_another_method_of_is_not_kept() {
    let runs = Runs::default();
    let overrides = from_fn(async |mut request: ServiceRequest, next| {
        if request.headers().contains_key("x-http-method-override") {
            request.head_mut().method = Method::DELETE;
        }
        actix_web::middleware::Next::<actix_web::body::BoxBody>::call(&next, request).await
    });
    let around = PageCache::new(caches()).site(cache_page(60)).debug(true);
    let app = App::new().route("/a", web::route().to(view(&runs))).wrap(overrides);
    let app = init_service(app.wrap(around)).await;
    let (page, said) = send!(&app, GET, "/a", ("x-http-method-override", "DELETE"));
    assert!(page.starts_with("DELETE") && said.contains("method"), "{page} {said}");
    assert!(send!(&app, GET, "/a").0.starts_with("GET"));
}

#[actix_web::test]
async fn a_condition_on_anything_is_not_met_by_nothing() {
    let runs = Runs::default();
    let empty = page::condition().etag(|_| None);
    let app = App::new().service(web::resource("/a").wrap(empty).route(web::route().to(view(&runs))));
    let app = init_service(app).await;
    let any = ("if-none-match", "*");
    assert!(send!(&app, Method::PUT, "/a", any).0.starts_with("PUT"), "it is not there, so it can be made");
    assert!(send!(&app, GET, "/a", any).0.starts_with("GET"));
}

#[actix_web::test]
async fn all_pages_whose_address_begins_alike_are_purged() {
    let runs = Runs::default();
    let caches = caches();
    let around = PageCache::new(caches.clone()).site(cache_page(60));
    let elsewhere = PageCache::new(caches);
    let app = App::new().default_service(web::route().to(view(&runs)));
    let app = init_service(app.wrap(around.clone())).await;
    let get = async |uri: &str| send!(&app, GET, uri).0.rsplit(' ').next().unwrap().parse::<usize>().unwrap();
    let paths = ["/objects/1/", "/objects/2/?page=2", "/", "/objects"];
    let runs_of = async || join_all(paths.into_iter().map(get)).await;
    assert_eq!(runs_of().await, [1, 2, 3, 4]);
    assert_eq!(runs_of().await, [1, 2, 3, 4]);
    around.purge_prefix("http://LARDER.test/objects/").await.unwrap();
    assert_eq!(runs_of().await, [5, 6, 3, 4]);
    assert_eq!(runs_of().await, [5, 6, 3, 4]);
    elsewhere.purge_prefix("http://larder.test/objects").await.unwrap();
    elsewhere.purge_prefix("http://other.test/").await.unwrap();
    assert_eq!(runs_of().await, [7, 8, 3, 9], "another process would purge like this");
    around.purge_prefix("https://larder.test/").await.unwrap();
    assert_eq!(runs_of().await, [10, 11, 12, 13]);
    assert!(around.purge_prefix("/objects/").await.is_err());
}

#[actix_web::test]
async fn a_page_that_was_begun_before_a_purge_is_not_served_after_it() {
    let runs = Runs::default();
    let around = PageCache::new(caches()).site(cache_page(60));
    let (counted, meanwhile) = (Arc::clone(&runs), around.clone());
    let show = move || {
        let (counted, meanwhile) = (Arc::clone(&counted), meanwhile.clone());
        async move {
            let run = counted.fetch_add(1, Ordering::SeqCst) + 1;
            if run == 1 {
                meanwhile.purge_prefix("http://larder.test/").await.unwrap();
            }
            format!("run {run}")
        }
    };
    let app = init_service(App::new().route("/a", web::get().to(show)).wrap(around)).await;
    for body in ["run 1", "run 2", "run 2"] {
        assert_eq!(send!(&app, GET, "/a").0, body);
    }
}
