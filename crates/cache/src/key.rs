//! Keys: what the caller names ([`Key`]) and what the store is given, `{prefix}:{version}:{key}`.
//!
//! The final key is injective: two different triples of prefix, version and key never share one, whatever bytes they
//! hold. That is a security boundary, because keys may hold what users sent.

use std::{borrow::Cow, fmt, fmt::Write as _};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The longest final key, in bytes. Memcached's limit (protocol.txt, "Keys"), kept on every store so that a site
/// can move between them.
pub const MAX_KEY_BYTES: usize = 250;

/// The longest key prefix, in bytes after escaping. Leaves room for a version, a readable head and a digest.
pub const MAX_PREFIX_BYTES: usize = 64;

/// How much of a name stays readable in front of its digest.
const HEAD_BYTES: usize = 48;

/// What kind of thing an entry is. Each kind has keys of its own, so that no value can pose as a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// A value of the low-level API.
    Value,
    /// A template fragment.
    Fragment,
    /// A page.
    Page,
    /// The version of a tag.
    Tag,
    /// A mark that concerns the whole alias.
    Alias,
}

impl Kind {
    /// Returns the word for this kind, which log lines use as the field name: `key=objects`, `page=/objects/1/`.
    pub fn field(self) -> &'static str {
        match self {
            Kind::Value => "key",
            Kind::Fragment => "fragment",
            Kind::Page => "page",
            Kind::Tag => "tag",
            Kind::Alias => "alias",
        }
    }

    /// Stands between version and name. None starts with a digit, so the version always ends where it ends.
    fn separator(self) -> &'static str {
        match self {
            Kind::Value => ":",
            Kind::Fragment => "/fragment/",
            Kind::Page => "/page/",
            Kind::Tag => "/tag/",
            Kind::Alias => "/alias/",
        }
    }
}

/// The name of an entry before prefix and version are added. A `&str` or `String` converts into a key of a value.
///
/// # Examples
/// ```
/// use larder_cache::{Key, Kind};
///
/// let key = Key::from("objects");
/// assert_eq!((key.kind(), key.label()), (Kind::Value, "objects"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key<'a> {
    kind: Kind,
    label: Cow<'a, str>,
    digest: Option<Digested>,
}

type Digested = [u8; 32];

impl<'a> Key<'a> {
    /// Makes the key of a tag's version.
    pub(crate) fn tag(name: &'a str) -> Self {
        Key { kind: Kind::Tag, label: Cow::Borrowed(name), digest: None }
    }

    /// Makes the key of a generation.
    pub(crate) fn generation(number: u32) -> Key<'static> {
        Key { kind: Kind::Alias, label: Cow::Owned(format!("generation/{number}")), digest: None }
    }

    /// Makes the key of the mark that every invalidation of a tag changes.
    pub(crate) fn any_tag() -> Key<'static> {
        Key { kind: Kind::Alias, label: Cow::Borrowed("any_tag"), digest: None }
    }

    /// Makes the key of the log of purges.
    #[cfg(feature = "page")]
    pub(crate) fn purges() -> Key<'static> {
        Key { kind: Kind::Alias, label: Cow::Borrowed("purges"), digest: None }
    }

    /// Makes the key of the note of who invalidated a tag.
    pub(crate) fn note(tag: &str) -> Key<'static> {
        Key { kind: Kind::Alias, label: Cow::Owned(format!("note/{tag}")), digest: None }
    }

    /// Makes a key whose identity is the digest; the label is for people.
    #[cfg(any(feature = "page", feature = "template"))]
    pub(crate) fn digested(kind: Kind, label: impl Into<Cow<'a, str>>, digest: Digested) -> Self {
        Key { kind, label: label.into(), digest: Some(digest) }
    }

    /// Returns what kind of thing the key names.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the name for people: the key of a value, the name of a fragment, the path of a page.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Returns the same key, owning its label.
    pub fn into_owned(self) -> Key<'static> {
        Key { kind: self.kind, label: Cow::Owned(self.label.into_owned()), digest: self.digest }
    }
}

impl<'a> From<&'a str> for Key<'a> {
    fn from(name: &'a str) -> Self {
        Key { kind: Kind::Value, label: Cow::Borrowed(name), digest: None }
    }
}

impl<'a> From<&'a String> for Key<'a> {
    fn from(name: &'a String) -> Self {
        name.as_str().into()
    }
}

impl From<String> for Key<'_> {
    fn from(name: String) -> Self {
        Key { kind: Kind::Value, label: Cow::Owned(name), digest: None }
    }
}

impl<'a> From<&'a Key<'_>> for Key<'a> {
    fn from(key: &'a Key<'_>) -> Self {
        Key { kind: key.kind, label: Cow::Borrowed(key.label()), digest: key.digest }
    }
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind.field(), self.label)
    }
}

/// What happens to a key that is over 250 bytes or holds white space or control characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InvalidKeys {
    /// It is replaced by a readable head and its SHA-256 digest.
    #[default]
    Digest,
    /// It is refused with [`Error::InvalidKey`], as Django does on memcached.
    Refuse,
}

/// Turns keys into final keys for one alias.
#[derive(Debug, Clone)]
pub(crate) struct KeySpace {
    prefix: String,
    invalid_keys: InvalidKeys,
}

impl KeySpace {
    /// Escapes the prefix; it must have been checked with [`check_prefix`].
    pub(crate) fn new(prefix: &str, invalid_keys: InvalidKeys) -> Self {
        KeySpace { prefix: escape_prefix(prefix), invalid_keys }
    }

