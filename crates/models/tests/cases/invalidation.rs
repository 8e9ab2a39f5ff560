//! What a write makes stale, and when: with real caches, and nothing declared by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use diesel::{connection::SimpleConnection, prelude::*};
use larder_cache::conformance::server::MemcachedServer;
use larder_cache::{BlockingCache, Caches, LoadOptions, dependencies::untracked, settings::AliasSettings};
use larder_models::{Database, Error, Model, Object, Result, Signals, invalidation::Invalidation, schema::outbox};

use super::insert;

/// A migrated database whose writes invalidate, and the caches.
pub(super) fn connected() -> (Database, Caches) {
    let caches = own_memory();
    let database = crate::open_alone(Signals::new()).with_caches(&caches);
    database.migrate().unwrap();
    (database, caches)
}

/// Caches that nobody else has.
pub(crate) fn own_memory() -> Caches {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let store = format!("locmem://own-{}", MADE.fetch_add(1, Ordering::Relaxed));
    Caches::builder().alias("default", AliasSettings::from_address("default", &store).unwrap()).build().unwrap()
}

pub(super) fn default(caches: &Caches) -> BlockingCache {
    caches.default_cache().blocking()
}

/// The entries of a small site, each made from what it shows.
struct Site {
    database: Database,
    cache: BlockingCache,
    objects: Vec<Object>,
}

impl Site {
    /// Three objects, of which the last is not published.
    fn new() -> Self {
        let (database, caches) = connected();
        let insert_all = |db: &mut larder_models::Db| {
            let mut objects = ["Crock", "Jam pan", "Skillet"]
                .map(|title| insert(db, title))
                .into_iter()
                .collect::<Result<Vec<_>>>()?;
            objects[2].published = false;
            objects[2].save(db)?;
            Ok(objects)
        };
        let objects = database.write(insert_all).unwrap();
        Site { database, cache: default(&caches), objects }
    }

    const ENTRIES: [&str; 6] = ["row 1", "row 2", "row 3", "published", "count", "home"];

    /// Makes all entries, the last of others.
    fn fill(&self) {
        let row = |number: usize| {
            let id = self.objects[number - 1].id;
            let load = || self.database.read(|db| Ok(Object::find(db, id)?.map(|object| object.title)));
            self.cache.get_or_set(format!("row {number}"), 600, load)
        };
        for number in 1..=3 {
            row(number).unwrap();
        }
        let published = || self.database.read(|db| Ok(Object::published(db)?.len()));
        self.cache.get_or_set("published", 600, published).unwrap();
        self.cache.get_or_set("count", 600, || self.database.read(Object::count)).unwrap();
        let home =
            || Ok::<_, larder_cache::LoadError<Error>>((row(1)?, self.cache.get_or_set("published", 600, published)?));
        self.cache.get_or_set("home", 600, home).unwrap();
    }

    /// Returns which entries a write takes away.
    fn gone<T>(&self, write: impl FnOnce(&mut larder_models::Db) -> Result<T>) -> Vec<&'static str> {
        self.fill();
        assert_eq!(self.missing(), Vec::<&str>::new());
        self.database.write(write).unwrap();
        self.missing()
    }

    fn missing(&self) -> Vec<&'static str> {
        Self::ENTRIES.into_iter().filter(|key| !self.cache.has_key(*key).unwrap()).collect()
    }
}

