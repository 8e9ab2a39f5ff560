//! Holes in cached markup: how `{% nocache %}` travels through a render and through a store.
//!
//! While a template is rendered a hole is a marker in the text: a secret of this render, and which hole it is. A marker ends
//! in what escaping, a change of case or the removal of tags would change, so a filter that should have seen the hole's
//! content does not go unnoticed. In a store there are no markers: the holes stand in front of the text with their places, so
//! no text can pretend to be one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

const OPENS: char = '\u{2}';
/// What hardly a filter leaves alone.
const CLOSES: &str = "<aZ\"'&>\u{3}";

/// How much of a secret has to be left for a marker that was cut to be noticed.
const TELLTALE: usize = 8;

/// A `{% nocache %}` block of a template, with what it was given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Hole {
    /// The name of the template that its body became.
    pub(super) template: String,
    /// Whether markup was escaped where it stands.
    pub(super) escapes: bool,
    pub(super) arguments: BTreeMap<String, serde_json::Value>,
}

/// What a text with markers is made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'t> {
    Text(&'t str),
    /// The index of a hole.
    Hole(usize),
}

/// What the author of a template is told of it.
pub(super) const CUT: &str =
    "a filter has changed the place of a nocache block; render the block outside of the filter";

/// A filter has changed a marker.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut;

/// What the markers of one render begin with.
#[derive(Debug)]
pub(super) struct Secret(String);

impl Secret {
    pub(super) fn new(random: u64) -> Self {
        Secret(format!("{random:020}"))
    }

    pub(super) fn marker(&self, hole: usize) -> String {
        format!("{OPENS}{}.{hole}{CLOSES}", self.0)
    }

    /// Takes a text apart at its markers.
    pub(super) fn split<'t>(&self, text: &'t str) -> Result<Vec<Part<'t>>, Cut> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(&self.0) {
            let before = self.whole(rest[..at].strip_suffix(OPENS).ok_or(Cut)?)?;
            let (index, after) =
                rest[at + self.0.len()..].strip_prefix('.').and_then(|rest| rest.split_once(CLOSES)).ok_or(Cut)?;
            parts.extend([Part::Text(before), Part::Hole(index.parse().map_err(|_| Cut)?)]);
            rest = after;
        }
        parts.push(Part::Text(self.whole(rest)?));
        Ok(parts)
    }

    /// Tells whether a text has a marker in it.
    pub(super) fn is_in(&self, text: &str) -> bool {
        text.contains(&self.0)
    }

    /// Returns a text unless it holds the beginning of a marker.
    fn whole<'t>(&self, text: &'t str) -> Result<&'t str, Cut> {
        let cut = |(at, _)| text[at + 1..].starts_with(&self.0[..TELLTALE]);
        if text.match_indices(OPENS).any(cut) { Err(Cut) } else { Ok(text) }
    }
}

/// Returns what to store for parts whose holes are these.
pub(super) fn detach(parts: &[Part<'_>], holes: &[Hole]) -> Result<String, Cut> {
    let mut text = String::new();
    let mut places = Vec::new();
    for part in parts {
        match part {
            Part::Text(part) => text.push_str(part),
            Part::Hole(index) => places.push((text.len(), holes.get(*index).ok_or(Cut)?)),
        }
    }
    if places.is_empty() && !is_detached(&text) {
        return Ok(text);
    }
    let places = serde_json::to_string(&places).map_err(|_| Cut)?;
    Ok(format!("{OPENS}{places}\n{text}"))
}

/// Tells whether a stored text may have holes.
pub(super) fn is_detached(stored: &str) -> bool {
    stored.starts_with(OPENS)
}

/// Returns the text of what was stored, with what `mark` makes of each hole in its place; `None` if it cannot be read.
pub(super) fn attach(stored: &str, mut mark: impl FnMut(Hole) -> String) -> Option<String> {
    let Some(stored) = stored.strip_prefix(OPENS) else { return Some(stored.to_owned()) };
    let (places, text) = stored.split_once('\n')?;
    let places: Vec<(usize, Hole)> = serde_json::from_str(places).ok()?;
    let mut attached = String::with_capacity(text.len() + 32 * places.len());
    let mut done = 0;
    for (place, hole) in places {
        attached.push_str(text.get(done..place)?);
        attached.push_str(&mark(hole));
        done = place;
    }
    attached.push_str(text.get(done..)?);
    Some(attached)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hole(template: &str) -> Hole {
        let arguments = BTreeMap::from([("id".to_owned(), "\u{2}\n7".into())]);
        Hole { template: template.to_owned(), escapes: true, arguments }
    }

    #[test]
    fn a_marker_that_was_changed_is_noticed() {
        let secret = Secret::new(12_767_603_118_000_000_007);
        let marker = secret.marker(3);
        assert_eq!(secret.split(&format!("a{marker}b")), Ok(vec![Part::Text("a"), Part::Hole(3), Part::Text("b")]));
        for end in 1..marker.len() {
            let cut = &marker[..end];
            // What holds less of the secret cannot be told from text.
            assert_eq!(secret.split(cut).is_err(), end > TELLTALE, "{cut:?}");
        }
        for changed in
            [marker.to_uppercase(), marker.to_lowercase(), marker.replace('<', "&lt;"), marker.replace('"', "\\\"")]
        {
            assert_eq!(secret.split(&changed), Err(Cut), "{changed:?}");
        }
        assert_eq!(secret.split(&marker[1..]), Err(Cut));
        assert_eq!(Secret::new(8).split(&marker), Ok(vec![Part::Text(&marker)]));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for stored in ["\u{2}", "\u{2}[]", "\u{2}{\n", "\u{2}[[9,null]]\n", "\u{2}[[9,{}]]\nabc"] {
            assert_eq!(attach(stored, |_| String::new()), None, "{stored:?}");
        }
        let beyond = serde_json::to_string(&[(2, hole("a"))]).unwrap();
        assert_eq!(attach(&format!("\u{2}{beyond}\né"), |_| "-".to_owned()).as_deref(), Some("é-"));
        assert_eq!(attach(&format!("\u{2}{beyond}\n."), |_| "-".to_owned()), None);
        assert_eq!(attach(&format!("\u{2}{beyond}\naé"), |_| "-".to_owned()), None);
    }

    proptest! {
        #[test]
        fn what_is_stored_comes_back(texts in prop::collection::vec("[a\u{2}\u{3}\n.0é]{0,6}", 1..6)) {
            let holes: Vec<Hole> = (1..texts.len()).map(|number| hole(&number.to_string())).collect();
            let mut parts = vec![Part::Text(&texts[0])];
            for (index, text) in texts[1..].iter().enumerate() {
                parts.extend([Part::Hole(index), Part::Text(text)]);
            }
            let stored = detach(&parts, &holes).unwrap();
            let mut seen = Vec::new();
            let attached = attach(&stored, |hole| {
                seen.push(hole);
                "|".to_owned()
            });
            prop_assert_eq!(attached, Some(texts.join("|")));
            prop_assert_eq!(seen, holes);
        }

        #[test]
        fn nothing_stored_is_a_reason_to_panic(stored in "\u{2}?(\\[|\\]|,|[0-9]|\\{|\\}|\"|\n|.){0,40}") {
            let _ = attach(&stored, |_| String::new());
        }
    }
}
