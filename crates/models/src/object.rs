//! The objects of the collection.

use diesel::prelude::*;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    db::{Backend, Connection, Db, lower},
    error::{Invalid, Result},
    model::{Field, Model},
    page::{self, Page},
    schema::object,
    time,
};

/// The most characters a title may have.
const MAX_TITLE_CHARS: usize = 200;

/// The most characters a body may have.
const MAX_BODY_CHARS: usize = 20_000;

/// How much of a search is looked at, in characters. Each word costs two comparisons per row, and SQLite refuses
/// expressions that are nested too deeply.
const MAX_SEARCH_CHARS: usize = 200;

/// An object of the collection.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Queryable, Selectable, Identifiable, Insertable, AsChangeset)]
#[diesel(table_name = object)]
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
}

/// Which objects to list. The default is all of them, newest first, the first page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectQuery {
    /// Words that must all occur in the title or the body, in whatever case. Empty finds all.
    pub search: String,
    /// If given, only objects with this value.
    pub published: Option<bool>,
    /// A column out of `id`, `title`, `published`, `created`, `updated`, with a `-` in front for the last one first.
    /// Anything else means `-id`.
    pub order: String,
    /// Which page, from 1.
    pub page: u32,
    /// How many to a page: 20 for 0, and 200 at most.
    pub per_page: u32,
}

impl Object {
    /// Loads what visitors see, newest first.
    ///
    /// # Errors
    /// What the database says.
    pub fn published(db: &mut Db) -> Result<Vec<Object>> {
        let newest = (object::created.desc(), object::id.desc());
        let query = object::table.filter(object::published.eq(true)).order(newest).select(Object::as_select());
        Ok(query.load(db.conn())?)
    }

    /// Counts all objects.
    ///
    /// # Errors
    /// What the database says.
    pub fn count(db: &mut Db) -> Result<i64> {
        Ok(object::table.count().get_result(db.conn())?)
    }

    /// Returns the ids of all objects.
    ///
    /// # Errors
    /// What the database says.
    pub fn ids(db: &mut Db) -> Result<Vec<i64>> {
        Ok(object::table.select(object::id).load(db.conn())?)
    }

    /// Loads one page of a list.
    ///
    /// # Errors
    /// What the database says.
    pub fn page(db: &mut Db, query: &ObjectQuery) -> Result<Page<Object>> {
        // In one transaction, so that the count and the items agree.
        db.transaction(|db| {
            let total = matching(query).count().get_result(db.conn())?;
            let cut = page::cut(total, query.page, query.per_page);
            let rows = ordered(matching(query), &query.order).limit(cut.limit).offset(cut.offset);
            let items = rows.select(Object::as_select()).load(db.conn())?;
            Ok(Page { items, total, page: cut.page, pages: cut.pages })
        })
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

/// Tells whether a character leaves a mark: neither a blank nor one of those that only steer how others are set
/// (Unicode, general category Cf, as far as keyboards have them).
fn is_visible(c: char) -> bool {
    let only_steers = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !(c.is_whitespace() || c.is_control() || only_steers)
}

impl Model for Object {
    const NAME: &'static str = "Object";
    const TABLE: &'static str = "object";
    type New = NewObject;

    fn pk(&self) -> i64 {
        self.id
    }

    fn set_pk(&mut self, pk: i64) {
        self.id = pk;
    }

    fn draft(new: NewObject, now: Timestamp) -> Self {
        let now = now.as_millisecond();
        let NewObject { title, body, published } = new;
        Object { id: 0, title, body, published, created: now, updated: now, version: 1 }
    }

    fn fields(&self) -> Vec<Field> {
        vec![
            Field::new("title", self.title.as_str()),
            Field::new("body", self.body.as_str()),
            Field::new("published", self.published),
        ]
    }

    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        if !self.title.chars().any(is_visible) {
            invalid.add("title", "Enter a title.");
        } else if self.title.chars().any(char::is_control) {
            invalid.add("title", "Leave out line breaks and control characters.");
        }
        if self.body.chars().any(|c| c.is_control() && !"\n\t".contains(c)) {
            invalid.add("body", "Leave out control characters.");
        }
        for (field, text, limit) in [("title", &self.title, MAX_TITLE_CHARS), ("body", &self.body, MAX_BODY_CHARS)] {
            let chars = text.chars().count();
            if chars > limit {
                invalid.add(field, format!("Use at most {limit} characters, this has {chars}."));
            }
        }
        invalid.into_result()
    }

    fn label(&self) -> String {
        self.title.clone()
    }

    fn stamp(&mut self, now: Timestamp) {
        self.updated = now.as_millisecond();
        self.version += 1;
    }

    fn select_row(conn: &mut Connection, pk: i64) -> QueryResult<Option<Self>> {
        object::table.find(pk).select(Object::as_select()).first(conn).optional()
    }

    fn insert_row(&self, conn: &mut Connection) -> QueryResult<i64> {
        diesel::insert_into(object::table).values(self).returning(object::id).get_result(conn)
    }

    fn update_row(&self, seen: &Self, conn: &mut Connection) -> QueryResult<usize> {
        let row = object::table.find(self.id).filter(object::version.eq(seen.version));
        diesel::update(row).set(self).execute(conn)
    }

    fn delete_row(&self, conn: &mut Connection) -> QueryResult<usize> {
        diesel::delete(object::table.find(self.id)).execute(conn)
    }
}

type Rows<'a> = object::BoxedQuery<'a, Backend>;

fn matching(query: &ObjectQuery) -> Rows<'static> {
    let mut rows = object::table.into_boxed();
    if let Some(published) = query.published {
        rows = rows.filter(object::published.eq(published));
    }
    let search: String = query.search.chars().take(MAX_SEARCH_CHARS).collect();
    for word in search.split_whitespace() {
        let pattern = contains(word);
        let in_title = lower(object::title).like(pattern.clone()).escape('\\');
        rows = rows.filter(in_title.or(lower(object::body).like(pattern).escape('\\')));
    }
    rows
}

/// Makes the pattern of a word that may be anywhere: its own wildcards stand for themselves.
fn contains(word: &str) -> String {
    let mut pattern = String::from("%");
    for letter in word.to_lowercase().chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}

/// Orders by a column and then, in the same direction, by the id, so that no row is on two pages.
fn ordered<'a>(rows: Rows<'a>, order: &str) -> Rows<'a> {
    let (column, descending) = order.strip_prefix('-').map_or((order, false), |column| (column, true));
    macro_rules! by {
        ($column:expr) => {
            if descending {
                rows.order(($column.desc(), object::id.desc()))
            } else {
                rows.order(($column.asc(), object::id.asc()))
            }
        };
    }
    match column {
        "id" if !descending => rows.order(object::id.asc()),
        "title" => by!(lower(object::title)),
        "published" => by!(object::published),
        "created" => by!(object::created),
        "updated" => by!(object::updated),
        _ => rows.order(object::id.desc()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_in_a_search_stand_for_themselves() {
        assert_eq!(contains("50%_\\Ä"), "%50\\%\\_\\\\ä%");
    }
}