#[test]
fn each_write_takes_away_what_showed_the_row_and_nothing_else() {
    let site = Site::new();
    let edit = |number: usize, edit: fn(&mut Object)| {
        let mut object = site.objects[number - 1].clone();
        move |db: &mut larder_models::Db| {
            object.refresh(db)?;
            edit(&mut object);
            object.save(db)
        }
    };
    let retitle: fn(&mut Object) = |object| object.title.push('!');
    assert_eq!(site.gone(edit(1, retitle)), ["row 1", "published", "count", "home"]);
    assert_eq!(site.gone(edit(2, retitle)), ["row 2", "published", "count", "home"]);
    assert_eq!(site.gone(edit(3, retitle)), ["row 3", "count"], "nobody sees it in the list");
    assert_eq!(site.gone(edit(3, |object| object.published = true)), ["row 3", "published", "count", "home"]);
    assert_eq!(site.gone(edit(3, |object| object.published = false)), ["row 3", "published", "count", "home"]);
    assert_eq!(site.gone(|db| insert(db, "Mould")), ["published", "count", "home"]);
    let last = site.objects[2].clone();
    assert_eq!(site.gone(move |db| last.delete(db)), ["row 3", "count"]);
    assert_eq!(site.gone(|_| Ok(())), Vec::<&str>::new());
    let raw = |db: &mut larder_models::Db| {
        db.conn().batch_execute("UPDATE object SET title = 'raw'")?;
        db.invalidate_table("object");
        Ok(())
    };
    assert_eq!(site.gone(raw), Site::ENTRIES);
    let by_hand = |db: &mut larder_models::Db| {
        db.invalidate_keys(["count"]);
        db.invalidate_tags(["object:1"]);
        Ok(())
    };
    assert_eq!(site.gone(by_hand), ["row 1", "count", "home"]);
}

#[test]
fn what_is_not_there_yet_is_shown_when_it_is() {
    let (database, caches) = connected();
    let cache = default(&caches);
    let title = |id: i64| {
        let load = || database.read(|db| Ok(Object::find(db, id)?.map(|object| object.title)));
        cache.get_or_set("title", 600, load).unwrap()
    };
    let first = database.write(|db| insert(db, "Crock")).unwrap();
    assert_eq!(title(first.id + 1), None);
    database.write(|db| insert(db, "Jam pan")).unwrap();
    assert_eq!(title(first.id + 1).as_deref(), Some("Jam pan"));
}

#[test]
fn what_is_rolled_back_makes_nothing_stale() {
    let site = Site::new();
    site.fill();
    let failed = site.database.write(|db| {
        insert(db, "Mould")?;
        Err::<(), _>(Error::abort("no"))
    });
    assert!(failed.is_err());
    assert_eq!(site.missing(), Vec::<&str>::new());
    let mut second = site.objects[1].clone();
    let gone = site.gone(|db| {
        let savepoint = db.transaction(|db| {
            site.objects[0].delete(db)?;
            Err::<(), _>(Error::abort("only this savepoint"))
        });
        assert!(savepoint.is_err());
        second.title = "Kept".into();
        second.save(db)
    });
    assert_eq!(gone, ["row 2", "published", "count", "home"], "and not row 1");
}

/// Others see the old value until the commit, and the one who writes sees his own.
#[test]
fn who_writes_sees_what_he_wrote_and_others_do_not() {
    let (database, caches) = connected();
    let cache = default(&caches);
    let mut object = database.write(|db| insert(db, "old")).unwrap();
    let other = database.write(|db| insert(db, "other")).unwrap();
    let read = |db: &mut larder_models::Db, id| Ok::<_, Error>(Object::get(db, id)?.title);
    let title = |key: &'static str, id| cache.get_or_set(key, 600, || database.read(|db| read(db, id))).unwrap();
    assert_eq!((title("title", object.id), title("other", other.id)), ("old".to_owned(), "other".to_owned()));
    database
        .write(|db| {
            object.title = "new".into();
            object.save(db)?;
            let seen = cache.get_or_set("title", 600, || read(db, object.id)).unwrap();
            assert_eq!(seen, "new");
            let fresh = cache.get_or_set("made within", 600, || read(db, object.id)).unwrap();
            assert_eq!(fresh, "new");
            assert_eq!(cache.get::<String>("other").unwrap().as_deref(), Some("other"), "that was not changed");
            thread::scope(|scope| {
                let theirs =
                    scope.spawn(|| (cache.get::<String>("title").unwrap(), cache.has_key("made within").unwrap()));
                assert_eq!(theirs.join().unwrap(), (Some("old".to_owned()), false));
            });
            Err::<(), _>(Error::abort("no"))
        })
        .unwrap_err();
    assert_eq!(cache.get::<String>("title").unwrap().as_deref(), Some("old"));
    assert!(!cache.has_key("made within").unwrap(), "it would show what was rolled back");
}

