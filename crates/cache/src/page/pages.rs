//! What the two middlewares share: the rules of an app, and looking a page up.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    body::{BoxBody, EitherBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode,
        header::{HeaderMap, HeaderName, HeaderValue},
    },
};
use bytes::Bytes;

use super::{
    answer::Asked,
    key::{PageId, Parts, VaryOn},
    memo::{self, Asking, Memo},
    pending::Pending,
    policy::{
        Bypass, Forward, PageOutcome,
        cache_control::RequestDirectives,
        freshness::Reuse,
        query,
        request::{self, RequestRules, SessionCookies},
    },
    purges::Purges,
    stored::{Stored, StoredPage, VaryList},
};
use crate::{
    BlockingCache, Cache, Caches, DEFAULT_MAX_WAIT, Key,
    alias::{Basis, Found, Grounds, State as EntryState, Watched},
    backend::Value,
    cache::{Patience, Queue, Step, into_bytes},
    dependencies,
    error::Result,
    timeout::Expiry,
};

pub(super) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Marks a stored page whose holes are open, with the digest of its templates. No client sees it.
pub(super) const OPEN_PAGE: HeaderName = HeaderName::from_static("larder-open-page");

/// How many paths a worker remembers the rule of.
const MAX_KNOWN_PATHS: usize = 10_000;

/// How often one look-up removes a purged page that is there again.
const MAX_REMOVALS: usize = 3;

/// How a view, or the whole site, is cached.
#[derive(Clone)]
pub(super) struct Rule {
    pub(super) timeout: Duration,
    /// Whether answers may say that they last longer, and with which status.
    pub(super) by_headers: bool,
    pub(super) alias: String,
    pub(super) key_prefix: String,
    pub(super) public: bool,
    pub(super) clients: Option<Duration>,
    pub(super) tags: Option<TagsOf>,
    /// Which statuses are stored though the answer says nothing.
    pub(super) statuses: Vec<StatusCode>,
    pub(super) stale_while_revalidate: Option<Duration>,
    pub(super) stale_if_error: Option<Duration>,
    pub(super) vary_on_headers: Vec<HeaderName>,
    pub(super) vary_on_cookies: Vec<String>,
    /// Those of them that stand for who asks.
    pub(super) session_cookies: Vec<String>,
    pub(super) vary_on: Option<Arc<VaryOn>>,
    /// The only query parameters that count, if not all do.
    pub(super) query: Option<Vec<String>>,
    /// The prefix in place of the other, if its pages are stored with open holes: only its mark can answer with them.
    pub(super) open_prefix: Option<String>,
    /// The digest of the templates that fill them, once there was a request.
    pub(super) filled_by: OnceCell<HeaderValue>,
    /// The cache of the alias, once it was looked for.
    pub(super) cache: OnceCell<Cache>,
    /// Its purges by prefix, likewise.
    pub(super) purges: OnceCell<Arc<Purges>>,
}

pub(super) type TagsOf = Arc<dyn Fn(&HttpRequest) -> Vec<String> + Send + Sync>;

impl Rule {
    pub(super) fn new(timeout: Duration) -> Self {
        Rule {
            timeout,
            by_headers: false,
            alias: crate::settings::DEFAULT_ALIAS.to_owned(),
            key_prefix: String::new(),
            public: false,
            clients: None,
            tags: None,
            statuses: vec![StatusCode::OK],
            stale_while_revalidate: None,
            stale_if_error: None,
            vary_on_headers: Vec::new(),
            vary_on_cookies: Vec::new(),
            session_cookies: Vec::new(),
            vary_on: None,
            query: None,
            open_prefix: None,
            filled_by: OnceCell::new(),
            cache: OnceCell::new(),
            purges: OnceCell::new(),
        }
    }

    /// Tells whether a request says who asks in a way that keeps the pages of the rule apart.
    pub(super) fn tells_visitor(&self, headers: &HeaderMap) -> bool {
        let is_session = |name: &[u8]| self.session_cookies.iter().any(|cookie| cookie.as_bytes() == name);
        request::cookies(headers).any(|(name, value)| is_session(name) && !value.is_empty())
    }

