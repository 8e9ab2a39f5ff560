//! What can go wrong in the database, by what the caller can do about it.
//!
//! A row that is not there is `Ok(None)` where absence is expected (`find`, `by_username`), and
//! [`Error::NotFound`] where the caller named the row.

use std::{collections::BTreeMap, error, fmt};

use diesel::result::{DatabaseErrorKind, Error as DieselError};

/// The cause of an [`Error`], as the library or the receiver underneath reported it.
pub type Source = Box<dyn error::Error + Send + Sync>;

/// How SQLite and PostgreSQL say that somebody else holds a lock for too long.
const LOCKED: [&str; 3] = ["database is locked", "database table is locked", "canceling statement due to lock timeout"];

/// What the functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a database operation failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The database url names something this build cannot open.
    UnsupportedUrl {
        /// The url, its password blanked out.
        url: String,
        /// What is wrong with it, and the way out.
        reason: String,
    },
    /// The database could not be opened.
    Connect {
        /// The url, its password blanked out.
        url: String,
        /// What the database or the file system said.
        source: Source,
    },
    /// Others hold the connection or the write lock, and did not let go in time. Trying again later may work.
    Busy {
        /// What the pool or the database said.
        source: Source,
    },
    /// Another transaction was in the way, and this one was given up for it: a deadlock, or a serialisation failure of
    /// PostgreSQL. Run it again, as [`Database::write_again`](crate::Database::write_again) does.
    InTheWay {
        /// What the database said.
        source: Source,
    },
    /// A migration could not be applied or reverted. Nothing of it stays behind.
    Migration {
        /// What the migration harness said.
        source: Source,
    },
    /// A model was written through [`Database::read`](crate::Database::read).
    ReadOnly {
        /// The model's name.
        model: &'static str,
    },
    /// Somebody else saved the row since it was loaded: its version differs.
    Conflict {
        /// The model's name.
        model: &'static str,
        /// The primary key.
        id: i64,
    },
    /// There is no such row, or no longer.
    NotFound {
        /// The model's name.
        model: &'static str,
        /// The primary key.
        id: i64,
    },
    /// Some fields cannot be stored as they are.
    Validation(Invalid),
    /// Another row has this value already, in a column where each may occur once.
    Unique {
        /// The column or constraint, if the database named it.
        field: Option<String>,
        /// What the database said.
        source: Source,
    },
    /// A `pre_save` or `pre_delete` receiver refused the write.
    Refused {
        /// Which event: `pre_save Object#7`.
        cause: String,
        /// The receiver's id.
        receiver: String,
        /// What the receiver said.
        source: Source,
    },
    /// The caller of a transaction gave it up; see [`Error::abort`].
    Aborted {
        /// Why.
        source: Source,
    },
    /// Stored text could not be read or made, as the JSON of a log entry.
    Encoding {
        /// Which text.
        what: &'static str,
        /// What the encoder said.
        source: Source,
    },
    /// Data could not be loaded or dumped; see [`Data`](crate::Data).
    Data {
        /// Which row: `object 7`.
        record: String,
        /// Why.
        source: Source,
    },
    /// Anything else that the database refused.
    Database {
        /// What the database said.
        source: DieselError,
    },
}

impl Error {
    /// Makes the error with which a transaction's closure says: roll back, and hand this to my caller.
    ///
    /// # Examples
    /// ```
    /// use larder_models::{Database, Error, Signals};
    ///
    /// let database = Database::open("sqlite::memory:", Signals::new())?;
    /// let result = database.write(|_db| Err::<(), _>(Error::abort("the basket is empty")));
    /// assert!(matches!(result, Err(Error::Aborted { source }) if source.to_string() == "the basket is empty"));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn abort(source: impl Into<Source>) -> Self {
        Error::Aborted { source: source.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::UnsupportedUrl { url, reason } => write!(f, "cannot use the database url \"{url}\": {reason}"),
            Error::Connect { url, .. } => {
                let check = match url.starts_with("sqlite:") {
                    true => "the place exists and may be written",
                    false => "the server runs, and has this database for this user",
                };
                write!(f, "cannot open the database \"{url}\"; check that {check}")
            }
            Error::Busy { .. } => f.write_str(
                "the database is busy; try again, and keep slow work out of transactions \
                 (inside Database::write use the db it gives, a second Database::write waits for the first)",
            ),
            Error::InTheWay { .. } => f.write_str("another transaction was in the way; run this one again"),
            Error::Migration { .. } => {
                f.write_str("a migration failed and was rolled back; repair it and migrate again")
            }
            Error::ReadOnly { model } => {
                write!(f, "cannot write {model} through a read connection; use Database::write")
            }
            Error::Conflict { model, id } => {
                write!(f, "{model}#{id} was changed by somebody else since it was loaded; refresh it and try again")
            }
            Error::NotFound { model, id } => write!(f, "there is no {model}#{id}; it may have been deleted"),
            Error::Validation(invalid) => write!(f, "some fields cannot be stored: {invalid}"),
            Error::Unique { field: Some(field), .. } => write!(f, "this {field} is taken; choose another one"),
            Error::Unique { field: None, .. } => f.write_str("a row with these values exists; choose other ones"),
            Error::Refused { cause, receiver, .. } => write!(f, "receiver \"{receiver}\" refused {cause}"),
            Error::Aborted { .. } => f.write_str("the transaction was given up and rolled back"),
            Error::Encoding { what, .. } => write!(f, "cannot read or write {what} as JSON"),
            Error::Data { record, .. } => write!(f, "cannot take {record}"),
            Error::Database { .. } => f.write_str("the database refused a statement"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Error::Connect { source, .. }
            | Error::Busy { source }
            | Error::InTheWay { source }
            | Error::Migration { source }
            | Error::Unique { source, .. }
            | Error::Refused { source, .. }
            | Error::Aborted { source }
            | Error::Encoding { source, .. }
            | Error::Data { source, .. } => Some(&**source),
            Error::Database { source } => Some(source),
            Error::UnsupportedUrl { .. }
            | Error::ReadOnly { .. }
            | Error::Conflict { .. }
            | Error::NotFound { .. }
            | Error::Validation(_) => None,
        }
    }
}

