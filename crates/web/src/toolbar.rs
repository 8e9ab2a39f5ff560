//! The debug toolbar: what each request did with the caches and the database, in a bar under every HTML page.
//!
//! It stands outside of the page cache, so it is under pages that come from there too, and is never stored with one. It is
//! there in debug only, and only for the addresses that the settings allow.

mod compare;
mod pages;
mod place;
mod record;

use std::{
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use actix_web::{
    HttpMessage, HttpResponse,
    body::{self, BodySize, BoxBody, EitherBody, MessageBody},
    dev::{Extensions, RequestHead, ServiceRequest, ServiceResponse},
    guard,
    http::{
        Method,
        header::{
            ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
            IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, RANGE,
        },
    },
    middleware::{DefaultHeaders, Next},
    web,
};
use larder_cache::{dependencies::traced, page::PageOutcome};
use reqwest::redirect::Policy;
use serde::Serialize;
use subtle::ConstantTimeEq;

use self::record::{Record, Records};
use crate::{
    failure::NEVER_CACHED,
    peer::Peer,
    secrets,
    state::{State, now_millis},
};

/// The header by which it knows its own requests.
const OWN: &str = "x-larder-toolbar";

/// Where its own pages are.
const PATH: &str = "/__toolbar/";

/// What is no page and done by no visitor, and so not recorded.
const LEFT_OUT: [&str; 4] = ["/static/", "/delay/", "/admin/live/stream/", PATH];

/// What the requests of this process did.
#[derive(Debug, Clone)]
pub struct Toolbar(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    allowed: Vec<IpAddr>,
    records: Records,
    last: AtomicU64,
    /// What its forms must carry, so that no other site can send them.
    token: String,
    /// What its own requests carry, which are those of no visitor.
    own: String,
    client: reqwest::Client,
    /// Where the same app answers without caches.
    without_cache: OnceLock<String>,
    here: OnceLock<String>,
}

/// Says of an answer that it was made without a cache, and how long that took.
#[derive(Debug, Clone, Copy)]
struct WithoutCache {
    took_ms: f64,
}

/// What the bar shows.
#[derive(Debug, Serialize)]
struct Bar<'a> {
    record: &'a Record,
    summary: String,
    token: &'a str,
    is_get: bool,
}

impl Toolbar {
    /// Makes a toolbar for visitors from these addresses.
    ///
    /// # Errors
    /// The system has no random numbers, or no certificates.
    pub fn new(allowed: Vec<IpAddr>) -> anyhow::Result<Self> {
        // The way to ourselves leads through no proxy, and a redirect is an answer.
        let client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).timeout(compare::PATIENCE);
        Ok(Toolbar(Arc::new(Inner {
            allowed,
            records: Records::default(),
            last: AtomicU64::new(0),
            token: secrets::token()?,
            own: secrets::token()?,
            client: client.build()?,
            without_cache: OnceLock::new(),
            here: OnceLock::new(),
        })))
    }

    /// Returns what is told of the decisions of the caches and of the statements of the database.
    pub(crate) fn records(&self) -> &Records {
        &self.0.records
    }

    /// Says where this app answers, and where the same one does without caches.
    pub(crate) fn set_addresses(&self, here: String, without_cache: String) {
        // Both are set once, when the server starts.
        let _ = self.0.here.set(here);
        let _ = self.0.without_cache.set(without_cache);
    }

    fn is_for(&self, request: &RequestHead, extensions: &Extensions) -> bool {
        Peer::noted(extensions).is_one_of(&self.0.allowed) && !self.has_sent(request)
    }

    /// Tells whether a request is one of its own.
    fn has_sent(&self, request: &RequestHead) -> bool {
        let sent = request.headers.get(OWN).map(HeaderValue::as_bytes);
        sent.is_some_and(|sent| sent.ct_eq(self.0.own.as_bytes()).into())
    }
}

/// The pages of the toolbar. For others than those it is for there is nothing.
pub fn routes(config: &mut web::ServiceConfig, toolbar: &Toolbar) {
    let allowed = toolbar.clone();
    let for_whom = guard::fn_guard(move |context| allowed.is_for(context.head(), &context.req_data()));
    config.service(
        web::scope(PATH.trim_end_matches('/'))
            .guard(for_whom)
            // These pages are of this moment, whatever a cache for the whole site keeps.
            .wrap(DefaultHeaders::new().add(NEVER_CACHED))
            .app_data(web::Data::new(toolbar.clone()))
            .service(web::resource("/").route(web::get().to(pages::history)))
            .service(web::resource("/purge/").route(web::post().to(pages::purge)))
            .service(web::resource("/without-cache/").route(web::get().to(compare::without_cache)))
            .service(web::resource("/compare/").route(web::get().to(compare::compare)))
            .service(web::resource(r"/{id:\d+}/").route(web::get().to(pages::request))),
    );
}

