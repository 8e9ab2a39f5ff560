//! Validators, and requests that want a page only if it has changed (RFC 9110, sections 8.8 and 13; RFC 9111, section 4.3).

use std::time::SystemTime;

use actix_web::http::header::{
    self, DATE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};

use super::freshness::date;

/// An entity tag (RFC 9110, section 8.8.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTag {
    /// Whether it stands for all representations that mean the same.
    pub weak: bool,
    /// What stands between the quotes.
    pub opaque: Vec<u8>,
}

impl EntityTag {
    /// Reads one entity tag; `None` if it is none.
    ///
    /// # Examples
    /// ```
    /// use larder_cache::page::policy::conditional::EntityTag;
    ///
    /// let (weak, strong) = (EntityTag::parse(br#"W/"a""#).unwrap(), EntityTag::parse(br#""a""#).unwrap());
    /// assert!(weak.weak_eq(&strong) && !weak.strong_eq(&strong));
    /// assert_eq!(EntityTag::parse(b"a"), None);
    /// ```
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (tag, rest) = Self::read(text.trim_ascii())?;
        rest.is_empty().then_some(tag)
    }

    /// Reads an entity tag at the beginning, and returns what comes after it.
    fn read(text: &[u8]) -> Option<(Self, &[u8])> {
        // The letter is case-sensitive (section 8.8.3).
        let (weak, quoted) = match text.strip_prefix(b"W/") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let opaque = quoted.strip_prefix(b"\"")?;
        let end = opaque.iter().position(|byte| *byte == b'"')?;
        let is_allowed = |byte: &u8| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..);
        let (opaque, rest) = (&opaque[..end], &opaque[end + 1..]);
        opaque.iter().all(is_allowed).then(|| (EntityTag { weak, opaque: opaque.to_vec() }, rest))
    }

    /// Compares as ranges need it: byte by byte the same (section 8.8.3.2).
    pub fn strong_eq(&self, other: &EntityTag) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// Compares as caches need it: the same in meaning (section 8.8.3.2).
    pub fn weak_eq(&self, other: &EntityTag) -> bool {
        self.opaque == other.opaque
    }
}

/// What an `If-None-Match` names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    Any,
    Tags(Vec<EntityTag>),
}

/// What an `If-Range` names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Range {
    Tag(EntityTag),
    Date(SystemTime),
    /// Nothing that can be read, so nothing that is met.
    Unreadable,
}

/// The conditions of a request that a cache evaluates. `If-Match` and `If-Unmodified-Since` are for the origin
/// (RFC 9111, section 4.3.2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Preconditions {
    none_match: Option<Named>,
    modified_since: Option<SystemTime>,
    range: Option<Range>,
}

impl Preconditions {
    /// Leaves `If-Modified-Since` out.
    #[must_use]
    pub fn without_date(self) -> Self {
        Preconditions { modified_since: None, ..self }
    }

    /// Reads the conditions of a request. Of a list what can be read counts, up to the first fault; a date that cannot be
    /// read, or is one of several, is no condition.
    ///
    /// # Examples
    /// ```
    /// use actix_web::http::header::{ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH};
    /// use larder_cache::page::policy::conditional::{Preconditions, is_not_modified};
    ///
    /// let (mut request, mut page) = (HeaderMap::new(), HeaderMap::new());
    /// request.insert(IF_NONE_MATCH, HeaderValue::from_static("\"old\", W/\"new\""));
    /// page.insert(ETAG, HeaderValue::from_static("\"new\""));
    /// assert!(is_not_modified(&Preconditions::of(&request), &page));
    /// ```
    pub fn of(headers: &HeaderMap) -> Self {
        Preconditions {
            none_match: headers.contains_key(IF_NONE_MATCH).then(|| named(headers, &IF_NONE_MATCH)),
            modified_since: only_date(headers, &IF_MODIFIED_SINCE),
            range: headers.get(IF_RANGE).map(|condition| match EntityTag::parse(condition.as_bytes()) {
                Some(tag) if is_one(headers, &IF_RANGE) => Range::Tag(tag),
                _ => only_date(headers, &IF_RANGE).map_or(Range::Unreadable, Range::Date),
            }),
        }
    }
}

/// The conditions of a request that is to change something, for views that check them (RFC 9110, sections 13.1.1 and
/// 13.1.4).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteConditions {
    matches: Option<Named>,
    unmodified_since: Option<SystemTime>,
}

impl WriteConditions {
    /// Reads `If-Match` and `If-Unmodified-Since`, as [`Preconditions::of`] reads the others.
    pub fn of(headers: &HeaderMap) -> Self {
        WriteConditions {
            matches: headers.contains_key(IF_MATCH).then(|| named(headers, &IF_MATCH)),
            unmodified_since: only_date(headers, &IF_UNMODIFIED_SINCE),
        }
    }