    /// Tells whether the pages of the rule differ by what other caches cannot know, or must not mix.
    pub(super) fn is_private(&self) -> bool {
        !self.session_cookies.is_empty() || self.vary_on.is_some()
    }

    /// Tells the caches before this one what tells the pages of the rule apart.
    pub(super) fn tell_vary(&self, headers: &mut HeaderMap) {
        let cookie = (!self.vary_on_cookies.is_empty()).then_some("cookie");
        let names: Vec<&str> = self.vary_on_headers.iter().map(HeaderName::as_str).chain(cookie).collect();
        if !names.is_empty() {
            super::headers::vary_on_headers(names).apply(headers);
        }
    }

    /// Tells whether its pages are stored with open holes.
    pub(super) fn is_open(&self) -> bool {
        self.open_prefix.is_some()
    }

    /// Tells whether a page has no holes, or was made of the templates that are here to fill them.
    fn can_fill(&self, page: &StoredPage) -> bool {
        !self.is_open() || page.field(OPEN_PAGE).is_none_or(|made_of| self.filled_by.get() == Some(made_of))
    }

    fn place(&self) -> Place {
        Place { alias: self.alias.clone(), prefix: self.key_prefix.clone(), query: self.query.clone() }
    }

    /// Notes where pages of this rule lie, for those who remove them by their address.
    pub(super) fn register(&self) {
        places().insert(self.place());
    }
}

/// Where pages lie, and under what of their address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    alias: String,
    prefix: String,
    /// The only query parameters that count, if not all do.
    query: Option<Vec<String>>,
}

/// Where the pages of all rules of this process lie.
static PLACES: Mutex<BTreeSet<Place>> = Mutex::new(BTreeSet::new());

fn places() -> std::sync::MutexGuard<'static, BTreeSet<Place>> {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule").field("timeout", &self.timeout).field("alias", &self.alias).finish_non_exhaustive()
    }
}

/// What holds for all pages of an app.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) allowed_hosts: Vec<String>,
    pub(super) session_cookies: SessionCookies,
    pub(super) max_body_bytes: usize,
    pub(super) debug: bool,
    pub(super) etags: bool,
    pub(super) compresses: bool,
    /// The field that names the tags of pages, for a cache before this one.
    pub(super) tag_field: Option<HeaderName>,
    /// The purges by prefix of each alias, which all workers share.
    pub(super) purges: Arc<Mutex<HashMap<String, Arc<Purges>>>>,
    pub(super) ignored_query: Vec<String>,
    pub(super) trusted_proxies: Vec<IpAddr>,
    pub(super) targets: Vec<HeaderName>,
    pub(super) heuristic: f64,
    /// Whether clients can have pages made anew.
    pub(super) obeys_reload: bool,
}

impl Default for Site {
    fn default() -> Self {
        Site {
            allowed_hosts: Vec::new(),
            session_cookies: SessionCookies::Any,
            max_body_bytes: 1024 * 1024,
            debug: false,
            etags: true,
            compresses: false,
            tag_field: None,
            purges: Arc::default(),
            ignored_query: Vec::new(),
            trusted_proxies: Vec::new(),
            targets: Vec::new(),
            heuristic: 0.0,
            obeys_reload: false,
        }
    }
}

/// The caches and the rules of an app, and what one worker has learned of its paths.
#[derive(Debug)]
pub(super) struct Pages {
    caches: Caches,
    pub(super) site: Arc<Site>,
    /// The rule for the whole site, if there is one.
    default_rule: Option<Rc<Rule>>,
    /// Which rule the view of a path has: only views know, so the first request for a path asks its view.
    known: RefCell<HashMap<String, Known>>,
    memo: RefCell<Memo>,
}

/// What a worker knows of a path.
#[derive(Debug, Clone)]
enum Known {
    /// All that was answered under it came from a view with this rule.
    Rule(Rc<Rule>),
    /// Something else answers under it too, for other requests: a guard tells them apart, or a middleware answers by
    /// itself. Then each request must be led to its view before the cache is asked.
    Mixed,
}

/// The key of a page in its store, for developers; `None` where nobody shall see it.
#[derive(Debug)]
pub(super) struct ShownKey(Option<String>);

