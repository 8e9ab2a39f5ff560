//! Which page a request is for: everything that the page may depend on, in one digest.
//!
//! Every part is written with its length in front, and an absent header is told from an empty one, so no two
//! requests share a page because of what stands where. The target is taken raw, as it was sent.

use actix_web::{dev::ServiceRequest, http::header::HeaderMap};
use sha2::{Digest, Sha256};

use super::{policy::request, stored::VaryList};
use crate::key::{Key, Kind};

/// The identity of a page without the headers it varies by.
#[derive(Debug, Clone)]
pub(super) struct PageId {
    label: String,
    hasher: Sha256,
}

impl PageId {
    /// Returns the identity of the page that a request is for. `prefix` keeps apart what the views keep apart.
    pub(super) fn of(request: &ServiceRequest, prefix: &str) -> Self {
        let scheme: &[u8] = if request.app_config().secure() { b"https" } else { b"http" };
        let host = request::host(request.headers()).unwrap_or_default().to_ascii_lowercase();
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let mut hasher = Sha256::new();
        for part in [prefix.as_bytes(), scheme, host.as_bytes(), target.as_bytes()] {
            add(&mut hasher, part);
        }
        PageId { label: target.to_owned(), hasher }
    }

    /// Returns the key of the page, or of the list of headers it varies by.
    pub(super) fn key(&self) -> Key<'static> {
        Key::digested(Kind::Page, self.label.clone(), self.hasher.clone().finalize().into())
    }

    /// Returns the key of the variant for these request headers.
    pub(super) fn variant_key(&self, list: &VaryList, headers: &HeaderMap) -> Key<'static> {
        let mut hasher = self.hasher.clone();
        hasher.update(list.id.to_le_bytes());
        for name in &list.names {
            add(&mut hasher, name.as_str().as_bytes());
            let values: Vec<_> = headers.get_all(name).collect();
            hasher.update((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| add(&mut hasher, value.as_bytes()));
        }
        Key::digested(Kind::Page, self.label.clone(), hasher.finalize().into())
    }
}

fn add(hasher: &mut Sha256, part: &[u8]) {
    hasher.update((part.len() as u64).to_le_bytes());
    hasher.update(part);
}

#[cfg(test)]
mod tests {
    use actix_web::{http::header::HeaderName, test::TestRequest};

    use super::*;

    fn request(uri: &str, fields: &[(&str, &str)]) -> ServiceRequest {
        let request = TestRequest::with_uri(uri).insert_header(("host", "larder.test"));
        fields.iter().fold(request, |request, field| request.append_header(*field)).to_srv_request()
    }

    fn key(uri: &str) -> Key<'static> {
        PageId::of(&request(uri, &[]), "").key()
    }

    fn variant(fields: &[(&str, &str)]) -> Key<'static> {
        let request = request("/", fields);
        let names = ["x-a", "x-b"].map(HeaderName::from_static).to_vec();
        PageId::of(&request, "").variant_key(&VaryList { id: 7, names }, request.headers())
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
        assert_ne!(PageId::of(&plain, "a").key(), PageId::of(&plain, "b").key());
        let elsewhere = TestRequest::with_uri("/").insert_header(("host", "other.test")).to_srv_request();
        assert_ne!(PageId::of(&elsewhere, "a").key(), PageId::of(&plain, "a").key());
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
}
