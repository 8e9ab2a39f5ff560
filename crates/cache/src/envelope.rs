//! The form in which a value is stored: a small fixed header, who is loading it, the tags it depends on, the payload.
//!
//! ```text
//! 0   magic "LR"
//! 2   format version, 2
//! 3   codec: 0 bytes, 1 text, 2 MessagePack, 3 JSON
//! 4   flags: 1 the payload is compressed, 2 a ticket follows the header, 4 there is no value yet, 8 the value was made
//!     stale by hand
//! 5   reserved, 0
//! 6   number of tags, u16
//! 8   created, u64
//! 16  fresh until, u64; 0 as long as the store keeps it
//! 24  kept until, u64; 0 for ever
//! 32  what the value cost to make, microseconds, u32
//! 36  CRC-32 of everything else, u32
//! 40  generation of the alias, u64; see `generation.rs`
//! 48  if there is a ticket: its token u64, until when it is valid u64
//!     per tag: length u16, name, version u64; names that begin with U+0001 are no tags but remarks, of version 0
//!     the payload; compressed, its length before that as u32, then a zstd frame
//! ```
//! Numbers are little-endian, moments are milliseconds since 1970. Counters have no envelope: a store's own `incr` must
//! understand them. `tests/formats/` has an entry of every format there was.

use std::{fmt, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{clock::Timestamp, timeout::Expiry};

const MAGIC: [u8; 2] = *b"LR";
const FORMAT: u8 = 2;
const HEADER_BYTES: usize = 48;
const CHECKSUM_AT: usize = 36;

const COMPRESSED: u8 = 1;
const HAS_TICKET: u8 = 2;
const NO_VALUE: u8 = 4;
const EXPIRED: u8 = 8;

/// zstd's own default: of the levels worth their time, the fastest.
const COMPRESSION_LEVEL: i32 = 3;

/// How many tags an entry carries at most, and how long a name may be: what the format has room for.
pub(crate) const MAX_TAGS: usize = u16::MAX as usize;
pub(crate) const MAX_TAG_BYTES: usize = u16::MAX as usize;

/// How a payload is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Bytes = 0,
    Text = 1,
    MessagePack = 2,
    Json = 3,
}

/// A tag as an entry remembers it: valid as long as the tag still has this version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TagVersion {
    pub(crate) name: String,
    pub(crate) version: u64,
}

/// What an entry says of itself beside its tags, for what it becomes part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remark {
    /// It is one visitor's.
    Private,
    /// It was made for this field of the request.
    Vary(String),
}

/// What the names of remarks begin with.
const REMARK: char = '\u{1}';

/// Who is loading the value, and until when nobody else shall try. Token 0 is nobody: a refresh failed just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) token: u64,
    pub(crate) until: Timestamp,
}

/// What is stored under a key: a value, the ticket of whoever loads it, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) created: Timestamp,
    /// When the value becomes stale; `Never` if it is fresh as long as the store keeps it.
    pub(crate) fresh_until: Expiry,
    pub(crate) kept_until: Expiry,
    /// Whether it was made stale by hand: then no clock decides.
    pub(crate) expired: bool,
    pub(crate) cost: Duration,
    pub(crate) generation: u64,
    pub(crate) ticket: Option<Ticket>,
    pub(crate) tags: TagList,
    pub(crate) payload: Option<Payload>,
}

/// The value in an envelope, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payload {
    codec: Codec,
    compressed: bool,
    bytes: Bytes,
}

