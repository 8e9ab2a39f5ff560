//! The `Cache-Control` field (RFC 9111, section 5.2), read conservatively.

use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, HeaderMap, PRAGMA};

/// The largest number of seconds a directive can say (RFC 9111, section 1.2.2).
pub const MAX_DELTA_SECONDS: u64 = 1 << 31;

/// The directives of a response that this cache understands (RFC 9111, section 5.2.2; RFC 5861).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheControl {
    /// `public`.
    pub public: bool,
    /// `private`, with or without field names.
    pub private: bool,
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`, with or without field names.
    pub no_cache: bool,
    /// `must-revalidate` or `proxy-revalidate`.
    pub must_revalidate: bool,
    /// `must-understand`.
    pub must_understand: bool,
    /// `max-age`; zero if it is not a number.
    pub max_age: Option<Duration>,
    /// `s-maxage`; zero if it is not a number.
    pub s_maxage: Option<Duration>,
    /// `stale-while-revalidate`; zero if it is not a number.
    pub stale_while_revalidate: Option<Duration>,
    /// `stale-if-error`; zero if it is not a number.
    pub stale_if_error: Option<Duration>,
}

impl CacheControl {
    /// Reads all `Cache-Control` fields. Names are case-insensitive and compared whole, arguments may be quoted, of
    /// several values for one directive the smallest counts, and a number that is none counts as zero.
    ///
    /// # Examples
    /// ```
    /// use actix_web::http::header::{CACHE_CONTROL, HeaderMap, HeaderValue};
    /// use larder_cache::page::policy::cache_control::CacheControl;
    /// use std::time::Duration;
    ///
    /// let mut headers = HeaderMap::new();
    /// headers.append(CACHE_CONTROL, HeaderValue::from_static("max-age = \"60\", x-private-ok"));
    /// let read = CacheControl::of(&headers);
    /// assert_eq!(read.max_age, Some(Duration::from_secs(60)));
    /// assert!(!read.private);
    /// ```
    pub fn of(headers: &HeaderMap) -> Self {
        let mut read = CacheControl::default();
        each_directive(headers, |name, argument| read.add(name, seconds(argument)));
        read
    }

    /// Notes one directive by its name in lower case. `seconds` is its argument as a number.
    pub(super) fn add(&mut self, name: &str, seconds: Duration) {
        match name {
            "public" => self.public = true,
            "private" => self.private = true,
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache = true,
            "must-revalidate" | "proxy-revalidate" => self.must_revalidate = true,
            "must-understand" => self.must_understand = true,
            "max-age" => lower(&mut self.max_age, seconds),
            "s-maxage" => lower(&mut self.s_maxage, seconds),
            "stale-while-revalidate" => lower(&mut self.stale_while_revalidate, seconds),
            "stale-if-error" => lower(&mut self.stale_if_error, seconds),
            _ => {}
        }
    }
}

/// How stale a response a client takes: `max-stale` (RFC 9111, section 5.2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxStale {
    /// However stale.
    Any,
    /// For so long.
    For(Duration),
}

