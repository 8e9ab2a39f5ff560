//! The values of a run, and the names of keys and tags.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    backend::Value,
    codec::{self, Content},
    envelope::Envelope,
};

/// A value: which of those that were made in the run. Some keys hold it as an integer, some as a text, because counters
/// are stored in another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id {
    number: u64,
    is_counter: bool,
}

pub(super) fn key_name(key: usize) -> String {
    format!("row{key}")
}

pub(super) fn tag_name(tag: usize) -> String {
    format!("tag{tag}")
}

impl Id {
    /// Returns the value of this number. Every third key holds counters.
    pub(super) fn new(key: usize, number: usize) -> Self {
        Id { number: number as u64, is_counter: key % 3 == 1 }
    }

    /// Returns which value this is; `None` for a ticket without a value, and for the versions of tags, which are larger
    /// numbers.
    pub(super) fn of(stored: &Value) -> Option<Self> {
        match stored {
            Value::Integer(number) => Some(Id { number: u32::try_from(*number).ok()?.into(), is_counter: true }),
            Value::Bytes(bytes) => Id::inside(&Envelope::decode(bytes, false).ok()?),
        }
    }

    pub(super) fn inside(envelope: &Envelope) -> Option<Self> {
        let payload = envelope.payload.clone()?;
        codec::decode(&Content::Payload(payload.codec(), payload.unpack().ok()?))
    }

    pub(super) fn index(self) -> usize {
        usize::try_from(self.number).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.number)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_counter { serializer.serialize_u64(self.number) } else { serializer.collect_str(&self.number) }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a number as text")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Id, E> {
                Ok(Id { number, is_counter: true })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Id, E> {
                text.parse().map(|number| Id { number, is_counter: false }).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
