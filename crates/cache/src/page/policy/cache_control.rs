//! The `Cache-Control` field (RFC 9111, section 5.2), read conservatively.

use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, HeaderMap};

/// The largest number of seconds a directive can say (RFC 9111, section 1.2.2).
const MAX_DELTA_SECONDS: u64 = 1 << 31;

/// The directives of a response that this cache understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheControl {
    /// `private`, with or without field names.
    pub private: bool,
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`, with or without field names.
    pub no_cache: bool,
    /// `max-age`; zero if it is not a number.
    pub max_age: Option<Duration>,
    /// `s-maxage`; zero if it is not a number.
    pub s_maxage: Option<Duration>,
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
        for field in headers.get_all(CACHE_CONTROL) {
            let text = String::from_utf8_lossy(field.as_bytes());
            split_outside_quotes(&text).for_each(|directive| read.add(directive));
        }
        read
    }

    fn add(&mut self, directive: &str) {
        let (name, argument) = match directive.split_once('=') {
            Some((name, argument)) => (name, argument.trim().trim_matches('"')),
            None => (directive, ""),
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "private" => self.private = true,
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache = true,
            "max-age" => lower(&mut self.max_age, seconds(argument)),
            "s-maxage" => lower(&mut self.s_maxage, seconds(argument)),
            _ => {}
        }
    }
}

fn lower(current: &mut Option<Duration>, new: Duration) {
    *current = Some(current.map_or(new, |current| current.min(new)));
}

fn seconds(argument: &str) -> Duration {
    let argument = argument.trim();
    let is_number = !argument.is_empty() && argument.bytes().all(|byte| byte.is_ascii_digit());
    // More digits than fit are a very large number, not a bad one.
    let seconds = if is_number { argument.parse().unwrap_or(MAX_DELTA_SECONDS) } else { 0 };
    Duration::from_secs(seconds.min(MAX_DELTA_SECONDS))
}

fn split_outside_quotes(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn read(fields: &[&str]) -> CacheControl {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(CACHE_CONTROL, HeaderValue::from_str(field).unwrap());
        }
        CacheControl::of(&headers)
    }

    #[test]
    fn directives_are_read_in_any_case_and_spacing() {
        let read = read(&[" PRIVATE ,\tNo-Store", "no-CACHE=\"set-cookie\" , max-age = 5"]);
        assert!(read.private && read.no_store && read.no_cache);
        assert_eq!(read.max_age, Some(Duration::from_secs(5)));
    }

    #[test]
    fn names_are_compared_whole_and_quoted_commas_do_not_separate() {
        let read = read(&["x-private-ok, privately", "ext=\"a, no-store, b\""]);
        assert_eq!(read, CacheControl::default());
        assert!(super::tests::read(&["private=\"x-a, x-b\", public"]).private);
    }

    #[test]
    fn odd_numbers_are_read_conservatively() {
        let max_age = |field| read(&[field]).max_age.unwrap().as_secs();
        assert_eq!(max_age("max-age=60, max-age=10"), 10);
        assert_eq!(max_age("max-age=-1"), 0);
        assert_eq!(max_age("max-age=1.5"), 0);
        assert_eq!(max_age("max-age"), 0);
        assert_eq!(max_age("max-age=99999999999999999999999"), MAX_DELTA_SECONDS);
    }
}
