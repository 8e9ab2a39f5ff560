//! A page that is being made: what its view is asked, and what becomes of the answer.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    body::{BodySize, BoxBody, EitherBody, MessageBody},
    dev::{ConnectionInfo, ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode, Uri,
        header::{
            ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, COOKIE, DATE, ETAG, HeaderMap, HeaderName,
            HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, PROXY_AUTHORIZATION, X_FORWARDED_FOR,
        },
    },
};
use bytes::Bytes;

use super::{
    answer::{self, Asked},
    coded,
    collect::{Collected, collect},
    headers::{self, etag_of},
    key::{FORWARDED_FIELDS, PageId},
    pages::{Pages, Rule},
    policy::{
        Forward, NotStored, PageOutcome, coding, conditional,
        freshness::Freshness,
        request as asking,
        response::{self, StoringRules},
    },
    private::{PageTags, Taint},
    stored::{StoredPage, VaryList},
};
use crate::{
    BlockingCache, Cache, Timeout,
    alias::{Basis, Finished, Keep},
    backend::Value,
    cache::Loading,
    clock::Timestamp,
    codec::Content,
    dependencies::{self, Notes},
    envelope::Codec,
    error::{Error, Result},
    tags,
};

/// How long a page is kept beyond the time in which it is served to everybody.
const KEPT_BEYOND: Duration = Duration::from_secs(10 * 60);

/// A page that is being made.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) rule: Rc<Rule>,
    pub(super) cache: Cache,
    pub(super) id: PageId,
    /// The headers that other variants of the page vary by, and the entry that says so.
    pub(super) varies: Option<(VaryList, Value)>,
    pub(super) forward: Forward,
    /// What is stored, and whether it may be served if the page cannot be made.
    pub(super) stale: Option<(StoredPage, bool)>,
    is_authorized: bool,
    has_cookies: bool,
    pub(super) asked: Asked,
    /// Whether the view was asked whether the stored page has changed.
    is_validating: bool,
    /// Whether the view said that it has not.
    is_validated: bool,
    /// What it turns out to be made of.
    pub(super) notes: Notes,
    /// Which purge of a prefix was the last when it was looked up.
    pub(super) last_purge: u64,
    /// The tags that its rule gives it.
    tags: Vec<String>,
    /// Why the page is not to be stored, whatever it will be.
    pub(super) refusal: Option<NotStored>,
    started: Instant,
    /// The right to make the page while others wait for it, and what it must be compared with when it was made.
    pub(super) loading: Option<(Box<Loading>, Basis)>,
}

/// What may be stored of an answer.
struct Storable {
    freshness: Freshness,
    vary: Vec<HeaderName>,
}

impl Pending {
    pub(super) fn new(request: &ServiceRequest, rule: &Rc<Rule>, cache: Cache, id: PageId, asked: Asked) -> Self {
        let notes = Notes::seen_by(cache.capabilities().sharing);
        Pending {
            rule: Rc::clone(rule),
            cache,
            id,
            varies: None,
            forward: Forward::UriMiss,
            stale: None,
            is_authorized: request.headers().contains_key(AUTHORIZATION),
            has_cookies: request.headers().contains_key(COOKIE),
            asked,
            is_validating: false,
            is_validated: false,
            notes,
            last_purge: 0,
            tags: Vec::new(),
            refusal: None,
            started: Instant::now(),
            loading: None,
        }
    }

    /// Tells whether this is the page that a rule asks for.
    pub(super) fn is_for(&self, rule: &Rc<Rule>) -> bool {
        Rc::ptr_eq(&self.rule, rule)
    }

    /// Tells whether it lies where a rule has the page of a request too.
    pub(super) fn is_page_of(&self, rule: &Rule, request: &ServiceRequest, pages: &Pages) -> bool {
        let id = PageId::of(request, pages.parts(rule, pages.is_trusted(rule, request)));
        self.rule.alias == rule.alias && self.id == id
    }

    /// Returns the key that the page is made under, if it is to be stored. Who makes it must know: what is stored is not
    /// made of copies that may be old.
    pub(super) fn key_in_making(&self) -> Option<String> {
        self.loading.as_ref().and_then(|_| self.cache.blocking().final_key(&self.id.key()).ok())
    }

