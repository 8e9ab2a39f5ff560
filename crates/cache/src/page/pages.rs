//! What the two middlewares share: looking a page up, and storing it when it was made.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    body::{BodySize, BoxBody, EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{AGE, HeaderMap, HeaderName, HeaderValue},
    },
};
use bytes::Bytes;

use super::{
    key::PageId,
    policy::{
        self, Bypass, NotStored, PageOutcome,
        request::{self, RequestRules, SessionCookies},
        response,
    },
    stored::{Stored, StoredPage, VaryList},
};
use crate::{
    BlockingCache, Cache, Caches, DEFAULT_MAX_WAIT, Key, Timeout,
    alias::{Basis, Finished, Found, Keep},
    backend::Value,
    cache::{Loading, Patience, Queue, Step, into_bytes},
    codec::Content,
    envelope::Codec,
    error::{Error, Result},
    tags,
};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// How many paths a worker remembers the rule of.
const MAX_KNOWN_PATHS: usize = 10_000;

/// How a view, or the whole site, is cached.
#[derive(Clone)]
pub(super) struct Rule {
    pub(super) timeout: Duration,
    pub(super) alias: String,
    pub(super) key_prefix: String,
    pub(super) public: bool,
    pub(super) clients: Option<Duration>,
    pub(super) tags: Option<TagsOf>,
}

pub(super) type TagsOf = Arc<dyn Fn(&HttpRequest) -> Vec<String> + Send + Sync>;

impl Rule {
    pub(super) fn new(timeout: Duration) -> Self {
        Rule {
            timeout,
            alias: crate::settings::DEFAULT_ALIAS.to_owned(),
            key_prefix: String::new(),
            public: false,
            clients: None,
            tags: None,
        }
    }
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
}

impl Default for Site {
    fn default() -> Self {
        Site {
            allowed_hosts: Vec::new(),
            session_cookies: SessionCookies::Any,
            max_body_bytes: 1024 * 1024,
            debug: false,
        }
    }
}

/// The caches and the rules of an app, and what one worker has learned of its paths.
#[derive(Debug)]
pub(super) struct Pages {
    caches: Caches,
    site: Arc<Site>,
    /// The rule for the whole site, if there is one.
    default_rule: Option<Rc<Rule>>,
    /// Which rule the view of a path has: only views know, so the first request for a path asks its view.
    known: RefCell<HashMap<String, Known>>,
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

/// What a look-up came to.
#[derive(Debug)]
pub(super) enum LookedUp {
    Page(HttpResponse),
    Missing(Box<Pending>),
    Bypass(Bypass),
}

/// Whether a response may be stored at all, and whether this one can be.
type Decided = Result<Storable, NotStored>;

struct Storable {
    lifetime: Duration,
    vary: Vec<HeaderName>,
    body: Result<(), NotStored>,
}

/// A page that is being made, and what is needed to store it.
#[derive(Debug)]
pub(super) struct Pending {
    rule: Rc<Rule>,
    cache: Cache,
    id: PageId,
    /// The headers that other variants of the page vary by.
    varies: Option<(VaryList, Value)>,
    started: Instant,
    /// The right to make the page while others wait for it, and what it must be compared with when it was made.
    loading: Option<(Box<Loading>, Basis)>,
}

impl Pages {
    pub(super) fn new(caches: Caches, site: Arc<Site>, default_rule: Option<Rc<Rule>>) -> Self {
        Pages { caches, site, default_rule, known: RefCell::default() }
    }

    /// Returns the state in which a request starts: looked up already, if a rule applies before its view was asked.
    pub(super) async fn start(&self, request: &ServiceRequest) -> Result<State, HttpResponse> {
        let known = self.known.borrow().get(request.path()).cloned();
        let (rule, is_learned) = match (known, &self.default_rule) {
            (Some(Known::Rule(rule)), _) => (rule, true),
            (_, Some(rule)) => (Rc::clone(rule), false),
            (_, None) => return Ok(State::Open),
        };
        match self.look_up(request, &rule).await {
            LookedUp::Page(page) => Err(page),
            LookedUp::Bypass(reason) => Ok(State::PassedBy(reason)),
            LookedUp::Missing(pending) if is_learned => Ok(State::Expected(pending)),
            LookedUp::Missing(mut pending) => {
                pending.read_tags(request.request()).await;
                Ok(State::Making(pending))
            }
        }
    }

