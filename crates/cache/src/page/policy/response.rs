//! Which responses may be stored, for how long, and what they say about it.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use actix_web::http::{
    StatusCode,
    header::{self, DATE, ETAG, EXPIRES, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED, SET_COOKIE, VARY},
};

use super::{
    cache_control::CacheControl,
    freshness::{Freshness, age_on_arrival, date},
    targeted,
};
use crate::clock::Timestamp;

/// Why a response was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotStored {
    /// Its status is none that is stored without the response saying so, or at all.
    Status,
    /// A middleware made another method of the request.
    Method,
    /// Middleware saw something of the request that does not count in its key, because the rule of its path was not known
    /// yet: parameters, or what it says of proxies. The next one is stored.
    Unlearned,
    /// A middleware outside of the mark added tags, before their versions were read.
    EarlyTags,
    /// The view says that another version has not changed than the stored one.
    OtherVersion,
    /// The request had an `Authorization` field, and the response does not say that others may have it.
    Authorization,
    /// The view read what belongs to one visitor: his session or the like.
    Tainted,
    /// It sets a cookie, which belongs to one visitor.
    SetCookie,
    /// It says `private`.
    Private,
    /// It says `no-store`.
    NoStore,
    /// It says `no-cache`.
    NoCache,
    /// It varies by everything: `Vary: *`.
    VaryAll,
    /// Its `Vary` field cannot be read.
    BadVary,
    /// Its lifetime is over at once.
    NoLifetime,
    /// Its body comes in pieces.
    Streaming,
    /// Its body is over the limit.
    TooLarge,
    /// The answer was to HEAD, so the body is not there to be kept.
    Head,
    /// Something that it shows was invalidated while it was made.
    Overtaken,
    /// The store does not answer, refuses, keeps nothing, or another one makes the same page.
    Store,
}

impl fmt::Display for NotStored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotStored::Status => "status",
            NotStored::Method => "method",
            NotStored::Unlearned => "unlearned",
            NotStored::EarlyTags => "early-tags",
            NotStored::OtherVersion => "other-version",
            NotStored::Authorization => "authorization",
            NotStored::Tainted => "private-data",
            NotStored::SetCookie => "set-cookie",
            NotStored::Private => "private",
            NotStored::NoStore => "no-store",
            NotStored::NoCache => "no-cache",
            NotStored::VaryAll => "vary-all",
            NotStored::BadVary => "bad-vary",
            NotStored::NoLifetime => "no-lifetime",
            NotStored::Streaming => "streaming",
            NotStored::TooLarge => "too-large",
            NotStored::Head => "head",
            NotStored::Overtaken => "overtaken",
            NotStored::Store => "store",
        })
    }
}

/// What the cache is told beside the response itself.
#[derive(Debug, Clone, Copy)]
pub struct StoringRules<'a> {
    /// How long a response is fresh that says nothing of it: the view's mark or the site's settings.
    pub configured: Duration,
    /// Whether what the response says may also be longer than that. A mark is an upper limit, a gateway's default is not.
    pub says_more: bool,
    /// Which statuses are stored though the response says nothing: 200 for most.
    pub statuses: &'a [StatusCode],
    /// Which part of the time since `Last-Modified` a response is fresh that says nothing (RFC 9111, section 4.2.2); zero
    /// for none.
    pub heuristic: f64,
    /// Fields that count instead of `Cache-Control` (RFC 9213).
    pub targets: &'a [HeaderName],
    /// Whether the request had an `Authorization` field that the view did not declare to be of no matter.
    pub is_authorized: bool,
    /// Served for so long after its lifetime while it is made anew, unless the response says so itself.
    pub stale_while_revalidate: Duration,
    /// Served for so long after its lifetime if making it anew fails, unless the response says so itself.
    pub stale_if_error: Duration,
}

/// Statuses whose responses a mark lets be stored if they say for how long themselves: those that are cacheable without
/// (RFC 9110, section 15.1), but for 405, 414 and 501, which a malformed request brings about.
const BY_WORD: [u16; 8] = [200, 203, 204, 300, 301, 308, 404, 410];

/// Statuses that may be fresh by a guess (RFC 9110, section 15.1).
const BY_HEURISTIC: [u16; 11] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];

