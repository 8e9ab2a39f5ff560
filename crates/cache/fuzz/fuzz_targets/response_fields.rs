//! What views and origins say: directives, dates, ages, variants, targeted fields.

#![no_main]

use std::time::Duration;

use actix_web::http::{
    StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use larder_cache::{
    clock::Timestamp,
    page::policy::{
        cache_control::CacheControl,
        coding,
        response::{self, StoringRules},
        targeted,
    },
};
use libfuzzer_sys::fuzz_target;

const CDN: HeaderName = HeaderName::from_static("cdn-cache-control");

const FIELDS: [HeaderName; 9] = [
    header::CACHE_CONTROL,
    header::EXPIRES,
    header::DATE,
    header::AGE,
    header::VARY,
    header::LAST_MODIFIED,
    header::CONTENT_TYPE,
    header::SET_COOKIE,
    CDN,
];

fuzz_target!(|bytes: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some((field, value)) = line.split_first() else { continue };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(FIELDS[usize::from(*field) % FIELDS.len()].clone(), value);
        }
    }
    let said = CacheControl::of(&headers);
    let _ = targeted::directives(&headers, &[CDN]);
    let _ = response::vary(&headers);
    let _ = coding::is_codable(&headers);
    let rules = StoringRules {
        configured: Duration::from_secs(60),
        says_more: true,
        statuses: &[StatusCode::OK],
        heuristic: 0.1,
        targets: &[],
        is_authorized: false,
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
    };
    let now = Timestamp::from_millis(1_795_000_000_000);
    let stored = response::may_store(StatusCode::OK, &headers, rules, Duration::ZERO, now);
    assert!(stored.is_err() || !said.no_store, "no-store was stored");
    assert!(stored.is_err() || !headers.contains_key(header::SET_COOKIE), "a cookie was stored");
});
