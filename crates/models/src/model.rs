//! What all models share: each write is validated, versioned, announced before and after, and tells what changed.

use std::{borrow::Cow, fmt};

use diesel::QueryResult;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    db::{Connection, Db},
    error::{Error, Invalid, Result},
    signals::{Deleted, Deleting, Saved, Saving},
};

/// Stands in a [`Change`] for values that nobody may read.
const HIDDEN: &str = "(hidden)";

/// A field's value, as the history shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    name: &'static str,
    value: Value,
    secret: bool,
}

impl Field {
    /// Makes a field.
    pub fn new(name: &'static str, value: impl Into<Value>) -> Self {
        Field { name, value: value.into(), secret: false }
    }

    /// Makes a field whose changes are told without its values, such as a password.
    pub fn secret(name: &'static str, value: impl Into<Value>) -> Self {
        Field { name, value: value.into(), secret: true }
    }

    fn shown(&self) -> Value {
        if self.secret { Value::from(HIDDEN) } else { self.value.clone() }
    }
}

/// A field that a save changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The field's name.
    pub field: Cow<'static, str>,
    /// Its value before, `null` if the object is new.
    pub old: Value,
    /// Its value now.
    pub new: Value,
}

impl Change {
    /// Lists the fields that differ, in the order of `new`. A field that `old` does not have counts as `null`.
    pub fn between(old: &[Field], new: &[Field]) -> Vec<Change> {
        let change = |now: &Field| {
            let before = old.iter().find(|field| field.name == now.name);
            let differs = before.is_none_or(|before| before.value != now.value);
            differs.then(|| Change {
                field: Cow::Borrowed(now.name),
                old: before.map_or(Value::Null, Field::shown),
                new: now.shown(),
            })
        };
        new.iter().filter_map(change).collect()
    }
}

