//! Log lines: time, level, target, message, then key-values: `cache: invalidated key=objects alias=default`.

use std::{
    env,
    fmt::{self, Write as _},
    io::Write as _,
};

use log::{LevelFilter, kv};

/// Starts logging to standard error. What `RUST_LOG` says goes on top of `info` for everything.
pub fn start() {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Info).filter_module("actix_server", LevelFilter::Warn);
    if let Ok(filters) = env::var("RUST_LOG") {
        builder.parse_filters(&filters);
    }
    builder.format(|out, record| {
        let time = out.timestamp_millis();
        let mut line =
            format!("{time} {:<5} {}: {}", record.level(), record.target(), Plain(&record.args().to_string()));
        let mut fields = Fields(&mut line);
        // Writing to a String does not fail.
        let _ = record.key_values().visit(&mut fields);
        writeln!(out, "{line}")
    });
    // A second start, as in tests, changes nothing.
    let _ = builder.try_init();
}

/// Returns the fields of a line as it would be written.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let texts: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", Quoted(value))).collect();
    texts.join(" ")
}

struct Fields<'a>(&'a mut String);

impl<'kvs> kv::VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let _ = write!(self.0, " {key}={}", Quoted(&value.to_string()));
        Ok(())
    }
}

/// A value in quotes where it could be taken for more than one word, with line breaks and the like escaped.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_word = |c: char| c.is_alphanumeric() || "-_.:/~%?&+,@#[]".contains(c);
        if !self.0.is_empty() && self.0.chars().all(is_word) { f.write_str(self.0) } else { write!(f, "{:?}", self.0) }
    }
}

/// A message whose line breaks from outside cannot start a line that looks like ours.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\n' => f.write_str("\n  "),
            c if c.is_control() => write!(f, "{}", c.escape_default()),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_where_they_need_it() {
        let quoted = |text| Quoted(text).to_string();
        assert_eq!(quoted("/objects/1/?a=b"), "\"/objects/1/?a=b\"");
        assert_eq!(quoted("/objects/1/"), "/objects/1/");
        assert_eq!(quoted("post_save Object#7"), "\"post_save Object#7\"");
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
        assert_eq!(quoted(""), "\"\"");
    }

    #[test]
    fn a_message_cannot_start_a_line_of_its_own() {
        assert_eq!(Plain("a\n2026 INFO x\u{1b}[0m").to_string(), "a\n  2026 INFO x\\u{1b}[0m");
    }
}
