//! Which page a request is for: everything that the page may depend on, in one digest.
//!
//! Every part is written with its length in front, and an absent header is told from an empty one, so no two
//! requests share a page because of what stands where. The target is taken raw, as it was sent.

use std::borrow::Cow;

use actix_web::{
    dev::{RequestHead, ServiceRequest},
    http::{
        Uri,
        header::{HeaderMap, HeaderName},
    },
};
use sha2::{Digest, Sha256};

use super::{
    policy::{query, request},
    stored::VaryList,
};
use crate::key::{Key, Kind};

/// The fields from which a view learns how a proxy was asked.
pub(super) const FORWARDED_FIELDS: [HeaderName; 3] = [
    HeaderName::from_static("forwarded"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
];

pub(super) type VaryOn = dyn Fn(&RequestHead) -> String + Send + Sync;

/// What beside host and path tells the pages of a view apart.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) prefix: &'a str,
    /// Query parameters that do not count.
    pub(super) ignored: &'a [String],
    /// The only ones that do, if there is such a list.
    pub(super) only: Option<&'a [String]>,
    /// Whether the request came from a proxy that is believed.
    pub(super) forwarded: bool,
    pub(super) vary_on_headers: &'a [HeaderName],
    pub(super) vary_on_cookies: &'a [String],
    pub(super) vary_on: Option<&'a VaryOn>,
}

impl Parts<'_> {
    /// Tells whether more than the address tells pages apart, whatever their answers say.
    pub(super) fn has_declared(&self, headers: &HeaderMap) -> bool {
        let is_forwarded = || self.forwarded && FORWARDED_FIELDS.iter().any(|name| headers.contains_key(name));
        !self.vary_on_headers.is_empty() || !self.vary_on_cookies.is_empty() || self.vary_on.is_some() || is_forwarded()
    }

    fn declared(&self, request: &ServiceRequest) -> Option<[u8; 32]> {
        let headers = request.headers();
        if !self.has_declared(headers) {
            return None;
        }
        let mut hasher = Sha256::new();
        if self.forwarded {
            FORWARDED_FIELDS.iter().for_each(|name| add_field(&mut hasher, name, headers));
        }
        self.vary_on_headers.iter().for_each(|name| add_field(&mut hasher, name, headers));
        for name in self.vary_on_cookies {
            let sent = request::cookies(headers).filter(|(sent, _)| *sent == name.as_bytes());
            let values: Vec<&[u8]> = sent.map(|(_, value)| value).collect();
            add(&mut hasher, name.as_bytes());
            hasher.update((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| add(&mut hasher, value));
        }
        if let Some(vary_on) = self.vary_on {
            add(&mut hasher, vary_on(request.head()).as_bytes());
        }
        Some(hasher.finalize().into())
    }

    /// Returns path and query as far as they count, as they were sent.
    pub(super) fn target<'u>(&self, uri: &'u Uri) -> Cow<'u, str> {
        let target = target(uri);
        let Some(query) = uri.query() else { return Cow::Borrowed(target) };
        match query::kept(query, self.ignored, self.only) {
            Cow::Borrowed(_) => Cow::Borrowed(target),
            Cow::Owned(kept) if kept.is_empty() => Cow::Borrowed(uri.path()),
            Cow::Owned(kept) => Cow::Owned(format!("{}?{kept}", uri.path())),
        }
    }
}

/// Returns path and query as they were sent.
pub(super) fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}

/// The identity of a page without the headers it varies by.
#[derive(Debug, Clone)]
pub(super) struct PageId {
    label: String,
    host: String,
    hasher: Sha256,
    /// The digest of what the rule says that it varies by. Like the headers that answers name it tells variants apart, so
    /// that all of them end with the one list that stands under the address.
    declared: Option<[u8; 32]>,
}

impl PartialEq for PageId {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest() && self.declared == other.declared
    }
}

impl PageId {
    /// Returns the identity of the page that a request is for.
    pub(super) fn of(request: &ServiceRequest, parts: Parts<'_>) -> Self {
        let scheme: &[u8] = if request.app_config().secure() { b"https" } else { b"http" };
        let host = request::host(request.uri(), request.headers()).unwrap_or_default().to_ascii_lowercase();
        let id = Self::of_target(scheme, &host, parts.prefix, &parts.target(request.uri()));
        PageId { declared: parts.declared(request), ..id }
    }

    /// Returns the identity of a page by its address alone.
    pub(super) fn of_target(scheme: &[u8], host: &str, prefix: &str, target: &str) -> Self {
        let mut hasher = Sha256::new();
        for part in [prefix.as_bytes(), scheme, host.as_bytes(), target.as_bytes()] {
            add(&mut hasher, part);
        }
        PageId { label: target.to_owned(), host: host.to_owned(), hasher, declared: None }
    }

    /// Returns the host, in small letters.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Returns path and query as far as they count.
    pub(super) fn target(&self) -> &str {
        &self.label
    }

    /// Tells whether the page has variants, whatever its answers say.
    pub(super) fn has_declared(&self) -> bool {
        self.declared.is_some()
    }

    /// Returns the key of the page, or of the list of headers it varies by.
    pub(super) fn key(&self) -> Key<'static> {
        Key::digested(Kind::Page, self.label.clone(), self.digest())
    }

    /// Returns what stands for the page in its key.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.hasher.clone().finalize().into()
    }

    /// Returns the key of the variant for these request headers.
    pub(super) fn variant_key(&self, list: &VaryList, headers: &HeaderMap) -> Key<'static> {
        let mut hasher = self.hasher.clone();
        hasher.update(list.id.to_le_bytes());
        hasher.update(self.declared.unwrap_or_default());
        for name in &list.names {
            add_field(&mut hasher, name, headers);
        }
        Key::digested(Kind::Page, self.label.clone(), hasher.finalize().into())
    }
}

