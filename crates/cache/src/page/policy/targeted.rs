//! Fields like `CDN-Cache-Control` that speak to some caches only (RFC 9213).

use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::cache_control::{CacheControl, MAX_DELTA_SECONDS};

/// Reads the first of these fields that is there, can be read and says anything. It counts instead of `Cache-Control` and
/// `Expires` (section 2.1).
pub fn directives(headers: &HeaderMap, targets: &[HeaderName]) -> Option<CacheControl> {
    targets.iter().find_map(|name| read(headers, name))
}

fn read(headers: &HeaderMap, name: &HeaderName) -> Option<CacheControl> {
    let lines: Vec<&[u8]> = headers.get_all(name).map(|line| line.as_bytes()).collect();
    let dictionary: Dictionary = Parser::new(&lines.join(&b", "[..])).parse().ok()?;
    if dictionary.is_empty() {
        return None;
    }
    let mut read = CacheControl::default();
    for (name, entry) in &dictionary {
        let takes_seconds =
            matches!(name.as_str(), "max-age" | "s-maxage" | "stale-while-revalidate" | "stale-if-error");
        let item = match entry {
            ListEntry::Item(item) => Some(&item.bare_item),
            ListEntry::InnerList(_) => None,
        };
        match item {
            Some(BareItem::Integer(seconds)) if takes_seconds => {
                let seconds = u64::try_from(i64::from(*seconds)).unwrap_or(0).min(MAX_DELTA_SECONDS);
                read.add(name.as_str(), Duration::from_secs(seconds));
            }
            // Of another type than it should be, the whole field says nothing.
            _ if takes_seconds => return None,
            Some(BareItem::Boolean(false)) => {}
            _ => read.add(name.as_str(), Duration::ZERO),
        }
    }
    Some(read)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const TARGETS: [HeaderName; 2] =
        [HeaderName::from_static("larder-cache-control"), HeaderName::from_static("cdn-cache-control")];

    fn read(fields: &[(&'static str, &str)]) -> Option<CacheControl> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        directives(&headers, &TARGETS)
    }

    fn cdn(value: &str) -> Option<CacheControl> {
        read(&[("cdn-cache-control", value)])
    }

    #[test]
    fn the_first_target_that_says_anything_counts() {
        let max_age = |read: Option<CacheControl>| read.and_then(|read| read.max_age).map(|age| age.as_secs());
        assert_eq!(max_age(cdn("max-age=60")), Some(60));
        assert_eq!(
            max_age(read(&[("cdn-cache-control", "max-age=60"), ("larder-cache-control", "max-age=5")])),
            Some(5)
        );
        assert_eq!(max_age(read(&[("cdn-cache-control", "max-age=60"), ("larder-cache-control", "")])), Some(60));
        assert_eq!(max_age(read(&[("cdn-cache-control", "max-age=60"), ("larder-cache-control", "&&&")])), Some(60));
        assert_eq!(max_age(read(&[("cdn-cache-control", "private"), ("cdn-cache-control", "max-age=3")])), Some(3));
    }

    #[test]
    fn what_has_another_type_says_nothing() {
        assert_eq!(cdn("max-age=\"60\""), None);
        assert_eq!(cdn("max-age=60.5"), None);
        assert_eq!(cdn("max-age"), None);
        assert_eq!(cdn("MAX-AGE=60"), None, "keys are in lower case");
        assert_eq!(cdn("max-age=60, no-store=?0").map(|read| read.no_store), Some(false));
        assert!(cdn("no-store, private, no-cache, must-revalidate").is_some_and(|read| read.no_store && read.private));
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes: Vec<u8>) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                headers.append(TARGETS[0].clone(), value);
                let _ = directives(&headers, &TARGETS);
            }
        }
    }
}
