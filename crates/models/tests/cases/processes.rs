//! Several processes on one database: what each hears, however it was written and whatever happens meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use diesel::{connection::SimpleConnection, prelude::*};
use larder_cache::{Caches, conformance::server::MemcachedServer, settings::AliasSettings};
use larder_models::{
    Category, Database, Db, Label, Link, Model, NewCategory, NewLabel, NewObject, Object, ObjectLabel, Signals, Watch,
    invalidation::{depends_on_row, row_tag},
    schema::{category, label, object},
};

use super::{
    insert,
    invalidation::{default, own_memory, wait_until},
};

/// A second process on the same database, with caches in its own memory.
fn another(url: &str) -> (Database, Caches) {
    let caches = own_memory();
    (Database::open(url, Signals::new()).unwrap().with_caches(&caches), caches)
}

#[test]
fn what_is_invalidated_outside_of_a_transaction_is_heard_too() {
    let (url, _guard) = crate::new_url();
    let writer = Database::open(&url, Signals::new()).unwrap().with_caches(&own_memory()).watch(Watch::new());
    writer.migrate().unwrap();
    let pan = writer.write(|db| insert(db, "Pan")).unwrap();
    let (reader, caches) = another(&url);
    let cache = default(&caches);
    let title = || cache.get_or_set("title", 600, || reader.read(|db| Ok(Object::get(db, pan.id)?.title))).unwrap();
    let gone = |write: &dyn Fn()| {
        title();
        cache.clone().tags(["menu"]).set("menu", &1, 600).unwrap();
        write();
        let start = Instant::now();
        wait_until(|| !cache.has_key("title").unwrap() || !cache.has_key("menu").unwrap());
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    };
    let raw = |db: &mut Db| Ok(db.conn().batch_execute("UPDATE object SET title = 'Jar'")?);
    gone(&|| writer.autocommit(raw).unwrap());
    assert_eq!(title(), "Jar");
    let menu = |db: &mut Db| {
        db.invalidate_tags(["menu"]);
        Ok(())
    };
    gone(&|| writer.autocommit(menu).unwrap());
    gone(&|| writer.read(menu).unwrap());
    gone(&|| writer.read(|db| db.transaction(menu)).unwrap());
}

#[test]
fn others_who_write_do_not_keep_a_process_from_hearing() {
    let (url, _guard) = crate::new_url();
    let busy = Database::open(&url, Signals::new()).unwrap().with_caches(&own_memory());
    busy.migrate().unwrap();
    let mut number = busy.write(|db| Label::insert(db, NewLabel { name: "0".into() })).unwrap();
    let (reader, caches) = another(&url);
    let cache = default(&caches);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // It has rows to mark all the time.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let new = NewCategory { name: format!("{:?}", Instant::now()) };
                let _others_are_busy = reader.write(|db| Category::insert(db, new));
                thread::sleep(Duration::from_millis(100));
            }
        });
        let id = number.id;
        let shown = || {
            let read = || reader.read(|db| Ok(Label::get(db, id)?.name));
            cache.get_or_set("number", 600, read).unwrap().parse::<u64>().unwrap()
        };
        let mut slowest = Duration::ZERO;
        for count in 1..=60_u64 {
            shown();
            number.name = count.to_string();
            busy.write(|db| {
                number.save(db)?;
                thread::sleep(Duration::from_millis(30));
                Ok(())
            })
            .unwrap();
            let saved = Instant::now();
            while shown() < count {
                assert!(saved.elapsed() < Duration::from_secs(3), "{count} is not heard");
            }
            slowest = slowest.max(saved.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    });
}

#[test]
fn more_than_one_look_finds_is_delivered_before_anything_is_served() {
    let (url, _guard) = crate::new_url();
    let plain = Database::open(&url, Signals::new()).unwrap();
    plain.migrate().unwrap();
    plain
        .write(|db| {
            for number in 0..1_200 {
                db.conn().batch_execute(&format!(
                    "INSERT INTO outbox (origin, invalidation, created, delivered) \
                     VALUES ('dead', '{{\"cause\":\"x\",\"tags\":[\"t{number}\"],\"keys\":[]}}', 0, FALSE)"
                ))?;
            }
            Ok(())
        })
        .unwrap();
    let server = MemcachedServer::start();
    let address = format!("memcached://{}", server.address());
    let shared = AliasSettings::from_address("default", &address).unwrap();
    let caches = Caches::builder().alias("default", shared).build().unwrap();
    let database = Database::open(&url, Signals::new()).unwrap().with_caches(&caches);
    let cache = default(&caches);
    cache.clone().tags(["t1150"]).set("old", &1, 600).unwrap();
    database.deliver_left_behind().unwrap();
    assert!(!cache.has_key("old").unwrap());
    assert_eq!(database.deliver_left_behind().unwrap(), 0);
}

