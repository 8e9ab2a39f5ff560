//! The groups of those who may use the admin, and what their members may do there.

use std::{
    collections::BTreeSet,
    fmt::{self, Display},
};

use diesel::prelude::*;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    db::Db,
    error::{Invalid, Result},
    link::{Link, Side},
    model::Model,
    row,
    schema::{staff_group, user_group},
    text::validate_name,
    user::User,
};

/// What may be done with the rows of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Look at them.
    View,
    /// Make new ones.
    Add,
    /// Change them.
    Change,
    /// Delete them.
    Delete,
}

impl Verb {
    /// All of them.
    pub const ALL: [Verb; 4] = [Verb::View, Verb::Add, Verb::Change, Verb::Delete];

    /// Returns the word that stands in a permission: `view`, `add`, `change`, `delete`.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::View => "view",
            Verb::Add => "add",
            Verb::Change => "change",
            Verb::Delete => "delete",
        }
    }
}

impl Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What somebody may do.
///
/// # Examples
/// ```
/// use larder_models::{Permissions, Verb};
///
/// let some = Permissions::of(["object.change"]);
/// assert!(some.allow("object", Verb::Change) && some.allow("object", Verb::View), "who changes sees");
/// assert!(!some.allow("object", Verb::Delete) && !some.allow("user", Verb::View));
/// assert!(Permissions::all().allow("user", Verb::Delete));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Permissions {
    everything: bool,
    named: BTreeSet<String>,
}

impl Permissions {
    /// Everything.
    pub fn all() -> Self {
        Permissions { everything: true, named: BTreeSet::new() }
    }

    /// Returns those that are named: `object.view`.
    pub fn of<P: Into<String>>(names: impl IntoIterator<Item = P>) -> Self {
        Permissions { everything: false, named: names.into_iter().map(Into::into).collect() }
    }

    /// Tells whether something may be done with the rows of a table. Whoever may change them may look at them.
    pub fn allow(&self, table: &str, verb: Verb) -> bool {
        let is_named = |verb: Verb| self.named.contains(&permission(table, verb));
        self.everything || is_named(verb) || verb == Verb::View && is_named(Verb::Change)
    }
}

/// Returns the name of a permission: `object.change`.
pub fn permission(table: &str, verb: Verb) -> String {
    format!("{table}.{verb}")
}

/// A group of users, with what its members may do.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Queryable, Selectable, Identifiable, Insertable, AsChangeset,
)]
#[diesel(table_name = staff_group)]
pub struct Group {
    /// The primary key.
    #[diesel(skip_insertion)]
    pub id: i64,
    /// What it is called. No two are called the same.
    pub name: String,
    /// What its members may do: `object.view category.change`.
    pub permissions: String,
    /// The row version: 1, and one more with each save.
    pub version: i64,
}

/// What a new [`Group`] is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct NewGroup {
    /// What it is called.
    pub name: String,
    /// What its members may do: `object.view category.change`.
    pub permissions: String,
}

impl Group {
    /// Loads all of them, by name.
    ///
    /// # Errors
    /// What the database says.
    pub fn all(db: &mut Db) -> Result<Vec<Group>> {
        Group::list(db, |rows| rows.order((staff_group::name, staff_group::id)))
    }

    /// Returns what its members may do, a name each.
    pub fn permission_names(&self) -> impl Iterator<Item = &str> {
        self.permissions.split_whitespace()
    }
}

impl User {
    /// Returns what a user may do: everything if he is a superuser, else what his groups may.
    ///
    /// # Errors
    /// What the database says.
    pub fn permissions(&self, db: &mut Db) -> Result<Permissions> {
        if self.is_superuser {
            return Ok(Permissions::all());
        }
        let groups = UserGroup::rights(db, self.id)?;
        Ok(Permissions::of(groups.iter().flat_map(Group::permission_names)))
    }
}

impl Model for Group {
    row!(Group in staff_group, fields = [name, permissions], version = version);
    type New = NewGroup;

    fn draft(new: NewGroup, _now: Timestamp) -> Self {
        Group { id: 0, name: new.name, permissions: new.permissions, version: 1 }
    }

    fn validate(&self) -> Result<(), Invalid> {
        validate_name(&self.name)
    }

    fn stamp(&mut self, _now: Timestamp) {
        self.version += 1;
    }

    fn before_delete(&self, db: &mut Db) -> Result<()> {
        UserGroup::clear(db, Side::Right, self.id)?;
        Ok(())
    }

    fn label(&self) -> String {
        self.name.clone()
    }
}

/// Which users are in which groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserGroup;

impl Link for UserGroup {
    crate::link!(UserGroup in user_group, user_id -> User, group_id -> Group);
}
