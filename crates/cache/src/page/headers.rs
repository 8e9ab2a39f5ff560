//! What a view says of itself to caches and clients: `Cache-Control`, `Vary`, and conditions that are checked before it runs.
//!
//! Each is a middleware for a route, a resource or a scope, inside of [`PageCache`](super::PageCache). The names are
//! Django's.

use std::{
    future::{Future, Ready, ready},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::SystemTime,
};

use actix_web::{
    Error, HttpRequest, HttpResponse,
    body::{EitherBody, MessageBody},
    dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready},
    http::{
        StatusCode,
        header::{CACHE_CONTROL, ETAG, EXPIRES, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED, VARY},
    },
};
use sha2::{Digest, Sha256};

use super::{
    answer,
    policy::{
        cache_control::split,
        conditional::{self, EntityTag, Preconditions, WriteConditions},
    },
};

/// Adds directives to the `Cache-Control` of a view's answers.
///
/// # Examples
/// ```
/// use actix_web::web;
/// use larder_cache::page::cache_control;
///
/// let route = web::get().to(|| async { "news" }).wrap(cache_control().public().max_age(60).stale_if_error(3600));
/// ```
pub fn cache_control() -> CacheControlHeader {
    CacheControlHeader::default()
}

/// Has nobody keep a view's answers: `max-age=0, no-cache, no-store, must-revalidate, private`, and `Expires` in the past.
///
/// # Examples
/// ```
/// use actix_web::web;
/// use larder_cache::page::never_cache;
///
/// let route = web::get().to(|| async { "your basket" }).wrap(never_cache());
/// ```
pub fn never_cache() -> CacheControlHeader {
    let directives = ["max-age=0", "no-cache", "no-store", "must-revalidate", "private"].map(str::to_owned).to_vec();
    CacheControlHeader { directives, expires_at_once: true }
}

/// Adds headers to the `Vary` of a view's answers; those that are there already stay.
///
/// # Panics
/// If one is no name of a header.
///
/// # Examples
/// ```
/// use actix_web::web;
/// use larder_cache::page::vary_on_headers;
///
/// let route = web::get().to(|| async { "hello" }).wrap(vary_on_headers(["Accept-Language"]));
/// ```
pub fn vary_on_headers<'n>(names: impl IntoIterator<Item = &'n str>) -> VaryHeader {
    let read = |name: &str| match name.to_ascii_lowercase().parse() {
        Ok(name) => name,
        Err(_) => panic!("{name:?} is no name of a header"),
    };
    VaryHeader { names: names.into_iter().map(read).collect() }
}

/// Adds `Cookie` to the `Vary` of a view's answers. To keep pages apart by one cookie only, and not by all,
/// [`CachePage::vary_on_cookie`](super::CachePage::vary_on_cookie) is better.
pub fn vary_on_cookie() -> VaryHeader {
    vary_on_headers(["cookie"])
}

/// Gives complete answers an `ETag` made of their body, and answers 304 to those who have it. The view runs all the same;
/// what it saves is the way.
///
/// Not needed where [`PageCache`](super::PageCache) stores the page: it does both by itself.
pub fn conditional_page() -> ConditionalPage {
    ConditionalPage
}

/// Checks a client's conditions before the view runs: by an entity tag, by the time of the last change, or both.
///
/// 304 for a GET or HEAD whose client has the page, 412 where a condition for writing fails (RFC 9110, section 13.2.2).
/// Answers of the view to safe methods get the validators that it did not set.
///
/// # Examples
/// ```
/// use actix_web::web;
/// use larder_cache::page::condition;
///
/// let version = condition().etag(|request| Some(format!("v{}", request.match_info().get("version")?)));
/// let route = web::get().to(|| async { "one version of an object" }).wrap(version);
/// ```
pub fn condition() -> Condition {
    Condition::default()
}

/// The middleware that [`cache_control`] and [`never_cache`] make.
#[derive(Debug, Clone, Default)]
pub struct CacheControlHeader {
    directives: Vec<String>,
    expires_at_once: bool,
}

impl CacheControlHeader {
    /// Says that others may have the answer, even to a request with `Authorization`.
    #[must_use]
    pub fn public(self) -> Self {
        self.directive("public")
    }

    /// Says that the answer is for one visitor.
    #[must_use]
    pub fn private(self) -> Self {
        self.directive("private")
    }