#[test]
fn a_read_that_is_untracked_ties_nothing() {
    let (database, caches) = connected();
    let cache = default(&caches);
    let mut object = database.write(|db| insert(db, "old")).unwrap();
    let load = || untracked(|| database.read(|db| Ok(Object::get(db, object.id)?.title)));
    cache.get_or_set("title", 600, load).unwrap();
    object.title = "new".into();
    database.write(|db| object.save(db)).unwrap();
    assert_eq!(cache.get::<String>("title").unwrap().as_deref(), Some("old"));
}

#[test]
fn a_transaction_tells_the_caches_once_with_each_name_once() {
    let (database, _) = connected();
    let count = || database.read(|db| Ok(outbox::table.count().get_result::<i64>(db.conn())?)).unwrap();
    let before = count();
    database
        .write(|db| {
            let mut object = insert(db, "a")?;
            for title in ["b", "c"] {
                object.title = title.into();
                object.save(db)?;
            }
            Ok(())
        })
        .unwrap();
    if !crate::HAS_OUTBOX {
        return assert_eq!(count(), 0, "nobody could read it after a crash");
    }
    assert_eq!(count(), before + 1);
    let rows =
        || database.read(|db| Ok(outbox::table.select(outbox::invalidation).load::<String>(db.conn())?)).unwrap();
    let written: Invalidation = serde_json::from_str(rows().last().unwrap()).unwrap();
    assert_eq!(written.cause, "post_save Object#1");
    assert_eq!(written.tags.iter().collect::<Vec<_>>(), ["object", "object/published", "object:1"]);
}