    /// Tells whether what is there, with these validators, is not what the client thinks. An entity tag goes before a date.
    pub fn fails(&self, fields: &HeaderMap) -> bool {
        let own = fields.get(ETAG).and_then(|tag| EntityTag::parse(tag.as_bytes()));
        match (&self.matches, self.unmodified_since) {
            (Some(Named::Any), _) => own.is_none() && !fields.contains_key(LAST_MODIFIED),
            (Some(Named::Tags(tags)), _) => !own.is_some_and(|own| tags.iter().any(|tag| tag.strong_eq(&own))),
            (None, Some(since)) => date(fields, &LAST_MODIFIED).is_some_and(|modified| modified > since),
            (None, None) => false,
        }
    }
}

/// Reads all lines of a field as the one list that they are (RFC 9110, section 5.3), up to the first fault. `*` stands
/// alone: among entity tags it is a fault.
fn named(headers: &HeaderMap, name: &HeaderName) -> Named {
    if headers.get_all(name).all(|line| line.as_bytes().trim_ascii() == b"*") {
        return Named::Any;
    }
    let mut tags = Vec::new();
    let _ = headers.get_all(name).try_for_each(|line| add_tags(&mut tags, line.as_bytes()));
    Named::Tags(tags)
}

/// Adds the entity tags of a line; `None` if there is a fault, and what stands before it is added.
fn add_tags(tags: &mut Vec<EntityTag>, line: &[u8]) -> Option<()> {
    let mut rest = after_empty_members(line);
    while !rest.is_empty() {
        let (tag, after) = EntityTag::read(rest)?;
        let after = after.trim_ascii_start();
        if !after.is_empty() && !after.starts_with(b",") {
            return None;
        }
        tags.push(tag);
        rest = after_empty_members(after);
    }
    Some(())
}

/// Skips members that are empty, which a list may have (RFC 9110, section 5.6.1.2).
fn after_empty_members(list: &[u8]) -> &[u8] {
    let empty = list.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b',')).count();
    &list[empty..]
}

/// Returns the date in a field; several are as good as none (RFC 9110, sections 13.1.3 and 13.1.4).
fn only_date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    date(headers, name).filter(|_| is_one(headers, name))
}

fn is_one(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).count() == 1
}

/// Tells whether the client has what would be the answer already. `fields` are those of the answer.
///
/// An entity tag goes before a date, even one that matches nothing (RFC 9110, section 13.1.3).
pub fn is_not_modified(conditions: &Preconditions, fields: &HeaderMap) -> bool {
    match &conditions.none_match {
        Some(Named::Any) => true,
        Some(Named::Tags(tags)) => {
            let own = fields.get(ETAG).and_then(|tag| EntityTag::parse(tag.as_bytes()));
            own.is_some_and(|own| tags.iter().any(|tag| tag.weak_eq(&own)))
        }
        None => {
            let Some(since) = conditions.modified_since else { return false };
            date(fields, &LAST_MODIFIED).or_else(|| date(fields, &DATE)).is_some_and(|modified| modified <= since)
        }
    }
}

/// Tells whether a part of the answer is of use to a client who has another part (RFC 9110, section 13.1.5).
///
/// A page made in the second of its `Last-Modified` may have changed again in that second, so the date does not tell one
/// from the other (section 8.8.2.2). Without a `Date` there is nothing to say so, and the same date is enough.
pub fn range_applies(conditions: &Preconditions, fields: &HeaderMap) -> bool {
    match &conditions.range {
        None => true,
        Some(Range::Tag(tag)) => {
            fields.get(ETAG).and_then(|own| EntityTag::parse(own.as_bytes())).is_some_and(|own| own.strong_eq(tag))
        }
        Some(Range::Date(exactly)) => {
            let is_weak = date(fields, &DATE).is_some_and(|made| made <= *exactly);
            !is_weak && date(fields, &LAST_MODIFIED) == Some(*exactly)
        }
        Some(Range::Unreadable) => false,
    }
}

/// Tells whether a field stands in a 304 (RFC 9110, section 15.4.5): what describes a body that is not there does not.
pub fn is_kept_in_not_modified(name: &HeaderName) -> bool {
    const OF_THE_BODY: [HeaderName; 7] = [
        header::CONTENT_TYPE,
        header::CONTENT_LENGTH,
        header::CONTENT_ENCODING,
        header::CONTENT_LANGUAGE,
        header::CONTENT_RANGE,
        header::ACCEPT_RANGES,
        header::TRANSFER_ENCODING,
    ];
    !OF_THE_BODY.contains(name)
}