    /// Says that the answer may be kept, and must be validated before each use.
    #[must_use]
    pub fn no_cache(self) -> Self {
        self.directive("no-cache")
    }

    /// Says that the answer must not be kept.
    #[must_use]
    pub fn no_store(self) -> Self {
        self.directive("no-store")
    }

    /// Says that the answer is never served stale.
    #[must_use]
    pub fn must_revalidate(self) -> Self {
        self.directive("must-revalidate")
    }

    /// Says that the answer never changes, for as long as it is fresh (RFC 8246).
    #[must_use]
    pub fn immutable(self) -> Self {
        self.directive("immutable")
    }

    /// Says for how many seconds the answer is fresh. A shorter time that the view says itself stays.
    #[must_use]
    pub fn max_age(self, seconds: u64) -> Self {
        self.directive(&format!("max-age={seconds}"))
    }

    /// Says the same to shared caches, to this one as well.
    #[must_use]
    pub fn s_maxage(self, seconds: u64) -> Self {
        self.directive(&format!("s-maxage={seconds}"))
    }

    /// Says for how many seconds after that the answer may be served while it is made anew.
    #[must_use]
    pub fn stale_while_revalidate(self, seconds: u64) -> Self {
        self.directive(&format!("stale-while-revalidate={seconds}"))
    }

    /// Says for how many seconds after that the answer may be served if it cannot be made anew.
    #[must_use]
    pub fn stale_if_error(self, seconds: u64) -> Self {
        self.directive(&format!("stale-if-error={seconds}"))
    }

    fn directive(mut self, directive: &str) -> Self {
        self.directives.push(directive.to_owned());
        self
    }

    fn apply(&self, headers: &mut HeaderMap) {
        for directive in &self.directives {
            add_directive(headers, directive);
        }
        if self.expires_at_once && !headers.contains_key(EXPIRES) {
            headers.insert(EXPIRES, HeaderValue::from_static("0"));
        }
    }
}

/// Adds one directive. `public` and `private` take each other's place, and of two numbers the smaller stays.
fn add_directive(headers: &mut HeaderMap, new: &str) {
    let name_of = |directive: &str| directive.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
    let number_of =
        |directive: &str| directive.split_once('=').and_then(|(_, number)| number.trim().parse::<u64>().ok());
    let opposite = match new {
        "public" => "private",
        "private" => "public",
        _ => "",
    };
    let mut directives: Vec<String> = Vec::new();
    let mut new = new.to_owned();
    for field in headers.get_all(CACHE_CONTROL) {
        let field = String::from_utf8_lossy(field.as_bytes()).into_owned();
        for directive in split(&field).into_iter().map(str::trim).filter(|directive| !directive.is_empty()) {
            if name_of(directive) == name_of(&new) {
                if let (Some(there), Some(wanted)) = (number_of(directive), number_of(&new))
                    && there < wanted
                {
                    new = directive.to_owned();
                }
            } else if name_of(directive) != opposite {
                directives.push(directive.to_owned());
            }
        }
    }
    directives.push(new);
    if let Ok(value) = HeaderValue::try_from(directives.join(", ")) {
        headers.insert(CACHE_CONTROL, value);
    }
}

/// The middleware that [`vary_on_headers`] and [`vary_on_cookie`] make.
#[derive(Debug, Clone)]
pub struct VaryHeader {
    names: Vec<HeaderName>,
}

impl VaryHeader {
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        let there: Vec<String> =
            headers.get_all(VARY).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        let mut names: Vec<&str> =
            there.iter().flat_map(|field| field.split(',')).map(str::trim).filter(|name| !name.is_empty()).collect();
        if names.contains(&"*") {
            return;
        }
        for name in &self.names {
            if !names.iter().any(|known| known.eq_ignore_ascii_case(name.as_str())) {
                names.push(name.as_str());
            }
        }
        if let Ok(value) = HeaderValue::try_from(names.join(", ")) {
            headers.insert(VARY, value);
        }
    }
}

/// The middleware that [`conditional_page`] makes.
#[derive(Debug, Clone, Copy)]
pub struct ConditionalPage;

type EtagOf = Arc<dyn Fn(&HttpRequest) -> Option<String> + Send + Sync>;
type ModifiedOf = Arc<dyn Fn(&HttpRequest) -> Option<SystemTime> + Send + Sync>;

