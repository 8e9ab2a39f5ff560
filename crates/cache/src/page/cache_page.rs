//! The mark on a view or a route: how long its answers may be kept, where, and under which conditions.

use std::{
    collections::BTreeSet,
    future::{Future, Ready, ready},
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix_web::{
    Error, HttpMessage, HttpRequest,
    body::{EitherBody, MessageBody},
    dev::{RequestHead, Service, ServiceRequest, ServiceResponse, Transform, forward_ready},
    http::StatusCode,
    web,
};

use super::{
    invalidation::{self, Unsafe},
    pages::{self, Around, LookedUp, Pages, Rule, Site, State},
    pending::Pending,
    policy::{Bypass, NotStored},
    private::PageTags,
};
use crate::Caches;

/// Caches what a view answers, for this many seconds, by URL.
///
/// Wrap a route, a resource, a scope, or a view that has the attribute `#[get("/", wrap = "cache_page(300)")]`.
/// Zero seconds never stores. See the [module](super) for what is never stored and for the order of middleware.
///
/// # Examples
/// ```
/// use actix_web::{HttpResponse, web};
/// use larder_cache::page::cache_page;
///
/// let detail = || async { HttpResponse::Ok().body("an object") };
/// let route = web::get().to(detail).wrap(cache_page(300).key_prefix("objects"));
/// ```
pub fn cache_page(seconds: u64) -> CachePage {
    CachePage { rule: Rule::new(Duration::from_secs(seconds)) }
}

/// Caches what answers say that may be cached, for as long as they say, and those that say nothing for this many seconds:
/// what a cache before another server does. `Cache-Control`, `Expires` and `Vary` decide; mostly for
/// [`PageCache::site`](super::PageCache::site).
///
/// # Examples
/// ```
/// use larder_cache::{Caches, page::{PageCache, cache_by_headers}};
///
/// let gateway = PageCache::new(Caches::local()).site(cache_by_headers(0));
/// ```
pub fn cache_by_headers(default_seconds: u64) -> CachePage {
    CachePage { rule: Rule { by_headers: true, ..Rule::new(Duration::from_secs(default_seconds)) } }
}

/// The mark that [`cache_page`] makes.
#[derive(Debug, Clone)]
pub struct CachePage {
    rule: Rule,
}

impl CachePage {
    /// Keeps the pages under this alias instead of `default`.
    #[must_use]
    pub fn alias(mut self, alias: impl Into<String>) -> Self {
        self.rule.alias = alias.into();
        self
    }

    /// Keeps the pages apart from those of the same URL under another prefix.
    #[must_use]
    pub fn key_prefix(mut self, key_prefix: impl Into<String>) -> Self {
        self.rule.key_prefix = key_prefix.into();
        self
    }

    /// Says that the page is the same for everyone, so that requests with a session or `Authorization` share it too. When it is
    /// made to be kept, middleware inside of [`PageCache`](super::PageCache) and the view do not see who asks: no
    /// `Authorization`, and of the cookies only those that the mark varies by. Responses that set a cookie are still not
    /// stored.
    #[must_use]
    pub fn public(mut self) -> Self {
        self.rule.public = true;
        self
    }

    /// Grants browsers and proxies this many seconds during which they need not ask; without it, as long as the page
    /// is kept here. They do not hear of invalidations: with zero they always ask, and see an edit at once.
    #[must_use]
    pub fn clients(mut self, seconds: u64) -> Self {
        self.rule.clients = Some(Duration::from_secs(seconds));
        self
    }

    /// Stores the page with these tags, so that [`invalidate_tags`](crate::Cache::invalidate_tags) makes it stale.
    ///
    /// # Examples
    /// ```
    /// use larder_cache::page::cache_page;
    ///
    /// let mark = cache_page(300).tags(|request| vec![format!("object:{}", &request.match_info()["id"])]);
    /// ```
    #[must_use]
    pub fn tags(mut self, tags: impl Fn(&HttpRequest) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.rule.tags = Some(Arc::new(tags));
        self
    }

    /// Stores answers with these statuses too that say nothing of how long they last. Without it 200 alone; others are
    /// stored if they say so themselves, as in `Cache-Control: max-age=60`.
    #[must_use]
    pub fn statuses(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.rule.statuses = statuses.into_iter().collect();
        self
    }

    /// Serves the page for so many seconds after its time while it is made anew in the background (RFC 5861, section 3).
    /// Goes before the settings of the alias; what the answer says itself goes before both.
    #[must_use]
    pub fn stale_while_revalidate(mut self, seconds: u64) -> Self {
        self.rule.stale_while_revalidate = Some(Duration::from_secs(seconds));
        self
    }

    /// Serves the page for so many seconds after its time if it cannot be made: the view fails or answers 500, 502, 503 or
    /// 504 (RFC 5861, section 4).
    #[must_use]
    pub fn stale_if_error(mut self, seconds: u64) -> Self {
        self.rule.stale_if_error = Some(Duration::from_secs(seconds));
        self
    }

    /// Keeps pages apart by these headers of the request, as if each answer named them in `Vary`.
    ///
    /// # Panics
    /// If one is no name of a header.
    #[must_use]
    pub fn vary_on_headers<'n>(mut self, names: impl IntoIterator<Item = &'n str>) -> Self {
        let names = names.into_iter().map(|name| match name.to_ascii_lowercase().parse() {
            Ok(name) => name,
            Err(_) => panic!("{name:?} is no name of a header"),
        });
        self.rule.vary_on_headers.extend(names);
        self
    }

    /// Keeps pages apart by this cookie alone, whatever other cookies there are.
    #[must_use]
    pub fn vary_on_cookie(mut self, name: impl Into<String>) -> Self {
        self.rule.vary_on_cookies.push(name.into());
        self
    }

    /// Keeps pages apart by this cookie, which stands for who asks: each visitor who has it has pages of his own, and
    /// [`mark_private`](super::mark_private) does not keep those from being stored. Other caches are told that they are
    /// private.
    #[must_use]
    pub fn vary_on_session(mut self, cookie: impl Into<String>) -> Self {
        let cookie = cookie.into();
        self.rule.session_cookies.push(cookie.clone());
        self.vary_on_cookie(cookie)
    }

    /// Keeps pages apart by what this says of a request: the language it asks for, the tenant it belongs to. It sees the
    /// request as it arrived, before any middleware or route had to do with it. Other caches cannot know what it says, so
    /// they are told that the page is private unless the view speaks for itself.
    ///
    /// # Examples
    /// ```
    /// use larder_cache::page::cache_page;
    ///
    /// let mark = cache_page(300).vary_on(|request| {
    ///     let languages = request.headers.get("accept-language").and_then(|field| field.to_str().ok());
    ///     if languages.is_some_and(|languages| languages.starts_with("de")) { "de" } else { "en" }.to_owned()
    /// });
    /// ```
    #[must_use]
    pub fn vary_on(mut self, distinguish: impl Fn(&RequestHead) -> String + Send + Sync + 'static) -> Self {
        self.rule.vary_on = Some(Arc::new(distinguish));
        self
    }

    /// Counts only these query parameters: pages are kept and made without any other.
    #[must_use]
    pub fn query<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.rule.query = Some(names.into_iter().map(Into::into).collect());
        self
    }

    pub(super) fn into_rule(self) -> Rule {
        self.rule
    }
}