/// A field that is not there is not one without a value.
fn add_field(hasher: &mut Sha256, name: &HeaderName, headers: &HeaderMap) {
    add(hasher, name.as_str().as_bytes());
    let values: Vec<_> = headers.get_all(name).collect();
    hasher.update((values.len() as u64).to_le_bytes());
    values.iter().for_each(|value| add(hasher, value.as_bytes()));
}

fn add(hasher: &mut Sha256, part: &[u8]) {
    hasher.update((part.len() as u64).to_le_bytes());
    hasher.update(part);
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn request(uri: &str, fields: &[(&str, &str)]) -> ServiceRequest {
        let request = TestRequest::with_uri(uri).insert_header(("host", "larder.test"));
        fields.iter().fold(request, |request, field| request.append_header(*field)).to_srv_request()
    }

    fn parts(prefix: &str) -> Parts<'_> {
        Parts {
            prefix,
            ignored: &[],
            only: None,
            forwarded: false,
            vary_on_headers: &[],
            vary_on_cookies: &[],
            vary_on: None,
        }
    }

    fn key(uri: &str) -> Key<'static> {
        PageId::of(&request(uri, &[]), parts("")).key()
    }

    fn variant(fields: &[(&str, &str)]) -> Key<'static> {
        let request = request("/", fields);
        let names = ["x-a", "x-b"].map(HeaderName::from_static).to_vec();
        PageId::of(&request, parts("")).variant_key(&VaryList { id: 7, names }, request.headers())
    }

    #[test]
    fn pages_differ_by_prefix_host_path_and_query() {
        let uris = ["/objects/1/", "/objects/2/", "/objects/1/?a", "/objects/1/?a=", "/objects/1/?b", "/%6fbjects/1/"];
        for (position, one) in uris.iter().enumerate() {
            for other in &uris[position + 1..] {
                assert_ne!(key(one), key(other), "{one} {other}");
            }
        }
        let plain = request("/", &[]);
        assert_ne!(PageId::of(&plain, parts("a")).key(), PageId::of(&plain, parts("b")).key());
        let elsewhere = TestRequest::with_uri("/").insert_header(("host", "other.test")).to_srv_request();
        assert_ne!(PageId::of(&elsewhere, parts("a")).key(), PageId::of(&plain, parts("a")).key());
        assert_eq!(key("/objects/1/").label(), "/objects/1/");
    }

    #[test]
    fn variants_differ_whatever_bytes_stand_where() {
        let all = [
            variant(&[]),
            variant(&[("x-a", "")]),
            variant(&[("x-a", "1"), ("x-b", "23")]),
            variant(&[("x-a", "12"), ("x-b", "3")]),
            variant(&[("x-a", "-,")]),
            variant(&[("x-a", "1, 2")]),
            variant(&[("x-a", "1"), ("x-a", "2")]),
        ];
        for (position, one) in all.iter().enumerate() {
            assert!(!all[position + 1..].contains(one), "{position}");
        }
        assert_eq!(variant(&[("x-c", "1")]), variant(&[]), "headers it does not vary by do not matter");
    }

    /// Returns everything that a page may depend on, and its key.
    fn all_of(fields: &[(&'static str, String)], target: &str, prefix: &str) -> (Vec<String>, Key<'static>) {
        let names = ["x-a", "x-b"].map(HeaderName::from_static).to_vec();
        let cookies = ["id".to_owned()];
        let request =
            fields.iter().fold(TestRequest::with_uri(target).insert_header(("host", "a")), |request, field| {
                request.append_header((field.0, field.1.as_str()))
            });
        let request = request.to_srv_request();
        let id = PageId::of(&request, Parts { vary_on_cookies: &cookies, ..parts(prefix) });
        let mut all = vec![prefix.to_owned(), target.to_owned()];
        for name in &names {
            let values: Vec<_> = request.headers().get_all(name).map(|value| value.to_str().unwrap()).collect();
            all.push(format!("{values:?}"));
        }
        let ids: Vec<_> = request::cookies(request.headers()).filter(|(name, _)| *name == b"id").collect();
        all.push(format!("{ids:?}"));
        (all, id.variant_key(&VaryList { id: 7, names }, request.headers()))
    }

    proptest::proptest! {
        #[test]
        fn two_requests_share_a_page_only_if_nothing_tells_them_apart(
            one in proptest::collection::vec((proptest::sample::select(vec!["x-a", "x-b", "cookie"]), "[1,;=]{0,3}|id=[12]?"), 0..4),
            other in proptest::collection::vec((proptest::sample::select(vec!["x-a", "x-b", "cookie"]), "[1,;=]{0,3}|id=[12]?"), 0..4),
            targets in ("/[a%?=&]{0,2}", "/[a%?=&]{0,2}"),
            prefixes in ("[a/]{0,2}", "[a/]{0,2}"),
        ) {
            let (one, one_key) = all_of(&one, &targets.0, &prefixes.0);
            let (other, other_key) = all_of(&other, &targets.1, &prefixes.1);
            proptest::prop_assert_eq!(one == other, one_key == other_key);
        }
    }
}
