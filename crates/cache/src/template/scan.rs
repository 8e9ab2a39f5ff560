//! Finds the tags of a template the way Tera's lexer does, without understanding what is in them.
//!
//! Strings, comments and raw blocks are stepped over, so that what looks like a tag inside them is none.
//! Where Tera's lexer would report an error the scan ends early and leaves it to Tera to say so.

use std::ops::Range;

/// A tag or an output expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) kind: Kind,
    /// From the opening delimiter to past the closing one.
    pub(super) range: Range<usize>,
    /// What stands between the delimiters and their dashes.
    pub(super) inner: Range<usize>,
    /// Whether it starts with a dash: `{%-`.
    pub(super) trims_before: bool,
    /// Whether it ends with a dash: `-%}`.
    pub(super) trims_after: bool,
}

/// What the delimiters say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `{% … %}`
    Block,
    /// `{{ … }}`
    Output,
}

impl Tag {
    /// Returns the first word, with the range of it: `if`, `endcache`; `<` and `</` for components.
    pub(super) fn word<'s>(&self, source: &'s str) -> (&'s str, Range<usize>) {
        let bytes = source.as_bytes();
        let start = skip_blanks(bytes, self.inner.start, self.inner.end);
        let mut end = start;
        while end < self.inner.end && is_word(bytes[end]) {
            end += 1;
        }
        if end == start && source[start..self.inner.end].starts_with('<') {
            end += if source[start..self.inner.end].starts_with("</") { 2 } else { 1 };
        }
        (&source[start..end], start..end)
    }
}

/// Walks over the tags of a source, first to last.
#[derive(Debug)]
pub(super) struct Tags<'s> {
    source: &'s str,
    at: usize,
    saw_the_end: bool,
}

impl<'s> Tags<'s> {
    pub(super) fn new(source: &'s str) -> Self {
        Tags { source, at: 0, saw_the_end: false }
    }

    /// Walks over a part of the source that starts and ends between tags.
    pub(super) fn within(source: &'s str, part: Range<usize>) -> Self {
        Tags { at: part.start, ..Tags::new(&source[..part.end]) }
    }

    /// Tells, after the last tag, whether the rest of the source holds nothing that is opened and never closed.
    pub(super) fn saw_the_end(&self) -> bool {
        self.saw_the_end
    }

    fn tag(&mut self, kind: Kind, start: usize) -> Option<Tag> {
        let bytes = self.source.as_bytes();
        let trims_before = bytes.get(start + 2) == Some(&b'-');
        let inner_start = start + if trims_before { 3 } else { 2 };
        let closing = if kind == Kind::Block { b"%}" } else { b"}}" };
        let mut at = inner_start;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let trims_after = rest[0] == b'-' && rest[1..].starts_with(closing);
            if trims_after || rest.starts_with(closing) {
                let end = at + if trims_after { 3 } else { 2 };
                self.at = end;
                return Some(Tag { kind, range: start..end, inner: inner_start..at, trims_before, trims_after });
            }
            at = if is_quote(rest[0]) { end_of_string(bytes, at)? } else { at + 1 };
        }
        None
    }
}

impl Iterator for Tags<'_> {
    type Item = Tag;

    fn next(&mut self) -> Option<Tag> {
        let bytes = self.source.as_bytes();
        loop {
            let rest = bytes.get(self.at..)?;
            let Some(found) = rest.windows(2).position(|pair| matches!(pair, b"{{" | b"{%" | b"{#")) else {
                self.saw_the_end = true;
                return None;
            };
            let start = self.at + found;
            let dash = usize::from(bytes.get(start + 2) == Some(&b'-'));
            let body = start + 2 + dash;
            // Whatever follows an opening that is never closed is Tera's to report.
            self.at = bytes.len();
            match bytes[start + 1] {
                b'#' => self.at = body + find(&bytes[body..], b"#}")? + 2,
                b'{' => return self.tag(Kind::Output, start),
                _ => match after_lone_word(bytes, body, b"raw") {
                    Some(raw) => self.at = end_of_raw(bytes, raw)?,
                    None => return self.tag(Kind::Block, start),
                },
            }
        }
    }
}

/// Returns the index past the string whose opening quote stands at `start`; `None` if it is never closed.
pub(super) fn end_of_string(bytes: &[u8], start: usize) -> Option<usize> {
    let quote = bytes[start];
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

/// Tells whether a byte opens a string.
pub(super) fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'' | b'`')
}

/// Tells whether a byte can be in an identifier.
pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Returns the first index from `at` on that is not blank, or `end`.
pub(super) fn skip_blanks(bytes: &[u8], mut at: usize, end: usize) -> usize {
    while at < end && bytes[at].is_ascii_whitespace() {
        at += 1;
    }
    at
}

/// Steps over `-? word -? %}`; `None` if something else stands there. The rule is that of Tera's lexer.
fn after_lone_word(bytes: &[u8], mut at: usize, word: &[u8]) -> Option<usize> {
    at += usize::from(bytes.get(at) == Some(&b'-'));
    at = skip_blanks(bytes, at, bytes.len());
    at = bytes[at..].starts_with(word).then_some(at + word.len())?;
    at = skip_blanks(bytes, at, bytes.len());
    at += usize::from(bytes.get(at) == Some(&b'-'));
    bytes[at..].starts_with(b"%}").then_some(at + 2)
}

fn end_of_raw(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += find(&bytes[at..], b"{%")? + 2;
        if let Some(end) = after_lone_word(bytes, at, b"endraw") {
            return Some(end);
        }
    }
}

fn find(bytes: &[u8], needle: &[u8; 2]) -> Option<usize> {
    bytes.windows(2).position(|pair| pair == needle)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(source: &str) -> Vec<&str> {
        Tags::new(source).map(|tag| tag.word(source).0).collect()
    }

    #[test]
    fn tags_in_strings_comments_and_raw_blocks_are_none() {
        assert_eq!(words(r#"{% if a == "%} {% x %}" %}{% endif %}"#), ["if", "endif"]);
        assert_eq!(words("{# {% if %} #}{% a %}"), ["a"]);
        assert_eq!(words("{%- raw -%}{% if %}{{ x }}{%- endraw -%}{{ y }}"), ["y"]);
        assert_eq!(words(r"{{ 'it\'s }}' }}{% b %}"), ["", "b"]);
        assert_eq!(words("{% <box> %}{% </box> %}"), ["<", "</"]);
    }

    #[test]
    fn what_is_never_closed_ends_the_scan() {
        assert_eq!(words("{% a %}{% b 'x %}"), ["a"]);
        assert_eq!(words("{% a %}{# {% b %}"), ["a"]);
        assert_eq!(words("{% raw %}{% b %}"), [""; 0]);
    }

    #[test]
    fn dashes_belong_to_the_delimiters() {
        let source = "{%- cache 5 a -%}";
        let tag = Tags::new(source).next().unwrap();
        assert!(tag.trims_before && tag.trims_after);
        assert_eq!(&source[tag.inner], " cache 5 a ");
    }

    proptest! {
        #[test]
        fn never_panics(source in "(\\{%|%\\}|\\{\\{|\\}\\}|\\{#|#\\}|-| |raw|endraw|\"|'|\\\\|é|.)*") {
            for tag in Tags::new(&source) {
                prop_assert!(!tag.word(&source).0.contains(' '));
                prop_assert!(source.get(tag.range).is_some());
            }
        }
    }
}
