//! The outermost middleware: looks pages up before anything runs, stores them after everything ran.

use std::{
    future::{Future, Ready, ready},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_web::{
    Error, HttpMessage,
    body::{EitherBody, MessageBody},
    dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready},
};

use super::{
    pages::{self, Around, Found, Pages, Rule, Site, State},
    policy::request::SessionCookies,
};
use crate::Caches;

/// Caches the pages of an app: those that [`cache_page`](super::cache_page) marks, and with
/// [`site`](PageCache::site) all others too.
///
/// Register it last, so that it is outermost. Cheap to clone; make it once and clone it into each worker's app.
///
/// # Examples
/// ```
/// use larder_cache::{Caches, page::PageCache};
///
/// // Marked views only; the cookie `id` means a session, others do not keep a page from being cached.
/// let marked = PageCache::new(Caches::local()).session_cookies(["id"]).allowed_hosts(["example.org"]);
///
/// // Every page that may be stored, for a minute.
/// let whole_site = marked.site(60, "default", "");
/// ```
#[derive(Debug, Clone)]
pub struct PageCache {
    caches: Caches,
    site: Arc<Site>,
    whole_site: Option<WholeSite>,
}

#[derive(Debug, Clone)]
struct WholeSite {
    timeout: Duration,
    alias: String,
    key_prefix: String,
}

impl PageCache {
    /// Makes the middleware over a table of caches.
    pub fn new(caches: Caches) -> Self {
        PageCache { caches, site: Arc::default(), whole_site: None }
    }

    /// Caches every page of the site that may be stored, for this many seconds under this alias. A view's own
    /// [`cache_page`](super::cache_page) goes first. The prefix keeps sites apart that share a store.
    #[must_use]
    pub fn site(mut self, seconds: u64, alias: impl Into<String>, key_prefix: impl Into<String>) -> Self {
        let timeout = Duration::from_secs(seconds);
        self.whole_site = Some(WholeSite { timeout, alias: alias.into(), key_prefix: key_prefix.into() });
        self
    }

    /// Keeps pages for these hosts only. Without it for any host, each apart.
    #[must_use]
    pub fn allowed_hosts<T: Into<String>>(mut self, hosts: impl IntoIterator<Item = T>) -> Self {
        Arc::make_mut(&mut self.site).allowed_hosts = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// Says which cookies stand for a session. Requests with one of them neither read nor fill the cache, unless the
    /// view is [public](super::CachePage::public). Without it every cookie counts.
    #[must_use]
    pub fn session_cookies<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        Arc::make_mut(&mut self.site).session_cookies = SessionCookies::Named(names);
        self
    }

    /// Stores pages up to this size; 1 MiB without it.
    #[must_use]
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        Arc::make_mut(&mut self.site).max_body_bytes = bytes;
        self
    }

    /// Puts the reasons of decisions into `Cache-Status`. For development: they tell strangers how the site works.
    #[must_use]
    pub fn debug(mut self, debug: bool) -> Self {
        Arc::make_mut(&mut self.site).debug = debug;
        self
    }
}

impl<S, B> Transform<S, ServiceRequest> for PageCache
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Transform = PageCacheService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, Self::InitError>>;

    fn new_transform(&self, service: S) -> Self::Future {
        let default_rule = self.whole_site.clone().map(|site| {
            let WholeSite { timeout, alias, key_prefix } = site;
            Rc::new(Rule { alias, key_prefix, ..Rule::new(timeout) })
        });
        let pages = Rc::new(Pages::new(self.caches.clone(), Arc::clone(&self.site), default_rule));
        ready(Ok(PageCacheService { service: Rc::new(service), pages }))
    }
}

/// The service of [`PageCache`].
#[derive(Debug)]
pub struct PageCacheService<S> {
    service: Rc<S>,
    pages: Rc<Pages>,
}

impl<S, B> Service<ServiceRequest> for PageCacheService<S>
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
        let pages = Rc::clone(&self.pages);
        Box::pin(async move {
            let state = match pages.rule_for(&request) {
                None => State::Open,
                Some(rule) => match pages.look_up(&request, &rule).await {
                    Found::Page(page) => return Ok(request.into_response(page).map_into_right_body()),
                    Found::Missing(pending) => State::Making(pending),
                    Found::Bypass(reason) => State::PassedBy(reason),
                },
            };
            let around = Around::new(Rc::clone(&pages), state);
            request.extensions_mut().insert(around.clone());
            let made = service.call(request).await?;
            Ok(match around.take() {
                State::Open | State::Answered => made.map_into_left_body(),
                State::PassedBy(reason) => pages::pass_by(&pages, reason, made),
                State::Making(pending) => pages.finish(pending, made).await,
            })
        })
    }
}