/// What a look-up came to.
#[derive(Debug)]
pub(super) enum LookedUp {
    Page(HttpResponse),
    /// Serve this, and have it made anew meanwhile.
    Renew(HttpResponse, Box<Pending>),
    Missing(Box<Pending>),
    Bypass(Bypass),
}

/// How a request starts.
#[derive(Debug)]
pub(super) enum Start {
    Answer(HttpResponse),
    /// Answer at once, and have the page made all the same.
    Renew(HttpResponse, State),
    Go(State),
}

impl Pages {
    pub(super) fn new(caches: Caches, site: Arc<Site>, default_rule: Option<Rc<Rule>>) -> Self {
        if let Some(rule) = &default_rule {
            rule.register();
        }
        Pages { caches, site, default_rule, known: RefCell::default(), memo: RefCell::new(Memo::new()) }
    }

    /// Answers a request with a fresh page, if that can be done at once: no store has to be waited for, and the client asks
    /// for nothing in particular. Most hits come this way, and most of what is decided elsewhere need not be decided here.
    pub(super) fn hit(&self, request: &ServiceRequest) -> Option<HttpResponse> {
        if RequestDirectives::of(request.headers()) != RequestDirectives::default() {
            return None;
        }
        let asking = Asking::of(request)?;
        self.at_hand(request, asking).or_else(|| self.find_at_once(request, asking))
    }

    /// Answers with a page that this worker has at hand.
    fn at_hand(&self, request: &ServiceRequest, asking: Asking<'_>) -> Option<HttpResponse> {
        // What it says of itself was put into words without the key.
        if self.site.debug {
            return None;
        }
        let mut memo = self.memo.borrow_mut();
        let (ready, ages) = memo.find(asking)?;
        let cache = self.may_find(request, ready.rule())?;
        let started = cache.blocking().times_look_ups().then(Instant::now);
        let now = cache.now();
        let tells_more =
            self.parts(ready.rule(), self.is_trusted(ready.rule(), request)).has_declared(request.headers());
        if tells_more || !ready.is_good(now, self.purges_of(ready.rule()).known_last()) || dependencies::is_making_any()
        {
            return None;
        }
        ready.count(cache, asking, started);
        let (answer, outcome) = ready.answer(&self.asked(request, ready.rule()), ages, now);
        request.extensions_mut().insert(outcome);
        Some(answer)
    }

    /// Answers with a page that can be found without waiting for a store, and has it at hand from now on.
    fn find_at_once(&self, request: &ServiceRequest, asking: Asking<'_>) -> Option<HttpResponse> {
        let known = self.known.borrow();
        let rule = match known.get(request.path()) {
            Some(Known::Rule(rule)) => rule,
            _ => self.default_rule.as_ref()?,
        };
        let cache = self.may_find(request, rule).filter(|cache| cache.has_some_at_once())?;
        let id = PageId::of(request, self.parts(rule, self.is_trusted(rule, request)));
        let (mut search, grounds) = Search::at_once(cache, &id, request.headers())?;
        let now = cache.now();
        let page = search.page.take().filter(|page| !search.is_expired && page.freshness.is_fresh(now))?;
        let log = self.purges_of(rule).current_at_once(cache)?;
        if log.has_purged(page.last_purge, id.host(), id.target()) {
            return None;
        }
        search.count(cache, true, false);
        let mut answer = self.asked(request, rule).answer(&page, now);
        let outcome = PageOutcome::Hit { ttl: page.freshness.ttl(now) };
        self.announce(request.request(), answer.headers_mut(), outcome, Some(&self.shown_key(cache, &id)));
        // What is found by another address than it was asked for, or by more than that, is looked up each time.
        let is_plain = id.target() == asking.target && !id.has_declared();
        if let (Some((grounds, until)), Some(EntryState::Fresh(hit)), true) =
            (grounds, search.found.map(|found| found.state), is_plain)
        {
            let (digest, last_purge) = (id.digest(), log.last());
            let found = memo::Found { rule: Rc::clone(rule), digest, hit, page, grounds, last_purge, until };
            self.memo.borrow_mut().keep(asking, found);
        }
        Some(answer)
    }