/// Decides whether a response may be stored for others, and how long it is fresh (RFC 9111, sections 3 and 4.2).
///
/// `took` is how long it was waited for.
///
/// # Errors
/// The reason why not.
pub fn may_store(
    status: StatusCode,
    headers: &HeaderMap,
    rules: StoringRules<'_>,
    took: Duration,
    now: Timestamp,
) -> Result<Freshness, NotStored> {
    // A part of a response is not one, and what a 304 says belongs to a stored one.
    if status.is_informational() || status == StatusCode::PARTIAL_CONTENT || status == StatusCode::NOT_MODIFIED {
        return Err(NotStored::Status);
    }
    if headers.contains_key(SET_COOKIE) {
        return Err(NotStored::SetCookie);
    }
    let targeted = targeted::directives(headers, rules.targets);
    let says = targeted.unwrap_or_else(|| CacheControl::of(headers));
    let is_understood = BY_HEURISTIC.contains(&status.as_u16());
    if says.must_understand && !is_understood {
        return Err(NotStored::Status);
    }
    // Section 5.2.2.3: for caches that do not know `must-understand`.
    if says.no_store && !says.must_understand {
        return Err(NotStored::NoStore);
    }
    if says.private {
        return Err(NotStored::Private);
    }
    if rules.is_authorized && !(says.public || says.s_maxage.is_some() || says.must_revalidate) {
        return Err(NotStored::Authorization);
    }
    let clock = now.to_system_time();
    let explicit = match targeted {
        Some(says) => says.s_maxage.or(says.max_age),
        None => says.s_maxage.or(says.max_age).or_else(|| until_expires(headers, clock)),
    };
    let has_validator = headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED);
    let lifetime = match explicit {
        Some(_) if !rules.says_more && !BY_WORD.contains(&status.as_u16()) => return Err(NotStored::Status),
        Some(explicit) if !rules.says_more => explicit.min(rules.configured),
        Some(explicit) => explicit,
        None if rules.statuses.contains(&status) && !rules.configured.is_zero() => rules.configured,
        None => match guessed(headers, rules.heuristic, clock).filter(|_| is_understood || says.public) {
            Some(guess) => guess,
            None if rules.statuses.contains(&status) => Duration::ZERO,
            None => return Err(NotStored::Status),
        },
    };
    let must_revalidate = says.must_revalidate || says.s_maxage.is_some();
    let freshness = Freshness {
        initial_age: age_on_arrival(headers, took, clock),
        always_validate: says.no_cache,
        must_revalidate,
        stale_while_revalidate: says.stale_while_revalidate.unwrap_or(rules.stale_while_revalidate),
        stale_if_error: says.stale_if_error.unwrap_or(rules.stale_if_error),
        ..Freshness::new(now, lifetime)
    };
    if says.no_cache && !has_validator {
        return Err(NotStored::NoCache);
    }
    // What is not fresh is kept for its validator or for bad times, and only if the response or the site said anything.
    let is_of_use = !freshness.usable_for().is_zero() || has_validator && (explicit.is_some() || says.no_cache);
    if is_of_use { Ok(freshness) } else { Err(NotStored::NoLifetime) }
}

fn guessed(headers: &HeaderMap, fraction: f64, now: SystemTime) -> Option<Duration> {
    let since = date(headers, &DATE).unwrap_or(now).duration_since(date(headers, &LAST_MODIFIED)?).ok()?;
    // RFC 9111, section 4.2.2 suggests a tenth; a day is as much as anybody should guess.
    (fraction > 0.0).then(|| since.mul_f64(fraction.min(1.0)).min(Duration::from_secs(24 * 60 * 60)))
}

/// Returns the time from `Date`, or else from now, to `Expires`; none is left if the date has passed or is no date
/// (RFC 9111, section 5.3).
fn until_expires(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    headers.get(EXPIRES)?;
    let made = date(headers, &DATE).unwrap_or(now);
    // Several that differ are as good as none that can be read.
    let is_one = headers.get_all(EXPIRES).count() == 1;
    let expires = date(headers, &EXPIRES).filter(|_| is_one);
    Some(expires.and_then(|expires| expires.duration_since(made).ok()).unwrap_or_default())
}

/// Returns the names in all `Vary` fields, in lower case, sorted, each once (RFC 9110, section 12.5.5).
///
/// # Errors
/// `*` anywhere among them, or a field that cannot be read.
pub fn vary(headers: &HeaderMap) -> Result<Vec<HeaderName>, NotStored> {
    let mut names = Vec::new();
    for field in headers.get_all(VARY) {
        let text = field.to_str().map_err(|_| NotStored::BadVary)?;
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if name == "*" {
                return Err(NotStored::VaryAll);
            }
            names.push(name.to_ascii_lowercase().parse().map_err(|_| NotStored::BadVary)?);
        }
    }
    names.sort_by(|a: &HeaderName, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    Ok(names)
}

