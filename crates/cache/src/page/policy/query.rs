//! Which parameters of an address its page depends on.

use std::borrow::Cow;

/// Parameters that advertisers and mail programs add to links, for
/// [`PageCache::ignore_query`](crate::page::PageCache::ignore_query).
pub const TRACKING: [&str; 12] = [
    "utm_*", "gclid", "gclsrc", "dclid", "gbraid", "wbraid", "fbclid", "msclkid", "mc_cid", "mc_eid", "yclid", "igshid",
];

/// Leaves out of a query what its page does not depend on: the parameters with one of the `ignored` names, and, if there
/// is a list of those that count, all others. A name that ends with `*` stands for all that begin so. Names are compared
/// as they were sent, so that nothing is left out that somebody may read differently; what stays keeps its order.
///
/// The view is to be asked with what is left, or it could show what the key does not know of.
///
/// # Examples
/// ```
/// use larder_cache::page::policy::query::{TRACKING, kept};
///
/// let ignored = TRACKING.map(str::to_owned);
/// assert_eq!(kept("page=2&utm_source=mail&q=a", &ignored, None), "page=2&q=a");
/// assert_eq!(kept("page=2&debug=1", &[], Some(&["page".to_owned()])), "page=2");
/// ```
pub fn kept<'q>(query: &'q str, ignored: &[String], only: Option<&[String]>) -> Cow<'q, str> {
    let counts = |parameter: &&str| {
        let name = parameter.split('=').next().unwrap_or_default();
        !is_on(name, ignored) && only.is_none_or(|only| is_on(name, only))
    };
    if query.split('&').all(|parameter| counts(&parameter)) {
        return Cow::Borrowed(query);
    }
    Cow::Owned(query.split('&').filter(counts).collect::<Vec<_>>().join("&"))
}

fn is_on(name: &str, list: &[String]) -> bool {
    list.iter().any(|one| match one.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == one,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn without_tracking(query: &str) -> Cow<'_, str> {
        kept(query, &TRACKING.map(str::to_owned), None)
    }

    #[test]
    fn only_what_is_named_is_left_out() {
        let cases = [
            ("", ""),
            ("a=1&b=2", "a=1&b=2"),
            ("b=2&a=1&a=3", "b=2&a=1&a=3"),
            ("utm_source=x", ""),
            ("a=1&utm_source=x&fbclid=1&b", "a=1&b"),
            ("UTM_source=x&utm%5fsource=y&xutm_a", "UTM_source=x&utm%5fsource=y&xutm_a"),
            ("a=utm_source=1", "a=utm_source=1"),
            ("utm_x=1;a=2", ""),
            ("a=1&&b=2&", "a=1&&b=2&"),
        ];
        for (query, expected) in cases {
            assert_eq!(without_tracking(query), expected, "{query}");
        }
        assert_eq!(kept("a=1&b=2&ab", &[], Some(&["a".to_owned()])), "a=1");
        assert_eq!(kept("a=1&b=2&ab", &[], Some(&[])), "");
    }

    proptest! {
        #[test]
        fn what_is_left_stays_as_it_is(query: String) {
            let once = without_tracking(&query).into_owned();
            prop_assert_eq!(without_tracking(&once), once.as_str());
        }
    }
}