/// A row of a table, with saves and deletes that send signals.
///
/// A model names its table and gives the four statements; insert, save, delete and the rest come from here. Each of
/// them is atomic: it opens a transaction, or a savepoint if one is open.
///
/// # Concurrency
/// A model with a row version compares it in [`Model::update_row`], so of two people who loaded the same row and save
/// it, the second gets [`Error::Conflict`].
pub trait Model: Clone + fmt::Debug + Send + Sync + Sized + 'static {
    /// What it is called in signals, log lines and the history: `Object`.
    const NAME: &'static str;
    /// Its table.
    const TABLE: &'static str;
    /// What a new one is made from.
    type New;

    /// Returns the primary key; 0 until it is inserted.
    fn pk(&self) -> i64;

    /// Makes one that is not stored yet, with 0 as its primary key.
    fn draft(new: Self::New, now: Timestamp) -> Self;

    /// Returns what people edit, for [`Saved::changed`] and the history. Bookkeeping such as the row version is left
    /// out.
    fn fields(&self) -> Vec<Field>;

    /// Loads a row.
    ///
    /// # Errors
    /// What the database says.
    fn select_row(conn: &mut Connection, pk: i64) -> QueryResult<Option<Self>>;

    /// Stores all columns but the primary key as a new row, and returns the key.
    ///
    /// # Errors
    /// What the database says.
    fn insert_row(&self, conn: &mut Connection) -> QueryResult<i64>;

    /// Stores all columns where the primary key is this one's and the row version, if there is one, that of `seen`,
    /// and returns how many rows that were.
    ///
    /// # Errors
    /// What the database says.
    fn update_row(&self, seen: &Self, conn: &mut Connection) -> QueryResult<usize>;

    /// Deletes the row and returns how many rows that were.
    ///
    /// # Errors
    /// What the database says.
    fn delete_row(&self, conn: &mut Connection) -> QueryResult<usize>;

    /// Sets the primary key; called once, when the row is inserted.
    fn set_pk(&mut self, pk: i64);

    /// Updates the bookkeeping before an update: the time, the row version. Nothing unless the model says more.
    fn stamp(&mut self, _now: Timestamp) {}

    /// Tells what cannot be stored. Everything can, unless the model says more.
    ///
    /// # Errors
    /// The fields, and what is wrong with each.
    fn validate(&self) -> Result<(), Invalid> {
        Ok(())
    }

    /// Returns what people call it, for the history. `Object#7` unless the model knows better.
    fn label(&self) -> String {
        format!("{}#{}", Self::NAME, self.pk())
    }

    /// Loads one, or `None` if there is none.
    ///
    /// # Errors
    /// What the database says.
    fn find(db: &mut Db, pk: i64) -> Result<Option<Self>> {
        Ok(Self::select_row(db.conn(), pk)?)
    }

    /// Loads one that should be there.
    ///
    /// # Errors
    /// [`Error::NotFound`], and what the database says.
    fn get(db: &mut Db, pk: i64) -> Result<Self> {
        Self::find(db, pk)?.ok_or(Error::NotFound { model: Self::NAME, id: pk })
    }

    /// Stores a new one and returns it with its primary key.
    ///
    /// # Errors
    /// [`Error::Validation`], [`Error::Unique`], [`Error::Refused`], and what the database says.
    fn insert(db: &mut Db, new: Self::New) -> Result<Self> {
        let draft = Self::draft(new, db.now());
        Self::insert_draft(db, draft)
    }

    /// Stores a new one whose bookkeeping the caller has filled in, as when data is imported.
    ///
    /// # Errors
    /// As [`Model::insert`].
    fn insert_draft(db: &mut Db, draft: Self) -> Result<Self> {
        require_writable::<Self>(db)?;
        db.transaction(|db| {
            let signals = db.signals().clone();
            let mut event = Saving { object: draft, created: true };
            signals.send_pre_save(db, &mut event)?;
            let mut object = event.object;
            object.validate()?;
            let pk = object.insert_row(db.conn())?;
            object.set_pk(pk);

            let changed = Change::between(&[], &object.fields());
            let saved = Saved { object: object.clone(), created: true, changed };
            db.queue_on_commit(saved.cause(), move || signals.send_post_save(&saved));
            Ok(object)
        })
    }

    /// Stores all columns and returns what changed.
    ///
    /// After an error it is as it was before. After a rollback of the transaction around it, it has the bookkeeping
    /// of a save that did not happen: [`Model::refresh`] it.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the row's version differs, [`Error::NotFound`], [`Error::Validation`],
    /// [`Error::Unique`], [`Error::Refused`], and what the database says.
    fn save(&mut self, db: &mut Db) -> Result<Vec<Change>> {
        require_writable::<Self>(db)?;
        let (object, changed) = db.transaction(|db| {
            let old = Self::get(db, self.pk())?;
            let signals = db.signals().clone();
            let mut event = Saving { object: self.clone(), created: false };
            signals.send_pre_save(db, &mut event)?;
            let mut object = event.object;
            object.set_pk(self.pk());
            object.validate()?;
            object.stamp(db.now());
            if object.update_row(self, db.conn())? == 0 {
                return Err(Error::Conflict { model: Self::NAME, id: self.pk() });
            }

            let changed = Change::between(&old.fields(), &object.fields());
            let saved = Saved { object: object.clone(), created: false, changed: changed.clone() };
            db.queue_on_commit(saved.cause(), move || signals.send_post_save(&saved));
            Ok((object, changed))
        })?;
        *self = object;
        Ok(changed)
    }

    /// Deletes the row, whatever its version.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Refused`], and what the database says.
    fn delete(&self, db: &mut Db) -> Result<()> {
        require_writable::<Self>(db)?;
        db.transaction(|db| {
            let object = Self::get(db, self.pk())?;
            let signals = db.signals().clone();
            let event = Deleting { object };
            signals.send_pre_delete(db, &event)?;
            let Deleting { object } = event;
            if object.delete_row(db.conn())? == 0 {
                return Err(Error::NotFound { model: Self::NAME, id: self.pk() });
            }

            let deleted = Deleted { object };
            db.queue_on_commit(deleted.cause(), move || signals.send_post_delete(&deleted));
            Ok(())
        })
    }

    /// Loads it again.
    ///
    /// # Errors
    /// [`Error::NotFound`], and what the database says.
    fn refresh(&mut self, db: &mut Db) -> Result<()> {
        *self = Self::get(db, self.pk())?;
        Ok(())
    }
}

fn require_writable<M: Model>(db: &Db) -> Result<()> {
    if db.is_writable() { Ok(()) } else { Err(Error::ReadOnly { model: M::NAME }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fields_that_differ_are_changes() {
        let old = [Field::new("title", "Pan"), Field::new("published", false), Field::secret("password", "old hash")];
        let new = [Field::new("title", "Pan"), Field::new("published", true), Field::secret("password", "new hash")];
        let changes = Change::between(&old, &new);
        assert_eq!(
            serde_json::to_string(&changes).unwrap(),
            r#"[{"field":"published","old":false,"new":true},{"field":"password","old":"(hidden)","new":"(hidden)"}]"#
        );
    }

    #[test]
    fn all_fields_of_a_new_object_are_changes() {
        let changes = Change::between(&[], &[Field::new("title", "Pan"), Field::new("body", "")]);
        assert_eq!(changes.len(), 2);
        assert!(changes.iter().all(|change| change.old == Value::Null));
    }
}
