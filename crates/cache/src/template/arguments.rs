//! Splits what stands in a `{% cache %}` tag into timeout, name, vary-on values and keyword arguments.
//!
//! Arguments are separated by blanks, as in Django. Blanks inside strings and brackets separate nothing, so an
//! expression with blanks goes into parentheses.

use std::ops::Range;

use super::scan::{end_of_string, is_quote, is_word, skip_blanks};

/// The words that Tera reads as operators; alone between blanks they mean that parentheses were forgotten.
const OPERATOR_WORDS: [&str; 8] = ["and", "or", "not", "in", "is", "if", "else", "for"];

const USAGE: &str =
    "write `{% cache 500 name %}`: the timeout in seconds or `none`, a name, then what the fragment varies on";

/// The arguments of one tag. Ranges are bytes of the template.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) timeout: Range<usize>,
    pub(super) name: Name,
    pub(super) vary: Vec<Range<usize>>,
    /// In the order of the source.
    pub(super) keywords: Vec<Keyword>,
}

/// The name of the fragment, which is never looked up as a variable.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) text: String,
    pub(super) range: Range<usize>,
}

/// `using="fast"` or `tags=[…]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Keyword {
    pub(super) name: &'static str,
    /// From the name to the end of the value.
    pub(super) range: Range<usize>,
    pub(super) value: Range<usize>,
}

/// `id=object.id` of a `{% nocache %}` tag.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: Range<usize>,
    pub(super) value: Range<usize>,
}

/// Why the arguments cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) range: Range<usize>,
    pub(super) message: String,
    pub(super) help: String,
}

fn refuse<T>(range: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { range, message: message.into(), help: help.into() })
}

/// Reads the arguments in `inner`, which is what follows the word `cache` of the tag at `tag`.
pub(super) fn parse(source: &str, tag: Range<usize>, inner: Range<usize>) -> Result<Arguments, Refusal> {
    let words = split(source, inner)?;
    let mut words = words.into_iter().peekable();
    let Some(timeout) = words.next() else {
        return refuse(tag, "`cache` needs a timeout and a name", USAGE);
    };
    check_expression(source, &timeout)?;
    if keyword_of(source, &timeout).is_some() {
        return refuse(timeout, "`cache` takes the timeout and the name first", USAGE);
    }
    let Some(name) = words.next() else {
        return refuse(tag, "`cache` needs a name after the timeout", USAGE);
    };
    let name = parse_name(source, name)?;
    let mut arguments = Arguments { timeout, name, vary: Vec::new(), keywords: Vec::new() };
    for word in words {
        match keyword_of(source, &word) {
            Some(keyword) => arguments.push_keyword(source, word, keyword)?,
            None if arguments.keywords.is_empty() => {
                check_expression(source, &word)?;
                arguments.vary.push(word);
            }
            None => {
                return refuse(
                    word,
                    "vary-on values come before keyword arguments",
                    "move this in front of `using=` and `tags=`; if it belongs to their value, put that in brackets",
                );
            }
        }
    }
    Ok(arguments)
}

/// Reads the arguments in `inner`, which is what follows the word `nocache`.
pub(super) fn parse_named(source: &str, inner: Range<usize>) -> Result<Vec<Named>, Refusal> {
    const USAGE: &str = "write `{% nocache id=object.id %}`: what the block needs of a loop or a `set`, under a name";
    let mut named: Vec<Named> = Vec::new();
    for word in split(source, inner)? {
        let Some(name_end) = keyword_of(source, &word) else {
            check_expression(source, &word)?;
            return refuse(word, "an argument of `nocache` has no name", USAGE);
        };
        let (name, value) = (word.start..name_end, name_end + 1..word.end);
        let text = &source[name.clone()];
        if text.starts_with("__") || text.starts_with(|first: char| first.is_ascii_digit()) {
            return refuse(name, format!("`{text}` cannot be the name of an argument"), USAGE);
        }
        if named.iter().any(|other| source[other.name.clone()] == *text) {
            return refuse(word, format!("`{text}=` stands twice"), "keep one of them");
        }
        if value.is_empty() {
            let help = "write the value right after `=`, without a blank";
            return refuse(word, format!("`{text}=` has no value"), help);
        }
        check_expression(source, &value)?;
        named.push(Named { name, value });
    }
    Ok(named)
}