/// What clients are told at most: a year says for ever, and no date lies beyond what a field can say.
const LONGEST_TOLD: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Tells clients how long they may keep a page: adds `max-age` and `Expires` unless the response says either. Tells whether
/// it did.
///
/// `clients` is what the view grants them; zero makes them ask each time. A private page is for browsers only.
pub fn tell_clients(headers: &mut HeaderMap, clients: Duration, is_private: bool, now: SystemTime) -> bool {
    if CacheControl::of(headers).max_age.is_some() || headers.contains_key(EXPIRES) {
        return false;
    }
    let clients = clients.min(LONGEST_TOLD);
    let private = if is_private { "private, " } else { "" };
    let validate = if clients.is_zero() { ", must-revalidate" } else { "" };
    let directive = format!("{private}max-age={}{validate}", clients.as_secs());
    if let Ok(directive) = HeaderValue::try_from(directive) {
        headers.append(header::CACHE_CONTROL, directive);
    }
    let expires = httpdate::fmt_http_date(now.checked_add(clients).unwrap_or(now));
    if let Ok(expires) = HeaderValue::try_from(expires) {
        headers.insert(EXPIRES, expires);
    }
    true
}

/// Tells whether a field belongs to one connection or to this cache, and is not kept (RFC 9111, section 3.1).
pub fn is_kept(name: &HeaderName) -> bool {
    const DROPPED: [&str; 12] = [
        "connection",
        "keep-alive",
        "te",
        "transfer-encoding",
        "trailer",
        "upgrade",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        // Computed anew for each answer.
        "content-length",
        "age",
    ];
    !DROPPED.contains(&name.as_str())
}

/// Returns the value of a field that lists tags, each once; `None` if there is none. Bytes that would end a tag or the
/// field are written as in addresses, `%20`.
pub fn tag_list<'t>(tags: impl Iterator<Item = &'t String>, name: &HeaderName) -> Option<HeaderValue> {
    let separator = if name.as_str() == "surrogate-key" { " " } else { "," };
    let mut written: Vec<String> = Vec::new();
    for tag in tags {
        let byte = |byte: u8| match byte {
            b',' | b'%' => format!("%{byte:02X}"),
            _ if byte.is_ascii_graphic() => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        };
        let tag: String = tag.bytes().map(byte).collect();
        if !written.contains(&tag) {
            written.push(tag);
        }
    }
    if written.is_empty() { None } else { HeaderValue::try_from(written.join(separator)).ok() }
}

