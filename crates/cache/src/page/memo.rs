//! Pages that a worker has at hand: found and read already, and good as long as nothing changes in the store.
//!
//! Most hits come from here. A page is found by what the client sent, without a digest; what it rests on is watched, not
//! read; and it shares its body with the store. Over many pages each line of memory that a hit touches counts, so what
//! pages have in common lies in one place.

use std::{
    hash::BuildHasher,
    rc::Rc,
    time::{Duration, Instant},
};

use actix_web::{
    HttpResponse,
    dev::ServiceRequest,
    http::{
        StatusCode,
        header::{AGE, ETAG, HOST, HeaderValue},
    },
};
use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashSet, HashTable, hash_table::Entry};
use smallvec::SmallVec;

use super::{
    answer::Asked,
    coded::Coded,
    key,
    pages::{CACHE_STATUS, Rule},
    policy::{PageOutcome, response},
    stored::{Field, StoredPage},
};
use crate::{
    Cache,
    alias::{Grounds, Hit},
    clock::Timestamp,
    events::What,
    key::{Key, Kind},
    timeout::Expiry,
};

/// How many pages a worker has at hand.
const MAX_PAGES: usize = 20_000;

/// How many bytes they may keep in memory when the store has dropped them already: 32 MiB.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// How many lists of fields are remembered. Pages that were made in one second differ in their `ETag` only.
const MAX_LISTS: usize = 1000;

/// How many ages.
const AGES: usize = 64;

/// The pages of one worker.
#[derive(Debug)]
pub(super) struct Memo {
    pages: HashTable<Ready>,
    hasher: DefaultHashBuilder,
    bytes: usize,
    lists: HashSet<Rc<[Field]>>,
    ages: Ages,
}

/// What a client asks for: host and target as it sent them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) host: &'a [u8],
    pub(super) target: &'a str,
}

/// A page that can be answered with.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Ready {
    /// The target, then the host.
    address: SmallVec<[u8; 40]>,
    target_length: u32,
    /// How many seconds it is fresh in all.
    lifetime: u32,
    /// What it cost to make, in microseconds.
    cost: u32,
    stored_bytes: u32,
    bytes: u32,
    status: StatusCode,
    rule: Rc<Rule>,
    grounds: Grounds,
    /// Which purge of a prefix was the last when it was found.
    last_purge: u64,
    /// When it is too old to be served, or to be served without looking.
    until: Timestamp,
    born: Timestamp,
    body: Bytes,
    coded: Box<[Coded]>,
    etag: Option<HeaderValue>,
    fields: Rc<[Field]>,
    digest: Box<[u8; 32]>,
}

/// What a search found, and may be kept at hand.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) rule: Rc<Rule>,
    pub(super) digest: [u8; 32],
    pub(super) hit: Hit,
    pub(super) page: StoredPage,
    pub(super) grounds: Grounds,
    pub(super) last_purge: u64,
    pub(super) until: Expiry,
}

/// The fields that tell of a page's age and how long it is fresh yet, for the ages that were told last.
#[derive(Debug)]
pub(super) struct Ages(Vec<Option<Age>>);

#[derive(Debug, Clone)]
struct Age {
    age: u64,
    lifetime: u64,
    ttl: i64,
    field: HeaderValue,
    status: HeaderValue,
}

impl<'a> Asking<'a> {
    /// Returns what a request asks for; `None` if it names no host.
    pub(super) fn of(request: &'a ServiceRequest) -> Option<Self> {
        let host = match request.headers().get(HOST) {
            Some(host) => host.as_bytes(),
            None => request.uri().authority()?.as_str().as_bytes(),
        };
        Some(Asking { host, target: key::target(request.uri()) })
    }

    fn hash(&self, hasher: &DefaultHashBuilder) -> u64 {
        hasher.hash_one((self.target.as_bytes(), self.host))
    }
}

impl Memo {
    pub(super) fn new() -> Self {
        Memo {
            pages: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            bytes: 0,
            lists: HashSet::new(),
            ages: Ages(vec![None; AGES]),
        }
    }

    /// Returns the page that was found for this last, to be asked whether it is still good.
    pub(super) fn find(&mut self, asking: Asking<'_>) -> Option<(&Ready, &mut Ages)> {
        let ready = self.pages.find(asking.hash(&self.hasher), |ready| ready.is_for(asking))?;
        Some((ready, &mut self.ages))
    }

    /// Keeps a page at hand.
    pub(super) fn keep(&mut self, asking: Asking<'_>, found: Found) {
        let bytes = found.page.bytes();
        if bytes > MAX_BYTES / 100 {
            return;
        }
        if self.pages.len() >= MAX_PAGES || self.bytes + bytes > MAX_BYTES {
            self.retain(|ready| ready.grounds.hold());
            // More are in use than there is room for. Begin again, so that finding it out costs little for each.
            if self.pages.len() > MAX_PAGES / 2 || self.bytes > MAX_BYTES / 2 {
                self.retain(|_| false);
            }
        }
        let ready = self.ready(asking, found);
        self.bytes += ready.bytes as usize;
        let hasher = &self.hasher;
        let rehash = |ready: &Ready| ready.asking().hash(hasher);
        match self.pages.entry(asking.hash(hasher), |ready| ready.is_for(asking), rehash) {
            Entry::Occupied(mut old) => self.bytes -= std::mem::replace(old.get_mut(), ready).bytes as usize,
            Entry::Vacant(place) => drop(place.insert(ready)),
        }
    }

