//! What clients send: directives, conditions, ranges, codings, cookies, hosts.

#![no_main]

use actix_web::http::{
    Method, Uri,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use bytes::Bytes;
use larder_cache::page::policy::{
    cache_control::RequestDirectives,
    coding::{Accepted, Coding},
    conditional::{self, Preconditions, WriteConditions},
    range::{self, Ranges},
    request::{self, RequestRules, SessionCookies},
};
use libfuzzer_sys::fuzz_target;

const FIELDS: [HeaderName; 10] = [
    header::CACHE_CONTROL,
    header::PRAGMA,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_MATCH,
    header::IF_RANGE,
    header::RANGE,
    header::ACCEPT_ENCODING,
    header::COOKIE,
    header::HOST,
];

fuzz_target!(|bytes: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some((field, value)) = line.split_first() else { continue };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(FIELDS[usize::from(*field) % FIELDS.len()].clone(), value);
        }
    }
    let mut stored = HeaderMap::new();
    stored.insert(header::ETAG, HeaderValue::from_static("\"a\""));
    stored.insert(header::LAST_MODIFIED, HeaderValue::from_static("Sun, 22 Nov 2026 10:00:00 GMT"));
    let _ = RequestDirectives::of(&headers).without_reload();
    let _ = Accepted::of(&headers).choose(Coding::ALL);
    let conditions = Preconditions::of(&headers);
    let _ = conditional::is_not_modified(&conditions, &stored);
    let _ = conditional::range_applies(&conditions, &stored);
    let _ = WriteConditions::of(&headers).fails(&stored);
    let body = Bytes::from_static(b"0123456789");
    if let Ranges::Parts(parts) = range::ranges(&headers, body.len() as u64) {
        assert!(parts.iter().all(|(first, last)| first <= last && *last < body.len() as u64));
        let _ = range::multipart(&parts, None, &body, "boundary");
    }
    let rules = RequestRules {
        allowed_hosts: &["a.test".to_owned()],
        session_cookies: &SessionCookies::Named(vec!["id".to_owned()]),
        vary_on_cookies: &["lang".to_owned()],
        public: false,
        asks_response: false,
    };
    let _ = request::may_use_cache(&Method::GET, &Uri::from_static("/"), &headers, rules);
});
