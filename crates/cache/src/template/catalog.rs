//! All templates of an application, rewritten, with what leads from Tera's errors back to the author's text.

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use tera::{ErrorKind, ReportError};

use super::{
    digest::{digest_of_all, digests},
    error::TemplateError,
    rewrite::{CacheTag, Rewritten, rewrite},
};

/// The templates by name.
#[derive(Debug, Default)]
pub(super) struct Catalog(BTreeMap<String, Entry>);

#[derive(Debug)]
struct Entry {
    /// The template that the author wrote; its own name unless this is a hole.
    file: String,
    source: String,
    rewritten: Rewritten,
    digest: Digest,
}

/// The digest of a template in its two forms; which one holds depends on where the template is included.
#[derive(Debug, Clone)]
struct Digest {
    escaped: String,
    plain: String,
}

impl Catalog {
    /// Rewrites all templates. `version` becomes part of every digest.
    pub(super) fn new(sources: BTreeMap<String, String>, version: &str) -> Result<Self, TemplateError> {
        let mut digests = digests(&sources, version);
        let mut entries = BTreeMap::new();
        let mut failed: Option<TemplateError> = None;
        for (name, source) in sources {
            let digest = digests.remove(&name).unwrap_or_default();
            let digest = Digest { escaped: format!("{digest}e"), plain: format!("{digest}p") };
            match rewrite(&name, &source) {
                Ok(mut rewritten) => {
                    for (hole, rewritten) in std::mem::take(&mut rewritten.holes) {
                        let entry =
                            Entry { file: name.clone(), source: source.clone(), rewritten, digest: digest.clone() };
                        entries.insert(hole, entry);
                    }
                    entries.insert(name.clone(), Entry { file: name, source, rewritten, digest });
                }
                Err(error) => {
                    failed = Some(match failed {
                        Some(first) => first.and(error),
                        None => error,
                    });
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(Catalog(entries)),
        }
    }

    /// Returns the templates as Tera takes them.
    pub(super) fn rewritten(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, entry)| (name.as_str(), entry.rewritten.text.as_str()))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(name, entry)| **name == entry.file).map(|(name, _)| name.as_str())
    }

    /// Returns name, template and line of each fragment.
    pub(super) fn fragments(&self) -> impl Iterator<Item = (&str, &str, usize)> {
        self.0.values().flat_map(|entry| {
            let line = |start: usize| entry.source[..start].matches('\n').count() + 1;
            let fragments = entry.rewritten.fragments.iter();
            fragments.map(move |tag| (&*tag.name, &*entry.file, line(tag.range.start)))
        })
    }

    /// Returns the digest of a template, escaped or not; empty for one that is not in the catalog.
    pub(super) fn digest(&self, name: &str, escaped: bool) -> &str {
        let digest = self.0.get(name).map(|entry| &entry.digest);
        digest.map_or("", |digest| if escaped { &digest.escaped } else { &digest.plain })
    }

    /// Returns a digest that changes when any of the templates does.
    pub(super) fn digest_of_all(&self) -> String {
        digest_of_all(self.0.values().map(|entry| entry.digest.escaped.as_str()))
    }

    /// Returns what an author should know that is not an error.
    pub(super) fn warnings(&self) -> Vec<TemplateError> {
        let mut warnings = Vec::new();
        let mut seen: BTreeMap<(&str, usize), &str> = BTreeMap::new();
        for entry in self.0.values() {
            let file = &entry.file;
            for tag in &entry.rewritten.fragments {
                warnings.extend(tag.block.clone().map(|block| {
                    TemplateError::at(
                        file,
                        &entry.source,
                        block,
                        "a block inside a cache block is cached for all children",
                    )
                    .with_help("put the cache block inside of the block, so that each child has its own fragment")
                }));
                let first = *seen.entry((tag.name.as_str(), tag.vary)).or_insert(file);
                if first != file {
                    warnings.push(shared_name(file, entry, tag, first));
                }
            }
        }
        warnings
    }

    /// Turns an error of Tera's into one about the author's text.
    pub(super) fn explain(&self, error: &tera::Error) -> TemplateError {
        match error.kind() {
            ErrorKind::SyntaxError(report) | ErrorKind::RenderingError(report) => self.explain_report(report, error),
            ErrorKind::Msg(text) if text.starts_with("error: ") => self.explain_text(text),
            _ => TemplateError::new(error.to_string()),
        }
    }

    fn explain_report(&self, report: &ReportError, error: &tera::Error) -> TemplateError {
        let mut explained = self.place(report.filename(), report.span().range.clone(), report.message());
        // The notes of a report are private; the text that Tera prints has them.
        for note in error.to_string().split("\n\nnote: ").skip(1) {
            if let Some(note) = self.explain_note(note) {
                explained = explained.with_note(note);
            }
        }
        explained
    }

    /// Reads `{label} {file}:{line}:{column}`.
    fn explain_note(&self, text: &str) -> Option<TemplateError> {
        let (head, line, column) = split_locus(text.lines().next()?)?;
        let file = self.0.keys().filter(|name| head.ends_with(&format!(" {name}"))).max_by_key(|name| name.len())?;
        let label = head[..head.len() - file.len()].trim_end();
        let start = self.0[file].offset(line, column)?;
        let end = start + underlined(text.lines().nth(3));
        let ours = self.0[file].rewritten.segments.is_generated(start);
        let label =
            if ours { Cow::Owned(label.replace("filter section", "cache block")) } else { Cow::Borrowed(label) };
        Some(self.place(file, start..end, &label))
    }

    /// Reads the reports that Tera prints, one after the other, when names are unknown.
    fn explain_text(&self, text: &str) -> TemplateError {
        let mut reports = text.split("\n\nerror: ").map(|report| self.explain_printed(report));
        let first = reports.next().unwrap_or_else(|| TemplateError::new(text));
        reports.fold(first, TemplateError::and)
    }

    fn explain_printed(&self, report: &str) -> TemplateError {
        let report = report.strip_prefix("error: ").unwrap_or(report);
        let explained = (|| {
            let (message, rest) = report.split_once("--> ")?;
            let mut lines = rest.lines();
            let (file, line, column) = split_locus(lines.next()?)?;
            let start = self.0.get(file)?.offset(line, column)?;
            let end = start + underlined(lines.nth(2));
            Some(self.place(file, start..end, message.trim_end()))
        })();
        explained.unwrap_or_else(|| TemplateError::new(report))
    }

    /// Makes an error about a range of a rewritten template.
    fn place(&self, file: &str, range: Range<usize>, message: &str) -> TemplateError {
        let message = without_own_variables(message);
        let Some(entry) = self.0.get(file) else { return TemplateError::new(message).in_file(file) };
        let source = entry.rewritten.segments.source_range(range);
        let in_tag = entry.rewritten.fragments.iter().any(|tag| tag.range.contains(&source.start));
        let error = TemplateError::at(&entry.file, &entry.source, source, message.as_ref());
        if in_tag && message.contains("is not defined") {
            error
                .with_help("what a fragment varies on has to be there; write `user?.id` for a value that may be absent")
        } else if entry.file != file && message.contains("is not defined") {
            error.with_help(
                "a nocache block sees what the template was rendered with, or in a page with holes what its visitor function \
                 returns; what a loop or a `set` made is handed to it, as in `{% nocache id=object.id %}`",
            )
        } else {
            error
        }
    }
}