    /// Makes a part of the page, so that what that depends on is noted.
    pub(super) fn making<F: Future>(&self, make: F) -> impl Future<Output = F::Output> + use<F> {
        dependencies::making(make, self.key_in_making(), &self.notes)
    }

    /// Reads the versions of the page's tags. Must happen before the view reads its data.
    pub(super) async fn read_tags(&mut self, request: &HttpRequest) {
        let Some((loading, _)) = self.loading.take() else { return };
        let tags = self.rule.tags.as_ref().map(|tags_of| tags_of(request)).unwrap_or_default();
        self.tags.clone_from(&tags);
        let read = move |_: &BlockingCache| Ok((loading.basis(&tags)?, loading));
        self.loading = self.cache.try_run(read).await.ok().map(|(basis, loading)| (loading, basis));
    }

    /// Takes from a request what does not count in its key, so that neither middleware nor view can make anything of it: the
    /// parameters that do not count, what strangers say of proxies, and who asks for a page that is the same for everyone.
    /// Tells whether there was any.
    pub(super) fn neutralise(&self, request: &mut ServiceRequest, pages: &Pages) -> bool {
        if self.loading.is_none() {
            return false;
        }
        let is_trusted = pages.is_trusted(&self.rule, request);
        let uri = pages.parts(&self.rule, is_trusted).target(request.uri()).parse::<Uri>();
        let uri = uri.ok().filter(|uri| uri.path_and_query() != request.uri().path_and_query());
        // What is the same for everyone cannot be made of what says who asks.
        let mut had_any = self.rule.public && !self.rule.is_open() && forget_visitor(request.headers_mut(), &self.rule);
        had_any |= uri.is_some();
        if let Some(uri) = uri {
            request.head_mut().uri = uri;
        }
        if !is_trusted {
            let headers = request.headers_mut();
            let names = FORWARDED_FIELDS.into_iter().chain([X_FORWARDED_FOR]);
            let said_any = names.filter(|name| headers.remove(name).count() > 0).count() > 0;
            if said_any {
                request.extensions_mut().remove::<ConnectionInfo>();
            }
            had_any |= said_any;
        }
        had_any
    }

    /// Makes a request one for the whole page, as everybody may have it: without the conditions and ranges of this
    /// client, and without a body. Asks for a stored page whether it has changed.
    pub(super) fn prepare(&mut self, request: &mut ServiceRequest, pages: &Pages) {
        if self.loading.is_none() {
            return;
        }
        if pages.site.compresses {
            request.headers_mut().remove(ACCEPT_ENCODING);
        }
        conditional::strip(request.headers_mut());
        request.take_payload();
        let Some((page, _)) = &self.stale else { return };
        if page.status != StatusCode::OK || !page.has_validator() {
            return;
        }
        self.is_validating = true;
        if let Some(tag) = page.field(ETAG).filter(|_| !page.is_tagged_here) {
            request.headers_mut().insert(IF_NONE_MATCH, tag.clone());
        }
        if let Some(date) = page.field(LAST_MODIFIED) {
            request.headers_mut().insert(IF_MODIFIED_SINCE, date.clone());
        }
    }

    /// Gives the page up: those who wait for it shall make it by themselves.
    pub(super) async fn give_up(&mut self) {
        if let Some((loading, _)) = self.loading.take() {
            let given_up = move |_: &BlockingCache| {
                loading.give_up();
                Ok(())
            };
            // If it was not said, the end of the ticket says it.
            let _ = self.cache.try_run(given_up).await;
        }
    }

    /// Makes the page for this client only, for a reason that does not hold for the next one.
    pub(super) async fn refuse(&mut self, reason: NotStored) {
        self.refusal = Some(reason);
        self.let_go().await;
    }

    /// Lets those go on by themselves who wait for the page.
    pub(super) async fn let_go(&mut self) {
        if let Some((loading, _)) = self.loading.take() {
            let let_go = move |_: &BlockingCache| {
                loading.let_go();
                Ok(())
            };
            let _ = self.cache.try_run(let_go).await;
        }
    }