    /// Forgets the pages of a path: another rule holds for it, or none.
    pub(super) fn forget(&mut self, path: &str) {
        let is_of = |ready: &Ready| ready.asking().target.split('?').next() == Some(path);
        self.retain(|ready| !is_of(ready));
    }

    fn retain(&mut self, keep: impl Fn(&Ready) -> bool) {
        self.pages.retain(|ready| keep(ready));
        self.bytes = self.pages.iter().map(|ready| ready.bytes as usize).sum();
    }

    fn ready(&mut self, asking: Asking<'_>, found: Found) -> Ready {
        let Found { rule, digest, hit, page, grounds, last_purge, until } = found;
        let small = |number: u128| u32::try_from(number).unwrap_or(u32::MAX);
        let bytes = small(page.bytes() as u128);
        let StoredPage { status, freshness, body, fields, coded, .. } = page;
        let (etag, fields): (Vec<Field>, Vec<Field>) = fields.into_iter().partition(|(name, _)| *name == ETAG);
        let fields = self.lists.get(&*fields).cloned().unwrap_or_else(|| {
            if self.lists.len() == MAX_LISTS {
                self.lists.clear();
            }
            let fields: Rc<[Field]> = fields.into();
            self.lists.insert(Rc::clone(&fields));
            fields
        });
        let until = match until {
            Expiry::At(until) => until.min(freshness.fresh_until()),
            Expiry::Never => freshness.fresh_until(),
        };
        Ready {
            address: asking.target.bytes().chain(asking.host.iter().copied()).collect(),
            target_length: small(asking.target.len() as u128),
            lifetime: small(freshness.lifetime.as_secs().into()),
            cost: small(hit.cost.as_micros()),
            stored_bytes: small(hit.stored_bytes as u128),
            bytes,
            status,
            rule,
            grounds,
            last_purge,
            until,
            born: freshness.born(),
            body,
            coded: coded.into(),
            etag: etag.into_iter().next().map(|(_, etag)| etag),
            fields,
            digest: Box::new(digest),
        }
    }
}

impl Ready {
    fn is_for(&self, asking: Asking<'_>) -> bool {
        let (target, host) = self.address.split_at(self.target_length as usize);
        target == asking.target.as_bytes() && host == asking.host
    }

    fn asking(&self) -> Asking<'_> {
        let (target, host) = self.address.split_at(self.target_length as usize);
        Asking { host, target: std::str::from_utf8(target).unwrap_or_default() }
    }

    pub(super) fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Tells whether it is what a search would find now, and fresh.
    pub(super) fn is_good(&self, now: Timestamp, last_purge: Option<u64>) -> bool {
        now < self.until && last_purge == Some(self.last_purge) && self.grounds.hold()
    }

    /// Counts a hit; `started` says when the look for it began, if somebody wants to know.
    pub(super) fn count(&self, cache: &Cache, asking: Asking<'_>, started: Option<Instant>) {
        let took = started.map(|started| started.elapsed());
        let saved = Duration::from_micros(self.cost.into());
        let what = What::Hit { stale: false, took, saved, bytes: self.stored_bytes as usize };
        cache.blocking().note(&Key::digested(Kind::Page, asking.target, *self.digest), what);
    }

    /// Answers with it.
    pub(super) fn answer(&self, asked: &Asked, ages: &mut Ages, now: Timestamp) -> (HttpResponse, PageOutcome) {
        let age = ages.of(now.saturating_since(self.born).as_secs(), self.lifetime.into());
        let mut answer = HttpResponse::with_body(self.status, ());
        let headers = answer.headers_mut();
        self.fields.iter().for_each(|(name, value)| headers.append(name.clone(), value.clone()));
        self.etag.iter().for_each(|etag| headers.append(ETAG, etag.clone()));
        headers.insert(AGE, age.field.clone());
        headers.append(CACHE_STATUS, age.status.clone());
        (asked.answer_made(answer, self.body.clone(), &self.coded), PageOutcome::Hit { ttl: age.ttl })
    }
}

impl Ages {
    fn of(&mut self, age: u64, lifetime: u64) -> &Age {
        let slot = &mut self.0[usize::try_from(age).unwrap_or(0) % AGES];
        let known = slot.take().filter(|known| (known.age, known.lifetime) == (age, lifetime));
        slot.insert(known.unwrap_or_else(|| {
            let ttl = i64::try_from(lifetime.saturating_sub(age)).unwrap_or(i64::MAX);
            // A hit says nothing more in debug.
            Age {
                age,
                lifetime,
                ttl,
                field: response::number("", age),
                status: PageOutcome::Hit { ttl }.field(false, None),
            }
        }))
    }
}
