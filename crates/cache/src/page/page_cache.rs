//! The outermost middleware: looks pages up before anything runs, stores them after everything ran.

use std::{
    future::{Future, Ready, ready},
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    sync::{Arc, PoisonError},
    task::{Context, Poll},
};

use actix_web::{
    Error, HttpMessage,
    body::{EitherBody, MessageBody},
    dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready},
    http::{Uri, header::HeaderName},
    rt,
};

use super::{
    cache_page::CachePage,
    invalidation::{self, Unsafe},
    pages::{self, Around, Pages, Rule, Site, Start, State},
    policy::request::SessionCookies,
    purges,
};
use crate::{
    Caches,
    dependencies::{self, Notes},
};

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

    /// Leaves these query parameters out of the question: pages are kept and made without them. A name that ends with `*`
    /// stands for all that begin so. [`TRACKING`](super::TRACKING) has those of advertisers.
    #[must_use]
    pub fn ignore_query<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        Arc::make_mut(&mut self.site).ignored_query = names.into_iter().map(Into::into).collect();
        self
    }

    /// Believes what requests from these addresses say of how they were asked: `Forwarded`, `X-Forwarded-Host` and
    /// `X-Forwarded-Proto` then tell pages apart. From others these fields do not reach views whose page is kept.
    #[must_use]
    pub fn trusted_proxies(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Arc::make_mut(&mut self.site).trusted_proxies = addresses.into_iter().collect();
        self
    }

    /// Reads these fields before `Cache-Control`, the first of them first, and then instead of it (RFC 9213). Without it
    /// none: `CDN-Cache-Control` is for the caches before this one.
    #[must_use]
    pub fn targeted_fields(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        Arc::make_mut(&mut self.site).targets = names.into_iter().collect();
        self
    }

    /// Takes answers that say nothing for fresh during this part of the time since their `Last-Modified`
    /// (RFC 9111, section 4.2.2). A tenth is usual; zero, the default, never guesses.
    #[must_use]
    pub fn heuristic(mut self, fraction: f64) -> Self {
        Arc::make_mut(&mut self.site).heuristic = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
        self
    }

    /// Lets clients have pages made anew: `no-cache`, `max-age` and `min-fresh` in a request count. Without it they do not,
    /// because then any stranger can keep the views busy.
    #[must_use]
    pub fn obey_reload(mut self, obeys: bool) -> Self {
        Arc::make_mut(&mut self.site).obeys_reload = obeys;
        self
    }

    /// Gives pages an `ETag` that have none, a digest of the body, so that clients need not fetch them again; on by
    /// default.
    #[must_use]
    pub fn etags(mut self, makes: bool) -> Self {
        Arc::make_mut(&mut self.site).etags = makes;
        self
    }

    /// Keeps pages of text in codings too, `br`, `zstd` and `gzip`, made once when the page is stored: clients get the one
    /// they like best. They take about half the room of the page again. Then no `Compress` is needed around views whose
    /// pages are kept; pages of a view that has one are left as it made them.
    #[must_use]
    pub fn compress(mut self, compresses: bool) -> Self {
        Arc::make_mut(&mut self.site).compresses = compresses;
        self
    }

    /// Names the tags of each stored page in this field of its answers, so that a cache before this one can be purged by
    /// them: `Cache-Tag`, separated by commas, or `Surrogate-Key`, separated by blanks. Without it strangers do not learn
    /// them.
    #[must_use]
    pub fn tag_field(mut self, name: HeaderName) -> Self {
        Arc::make_mut(&mut self.site).tag_field = Some(name);
        self
    }

    /// Removes the pages of an address, all variants of them: from every cache, without a prefix, with that of
    /// [`site`](PageCache::site), and with those of the marks on views that run in this process. `url` is
    /// `http://example.org/objects/7/?page=2`, with the host under which clients ask for it; the scheme does not matter.
    /// Returns how many entries there were.
    ///
    /// # Errors
    /// [`Error::InvalidKey`](crate::Error::InvalidKey) if that is no such address. Otherwise what stands in the store's
    /// way: the removal is kept, and delivered when the store answers.
    ///
    /// # Examples
    /// ```
    /// use larder_cache::{Caches, page::PageCache};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let pages = PageCache::new(Caches::local());
    /// assert_eq!(pages.purge_url("http://localhost:8000/objects/7/").await?, 0);
    /// assert!(pages.purge_url("/objects/7/").await.is_err());
    /// # Ok::<_, larder_cache::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn purge_url(&self, url: &str) -> crate::Result<usize> {
        let (host, target) = address(url)?;
        pages::purge(&self.caches, &self.site, self.whole_site.as_ref(), &host, &target, "purge by address").await
    }

    /// Removes all pages whose address begins like this, in every cache: `http://example.org/objects/` those of all objects,
    /// `http://example.org/` those of the whole host. Takes a second, until no process believes that they are still good.
    ///
    /// # Errors
    /// [`Error::InvalidKey`](crate::Error::InvalidKey) if that is no such address. Otherwise what stands in the way of one of
    /// the stores; then try again, in the others they are purged.
    ///
    /// # Examples
    /// ```
    /// use larder_cache::{Caches, page::PageCache};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let pages = PageCache::new(Caches::local());
    /// pages.purge_prefix("http://localhost:8000/objects/").await?;
    /// # Ok::<_, larder_cache::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn purge_prefix(&self, url: &str) -> crate::Result<()> {
        let (host, prefix) = address(url)?;
        let mut purged = Ok(());
        for (alias, ..) in self.caches.iter() {
            purged = purged.and(self.purge_prefix_in(alias, &host, &prefix).await);
        }
        purges::believed().await;
        purged
    }

    async fn purge_prefix_in(&self, alias: &str, host: &str, prefix: &str) -> crate::Result<()> {
        let cache = self.caches.get(alias)?;
        if !cache.capabilities().stores {
            return Ok(());
        }
        let purges = {
            let mut all = self.site.purges.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(alias.to_owned()).or_default())
        };
        purges.purge(&cache, host, prefix).await
    }

    /// Puts the reasons of decisions into `Cache-Status`, and the key under which a page lies in its store. For development:
    /// they tell strangers how the site works, and each hit is looked up anew.
    #[must_use]
    pub fn debug(mut self, debug: bool) -> Self {
        Arc::make_mut(&mut self.site).debug = debug;
        self
    }
}