impl Arguments {
    fn push_keyword(&mut self, source: &str, range: Range<usize>, name_end: usize) -> Result<(), Refusal> {
        let name = match &source[range.start..name_end] {
            "using" => "using",
            "tags" => "tags",
            other => {
                let message = format!("`cache` has no keyword argument `{other}`");
                return refuse(range, message, "there is `using=\"alias\"` and `tags=[…]`; to compare, write `==`");
            }
        };
        if self.keywords.iter().any(|keyword| keyword.name == name) {
            return refuse(range, format!("`{name}=` stands twice"), "keep one of them");
        }
        let value = name_end + 1..range.end;
        if value.is_empty() {
            return refuse(
                range,
                format!("`{name}=` has no value"),
                "write the value right after `=`, without a blank",
            );
        }
        check_expression(source, &value)?;
        self.keywords.push(Keyword { name, range, value });
        Ok(())
    }
}

/// Splits at blanks outside of strings and brackets.
fn split(source: &str, inner: Range<usize>) -> Result<Vec<Range<usize>>, Refusal> {
    let bytes = source.as_bytes();
    let mut words = Vec::new();
    let mut at = skip_blanks(bytes, inner.start, inner.end);
    while at < inner.end {
        let start = at;
        let mut open: Vec<usize> = Vec::new();
        while at < inner.end && !(open.is_empty() && bytes[at].is_ascii_whitespace()) {
            match bytes[at] {
                byte if is_quote(byte) => {
                    // The scan has seen the end of the tag, so every string in it is closed.
                    at = end_of_string(bytes, at).unwrap_or(inner.end).min(inner.end);
                    continue;
                }
                b'(' | b'[' | b'{' => open.push(at),
                closing @ (b')' | b']' | b'}') => {
                    let opened = open.pop().map(|bracket| bytes[bracket]);
                    if opened != Some(opening_of(closing)) {
                        let message = format!("`{}` closes nothing", closing as char);
                        return refuse(at..at + 1, message, "remove it, or open the bracket before it");
                    }
                }
                _ => {}
            }
            at += 1;
        }
        if let Some(bracket) = open.pop() {
            let message = format!("`{}` is never closed", bytes[bracket] as char);
            return refuse(bracket..bracket + 1, message, "close the bracket before the end of the tag");
        }
        words.push(start..at);
        at = skip_blanks(bytes, at, inner.end);
    }
    Ok(words)
}

fn opening_of(closing: u8) -> u8 {
    match closing {
        b')' => b'(',
        b']' => b'[',
        _ => b'{',
    }
}

/// Returns where the `=` of `keyword=value` stands; `None` if the word is something else, `a==b` for one.
fn keyword_of(source: &str, word: &Range<usize>) -> Option<usize> {
    let text = &source.as_bytes()[word.clone()];
    let length = text.iter().take_while(|byte| is_word(**byte)).count();
    let is_keyword = length > 0 && text.get(length) == Some(&b'=') && text.get(length + 1) != Some(&b'=');
    is_keyword.then_some(word.start + length)
}

fn parse_name(source: &str, range: Range<usize>) -> Result<Name, Refusal> {
    let text = &source[range.clone()];
    let first = text.as_bytes()[0];
    if is_quote(first) {
        if end_of_string(source.as_bytes(), range.start) == Some(range.end) {
            let text = unescape(&text[1..text.len() - 1]);
            return Ok(Name { text, range });
        }
    } else if keyword_of(source, &range).is_some() {
        return refuse(range, "`cache` needs a name after the timeout", USAGE);
    } else if is_operator(text) {
        return refuse_operator(range, text);
    } else if text.bytes().all(|byte| is_word(byte) || matches!(byte, b'-' | b'.' | b':' | b'/') || !byte.is_ascii()) {
        return Ok(Name { text: text.to_owned(), range });
    }
    refuse(
        range,
        "the name of a fragment is taken as it stands, it cannot be an expression",
        "give a plain or quoted name, and what the fragment varies on after it",
    )
}

/// Undoes the escapes of a string of Tera.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let escaped = if character == '\\' { characters.next() } else { None };
        plain.push(match escaped {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some(other) => other,
            None => character,
        });
    }
    plain
}