/// A store that processes share, and one in the memory of this process.
fn two_levels(server: &MemcachedServer) -> Caches {
    let shared = AliasSettings::from_address("default", &format!("memcached://{}", server.address())).unwrap();
    let own = own_memory().default_cache().alias().to_owned();
    static MADE: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let own = format!("locmem://{own}-two-{}", MADE.fetch_add(1, Ordering::Relaxed));
    let own = AliasSettings::from_address("own", &own).unwrap();
    Caches::builder().alias("default", shared).alias("own", own).build().unwrap()
}

#[test]
fn what_is_shared_is_not_made_of_memory_that_is_behind() {
    let (url, _guard) = crate::new_url();
    let server = MemcachedServer::start();
    let writer = Database::open(&url, Signals::new()).unwrap().with_caches(&two_levels(&server));
    writer.migrate().unwrap();
    let mut pan = writer.write(|db| insert(db, "0")).unwrap();
    let caches = two_levels(&server);
    let reader = Database::open(&url, Signals::new()).unwrap().with_caches(&caches);
    let (page, inner) = (default(&caches), caches.get("own").unwrap().blocking().clone());
    let id = pan.id;
    let read = || reader.read(|db| Ok(Object::get(db, id)?.title));
    let shown = || page.get_or_set("page", 600, || inner.get_or_set("title", 600, read)).unwrap();
    for count in 1..30 {
        shown();
        pan = Object { title: count.to_string(), ..pan };
        writer.write(|db| pan.save(db)).unwrap();
        // At once: the memory of the reader has not heard of it yet.
        assert_eq!(shown(), count.to_string());
        thread::sleep(Duration::from_millis(150));
        assert_eq!(shown(), count.to_string(), "and what was kept is not old");
    }
}

#[test]
fn rows_that_no_longer_match_are_left_alone() {
    let (url, _guard) = crate::new_url();
    let database = Database::open(&url, Signals::new()).unwrap();
    database.migrate().unwrap();
    let (from, to, moved, draft) = database
        .write(|db| {
            let [from, to] = ["a", "b"].map(|name| NewCategory { name: name.into() });
            let (from, to) = (Category::insert(db, from)?, Category::insert(db, to)?);
            let new =
                |title: &str| NewObject { title: title.into(), category_id: Some(from.id), ..NewObject::default() };
            Ok((from.clone(), to, Object::insert(db, new("moved"))?, Object::insert(db, new("draft"))?))
        })
        .unwrap();
    // Somebody moves one to the other category, and publishes the other one, while the first category is deleted.
    let begun = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            database
                .write(|db| {
                    Object { category_id: Some(to.id), ..moved.clone() }.save(db)?;
                    Object { published: true, ..draft.clone() }.save(db)?;
                    begun.store(true, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(500));
                    Ok(())
                })
                .unwrap();
        });
        wait_until(|| begun.load(Ordering::SeqCst));
        let drafts = |rows: <Object as Model>::Rows| rows.filter(object::published.eq(false));
        let deleted =
            database.write(|db| Object::delete_where(db, |rows| drafts(rows).filter(object::title.eq("draft"))));
        assert_eq!(deleted.unwrap(), 0);
        database.write(|db| from.delete(db)).unwrap();
    });
    let found = |id: i64| database.read(|db| Object::get(db, id)).unwrap();
    assert_eq!(found(moved.id).category_id, Some(to.id));
    assert!(found(draft.id).published);
}

