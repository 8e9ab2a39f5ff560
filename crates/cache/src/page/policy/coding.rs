//! Which coding of a page a client takes (RFC 9110, section 12.5.3).

use actix_web::http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};

use super::cache_control::split;

/// A way to make a body shorter on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// `br` (RFC 7932).
    Brotli,
    /// `zstd` (RFC 8878).
    Zstd,
    /// `gzip` (RFC 1952).
    Gzip,
}

impl Coding {
    /// All of them, the one that is preferred first.
    pub const ALL: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

    /// Returns its name in `Content-Encoding`.
    pub const fn name(self) -> &'static str {
        match self {
            Coding::Brotli => "br",
            Coding::Zstd => "zstd",
            Coding::Gzip => "gzip",
        }
    }
}

/// How much a client wants each coding, in thousandths; zero is not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepted {
    weights: [u16; Coding::ALL.len()],
    identity: u16,
}

impl Accepted {
    /// Reads `Accept-Encoding`. What cannot be read is not taken, and without the field nothing is: RFC 9110 would allow any
    /// coding then, and clients that understand none would not get on.
    ///
    /// # Examples
    /// ```
    /// use actix_web::http::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
    /// use larder_cache::page::policy::coding::{Accepted, Coding};
    ///
    /// let mut headers = HeaderMap::new();
    /// headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, br;q=0.5"));
    /// assert_eq!(Accepted::of(&headers).choose(Coding::ALL), Some(Coding::Gzip));
    /// ```
    pub fn of(headers: &HeaderMap) -> Self {
        let mut named: [Option<u16>; Coding::ALL.len()] = [None; Coding::ALL.len()];
        let (mut identity, mut others) = (None, None);
        for text in headers.get_all(ACCEPT_ENCODING).filter_map(|field| field.to_str().ok()) {
            for item in split(text) {
                let mut parts = item.split(';').map(str::trim);
                let name = parts.next().unwrap_or_default().to_ascii_lowercase();
                let weight = parts.next().map_or(Some(1000), weight).unwrap_or(0);
                let name = if name == "x-gzip" { "gzip" } else { &*name };
                match Coding::ALL.iter().position(|coding| coding.name() == name) {
                    Some(position) => named[position] = Some(weight),
                    None if name == "identity" => identity = Some(weight),
                    None if name == "*" => others = Some(weight),
                    None => {}
                }
            }
        }
        Accepted {
            weights: named.map(|weight| weight.or(others).unwrap_or(0)),
            // It is fine unless it is refused, but whoever names a coding means it.
            identity: identity.or(others.filter(|weight| *weight == 0)).unwrap_or(1),
        }
    }

    /// Chooses one of the codings that there are; `None` for the body as it is.
    pub fn choose(&self, available: impl IntoIterator<Item = Coding>) -> Option<Coding> {
        let weight = |coding: Coding| self.weights[coding as usize];
        let wanted = available.into_iter().filter(|coding| weight(*coding) > 0 && weight(*coding) >= self.identity);
        // The first of those that are wanted most.
        wanted.fold(None, |best, coding| match best {
            Some(best) if weight(best) >= weight(coding) => Some(best),
            _ => Some(coding),
        })
    }
}

