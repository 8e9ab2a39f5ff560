//! Writes that no model makes.

use diesel::{connection::SimpleConnection, prelude::*, sql_query};
use larder_models::{Database, Db, Error, Model, NewCategory, Object, Result, Signals, Watch, schema::object};

use super::{
    insert,
    invalidation::{default, own_memory},
};

/// A database that is watched, with one object in it, and whether the cached count of objects is still there after a write.
struct Watched {
    database: Database,
    caches: larder_cache::Caches,
}

impl Watched {
    fn new(watch: Watch) -> Self {
        let caches = own_memory();
        let database = crate::open_alone(Signals::new()).with_caches(&caches).watch(watch);
        database.migrate().unwrap();
        database.write(|db| insert(db, "Crock")).unwrap();
        Watched { database, caches }
    }

    fn count(&self) -> i64 {
        default(&self.caches).get_or_set("count", 600, || self.database.read(Object::count)).unwrap()
    }

    fn title(&self) -> String {
        let first = || self.database.read(|db| Ok(Object::get(db, 1)?.title));
        default(&self.caches).get_or_set("title", 600, first).unwrap()
    }

    fn keeps(&self, run: impl FnOnce(&Database)) -> bool {
        self.count();
        self.title();
        run(&self.database);
        let there = |key: &str| default(&self.caches).has_key(key).unwrap();
        assert_eq!(there("count"), there("title"), "both show the table");
        there("count")
    }
}

fn raw(sql: &'static str) -> impl Fn(&mut Db) -> Result<()> {
    move |db| Ok(db.conn().batch_execute(sql)?)
}

#[test]
fn raw_writes_invalidate_what_shows_the_table() {
    let watched = Watched::new(Watch::new());
    let writes = |sql| watched.keeps(|database| database.write(raw(sql)).unwrap());
    assert!(!writes("UPDATE object SET title = 'Jar'"));
    assert!(!writes("INSERT INTO label (name, version) VALUES ('a', 1); DELETE FROM object WHERE id = 99"));
    assert!(writes("INSERT INTO label (name, version) VALUES ('DELETE FROM object', 1)"));
    assert!(writes("SELECT 'UPDATE object SET title = 1' -- DELETE FROM object"));
    assert!(watched.keeps(|database| {
        database.write(|db| larder_models::Category::insert(db, NewCategory { name: "Jars".into() })).unwrap();
    }));
    // Binds are not read as SQL.
    assert!(watched.keeps(|database| {
        let name = "x\n; DELETE FROM object";
        database
            .write(|db| {
                let insert = (larder_models::schema::label::name.eq(name), larder_models::schema::label::version.eq(1));
                Ok(diesel::insert_into(larder_models::schema::label::table).values(insert).execute(db.conn())?)
            })
            .unwrap();
    }));
    assert!(!watched.keeps(|database| {
        let rows = object::table.filter(object::id.eq(1));
        database.write(|db| Ok(diesel::update(rows).set(object::title.eq("Urn")).execute(db.conn())?)).unwrap();
    }));
    assert_eq!(watched.title(), "Urn");
    assert!(!watched.keeps(|database| {
        database.autocommit(|db| Ok(sql_query("UPDATE object SET title = 'Vat'").execute(db.conn())?)).unwrap();
    }));
    assert_eq!(watched.title(), "Vat");
}

#[test]
fn raw_writes_that_did_not_happen_invalidate_nothing() {
    let watched = Watched::new(Watch::new());
    let update = raw("UPDATE object SET title = 'Jar'");
    assert!(watched.keeps(|database| {
        let gave_up = database.write(|db| update(db).and(Err::<(), _>(Error::abort("no"))));
        assert!(gave_up.is_err());
    }));
    assert!(watched.keeps(|database| {
        database
            .write(|db| {
                let lost = db.transaction(|db| update(db).and(Err::<(), _>(Error::abort("only this savepoint"))));
                assert!(lost.is_err());
                Ok(())
            })
            .unwrap();
    }));
    assert!(watched.keeps(|database| {
        let failed = database.write(|db| {
            let failed = db.transaction(|db| Ok(db.conn().batch_execute("UPDATE object SET nothing = 1")?));
            assert!(failed.is_err());
            Ok(())
        });
        failed.unwrap();
    }));
    assert_eq!(watched.title(), "Crock");
}

#[test]
fn the_transaction_itself_does_not_find_what_it_has_written_raw() {
    let watched = Watched::new(Watch::new());
    assert_eq!(watched.title(), "Crock");
    let cache = default(&watched.caches);
    watched
        .database
        .write(|db| {
            raw("UPDATE object SET title = 'Jar'")(db)?;
            assert_eq!(cache.get::<String>("title").unwrap(), None);
            Ok(())
        })
        .unwrap();
    assert_eq!(watched.title(), "Jar");
}

#[test]
fn what_the_database_writes_along_is_declared_and_what_nobody_shows_ignored() {
    let watched = Watched::new(Watch::new().writes_also("category", ["object"]).ignore(["label"]));
    let writes = |sql| watched.keeps(|database| database.write(raw(sql)).unwrap());
    assert!(!writes("DELETE FROM category WHERE id = 5"));
    assert!(writes("DELETE FROM label"));
    let quiet = Watched::new(Watch::new().ignore(["object"]));
    assert!(quiet.keeps(|database| database.write(raw("UPDATE object SET title = 'Jar'")).unwrap()));
}

#[test]
fn without_a_watcher_raw_writes_are_not_seen() {
    let caches = own_memory();
    let database = crate::open_alone(Signals::new()).with_caches(&caches);
    database.migrate().unwrap();
    database.write(|db| insert(db, "Crock")).unwrap();
    let unwatched = Watched { database, caches };
    assert!(unwatched.keeps(|database| database.write(raw("UPDATE object SET title = 'Jar'")).unwrap()));
}