    /// Returns the cache of a rule, if a request may be answered from it.
    fn may_find<'r>(&'r self, request: &ServiceRequest, rule: &'r Rule) -> Option<&'r Cache> {
        if rule.is_open() {
            return None;
        }
        request::may_use_cache(request.method(), request.uri(), request.headers(), self.request_rules(rule)).ok()?;
        self.cache_of(rule).ok()
    }

    fn asked(&self, request: &ServiceRequest, rule: &Rule) -> Asked {
        // Conditions, parts and codings are of the page that is filled, which nobody has had yet.
        if rule.is_open() {
            return Asked::default();
        }
        Asked::of(request.method(), request.headers(), self.site.compresses)
    }

    fn request_rules<'r>(&'r self, rule: &'r Rule) -> RequestRules<'r> {
        RequestRules {
            allowed_hosts: &self.site.allowed_hosts,
            session_cookies: &self.site.session_cookies,
            vary_on_cookies: &rule.vary_on_cookies,
            public: rule.public,
            asks_response: rule.by_headers,
        }
    }

    fn cache_of<'r>(&self, rule: &'r Rule) -> Result<&'r Cache> {
        match rule.cache.get() {
            Some(cache) => Ok(cache),
            None => {
                let cache = self.caches.get(&rule.alias)?;
                Ok(rule.cache.get_or_init(|| cache))
            }
        }
    }

    fn purges_of<'r>(&self, rule: &'r Rule) -> &'r Purges {
        rule.purges.get_or_init(|| {
            let mut all = self.site.purges.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(rule.alias.clone()).or_default())
        })
    }

    /// Starts with a request: looks it up already, if a rule applies before its view was asked.
    pub(super) async fn start(&self, request: &ServiceRequest) -> Start {
        let known = self.known.borrow().get(request.path()).cloned();
        let (rule, is_learned) = match (known, &self.default_rule) {
            // It is looked up at its mark, which knows who asks.
            (Some(Known::Rule(rule)), _) if rule.is_open() => return Start::Go(State::Open),
            (Some(Known::Rule(rule)), _) => (rule, true),
            (_, Some(rule)) => (Rc::clone(rule), false),
            (_, None) => return Start::Go(State::Open),
        };
        let expect = async |mut pending: Box<Pending>| {
            if is_learned {
                return State::Expected(pending);
            }
            pending.read_tags(request.request()).await;
            State::Making(pending)
        };
        match self.look_up(request, &rule).await {
            LookedUp::Page(page) => Start::Answer(page),
            LookedUp::Bypass(reason) => Start::Go(State::PassedBy(reason)),
            LookedUp::Renew(page, pending) => Start::Renew(page, expect(pending).await),
            LookedUp::Missing(pending) => Start::Go(expect(pending).await),
        }
    }

    /// Remembers the rule of the view that answers a path.
    pub(super) fn learn(&self, request: &ServiceRequest, rule: &Rc<Rule>) {
        let mut known = self.known.borrow_mut();
        let path = request.path();
        match known.get(path) {
            Some(Known::Mixed) => return,
            Some(Known::Rule(known)) if Rc::ptr_eq(known, rule) => return,
            Some(Known::Rule(_)) => {
                drop(known);
                return self.learn_mixed(request.request());
            }
            None => {}
        }
        if known.len() >= MAX_KNOWN_PATHS {
            known.retain(|_, known| matches!(known, Known::Mixed));
        }
        if known.len() < MAX_KNOWN_PATHS {
            known.insert(path.to_owned(), Known::Rule(Rc::clone(rule)));
        }
        self.memo.borrow_mut().forget(path);
    }

    /// Remembers that a path with a rule was answered by something without one.
    pub(super) fn learn_mixed(&self, request: &HttpRequest) {
        self.known.borrow_mut().insert(request.path().to_owned(), Known::Mixed);
        self.memo.borrow_mut().forget(request.path());
    }

    /// Tells whether what a request says of the proxies before it reaches the view, and then tells pages apart. A gateway
    /// passes it on from everybody.
    pub(super) fn is_trusted(&self, rule: &Rule, request: &ServiceRequest) -> bool {
        rule.by_headers || request.peer_addr().is_some_and(|peer| self.site.trusted_proxies.contains(&peer.ip()))
    }

    /// Returns what tells the pages of a rule apart.
    pub(super) fn parts<'r>(&'r self, rule: &'r Rule, is_trusted: bool) -> Parts<'r> {
        Parts {
            prefix: rule.open_prefix.as_deref().unwrap_or(&rule.key_prefix),
            ignored: &self.site.ignored_query,
            only: rule.query.as_deref(),
            forwarded: is_trusted,
            vary_on_headers: &rule.vary_on_headers,
            vary_on_cookies: &rule.vary_on_cookies,
            vary_on: rule.vary_on.as_deref(),
        }
    }

    pub(super) async fn look_up(&self, request: &ServiceRequest, rule: &Rc<Rule>) -> LookedUp {
        let headers = request.headers();
        if let Err(reason) = request::may_use_cache(request.method(), request.uri(), headers, self.request_rules(rule))
        {
            return LookedUp::Bypass(reason);
        }
        let cache = match self.cache_of(rule) {
            Ok(cache) => cache.clone(),
            Err(error) => {
                log::error!("a page was not cached: {error}");
                return LookedUp::Bypass(Bypass::NoCache);
            }
        };
        let asked = RequestDirectives::of(headers);
        let asked = if self.site.obeys_reload { asked } else { asked.without_reload() };
        let id = PageId::of(request, self.parts(rule, self.is_trusted(rule, request)));
        let mut queue: Option<Queue> = None;
        let mut removals = 0;
        let pending = loop {
            let mut search = Search::run(&cache, &id, headers).await;
            let log = self.purges_of(rule).current(&cache).await;
            let is_gone = |page: &StoredPage| match &log {
                Ok(_) if !rule.can_fill(page) => true,
                Ok(log) => log.has_purged(page.last_purge, id.host(), id.target()),
                // Nobody can say.
                Err(_) => true,
            };
            if search.page.as_ref().is_some_and(is_gone) {
                search.page = None;
                let seen = search.found.as_ref().and_then(|found| found.seen.clone());
                if let (Ok(_), Some(seen)) = (&log, seen) {
                    // Whoever is faster has removed or replaced it already.
                    let key = search.key.clone();
                    let removed = cache.try_run(move |cache: &BlockingCache| cache.remove_found(&key, &seen)).await;
                    removals += 1;
                    if removed.is_ok() && removals <= MAX_REMOVALS {
                        continue;
                    }
                }
            }
            let last_purge = log.map_or(0, |log| log.last());
            let now = cache.now();
            let reuse = search.page.as_ref().map(|page| match search.is_expired {
                true => page.freshness.reuse_expired(asked, now),
                false => page.freshness.reuse(asked, now),
            });
            let is_hit = matches!(reuse, Some(Reuse::Fresh | Reuse::Stale | Reuse::Renew));
            search.count(&cache, is_hit, queue.is_some());
            let key = self.shown_key(&cache, &id);
            let answer = |page: &StoredPage, has_waited: bool| {
                let ttl = page.freshness.ttl(now);
                let mut answer = self.asked(request, rule).answer(page, now);
                let outcome = if has_waited { PageOutcome::Collapsed { ttl } } else { PageOutcome::Hit { ttl } };
                self.announce(request.request(), answer.headers_mut(), outcome, Some(&key));
                answer
            };
            let renews = reuse == Some(Reuse::Renew);
            let (or_stale, is_own) = match reuse {
                Some(Reuse::Validate { or_stale, by_request }) => (or_stale, by_request),
                _ => (renews, false),
            };
            // A HEAD fills nothing, so nobody shall wait for it.
            let is_wanted = request.method() == Method::GET && !asked.no_store;
            let stale = match search.page {
                Some(page) if is_hit && !(renews && is_wanted) => {
                    queue.iter_mut().for_each(Queue::leave);
                    return LookedUp::Page(answer(&page, queue.is_some()));
                }
                stale => stale,
            };
            let mut pending = Pending::new(request, rule, cache.clone(), id.clone(), self.asked(request, rule));
            pending.stale = stale.map(|page| (page, or_stale));
            pending.varies = search.varies;
            pending.last_purge = last_purge;
            pending.forward = match reuse {
                Some(Reuse::Validate { by_request: true, .. }) => Forward::Request,
                Some(_) => Forward::Stale,
                None if pending.varies.is_some() => Forward::VaryMiss,
                None => Forward::UriMiss,
            };
            if asked.only_if_cached {
                // RFC 9211, section 2: nothing to say of an answer of one's own.
                request.extensions_mut().insert(PageOutcome::OnlyIfCached);
                return LookedUp::Page(HttpResponse::new(StatusCode::GATEWAY_TIMEOUT));
            }
            let (Some(found), true) = (search.found, is_wanted) else { break pending };
            let Ok(final_key) = cache.blocking().final_key(&search.key) else { break pending };
            let queue = match &mut queue {
                Some(queue) if queue.is_for(&final_key) => queue,
                other => other.insert(Queue::new(final_key, DEFAULT_MAX_WAIT)),
            };
            // Whoever has something to serve, or wants a page of his own, waits for nobody.
            let patience = if or_stale || is_own { Patience::Hurries } else { Patience::Waits };
            let step = cache.take_turn(queue, &search.key, found, patience).await;
            let usable = pending.stale.as_ref().filter(|_| or_stale && !is_own).map(|(page, _)| page);
            match (step, usable) {
                (Step::Look, _) => {}
                (Step::Load(loading), _) if queue.is_futile() && pending.asked.wants_anything() => {
                    pending.loading = Some((loading, Basis::default()));
                    // It is never stored, so its view shall see what this client wants of it.
                    pending.let_go().await;
                    break pending;
                }
                (Step::Load(loading), usable) => {
                    let renewed = usable.filter(|_| renews).map(|page| answer(page, false));
                    pending.loading = Some((loading, Basis::default()));
                    match renewed {
                        Some(answer) => return LookedUp::Renew(answer, Box::new(pending)),
                        None => break pending,
                    }
                }
                // Somebody makes it anew, failed to just now, or nobody could keep it.
                (_, Some(page)) => return LookedUp::Page(answer(page, false)),
                _ => break pending,
            }
        };
        LookedUp::Missing(Box::new(pending))
    }

    /// Says in the response and in the extensions of the request what became of it.
    pub(super) fn announce(
        &self,
        request: &HttpRequest,
        headers: &mut HeaderMap,
        outcome: PageOutcome,
        key: Option<&ShownKey>,
    ) {
        headers.append(CACHE_STATUS, outcome.field(self.site.debug, key.and_then(|key| key.0.as_deref())));
        request.extensions_mut().insert(outcome);
    }

    /// Returns the key of a page in its store, if it is to be shown.
    pub(super) fn shown_key(&self, cache: &Cache, id: &PageId) -> ShownKey {
        ShownKey(if self.site.debug { cache.blocking().final_key(&id.key()).ok() } else { None })
    }

    /// Removes the pages of an address, all variants of them, wherever this app keeps any.
    pub(super) async fn purge(&self, host: &str, target: &str, cause: &str) -> Result<usize> {
        purge(&self.caches, &self.site, self.default_rule.as_deref(), host, target, cause).await
    }
}

