//! Parts of a page (RFC 9110, section 14).

use actix_web::http::header::{HeaderMap, HeaderValue, RANGE};
use bytes::{BufMut, Bytes, BytesMut};

/// How many parts are answered; who wants more has the whole (section 14.2 lets a server ignore what looks like an attack).
const MAX_PARTS: usize = 8;

/// What is to be answered of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ranges {
    /// All of it.
    Whole,
    /// These parts: first and last byte, in order, apart from each other.
    Parts(Vec<(u64, u64)>),
    /// Nothing: all that was asked for lies beyond its end.
    Unsatisfiable,
}

/// Decides which parts of a body a request gets. Any fault makes it the whole: a client must be ready for that. So does
/// asking for more bytes than there are, by parts that overlap, or for too many parts (section 14.2).
///
/// # Examples
/// ```
/// use actix_web::http::header::{HeaderMap, HeaderValue, RANGE};
/// use larder_cache::page::policy::range::{Ranges, ranges};
///
/// let mut headers = HeaderMap::new();
/// headers.insert(RANGE, HeaderValue::from_static("bytes=0-3, -2"));
/// assert_eq!(ranges(&headers, 10), Ranges::Parts(vec![(0, 3), (8, 9)]));
/// ```
pub fn ranges(headers: &HeaderMap, length: u64) -> Ranges {
    let mut lines = headers.get_all(RANGE);
    let (Some(line), None) = (lines.next(), lines.next()) else { return Ranges::Whole };
    read(line.as_bytes(), length).unwrap_or(Ranges::Whole)
}

fn read(line: &[u8], length: u64) -> Option<Ranges> {
    let (unit, set) = std::str::from_utf8(line).ok()?.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let members = set.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty());
    let read = members.map(|member| part(member, length)).collect::<Option<Vec<_>>>()?;
    if read.is_empty() {
        return None;
    }
    let parts: Vec<(u64, u64)> = read.into_iter().flatten().collect();
    if parts.is_empty() {
        return Some(Ranges::Unsatisfiable);
    }
    let bytes = parts.iter().fold(0, |sum: u64, (first, last)| sum.saturating_add(last - first + 1));
    let parts = apart(parts);
    (bytes <= length && parts.len() <= MAX_PARTS).then_some(Ranges::Parts(parts))
}

/// Reads one range, and cuts it to the body: `Some(None)` if it lies beyond its end, `None` if there is a fault, or the
/// body is empty and its end is asked for. The latter can be satisfied (section 14.1.2), but no part can say so.
fn part(member: &str, length: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = member.split_once('-')?;
    if first.is_empty() {
        let count = number(last)?;
        if count > 0 && length == 0 {
            return None;
        }
        return Some((count > 0).then(|| (length.saturating_sub(count), length - 1)));
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    (first <= last).then(|| (first < length).then(|| (first, last.min(length - 1))))
}

/// Puts parts in order, and makes one of those that overlap or touch.
fn apart(mut parts: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    parts.sort_unstable();
    let mut apart: Vec<(u64, u64)> = Vec::new();
    for (first, last) in parts {
        match apart.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => apart.push((first, last)),
        }
    }
    apart
}

fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // A number that does not fit lies beyond any end.
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Returns the value of `Content-Range` for a part.
pub fn content_range(first: u64, last: u64, length: u64) -> HeaderValue {
    value(format!("bytes {first}-{last}/{length}"))
}

/// Returns the value of `Content-Range` where nothing can be answered (section 15.5.17).
pub fn unsatisfied_range(length: u64) -> HeaderValue {
    value(format!("bytes */{length}"))
}