    pub(crate) fn final_key(&self, key: &Key<'_>, version: i64) -> Result<String> {
        let label = key.label.as_ref();
        let separator = key.kind.separator();
        let mut out = String::with_capacity(self.prefix.len() + separator.len() + label.len() + 24);
        // Writing to a String does not fail.
        let _ = write!(out, "{}:{version}", self.prefix);
        if let Some(digest) = &key.digest {
            out.push_str(separator);
            push_head_and_digest(&mut out, label, digest);
            return Ok(out);
        }
        let length = out.len() + separator.len() + label.len();
        if length <= MAX_KEY_BYTES && label.bytes().all(is_legal) {
            out.push_str(separator);
            out.push_str(label);
            return Ok(out);
        }
        if self.invalid_keys == InvalidKeys::Refuse {
            return Err(Error::InvalidKey { key: label.to_owned(), reason: why_invalid(label, length) });
        }
        let mut hasher = Sha256::new();
        hasher.update(separator);
        hasher.update(label);
        out.push('#');
        push_head_and_digest(&mut out, label, &hasher.finalize().into());
        Ok(out)
    }
}

/// Tells what is wrong with a key prefix, if anything.
pub(crate) fn check_prefix(prefix: &str) -> Option<String> {
    if let Some(bad) = prefix.chars().find(|c| !c.is_ascii() || !is_legal(*c as u8)) {
        return Some(format!("holds {bad:?}; use visible ASCII characters"));
    }
    let length = escape_prefix(prefix).len();
    (length > MAX_PREFIX_BYTES)
        .then(|| format!("is {length} bytes long; at most {MAX_PREFIX_BYTES} fit in front of a key"))
}

/// A prefix must not end early: its own colons are escaped, and so is the escape.
fn escape_prefix(prefix: &str) -> String {
    prefix.replace('%', "%25").replace(':', "%3A")
}

/// Memcached's rule: no control characters and no white space (protocol.txt, "Keys").
fn is_legal(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}

fn why_invalid(label: &str, length: usize) -> String {
    if length > MAX_KEY_BYTES {
        format!(
            "it is {length} bytes long with prefix and version, {MAX_KEY_BYTES} are allowed; shorten it or set invalid_keys = \"digest\""
        )
    } else {
        let bad = label.chars().find(|c| c.is_ascii() && !is_legal(*c as u8)).unwrap_or(' ');
        format!("it holds {bad:?}, which memcached cannot take; leave it out or set invalid_keys = \"digest\"")
    }
}

fn push_head_and_digest(out: &mut String, label: &str, digest: &Digested) {
    let readable = label.chars().filter(|c| c.is_ascii_graphic());
    out.extend(readable.take(HEAD_BYTES));
    out.push('~');
    push_hex(out, digest);
}

/// Appends bytes in hexadecimal.
pub(crate) fn push_hex(text: &mut String, bytes: &[u8]) {
    // By table, and as one piece: this runs on every hit.
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 64];
    for chunk in bytes.chunks(digits.len() / 2) {
        for (pair, byte) in digits.chunks_exact_mut(2).zip(chunk) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        text.push_str(std::str::from_utf8(&digits[..chunk.len() * 2]).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key_space(prefix: &str) -> KeySpace {
        KeySpace::new(prefix, InvalidKeys::Digest)
    }

    fn final_key(prefix: &str, version: i64, key: &str) -> String {
        key_space(prefix).final_key(&key.into(), version).unwrap()
    }

    #[test]
    fn a_plain_key_reads_as_django_s() {
        assert_eq!(final_key("site", 2, "objects"), "site:2:objects");
        assert_eq!(final_key("", 1, "objects"), ":1:objects");
    }

    #[test]
    fn long_keys_and_odd_bytes_are_digested_with_a_readable_head() {
        for key in ["a b", "a\r\nset victim 0 0 4\r\nevil", &"x".repeat(300), &"清".repeat(84)] {
            let made = final_key("site", 1, key);
            assert!(made.len() <= MAX_KEY_BYTES && made.bytes().all(is_legal), "{made}");
            assert!(made.starts_with("site:1#"), "{made}");
        }
    }

    #[test]
    fn refused_keys_say_what_is_wrong_and_what_to_do() {
        let keys = KeySpace::new("", InvalidKeys::Refuse);
        let long = keys.final_key(&Key::from("x".repeat(300)), 1).unwrap_err().to_string();
        assert!(long.contains("303 bytes") && long.contains("invalid_keys"), "{long}");
        let odd = keys.final_key(&Key::from("a\nb"), 1).unwrap_err().to_string();
        assert!(odd.contains(r"'\n'"), "{odd}");
    }

    #[test]
    fn kinds_do_not_share_keys() {
        let keys = key_space("p");
        let tag = keys.final_key(&Key::tag("object:7"), 1).unwrap();
        assert_eq!(tag, "p:1/tag/object:7");
        let posing = final_key("p", 1, "/tag/object:7");
        assert_ne!(posing, tag);
    }

    proptest! {
        #[test]
        fn different_triples_have_different_final_keys(
            a in ("[ -~]{0,6}", -2i64..20, ".{0,8}"),
            b in ("[ -~]{0,6}", -2i64..20, ".{0,8}"),
        ) {
            prop_assume!(a != b);
            prop_assert_ne!(final_key(&a.0, a.1, &a.2), final_key(&b.0, b.1, &b.2));
        }

        #[test]
        fn final_keys_are_always_legal(prefix in "[!-~]{0,20}", version: i64, key in any::<String>()) {
            prop_assume!(check_prefix(&prefix).is_none());
            let made = final_key(&prefix, version, &key);
            prop_assert!(made.len() <= MAX_KEY_BYTES);
            prop_assert!(made.bytes().all(is_legal));
        }
    }
}