/// The tags of an entry in their stored form, so that a hit allocates nothing for them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TagList {
    count: u16,
    bytes: Bytes,
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
        let payload = self.payload.as_ref();
        let mut flags = 0;
        flags |= if payload.is_some_and(|payload| payload.compressed) { COMPRESSED } else { 0 };
        flags |= if self.ticket.is_some() { HAS_TICKET } else { 0 };
        flags |= if payload.is_none() { NO_VALUE } else { 0 };
        flags |= if self.expired { EXPIRED } else { 0 };
        let codec = payload.map_or(Codec::Bytes, |payload| payload.codec);
        let payload = payload.map_or(&[][..], |payload| &payload.bytes);
        let mut out = BytesMut::with_capacity(HEADER_BYTES + 16 + self.tags.bytes.len() + payload.len());
        out.put_slice(&MAGIC);
        out.put_slice(&[FORMAT, codec as u8, flags, 0]);
        out.put_u16_le(self.tags.count);
        out.put_u64_le(self.created.as_millis());
        out.put_u64_le(self.fresh_until.to_millis());
        out.put_u64_le(self.kept_until.to_millis());
        out.put_u32_le(u32::try_from(self.cost.as_micros()).unwrap_or(u32::MAX));
        out.put_u32_le(0);
        out.put_u64_le(self.generation);
        if let Some(ticket) = self.ticket {
            out.put_u64_le(ticket.token);
            out.put_u64_le(ticket.until.as_millis());
        }
        out.put_slice(&self.tags.bytes);
        out.put_slice(payload);
        let checksum = checksum(&out);
        out[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        out.freeze()
    }

    /// Reads what [`Envelope::encode`] wrote. Tags and payload share the memory of `stored`.
    ///
    /// `verify` computes the checksum; a store in this process's own memory need not be doubted.
    pub(crate) fn decode(stored: &Bytes, verify: bool) -> Result<Self, Unreadable> {
        if stored.len() < 3 || stored[..2] != MAGIC {
            return Err(Unreadable::Foreign);
        }
        if stored[2] != FORMAT {
            return Err(Unreadable::OtherFormat);
        }
        if stored.len() < HEADER_BYTES {
            return Err(Unreadable::Damaged);
        }
        let mut reader = stored.clone();
        reader.advance(3);
        let codec = match reader.get_u8() {
            0 => Codec::Bytes,
            1 => Codec::Text,
            2 => Codec::MessagePack,
            3 => Codec::Json,
            _ => return Err(Unreadable::OtherFormat),
        };
        let flags = reader.get_u8();
        reader.advance(1);
        let count = reader.get_u16_le();
        let created = Timestamp::from_millis(reader.get_u64_le());
        let fresh_until = Expiry::from_millis(reader.get_u64_le());
        let kept_until = Expiry::from_millis(reader.get_u64_le());
        let cost = Duration::from_micros(u64::from(reader.get_u32_le()));
        let expected = reader.get_u32_le();
        if verify && checksum(stored) != expected {
            return Err(Unreadable::Damaged);
        }
        let generation = reader.get_u64_le();
        let ticket = if flags & HAS_TICKET == 0 {
            None
        } else if reader.len() < 16 {
            return Err(Unreadable::Damaged);
        } else {
            Some(Ticket { token: reader.get_u64_le(), until: Timestamp::from_millis(reader.get_u64_le()) })
        };
        let tags = TagList::split_from(&mut reader, count).ok_or(Unreadable::Damaged)?;
        let compressed = flags & COMPRESSED != 0;
        let payload = (flags & NO_VALUE == 0).then_some(Payload { codec, compressed, bytes: reader });
        let expired = flags & EXPIRED != 0;
        Ok(Envelope { created, fresh_until, kept_until, expired, cost, generation, ticket, tags, payload })
    }
}

impl Payload {
    /// Packs a value, compressed if it is longer than `compress_above` bytes and gets smaller by it.
    pub(crate) fn pack(codec: Codec, bytes: Bytes, compress_above: Option<usize>) -> Self {
        let is_long = compress_above.is_some_and(|limit| bytes.len() > limit);
        let compressed = is_long.then(|| compress(&bytes)).flatten();
        match compressed {
            Some(packed) => Payload { codec, compressed: true, bytes: packed },
            None => Payload { codec, compressed: false, bytes },
        }
    }

    pub(crate) fn codec(&self) -> Codec {
        self.codec
    }

