//! Which requests may be answered from the cache, and may fill it.

use std::fmt;

use actix_web::http::{
    Method, Uri,
    header::{
        AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, IF_MATCH, IF_UNMODIFIED_SINCE, TRANSFER_ENCODING,
        UPGRADE,
    },
    uri::Authority,
};

/// Why a request was let through without a look at the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bypass {
    /// Its method is neither GET nor HEAD (RFC 9111, section 3).
    Method,
    /// It has a body, which no key covers, or may go on as something else than HTTP.
    Body,
    /// It has an `Authorization` field (RFC 9111, section 3.5).
    Authorization,
    /// It has a cookie that may stand for a session, or one whose name is written so that it may be read as another.
    Session,
    /// Its host is missing or not one of the allowed.
    Host,
    /// It says under which condition it is to be carried out: for the view to decide (RFC 9111, section 4.3.2).
    Precondition,
    /// The cache of the page's alias is not in the settings.
    NoCache,
}

impl fmt::Display for Bypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bypass::Method => "method",
            Bypass::Body => "body",
            Bypass::Authorization => "authorization",
            Bypass::Session => "session",
            Bypass::Host => "host",
            Bypass::Precondition => "precondition",
            Bypass::NoCache => "no-such-cache",
        })
    }
}

/// Which cookies stand for a session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SessionCookies {
    /// Every cookie may. Safe without knowing the app.
    #[default]
    Any,
    /// Those with these names; others do not keep a page from being cached.
    Named(Vec<String>),
}

/// What the cache knows of the site and the view when a request arrives.
#[derive(Debug, Clone, Copy)]
pub struct RequestRules<'a> {
    /// The hosts that pages are kept for; empty for any.
    pub allowed_hosts: &'a [String],
    /// Which cookies stand for a session.
    pub session_cookies: &'a SessionCookies,
    /// Cookies that tell pages of the view apart, and so may stand for a session.
    pub vary_on_cookies: &'a [String],
    /// Whether the view said that its page is the same for everyone.
    pub public: bool,
    /// Whether the response says whether others may have what an authorized request got (RFC 9111, section 3.5).
    pub asks_response: bool,
}

/// Tells whether the cache may deal with a request.
///
/// # Errors
/// The reason why not.
pub fn may_use_cache(method: &Method, uri: &Uri, headers: &HeaderMap, rules: RequestRules<'_>) -> Result<(), Bypass> {
    if method != Method::GET && method != Method::HEAD {
        return Err(Bypass::Method);
    }
    if has_body(headers) {
        return Err(Bypass::Body);
    }
    if host(uri, headers).is_none_or(|host| !is_allowed(host, rules.allowed_hosts)) {
        return Err(Bypass::Host);
    }
    if headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE) {
        return Err(Bypass::Precondition);
    }
    if cookies(headers).any(|(name, _)| is_ambiguous(name)) {
        return Err(Bypass::Session);
    }
    if rules.public {
        return Ok(());
    }
    if headers.contains_key(AUTHORIZATION) && !rules.asks_response {
        return Err(Bypass::Authorization);
    }
    if has_session_cookie(headers, rules) {
        return Err(Bypass::Session);
    }
    Ok(())
}

/// Returns the host of a request, without blanks around it; `None` if it is missing, empty or not a host.
///
/// HTTP/2 says it in the target. Where both say it, they must say the same: views look here or there.
pub fn host<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    let named = uri.authority().map(Authority::as_str);
    let host = match headers.get(HOST) {
        Some(host) => host.to_str().ok()?.trim(),
        None => named?,
    };
    if named.is_some_and(|named| !named.eq_ignore_ascii_case(host)) {
        return None;
    }
    let may_stand_in_a_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    (!host.is_empty() && host.bytes().all(may_stand_in_a_host)).then_some(host)
}

/// Returns a host as it is mostly written: without the port that `http` or `https` mean by themselves.
pub(crate) fn without_default_port(host: &str) -> &str {
    host.strip_suffix(":80").or_else(|| host.strip_suffix(":443")).unwrap_or(host)
}

/// Tells whether a host, with or without its port, is on a list; an empty list allows all.
pub fn is_allowed(host: &str, allowed: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    allowed.is_empty() || allowed.iter().any(|one| one.eq_ignore_ascii_case(name) || one.eq_ignore_ascii_case(host))
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).map(|length| length.as_bytes());
    headers.contains_key(TRANSFER_ENCODING)
        || headers.contains_key(UPGRADE)
        || length.is_some_and(|length| length != b"0")
}

/// Tells whether a cookie's name may be read as another one: actix decodes `%69d` to `id`.
fn is_ambiguous(name: &[u8]) -> bool {
    name.iter().any(|byte| *byte == b'%' || !byte.is_ascii_graphic())
}

fn has_session_cookie(headers: &HeaderMap, rules: RequestRules<'_>) -> bool {
    cookies(headers).any(|(name, _)| {
        let is = |one: &String| one.as_bytes() == name;
        let is_session = match rules.session_cookies {
            SessionCookies::Any => true,
            SessionCookies::Named(names) => names.iter().any(is),
        };
        is_session && !rules.vary_on_cookies.iter().any(is)
    })
}