#[test]
fn two_who_link_an_object_and_save_it_do_not_wait_for_each_other() {
    let (url, _guard) = crate::new_url();
    let database = Database::open(&url, Signals::new()).unwrap();
    database.migrate().unwrap();
    let (pan, labels) = database
        .write(|db| {
            let labels = Label::bulk_insert(db, ["a", "b"].map(|name| NewLabel { name: name.into() }))?;
            Ok((insert(db, "Pan")?, labels))
        })
        .unwrap();
    thread::scope(|scope| {
        let link_and_save = |at: usize| {
            let (database, label) = (database.clone(), labels[at].id);
            let set_body = move |pks: &[i64], conn: &mut larder_models::Connection| {
                diesel::update(object::table.filter(object::id.eq_any(pks))).set(object::body.eq("x")).execute(conn)
            };
            move || {
                database.write(|db| {
                    ObjectLabel::add(db, &[(pan.id, label)])?;
                    thread::sleep(Duration::from_millis(200));
                    Object::update_where(db, |rows| rows.filter(object::id.eq(pan.id)), set_body)
                })
            }
        };
        let (one, two) = (scope.spawn(link_and_save(0)), scope.spawn(link_and_save(1)));
        assert_eq!((one.join().unwrap().unwrap(), two.join().unwrap().unwrap()), (1, 1));
    });
}

#[test]
fn what_the_database_writes_along_with_a_model_is_declared() {
    let caches = own_memory();
    let watch = Watch::new().writes_also("category", ["label"]);
    let database = crate::open_alone(Signals::new()).with_caches(&caches).watch(watch);
    database.migrate().unwrap();
    let cache = default(&caches);
    let count = || cache.get_or_set("labels", 600, || database.read(Label::count)).unwrap();
    count();
    database.write(|db| Category::insert(db, NewCategory { name: "Pans".into() })).unwrap();
    assert!(!cache.has_key("labels").unwrap());
    // A statement of the caller's may write more than the rows that it was given.
    count();
    let statement = |_: &[i64], conn: &mut larder_models::Connection| {
        conn.batch_execute("INSERT INTO label (name, version) VALUES ('by the way', 1)")?;
        diesel::update(category::table).set(category::version.eq(category::version + 1)).execute(conn)
    };
    database.write(|db| Category::update_where(db, |rows| rows, statement)).unwrap();
    assert_eq!(count(), 1);
}

#[test]
fn a_statement_that_failed_may_have_written() {
    let caches = own_memory();
    let database = crate::open_alone(Signals::new()).with_caches(&caches).watch(Watch::new());
    database.migrate().unwrap();
    database.write(|db| insert(db, "Pan")).unwrap();
    let cache = default(&caches);
    let titles = |db: &mut Db| Ok(object::table.select(object::title).load::<String>(db.conn())?);
    let shown = || {
        let read = || {
            database.read(|db| {
                larder_models::invalidation::depends_on_table::<Object>();
                titles(db)
            })
        };
        cache.get_or_set("titles", 600, read).unwrap()
    };
    shown();
    let batch = "UPDATE object SET title = 'Jar'; SELECT * FROM nowhere";
    let _failed = database.autocommit(|db| Ok(db.conn().batch_execute(batch)?));
    assert_eq!(shown(), database.read(titles).unwrap());
}

#[test]
fn a_query_of_ones_own_hears_of_writes_that_do_not_name_the_row() {
    let caches = own_memory();
    let database = crate::open_alone(Signals::new()).with_caches(&caches);
    database.migrate().unwrap();
    let new = (0..1_500).map(|number| NewLabel { name: format!("label {number}") });
    let labels = database.write(|db| Label::bulk_insert(db, new)).unwrap();
    let cache = default(&caches);
    let id = labels[7].id;
    let read = || {
        database.read(|db| {
            depends_on_row::<Label>(id);
            Ok(label::table.find(id).select(label::name).first::<String>(db.conn())?)
        })
    };
    assert_eq!(cache.get_or_set("name", 600, read).unwrap(), "label 7");
    assert!(cache.explain("name").unwrap().to_string().contains(&row_tag("label", id)));
    let mut labels = labels;
    labels.iter_mut().for_each(|label| label.name.push('!'));
    database.write(|db| Label::bulk_update(db, &mut labels)).unwrap();
    assert_eq!(cache.get_or_set("name", 600, read).unwrap(), "label 7!");
}

#[test]
fn the_links_of_very_many_rows_are_loaded() {
    let database = super::database();
    assert!(database.read(|db| ObjectLabel::rights_of(db, 1..=40_000)).unwrap().is_empty());
}
