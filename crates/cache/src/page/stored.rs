//! The form in which a page is kept.
//!
//! ```text
//! u8 kind: 3 page, 1 list of headers that the page varies by
//! page: status u16, flags u8, last purge u64, stored at (ms since 1970) u64, lifetime in ms u64, number of fields u16,
//!       per field: name length u16, value length u32, name, value; number of codings u8, per coding:
//!       which u8, length u32, body; then the body as it is
//! list: names, separated by commas
//! ```

use std::time::Duration;

use actix_web::http::{
    StatusCode,
    header::{CACHE_CONTROL, ETAG, EXPIRES, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    coded::Coded,
    policy::{coding::Coding, freshness::Freshness, response},
};
use crate::clock::Timestamp;

const PAGE: u8 = 3;
const VARIES: u8 = 1;

/// What stands under the key of a page.
#[derive(Debug, Clone)]
pub(super) enum Stored {
    Page(StoredPage),
    /// There are several pages, told apart by these headers of the request.
    Varies(VaryList),
}

pub(super) type Field = (HeaderName, HeaderValue);

#[derive(Debug, Clone)]
pub(super) struct StoredPage {
    pub(super) status: StatusCode,
    pub(super) freshness: Freshness,
    /// Whether the `ETag` is ours, which the view knows nothing of.
    pub(super) is_tagged_here: bool,
    /// Whether it is we who tell clients how long it is fresh.
    pub(super) is_told_here: bool,
    /// Which purge of a prefix was the last when its making began.
    pub(super) last_purge: u64,
    pub(super) fields: Vec<Field>,
    pub(super) body: Bytes,
    /// The body in other codings.
    pub(super) coded: Vec<Coded>,
}

impl StoredPage {
    /// Takes what is kept of a response.
    pub(super) fn new(status: StatusCode, headers: &HeaderMap, body: Bytes, freshness: Freshness) -> Self {
        let kept = headers.iter().filter(|(name, _)| response::is_kept(name));
        let fields = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
        StoredPage {
            status,
            freshness,
            is_tagged_here: false,
            is_told_here: false,
            last_purge: 0,
            fields,
            body,
            coded: Vec::new(),
        }
    }

    /// Returns the fields as the view said them.
    pub(super) fn said_fields(&self) -> HeaderMap {
        let mut said = HeaderMap::with_capacity(self.fields.len());
        // Ours came after those of the view.
        let ours = self.fields.iter().rposition(|(name, _)| *name == CACHE_CONTROL).filter(|_| self.is_told_here);
        for (position, (name, value)) in self.fields.iter().enumerate() {
            let is_ours =
                Some(position) == ours || self.is_told_here && *name == EXPIRES || self.is_tagged_here && *name == ETAG;
            if !is_ours {
                said.append(name.clone(), value.clone());
            }
        }
        said
    }

    /// Returns a field that stands there once.
    pub(super) fn field(&self, name: HeaderName) -> Option<&HeaderValue> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    /// Tells whether its view may be able to say that it has not changed.
    pub(super) fn has_validator(&self) -> bool {
        self.field(LAST_MODIFIED).is_some() || self.field(ETAG).is_some() && !self.is_tagged_here
    }

    /// Returns about how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        let fields = self.fields.iter().map(|(name, value)| 6 + name.as_str().len() + value.len());
        let coded = self.coded.iter().map(|coded| 5 + coded.body.len());
        64 + fields.sum::<usize>() + coded.sum::<usize>() + self.body.len()
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.bytes());
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let Freshness { stored_at, initial_age, lifetime, always_validate, must_revalidate, .. } = self.freshness;
        out.put_u8(PAGE);
        out.put_u16_le(self.status.as_u16());
        let flags = [always_validate, must_revalidate, self.is_tagged_here, self.is_told_here];
        out.put_u8(flags.into_iter().rev().fold(0, |flags, flag| flags << 1 | u8::from(flag)));
        out.put_u64_le(self.last_purge);
        out.put_u64_le(stored_at.as_millis());
        for duration in [initial_age, lifetime, self.freshness.stale_while_revalidate, self.freshness.stale_if_error] {
            out.put_u64_le(millis(duration));
        }
        out.put_u16_le(u16::try_from(self.fields.len()).unwrap_or(u16::MAX));
        for (name, value) in self.fields.iter().take(usize::from(u16::MAX)) {
            out.put_u16_le(u16::try_from(name.as_str().len()).unwrap_or(u16::MAX));
            out.put_u32_le(u32::try_from(value.len()).unwrap_or(u32::MAX));
            out.put_slice(name.as_str().as_bytes());
            out.put_slice(value.as_bytes());
        }
        out.put_u8(u8::try_from(self.coded.len()).unwrap_or(0));
        for Coded { coding, body } in &self.coded {
            out.put_u8(*coding as u8);
            out.put_u32_le(u32::try_from(body.len()).unwrap_or(u32::MAX));
            out.put_slice(body);
        }
        out.put_slice(&self.body);
        out.freeze()
    }
}