/// Tells whether a field of a 304 takes the place of the stored one (RFC 9111, section 3.2): all do but those that tell how
/// the stored body is written and how long it is.
///
/// The section lets a cache leave out what its stored response depends upon. `Content-Type` and `Content-Encoding` count as
/// that here: a view or a middleware may add them to each response, a 304 too, and the stored body was written with its own.
/// Fields of one connection are left to [`is_kept`](super::response::is_kept).
pub fn is_updated_by_not_modified(name: &HeaderName) -> bool {
    const OF_THE_STORED_BODY: [HeaderName; 4] =
        [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::CONTENT_TYPE, header::CONTENT_RANGE];
    !OF_THE_STORED_BODY.contains(name)
}

/// Tells whether a 304 is about another version than the stored one: a strong validator names the version that has not
/// changed, and nothing else may be updated by it (RFC 9111, section 4.3.4).
pub fn is_of_another_version(said: &HeaderMap, stored: Option<&HeaderValue>) -> bool {
    let parse = |tag: &HeaderValue| EntityTag::parse(tag.as_bytes());
    let Some(said) = said.get(ETAG).and_then(parse).filter(|tag| !tag.weak) else { return false };
    !stored.and_then(parse).is_some_and(|stored| stored.strong_eq(&said))
}

/// Makes a request one for the whole page: an answer to its conditions would be for this client only.
pub fn strip(headers: &mut HeaderMap) {
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE, RANGE] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const EARLY: &str = "Thu, 01 Jan 1970 00:00:10 GMT";
    const LATE: &str = "Thu, 01 Jan 1970 00:00:20 GMT";

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.clone(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn entity_tags_are_read_as_they_are_written() {
        for good in [r#""""#, r#""a""#, r#"W/"a""#, r#" "a" "#, r#""a,b""#, r#""\""#, "\"ü\""] {
            assert!(EntityTag::parse(good.as_bytes()).is_some(), "{good}");
        }
        for bad in ["", "a", "\"a", "a\"", r#"w/"a""#, r#"W/a"#, r#""a"b"#, r#""a b""#, "\"a\tb\"", "*"] {
            assert_eq!(EntityTag::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_client_that_has_the_page_need_not_have_it_again() {
        let page = headers(&[(ETAG, r#""a""#), (LAST_MODIFIED, EARLY), (DATE, LATE)]);
        let cases: &[(&[(HeaderName, &str)], bool)] = &[
            (&[], false),
            (&[(IF_NONE_MATCH, r#""a""#)], true),
            (&[(IF_NONE_MATCH, r#"W/"a""#)], true),
            (&[(IF_NONE_MATCH, r#""b", ,"c" ,"a""#)], true),
            (&[(IF_NONE_MATCH, r#""b""#), (IF_NONE_MATCH, r#""a""#)], true),
            (&[(IF_NONE_MATCH, "*")], true),
            (&[(IF_NONE_MATCH, r#""b""#)], false),
            (&[(IF_NONE_MATCH, "a")], false),
            (&[(IF_NONE_MATCH, r#""b" "a""#)], false),
            (&[(IF_NONE_MATCH, r#", ,"a""#)], true),
            (&[(IF_NONE_MATCH, ""), (IF_NONE_MATCH, r#""a""#)], true),
            (&[(IF_NONE_MATCH, r#""a", x"#)], true),
            (&[(IF_NONE_MATCH, r#""a" x"#)], false),
            (&[(IF_NONE_MATCH, r#"x, "a""#)], false),
            (&[(IF_NONE_MATCH, "x"), (IF_NONE_MATCH, r#""a""#)], false),
            (&[(IF_NONE_MATCH, "*"), (IF_NONE_MATCH, "*")], true),
            (&[(IF_NONE_MATCH, r#""b""#), (IF_NONE_MATCH, "*")], false),
            (&[(IF_NONE_MATCH, r#"*, "a""#)], false),
            (&[(IF_NONE_MATCH, ""), (IF_MODIFIED_SINCE, LATE)], false),
            (&[(IF_MODIFIED_SINCE, EARLY)], true),
            (&[(IF_MODIFIED_SINCE, LATE)], true),
            (&[(IF_MODIFIED_SINCE, "Thu, 01 Jan 1970 00:00:09 GMT")], false),
            (&[(IF_MODIFIED_SINCE, "yesterday")], false),
            (&[(IF_MODIFIED_SINCE, LATE), (IF_MODIFIED_SINCE, LATE)], false),
            (&[(IF_NONE_MATCH, r#""b""#), (IF_MODIFIED_SINCE, LATE)], false),
            (&[(IF_NONE_MATCH, "x"), (IF_MODIFIED_SINCE, LATE)], false),
        ];
        for (fields, expected) in cases {
            assert_eq!(is_not_modified(&Preconditions::of(&headers(fields)), &page), *expected, "{fields:?}");
        }
        let since = Preconditions::of(&headers(&[(IF_MODIFIED_SINCE, LATE)]));
        assert!(is_not_modified(&since, &headers(&[(DATE, EARLY)])), "without Last-Modified the date counts");
        assert!(!is_not_modified(&since, &headers(&[])));
        assert!(!is_not_modified(&Preconditions::of(&headers(&[(IF_NONE_MATCH, r#""a""#)])), &headers(&[])));
    }

    #[test]
    fn a_client_changes_only_what_it_knows() {
        let there = headers(&[(ETAG, r#""a""#), (LAST_MODIFIED, LATE)]);
        let weak = headers(&[(ETAG, r#"W/"a""#)]);
        let fails =
            |fields: &[(HeaderName, &str)], there: &HeaderMap| WriteConditions::of(&headers(fields)).fails(there);
        assert!(!fails(&[], &there));
        assert!(!fails(&[(IF_MATCH, r#""b", "a""#)], &there));
        assert!(fails(&[(IF_MATCH, r#""b""#)], &there));
        assert!(fails(&[(IF_MATCH, r#""a""#)], &weak));
        assert!(!fails(&[(IF_MATCH, "*")], &there));
        let nothing = headers(&[]);
        assert!(fails(&[(IF_MATCH, "*")], &nothing));
        assert!(fails(&[(IF_UNMODIFIED_SINCE, EARLY)], &there));
        assert!(!fails(&[(IF_UNMODIFIED_SINCE, LATE)], &there));
        assert!(!fails(&[(IF_UNMODIFIED_SINCE, EARLY), (IF_UNMODIFIED_SINCE, EARLY)], &there));
        assert!(fails(&[(IF_MATCH, r#""b""#), (IF_MATCH, "*")], &there));
        assert!(!fails(&[(IF_MATCH, r#""a""#), (IF_UNMODIFIED_SINCE, EARLY)], &there));
    }

    #[test]
    fn a_part_is_of_use_only_beside_parts_of_the_same() {
        let page = headers(&[(ETAG, r#""a""#), (LAST_MODIFIED, EARLY)]);
        let weak = headers(&[(ETAG, r#"W/"a""#)]);
        let applies =
            |fields: &[(HeaderName, &str)], page: &HeaderMap| range_applies(&Preconditions::of(&headers(fields)), page);
        assert!(applies(&[], &page));
        assert!(applies(&[(IF_RANGE, r#""a""#)], &page));
        assert!(!applies(&[(IF_RANGE, r#"W/"a""#)], &page));
        assert!(!applies(&[(IF_RANGE, r#""a""#)], &weak));
        assert!(applies(&[(IF_RANGE, EARLY)], &page));
        assert!(!applies(&[(IF_RANGE, LATE)], &page), "it must be exactly that one");
        assert!(!applies(&[(IF_RANGE, "x")], &page));
        assert!(!applies(&[(IF_RANGE, r#""a""#), (IF_RANGE, r#""a""#)], &page), "it is one field");
        assert!(!applies(&[(IF_RANGE, EARLY), (IF_RANGE, EARLY)], &page), "it is one field");
        let made = |date| headers(&[(LAST_MODIFIED, EARLY), (DATE, date)]);
        assert!(applies(&[(IF_RANGE, EARLY)], &made(LATE)));
        assert!(!applies(&[(IF_RANGE, EARLY)], &made(EARLY)), "it may have changed in that second");
    }

    #[test]
    fn a_304_has_the_fields_that_a_client_updates() {
        for kept in ["cache-control", "etag", "expires", "vary", "date", "content-location", "x-own", "age"] {
            assert!(is_kept_in_not_modified(&HeaderName::from_static(kept)), "{kept}");
        }
        for dropped in ["content-type", "content-length", "content-encoding"] {
            assert!(!is_kept_in_not_modified(&HeaderName::from_static(dropped)), "{dropped}");
            assert!(!is_updated_by_not_modified(&HeaderName::from_static(dropped)), "{dropped}");
        }
        assert!(is_updated_by_not_modified(&header::CACHE_CONTROL));
    }

    #[test]
    fn a_request_for_the_whole_page_has_no_conditions() {
        let all = [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE, RANGE, IF_MATCH].map(|name| (name, "x"));
        let mut request = headers(&all);
        strip(&mut request);
        assert_eq!(request.keys().collect::<Vec<_>>(), [IF_MATCH]);
        assert_eq!(Preconditions::of(&request), Preconditions::default());
    }

    proptest! {
        #[test]
        fn reading_never_panics(one: Vec<u8>, other: Vec<u8>) {
            let mut headers = HeaderMap::new();
            for (name, value) in [(IF_NONE_MATCH, &one), (IF_RANGE, &other), (ETAG, &other), (IF_NONE_MATCH, &other)] {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    headers.append(name, value);
                }
            }
            let conditions = Preconditions::of(&headers);
            let _ = (is_not_modified(&conditions, &headers), range_applies(&conditions, &headers));
        }
    }
}
