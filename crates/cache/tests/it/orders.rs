//! The page cache outermost, and inside of it sessions, identities, compression and languages in every order.

use std::{
    io::Read,
    sync::atomic::{AtomicUsize, Ordering},
};

use actix_identity::{Identity, IdentityMiddleware};
use actix_session::{Session, SessionMiddleware, storage::CookieSessionStore};
use actix_web::{
    App, HttpMessage, HttpRequest, HttpResponse,
    body::{BoxBody, MessageBody},
    cookie::Key,
    dev::{Service, ServiceRequest, ServiceResponse},
    http::header::{ACCEPT_LANGUAGE, CONTENT_LANGUAGE, CONTENT_TYPE, HeaderValue, VARY},
    middleware::{Compress, Next, from_fn},
    test::{TestRequest, call_service, init_service, read_body},
    web,
};
use flate2::read::GzDecoder;
use larder_cache::{
    Caches,
    page::{PageCache, cache_page},
    settings::AliasSettings,
};

const HTML: &str = "text/html; charset=utf-8";

#[derive(Clone, Copy)]
struct Language(&'static str);

/// A middleware that chooses a language, for views to read, and says that it did.
async fn choose_language(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let wanted = request.headers().get(ACCEPT_LANGUAGE).and_then(|wanted| wanted.to_str().ok());
    let language = if wanted.is_some_and(|wanted| wanted.starts_with("de")) { "de" } else { "en" };
    request.extensions_mut().insert(Language(language));
    let mut made = next.call(request).await?.map_into_boxed_body();
    made.headers_mut().append(VARY, HeaderValue::from_name(ACCEPT_LANGUAGE));
    made.headers_mut().insert(CONTENT_LANGUAGE, HeaderValue::from_static(language));
    Ok(made)
}

async fn greet(request: HttpRequest, session: Session, identity: Option<Identity>) -> HttpResponse {
    let language = request.extensions().get::<Language>().map_or("none", |language| language.0);
    let name = session.get::<String>("name").ok().flatten();
    let id = identity.and_then(|identity| identity.id().ok());
    let filling = "<p>jam</p>".repeat(200);
    HttpResponse::Ok().insert_header((CONTENT_TYPE, HTML)).body(format!("{language} {name:?} {id:?} {filling}"))
}

async fn sign_in(request: HttpRequest, session: Session) -> HttpResponse {
    session.insert("name", "ann").unwrap();
    // Where the session is registered inside of the identity, nobody can sign in.
    let _ = Identity::login(&request.extensions(), "ann".to_owned());
    HttpResponse::Ok().body("welcome ann")
}

macro_rules! middleware {
    (session) => {
        SessionMiddleware::builder(CookieSessionStore::default(), Key::from(&[7; 64]))
            .cookie_name("id".to_owned())
            .cookie_secure(false)
            .build()
    };
    (identity) => {
        IdentityMiddleware::default()
    };
    (compression) => {
        Compress::default()
    };
    (language) => {
        from_fn(choose_language)
    };
}

/// An answer: its fields, as lines, and its body, read.
struct Answer {
    head: String,
    body: String,
}

async fn get<B: MessageBody>(
    app: &impl Service<actix_http::Request, Response = ServiceResponse<B>, Error = actix_web::Error>,
    path: &str,
    fields: &[(&str, &str)],
) -> Answer {
    let request = TestRequest::with_uri(path).insert_header(("host", "larder.test"));
    let request = fields.iter().fold(request, |request, field| request.append_header(*field));
    let answer = call_service(app, request.to_request()).await;
    let fields = answer.headers().iter();
    let head: String = fields.map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap())).collect();
    let body = read_body(answer).await;
    let mut text = String::new();
    if head.contains("content-encoding: gzip") {
        GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    } else {
        text = String::from_utf8(body.to_vec()).unwrap();
    }
    Answer { head, body: text }
}

async fn check<B: MessageBody>(
    order: &str,
    compresses: bool,
    app: &impl Service<actix_http::Request, Response = ServiceResponse<B>, Error = actix_web::Error>,
) {
    let signed_in = get(app, "/sign-in", &[]).await;
    let cookie = signed_in.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    let hers = ("cookie", cookie.split(';').next().unwrap());
    assert!(!get(app, "/sign-in", &[]).await.head.contains("larder; hit"), "{order}");
    for path in ["/", "/marked"] {
        for _ in 0..2 {
            let answer = get(app, path, &[hers, ("accept-language", "de")]).await;
            assert!(answer.body.starts_with("de Some(\"ann\")"), "{order} {path}: {:.60}", answer.body);
            assert!(answer.head.contains("fwd=bypass"), "{order} {path}: {}", answer.head);
            for (language, coding) in [("de", None), ("en", None), ("de", Some("gzip")), ("en", Some("gzip"))] {
                let mut fields = vec![("accept-language", language)];
                fields.extend(coding.map(|coding| ("accept-encoding", coding)));
                let first = get(app, path, &fields).await;
                assert!(first.body.starts_with(&format!("{language} None None <p>")), "{order} {path}");
                // `Compress` does not say that it would have coded the page for others, so they get it as it is.
                let is_coded = first.head.contains("content-encoding: gzip");
                assert!(is_coded == coding.is_some() || !compresses && !is_coded, "{order} {path} {fields:?}");
                let second = get(app, path, &fields).await;
                assert!(second.head.contains("larder; hit"), "{order} {path} {fields:?}: {}", second.head);
                assert!(second.head.contains(&format!("content-language: {language}")), "{order} {path}");
                assert_eq!(second.body, first.body, "{order} {path}");
            }
        }
    }
}

macro_rules! check_order {
    ($($middleware:ident)*) => {{
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let order = stringify!($($middleware)*);
        let store = format!("locmem://orders-{}-{}", order.replace(' ', "-"), MADE.fetch_add(1, Ordering::Relaxed));
        for compresses in [false, true] {
            let settings = AliasSettings::from_address("default", &format!("{store}-{compresses}")).unwrap();
            let caches = Caches::builder().alias("default", settings).build().unwrap();
            let pages = PageCache::new(caches).session_cookies(["id"]).compress(compresses).site(cache_page(60));
            let app = App::new()
                .route("/", web::get().to(greet))
                .route("/marked", web::get().to(greet).wrap(cache_page(300)))
                .route("/sign-in", web::get().to(sign_in))
                $(.wrap(middleware!($middleware)))*
                .wrap(pages);
            check(order, compresses, &init_service(app).await).await;
        }
    }};
}

macro_rules! with_last_two {
    ([$a:ident $b:ident] $c:ident $d:ident) => {
        check_order!($a $b $c $d);
        check_order!($a $b $d $c);
    };
}

macro_rules! with_last_three {
    ([$a:ident] $b:ident $c:ident $d:ident) => {
        with_last_two!([$a $b] $c $d);
        with_last_two!([$a $c] $b $d);
        with_last_two!([$a $d] $b $c);
    };
}

#[actix_web::test]
async fn sessions_innermost() {
    with_last_three!([session] identity compression language);
}

#[actix_web::test]
async fn identities_innermost() {
    with_last_three!([identity] session compression language);
}

#[actix_web::test]
async fn compression_innermost() {
    with_last_three!([compression] session identity language);
}

#[actix_web::test]
async fn languages_innermost() {
    with_last_three!([language] session identity compression);
}