/// The cache of a process hears of what another one commits, though nobody told it.
#[test]
fn another_process_hears_of_it() {
    let (url, _guard) = crate::new_url();
    let [here, there] = [(); 2].map(|()| {
        let caches = own_memory();
        (Database::open(&url, Signals::new()).unwrap().with_caches(&caches), default(&caches))
    });
    here.0.migrate().unwrap();
    let object = here.0.write(|db| insert(db, "0")).unwrap();
    let title = |(database, cache): &(Database, BlockingCache)| {
        let load = || database.read(|db| Ok(Object::get(db, object.id)?.title));
        cache.get_or_set("title", 600, load).unwrap()
    };
    let mut slowest = Duration::ZERO;
    // The thread that listens connects to the database first.
    wait_until(|| here.0.write(|db| insert(db, "ping")).is_ok() && there.0.deliver_left_behind().is_ok());
    thread::sleep(Duration::from_millis(1500));
    for edit in 1..=20 {
        assert_eq!(title(&there), (edit - 1).to_string());
        let mut edited = here.0.read(|db| Object::get(db, object.id)).unwrap();
        edited.title = edit.to_string();
        here.0.write(|db| edited.save(db)).unwrap();
        let saved = Instant::now();
        assert_eq!(title(&here), edit.to_string(), "at once where it was saved");
        wait_until(|| !there.1.has_key("title").unwrap());
        slowest = slowest.max(saved.elapsed());
    }
    eprintln!("heard after {slowest:?} at most");
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

/// What a process has committed and not delivered, the next one delivers, and others do after a while.
#[test]
fn what_was_left_behind_is_delivered() {
    let (url, _guard) = crate::new_url();
    let server = MemcachedServer::start();
    let address = format!("memcached://{}", server.address());
    let shared = AliasSettings::from_address("default", &address).unwrap();
    let caches = Caches::builder().alias("default", shared).build().unwrap();
    let cache = default(&caches);
    let database = Database::open(&url, Signals::new()).unwrap().with_caches(&caches);
    database.migrate().unwrap();
    let leave_behind = |id: &str| {
        let crashed = Database::open(&url, Signals::new()).unwrap();
        let stale =
            Invalidation { cause: "post_save".into(), tags: ["object:7".into()].into(), ..Invalidation::default() };
        let row = (
            outbox::origin.eq(id.to_owned()),
            outbox::invalidation.eq(serde_json::to_string(&stale).unwrap()),
            outbox::created.eq(0),
        );
        crashed.write(|db| Ok(diesel::insert_into(outbox::table).values(row).execute(db.conn())?)).unwrap();
    };
    let set = || cache.clone().tags(["object:7"]).set("title", "old", 600).unwrap();
    set();
    leave_behind("crashed");
    assert_eq!(database.deliver_left_behind().unwrap(), 1);
    assert!(!cache.has_key("title").unwrap());
    assert_eq!(database.deliver_left_behind().unwrap(), 0);

    set();
    leave_behind("crashed while others live on");
    wait_until(|| !cache.has_key("title").unwrap());
    wait_until(|| database.deliver_left_behind().unwrap() == 0);
}

pub(super) fn wait_until(mut is_so: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < limit, "it did not happen in 20 seconds");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Readers never see a value that is older than the last one whose save had returned when they began.
#[test]
fn no_reader_sees_less_than_was_saved_before_he_asked() {
    let (database, caches) = connected();
    let cache = default(&caches);
    let object = database.write(|db| insert(db, "0")).unwrap();
    let saved = Arc::new(AtomicUsize::new(0));
    let end = Instant::now() + Duration::from_secs(2);
    let read = || {
        let load = || database.read(|db| Ok(Object::get(db, object.id)?.title));
        cache.get_or_set("title", 600, load).unwrap().parse::<usize>().unwrap()
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < end {
                let mut edited = database.read(|db| Object::get(db, object.id)).unwrap();
                let next = edited.title.parse::<usize>().unwrap() + 1;
                edited.title = next.to_string();
                database.write(|db| edited.save(db)).unwrap();
                saved.store(next, Ordering::SeqCst);
                thread::sleep(Duration::from_micros(500));
            }
        });
        for _ in 0..4 {
            scope.spawn(|| {
                while Instant::now() < end {
                    let least = saved.load(Ordering::SeqCst);
                    let seen = read();
                    assert!(seen >= least, "saw {seen}, {least} was saved before");
                }
            });
        }
    });
    assert!(saved.load(Ordering::SeqCst) > 20);
}

#[test]
fn who_saved_reads_the_new_value_at_once_though_stale_ones_may_be_served() {
    let (database, caches) = connected();
    let cache = default(&caches).load_options(LoadOptions::new().stale_while_revalidate(600).stale_if_error(600));
    let mut pan = database.write(|db| insert(db, "Pan")).unwrap();
    let id = pan.id;
    let (is_slow, loads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (slow, count, from) = (Arc::clone(&is_slow), Arc::clone(&loads), database.clone());
    let title = || {
        let (slow, count, from) = (Arc::clone(&slow), Arc::clone(&count), from.clone());
        let load = move || {
            let read = from.read(|db| Ok(Object::get(db, id)?.title));
            count.fetch_add(1, Ordering::SeqCst);
            // The value is read, and is to be stored later.
            while slow.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            read
        };
        cache.get_or_set("title", 1, load).unwrap()
    };
    assert_eq!(title(), "Pan");
    thread::sleep(Duration::from_millis(1_100));
    is_slow.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let late = scope.spawn(title);
        wait_until(|| loads.load(Ordering::SeqCst) == 2);
        assert_eq!(title(), "Pan", "stale, while it is made anew");
        pan.title = "Jam pan".to_owned();
        database.write(|db| pan.save(db)).unwrap();
        is_slow.store(false, Ordering::SeqCst);
        assert_eq!(title(), "Jam pan");
        late.join().unwrap();
        assert_eq!(title(), "Jam pan", "what was read before the save is not stored after it");
    });
}
