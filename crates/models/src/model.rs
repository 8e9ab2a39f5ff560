//! What all models share: each write is validated, versioned, announced before and after, and tells what changed.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    marker::PhantomData,
};

use diesel::QueryResult;
use jiff::Timestamp;
use larder_cache::dependencies::depends_on;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    db::{Connection, Db},
    error::{Error, Invalid, Result},
    invalidation::{
        MAX_ROW_TAGS, depends_on_list, depends_on_row, depends_on_table, of_row, row_tag, unknown_rows_tag,
    },
    log_entry::Action,
    page::{self, Page},
    signals::{BulkChanged, Deleted, Deleting, Event, Saved, Saving},
};

/// Stands in a [`Change`] for values that nobody may read.
const HIDDEN: &str = "(hidden)";

/// How many rows one statement writes at most: databases take a limited number of values.
pub(crate) const BATCH: usize = 1_000;

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
            let differs = *before.map_or(&Value::Null, |before| &before.value) != now.value;
            differs.then(|| Change {
                field: Cow::Borrowed(now.name),
                old: before.map_or(Value::Null, Field::shown),
                new: now.shown(),
            })
        };
        new.iter().filter_map(change).collect()
    }
}

/// For what rows are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// To change them: others may still refer to them.
    Change,
    /// To delete them.
    Delete,
}

