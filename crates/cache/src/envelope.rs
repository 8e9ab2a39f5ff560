//! The form in which a value is stored: a small fixed header, the tags it depends on, and the payload.
//!
//! ```text
//! 0   magic "LR"
//! 2   format version, 1
//! 3   codec: 0 bytes, 1 text, 2 MessagePack
//! 4   number of tags, u16
//! 6   reserved, 0
//! 8   created, milliseconds since 1970, u64
//! 16  what the value cost to make, microseconds, u32
//! 20  CRC-32 of everything else, u32
//! 24  per tag: length u16, name, version u64; then the payload
//! ```
//! Numbers are little-endian. Counters have no envelope: a store's own `incr` must understand them.

use std::{fmt, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};

use crate::clock::Timestamp;

const MAGIC: [u8; 2] = *b"LR";
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 24;
const CHECKSUM_AT: usize = 20;

/// How a payload is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Bytes = 0,
    Text = 1,
    MessagePack = 2,
}

/// A tag as an entry remembers it: valid as long as the tag still has this version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TagVersion {
    pub(crate) name: String,
    pub(crate) version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) codec: Codec,
    pub(crate) created: Timestamp,
    pub(crate) cost: Duration,
    pub(crate) tags: Vec<TagVersion>,
    pub(crate) payload: Bytes,
}

/// Why stored bytes are not an entry of ours. Each is a miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// Something else wrote under this key.
    Foreign,
    /// Another version of this crate wrote it.
    OtherFormat,
    /// It was cut short or changed on its way.
    Damaged,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unreadable::Foreign => "written by something else",
            Unreadable::OtherFormat => "written in another format",
            Unreadable::Damaged => "damaged",
        })
    }
}

impl Envelope {
    pub(crate) fn encode(&self) -> Bytes {
        let tags: usize = self.tags.iter().map(|tag| tag.name.len() + 10).sum();
        let mut out = BytesMut::with_capacity(HEADER_BYTES + tags + self.payload.len());
        out.put_slice(&MAGIC);
        out.put_u8(FORMAT);
        out.put_u8(self.codec as u8);
        out.put_u16_le(u16::try_from(self.tags.len()).unwrap_or(u16::MAX));
        out.put_u16_le(0);
        out.put_u64_le(self.created.as_millis());
        out.put_u32_le(u32::try_from(self.cost.as_micros()).unwrap_or(u32::MAX));
        out.put_u32_le(0);
        for tag in self.tags.iter().take(usize::from(u16::MAX)) {
            out.put_u16_le(u16::try_from(tag.name.len()).unwrap_or(u16::MAX));
            out.put_slice(tag.name.as_bytes());
            out.put_u64_le(tag.version);
        }
        out.put_slice(&self.payload);
        let checksum = checksum(&out);
        out[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        out.freeze()
    }

    /// Reads what [`Envelope::encode`] wrote. The payload shares the memory of `stored`.
    ///
    /// `verify` computes the checksum; a store in this process's own memory need not be doubted.
    pub(crate) fn decode(stored: &Bytes, verify: bool) -> Result<Self, Unreadable> {
        if stored.len() < 3 || stored[..2] != MAGIC {
            return Err(Unreadable::Foreign);
        }
        if stored[2] != FORMAT {
            return Err(Unreadable::OtherFormat);
        }
        let mut reader = Reader { bytes: stored, at: 3 };
        let codec = match reader.take(1)?[0] {
            0 => Codec::Bytes,
            1 => Codec::Text,
            2 => Codec::MessagePack,
            _ => return Err(Unreadable::OtherFormat),
        };
        let tag_count = reader.u16()?;
        reader.take(2)?;
        let created = Timestamp::from_millis(reader.u64()?);
        let cost = Duration::from_micros(u64::from(reader.u32()?));
        let expected = reader.u32()?;
        if verify && checksum(stored) != expected {
            return Err(Unreadable::Damaged);
        }
        let tags = (0..tag_count).map(|_| reader.tag()).collect::<Result<_, _>>()?;
        Ok(Envelope { codec, created, cost, tags, payload: stored.slice(reader.at..) })
    }
}

/// The checksum covers everything but itself.
fn checksum(stored: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&stored[..CHECKSUM_AT]);
    hasher.update(&stored[HEADER_BYTES..]);
    hasher.finalize()
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Unreadable> {
        let end = self.at.checked_add(length).ok_or(Unreadable::Damaged)?;
        let taken = self.bytes.get(self.at..end).ok_or(Unreadable::Damaged)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        self.take(N)?.try_into().map_err(|_| Unreadable::Damaged)
    }

    fn u16(&mut self) -> Result<u16, Unreadable> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Unreadable> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Unreadable> {
        self.array().map(u64::from_le_bytes)
    }

    fn tag(&mut self) -> Result<TagVersion, Unreadable> {
        let length = usize::from(self.u16()?);
        let name = std::str::from_utf8(self.take(length)?).map_err(|_| Unreadable::Damaged)?.to_owned();
        Ok(TagVersion { name, version: self.u64()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Envelope {
        Envelope {
            codec: Codec::Text,
            created: Timestamp::from_millis(1_790_000_000_123),
            cost: Duration::from_micros(2_013_000),
            tags: vec![TagVersion { name: "object:7".into(), version: 42 }],
            payload: Bytes::from_static(b"<p>ready</p>"),
        }
    }

    #[test]
    fn an_envelope_reads_back_as_it_was_written() {
        let envelope = example();
        assert_eq!(Envelope::decode(&envelope.encode(), true), Ok(envelope));
    }

    #[test]
    fn every_torn_or_changed_entry_is_noticed() {
        let stored = example().encode();
        for length in 0..stored.len() {
            assert!(Envelope::decode(&stored.slice(..length), true).is_err(), "cut at {length}");
        }
        for position in 0..stored.len() {
            let mut changed = stored.to_vec();
            changed[position] ^= 1;
            assert!(Envelope::decode(&changed.into(), true).is_err(), "changed at {position}");
        }
    }

    #[test]
    fn what_others_wrote_has_a_reason() {
        let decode = |bytes: &'static [u8]| Envelope::decode(&Bytes::from_static(bytes), true);
        assert_eq!(decode(b""), Err(Unreadable::Foreign));
        assert_eq!(decode(b"{\"json\": 1}"), Err(Unreadable::Foreign));
        assert_eq!(decode(b"LR\x09 from the future"), Err(Unreadable::OtherFormat));
        assert_eq!(decode(b"LR\x01\x02"), Err(Unreadable::Damaged));
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes: Vec<u8>, verify: bool) {
            let _ = Envelope::decode(&Bytes::from(bytes.clone()), verify);
            let mut ours = vec![b'L', b'R', FORMAT];
            ours.extend(bytes);
            let _ = Envelope::decode(&Bytes::from(ours), verify);
        }
    }
}