impl<S, B> Transform<S, ServiceRequest> for CachePage
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Transform = CachePageService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, Self::InitError>>;

    fn new_transform(&self, service: S) -> Self::Future {
        self.rule.register();
        ready(Ok(CachePageService { service: Rc::new(service), rule: Rc::new(self.rule.clone()) }))
    }
}

/// The service of [`CachePage`].
#[derive(Debug)]
pub struct CachePageService<S> {
    service: Rc<S>,
    rule: Rc<Rule>,
}

impl<S, B> Service<ServiceRequest> for CachePageService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>>>>;

    forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let service = Rc::clone(&self.service);
        let rule = Rc::clone(&self.rule);
        Box::pin(async move {
            let around = request.extensions().get::<Around>().cloned();
            match around {
                Some(around) => inside(&service, rule, &around, request).await,
                None => alone(&service, &rule, request).await,
            }
        })
    }
}

/// Tells the [`PageCache`](super::PageCache) around what to do with the answer, and looks it up if it could not.
async fn inside<S, B>(
    service: &S,
    rule: Rc<Rule>,
    around: &Around,
    mut request: ServiceRequest,
) -> Result<ServiceResponse<EitherBody<B>>, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    let pages = around.pages();
    let found = match around.take() {
        State::Expected(pending) if pending.is_for(&rule) => LookedUp::Missing(pending),
        // Looked up for the whole site, and it is the same page.
        State::Making(mut pending) if pending.is_page_of(&rule, &request, &pages) => {
            pages.learn(&request, &rule);
            pending.rule = rule;
            LookedUp::Missing(pending)
        }
        other => {
            // Looked up for another rule; nobody shall wait for that while this view answers.
            if let State::Expected(mut pending) | State::Making(mut pending) = other {
                pending.let_go().await;
            }
            pages.learn(&request, &rule);
            pages.look_up(&request, &rule).await
        }
    };
    match found {
        LookedUp::Page(page) => {
            around.set(State::Answered);
            Ok(request.into_response(page).map_into_right_body())
        }
        // This worker meets the path for the first time: who asked has the page made.
        LookedUp::Renew(_, mut pending) | LookedUp::Missing(mut pending) => {
            pending.read_tags(request.request()).await;
            if !refuse_early_tags(&mut pending, &request).await && pending.neutralise(&mut request, &pages) {
                pending.refuse(NotStored::Unlearned).await;
            }
            pending.prepare(&mut request, &pages);
            let making = pending.making(service.call(request));
            around.set(State::Making(pending));
            Ok(making.await?.map_into_left_body())
        }
        LookedUp::Bypass(reason) => {
            around.set(State::PassedBy(reason));
            Ok(service.call(request).await?.map_into_left_body())
        }
    }
}

