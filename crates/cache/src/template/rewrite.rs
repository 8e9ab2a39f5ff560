//! Turns `{% cache %}` and `{% nocache %}` blocks into what Tera understands, line for line.
//!
//! Tera has neither custom tags nor a parser to hook into, so the block becomes, on the author's own lines,
//!
//! ```text
//! {% set V = __cache_begin(template="a.html", ttl=500, name="objects", vary=[user.id, ]) %}
//! {% if V is string %}{{ V }}{% else %}{% filter __cache_end(slot=V) %}BODY{% endfilter %}{% endif %}
//! ```
//!
//! The arguments are evaluated once and before the body, hence the variable V. Its name holds a hash of the
//! template's, because a parent's block that `super()` calls from inside a fragment shares the variables.
//!
//! The body of `{% nocache id=x %}` becomes a template of its own, and `{{ __hole(__hole="…", id=x) }}` stands in its place.

use std::ops::Range;

use super::{
    arguments::{self, Arguments},
    error::TemplateError,
    scan::{Kind, Tag, Tags, is_word, skip_blanks},
    segments::Segments,
};

/// A template as Tera gets it.
#[derive(Debug)]
pub(super) struct Rewritten {
    /// What Tera parses; the same number of lines as the source.
    pub(super) text: String,
    /// Leads from the text back to the source.
    pub(super) segments: Segments,
    /// The fragments, first to last.
    pub(super) fragments: Vec<CacheTag>,
    /// The bodies of `{% nocache %}`, by the names under which Tera gets them.
    pub(super) holes: Vec<(String, Rewritten)>,
}

/// One `{% cache %}` tag of a template.
#[derive(Debug)]
pub(super) struct CacheTag {
    pub(super) range: Range<usize>,
    pub(super) name: String,
    /// How many vary-on values it has.
    pub(super) vary: usize,
    /// The first `{% block %}` inside of it, if there is one.
    pub(super) block: Option<Range<usize>>,
}

/// An opened tag that waits for its end.
struct Open {
    word: &'static str,
    range: Range<usize>,
    /// Of a cache block: its index among the fragments.
    fragment: Option<usize>,
}

struct Rewriter<'s> {
    name: &'s str,
    source: &'s str,
    text: String,
    segments: Segments,
    fragments: Vec<CacheTag>,
    holes: Vec<(String, Rewritten)>,
    open: Vec<Open>,
    /// What of the source is rewritten, and if that is the body of a `{% nocache %}`, where this tag stands.
    part: Range<usize>,
    hole: Option<Range<usize>>,
    /// Up to where the source has been written out.
    done: usize,
}

/// Rewrites the cache blocks of a template.
///
/// A source without them comes back unchanged, even one that Tera will refuse.
///
/// # Errors
/// A cache block whose arguments cannot be read, or that is not properly nested with the tags around it.
pub(super) fn rewrite(name: &str, source: &str) -> Result<Rewritten, TemplateError> {
    rewrite_part(name, source, 0..source.len(), None)
}

fn rewrite_part(
    name: &str,
    source: &str,
    part: Range<usize>,
    hole: Option<Range<usize>>,
) -> Result<Rewritten, TemplateError> {
    let mut tags = Tags::within(source, part.clone());
    let mut rewriter = Rewriter {
        name,
        source,
        text: String::with_capacity(source.len() + 256),
        segments: Segments::default(),
        fragments: Vec::new(),
        holes: Vec::new(),
        open: Vec::new(),
        done: part.start,
        part,
        hole,
    };
    if let Some(tag) = rewriter.hole.clone() {
        rewriter.generate("{{ __hole_begin() }}", &tag);
    }
    while let Some(tag) = tags.next() {
        if tag.kind == Kind::Block {
            rewriter.visit(&tag, &mut tags)?;
        }
    }
    // What is never closed further on is Tera's to complain about, and it will.
    rewriter.finish(tags.saw_the_end())
}

