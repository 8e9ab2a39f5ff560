//! The outermost middleware: looks pages up before anything runs, stores them after everything ran.

use std::{
    future::{Future, Ready, ready},
    pin::Pin,
    rc::Rc,
    sync::Arc,
};

use actix_web::{
    Error, HttpMessage,
    body::{EitherBody, MessageBody},
    dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready},
};

use super::{
    cache_page::CachePage,
    pages::{self, Around, Pages, Rule, Site, State},
    policy::request::SessionCookies,
};
use crate::{Caches, fill};

/// Caches the pages of an app: those that [`cache_page`](super::cache_page) marks, and with
/// [`site`](PageCache::site) all others too.
///
/// Register it last, so that it is outermost. Cheap to clone; make it once and clone it into each worker's app.
///
/// # Examples
/// ```
/// use larder_cache::{Caches, page::{PageCache, cache_page}};
///
/// // Marked views only; the cookie `id` means a session, others do not keep a page from being cached.
/// let marked = PageCache::new(Caches::local()).session_cookies(["id"]).allowed_hosts(["example.org"]);
///
/// // Every page that may be stored, for a minute.
/// let whole_site = marked.site(cache_page(60));
/// ```
#[derive(Debug, Clone)]
pub struct PageCache {
    caches: Caches,
    site: Arc<Site>,
    whole_site: Option<Rule>,
}

impl PageCache {
    /// Makes the middleware over a table of caches.
    pub fn new(caches: Caches) -> Self {
        PageCache { caches, site: Arc::default(), whole_site: None }
    }

    /// Caches every page of the site that may be stored, as this says. A view's own [`cache_page`](super::cache_page)
    /// goes first. With a key prefix, sites that share a store are kept apart.
    #[must_use]
    pub fn site(mut self, every_page: CachePage) -> Self {
        self.whole_site = Some(every_page.into_rule());
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
        let default_rule = self.whole_site.clone().map(Rc::new);
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
            let state = match pages.start(&request).await {
                Ok(state) => state,
                Err(page) => return Ok(request.into_response(page).map_into_right_body()),
            };
            let key = if let State::Making(pending) = &state { pending.key_in_making() } else { None };
            let around = Around::new(Rc::clone(&pages), state);
            request.extensions_mut().insert(around.clone());
            let made = fill::loading(service.call(request), key).await?;
            Ok(match around.take() {
                State::Open | State::Answered => made.map_into_left_body(),
                State::PassedBy(reason) => pages::pass_by(&pages, reason, made),
                State::Making(pending) => pages.finish(pending, made).await,
                State::Expected(pending) => {
                    pending.give_up().await;
                    // Whoever answered did not say that it may be kept; a failure says nothing about its path.
                    if !made.status().is_server_error() {
                        pages.learn_mixed(made.request());
                    }
                    made.map_into_left_body()
                }
            })
        })
    }
}