impl Entry {
    /// Returns the byte that a line and a column of the rewritten text mean, both counted from 1.
    fn offset(&self, line: usize, column: usize) -> Option<usize> {
        let text = &self.rewritten.text;
        let mut starts = std::iter::once(0).chain(text.match_indices('\n').map(|(newline, _)| newline + 1));
        let start = starts.nth(line.checked_sub(1)?)?;
        let within = text[start..].char_indices().nth(column.checked_sub(1)?).map_or(text.len() - start, |(at, _)| at);
        Some(start + within)
    }
}

fn shared_name(file: &str, entry: &Entry, tag: &CacheTag, first: &str) -> TemplateError {
    let message = format!("the fragment `{}` is in {first} too; with equal values they displace one another", tag.name);
    TemplateError::at(file, &entry.source, tag.range.clone(), message)
        .with_help("give them different names, or include one template in both places")
}

/// Splits `a.html:3:7` from the right.
fn split_locus(text: &str) -> Option<(&str, usize, usize)> {
    let mut parts = text.rsplitn(3, ':');
    let column = parts.next()?.parse().ok()?;
    let line = parts.next()?.parse().ok()?;
    Some((parts.next()?, line, column))
}

/// Counts the carets of a line.
fn underlined(line: Option<&str>) -> usize {
    line.map_or(1, |line| line.matches('^').count().max(1))
}

/// Removes the variables of cache blocks from the list of variables that Tera appends to a message.
fn without_own_variables(message: &str) -> Cow<'_, str> {
    const LIST: &str = " Available variables: ";
    match message.split_once(LIST) {
        Some((head, list)) if list.contains("__cache_") => {
            let kept: Vec<&str> = list.split(", ").filter(|name| !name.starts_with("__cache_")).collect();
            let list = if kept.is_empty() { String::new() } else { format!("{LIST}{}", kept.join(", ")) };
            Cow::Owned(format!("{head}{list}"))
        }
        _ => Cow::Borrowed(message),
    }
}