/// The middleware that [`condition`] makes.
#[derive(Clone, Default)]
pub struct Condition {
    etag: Option<EtagOf>,
    last_modified: Option<ModifiedOf>,
}

impl std::fmt::Debug for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Condition").finish_non_exhaustive()
    }
}

impl Condition {
    /// Says what the entity tag of the answer would be, with or without its quotes; `None` if there is nothing yet.
    #[must_use]
    pub fn etag(mut self, etag: impl Fn(&HttpRequest) -> Option<String> + Send + Sync + 'static) -> Self {
        self.etag = Some(Arc::new(etag));
        self
    }

    /// Says when what the view shows changed last.
    #[must_use]
    pub fn last_modified(mut self, at: impl Fn(&HttpRequest) -> Option<SystemTime> + Send + Sync + 'static) -> Self {
        self.last_modified = Some(Arc::new(at));
        self
    }

    /// Returns the validators that the answer would have now.
    fn validators(&self, request: &HttpRequest) -> HeaderMap {
        let mut validators = HeaderMap::new();
        let tag = self.etag.as_ref().and_then(|etag| etag(request)).map(|tag| {
            if EntityTag::parse(tag.as_bytes()).is_some() { tag } else { format!("\"{}\"", tag.replace('"', "")) }
        });
        if let Some(tag) = tag.and_then(|tag| HeaderValue::try_from(tag).ok()) {
            validators.insert(ETAG, tag);
        }
        let at = self.last_modified.as_ref().and_then(|at| at(request));
        if let Some(date) = at.and_then(|at| HeaderValue::try_from(httpdate::fmt_http_date(at)).ok()) {
            validators.insert(LAST_MODIFIED, date);
        }
        validators
    }
}

/// What one of these middlewares does around a view.
trait Around: Clone + 'static {
    /// Answers instead of the view, if it need not run.
    fn before(&self, request: &HttpRequest) -> Option<HttpResponse>;

    /// Changes what the view answers.
    fn after<B: MessageBody + 'static>(
        &self,
        request: &HttpRequest,
        made: HttpResponse<B>,
    ) -> HttpResponse<EitherBody<B>>;
}

impl Around for CacheControlHeader {
    fn before(&self, _: &HttpRequest) -> Option<HttpResponse> {
        None
    }

    fn after<B: MessageBody + 'static>(
        &self,
        _: &HttpRequest,
        mut made: HttpResponse<B>,
    ) -> HttpResponse<EitherBody<B>> {
        self.apply(made.headers_mut());
        made.map_into_left_body()
    }
}

impl Around for VaryHeader {
    fn before(&self, _: &HttpRequest) -> Option<HttpResponse> {
        None
    }

    fn after<B: MessageBody + 'static>(
        &self,
        _: &HttpRequest,
        mut made: HttpResponse<B>,
    ) -> HttpResponse<EitherBody<B>> {
        self.apply(made.headers_mut());
        made.map_into_left_body()
    }
}

impl Around for ConditionalPage {
    fn before(&self, _: &HttpRequest) -> Option<HttpResponse> {
        None
    }

    fn after<B: MessageBody + 'static>(
        &self,
        request: &HttpRequest,
        made: HttpResponse<B>,
    ) -> HttpResponse<EitherBody<B>> {
        if made.status() != StatusCode::OK || !request.method().is_safe() {
            return made.map_into_left_body();
        }
        let (mut head, body) = made.into_parts();
        let body = match body.try_into_bytes() {
            Ok(body) => body,
            Err(body) => return head.set_body(body).map_into_left_body(),
        };
        if !head.headers().contains_key(ETAG) {
            head.headers_mut().insert(ETAG, etag_of(&body));
        }
        let made = head.set_body(body);
        match conditional::is_not_modified(&Preconditions::of(request.headers()), made.headers()) {
            true => answer::not_modified(made).map_into_right_body(),
            false => made.map_into_boxed_body().map_into_right_body(),
        }
    }
}