/// Middleware for the app without caches: it answers the toolbar alone, and changes nothing, because nothing that is
/// stored elsewhere would hear of that.
///
/// # Errors
/// Those of the service inside.
pub async fn for_itself<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    let toolbar = request.app_data::<Option<Toolbar>>().cloned().flatten();
    let is_its_own = toolbar.is_some_and(|toolbar| toolbar.has_sent(request.head()));
    if is_its_own && matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(next.call(request).await?.map_into_left_body());
    }
    Ok(request.into_response(HttpResponse::NotFound().finish()).map_into_right_body())
}

/// Middleware: records what a request does, and puts the bar under its page.
///
/// # Errors
/// Those of the service inside.
pub async fn toolbar<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, actix_web::Error> {
    let state = request.app_data::<web::Data<State>>().cloned();
    let path = request.path();
    let is_own_page = path.starts_with("/__toolbar/without-cache/");
    let is_left_out = !is_own_page && LEFT_OUT.iter().any(|left_out| path.starts_with(left_out));
    let found = state.and_then(|state| Some((state.toolbar.clone()?, state)));
    let Some((toolbar, state)) =
        found.filter(|(toolbar, _)| !is_left_out && toolbar.is_for(request.head(), &request.extensions()))
    else {
        return Ok(next.call(request).await?.map_into_left_body());
    };
    let id = toolbar.0.last.fetch_add(1, Ordering::Relaxed) + 1;
    let asked = request.headers().clone();
    let has_bar = is_for_people(&asked);
    if has_bar {
        // The page is wanted whole and as text.
        for name in [ACCEPT_ENCODING, IF_NONE_MATCH, IF_MODIFIED_SINCE, RANGE] {
            request.headers_mut().remove(name);
        }
    }
    let mut record = Record::new(id, request.method(), request.uri(), &asked);
    let noting = toolbar.0.records.begin(id);
    let begun = Instant::now();
    // The call too, which looks pages up before there is anything to wait for.
    let answer = traced(id, async move { next.call(request).await }).await;
    record.took = begun.elapsed();
    record.noted = noting.end();
    let answer = answer?;
    let outcome = answer.request().extensions().get::<PageOutcome>().map(ToString::to_string);
    record.answered(answer.status(), answer.headers(), outcome);
    record.without_cache_ms = answer.response().extensions().get::<WithoutCache>().map(|without| without.took_ms);
    let record = Arc::new(record);
    toolbar.0.records.keep(Arc::clone(&record));
    if !(has_bar && takes_bar(&answer)) {
        return Ok(answer.map_into_left_body());
    }
    with_bar(answer, &toolbar, &state, &record).await
}

/// Browsers say of what they show that it should be HTML; scripts and programs mostly do not.
fn is_for_people(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains("text/html"))
}

fn takes_bar<B: MessageBody>(answer: &ServiceResponse<B>) -> bool {
    let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_html = kind.is_some_and(|kind| kind.starts_with("text/html"));
    let is_whole = matches!(answer.response().body().size(), BodySize::Sized(_));
    is_html && is_whole && answer.request().method() != Method::HEAD
}

async fn with_bar<B: MessageBody + 'static>(
    answer: ServiceResponse<B>,
    toolbar: &Toolbar,
    state: &State,
    record: &Record,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, actix_web::Error> {
    let (request, response) = answer.into_parts();
    let (mut head, page) = response.into_parts();
    let page = body::to_bytes(page).await.map_err(|error| actix_web::error::ErrorInternalServerError(error.into()))?;
    let bar = Bar {
        record,
        summary: record.summary(now_millis()),
        token: &toolbar.0.token,
        is_get: record.method == "GET" && record.without_cache_ms.is_none(),
    };
    let page = match state.text("toolbar/bar.html", &bar) {
        Ok(bar) => put_under(&page, &bar),
        Err(error) => {
            log::error!("the toolbar could not be made: {error}");
            page.to_vec()
        }
    };
    // This page is not the one that is stored, and it must not be stored anywhere.
    for name in [ETAG, LAST_MODIFIED, CONTENT_LENGTH] {
        head.headers_mut().remove(name);
    }
    head.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let response = head.set_body(EitherBody::right(BoxBody::new(page)));
    Ok(ServiceResponse::new(request, response))
}

/// Puts the bar before the end of the body, or behind what has no end.
fn put_under(page: &[u8], bar: &str) -> Vec<u8> {
    let end = b"</body>";
    let at = page.windows(end.len()).rposition(|window| window.eq_ignore_ascii_case(end)).unwrap_or(page.len());
    [&page[..at], bar.as_bytes(), &page[at..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_stands_at_the_end_of_the_body() {
        assert_eq!(put_under(b"<body>a</BODY></html>", "bar"), b"<body>abar</BODY></html>");
        assert_eq!(put_under(b"no body", " bar"), b"no body bar");
    }

    #[test]
    fn browsers_are_told_from_programs() {
        let accept = |value| HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(value))]);
        assert!(is_for_people(&accept("text/html,application/xhtml+xml,*/*;q=0.8")));
        assert!(!is_for_people(&accept("*/*")) && !is_for_people(&HeaderMap::new()));
    }
}