/// Reads `q=0.5`, in thousandths.
fn weight(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    let (whole, fraction) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    if !name.trim().eq_ignore_ascii_case("q")
        || fraction.len() > 3
        || !fraction.bytes().all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    let thousandths = format!("{fraction:0<3}").parse::<u16>().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// Tells whether a response may and can be made shorter: nobody has coded it yet or asks that it stays as it is, and it is
/// text.
pub fn is_codable(headers: &HeaderMap) -> bool {
    let says = |value: &HeaderValue, directive: &str| {
        value.to_str().is_ok_and(|text| split(text).iter().any(|part| part.trim().eq_ignore_ascii_case(directive)))
    };
    if headers.contains_key(CONTENT_ENCODING) || headers.get_all(CACHE_CONTROL).any(|value| says(value, "no-transform"))
    {
        return false;
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    const TEXTS: [&str; 8] = [
        "application/javascript",
        "application/json",
        "application/ld+json",
        "application/manifest+json",
        "application/wasm",
        "application/xml",
        "image/svg+xml",
        "image/x-icon",
    ];
    kind.starts_with("text/") && kind != "text/event-stream"
        || kind.ends_with("+xml")
        || kind.ends_with("+json")
        || TEXTS.contains(&&*kind)
}

/// Returns the entity tag of a coding: what differs in a byte has another one (RFC 9110, section 8.8.3). Weak ones say that
/// two mean the same, and do.
pub fn tag_of(tag: &HeaderValue, coding: Coding) -> HeaderValue {
    let coded = tag.to_str().ok().filter(|tag| !tag.starts_with("W/")).and_then(|tag| tag.strip_suffix('"'));
    let coded = coded.and_then(|tag| HeaderValue::try_from(format!("{tag}-{}\"", coding.name())).ok());
    coded.unwrap_or_else(|| tag.clone())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderName;

    use super::*;

    fn headers(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        values.iter().for_each(|value| headers.append(name.clone(), HeaderValue::from_static(value)));
        headers
    }

    #[test]
    fn the_coding_that_is_wanted_most_is_chosen() {
        use Coding::{Brotli, Gzip, Zstd};
        let cases: [(&[&str], Option<Coding>); 18] = [
            (&[], None),
            (&[""], None),
            (&["gzip, deflate, br, zstd"], Some(Brotli)),
            (&["gzip"], Some(Gzip)),
            (&["x-gzip"], Some(Gzip)),
            (&["GZIP"], Some(Gzip)),
            (&["gzip", "zstd"], Some(Zstd)),
            (&["gzip;q=1, br;q=0.9"], Some(Gzip)),
            (&["gzip ; q=0.5 , br ; q=0.501"], Some(Brotli)),
            (&["br;q=0, gzip;q=0.001"], Some(Gzip)),
            (&["*"], Some(Brotli)),
            (&["*;q=0.5, br;q=0"], Some(Zstd)),
            (&["identity"], None),
            (&["identity, gzip;q=0.5"], None),
            (&["identity;q=0.5, gzip"], Some(Gzip)),
            (&["deflate, compress"], None),
            (&["gzip;q=2, br;q=x, zstd;q=0.1234"], None),
            (&["*;q=0"], None),
        ];
        for (values, expected) in cases {
            assert_eq!(Accepted::of(&headers(ACCEPT_ENCODING, values)).choose(Coding::ALL), expected, "{values:?}");
        }
        let wants_br = Accepted::of(&headers(ACCEPT_ENCODING, &["br, gzip;q=0.5"]));
        assert_eq!(wants_br.choose([Gzip]), Some(Gzip), "there is no other");
    }

    #[test]
    fn only_text_that_nobody_coded_is_coded() {
        let with = |kind: &'static str, more: &[(HeaderName, &'static str)]| {
            let mut headers = headers(CONTENT_TYPE, &[kind]);
            more.iter().for_each(|(name, value)| headers.append(name.clone(), HeaderValue::from_static(value)));
            is_codable(&headers)
        };
        for kind in
            ["text/html; charset=utf-8", "Text/CSS", "application/json", "image/svg+xml", "application/atom+xml"]
        {
            assert!(with(kind, &[]), "{kind}");
        }
        for kind in ["image/png", "text/event-stream", "application/zip", ""] {
            assert!(!with(kind, &[]), "{kind}");
        }
        assert!(!with("text/html", &[(CONTENT_ENCODING, "gzip")]));
        assert!(!with("text/html", &[(CACHE_CONTROL, "public, No-Transform")]));
        assert!(!is_codable(&HeaderMap::new()));
    }

    #[test]
    fn each_coding_has_a_strong_tag_of_its_own() {
        let tag = |text| tag_of(&HeaderValue::from_static(text), Coding::Brotli);
        assert_eq!(tag("\"a\""), "\"a-br\"");
        assert_eq!(tag("W/\"a\""), "W/\"a\"");
        assert_eq!(tag("a"), "a");
    }

    proptest::proptest! {
        #[test]
        fn reading_never_panics(text in "[ -~]{0,40}") {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::try_from(text).unwrap());
            let _ = Accepted::of(&headers).choose(Coding::ALL);
        }
    }
}