/// Returns the prefix of pages with open holes, which nobody shall find who does not fill them.
pub(super) fn open_prefix(key_prefix: &str) -> String {
    format!("{key_prefix}\u{2}open")
}

/// Removes the pages of an address, all variants of them; returns how many entries there were.
///
/// Looks in every cache: without a prefix, with that of the whole site, and with those of the marks in this process.
///
/// # Errors
/// As [`Cache::delete_many`]: what failed is kept and delivered when the store answers.
pub(super) async fn purge(
    caches: &Caches,
    site: &Site,
    whole_site: Option<&Rule>,
    host: &str,
    target: &str,
    cause: &str,
) -> Result<usize> {
    let host = host.to_ascii_lowercase();
    // Clients may name the port that goes without saying, and then ask for a page of its own.
    let bare = request::without_default_port(&host);
    let hosts = [
        ("http", bare.to_owned()),
        ("https", bare.to_owned()),
        ("http", format!("{bare}:80")),
        ("https", format!("{bare}:443")),
    ];
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut places = places().clone();
    places.extend(whole_site.map(Rule::place));
    places.extend(caches.iter().map(|(alias, ..)| Place {
        alias: alias.to_owned(),
        prefix: String::new(),
        query: None,
    }));
    let (mut removed, mut failed) = (0, Ok(()));
    for Place { alias, prefix, query: only } in places {
        let Ok(cache) = caches.get(&alias) else { continue };
        let target = match query::kept(query, &site.ignored_query, only.as_deref()) {
            kept if kept.is_empty() => path.to_owned(),
            kept => format!("{path}?{kept}"),
        };
        let prefixes = [open_prefix(&prefix), prefix];
        let of = |(scheme, host): &(&str, String)| {
            prefixes.each_ref().map(|prefix| PageId::of_target(scheme.as_bytes(), host, prefix, &target).key())
        };
        let keys: Vec<Key<'static>> = hosts.iter().flat_map(of).collect();
        match cache.because(cause).run(move |cache: &BlockingCache| cache.purge(&keys)).await {
            Ok(count) => removed += count,
            Err(error) => failed = Err(error),
        }
    }
    failed.map(|()| removed)
}