impl Rewriter<'_> {
    fn visit(&mut self, tag: &Tag, tags: &mut Tags<'_>) -> Result<(), TemplateError> {
        let (word, word_range) = tag.word(self.source);
        match word {
            "cache" => self.open_fragment(tag, word_range.end),
            "endcache" => self.close_fragment(tag, word_range.end),
            "nocache" => self.cut_hole(tag, word_range.end, tags),
            "endnocache" => Err(self
                .error(tag.range.clone(), "`endnocache` closes nothing")
                .with_help("remove it, or open a block with `{% nocache %}` before it")),
            "block" if self.hole.is_some() => Err(self.in_hole(tag, "put the `nocache` block inside of the `block`")),
            "break" | "continue" => self.check_jump(tag, word),
            "else" | "elif" => self.check_branch(tag, word),
            "set" | "set_global" if !self.is_block_set(tag, word_range.end) => Ok(()),
            _ => match (opened_by(word), closed_by(word)) {
                (Some(word), _) => {
                    self.push(word, tag);
                    Ok(())
                }
                (_, Some(opener)) => self.close(tag, opener),
                _ => Ok(()),
            },
        }
    }

    fn push(&mut self, word: &'static str, tag: &Tag) {
        if word == "block" {
            for open in &self.open {
                if let Some(index) = open.fragment {
                    self.fragments[index].block.get_or_insert(tag.range.clone());
                }
            }
        }
        self.open.push(Open { word, range: tag.range.clone(), fragment: None });
    }

    /// Tells `{% set a %}…{% endset %}` from `{% set a = 1 %}`.
    fn is_block_set(&self, tag: &Tag, after_word: usize) -> bool {
        let bytes = self.source.as_bytes();
        let mut at = skip_blanks(bytes, after_word, tag.inner.end);
        while at < tag.inner.end && is_word(bytes[at]) {
            at += 1;
        }
        at = skip_blanks(bytes, at, tag.inner.end);
        bytes[at..tag.inner.end].first() != Some(&b'=')
    }

    fn close(&mut self, tag: &Tag, opener: &'static str) -> Result<(), TemplateError> {
        match self.open.last() {
            Some(open) if open.word == opener => {
                self.open.pop();
                Ok(())
            }
            Some(open) if open.fragment.is_some() => Err(self.crossed(tag, open)),
            None if self.hole.is_some() => Err(self.in_hole(tag, "put `{% endnocache %}` before it")),
            // Without a block of ours in play a wrong end is Tera's to report.
            _ => Ok(()),
        }
    }

    fn crossed(&self, tag: &Tag, open: &Open) -> TemplateError {
        let end = &self.source[tag.range.clone()];
        self.error(tag.range.clone(), format!("`{end}` stands inside a cache block that is still open"))
            .with_help(format!("put `{{% endcache %}}` before `{end}`"))
            .with_note(self.error(open.range.clone(), "the cache block starts here"))
    }

    fn check_branch(&self, tag: &Tag, word: &str) -> Result<(), TemplateError> {
        match self.open.last() {
            Some(open) if open.fragment.is_some() => Err(self
                .error(tag.range.clone(), format!("`{word}` stands inside a cache block that is still open"))
                .with_help(format!(
                    "put `{{% endcache %}}` before the `{word}`, or the whole `if` into the cache block"
                ))
                .with_note(self.error(open.range.clone(), "the cache block starts here"))),
            None if self.hole.is_some() => Err(self.in_hole(tag, "put the whole `if` into the nocache block")),
            _ => Ok(()),
        }
    }

    /// Refuses what cannot stand in the body of a `{% nocache %}`, or leads out of it.
    fn in_hole(&self, tag: &Tag, help: &str) -> TemplateError {
        let text = &self.source[tag.range.clone()];
        let error = self.error(tag.range.clone(), format!("`{text}` stands inside a nocache block that is still open"));
        let error = error.with_help(help);
        match &self.hole {
            Some(hole) => error.with_note(self.error(hole.clone(), "the nocache block starts here")),
            None => error,
        }
    }

    fn check_jump(&self, tag: &Tag, word: &str) -> Result<(), TemplateError> {
        let inner = self.open.iter().rev().find(|open| open.word == "for" || open.fragment.is_some());
        match inner {
            Some(open) if open.fragment.is_some() => Err(self
                .error(tag.range.clone(), format!("`{word}` cannot leave a cache block"))
                .with_help(format!("put the condition of the `{word}` around the cache block"))
                .with_note(self.error(open.range.clone(), "the cache block starts here"))),
            None if self.hole.is_some() => {
                Err(self.in_hole(tag, &format!("put the condition of the `{word}` around the nocache block")))
            }
            _ => Ok(()),
        }
    }

    /// Makes a template of its own of what stands up to the `{% endnocache %}`, and leaves a call in its place.
    fn cut_hole(&mut self, tag: &Tag, after_word: usize, tags: &mut Tags<'_>) -> Result<(), TemplateError> {
        if let Some(filter) = self.open.iter().find(|open| open.word == "filter") {
            return Err(self
                .error(tag.range.clone(), "a nocache block stands inside a filter, which would not see its content")
                .with_help("put the filter into the nocache block, or the nocache block after the filter")
                .with_note(self.error(filter.range.clone(), "the filter starts here")));
        }
        let arguments = arguments::parse_named(self.source, after_word..tag.inner.end)
            .map_err(|refusal| self.error(refusal.range, refusal.message).with_help(refusal.help))?;
        let end = self.end_of_hole(tag, tags)?;
        let mut body = tag.range.end..end.range.start;
        if tag.trims_after {
            body.start = body.end - self.source[body.clone()].trim_start().len();
        }
        if end.trims_before {
            body.end = body.start + self.source[body.clone()].trim_end().len();
        }
        let name = format!("__hole/{}/{}", self.holes.len(), self.name);
        let rewritten = rewrite_part(self.name, self.source, body, Some(tag.range.clone()))?;
        self.copy(self.done..tag.range.start);
        self.done = tag.range.start;
        let dash = if tag.trims_before { "-" } else { "" };
        self.generate(&format!("{{{{{dash} __hole(__hole={}", literal(&name)), &tag.range);
        for argument in &arguments {
            self.generate(&format!(", {}=", &self.source[argument.name.clone()]), &tag.range);
            self.argument(&argument.value);
        }
        // Inside of the tag, where they are blanks and not markup.
        self.newlines(end.range.end);
        self.generate(if end.trims_after { ") -}}" } else { ") }}" }, &tag.range);
        self.holes.push((name, rewritten));
        Ok(())
    }

    fn end_of_hole(&self, tag: &Tag, tags: &mut Tags<'_>) -> Result<Tag, TemplateError> {
        for next in tags.by_ref().filter(|next| next.kind == Kind::Block) {
            let (word, range) = next.word(self.source);
            match word {
                "endnocache" => {
                    self.check_no_arguments(&next, range.end, word)?;
                    return Ok(next);
                }
                "nocache" => {
                    return Err(self
                        .error(next.range, "a nocache block stands inside another")
                        .with_help("remove it: the outer one is rendered each time already")
                        .with_note(self.error(tag.range.clone(), "the outer one starts here")));
                }
                _ => {}
            }
        }
        if !tags.saw_the_end() {
            // What is never closed further on is Tera's to complain about, and it will: in the body of this block.
            let end = self.source.len();
            return Ok(Tag {
                range: end..end,
                inner: end..end,
                trims_before: false,
                trims_after: false,
                ..tag.clone()
            });
        }
        Err(self
            .error(tag.range.clone(), "this nocache block is never closed")
            .with_help("put `{% endnocache %}` where it ends"))
    }

    fn check_no_arguments(&self, tag: &Tag, after_word: usize, word: &str) -> Result<(), TemplateError> {
        let at = skip_blanks(self.source.as_bytes(), after_word, tag.inner.end);
        if at == tag.inner.end {
            return Ok(());
        }
        Err(self
            .error(at..tag.inner.end, format!("`{word}` takes no arguments"))
            .with_help(format!("write `{{% {word} %}}`")))
    }

    fn open_fragment(&mut self, tag: &Tag, after_word: usize) -> Result<(), TemplateError> {
        let arguments = arguments::parse(self.source, tag.range.clone(), after_word..tag.inner.end)
            .map_err(|refusal| self.error(refusal.range, refusal.message).with_help(refusal.help))?;
        self.write_opening(tag, &arguments);
        self.open.push(Open { word: "cache", range: tag.range.clone(), fragment: Some(self.fragments.len()) });
        self.fragments.push(CacheTag {
            range: tag.range.clone(),
            name: arguments.name.text,
            vary: arguments.vary.len(),
            block: None,
        });
        Ok(())
    }

    fn write_opening(&mut self, tag: &Tag, arguments: &Arguments) {
        let slot = self.slot(self.fragments.len());
        self.copy(self.done..tag.range.start);
        self.done = tag.range.start;
        let dash = if tag.trims_before { "-" } else { "" };
        let template = literal(self.name);
        let whole = &tag.range;
        self.generate(&format!("{{%{dash} set {slot} = __cache_begin(template={template}, ttl="), whole);
        self.argument(&arguments.timeout);
        self.generate(&format!(", name={}, vary=[", literal(&arguments.name.text)), whole);
        self.newlines(arguments.name.range.end);
        for value in &arguments.vary {
            self.argument(value);
            self.generate(", ", whole);
        }
        self.generate("]", whole);
        for keyword in &arguments.keywords {
            self.generate(&format!(", {}=", keyword.name), whole);
            self.argument(&keyword.value);
        }
        self.newlines(tag.range.end);
        let dash = if tag.trims_after { "-" } else { "" };
        let rest = format!(
            ") %}}{{% if {slot} is string %}}{{{{ {slot} }}}}{{% else %}}{{% filter __cache_end(slot={slot}) {dash}%}}"
        );
        self.generate(&rest, whole);
    }

    fn close_fragment(&mut self, tag: &Tag, after_word: usize) -> Result<(), TemplateError> {
        match self.open.last() {
            Some(Open { fragment: Some(_), .. }) => self.open.pop(),
            Some(open) if self.open.iter().any(|open| open.fragment.is_some()) => {
                let opener = &self.source[open.range.clone()];
                return Err(self
                    .error(tag.range.clone(), format!("`endcache` comes before the end of `{opener}`"))
                    .with_help("close what was opened inside the cache block first")
                    .with_note(self.error(open.range.clone(), "this is still open")));
            }
            _ if self.hole.is_some() => return Err(self.in_hole(tag, "put `{% endnocache %}` before it")),
            _ => {
                return Err(self
                    .error(tag.range.clone(), "`endcache` closes nothing")
                    .with_help("remove it, or open a block with `{% cache 500 name %}` before it"));
            }
        };
        self.check_no_arguments(tag, after_word, "endcache")?;
        self.copy(self.done..tag.range.start);
        self.done = tag.range.start;
        let dash = if tag.trims_before { "-" } else { "" };
        self.generate(&format!("{{%{dash} endfilter "), &tag.range);
        // Inside of the tag, where they are blanks and not markup.
        self.newlines(tag.range.end);
        self.generate("%}{% endif ", &tag.range);
        self.generate(if tag.trims_after { "-%}" } else { "%}" }, &tag.range);
        Ok(())
    }

    fn finish(mut self, complete: bool) -> Result<Rewritten, TemplateError> {
        if complete && let Some(open) = self.open.iter().rev().find(|open| open.fragment.is_some()) {
            return Err(self
                .error(open.range.clone(), "this cache block is never closed")
                .with_help("put `{% endcache %}` where it ends"));
        }
        if let (Some(hole), Some(open)) = (&self.hole, self.open.last()) {
            let text = &self.source[open.range.clone()];
            return Err(self
                .error(open.range.clone(), format!("`{text}` is not closed inside of its nocache block"))
                .with_help("put its end before `{% endnocache %}`")
                .with_note(self.error(hole.clone(), "the nocache block starts here")));
        }
        self.copy(self.done..self.part.end);
        Ok(Rewritten { text: self.text, segments: self.segments, fragments: self.fragments, holes: self.holes })
    }

    /// Copies an argument to where it is needed, on its own line.
    fn argument(&mut self, range: &Range<usize>) {
        self.newlines(range.start);
        self.copy(range.clone());
        self.done = range.end;
    }

    /// Writes the line breaks of the source up to `end`, nothing else.
    fn newlines(&mut self, end: usize) {
        let skipped = self.done..end;
        let count = self.source[skipped.clone()].matches('\n').count();
        self.generate(&"\n".repeat(count), &skipped);
        self.done = end;
    }

    fn copy(&mut self, range: Range<usize>) {
        self.text.push_str(&self.source[range.clone()]);
        self.segments.copied(range);
    }

    fn generate(&mut self, text: &str, stands_for: &Range<usize>) {
        self.text.push_str(text);
        self.segments.generated(text.len(), stands_for.clone());
    }

    fn slot(&self, index: usize) -> String {
        format!("__cache_{:016x}_{index}", fnv(self.name.as_bytes()))
    }

    fn error(&self, range: Range<usize>, message: impl Into<String>) -> TemplateError {
        TemplateError::at(self.name, self.source, range, message)
    }
}

