//! The objects of the collection.

use std::cmp::Reverse;

use diesel::prelude::*;
use jiff::Timestamp;
use larder_cache::dependencies::depends_on;
use serde::{Deserialize, Serialize};

use crate::{
    db::Db,
    error::{Invalid, Result},
    invalidation::table_tag,
    label::ObjectLabel,
    link::{Link, Side},
    model::Model,
    row,
    schema::object,
    text::{validate_length, validate_line},
    time,
};

/// The most characters a title may have.
const MAX_TITLE_CHARS: usize = 200;

/// The most characters a body may have.
const MAX_BODY_CHARS: usize = 20_000;

/// The list of what visitors see.
const PUBLISHED: &str = "published";

/// An object of the collection. Those that are published are in the lists `published` and, say,
/// `published/category_id=3`.
///
/// # Examples
/// ```
/// use larder_models::{Database, Error, Model, NewObject, Object, Signals};
///
/// let database = Database::open("sqlite::memory:", Signals::new())?;
/// database.migrate()?;
/// let mut crock = database.write(|db| Object::insert(db, NewObject { title: "Crock".into(), ..Default::default() }))?;
/// let mut same = crock.clone();
///
/// crock.title = "Salt-glazed crock".into();
/// let changed = database.write(|db| crock.save(db))?;
/// assert_eq!(changed[0].field, "title");
///
/// let late = database.write(|db| same.save(db));
/// assert!(matches!(late, Err(Error::Conflict { id, .. }) if id == crock.id));
/// # Ok::<(), Error>(())
/// ```
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Queryable, Selectable, Identifiable, Insertable, AsChangeset,
)]
#[diesel(table_name = object, treat_none_as_null = true)]
pub struct Object {
    /// The primary key.
    #[diesel(skip_insertion)]
    pub id: i64,
    /// What it is called.
    pub title: String,
    /// What there is to say about it: paragraphs with an empty line between them.
    pub body: String,
    /// Whether visitors see it.
    pub published: bool,
    /// What it is, if that is known.
    pub category_id: Option<i64>,
    /// When it was added, in milliseconds since 1970.
    pub created: i64,
    /// When it was last saved, in milliseconds since 1970.
    pub updated: i64,
    /// The row version: 1, and one more with each save.
    pub version: i64,
}

/// What a new [`Object`] is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct NewObject {
    /// What it is called.
    pub title: String,
    /// What there is to say about it.
    pub body: String,
    /// Whether visitors see it.
    #[serde(default)]
    pub published: bool,
    /// What it is, if that is known.
    #[serde(default)]
    pub category_id: Option<i64>,
}

impl Object {
    /// Loads what visitors see, newest first.
    ///
    /// # Errors
    /// What the database says.
    pub fn published(db: &mut Db) -> Result<Vec<Object>> {
        let newest = (object::created.desc(), object::id.desc());
        Object::list_in(db, PUBLISHED, |rows| rows.filter(object::published.eq(true)).order(newest))
    }

    /// Loads what visitors see of a category, newest first.
    ///
    /// # Errors
    /// What the database says.
    pub fn published_in(db: &mut Db, category_id: i64) -> Result<Vec<Object>> {
        let newest = (object::created.desc(), object::id.desc());
        Object::list_in(db, &published_in(category_id), |rows| {
            let rows = rows.filter(object::published.eq(true)).filter(object::category_id.eq(category_id));
            rows.order(newest)
        })
    }

    /// Loads what visitors see that has a label, newest first.
    ///
    /// # Errors
    /// What the database says.
    pub fn published_with(db: &mut Db, label_id: i64) -> Result<Vec<Object>> {
        let pks = ObjectLabel::left_pks(db, label_id)?;
        let found = Object::find_many(db, pks)?.into_values();
        let mut shown: Vec<Object> = found.filter(|object| object.published).collect();
        shown.sort_by_key(|object| Reverse((object.created, object.id)));
        Ok(shown)
    }

    /// Returns the ids of all objects.
    ///
    /// # Errors
    /// What the database says.
    pub fn ids(db: &mut Db) -> Result<Vec<i64>> {
        depends_on([table_tag(Object::TABLE)]);
        Ok(object::table.select(object::id).load(db.conn())?)
    }

    /// Returns when it was added.
    pub fn created_at(&self) -> Timestamp {
        time::from_column(self.created)
    }

    /// Returns when it was last saved.
    pub fn updated_at(&self) -> Timestamp {
        time::from_column(self.updated)
    }
}

impl Model for Object {
    row!(Object in object, fields = [title, body, published, category_id], version = version);
    type New = NewObject;

    fn draft(new: NewObject, now: Timestamp) -> Self {
        let now = now.as_millisecond();
        let NewObject { title, body, published, category_id } = new;
        Object { id: 0, title, body, published, category_id, created: now, updated: now, version: 1 }
    }

    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        validate_line(&mut invalid, "title", &self.title, "Enter a title.", MAX_TITLE_CHARS);
        if self.body.chars().any(|c| c.is_control() && !"\n\t".contains(c)) {
            invalid.add("body", "Leave out control characters.");
        }
        validate_length(&mut invalid, "body", &self.body, MAX_BODY_CHARS);
        invalid.into_result()
    }

    fn label(&self) -> String {
        self.title.clone()
    }

    fn stamp(&mut self, now: Timestamp) {
        self.updated = now.as_millisecond();
        self.version += 1;
    }

    fn scopes(&self) -> Vec<String> {
        if !self.published {
            return Vec::new();
        }
        [PUBLISHED.to_owned()].into_iter().chain(self.category_id.map(published_in)).collect()
    }

    fn before_delete(&self, db: &mut Db) -> Result<()> {
        ObjectLabel::clear(db, Side::Left, self.id)?;
        Ok(())
    }
}

/// Returns the list of what visitors see of a category.
fn published_in(category_id: i64) -> String {
    format!("{PUBLISHED}/category_id={category_id}")
}
