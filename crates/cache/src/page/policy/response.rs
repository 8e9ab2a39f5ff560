//! Which responses may be stored, for how long, and what they say about it.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use actix_web::http::{
    StatusCode,
    header::{self, DATE, EXPIRES, HeaderMap, HeaderName, HeaderValue, SET_COOKIE, VARY},
};

use super::cache_control::CacheControl;

/// Why a response was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotStored {
    /// Its status is not 200.
    Status,
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

/// Decides whether a response may be stored for others, and for how long.
///
/// `configured` is the time that the view's mark or the site's settings give. What the response says itself goes
/// first where it is shorter: `s-maxage`, or else `max-age`, or else `Expires` (RFC 9111, section 4.2.1).
///
/// # Errors
/// The reason why not.
pub fn lifetime(
    status: StatusCode,
    headers: &HeaderMap,
    configured: Duration,
    now: SystemTime,
) -> Result<Duration, NotStored> {
    if status != StatusCode::OK {
        return Err(NotStored::Status);
    }
    if headers.contains_key(SET_COOKIE) {
        return Err(NotStored::SetCookie);
    }
    let says = CacheControl::of(headers);
    if says.no_store {
        return Err(NotStored::NoStore);
    }
    if says.private {
        return Err(NotStored::Private);
    }
    if says.no_cache {
        return Err(NotStored::NoCache);
    }
    let explicit = says.s_maxage.or(says.max_age).or_else(|| until_expires(headers, now));
    let lifetime = explicit.map_or(configured, |explicit| explicit.min(configured));
    if lifetime.is_zero() { Err(NotStored::NoLifetime) } else { Ok(lifetime) }
}

/// Returns the time from `Date`, or else from now, to `Expires`; none is left if the date has passed or is no date
/// (RFC 9111, section 5.3).
fn until_expires(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let date = |name| httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok();
    headers.get(EXPIRES)?;
    let made = date(DATE).unwrap_or(now);
    Some(date(EXPIRES).and_then(|expires| expires.duration_since(made).ok()).unwrap_or_default())
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

/// Tells clients how long they may keep a page: adds `max-age` and `Expires` unless the response says either.
///
/// `clients` is what the view grants them; zero makes them ask each time.
pub fn tell_clients(headers: &mut HeaderMap, clients: Duration, now: SystemTime) {
    if CacheControl::of(headers).max_age.is_some() || headers.contains_key(EXPIRES) {
        return;
    }
    let directive = if clients.is_zero() {
        HeaderValue::from_static("max-age=0, must-revalidate")
    } else {
        number("max-age=", clients.as_secs())
    };
    headers.append(header::CACHE_CONTROL, directive);
    let expires = httpdate::fmt_http_date(now.checked_add(clients).unwrap_or(now));
    if let Ok(expires) = HeaderValue::try_from(expires) {
        headers.insert(EXPIRES, expires);
    }
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

/// Returns a field value of a text and a number.
pub(crate) fn number(text: &str, number: u64) -> HeaderValue {
    // Visible ASCII is always a valid value.
    HeaderValue::try_from(format!("{text}{number}")).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_may_be_stored_and_for_how_long() {
        type Case = (u16, &'static [(&'static str, &'static str)], Result<u64, NotStored>);
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
            (200, &[("cache-control", "max-age=0")], Err(NotStored::NoLifetime)),
            (200, &[("cache-control", "max-age=soon")], Err(NotStored::NoLifetime)),
            (200, &[("expires", "Thu, 01 Jan 1970 00:00:40 GMT")], Ok(30)),
            (200, &[("date", "Thu, 01 Jan 1970 00:00:20 GMT"), ("expires", "Thu, 01 Jan 1970 00:00:40 GMT")], Ok(20)),
            (200, &[("expires", "Thu, 01 Jan 1970 00:00:40 GMT"), ("cache-control", "max-age=50")], Ok(50)),
            (200, &[("expires", "Thu, 01 Jan 1970 00:00:01 GMT")], Err(NotStored::NoLifetime)),
            (200, &[("expires", "0")], Err(NotStored::NoLifetime)),
            (204, &[], Err(NotStored::Status)),
            (206, &[], Err(NotStored::Status)),
            (301, &[], Err(NotStored::Status)),
            (304, &[], Err(NotStored::Status)),
            (404, &[("cache-control", "max-age=60")], Err(NotStored::Status)),
            (500, &[], Err(NotStored::Status)),
        ];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        for (status, fields, expected) in table {
            let status = StatusCode::from_u16(*status).unwrap();
            let decided = lifetime(status, &headers(fields), MINUTE, now).map(|lifetime| lifetime.as_secs());
            assert_eq!(decided, *expected, "{status} {fields:?}");
        }
        assert_eq!(lifetime(StatusCode::OK, &headers(&[]), Duration::ZERO, now), Err(NotStored::NoLifetime));
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
            tell_clients(&mut headers, Duration::from_secs(clients), SystemTime::UNIX_EPOCH);
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
