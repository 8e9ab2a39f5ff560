//! Values of the caller's types to what is stored, and back.
//!
//! MessagePack with named fields is the form for everything that does not say otherwise: it reads after a struct has
//! gained or lost a field. Integers are taken out, so that the store's own counter works on them.

use bytes::Bytes;
use serde::{
    Serialize,
    de::{DeserializeOwned, IntoDeserializer, value},
};

use crate::{
    envelope::Codec,
    error::{Error, Result, Source},
    key::Key,
};

/// How values are written. What is read says itself how it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Format {
    /// MessagePack with the names of the fields.
    #[default]
    MessagePack,
    /// JSON, for programs in other languages that read the same store, and for people who look at it.
    #[cfg(feature = "json")]
    Json,
}

/// A value on its way into the store, and what a look-up found there.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Integer(i64),
    Payload(Codec, Bytes),
}

impl Content {
    /// Returns the value as an envelope holds it, in which there are no counters.
    pub(crate) fn without_counter(&self) -> Content {
        match self {
            Content::Integer(number) => Content::Payload(Codec::MessagePack, pack_integer(*number)),
            payload => payload.clone(),
        }
    }
}

/// Turns a value into what is stored under `key`.
pub(crate) fn encode<T: Serialize + ?Sized>(key: &Key<'_>, value: &T, format: Format) -> Result<Content> {
    let failed = |source: Source| Error::Encode { key: key.label().to_owned(), source };
    match format {
        Format::MessagePack => {
            let packed = rmp_serde::to_vec_named(value).map_err(|error| failed(error.into()))?;
            let integer = is_integer(&packed).then(|| rmp_serde::from_slice(&packed).ok()).flatten();
            Ok(integer.map_or_else(|| Content::Payload(Codec::MessagePack, packed.into()), Content::Integer))
        }
        #[cfg(feature = "json")]
        Format::Json => {
            let text = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
            let integer = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
            Ok(integer.map_or_else(|| Content::Payload(Codec::Json, text.into()), Content::Integer))
        }
    }
}

/// Turns what is stored into a value; `None` if it is of another type.
pub(crate) fn decode<T: DeserializeOwned>(content: &Content) -> Option<T> {
    match content {
        Content::Integer(number) => rmp_serde::from_slice(&pack_integer(*number)).ok(),
        Content::Payload(Codec::MessagePack, packed) => rmp_serde::from_slice(packed).ok(),
        Content::Payload(Codec::Text, text) => {
            let text = std::str::from_utf8(text).ok()?;
            T::deserialize(IntoDeserializer::<value::Error>::into_deserializer(text)).ok()
        }
        #[cfg(feature = "json")]
        Content::Payload(Codec::Json, text) => serde_json::from_slice(text).ok(),
        #[cfg(not(feature = "json"))]
        Content::Payload(Codec::Json, _) => None,
        Content::Payload(Codec::Bytes, bytes) => {
            T::deserialize(IntoDeserializer::<value::Error>::into_deserializer(&bytes[..])).ok()
        }
    }
}

/// Tells whether a value is a `None`, or a unit, which is written alike.
pub(crate) fn is_none(content: &Content) -> bool {
    match content {
        Content::Payload(Codec::MessagePack, packed) => packed[..] == [0xc0],
        Content::Payload(Codec::Json, text) => text[..] == *b"null",
        _ => false,
    }
}

/// Packs an integer as [`encode`] would before it takes integers out.
pub(crate) fn pack_integer(number: i64) -> Bytes {
    rmp_serde::to_vec(&number).unwrap_or_default().into()
}

/// MessagePack's markers for whole numbers (specification, "Formats", int family).
fn is_integer(packed: &[u8]) -> bool {
    matches!(packed.first(), Some(0x00..=0x7f | 0xcc..=0xcf | 0xd0..=0xd3 | 0xe0..=0xff))
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    fn round_trip<T: Serialize + DeserializeOwned>(value: T) -> Option<T> {
        decode(&encode(&"key".into(), &value, Format::MessagePack).unwrap())
    }

    #[test]
    fn every_integer_that_fits_is_a_counter() {
        for number in [0i64, 1, 127, 128, -1, -32, -33, 70_000, i64::MAX, i64::MIN] {
            assert!(
                matches!(encode(&"key".into(), &number, Format::MessagePack).unwrap(), Content::Integer(n) if n == number)
            );
            assert_eq!(round_trip(number), Some(number));
        }
        assert_eq!(round_trip(u64::MAX), Some(u64::MAX));
        assert_eq!(round_trip(7u8), Some(7));
    }

    #[test]
    fn a_cached_none_is_a_value() {
        assert_eq!(round_trip(None::<i64>), Some(None));
        assert_eq!(round_trip(Some(5)), Some(Some(5)));
        assert_eq!(round_trip(()), Some(()));
    }

    #[test]
    fn a_struct_reads_after_its_fields_moved_and_grew() {
        #[derive(Serialize)]
        struct Then {
            title: String,
            id: i64,
        }
        #[derive(Deserialize, PartialEq, Debug)]
        struct Now {
            id: i64,
            title: String,
            #[serde(default)]
            labels: Vec<String>,
        }
        let stored = encode(&"key".into(), &Then { title: "Crock".into(), id: 7 }, Format::MessagePack).unwrap();
        assert_eq!(decode(&stored), Some(Now { id: 7, title: "Crock".into(), labels: vec![] }));
        assert_eq!(decode::<Vec<i64>>(&stored), None);
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_is_read_as_json() {
        let encode = |value: &Option<Vec<&str>>| encode(&"key".into(), value, Format::Json).unwrap();
        let stored = encode(&Some(vec!["Crock"]));
        assert!(matches!(&stored, Content::Payload(Codec::Json, text) if text[..] == *b"[\"Crock\"]"));
        assert_eq!(decode::<Vec<String>>(&stored), Some(vec!["Crock".to_owned()]));
        assert!(is_none(&encode(&None)));
        assert!(matches!(super::encode(&"key".into(), &7, Format::Json).unwrap(), Content::Integer(7)));
    }

    #[test]
    fn text_and_bytes_are_read_as_what_they_are() {
        let text = Content::Payload(Codec::Text, Bytes::from_static(b"<li>"));
        assert_eq!(decode::<String>(&text), Some("<li>".to_owned()));
        assert_eq!(decode::<i64>(&text), None);
    }
}