    /// Remembers the rule of the view that answers a path.
    pub(super) fn learn(&self, request: &ServiceRequest, rule: &Rc<Rule>) {
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_KNOWN_PATHS {
            known.retain(|_, known| matches!(known, Known::Mixed));
        }
        if !matches!(known.get(request.path()), Some(Known::Mixed)) && known.len() < MAX_KNOWN_PATHS {
            known.insert(request.path().to_owned(), Known::Rule(Rc::clone(rule)));
        }
    }

    /// Remembers that a path with a rule was answered by something without one.
    pub(super) fn learn_mixed(&self, request: &HttpRequest) {
        self.known.borrow_mut().insert(request.path().to_owned(), Known::Mixed);
    }

    pub(super) async fn look_up(&self, request: &ServiceRequest, rule: &Rc<Rule>) -> LookedUp {
        let rules = RequestRules {
            allowed_hosts: &self.site.allowed_hosts,
            session_cookies: &self.site.session_cookies,
            public: rule.public,
        };
        if let Err(reason) = request::may_use_cache(request.method(), request.headers(), rules) {
            return LookedUp::Bypass(reason);
        }
        let cache = match self.caches.get(&rule.alias) {
            Ok(cache) => cache,
            Err(error) => {
                log::error!("a page was not cached: {error}");
                return LookedUp::Bypass(Bypass::NoCache);
            }
        };
        let id = PageId::of(request, &rule.key_prefix);
        let mut queue: Option<Queue> = None;
        let mut pending = Pending {
            rule: Rc::clone(rule),
            cache: cache.clone(),
            id,
            varies: None,
            started: Instant::now(),
            loading: None,
        };
        loop {
            let search = Search::run(&cache, &pending.id, request.headers()).await;
            if let Some(page) = search.finish(&cache, queue.is_some()) {
                queue.iter_mut().for_each(Queue::leave);
                return LookedUp::Page(self.answer(request.request(), &page, cache.now()));
            }
            pending.varies = search.varies;
            // A HEAD fills nothing, so nobody shall wait for it.
            let (Some(found), &Method::GET) = (search.found, request.method()) else { break };
            let Ok(final_key) = cache.blocking().final_key(&search.key) else { break };
            let queue = match &mut queue {
                Some(queue) if queue.is_for(&final_key) => queue,
                other => other.insert(Queue::new(final_key, DEFAULT_MAX_WAIT)),
            };
            match cache.take_turn(queue, &search.key, found, Patience::Waits).await {
                Step::Look => {}
                Step::Load(loading) => {
                    pending.loading = Some((loading, Basis::default()));
                    break;
                }
                Step::Held | Step::Alone | Step::Failed(_) => break,
            }
        }
        LookedUp::Missing(Box::new(pending))
    }

    fn answer(&self, request: &HttpRequest, page: &StoredPage, now: crate::clock::Timestamp) -> HttpResponse {
        let age = now.saturating_since(page.stored_at);
        let mut answer = HttpResponse::new(page.status).set_body(page.body.clone());
        for (name, value) in &page.fields {
            answer.headers_mut().append(name.clone(), value.clone());
        }
        answer.headers_mut().insert(AGE, response::number("", age.as_secs()));
        self.announce(request, answer.headers_mut(), PageOutcome::Hit { ttl: Some(page.lifetime.saturating_sub(age)) });
        answer.map_into_boxed_body()
    }

