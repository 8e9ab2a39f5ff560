//! What a template is made of: a digest over it and all that it extends, includes and calls.
//!
//! The digest is stored beside each fragment, so a deploy that changes any of these sources never shows markup of
//! before. Names are read from the tags; where it is not certain what is meant (`a <b` may be a comparison or call
//! a component) more is taken in rather than less, which costs a miss at worst.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::scan::{Kind, Tags, end_of_string, is_quote, is_word, skip_blanks};
use crate::key::push_hex;

/// Hexadecimal digits of a digest: 64 bits, for telling versions of one template apart and nothing else.
const DIGITS: usize = 16;

/// The form in which markup is stored. What was stored in another one is a miss.
const FORMAT: &str = "1";

/// What one template names.
#[derive(Debug, Default, PartialEq, Eq)]
struct References {
    /// Of `extends` and `include`.
    templates: BTreeSet<String>,
    components: BTreeSet<String>,
    defines: BTreeSet<String>,
}

/// Returns the digest of every template. `version` goes into all of them.
pub(super) fn digests(sources: &BTreeMap<String, String>, version: &str) -> BTreeMap<String, String> {
    let references: BTreeMap<&str, References> =
        sources.iter().map(|(name, source)| (name.as_str(), references(source))).collect();
    sources.keys().map(|name| (name.clone(), digest(name, sources, &references, version))).collect()
}

fn digest(
    name: &str,
    sources: &BTreeMap<String, String>,
    references: &BTreeMap<&str, References>,
    version: &str,
) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    add(FORMAT);
    add(version);
    // Its own name first: templates that lead to one another are made of the same parts.
    add(name);
    for part in reachable(name, references) {
        add(part);
        add(sources.get(part).map_or("", String::as_str));
    }
    finished(hash)
}

/// Returns one digest for several.
pub(super) fn digest_of_all<'d>(digests: impl Iterator<Item = &'d str>) -> String {
    let mut hash = Sha256::new();
    digests.for_each(|digest| hash.update(digest));
    finished(hash)
}

fn finished(hash: Sha256) -> String {
    let mut digest = String::with_capacity(DIGITS);
    push_hex(&mut digest, &hash.finalize()[..DIGITS / 2]);
    digest
}

/// Returns a template and all that it leads to, in the order of their names.
fn reachable<'a>(name: &'a str, references: &BTreeMap<&'a str, References>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::from([name]);
    let mut waiting = vec![name];
    while let Some(next) = waiting.pop() {
        let Some(named) = references.get(next) else { continue };
        for (other, defined) in references {
            let is_template = named.templates.iter().any(|wanted| is_called(other, wanted));
            if (is_template || !named.components.is_disjoint(&defined.defines)) && found.insert(other) {
                waiting.push(other);
            }
        }
    }
    found
}

/// Tells whether a name can mean a template; Tera may be told to try prefixes.
fn is_called(template: &str, wanted: &str) -> bool {
    template.ends_with(wanted)
}

fn references(source: &str) -> References {
    let bytes = source.as_bytes();
    let mut found = References::default();
    for tag in Tags::new(source) {
        let (word, range) = tag.word(source);
        let argument = skip_blanks(bytes, range.end, tag.inner.end);
        match word {
            "extends" | "include" if tag.kind == Kind::Block => {
                if bytes.get(argument).copied().is_some_and(is_quote)
                    && let Some(end) = end_of_string(bytes, argument)
                {
                    found.templates.insert(source[argument + 1..end - 1].replace('\\', ""));
                }
            }
            "component" if tag.kind == Kind::Block => {
                found.defines.insert(dotted_name(source, argument));
            }
            _ => calls(source, tag.inner.start, tag.inner.end, &mut found.components),
        }
    }
    found
}

/// Collects every `<name` outside of strings.
fn calls(source: &str, mut at: usize, end: usize, components: &mut BTreeSet<String>) {
    let bytes = source.as_bytes();
    while at < end {
        match bytes[at] {
            byte if is_quote(byte) => at = end_of_string(bytes, at).unwrap_or(end),
            b'<' => {
                let name = dotted_name(source, skip_blanks(bytes, at + 1, end));
                if !name.is_empty() {
                    components.insert(name);
                }
                at += 1;
            }
            _ => at += 1,
        }
    }
}

/// Reads `forms.input`, where blanks may stand around the dots.
fn dotted_name(source: &str, mut at: usize) -> String {
    let bytes = source.as_bytes();
    let mut name = String::new();
    loop {
        let start = at;
        while bytes.get(at).copied().is_some_and(is_word) {
            at += 1;
        }
        name.push_str(&source[start..at]);
        at = skip_blanks(bytes, at, bytes.len());
        if at == start || bytes.get(at) != Some(&b'.') {
            return name;
        }
        name.push('.');
        at = skip_blanks(bytes, at + 1, bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests_of(sources: &[(&str, &str)]) -> BTreeMap<String, String> {
        let sources = sources.iter().map(|(name, source)| ((*name).to_owned(), (*source).to_owned())).collect();
        digests(&sources, "")
    }

    const PAGES: [(&str, &str); 7] = [
        ("alone.html", "{{ x }}"),
        ("base.html", "<html>{% block a %}{% endblock %}"),
        ("box.html", "{% component ui . box(a) %}{% include 'icon.html' %}{% endcomponent ui.box %}"),
        ("icon.html", "<svg>"),
        ("list.html", "{%- extends \"base.html\" -%}{% block a %}{% include \"row.html\" %}{% endblock %}"),
        ("row.html", "{{ <ui.box a=\"<none/>\" /> }}"),
        ("deep/page.html", "{% extends 'list.html' %}"),
    ];

    /// Changes one source and returns the templates whose digest is another.
    fn touched_by(changed: &str) -> Vec<String> {
        let before = digests_of(&PAGES);
        let pages: Vec<(&str, String)> = PAGES
            .iter()
            .map(|(name, source)| (*name, format!("{source}{}", if *name == changed { "!" } else { "" })))
            .collect();
        let after = digests_of(&pages.iter().map(|(name, source)| (*name, source.as_str())).collect::<Vec<_>>());
        before.into_iter().filter(|(name, digest)| after[name] != *digest).map(|(name, _)| name).collect()
    }

    #[test]
    fn a_change_reaches_all_that_is_made_of_it_and_nothing_else() {
        assert_eq!(touched_by("alone.html"), ["alone.html"]);
        assert_eq!(touched_by("base.html"), ["base.html", "deep/page.html", "list.html"]);
        assert_eq!(touched_by("icon.html"), ["box.html", "deep/page.html", "icon.html", "list.html", "row.html"]);
        assert_eq!(touched_by("box.html"), ["box.html", "deep/page.html", "list.html", "row.html"]);
    }

    #[test]
    fn components_that_call_one_another_end() {
        let digests = digests_of(&[
            ("a", "{% component a() %}{{ <b/> }}{% endcomponent %}"),
            ("b", "{% component b() %}{{ <a/> }}{% endcomponent %}"),
        ]);
        assert_ne!(digests["a"], digests["b"]);
    }

    #[test]
    fn the_version_is_part_of_every_digest() {
        let sources = BTreeMap::from([("a".to_owned(), "x".to_owned())]);
        assert_ne!(digests(&sources, "1"), digests(&sources, "2"));
        assert_eq!(digests(&sources, "1")["a"].len(), DIGITS);
    }

    #[test]
    fn names_in_raw_blocks_and_comments_are_not_followed() {
        assert_eq!(references("{# {% include 'a' %} #}{% raw %}{{ <b/> }}{% endraw %}"), References::default());
    }
}
