//! Pages, fragments and values on every store, through the real middleware and the real template block.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use actix_web::{
    App, HttpRequest, HttpResponse,
    test::{TestRequest, call_service, init_service, read_body},
    web,
};
use larder_cache::{
    Caches, LoadOptions,
    clock::Clock,
    conformance::Harness,
    dependencies::{carry, depends_on},
    page::{PageCache, cache_page},
    settings::AliasSettings,
    template::{Context, Lazy, Templates},
};

fn caches<H: Harness>(harness: &Arc<H>) -> Caches {
    let opened = Arc::clone(harness);
    let mut settings = AliasSettings::default();
    settings.backend = "under test".into();
    let builder = Caches::builder().backend("under test", move |_| Ok(opened.open())).clock(harness.clock());
    builder.alias("default", settings).build().unwrap()
}

pub(crate) async fn a_page_is_made_once_until_its_tag_changes<H: Harness>(harness: Arc<H>) {
    let caches = caches(&harness);
    let runs = Rc::new(Cell::new(0));
    let counted = Rc::clone(&runs);
    let view = move |request: HttpRequest| {
        counted.set(counted.get() + 1);
        let body = format!("{} run {}", request.path(), counted.get());
        async { HttpResponse::Ok().insert_header(("vary", "accept-language")).body(body) }
    };
    let mark = cache_page(300).tags(|request| vec![format!("object:{}", &request.match_info()["id"])]);
    let app = App::new().route("/{id}", web::get().to(view).wrap(mark)).wrap(PageCache::new(caches.clone()));
    let app = init_service(app).await;
    let get = async |uri: &str, language: &str| {
        let request =
            TestRequest::get().uri(uri).insert_header(("host", "a")).insert_header(("accept-language", language));
        read_body(call_service(&app, request.to_request()).await).await
    };
    for _ in 0..2 {
        assert_eq!(get("/1", "de").await, "/1 run 1");
    }
    assert_eq!(get("/1", "en").await, "/1 run 2");
    assert_eq!(get("/2", "de").await, "/2 run 3");
    assert_eq!(get("/1", "de").await, "/1 run 1");
    caches.default_cache().invalidate_tags(["object:1"]).await.unwrap();
    assert_eq!(get("/1", "de").await, "/1 run 4");
    assert_eq!(get("/1", "en").await, "/1 run 5");
    assert_eq!(get("/2", "de").await, "/2 run 3");
    assert_eq!(runs.get(), 5);
}

pub(crate) fn a_fragment_is_made_once_until_it_is_invalidated<H: Harness>(harness: &Arc<H>) {
    let caches = caches(harness);
    let source = r#"{% cache 60 cart user tags=["object"] %}<b>{{ lazy(name="made") }}</b>{% endcache %}"#;
    let templates = Templates::builder().template("a.html", source).build(caches.clone()).unwrap();
    let render = |user: &str, made: &'static str| {
        let mut context = Context::new();
        context.insert("user", user);
        let lazy = Lazy::new().value("made", move || Ok::<_, std::io::Error>(made));
        templates.render_with("a.html", &context, lazy).unwrap()
    };
    assert_eq!(render("ann", "first"), "<b>first</b>");
    assert_eq!(render("ann", "second"), "<b>first</b>");
    assert_eq!(render("bob", "<i>"), "<b>&lt;i&gt;</b>");
    assert_eq!(render("bob", "second"), "<b>&lt;i&gt;</b>");
    assert!(caches.invalidate_fragment("cart", &["ann".into()]).unwrap());
    assert!(!caches.invalidate_fragment("cart", &["ann".into()]).unwrap());
    assert_eq!(render("ann", "third"), "<b>third</b>");
    caches.default_cache().blocking().invalidate_tags(["object"]).unwrap();
    assert_eq!(render("ann", "fourth"), "<b>fourth</b>");
    assert_eq!(render("bob", "fifth"), "<b>fifth</b>");

    let changed = source.replace("<b>", "<strong>");
    let deployed = Templates::builder().template("a.html", changed).build(caches).unwrap();
    let mut context = Context::new();
    context.insert("user", "ann");
    let lazy = Lazy::new().value("made", || Ok::<_, std::io::Error>("sixth"));
    assert!(deployed.render_with("a.html", &context, lazy).unwrap().contains("<strong>sixth"), "old markup");
}