/// A look for the page of a request.
struct Search {
    /// Of the page, or of its variant for the request.
    key: Key<'static>,
    /// `None` if the key cannot be used.
    found: Option<Found>,
    page: Option<StoredPage>,
    /// Whether it was made stale by hand.
    is_expired: bool,
    /// The headers that the page varies by, and the entry that says so.
    varies: Option<(VaryList, Value)>,
}

impl Search {
    async fn run(cache: &Cache, id: &PageId, headers: &HeaderMap) -> Self {
        let key = id.key();
        let found = cache.find(&key).await.ok();
        let (list, seen) = match Search::first(id, key, found) {
            Ok(search) => return search,
            Err(varies) => varies,
        };
        let key = id.variant_key(&list, headers);
        let found = cache.find(&key).await.ok();
        Search::new(id, key, found, Some((list, seen)))
    }

    /// Does the same if nothing has to be waited for. Tells what a page that has no variants rests on, if that is known.
    fn at_once(cache: &Cache, id: &PageId, headers: &HeaderMap) -> Option<(Self, Option<(Grounds, Expiry)>)> {
        let key = id.key();
        let (found, grounds) = match cache.find_watched(&key) {
            Some(Watched { found, grounds, until }) => (found, Some((grounds, until))),
            None => (cache.find_at_once(&key)?, None),
        };
        let (list, seen) = match Search::first(id, key, Some(found)) {
            Ok(search) => return Some((search, grounds)),
            Err(varies) => varies,
        };
        let key = id.variant_key(&list, headers);
        let found = cache.find_at_once(&key)?;
        Some((Search::new(id, key, Some(found), Some((list, seen))), None))
    }

