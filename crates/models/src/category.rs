//! The categories: each object is in one of them, or in none.

use diesel::prelude::*;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    db::Db,
    error::{Invalid, Result},
    model::Model,
    object::Object,
    row,
    schema::{category, object},
    text::validate_name,
};

/// What objects are: pans, tools.
///
/// When one is deleted, its objects are in none.
///
/// # Examples
/// ```
/// use larder_models::{Category, Database, Error, Model, NewCategory, Signals};
///
/// let database = Database::open("sqlite::memory:", Signals::new())?;
/// database.migrate()?;
/// let new = || NewCategory { name: "Pans".into() };
/// database.write(|db| Category::insert(db, new()))?;
/// let again = database.write(|db| Category::insert(db, new()));
/// assert!(matches!(again, Err(Error::Unique { field, .. }) if field.as_deref() == Some("name")));
/// # Ok::<(), Error>(())
/// ```
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Queryable, Selectable, Identifiable, Insertable, AsChangeset,
)]
#[diesel(table_name = category)]
pub struct Category {
    /// The primary key.
    #[diesel(skip_insertion)]
    pub id: i64,
    /// What it is called. No two are called the same.
    pub name: String,
    /// The row version: 1, and one more with each save.
    pub version: i64,
}

/// What a new [`Category`] is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct NewCategory {
    /// What it is called.
    pub name: String,
}

impl Category {
    /// Loads all of them, by name.
    ///
    /// # Errors
    /// What the database says.
    pub fn all(db: &mut Db) -> Result<Vec<Category>> {
        Category::list(db, |rows| rows.order((category::name, category::id)))
    }
}

impl Model for Category {
    row!(Category in category, fields = [name], version = version);
    type New = NewCategory;

    fn draft(new: NewCategory, _now: Timestamp) -> Self {
        Category { id: 0, name: new.name, version: 1 }
    }

    fn validate(&self) -> Result<(), Invalid> {
        validate_name(&self.name)
    }

    fn stamp(&mut self, _now: Timestamp) {
        self.version += 1;
    }

    fn before_delete(&self, db: &mut Db) -> Result<()> {
        let in_it = |rows: <Object as Model>::Rows| rows.filter(object::category_id.eq(self.id));
        Object::update_where(db, in_it, |pks, conn| {
            let none = (object::category_id.eq(None::<i64>), object::version.eq(object::version + 1));
            diesel::update(object::table.filter(object::id.eq_any(pks))).set(none).execute(conn)
        })?;
        Ok(())
    }

    fn label(&self) -> String {
        self.name.clone()
    }
}