/// The directives of a request (RFC 9111, section 5.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestDirectives {
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`, or `Pragma: no-cache` where there is no `Cache-Control` (section 5.4).
    pub no_cache: bool,
    /// `only-if-cached`.
    pub only_if_cached: bool,
    /// `max-age`.
    pub max_age: Option<Duration>,
    /// `min-fresh`.
    pub min_fresh: Option<Duration>,
    /// `max-stale`.
    pub max_stale: Option<MaxStale>,
    /// `stale-if-error` (RFC 5861, section 4).
    pub stale_if_error: Option<Duration>,
}

impl RequestDirectives {
    /// Reads all `Cache-Control` fields of a request, as those of a response are read.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut read = RequestDirectives::default();
        if !headers.contains_key(CACHE_CONTROL) {
            let pragma = |field: &[u8]| field.to_ascii_lowercase().windows(8).any(|part| part == b"no-cache");
            read.no_cache = headers.get_all(PRAGMA).any(|field| pragma(field.as_bytes()));
            return read;
        }
        each_directive(headers, |name, argument| match name {
            "no-store" => read.no_store = true,
            "no-cache" => read.no_cache = true,
            "only-if-cached" => read.only_if_cached = true,
            "max-age" => lower(&mut read.max_age, seconds(argument)),
            "min-fresh" => {
                let new = seconds(argument);
                read.min_fresh = Some(read.min_fresh.map_or(new, |old| old.max(new)));
            }
            "max-stale" if argument.is_empty() && read.max_stale.is_none() => read.max_stale = Some(MaxStale::Any),
            "max-stale" if argument.is_empty() => {}
            "max-stale" => {
                let new = seconds(argument);
                read.max_stale = Some(match read.max_stale {
                    Some(MaxStale::For(old)) => MaxStale::For(old.min(new)),
                    _ => MaxStale::For(new),
                });
            }
            "stale-if-error" => lower(&mut read.stale_if_error, seconds(argument)),
            _ => {}
        });
        read
    }

    /// Leaves out what only makes the cache work: directives with which a stranger has pages made anew.
    #[must_use]
    pub fn without_reload(self) -> Self {
        RequestDirectives { no_cache: false, max_age: None, min_fresh: None, ..self }
    }
}

/// Hands each directive to `read`: its name in lower case and its argument without quotes.
fn each_directive(headers: &HeaderMap, mut read: impl FnMut(&str, &str)) {
    for field in headers.get_all(CACHE_CONTROL) {
        let text = String::from_utf8_lossy(field.as_bytes());
        for directive in split(&text) {
            let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
            read(&name.trim().to_ascii_lowercase(), argument.trim().trim_matches('"').trim());
        }
    }
}

fn lower(current: &mut Option<Duration>, new: Duration) {
    *current = Some(current.map_or(new, |current| current.min(new)));
}

fn seconds(argument: &str) -> Duration {
    let is_number = !argument.is_empty() && argument.bytes().all(|byte| byte.is_ascii_digit());
    // More digits than fit are a very large number, not a bad one.
    let seconds = if is_number { argument.parse().unwrap_or(MAX_DELTA_SECONDS) } else { 0 };
    Duration::from_secs(seconds.min(MAX_DELTA_SECONDS))
}

/// Splits at the commas outside of quoted strings. If a quote never ends, there is no quoted string: better one directive
/// too many than one that hides behind it.
pub(crate) fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut is_quoted, mut is_escaped) = (Vec::new(), 0, false, false);
    for (position, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b',' if !is_quoted => {
                parts.push(&text[start..position]);
                start = position + 1;
            }
            _ => {}
        }
    }
    if is_quoted {
        return text.split(',').collect();
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(CACHE_CONTROL, HeaderValue::from_str(field).unwrap());
        }
        headers
    }

    fn read(fields: &[&str]) -> CacheControl {
        CacheControl::of(&headers(fields))
    }

    fn asked(fields: &[&str]) -> RequestDirectives {
        RequestDirectives::of(&headers(fields))
    }

    #[test]
    fn directives_are_read_in_any_case_and_spacing() {
        let read = read(&[" PRIVATE ,\tNo-Store", "no-CACHE=\"set-cookie\" , max-age = 5, Proxy-Revalidate"]);
        assert!(read.private && read.no_store && read.no_cache && read.must_revalidate);
        assert_eq!(read.max_age, Some(Duration::from_secs(5)));
    }

    #[test]
    fn names_are_compared_whole_and_quoted_commas_do_not_separate() {
        assert_eq!(read(&["x-private-ok, privately", "ext=\"a, no-store, b\""]), CacheControl::default());
        assert!(read(&["private=\"x-a, x-b\", public"]).private);
    }

    #[test]
    fn nothing_hides_behind_a_quote() {
        assert!(read(&[r#"ext="a\", b", no-store"#]).no_store);
        assert!(read(&[r#"ext="a, no-store"#]).no_store, "it never ends");
        assert!(!read(&[r#"ext="a\\", x="no-store""#]).no_store);
    }

    #[test]
    fn odd_numbers_are_read_conservatively() {
        let max_age = |field| read(&[field]).max_age.unwrap().as_secs();
        assert_eq!(max_age("max-age=60, max-age=10"), 10);
        assert_eq!(max_age("max-age=-1"), 0);
        assert_eq!(max_age("max-age=1.5"), 0);
        assert_eq!(max_age("max-age"), 0);
        assert_eq!(max_age("max-age=99999999999999999999999"), MAX_DELTA_SECONDS);
        assert_eq!(read(&["stale-while-revalidate=soon"]).stale_while_revalidate, Some(Duration::ZERO));
    }

    #[test]
    fn requests_have_directives_of_their_own() {
        let secs = |seconds| Some(Duration::from_secs(seconds));
        let all = asked(&["no-store, only-if-cached, max-age=5, max-age=3, min-fresh=7", "min-fresh=9, no-cache"]);
        assert!(all.no_store && all.only_if_cached && all.no_cache);
        assert_eq!((all.max_age, all.min_fresh), (secs(3), secs(9)));
        assert_eq!(asked(&["max-stale"]).max_stale, Some(MaxStale::Any));
        assert_eq!(asked(&["max-stale, max-stale=5"]).max_stale, Some(MaxStale::For(Duration::from_secs(5))));
        assert_eq!(asked(&["max-stale=9, max-stale=5, max-stale"]).max_stale, asked(&["max-stale=5"]).max_stale);
        assert!(!all.without_reload().no_cache && all.without_reload().only_if_cached);
    }

    #[test]
    fn pragma_counts_only_without_cache_control() {
        let mut headers = HeaderMap::new();
        headers.append(PRAGMA, HeaderValue::from_static("x, No-Cache"));
        assert!(RequestDirectives::of(&headers).no_cache);
        headers.append(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
        assert!(!RequestDirectives::of(&headers).no_cache);
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes: Vec<u8>) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                headers.append(CACHE_CONTROL, value);
                let _ = (CacheControl::of(&headers), RequestDirectives::of(&headers));
            }
        }
    }
}