/// Returns a field value of a text and a number.
pub(crate) fn number(text: &str, number: u64) -> HeaderValue {
    // Visible ASCII is always a valid value.
    HeaderValue::try_from(format!("{text}{number}")).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_listed_once_and_cannot_leave_their_field() {
        let tags = ["object", "object:7", "a b,c%", "ü\r\nx: y", "object"].map(str::to_owned);
        let of = |name| tag_list(tags.iter(), &HeaderName::from_static(name)).unwrap();
        assert_eq!(of("cache-tag"), "object,object:7,a%20b%2Cc%25,%C3%BC%0D%0Ax:%20y");
        assert_eq!(of("surrogate-key"), "object object:7 a%20b%2Cc%25 %C3%BC%0D%0Ax:%20y");
        assert_eq!(tag_list([].iter(), &HeaderName::from_static("cache-tag")), None);
    }

    const MINUTE: Duration = Duration::from_secs(60);

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    const OK: [StatusCode; 1] = [StatusCode::OK];

    /// What a mark of a minute says.
    fn mark() -> StoringRules<'static> {
        StoringRules {
            configured: MINUTE,
            says_more: false,
            statuses: &OK,
            heuristic: 0.0,
            targets: &[],
            is_authorized: false,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
        }
    }

    /// What a gateway says that goes by the responses alone.
    fn gateway() -> StoringRules<'static> {
        StoringRules { configured: Duration::ZERO, says_more: true, ..mark() }
    }

    fn decide(
        status: u16,
        fields: &[(&'static str, &'static str)],
        rules: StoringRules<'_>,
    ) -> Result<Freshness, NotStored> {
        let status = StatusCode::from_u16(status).unwrap();
        may_store(status, &headers(fields), rules, Duration::ZERO, Timestamp::from_millis(10_000))
    }

    type Case = (u16, &'static [(&'static str, &'static str)], Result<u64, NotStored>);

    fn all_are_decided(table: &[Case], rules: StoringRules<'_>) {
        for (status, fields, expected) in table {
            let decided = decide(*status, fields, rules).map(|freshness| freshness.lifetime.as_secs());
            assert_eq!(decided, *expected, "{status} {fields:?}");
        }
    }

    #[test]
    fn a_mark_stores_what_does_not_forbid_it_up_to_its_time() {
        let table: &[Case] = &[
            (200, &[], Ok(60)),
            (200, &[("cache-control", "public")], Ok(60)),
            (200, &[("cache-control", "max-age=5")], Ok(5)),
            (200, &[("cache-control", "max-age=500")], Ok(60)),
            (200, &[("cache-control", "max-age=0, s-maxage=30")], Ok(30)),
            (200, &[("cache-control", "x-private-ok")], Ok(60)),
            (200, &[("set-cookie", "a=b")], Err(NotStored::SetCookie)),
            (200, &[("set-cookie", "a=b"), ("cache-control", "public")], Err(NotStored::SetCookie)),
            (200, &[("cache-control", "PRIVATE")], Err(NotStored::Private)),
            (200, &[("cache-control", "public, private=\"x\"")], Err(NotStored::Private)),
            (200, &[("cache-control", "No-Store")], Err(NotStored::NoStore)),
            (200, &[("cache-control", "no-cache")], Err(NotStored::NoCache)),
            (200, &[("cache-control", "no-cache"), ("etag", "\"a\"")], Ok(60)),
            (200, &[("cache-control", "max-age=0")], Err(NotStored::NoLifetime)),
            (200, &[("cache-control", "max-age=0"), ("etag", "\"a\"")], Ok(0)),
            (200, &[("cache-control", "max-age=soon")], Err(NotStored::NoLifetime)),
            (200, &[("expires", "Thu, 01 Jan 1970 00:00:40 GMT")], Ok(30)),
            (200, &[("date", "Thu, 01 Jan 1970 00:00:09 GMT"), ("expires", "Thu, 01 Jan 1970 00:00:29 GMT")], Ok(20)),
            (200, &[("expires", "Thu, 01 Jan 1970 00:00:40 GMT"), ("cache-control", "max-age=50")], Ok(50)),
            (200, &[("expires", "Thu, 01 Jan 1970 00:00:01 GMT")], Err(NotStored::NoLifetime)),
            (200, &[("expires", "0")], Err(NotStored::NoLifetime)),
            (204, &[], Err(NotStored::Status)),
            (206, &[("cache-control", "max-age=60")], Err(NotStored::Status)),
            (301, &[], Err(NotStored::Status)),
            (301, &[("cache-control", "max-age=60")], Ok(60)),
            (304, &[("cache-control", "max-age=60")], Err(NotStored::Status)),
            (404, &[], Err(NotStored::Status)),
            (404, &[("cache-control", "max-age=60")], Ok(60)),
            (400, &[("cache-control", "max-age=60")], Err(NotStored::Status)),
            (414, &[("cache-control", "max-age=60")], Err(NotStored::Status)),
            (500, &[], Err(NotStored::Status)),
            (500, &[("cache-control", "max-age=60")], Err(NotStored::Status)),
        ];
        all_are_decided(table, mark());
        let never = StoringRules { configured: Duration::ZERO, ..mark() };
        assert_eq!(decide(200, &[], never), Err(NotStored::NoLifetime));
    }

    #[test]
    fn a_gateway_goes_by_what_the_response_says() {
        let table: &[Case] = &[
            (200, &[], Err(NotStored::NoLifetime)),
            (200, &[("cache-control", "public"), ("last-modified", DAY_BEFORE)], Err(NotStored::NoLifetime)),
            (200, &[("cache-control", "max-age=500")], Ok(500)),
            (200, &[("cache-control", "max-age=5, s-maxage=500")], Ok(500)),
            (599, &[("cache-control", "max-age=500")], Ok(500)),
            (500, &[("cache-control", "max-age=500")], Ok(500)),
            (206, &[("cache-control", "max-age=500")], Err(NotStored::Status)),
            (200, &[("cache-control", "no-store, must-understand, max-age=5")], Ok(5)),
            (599, &[("cache-control", "no-store, must-understand, max-age=5")], Err(NotStored::Status)),
            (200, &[("cache-control", "no-store, max-age=5")], Err(NotStored::NoStore)),
            (200, &[("cdn-cache-control", "max-age=5"), ("cache-control", "no-store")], Err(NotStored::NoStore)),
            (200, &[("expires", "0"), ("expires", "Thu, 01 Jan 1970 00:00:40 GMT")], Err(NotStored::NoLifetime)),
        ];
        all_are_decided(table, gateway());
        let targets = [HeaderName::from_static("cdn-cache-control")];
        let table: &[Case] = &[
            (200, &[("cdn-cache-control", "max-age=5"), ("cache-control", "no-store")], Ok(5)),
            (200, &[("cdn-cache-control", "no-store"), ("cache-control", "max-age=5")], Err(NotStored::NoStore)),
            (200, &[("cdn-cache-control", "&&"), ("cache-control", "max-age=5")], Ok(5)),
            (
                200,
                &[("cdn-cache-control", "public"), ("expires", "Thu, 01 Jan 2070 00:00:40 GMT")],
                Err(NotStored::NoLifetime),
            ),
        ];
        all_are_decided(table, StoringRules { targets: &targets, ..gateway() });
    }

    const DAY_BEFORE: &str = "Wed, 31 Dec 1969 00:00:10 GMT";

    #[test]
    fn a_lifetime_is_guessed_only_where_it_may_be() {
        let guessing = StoringRules { heuristic: 0.1, ..gateway() };
        let table: &[Case] = &[
            (200, &[("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT")], Ok(1)),
            (200, &[], Err(NotStored::NoLifetime)),
            (201, &[("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT")], Err(NotStored::Status)),
            (404, &[("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT")], Ok(1)),
            (200, &[("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT"), ("cache-control", "max-age=7")], Ok(7)),
        ];
        all_are_decided(table, guessing);
    }

    #[test]
    fn an_authorized_request_is_answered_for_others_only_by_explicit_permission() {
        let authorized = StoringRules { is_authorized: true, ..mark() };
        let table: &[Case] = &[
            (200, &[], Err(NotStored::Authorization)),
            (200, &[("cache-control", "max-age=5")], Err(NotStored::Authorization)),
            (200, &[("cache-control", "public")], Ok(60)),
            (200, &[("cache-control", "s-maxage=5")], Ok(5)),
            (200, &[("cache-control", "must-revalidate")], Ok(60)),
        ];
        all_are_decided(table, authorized);
    }

    #[test]
    fn stale_windows_come_from_the_response_or_from_the_rules() {
        let rules = StoringRules { stale_while_revalidate: MINUTE, stale_if_error: MINUTE * 2, ..mark() };
        let windows = |field| {
            let decided = decide(200, &[("cache-control", field)], rules).unwrap();
            let secs = |window: Duration| window.as_secs();
            (secs(decided.stale_while_revalidate), secs(decided.stale_if_error), decided.must_revalidate)
        };
        assert_eq!(windows("public"), (60, 120, false));
        assert_eq!(windows("stale-while-revalidate=5, stale-if-error=0"), (5, 0, false));
        assert_eq!(windows("s-maxage=5"), (60, 120, true));
        let spent = decide(200, &[("cache-control", "max-age=0, stale-while-revalidate=5")], gateway()).unwrap();
        assert_eq!(spent.usable_for(), Duration::from_secs(5));
        assert_eq!(
            decide(200, &[("cache-control", "max-age=5"), ("age", "3")], gateway()).unwrap().initial_age.as_secs(),
            3
        );
    }

    #[test]
    fn vary_names_are_gathered_from_all_fields() {
        let read = |fields: &[(&'static str, &'static str)]| {
            vary(&headers(fields)).map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(read(&[]).as_deref(), Ok(""));
        assert_eq!(read(&[("vary", "Cookie,  accept"), ("vary", "ACCEPT,,")]).as_deref(), Ok("accept cookie"));
        assert_eq!(read(&[("vary", "cookie , *")]), Err(NotStored::VaryAll));
        assert_eq!(read(&[("vary", " * ")]), Err(NotStored::VaryAll));
        assert_eq!(read(&[("vary", "a b")]), Err(NotStored::BadVary));
    }

    #[test]
    fn clients_are_told_unless_the_view_told_them() {
        let tell = |fields: &[(&'static str, &'static str)], clients| {
            let mut headers = headers(fields);
            tell_clients(&mut headers, Duration::from_secs(clients), false, SystemTime::UNIX_EPOCH);
            let read =
                |name| headers.get_all(name).map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(", ");
            (read(header::CACHE_CONTROL), read(EXPIRES))
        };
        assert_eq!(tell(&[], 60), ("max-age=60".into(), "Thu, 01 Jan 1970 00:01:00 GMT".into()));
        assert_eq!(tell(&[], 0), ("max-age=0, must-revalidate".into(), "Thu, 01 Jan 1970 00:00:00 GMT".into()));
        assert_eq!(tell(&[("cache-control", "max-age=5")], 60), ("max-age=5".into(), String::new()));
        assert_eq!(tell(&[("cache-control", "public"), ("expires", "0")], 60), ("public".into(), "0".into()));
    }
}
