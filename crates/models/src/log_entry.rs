//! The history: who added, changed or deleted what, with the values before and after.
//!
//! Entries are written in the transaction of the change they tell of, and never change. They send no signals.

use std::{convert::Infallible, fmt};

use diesel::prelude::*;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    db::Db,
    error::{Error, Result},
    invalidation::of_row,
    model::{Change, Model},
    row,
    schema::log_entry,
    time,
};

/// The most characters of an object's label that the history keeps, as in Django.
const MAX_REPR_CHARS: usize = 200;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The object is new.
    Added,
    /// The object was saved.
    Changed,
    /// The object was deleted.
    Deleted,
}

impl Action {
    /// Returns the word that is stored: `added`, `changed`, `deleted`.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Added => "added",
            Action::Changed => "changed",
            Action::Deleted => "deleted",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An entry of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Queryable, Selectable, Identifiable, Insertable, AsChangeset)]
#[diesel(table_name = log_entry, treat_none_as_null = true)]
pub struct LogEntry {
    /// The primary key.
    #[diesel(skip_insertion)]
    pub id: i64,
    /// Who did it. `None` if no user did, or the user was deleted since.
    pub user_id: Option<i64>,
    /// The model's name.
    pub model: String,
    /// The object's primary key.
    pub object_id: i64,
    /// What the object was called then.
    pub object_repr: String,
    /// What was done, as [`Action::as_str`] says it.
    pub action: String,
    /// What changed, as the JSON of a list of [`Change`]; see [`LogEntry::changes`].
    pub changes: String,
    /// When, in milliseconds since 1970.
    pub created: i64,
}

impl LogEntry {
    /// Adds an entry about an object, in the transaction that is open.
    ///
    /// # Errors
    /// What the database says. That there is no such user is found at once, or at the commit if the transaction
    /// defers foreign keys.
    ///
    /// # Examples
    /// ```
    /// use larder_models::{Action, Database, LogEntry, Model, NewObject, Object, Signals};
    ///
    /// let database = Database::open("sqlite::memory:", Signals::new())?;
    /// database.migrate()?;
    /// database.write(|db| {
    ///     let mut pan = Object::insert(db, NewObject { title: "Pan".into(), ..Default::default() })?;
    ///     pan.title = "Jam pan".into();
    ///     let changes = pan.save(db)?;
    ///     LogEntry::record(db, None, Action::Changed, &pan, &changes)?;
    ///     let entry = &LogEntry::recent(db, 10)?[0];
    ///     assert_eq!(entry.object_repr, "Jam pan");
    ///     assert_eq!(entry.changes()?[0].old, "Pan");
    ///     Ok(())
    /// })?;
    /// # Ok::<(), larder_models::Error>(())
    /// ```
    pub fn record<M: Model>(
        db: &mut Db,
        user_id: impl Into<Option<i64>>,
        action: Action,
        object: &M,
        changes: &[Change],
    ) -> Result<LogEntry> {
        let mut entry = LogEntry {
            id: 0,
            user_id: user_id.into(),
            model: M::NAME.to_owned(),
            object_id: object.pk(),
            object_repr: object.label().chars().take(MAX_REPR_CHARS).collect(),
            action: action.as_str().to_owned(),
            changes: serde_json::to_string(changes).map_err(encoding)?,
            created: db.now().as_millisecond(),
        };
        entry.id = db.quietly(|conn| entry.insert_row(conn))?;
        // Whoever reads the log of a transaction looks for what was changed, not for this.
        db.queue_rows(Self::TABLE, String::new(), of_row(entry.id, None, Some(&entry)));
        Ok(entry)
    }

    /// Loads the newest entries, the newest first.
    ///
    /// # Errors
    /// What the database says.
    pub fn recent(db: &mut Db, count: u32) -> Result<Vec<LogEntry>> {
        let query = log_entry::table.order(log_entry::id.desc()).limit(count.into());
        Ok(query.select(LogEntry::as_select()).load(db.conn())?)
    }

    /// Loads all entries about one object, the newest first. The object itself may be gone.
    ///
    /// # Errors
    /// What the database says.
    pub fn for_object(db: &mut Db, model: &str, object_id: i64) -> Result<Vec<LogEntry>> {
        let about = log_entry::model.eq(model).and(log_entry::object_id.eq(object_id));
        let query = log_entry::table.filter(about).order(log_entry::id.desc());
        Ok(query.select(LogEntry::as_select()).load(db.conn())?)
    }

    /// Returns what changed.
    ///
    /// # Errors
    /// [`Error::Encoding`] if somebody else wrote the column.
    pub fn changes(&self) -> Result<Vec<Change>> {
        serde_json::from_str(&self.changes).map_err(encoding)
    }

    /// Returns when it was.
    pub fn created_at(&self) -> Timestamp {
        time::from_column(self.created)
    }
}

impl Model for LogEntry {
    row!(LogEntry in log_entry, fields = [user_id, model, object_id, object_repr, action, changes]);
    /// Entries are made by [`LogEntry::record`].
    type New = Infallible;

    fn draft(new: Infallible, _now: Timestamp) -> Self {
        match new {}
    }

    fn label(&self) -> String {
        format!("{} {}", self.action, self.object_repr)
    }
}

fn encoding(error: serde_json::Error) -> Error {
    Error::Encoding { what: "the changes of a log entry", source: error.into() }
}