    /// Gives the page up for a while, and serves what is stored.
    async fn fail(&mut self) {
        if let Some((loading, _)) = self.loading.take() {
            let failed = move |cache: &BlockingCache| {
                loading.fail(Arc::new(()), cache.load_options_or_default().retry_after);
                Ok(())
            };
            let _ = self.cache.try_run(failed).await;
        }
    }

    /// Tells whether a stored page may be served should this one fail.
    pub(super) fn may_stand_in(&self) -> bool {
        matches!(self.stale, Some((_, true)))
    }

    /// Answers with what is stored, if the page could not be made and the stored one may stand in (RFC 5861, section 4).
    pub(super) async fn instead_of_failure(
        &mut self,
        pages: &Pages,
        request: &HttpRequest,
        status: StatusCode,
    ) -> Option<HttpResponse> {
        if !matches!(status.as_u16(), 500 | 502..=504) {
            return None;
        }
        let page = match self.stale.take() {
            Some((page, true)) => page,
            other => {
                self.stale = other;
                return None;
            }
        };
        self.fail().await;
        let now = self.cache.now();
        let outcome = PageOutcome::StaleIfError { status: status.as_u16(), ttl: page.freshness.ttl(now) };
        let mut answer = self.asked.answer(&page, now);
        self.announce(pages, request, answer.headers_mut(), outcome);
        Some(answer)
    }