    /// Ends with what stands under the address, unless that is a list that leads on to a variant.
    fn first(id: &PageId, key: Key<'static>, found: Option<Found>) -> std::result::Result<Self, (VaryList, Value)> {
        let stored = read(found.as_ref());
        let is_stale = found.as_ref().is_some_and(Found::is_stale);
        match (stored, found.as_ref().and_then(|found| found.seen.as_ref())) {
            (Some(Stored::Varies(list)), Some(seen)) if !is_stale => Err((list, seen.clone())),
            (stored, _) => Ok(Search::read_as(id, key, found, stored, None)),
        }
    }

    fn new(id: &PageId, key: Key<'static>, found: Option<Found>, varies: Option<(VaryList, Value)>) -> Self {
        let stored = read(found.as_ref());
        Search::read_as(id, key, found, stored, varies)
    }

    fn read_as(
        id: &PageId,
        key: Key<'static>,
        found: Option<Found>,
        stored: Option<Stored>,
        varies: Option<(VaryList, Value)>,
    ) -> Self {
        let page = match stored {
            // A page that was stored before its rule said what it varies by is nobody's.
            Some(Stored::Page(page)) if varies.is_some() || !id.has_declared() => Some(page),
            _ => None,
        };
        let is_expired = found.as_ref().is_some_and(Found::is_stale);
        Search { key, found, page, is_expired, varies }
    }