fn opened_by(word: &str) -> Option<&'static str> {
    Some(match word {
        "if" => "if",
        "for" => "for",
        "block" => "block",
        "filter" => "filter",
        "set" | "set_global" => "set",
        "component" => "component",
        "<" => "<",
        _ => return None,
    })
}

fn closed_by(word: &str) -> Option<&'static str> {
    Some(match word {
        "endif" => "if",
        "endfor" => "for",
        "endblock" => "block",
        "endfilter" => "filter",
        "endset" => "set",
        "endcomponent" => "component",
        "</" => "<",
        _ => return None,
    })
}

/// Writes a string the way Tera reads one, on one line.
fn literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => literal.extend(['\\', character]),
            '\n' => literal.push_str("\\n"),
            _ => literal.push(character),
        }
    }
    literal.push('"');
    literal
}

/// FNV-1a, 64 bits: enough to keep the variables of templates apart.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(source: &str) -> String {
        rewrite("a.html", source).unwrap().text
    }

    fn message(source: &str) -> String {
        rewrite("a.html", source).unwrap_err().to_string()
    }

    #[test]
    fn a_block_becomes_set_if_and_filter() {
        let slot = "__cache_b7e6f08cd7fcbac9_0".replace("b7e6f08cd7fcbac9", &format!("{:016x}", fnv(b"a.html")));
        assert_eq!(
            text("<p>{% cache 500 objects user.id using=\"fast\" %}x{% endcache %}</p>"),
            format!(
                "<p>{{% set {slot} = __cache_begin(template=\"a.html\", ttl=500, name=\"objects\", vary=[user.id, ], \
                 using=\"fast\") %}}{{% if {slot} is string %}}{{{{ {slot} }}}}{{% else %}}\
                 {{% filter __cache_end(slot={slot}) %}}x{{% endfilter %}}{{% endif %}}</p>"
            )
        );
    }

    #[test]
    fn dashes_go_to_the_outermost_generated_tags() {
        let text = text("{%- cache 5 a -%} x {%- endcache -%}");
        assert!(text.starts_with("{%- set"), "{text}");
        assert!(text.ends_with("-%} x {%- endfilter %}{% endif -%}"), "{text}");
    }

    #[test]
    fn a_hole_leaves_a_call_with_its_arguments_and_its_lines() {
        let rewritten = rewrite("a.html", "<p>{% nocache id=a.id\nb=2 %}\n{{ id }}\n{% endnocache %}</p>").unwrap();
        assert_eq!(rewritten.text, "<p>{{ __hole(__hole=\"__hole/0/a.html\", id=a.id, b=\n2\n\n) }}</p>");
        let (name, hole) = &rewritten.holes[0];
        assert_eq!((&**name, &*hole.text), ("__hole/0/a.html", "{{ __hole_begin() }}\n{{ id }}\n"));
    }

    #[test]
    fn dashes_of_a_hole_trim_what_they_would_trim() {
        let rewritten = rewrite("a.html", "a {%- nocache -%} b {%- endnocache -%} c").unwrap();
        assert_eq!(rewritten.text, "a {{- __hole(__hole=\"__hole/0/a.html\") -}} c");
        assert_eq!(rewritten.holes[0].1.text, "{{ __hole_begin() }}b");
        assert_eq!(
            rewrite("a.html", "{% nocache -%} {%- endnocache %}").unwrap().holes[0].1.text,
            "{{ __hole_begin() }}"
        );
    }

    #[test]
    fn every_argument_stays_on_its_line() {
        let source = "{% cache\n  500\n  \"a\nb\"\n  user.id\n\n  using=\"x\"\n%}body\n{% endcache\n%}";
        let text = text(source);
        for wanted in ["500", "user.id", "\"x\"", "body"] {
            let line = |haystack: &str| haystack.lines().position(|line| line.contains(wanted));
            assert_eq!(line(source), line(&text), "{wanted} in {text}");
        }
        assert_eq!(source.matches('\n').count(), text.matches('\n').count());
    }

    #[test]
    fn wrong_nesting_is_shown_with_the_place_and_the_way_out() {
        assert_eq!(
            message("{% if a %}\n  {% cache 5 a %}\n{% endif %}{% endcache %}"),
            "error: `{% endif %}` stands inside a cache block that is still open\n --> a.html:3:1\n  |\n\
             3 | {% endif %}{% endcache %}\n  | ^^^^^^^^^^^\n  = help: put `{% endcache %}` before `{% endif %}`\n\n\
             note: the cache block starts here\n --> a.html:2:3\n  |\n2 |   {% cache 5 a %}\n  |   ^^^^^^^^^^^^^^^"
        );
        for (source, wanted) in [
            ("{% cache 5 a %}", "never closed"),
            ("{% endcache %}", "closes nothing"),
            ("{% if a %}{% endcache %}{% endif %}", "closes nothing"),
            ("{% cache 5 a %}{% if a %}{% endcache %}{% endif %}", "before the end of `{% if a %}`"),
            ("{% cache 5 a %}{% set x %}{% endcache %}", "before the end of `{% set x %}`"),
            ("{% if a %}{% cache 5 a %}{% else %}{% endcache %}{% endif %}", "`else` stands inside"),
            ("{% for a in b %}{% cache 5 a %}{% break %}{% endcache %}{% endfor %}", "cannot leave"),
            ("{% <box> %}{% cache 5 a %}{% </box> %}{% endcache %}", "`{% </box> %}` stands inside"),
            ("{% cache 5 a %}{% endcache a %}", "takes no arguments"),
            ("{% cache 5 a b + c %}{% endcache %}", "`+` stands alone"),
            ("{% cache %}{% endcache %}", "needs a timeout and a name"),
            ("{% nocache %}", "never closed"),
            ("{% endnocache %}", "closes nothing"),
            ("{% nocache %}{% nocache %}{% endnocache %}{% endnocache %}", "inside another"),
            ("{% nocache %}{% block a %}{% endblock %}{% endnocache %}", "`{% block a %}` stands inside a nocache"),
            ("{% cache 5 a %}{% nocache %}{% endcache %}{% endnocache %}", "`{% endcache %}` stands inside a nocache"),
            ("{% nocache %}{% cache 5 a %}{% endnocache %}{% endcache %}", "never closed"),
            ("{% if a %}{% nocache %}{% endif %}{% endnocache %}", "`{% endif %}` stands inside a nocache"),
            ("{% if a %}{% nocache %}{% else %}{% endnocache %}{% endif %}", "`{% else %}` stands inside a nocache"),
            ("{% nocache %}{% if a %}{% endnocache %}{% endif %}", "`{% if a %}` is not closed"),
            ("{% for a in b %}{% nocache %}{% break %}{% endnocache %}{% endfor %}", "`{% break %}` stands inside"),
            ("{% filter upper %}{% nocache %}{% endnocache %}{% endfilter %}", "stands inside a filter"),
            ("{% nocache %}{% endnocache a %}", "takes no arguments"),
            ("{% nocache user %}{% endnocache %}", "has no name"),
            ("{% nocache a= b %}{% endnocache %}", "`a=` has no value"),
            ("{% nocache a=b a=c %}{% endnocache %}", "`a=` stands twice"),
            ("{% nocache a=b, c=d %}{% endnocache %}", "separated by blanks"),
            ("{% nocache a=b + c %}{% endnocache %}", "`+` stands alone"),
            ("{% nocache __hole=1 %}{% endnocache %}", "cannot be the name"),
        ] {
            let report = message(source);
            assert!(report.contains(wanted) && report.contains("= help: "), "{source}: {report}");
        }
    }

    #[test]
    fn right_nesting_passes() {
        for source in [
            "{% for a in b %}{% cache 5 a %}{% for c in d %}{% break %}{% endfor %}{% endcache %}{% endfor %}",
            "{% cache 5 a %}{% set x = 1 %}{% set y %}{% endset %}{% set_global z | upper %}{% endset %}{% endcache %}",
            "{% cache 5 a %}{% if a %}{% elif b %}{% else %}{% endif %}{% endcache %}",
            "{% cache 5 a %}{% <box> %}{% </box> %}{{ <box/> }}{% filter upper %}{% endfilter %}{% endcache %}",
            "{% cache 5 a %}{% nocache %}{% cache 5 b %}{% endcache %}{% endnocache %}{% endcache %}",
            "{% nocache %}{% for a in b %}{% if c %}{% break %}{% else %}{% endif %}{% endfor %}{% endnocache %}",
        ] {
            rewrite("a.html", source).unwrap();
        }
    }

    #[test]
    fn a_block_inside_a_fragment_is_remembered() {
        let source = "{% cache 5 a %}{% if x %}{% block b %}{% endblock %}{% endif %}{% endcache %}";
        let rewritten = rewrite("a.html", source).unwrap();
        assert_eq!(rewritten.fragments[0].block, Some(25..38));
    }

    #[test]
    fn every_byte_leads_back_to_the_source() {
        let source = "a{% cache 500 b user.id %}c{% endcache %}d";
        let rewritten = rewrite("a.html", source).unwrap();
        for wanted in ["500", "user.id", "c{%", "d"] {
            let at = if wanted == "d" { rewritten.text.len() - 1 } else { rewritten.text.find(wanted).unwrap() };
            let back = rewritten.segments.source_range(at..at + 1);
            assert_eq!(back.start, source.rfind(wanted.trim_end_matches("{%")).unwrap().min(back.start));
            assert_eq!(source[back.clone()], wanted[..1], "{wanted}");
        }
        let set = rewritten.text.find("{% set").unwrap();
        assert_eq!(rewritten.segments.source_range(set..set + 6), 1..26);
    }

    /// Pieces that make tags, strings and arguments likely.
    const PIECES: &str = "(\\{%|%\\}|\\{\\{|\\}\\}|\\{#|#\\}|-| |\n|\"|'|\\\\|raw|endraw|if|endif|for|set|block|é|[a-z(\\[)\\],=]){0,40}";

    proptest! {
        #[test]
        fn a_source_without_cache_tags_is_unchanged(source in PIECES) {
            prop_assume!(!source.contains("cache"));
            let rewritten = rewrite("a.html", &source).unwrap();
            prop_assert_eq!(rewritten.text, source);
        }

        #[test]
        fn lines_are_kept_and_nothing_panics(
            pieces in prop::collection::vec(
                prop_oneof![
                    Just("{% cache 5 a %}".to_owned()), Just("{% endcache %}".to_owned()), Just("\n".to_owned()),
                    Just("{% cache\n".to_owned()), Just("%}".to_owned()), Just("{% endcache\n%}".to_owned()),
                    Just("{% nocache a=b %}".to_owned()), Just("{%- nocache\n-%}".to_owned()),
                    Just("{%- endnocache\n-%}".to_owned()),
                    "[ 0-9a-z\"'()\\[\\]\n,=+é-]{0,12}", PIECES,
                ],
                0..12,
            )
        ) {
            let source = pieces.concat();
            if let Ok(rewritten) = rewrite("ä\n\"x.html", &source) {
                prop_assert_eq!(rewritten.text.matches('\n').count(), source.matches('\n').count());
                for at in 0..=rewritten.text.len() {
                    let range = rewritten.segments.source_range(at..rewritten.text.len());
                    prop_assert!(range.end <= source.len());
                }
            }
        }
    }
}