/// Looks up and stores where no [`PageCache`](super::PageCache) is around.
async fn alone<S, B>(
    service: &S,
    rule: &Rc<Rule>,
    mut request: ServiceRequest,
) -> Result<ServiceResponse<EitherBody<B>>, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody + 'static,
{
    let Some(pages) = pages_alone(&request) else {
        return Ok(service.call(request).await?.map_into_left_body());
    };
    if let Some(unsafe_one) = Unsafe::of(&request) {
        let made = service.call(request).await?;
        invalidation::after(&pages, &unsafe_one, &made).await;
        return Ok(pages::pass_by(&pages, Bypass::Method, made));
    }
    match pages.look_up(&request, rule).await {
        LookedUp::Page(page) => Ok(request.into_response(page).map_into_right_body()),
        LookedUp::Bypass(reason) => Ok(pages::pass_by(&pages, reason, service.call(request).await?)),
        LookedUp::Renew(_, mut pending) | LookedUp::Missing(mut pending) => {
            pending.read_tags(request.request()).await;
            pending.neutralise(&mut request, &pages);
            pending.prepare(&mut request, &pages);
            let made = pending.making(service.call(request)).await?;
            Ok(pending.finish(&pages, made).await)
        }
    }
}

/// Returns what a mark needs that has no [`PageCache`](super::PageCache) around it, or says what is missing.
pub(super) fn pages_alone(request: &ServiceRequest) -> Option<Pages> {
    let Some(caches) = request.app_data::<web::Data<Caches>>() else {
        warn_once("cache_page found no cache: wrap the app in PageCache, or add web::Data<Caches> to it");
        return None;
    };
    warn_once(
        "cache_page works without PageCache around the app: cookies and Vary fields that middleware outside of it \
         adds are not seen, so wrap the app in PageCache",
    );
    Some(Pages::new(Caches::clone(caches), Arc::new(Site::default()), None))
}

/// Does not store a page whose tags a middleware outside of its mark has added: their versions were read too late.
pub(super) async fn refuse_early_tags(pending: &mut Pending, request: &ServiceRequest) -> bool {
    let has_any = request.extensions().get::<PageTags>().is_some();
    if has_any {
        warn_once(
            "a page is not stored because a middleware outside of its cache_page added tags: add them inside, or \
             cache the page by PageCache::site",
        );
        pending.refuse(NotStored::EarlyTags).await;
    }
    has_any
}

fn warn_once(message: &'static str) {
    static SAID: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(message) {
        log::warn!("{message}");
    }
}
