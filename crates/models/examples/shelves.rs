//! Tables of one's own: shelves in rooms, and jars on them. `cargo run -p larder-models --example shelves`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]
#![expect(missing_docs, reason = "the table! macro has no place for the docs of what it generates")]

use diesel::{connection::SimpleConnection, prelude::*};
use larder_cache::{BlockingCache, Caches, LoadError};
use larder_models::{Connection, Database, Db, Error, Model, Signals};

diesel::table! {
    shelf (id) {
        id -> BigInt,
        name -> Text,
        version -> BigInt,
    }
}

diesel::table! {
    jar (id) {
        id -> BigInt,
        shelf_id -> BigInt,
        content -> Text,
    }
}

/// A shelf. Whoever saves it after somebody else did is told.
#[derive(Debug, Clone, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = shelf)]
struct Shelf {
    #[diesel(skip_insertion)]
    id: i64,
    name: String,
    version: i64,
}

impl Model for Shelf {
    larder_models::row!(Shelf in shelf, fields = [name], version = version);
    type New = String;

    fn draft(name: String, _now: jiff::Timestamp) -> Self {
        Shelf { id: 0, name, version: 1 }
    }

    fn stamp(&mut self, _now: jiff::Timestamp) {
        self.version += 1;
    }

    /// The database would delete the jars by itself, and nobody would know.
    fn before_delete(&self, db: &mut Db) -> Result<(), Error> {
        Jar::delete_where(db, |rows| rows.filter(jar::shelf_id.eq(self.id))).map(drop)
    }
}

/// A jar. The last one to save it wins.
#[derive(Debug, Clone, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = jar)]
struct Jar {
    #[diesel(skip_insertion)]
    id: i64,
    shelf_id: i64,
    content: String,
}

impl Jar {
    fn on(db: &mut Db, shelf: i64) -> Result<Vec<Jar>, Error> {
        Jar::list_in(db, &on(shelf), |rows| rows.filter(jar::shelf_id.eq(shelf)).order(jar::id))
    }
}

impl Model for Jar {
    larder_models::row!(Jar in jar, fields = [shelf_id, content]);
    type New = (i64, &'static str);

    fn draft((shelf_id, content): (i64, &'static str), _now: jiff::Timestamp) -> Self {
        Jar { id: 0, shelf_id, content: content.to_owned() }
    }

    fn scopes(&self) -> Vec<String> {
        vec![on(self.shelf_id)]
    }
}

/// Names the list of what stands on a shelf.
fn on(shelf: i64) -> String {
    format!("shelf_id={shelf}")
}

fn create_tables(conn: &mut Connection) -> QueryResult<()> {
    conn.batch_execute(
        "CREATE TABLE shelf (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, version BIGINT NOT NULL);
         CREATE TABLE jar (
             id INTEGER PRIMARY KEY AUTOINCREMENT,
             shelf_id BIGINT NOT NULL REFERENCES shelf (id) ON DELETE CASCADE,
             content TEXT NOT NULL
         );",
    )
}

/// Describes a shelf, from the cache if nothing of what it says has changed.
fn describe(cache: &BlockingCache, database: &Database, id: i64) -> Result<String, LoadError<Error>> {
    cache.get_or_set(format!("shelf {id}"), 3600, || {
        println!("  (reads shelf {id})");
        database.read(|db| {
            let Some(shelf) = Shelf::find(db, id)? else { return Ok("no shelf".to_owned()) };
            let jars = Jar::on(db, id)?.into_iter().map(|jar| jar.content).collect::<Vec<_>>();
            Ok(format!("{}: {}", shelf.name, jars.join(", ")))
        })
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let caches = Caches::local();
    let database = Database::open("sqlite::memory:", Signals::new())?.with_caches(&caches);
    database.write(|db| Ok(create_tables(db.conn())?))?;
    let (mut top, left) =
        database.write(|db| Ok((Shelf::insert(db, "Top".into())?, Shelf::insert(db, "Left".into())?)))?;
    let mut jar = database.write(|db| {
        Jar::bulk_insert(db, [(top.id, "plums"), (left.id, "beans")])?;
        Jar::insert(db, (top.id, "quinces"))
    })?;

    let cache = caches.default_cache().blocking();
    let ids = [top.id, left.id];
    let show = || -> Result<(), LoadError<Error>> {
        for id in ids {
            println!("{}", describe(&cache, &database, id)?);
        }
        Ok(())
    };
    show()?;
    println!("Again, from the cache:");
    show()?;
    println!("The shelf is renamed; the other one stays:");
    top.name = "Top right".to_owned();
    database.write(|db| top.save(db))?;
    show()?;
    println!("A jar moves; both are read:");
    jar.shelf_id = left.id;
    database.write(|db| jar.save(db))?;
    show()?;
    println!("A shelf goes with its jars:");
    database.write(|db| left.delete(db))?;
    show()?;
    Ok(())
}