/// Nothing says by hand what anything depends on: the value is in the fragment, the fragment in the page.
pub(crate) async fn what_shows_a_row_ends_with_it<H: Harness>(harness: Arc<H>) {
    let caches = caches(&harness);
    let source = r#"{% cache 60 object id %}<b>{{ lazy(name="title") }}</b>{% endcache %}"#;
    let templates = Templates::builder().template("a.html", source).build(caches.clone()).unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let (counted, cache) = (Arc::clone(&runs), caches.default_cache().blocking());
    let view = move |id: web::Path<u32>| {
        let (templates, cache, counted) = (templates.clone(), cache.clone(), Arc::clone(&counted));
        async move {
            let render = move || {
                let mut context = Context::new();
                context.insert("id", &*id);
                let title = move || {
                    cache.get_or_set(format!("title:{id}"), 60, || {
                        depends_on([format!("object:{id}")]);
                        Ok::<_, std::io::Error>(format!("{id} run {}", counted.fetch_add(1, Ordering::SeqCst)))
                    })
                };
                templates.render_with("a.html", &context, Lazy::new().value("title", title)).unwrap()
            };
            web::block(carry(render)).await.unwrap()
        }
    };
    let app = App::new().route("/{id}", web::get().to(view).wrap(cache_page(60)));
    let app = init_service(app.wrap(PageCache::new(caches.clone()))).await;
    let get = async |uri: &str| {
        let request = TestRequest::get().uri(uri).insert_header(("host", "a")).to_request();
        let answer = call_service(&app, request).await;
        let said = answer.headers().get("cache-status").unwrap().to_str().unwrap().to_owned();
        (read_body(answer).await, said.contains("; hit"))
    };
    for _ in 0..2 {
        assert_eq!(get("/1").await.0, "<b>1 run 0</b>");
        assert_eq!(get("/2").await.0, "<b>2 run 1</b>");
    }
    caches.default_cache().invalidate_tags(["object:1"]).await.unwrap();
    assert_eq!(get("/1").await, ("<b>1 run 2</b>".into(), false));
    assert_eq!(get("/2").await, ("<b>2 run 1</b>".into(), true));
    // The page alone is gone: what it is made of anew is found, and says what it depends on.
    let purged = PageCache::new(caches.clone()).purge_url("http://a/1").await.unwrap();
    assert_eq!((purged, get("/1").await), (1, ("<b>1 run 2</b>".into(), false)));
    assert!(get("/1").await.1);
    caches.default_cache().invalidate_tags(["object:1"]).await.unwrap();
    assert_eq!(get("/1").await.0, "<b>1 run 3</b>");
}

/// Of those who meet a stale fragment that may be served, one renders it anew.
#[test]
fn a_stale_fragment_is_served_while_one_renders_it_anew() {
    let (clock, hand) = Clock::manual();
    let mut settings = AliasSettings::default();
    settings.load = LoadOptions::new().stale_while_revalidate(100);
    let caches = Caches::builder().alias("default", settings).clock(clock).build().unwrap();
    let source = r#"{% cache 60 cart %}{{ lazy(name="made") }}{% endcache %}"#;
    let templates = Templates::builder().template("a.html", source).build(caches).unwrap();
    let render = |made: Box<dyn FnOnce() -> String + Send>| {
        let lazy = Lazy::new().value("made", move || Ok::<_, std::io::Error>(made()));
        templates.render_with("a.html", &Context::new(), lazy).unwrap()
    };
    let says = |text: &'static str| Box::new(move || text.to_owned());
    assert_eq!(render(says("old")), "old");
    hand.advance(Duration::from_secs(70));
    let (go, gone) = mpsc::channel::<()>();
    let (begin, begun) = mpsc::channel();
    std::thread::scope(|scope| {
        let renders = scope.spawn(|| {
            render(Box::new(move || {
                begin.send(()).unwrap();
                gone.recv().unwrap();
                "new".to_owned()
            }))
        });
        begun.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(render(says("never")), "old", "somebody renders it");
        go.send(()).unwrap();
        assert_eq!(renders.join().unwrap(), "new");
    });
    assert_eq!(render(says("never")), "new");
    hand.advance(Duration::from_secs(161));
    assert_eq!(render(says("newest")), "newest", "it was stale for too long");
}

/// Makes the tests of this module for one store.
macro_rules! levels {
    ($harness:expr) => {
        #[actix_web::test]
        async fn a_page_is_made_once_until_its_tag_changes() {
            crate::levels::a_page_is_made_once_until_its_tag_changes(::std::sync::Arc::new($harness)).await;
        }

        #[actix_web::test]
        async fn what_shows_a_row_ends_with_it() {
            crate::levels::what_shows_a_row_ends_with_it(::std::sync::Arc::new($harness)).await;
        }

        #[test]
        fn a_fragment_is_made_once_until_it_is_invalidated() {
            crate::levels::a_fragment_is_made_once_until_it_is_invalidated(&::std::sync::Arc::new($harness));
        }
    };
}
pub(crate) use levels;