/// Refuses what Tera would misread once it stands in the argument list of a function.
fn check_expression(source: &str, range: &Range<usize>) -> Result<(), Refusal> {
    let text = &source[range.clone()];
    if is_operator(text) || text.ends_with(OPERATORS) || text.starts_with(LEADING_OPERATORS) {
        return refuse_operator(range.clone(), text);
    }
    match top_level_comma(text) {
        Some(comma) => refuse(
            range.start + comma..range.start + comma + 1,
            "arguments are separated by blanks, not by commas",
            "remove the comma",
        ),
        None => Ok(()),
    }
}

const OPERATORS: [char; 16] = ['+', '-', '*', '/', '%', '~', '|', '<', '>', '=', '!', '.', ':', '?', '&', '@'];
/// A minus may stand in front of a number.
const LEADING_OPERATORS: [char; 15] = ['+', '*', '/', '%', '~', '|', '<', '>', '=', '!', '.', ':', '?', '&', '@'];

fn is_operator(text: &str) -> bool {
    OPERATOR_WORDS.contains(&text) || text.chars().all(|character| OPERATORS.contains(&character))
}

fn refuse_operator<T>(range: Range<usize>, text: &str) -> Result<T, Refusal> {
    refuse(
        range,
        format!("`{text}` stands alone: blanks separate the arguments"),
        "put the whole expression in parentheses, as in `(page + 1)`, or write it without blanks",
    )
}

fn top_level_comma(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            byte if is_quote(byte) => {
                at = end_of_string(bytes, at)?;
                continue;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(String, String, Vec<String>, Vec<String>), String> {
        let arguments = parse(text, 0..text.len(), 0..text.len()).map_err(|refusal| refusal.message)?;
        let cut = |range: &Range<usize>| text[range.clone()].to_owned();
        Ok((
            cut(&arguments.timeout),
            arguments.name.text,
            arguments.vary.iter().map(cut).collect(),
            arguments.keywords.iter().map(|keyword| format!("{} {}", keyword.name, cut(&keyword.value))).collect(),
        ))
    }

    #[test]
    fn blanks_separate_except_in_strings_and_brackets() {
        let (timeout, name, vary, keywords) =
            read(r#" (60 * 5) "object list" user.id f(a=1, b=[2, 3]) "x y" -1 using="fast" tags=["a", "b"] "#).unwrap();
        assert_eq!((timeout.as_str(), name.as_str()), ("(60 * 5)", "object list"));
        assert_eq!(vary, ["user.id", "f(a=1, b=[2, 3])", "\"x y\"", "-1"]);
        assert_eq!(keywords, ["using \"fast\"", "tags [\"a\", \"b\"]"]);
    }

    #[test]
    fn a_name_is_bare_or_quoted() {
        for (text, name) in [
            ("5 object_list", "object_list"),
            ("5 side-bar.2", "side-bar.2"),
            (r#"5 "it's""#, "it's"),
            (r#"5 'a\'b'"#, "a'b"),
            ("5 überschrift", "überschrift"),
        ] {
            assert_eq!(read(text).unwrap().1, name);
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, message) in [
            ("", "needs a timeout and a name"),
            ("500", "needs a name after the timeout"),
            ("500 using='fast'", "needs a name after the timeout"),
            ("using='fast' 500", "timeout and the name first"),
            ("500 a b + c", "`+` stands alone"),
            ("60 * 5 a", "`*` stands alone"),
            ("500 a b |upper", "`|upper` stands alone"),
            ("500 a b in c", "`in` stands alone"),
            ("500 a b, c", "not by commas"),
            ("500 a (b", "`(` is never closed"),
            ("500 a b)", "`)` closes nothing"),
            ("500 a (b]", "`]` closes nothing"),
            ("500 a alias='b'", "no keyword argument `alias`"),
            ("500 a using= 'b'", "`using=` has no value"),
            ("500 a using='b' using='c'", "`using=` stands twice"),
            ("500 a using='b' c", "come before keyword arguments"),
            ("500 f(x)", "cannot be an expression"),
            ("500 'a'~b", "cannot be an expression"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(message), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_comparison_is_not_a_keyword_argument() {
        assert_eq!(read("5 a b==c d!=e f>=g").unwrap().2, ["b==c", "d!=e", "f>=g"]);
    }
}