    /// Stores a page that was made, if it may be stored, and says what became of it.
    pub(super) async fn finish<B: MessageBody + 'static>(
        &self,
        pending: Box<Pending>,
        made: ServiceResponse<B>,
    ) -> ServiceResponse<EitherBody<B>> {
        let (request, mut made) = made.into_parts();
        let decided = self.decide(&pending, &request, &made);
        if let Ok(Storable { lifetime, .. }) = decided {
            let clients = pending.rule.clients.unwrap_or(pending.rule.timeout).min(lifetime);
            response::tell_clients(made.headers_mut(), clients, pending.cache.now().to_system_time());
        }
        let (mut head, body) = made.into_parts();
        let (outcome, body) = match decided {
            Err(reason) | Ok(Storable { body: Err(reason), .. }) => {
                pending.give_up().await;
                (PageOutcome::NotStored(reason), EitherBody::left(body))
            }
            Ok(Storable { lifetime, vary, body: Ok(()) }) => match body.try_into_bytes() {
                Err(body) => {
                    pending.give_up().await;
                    (PageOutcome::NotStored(NotStored::Streaming), EitherBody::left(body))
                }
                Ok(body) => {
                    let page =
                        StoredPage::new(head.status(), head.headers(), body.clone(), pending.cache.now(), lifetime);
                    let outcome = match pending.keep(&page, vary, request.headers()).await {
                        Ok(()) => PageOutcome::Stored { ttl: lifetime },
                        Err(reason) => PageOutcome::NotStored(reason),
                    };
                    (outcome, EitherBody::right(BoxBody::new(body)))
                }
            },
        };
        self.announce(&request, head.headers_mut(), outcome);
        ServiceResponse::new(request, head.set_body(body))
    }

    fn decide<B: MessageBody>(&self, pending: &Pending, request: &HttpRequest, made: &HttpResponse<B>) -> Decided {
        let now = pending.cache.now().to_system_time();
        let lifetime = response::lifetime(made.status(), made.headers(), pending.rule.timeout, now)?;
        let vary = response::vary(made.headers())?;
        // A HEAD says what its GET would, so it must tell clients the same.
        let body = match made.body().size() {
            _ if request.method() == Method::HEAD => Err(NotStored::Head),
            BodySize::Stream => Err(NotStored::Streaming),
            BodySize::Sized(bytes) if bytes > self.site.max_body_bytes as u64 => Err(NotStored::TooLarge),
            _ => Ok(()),
        };
        Ok(Storable { lifetime, vary, body })
    }

    /// Says in the response and in the extensions of the request what became of it.
    pub(super) fn announce(&self, request: &HttpRequest, headers: &mut HeaderMap, outcome: PageOutcome) {
        if let Ok(status) = HeaderValue::try_from(outcome.cache_status(self.site.debug)) {
            headers.append(CACHE_STATUS, status);
        }
        request.extensions_mut().insert(outcome);
    }
}

impl Pending {
    /// Gives the page up: those who wait for it shall make it by themselves.
    pub(super) async fn give_up(self) {
        if let Some((loading, _)) = self.loading {
            let given_up = move |_: &BlockingCache| {
                loading.give_up();
                Ok(())
            };
            // If it was not said, the end of the ticket says it.
            let _ = self.cache.try_run(given_up).await;
        }
    }

    /// Reads the versions of the page's tags. Must happen before the view reads its data.
    pub(super) async fn read_tags(&mut self, request: &HttpRequest) {
        let Some((loading, _)) = self.loading.take() else { return };
        let tags = self.rule.tags.as_ref().map(|tags_of| tags_of(request)).unwrap_or_default();
        let read = move |_: &BlockingCache| Ok((loading.basis(&tags, false)?, loading));
        self.loading = self.cache.try_run(read).await.ok().map(|(basis, loading)| (loading, basis));
    }

    /// Returns the key that the page is made under, if it is to be stored. Who makes it must know: what is stored is not
    /// made of copies that may be old.
    pub(super) fn key_in_making(&self) -> Option<String> {
        self.loading.as_ref().and_then(|_| self.cache.blocking().final_key(&self.id.key()).ok())
    }

    /// Tells whether this is the page that a rule asks for.
    pub(super) fn is_for(&self, rule: &Rc<Rule>) -> bool {
        Rc::ptr_eq(&self.rule, rule)
    }