    /// Counts the look; a miss at the first only.
    fn count(&self, cache: &Cache, is_hit: bool, has_waited: bool) {
        let Some(found) = &self.found else { return };
        let hit = match &found.state {
            EntryState::Fresh(hit) | EntryState::Stale(hit) => Some(hit),
            EntryState::Missing(_) => None,
        };
        cache.blocking().count(&self.key, found, hit.filter(|_| is_hit), has_waited);
    }
}

fn read(found: Option<&Found>) -> Option<Stored> {
    let (EntryState::Fresh(hit) | EntryState::Stale(hit)) = &found?.state else { return None };
    let bytes: Bytes = into_bytes(&hit.content)?;
    Stored::decode(bytes)
}

/// What [`PageCache`](super::PageCache) puts into a request for the `cache_page` inside, and gets back from it.
#[derive(Debug, Clone)]
pub(super) struct Around(Rc<AroundInner>);

#[derive(Debug)]
struct AroundInner {
    pages: Rc<Pages>,
    state: RefCell<State>,
    must_go_on: Cell<bool>,
}

/// How far the look-up of the current request is.
#[derive(Debug)]
pub(super) enum State {
    /// Nobody has a rule for the path yet.
    Open,
    /// The page is missing, and shall be stored if the view that answers has the rule by which it was looked up.
    Expected(Box<Pending>),
    /// The page is missing and shall be stored when it was made.
    Making(Box<Pending>),
    /// The cache has nothing to do with the request.
    PassedBy(Bypass),
    /// `cache_page` answered from the cache, and said so.
    Answered,
}

impl Around {
    pub(super) fn new(pages: Rc<Pages>, state: State) -> Self {
        Around(Rc::new(AroundInner { pages, state: RefCell::new(state), must_go_on: Cell::new(false) }))
    }

    pub(super) fn pages(&self) -> Rc<Pages> {
        Rc::clone(&self.0.pages)
    }

    pub(super) fn take(&self) -> State {
        self.0.state.replace(State::Open)
    }

    pub(super) fn set(&self, state: State) {
        if let State::Making(pending) = &state {
            self.0.must_go_on.set(pending.loading.is_some());
        }
        *self.0.state.borrow_mut() = state;
    }

    /// Says that this goes on whatever becomes of its client.
    pub(super) fn must_end(&self) {
        self.0.must_go_on.set(true);
    }

    /// Tells whether others may be waiting for what is being made, or it changes something.
    pub(super) fn must_go_on(&self) -> bool {
        self.0.must_go_on.get()
    }

    pub(super) fn is_done(&self) {
        self.0.must_go_on.set(false);
    }
}

/// Lets a made response through that is not to be stored.
pub(super) fn pass_by<B>(
    pages: &Pages,
    reason: Bypass,
    mut made: ServiceResponse<B>,
) -> ServiceResponse<EitherBody<B>> {
    let request = made.request().clone();
    pages.announce(&request, made.headers_mut(), PageOutcome::Bypass(reason), None);
    made.map_into_left_body()
}

/// Answers a request whose own is still needed to make the page anew.
pub(super) fn detached<B>(request: &ServiceRequest, page: HttpResponse) -> ServiceResponse<EitherBody<B, BoxBody>> {
    let copy = copy_of(request);
    if let Some(outcome) = request.extensions().get::<PageOutcome>() {
        copy.extensions_mut().insert(outcome.clone());
    }
    ServiceResponse::new(copy, page).map_into_right_body()
}

/// Copies what the middleware outside wants to know of a request. Views need theirs for themselves, so a clone will not do.
pub(super) fn copy_of(request: &ServiceRequest) -> HttpRequest {
    let mut copy = actix_web::test::TestRequest::default()
        .method(request.method().clone())
        .uri(&request.uri().to_string())
        .version(request.version());
    for (name, value) in request.headers() {
        copy = copy.append_header((name.clone(), value.clone()));
    }
    if let Some(peer) = request.peer_addr() {
        copy = copy.peer_addr(peer);
    }
    copy.to_http_request()
}
