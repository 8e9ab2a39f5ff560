//! What a write makes stale, by name: tags and keys of the caches.
//!
//! Models name their tags by themselves, and reads through the models note them for whatever is being made
//! ([`larder_cache::dependencies`]). For a table `object`:
//!
//! | tag | carried by | invalidated by |
//! | --- | --- | --- |
//! | `object:7` | what shows row 7 | a write of row 7 |
//! | `object` | what shows a list | every write |
//! | `object/published` | what shows the list `published` | a write of a row that is in it, before or after |
//! | `object:*` | what shows a row or a named list | a write that does not say which rows it changes |
//!
//! Queue more with [`Db::invalidate_tags`](crate::Db::invalidate_tags) and
//! [`Db::invalidate_keys`](crate::Db::invalidate_keys), in a `pre_save` receiver for instance. All of it is delivered once,
//! after the outermost commit, and dropped with what is rolled back.

use std::collections::BTreeSet;

use larder_cache::{Cache, Caches, dependencies::depends_on};
use serde::{Deserialize, Serialize};

use crate::model::Model;

/// How many rows of one table something depends on by name, at most; more of them are all rows.
pub(crate) const MAX_ROW_TAGS: usize = 64;

/// How many rows and lists of one table a transaction invalidates by name, at most; more of them are all rows.
pub(crate) const MAX_STALE_TAGS: usize = 1_000;

/// What one transaction makes stale.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invalidation {
    /// What did it, for the log: `post_save Object#7`.
    pub cause: String,
    /// The tags of entries that are stale.
    pub tags: BTreeSet<String>,
    /// The keys of values that are stale.
    pub keys: BTreeSet<String>,
}

/// Says that what is being made here depends on a row, for a query of your own. Call it before reading.
///
/// # Examples
/// ```
/// use diesel::prelude::*;
/// use larder_models::{Db, Object, Result, invalidation::depends_on_row, schema::object};
///
/// fn title(db: &mut Db, id: i64) -> Result<String> {
///     depends_on_row::<Object>(id);
///     Ok(object::table.find(id).select(object::title).first(db.conn())?)
/// }
/// ```
pub fn depends_on_row<M: Model>(pk: i64) {
    depends_on([row_tag(M::TABLE, pk), unknown_rows_tag(M::TABLE)]);
}

/// Says that what is being made here depends on a list of [`Model::scopes`]; otherwise as [`depends_on_row`].
pub fn depends_on_list<M: Model>(scope: &str) {
    depends_on([scope_tag(M::TABLE, scope), unknown_rows_tag(M::TABLE)]);
}

/// Says that what is being made here depends on every write of a table; otherwise as [`depends_on_row`].
pub fn depends_on_table<M: Model>() {
    depends_on([table_tag(M::TABLE)]);
}

impl Invalidation {
    /// Tells whether nothing is stale.
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty() && self.keys.is_empty()
    }

    /// Makes it stale in every cache.
    ///
    /// Tries everything even if something fails: what failed is kept by the cache and delivered when its store answers.
    ///
    /// # Errors
    /// The last failure.
    pub fn deliver(&self, caches: &Caches) -> larder_cache::Result<()> {
        self.deliver_to(caches.iter().map(|(_, _, cache)| cache))
    }

    /// Does so in some.
    pub(crate) fn deliver_to<'c>(&self, caches: impl Iterator<Item = &'c Cache>) -> larder_cache::Result<()> {
        let mut result = Ok(());
        for cache in caches {
            let cache = cache.blocking().because(&*self.cause);
            if !self.keys.is_empty() {
                result = cache.delete_many(&self.keys).map(drop).and(result);
            }
            if !self.tags.is_empty() {
                result = cache.invalidate_tags(self.tags.iter().cloned()).and(result);
            }
        }
        result
    }
}

/// Returns the tag of what shows a list of a table. Names of tables are folded to lower case, as databases do.
pub fn table_tag(table: &str) -> String {
    table.to_lowercase()
}

/// Returns the tag of what shows this row. Writes that do not say which rows they change invalidate `object:*`, so
/// [`depends_on_row`] names that too.
pub fn row_tag(table: &str, pk: i64) -> String {
    format!("{}:{pk}", table_tag(table))
}

/// Returns the tag of what shows this list; otherwise as [`row_tag`].
pub fn scope_tag(table: &str, scope: &str) -> String {
    format!("{}/{scope}", table_tag(table))
}

/// Returns the tag of what a write makes stale that does not say which rows it changes.
pub(crate) fn unknown_rows_tag(table: &str) -> String {
    format!("{}:*", table_tag(table))
}

/// Returns what is stale when one row was `old` and is `new`.
pub(crate) fn of_row<M: Model>(pk: i64, old: Option<&M>, new: Option<&M>) -> BTreeSet<String> {
    let scopes = [old, new].into_iter().flatten().flat_map(M::scopes);
    let scopes = scopes.map(|scope| scope_tag(M::TABLE, &scope));
    [row_tag(M::TABLE, pk), table_tag(M::TABLE)].into_iter().chain(scopes).collect()
}

/// Returns what is stale when any rows of a table may have changed.
pub(crate) fn of_table(table: &str) -> [String; 2] {
    [table_tag(table), unknown_rows_tag(table)]
}