    /// Returns the value as it was packed.
    pub(crate) fn unpack(self) -> Result<Bytes, Unreadable> {
        if !self.compressed {
            return Ok(self.bytes);
        }
        let (length, frame) = self.bytes.split_at_checked(4).ok_or(Unreadable::Damaged)?;
        let length = length.try_into().map(u32::from_le_bytes).map_err(|_| Unreadable::Damaged)?;
        // zstd reaches four digits at most on what pages are made of; a length beyond that is no length of ours.
        let length = usize::try_from(length).ok().filter(|length| *length <= frame.len().saturating_mul(40_000));
        let bytes = zstd::bulk::decompress(frame, length.ok_or(Unreadable::Damaged)?);
        bytes.map(Bytes::from).map_err(|_| Unreadable::Damaged)
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// Returns how many bytes it takes in the store.
    pub(crate) fn stored_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Returns the bytes compressed, if that makes them fewer.
fn compress(bytes: &Bytes) -> Option<Bytes> {
    let length = u32::try_from(bytes.len()).ok()?;
    let frame = zstd::bulk::compress(bytes, COMPRESSION_LEVEL).ok()?;
    let mut packed = BytesMut::with_capacity(4 + frame.len());
    packed.put_u32_le(length);
    packed.put_slice(&frame);
    (packed.len() < bytes.len()).then(|| packed.freeze())
}

impl Remark {
    /// Returns the name that stands for it in the place of a tag.
    pub(crate) fn name(&self) -> String {
        match self {
            Remark::Private => format!("{REMARK}private"),
            Remark::Vary(field) => format!("{REMARK}vary:{field}"),
        }
    }

    /// Reads such a name. An unknown one makes an entry private: nobody knows what it says.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let remark = name.strip_prefix(REMARK)?;
        Some(remark.strip_prefix("vary:").map_or(Remark::Private, |field| Remark::Vary(field.to_owned())))
    }

    pub(crate) fn is_name(name: &str) -> bool {
        name.starts_with(REMARK)
    }
}

impl TagList {
    pub(crate) fn new(tags: &[TagVersion]) -> Self {
        let mut bytes = BytesMut::new();
        let mut count = 0;
        for tag in tags {
            // Names are checked where the caller gives them.
            let Ok(length) = u16::try_from(tag.name.len()) else { continue };
            bytes.put_u16_le(length);
            bytes.put_slice(tag.name.as_bytes());
            bytes.put_u64_le(tag.version);
            count += 1;
        }
        TagList { count, bytes: bytes.freeze() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the tags, without the remarks.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.all().filter(|(name, _)| !Remark::is_name(name))
    }

    /// Returns the remarks that stand among the tags.
    pub(crate) fn remarks(&self) -> impl Iterator<Item = Remark> {
        self.all().filter_map(|(name, _)| Remark::of(name))
    }

    /// Returns the names of tags and remarks.
    pub(crate) fn names(&self) -> Vec<String> {
        self.all().map(|(name, _)| name.to_owned()).collect()
    }

    fn all(&self) -> impl Iterator<Item = (&str, u64)> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (name, version, left) = split_tag(rest)?;
            rest = left;
            Some((name, version))
        })
    }

    /// Takes `count` tags off the front of `bytes`.
    fn split_from(bytes: &mut Bytes, count: u16) -> Option<Self> {
        let mut rest = &bytes[..];
        for _ in 0..count {
            rest = split_tag(rest)?.2;
        }
        let length = bytes.len() - rest.len();
        if length == 0 {
            return Some(TagList::default());
        }
        Some(TagList { count, bytes: bytes.split_to(length) })
    }
}

fn split_tag(bytes: &[u8]) -> Option<(&str, u64, &[u8])> {
    let (length, rest) = bytes.split_first_chunk().map(|(length, rest)| (u16::from_le_bytes(*length), rest))?;
    let (name, rest) = rest.split_at_checked(usize::from(length))?;
    let (version, rest) = rest.split_first_chunk().map(|(version, rest)| (u64::from_le_bytes(*version), rest))?;
    Some((std::str::from_utf8(name).ok()?, version, rest))
}