fn value(text: String) -> HeaderValue {
    // Visible ASCII is always a valid value.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// Writes several parts into one body of the type `multipart/byteranges` (section 14.6). Of a part that lies beyond the end
/// of the body nothing is written.
pub fn multipart(parts: &[(u64, u64)], content_type: Option<&[u8]>, body: &Bytes, boundary: &str) -> Bytes {
    let length = body.len();
    let mut out = BytesMut::new();
    for (first, last) in parts {
        out.put_slice(format!("\r\n--{boundary}\r\n").as_bytes());
        if let Some(content_type) = content_type {
            out.put_slice(b"Content-Type: ");
            out.put_slice(content_type);
            out.put_slice(b"\r\n");
        }
        out.put_slice(format!("Content-Range: bytes {first}-{last}/{length}\r\n\r\n").as_bytes());
        let position = |position: u64| usize::try_from(position).unwrap_or(usize::MAX).min(length);
        out.put_slice(body.get(position(*first)..position(last.saturating_add(1))).unwrap_or_default());
    }
    out.put_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn of(lines: &[&str], length: u64) -> Ranges {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(RANGE, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        ranges(&headers, length)
    }

    fn parts(parts: &[(u64, u64)]) -> Ranges {
        Ranges::Parts(parts.to_vec())
    }

    #[test]
    fn parts_are_cut_to_the_body_put_in_order_and_joined() {
        let cases: &[(&str, Ranges)] = &[
            ("bytes=0-0", parts(&[(0, 0)])),
            ("BYTES=2-", parts(&[(2, 9)])),
            ("bytes=-3", parts(&[(7, 9)])),
            ("bytes=-99", parts(&[(0, 9)])),
            ("bytes=5-99999999999999999999999", parts(&[(5, 9)])),
            ("bytes=8-9,0-1", parts(&[(0, 1), (8, 9)])),
            ("bytes=0-3, 2-5 ,6-6", parts(&[(0, 6)])),
            ("bytes=, 0-1,,20-", parts(&[(0, 1)])),
            ("bytes=10-", Ranges::Unsatisfiable),
            ("bytes=10-20, 30-", Ranges::Unsatisfiable),
            ("bytes=-0", Ranges::Unsatisfiable),
            ("bytes=", Ranges::Whole),
            ("bytes=3-2", Ranges::Whole),
            ("bytes=a-b", Ranges::Whole),
            ("bytes=-", Ranges::Whole),
            ("bytes=1", Ranges::Whole),
            ("bytes=+1-2", Ranges::Whole),
            ("lines=0-1", Ranges::Whole),
            ("0-1", Ranges::Whole),
            ("bytes =0-1", Ranges::Whole),
            ("bytes= 0-1", parts(&[(0, 1)])),
            ("bytes=0 -1", Ranges::Whole),
            ("bytes=0-1;2-3", Ranges::Whole),
            ("bytes=20-, x", Ranges::Whole),
            ("bytes=0-1, \u{e4}", Ranges::Whole),
        ];
        for (line, expected) in cases {
            assert_eq!(of(&[line], 10), *expected, "{line}");
        }
        assert_eq!(of(&[], 10), Ranges::Whole);
        assert_eq!(of(&["bytes=0-1", "bytes=2-3"], 10), Ranges::Whole, "two fields");
    }

    #[test]
    fn only_the_end_of_nothing_can_be_had() {
        assert_eq!(of(&["bytes=0-"], 0), Ranges::Unsatisfiable);
        assert_eq!(of(&["bytes=-0"], 0), Ranges::Unsatisfiable);
        assert_eq!(of(&["bytes=-1"], 0), Ranges::Whole);
        assert_eq!(of(&["bytes=0-, -1"], 0), Ranges::Whole);
    }

    #[test]
    fn who_wants_more_bytes_than_there_are_has_the_whole() {
        assert_eq!(of(&["bytes=0-,0-"], 10), Ranges::Whole);
        assert_eq!(of(&["bytes=0-6,3-6"], 10), Ranges::Whole);
        assert_eq!(of(&["bytes=0-6,3-5"], 10), parts(&[(0, 6)]));
        assert_eq!(of(&["bytes=0-99,20-99"], 10), parts(&[(0, 9)]), "only what is there counts");
    }

    #[test]
    fn who_wants_too_many_parts_has_the_whole() {
        let set = |count: u64| (0..count).map(|n| format!("{}-{}", n * 3, n * 3)).collect::<Vec<_>>().join(",");
        assert!(matches!(of(&[&format!("bytes={}", set(8))], 1000), Ranges::Parts(parts) if parts.len() == 8));
        assert_eq!(of(&[&format!("bytes={}", set(9))], 1000), Ranges::Whole);
    }

    #[test]
    fn several_parts_are_written_with_what_they_are() {
        let body = multipart(&[(0, 1), (4, 4)], Some(b"text/plain"), &Bytes::from_static(b"abcdef"), "x");
        let expected = "\r\n--x\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/6\r\n\r\nab\
                        \r\n--x\r\nContent-Type: text/plain\r\nContent-Range: bytes 4-4/6\r\n\r\ne\r\n--x--\r\n";
        assert_eq!(body, expected);
        assert_eq!(content_range(0, 1, 6), "bytes 0-1/6");
        assert_eq!(unsatisfied_range(6), "bytes */6");
        let untyped = multipart(&[(5, 5)], None, &Bytes::from_static(b"abcdef"), "x");
        assert_eq!(untyped, "\r\n--x\r\nContent-Range: bytes 5-5/6\r\n\r\nf\r\n--x--\r\n");
    }

    /// In a short body, just beyond it, or as far as a number goes.
    fn position() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..20, Just(u64::MAX)]
    }

    proptest! {
        #[test]
        fn parts_lie_inside_and_apart(line in "(bytes=)?[0-9, -]{0,40}", length in 0u64..50) {
            if let Ranges::Parts(parts) = of(&[&line], length) {
                prop_assert!(parts.iter().all(|(first, last)| first <= last && *last < length));
                prop_assert!(parts.windows(2).all(|two| two[0].1 + 1 < two[1].0));
            }
        }

        #[test]
        fn writing_never_panics(parts in vec((position(), position()), 0..4), body in vec(any::<u8>(), 0..10)) {
            multipart(&parts, None, &body.into(), "x");
        }

        #[test]
        fn reading_never_panics(bytes: Vec<u8>, length: u64) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                headers.append(RANGE, value);
                let _ = ranges(&headers, length);
            }
        }
    }
}