/// Returns the names and values of all cookies, as they were sent.
pub(crate) fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let pairs = headers.get_all(COOKIE).flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.map(|pair| match pair.iter().position(|byte| *byte == b'=') {
        Some(middle) => (pair[..middle].trim_ascii(), pair[middle + 1..].trim_ascii()),
        None => (pair.trim_ascii(), &pair[..0]),
    })
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn decide(
        method: Method,
        fields: &[(&'static str, &str)],
        session: &SessionCookies,
        public: bool,
    ) -> Result<(), Bypass> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let allowed_hosts = ["larder.test".to_owned(), "[::1]".to_owned()];
        let rules = RequestRules {
            allowed_hosts: &allowed_hosts,
            session_cookies: session,
            vary_on_cookies: &["lang".to_owned()],
            public,
            asks_response: false,
        };
        may_use_cache(&method, &Uri::from_static("/"), &headers, rules)
    }

    fn get(fields: &[(&'static str, &str)]) -> Result<(), Bypass> {
        decide(Method::GET, &[&[("host", "larder.test")], fields].concat(), &SessionCookies::Any, false)
    }

    #[test]
    fn only_get_and_head_without_a_body_use_the_cache() {
        let plain = [("host", "larder.test")];
        for method in [Method::GET, Method::HEAD] {
            assert_eq!(decide(method, &plain, &SessionCookies::Any, false), Ok(()));
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert_eq!(decide(method, &plain, &SessionCookies::Any, true), Err(Bypass::Method));
        }
        assert_eq!(get(&[("content-length", "0")]), Ok(()));
        assert_eq!(get(&[("content-length", "3")]), Err(Bypass::Body));
        assert_eq!(get(&[("transfer-encoding", "chunked")]), Err(Bypass::Body));
        assert_eq!(get(&[("upgrade", "websocket")]), Err(Bypass::Body));
    }

    #[test]
    fn personal_requests_pass_by_unless_the_view_is_public() {
        assert_eq!(get(&[("authorization", "Bearer x")]), Err(Bypass::Authorization));
        assert_eq!(get(&[("cookie", "theme=dark")]), Err(Bypass::Session));
        assert_eq!(get(&[("cookie", "lang=de")]), Ok(()), "it tells pages apart");
        assert_eq!(get(&[("cookie", "lang=de; id=1")]), Err(Bypass::Session));
        assert_eq!(get(&[("if-match", "*")]), Err(Bypass::Precondition));
        let fields = [("host", "larder.test"), ("cookie", "id=1"), ("authorization", "Basic x")];
        assert_eq!(decide(Method::GET, &fields, &SessionCookies::Any, true), Ok(()));
    }

    #[test]
    fn named_session_cookies_leave_the_others_alone() {
        let named = SessionCookies::Named(vec!["id".into()]);
        let with = |cookie| decide(Method::GET, &[("host", "larder.test"), ("cookie", cookie)], &named, false);
        assert_eq!(with("theme=dark; _ga=1"), Ok(()));
        assert_eq!(with("theme=dark; id=1"), Err(Bypass::Session));
        assert_eq!(with("theme=dark;id"), Err(Bypass::Session));
        assert_eq!(with("xid=1; id2=2"), Ok(()));
        for ambiguous in ["%69d=1", "i%64=1", "\u{a0}id=1", "theme=dark; id%20=1", "i d=1"] {
            assert_eq!(with(ambiguous), Err(Bypass::Session), "{ambiguous}");
            let fields = [("host", "larder.test"), ("cookie", ambiguous)];
            assert_eq!(decide(Method::GET, &fields, &named, true), Err(Bypass::Session), "public: {ambiguous}");
        }
        assert_eq!(with("theme=a%20b"), Ok(()), "values may be written as they like");
    }

    #[test]
    fn the_host_of_target_and_field_must_be_one() {
        let host_of = |uri: &'static str, field: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            field.into_iter().for_each(|field| headers.append(HOST, HeaderValue::from_static(field)));
            host(&Uri::from_static(uri), &headers).map(str::to_owned)
        };
        assert_eq!(host_of("/", Some("a.test")).as_deref(), Some("a.test"));
        assert_eq!(host_of("http://a.test/", None).as_deref(), Some("a.test"));
        assert_eq!(host_of("http://a.test/", Some("A.test")).as_deref(), Some("A.test"));
        assert_eq!(host_of("http://b.test/", Some("a.test")), None);
        assert_eq!(host_of("/", None), None);
    }

    #[test]
    fn only_allowed_hosts_are_kept() {
        let with = |host| decide(Method::GET, &[("host", host)], &SessionCookies::Any, true);
        for host in ["larder.test", "LARDER.test:8000", " larder.test ", "[::1]", "[::1]:80"] {
            assert_eq!(with(host), Ok(()), "{host}");
        }
        for host in ["", "evil.test", "larder.test.evil.test", "larder.test@evil", "a b", "larder.test/x", "[::2]"] {
            assert_eq!(with(host), Err(Bypass::Host), "{host}");
        }
        assert_eq!(decide(Method::GET, &[], &SessionCookies::Any, true), Err(Bypass::Host));
    }
}