/// The headers that a page varies by. Its variants carry the number of the list in their keys, so they end with it: a
/// list that is stored anew leads to none of the old ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct VaryList {
    pub(super) id: u64,
    pub(super) names: Vec<HeaderName>,
}

impl VaryList {
    pub(super) fn encode(&self) -> Bytes {
        let names = self.names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(",");
        let mut out = BytesMut::with_capacity(9 + names.len());
        out.put_u8(VARIES);
        out.put_u64_le(self.id);
        out.put_slice(names.as_bytes());
        out.freeze()
    }
}

impl Stored {
    /// Reads what was stored; `None` if it is not a page of this version.
    pub(super) fn decode(mut stored: Bytes) -> Option<Self> {
        match stored.try_get_u8().ok()? {
            PAGE => decode_page(stored).map(Stored::Page),
            VARIES => {
                let id = stored.try_get_u64_le().ok()?;
                let names = std::str::from_utf8(&stored).ok()?;
                let names = names.split(',').filter(|name| !name.is_empty());
                let names = names.map(|name| name.parse().ok()).collect::<Option<_>>()?;
                Some(Stored::Varies(VaryList { id, names }))
            }
            _ => None,
        }
    }
}

fn decode_page(mut stored: Bytes) -> Option<StoredPage> {
    let status = StatusCode::from_u16(stored.try_get_u16_le().ok()?).ok()?;
    let flags = stored.try_get_u8().ok()?;
    let last_purge = stored.try_get_u64_le().ok()?;
    let stored_at = Timestamp::from_millis(stored.try_get_u64_le().ok()?);
    let mut duration = || stored.try_get_u64_le().ok().map(Duration::from_millis);
    let freshness = Freshness {
        stored_at,
        initial_age: duration()?,
        lifetime: duration()?,
        stale_while_revalidate: duration()?,
        stale_if_error: duration()?,
        always_validate: flags & 1 != 0,
        must_revalidate: flags & 2 != 0,
    };
    let count = usize::from(stored.try_get_u16_le().ok()?);
    let mut fields = Vec::with_capacity(count.min(100));
    for _ in 0..count {
        let name_length = usize::from(stored.try_get_u16_le().ok()?);
        let value_length = usize::try_from(stored.try_get_u32_le().ok()?).ok()?;
        if stored.len() < name_length.checked_add(value_length)? {
            return None;
        }
        let name = HeaderName::from_bytes(&stored.split_to(name_length)).ok()?;
        let value = HeaderValue::from_maybe_shared(stored.split_to(value_length)).ok()?;
        fields.push((name, value));
    }
    let mut coded = Vec::new();
    for _ in 0..stored.try_get_u8().ok()? {
        let coding = *Coding::ALL.get(usize::from(stored.try_get_u8().ok()?))?;
        let length = usize::try_from(stored.try_get_u32_le().ok()?).ok()?;
        if stored.len() < length {
            return None;
        }
        coded.push(Coded { coding, body: stored.split_to(length) });
    }
    let (is_tagged_here, is_told_here) = (flags & 4 != 0, flags & 8 != 0);
    Some(StoredPage { status, freshness, is_tagged_here, is_told_here, last_purge, fields, body: stored, coded })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_reads_back_with_every_field_but_those_of_the_connection() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("x-a", &b"1"[..]), ("x-a", b"2"), ("x-b", b"\xff"), ("connection", b"close"), ("age", b"5")]
        {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        }
        let body = Bytes::from_static(b"<h1>Larder</h1>");
        let freshness = Freshness {
            initial_age: Duration::from_secs(7),
            must_revalidate: true,
            stale_if_error: Duration::from_secs(60),
            ..Freshness::new(Timestamp::from_millis(5), Duration::from_secs(300))
        };
        let coded = [Coding::Brotli, Coding::Gzip].map(|coding| Coded { coding, body: Bytes::from(coding.name()) });
        let page = StoredPage { coded: coded.to_vec(), ..StoredPage::new(StatusCode::OK, &headers, body, freshness) };
        assert_eq!(page.fields.len(), 3);
        let Some(Stored::Page(read)) = Stored::decode(page.encode()) else { panic!("it cannot be read") };
        assert_eq!(read.fields, page.fields);
        assert_eq!(read.coded, page.coded);
        assert_eq!((read.status, read.freshness, read.body), (page.status, page.freshness, page.body));
    }

    #[test]
    fn a_list_of_headers_reads_back() {
        let names = ["accept", "cookie"].map(HeaderName::from_static);
        let list = VaryList { id: 7, names: names.to_vec() };
        assert!(matches!(Stored::decode(list.encode()), Some(Stored::Varies(read)) if read == list));
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes: Vec<u8>, kind in 0u8..3) {
            let mut stored = vec![kind];
            stored.extend(bytes);
            let _ = Stored::decode(stored.into());
        }
    }
}