impl Around for Condition {
    fn before(&self, request: &HttpRequest) -> Option<HttpResponse> {
        let validators = self.validators(request);
        if WriteConditions::of(request.headers()).fails(&validators) {
            return Some(HttpResponse::new(StatusCode::PRECONDITION_FAILED));
        }
        let conditions = Preconditions::of(request.headers());
        // RFC 9110, section 13.1.3: a date is a condition for reading only.
        let conditions = if request.method().is_safe() { conditions } else { conditions.without_date() };
        // `If-None-Match: *` means anything that is there.
        if validators.is_empty() || !conditional::is_not_modified(&conditions, &validators) {
            return None;
        }
        if !request.method().is_safe() {
            return Some(HttpResponse::new(StatusCode::PRECONDITION_FAILED));
        }
        let mut answer = HttpResponse::new(StatusCode::NOT_MODIFIED);
        *answer.headers_mut() = validators;
        Some(answer)
    }

    fn after<B: MessageBody + 'static>(
        &self,
        request: &HttpRequest,
        mut made: HttpResponse<B>,
    ) -> HttpResponse<EitherBody<B>> {
        if request.method().is_safe() && made.status().is_success() {
            for (name, value) in self.validators(request) {
                if !made.headers().contains_key(&name) {
                    made.headers_mut().insert(name, value);
                }
            }
        }
        made.map_into_left_body()
    }
}

/// Makes a strong validator of a body (RFC 9110, section 8.8.3): 128 bits of its digest.
pub(super) fn etag_of(body: &[u8]) -> HeaderValue {
    let digest = Sha256::digest(body);
    let hex: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("\"{hex}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// The service of these middlewares.
#[derive(Debug)]
pub struct HeadersService<M, S> {
    middleware: M,
    service: Rc<S>,
}

macro_rules! middleware {
    ($($name:ty),*) => {$(
        impl<S, B> Transform<S, ServiceRequest> for $name
        where
            S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
            B: MessageBody + 'static,
        {
            type Response = ServiceResponse<EitherBody<B>>;
            type Error = Error;
            type Transform = HeadersService<$name, S>;
            type InitError = ();
            type Future = Ready<Result<Self::Transform, ()>>;

            fn new_transform(&self, service: S) -> Self::Future {
                ready(Ok(HeadersService { middleware: self.clone(), service: Rc::new(service) }))
            }
        }

        impl<S, B> Service<ServiceRequest> for HeadersService<$name, S>
        where
            S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
            B: MessageBody + 'static,
        {
            type Response = ServiceResponse<EitherBody<B>>;
            type Error = Error;
            type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>>>>;

            forward_ready!(service);

            fn call(&self, request: ServiceRequest) -> Self::Future {
                let (middleware, service) = (self.middleware.clone(), Rc::clone(&self.service));
                Box::pin(async move {
                    if let Some(answer) = middleware.before(request.request()) {
                        return Ok(request.into_response(answer).map_into_right_body());
                    }
                    let (request, made) = service.call(request).await?.into_parts();
                    let made = middleware.after(&request, made);
                    Ok(ServiceResponse::new(request, made))
                })
            }
        }
    )*};
}

middleware!(CacheControlHeader, VaryHeader, ConditionalPage, Condition);

#[cfg(test)]
mod tests {
    use super::*;

    fn with(field: &str, middleware: &CacheControlHeader) -> String {
        let mut headers = HeaderMap::new();
        if !field.is_empty() {
            headers.insert(CACHE_CONTROL, HeaderValue::from_str(field).unwrap());
        }
        middleware.apply(&mut headers);
        headers.get(CACHE_CONTROL).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn directives_are_added_to_those_of_the_view() {
        assert_eq!(with("", &cache_control().public().max_age(60)), "public, max-age=60");
        assert_eq!(with("max-age=5, x=\"a, b\"", &cache_control().max_age(60)), "x=\"a, b\", max-age=5");
        assert_eq!(with("max-age=500", &cache_control().max_age(60)), "max-age=60");
        assert_eq!(with("private, max-age=5", &cache_control().public()), "max-age=5, public");
        assert_eq!(with("no-store", &cache_control().no_store().immutable()), "no-store, immutable");
        assert_eq!(with("", &never_cache()), "max-age=0, no-cache, no-store, must-revalidate, private");
    }

    #[test]
    fn vary_is_added_to_without_saying_a_name_twice() {
        let vary = |field: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(VARY, HeaderValue::from_static(field));
            vary_on_headers(["Accept", "Cookie"]).apply(&mut headers);
            headers.get(VARY).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(vary("cookie, X-A"), "cookie, X-A, accept");
        assert_eq!(vary("x, *"), "x, *");
    }
}