    /// Stores a page that was made, if it may be stored, and says what became of it.
    pub(super) async fn finish<B: MessageBody + 'static>(
        mut self,
        pages: &Pages,
        made: ServiceResponse<B>,
    ) -> ServiceResponse<EitherBody<B>> {
        let (request, made) = made.into_parts();
        let status = made.status();
        if self.is_validating && status == StatusCode::NOT_MODIFIED {
            let answer = self.revalidated(pages, &request, made.headers()).await;
            return ServiceResponse::new(request, answer.map_into_right_body());
        }
        if let Some(answer) = self.instead_of_failure(pages, &request, status).await {
            return ServiceResponse::new(request, answer.map_into_right_body());
        }
        let answer = match self.decide(pages, &request, &made) {
            Err(reason) => self.pass_on(pages, &request, made, reason).await,
            Ok(_) => {
                let (head, body) = made.into_parts();
                match self.making(collect(body, pages.site.max_body_bytes)).await {
                    // What the body was made of counts too.
                    Collected::Whole(body) => match self.may_store(pages, &request, &head) {
                        Ok(storable) => self.store(pages, &request, head, body, storable).await,
                        Err(reason) => {
                            let passed = self.pass_on(pages, &request, head.set_body(BoxBody::new(body)), reason).await;
                            passed.map_body(|_, body| match body {
                                EitherBody::Left { body } | EitherBody::Right { body } => body,
                            })
                        }
                    },
                    Collected::Rest(body) => {
                        let passed = self.pass_on(pages, &request, head.set_body(body), NotStored::Streaming).await;
                        passed.map_body(|_, body| match body {
                            EitherBody::Left { body } | EitherBody::Right { body } => body,
                        })
                    }
                }
                .map_into_right_body()
            }
        };
        ServiceResponse::new(request, answer)
    }

    /// Lets an answer through that is not stored.
    async fn pass_on<B: MessageBody + 'static>(
        mut self,
        pages: &Pages,
        request: &HttpRequest,
        mut made: HttpResponse<B>,
        reason: NotStored,
    ) -> HttpResponse<EitherBody<B>> {
        self.give_up().await;
        let outcome = PageOutcome::NotStored { forward: self.forward, reason };
        // A HEAD says what its GET would, so it must tell clients the same.
        if reason == NotStored::Head
            && let Ok(freshness) = self.freshness(pages, &made)
        {
            self.tell_clients(made.headers_mut(), request, &freshness);
        }
        // Not for caches before this one either.
        if reason == NotStored::Tainted && !made.headers().contains_key(CACHE_CONTROL) {
            made.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private"));
        }
        let is_not_modified = self.asked.is_not_modified(&made);
        self.announce(pages, request, made.headers_mut(), outcome);
        if is_not_modified {
            return answer::not_modified(made).map_into_right_body();
        }
        made.map_into_left_body()
    }

    async fn store(
        self,
        pages: &Pages,
        request: &HttpRequest,
        mut head: HttpResponse<()>,
        body: Bytes,
        Storable { freshness, vary }: Storable,
    ) -> HttpResponse {
        let is_told_here = self.tell_clients(head.headers_mut(), request, &freshness);
        self.rule.tell_vary(head.headers_mut());
        let made_for = self.notes.get().vary;
        if !made_for.is_empty() {
            headers::vary_on_headers(made_for.iter().map(String::as_str)).apply(head.headers_mut());
        }
        if !head.headers().contains_key(DATE) {
            head.headers_mut().insert(DATE, date_of(self.cache.now()));
        }
        let is_tagged_here = pages.site.etags && head.status() == StatusCode::OK && !head.headers().contains_key(ETAG);
        if is_tagged_here {
            head.headers_mut().insert(ETAG, etag_of(&body));
        }
        self.tell_tags(pages, head.headers_mut(), request);
        // Where the view tells codings apart by itself, ours would stand in between.
        let is_codable = head.status() == StatusCode::OK
            && !vary.contains(&ACCEPT_ENCODING)
            && pages.site.compresses
            && coding::is_codable(head.headers());
        let coded = if is_codable { coded::all_of(&body).await } else { Vec::new() };
        let page = StoredPage::new(head.status(), head.headers(), body, freshness);
        let page = StoredPage { is_tagged_here, is_told_here, last_purge: self.last_purge, coded, ..page };
        let (asked, forward, now) = (self.asked.clone(), self.forward, self.cache.now());
        let is_validated = self.is_validated;
        let key = pages.shown_key(&self.cache, &self.id);
        let outcome = match self.keep(&page, vary, request).await {
            Ok(()) if is_validated => PageOutcome::Revalidated { ttl: freshness.ttl(now) },
            Ok(()) => PageOutcome::Stored { forward, ttl: freshness.ttl(now) },
            Err(reason) => PageOutcome::NotStored { forward, reason },
        };
        pages.announce(request, head.headers_mut(), outcome, Some(&key));
        asked.answer_made(head, page.body, &page.coded)
    }

    /// Stores what the view said has not changed, with what it said anew (RFC 9111, section 4.3.4).
    async fn revalidated(mut self, pages: &Pages, request: &HttpRequest, said: &HeaderMap) -> HttpResponse {
        let now = self.cache.now();
        let Some((page, _)) = self.stale.take() else { return HttpResponse::new(StatusCode::NOT_MODIFIED) };
        self.is_validated = true;
        let forward = self.forward;
        if conditional::is_of_another_version(said, page.field(ETAG).filter(|_| !page.is_tagged_here)) {
            self.give_up().await;
            let key = self.id.key();
            // The next one asks for the whole page.
            let _ = self.cache.run(move |cache: &BlockingCache| cache.purge(&[key])).await;
            let mut answer = self.asked.answer(&page, now);
            let outcome = PageOutcome::NotStored { forward, reason: NotStored::OtherVersion };
            self.announce(pages, request, answer.headers_mut(), outcome);
            return answer;
        }
        let mut head = HttpResponse::new(page.status).set_body(());
        *head.headers_mut() = page.said_fields();
        let fields = head.headers_mut();
        for name in said.keys().filter(|name| conditional::is_updated_by_not_modified(name) && response::is_kept(name))
        {
            fields.remove(name);
            said.get_all(name).for_each(|value| fields.append(name.clone(), value.clone()));
        }
        if !said.contains_key(DATE) {
            fields.insert(DATE, date_of(now));
        }
        match self.may_store(pages, request, &head) {
            Ok(storable) => self.store(pages, request, head, page.body, storable).await,
            Err(reason) => {
                self.give_up().await;
                self.announce(pages, request, head.headers_mut(), PageOutcome::NotStored { forward, reason });
                self.asked.answer_made(head, page.body, &page.coded)
            }
        }
    }

    fn announce(&self, pages: &Pages, request: &HttpRequest, headers: &mut HeaderMap, outcome: PageOutcome) {
        pages.announce(request, headers, outcome, Some(&pages.shown_key(&self.cache, &self.id)));
    }

    /// Tells whether an answer to this request may be kept at all, whatever it is.
    fn may_be_kept(&self, request: &HttpRequest) -> Result<(), NotStored> {
        if let Some(reason) = self.refusal {
            return Err(reason);
        }
        if self.is_tainted(request) && !self.rule.tells_visitor(request.headers()) {
            return Err(NotStored::Tainted);
        }
        match *request.method() {
            Method::GET => Ok(()),
            Method::HEAD => Err(NotStored::Head),
            _ => Err(NotStored::Method),
        }
    }

    fn is_tainted(&self, request: &HttpRequest) -> bool {
        request.extensions().get::<Taint>().is_some() || self.notes.get().is_private
    }

    fn decide<B: MessageBody>(
        &self,
        pages: &Pages,
        request: &HttpRequest,
        made: &HttpResponse<B>,
    ) -> Result<Storable, NotStored> {
        let storable = self.may_store(pages, request, made)?;
        match made.body().size() {
            // It is read by its client as it comes, and never ends.
            BodySize::Stream if is_event_stream(made.headers()) => Err(NotStored::Streaming),
            BodySize::Sized(bytes) if bytes > pages.site.max_body_bytes as u64 => Err(NotStored::TooLarge),
            _ => Ok(storable),
        }
    }

    /// Decides by all but the body, and by what the page is made of so far.
    fn may_store<B>(
        &self,
        pages: &Pages,
        request: &HttpRequest,
        head: &HttpResponse<B>,
    ) -> Result<Storable, NotStored> {
        self.may_be_kept(request)?;
        let freshness = self.freshness(pages, head)?;
        let mut vary = response::vary(head.headers())?;
        vary.extend(self.notes.get().vary.iter().filter_map(|name| name.parse().ok()));
        Ok(Storable { freshness, vary })
    }

    fn freshness<B>(&self, pages: &Pages, made: &HttpResponse<B>) -> Result<Freshness, NotStored> {
        let blocking = self.cache.blocking();
        let (rule, options) = (&self.rule, blocking.load_options_or_default());
        let rules = StoringRules {
            // What others say of theirs holds for all; what we suppose of it does not hold for those who may have a session.
            configured: if rule.by_headers && self.has_cookies { Duration::ZERO } else { rule.timeout },
            says_more: rule.by_headers,
            statuses: &rule.statuses,
            heuristic: pages.site.heuristic,
            targets: &pages.site.targets,
            is_authorized: self.is_authorized && !rule.public,
            stale_while_revalidate: rule.stale_while_revalidate.unwrap_or(options.stale_while_revalidate),
            stale_if_error: rule.stale_if_error.unwrap_or(options.stale_if_error),
        };
        let now = self.cache.now();
        let freshness = response::may_store(made.status(), made.headers(), rules, self.started.elapsed(), now)?;
        let until = self.notes.get().fresh_until;
        until.map_or(Some(freshness), |until| freshness.ending_by(until)).ok_or(NotStored::NoLifetime)
    }

    /// Tells clients how long the page is fresh for them, and whether it is for them alone. Tells whether it did.
    fn tell_clients(&self, headers: &mut HeaderMap, request: &HttpRequest, freshness: &Freshness) -> bool {
        // What a gateway passes on says what its origin said.
        if self.rule.by_headers {
            return false;
        }
        let clients = self.rule.clients.unwrap_or(self.rule.timeout).min(freshness.lifetime);
        let is_private = self.rule.is_private() || self.is_tainted(request);
        response::tell_clients(headers, clients, is_private, self.cache.now().to_system_time())
    }

    /// Names the tags of the page to a cache before this one, if the site says in which field.
    fn tell_tags(&self, pages: &Pages, headers: &mut HeaderMap, request: &HttpRequest) {
        let Some(name) = &pages.site.tag_field else { return };
        let extensions = request.extensions();
        let added = extensions.get::<PageTags>().map_or(&[][..], |tags| &tags.0);
        let mut tags: Vec<&String> = self.tags.iter().chain(added).collect();
        let noted = self.notes.get().tags;
        tags.extend(noted.iter().filter(|tag| !self.tags.contains(tag) && !added.contains(tag)));
        if let Some(tags) = response::tag_list(tags.into_iter(), name) {
            headers.insert(name.clone(), tags);
        }
    }

    async fn keep(self, page: &StoredPage, vary: Vec<HeaderName>, request: &HttpRequest) -> Result<(), NotStored> {
        // What the body was made of counts too.
        self.may_be_kept(request)?;
        // Another one makes the same page, or the store is away.
        let (Some((loading, basis)), true) = (self.loading, self.cache.capabilities().stores) else {
            return Err(NotStored::Store);
        };
        let mut discovered = request.extensions_mut().remove::<PageTags>().unwrap_or_default().0;
        discovered.extend(self.notes.get().tags);
        // One answer may name fewer headers than another one did: all of them tell the variants apart.
        let mut names = vary;
        names.extend(self.varies.iter().flat_map(|(list, _)| list.names.iter().cloned()));
        // What the rule names is part of the key already, and of the cookies nothing else counts.
        let is_declared = |name: &HeaderName| match *name {
            COOKIE => !self.rule.vary_on_cookies.is_empty(),
            _ => self.rule.vary_on_headers.contains(name),
        };
        names.retain(|name| !is_declared(name));
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        let keep = Keep {
            timeout: Timeout::After(kept_for(page, &self.rule)),
            cost: self.started.elapsed(),
            ..Keep::default()
        };
        let bytes = |bytes| Content::Payload(Codec::Bytes, bytes);
        let page = bytes(page.encode());
        let has_variants = self.id.has_declared() || !names.is_empty();
        let list = VaryList { id: tags::random().map_err(|_| NotStored::Store)?, names };
        let variant = self.id.variant_key(&list, request.headers());
        let main = self.id.key();
        let was = self.varies;
        let store = move |cache: &BlockingCache| {
            let is_listed = was.as_ref().is_some_and(|(was, _)| was.names == list.names);
            if is_listed || !has_variants {
                return loading.keep(&page, keep, basis, discovered);
            }
            let is_known = |tag: &String| basis.known().iter().any(|known| known.name == *tag);
            if was.is_some() && !discovered.iter().all(is_known) {
                // The list has no room for them, and nobody knows whether they have changed since.
                loading.give_up();
                return Ok(Finished::Overtaken);
            }
            let of_variant = Keep { tags: basis.known().to_vec(), ..keep.clone() };
            let list = bytes(list.encode());
            // Nobody finds the variant before its list is there, and nobody ever if that is overtaken.
            cache.put_kept(&variant, &page, &of_variant)?;
            match was {
                // With the tags that were found out on the way: the variant ends with the list.
                None => loading.keep(&list, keep, basis, discovered),
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

/// Takes from a request what says who asks, but for what the rule keeps pages apart by. Tells whether it
/// said anything.
pub(super) fn forget_visitor(headers: &mut HeaderMap, rule: &Rule) -> bool {
    let mut had_any = false;
    let keeps = |name| rule.vary_on_headers.contains(name);
    for name in [AUTHORIZATION, PROXY_AUTHORIZATION].iter().filter(|name| !keeps(name)) {
        had_any |= headers.remove(name).count() > 0;
    }
    if keeps(&COOKIE) {
        return had_any;
    }
    let mut kept = Vec::new();
    for (name, value) in asking::cookies(headers) {
        match rule.vary_on_cookies.iter().any(|cookie| cookie.as_bytes() == name) {
            true => kept.push([name, value].join(&b'=')),
            false => had_any = true,
        }
    }
    headers.remove(COOKIE);
    if let Ok(kept) = HeaderValue::from_bytes(&kept.join(&b"; "[..]))
        && !kept.is_empty()
    {
        headers.insert(COOKIE, kept);
    }
    had_any
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// Returns how long a page is kept in the store: as long as it may be served, and a while longer if its view can say that
/// it has not changed, or clients may take it stale.
fn kept_for(page: &StoredPage, rule: &Rule) -> Duration {
    let beyond = if rule.by_headers || page.has_validator() { KEPT_BEYOND } else { Duration::ZERO };
    page.freshness.usable_for().saturating_add(beyond)
}

fn date_of(moment: Timestamp) -> HeaderValue {
    HeaderValue::try_from(httpdate::fmt_http_date(moment.to_system_time())).unwrap_or(HeaderValue::from_static(""))
}
