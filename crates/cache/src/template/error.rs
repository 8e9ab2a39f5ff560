//! What is wrong with a template, shown on the author's own line.

use std::{error, fmt, ops::Range};

use crate::error::Source;

/// Why a template could not be loaded or rendered.
///
/// `Display` prints a report: the message, the place, the author's line with a caret under what is meant, and what
/// to do about it. A report can hold the names of variables, so it belongs in the log and not on the page.
///
/// # Examples
/// ```
/// # use larder_cache::template::{Begin, Fragment, FragmentStore, Templates, Ticket};
/// # struct Nothing;
/// # impl FragmentStore for Nothing {
/// #     fn has_alias(&self, alias: &str) -> bool { alias == "default" }
/// #     fn begin(&self, _: &Fragment<'_>) -> Begin { Begin::Miss(Ticket::empty()) }
/// #     fn finish(&self, _: &Fragment<'_>, _: Ticket, _: &str) {}
/// # }
/// let error = Templates::builder().template("a.html", "<p>\n{% cache 500 %}").build(Nothing).unwrap_err();
/// assert_eq!((error.file(), error.line(), error.column()), (Some("a.html"), 2, 1));
/// assert_eq!(error.excerpt(), Some("{% cache 500 %}"));
/// ```
pub struct TemplateError(Box<Details>);

struct Details {
    message: String,
    file: Option<String>,
    place: Option<Place>,
    help: Option<String>,
    notes: Vec<TemplateError>,
    also: Vec<TemplateError>,
    cause: Option<Source>,
}

/// Where in a file, with the line itself.
struct Place {
    line: usize,
    column: usize,
    excerpt: String,
    /// Number of characters to underline; at least one.
    width: usize,
}

impl TemplateError {
    /// Makes an error that has no place in a file.
    pub(super) fn new(message: impl Into<String>) -> Self {
        TemplateError(Box::new(Details {
            message: message.into(),
            file: None,
            place: None,
            help: None,
            notes: Vec::new(),
            also: Vec::new(),
            cause: None,
        }))
    }

    /// Makes an error about `range`, in bytes, of a template.
    pub(super) fn at(file: &str, source: &str, range: Range<usize>, message: impl Into<String>) -> Self {
        let mut error = TemplateError::new(message).in_file(file);
        error.0.place = Some(Place::new(source, range));
        error
    }

    pub(super) fn in_file(mut self, file: &str) -> Self {
        self.0.file = Some(file.to_owned());
        self
    }

    pub(super) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    /// Adds another place that explains this error, such as where a block was opened.
    pub(super) fn with_note(mut self, note: TemplateError) -> Self {
        self.0.notes.push(note);
        self
    }

    /// Adds an error that was found at the same time.
    pub(super) fn and(mut self, other: TemplateError) -> Self {
        self.0.also.push(other);
        self
    }

    pub(super) fn caused_by(mut self, cause: Option<Source>) -> Self {
        self.0.cause = cause;
        self
    }

    /// Returns what is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the name of the template, or the path of a file that could not be read.
    pub fn file(&self) -> Option<&str> {
        self.0.file.as_deref()
    }

    /// Returns the line, counted from 1; 0 if the error is about no line.
    pub fn line(&self) -> usize {
        self.0.place.as_ref().map_or(0, |place| place.line)
    }

    /// Returns the column in characters, counted from 1; 0 if the error is about no line.
    pub fn column(&self) -> usize {
        self.0.place.as_ref().map_or(0, |place| place.column)
    }

    /// Returns the author's line.
    pub fn excerpt(&self) -> Option<&str> {
        self.0.place.as_ref().map(|place| place.excerpt.as_str())
    }

    /// Returns what to do about it, where that is known.
    pub fn help(&self) -> Option<&str> {
        self.0.help.as_deref()
    }

    /// Returns the other places that explain the error, innermost first.
    pub fn notes(&self) -> &[TemplateError] {
        &self.0.notes
    }

    /// Returns the other errors that were found at the same time.
    pub fn also(&self) -> &[TemplateError] {
        &self.0.also
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, kind: &str) -> fmt::Result {
        let details = &*self.0;
        write!(f, "{kind}: {}", details.message)?;
        let digits = details.place.as_ref().map_or(1, |place| place.line.to_string().len());
        let margin = " ".repeat(digits);
        match (&details.file, &details.place) {
            (Some(file), Some(place)) => {
                write!(f, "\n{margin}--> {file}:{}:{}", place.line, place.column)?;
                write!(f, "\n{margin} |\n{} | {}", place.line, place.excerpt)?;
                write!(f, "\n{margin} | {}", place.underline())?;
            }
            (Some(file), None) => write!(f, "\n{margin}--> {file}")?,
            (None, _) => {}
        }
        if let Some(help) = &details.help {
            write!(f, "\n{margin} = help: {help}")?;
        }
        for note in &details.notes {
            f.write_str("\n\n")?;
            note.write(f, "note")?;
        }
        for other in &details.also {
            f.write_str("\n\n")?;
            other.write(f, "error")?;
        }
        Ok(())
    }
}

impl Place {
    fn new(source: &str, range: Range<usize>) -> Self {
        let start = floor_char_boundary(source, range.start);
        let end = floor_char_boundary(source, range.end).max(start);
        let line_start = source[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = source[start..].find('\n').map_or(source.len(), |newline| start + newline);
        Place {
            line: source[..start].matches('\n').count() + 1,
            column: source[line_start..start].chars().count() + 1,
            excerpt: source[line_start..line_end].trim_end_matches('\r').to_owned(),
            width: source[start..end.min(line_end)].trim_end().chars().count().max(1),
        }
    }

    /// Returns the carets; tabs of the line are kept, so that they stand right at any tab width.
    fn underline(&self) -> String {
        let indent = self.excerpt.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' });
        indent.chain(std::iter::repeat_n('^', self.width)).collect()
    }
}

fn floor_char_boundary(source: &str, index: usize) -> usize {
    let mut index = index.min(source.len());
    while !source.is_char_boundary(index) {
        index -= 1;
    }
    index
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "error")
    }
}

/// Prints the report too, so that a test or a `main` that fails with it is readable.
impl fmt::Debug for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "error")
    }
}

impl error::Error for TemplateError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.cause.as_ref().map(|cause| &**cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_the_line_with_a_caret_and_the_help() {
        let error = TemplateError::at("a.html", "one\n\té{% x %}\r\n", 7..14, "no").with_help("yes");
        assert_eq!(error.to_string(), "error: no\n --> a.html:2:3\n  |\n2 | \té{% x %}\n  | \t ^^^^^^^\n  = help: yes");
    }

    #[test]
    fn a_range_over_several_lines_is_underlined_on_the_first() {
        let error = TemplateError::at("a", "{% x\n%}", 0..7, "no");
        assert!(error.to_string().ends_with("1 | {% x\n  | ^^^^"), "{error}");
    }

    #[test]
    fn any_range_is_survived() {
        for start in 0..6 {
            let _ = TemplateError::at("a", "é\né", start..9, "no").to_string();
        }
    }
}