/// The checksum covers everything but itself.
fn checksum(stored: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&stored[..CHECKSUM_AT]);
    hasher.update(&stored[CHECKSUM_AT + 4..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Envelope {
        let tags = ["object", "object:7"].map(|name| TagVersion { name: name.into(), version: 42 });
        Envelope {
            created: Timestamp::from_millis(1_790_000_000_123),
            fresh_until: Expiry::At(Timestamp::from_millis(1_790_000_300_123)),
            kept_until: Expiry::At(Timestamp::from_millis(1_790_003_600_123)),
            expired: true,
            cost: Duration::from_micros(2_013_000),
            generation: 7,
            ticket: Some(Ticket { token: 99, until: Timestamp::from_millis(1_790_000_310_123) }),
            tags: TagList::new(&tags),
            payload: Some(Payload::pack(Codec::Text, Bytes::from_static(b"<p>ready</p>"), None)),
        }
    }

    #[test]
    fn an_envelope_reads_back_as_it_was_written() {
        let whole = example();
        let value_only = Envelope { ticket: None, tags: TagList::default(), ..example() };
        let ticket_only = Envelope { payload: None, fresh_until: Expiry::Never, ..example() };
        for envelope in [whole, value_only, ticket_only] {
            assert_eq!(Envelope::decode(&envelope.encode(), true), Ok(envelope));
        }
        let tags: Vec<(String, u64)> =
            example().tags.iter().map(|(name, version)| (name.to_owned(), version)).collect();
        assert_eq!(tags, [("object".to_owned(), 42), ("object:7".to_owned(), 42)]);
    }

    /// Entries as they were written by each format there was, in hexadecimal.
    fn golden(text: &str) -> Bytes {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    #[test]
    fn what_was_written_before_is_read_as_it_was() {
        let whole = golden(include_str!("../tests/formats/2-whole.hex"));
        assert_eq!(Envelope::decode(&whole, true), Ok(example()));
        assert_eq!(example().encode(), whole, "what is written today is read by yesterday's processes");
        let ticket = golden(include_str!("../tests/formats/2-ticket.hex"));
        let expected = Envelope { payload: None, tags: TagList::default(), expired: false, ..example() };
        assert_eq!(Envelope::decode(&ticket, true), Ok(expected));
        let compressed = golden(include_str!("../tests/formats/2-compressed.hex"));
        let payload = Envelope::decode(&compressed, true).unwrap().payload.unwrap();
        assert_eq!(payload.unpack().unwrap(), "<li>Quince jelly</li>".repeat(100));
        let first = golden(include_str!("../tests/formats/1-whole.hex"));
        assert_eq!(Envelope::decode(&first, true), Err(Unreadable::OtherFormat));
    }

    #[test]
    fn long_values_are_compressed_if_that_helps() {
        let page = Bytes::from("<li>Quince jelly</li>".repeat(100));
        let packed = Payload::pack(Codec::Text, page.clone(), Some(1024));
        assert!(packed.stored_bytes() < page.len() / 5);
        assert_eq!(packed.unpack(), Ok(page.clone()));
        assert_eq!(Payload::pack(Codec::Text, page.clone(), None).stored_bytes(), page.len());
        assert_eq!(Payload::pack(Codec::Text, page.slice(..1024), Some(1024)).stored_bytes(), 1024);
        let noise: Vec<u8> = (0..4096u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        let noise = Bytes::from(noise);
        assert_eq!(Payload::pack(Codec::Bytes, noise.clone(), Some(1024)).unpack(), Ok(noise));
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
        assert_eq!(decode(b"LR\x02\x02"), Err(Unreadable::Damaged));
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes: Vec<u8>, verify: bool) {
            let unpack = |bytes: Vec<u8>| {
                let read = Envelope::decode(&Bytes::from(bytes), verify);
                read.ok().and_then(|envelope| envelope.payload).map(|payload| payload.unpack())
            };
            unpack(bytes.clone());
            let mut ours = vec![b'L', b'R', FORMAT];
            ours.extend(bytes);
            unpack(ours);
        }

        #[test]
        fn compressed_bytes_read_back(bytes: Vec<u8>, times in 1_usize..50) {
            let bytes = Bytes::from(bytes.repeat(times));
            prop_assert_eq!(Payload::pack(Codec::Bytes, bytes.clone(), Some(16)).unpack(), Ok(bytes));
        }
    }
}