    async fn keep(self, page: &StoredPage, vary: Vec<HeaderName>, headers: &HeaderMap) -> Result<(), NotStored> {
        // Another one makes the same page, or the store is away.
        let (Some((loading, basis)), true) = (self.loading, self.cache.capabilities().stores) else {
            return Err(NotStored::Store);
        };
        // One answer may name fewer headers than another one did: all of them tell the variants apart.
        let mut names = vary;
        names.extend(self.varies.iter().flat_map(|(list, _)| list.names.iter().cloned()));
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        let keep = Keep { timeout: Timeout::After(page.lifetime), cost: self.started.elapsed(), ..Keep::default() };
        let bytes = |bytes| Content::Payload(Codec::Bytes, bytes);
        let page = bytes(page.encode());
        let list = VaryList { id: tags::random().map_err(|_| NotStored::Store)?, names };
        let variant = self.id.variant_key(&list, headers);
        let main = self.id.key();
        let was = self.varies;
        let store = move |cache: &BlockingCache| {
            if was.as_ref().map_or(&[][..], |(was, _)| &was.names) == list.names {
                return loading.keep(&page, keep, basis, Vec::new());
            }
            let of_variant = Keep { tags: basis.known().to_vec(), ..keep.clone() };
            let list = bytes(list.encode());
            // Nobody finds the variant before its list is there, and nobody ever if that is overtaken.
            cache.put_kept(&variant, &page, &of_variant)?;
            match was {
                None => loading.keep(&list, keep, Basis::default(), Vec::new()),
                Some((_, was)) => {
                    loading.give_up();
                    let replaced = cache.replace_kept(&main, &was, &list, &keep)?;
                    Ok(if replaced { Finished::Kept } else { Finished::Overtaken })
                }
            }
        };
        match self.cache.try_run(store).await {
            Ok(Finished::Kept) => Ok(()),
            Ok(Finished::Overtaken) => Err(NotStored::Overtaken),
            Ok(Finished::NotKept) => Err(NotStored::NoLifetime),
            Err(Error::ValueTooLarge { .. }) => Err(NotStored::TooLarge),
            Err(_) => Err(NotStored::Store),
        }
    }
}

/// A look for the page of a request.
struct Search {
    /// Of the page, or of its variant for the request.
    key: Key<'static>,
    /// `None` if the key cannot be used.
    found: Option<Found>,
    /// The headers that the page varies by, and the entry that says so.
    varies: Option<(VaryList, Value)>,
}

impl Search {
    async fn run(cache: &Cache, id: &PageId, headers: &HeaderMap) -> Self {
        let key = id.key();
        let found = cache.find(&key).await.ok();
        let list = match read(found.as_ref()) {
            Some(Stored::Varies(list)) => found.as_ref().and_then(|found| found.seen.clone()).map(|seen| (list, seen)),
            _ => None,
        };
        let Some((list, seen)) = list else { return Search { key, found, varies: None } };
        let key = id.variant_key(&list, headers);
        let found = cache.find(&key).await.ok();
        Search { key, found, varies: Some((list, seen)) }
    }

    /// Returns the page if it may still be used, and counts the look; a miss at the first only.
    fn finish(&self, cache: &Cache, has_waited: bool) -> Option<StoredPage> {
        let now = cache.now();
        let page = match read(self.found.as_ref()) {
            Some(Stored::Page(page)) if now.saturating_since(page.stored_at) < page.lifetime => Some(page),
            _ => None,
        };
        if let Some(found) = &self.found {
            cache.blocking().count(&self.key, found, found.fresh().filter(|_| page.is_some()), has_waited);
        }
        page
    }
}

fn read(found: Option<&Found>) -> Option<Stored> {
    let bytes: Bytes = into_bytes(&found?.fresh()?.content)?;
    Stored::decode(bytes)
}

/// What [`PageCache`](super::PageCache) puts into a request for the `cache_page` inside, and gets back from it.
#[derive(Debug, Clone)]
pub(super) struct Around(Rc<AroundInner>);

#[derive(Debug)]
struct AroundInner {
    pages: Rc<Pages>,
    state: RefCell<State>,
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
        Around(Rc::new(AroundInner { pages, state: RefCell::new(state) }))
    }

    pub(super) fn pages(&self) -> Rc<Pages> {
        Rc::clone(&self.0.pages)
    }

    pub(super) fn take(&self) -> State {
        self.0.state.replace(State::Open)
    }

    pub(super) fn set(&self, state: State) {
        *self.0.state.borrow_mut() = state;
    }
}

/// Lets a made response through that is not to be stored.
pub(super) fn pass_by<B>(
    pages: &Pages,
    reason: Bypass,
    mut made: ServiceResponse<B>,
) -> ServiceResponse<EitherBody<B>> {
    let request = made.request().clone();
    pages.announce(&request, made.headers_mut(), policy::PageOutcome::Bypass(reason));
    made.map_into_left_body()
}