/// A row of a table, with saves and deletes that send signals.
///
/// A model names its table and its columns with [`row!`](crate::row), says how a new one begins, and what else there is to
/// say; insert, save, delete, queries and the rest come from here. Each write is atomic: it opens a transaction, or a
/// savepoint if one is open.
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
    /// A query for some of them, of diesel's.
    type Rows;

    /// Returns the query for all of them.
    fn rows() -> Self::Rows;

    /// Loads what a query chooses.
    ///
    /// # Errors
    /// What the database says.
    fn load_rows(rows: Self::Rows, conn: &mut Connection) -> QueryResult<Vec<Self>>;

    /// Counts what a query chooses.
    ///
    /// # Errors
    /// What the database says.
    fn count_rows(rows: Self::Rows, conn: &mut Connection) -> QueryResult<i64>;

    /// Returns the primary key; 0 until it is inserted.
    fn pk(&self) -> i64;

    /// Makes one that is not stored yet, with 0 as its primary key.
    fn draft(new: Self::New, now: Timestamp) -> Self;

    /// Returns the names of the lists that it is in, for [`Model::list_in`]: `published`, `category=3`. A write makes those
    /// stale that it is in before or after, and not the others. None unless the model says more.
    fn scopes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns what people edit, for [`Saved::changed`] and the history. Bookkeeping such as the row version is left
    /// out.
    fn fields(&self) -> Vec<Field>;

    /// Loads rows by primary key, those that are there.
    ///
    /// # Errors
    /// What the database says.
    fn select_rows(pks: &[i64], conn: &mut Connection) -> QueryResult<Vec<Self>>;

    /// Loads a row.
    ///
    /// # Errors
    /// What the database says.
    fn select_row(conn: &mut Connection, pk: i64) -> QueryResult<Option<Self>>;

    /// Returns the query for those of what a query chooses that have one of these primary keys.
    fn among(rows: Self::Rows, pks: &[i64]) -> Self::Rows;

    /// Returns the query for a part of what a query chooses.
    fn cut_rows(rows: Self::Rows, limit: i64, offset: i64) -> Self::Rows;

    /// Returns the primary keys of what a query chooses, in its order.
    ///
    /// # Errors
    /// What the database says.
    fn select_pks(rows: Self::Rows, conn: &mut Connection) -> QueryResult<Vec<i64>>;

    /// Loads rows that are about to be written, those that are there, ordered by primary key, and lets nobody else write
    /// them until the transaction ends.
    ///
    /// # Errors
    /// What the database says.
    fn lock_rows(pks: &[i64], lock: Lock, conn: &mut Connection) -> QueryResult<Vec<Self>>;

    /// Stores several as new rows, all columns but the primary keys, and returns those in the same order.
    ///
    /// # Errors
    /// What the database says.
    fn insert_rows(rows: &[Self], conn: &mut Connection) -> QueryResult<Vec<i64>>;

    /// Stores all columns but the primary key as a new row, and returns the key.
    ///
    /// # Errors
    /// What the database says.
    fn insert_row(&self, conn: &mut Connection) -> QueryResult<i64>;

    /// Stores all columns as a new row, with the primary key that it has.
    ///
    /// # Errors
    /// What the database says.
    fn insert_row_as_is(&self, conn: &mut Connection) -> QueryResult<()>;

    /// Stores all columns where the primary key is this one's and the row version, if there is one, that of `seen`,
    /// and returns how many rows that were.
    ///
    /// # Errors
    /// What the database says.
    fn update_row(&self, seen: &Self, conn: &mut Connection) -> QueryResult<usize>;

    /// Stores all columns where the primary key is this one's, whatever the row version.
    ///
    /// # Errors
    /// What the database says.
    fn overwrite_row(&self, conn: &mut Connection) -> QueryResult<()>;

    /// Deletes rows and returns how many those were.
    ///
    /// # Errors
    /// What the database says.
    fn delete_rows(pks: &[i64], conn: &mut Connection) -> QueryResult<usize>;

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

    /// Says what else the database changes when the row is deleted, and is called inside the transaction before it is: rows
    /// of other tables that refer to it, triggers. Delete or change them here through their models, so that what shows them
    /// is invalidated, or name their tables to [`Db::invalidate_table`]. Nothing unless the model says more.
    ///
    /// # Errors
    /// Those of the writes. They reach the caller of the delete.
    fn before_delete(&self, _db: &mut Db) -> Result<()> {
        Ok(())
    }

    /// Returns what people call it, for the history. `Object#7` unless the model knows better.
    fn label(&self) -> String {
        format!("{}#{}", Self::NAME, self.pk())
    }

    /// Loads one, or `None` if there is none. What is being made here depends on it.
    ///
    /// # Errors
    /// What the database says.
    fn find(db: &mut Db, pk: i64) -> Result<Option<Self>> {
        depends_on_row::<Self>(pk);
        Ok(Self::select_row(db.conn(), pk)?)
    }

    /// Loads one that should be there.
    ///
    /// # Errors
    /// [`Error::NotFound`], and what the database says.
    fn get(db: &mut Db, pk: i64) -> Result<Self> {
        Self::find(db, pk)?.ok_or(Error::NotFound { model: Self::NAME, id: pk })
    }

    /// Loads several by primary key, those that are there. What is being made here depends on each of them, or on every
    /// write of the table if they are many.
    ///
    /// # Errors
    /// What the database says.
    fn find_many(db: &mut Db, pks: impl IntoIterator<Item = i64>) -> Result<BTreeMap<i64, Self>> {
        let pks: BTreeSet<i64> = pks.into_iter().collect();
        if pks.len() <= MAX_ROW_TAGS {
            depends_on(pks.iter().map(|pk| row_tag(Self::TABLE, *pk)).chain([unknown_rows_tag(Self::TABLE)]));
        } else {
            depends_on_table::<Self>();
        }
        let pks: Vec<i64> = pks.into_iter().collect();
        let mut found = BTreeMap::new();
        for pks in pks.chunks(BATCH) {
            found.extend(Self::select_rows(pks, db.conn())?.into_iter().map(|row| (row.pk(), row)));
        }
        Ok(found)
    }

    /// Loads those that a query chooses. What is being made here depends on every write of the table.
    ///
    /// # Errors
    /// What the database says.
    ///
    /// # Examples
    /// ```
    /// use diesel::prelude::*;
    /// use larder_models::{Database, Model, Object, Signals, schema::object};
    ///
    /// let database = Database::open("sqlite::memory:", Signals::new())?;
    /// database.migrate()?;
    /// let newest = |rows: <Object as Model>::Rows| rows.order(object::created.desc()).limit(3);
    /// assert!(database.read(|db| Object::list(db, newest))?.is_empty());
    /// # Ok::<(), larder_models::Error>(())
    /// ```
    fn list(db: &mut Db, choose: impl FnOnce(Self::Rows) -> Self::Rows) -> Result<Vec<Self>> {
        depends_on_table::<Self>();
        Ok(Self::load_rows(choose(Self::rows()), db.conn())?)
    }

    /// Loads those that a query chooses, all of which are in this list of [`Model::scopes`]. What is being made here depends
    /// on writes of rows that are in it.
    ///
    /// # Errors
    /// What the database says.
    fn list_in(db: &mut Db, scope: &str, choose: impl FnOnce(Self::Rows) -> Self::Rows) -> Result<Vec<Self>> {
        depends_on_list::<Self>(scope);
        Ok(Self::load_rows(choose(Self::rows()), db.conn())?)
    }

    /// Loads one page of what a query chooses, in an order; otherwise as [`Model::list`].
    ///
    /// # Errors
    /// What the database says.
    fn page(
        db: &mut Db,
        page: u32,
        per_page: u32,
        choose: impl Fn(Self::Rows) -> Self::Rows,
        order: impl FnOnce(Self::Rows) -> Self::Rows,
    ) -> Result<Page<Self>> {
        // In one transaction, so that the count and the items agree.
        db.transaction(|db| {
            let total = Self::count_where(db, &choose)?;
            let cut = page::cut(total, page, per_page);
            let items = Self::list(db, |rows| Self::cut_rows(order(choose(rows)), cut.limit, cut.offset))?;
            Ok(Page { items, total, page: cut.page, pages: cut.pages })
        })
    }

    /// Counts all of them. What is being made here depends on every write of the table.
    ///
    /// # Errors
    /// What the database says.
    fn count(db: &mut Db) -> Result<i64> {
        Self::count_where(db, |rows| rows)
    }

    /// Counts those that a query chooses; otherwise as [`Model::list`].
    ///
    /// # Errors
    /// What the database says.
    fn count_where(db: &mut Db, choose: impl FnOnce(Self::Rows) -> Self::Rows) -> Result<i64> {
        depends_on_table::<Self>();
        Ok(Self::count_rows(choose(Self::rows()), db.conn())?)
    }

    /// Counts those that a query chooses; otherwise as [`Model::list_in`].
    ///
    /// # Errors
    /// What the database says.
    fn count_in(db: &mut Db, scope: &str, choose: impl FnOnce(Self::Rows) -> Self::Rows) -> Result<i64> {
        depends_on_list::<Self>(scope);
        Ok(Self::count_rows(choose(Self::rows()), db.conn())?)
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
            signals.prepare(db, &mut event)?;
            let mut object = event.object;
            object.validate()?;
            let pk = db.quietly(|conn| object.insert_row(conn))?;
            object.set_pk(pk);

            let changed = Change::between(&[], &object.fields());
            let saved = Saved { object: object.clone(), created: true, changed };
            db.queue_rows(Self::TABLE, saved.cause(), of_row(pk, None, Some(&object)));
            announce(db, saved)?;
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
            let old = Self::stored(db, self.pk(), Lock::Change)?;
            let mut event = Saving { object: self.clone(), created: false };
            db.signals().clone().prepare(db, &mut event)?;
            let mut object = event.object;
            object.set_pk(self.pk());
            object.validate()?;
            object.stamp(db.now());
            if db.quietly(|conn| object.update_row(self, conn))? == 0 {
                return Err(Error::Conflict { model: Self::NAME, id: self.pk() });
            }

            let changed = Change::between(&old.fields(), &object.fields());
            let saved = Saved { object: object.clone(), created: false, changed: changed.clone() };
            db.queue_rows(Self::TABLE, saved.cause(), of_row(object.pk(), Some(&old), Some(&object)));
            announce(db, saved)?;
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
            let object = Self::stored(db, self.pk(), Lock::Delete)?;
            let event = Deleting { object };
            db.signals().clone().ask(db, &event)?;
            let Deleting { object } = event;
            object.before_delete(db)?;
            if db.quietly(|conn| Self::delete_rows(&[self.pk()], conn))? == 0 {
                return Err(Error::NotFound { model: Self::NAME, id: self.pk() });
            }

            let deleted = Deleted { object };
            db.queue_rows(Self::TABLE, deleted.cause(), of_row(self.pk(), Some(&deleted.object), None));
            announce(db, deleted)
        })
    }

    /// Stores several new ones and returns them with their primary keys. They are validated; of the signals they send
    /// [`bulk_changed`](crate::Signals::bulk_changed) only.
    ///
    /// # Errors
    /// As [`Model::insert`]. Then none is stored.
    ///
    /// # Examples
    /// ```
    /// use larder_models::{Category, Database, Model, NewCategory, Signals};
    ///
    /// let database = Database::open("sqlite::memory:", Signals::new())?;
    /// database.migrate()?;
    /// let new = ["Crocks", "Pans"].map(|name| NewCategory { name: name.into() });
    /// let stored = database.write(|db| Category::bulk_insert(db, new))?;
    /// assert_eq!(stored[1].name, "Pans");
    /// # Ok::<(), larder_models::Error>(())
    /// ```
    fn bulk_insert(db: &mut Db, new: impl IntoIterator<Item = Self::New>) -> Result<Vec<Self>> {
        require_writable::<Self>(db)?;
        db.transaction(|db| {
            let now = db.now();
            let mut stored: Vec<Self> = new.into_iter().map(|new| Self::draft(new, now)).collect();
            stored.iter().try_for_each(Self::validate)?;
            for rows in stored.chunks_mut(BATCH) {
                let pks = db.quietly(|conn| Self::insert_rows(rows, conn))?;
                rows.iter_mut().zip(pks).for_each(|(row, pk)| row.set_pk(pk));
            }
            bulk_changed::<Self>(db, Action::Added, &[], &stored)?;
            Ok(stored)
        })
    }

    /// Stores all columns of several that were loaded before; otherwise as [`Model::bulk_insert`].
    ///
    /// # Errors
    /// As [`Model::save`]. Then none is stored.
    fn bulk_update(db: &mut Db, objects: &mut [Self]) -> Result<()> {
        require_writable::<Self>(db)?;
        let new = db.transaction(|db| {
            // In the same order everywhere, so that nobody waits for somebody who waits for him.
            let pks: Vec<i64> = objects.iter().map(Self::pk).collect::<BTreeSet<_>>().into_iter().collect();
            let mut old = Vec::new();
            for pks in pks.chunks(BATCH) {
                old.extend(Self::lock_rows(pks, Lock::Change, db.conn())?);
            }
            let there: BTreeSet<i64> = old.iter().map(Self::pk).collect();
            let now = db.now();
            let mut new = objects.to_vec();
            for (new, seen) in new.iter_mut().zip(&*objects) {
                let id = seen.pk();
                if !there.contains(&id) {
                    return Err(Error::NotFound { model: Self::NAME, id });
                }
                new.validate()?;
                new.stamp(now);
                if db.quietly(|conn| new.update_row(seen, conn))? == 0 {
                    return Err(Error::Conflict { model: Self::NAME, id });
                }
            }
            bulk_changed::<Self>(db, Action::Changed, &old, &new)?;
            Ok(new)
        })?;
        objects.clone_from_slice(&new);
        Ok(())
    }

    /// Changes those that a query chooses by a statement of your own, which gets their primary keys, a thousand at most at a
    /// time; returns the sum of what it returns. Nothing is validated, and the row version is yours to count up; otherwise as
    /// [`Model::bulk_insert`].
    ///
    /// # Errors
    /// [`Error::Refused`], and what the database says.
    ///
    /// # Examples
    /// ```
    /// use diesel::prelude::*;
    /// use larder_models::{Database, Model, Object, Signals, sample, schema::object};
    ///
    /// let database = Database::open("sqlite::memory:", Signals::new())?;
    /// database.migrate()?;
    /// database.write(sample::load)?;
    /// let hidden = |rows: <Object as Model>::Rows| rows.filter(object::published.eq(false));
    /// let shown = database.write(|db| {
    ///     Object::update_where(db, hidden, |pks, conn| {
    ///         let row = object::table.filter(object::id.eq_any(pks));
    ///         let more = object::version.eq(object::version + 1);
    ///         diesel::update(row).set((object::published.eq(true), more)).execute(conn)
    ///     })
    /// })?;
    /// assert!(shown > 0);
    /// assert_eq!(database.read(|db| Object::count_where(db, hidden))?, 0);
    /// # Ok::<(), larder_models::Error>(())
    /// ```
    fn update_where(
        db: &mut Db,
        choose: impl Fn(Self::Rows) -> Self::Rows,
        mut statement: impl FnMut(&[i64], &mut Connection) -> QueryResult<usize>,
    ) -> Result<usize> {
        require_writable::<Self>(db)?;
        db.transaction(|db| {
            let pks = Self::select_pks(choose(Self::rows()), db.conn())?;
            let mut count = 0;
            for pks in pks.chunks(BATCH) {
                let old = still_chosen::<Self>(db, &choose, pks, Lock::Change)?;
                let pks: Vec<i64> = old.iter().map(Self::pk).collect();
                count += db.writing(Self::TABLE, |conn| statement(&pks, conn))?;
                let new = Self::select_rows(&pks, db.conn())?;
                bulk_changed::<Self>(db, Action::Changed, &old, &new)?;
            }
            Ok(count)
        })
    }

    /// Deletes those that a query chooses, whatever their version, and returns how many those were; otherwise as
    /// [`Model::bulk_insert`].
    ///
    /// # Errors
    /// [`Error::Refused`], and what the database says. Then none is deleted.
    fn delete_where(db: &mut Db, choose: impl Fn(Self::Rows) -> Self::Rows) -> Result<usize> {
        require_writable::<Self>(db)?;
        db.transaction(|db| {
            let pks = Self::select_pks(choose(Self::rows()), db.conn())?;
            let mut count = 0;
            for pks in pks.chunks(BATCH) {
                let old = still_chosen::<Self>(db, &choose, pks, Lock::Delete)?;
                count += delete_locked(db, &old)?;
            }
            Ok(count)
        })
    }

    /// Deletes several, those that are there; otherwise as [`Model::delete_where`].
    ///
    /// # Errors
    /// As [`Model::delete_where`].
    fn bulk_delete(db: &mut Db, pks: &[i64]) -> Result<usize> {
        require_writable::<Self>(db)?;
        db.transaction(|db| {
            let mut count = 0;
            for pks in pks.chunks(BATCH) {
                let old = Self::lock_rows(pks, Lock::Delete, db.conn())?;
                count += delete_locked(db, &old)?;
            }
            Ok(count)
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

    /// Loads one that is about to be written: nothing depends on what it was.
    #[doc(hidden)]
    fn stored(db: &mut Db, pk: i64, lock: Lock) -> Result<Self> {
        Self::lock_rows(&[pk], lock, db.conn())?.pop().ok_or(Error::NotFound { model: Self::NAME, id: pk })
    }
}

/// Locks rows that a query has chosen and returns those that it still chooses: others may have been faster.
fn still_chosen<M: Model>(db: &mut Db, choose: impl Fn(M::Rows) -> M::Rows, pks: &[i64], lock: Lock) -> Result<Vec<M>> {
    let mut rows = M::lock_rows(pks, lock, db.conn())?;
    // SQLite has one writer at a time.
    if matches!(db.conn(), Connection::Postgres(_)) {
        let still: BTreeSet<i64> = M::select_pks(M::among(choose(M::rows()), pks), db.conn())?.into_iter().collect();
        rows.retain(|row| still.contains(&row.pk()));
    }
    Ok(rows)
}

/// Deletes rows that were locked, and returns how many those were.
fn delete_locked<M: Model>(db: &mut Db, rows: &[M]) -> Result<usize> {
    for row in rows {
        row.before_delete(db)?;
    }
    let pks: Vec<i64> = rows.iter().map(M::pk).collect();
    let count = db.quietly(|conn| M::delete_rows(&pks, conn))?;
    bulk_changed::<M>(db, Action::Deleted, rows, &[])?;
    Ok(count)
}

/// Asks the receivers of an event and has the others told after the commit.
pub(crate) fn announce<E: Event>(db: &mut Db, event: E) -> Result<()> {
    let signals = db.signals().clone();
    signals.ask(db, &event)?;
    db.queue_on_commit(event.cause(), move || signals.tell(&event));
    Ok(())
}

/// Says what becomes stale of several rows, and announces them.
pub(crate) fn bulk_changed<M: Model>(db: &mut Db, action: Action, old: &[M], new: &[M]) -> Result<()> {
    let pks: BTreeSet<i64> = old.iter().chain(new).map(M::pk).collect();
    if pks.is_empty() {
        return Ok(());
    }
    let event = BulkChanged { action, pks: pks.into_iter().collect(), model: PhantomData::<M> };
    let cause = event.cause();
    for old in old {
        db.queue_rows(M::TABLE, cause.clone(), of_row(old.pk(), Some(old), None));
    }
    for new in new {
        db.queue_rows(M::TABLE, cause.clone(), of_row(new.pk(), None, Some(new)));
    }
    announce(db, event)
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
