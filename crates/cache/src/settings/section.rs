//! Reading one table of the settings, setting by setting, collecting what is wrong.

use std::{collections::BTreeSet, time::Duration};

use toml::{Table, Value};

use super::{Problem, SettingsError};
use crate::timeout::Timeout;

/// How alike a misspelled name must be for a suggestion (Jaro–Winkler, 1 is equal).
const ALIKE: f64 = 0.8;

/// One table of the settings while it is read. A setting that is missing is `None`, and so is a bad one, which
/// [`finish`](Section::finish) reports together with every name that nobody asked for.
///
/// # Examples
/// ```
/// use larder_cache::settings::Section;
///
/// let table = "port = 80\nhots = \"a\"".parse().unwrap();
/// let mut section = Section::new("server", &table);
/// assert_eq!(section.integer("port"), Some(80));
/// assert_eq!(section.text("host"), None);
/// let problems = section.finish().unwrap_err().problems;
/// assert_eq!(problems[0].setting, "server.hots");
/// assert_eq!(problems[0].message, "is not a setting; did you mean host?");
/// ```
#[derive(Debug)]
pub struct Section<'t> {
    name: String,
    table: &'t Table,
    asked: BTreeSet<&'static str>,
    problems: Vec<Problem>,
}

impl<'t> Section<'t> {
    /// Starts to read a table; `name` is what problems call it, empty for the top.
    pub fn new(name: impl Into<String>, table: &'t Table) -> Self {
        Section { name: name.into(), table, asked: BTreeSet::new(), problems: Vec::new() }
    }

    /// Reads a text.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        self.read(name, "a text in quotes", |value| match value {
            Value::String(text) => Some(text.clone()),
            // From the environment a text of digits looks like a number.
            Value::Integer(number) => Some(number.to_string()),
            _ => None,
        })
    }

    /// Reads a text or a list of texts.
    pub fn texts(&mut self, name: &'static str) -> Option<Vec<String>> {
        self.read(name, "a text in quotes or a list of them", |value| match value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => None,
        })
    }

    /// Reads `true` or `false`.
    pub fn boolean(&mut self, name: &'static str) -> Option<bool> {
        self.read(name, "true or false", Value::as_bool)
    }

    /// Reads a whole number.
    pub fn integer(&mut self, name: &'static str) -> Option<i64> {
        self.read(name, "a whole number", Value::as_integer)
    }

    /// Reads a whole number from zero up.
    pub fn size(&mut self, name: &'static str) -> Option<usize> {
        self.read(name, "a whole number from 0 up", |value| value.as_integer()?.try_into().ok())
    }

    /// Reads a number of milliseconds from one up.
    pub fn millis(&mut self, name: &'static str) -> Option<Duration> {
        let millis = |value: &Value| u64::try_from(value.as_integer()?).ok().filter(|millis| *millis > 0);
        self.read(name, "a number of milliseconds from 1 up", |value| millis(value).map(Duration::from_millis))
    }

    /// Reads a number of seconds, whole or not, from zero up.
    pub fn seconds(&mut self, name: &'static str) -> Option<Duration> {
        self.read(name, "a number of seconds from 0 up", |value| Duration::try_from_secs_f64(number(value)?).ok())
    }

    /// Reads a number between two bounds, which belong to it.
    pub fn number(&mut self, name: &'static str, least: f64, most: f64) -> Option<f64> {
        let expected = format!("a number from {least} to {most}");
        self.read(name, &expected, |value| number(value).filter(|number| (least..=most).contains(number)))
    }

    /// Reads a number of seconds, or `"never"` (also `"none"`) for a value that does not expire.
    pub fn timeout(&mut self, name: &'static str) -> Option<Timeout> {
        self.read(name, "a number of seconds or \"never\"", |value| match value {
            Value::Integer(seconds) => Some(Timeout::from(*seconds)),
            Value::Float(seconds) => Some(Timeout::from(*seconds)),
            Value::String(word) if matches!(&*word.to_lowercase(), "never" | "none") => Some(Timeout::Never),
            _ => None,
        })
    }

    /// Reads one of several words.
    pub fn choice<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        let chosen =
            |value: &Value| choices.iter().find(|(word, _)| value.as_str() == Some(word)).map(|(_, chosen)| *chosen);
        self.read(name, &words.join(" or "), chosen)
    }

    /// Reads a table.
    pub fn table(&mut self, name: &'static str) -> Option<Table> {
        self.read(name, "a table", |value| value.as_table().cloned())
    }

    /// Reads a table setting by setting.
    pub fn section<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Section<'_>) -> T) -> Option<T> {
        let table = self.table(name)?;
        let mut section = Section::new(format!("{}.{name}", self.name), &table);
        let value = read(&mut section);
        if let Err(error) = section.finish() {
            self.problems.extend(error.problems);
        }
        Some(value)
    }

    /// Reports a problem that the caller found with a setting.
    pub fn problem(&mut self, name: &str, message: impl Into<String>) {
        let setting = if self.name.is_empty() { name.to_owned() } else { format!("{}.{name}", self.name) };
        self.problems.push(Problem::new(setting, message));
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Every bad value, and every name in the table that was not asked for.
    pub fn finish(mut self) -> Result<(), SettingsError> {
        let unknown: Vec<&String> = self.table.keys().filter(|name| !self.asked.contains(name.as_str())).collect();
        for name in unknown {
            let message = match nearest(name, self.asked.iter().copied()) {
                Some(known) => format!("is not a setting; did you mean {known}?"),
                None if self.asked.is_empty() => "is not a setting; there is none here".to_owned(),
                None => {
                    let known: Vec<&str> = self.asked.iter().copied().collect();
                    format!("is not a setting; there is {}", known.join(", "))
                }
            };
            self.problem(name, message);
        }
        if self.problems.is_empty() { Ok(()) } else { Err(self.problems.into()) }
    }

    fn read<T>(&mut self, name: &'static str, expected: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        self.asked.insert(name);
        let value = self.table.get(name)?;
        let read = read(value);
        if read.is_none() {
            self.problem(name, format!("must be {expected}, is {value}"));
        }
        read
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(number) => Some(*number),
        Value::Integer(number) => Some(*number as f64),
        _ => None,
    }
}

/// Returns the known name that is most like a misspelled one.
pub(crate) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let likeness = known.map(|known| (strsim::jaro_winkler(name, known), known));
    let best = likeness.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= ALIKE).then_some(best.1)
}
