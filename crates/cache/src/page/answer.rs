//! A stored page as the answer to a request: whole, a part of it, or the word that it has not changed.

use actix_web::{
    HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    http::{
        Method, StatusCode,
        header::{
            ACCEPT_RANGES, AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, EXPIRES, HeaderMap,
            HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, VARY,
        },
    },
};
use bytes::Bytes;

use super::{
    coded::Coded,
    policy::{
        coding::{self, Accepted},
        conditional::{self, Preconditions},
        range::{self, Ranges},
        response,
    },
    stored::StoredPage,
};
use crate::{clock::Timestamp, tags};

/// What a client wants of a page: under which conditions, and which parts.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    /// Whether anything: most ask for the page as it is.
    wants_anything: bool,
    conditions: Preconditions,
    /// The `Range` fields of a GET.
    ranges: HeaderMap,
    accepted: Accepted,
}

impl Asked {
    /// Reads it from a request that is still as its client sent it.
    ///
    /// `codings` says whether pages have any.
    pub(super) fn of(method: &Method, headers: &HeaderMap, codings: bool) -> Self {
        let says = [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE, RANGE];
        let accepted = if codings { Accepted::of(headers) } else { Accepted::default() };
        if !says.iter().any(|name| headers.contains_key(name)) {
            return Asked { accepted, ..Asked::default() };
        }
        let mut ranges = HeaderMap::new();
        // RFC 9110, section 14.2: for GET only.
        if method == Method::GET {
            headers.get_all(RANGE).for_each(|range| ranges.append(RANGE, range.clone()));
        }
        Asked { wants_anything: true, conditions: Preconditions::of(headers), ranges, accepted }
    }

    /// Tells whether anything but the page as it is.
    pub(super) fn wants_anything(&self) -> bool {
        self.wants_anything
    }

    /// Answers with a stored page.
    pub(super) fn answer(&self, page: &StoredPage, now: Timestamp) -> HttpResponse {
        let mut answer = HttpResponse::with_body(page.status, ());
        let headers = answer.headers_mut();
        page.fields.iter().for_each(|(name, value)| headers.append(name.clone(), value.clone()));
        headers.insert(AGE, response::number("", page.freshness.age(now).as_secs()));
        self.answer_made(answer, page.body.clone(), &page.coded)
    }

    /// Answers with the fields and the body of a page, or the body in a coding that the client takes.
    pub(super) fn answer_made(&self, mut answer: HttpResponse<()>, body: Bytes, coded: &[Coded]) -> HttpResponse {
        let body = if coded.is_empty() { body } else { self.choose(answer.headers_mut(), body, coded) };
        // RFC 9110, section 13.2.1: conditions are for answers that would be successes.
        if !answer.status().is_success() || !self.wants_anything {
            return answer.set_body(BoxBody::new(body));
        }
        if conditional::is_not_modified(&self.conditions, answer.headers()) {
            return not_modified(answer);
        }
        let length = body.len() as u64;
        let wants_parts = answer.status() == StatusCode::OK
            && !self.ranges.is_empty()
            && conditional::range_applies(&self.conditions, answer.headers());
        let ranges = if wants_parts { range::ranges(&self.ranges, length) } else { Ranges::Whole };
        let Ranges::Parts(parts) = ranges else {
            if ranges == Ranges::Unsatisfiable {
                *answer.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
                // They are of the page, which is not what the client gets.
                for name in [CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, EXPIRES, LAST_MODIFIED] {
                    answer.headers_mut().remove(name);
                }
                answer.headers_mut().insert(CONTENT_RANGE, range::unsatisfied_range(length));
                return answer.set_body(BoxBody::new(()));
            }
            return answer.set_body(BoxBody::new(body));
        };
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        answer.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let [(first, last)] = parts[..] {
            answer.headers_mut().insert(CONTENT_RANGE, range::content_range(first, last, length));
            return answer.set_body(BoxBody::new(body.slice(usize_of(first)..=usize_of(last))));
        }
        let boundary = format!("larder-{:016x}", tags::random().unwrap_or_default());
        let kind = answer.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes().to_vec());
        if let Ok(kind) = HeaderValue::try_from(format!("multipart/byteranges; boundary={boundary}")) {
            answer.headers_mut().insert(CONTENT_TYPE, kind);
        }
        answer.set_body(BoxBody::new(range::multipart(&parts, kind.as_deref(), &body, &boundary)))
    }

    /// Chooses one of the codings that there are, and says which.
    fn choose(&self, headers: &mut HeaderMap, body: Bytes, coded: &[Coded]) -> Bytes {
        headers.append(VARY, HeaderValue::from_static("accept-encoding"));
        let Some(coding) = self.accepted.choose(coded.iter().map(|coded| coded.coding)) else { return body };
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        if let Some(tag) = headers.get(ETAG).map(|tag| coding::tag_of(tag, coding)) {
            headers.insert(ETAG, tag);
        }
        coded.iter().find(|coded| coded.coding == coding).map_or(body, |coded| coded.body.clone())
    }

    /// Answers with a page that is not stored: it may be what the client has already.
    pub(super) fn is_not_modified<B: MessageBody>(&self, made: &HttpResponse<B>) -> bool {
        made.status() == StatusCode::OK
            && made.body().size() != BodySize::None
            && conditional::is_not_modified(&self.conditions, made.headers())
    }
}

/// Says that what the client has is still right (RFC 9110, section 15.4.5).
pub(super) fn not_modified<B>(answer: HttpResponse<B>) -> HttpResponse {
    let mut answer = answer.set_body(BoxBody::new(()));
    *answer.status_mut() = StatusCode::NOT_MODIFIED;
    answer.headers_mut().retain(|name, _| conditional::is_kept_in_not_modified(name));
    answer
}

/// A position in a body, which lies in memory.
fn usize_of(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}