/// Returns host and target of an address.
fn address(url: &str) -> crate::Result<(String, String)> {
    let uri = url.parse::<Uri>().ok();
    let parts = uri.as_ref().and_then(|uri| Some((uri.authority()?, uri.path_and_query()?)));
    let (host, target) = parts.ok_or_else(|| crate::Error::InvalidKey {
        key: url.to_owned(),
        reason: "is no address with a host; write http://example.org/path/".to_owned(),
    })?;
    Ok((host.as_str().to_ascii_lowercase(), target.as_str().to_owned()))
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
        // For most hits nobody has to wait.
        if let Some(page) = self.pages.hit(&request) {
            return Box::pin(ready(Ok(request.into_response(page).map_into_right_body())));
        }
        let service = Rc::clone(&self.service);
        let pages = Rc::clone(&self.pages);
        Box::pin(async move {
            match pages.start(&request).await {
                Start::Answer(page) => Ok(request.into_response(page).map_into_right_body()),
                Start::Renew(page, state) => {
                    let answer = pages::detached(&request, page);
                    let around = Around::new(Rc::clone(&pages), State::Open);
                    // Nobody waits for it; what became of it is in the log.
                    rt::spawn(make(service, pages, request, state, around));
                    Ok(answer)
                }
                Start::Go(state) => {
                    let around = Around::new(Rc::clone(&pages), State::Open);
                    let making = Box::pin(make(service, pages, request, state, around.clone()));
                    Making { future: Some(making), around }.await
                }
            }
        })
    }
}

/// A page in the making. If its client goes away, it is made all the same where others may wait for it, and what may change
/// something comes to its end, so that what it changed is not served.
struct Making<F: Future + 'static> {
    future: Option<Pin<Box<F>>>,
    around: Around,
}

impl<F: Future + 'static> Future for Making<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = &mut self.future else { return Poll::Pending };
        let polled = future.as_mut().poll(context);
        if polled.is_ready() {
            self.future = None;
        }
        polled
    }
}

impl<F: Future + 'static> Drop for Making<F> {
    fn drop(&mut self) {
        // A view that panicked has come to its end; there is nothing to go on with.
        if let Some(future) = self.future.take()
            && self.around.must_go_on()
            && !std::thread::panicking()
        {
            rt::spawn(future);
        }
    }
}

/// Asks the view, and does with its answer what the state says then.
async fn make<S, B>(
    service: Rc<S>,
    pages: Rc<Pages>,
    mut request: ServiceRequest,
    mut state: State,
    around: Around,
) -> Result<ServiceResponse<EitherBody<B>>, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let unsafe_one = Unsafe::of(&request);
    if unsafe_one.is_some() {
        around.must_end();
    }
    let (mut key, mut notes) = (None, Notes::default());
    let mut stand_in = None;
    if let State::Making(pending) = &mut state {
        pending.neutralise(&mut request, &pages);
        pending.prepare(&mut request, &pages);
        (key, notes) = (pending.key_in_making(), pending.notes.clone());
        stand_in = pending.may_stand_in().then(|| pages::copy_of(&request));
    }
    if let State::Expected(pending) = &state {
        pending.neutralise(&mut request, &pages);
    }
    around.set(state);
    request.extensions_mut().insert(around.clone());
    let made = match (dependencies::making(service.call(request), key, &notes).await, around.take()) {
        (Ok(made), State::Open | State::Answered) => made.map_into_left_body(),
        (Ok(made), State::PassedBy(reason)) => pages::pass_by(&pages, reason, made),
        (Ok(made), State::Making(pending)) => pending.finish(&pages, made).await,
        (Ok(made), State::Expected(mut pending)) => {
            pending.give_up().await;
            // Whoever answered did not say that it may be kept; a failure says nothing about its path.
            if !made.status().is_server_error() {
                pages.learn_mixed(made.request());
            }
            made.map_into_left_body()
        }
        (Err(error), State::Making(mut pending)) => {
            let Some(request) = stand_in else { return Err(error) };
            let status = error.as_response_error().status_code();
            match pending.instead_of_failure(&pages, &request, status).await {
                Some(page) => ServiceResponse::new(request, page).map_into_right_body(),
                None => return Err(error),
            }
        }
        (Err(error), _) => return Err(error),
    };
    if let Some(unsafe_one) = unsafe_one {
        invalidation::after(&pages, &unsafe_one, &made).await;
    }
    around.is_done();
    Ok(made)
}