/// So that queries inside `Database::read` and `Database::write` can use `?`.
impl From<DieselError> for Error {
    fn from(error: DieselError) -> Self {
        let DieselError::DatabaseError(kind, information) = &error else {
            return Error::Database { source: error };
        };
        match kind {
            DatabaseErrorKind::UniqueViolation => {
                let field =
                    unique_field(information.message(), information.table_name(), information.constraint_name());
                Error::Unique { field, source: Box::new(error) }
            }
            DatabaseErrorKind::SerializationFailure => Error::InTheWay { source: Box::new(error) },
            // Diesel has no kinds for these and hides their codes. PostgreSQL says them in the server's language.
            DatabaseErrorKind::Unknown if information.message() == "deadlock detected" => {
                Error::InTheWay { source: Box::new(error) }
            }
            DatabaseErrorKind::Unknown if LOCKED.iter().any(|text| information.message().starts_with(text)) => {
                Error::Busy { source: Box::new(error) }
            }
            _ => Error::Database { source: error },
        }
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Error::Validation(invalid)
    }
}

/// What is wrong with which field, in sentences for the person who filled it in.
///
/// # Examples
/// ```
/// use larder_models::Invalid;
///
/// let mut invalid = Invalid::default();
/// assert!(invalid.clone().into_result().is_ok());
/// invalid.add("title", "Enter a title.");
/// assert_eq!(invalid.of("title"), ["Enter a title."]);
/// assert!(invalid.of("body").is_empty());
/// assert!(invalid.into_result().is_err());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Invalid {
    fields: BTreeMap<&'static str, Vec<String>>,
}

impl Invalid {
    /// Adds a sentence about a field.
    pub fn add(&mut self, field: &'static str, message: impl Into<String>) {
        self.fields.entry(field).or_default().push(message.into());
    }

    /// Returns what is wrong with a field: nothing if the slice is empty.
    pub fn of(&self, field: &str) -> &[String] {
        self.fields.get(field).map_or(&[], Vec::as_slice)
    }

    /// Returns the fields in alphabetical order, with what is wrong with each.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        self.fields.iter().map(|(field, messages)| (*field, messages.as_slice()))
    }

    /// Tells whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Returns `Ok` if nothing is wrong, and the sentences otherwise.
    ///
    /// # Errors
    /// Itself, when a sentence was added.
    pub fn into_result(self) -> Result<(), Invalid> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> =
            self.fields.iter().map(|(field, messages)| format!("{field}: {}", messages.join(" "))).collect();
        f.write_str(&texts.join("; "))
    }
}

impl error::Error for Invalid {}

/// Writes an error and its causes on one line, for the log.
pub(crate) fn chain(error: &dyn error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// SQLite names the column in its text (`UNIQUE constraint failed: user.username`), PostgreSQL the constraint, which it
/// calls `user_username_key` if nobody called it otherwise.
fn unique_field(message: &str, table: Option<&str>, constraint: Option<&str>) -> Option<String> {
    let Some(constraint) = constraint else {
        return Some(message.strip_prefix("UNIQUE constraint failed: ")?.rsplit('.').next()?.to_owned());
    };
    let column = || constraint.strip_prefix(table?)?.strip_prefix('_')?.strip_suffix("_key");
    Some(column().unwrap_or(constraint).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unique_violation_names_the_column() {
        assert_eq!(unique_field("UNIQUE constraint failed: user.username", None, None).as_deref(), Some("username"));
        let on_postgres = |constraint| unique_field("duplicate key", Some("user"), Some(constraint)).unwrap();
        assert_eq!(on_postgres("user_username_key"), "username");
        assert_eq!(on_postgres("one_name_each"), "one_name_each");
        assert_eq!(unique_field("something else", None, None), None);
    }

    #[test]
    fn the_log_shows_every_cause() {
        let error = Error::Refused {
            cause: "pre_save Object#7".to_owned(),
            receiver: "guard".to_owned(),
            source: "the museum is closed".into(),
        };
        assert_eq!(chain(&error), "receiver \"guard\" refused pre_save Object#7: the museum is closed");
    }
}
